"""Keras 3 on torch: layers of its own where a net is made of linear ones, else the torch module wrapped."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any
from unittest import mock

os.environ["KERAS_BACKEND"] = "torch"

import keras
import torch
from torch import Tensor, nn

from benchmarks.peers.wire import Clock, Result, serve
from benchmarks.peers.workloads import Order, Workload

KNOWN = (nn.Flatten, nn.Linear, nn.ReLU, nn.Tanh)
KEPT: dict[str, Any] = {}  # compiled models, by workload


class Laps(keras.callbacks.Callback):  # type: ignore[misc]
    """Tells the clock of each epoch; the order begins with the first, though Keras has looked at a batch before."""

    def __init__(self, clock: Clock, order: Order) -> None:
        super().__init__()
        self.clock, self.order = clock, order

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """What was drawn before is no part of the training."""
        self.order.epoch = epoch

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """The validation is over."""
        self.clock.lap()


class Gathered(torch.utils.data.Dataset[Any]):
    """A dataset that torch's DataLoader asks for whole batches."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.y)

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        chosen = torch.tensor(indices)
        return self.x.index_select(0, chosen), self.y.index_select(0, chosen)


def as_documented(work: Workload, clock: Clock) -> Result:
    """Arrays given to `fit`, which shuffles them; its random order is replaced by the one that is given."""
    x, y, x_valid, y_valid = (tensor.numpy() for tensor in work.floats())
    order = Order(work.orders())
    with mock.patch.object(torch.utils.data, "RandomSampler", return_value=order):
        return fit(
            work, clock, order, x, y, batch_size=work.batch_size, validation_data=(x_valid, y_valid),
            validation_batch_size=work.valid_batch_size,
        )  # fmt: skip


def tuned(work: Workload, clock: Clock) -> Result:
    """Compiled (`jit_compile`), with torch's DataLoader over a dataset that gathers whole batches."""
    x, y, x_valid, y_valid = work.floats()
    order = Order(work.orders())
    train = whole_batches(x, y, work.batch_size, order)
    valid = whole_batches(x_valid, y_valid, work.valid_batch_size, range(len(y_valid)))
    return fit(work, clock, order, train, validation_data=valid, jit=True)


def whole_batches(x: Tensor, y: Tensor, batch_size: int, sampler: Any) -> Any:
    """A DataLoader that joins nothing, as batches come whole."""
    return torch.utils.data.DataLoader(Gathered(x, y), batch_size, sampler=sampler, collate_fn=lambda batch: batch)


def fit(work: Workload, clock: Clock, order: Order, *data: Any, jit: bool = False, **options: Any) -> Result:
    """Fit from the first weights on; a compiled model is kept by the process, as every new one is compiled anew."""
    start = work.model()
    model = KEPT.get(work.folder) or compiled_model(work, start, jit)
    if jit:
        KEPT[work.folder] = model
    give_weights(start, model)
    opt = model.optimizer
    for variable in opt.variables:
        if not variable.path.endswith("learning_rate"):
            variable.assign(keras.ops.zeros_like(variable))
    clock.start()
    history = model.fit(*data, epochs=work.epochs, verbose=0, callbacks=[Laps(clock, order)], **options).history
    accuracy = history["val_accuracy"][-1] if work.classifies else None
    return Result(int(opt.iterations), history["val_loss"][-1], accuracy, torch_weights(start, model))


def compiled_model(work: Workload, start: nn.Module, jit: bool) -> Any:
    """A Keras model like `start`, with its loss and optimizer."""
    layers = [start] if not all(isinstance(layer, KNOWN) for layer in start.children()) else list(start.children())
    inputs = keras.Input(tuple(work.floats()[0].shape[1:]))
    model = keras.Sequential([inputs, *keras_layers(layers)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True) if work.classifies else "mse"
    # Keras adds epsilon before it corrects the bias of the second moment: torch's 1e-8 comes to this at first.
    epsilon = {"epsilon": 1e-8 * (1 - 0.999) ** 0.5} if work.optimizer == "Adam" else {}
    opt = getattr(keras.optimizers, work.optimizer)(work.lr, **epsilon)
    model.compile(optimizer=opt, loss=loss, metrics=["accuracy"] if work.classifies else [], jit_compile=jit)
    return model


def keras_layers(layers: list[nn.Module]) -> Iterator[Any]:
    """Keras's own layers for torch's; a net of other ones is wrapped."""
    for layer in layers:
        if isinstance(layer, nn.Linear):
            yield keras.layers.Dense(layer.out_features)
        elif isinstance(layer, nn.Flatten):
            yield keras.layers.Flatten()
        elif isinstance(layer, (nn.ReLU, nn.Tanh)):
            yield keras.layers.Activation("relu" if isinstance(layer, nn.ReLU) else "tanh")
        else:
            yield keras.layers.TorchModuleWrapper(layer)


def pairs(start: nn.Module, model: Any) -> list[tuple[str, Any]]:
    """The name of each linear layer, with the Dense layer that stands for it."""
    names = [name for name, layer in start.named_children() if isinstance(layer, nn.Linear)]
    dense = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    return list(zip(names, dense, strict=False))


def give_weights(start: nn.Module, model: Any) -> None:
    """Begin with the weights of `start`; a wrapped module has them."""
    weights = start.state_dict()
    for name, layer in pairs(start, model):
        layer.set_weights([weights[f"{name}.weight"].T.numpy(), weights[f"{name}.bias"].numpy()])


def torch_weights(start: nn.Module, model: Any) -> dict[str, Tensor]:
    """The weights under torch's names."""
    weights = dict(start.state_dict())
    for name, layer in pairs(start, model):
        kernel, bias = (torch.from_numpy(array) for array in layer.get_weights())
        weights |= {f"{name}.weight": kernel.T, f"{name}.bias": bias}
    return weights


if __name__ == "__main__":
    serve({"documented": as_documented, "tuned": tuned}, keras.__version__)
