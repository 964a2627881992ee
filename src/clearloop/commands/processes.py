"""A command that torchrun has started in several processes, or has begun anew after one of them failed."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec

from clearloop.errors import ConfigError

P = ParamSpec("P")


def started_by_torchrun() -> bool:
    """Whether the environment says so; asked before torch is loaded."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def one_speaks() -> None:
    """From now on only the first process prints; what ends another is still said, by `speech.fail`."""
    if not started_by_torchrun():
        return
    from clearloop.distributed import join

    if not join().leads:
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for the rest of the process


def begun_before(out: Path | None) -> Path | None:
    """The run to go on with, where torchrun has begun this command anew: the same for all processes."""
    if not started_by_torchrun():
        return None
    from clearloop.distributed import join, restarted, resumable

    if not restarted():
        return None
    run = out or join().recall_run()
    if run is None or not resumable(run):
        return None
    return run.relative_to(Path.cwd()) if run.is_relative_to(Path.cwd()) else run  # as the first start had named it


def left_without_run() -> Path | None:
    """The folder that this command had made when it was ended before it wrote a run there; it is begun anew."""
    if not started_by_torchrun():
        return None
    from clearloop.distributed import join, restarted

    return join().recall_run() if restarted() else None


def in_one_process(command: Callable[P, None]) -> Callable[P, None]:
    """A command that does not share out its work: several processes would all do the same, and write over each other.

    Raises: ConfigError in the first of them; the others leave it to that one.
    """

    @functools.wraps(command)
    def alone(*args: P.args, **kwargs: P.kwargs) -> None:
        if started_by_torchrun() and os.environ.get("WORLD_SIZE", "1") != "1":
            if os.environ.get("RANK", "0") != "0":
                sys.exit(0)
            name = command.__name__.replace("_", "-")
            raise ConfigError(f"clearloop {name} works in one process: start it without torchrun")
        command(*args, **kwargs)

    return alone
