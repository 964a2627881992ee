"""Where the time of an epoch goes, and what to do about the largest part."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clearloop import durable, nvml
from clearloop.callback import Callback, overriding
from clearloop.errors import RunError, StorageError

if TYPE_CHECKING:
    from clearloop.learner import Learner

FILE = "times.jsonl"
SHORT_S = 1.0  # epochs below need no advice
NOTHING = object()
HOOKS = ("before_epoch", "before_step", "after_step", "before_validate", "after_validate", "after_epoch")


@dataclass(frozen=True)
class EpochTimes:
    """Seconds of one epoch: waiting for data, steps, validation, callbacks (each by its class), all together.

    On a GPU work is queued: its time shows where the program next waits for it.

    >>> print(EpochTimes(0, data=1.0, compute=7.0, validation=1.5, callbacks={"EMA": 0.5}))
    data 10 %, compute 70 %, validation 15 %, callbacks 5 % of 10.0 s
    """

    epoch: int
    data: float
    compute: float
    validation: float
    callbacks: dict[str, float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """All parts together."""
        return sum(self.parts().values())

    def parts(self) -> dict[str, float]:
        """Seconds by part."""
        callbacks = sum(self.callbacks.values())
        return {"data": self.data, "compute": self.compute, "validation": self.validation, "callbacks": callbacks}

    def __str__(self) -> str:
        total = max(self.total, 1e-9)
        shares = ", ".join(f"{name} {100 * seconds / total:.0f} %" for name, seconds in self.parts().items())
        return f"{shares} of {self.total:.1f} s"


class Timing(Callback):
    """Measures where each epoch's time goes: one line an epoch, with what to do about the largest part.

    It costs a microsecond a step. What callbacks spend after validation and after the epoch is counted when their
    hooks end, so checkpoints count with the epoch that they save.

    Args: `log`, called with each line; `print` when None. `records` holds the times of the epochs of this process;
    where the run has a folder, `times.jsonl` there has those of all its epochs.

    >>> Timing(log=lambda line: None).records
    []
    """

    order = 1000  # the last to see an epoch end, and the first to measure the others
    interval = None
    recorded = False
    writes = True

    def __init__(self, log: Callable[[str], None] | None = None) -> None:
        self._log = print if log is None else log  # private: where output goes is no part of what a run is
        self.records: list[EpochTimes] = []
        self._clock = time.perf_counter
        self._spent: dict[str, float] = {}
        self._data = self._validation = self._began = 0.0
        self._validating: float | None = None  # when the validation that runs began
        self._inside = 0  # hooks that run now, one in another: only the outermost counts
        self._patched: list[tuple[Any, str, Any]] = []  # object, name, and what the object itself had there
        self._path: Path | None = None
        self._lines: list[dict[str, Any]] = []

    def before_fit(self, learn: Learner) -> None:
        """Measure the calls of the training loader and of the other callbacks."""
        loads = "load" if hasattr(learn.dls.train, "load") else "batches"  # one of several processes loads its shares
        self._measure(learn.dls.train, loads, self._timed_batches)
        for callback in learn.cbs:
            if callback is not self:
                for hook in HOOKS:
                    if overriding([callback], hook):
                        self._measure(callback, hook, self._timed_hook(type(callback).__name__))
        if learn.run is not None:
            self._path = learn.run.path / FILE
            self._lines = [line for line in read_times(self._path) if line["epoch"] < learn.epoch]
        self._start()

    def before_validate(self, learn: Learner) -> None:
        """Note when it begins; one that a callback asks for is that callback's time."""
        if not self._inside and self._validating is None:
            self._validating = self._clock()

    def after_validate(self, learn: Learner) -> None:
        """Note how long it took."""
        if not self._inside and self._validating is not None:
            self._validation += self._clock() - self._validating
            self._validating = None

    def after_epoch(self, learn: Learner) -> None:
        """Say where the time went; the next epoch begins here."""
        callbacks = dict(self._spent)
        rest = self._clock() - self._began - self._data - self._validation - sum(callbacks.values())
        times = EpochTimes(learn.history.epochs[-1].epoch, self._data, max(rest, 0.0), self._validation, callbacks)
        self.records.append(times)
        if self._path is not None:
            self._lines.append({"epoch": times.epoch, **times.parts(), "each": times.callbacks})
            self._write(self._path)
        reading = nvml.read(learn.device)
        gpu = "" if reading is None else f"; {reading}"
        self._log(f"epoch {times.epoch}: {times}{gpu}; {advice(times, learn)}")
        self._start()

    def after_fit(self, learn: Learner) -> None:
        """Measure nothing any more."""
        self._path = None
        while self._patched:
            owner, name, former = self._patched.pop()
            if former is NOTHING:
                vars(owner).pop(name, None)
            else:
                vars(owner)[name] = former

    def _start(self) -> None:
        self._spent, self._data, self._validation = {}, 0.0, 0.0
        self._inside, self._validating = 0, None
        self._began = self._clock()

    def _measure(self, owner: Any, name: str, measured: Callable[[Any], Any]) -> None:
        """Put a measured form of a method on the object itself, until the fit ends."""
        former = vars(owner).get(name, NOTHING)  # of a fit around this one, or a hook of the object's own
        vars(owner)[name] = measured(getattr(owner, name))
        self._patched.append((owner, name, former))

    def _write(self, path: Path) -> None:
        """Write all epochs; times that cannot be written are no reason to lose a run."""
        try:
            durable.write_file(path, b"".join(durable.dumps_strict(line) + b"\n" for line in self._lines))
        except StorageError as error:
            self._path = None
            warnings.warn(f"Timing writes no further ({error}); training goes on", RuntimeWarning, stacklevel=3)

    def _timed_hook(self, name: str) -> Callable[[Any], Any]:
        def measured(method: Callable[..., None]) -> Callable[..., None]:
            def call(*args: Any) -> None:
                started = self._clock()
                self._inside += 1
                try:
                    method(*args)
                finally:
                    self._inside -= 1
                    if not self._inside and self._validating is None:
                        self._spent[name] = self._spent.get(name, 0.0) + self._clock() - started

            return call

        return measured

    def _timed_batches(self, method: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        def batches(*args: Any, **kwargs: Any) -> Iterator[Any]:
            found = method(*args, **kwargs)
            try:
                while True:
                    started = self._clock()
                    batch = next(found, NOTHING)
                    if not self._inside and self._validating is None:  # else it is that one's time
                        self._data += self._clock() - started
                    if batch is NOTHING:
                        return
                    yield batch
            finally:  # who stops early lets workers go at once
                if hasattr(found, "close"):
                    found.close()

        return batches


def read_times(path: Path) -> list[dict[str, Any]]:
    """The epochs of a run's `times.jsonl`, each with its number and seconds by part; none where there is no such file.

    Lines that are no such records end it: times are shown, never trusted.
    """
    lines: list[dict[str, Any]] = []
    if path.is_file():
        for number, text in enumerate(path.read_bytes().splitlines()):
            try:
                line = durable.loads_strict(text, name=f"{path}, line {number + 1}")
            except RunError:
                break
            if not isinstance(line, dict) or not isinstance(line.get("epoch"), int):
                break
            lines.append(line)
    return lines


def advice(times: EpochTimes, learn: Learner) -> str:
    """What to do about the largest part; nothing about an epoch that is over before one could look."""
    if times.total < SHORT_S:
        return "too short to be worth a change"
    largest = max(times.parts().items(), key=lambda part: part[1])[0]
    if largest == "callbacks":
        name = max(times.callbacks, key=lambda callback: times.callbacks[callback])
        if name == "Checkpoints":
            return "most of it in Checkpoints, which saves every epoch: that costs no more where epochs are longer"
        return f"most of it in {name}: have it do less, or do it less often"
    if largest == "validation":
        return "a smaller validation set, or a larger batch size for it, would tell as much sooner"
    if largest == "data":
        from clearloop.data.dataset import ItemDataset

        train = learn.dls.train
        if isinstance(getattr(train, "dataset", None), ItemDataset) and not getattr(train, "num_workers", 0):
            return "items are fetched one by one: give the loader num_workers, or data that can be gathered"
        return "a lighter augmentation, or a larger batch size, would help"
    if learn.device.type == "cuda":
        return 'the model itself: precision="bf16" or a larger batch size would help'
    return "the model itself: a GPU, a smaller model or a larger batch size would help"
