"""What torch's layers, optimizers and schedulers are called on the rungs where they are made by hand.

Raises EjectError, with the rungs that can express it, for what has no form by hand.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import torch
from torch import nn
from torch.optim import lr_scheduler

from clearloop.errors import EjectError
from clearloop.printing.expressions import name_of, value_text
from clearloop.printing.printer import Printer

LAYERS = "clearloop.rungs.layers"
UPDATES = "clearloop.rungs.updates"
SCHEDULERS = "clearloop.rungs.schedulers"
KNOWN_LAYERS = "nn.Sequential of Linear, ReLU, Tanh, Sigmoid, Flatten and Dropout"


def layers_text(printer: Printer, model: nn.Module) -> list[str]:
    """Lines that make a model of layers by hand. Raises EjectError for one whose layers are not in a row."""
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    if frozen:
        raise EjectError(f"rung 1 changes every weight, and {frozen[0]!r} is frozen; rungs 2 to 7 leave it alone")
    lines = [f"model = {printer.need(f'{LAYERS}:Layers')}(", "    {"]
    seen: set[int] = set()
    for name, layer in in_a_row(model):
        text = layer_text(printer, layer)
        weights = {id(layer), *map(id, layer.parameters())}
        if seen & weights:
            raise EjectError(
                f"rung 1 gives every layer its own weights, and {name!r} shares another's; see rungs 2 to 7"
            )
        seen |= weights
        if text is not None:
            lines.append(f'        "{name}": {text},')
    return [*lines, "    }", ")"]


def in_a_row(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Layers that are called one after the other, by name."""
    if type(model) is not nn.Sequential:
        yield prefix, model
        return
    for name, layer in model._modules.items():  # a layer that is there twice, twice
        if layer is not None:
            yield from in_a_row(layer, f"{prefix}.{name}" if prefix else name)


@torch.no_grad()
def require_rows(model: nn.Module, inputs: Any) -> None:
    """Raise EjectError if a linear layer is given more than a row a sample: by hand, it takes a matrix."""
    for name, layer in in_a_row(model):
        if isinstance(layer, nn.Linear) and inputs.ndim != 2:
            raise EjectError(
                f"rung 1 has linear layers that take (batch_size, values), got inputs of {tuple(inputs.shape)} for "
                f"{name or 'the layer'!r}; put nn.Flatten() before it, or see rungs 2 to 7"
            )
        inputs = layer(inputs)


def layer_text(printer: Printer, layer: nn.Module) -> str | None:
    """A layer by hand; None for one that does nothing."""
    kind = type(layer)
    if isinstance(layer, nn.Linear) and kind is nn.Linear and layer.weight.dtype == torch.float32:
        name = "LinearWithoutBias" if layer.bias is None else "Linear"
        return f"{printer.need(f'{LAYERS}:{name}')}({layer.in_features}, {layer.out_features})"
    if kind in (nn.ReLU, nn.Tanh, nn.Sigmoid):
        return f"{printer.need(f'{LAYERS}:{kind.__name__}')}()"
    if isinstance(layer, nn.Flatten) and (layer.start_dim, layer.end_dim) == (1, -1):
        return f"{printer.need(f'{LAYERS}:Flatten')}()"
    if isinstance(layer, nn.Dropout) and layer.p < 1:  # with p = 0 torch draws nothing
        return f"{printer.need(f'{LAYERS}:Dropout')}({layer.p!r})" if layer.p else None
    if kind is nn.Identity:
        return None
    raise EjectError(
        f"rung 1 writes layers out by hand, which it can for {KNOWN_LAYERS}; got {shown(layer)}. "
        "Rungs 2 to 7 take any model"
    )


def shown(layer: nn.Module) -> str:
    """What to call a layer that has no form by hand."""
    if type(layer) is not nn.Linear:
        return type(layer).__name__
    return f"Linear of {str(layer.weight.dtype).removeprefix('torch.')}"


def is_plain_descent(description: Mapping[str, Any]) -> bool:
    """Whether an optimizer takes steps along the gradient, and does nothing else."""
    options = description.get("kwargs", {})
    return name_of(description) == "SGD" and not options.get("momentum") and not options.get("weight_decay")


def update_text(printer: Printer, description: Mapping[str, Any], rung: int) -> str | None:
    """The update rule of torch's SGD, Adam or AdamW by hand; None for plain descent, which needs none."""
    name, given = name_of(description), dict(description.get("kwargs", {}))
    options = {"SGD": {"momentum", "dampening", "nesterov", "weight_decay"}}.get(name, {"betas", "eps", "weight_decay"})
    used = {key for key, value in given.items() if value not in (None, False) and key not in options}
    if name not in ("SGD", "Adam", "AdamW") or used or given.get("dampening") or description.get("args"):
        what = f"{name} with {', '.join(sorted(used))}" if used else name
        raise EjectError(
            f"rung {rung} moves the weights by hand, which it can as SGD (with momentum, also Nesterov's), Adam and "
            f"AdamW do; got {what}. Rungs 4 to 7 take any optimizer of torch's"
        )
    decay = given.get("weight_decay")
    if name == "SGD":
        share = given.get("momentum")
        if is_plain_descent(description):
            return None
        nesterov = ", nesterov=True" if given.get("nesterov") else ""
        momentum = f"{printer.need(f'{UPDATES}:momentum')}({value_text(share)}{nesterov})" if share else None
        rule = momentum or printer.need(f"{UPDATES}:sgd")
    else:
        kept = {"betas", "eps", "weight_decay"} if name == "AdamW" else {"betas", "eps"}
        texts = [f"{key}={value_text(value)}" for key, value in given.items() if key in kept and value is not None]
        rule = f"{printer.need(f'{UPDATES}:{name.lower()}')}({', '.join(texts)})"
    if decay and name != "AdamW":
        return f"{printer.need(f'{UPDATES}:with_weight_decay')}({rule}, {value_text(decay)})"
    return rule


def scheduler_text(printer: Printer, description: Mapping[str, Any], lr: float, rung: int) -> str:
    """A scheduler of torch's by hand, as an expression."""
    name = name_of(description)
    ours = import_module(SCHEDULERS)
    if not hasattr(ours, name):
        raise EjectError(
            f"rung {rung} has StepLR, MultiStepLR, ExponentialLR and ReduceLROnPlateau by hand; got {name}. "
            "Rungs 4 to 7 take any scheduler of torch's"
        )
    theirs = inspect.signature(getattr(lr_scheduler, name))
    bound = theirs.bind(None, *description.get("args", []), **description.get("kwargs", {}))
    given = {key: value for key, value in bound.arguments.items() if key != "optimizer"}
    if given.get("mode") == "min":
        del given["mode"]
    if 0 in given.get("milestones", ()):  # torch asks before the first epoch, the loops by hand after it
        raise EjectError(f"rung {rung} asks {name} after epochs alone, got the milestone 0; see rungs 4 to 7")
    unknown = set(given) - set(inspect.signature(getattr(ours, name)).parameters)
    if unknown or isinstance(given.get("min_lr"), list):
        option = sorted(unknown or {"min_lr"})[0]
        raise EjectError(f"rung {rung} has {name} by hand, but not its {option}={given[option]!r}; see rungs 4 to 7")
    texts = [value_text(lr), *(f"{key}={value_text(value)}" for key, value in given.items())]
    return f"{printer.need(f'{SCHEDULERS}:{name}')}({', '.join(texts)})"
