"""The model of a program: the expression that makes it, seen to make the same, and its first weights."""

from __future__ import annotations

import inspect
import json
import re
from collections import OrderedDict
from collections.abc import Callable
from itertools import zip_longest
from typing import Any

import torch
from torch import nn

from clearloop import rng
from clearloop.buildable import is_buildable
from clearloop.component import source_of
from clearloop.errors import EjectError
from clearloop.printing import byhand
from clearloop.printing.draft import Draft
from clearloop.printing.expressions import arguments_text, name_of, print_call, value_text
from clearloop.printing.printable import refuse
from clearloop.printing.usercode import is_constant, need_expression, need_object
from clearloop.rebuild import signature
from clearloop.recipe import Recipe
from clearloop.weights import named_tensors

TORCH_LAYERS = "torch.nn.modules."


def print_model(draft: Draft, model: nn.Module) -> tuple[str, list[str]]:
    """What to call the model, and the lines that make it. `model` is the one of the run, or one of its form."""
    ours = is_buildable(draft.recipe.model, "model")
    if draft.rung == 1:
        lines = byhand.layers_text(draft.printer, model)
        return (call_text(draft.recipe) if ours else "a net of layers in a row"), lines
    if ours:
        text = print_call(draft.printer, draft.recipe.model)
        return text, [f"model = {text}"]
    text, frozen = own_model(draft)
    lines = [f"model.get_parameter({value_text(name)}).requires_grad_(False)  # it was frozen" for name in frozen]
    return (text if len(text) < 80 else "a net"), [f"model = {text}", *lines]


def call_text(recipe: Recipe) -> str:
    """The call that made a model of ours."""
    return f"{name_of(recipe.model)}({arguments_text(recipe.model)})"


def own_model(draft: Draft) -> tuple[str, list[str]]:
    """A model of the user's as an expression, and the names of weights to be frozen then.

    Raises: EjectError where it is not known how it was made.
    """
    objects = draft.objects
    if objects is None:
        refuse(draft.recipe.model, "model")
    model, given = objects.model, objects.model_expr
    kind = type(model).__name__
    if callable(given):
        text = f"{need_object(draft.printer, given, 'model_expr')}()"
        return text, frozen_after(given, model, text)
    if "<locals>" in type(model).__qualname__:
        raise EjectError(
            f"the model's class {kind} is defined inside a function; define it at the top of a file or cell"
        )
    namespace = {"torch": torch, "nn": nn, **objects.namespace}
    guess = given if given is not None else torch_expression(model) or f"{kind}()"
    if given is None:
        layers = {type(layer).__name__: type(layer) for layer in model.modules() if not is_torch(type(layer))}
        namespace |= {"nn": nn, "OrderedDict": OrderedDict, **layers}
    try:
        frozen = frozen_after(lambda: eval(guess, namespace), model, guess)
    except EjectError as error:
        if given is not None:
            raise
        raise EjectError(
            f"the model, a {kind}, does not remember the arguments that it was made with; say them, as in "
            f'learn.eject(model_expr="{kind}(...)") (tried without: {error})'
        ) from None
    return need_expression(draft.printer, guess, namespace, "model"), frozen


def frozen_after(make: Callable[[], Any], model: nn.Module, text: str) -> list[str]:
    """The names of weights that `model` has frozen, and the one that `make` gives has not.

    Raises: EjectError unless `make` gives a model of the same layers, and weights of the same names and shapes.
    """
    with rng.preserved():
        try:
            again = make()
        except Exception as error:  # a user's own code can raise anything
            reason = " ".join(str(error).split())
            raise EjectError(f"{text} cannot be evaluated: {type(error).__name__}: {reason}") from None
    if not isinstance(again, nn.Module):
        raise EjectError(f"{text} gives {type(again).__name__}: expected a model")
    again_frozen, frozen = signature(again)[2], signature(model)[2]
    if signature(again)[:2] != signature(model)[:2] or set(again_frozen) - set(frozen):
        raise EjectError(f"{text} gives another model than the one that was trained: {differing(again, model)}")
    now, then = unseen(again), unseen(model)
    for name in [*then, *now]:
        if now.get(name) != then.get(name):
            values = f"it is {now.get(name)}, and was {then.get(name)}"
            what = "changed" if "\n" in values else values  # a class's source
            raise EjectError(f"{text} gives another model than the one that was trained: {name}: {what}")
    return [name for name in frozen if name not in again_frozen]


def is_torch(kind: type) -> bool:
    """Whether a layer is one of torch's own."""
    return kind.__module__.startswith(TORCH_LAYERS)


