"""What a Learner does besides training: each of these is a file of its own, which is imported when it is used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from clearloop.callback import Callback
from clearloop.losses import LossFunc

if TYPE_CHECKING:
    from clearloop.checks.finding import CheckReport
    from clearloop.eject import Program
    from clearloop.learner import Learner
    from clearloop.predictor import Prediction
    from clearloop.verify import Comparison


class Conveniences:
    """Methods that the Learner has from here; in them, `self` is a Learner."""

    def save(self: Any, path: str | Path) -> Path:
        """Write a run directory: recipe, history, a checkpoint of this moment, and the predictor."""
        from clearloop.saving import save_run

        return save_run(self, Path(path))

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        dls: Any = None,
        model: nn.Module | None = None,
        loss_func: LossFunc | None = None,
        opt_func: Callable[..., Any] | None = None,
        metrics: Any = None,
        cbs: Sequence[Callback] | None = None,
        device: str | None = None,
        at: Literal["last", "best"] | int = "last",
    ) -> Learner:
        """The Learner of a run directory: at its newest good checkpoint, its best one, or that of a step.

        Args: whatever the recipe cannot build by itself (a model of your own, data in memory) must be given.
        Raises: RunError, CheckpointError (no good checkpoint, or of another model), ConfigError (a part is missing).
        """
        from clearloop.saving import load_run

        parts = {"dls": dls, "model": model, "loss_func": loss_func, "opt_func": opt_func, "metrics": metrics}
        return load_run(Path(path), at, {**parts, "cbs": cbs, "device": device})

    def plot_loss(self: Any, path: str | Path | None = None) -> Any:
        """Loss and learning rate over steps; returns the matplotlib figure, written to `path` if one is given."""
        from clearloop.plots import plot_loss

        return plot_loss(self.history, path)

    def lr_find(self: Any, lr_min: float = 1e-6, lr_max: float = 10.0, steps: int = 100) -> Any:
        """Try learning rates from small to large on a copy of the weights; see `clearloop.lr_find`."""
        from clearloop.lr_find import lr_find

        return lr_find(self, lr_min, lr_max, steps)

    def check(self: Any, *, lr: float | None = None, quiet: bool = False) -> CheckReport:
        """What would make a training fail without an error, each with its meaning and remedy; see `clearloop.check`."""
        from clearloop.checking import check

        return check(self, lr=lr, quiet=quiet)

    def eject(self: Any, rung: int = 7, *, model_expr: Any = None) -> Program:
        """This run as one plain PyTorch program, on a rung from 1 (all by hand) to 7 (`fit`): print it, or `write` it.

        Args: `model_expr`, how a model of your own was made, such as `"Net(64)"`; see `clearloop.eject`.
        Raises: EjectError naming what cannot be printed.
        """
        from clearloop.eject import eject_learner

        return eject_learner(self, rung, model_expr)

    def verify(self: Any, rung: int = 7, *, model_expr: Any = None) -> list[Comparison]:
        """Run the ejected program in a process of its own: every loss, metric and the weights, compared."""
        from clearloop.verify import verify_learner

        return verify_learner(self, rung, model_expr)

    def predict(self: Any, item: Any) -> Prediction:
        """Class and probabilities, or the values, for one new item: an image file, a picture, an array."""
        from clearloop.predictor import Predictor

        return Predictor.of(self)(item)
