"""Early stopping: end the fit when what it watches no longer gets better."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from clearloop.adapters import smaller_is_better
from clearloop.callback import Callback
from clearloop.errors import ConfigError

if TYPE_CHECKING:
    from clearloop.learner import Learner


class EarlyStopping(Callback):
    """Stops after `patience` epochs in a row without an improvement of more than `min_delta`.

    Args: `monitor`, "valid_loss", "train_loss", or a metric's name; errors and losses are better small, all else large.

    >>> EarlyStopping(patience=3).monitor
    'valid_loss'
    """

    def __init__(self, monitor: str = "valid_loss", patience: int = 3, min_delta: float = 0.0) -> None:
        if patience < 1 or min_delta < 0:
            raise ConfigError(f"patience must be 1 or more and min_delta 0 or more, got {patience} and {min_delta}")
        self.monitor, self.patience, self.min_delta = monitor, patience, min_delta
        self.best: float | None = None
        self.waited = 0

    def before_fit(self, learn: Learner) -> None:
        """Check that what is watched exists."""
        known = {"train_loss", *(metric.name for metric in learn.metrics)}
        known |= {"valid_loss"} if learn.dls.valid is not None else set()
        if self.monitor not in known:
            raise ConfigError(f"monitor must be one of {', '.join(sorted(known))}, got {self.monitor!r}")
        if learn.history.steps == learn.plan["first_step"]:  # a new fit has all its patience; one that is resumed not
            self.waited = 0

    def after_epoch(self, learn: Learner) -> None:
        """Count epochs without improvement."""
        record = learn.history.epochs[-1]
        values = {"train_loss": record.train_loss, "valid_loss": record.valid_loss, **record.metrics}
        value = values[self.monitor]
        sign = -1.0 if smaller_is_better(self.monitor) else 1.0
        value = math.nan if value is None else value
        if not math.isnan(value) and (self.best is None or sign * (value - self.best) > self.min_delta):
            self.best, self.waited = value, 0
            return
        self.waited += 1
        if self.waited >= self.patience:
            best = "NaN" if self.best is None else f"{self.best:.6g}"
            learn.stop(f"{self.monitor} has not improved on {best} for {self.waited} epochs")

    def state_dict(self) -> dict[str, Any]:
        """The best value so far, and for how many epochs nothing was better."""
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.best, self.waited = state.get("best"), state.get("waited", 0)
