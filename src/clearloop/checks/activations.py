"""Watches the activations of a forward pass, whether they are modules or plain function calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

KINDS: dict[Any, str] = {
    **dict.fromkeys((F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_), "relu"),
    **dict.fromkeys((F.sigmoid, torch.sigmoid, Tensor.sigmoid, Tensor.sigmoid_), "sigmoid"),
    **dict.fromkeys((F.tanh, torch.tanh, Tensor.tanh, Tensor.tanh_), "tanh"),
}
REACH = {"relu": (0.0, float("inf")), "sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0)}
FLAT = 0.005  # of its range from its ends, a sigmoid or tanh passes on next to no gradient


@dataclass(frozen=True, eq=False)
class Layer:
    """One call: its kind, and which of its units had no slope for any sample, bool of shape (units,)."""

    kind: str
    flat: Tensor


class Activations(TorchFunctionMode):
    """As a context manager, notes every ReLU, sigmoid and tanh that is called inside."""

    def __init__(self) -> None:
        super().__init__()
        self.layers: list[Layer] = []
        self.last: tuple[str, Tensor] | None = None  # kept, so that its memory is not used again

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Calls `func`, and looks at what it gives if it is an activation."""
        output = func(*args, **(kwargs or {}))
        kind = KINDS.get(func)
        if kind is not None and isinstance(output, Tensor) and output.ndim > 1 and len(output):
            self.layers.append(Layer(kind, flat_units(kind, output.detach())))
            self.last = kind, output
        return output

    def bounding(self, preds: Tensor) -> str | None:
        """The kind of the activation whose output the predictions are, if any (a reshape may lie between)."""
        if self.last is None or self.last[1].data_ptr() != preds.data_ptr() or self.last[1].numel() != preds.numel():
            return None
        return self.last[0]


def flat_units(kind: str, output: Tensor) -> Tensor:
    """Which units have no slope for any sample: bool of shape (units,).

    Units are the channels of pictures (B, C, H, W), and the last dimension of anything else.

    >>> flat_units("relu", torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
    tensor([ True, False])
    """
    by_unit = output.movedim(1 if output.ndim >= 4 else -1, 0).flatten(1)  # (B, C, H, W) -> (C, B * H * W)
    if kind == "relu":
        return (by_unit <= 0).all(1)
    low, high = REACH[kind]
    margin = FLAT * (high - low)
    return ((by_unit < low + margin) | (by_unit > high - margin)).all(1)
