"""Augmentation of whole batches, on the device, with randomness that belongs to the sample.

Every random number is a function of (seed, epoch, sample index) and the number of the draw, computed by hashing
rather than by a generator: a sample is augmented the same way in any batch, on any device, after any resume.
"""

from __future__ import annotations

import math
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
        batch_size, channels, height, width = images.shape
        down = (uniform(keys, 1) * (2 * pixels + 1)).long()
        right = (uniform(keys, 2) * (2 * pixels + 1)).long()
        padded = torch.nn.functional.pad(images, (pixels,) * 4).movedim(1, -1)  # (B, H+2p, W+2p, C)
        windows = padded.unfold(1, height, 1).unfold(2, width, 1).movedim(3, -1)  # (B, 2p+1, 2p+1, H, W, C)
        batch = torch.arange(batch_size, device=images.device)
        moved = windows[batch, down, right]  # (B, H, W, C); one index a sample, not one a pixel: whole rows are copied
        moved = moved.flatten(1).view(batch_size, height, width, channels)  # whatever its strides were
        return moved.movedim(-1, 1)  # (B, C, H, W), channels last in memory

    return shift


@remember
def random_crop(share: float) -> Augment:
    """`random_shift` by up to `share` of the shorter side, at least a pixel: for pictures whose size is not known yet.

    >>> random_crop(0.1)(torch.ones(1, 1, 28, 28), torch.tensor([7])).shape
    torch.Size([1, 1, 28, 28])
    """
    if not 0 < share < 1:
        raise ConfigError(f"random_crop needs a share of the image in (0, 1), got {share}")

    def crop(images: Tensor, keys: Tensor) -> Tensor:
        return random_shift(max(1, round(share * min(images.shape[-2:]))))(images, keys)

    return crop


@remember
def random_rotate(degrees: float) -> Augment:
    """Turn each image about its middle by an angle of up to `degrees` either way; black comes in at the corners.

    Pixels of the result are interpolated between four of the image's: (B, C, H, W) float -> (B, C, H, W).

    >>> random_rotate(10)(torch.ones(1, 1, 28, 28), torch.tensor([7])).shape
    torch.Size([1, 1, 28, 28])
    """
    if not 0 < degrees <= 180:
        raise ConfigError(f"random_rotate needs an angle above 0 and of at most 180 degrees, got {degrees}")

    def rotate(images: Tensor, keys: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        angles = (uniform(keys, 3).double() * 2 - 1) * math.radians(degrees)
        # Rounded from float64, and no matrix product: both may differ in the last bit in a batch of another size.
        cos, sin = (turn(angles).float()[:, None, None] for turn in (torch.cos, torch.sin))  # (B, 1, 1)
        down = torch.arange(height, device=images.device)[:, None] - (height - 1) / 2  # (H, 1), pixels from the middle
        right = torch.arange(width, device=images.device) - (width - 1) / 2  # (W,)
        from_right, from_down = cos * right - sin * down, sin * right + cos * down  # (B, H, W)
        grid = torch.stack([from_right * (2 / width), from_down * (2 / height)], dim=-1)  # (B, H, W, 2), in [-1, 1]
        return torch.nn.functional.grid_sample(images, grid.to(images.dtype), align_corners=False)

    return rotate


@remember
def random_erase(share: float) -> Augment:
    """Make black in each image one rectangle of `share` of its area, somewhere, up to twice as high as wide or wide as
    high; with normalised images it becomes their mean.

    Source: random erasing (Zhong, Zheng, Kang, Li and Yang, 2017), here of one area, in every image.

    >>> erased = random_erase(0.25)(torch.ones(1, 1, 28, 28), torch.tensor([7]))
    >>> bool(0.23 < (erased == 0).float().mean() < 0.27)
    True
    """
    if not 0 < share < 1:
        raise ConfigError(f"random_erase needs a share of the image in (0, 1), got {share}")

    def erase(images: Tensor, keys: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        proportion = 2 ** (uniform(keys, 4).double() * 2 - 1)  # height to width, 1/2 to 2
        high = (height * (share * proportion).sqrt()).round().clamp(max(1, share * height), height)  # (B,)
        wide = (share * height * width / high).round().clamp(1, width)
        top = (uniform(keys, 5) * (height - high + 1)).long()
        left = (uniform(keys, 6) * (width - wide + 1)).long()
        rows, columns = (torch.arange(side, device=images.device) for side in (height, width))
        in_rows = (rows >= top[:, None]) & (rows < (top + high)[:, None])  # (B, H)
        in_columns = (columns >= left[:, None]) & (columns < (left + wide)[:, None])  # (B, W)
        return images.masked_fill((in_rows[:, :, None] & in_columns[:, None, :])[:, None], 0)

    return erase


@remember
def compose(*augments: Augment) -> Augment:
    """One augmentation after the other, each with random numbers of its own: two of one kind do different things.

    >>> both = compose(random_flip, random_shift(2))
    >>> both(torch.ones(1, 1, 28, 28), torch.tensor([7])).shape
    torch.Size([1, 1, 28, 28])
    """
    if not augments or not all(callable(augment) for augment in augments):
        raise ConfigError("compose takes one or more augmentations, such as random_flip and random_shift(2)")

    def composed(images: Tensor, keys: Tensor) -> Tensor:
        for place, augment in enumerate(augments):
            images = augment(images, mix(keys + place) if place else keys)
        return images

    return composed
