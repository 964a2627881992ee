"""What one of several processes takes of the batches of an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch

from clearloop import rng
from clearloop.data.loader import DataLoader
from clearloop.data.sampler import shard, size
from clearloop.tree import tree_map


class Shares:
    """One process's shares of the batches of an epoch, and how many samples all processes have in them.

    Before each batch, random states are set from (seed, rank, epoch, batch): masks of dropout differ between processes,
    and a run that is resumed anywhere draws the same again. A share without samples is a batch of length 0.
    """

    def __init__(
        self, loader: DataLoader, place: tuple[int, int], cursor: tuple[int, int, int], device: torch.device
    ) -> None:
        self.loader, self.device = loader, device
        self.rank, self.world_size = place
        self.seed, self.epoch, self.number = cursor
        self._whole = list(islice(loader.index_batches(self.epoch), self.number, None))
        mine = (shard(indices, *place) for indices in self._whole)
        self._mine = loader.load([share for share in mine if size(share)], self.epoch, device)
        self._left = iter(self._whole)
        self._taken = 0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        indices = next(self._left)
        rng.seed_all(rng.fold(self.seed, self.rank, self.epoch, self.number))
        self.number += 1
        self._taken += size(indices)
        if size(shard(indices, self.rank, self.world_size)):
            return next(self._mine)
        one = next(self.loader.load([shard(indices, 0, size(indices))], self.epoch, self.device))
        return tree_map(lambda tensor: tensor[:0], one)

    def taken(self) -> int:
        """The samples of the batches that were taken since this was last asked, of all processes together."""
        samples, self._taken = self._taken, 0
        return samples
