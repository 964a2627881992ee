"""`clearloop train`: a model from data, and all that is kept of its run."""

from __future__ import annotations

from typing import Annotated

import typer

from clearloop.commands import recipe_files
from clearloop.commands.groups import Keeping, Net, Source, Training
from clearloop.commands.options import grouped
from clearloop.commands.parts import make_callbacks, make_learner, make_plan, set_threads
from clearloop.commands.processes import begun_before, one_speaks
from clearloop.commands.resume import resume
from clearloop.commands.running import check_plan, fit_plan, new_run, run_and_report
from clearloop.commands.sources import open_data


@grouped
def train(
    context: typer.Context,
    source: Source,
    net: Net,
    training: Training,
    keeping: Keeping,
    print_recipe: Annotated[
        bool, typer.Option("--print-recipe", help="print all options as JSON, for clearloop train FILE.json; no more")
    ] = False,
) -> None:
    """Train a model and save the run: weights, history, checkpoints, plots, predictor.

    DATA may be a recipe file, as --print-recipe prints it; options overrule what it says.
    """
    if recipe_files.is_recipe(source.data):
        given = recipe_files.Parts(source, net, training, keeping)
        source, net, training, keeping = recipe_files.with_recipe(context, given)
    net = net.chosen_for(source)
    plan = make_plan(net, training)
    set_threads(training.threads, default=2 if net.convolves else 1)
    if print_recipe:
        print(recipe_files.recipe_text(context.command, recipe_files.Parts(source, net, training, keeping), plan))
        return
    one_speaks()
    former = begun_before(keeping.out)
    if former is not None:
        own = net.model if net.owned else None
        resume(former, training.threads, model=own, arguments=net.arguments, quiet=keeping.quiet)
        return
    dls = open_data(source, net, keeping.quiet)
    learn = make_learner(dls, net, plan, training, source.seed, make_callbacks(dls, net, training, keeping))
    check_plan(learn, plan)
    with new_run(keeping.out, source.data, learn):
        run_and_report(learn, lambda: fit_plan(learn, plan), keeping.quiet)
