"""One optimizer step and one evaluation: the functions that every run, and every printed program, is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from clearloop.losses import Count, LossFunc
from clearloop.metrics import Metric
from clearloop.tree import length

Apply = Callable[[Any], Any]  # a model, called: inputs -> preds
Pairs = Iterable[tuple[Any, Any]]  # (inputs, targets)
Clip = float | None  # the largest norm of all gradients together


def train_step(
    model: Apply, loss_func: LossFunc, opt: Optimizer, inputs: Any, targets: Any, clip: Clip = None, scaler: Any = None
) -> Tensor:
    """One optimizer update from one batch; returns the loss before the update, detached, a mean over samples."""
    loss = loss_func(model(inputs), targets)
    if scaler is None:
        loss.backward()
    else:
        scaler.scale(loss).backward()
    update(opt, clip, scaler)
    return loss.detach()


def accumulated_step(
    model: Apply, loss_func: LossFunc, opt: Optimizer, window: Pairs, counts: Any, clip: Clip = None, scaler: Any = None
) -> Tensor:
    """One optimizer update from several batches, each weighing its share of all their samples."""
    total = sum(counts)
    losses = []
    for (inputs, targets), count in zip(window, counts, strict=True):
        loss = loss_func(model(inputs), targets) * (count / total)
        if scaler is None:
            loss.backward()
        else:
            scaler.scale(loss).backward()
        losses.append(loss.detach())
    update(opt, clip, scaler)
    return torch.stack(losses).sum()


def update(opt: Optimizer, clip: Clip = None, scaler: Any = None) -> None:
    """Apply the gradients, then clear them."""
    if clip is not None:
        if scaler is not None:
            scaler.unscale_(opt)
        nn.utils.clip_grad_norm_([p for group in opt.param_groups for p in group["params"]], clip)
    if scaler is None:
        opt.step()
    else:
        scaler.step(opt)  # skips an update whose gradients overflowed
        scaler.update()
    opt.zero_grad()


def set_lr(opt: Any, lr: float) -> None:
    """Give every parameter group the learning rate `lr`, times its own `lr_scale` if it has one."""
    for group in opt.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


@torch.no_grad()
def evaluate(
    model: Apply, loss_func: LossFunc, metrics: Sequence[Metric], batches: Pairs, count: Count = len, reduce: Any = None
) -> list[float]:
    """The mean loss over all samples, then each metric; nothing waits for the device before the last batch."""
    loss_sum, samples = 0.0, 0.0
    sums: list[Any] = [0.0] * len(metrics)
    for inputs, targets in batches:
        preds = model(inputs)
        batch_count = count(targets)
        loss_sum += loss_func(preds, targets).double() * batch_count
        samples += batch_count
        sums = [total + metric.sums(preds, targets) for total, metric in zip(sums, metrics, strict=True)]
    if reduce is not None:  # several processes had a part of the batches each
        loss_sum, samples, sums = reduce(loss_sum, samples, sums)
    values = [metric.value(total) for metric, total in zip(metrics, sums, strict=True)]
    return [float(value) for value in (loss_sum / samples, *values)]


def pair(batch: Any) -> tuple[Any, Any]:
    """A batch as (inputs, targets): the last element is the targets; several inputs stay a tuple."""
    return batch if len(batch) == 2 else (batch[:-1], batch[-1])


@dataclass
class TrainState:
    """All that training changes, and what it is changed with. `forward` is the model, called as its inputs need."""

    model: nn.Module
    opt: Optimizer
    loss_func: LossFunc
    forward: Apply
    count: Count = length
    clip: Clip = None
    scaler: Any = None
    example: Any = None  # the first batch, (inputs, targets)


@dataclass
class Span:
    """The work of K optimizer steps: an iterator of their batches, the learning rate of each, and where they stand."""

    batches: Iterator[Any]
    steps: int
    lrs: list[float] | None = None  # None leaves the optimizer's own, which a torch scheduler governs
    accumulate: int = 1
    first: int = 0  # steps of the run before these
    left: int = 0  # steps from here to the end of the fit
