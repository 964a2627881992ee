"""Metrics by hand: how often a model is right, in one batch and over many."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from clearloop.errors import DataError


def accuracy(preds: Tensor, targets: Tensor) -> Tensor:
    """The share of right predictions: a mean over samples, float64 of shape ().

    Args: `preds`, logits of shape (batch_size, classes), or one a sample, positive for class 1; `targets`, the classes.

    >>> accuracy(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
    tensor(0.5000, dtype=torch.float64)
    """
    single = preds.ndim == 1 or preds.shape[1] == 1  # the largest of one logit would always be the first
    labels = (preds.flatten() > 0).long() if single else preds.argmax(dim=1)
    return (labels == targets.view_as(labels)).double().mean()


def mean_over_batches(metric: Callable[[Tensor, Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """`metric`, a mean over samples, of all samples of `batches` together, pairs (preds, targets).

    Batches count by their samples. A mean of the batches' means would let the few samples of a short last batch count
    as much as the many of another, and would change with the batch size.

    Raises: DataError where there is no sample.

    >>> long = torch.tensor([[1.0, 0.0]] * 9), torch.zeros(9, dtype=torch.long)
    >>> short = torch.tensor([[1.0, 0.0]]), torch.ones(1, dtype=torch.long)
    >>> mean_over_batches(accuracy, [long, short]), (accuracy(*long) + accuracy(*short)) / 2  # right, and wrong
    (tensor(0.9000, dtype=torch.float64), tensor(0.5000, dtype=torch.float64))
    """
    total, count = torch.zeros((), dtype=torch.float64), 0
    for preds, targets in batches:
        total = total + metric(preds, targets).double() * len(targets)  # back from a mean to a sum
        count += len(targets)
    if count == 0:
        raise DataError("expected batches with samples, got none; there is no mean of nothing")
    return total / count
