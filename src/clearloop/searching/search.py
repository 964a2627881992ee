"""A search for the values that make a function small, or large."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clearloop import durable
from clearloop.errors import ConfigError
from clearloop.searching.jobs import InProcesses, InThisProcess, Objective, Runner, parameters_of
from clearloop.searching.loop import proposals, repetitions, work_off
from clearloop.searching.space import Parameter, Params, Space
from clearloop.searching.trials import Book, Plan, Trial, aligned, shown, spread, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class SearchResult:
    """What a search found; printed, it is a table.

    `best` is the trial with the best value that was observed, not a model's guess; None where no trial has a value.
    `repeats` are the repetitions of the best trial with other seeds.
    """

    trials: tuple[Trial, ...]
    best: Trial | None
    repeats: tuple[Trial, ...]
    plan: Plan
    folder: Path | None

    @property
    def params(self) -> Params:
        """The best trial's values. Raises ConfigError where no trial has a value."""
        if self.best is None:
            raise ConfigError("no trial of this search has a value; its table says why")
        return self.best.params

    def __str__(self) -> str:
        return aligned(table(self.trials, self.plan))

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw the best value so far over the trials, and the objective over each parameter."""
        from clearloop.searching.plots import plot_search

        return plot_search(self.trials, self.plan, path)


def search(
    objective: Objective,
    space: Mapping[str, Parameter],
    *,
    trials: int = 20,
    parallel: int = 1,
    folder: str | Path | None = None,
    seed: int = 0,
    minimize: bool = True,
    constraints: Sequence[str] = (),
    noisy: bool = False,
    stop_trailing: bool = True,
    seeds: int = 0,
    quiet: bool = False,
) -> SearchResult:
    """Search for the parameters at which a function is smallest, by Bayesian optimisation (Ax, the extra `search`).

    Args:
        objective: called with a dict of parameters; returns a number, or yields one an epoch, of which the last counts.
            If it has arguments named `seed` and `folder`, it is given a seed and the folder of its trial.
        space: a Range, an Integer or a Choice for each parameter.
        trials: how many in all, those of an earlier call with the same folder included.
        parallel: how many at a time. 1 runs them in this process; more, each in a process of its own, for which the
            objective must be importable.
        folder: where the search is kept, a folder a trial; the same call goes on with what is there. None: nothing
            is kept.
        seed: of what is proposed.
        minimize: False searches for the largest value.
        constraints: linear ones, such as "x + 2 * y <= 1".
        noisy: whether calls with equal parameters would give different values.
        stop_trailing: stop a trial that is worse than half of the others were after as many values.
        seeds: how often the best trial is repeated, with the seeds after `seed`; the objective must take a `seed`.
        quiet: print nothing.

    Raises:
        ConfigError: the space is empty or unknown to the constraints, Ax is missing, or the first trials all fail.
        RunError: the folder holds another search, or another process goes on with it.

    A trial that raises an error has failed: it is kept, shown, and not repeated.

        search(lambda p: (p["x"] - 1) ** 2, {"x": Range(-10, 10)}, trials=10).params
    """
    plan = Plan(Space.of(space, constraints), "value", minimize, seed, noisy)
    check_counts(trials, parallel, seeds)
    if seeds and "seed" not in parameters_of(objective):
        raise ConfigError("seeds needs an objective with an argument named seed, which it trains with")
    book = open_book(plan, None if folder is None else Path(folder))

    def folder_of(trial: Trial) -> Path | None:
        if book.folder is not None:
            durable.make_directory(book.folder_of(trial))
        return None if book.folder is None else book.folder_of(trial)

    runner: Runner = (InThisProcess if parallel == 1 else InProcesses)(objective, seed, folder_of)
    say = (lambda line: None) if quiet else print
    with book.lock():
        return carry_out(book, runner, trials, parallel, stop_trailing, seeds, say)


def check_counts(trials: int, parallel: int, seeds: int) -> None:
    """Raise ConfigError for numbers that cannot be."""
    if trials < 1 or parallel < 1 or seeds < 0:
        raise ConfigError(
            f"expected trials >= 1, parallel >= 1 and seeds >= 0, got {trials}, {parallel} and {seeds}; a search needs "
            "at least one trial"
        )


def open_book(plan: Plan, folder: Path | None) -> Book:
    """The book of a new search, or of the one that the folder holds, if its plan is the same."""
    if folder is None or not (folder / "search.json").exists():
        if folder is not None and folder.exists() and any(entry.name != ".lock" for entry in folder.iterdir()):
            raise ConfigError(f"expected a new or empty folder, or one with a search, got {folder}; choose another")
        if folder is not None:
            durable.make_directory(folder)
        return Book(plan, folder)
    book = Book.read(folder)
    differs = [name for name, value in plan.record().items() if book.plan.record()[name] != value]
    if differs:
        raise ConfigError(f"{folder} holds a search with another {', '.join(differs)}; choose another folder")
    return book


def carry_out(
    book: Book,
    runner: Runner,
    trials: int,
    parallel: int,
    stop_trailing: bool,
    seeds: int,
    say: Callable[[str], None],
) -> SearchResult:
    """Run the trials and repetitions that are missing; write the table and the plot."""
    from clearloop.searching.adviser import Adviser

    advisers: list[Adviser] = []

    def adviser() -> Adviser:  # not made for a search that has all its trials
        if not advisers:
            advisers.append(Adviser(book.plan))
        return advisers[0]

    def report(trial: Trial) -> None:
        best = book.best
        text = said(trial, book.plan)
        if best is not None and trial.seed is None:
            text += f"; best so far: {best.value:.5g} (trial {best.number})"
        say(text)

    def trails(trial: Trial) -> bool:
        return stop_trailing and adviser().trails(trial, book.trials)

    wanted = proposals(book, trials, lambda tried: adviser().propose(tried), say)
    work_off(book, runner, parallel, wanted, trails, report)
    if seeds and book.best is not None:
        work_off(book, runner, parallel, repetitions(book, seeds), lambda trial: False, report)
    result = SearchResult(tuple(book.trials), book.best, tuple(book.repeats), book.plan, book.folder)
    if book.folder is not None:
        durable.write_file(book.folder / "table.txt", f"{result}\n".encode())
        if result.best is not None:
            result.plot(book.folder / "plots" / "search.png")
    return result


def said(trial: Trial, plan: Plan) -> str:
    """A trial that has ended, in one line."""
    values = " ".join(f"{name}={shown(value)}" for name, value in trial.params.items())
    found = "" if trial.value is None else f" {plan.by} {trial.value:.5g},"
    state = "" if trial.state == "done" else f" {trial.state},"
    error = f": {trial.error}" if trial.error else ""
    return f"{trial.name}:{found}{state} {values}, {trial.seconds:.1f} s{error}"


def summary(result: SearchResult) -> list[str]:
    """The best trial, and its spread, in a line each."""
    if result.best is None:
        return ["no trial has a value"]
    values = " ".join(f"{name}={shown(value)}" for name, value in result.best.params.items())
    lines = [f"best: trial {result.best.number}, {result.plan.by} {result.best.value:.5g}: {values}"]
    if result.repeats:
        lines.append(f"trained again with other seeds: {result.plan.by} {spread(result.repeats)}")
    return lines
