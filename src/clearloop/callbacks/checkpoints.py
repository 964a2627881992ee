"""Checkpoints: a run directory that is never more than an epoch, or a minute, behind."""

from __future__ import annotations

import contextlib
import math
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clearloop.adapters import smaller_is_better
from clearloop.callback import Callback
from clearloop.errors import ConfigError
from clearloop.rundir import RunDirectory
from clearloop.saving import RunWriter

if TYPE_CHECKING:
    from clearloop.learner import Learner


class Checkpoints(Callback):
    """Writes a run directory while training: after every epoch, and within one every so often.

    Args:
        path: the run's folder, new, or that of the run which the Learner was loaded from.
        every: "60s" (by the clock) or a number of optimizer steps; None saves after epochs only.
        keep: how many of the newest checkpoints stay, 2 or more; the best stays besides.
        monitor: what the best is judged by: "valid_loss", "train_loss", or a metric's name.

    After Ctrl-C and SIGTERM the run is saved where it stopped; after any other failure it is left as it was.

    >>> Checkpoints("runs/digits", every=100).interval
    100
    """

    order = 100  # after all others, whose state is saved too
    writes = True

    def __init__(
        self, path: str | Path, every: int | str | None = "60s", keep: int = 2, monitor: str = "valid_loss"
    ) -> None:
        self.path, self.every, self.keep, self.monitor = Path(path), every, keep, monitor
        self.every_s = math.inf
        self.interval: int | None = None
        if isinstance(every, str):
            if not re.fullmatch(r"\d+(\.\d+)?s|\d+", every) or float(every.rstrip("s")) <= 0:
                raise ConfigError(f'every must be seconds ("60s") or a number of steps ("100"), got {every!r}')
            if every.endswith("s"):
                self.every_s = float(every.removesuffix("s"))
            else:
                self.interval = int(every)
        elif every is not None:
            self.interval = every
        if self.interval is not None and self.interval < 1 or keep < 2:
            raise ConfigError(f"every must be at least 1 step and keep at least 2, got every={every!r}, keep={keep}")
        self.best: float | None = None
        self.best_step: int | None = None
        self.saved_step: int | None = None
        self._saved_at = 0.0
        self._closing = contextlib.ExitStack()

    def before_fit(self, learn: Learner) -> None:
        """Open the run's folder, alone, and save the state that training starts from."""
        known = {"train_loss", "valid_loss", *(metric.name for metric in learn.metrics)}
        if self.monitor not in known:
            raise ConfigError(f"monitor must be one of {', '.join(sorted(known))}, got {self.monitor!r}")
        if learn.run is None or learn.run.path.resolve() != self.path.resolve():
            learn.run = RunWriter(RunDirectory.create(self.path))
        self._closing.enter_context(learn.run.run.lock())
        learn.run.require_space(learn, self.keep)
        unknown = learn.run.position is None or learn.history.steps == learn.plan["first_step"]
        learn.run.begin(learn)
        if unknown:  # no checkpoint knows of this fit yet
            self._save(learn)
        self.saved_step, self._saved_at = learn.history.steps, time.monotonic()

    def after_step(self, learn: Learner) -> None:
        """Save where the clock or the count of steps says so."""
        due = learn.step % self.interval == 0 if self.interval else time.monotonic() - self._saved_at >= self.every_s
        if due and learn.step < learn.steps_per_epoch:  # the epoch's last step is saved with its validation
            self._save(learn)

    def after_epoch(self, learn: Learner) -> None:
        """Save, and remember the best epoch so far."""
        record = learn.history.epochs[-1]
        values = {"train_loss": record.train_loss, "valid_loss": record.valid_loss, **record.metrics}
        value = values[self.monitor] if values[self.monitor] is not None else record.train_loss
        if value is not None and not math.isnan(value) and (self.best is None or self._better(value, self.best)):
            self.best, self.best_step = value, learn.history.steps
        assert learn.run is not None
        learn.run.save_predictor(learn)  # first: a run whose last checkpoint is there is finished
        self._save(learn)

    def after_fit(self, learn: Learner) -> None:
        """Save what an interrupted run had reached; let go of the folder."""
        with self._closing:
            if learn.run is not None and learn.failure is None and learn.stop_reason is not None:
                learn.run.begin(learn)  # the recipe plans no more epochs than there were
            interrupted = isinstance(learn.failure, (KeyboardInterrupt, SystemExit))
            if interrupted and learn.whole and self.saved_step not in (None, learn.history.steps):
                self._save(learn)

    def state_dict(self) -> dict[str, Any]:
        """The best value and its step."""
        return {"best": self.best, "best_step": self.best_step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.best, self.best_step = state.get("best"), state.get("best_step")

    def _better(self, value: float, best: float) -> bool:
        return value < best if smaller_is_better(self.monitor) else value > best

    def _save(self, learn: Learner) -> None:
        assert learn.run is not None
        learn.run.save(learn, self.keep, self.best_step)
        self.saved_step, self._saved_at = learn.history.steps, time.monotonic()
