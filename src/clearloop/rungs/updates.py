"""Update rules by hand: how a parameter moves when its gradient is known, to the bit as torch's optimizers do it.

A rule is a function of a parameter, whose `grad` is set, and the learning rate. Rules that look back keep what they
need, for each parameter, between their calls. Call them under `torch.no_grad()`: an update is no part of the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

Update = Callable[[Tensor, float], None]  # (parameter, learning rate): moves it, in place


def gradient(parameter: Tensor) -> Tensor:
    """The gradient, which an update needs."""
    assert parameter.grad is not None, "call backward() first"
    return parameter.grad


def sgd(parameter: Tensor, lr: float) -> None:
    """A step of `lr` times the gradient, downhill.

    In one rounding, as torch's SGD; `p -= lr * p.grad` rounds twice, and for most learning rates ends in other bits.
    """
    parameter.add_(gradient(parameter), alpha=-lr)


def momentum(share: float = 0.9, nesterov: bool = False) -> Update:
    """Steps follow a running sum of gradients, of which each step keeps `share`; Nesterov's looks one step ahead.

    Source: B. Polyak, "Some methods of speeding up the convergence of iteration methods", 1964.
    """
    velocities: dict[Tensor, Tensor] = {}

    def update(parameter: Tensor, lr: float) -> None:
        if parameter in velocities:
            velocities[parameter].mul_(share).add_(gradient(parameter))
        else:
            velocities[parameter] = gradient(parameter).clone()
        direction = velocities[parameter]
        if nesterov:
            direction = gradient(parameter).add(direction, alpha=share)
        parameter.add_(direction, alpha=-lr)

    return update


def adam(betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> Update:
    """Steps scaled for each weight by the size of its recent gradients.

    Source: D. Kingma and J. Ba, "Adam: A Method for Stochastic Optimization", 2015.
    """
    beta, beta_squares = betas
    steps: dict[Tensor, int] = {}
    means: dict[Tensor, Tensor] = {}
    squares: dict[Tensor, Tensor] = {}

    def update(parameter: Tensor, lr: float) -> None:
        if parameter not in steps:
            steps[parameter] = 0
            means[parameter], squares[parameter] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        steps[parameter] += 1
        mean, square, grad = means[parameter], squares[parameter], gradient(parameter)
        mean.lerp_(grad, 1 - beta)
        square.mul_(beta_squares).addcmul_(grad, grad, value=1 - beta_squares)
        # both running means start at 0, which these corrections undo
        correction, correction_squares = 1 - beta ** steps[parameter], 1 - beta_squares ** steps[parameter]
        size = (square.sqrt() / math.sqrt(correction_squares)).add_(eps)
        parameter.addcdiv_(mean, size, value=-(lr / correction))

    return update


def adamw(betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.01) -> Update:
    """Adam, with a pull of all weights towards 0 that does not pass through its scaling.

    Source: I. Loshchilov and F. Hutter, "Decoupled Weight Decay Regularization", 2019.
    """
    move = adam(betas, eps)

    def update(parameter: Tensor, lr: float) -> None:
        parameter.mul_(1 - lr * weight_decay)
        move(parameter, lr)

    return update


def with_weight_decay(rule: Update, weight_decay: float) -> Update:
    """`rule`, with the gradient of weight_decay/2 times the sum of squared weights added to the loss's own."""

    def update(parameter: Tensor, lr: float) -> None:
        gradient(parameter).add_(parameter, alpha=weight_decay)
        rule(parameter, lr)

    return update


def clip_gradients(parameters: Iterable[Tensor], largest: float) -> None:
    """Shorten all gradients by one factor, where their norm, taken together, is more than `largest`."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.stack([grad.norm() for grad in gradients]).norm()
    factor = (largest / (norm + 1e-6)).clamp(max=1.0)
    for grad in gradients:
        grad.mul_(factor)
