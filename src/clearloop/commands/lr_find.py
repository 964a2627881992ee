"""`clearloop lr-find`: a learning rate to begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clearloop.commands.choices import Model, Net, Source
from clearloop.commands.options import BatchSize, Data, Device, Hidden, ModelName, OptimizerName, Seed, Threads, Valid
from clearloop.commands.parts import make_learner, make_plan, set_threads
from clearloop.commands.sources import open_data, pick_model
from clearloop.errors import ConfigError


def lr_find(
    data: Data,
    target: Annotated[str | None, typer.Option(help="tables: the column to predict")] = None,
    model: ModelName = Model.auto,
    hidden: Hidden = "",
    batch_size: BatchSize = 128,
    opt: OptimizerName = None,
    seed: Seed = 0,
    valid: Valid = None,
    device: Device = "auto",
    threads: Threads = None,
    steps: Annotated[int, typer.Option(min=10, help="learning rates to try, one a step")] = 100,
    out: Annotated[Path, typer.Option("--out", "-o", help="the picture")] = Path("lr_find.png"),
) -> None:
    """Try learning rates from small to large and suggest one to begin with."""
    net = Net(pick_model(model, data), hidden)
    set_threads(threads, default=2 if net.convolves else 1)
    dls = open_data(Source(data, batch_size, seed, valid, target), net.targets)
    learn = make_learner(dls, net, make_plan(net, opt), seed, device)
    found = learn.lr_find(steps=steps)
    print(f"suggested learning rate: {found.suggestion:.2g}")
    try:
        found.plot(out)
    except ValueError as error:  # a suffix that is no format of pictures
        raise ConfigError(f"the curve cannot be written to {out}: {error}") from None
    print(f"the curve is in {out}")
