"""MLflow: a run's numbers and settings in a tracking store."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from clearloop import rng
from clearloop.callbacks.logger import Logger, package, settings

if TYPE_CHECKING:
    from clearloop.learner import Learner


class MLflow(Logger):
    """Writes a run to MLflow (`pip install "clearloop[mlflow]"`).

    A run that goes on from a checkpoint goes on under the same id there; MLflow cannot take numbers back, so that
    steps which a killed process had logged after the checkpoint appear twice.

    Args: `experiment` and `name` there; `tracking_uri`, such as "sqlite:///mlflow.db"; MLflow's own choice when None
    (the variable MLFLOW_TRACKING_URI); `every`, steps between two losses.
    """

    def __init__(
        self,
        experiment: str = "clearloop",
        name: str | None = None,
        every: int | None = 50,
        tracking_uri: str | None = None,
    ) -> None:
        super().__init__(every)
        self.experiment, self.name = experiment, name
        self._tracking_uri = tracking_uri  # private: where output goes is no part of what a run is
        self._id: str | None = None
        self._client: Any = None

    def open(self, learn: Learner) -> None:
        """Begin the run, or go on with it."""
        with rng.preserved():
            mlflow = package("mlflow", "mlflow")
            self._client = mlflow.MlflowClient(self._tracking_uri)
            if self._id is not None:
                self._client.set_terminated(self._id, "RUNNING")
                return
            found = self._client.get_experiment_by_name(self.experiment)
            experiment = self._client.create_experiment(self.experiment) if found is None else found.experiment_id
            name = self.name or (None if learn.run is None else learn.run.path.resolve().name)
            self._id = self._client.create_run(experiment, run_name=name).info.run_id
            for key, value in settings(learn).items():
                self._client.log_param(self._id, key, value)

    def write(self, values: dict[str, float], step: int, epoch: int) -> None:
        """Log the numbers at their step; signs that MLflow does not take in names become `_`."""
        for name, value in values.items():
            self._client.log_metric(self._id, re.sub(r"[^\w\-. /]", "_", name), value, step=step)

    def close(self, learn: Learner) -> None:
        """End the run there, as failed where the fit was."""
        self._client.set_terminated(self._id, "FINISHED" if learn.failure is None else "FAILED")
        self._client = None

    def abandon(self) -> None:
        """Ask nothing more of the store."""
        self._client = None

    def state_dict(self) -> dict[str, Any]:
        """The id of the run, once there is one."""
        return {"id": self._id}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self._id = state.get("id", self._id)
