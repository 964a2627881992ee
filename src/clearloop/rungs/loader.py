"""A DataLoader by hand: tensors in, batches out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clearloop.data.loaders import npz_arrays, prepared, split_indices
from clearloop.data.sampler import shuffled_order


class TensorLoader:
    """Batches of tensors that share their first dimension; shuffled anew every epoch if there is a seed."""

    def __init__(
        self, tensors: Sequence[Tensor], batch_size: int, transform: Callable[[Any], Any], seed: int | None = None
    ) -> None:
        self.tensors, self.batch_size, self.transform, self.seed = tensors, batch_size, transform, seed
        self.epoch = 0  # counts up, so that each epoch has its own order

    def __len__(self) -> int:
        return math.ceil(len(self.tensors[0]) / self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        samples = len(self.tensors[0])
        order = torch.arange(samples) if self.seed is None else shuffled_order(samples, self.seed, self.epoch)
        self.epoch += 1
        for indices in order.split(self.batch_size):
            # one gather a batch costs far less than fetching its samples one by one
            yield self.transform(tuple(tensor.index_select(0, indices) for tensor in self.tensors))


def npz_parts(path: str | Path, seed: int, valid: float = 0.2) -> list[tuple[Tensor, Tensor]]:
    """Inputs and targets from an `.npz` file, to train on and to validate with."""
    x, y, *own_valid = npz_arrays(path)
    x, y = prepared(x, y, "train")
    if own_valid:
        x_valid, y_valid = own_valid
        return [(x, y), prepared(x_valid, y_valid, "valid")]
    return [(x[indices], y[indices]) for indices in split_indices(len(x), valid, seed)]
