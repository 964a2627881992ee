"""Learning-rate schedules: pure functions of the step, and torch's own schedulers, each stepped when it should be."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, Literal

from torch.optim import Optimizer, lr_scheduler

from clearloop.component import remember, unwrapped

Schedule = Callable[[int], float]  # step, counted from 0 at the start of the fit -> learning rate


@remember
def constant(lr: float) -> Schedule:
    """The same learning rate at every step.

    >>> constant(0.1)(7)
    0.1
    """

    def schedule(step: int) -> float:
        return lr

    return schedule


@remember
def one_cycle(
    lr_max: float, total_steps: int, warmup: float = 0.25, div: float = 25.0, div_final: float = 1e5
) -> Schedule:
    """Up from lr_max/div by a half cosine over the first `warmup` share, then down to lr_max/div_final.

    Source: L. Smith and N. Topin, "Super-Convergence", 2018, with cosine in place of straight lines.

    >>> schedule = one_cycle(lr_max=0.1, total_steps=1000)
    >>> round(schedule(0), 6), round(schedule(250), 6), round(schedule(999), 6)
    (0.004, 0.1, 1e-06)
    """

    def half_cosine(start: float, stop: float, share: float) -> float:
        return stop + (start - stop) * (1 + math.cos(math.pi * share)) / 2

    def schedule(step: int) -> float:
        rise = max(1.0, warmup * total_steps)
        if step < rise:
            return half_cosine(lr_max / div, lr_max, step / rise)
        return half_cosine(lr_max, lr_max / div_final, min(1.0, (step - rise) / max(1e-9, total_steps - 1 - rise)))

    return schedule


@remember
def cosine(lr_max: float, total_steps: int, warmup_steps: int = 0, lr_min: float = 0.0) -> Schedule:
    """A straight rise over `warmup_steps`, then a half cosine from lr_max down to lr_min.

    Source: I. Loshchilov and F. Hutter, "SGDR", 2017, without restarts.

    >>> schedule = cosine(lr_max=1.0, total_steps=101, warmup_steps=0)
    >>> schedule(0), round(schedule(50), 6), schedule(100)
    (1.0, 0.5, 0.0)
    """

    def schedule(step: int) -> float:
        if step < warmup_steps:
            return lr_max * (step + 1) / warmup_steps
        share = min(1.0, (step - warmup_steps) / max(1, total_steps - 1 - warmup_steps))
        return lr_min + (lr_max - lr_min) * (1 + math.cos(math.pi * share)) / 2

    return schedule


BEFORE = "before_scheduler"  # where a parameter group keeps the options that it had before a scheduler cycled them
PER_STEP = (lr_scheduler.OneCycleLR, lr_scheduler.CyclicLR, lr_scheduler.CosineAnnealingWarmRestarts)


class TorchSchedule:
    """A scheduler of `torch.optim.lr_scheduler`, as it is: give the class with its arguments, not an instance.

    OneCycleLR, CyclicLR and CosineAnnealingWarmRestarts step after each optimizer step, all others after validation,
    ReduceLROnPlateau with the validation loss (the training loss where there is none); `per` overrules.

    >>> from torch.optim.lr_scheduler import StepLR
    >>> from functools import partial
    >>> TorchSchedule(partial(StepLR, step_size=10)).per
    'epoch'
    """

    def __init__(self, factory: Callable[[Optimizer], Any], per: Literal["step", "epoch"] | None = None) -> None:
        self.factory = factory
        made, _ = unwrapped(factory)
        per_step = isinstance(made, type) and issubclass(made, PER_STEP)
        self.per: Literal["step", "epoch"] = per or ("step" if per_step else "epoch")

    def attach(self, opt: Optimizer, state: dict[str, Any] | None = None) -> Any:
        """Construct the scheduler on an optimizer; with a saved `state`, what construction did to it is undone."""
        before = [{name: value for name, value in group.items() if name != "params"} for group in opt.param_groups]
        scheduler = self.factory(opt)
        for group, values in zip(opt.param_groups, before, strict=True):
            if state is not None:
                group.update(values)
            group.setdefault(BEFORE, values)
        if state is not None:
            scheduler.load_state_dict(state)
        return scheduler

    def after_epoch(self, scheduler: Any, loss: float) -> None:
        """Step a scheduler that goes by epochs; the plateau one looks at the loss."""
        if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
            scheduler.step(loss)
        else:
            with warnings.catch_warnings():  # a resumed optimizer took its steps in another process
                warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
                scheduler.step()
