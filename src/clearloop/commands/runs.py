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
        cells = (row["name"], short(row["model"]), source_of(row["data"]), epochs, loss, metrics, changed, row["state"])
        table.add_row(*(Text(printable(cell)) for cell in cells))  # as text: names are not to be taken for markup
    Console(width=None if sys.stdout.isatty() else 160).print(table, highlight=False)


def source_of(description: Any) -> str:
    """The file or folder that a run's data came from; for data that have none, how their loaders were made.

    >>> source_of({"path": "clearloop.data.tables:TableDataLoaders.from_file", "args": ["/mine/houses.csv", "price"]})
    'houses.csv'
    """
    if isinstance(description, dict):
        given = [*description.get("args", []), *description.get("kwargs", {}).values()]
        paths = [Path(arg) for arg in given if isinstance(arg, str) and Path(arg).is_absolute()]
        if paths:  # of x.npy and y.npy, or the like, the folder
            return (paths[0].parent if len(paths) > 1 else paths[0]).name
    return short(description)


def short(description: Any) -> str:
    """A component of a recipe in a few words."""
    if not isinstance(description, dict):
        return "?"
    name = str(description.get("path", description.get("name", "?"))).split(":")[-1].split(".")[-1]
    plain = [arg for arg in description.get("args", []) if arg is not None and not isinstance(arg, str)]
    arguments = ", ".join(map(str, plain))
    return f"{name}({arguments})" if arguments else name
