"""What loggers share: which numbers of a run are written, when, and where."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clearloop import nvml
from clearloop.callback import Callback
from clearloop.errors import ConfigError

if TYPE_CHECKING:
    from clearloop.learner import Learner


class Logger(Callback):
    """Writes a run's numbers while it trains; subclasses say to what, in `open`, `write` and `close`.

    Every `every` steps: `step_loss` (the mean over the samples of those steps) and `lr`; with a GPU its load, memory,
    temperature and power. After every epoch: `train_loss`, `valid_loss`, each metric, `seconds`. Steps are counted
    from the start of the run. `every=None` leaves the steps out.

    Where a run goes on from a checkpoint, what a killed process logged after it is cut, where the target can do that.
    What fails before the first step ends the fit; what fails later (a full disk, a server that is gone) ends the
    logging, with a warning: a run is worth more than its log.
    """

    order = 110  # after the checkpoints, which open the run's folder
    writes = True

    def __init__(self, every: int | None = 50) -> None:
        if every is not None and every < 1:
            raise ConfigError(f"every must be a number of steps of 1 or more, or None, got {every}")
        self.every = self.interval = every
        self._is_open = False

    def open(self, learn: Learner) -> None:
        """Begin, or go on after step `learn.history.steps`."""
        raise NotImplementedError

    def write(self, values: dict[str, float], step: int, epoch: int) -> None:
        """Note named numbers at a step."""
        raise NotImplementedError

    def look(self, learn: Learner) -> None:
        """Note more about the model than numbers, after an epoch."""

    def close(self, learn: Learner) -> None:
        """End; what was written is complete."""
        raise NotImplementedError

    def before_fit(self, learn: Learner) -> None:
        """Open."""
        try:
            self.open(learn)
        except BaseException:
            self.abandon()
            raise
        self._is_open = True

    def after_step(self, learn: Learner) -> None:
        """Write the loss of the last steps; this waits for the device."""
        if not self._is_open or self.every is None or learn.step % self.every:
            return
        learn.history.look()
        steps = learn.history.steps
        values = {"step_loss": learn.history.mean_loss(since=steps - self.every), "lr": learn.history.lrs[-1]}
        reading = nvml.read(learn.device)
        with self._losing_no_run():
            self.write(values if reading is None else values | reading.numbers(), steps, learn.epoch)

    def after_epoch(self, learn: Learner) -> None:
        """Write the epoch's record."""
        if not self._is_open:
            return
        record = learn.history.epochs[-1]
        valid = {} if record.valid_loss is None else {"valid_loss": record.valid_loss}
        values = {"train_loss": record.train_loss, **valid, **record.metrics, "seconds": record.seconds}
        with self._losing_no_run():
            self.write(values, record.steps, record.epoch)
            self.look(learn)

    def after_fit(self, learn: Learner) -> None:
        """Close, however the fit ended."""
        if self._is_open:
            with self._losing_no_run():
                self.close(learn)
            self._is_open = False

    def abandon(self) -> None:
        """Let go of what is held, after a failure; nothing more can be written."""

    @contextmanager
    def _losing_no_run(self) -> Iterator[None]:
        """Whatever a target fails with is told once, and ends the logging alone."""
        try:
            yield
        except Exception as error:
            self._is_open = False
            with suppress(Exception):
                self.abandon()
            text = f"{type(self).__name__} logs no further ({type(error).__name__}: {error}); training goes on"
            warnings.warn(text, RuntimeWarning, stacklevel=4)


def folder_for(learn: Learner, given: str | Path | None, logger: str) -> Path:
    """The folder that was given, or the run's. Raises ConfigError where there is neither."""
    if given is not None:
        return Path(given)
    if learn.run is None:
        raise ConfigError(f"{logger} knows no folder: give it one, or add Checkpoints, whose folder it then uses")
    return Path(learn.run.path)


def package(name: str, extra: str) -> Any:
    """An optional package. Raises ConfigError that says how to install it."""
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigError(f'{name} cannot be imported ({error}); pip install "clearloop[{extra}]"') from None


def settings(learn: Learner) -> dict[str, str | float]:
    """What a run is, flat and short, for tables of runs: by the names of the Learner's arguments."""
    from clearloop.saving import described

    found: dict[str, str | float] = {}
    for name, part in described(learn).items():
        if name in ("callbacks", "metrics") or part is None:
            continue
        if isinstance(part, dict):
            path = str(part.get("path", part.get("name", "own"))).split(":")[-1]
            part = {"": path, **part.get("kwargs", {})}
            for key, value in part.items():
                if value is not None and not isinstance(value, (dict, list)):
                    found[f"{name}.{key}" if key else name] = value if isinstance(value, float) else str(value)
        else:
            found[name] = part if isinstance(part, (int, float)) and not isinstance(part, bool) else str(part)
    found["batch_size"] = getattr(learn.dls.train, "batch_size", 0)
    found["parameters"] = sum(parameter.numel() for parameter in learn.model.parameters())
    return found
