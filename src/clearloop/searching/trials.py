"""The trials of a search, and the file that keeps them: search.json, whole at any moment."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from clearloop import durable
from clearloop.errors import ConfigError, RunError
from clearloop.rundir import RunDirectory
from clearloop.searching.space import Params, Space, Value

FORMAT = 1
UNFINISHED = ("waiting", "running", "cut")  # "running" in a search that was killed
STATES = (*UNFINISHED, "done", "stopped early", "failed")


@dataclass
class Trial:
    """One set of values and what came of it.

    `values` are the objective after each epoch, or a single one; the last counts, as its weights are those that the
    run keeps. `state` is one of waiting, running, done, stopped early, failed, and cut (the search ended before it).
    A repetition of the best trial has the `seed` it was trained with.
    """

    number: int
    params: Params
    state: str = "running"
    values: list[float] = field(default_factory=list)
    seconds: float = 0.0
    error: str | None = None
    seed: int | None = None

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"trial-{self.number:04d}" if self.seed is None else f"best-{self.number:04d}-seed-{self.seed}"

    @property
    def value(self) -> float | None:
        """The objective, or None before there is one, and for a trial that failed or was cut."""
        return self.values[-1] if self.values and self.state in ("done", "stopped early") else None

    def end(self, state: str, error: str | None = None) -> None:
        """Note how it ended. A trial without a finite value has failed, whatever else."""
        if state in ("done", "stopped early") and not (self.values and math.isfinite(self.values[-1])):
            state, error = "failed", error or f"the objective is {self.values[-1] if self.values else 'missing'}"
        self.values = [value for value in self.values if math.isfinite(value)]
        self.state, self.error = state, error


@dataclass(frozen=True)
class Plan:
    """What a search is: it stays the same however often the search goes on.

    `by` names the objective; `noisy`, whether two trials with the same values would differ; `command`, what else is
    needed to run a trial again (the command line's options).
    """

    space: Space
    by: str
    minimize: bool
    seed: int
    noisy: bool
    command: dict[str, Any] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """The plan as plain data."""
        return {**asdict(self), "space": self.space.record()}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Plan:
        """The plan that `record` gave."""
        return cls(**{**record, "space": Space.from_record(record["space"])})


class Book:
    """All trials of a search, on disk after each change where there is a folder."""

    def __init__(self, plan: Plan, folder: Path | None) -> None:
        self.plan, self.folder = plan, folder
        self.trials: list[Trial] = []
        self.repeats: list[Trial] = []

    @classmethod
    def read(cls, folder: Path) -> Book:
        """The search in a folder. Raises RunError where there is none that can be read."""
        path = folder / "search.json"
        try:
            data = path.read_bytes()
        except OSError as error:
            raise RunError(f"expected a search at {path}, got {error.strerror}; begin one in another folder") from error
        record = durable.loads_strict(data, str(path), error=RunError)
        try:
            if record["format"] != FORMAT:
                raise ConfigError(f"format {record['format']}, expected {FORMAT}")
            book = cls(Plan.from_record(record["plan"]), folder)
            book.trials, book.repeats = ([trial_of(row) for row in record[part]] for part in ("trials", "repeats"))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RunError(f"{path} is no search that can be read ({error}); restore it from a backup") from error
        return book

    def write(self) -> None:
        """Replace search.json by what is known now. Raises StorageError."""
        if self.folder is not None:
            rows = {"trials": self.trials, "repeats": self.repeats}
            record = {"format": FORMAT, "plan": self.plan.record()}
            record |= {part: [asdict(trial) for trial in trials] for part, trials in rows.items()}
            durable.write_file(self.folder / "search.json", durable.dumps_strict(record, indent=1) + b"\n")

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only process that goes on with this search. Raises RunError while another one does."""
        if self.folder is None:
            yield
            return
        with RunDirectory(self.folder).lock():
            yield

    def folder_of(self, trial: Trial) -> Path:
        """Where a trial keeps what it makes. Only where the search has a folder."""
        assert self.folder is not None
        return self.folder / trial.name

    @property
    def best(self) -> Trial | None:
        """The trial with the best value that was observed, of those that ran to their end if there are any."""
        return best_of(self.trials, self.plan.minimize)


def best_of(trials: Sequence[Trial], minimize: bool) -> Trial | None:
    """The best of the trials that have a value; the first of equals."""
    found = [trial for trial in trials if trial.state == "done"] or list(trials)
    sign = 1.0 if minimize else -1.0
    ranked = [(sign * trial.value, place) for place, trial in enumerate(found) if trial.value is not None]
    return found[min(ranked)[1]] if ranked else None


def trial_of(row: Mapping[str, Any]) -> Trial:
    """A trial from its row in search.json. Raises TypeError or ValueError for what is none."""
    trial = Trial(**row)
    if type(trial.number) is not int or trial.state not in STATES or not isinstance(trial.params, dict):
        raise ValueError(f"expected a trial, got {row}")
    trial.values = [float(value) for value in trial.values]
    return trial


def spread(repeats: Sequence[Trial]) -> str:
    """Mean and standard deviation over the repetitions that have a value.

    >>> spread([Trial(1, {}, "done", [value], seed=seed) for seed, value in enumerate([0.1, 0.2, 0.3])])
    '0.2 ± 0.1 (0.1 to 0.3, 3 seeds)'
    """
    values = [trial.value for trial in repeats if trial.value is not None]
    if not values:
        return "no repetition has a value"
    deviation = f" ± {stdev(values):.2g}" if len(values) > 1 else ""
    ends = f"{min(values):.4g} to {max(values):.4g}, " if len(values) > 1 else ""
    return f"{mean(values):.4g}{deviation} ({ends}{len(values)} seed{'s' if len(values) > 1 else ''})"


def shown(value: Value) -> str:
    """A parameter's value in few digits.

    >>> shown(0.0123456), shown(64), shown("adam")
    ('0.01235', '64', 'adam')
    """
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def table(trials: Sequence[Trial], plan: Plan) -> list[list[str]]:
    """Rows of text, the first the header: a trial each, the best marked with a star, errors at the end."""
    best = best_of(trials, plan.minimize)
    rows = [["trial", *plan.space.parameters, plan.by, "epochs", "seconds", "state"]]
    for trial in trials:
        value = trial.values[-1] if trial.values else None
        state = trial.state + (f": {trial.error}" if trial.error else "")
        rows.append([
            f"{trial.number}{' *' if trial is best else ''}", *(shown(trial.params[name]) for name in rows[0][1:-4]),
            "" if value is None else f"{value:.5g}", str(len(trial.values)), f"{trial.seconds:.1f}", state,
        ])  # fmt: skip
    return rows


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows as lines of text with straight columns.

    >>> print(aligned([["trial", "lr"], ["1", "0.1"]]))
    trial  lr
    1      0.1
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