def unseen(model: nn.Module) -> dict[str, str | None]:
    """What the printed form of a model leaves out: arguments that its layers keep, their source, weights in common."""
    found: dict[str, str | None] = {}
    for path, layer in model.named_modules(remove_duplicate=False):
        kind = type(layer)
        of_torch = kind.__module__.startswith("torch.")
        kept = {name: value for name, value in vars(layer).items() if name[0] != "_" and name != "training"}
        if not of_torch:  # others keep what changes while they train (a counter, say) beside their arguments
            arguments = inspect.signature(kind).parameters
            kept = {name: value for name, value in kept.items() if name in arguments}
            found[f"the source of {kind.__name__}"] = source_of(kind)
        prefix = f"{path}." if path else ""
        found |= {f"{prefix}{name}": repr(value) for name, value in kept.items() if is_constant(value)}
    first: dict[int, str] = {}
    for name, tensor in named_tensors(model).items():
        found[f"the tensor of {name}"] = f"that of {first.setdefault(id(tensor), name)}"
    return found


def differing(again: nn.Module, model: nn.Module) -> str:
    """The first difference between two models."""
    for name, now, then in zip(
        ("layers", "weights", "frozen weights"), signature(again), signature(model), strict=True
    ):
        if now == then:
            continue
        if isinstance(now, str) and isinstance(then, str):
            lines = zip_longest(
                map(str.strip, now.splitlines()), map(str.strip, then.splitlines()), fillvalue="nothing"
            )
            now, then = next(pair for pair in lines if pair[0] != pair[1])
        return f"its {name} are {str(now)[:200]}, and were {str(then)[:200]}"
    return "nothing that can be seen"


def torch_expression(model: nn.Module) -> str | None:
    """Layers of torch, or a Sequential of them, as the expression that made them: torch prints most of them so.

    A layer of the user's in a Sequential is taken to have been made without arguments, which is looked at afterwards.
    """
    kind = type(model)
    if kind is nn.Sequential:
        names = list(model._modules)
        inner = [
            torch_expression(layer) or f"{type(layer).__name__}()"
            for layer in model._modules.values()
            if layer is not None
        ]
        if len(inner) < len(names):
            return None
        if names == [str(number) for number in range(len(names))]:
            return f"nn.Sequential({', '.join(inner)})"
        if not all(map(str.isidentifier, names)):
            return None
        pairs = zip(names, inner, strict=True)
        return f"nn.Sequential(OrderedDict({', '.join(f'{name}={text}' for name, text in pairs)}))"
    return None if not is_torch(kind) or list(model.children()) else f"nn.{short_repr(model)}"


def short_repr(layer: nn.Module) -> str:
    """A layer as torch prints it, without the arguments that are the defaults.

    >>> short_repr(nn.Conv2d(1, 8, 3, padding=1)), short_repr(nn.Linear(3, 2))
    ('Conv2d(1, 8, kernel_size=(3, 3), padding=(1, 1))', 'Linear(3, 2)')
    """
    kind = type(layer)
    parameters = inspect.signature(kind).parameters
    kept: list[str] = []
    for argument in re.split(r",\s+(?![^()]*\))", repr(layer)[len(kind.__name__) + 1 : -1]):
        name, _, value = argument.partition("=")
        if isinstance(getattr(layer, name, None), str):  # torch prints text without quotes
            value = json.dumps(getattr(layer, name))
            argument = f"{name}={value}"
        default = parameters[name].default if name in parameters else inspect.Parameter.empty
        plain = value in (
            repr(default),
            f"({default}, {default})",
            json.dumps(default) if isinstance(default, str) else "",
        )
        if not value or not plain:
            positional = name in list(parameters)[: len(kept) + 1] and name in ("in_features", "out_features", "p")
            kept.append(value if positional and value else argument)
    return f"{kind.__name__}({', '.join(filter(None, kept))})"


def print_weights(draft: Draft) -> list[str]:
    """Lines that put the initial weights from the file beside the program into the model."""
    draft.printer.need_import("pathlib", "Path")
    draft.printer.need_import("numpy as np")
    return [
        'weights = np.load(Path(__file__).with_suffix(".weights.npz"))  # the first ones, which no seed gives',
        "with torch.no_grad():",
        f"    for name, tensor in {named_weights(draft)}.items():",
        "        tensor.copy_(torch.from_numpy(weights[name]))",
    ]


def named_weights(draft: Draft) -> str:
    """All tensors of the model by name, as an expression."""
    if draft.rung == 1:
        return "model.named_parameters()"
    return f"{draft.need('clearloop.weights:named_tensors')}(model)"
