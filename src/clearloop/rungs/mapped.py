"""Arrays in `.npy` files by hand: rows are read from the disk when they are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clearloop.data.arrays import as_tensor
from clearloop.data.loaders import prepared_batch, split_indices


class Rows:
    """Rows of an array in a file, or some of them, read when they are asked for by index."""

    def __init__(self, array: Any, rows: Tensor) -> None:
        self.array, self.rows = array, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.array[self.rows[index].numpy()]


def mapped(inputs: Path, targets: Path) -> tuple[Rows, Rows]:
    """Inputs and targets from two files, of which nothing is read yet."""
    x, y = (np.load(path, mmap_mode="r") for path in (inputs, targets))
    return Rows(x, torch.arange(len(x))), Rows(y, torch.arange(len(y)))


def mapped_parts(inputs: Path, targets: Path, valid: float, seed: int) -> list[tuple[Rows, Rows]]:
    """Inputs and targets to train on, and those held out to validate with."""
    x, y = mapped(inputs, targets)
    return [(Rows(x.array, rows), Rows(y.array, rows)) for rows in split_indices(len(x), valid, seed)]


def in_memory(pair: tuple[Rows, Rows]) -> tuple[Any, Any]:
    """All rows at once."""
    x, y = pair
    return x[:], y[:]


def tensors_of(batch: tuple[Any, Any]) -> tuple[Tensor, Tensor]:
    """Rows of arrays as a model takes them: bytes of images as floats in [0, 1], other numbers as float32."""
    inputs, targets = (as_tensor(np.array(part), "the data") for part in batch)
    found: tuple[Tensor, Tensor] = prepared_batch((inputs, targets))
    return found
