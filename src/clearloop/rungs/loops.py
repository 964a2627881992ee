"""The training loop seven times, each a rung above the last: laid side by side, only one thing changes at a time.

From one seed all seven end in the same weights, to the bit. `x` and `y` are the training data, `seed` is that of the
batch order (None keeps the order of the data).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from clearloop.losses import LossFunc
from clearloop.rungs import optimizers
from clearloop.rungs.data import Dataset, Sampler
from clearloop.rungs.modules import Linear, ListModel


def raw_layers(
    model: ListModel,
    loss_func: LossFunc,
    x: Tensor,
    y: Tensor,
    epochs: int,
    batch_size: int,
    lr: float,
    seed: int | None,
) -> None:
    """First rung: the layers' weights are changed by hand, one by one."""
    sampler = Sampler(len(x), batch_size, seed)
    for _ in range(epochs):
        for indices in sampler:
            loss = loss_func(model(x[indices]), y[indices])
            loss.backward()
            with torch.no_grad():  # the update is no part of the model
                for layer in model.layers:
                    if isinstance(layer, Linear):
                        for parameter in (layer.weight, layer.bias):
                            assert parameter.grad is not None
                            parameter.add_(parameter.grad, alpha=-lr)
                            parameter.grad = None  # or the next gradient would be added to this one


def parameters(
    model: Any, loss_func: LossFunc, x: Tensor, y: Tensor, epochs: int, batch_size: int, lr: float, seed: int | None
) -> None:
    """Second rung: a model that knows its parameters, whatever its layers are."""
    sampler = Sampler(len(x), batch_size, seed)
    for _ in range(epochs):
        for indices in sampler:
            loss = loss_func(model(x[indices]), y[indices])
            loss.backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(parameter.grad, alpha=-lr)
                    parameter.grad = None


def own_optimizer(
    model: Any, loss_func: LossFunc, x: Tensor, y: Tensor, epochs: int, batch_size: int, lr: float, seed: int | None
) -> None:
    """Third rung: the update and the clearing are an optimizer's."""
    opt = optimizers.SGD(model.parameters(), lr)
    sampler = Sampler(len(x), batch_size, seed)
    for _ in range(epochs):
        for indices in sampler:
            loss = loss_func(model(x[indices]), y[indices])
            loss.backward()
            opt.step()
            opt.zero_grad()


def torch_optimizer(
    model: nn.Module,
    loss_func: LossFunc,
    x: Tensor,
    y: Tensor,
    epochs: int,
    batch_size: int,
    lr: float,
    seed: int | None,
) -> None:
    """Fourth rung: torch's optimizer."""
    opt = torch.optim.SGD(model.parameters(), lr)
    sampler = Sampler(len(x), batch_size, seed)
    for _ in range(epochs):
        for indices in sampler:
            loss = loss_func(model(x[indices]), y[indices])
            loss.backward()
            opt.step()
            opt.zero_grad()


def with_dataset(
    model: nn.Module, loss_func: LossFunc, data: Dataset, epochs: int, batch_size: int, lr: float, seed: int | None
) -> None:
    """Fifth rung: inputs and targets come together, from a Dataset."""
    opt = torch.optim.SGD(model.parameters(), lr)
    sampler = Sampler(len(data), batch_size, seed)
    for _ in range(epochs):
        for indices in sampler:
            inputs, targets = data[indices]
            loss = loss_func(model(inputs), targets)
            loss.backward()
            opt.step()
            opt.zero_grad()


def with_loader(
    model: nn.Module, loss_func: LossFunc, train_dl: Iterable[tuple[Tensor, Tensor]], epochs: int, lr: float
) -> None:
    """Sixth rung: a DataLoader, our own or torch's, gives the batches; the loop says nothing of indices any more."""
    opt = torch.optim.SGD(model.parameters(), lr)
    for _ in range(epochs):
        for inputs, targets in train_dl:
            loss = loss_func(model(inputs), targets)
            loss.backward()
            opt.step()
            opt.zero_grad()


# The seventh rung is `clearloop.rungs.fit.fit`: the same with validation, metrics and schedules, as one function.
