"""An exponential moving average of the weights, used wherever the model is evaluated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from clearloop.callback import Callback
from clearloop.errors import ConfigError
from clearloop.weights import named_tensors

if TYPE_CHECKING:
    from clearloop.learner import Learner


class EMA(Callback):
    """Keeps `average = decay * average + (1 - decay) * weight` after every step, and evaluates with the averages.

    Validation, `get_preds`, `predict` and the predictor that is saved all use the averages; training goes on from the
    weights themselves. Buffers (batch norm's statistics) are averaged too where they are floats. In the first steps
    the decay is at most (1 + step) / (10 + step), so that the average does not remember the initial weights.
    Source: B. Polyak and A. Juditsky, "Acceleration of stochastic approximation by averaging", 1992.

    Args: `decay`, in (0, 1): the average reaches back about 1 / (1 - decay) steps.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 < decay < 1:
            raise ConfigError(f"decay must lie between 0 and 1, got {decay}")
        self.decay = decay
        self.steps = 0
        self.averages: dict[str, Tensor] = {}
        self._pairs: tuple[list[Tensor], list[Tensor]] = [], []  # averages, and the weights that they follow
        self._copied: list[tuple[Tensor, Tensor]] = []
        self._weights: dict[str, Tensor] = {}  # the model's own, while the averages stand in for them

    def before_fit(self, learn: Learner) -> None:
        """Start from the present weights, the first time; note which pairs a step has to move."""
        current = named_tensors(learn.model)
        before = self.averages or current
        self.averages = {name: before[name].detach().to(tensor.device, copy=True) for name, tensor in current.items()}
        moved = [name for name, tensor in current.items() if tensor.is_floating_point()]
        self._pairs = [self.averages[name] for name in moved], [current[name] for name in moved]
        self._copied = [(self.averages[name], current[name]) for name in current if name not in moved]

    @torch.no_grad()
    def after_step(self, learn: Learner) -> None:
        """Move every average a little towards its weight."""
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(*self._pairs, 1 - decay)
        for average, tensor in self._copied:  # counts, say, which have no average
            average.copy_(tensor)
        self.steps += 1

    @torch.no_grad()
    def before_validate(self, learn: Learner) -> None:
        """Put the averages into the model."""
        if self.averages and not self._weights:
            current = named_tensors(learn.model)
            self._weights = {name: tensor.detach().clone() for name, tensor in current.items()}
            for name, tensor in current.items():
                tensor.copy_(self.averages[name])

    @torch.no_grad()
    def after_validate(self, learn: Learner) -> None:
        """Put the model's own weights back."""
        current = named_tensors(learn.model)
        for name, weight in self._weights.items():
            current[name].copy_(weight)
        self._weights = {}

    def state_dict(self) -> dict[str, Any]:
        """The averages and how many steps went into them."""
        return {"steps": self.steps, "averages": self.averages}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.steps = state.get("steps", 0)
        self.averages = {name: tensor.clone() for name, tensor in state.get("averages", {}).items()}
