"""Optimizers by hand: `step` and `zero_grad` over an update rule, equal to torch's to the bit."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from clearloop.rungs.updates import Update, adam, adamw, momentum, sgd


class Optimizer:
    """Holds the parameters, and moves each by the rule `update`."""

    def __init__(self, params: Iterable[Tensor], lr: float, update: Update) -> None:
        self.params, self.update = list(params), update
        self.param_groups = [{"lr": lr}]  # where schedules set the learning rate, as on torch's optimizers

    @torch.no_grad()  # the update is no part of the model: autograd must not record it
    def step(self) -> None:
        """Move every parameter that has a gradient."""
        for parameter in self.params:
            if parameter.grad is not None:
                self.update(parameter, self.param_groups[0]["lr"])

    def zero_grad(self) -> None:
        """Forget the gradients: `backward` adds to what is there, so without this steps would mix."""
        for parameter in self.params:
            parameter.grad = None


class SGD(Optimizer):
    """Stochastic gradient descent."""

    def __init__(self, params: Iterable[Tensor], lr: float) -> None:
        super().__init__(params, lr, sgd)


class Momentum(Optimizer):
    """SGD whose steps follow a running sum of gradients."""

    def __init__(self, params: Iterable[Tensor], lr: float, share: float = 0.9) -> None:
        super().__init__(params, lr, momentum(share))


class Adam(Optimizer):
    """Steps scaled for each weight by the size of its recent gradients."""

    def __init__(
        self, params: Iterable[Tensor], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        super().__init__(params, lr, adam(betas, eps))


class AdamW(Optimizer):
    """Adam with a pull of all weights towards 0."""

    def __init__(self, params: Iterable[Tensor], lr: float = 1e-3, weight_decay: float = 0.01) -> None:
        super().__init__(params, lr, adamw(weight_decay=weight_decay))
