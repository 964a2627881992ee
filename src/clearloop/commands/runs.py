"""`clearloop runs`: a table of runs."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from clearloop.commands.speech import printable
from clearloop.errors import ConfigError


def runs(folder: Annotated[Path, typer.Argument(help="where the runs are")] = Path("runs")) -> None:
    """List the runs of a folder: model, data, best metric, when, state."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from clearloop.rundir import RunDirectory

    found = sorted(path.parent for path in folder.glob("*/recipe.json")) if folder.is_dir() else []
    if not found:
        raise ConfigError(f"no runs in {folder}; `clearloop train mnist` makes one")
    table = Table(
        "run", "model", "data", "epochs", "valid_loss", "metrics", "changed", "state", box=None, pad_edge=False
    )
    for path in found:
        row = RunDirectory.open(path).summary()
        metrics = ", ".join(f"{name} {float(value):.4f}" for name, value in row["metrics"].items())
        loss = "" if row["valid_loss"] is None else f"{float(row['valid_loss']):.4f}"
        changed = time.strftime("%Y-%m-%d %H:%M", time.localtime(row["modified"]))
        done = 0 if row["epoch"] is None else row["epoch"] + 1
        epochs = f"{done}" if row["epochs_planned"] is None else f"{done}/{row['epochs_planned']}"
        cells = (row["name"], short(row["model"]), short(row["data"]), epochs, loss, metrics, changed, row["state"])
        table.add_row(*(Text(printable(cell)) for cell in cells))  # as text: names are not to be taken for markup
    Console(width=None if sys.stdout.isatty() else 160).print(table, highlight=False)


def short(description: Any) -> str:
    """A component of a recipe in a few words."""
    if not isinstance(description, dict):
        return "?"
    name = str(description.get("path", description.get("name", "?"))).split(":")[-1].split(".")[-1]
    arguments = ", ".join(str(argument) for argument in description.get("args", []) if not isinstance(argument, str))
    return f"{name}({arguments})" if arguments else name
