"""The learning-rate range test: the loss while the learning rate grows, on weights that are given back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import chain, count
from typing import TYPE_CHECKING, Any

import torch

from clearloop.checkpoint import load_train_state, train_state
from clearloop.errors import ConfigError
from clearloop.step import Span
from clearloop.tree import tree_map

if TYPE_CHECKING:
    from clearloop.learner import Learner

SMOOTHING = 0.9  # share of the past in the running mean of the loss
LOST = 4.0  # times the best smoothed loss: there the test ends


@dataclass(frozen=True)
class LrFind:
    """What was tried: learning rates, smoothed losses (means over samples), and a learning rate to begin with."""

    lrs: list[float]
    losses: list[float]
    suggestion: float

    def plot(self, path: Any = None) -> Any:
        """Loss over learning rate, the suggestion marked; returns the matplotlib figure."""
        from clearloop.plots import plot_lr_find

        return plot_lr_find(self.lrs, self.losses, self.suggestion, path)


def lr_find(learn: Learner, lr_min: float = 1e-6, lr_max: float = 10.0, steps: int = 100) -> LrFind:
    """Train for up to `steps` steps with a learning rate that grows from lr_min to lr_max by a constant factor.

    Weights, optimizer, random states, modes and the cursor are as before afterwards. The suggestion is the learning
    rate where the smoothed loss falls fastest, per decade.
    Source: L. Smith, "Cyclical Learning Rates for Training Neural Networks", 2017.
    """
    if not 0 < lr_min < lr_max or steps < 10:
        raise ConfigError(f"needs 0 < lr_min < lr_max and at least 10 steps, got {lr_min}, {lr_max}, {steps}")
    lrs = [lr_min * (lr_max / lr_min) ** (step / (steps - 1)) for step in range(steps)]
    state, random_states = learn.prepared(), learn.random_states
    engine = getattr(learn.engine, "alone", learn.engine)  # several processes find the same, each by itself
    saved = tree_map(torch.clone, train_state(state))
    modes = [(module, module.training) for module in learn.model.modules()]
    batches = chain.from_iterable(learn.dls.train.batches(epoch, device=learn.device) for epoch in count())
    smoothed: list[float] = []
    mean = 0.0
    try:
        with learn.conditions():
            learn.opt.zero_grad()
            learn.model.train()
            for step, lr in enumerate(lrs):
                losses, _ = engine.run(state, Span(batches, 1, [lr], learn.accumulate))
                mean = SMOOTHING * mean + (1 - SMOOTHING) * float(losses[0])
                smoothed.append(mean / (1 - SMOOTHING ** (step + 1)))
                if not math.isfinite(mean) or smoothed[-1] > LOST * min(smoothed):
                    break
    finally:
        load_train_state(state, saved)
        for module, training in modes:
            module.training = training
        learn.random_states = random_states
    finite = [loss for loss in smoothed if math.isfinite(loss)]
    return LrFind(lrs[: len(finite)], finite, steepest(lrs, finite))


def steepest(lrs: list[float], losses: list[float]) -> float:
    """The learning rate where the loss falls fastest over a few steps.

    >>> steepest([1e-3, 1e-2, 1e-1, 1.0], [2.3, 2.2, 1.0, 5.0])
    0.1
    """
    if len(losses) < 2:
        return lrs[0]
    best = min(range(len(losses)), key=losses.__getitem__)
    reach = max(1, len(losses) // 20)
    slopes = [losses[i] - losses[max(0, i - reach)] for i in range(1, max(2, best + 1))]
    return lrs[1 + min(range(len(slopes)), key=slopes.__getitem__)]
