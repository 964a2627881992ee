"""`clearloop sweep`: learning rates and other values, each with several seeds, trained in one program."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from clearloop.commands import options
from clearloop.commands.groups import Net, Source, Training
from clearloop.commands.parts import make_learner, make_plan, set_threads
from clearloop.commands.sources import open_data
from clearloop.errors import ConfigError


@options.grouped
def sweep(
    source: Source,
    net: Net,
    lr: Annotated[str, typer.Option(help="learning rates, such as 0.03,0.1,0.3; the net's own if left out")] = "",
    weight_decay: Annotated[str, typer.Option(help="values, such as 0,0.01; the optimizer's own if left out")] = "",
    momentum: Annotated[str, typer.Option(help="values, such as 0,0.9; sgd only")] = "",
    seeds: Annotated[int, typer.Option(min=1, help="how many, from 0 on, with every combination of the values")] = 5,
    by: Annotated[str | None, typer.Option(help="what decides: valid_loss, or a metric; the first metric")] = None,
    epochs: options.Epochs = None,
    opt: options.OptimizerName = None,
    schedule: options.ShapeName = None,
    one_cycle: options.OneCycle = False,
    clip: options.Clip = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="the picture")] = Path("sweep.png"),
    quiet: options.Quiet = False,
) -> None:
    """Train every value with several seeds, all together, and say which is better, if any is."""
    net = net.chosen_for(source)
    training = Training(epochs=epochs, opt=opt, schedule=schedule, one_cycle=one_cycle, clip=clip, device=device)
    plan = make_plan(net, training)
    lrs = numbers("--lr", lr) or [plan.lr]
    decays, momenta = numbers("--weight-decay", weight_decay), numbers("--momentum", momentum)
    members = seeds * math.prod(len(values or [None]) for values in (lrs, decays, momenta))
    set_threads(threads, default=members)  # at most all cores: together, small models keep them busy
    learn = make_learner(open_data(source, net, quiet), net, plan, training, source.seed)
    from clearloop.sweeping.training import sweep as run

    found = run(
        learn, plan.epochs, lr=lrs, weight_decay=decays, momentum=momenta, seeds=seeds, schedule=plan.shape.value,
        by=by, model=fresh_model(net), quiet=quiet,
    )  # fmt: skip
    if quiet:
        print(found.verdict)
    try:
        found.plot(out)
    except ValueError as error:  # a suffix that is no format of pictures
        raise ConfigError(f"the picture cannot be written to {out}: {error}") from None
    print(f"the picture is in {out}")


def fresh_model(net: Net) -> Callable[[], Any] | None:
    """What makes a model of one's own anew for each member; None where the recipe knows."""
    from clearloop.commands import own_models

    return (lambda: own_models.make(own_models.read(net.model, net.arguments))) if net.owned else None


def numbers(option: str, text: str) -> list[float] | None:
    """The numbers of an option, None if it was left out. Raises ConfigError for what is none."""
    try:
        return [float(part) for part in text.split(",")] if text else None
    except ValueError:
        raise ConfigError(f"{option} takes numbers such as 0.03,0.1, got {text!r}") from None
