"""Single items under random states of their own: what an item draws is a function of (seed, epoch, its index)."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from clearloop import rng
from clearloop.data.dataset import Batch, Indices, ItemDataset


def as_list(indices: Indices) -> list[int]:
    """Indices as Python ints."""
    return list(range(indices.start, indices.stop)) if isinstance(indices, slice) else indices.tolist()


def seeded_item(dataset: ItemDataset, seed: int, epoch: int, index: int) -> Any:
    """One item, asked for under random states made from (seed, epoch, index). The caller preserves its own."""
    item_seed = rng.fold(seed, epoch, index)
    random.seed(item_seed)
    np.random.seed(item_seed % 2**32)
    torch.default_generator.manual_seed(item_seed)
    return dataset[index]


class SeededItems:
    """Batches of items as if each had been seeded; most datasets draw nothing, and seeding costs more than their items.

    So items are asked for as they are until a batch has drawn: where no generator moved, no seed would have changed
    anything. That batch is asked for once more, and from then on each item is seeded. Whoever reads a generator's state
    without drawing from it (`torch.initial_seed()`) sees the run's until then.
    """

    def __init__(self) -> None:
        self.draws = False

    def batch(
        self, dataset: ItemDataset, indices: list[int], seed: int, epoch: int, collate_fn: Callable[[list[Any]], Batch]
    ) -> Batch:
        """Items joined to a batch. All random states are afterwards as they were."""
        if not self.draws:
            before = rng.capture()
            try:
                batch = collate_fn([dataset[index] for index in indices])
            except BaseException as error:
                if not self._drew(before) or not isinstance(error, Exception):
                    raise
            else:
                if not self._drew(before):
                    return batch
        with rng.preserved():
            items = [seeded_item(dataset, seed, epoch, index) for index in indices]
            return collate_fn(items)  # if it draws, then from what the last item left, as it does in workers

    def _drew(self, before: dict[str, Any]) -> bool:
        """Whether a generator moved; then it is put back, and remembered."""
        if same(before, rng.capture()):
            return False
        rng.restore(before)
        self.draws = True
        return True


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether random states are equal."""
    return (
        one["python"] == other["python"]
        and all(map(np.array_equal, one["numpy"], other["numpy"]))
        and all(map(torch.equal, [one["torch"], *one["cuda"]], [other["torch"], *other["cuda"]]))
    )
