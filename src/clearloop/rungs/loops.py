"""The training loop on the first six of seven rungs: laid side by side, only one thing changes at a time.

From one seed all seven end in the same weights, to the bit. The last is `clearloop.rungs.fit.fit`: the same, with each
step a function. The data are a pair (inputs, targets) of tensors, then a Dataset, and a `Sampler` says which samples
make a step; then a loader. After every epoch loss and `metrics` are evaluated on the validation batches.

Options: `update`, the rule by which a parameter moves (None for plain descent); `schedule`, from the step's number to
its learning rate; `scheduler`, one by hand that is asked after every epoch, with the validation loss; torch's own that
are asked after every step, after every epoch, or after every epoch with the validation loss (the plateau one);
`clip`, the largest norm of all gradients together; `part_size`, samples that are worked on at a time, where all
those of a step are too many for memory; `augment`, an augmentation by `clearloop.rungs.data.keyed`.

Printed as a program, a loop has none of what a run does not use.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn, optim

from clearloop.losses import LossFunc
from clearloop.metrics import Metric, accuracy
from clearloop.rungs.data import Dataset, KeyedAugment, Sampler
from clearloop.rungs.layers import Layers
from clearloop.rungs.optimizers import Optimizer
from clearloop.rungs.parts import backward_in_parts
from clearloop.rungs.report import report
from clearloop.rungs.updates import Update, clip_gradients
from clearloop.schedules import Schedule
from clearloop.step import Pairs, evaluate, set_lr


def raw_layers(
    epochs: int,
    model: Layers,
    loss_func: LossFunc,
    train: tuple[Tensor, Tensor],
    valid_batches: Pairs,
    sampler: Sampler,
    lr: float,
    update: Update | None = None,
    metrics: Sequence[Metric] = (accuracy,),
    schedule: Schedule | None = None,
    scheduler: Any = None,
    clip: float | None = None,
    part_size: int | None = None,
    augment: KeyedAugment | None = None,
) -> None:
    """First rung: the layers' weights are changed by hand, one by one."""
    x, y = train
    step = 0
    for epoch in range(epochs):
        model.train()
        losses = []
        for indices in sampler:
            inputs, targets = x[indices], y[indices]
            if schedule is not None:
                lr = schedule(step)
                step += 1
            if augment is not None:
                inputs = augment(inputs, epoch, indices)
            if part_size is None:
                loss = loss_func(model(inputs), targets)
                loss.backward()
            else:
                loss = backward_in_parts(model, loss_func, inputs, targets, part_size)
            with torch.no_grad():  # the update is no part of the model
                if clip is not None:
                    clip_gradients(model.parameters(), clip)
                for layer in model.layers.values():
                    for parameter in layer.parameters():
                        if update is None:
                            # p -= lr * p.grad would round twice
                            parameter.add_(parameter.grad, alpha=-lr)  # type: ignore[arg-type]
                        else:
                            update(parameter, lr)
                        parameter.grad = None  # or the next gradient would be added to this one
            losses.append((loss.detach(), len(targets)))
        model.eval()
        valid_row = evaluate(model, loss_func, metrics, valid_batches)
        report(epoch, losses, valid_row, metrics)
        if scheduler is not None:
            lr = scheduler.step(valid_row[0])


def parameters(
    epochs: int,
    model: nn.Module,
    loss_func: LossFunc,
    train: tuple[Tensor, Tensor],
    valid_batches: Pairs,
    sampler: Sampler,
    lr: float,
    update: Update | None = None,
    metrics: Sequence[Metric] = (accuracy,),
    schedule: Schedule | None = None,
    scheduler: Any = None,
    clip: float | None = None,
    part_size: int | None = None,
    augment: KeyedAugment | None = None,
) -> None:
    """Second rung: a model that knows its parameters, whatever its layers are."""
    x, y = train
    step = 0
    for epoch in range(epochs):
        model.train()
        losses = []
        for indices in sampler:
            inputs, targets = x[indices], y[indices]
            if schedule is not None:
                lr = schedule(step)
                step += 1
            if augment is not None:
                inputs = augment(inputs, epoch, indices)
            if part_size is None:
                loss = loss_func(model(inputs), targets)
                loss.backward()
            else:
                loss = backward_in_parts(model, loss_func, inputs, targets, part_size)
            with torch.no_grad():  # the update is no part of the model
                if clip is not None:
                    clip_gradients(model.parameters(), clip)
                for parameter in model.parameters():
                    if parameter.grad is None:  # it took no part in the loss
                        continue
                    if update is None:
                        # p -= lr * p.grad would round twice
                        parameter.add_(parameter.grad, alpha=-lr)
                    else:
                        update(parameter, lr)
                    parameter.grad = None  # or the next gradient would be added to this one
            losses.append((loss.detach(), len(targets)))
        model.eval()
        valid_row = evaluate(model, loss_func, metrics, valid_batches)
        report(epoch, losses, valid_row, metrics)
        if scheduler is not None:
            lr = scheduler.step(valid_row[0])


