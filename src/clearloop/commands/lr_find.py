"""`clearloop lr-find`: a learning rate to begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clearloop.commands import options
from clearloop.commands.groups import Net, Source, Training
from clearloop.commands.parts import make_learner, make_plan, set_threads
from clearloop.commands.sources import open_data
from clearloop.errors import ConfigError


@options.grouped
def lr_find(
    source: Source,
    net: Net,
    opt: options.OptimizerName = None,
    weight_decay: options.WeightDecay = None,
    momentum: options.Momentum = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
    steps: Annotated[int, typer.Option(min=10, help="learning rates to try, one a step")] = 100,
    out: Annotated[Path, typer.Option("--out", "-o", help="the picture")] = Path("lr_find.png"),
) -> None:
    """Try learning rates from small to large and suggest one to begin with."""
    net = net.chosen_for(source)
    training = Training(opt=opt, weight_decay=weight_decay, momentum=momentum, device=device)
    set_threads(threads, default=2 if net.convolves else 1)
    learn = make_learner(open_data(source, net), net, make_plan(net, training), training, source.seed)
    found = learn.lr_find(steps=steps)
    print(f"suggested learning rate: {found.suggestion:.2g}")
    try:
        found.plot(out)
    except ValueError as error:  # a suffix that is no format of pictures
        raise ConfigError(f"the curve cannot be written to {out}: {error}") from None
    print(f"the curve is in {out}")
