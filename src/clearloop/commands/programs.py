"""`clearloop eject` and `clearloop verify`: a run as a plain program, and the two compared."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from clearloop.commands import own_models
from clearloop.commands.options import RUNG_HELP, Arguments, Changed, OwnModel, Run
from clearloop.commands.speech import say
from clearloop.errors import ConfigError


def eject(
    run: Run,
    rung: Annotated[int, typer.Option(min=1, max=7, help=RUNG_HELP)] = 7,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="write the program here, not to the screen")] = None,
    model: OwnModel = None,
    arguments: Arguments = None,
    changed: Changed = False,
) -> None:
    """Print a run as one plain PyTorch program without clearloop in it."""
    from clearloop.eject import eject as eject_run

    made = own_models.of_run("eject", run, model, arguments, changed)
    if made is None:
        program = eject_run(run, rung)
    else:
        program = own_models.learner(run, made, None).eject(rung, model_expr=own_models.expression(made))
    if out is not None:
        program.write(out)
        say(f"wrote {out}")
        return
    if program.weights is not None:
        raise ConfigError(
            "the run's first weights came from outside, and go into a file beside the program: use --out FILE.py"
        )
    sys.stdout.write(program.text)


def verify(
    run: Run,
    rung: Annotated[int, typer.Option(min=1, max=7, help=RUNG_HELP)] = 7,
    model: OwnModel = None,
    arguments: Arguments = None,
    changed: Changed = False,
) -> None:
    """Run the ejected program where clearloop cannot be imported, and compare every number with the run's."""
    from clearloop.verify import verify as verify_run

    made = own_models.of_run("verify", run, model, arguments, changed)
    if made is None:
        comparisons = verify_run(run, rung)
    else:
        comparisons = own_models.learner(run, made, None).verify(rung, model_expr=own_models.expression(made))
    for comparison in comparisons:
        mark = "same" if comparison.same else f"DIFFERS: the program has {comparison.program}"
        print(f"{comparison.what:28} {comparison.run:64} {mark}")
    if not all(comparison.same for comparison in comparisons):
        raise typer.Exit(1)
    print("the program and the run agree to the bit")