def own_optimizer(
    epochs: int,
    model: nn.Module,
    loss_func: LossFunc,
    opt: Optimizer,
    train: tuple[Tensor, Tensor],
    valid_batches: Pairs,
    sampler: Sampler,
    metrics: Sequence[Metric] = (accuracy,),
    schedule: Schedule | None = None,
    scheduler: Any = None,
    clip: float | None = None,
    part_size: int | None = None,
    augment: KeyedAugment | None = None,
) -> None:
    """Third rung: the update and the clearing of gradients are an optimizer's."""
    x, y = train
    step = 0
    for epoch in range(epochs):
        model.train()
        losses = []
        for indices in sampler:
            inputs, targets = x[indices], y[indices]
            if schedule is not None:
                set_lr(opt, schedule(step))
                step += 1
            if augment is not None:
                inputs = augment(inputs, epoch, indices)
            if part_size is None:
                loss = loss_func(model(inputs), targets)
                loss.backward()
            else:
                loss = backward_in_parts(model, loss_func, inputs, targets, part_size)
            if clip is not None:
                clip_gradients(model.parameters(), clip)
            opt.step()
            opt.zero_grad()
            losses.append((loss.detach(), len(targets)))
        model.eval()
        valid_row = evaluate(model, loss_func, metrics, valid_batches)
        report(epoch, losses, valid_row, metrics)
        if scheduler is not None:
            set_lr(opt, scheduler.step(valid_row[0]))


def torch_optimizer(
    epochs: int,
    model: nn.Module,
    loss_func: LossFunc,
    opt: optim.Optimizer,
    train: tuple[Tensor, Tensor],
    valid_batches: Pairs,
    sampler: Sampler,
    metrics: Sequence[Metric] = (accuracy,),
    schedule: Schedule | None = None,
    step_scheduler: Any = None,
    epoch_scheduler: Any = None,
    plateau_scheduler: Any = None,
    clip: float | None = None,
    part_size: int | None = None,
    augment: KeyedAugment | None = None,
) -> None:
    """Fourth rung: torch's optimizer, and its schedulers."""
    x, y = train
    step = 0
    for epoch in range(epochs):
        model.train()
        losses = []
        for indices in sampler:
            inputs, targets = x[indices], y[indices]
            if schedule is not None:
                set_lr(opt, schedule(step))
                step += 1
            if augment is not None:
                inputs = augment(inputs, epoch, indices)
            if part_size is None:
                loss = loss_func(model(inputs), targets)
                loss.backward()
            else:
                loss = backward_in_parts(model, loss_func, inputs, targets, part_size)
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            opt.step()
            opt.zero_grad()
            if step_scheduler is not None:
                step_scheduler.step()
            losses.append((loss.detach(), len(targets)))
        model.eval()
        valid_row = evaluate(model, loss_func, metrics, valid_batches)
        report(epoch, losses, valid_row, metrics)
        if epoch_scheduler is not None:
            epoch_scheduler.step()
        if plateau_scheduler is not None:
            plateau_scheduler.step(valid_row[0])


def with_dataset(
    epochs: int,
    model: nn.Module,
    loss_func: LossFunc,
    opt: optim.Optimizer,
    train: Dataset,
    valid_batches: Pairs,
    sampler: Sampler,
    metrics: Sequence[Metric] = (accuracy,),
    schedule: Schedule | None = None,
    step_scheduler: Any = None,
    epoch_scheduler: Any = None,
    plateau_scheduler: Any = None,
    clip: float | None = None,
    part_size: int | None = None,
    augment: KeyedAugment | None = None,
) -> None:
    """Fifth rung: inputs and targets come together, from a Dataset."""
    step = 0
    for epoch in range(epochs):
        model.train()
        losses = []
        for indices in sampler:
            inputs, targets = train[indices]
            if schedule is not None:
                set_lr(opt, schedule(step))
                step += 1
            if augment is not None:
                inputs = augment(inputs, epoch, indices)
            if part_size is None:
                loss = loss_func(model(inputs), targets)
                loss.backward()
            else:
                loss = backward_in_parts(model, loss_func, inputs, targets, part_size)
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            opt.step()
            opt.zero_grad()
            if step_scheduler is not None:
                step_scheduler.step()
            losses.append((loss.detach(), len(targets)))
        model.eval()
        valid_row = evaluate(model, loss_func, metrics, valid_batches)
        report(epoch, losses, valid_row, metrics)
        if epoch_scheduler is not None:
            epoch_scheduler.step()
        if plateau_scheduler is not None:
            plateau_scheduler.step(valid_row[0])


def with_loader(
    epochs: int,
    model: nn.Module,
    loss_func: LossFunc,
    opt: optim.Optimizer,
    train_dl: Iterable[Any],
    valid_dl: Iterable[Any],
    metrics: Sequence[Metric] = (accuracy,),
    schedule: Schedule | None = None,
    step_scheduler: Any = None,
    epoch_scheduler: Any = None,
    plateau_scheduler: Any = None,
    clip: float | None = None,
    part_size: int | None = None,
) -> None:
    """Sixth rung: a loader gives the batches; the loop says nothing of indices any more."""
    step = 0
    for epoch in range(epochs):
        model.train()
        losses = []
        for inputs, targets in train_dl:
            if schedule is not None:
                set_lr(opt, schedule(step))
                step += 1
            if part_size is None:
                loss = loss_func(model(inputs), targets)
                loss.backward()
            else:
                loss = backward_in_parts(model, loss_func, inputs, targets, part_size)
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            opt.step()
            opt.zero_grad()
            if step_scheduler is not None:
                step_scheduler.step()
            losses.append((loss.detach(), len(targets)))
        model.eval()
        valid_row = evaluate(model, loss_func, metrics, valid_dl)
        report(epoch, losses, valid_row, metrics)
        if epoch_scheduler is not None:
            epoch_scheduler.step()
        if plateau_scheduler is not None:
            plateau_scheduler.step(valid_row[0])
