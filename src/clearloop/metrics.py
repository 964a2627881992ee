"""Metrics as sums over samples: exact for any batch size, and for any number of processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from clearloop.tree import first_tensor, length


@dataclass(frozen=True)
class Metric:
    """Sums that add up over batches, and the value of their total.

    Args: `sums`, `(preds, targets) -> float64 tensor`, additive over samples; `value`, from the total to a number.
    Called on one batch, a metric gives its value there.
    """

    name: str
    sums: Callable[[Any, Any], Tensor]
    value: Callable[[Tensor], Any]

    def __call__(self, preds: Any, targets: Any) -> Tensor:
        return torch.as_tensor(self.value(self.sums(preds, targets)))


def ratio(sums: Tensor) -> Tensor:
    """A sum divided by its count: (2,) -> ()."""
    return sums[0] / sums[1]


def correct(preds: Tensor, targets: Tensor) -> Tensor:
    """How many predictions are right, and how many there are: float64 of shape (2,).

    `preds` are logits of shape (batch_size, classes); or one logit a sample, positive for class 1.
    """
    single = preds.ndim == 1 or preds.shape[1] == 1
    labels = (preds.flatten() > 0).long() if single else preds.argmax(dim=1)
    hits = (labels == targets.view_as(labels)).sum()
    return torch.stack([hits, hits.new_full((), labels.numel())]).double()  # nothing waits for the device


def weighted(fn: Callable[[Any, Any], Any], preds: Any, targets: Any) -> Tensor:
    """A mean over a batch, times its samples, and their number: float64 of shape (2,)."""
    count = length(targets)
    mean = torch.as_tensor(fn(preds, targets)).double()
    return torch.stack([mean * count, mean.new_full((), count)])


def mean_metric(name: str, fn: Callable[[Any, Any], Any]) -> Metric:
    """A metric from a function that returns a mean over a batch: weighted by samples, so that it stays exact."""
    return Metric(name, partial(weighted, fn), ratio)


def top_k_accuracy(k: int = 5) -> Metric:
    """The share of samples whose class is among the `k` largest logits.

    >>> top_k_accuracy(2)(torch.tensor([[0.1, 0.3, 0.2]]), torch.tensor([2])).item()
    1.0
    """

    def mean(preds: Tensor, targets: Tensor) -> Tensor:
        return (preds.topk(k, dim=1).indices == targets[:, None]).any(dim=1).double().mean()

    return mean_metric(f"top_{k}_accuracy", mean)


def moments(preds: Any, targets: Tensor) -> Tensor:
    """Squared errors, their number, and the targets' sum and sum of squares: float64 of shape (4,).

    Of several outputs, as of an autoencoder that gives its code too, the first is compared with the targets.
    """
    y = targets.double()
    errors = first_tensor(preds).double().view_as(y) - y
    return torch.stack([errors.square().sum(), y.new_full((), y.numel()), y.sum(), y.square().sum()])


accuracy = Metric("accuracy", correct, ratio)
error_rate = Metric("error_rate", correct, lambda sums: 1 - ratio(sums))
mse = Metric("mse", moments, ratio)
rmse = Metric("rmse", moments, lambda sums: ratio(sums).sqrt())
r2_score = Metric("r2_score", moments, lambda sums: 1 - sums[0] / (sums[3] - sums[2].square() / sums[1]))
mae = mean_metric("mae", lambda preds, targets: (preds.double().view_as(targets) - targets).abs().mean())
