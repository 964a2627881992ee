"""Orders of samples: which indices an epoch visits, as a function of (seed, epoch) and nothing else."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from clearloop.data.dataset import Indices
from clearloop.errors import ConfigError
from clearloop.rng import fold


class Sampler(Protocol):
    """What a DataLoader asks of a sampler: its length, and the order of any epoch, in any order of asking."""

    def __len__(self) -> int: ...

    def order(self, epoch: int) -> Tensor:
        """The indices of `epoch`: int64 of shape (len(self),)."""
        ...


def shuffled_order(samples: int, seed: int, epoch: int) -> Tensor:
    """A permutation of `samples` indices that depends on (seed, epoch) alone: int64 of shape (samples,).

    >>> shuffled_order(5, seed=0, epoch=0).tolist() == shuffled_order(5, seed=0, epoch=0).tolist()
    True
    """
    generator = torch.Generator().manual_seed(fold(seed, epoch))
    return torch.randperm(samples, generator=generator)


class SequentialSampler:
    """Every sample once, in the order of the data."""

    def __init__(self, samples: int) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return self.samples

    def order(self, epoch: int) -> Tensor:
        """0, 1, 2, …: the same every epoch."""
        return torch.arange(self.samples)


class ShuffleSampler:
    """Every sample once, in a new order every epoch.

    >>> ShuffleSampler(4, seed=1).order(0).sort().values.tolist()
    [0, 1, 2, 3]
    """

    def __init__(self, samples: int, seed: int) -> None:
        self.samples, self.seed = samples, seed

    def __len__(self) -> int:
        return self.samples

    def order(self, epoch: int) -> Tensor:
        """The permutation of `epoch`."""
        return shuffled_order(self.samples, self.seed, epoch)


class WeightedSampler:
    """Samples drawn with replacement, each with a probability proportional to its weight; for unbalanced classes.

    Args: `weights`, shape (n,), finite, not negative, not all 0; `draws` an epoch (n when None).

    >>> WeightedSampler(torch.tensor([0.0, 1.0]), seed=0).order(0).tolist()
    [1, 1]
    """

    def __init__(self, weights: Tensor, seed: int, draws: int | None = None) -> None:
        weights = torch.as_tensor(weights, dtype=torch.float64)
        if (
            weights.ndim != 1
            or not bool(torch.isfinite(weights).all())
            or bool((weights < 0).any())
            or not weights.sum()
        ):
            raise ConfigError("weights must be one finite number >= 0 a sample, and not all 0")
        if draws is not None and draws < 1:
            raise ConfigError(f"draws must be at least 1, or None for as many as there are weights; got {draws}")
        self.weights, self.seed, self.draws = weights, seed, draws or len(weights)

    def __len__(self) -> int:
        return self.draws

    def order(self, epoch: int) -> Tensor:
        """The draws of `epoch`."""
        generator = torch.Generator().manual_seed(fold(self.seed, epoch))
        return torch.multinomial(self.weights, self.draws, replacement=True, generator=generator)


def size(indices: Indices) -> int:
    """How many samples there are in a batch of indices.

    >>> size(slice(3, 8)), size(torch.tensor([4, 2]))
    (5, 2)
    """
    return indices.stop - indices.start if isinstance(indices, slice) else len(indices)


def shard(indices: Indices, rank: int, world_size: int) -> Indices:
    """The part of one global batch that a process takes: contiguous, sizes differing by one at most.

    The shards of all ranks, joined, are the batch itself, so the global batch is that of a single process.

    >>> [shard(torch.arange(7), rank, 3).tolist() for rank in range(3)]
    [[0, 1, 2], [3, 4], [5, 6]]
    >>> [shard(slice(10, 17), rank, 3) for rank in range(3)]
    [slice(10, 13, None), slice(13, 15, None), slice(15, 17, None)]
    """
    each, larger = divmod(size(indices), world_size)
    start = rank * each + min(rank, larger)
    stop = start + each + (rank < larger)
    if isinstance(indices, slice):
        return slice(indices.start + start, indices.start + stop)
    return indices[start:stop]
