"""Learning-rate schedulers by hand: asked after every epoch, they say with which learning rate the next one goes on.

Only one of them looks at the validation loss that all are given. Each gives the numbers of torch's scheduler of the
same name, to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal


class StepLR:
    """Every `step_size` epochs, `gamma` times the learning rate.

    >>> scheduler = StepLR(1.0, step_size=2, gamma=0.5)
    >>> [scheduler.step() for _ in range(5)]
    [1.0, 0.5, 0.5, 0.25, 0.25]
    """

    def __init__(self, lr: float, step_size: int, gamma: float = 0.1) -> None:
        self.lr, self.step_size, self.gamma = lr, step_size, gamma
        self.epoch = 0

    def step(self, _loss: float | None = None) -> float:
        """The learning rate of the next epoch."""
        self.epoch += 1
        if self.epoch % self.step_size == 0:
            self.lr *= self.gamma
        return self.lr


class MultiStepLR:
    """After each of the epochs in `milestones`, `gamma` times the learning rate.

    >>> scheduler = MultiStepLR(1.0, milestones=[1, 3], gamma=0.5)
    >>> [scheduler.step() for _ in range(4)]
    [0.5, 0.5, 0.25, 0.25]
    """

    def __init__(self, lr: float, milestones: Sequence[int], gamma: float = 0.1) -> None:
        self.lr, self.milestones, self.gamma = lr, list(milestones), gamma
        self.epoch = 0

    def step(self, _loss: float | None = None) -> float:
        """The learning rate of the next epoch."""
        self.epoch += 1
        if self.epoch in self.milestones:
            self.lr *= self.gamma ** self.milestones.count(self.epoch)
        return self.lr


class ExponentialLR:
    """Every epoch, `gamma` times the learning rate."""

    def __init__(self, lr: float, gamma: float) -> None:
        self.lr, self.gamma = lr, gamma

    def step(self, _loss: float | None = None) -> float:
        """The learning rate of the next epoch."""
        self.lr *= self.gamma
        return self.lr


class ReduceLROnPlateau:
    """Once the loss has not become better for more than `patience` epochs, `factor` times the learning rate.

    Better is less than the best so far by a share `threshold` of it ("rel") or by `threshold` itself ("abs"). After a
    reduction, `cooldown` epochs are not counted.

    >>> scheduler = ReduceLROnPlateau(1.0, factor=0.5, patience=1)
    >>> [scheduler.step(loss) for loss in (3.0, 2.0, 2.0, 2.0, 1.0)]
    [1.0, 1.0, 1.0, 0.5, 0.5]
    """

    def __init__(
        self,
        lr: float,
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: Literal["rel", "abs"] = "rel",
        cooldown: int = 0,
        min_lr: float = 0.0,
        eps: float = 1e-8,
    ) -> None:
        self.lr, self.factor, self.patience, self.threshold = lr, factor, patience, threshold
        self.threshold_mode, self.cooldown, self.min_lr, self.eps = threshold_mode, cooldown, min_lr, eps
        self.best, self.bad_epochs, self.cooling = float("inf"), 0, 0

    def step(self, loss: float) -> float:
        """The learning rate of the next epoch, from the validation loss of the one that ended."""
        enough = self.best * (1 - self.threshold) if self.threshold_mode == "rel" else self.best - self.threshold
        if loss < enough:
            self.best, self.bad_epochs = loss, 0
        else:
            self.bad_epochs += 1
        if self.cooling > 0:
            self.cooling, self.bad_epochs = self.cooling - 1, 0
        if self.bad_epochs > self.patience:
            self.cooling, self.bad_epochs = self.cooldown, 0
            reduced = max(self.lr * self.factor, self.min_lr)
            if self.lr - reduced > self.eps:  # a smaller change is not worth making
                self.lr = reduced
        return self.lr
