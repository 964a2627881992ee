"""Rung 7: the training loop as one function, with DataLoaders and validation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from clearloop.losses import LossFunc
from clearloop.metrics import Metric, accuracy
from clearloop.rungs.report import report
from clearloop.schedules import Schedule
from clearloop.step import accumulated_step, evaluate, set_lr, train_step


def fit(
    epochs: int,
    model: nn.Module,
    loss_func: LossFunc,
    opt: Optimizer,
    train_dl: Iterable[Any],
    valid_dl: Iterable[Any],
    metrics: Sequence[Metric] = (accuracy,),
    schedule: Schedule | None = None,
    step_scheduler: Any = None,
    epoch_scheduler: Any = None,
    plateau_scheduler: Any = None,
    clip: float | None = None,
    part_size: int | None = None,
) -> list[list[float]]:
    """Train for some epochs and validate after each; prints a line and returns a row an epoch.

    The loss is one that weighs all samples the same (no class weights); the Learner knows others too.

    Args: loaders give pairs (inputs, targets); the options are those of `clearloop.rungs.loops`.
    Returns: for each epoch its training loss, validation loss and metrics, all means over samples.

    >>> import clearloop, torch, torch.nn.functional as F
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
        losses = []
        for inputs, targets in train_dl:
            if schedule is not None:
                set_lr(opt, schedule(step))
                step += 1
            if part_size is None:
                loss = train_step(model, loss_func, opt, inputs, targets, clip)
            else:
                copies = [part.clone() for part in inputs.split(part_size)]  # addresses decide the last bits
                window = list(zip(copies, targets.split(part_size), strict=True))
                sizes = [len(part_targets) for _, part_targets in window]
                loss = accumulated_step(model, loss_func, opt, window, sizes, clip)
            losses.append((loss, len(targets)))
            if step_scheduler is not None:
                step_scheduler.step()
        model.eval()
        valid_row = evaluate(model, loss_func, metrics, valid_dl)
        rows.append(report(epoch, losses, valid_row, metrics))
        if epoch_scheduler is not None:
            epoch_scheduler.step()
        if plateau_scheduler is not None:
            plateau_scheduler.step(valid_row[0])
    return rows
