"""What a loss takes a model's outputs for, seen from its values rather than from its name."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from clearloop.component import unwrapped
from clearloop.losses import LossFunc, mnist_loss, soft_cross_entropy

Meaning = Literal["cross_entropy", "nll", "soft_cross_entropy", "bce_logits", "bce", "mnist_loss", "mse", "l1", "own"]

KNOWN: dict[Meaning, Callable[[Any, Any], Tensor]] = {
    "cross_entropy": F.cross_entropy,
    "nll": F.nll_loss,
    "soft_cross_entropy": soft_cross_entropy,
    "bce_logits": F.binary_cross_entropy_with_logits,
    "bce": F.binary_cross_entropy,
    "mnist_loss": mnist_loss,
    "mse": F.mse_loss,
    "l1": F.l1_loss,
}
MODULES: dict[type, Meaning] = {
    torch.nn.CrossEntropyLoss: "cross_entropy",
    torch.nn.NLLLoss: "nll",
    torch.nn.BCEWithLogitsLoss: "bce_logits",
    torch.nn.BCELoss: "bce",
    torch.nn.MSELoss: "mse",
    torch.nn.L1Loss: "l1",
}


def meaning_of(loss_func: LossFunc, preds: Any, targets: Any) -> Meaning:
    """Which known loss it is, whatever its options; of a function of one's own, which one it agrees with.

    >>> meaning_of(lambda preds, targets: ((preds - targets) ** 2).mean(), torch.ones(3, 1), torch.zeros(3, 1))
    'mse'
    """
    base, _ = unwrapped(loss_func)
    for name, function in KNOWN.items():
        if base is function or MODULES.get(type(base)) == name:
            if name == "cross_entropy" and isinstance(targets, Tensor) and targets.is_floating_point():
                return "soft_cross_entropy"
            return name
    if not isinstance(preds, Tensor) or not isinstance(targets, Tensor):
        return "own"
    generator = torch.Generator().manual_seed(0)
    tried = torch.rand(preds.shape, generator=generator).to(preds)  # in (0, 1), as some losses need it
    value = value_of(loss_func, tried, targets)
    for name, function in KNOWN.items():
        if name == "mnist_loss" and preds.shape != targets.shape:
            continue  # it broadcasts
        if value is not None and value == value_of(function, tried, targets):
            return name
    return "own"


def value_of(loss_func: LossFunc, preds: Any, targets: Any) -> float | None:
    """The loss to five digits, or None where it refuses what it is given."""
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loss = loss_func(preds, targets)
        return float(f"{float(loss):.5g}") if loss.ndim == 0 else None
    except Exception:  # a loss that does not take such targets can raise anything
        return None


def guessing(meaning: Meaning, loss_func: LossFunc, preds: Tensor, targets: Tensor) -> tuple[float, str] | None:
    """What outputs that know nothing of the inputs cost, and what they are; None for losses of other kinds."""
    classes, what = 2, "equal outputs"
    if meaning in ("cross_entropy", "soft_cross_entropy", "nll"):
        classes = preds.shape[1]
        outputs = torch.zeros_like(preds) if meaning != "nll" else torch.zeros_like(preds).log_softmax(1)
    elif meaning in ("bce_logits", "mnist_loss", "bce"):
        outputs = torch.full_like(preds, 0.5 if meaning == "bce" else 0.0)
    elif targets.is_floating_point() and preds.shape == targets.shape:
        outputs, what = targets.mean(0, keepdim=True).expand_as(targets).to(preds), "always the targets' mean"
    else:
        return None
    value = value_of(loss_func, outputs, targets)
    if value is None:
        return None
    return value, f"ln {classes}" if math.isclose(value, math.log(classes), rel_tol=1e-4) else what
