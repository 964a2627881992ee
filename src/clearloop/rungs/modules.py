"""Modules by hand: what `nn.Module` does for a model, one piece at a time.

Six ways to write the same net (two linear layers with ReLU between them), from a list of layers to `nn.Sequential`. All
draw the same initial weights from the same seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

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


class Module:
    """The registration that `nn.Module` does: `self.layer = …` also notes the layer, so that it can be found later.

    >>> class Net(Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.first, self.second = Linear(3, 4), Linear(4, 2)
    >>> Net()
    Net(first=Linear(3, 4), second=Linear(4, 2))
    >>> sum(parameter.numel() for parameter in Net().parameters())
    26
    """

    _modules: dict[str, Any]

    def __init__(self) -> None:
        object.__setattr__(self, "_modules", {})  # the one attribute that is no layer

    def __setattr__(self, name: str, value: Any) -> None:
        if callable(value) and hasattr(value, "parameters"):
            self._modules[name] = value
        object.__setattr__(self, name, value)

    def named_children(self) -> Iterator[tuple[str, Any]]:
        """The layers that were assigned, by name, in the order of assignment."""
        yield from self._modules.items()

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """The parameters of all layers, each under the layer's name."""
        for name, module in self.named_children():
            if isinstance(module, Module):
                yield from ((f"{name}.{inner}", parameter) for inner, parameter in module.named_parameters())
            else:
                numbered = zip(("weight", "bias"), module.parameters(), strict=False)
                yield from ((f"{name}.{inner}", parameter) for inner, parameter in numbered)

    def parameters(self) -> Iterator[Tensor]:
        """What training changes."""
        for _, parameter in self.named_parameters():
            yield parameter

    def state_dict(self) -> dict[str, Tensor]:
        """The values of all parameters, by name."""
        return {name: parameter.detach() for name, parameter in self.named_parameters()}

    def __call__(self, *args: Any) -> Any:
        return self.forward(*args)

    def forward(self, *args: Any) -> Any:
        """What the module computes; to be defined by each."""
        raise NotImplementedError(f"{type(self).__name__} must define forward")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={module}' for name, module in self.named_children())})"


class HandModel(Module):
    """Second: on the hand-made Module, nothing more to say than which layers there are and how they are joined."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.l1 = Linear(inputs, hidden)
        self.relu = ReLU()
        self.l2 = Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(batch_size, inputs) -> (batch_size, outputs)."""
        return self.l2(self.relu(self.l1(x)))


class NamedModel(nn.Module):
    """Third: the same on torch's Module."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.l1 = nn.Linear(inputs, hidden)
        self.l2 = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(batch_size, inputs) -> (batch_size, outputs)."""
        out: Tensor = self.l2(self.l1(x).relu())
        return out


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
        return (module for _, module in self.named_children())

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
