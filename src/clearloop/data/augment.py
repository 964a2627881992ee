"""Augmentation of whole batches, on the device, with randomness that belongs to the sample.

Every random number is a function of (seed, epoch, sample index) and the number of the draw, computed by hashing
rather than by a generator: a sample is augmented the same way in any batch, on any device, after any resume.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from clearloop.component import remember
from clearloop.errors import ConfigError

Augment = Callable[[Tensor, Tensor], Tensor]  # (inputs, keys) -> inputs; keys: int64 of shape (batch_size,)

GOLDEN = -7046029254386353131  # 2**64 / golden ratio, odd, as a signed 64-bit number


def mix(keys: Tensor) -> Tensor:
    """Hash int64 keys to int64 keys, each bit of the result depending on each bit given.

    Source: the finaliser of SplitMix64 (Steele, Lea and Flood, 2014); products wrap around at 64 bits.
    """
    keys = (keys ^ ((keys >> 30) & (2**34 - 1))) * -4658895280553007687
    keys = (keys ^ ((keys >> 27) & (2**37 - 1))) * -7723592293110705685
    return keys ^ ((keys >> 31) & (2**33 - 1))


def sample_keys(seed: int, epoch: int, indices: Tensor) -> Tensor:
    """One key a sample: int64 of shape (batch_size,), a function of (seed, epoch, index).

    >>> sample_keys(0, 0, torch.tensor([5, 6])).tolist() == sample_keys(0, 0, torch.tensor([6, 5])).flip(0).tolist()
    True
    """
    key = mix(mix(torch.tensor(seed) + GOLDEN) + (epoch + 1) * torch.tensor(GOLDEN))
    return mix(key.to(indices.device) + (indices + 1) * GOLDEN)


def uniform(keys: Tensor, draw: int) -> Tensor:
    """The `draw`-th random number of each sample: float32 in [0, 1), shape (batch_size,).

    >>> numbers = uniform(sample_keys(0, 0, torch.arange(10_000)), draw=0)
    >>> bool(0.49 < numbers.mean() < 0.51)
    True
    """
    step = ((draw + 1) * GOLDEN + 2**63) % 2**64 - 2**63  # the product, wrapped around to a signed 64-bit number
    mixed = mix(keys + step)
    return ((mixed >> 40) & (2**24 - 1)).float() / 2**24


def random_flip(images: Tensor, keys: Tensor) -> Tensor:
    """Mirror half of the images left to right: (B, ..., W) -> (B, ..., W)."""
    chosen = uniform(keys, 0) < 0.5
    return torch.where(chosen.view(-1, *[1] * (images.ndim - 1)), images.flip(-1), images)


@remember
def random_shift(pixels: int) -> Augment:
    """Pad with zeros and crop back: each image moves by up to `pixels` in each direction.

    >>> random_shift(2)(torch.ones(1, 1, 28, 28), torch.tensor([7])).shape
    torch.Size([1, 1, 28, 28])
    """
    if pixels < 1:
        raise ConfigError(f"random_shift needs at least 1 pixel, got {pixels}")

    def shift(images: Tensor, keys: Tensor) -> Tensor:
        batch_size, _, height, width = images.shape
        down = (uniform(keys, 1) * (2 * pixels + 1)).long()
        right = (uniform(keys, 2) * (2 * pixels + 1)).long()
        padded = torch.nn.functional.pad(images, (pixels,) * 4)
        rows = down[:, None] + torch.arange(height, device=images.device)  # (B, H)
        columns = right[:, None] + torch.arange(width, device=images.device)  # (B, W)
        batch = torch.arange(batch_size, device=images.device)[:, None, None]
        moved = padded.movedim(1, -1)[batch, rows[:, :, None], columns[:, None, :]]  # (B, H, W, C)
        return moved.movedim(-1, 1)

    return shift
