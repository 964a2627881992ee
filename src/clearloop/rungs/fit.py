"""Rung 7: the training loop as one function, with DataLoaders and validation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from clearloop.history import weighted_mean
from clearloop.losses import LossFunc
from clearloop.metrics import Metric, accuracy
from clearloop.step import evaluate, set_lr, train_step


def fit(
    epochs: int,
    model: nn.Module,
    loss_func: LossFunc,
    opt: Optimizer,
    train_dl: Iterable[Any],
    valid_dl: Iterable[Any],
    metrics: Sequence[Metric] = (accuracy,),
    schedule: Callable[[int], float] | None = None,
    clip: float | None = None,
) -> list[list[float]]:
    """Train for some epochs and validate after each; prints a line and returns a row an epoch.

    The loss is one that weighs all samples the same (no class weights); the Learner knows others too.

    Args: loaders give pairs (inputs, targets); `schedule`, from the step's number to its learning rate.
    Returns: for each epoch its training loss, validation loss and metrics, all means over samples.

    >>> import clearloop, torch.nn.functional as F
    >>> data = clearloop.TensorDataset(torch.eye(4), torch.arange(4))
    >>> train_dl, valid_dl = clearloop.get_dls(data, data, batch_size=2)
    >>> model = nn.Linear(4, 4)
    >>> rows = fit(1, model, F.cross_entropy, torch.optim.SGD(model.parameters(), lr=0.1), train_dl, valid_dl)
    epoch 0  train_loss ...  valid_loss ...  accuracy ...
    """
    rows: list[list[float]] = []
    step = 0
    for epoch in range(epochs):
        model.train()
        losses, counts = [], []
        for inputs, targets in train_dl:
            if schedule is not None:
                set_lr(opt, schedule(step))
                step += 1
            losses.append(train_step(model, loss_func, opt, inputs, targets, clip))
            counts.append(len(targets))
        train_loss = weighted_mean(torch.stack(losses).tolist(), counts)
        model.eval()
        row = [train_loss, *evaluate(model, loss_func, metrics, valid_dl)]
        names = ["train_loss", "valid_loss", *(metric.name for metric in metrics)]
        print(f"epoch {epoch}", *(f"{name} {value!r}" for name, value in zip(names, row, strict=True)), sep="  ")
        rows.append(row)
    return rows
