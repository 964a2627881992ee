"""`clearloop train`: a model from data, and all that is kept of its run."""

from __future__ import annotations

from typing import Annotated

import typer

from clearloop.commands.choices import Bound, Kind, Model, Net, Precision, Shape, Source
from clearloop.commands.options import (
    BatchSize,
    Data,
    Device,
    Epochs,
    Hidden,
    LearningRate,
    ModelName,
    OptimizerName,
    Quiet,
    RunFolder,
    Seed,
    ShapeName,
    Threads,
    Valid,
)
from clearloop.commands.parts import make_callbacks, make_learner, make_plan, set_threads
from clearloop.commands.running import check_plan, fit_plan, new_run, run_and_report
from clearloop.commands.sources import open_data, pick_model


def train(
    data: Data,
    model: ModelName = Model.auto,
    target: Annotated[str | None, typer.Option(help="tables: the column to predict")] = None,
    kind: Annotated[
        Kind | None, typer.Option(help="tables: what the target is; seen from its values if left out")
    ] = None,
    size: Annotated[int | None, typer.Option(min=1, help="pictures: make them all squares of this side")] = None,
    grey: Annotated[bool, typer.Option("--grey", help="pictures: without their colours")] = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="pictures: leave out files that are none")] = False,
    hidden: Hidden = "",
    epochs: Epochs = None,
    lr: LearningRate = None,
    batch_size: BatchSize = 128,
    opt: OptimizerName = None,
    schedule: ShapeName = None,
    one_cycle: Annotated[bool, typer.Option("--one-cycle", help="the same as --schedule one-cycle")] = False,
    weight_decay: Annotated[float | None, typer.Option(help="the optimizer's; its own default if left out")] = None,
    momentum: Annotated[float | None, typer.Option(help="of sgd and momentum")] = None,
    dropout: Annotated[float | None, typer.Option(help="mlp only")] = None,
    code: Annotated[int, typer.Option(min=1, help="autoencoders: how many numbers an item is squeezed into")] = 32,
    sparse: Annotated[float | None, typer.Option(help="autoencoders: weight of the mean size of the code")] = None,
    output: Annotated[Bound, typer.Option(help="autoencoders: what bounds the outputs")] = Bound.tanh,
    clip: Annotated[float | None, typer.Option(help="largest norm of the gradients")] = None,
    accumulate: Annotated[int, typer.Option(help="batches a step")] = 1,
    ema: Annotated[float | None, typer.Option(help="average the weights with this decay, such as 0.99")] = None,
    patience: Annotated[int | None, typer.Option(help="stop after so many epochs without a better valid_loss")] = None,
    precision: Annotated[Precision | None, typer.Option(help="of the forward pass (autocast)")] = None,
    seed: Seed = 0,
    valid: Valid = None,
    device: Device = "auto",
    threads: Threads = None,
    out: RunFolder = None,
    every: Annotated[str, typer.Option(help="save every so many seconds (60s) or steps (100)")] = "60s",
    keep: Annotated[int, typer.Option(help="newest checkpoints to keep, besides the best")] = 2,
    quiet: Quiet = False,
) -> None:
    """Train a model and save the run: weights, history, checkpoints, plots, predictor."""
    net = Net(pick_model(model, data), hidden, dropout, code, sparse, output)
    plan = make_plan(net, opt, Shape.one_cycle if one_cycle else schedule, epochs, lr, weight_decay, momentum)
    set_threads(threads, default=2 if net.convolves else 1)
    from clearloop.callbacks.checkpoints import Checkpoints

    dls = open_data(Source(data, batch_size, seed, valid, target, kind, size, grey, skip_bad), net.targets)
    checks = Checkpoints(out or "runs", every, keep)  # the folder is made when all else is known to be right
    learn = make_learner(
        dls, net, plan, seed, device, clip=clip, accumulate=accumulate, cbs=make_callbacks(ema, patience, checks),
        precision=precision.value if precision else None,
    )  # fmt: skip
    check_plan(learn, plan)
    with new_run(out, data, learn, checks):
        run_and_report(learn, lambda: fit_plan(learn, plan), quiet)
