"""Whether a description of a model would build this very model again."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from clearloop import rng
from clearloop.buildable import build_model
from clearloop.component import describe
from clearloop.errors import ConfigError
from clearloop.weights import forms, named_tensors


def description_of(model: nn.Module) -> Any:
    """How to build the model; its printed form alone, where it was changed after it was built (a layer, a freeze)."""
    description = describe(model)
    try:
        again = on_no_device(description)
    except ConfigError:
        return description
    return description if signature(again) == signature(model) else {"repr": str(model)[:2000]}


def signature(model: nn.Module) -> tuple[str, dict[str, str], list[str]]:
    """What two models must have in common to be the same but for their values."""
    frozen = [name for name, p in model.named_parameters(remove_duplicate=False) if not p.requires_grad]
    return str(model), forms(named_tensors(model)), frozen


def on_no_device(description: Any) -> nn.Module:
    """The model without memory for its weights, so that their shapes can be looked at before anything is allocated."""
    with torch.device("meta"), rng.preserved():
        return build_model(description)
