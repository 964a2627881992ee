"""`clearloop notebook2script`: modules from the marked cells of notebooks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def notebook2script(
    notebooks: Annotated[list[Path], typer.Argument(help="notebooks (.ipynb) with cells that begin with #export")],
) -> None:
    """Write the marked cells of notebooks as modules: 03_minibatch.ipynb becomes exp/nb_03.py beside it."""
    from clearloop.notebook2script import notebook2script

    notebook2script(*notebooks)
