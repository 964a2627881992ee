"""Where a model runs and at which precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from clearloop.errors import ConfigError
from clearloop.tree import tree_map


def pick_device(device: str | torch.device) -> torch.device:
    """`"auto"` is a CUDA GPU if there is one, else the CPU; ConfigError for a device that is not there.

    >>> pick_device("cpu")
    device(type='cpu')
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if str(device).startswith("mps"):
        raise ConfigError("device 'mps' has no float64, in which losses and metrics are summed; use \"cpu\"")
    try:
        found = torch.empty(0, device=device).device
        if found.type != "meta":
            return found
        reason = "it holds no values"
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
    raise ConfigError(f'device {str(device)!r} cannot be used here ({reason}); use "auto" or "cpu"')


def make_scaler(precision: str | None, device: torch.device) -> Any:
    """A gradient scaler for "fp16", else None; ConfigError where the device has no such precision."""
    if precision not in (None, "bf16", "fp16"):
        raise ConfigError(f'precision must be None, "bf16" or "fp16", got {precision!r}')
    if precision == "fp16" and device.type != "cuda":
        raise ConfigError(f'precision="fp16" needs a CUDA GPU, the device is {device}; use "bf16" or None')
    return torch.amp.GradScaler(device.type) if precision == "fp16" else None


def under_autocast(forward: Callable[[Any], Any], precision: str | None, device: torch.device) -> Callable[[Any], Any]:
    """`forward` under autocast with its floating outputs in float32, so that losses are computed in full precision."""
    if precision is None:
        return forward
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16

    def call(inputs: Any) -> Any:
        with torch.autocast(device.type, dtype):
            preds = forward(inputs)
        return tree_map(lambda tensor: tensor.float() if tensor.is_floating_point() else tensor, preds)

    return call
