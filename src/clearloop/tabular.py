"""A Learner for a table: net, loss and metrics as the kind of target needs them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import AdamW

from clearloop import rng
from clearloop.data.tables import TableDataLoaders
from clearloop.errors import ConfigError
from clearloop.learner import Learner
from clearloop.losses import LossFunc
from clearloop.metrics import Metric, accuracy, mae, r2_score, rmse
from clearloop.models.table_net import scaled_mse_loss, table_net
from clearloop.preflight import stored_targets


def table_learner(
    dls: TableDataLoaders,
    hidden: Sequence[int] = (128, 64),
    opt_func: Callable[..., Any] = AdamW,
    lr: float | None = None,
    *,
    dropout: float | None = None,
    class_weights: Literal["balanced"] | Sequence[float] | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
    cbs: Any = (),
) -> Learner:
    """A Learner with `table_model`, `table_loss` and `table_metrics`; its weights come from `seed`.

    >>> rows = {"size": range(40), "town": ["Ulm", "Bonn"] * 20, "price": [3.5 * n for n in range(40)]}
    >>> learn = table_learner(TableDataLoaders.from_table(rows, "price", seed=0), hidden=(8,))
    >>> [metric.name for metric in learn.metrics]
    ['rmse', 'mae', 'r2_score']
    """
    with rng.preserved():
        torch.manual_seed(seed)
        model = table_model(dls, hidden, dropout)
    loss_func = table_loss(dls, class_weights)
    return Learner(dls, model, loss_func, opt_func, lr, table_metrics(dls), cbs, seed=seed, device=device)


def table_model(dls: TableDataLoaders, hidden: Sequence[int] = (128, 64), dropout: float | None = None) -> nn.Module:
    """The net for a table's inputs and targets; its weights are drawn from torch's generator."""
    spec = dls.table
    outputs = len(spec.classes) if spec.classes is not None else 1
    options: dict[str, float] = {} if dropout is None else {"dropout": dropout}
    if spec.classes is None:
        options |= {"center": spec.center, "scale": spec.scale}
    return table_net(spec.numeric, spec.category_sizes, outputs, tuple(hidden), **options)


def table_loss(dls: TableDataLoaders, class_weights: Literal["balanced"] | Sequence[float] | None = None) -> LossFunc:
    """Cross-entropy for classes, squared error in units of the targets' deviation for a regression.

    Args: `class_weights`, one a class in the order of `dls.classes`; "balanced" gives each class the same weight in
    all, `rows / (classes * rows of the class)`.
    Raises: ConfigError for weights of a regression, of another number, or not positive.
    """
    if dls.table.classes is None:
        if class_weights is not None:
            raise ConfigError("class weights are for classes, this is a regression; leave them out")
        return functools.partial(scaled_mse_loss, scale=dls.table.scale)
    if class_weights is None:
        return F.cross_entropy
    classes = len(dls.table.classes)
    if isinstance(class_weights, str):
        if class_weights != "balanced":
            raise ConfigError(f'class_weights must be "balanced" or a number for each class, got {class_weights!r}')
        labels = stored_targets(dls.train)
        assert labels is not None  # tables are in memory
        counts = torch.bincount(labels, minlength=classes)
        weights = counts.sum() / (classes * counts.double())
    else:
        weights = torch.as_tensor(class_weights, dtype=torch.float64)
    if weights.shape != (classes,) or not bool(torch.isfinite(weights).all()) or not bool((weights > 0).all()):
        raise ConfigError(f"expected a positive weight for each of {classes} classes, got {weights.tolist()}")
    return nn.CrossEntropyLoss(weight=weights.float())


def table_metrics(dls: TableDataLoaders) -> tuple[Metric, ...]:
    """Accuracy for classes; rmse and mae, in the targets' own units, and r2_score for a regression."""
    return (accuracy,) if dls.table.classes is not None else (rmse, mae, r2_score)
