"""Engines run the steps of a span; all keep one contract, `Engine`, and hold no more than choices."""

from __future__ import annotations

import re
import warnings
from typing import Any

from clearloop.distributed import Alone, Team
from clearloop.engines.compiled import CompiledEngine as CompiledEngine
from clearloop.engines.distributed import DistributedEngine as DistributedEngine
from clearloop.engines.eager import EagerEngine as EagerEngine
from clearloop.engines.engine import Engine as Engine
from clearloop.engines.parity import LOW_PRECISION_TOLERANCE, TOLERANCE
from clearloop.errors import ConfigError

__all__ = ["CompiledEngine", "DistributedEngine", "EagerEngine", "Engine", "make_engine"]

FAST = re.compile(r"off|auto|compile(:([1-9]\d?))?")


def make_engine(fast: Any, team: Alone | None = None, precision: str | None = None) -> Engine:
    """The engine for Learner's `fast`: "off", "auto", "compile", or "compile:8" with so many steps a call.

    Several processes share each step out, and take it eagerly, with a warning where something else was asked for.

    Raises: ConfigError for anything else.
    """
    found = FAST.fullmatch(fast) if isinstance(fast, str) else None
    if found is None:
        raise ConfigError(f'fast must be "off", "auto", "compile" or, with 8 steps a call, "compile:8"; got {fast!r}')
    if isinstance(team, Team):
        if fast != "off" and team.leads:
            warnings.warn(f"fast={fast!r} is for one process: several take eager steps", stacklevel=3)
        return DistributedEngine(team)
    if fast == "off":
        return EagerEngine()
    steps = int(found[2]) if found[2] else None
    tolerance = LOW_PRECISION_TOLERANCE if precision else TOLERANCE
    return CompiledEngine(auto=fast == "auto", steps_per_call=steps, tolerance=tolerance)
