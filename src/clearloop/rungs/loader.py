"""A DataLoader by hand: tensors in, batches out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clearloop.data.loaders import npz_arrays, prepared, split_indices
from clearloop.rungs.data import Dataset, KeyedAugment, Sampler


class TensorLoader:
    """Batches of a dataset, in the order of a sampler."""

    def __init__(self, dataset: Dataset, sampler: Sampler) -> None:
        self.dataset, self.sampler = dataset, sampler

    def __iter__(self) -> Iterator[Any]:
        for indices in self.sampler:
            yield self.dataset[indices]  # one gather a batch costs far less than asking for sample by sample


class AugmentingLoader(TensorLoader):
    """The same with its inputs augmented, by an augmentation of `keyed`."""

    def __init__(self, dataset: Dataset, sampler: Sampler, augment: KeyedAugment) -> None:
        super().__init__(dataset, sampler)
        self.augment = augment

    def __iter__(self) -> Iterator[Any]:
        epoch = self.sampler.epoch
        for indices in self.sampler:
            inputs, targets = self.dataset[indices]
            yield self.augment(inputs, epoch, indices), targets


def array_parts(path: str | Path) -> list[tuple[Tensor, Tensor]]:
    """Inputs and targets, to train on and to validate with, as they were kept for this program."""
    with np.load(path) as arrays:
        return [
            (torch.from_numpy(arrays[f"x_{part}"]), torch.from_numpy(arrays[f"y_{part}"]))
            for part in ("train", "valid")
        ]


def npz_parts(path: str | Path, seed: int, valid: float = 0.2) -> list[tuple[Tensor, Tensor]]:
    """Inputs and targets from an `.npz` file, to train on and to validate with."""
    x, y, *own_valid = npz_arrays(path)
    x, y = prepared(x, y, "train")
    if own_valid:
        x_valid, y_valid = own_valid
        return [(x, y), prepared(x_valid, y_valid, "valid")]
    return [(x[indices], y[indices]) for indices in split_indices(len(x), valid, seed)]
