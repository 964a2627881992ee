"""`clearloop train`: a model from data, and all that is kept of its run."""

from __future__ import annotations

from clearloop.commands.groups import Keeping, Net, Source, Training
from clearloop.commands.options import grouped
from clearloop.commands.parts import make_callbacks, make_learner, make_plan, set_threads
from clearloop.commands.processes import begun_before, one_speaks
from clearloop.commands.resume import resume
from clearloop.commands.running import check_plan, fit_plan, new_run, run_and_report
from clearloop.commands.sources import open_data


@grouped
def train(source: Source, net: Net, training: Training, keeping: Keeping) -> None:
    """Train a model and save the run: weights, history, checkpoints, plots, predictor."""
    net = net.chosen_for(source)
    plan = make_plan(net, training)
    set_threads(training.threads, default=2 if net.convolves else 1)
    one_speaks()
    former = begun_before(keeping.out)
    if former is not None:
        named = {"model": net.model, "arguments": net.arguments} if net.owned else {}
        resume(former, training.threads, quiet=keeping.quiet, **named)
        return
    dls = open_data(source, net, keeping.quiet)
    learn = make_learner(dls, net, plan, training, source.seed, make_callbacks(dls, net, training, keeping))
    check_plan(learn, plan)
    with new_run(keeping.out, source.data, learn):
        run_and_report(learn, lambda: fit_plan(learn, plan), keeping.quiet)
