"""Gradients of a batch that is too large for memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from clearloop.losses import LossFunc


def backward_in_parts(
    model: Callable[[Any], Any], loss_func: LossFunc, inputs: Tensor, targets: Tensor, part_size: int
) -> Tensor:
    """The loss of a batch, and its gradients, from parts that each weigh their share of its samples.

    Memory for activations is that of one part: `backward` lets go of them, and adds its gradients to the others'.
    """
    losses = []
    for part, part_targets in zip(inputs.split(part_size), targets.split(part_size), strict=True):
        # copied, because the last bits of a product depend on the address that its tensors begin at
        loss = loss_func(model(part.clone()), part_targets) * (len(part_targets) / len(targets))
        loss.backward()
        losses.append(loss.detach())
    return torch.stack(losses).sum()
