"""`clearloop resume`: go on with a run."""

from __future__ import annotations

from typing import Annotated

import typer

from clearloop.commands import own_models, running
from clearloop.commands.options import Arguments, Changed, OwnModel, Quiet, Run, Threads
from clearloop.commands.parts import set_threads
from clearloop.commands.processes import one_speaks, started_by_torchrun
from clearloop.commands.speech import say


def resume(
    run: Run,
    threads: Threads = None,
    every: Annotated[str | None, typer.Option(help="save every so many seconds (60s) or steps (100)")] = None,
    model: OwnModel = None,
    arguments: Arguments = None,
    changed: Changed = False,
    quiet: Quiet = False,
) -> None:
    """Go on with an interrupted run, from its newest good checkpoint, to the bit."""
    from clearloop.rundir import RunDirectory

    recorded = None if started_by_torchrun() else RunDirectory.open(run).read_recipe().get("threads")
    set_threads(threads, default=recorded if isinstance(recorded, int) and recorded > 0 else 1)
    one_speaks()
    from clearloop.callbacks.checkpoints import Checkpoints
    from clearloop.learner import Learner

    made = own_models.of_run("resume", run, model, arguments, changed)
    learn = running.quietly_warned(lambda: Learner.load(run, model=made))
    if threads is not None:
        learn.threads = threads
    own = [callback for callback in learn.cbs if isinstance(callback, Checkpoints)]
    if every is not None or not own:
        former = own[0] if own else Checkpoints(run)
        again = Checkpoints(run, every if every is not None else former.every, former.keep, former.monitor)
        again.load_state_dict(former.state_dict())
        learn.cbs = [callback for callback in learn.cbs if callback not in own] + [again]
    if learn.plans and learn.epoch >= learn.plan["last_epoch"]:
        if not learn.team.leads:
            return
        assert learn.run is not None
        with learn.run.run.lock():  # which sweeps what a process left that was killed at the very end
            running.draw_curves(learn)
            running.draw_looks(learn)
        say(f"{run} has finished: {learn.epoch} epochs, {learn.history.steps} steps; nothing to do")
        return
    say(f"{run}: going on at epoch {learn.epoch}, step {learn.step} of {learn.steps_per_epoch}", quiet)
    running.run_and_report(learn, lambda: learn.resume(quiet=True), quiet)
