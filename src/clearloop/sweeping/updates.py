"""SGD, momentum, Adam and AdamW for stacked weights, each member with a learning rate of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from clearloop.component import unwrapped
from clearloop.errors import ConfigError

Tensors = Mapping[str, Tensor]
KNOWN = {  # what a sweep can do of each optimizer's options; the others must be as they are by default
    torch.optim.SGD: {"lr", "momentum", "weight_decay", "nesterov", "foreach", "fused"},
    torch.optim.Adam: {"lr", "betas", "eps", "weight_decay", "foreach", "fused"},
    torch.optim.AdamW: {"lr", "betas", "eps", "weight_decay", "foreach", "fused"},
}


@dataclass
class StackedUpdate:
    """One of torch's optimizers over tensors of shape (K, …): what differs between members has shape (K,).

    It follows torch's formulas, so a member's weights are those of the optimizer alone, up to rounding.
    Sources: torch.optim.SGD; D. Kingma and J. Ba, "Adam", 2015; I. Loshchilov and F. Hutter, "AdamW", 2019.
    """

    kind: type
    weight_decay: Tensor
    momentum: Tensor
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    steps: int = 0
    first: dict[str, Tensor] = field(default_factory=dict)  # momentum, or the mean of gradients
    second: dict[str, Tensor] = field(default_factory=dict)  # the mean of their squares

    def __post_init__(self) -> None:
        # Asked once, not at every step: on a GPU each answer waits for it, and each pass over the weights costs.
        self.decays, self.moves = bool((self.weight_decay != 0).any()), bool((self.momentum != 0).any())

    def __call__(self, weights: dict[str, Tensor], gradients: Tensors, lr: Tensor) -> None:
        """Change `weights` in place; `lr` of shape (K,)."""
        self.steps += 1
        for name, gradient in gradients.items():
            weight = weights[name]
            if self.kind is torch.optim.SGD:
                self._sgd(name, weight, gradient, spread(lr, weight))
            else:
                self._adam(name, weight, gradient, spread(lr, weight))

    def keep(self, members: Tensor) -> None:
        """Go on with some of the members: int64 of shape (those that stay,)."""
        self.weight_decay, self.momentum = self.weight_decay[members], self.momentum[members]
        self.first = {name: tensor[members] for name, tensor in self.first.items()}
        self.second = {name: tensor[members] for name, tensor in self.second.items()}

    def _sgd(self, name: str, weight: Tensor, gradient: Tensor, lr: Tensor) -> None:
        if self.decays:
            gradient = torch.addcmul(gradient, spread(self.weight_decay, weight), weight)
        if self.moves:
            momentum = spread(self.momentum, weight)
            velocity = self.first.get(name)
            velocity = gradient.clone() if velocity is None else velocity.mul_(momentum).add_(gradient)
            self.first[name] = velocity
            gradient = gradient + momentum * velocity if self.nesterov else velocity
        weight.addcmul_(gradient, lr, value=-1)  # one pass over memory; written out it is three

    def _adam(self, name: str, weight: Tensor, gradient: Tensor, lr: Tensor) -> None:
        decay = spread(self.weight_decay, weight)
        if self.decays and self.kind is torch.optim.AdamW:
            weight.mul_(1 - lr * decay)
        elif self.decays:
            gradient = torch.addcmul(gradient, decay, weight)
        if name not in self.first:
            self.first[name], self.second[name] = torch.zeros_like(weight), torch.zeros_like(weight)
        beta1, beta2 = self.betas
        mean = self.first[name].lerp_(gradient, 1 - beta1)
        square = self.second[name].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        scale = (1 - beta2**self.steps) ** 0.5
        size = square.sqrt().div_(scale).add_(self.eps)
        weight.addcmul_(torch.div(mean, size, out=size), lr / (1 - beta1**self.steps), value=-1)


def spread(values: Tensor, over: Tensor) -> Tensor:
    """(K,) -> (K, 1, …), to go with a tensor of shape (K, …)."""
    return values.view(-1, *[1] * (over.ndim - 1))


def stacked_update(opt_func: Any, decays: list[float | None], momenta: list[float | None], like: Tensor) -> Any:
    """The update of an optimizer class or a partial of one; a member's weight decay and momentum overrule its own.

    Raises: ConfigError for optimizers and options that a sweep does not know.
    """
    kind, options = unwrapped(opt_func)
    if kind not in KNOWN:
        name = getattr(kind, "__name__", repr(kind))
        raise ConfigError(f"a sweep knows torch's SGD, Adam and AdamW, got {name}; run its members one by one")
    odd = sorted(name for name, value in options.items() if name not in KNOWN[kind] and value)
    if odd:
        raise ConfigError(f"a sweep does not know {kind.__name__}'s {', '.join(odd)}: leave it out")
    if any(momentum is not None for momentum in momenta) and kind is not torch.optim.SGD:
        raise ConfigError(f"momentum is swept with SGD, got {kind.__name__}")
    decay = options.get("weight_decay", 0.01 if kind is torch.optim.AdamW else 0.0)
    momentum = options.get("momentum", 0.0)

    def each(values: list[float | None], default: float) -> Tensor:
        return torch.tensor([default if value is None else value for value in values], dtype=like.dtype).to(like.device)

    extra = {name: options[name] for name in ("nesterov", "betas", "eps") if name in options}
    return StackedUpdate(kind, each(decays, decay), each(momenta, momentum), **extra)
