"""Running trials, several at a time, until there are enough."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from clearloop.errors import ConfigError
from clearloop.searching.jobs import Job, Runner
from clearloop.searching.space import Params
from clearloop.searching.trials import UNFINISHED, Book, Trial

ALL_FAILED = 5  # a search whose first trials all fail goes on with nothing


@dataclass
class Running:
    """A job, and when it was last looked at."""

    job: Job
    looked: float = field(default_factory=time.monotonic)

    def poll(self) -> bool:
        """Poll the job and count its seconds."""
        ended = self.job.poll()
        now = time.monotonic()
        self.job.trial.seconds += now - self.looked
        self.looked = now
        return ended


def work_off(
    book: Book,
    runner: Runner,
    parallel: int,
    next_trial: Callable[[], Trial | None],
    trails: Callable[[Trial], bool],
    report: Callable[[Trial], None],
) -> None:
    """Run what `next_trial` gives, `parallel` at a time, until it gives None.

    The book is written whenever something is new. `trails` is asked after each value; `report` is called with trials
    that have ended. When the search is interrupted, the trials that run are cut and noted as such.
    """
    jobs: list[Running] = []
    more = True
    try:
        while True:
            while more and len(jobs) < parallel:
                trial = next_trial()
                more = trial is not None
                if trial is not None:
                    trial.state, trial.error = "running", None
                    book.write()  # before it begins: what runs is always known
                    jobs.append(Running(runner.start(trial)))
            if not jobs:
                return
            news = [look(running, jobs, book, trails, report) for running in [*jobs]]
            if not any(news):
                time.sleep(runner.pause_s)
    except BaseException:
        for running in jobs:
            running.job.cut()
        book.write()
        raise


def look(
    running: Running,
    jobs: list[Running],
    book: Book,
    trails: Callable[[Trial], bool],
    report: Callable[[Trial], None],
) -> bool:
    """Look at one job; whether there was anything new."""
    trial = running.job.trial
    before = len(trial.values)
    if running.poll():
        jobs.remove(running)
        book.write()
        report(trial)
        return True
    if len(trial.values) == before:
        return False
    book.write()
    if trails(trial):
        running.job.stop()
    return True


def proposals(
    book: Book, wanted: int, propose: Callable[[list[Trial]], Params | None], note: Callable[[str], None]
) -> Callable[[], Trial | None]:
    """What gives the trials of a search: first those that did not end, then new ones, until there are `wanted`.

    Raises ConfigError where the first trials have all failed.
    """
    unfinished = [trial for trial in book.trials if trial.state in UNFINISHED]

    def next_trial() -> Trial | None:
        if unfinished:
            return unfinished.pop(0)
        failed = [trial for trial in book.trials if trial.state == "failed"]
        if len(failed) >= ALL_FAILED and len(failed) == len(book.trials):
            raise ConfigError(f"all of the first {len(failed)} trials failed, the last with: {failed[-1].error}")
        if len(book.trials) >= wanted:
            return None
        params = propose(book.trials)
        if params is None:
            note(f"nothing is left to try after {len(book.trials)} trials: the space has no other points")
            return None
        book.trials.append(Trial(len(book.trials) + 1, params))
        return book.trials[-1]

    return next_trial


def repetitions(book: Book, seeds: int) -> Callable[[], Trial | None]:
    """What gives the repetitions of the best trial that are missing, each with a seed that no trial had."""
    best = book.best
    assert best is not None
    book.repeats = [trial for trial in book.repeats if trial.number == best.number]  # another one may be best by now
    known = {trial.seed for trial in book.repeats}
    wanted = [book.plan.seed + place for place in range(1, seeds + 1)]
    book.repeats += [Trial(best.number, best.params, "waiting", seed=seed) for seed in wanted if seed not in known]
    waiting = [trial for trial in book.repeats if trial.state in UNFINISHED]
    return lambda: waiting.pop(0) if waiting else None
