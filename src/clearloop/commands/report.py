"""`clearloop report`: a run as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clearloop.commands import own_models
from clearloop.commands.options import Arguments, Changed, OwnModel, Run
from clearloop.commands.speech import printable


def report(
    run: Run,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="the file; report.html in the run's folder")] = None,
    model: OwnModel = None,
    arguments: Arguments = None,
    changed: Changed = False,
) -> None:
    """Write one HTML file about a run: curves, mistakes, time, recipe, environment; no script, no network."""
    from clearloop.report import write_report

    made = own_models.of_run("report", run, model, arguments, changed)
    written = write_report(run if made is None else own_models.learner(run, made), out)
    for line in dict.fromkeys(written.missing):
        print(printable(f"note: not in the report: {line}"))
    print(printable(f"wrote {written.path} ({written.size / 1e6:.1f} MB)"))
