"""The batches of an epoch that are gathered: one after the other, or as indices, for who gathers by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor

from clearloop.data.dataset import Batch, Dataset, Indices, Subset, TensorDataset, index_tensor


class Gathered(Iterator[Batch]):
    """Batches in order, made as they are asked for; `take` gives the indices of the next ones in their place.

    Args: `make` gives the batches of a list of indices; `plain`, whether they are what the dataset gives, and no more.

    >>> import torch, clearloop as cl
    >>> batches = cl.DataLoader(cl.TensorDataset(torch.arange(10), torch.arange(10)), 4).batches(0)
    >>> next(batches)[0], batches.take(5), next(batches, None)
    (tensor([0, 1, 2, 3]), [tensor([4, 5, 6, 7]), tensor([8, 9])], None)
    """

    def __init__(
        self,
        dataset: Dataset,
        indices: Iterable[Indices],
        make: Callable[[list[Indices]], Iterator[Batch]],
        plain: bool,
    ) -> None:
        self.dataset, self.plain = dataset, plain
        self._indices, self._make = list(indices), make
        self._next = 0
        self._batches: Iterator[Batch] | None = None

    def __next__(self) -> Batch:
        if self._batches is None:
            self._batches = self._make(self._indices[self._next :])
        batch = next(self._batches)
        self._next += 1
        return batch

    def take(self, count: int) -> list[Tensor]:
        """The int64 indices of each of the next `count` batches, fewer at the end of the epoch."""
        taken = self._indices[self._next : self._next + count]
        self._next += len(taken)
        self._batches = None
        return [index_tensor(indices) for indices in taken]

    @property
    def tensors(self) -> tuple[Tensor, ...] | None:
        """All tensors that `made` makes batches of, by gathering and the dataset's transform alone; else None."""
        dataset, chosen = self.dataset, list[Tensor]()
        while isinstance(dataset, Subset) and type(dataset).gather is Subset.gather:
            chosen.append(dataset.indices)
            dataset = dataset.dataset
        return (*chosen, *dataset.tensors) if self.plain and type(dataset) is TensorDataset else None

    def made(self, indices: Tensor) -> Any:
        """The batch of these indices, where `tensors` are not None."""
        batch = self.dataset.gather(indices)
        return batch if self.dataset.transform is None else self.dataset.transform(batch)
