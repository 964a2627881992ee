"""Optimizers by hand: `step` and `zero_grad`, equal to torch's to the bit.

`p.add_(p.grad, alpha=-lr)` is what torch's SGD does, in one rounding; `p -= lr * p.grad` rounds twice, and for most
learning rates ends in other bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor


class Optimizer:
    """Holds the parameters; `param_groups` is where schedules set the learning rate, as on torch's optimizers."""

    def __init__(self, params: Iterable[Tensor], lr: float) -> None:
        self.params = list(params)
        self.param_groups = [{"params": self.params, "lr": lr}]

    @property
    def lr(self) -> float:
        """The present learning rate."""
        lr = self.param_groups[0]["lr"]
        assert isinstance(lr, float)
        return lr

    def zero_grad(self) -> None:
        """Forget the gradients: `backward` adds to what is there, so without this steps would mix."""
        for parameter in self.params:
            parameter.grad = None


class SGD(Optimizer):
    """Stochastic gradient descent: a step of `lr` times the gradient, downhill."""

    @torch.no_grad()  # the update is no part of the model: autograd must not record it
    def step(self) -> None:
        """Move every parameter that has a gradient."""
        for parameter in self.params:
            if parameter.grad is not None:
                parameter.add_(parameter.grad, alpha=-self.lr)


class Momentum(Optimizer):
    """SGD whose steps follow a running sum of gradients, of which each step keeps the share `momentum`.

    Source: B. Polyak, "Some methods of speeding up the convergence of iteration methods", 1964.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.9) -> None:
        super().__init__(params, lr)
        self.momentum = momentum
        self.velocity: dict[int, Tensor] = {}

    @torch.no_grad()
    def step(self) -> None:
        """Add the gradient to the velocity, and move by it."""
        for number, parameter in enumerate(self.params):
            if parameter.grad is None:
                continue
            if number in self.velocity:
                self.velocity[number].mul_(self.momentum).add_(parameter.grad)
            else:
                self.velocity[number] = parameter.grad.clone()
            parameter.add_(self.velocity[number], alpha=-self.lr)


class Adam(Optimizer):
    """Steps scaled for each weight by the size of its recent gradients.

    Source: D. Kingma and J. Ba, "Adam: A Method for Stochastic Optimization", 2015.
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        super().__init__(params, lr)
        self.betas, self.eps = betas, eps
        self.steps = 0
        self.means = [torch.zeros_like(parameter) for parameter in self.params]
        self.squares = [torch.zeros_like(parameter) for parameter in self.params]

    @torch.no_grad()
    def step(self) -> None:
        """Running means of gradients and of their squares; both start at 0, which the corrections undo."""
        self.steps += 1
        beta, beta_squares = self.betas
        correction, correction_squares = 1 - beta**self.steps, 1 - beta_squares**self.steps
        for parameter, mean, square in zip(self.params, self.means, self.squares, strict=True):
            if parameter.grad is None:
                continue
            mean.lerp_(parameter.grad, 1 - beta)
            square.mul_(beta_squares).addcmul_(parameter.grad, parameter.grad, value=1 - beta_squares)
            size = (square.sqrt() / math.sqrt(correction_squares)).add_(self.eps)
            parameter.addcdiv_(mean, size, value=-(self.lr / correction))
