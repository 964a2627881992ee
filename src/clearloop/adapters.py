"""Takes what users bring — plain functions, torchmetrics objects, torch schedulers — as the core knows it."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import lr_scheduler

from clearloop.callback import Callback
from clearloop.component import describe, unwrapped
from clearloop.data.loaders import DataLoaders
from clearloop.errors import ConfigError
from clearloop.losses import LossFunc
from clearloop.metrics import Metric, mean_metric
from clearloop.schedules import BEFORE, Schedule, TorchSchedule


def as_metrics(metrics: Any) -> tuple[Metric, ...]:
    """Metrics of ours, functions that return a batch's mean, and torchmetrics objects, one or several.

    >>> as_metrics(lambda preds, targets: (preds == targets).float().mean())[0].name
    '<lambda>'
    """
    given = [_as_metric(metric) for metric in (metrics if isinstance(metrics, (list, tuple)) else (metrics,))]
    for number, metric in enumerate(given):
        same = sum(other.name == metric.name for other in given[:number])
        if same:  # each has its own place in the history
            given[number] = dataclasses.replace(metric, name=f"{metric.name}_{same + 1}")
    return tuple(given)


def _as_metric(metric: Any) -> Metric:
    if isinstance(metric, Metric):
        return metric
    if all(hasattr(metric, name) for name in ("update", "compute", "reset")):  # torchmetrics keeps its own state
        return _stateful(metric)
    if not callable(metric):
        raise ConfigError(f"a metric must be a function (preds, targets) -> mean, got {metric!r}")
    return mean_metric(getattr(metric, "__name__", type(metric).__name__), metric)


def _stateful(metric: Any) -> Metric:
    def sums(preds: Any, targets: Any) -> Tensor:
        if hasattr(metric, "to") and isinstance(preds, Tensor):
            metric.to(preds.device)
        metric.update(preds, targets)
        return torch.zeros(1)

    def value(_: Tensor) -> Any:
        total = metric.compute()
        metric.reset()
        return total

    sums.reset = metric.reset  # type: ignore[attr-defined]
    for part in metric.modules() if isinstance(metric, nn.Module) else ():
        for name in ("sync_on_compute", "_to_sync"):  # torchmetrics': every process goes through all samples already
            if hasattr(part, name):
                setattr(part, name, False)
    return Metric(type(metric).__name__, sums, value)


SMALLER_IS_BETTER = (
    *("loss", "error", "error_rate", "mse", "rmse", "mae", "mape", "nll", "perplexity", "distance", "deviance"),
)


def smaller_is_better(name: str) -> bool:
    """Whether a loss or metric of this name is better small: checkpoints, early stopping, sweeps and searches ask.

    >>> smaller_is_better("valid_loss"), smaller_is_better("accuracy")
    (True, False)
    """
    return name.endswith(SMALLER_IS_BETTER)


def reset(metrics: Iterable[Metric]) -> None:
    """Forget what an evaluation that did not end left in metrics that keep their own state."""
    for metric in metrics:
        forget = getattr(metric.sums, "reset", None)
        if forget is not None:
            forget()


def as_schedule(schedule: Any) -> Schedule | TorchSchedule | None:
    """A function of the step, or None, as it is; a torch scheduler class, or a partial of one, wrapped."""
    made, _ = unwrapped(schedule)
    if isinstance(made, type) and issubclass(made, lr_scheduler.LRScheduler):
        return TorchSchedule(schedule)
    if isinstance(schedule, lr_scheduler.LRScheduler):
        kind = type(schedule).__name__
        raise ConfigError(f"give the scheduler as functools.partial({kind}, …), not as an instance with an optimizer")
    if schedule is not None and not callable(schedule) and not isinstance(schedule, TorchSchedule):
        raise ConfigError(f"a schedule must be a function of the step or a torch scheduler class, got {schedule!r}")
    return schedule  # type: ignore[no-any-return]


def plan_of(epoch: int, epochs: int, step: int, lr: float, schedule: Schedule | TorchSchedule | None) -> dict[str, Any]:
    """What a fit sets out to do, as plain data: its epochs, its first step, and its learning rates."""
    described = describe(getattr(schedule, "factory", schedule))
    edges = {"first_epoch": epoch, "last_epoch": epoch + epochs, "first_step": step}
    return {**edges, "lr": lr, "schedule": described, "per": getattr(schedule, "per", None)}


NUMBER_LOSSES = (F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss)
NUMBER_LOSS_MODULES = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss)


def is_for_numbers(loss_func: Any) -> bool:
    """Whether a loss compares numbers, so that whole targets are numbers too, no classes.

    >>> is_for_numbers(F.mse_loss), is_for_numbers(nn.L1Loss()), is_for_numbers(F.cross_entropy)
    (True, True, False)
    """
    base, _ = unwrapped(loss_func)
    return any(base is known for known in NUMBER_LOSSES) or isinstance(base, NUMBER_LOSS_MODULES)


def default_loss(targets: Any) -> LossFunc:
    """Cross-entropy for class labels (whole numbers), mean squared error for floats."""
    if isinstance(targets, Tensor) and targets.is_floating_point():
        return F.mse_loss
    if isinstance(targets, Tensor) and targets.dtype != torch.bool:
        return F.cross_entropy
    kind = targets.dtype if isinstance(targets, Tensor) else type(targets).__name__
    raise ConfigError(f"no loss is known for targets of type {kind}; give Learner a loss_func")


def by_name(callbacks: Iterable[Callback]) -> dict[str, Callback]:
    """Callbacks by the name of their class; the second of a name is called `Name-2`, and so on.

    >>> list(by_name([Callback(), Callback()]))
    ['Callback', 'Callback-2']
    """
    named: dict[str, Callback] = {}
    for callback in callbacks:
        name = type(callback).__name__
        same = sum(1 for other in named.values() if type(other) is type(callback))
        named[f"{name}-{same + 1}" if same else name] = callback
    return named


def as_callbacks(callbacks: Any) -> list[Callback]:
    """One callback or several. Raises ConfigError for what is none, such as a class in place of an object."""
    given = list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks]
    for callback in given:
        if not isinstance(callback, Callback):
            raise ConfigError(f"cbs takes callbacks, objects of subclasses of Callback; got {callback!r}")
    return given


def as_loaders(dls: Any) -> DataLoaders:
    """DataLoaders as they are; a tuple (training loader, validation loader or None); or a training loader alone."""
    if isinstance(dls, DataLoaders):
        return dls
    several = isinstance(dls, (tuple, list)) and len(dls) <= 2
    return DataLoaders(*dls) if several else DataLoaders(dls)


def default_lr(opt_func: Any) -> float:
    """The learning rate that an optimizer class has by default; 0.01 where it has none.

    >>> default_lr(torch.optim.Adam)
    0.001
    """
    made, options = unwrapped(opt_func)
    try:
        found = options.get("lr", inspect.signature(made).parameters["lr"].default)
    except (KeyError, ValueError, TypeError):
        return 0.01
    return float(found) if isinstance(found, (int, float)) else 0.01


def refuse_optimizer(opt: Any) -> NoReturn:
    """Raise ConfigError for an optimizer that schedules cannot reach."""
    raise ConfigError(
        f"{type(opt).__name__} has no param_groups, where schedules set the learning rate; let it keep "
        'self.param_groups = [{"params": [...], "lr": lr}], as torch\'s optimizers do, and read lr from there'
    )


def scaled_groups(opt: Any, lr: float) -> Any:
    """An optimizer whose parameter groups remember their learning rate as a multiple of `lr`, where it is another."""
    if not isinstance(getattr(opt, "param_groups", None), list):  # eject: drop
        refuse_optimizer(opt)  # eject: drop
    for group in opt.param_groups:
        if lr and "lr_scale" not in group and group["lr"] != lr:
            group["lr_scale"] = float(group["lr"]) / lr
    return opt


def forget_schedulers(opt: Any) -> None:
    """Undo what the scheduler of an earlier fit did to the optimizer's options: cycled momentum, entries of its own."""
    for group in opt.param_groups:
        before = group.pop(BEFORE, None)
        if before is not None:
            options = {**before, "params": group["params"]}
            group.clear()
            group.update(options)
