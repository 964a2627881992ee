"""Trials of a Python function: in this process, or in processes of their own."""

from __future__ import annotations

import inspect
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from clearloop.errors import ConfigError
from clearloop.searching.trials import Trial

Objective = Callable[..., Any]
PATIENCE_S = 10.0  # for a process that was asked to end


class Job(Protocol):
    """A trial that runs."""

    trial: Trial

    def poll(self) -> bool:
        """Bring the trial's values up to date; whether it has ended, and says so."""

    def stop(self) -> None:
        """Ask it to end, as one that trails; a later poll finds it ended."""

    def cut(self) -> None:
        """End it now, so that the search can go on with it another time."""


class Runner(Protocol):
    """How trials are run; `pause_s` is the time between two looks at those that run."""

    pause_s: float

    def start(self, trial: Trial) -> Job:
        """Begin a trial, or go on with one that was cut."""


def extras(objective: Objective, trial: Trial, seed: int, folder: Path | None) -> dict[str, Any]:
    """What the objective asks for by the names of its arguments: `seed`, and the `folder` of the trial."""
    given = {"seed": seed if trial.seed is None else trial.seed, "folder": folder}
    return {name: value for name, value in given.items() if name in parameters_of(objective)}


def parameters_of(objective: Objective) -> set[str]:
    """The names of a callable's arguments; none for one that does not tell."""
    try:
        return set(inspect.signature(objective).parameters)
    except (TypeError, ValueError):
        return set()


def values_of(objective: Objective, params: dict[str, Any], given: dict[str, Any]) -> Iterator[float]:
    """The objective's values: the one that it returns, or those that it yields, an epoch each."""
    result = objective(dict(params), **given)
    if isinstance(result, Iterator):
        for value in result:
            yield number(value)
    else:
        yield number(result)


def number(value: Any) -> float:
    """What an objective gave as a float; raises ConfigError for what is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ConfigError(f"expected a number from the objective, got {value!r:.80}") from None


def spoken(error: BaseException) -> str:
    """An error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


class InThisProcess:
    """Runs a trial where the search runs, a value at each poll."""

    pause_s = 0.0

    def __init__(self, objective: Objective, seed: int, folder_of: Callable[[Trial], Path | None]) -> None:
        self.objective, self.seed, self.folder_of = objective, seed, folder_of

    def start(self, trial: Trial) -> Job:
        """Begin a trial; one that was cut begins anew."""
        trial.values = []
        given = extras(self.objective, trial, self.seed, self.folder_of(trial))
        return JobHere(trial, values_of(self.objective, trial.params, given))


class JobHere:
    """A trial in this process."""

    def __init__(self, trial: Trial, values: Iterator[float]) -> None:
        self.trial, self.values = trial, values
        self.stopped = False

    def poll(self) -> bool:
        """Run the objective to its next value."""
        if self.stopped:
            self.trial.end("stopped early")
            return True
        try:
            self.trial.values.append(next(self.values))
        except StopIteration:
            self.trial.end("done")
            return True
        except Exception as error:  # whatever a user's function raises: the search is to go on
            self.trial.end("failed", spoken(error))
            return True
        return False

    def stop(self) -> None:
        """Ask for no more values."""
        self.stopped = True

    def cut(self) -> None:
        """Note that it did not end."""
        self.trial.end("cut")


class InProcesses:
    """Runs each trial in a fresh process, with one thread; the function must be importable there.

    Raises ConfigError for a function that a new process would not find.
    """

    pause_s = 0.05

    def __init__(self, objective: Objective, seed: int, folder_of: Callable[[Trial], Path | None]) -> None:
        self.objective, self.seed, self.folder_of = objective, seed, folder_of
        main = sys.modules["__main__"]
        name = getattr(objective, "__qualname__", repr(objective))
        remedy = "define it at the top of a module, or use parallel=1"
        try:
            pickle.dumps(objective)
        except Exception as error:  # what cannot be pickled raises whatever it likes
            raise ConfigError(f"{name} cannot be sent to another process ({spoken(error)}); {remedy}") from None
        if getattr(objective, "__module__", None) == "__main__" and not getattr(main, "__file__", None):
            raise ConfigError(f"{name} was defined in a notebook or prompt, where no new process finds it; {remedy}")

    def start(self, trial: Trial) -> Job:
        """Begin a trial; one that was cut begins anew."""
        trial.values = []
        given = extras(self.objective, trial, self.seed, self.folder_of(trial))
        spawn = multiprocessing.get_context("spawn")
        receiver, sender = spawn.Pipe(duplex=False)
        process = spawn.Process(target=work, args=(self.objective, trial.params, given, sender), daemon=True)
        process.start()
        sender.close()  # so that the end of the child is the end of the pipe
        return JobInProcess(trial, process, receiver)


class JobInProcess:
    """A trial in a process of its own."""

    def __init__(self, trial: Trial, process: Any, receiver: Any) -> None:
        self.trial, self.process, self.receiver = trial, process, receiver
        self.stopped = False
        self.error: str | None = None

    def poll(self) -> bool:
        """Take what the process has sent."""
        ended = not self.process.is_alive()  # looked at first: what it sent before is then in the pipe
        try:
            while self.receiver.poll():
                kind, content = self.receiver.recv()
                if kind == "value":
                    self.trial.values.append(content)
                else:
                    self.error = content
        except (EOFError, OSError):  # it has closed its end, perhaps in mid-word
            pass
        if not ended:
            return False
        code = self.process.exitcode
        self.receiver.close()
        if code == 0:
            self.trial.end("done")
        elif self.stopped:
            self.trial.end("stopped early")
        else:
            guess = 'a script that searches in processes needs `if __name__ == "__main__":` around the search'
            self.trial.end("failed", self.error or f"the process ended with code {code}; {guess}")
        return True

    def stop(self) -> None:
        """End the process."""
        self.stopped = True
        self.process.terminate()

    def cut(self) -> None:
        """End the process and wait for it."""
        self.process.terminate()
        self.process.join(PATIENCE_S)
        if self.process.is_alive():
            self.process.kill()
        self.trial.end("cut")


def work(objective: Objective, params: dict[str, Any], given: dict[str, Any], sender: Any) -> None:
    """What a trial's process does: run the objective and send its values. It dies with the search."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # several trials share the processors: for a torch that comes later,
    if "torch" in sys.modules:  # and for one that the objective's module has brought
        sys.modules["torch"].set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the search too, which ends this process
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)  # the search was killed: it will begin this trial anew

    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        for value in values_of(objective, params, given):
            sender.send(("value", value))
    except Exception as error:  # whatever a user's function raises
        sender.send(("error", spoken(error)))
        sys.exit(1)
