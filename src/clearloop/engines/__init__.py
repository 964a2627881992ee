"""Engines run the steps of a span; all keep one contract, `Engine`, and hold nothing that a checkpoint would need."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from clearloop.distributed import Alone, Team
from clearloop.engines.distributed import DistributedEngine as DistributedEngine
from clearloop.engines.eager import EagerEngine as EagerEngine
from clearloop.errors import ConfigError
from clearloop.step import Span, TrainState

__all__ = ["DistributedEngine", "EagerEngine", "Engine", "make_engine"]


class Engine(Protocol):
    """What the Learner asks of an engine."""

    def run(self, state: TrainState, span: Span) -> tuple[list[Tensor], list[Any]]:
        """Take the steps of `span`; returns the detached loss and the sample count of each."""
        ...


def make_engine(fast: str, team: Alone | None = None) -> Engine:
    """The engine for Learner's `fast`: "off" is the eager one, the only one there is so far; several processes share.

    Raises: ConfigError for anything else.
    """
    if fast != "off":
        raise ConfigError(f'fast must be "off" (the eager engine is the only one of this version), got {fast!r}')
    return DistributedEngine(team) if isinstance(team, Team) else EagerEngine()
