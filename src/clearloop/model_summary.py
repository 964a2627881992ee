"""A model at a glance: its layers, the shapes that go through them, parameters and multiply-adds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from clearloop import interpret_plots as draw
from clearloop.errors import ConfigError, ModelError
from clearloop.guard import evaluating
from clearloop.learner import Learner
from clearloop.picture_plots import Drawn
from clearloop.preflight import callable_for, one_line, shapes
from clearloop.tree import leaves, to_device, tree_map


@dataclass(frozen=True)
class Layer:
    """A layer that has parameters, or no layers inside it.

    `output_shape`, of one sample, is None where the forward pass did not come through it, or it gives no one tensor.
    `multiply_adds` are those of linear layers and convolutions, for one sample; layers of other kinds count 0.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...] | None
    parameters: int
    multiply_adds: int


@dataclass(frozen=True, eq=False, kw_only=True)
class ModelSummary(Drawn):
    """The layers of a model in the order in which a sample goes through them; printed, a table.

    `parameters` counts each parameter once, also where layers share it; `trainable`, those that are not frozen.
    """

    layers: list[Layer]
    parameters: int
    trainable: int
    multiply_adds: int
    input_shape: str

    def __str__(self) -> str:
        rows = [("layer", "kind", "output", "parameters", "multiply-adds")]
        rows += [
            (row.name, row.kind, form(row.output_shape), f"{row.parameters:,}", f"{row.multiply_adds:,}")
            for row in self.layers
        ]
        rows.append(("total", "", "", f"{self.parameters:,}", f"{self.multiply_adds:,}"))
        widths = [max(len(row[column]) for row in rows) for column in range(5)]
        lines = [
            "  ".join(
                text.ljust(w) if i < 3 else text.rjust(w) for i, (text, w) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        rule = "-" * len(lines[0])
        tail = f"input {self.input_shape}; {self.trainable:,} parameters are trained"
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1], tail])


def summary(model: nn.Module | Learner, example: Any = None, path: str | Path | None = None) -> ModelSummary:
    """Send one sample through a model in evaluation mode, and note what each layer gives.

    Modes, buffers, random states and gradients are as before.

    Args:
        model: a module, or a Learner, whose first batch is then the example.
        example: a batch of inputs, as the model takes it; its first sample is used.
        path: where to save the figure, in the format of its suffix.

    Raises: ConfigError without an example; ModelError where the model does not take it.

    >>> print(summary(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), torch.zeros(64, 1, 28, 28)))
    layer  kind     output  parameters  multiply-adds
    -------------------------------------------------
    0      Flatten  784              0              0
    1      Linear   10           7,850          7,840
    -------------------------------------------------
    total                        7,850          7,840
    input (1, 1, 28, 28) float32; 7,850 parameters are trained
    """
    if isinstance(model, Learner):
        example = model.prepared().example[0] if example is None else example
        model = model.model
    if not isinstance(model, nn.Module):
        raise ConfigError(f"expected a model or a Learner, got {type(model).__name__}")
    if example is None:
        raise ConfigError("expected a batch of inputs as the example, got none: the shapes depend on it")
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    one = to_device(tree_map(lambda tensor: tensor[:1] if tensor.ndim else tensor, example), device)
    layers = passed_layers(model, one)
    total = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    names = [f"{row.name}  {row.kind}" for row in layers]
    figure = draw.layer_bars(names, [row.parameters for row in layers], [row.multiply_adds for row in layers])
    figure.write(path)
    work = sum(row.multiply_adds for row in layers)
    return ModelSummary(
        figure=figure, layers=layers, parameters=total, trainable=trained, multiply_adds=work, input_shape=shapes(one)
    )


def passed_layers(model: nn.Module, inputs: Any) -> list[Layer]:
    """The layers in the order of the forward pass; those that it did not come through last."""
    names = {module: name or type(model).__name__ for name, module in model.named_modules()}
    single = [module for module in names if not any(module.children()) or any(True for _ in module.parameters(False))]
    outputs: dict[nn.Module, Any] = {}
    work: dict[nn.Module, int] = {}

    def note(module: nn.Module, given: Any, output: Any) -> None:
        outputs[module] = output
        work[module] = work.get(module, 0) + multiply_adds(module, given, output)  # a layer may be passed again

    with evaluating(model), hooked(single, note), torch.no_grad():
        try:
            callable_for(model, inputs)(inputs)
        except Exception as error:  # a forward written by a user can raise anything
            raise ModelError(f"the model does not take inputs of {shapes(inputs)}: {one_line(error)}") from error
    seen: set[nn.Parameter] = set()
    layers = []
    for module in [*outputs, *(module for module in single if module not in outputs)]:
        own = [parameter for parameter in module.parameters(False) if parameter not in seen]
        seen.update(own)
        shape = shape_of(outputs.get(module))
        layers.append(
            Layer(names[module], type(module).__name__, shape, sum(p.numel() for p in own), work.get(module, 0))
        )
    return layers


@contextmanager
def hooked(modules: list[nn.Module], note: Any) -> Iterator[None]:
    """Call `note(module, inputs, output)` after each call of a module, for a block."""
    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_hook(note).remove)
        yield


def multiply_adds(module: nn.Module, given: Any, output: Any) -> int:
    """How many products a linear layer or a convolution adds up; 0 for layers of other kinds.

    >>> layer = nn.Conv2d(3, 8, 5)
    >>> multiply_adds(layer, (torch.zeros(1, 3, 28, 28),), torch.zeros(1, 8, 24, 24))  # 24 * 24 * 8 * 3 * 5 * 5
    345600
    """
    if isinstance(module, nn.Linear):
        return int(output.numel()) * module.in_features
    if isinstance(module, _ConvTransposeNd):
        return int(given[0].numel()) * module.out_channels // module.groups * math.prod(module.kernel_size)
    if isinstance(module, _ConvNd):
        return int(output.numel()) * module.in_channels // module.groups * math.prod(module.kernel_size)
    return 0


def shape_of(output: Any) -> tuple[int, ...] | None:
    """The shape of what a layer gives for one sample; of several tensors that of the first."""
    tensors = [leaf for leaf in leaves(output) if isinstance(leaf, Tensor)] if output is not None else []
    return tuple(tensors[0].shape[1:]) if tensors else None


def form(shape: tuple[int, ...] | None) -> str:
    """A shape for the table.

    >>> form((64, 14, 14)), form(()), form(None)
    ('64 x 14 x 14', '()', '-')
    """
    return "-" if shape is None else " x ".join(map(str, shape)) or "()"
