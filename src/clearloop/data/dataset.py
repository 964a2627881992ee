"""Datasets: indexed with an int for a sample, with a slice or an index tensor for a batch.

A dataset that can `gather` many samples in one operation is never asked for them one by one. What it gathers is its
stored form (bytes, where images are bytes); its `transform` makes a batch of that, after the move to the device.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import data as torch_data

from clearloop.data.arrays import from_numpy
from clearloop.errors import ConfigError, DataError
from clearloop.rng import fold
from clearloop.tree import tree_map

Batch = Any  # what a dataset yields: (inputs, targets) for training, any nesting of tensors otherwise
Indices = Tensor | slice
Transform = Callable[[Batch], Batch]


class Dataset(torch_data.Dataset[Any]):
    """The base of datasets that gather: define `__len__` and `gather`; torch's DataLoader takes them as well.

    >>> class Squares(Dataset):
    ...     def __len__(self):
    ...         return 10
    ...     def gather(self, indices):
    ...         x = torch.arange(10)[indices]
    ...         return x, x ** 2
    >>> Squares()[3]
    (tensor(3), tensor(9))
    >>> Squares()[2:4]
    (tensor([2, 3]), tensor([4, 9]))
    """

    transform: Transform | None = None  # random numbers that it or `gather` draws are the run's; see augment for others

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def gather(self, indices: Indices) -> Batch:
        """The stored form of many samples; every tensor has the samples as its first dimension."""

    def __getitem__(self, index: Any) -> Batch:
        """One sample for an int, a batch for a slice, an index tensor or mask, or a list of ints."""
        if isinstance(index, slice):
            return self._batch(index)
        indices = as_indices(index, len(self))
        if indices.ndim:
            return self._batch(indices)
        return tree_map(lambda tensor: tensor[0], self._batch(slice(int(indices), int(indices) + 1)))

    def _batch(self, indices: Indices) -> Batch:
        batch = self.gather(indices)
        return self.transform(batch) if self.transform is not None else batch


def as_indices(index: Any, samples: int) -> Tensor:
    """An int, ints, or a mask of shape (samples,) as int64 indices in [0, samples); negative ones count from the end.

    Raises: IndexError.

    >>> as_indices([0, -1], 5), as_indices(torch.tensor([False, True]), 2)
    (tensor([0, 4]), tensor([1]))
    """
    indices = torch.as_tensor(index)
    if indices.dtype == torch.bool and indices.shape == (samples,):
        return indices.nonzero().flatten()
    if indices.numel() and (indices.is_floating_point() or indices.dtype == torch.bool or indices.ndim > 1):
        raise IndexError(
            f"expected an int, a slice, a row of ints or a mask of shape ({samples},), "
            f"got {str(indices.dtype).removeprefix('torch.')} of shape {tuple(indices.shape)}"
        )
    indices = indices.long()
    outside = (indices < -samples) | (indices >= samples)
    if bool(outside.any()):
        raise IndexError(f"index {int(indices[outside].flatten()[0])} is out of range for {samples} samples")
    return indices % samples if samples else indices


def index_tensor(indices: Indices) -> Tensor:
    """The indices of a batch as int64 of shape (batch,)."""
    return indices if isinstance(indices, Tensor) else torch.arange(indices.start, indices.stop)


class TensorDataset(Dataset):
    """Tensors (or NumPy arrays) that share their first dimension: inputs first, targets last.

    Args: `transform` maps a batch to a batch, for instance bytes to floats; it sees whole batches, on the device.
    Raises: DataError when the lengths differ.

    >>> data = TensorDataset(torch.arange(6).view(3, 2), torch.tensor([0, 1, 0]))
    >>> data[-1]
    (tensor([4, 5]), tensor(0))
    >>> data[torch.tensor([0, 2])][1]
    tensor([0, 0])
    """

    def __init__(self, *tensors: Any, transform: Transform | None = None) -> None:
        if not tensors:
            raise DataError("a TensorDataset needs at least one tensor")
        self.tensors = tuple(from_numpy(t) if isinstance(t, np.ndarray) else torch.as_tensor(t) for t in tensors)
        self.transform = transform
        lengths = [len(tensor) if tensor.ndim else 0 for tensor in self.tensors]
        if len(set(lengths)) > 1 or lengths[0] == 0:
            raise DataError(f"the tensors of a dataset must hold the same number of samples, at least 1; got {lengths}")

    def __len__(self) -> int:
        return len(self.tensors[0])

    def gather(self, indices: Indices) -> Batch:
        """A copy of the samples: by slice (evaluation, cheapest) or by index (`index_select`)."""
        if isinstance(indices, slice):
            return tuple([tensor[indices].clone() for tensor in self.tensors])
        if self.tensors[0].is_cuda:
            indices = indices.to(self.tensors[0].device)
        return tuple([tensor.index_select(0, indices) for tensor in self.tensors])


class Subset(Dataset):
    """Chosen samples of a dataset, in the given order.

    >>> Subset(TensorDataset(torch.arange(10)), torch.tensor([7, 3]))[1]
    (tensor(3),)
    """

    def __init__(self, dataset: Dataset, indices: Tensor | Sequence[int]) -> None:
        if not isinstance(dataset, Dataset):
            kind = type(dataset).__name__
            raise DataError(f"Subset takes a dataset that gathers, got {kind}; torch.utils.data.Subset takes any other")
        self.dataset = dataset
        self.transform = dataset.transform
        try:
            self.indices = as_indices(indices, len(dataset)).reshape(-1)
        except IndexError as error:
            raise DataError(f"a subset of {len(dataset)} samples: {error}") from None

    def __len__(self) -> int:
        return len(self.indices)

    def gather(self, indices: Indices) -> Batch:
        """The samples at `self.indices[indices]`."""
        return self.dataset.gather(self.indices[indices])


class ItemDataset(torch_data.Dataset[Any]):
    """Any collection that gives single items: asked item by item, each under its own random state.

    Python's, NumPy's and torch's generators are set from (seed, epoch, index) before each item, so that a dataset
    that draws random numbers gives the same for any number of workers, and something new every epoch.
    """

    def __init__(self, items: Any) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


def is_plain(items: Any) -> bool:
    """Whether items lie in a list or the like, so that they are the same every time they are asked for.

    >>> is_plain([(1, "a")]), is_plain(TensorDataset(torch.zeros(1)))
    (True, False)
    """
    return type(items) in (list, tuple, range, str) or type(items).__module__.startswith("fastcore.")


def as_dataset(data: Any) -> Dataset | ItemDataset:
    """Our own datasets as they are; torch's TensorDataset and its Subsets gathered; all else item by item."""
    if isinstance(data, (Dataset, ItemDataset)):
        return data
    if type(data) is torch_data.TensorDataset:  # a subclass may have a __getitem__ of its own
        return TensorDataset(*data.tensors)
    if type(data) is torch_data.Subset:
        base = as_dataset(data.dataset)
        return Subset(base, list(data.indices)) if isinstance(base, Dataset) else ItemDataset(data)
    if not hasattr(data, "__len__") or not hasattr(data, "__getitem__"):
        raise DataError(f"expected a dataset with __len__ and __getitem__, or a loader; got {type(data).__name__}")
    return ItemDataset(data)


