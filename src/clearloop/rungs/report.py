"""What a loop says of an epoch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from clearloop.history import weighted_mean
from clearloop.metrics import Metric


def report(
    epoch: int, losses: Sequence[tuple[Tensor, int]], valid: Sequence[float], metrics: Sequence[Metric]
) -> list[float]:
    """Print a line: the training loss, a mean over samples, then validation loss and metrics; returns these numbers.

    Args: `losses` of the steps, each with the number of samples that it is a mean over.

    >>> report(0, [(torch.tensor(1.0), 2), (torch.tensor(4.0), 1)], [0.5], [])
    epoch 0  train_loss 2.0  valid_loss 0.5
    [2.0, 0.5]
    """
    means, counts = zip(*losses, strict=True)
    row = [weighted_mean(torch.stack(means).tolist(), counts), *valid]
    names = ["train_loss", "valid_loss", *(metric.name for metric in metrics)]
    print(f"epoch {epoch}", *(f"{name} {value!r}" for name, value in zip(names, row, strict=True)), sep="  ")
    return row
