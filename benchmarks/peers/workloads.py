"""A workload in a folder: what every contestant trains, on which batches, in which order, from which weights."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

Data = tuple[Tensor, Tensor, Tensor, Tensor]  # inputs and targets to train on, and to validate with


@dataclass(frozen=True)
class Workload:
    """One training, the same for all: `net` and its arguments, loss, optimizer, batches, epochs, threads.

    `data` is a file with x_train, y_train, x_valid, y_valid; without targets the inputs are the targets. `data_bytes`
    has the same inputs as bytes, (n, height, width), where they are images.
    """

    name: str
    net: str
    widths: tuple[int, ...]
    loss: str  # "cross_entropy" or "mse"
    optimizer: str  # "SGD" or "Adam"
    lr: float
    batch_size: int
    epochs: int
    threads: int
    data: str
    data_bytes: str | None = None
    valid_batch_size: int = 512
    folder: str = ""

    @classmethod
    def read(cls, folder: str | Path) -> Workload:
        """The workload that `write` put there."""
        fields = json.loads(Path(folder, "workload.json").read_text())
        return cls(**{**fields, "widths": tuple(fields["widths"]), "folder": str(folder)})

    def write(self, folder: Path, orders: Sequence[Tensor]) -> Workload:
        """Put it into `folder`, with initial weights made from a seed and the order of samples of each epoch."""
        folder.mkdir(parents=True)
        (folder / "workload.json").write_text(json.dumps(dataclasses.asdict(self)))
        torch.manual_seed(0)
        save_file(self.net_of_any_weights().state_dict(), folder / "start.safetensors")
        save_file({str(epoch): order for epoch, order in enumerate(orders)}, folder / "orders.safetensors")
        return dataclasses.replace(self, folder=str(folder))

    def net_of_any_weights(self) -> nn.Module:
        """The net, as torch initialises it."""
        return NETS[self.net](*self.widths)

    def model(self) -> nn.Module:
        """The net with the weights that all begin with."""
        model = self.net_of_any_weights()
        model.load_state_dict(load_file(Path(self.folder, "start.safetensors")))
        return model

    def orders(self) -> list[Tensor]:
        """The samples of each epoch in the order of training: int64 of shape (samples,)."""
        tensors = load_file(Path(self.folder, "orders.safetensors"))
        return [tensors[str(epoch)] for epoch in range(self.epochs)]

    def floats(self) -> Data:
        """The data, inputs as float32."""
        return read_data(self.data)

    def bytes(self) -> Data:
        """The data, inputs as bytes."""
        assert self.data_bytes is not None, f"{self.name} has no images"
        return read_data(self.data_bytes)

    def loss_func(self) -> Callable[[Tensor, Tensor], Tensor]:
        """The loss as a function: a mean over samples."""
        return F.cross_entropy if self.classifies else F.mse_loss

    def loss_class(self) -> type[nn.Module]:
        """The loss as a module, for libraries that ask for one."""
        return nn.CrossEntropyLoss if self.classifies else nn.MSELoss

    @property
    def classifies(self) -> bool:
        """Whether targets are classes, so that there is an accuracy."""
        return self.loss == "cross_entropy"

    def opt_class(self) -> type[torch.optim.Optimizer]:
        """torch's optimizer, all of whose arguments but the learning rate stay at their defaults."""
        found: type[torch.optim.Optimizer] = getattr(torch.optim, self.optimizer)
        return found

    def opt(self, model: nn.Module) -> torch.optim.Optimizer:
        """An optimizer of all parameters."""
        make: Any = self.opt_class()
        opt: torch.optim.Optimizer = make(model.parameters(), lr=self.lr)
        return opt


def read_data(path: str) -> Data:
    """The four tensors of a data file."""
    found = load_file(path)
    x_train, x_valid = found["x_train"], found["x_valid"]
    return x_train, found.get("y_train", x_train), x_valid, found.get("y_valid", x_valid)


class Order(torch.utils.data.Sampler[int]):
    """A sampler for torch's DataLoader: each time its first index is asked for, the order of the next epoch begins."""

    def __init__(self, orders: Sequence[Tensor]) -> None:
        self.orders, self.epoch = orders, 0

    def __len__(self) -> int:
        return len(self.orders[0])

    def next(self) -> Tensor:
        """The order of the next epoch; those of the first after those of the last."""
        self.epoch += 1
        return self.orders[(self.epoch - 1) % len(self.orders)]

    def __iter__(self) -> Iterator[int]:
        yield from self.next().tolist()


class Batches:
    """Batches gathered whole: what one puts in the place of a DataLoader when data are tensors in memory."""

    def __init__(self, x: Tensor, y: Tensor, batch_size: int, orders: Sequence[Tensor] = ()) -> None:
        self.x, self.y, self.batch_size = x, y, batch_size
        self.order = Order(orders) if orders else None

    def __len__(self) -> int:
        return -(-len(self.y) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self.order is None:
            yield from zip(self.x.split(self.batch_size), self.y.split(self.batch_size), strict=True)
        else:
            for indices in self.order.next().split(self.batch_size):
                yield self.x.index_select(0, indices), self.y.index_select(0, indices)


def torch_loaders(work: Workload) -> tuple[Any, Any]:
    """torch's DataLoaders over TensorDatasets, as tutorials have them, in the order that is given."""
    x, y, x_valid, y_valid = work.floats()
    data, loader = torch.utils.data.TensorDataset, torch.utils.data.DataLoader
    return (
        loader(data(x, y), work.batch_size, sampler=Order(work.orders())),
        loader(data(x_valid, y_valid), work.valid_batch_size),
    )


def gathered(work: Workload) -> tuple[Batches, Batches]:
    """The same batches, gathered whole."""
    x, y, x_valid, y_valid = work.floats()
    return Batches(x, y, work.batch_size, work.orders()), Batches(x_valid, y_valid, work.valid_batch_size)


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def autoencoder(*widths: int) -> nn.Sequential:
    """Linear layers down to the last of `widths` and up again, tanh between and after them."""
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise([*widths, *widths[-2::-1]]):
        layers += [nn.Linear(inputs, outputs), nn.Tanh()]
    return nn.Sequential(*layers)


def cnn(*widths: int) -> nn.Sequential:
    """Strided convolutions with batch norm and ReLU, then a linear layer: `clearloop train mnist`'s net, of 28 x 28."""
    layers: list[nn.Module] = []
    side = 28
    for inputs, outputs in pairwise((1, *widths)):  # (B, inputs, side, side) -> (B, outputs, side / 2, side / 2)
        layers += [nn.Conv2d(inputs, outputs, 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        side = (side + 1) // 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * side**2, 10))


class Block(nn.Module):
    """Two convolutions, and the input added to what they give."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        outputs = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(outputs + self.downsample(x))


def resnet18(classes: int) -> nn.Sequential:
    """The residual net of 18 layers, for pictures of three colours."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, padding=3, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    layers.append(nn.MaxPool2d(3, 2, padding=1))
    for inputs, outputs in pairwise((64, 64, 128, 256, 512)):
        layers += [Block(inputs, outputs, 1 if inputs == outputs else 2), Block(outputs, outputs, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes))


NETS: dict[str, Callable[..., nn.Module]] = {"mlp": mlp, "autoencoder": autoencoder, "cnn": cnn, "resnet18": resnet18}