def random_split(
    dataset: Any, fractions: Sequence[float], seed: int, stratify: Tensor | Sequence[int] | None = None
) -> list[Subset]:
    """Split by a permutation that depends on the seed alone.

    Args: `fractions` that sum to 1, such as (0.8, 0.2); `stratify`, class labels of shape (n,), keeps the share of
    every class the same in all parts (to within one sample a class).
    Returns: one Subset a fraction; together they hold every sample exactly once.
    Raises: ConfigError if the fractions do not sum to 1, DataError if a part would be empty.

    >>> [len(part) for part in random_split(TensorDataset(torch.arange(10)), (0.8, 0.2), seed=42)]
    [8, 2]
    """
    if seed < 0:
        raise ConfigError(f"seed must be a whole number of 0 or more, got {seed}")
    if not all(fraction > 0 for fraction in fractions) or not abs(sum(fractions) - 1) <= 1e-6:
        raise ConfigError(f"fractions must be positive and sum to 1, got {list(fractions)}")
    whole = as_dataset(dataset)
    if not isinstance(whole, Dataset):
        raise DataError("random_split needs a dataset that gathers; use torch.utils.data.random_split for others")
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(fold(seed)))
    if stratify is None:
        groups = [order]
    else:
        labels = torch.as_tensor(stratify)
        if labels.shape != (len(whole),):
            raise DataError(f"stratify needs one label a sample, shape ({len(whole)},), got {tuple(labels.shape)}")
        groups = [order[labels[order] == label] for label in labels.unique()]
    edges = torch.tensor([0.0, *fractions], dtype=torch.float64).cumsum(0)
    edges[-1] = 1.0  # a sum that is off by a rounding must not lose a sample
    parts: list[list[Tensor]] = [[] for _ in fractions]
    for group in groups:
        cuts = (edges * len(group)).round().long().tolist()
        for part, start, stop in zip(parts, cuts, cuts[1:], strict=False):
            part.append(group[start:stop])
    joined = [torch.cat(part) for part in parts]
    if any(len(part) == 0 for part in joined):
        raise DataError(f"{len(whole)} samples split by {list(fractions)} leave a part empty")
    place = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))  # where each sample stands in `order`
    return [Subset(whole, part[place[part].argsort()]) for part in joined]
