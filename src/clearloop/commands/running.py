"""A run of the command line: its folder, its log, its table on the screen and its plots."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clearloop.commands.processes import left_without_run
from clearloop.commands.speech import one_line, say
from clearloop.errors import ClearloopError, RunError

if TYPE_CHECKING:
    from clearloop.commands.groups import Plan
    from clearloop.learner import Learner


def check_plan(learn: Learner, plan: Plan) -> None:
    """Look at options, model, loss and data together, before a folder is made."""
    from clearloop.preflight import check_options

    check_options(learn.model, plan.lr, learn.clip, learn.accumulate, plan.epochs)
    learn.prepared()


def fit_plan(learn: Learner, plan: Plan) -> None:
    """Train as planned."""
    learn.fit(plan.epochs, plan.lr, schedule=plan.schedule(learn.steps_per_epoch), quiet=True)


def compare_with_baseline(learn: Learner) -> None:
    """For a table, what one would reach without looking at the inputs."""
    if getattr(learn.dls, "table", None) is not None:
        from clearloop.baselines import baseline

        print(f"without the inputs: {baseline(learn.dls, learn.loss_func, learn.metrics)}")


@contextlib.contextmanager
def new_run(out: Path | None, data: str, learn: Learner) -> Iterator[None]:
    """A new folder for the checkpoints, `out` or runs/NAME-1, -2, …; it goes again if an error comes before a step."""
    from clearloop.callbacks.checkpoints import Checkpoints
    from clearloop.rundir import RunDirectory

    there = out is not None and learn.team.share(out.exists)
    name = re.sub(r"[^\w.-]+", "-", "mnist" if data == "mnist" else Path(data).resolve().stem).strip("-.") or "run"

    former = left_without_run()

    def made() -> Path:
        if former is not None and former.is_dir() and not RunDirectory(former).history.exists():
            empty(former)
            return RunDirectory.create(former if out is None else out).path
        return (RunDirectory.numbered("runs", name) if out is None else RunDirectory.create(out)).path

    run = RunDirectory(learn.team.share(made))  # by the first of several processes
    learn.team.note_run(run.path)
    next(callback for callback in learn.cbs if isinstance(callback, Checkpoints)).path = run.path
    try:
        yield
    except (ClearloopError, OSError):
        if not learn.team.leads:
            raise
        with contextlib.suppress(RunError), run.lock():  # not where another process has begun the same folder
            if not learn.history.steps and not run.checkpoints():
                empty(run.path)
                if not there:
                    shutil.rmtree(run.path, ignore_errors=True)
        raise


def empty(folder: Path) -> None:
    """Remove what is in a folder that was empty when this command began: all of it is ours."""
    for path in [*folder.iterdir()]:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()


def run_and_report(learn: Learner, work: Callable[[], None], quiet: bool) -> None:
    """Train, with the table on the screen and in the run's log; draw the curves, also when it is interrupted."""
    from clearloop.callbacks.progress import Progress
    from clearloop.callbacks.timing import Timing, advice

    waiting: list[str] = []  # the table's header comes before the run's folder is opened

    def log(line: str) -> None:
        waiting.append(line)
        while waiting and learn.run is not None and learn.team.leads:
            learn.run.run.log(waiting.pop(0))

    timing = Timing(lambda line: log(f"time: {line}"))
    learn.cbs += [Progress(io.StringIO() if quiet else None, log), timing]
    try:
        quietly_warned(work, log)
    except ClearloopError as error:
        log(f"error: {one_line(error)}")
        raise
    finally:
        draw_curves(learn)
    if not learn.team.leads:
        return
    assert learn.run is not None
    last = learn.history.epochs[-1]
    if learn.stop_reason:
        say(f"stopped early: {learn.stop_reason}")
        log(f"stopped early: {learn.stop_reason}")
    numbers = {"train_loss": last.train_loss, "valid_loss": last.valid_loss, **last.metrics}
    say("  ".join(f"{name} {value:.4f}" for name, value in numbers.items() if value is not None))
    compare_with_baseline(learn)
    times = timing.records[-1]
    say(f"time of an epoch: {times}; {advice(times, learn)}", quiet)
    draw_looks(learn)
    say(f"saved in {learn.run.path}; next: clearloop predict {learn.run.path} {example(learn)}", quiet)


def draw_curves(learn: Learner) -> None:
    """plots/loss.png in the run's folder; a disk that refuses it is no reason to lose the error before."""
    if learn.run is None or not learn.history.losses or not learn.team.leads:
        return
    try:
        learn.plot_loss(learn.run.path / "plots" / "loss.png")
    except OSError as error:
        print(f"note: the curves are not drawn ({error})", file=sys.stderr)


def draw_looks(learn: Learner) -> None:
    """Pictures of what the model gets right and wrong, in plots/; without them a run is as good."""
    from clearloop.interpret import write_plots

    assert learn.run is not None
    folder = learn.run.path / "plots"
    try:
        quietly_warned(lambda: write_plots(learn, folder))
    except (ClearloopError, OSError, RuntimeError) as error:
        print(f"note: the model's plots are not drawn ({one_line(error)})", file=sys.stderr)


def example(learn: Learner) -> str:
    """What a model of this run takes."""
    if getattr(learn.dls, "table", None) is not None:
        return "ROWS.csv"
    return "ITEMS.npy" if learn.dls.image_size is None else "PICTURE.png"


def quietly_warned(work: Callable[[], Any], log: Callable[[str], None] | None = None) -> Any:
    """Run `work`; its warnings become single lines without a source position, on the screen and in the log."""
    import warnings

    def show(message: Any, *rest: Any) -> None:
        print(f"note: {message}", file=sys.stderr)
        if log is not None:
            log(f"note: {message}")

    with warnings.catch_warnings():
        warnings.showwarning = show  # type: ignore[assignment]
        return work()
