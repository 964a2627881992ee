"""The data side by hand: Dataset, Sampler, collate and DataLoader, a few lines each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from clearloop.data.augment import Augment, sample_keys
from clearloop.data.sampler import shuffled_order

KeyedAugment = Callable[[Tensor, int, Tensor], Tensor]  # inputs, epoch, indices -> inputs


class Dataset:
    """Inputs and targets together: an index gives a pair, a slice or an index tensor gives a batch.

    >>> data = Dataset(torch.arange(4.0), torch.arange(4))
    >>> len(data), data[1:3]
    (4, (tensor([1., 2.]), tensor([1, 2])))
    """

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Any) -> Any:
        return self.x[index], self.y[index]


class StoredDataset(Dataset):
    """A dataset that is stored small, as bytes for instance: `transform` makes of a batch what a model takes."""

    def __init__(self, x: Tensor, y: Tensor, transform: Callable[[Any], Any]) -> None:
        super().__init__(x, y)
        self.transform = transform

    def __getitem__(self, index: Any) -> Any:
        return self.transform(super().__getitem__(index))


class Sampler:
    """Which samples come next, batch by batch: in order, or in a new order every time it is gone through.

    >>> [indices.tolist() for indices in Sampler(5, batch_size=2)]
    [[0, 1], [2, 3], [4]]
    """

    def __init__(self, samples: int, batch_size: int, seed: int | None = None) -> None:
        self.samples, self.batch_size, self.seed = samples, batch_size, seed
        self.epoch = 0

    def __iter__(self) -> Iterator[Tensor]:
        order = torch.arange(self.samples)
        if self.seed is not None:
            order = shuffled_order(self.samples, self.seed, self.epoch)
        self.epoch += 1
        yield from order.split(self.batch_size)


def in_order(tensors: Sequence[Tensor], batch_size: int) -> Iterator[Any]:
    """Batches of tensors that share their first dimension, in their order, as evaluation takes them.

    >>> [x.tolist() for x, in in_order([torch.arange(5)], 2)]
    [[0, 1], [2, 3], [4]]
    """
    for start in range(0, len(tensors[0]), batch_size):
        # copied, because the last bits of a product depend on the address that its tensors begin at
        yield tuple(tensor[start : start + batch_size].clone() for tensor in tensors)


def keyed(change: Augment, seed: int) -> KeyedAugment:
    """An augmentation whose random numbers are a function of (seed, epoch, index of the sample) alone."""

    def augmented(inputs: Tensor, epoch: int, indices: Tensor) -> Tensor:
        return change(inputs, sample_keys(seed, epoch, indices))

    return augmented


def collate(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Single samples to a batch: stacked along a new first dimension."""
    x, y = zip(*pairs, strict=True)
    return torch.stack(x), torch.stack(y)


class DataLoader:
    """Fetches the samples that the sampler names one by one, and collates them."""

    def __init__(
        self, dataset: Dataset, sampler: Sampler, collate_fn: Callable[[Any], tuple[Tensor, Tensor]] = collate
    ) -> None:
        self.dataset, self.sampler, self.collate_fn = dataset, sampler, collate_fn

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for indices in self.sampler:
            yield self.collate_fn([self.dataset[int(index)] for index in indices])
