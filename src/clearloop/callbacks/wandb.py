"""Weights & Biases: a run's numbers and settings, online or offline."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clearloop import rng
from clearloop.callbacks.logger import Logger, folder_for, package, settings

if TYPE_CHECKING:
    from clearloop.learner import Learner


class WandB(Logger):
    """Sends a run to Weights & Biases (`pip install "clearloop[wandb]"`); `WANDB_MODE=offline` keeps it on the disk.

    A run that goes on from a checkpoint goes on under the same id there. Numbers are drawn over `step`.

    Args: `project` and `name` there; `folder`, where its files go, the run's own when None; `every`, steps between
    two losses.
    """

    def __init__(
        self,
        project: str = "clearloop",
        name: str | None = None,
        every: int | None = 50,
        folder: str | Path | None = None,
    ) -> None:
        super().__init__(every)
        self.project, self.name = project, name
        self._folder = folder  # private: where output goes is no part of what a run is
        self._id: str | None = None
        self._run: Any = None

    def open(self, learn: Learner) -> None:
        """Begin the run, or go on with it."""
        folder = folder_for(learn, self._folder, "WandB")
        folder.mkdir(parents=True, exist_ok=True)
        with rng.preserved():
            wandb = package("wandb", "wandb")
            name = self.name or folder.resolve().name
            self._run = wandb.init(
                project=self.project, name=name, id=self._own_id(), resume="allow", dir=str(folder),
                config=settings(learn), settings=wandb.Settings(silent=True, console="off"),
            )  # fmt: skip
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def write(self, values: dict[str, float], step: int, epoch: int) -> None:
        """Log the numbers with their step and epoch."""
        self._run.log({**values, "step": step, "epoch": epoch})

    def close(self, learn: Learner) -> None:
        """End the run there, as failed where the fit was."""
        self._run.finish(exit_code=0 if learn.failure is None else 1)
        self._run = None

    def abandon(self) -> None:
        """End the run there as failed."""
        run, self._run = self._run, None
        if run is not None:
            run.finish(exit_code=1)

    def state_dict(self) -> dict[str, Any]:
        """The id of the run."""
        return {"id": self._own_id()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self._id = state.get("id", self._id)

    def _own_id(self) -> str:
        self._id = self._id or secrets.token_hex(4)  # not from the random states that training uses
        return self._id
