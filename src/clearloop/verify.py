"""Verify: run the ejected program in a fresh process, and compare it with the run, number by number."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from clearloop.component import describe
from clearloop.eject import Program, eject, eject_learner
from clearloop.errors import EjectError
from clearloop.history import History
from clearloop.printing.sources import data_path
from clearloop.recipe import Recipe
from clearloop.rundir import RunDirectory
from clearloop.saving import history_from
from clearloop.weights import named_tensors, weights_sha256

if TYPE_CHECKING:
    from clearloop.learner import Learner

BLOCKER = 'raise ImportError("the ejected program must not need clearloop")\n'


@dataclass(frozen=True)
class Comparison:
    """One number of the run beside the program's: they agree where their texts are the same to the last digit."""

    what: str
    run: str
    program: str

    @property
    def same(self) -> bool:
        """Whether the two are identical."""
        return self.run == self.program


def verify(run: str | Path, rung: int = 7) -> list[Comparison]:
    """Eject a finished run, execute the program where clearloop cannot be imported, and compare.

    Returns: a Comparison for every loss and metric of every epoch, and last the SHA-256 of the final weights.
    Raises: EjectError if the run is not finished, cannot be printed, or its program fails.
    """
    directory = RunDirectory.open(run)
    recipe = Recipe.read(directory.read_recipe(), str(directory.recipe))
    program = eject(run, rung)
    loaded = directory.load_newest(lambda line: None)
    if loaded is None:
        raise EjectError(f"{run}: there is no checkpoint to compare with")
    _, states, records = loaded
    history = history_from(records)
    if not history.epochs or history.epochs[-1].epoch + 1 != recipe.fits[-1]["last_epoch"]:
        raise EjectError(f"{run}: the run has not finished; `clearloop resume {run}` finishes it")
    return compare(program, history, states["model"], data_path(recipe.data).resolve())


def verify_learner(learn: Learner, rung: int = 7, model_expr: Any = None) -> list[Comparison]:
    """`Learner.verify`: the same for a Learner at hand."""
    program = eject_learner(learn, rung, model_expr)
    if learn.epoch != learn.plan["last_epoch"]:
        raise EjectError("the fit has not finished; learn.resume() finishes it")
    data = None if program.data is not None else data_path(describe(learn.dls)).resolve()
    return compare(program, learn.history, named_tensors(learn.model), data)


def compare(program: Program, history: History, weights: Mapping[str, Tensor], data: Path | None) -> list[Comparison]:
    """Run a program, and set its numbers beside those of a run."""
    expected = []
    for record in history.epochs:
        values = {"train_loss": record.train_loss, "valid_loss": record.valid_loss, **record.metrics}
        expected += [(f"epoch {record.epoch} {name}", repr(value)) for name, value in values.items()]
    expected.append(("sha256", weights_sha256(weights)))
    with tempfile.TemporaryDirectory() as folder:
        found = parse(execute(program.write(Path(folder) / "program.py"), data))
    return [Comparison(what, value, found.get(what, "nothing")) for what, value in expected]


def execute(program: Path, data: Path | None) -> str:
    """Run a program where `import clearloop` fails; its output. Raises EjectError with its last words if it fails."""
    if data is not None and not data.exists():
        raise EjectError(f"the data that the run was trained on are no longer at {data}: put them back")
    (program.parent / "clearloop.py").write_text(BLOCKER)
    environment = {**os.environ, "PYTHONPATH": str(program.parent)}
    command = [sys.executable, str(program), *([] if data is None else ["--data", str(data)])]
    done = subprocess.run(command, cwd=program.parent, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last_words = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise EjectError(f"the ejected program failed: {last_words[-1]}")
    return done.stdout


def parse(output: str) -> dict[str, str]:
    """The numbers that a program printed, by what they are.

    >>> parse("epoch 0  train_loss 0.5  accuracy 0.9\\nsha256 ab")
    {'epoch 0 train_loss': '0.5', 'epoch 0 accuracy': '0.9', 'sha256': 'ab'}
    """
    found: dict[str, str] = {}
    for line in output.splitlines():
        epoch, *pairs = re.split(r"\s{2,}", line.strip())
        if epoch.startswith("epoch "):
            found |= {f"{epoch} {name}": value for name, value in (pair.rsplit(" ", 1) for pair in pairs)}
        elif epoch.startswith("sha256 "):
            found["sha256"] = epoch.split(" ", 1)[1]
    return found
