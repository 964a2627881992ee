"""The trials of `clearloop search`: each a `clearloop train` in a process of its own, and a run directory."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import IO, Any

from clearloop.commands.own_models import repeated
from clearloop.commands.speech import printable
from clearloop.errors import ConfigError, RunError
from clearloop.rundir import RunDirectory
from clearloop.searching.jobs import Job
from clearloop.searching.space import Value
from clearloop.searching.trials import Book, Trial

try:
    import fcntl
except ImportError:  # Windows: there a trial that outlived its search is not waited for
    fcntl = None  # type: ignore[assignment]

SAVING_S = 60.0  # for a run that was asked to save and end
STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM, -signal.SIGINT, -signal.SIGTERM)
LOSSES = ("valid_loss", "train_loss")


class TrainRuns:
    """Runs trials as `clearloop train`, and goes on with those that were cut as `clearloop resume`."""

    pause_s = 0.2

    def __init__(self, book: Book) -> None:
        self.book = book

    def start(self, trial: Trial) -> Job:
        """Begin a trial, or go on with it."""
        return TrainJob(trial, self.book)


class TrainJob:
    """A trial in a process of its own.

    The process holds a lock (it inherits the descriptor) for as long as it lives. So a search that goes on after it was
    killed sees which of its trials still run, and waits for them.
    """

    def __init__(self, trial: Trial, book: Book) -> None:
        assert book.folder is not None
        self.trial, self.by, self.command = trial, book.plan.by, book.plan.command
        self.run = RunDirectory(book.folder_of(trial).absolute())
        self.seed = book.plan.seed if trial.seed is None else trial.seed
        self.log = book.folder.absolute() / "logs" / f"{trial.name}.txt"
        self.process: subprocess.Popen[bytes] | None = None
        self.stopped = False
        self._size = -1  # of the history when it was last read
        self._begin()

    def poll(self) -> bool:
        """Read what the run has noted; note how it ended."""
        if self.process is None and not self._begin():
            self._read_values()
            return False
        assert self.process is not None
        code = self.process.poll()
        self._read_values()
        if code is None:
            return False
        if code == 0 or self._has_finished():
            self.trial.end("done")
        elif self.stopped:
            self.trial.end("stopped early")
        elif code in STOPPED:
            self.trial.end("cut")
        else:
            self.trial.end("failed", self._last_line() or f"ended with code {code}")
        return True

    def stop(self) -> None:
        """Ask the run to save and end."""
        self.stopped = True
        if self.process is not None:
            self.process.terminate()

    def cut(self) -> None:
        """Ask the run to save and end, and wait until it has."""
        self.trial.end("cut")
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(SAVING_S)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def _begin(self) -> bool:
        """Start the process, unless one of a search that was killed still works on this trial."""
        self.log.parent.mkdir(exist_ok=True)
        with open(self.log.with_suffix(".lock"), "ab") as lock, open(self.log, "ab") as log:
            if fcntl is not None:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return False
                except OSError:  # this file system has no locks
                    pass
            self.process = self._launch(lock, log)
        return True

    def _launch(self, lock: IO[bytes], log: IO[bytes]) -> subprocess.Popen[bytes]:
        threads = ["--threads", str(self.command["threads"])]
        if self.run.checkpoints():
            arguments = ["resume", str(self.run.path), *threads, *repeated(self.command["options"])]
        else:
            if self.run.path.exists():  # begun, and killed before anything was saved
                shutil.rmtree(self.run.path)
            options = options_for(self.trial.params, self.command["names"])
            arguments = ["train", self.command["data"], *self.command["options"], *options, f"--seed={self.seed}"]
            arguments += [*threads, "--out", str(self.run.path)]
        return subprocess.Popen(
            [sys.executable, "-m", "clearloop", *arguments],
            cwd=self.command["cwd"], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            pass_fds=() if os.name == "nt" else (lock.fileno(),),
        )  # fmt: skip

    def _read_values(self) -> None:
        """The objective after each epoch, from the run's history. Raises ConfigError where it is not in there."""
        try:
            size = self.run.history.stat().st_size
        except OSError:  # not there yet
            return
        if size == self._size:
            return
        with contextlib.suppress(RunError):  # read while it is cut back: the next look finds it whole
            records = [record for record in self.run.read_history() if record.get("kind") == "epoch"]
            self.trial.values = [self._value(record) for record in records]
            self._size = size

    def _value(self, record: Mapping[str, Any]) -> float:
        values = {name: record.get(name) for name in LOSSES} | record.get("metrics", {})
        value = values.get(self.by)
        if value is None:
            known = ", ".join(name for name, value in values.items() if value is not None)
            raise ConfigError(f"--by {self.by}: these runs have {known}; choose one of them, in another search")
        return float(value)

    def _has_finished(self) -> bool:
        """Whether the run has all its epochs: a signal may come when it draws its plots."""
        return self.run.path.is_dir() and self.run.summary()["state"] == "finished"

    def _last_line(self) -> str:
        """Why the process ended, as it said last."""
        lines = [line for line in self.log.read_text("utf-8", "replace").splitlines() if line.strip()]
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        return printable((errors or lines or [""])[-1].strip())


def options_for(params: Mapping[str, Value], names: Mapping[str, str]) -> list[str]:
    """A trial's values as options of `clearloop train`, by the options' names.

    >>> options_for({"lr": 0.01, "width": 64}, {"lr": "--lr", "width": "--hidden"})
    ['--lr=0.01', '--hidden=64']
    """
    return [
        f"{names[name]}={value!r}" if isinstance(value, float) else f"{names[name]}={value}"
        for name, value in params.items()
    ]
