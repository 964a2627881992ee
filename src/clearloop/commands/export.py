"""`clearloop export`: a run's model as one file for other programs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from clearloop.commands import own_models
from clearloop.commands.options import Arguments, Changed, OwnModel, Run
from clearloop.commands.speech import printable


class FileFormat(StrEnum):
    """What the file is for."""

    onnx = "onnx"
    torch = "torch"


def export(
    run: Run,
    format: Annotated[
        FileFormat | None, typer.Option("--format", "-f", help="onnx, or torch for torch.export's .pt2")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="the file; model.onnx or model.pt2 in the run's folder")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="of the validation data, to compare file and model on")] = 1000,
    model: OwnModel = None,
    arguments: Arguments = None,
    changed: Changed = False,
) -> None:
    """Write a run's model, its preprocessing and class names as one ONNX or torch.export file, checked on real data."""
    from clearloop.exporting import export as export_run

    made = own_models.of_run("export", run, model, arguments, changed)
    what = run if made is None else own_models.learner(run, made)
    exported = export_run(what, out, None if format is None else format.value, samples=samples)
    for line in str(exported).splitlines():
        print(printable(line))
