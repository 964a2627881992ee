"""Modules by hand: what `nn.Module` does for a model, one piece at a time.

Six ways to write the same net (two linear layers with ReLU between them), from a list of layers to `nn.Sequential`. All
draw the same initial weights from the same seed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Self

from torch import Tensor, nn

from clearloop.rungs.layers import Linear, ReLU


class ListModel:
    """First: a plain class with a list of layers. It has to know for itself which parameters it holds."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        self.layers: list[Linear | ReLU] = [Linear(inputs, hidden), ReLU(), Linear(hidden, outputs)]

    def __call__(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x

    def parameters(self) -> Iterator[Tensor]:
        """Every parameter of every layer."""
        for layer in self.layers:
            yield from layer.parameters()


class NamedModel(nn.Module):
    """Second: on torch's Module, which finds the layers that are assigned to it."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.l1 = nn.Linear(inputs, hidden)
        self.l2 = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(batch_size, inputs) -> (batch_size, outputs)."""
        out: Tensor = self.l2(self.l1(x).relu())
        return out


class Module:
    """The registration that `nn.Module` does: what is assigned is also noted, so that it can be found later.

    Noted are layers, `nn.Parameter`, and tensors that require a gradient and were not computed.

    >>> class Net(Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.first, self.second = Linear(3, 4), Linear(4, 2)
    ...         self.scale = nn.Parameter(Tensor([1.0]))
    >>> Net()
    Net(first=Linear(3, 4), second=Linear(4, 2))
    >>> [name for name, _ in Net().named_parameters()]
    ['scale', 'first.weight', 'first.bias', 'second.weight', 'second.bias']
    """

    training = True  # some layers work otherwise in evaluation
    _parameters: dict[str, Tensor]
    _modules: dict[str, Any]

    def __init__(self) -> None:
        vars(self).update(_parameters={}, _modules={})  # past __setattr__, which needs them

    def __setattr__(self, name: str, value: Any) -> None:
        for kind, noted in ((is_parameter, self._parameters), (is_layer, self._modules)):
            if kind(value):
                noted[name] = value
            else:
                noted.pop(name, None)  # what had this name before is no part of the module any more
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        object.__delattr__(self, name)
        for noted in (self._parameters, self._modules):
            noted.pop(name, None)

    def named_children(self) -> Iterator[tuple[str, Any]]:
        """The layers that were assigned, by name, in the order of assignment."""
        return once(self._modules.items())

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """The module's own parameters, then those of its layers, each with the layer's name in front."""
        return once(parameters_of(self))

    def parameters(self) -> Iterator[Tensor]:
        """What training changes: one that is used in two places is there once."""
        for _, parameter in self.named_parameters():
            yield parameter

    def state_dict(self) -> dict[str, Tensor]:
        """The values of all parameters, under all of their names."""
        return {name: parameter.detach() for name, parameter in parameters_of(self)}

    def train(self, mode: bool = True) -> Self:
        """Tell the module, and all layers in it, that it is being trained."""
        self.training = mode
        for layer in self._modules.values():
            if hasattr(layer, "train"):
                layer.train(mode)
            else:
                layer.training = mode
        return self

    def eval(self) -> Self:
        """Tell them that they are being evaluated."""
        return self.train(False)

    def __call__(self, *args: Any) -> Any:
        return self.forward(*args)

    def forward(self, *args: Any) -> Any:
        """What the module computes; to be defined by each."""
        raise NotImplementedError(f"{type(self).__name__} must define forward")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={module}' for name, module in self._modules.items())})"


def is_parameter(value: Any) -> bool:
    """Whether `value` is a tensor for training to change; one that was computed, in `forward` perhaps, is not."""
    return isinstance(value, nn.Parameter) or isinstance(value, Tensor) and value.requires_grad and value.is_leaf


def is_layer(value: Any) -> bool:
    """Whether `value` can be called and has parameters; a class of layers is none."""
    return callable(value) and hasattr(value, "parameters") and not isinstance(value, type)


def parameters_of(layer: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """All parameters of `layer`, under all of their names."""
    if isinstance(layer, Module):
        yield from ((prefix + name, parameter) for name, parameter in layer._parameters.items())
        for name, inner in layer._modules.items():
            yield from parameters_of(inner, f"{prefix}{name}.")
    elif isinstance(layer, nn.Module):
        yield from layer.named_parameters(prefix[:-1], remove_duplicate=False)
    else:  # called by the attributes that hold them, or by their numbers
        names = {id(value): name for name, value in vars(layer).items()}
        for number, parameter in enumerate(layer.parameters()):
            yield prefix + names.get(id(parameter), str(number)), parameter


def once(named: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Each thing under the first of its names."""
    seen = set()
    for name, thing in named:
        if id(thing) not in seen:  # ==, which sets go by, compares the numbers in a tensor
            seen.add(id(thing))
            yield name, thing


class HandModel(Module):
    """Third: on the hand-made Module; again, it says only which layers there are and how they are joined."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.l1 = Linear(inputs, hidden)
        self.relu = ReLU()
        self.l2 = Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(batch_size, inputs) -> (batch_size, outputs)."""
        return self.l2(self.relu(self.l1(x)))


class RegisteredModel(nn.Module):
    """Fourth: a list of any length. A list in an attribute is not seen, so each layer is registered by hand."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.layers = [nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs)]
        for number, layer in enumerate(self.layers):
            self.add_module(f"layer_{number}", layer)

    def forward(self, x: Tensor) -> Tensor:
        """(batch_size, inputs) -> (batch_size, outputs)."""
        for layer in self.layers:
            x = layer(x)
        return x


class ModuleListModel(nn.Module):
    """Fifth: ModuleList is a list that registers what it holds."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs)])

    def forward(self, x: Tensor) -> Tensor:
        """(batch_size, inputs) -> (batch_size, outputs)."""
        for layer in self.layers:
            x = layer(x)
        return x


def sequential_model(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Sixth: Sequential is a ModuleList that also calls its layers one after the other."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


class ModuleList(Module):
    """ModuleList by hand: layers under their numbers."""

    def __init__(self, layers: list[Any]) -> None:
        super().__init__()
        for number, layer in enumerate(layers):
            setattr(self, str(number), layer)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._modules.values())  # one that is there twice is called twice

    def __len__(self) -> int:
        return len(self._modules)


class Sequential(ModuleList):
    """Sequential by hand: the output of each layer is the input of the next."""

    def __init__(self, *layers: Any) -> None:
        super().__init__(list(layers))

    def forward(self, x: Tensor) -> Tensor:
        """Through all layers."""
        for layer in self:
            x = layer(x)
        return x
