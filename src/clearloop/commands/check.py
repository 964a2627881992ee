"""`clearloop check`: what would go wrong in a training, before it begins."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from clearloop.commands.groups import Net, Source, Training
from clearloop.commands.options import grouped
from clearloop.commands.parts import make_learner, make_plan, set_threads
from clearloop.commands.sources import open_data


@grouped
def check(
    source: Source,
    net: Net,
    training: Training,
    as_json: Annotated[bool, typer.Option("--json", help="print the findings as JSON, and nothing else")] = False,
) -> None:
    """See before training what would make it fail without an error; takes the options of train.

    Ends with 1 if a check failed, with 2 for input that cannot be trained on at all.
    """
    net = net.chosen_for(source)
    plan = make_plan(net, training)
    set_threads(training.threads, default=2 if net.convolves else 1)
    learn = make_learner(open_data(source, net, quiet=as_json), net, plan, training, source.seed)
    from clearloop.checking import check as look

    report = look(learn, lr=plan.lr, quiet=as_json)
    if as_json:
        import json

        print(json.dumps({"ok": report.ok, "findings": report.as_dicts()}, indent=1))
    if not report.ok:
        sys.exit(1)
