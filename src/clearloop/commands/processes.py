"""A command that torchrun has started in several processes, or has begun anew after one of them failed."""

from __future__ import annotations

import os
import sys
from pathlib import Path


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
    return run if run is not None and resumable(run) else None
