"""Evaluation that never touches training: not its random states, not its buffers, not its mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from clearloop import rng


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode for a block; afterwards the mode of every module, every buffer and all random states are as before."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    model.eval()
    try:
        with rng.preserved():
            yield
    finally:
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for module, name, buffer, before in buffers:
                module._buffers[name] = buffer.copy_(before)
