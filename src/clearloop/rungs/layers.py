"""Layers by hand, of which nothing is hidden: a few tensors, and a line of arithmetic each."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor


class Layer:
    """What all layers have in common: most of them hold nothing that training changes."""

    training = True  # some work otherwise in evaluation

    def parameters(self) -> list[Tensor]:
        """What training changes."""
        return []

    def __call__(self, x: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} must say what it computes")

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Linear(Layer):
    """y = x @ weight.T + bias, with the initial weights that `nn.Linear` draws.

    Args: (batch_size, inputs) -> (batch_size, outputs).
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        bound = 1 / math.sqrt(inputs)  # keeps the size of what flows through about the same from layer to layer
        self.weight = torch.empty(outputs, inputs).uniform_(-bound, bound).requires_grad_()
        self.bias = torch.empty(outputs).uniform_(-bound, bound).requires_grad_()

    def __call__(self, x: Tensor) -> Tensor:
        # x @ weight.T + bias in one operation, as nn.Linear has it: in two, the sum is rounded once more
        return torch.addmm(self.bias, x, self.weight.T)  # (B, inputs) -> (B, outputs)

    def parameters(self) -> list[Tensor]:
        """The matrix, and what is added."""
        return [self.weight, self.bias]

    def __repr__(self) -> str:
        return f"Linear({self.weight.shape[1]}, {self.weight.shape[0]})"


class LinearWithoutBias(Layer):
    """y = x @ weight.T: (batch_size, inputs) -> (batch_size, outputs)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        bound = 1 / math.sqrt(inputs)
        self.weight = torch.empty(outputs, inputs).uniform_(-bound, bound).requires_grad_()

    def __call__(self, x: Tensor) -> Tensor:
        return x @ self.weight.T  # (B, inputs) -> (B, outputs)

    def parameters(self) -> list[Tensor]:
        """The matrix."""
        return [self.weight]

    def __repr__(self) -> str:
        return f"LinearWithoutBias({self.weight.shape[1]}, {self.weight.shape[0]})"


class ReLU(Layer):
    """Negative numbers become 0. Without it, two linear layers would be no more than one."""

    def __call__(self, x: Tensor) -> Tensor:
        return torch.where(x <= 0, 0.0, x)  # with the gradient 0 at 0, as torch has it; clamp has 1 there


class Tanh(Layer):
    """Any number into (-1, 1)."""

    def __call__(self, x: Tensor) -> Tensor:
        return x.tanh()


class Sigmoid(Layer):
    """Any number into (0, 1)."""

    def __call__(self, x: Tensor) -> Tensor:
        return x.sigmoid()


class Flatten(Layer):
    """All that a sample holds in one row."""

    def __call__(self, x: Tensor) -> Tensor:
        return x.flatten(1)  # (B, ...) -> (B, values of a sample)


class Dropout(Layer):
    """While training, zeroes each number with the probability `p`, and enlarges the others so that the mean stays.

    Source: N. Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", 2014.
    """

    def __init__(self, p: float) -> None:
        self.p = p

    def __call__(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x * torch.empty_like(x).bernoulli_(1 - self.p).div_(1 - self.p)

    def __repr__(self) -> str:
        return f"Dropout({self.p})"


class Layers:
    """Layers called one after the other, by name: a model as a plain dictionary.

    >>> model = Layers({"0": Linear(3, 4), "1": ReLU(), "2": Linear(4, 2)})
    >>> model(torch.zeros(5, 3)).shape, list(model.named_parameters())
    (torch.Size([5, 2]), ['0.weight', '0.bias', '2.weight', '2.bias'])
    """

    def __init__(self, layers: Mapping[str, Layer]) -> None:
        self.layers = dict(layers)

    def __call__(self, x: Tensor) -> Tensor:
        for layer in self.layers.values():
            x = layer(x)
        return x

    def parameters(self) -> list[Tensor]:
        """Every parameter of every layer."""
        return [parameter for layer in self.layers.values() for parameter in layer.parameters()]

    def named_parameters(self) -> dict[str, Tensor]:
        """The same under the names that torch would give them."""
        return {
            f"{name}.{inner}".lstrip("."): parameter  # a layer that is the whole net has no name
            for name, layer in self.layers.items()
            for inner, parameter in zip(("weight", "bias"), layer.parameters(), strict=False)
        }

    def train(self, training: bool = True) -> None:
        """Tell the layers that they are being trained."""
        for layer in self.layers.values():
            layer.training = training

    def eval(self) -> None:
        """Tell the layers that they are being evaluated."""
        self.train(False)
