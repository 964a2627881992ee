"""Images with a known mean and spread in each channel, which published weights expect."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from clearloop.data.dataset import Batch
from clearloop.data.loaders import scaling_of
from clearloop.errors import ConfigError, DataError

# Red, green and blue over the training images of ImageNet, as torchvision's published weights were trained with.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Normalize:
    """A dataset's transform: bytes become floats in [0, 1], then (x - mean) / std channel by channel.

    Args: `mean` and `std`, one number a channel, on the scale of [0, 1].
    Raises: ConfigError for numbers that are not finite, a std that is not above 0, or lengths that differ.

    >>> import torch
    >>> grey = Normalize([0.5], [0.25])
    >>> grey((torch.tensor([[[0, 255]]], dtype=torch.uint8), None))[0]
    tensor([[[[-2.,  2.]]]])
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean, self.std = tuple(map(float, mean)), tuple(map(float, std))
        check_statistics(self.mean, self.std)  # eject: drop

    def __call__(self, batch: Batch) -> Batch:
        """Bytes (B, H, W) or (B, C, H, W) -> float32 (B, C, H, W); the labels stay."""
        images, labels = scaling_of(batch[0])(batch)
        return self.normalized_(images), labels

    def normalized_(self, images: Tensor) -> Tensor:
        """Floats in [0, 1] of shape (B, C, H, W), normalised in place."""
        check_channels(images, self.mean)  # eject: drop
        for channel, (mean, std) in enumerate(zip(self.mean, self.std, strict=True)):
            images[:, channel].sub_(mean).div_(std)  # plain numbers: nothing to move to the images' device
        return images


def check_statistics(mean: Sequence[float], std: Sequence[float]) -> None:
    """Raise ConfigError for numbers that nothing can be normalised with."""
    if not mean or len(mean) != len(std):
        raise ConfigError(f"expected one mean and one std a channel, got {len(mean)} and {len(std)}")
    if not all(map(math.isfinite, (*mean, *std))) or not all(deviation > 0 for deviation in std):
        raise ConfigError(f"expected finite means and stds above 0, got {mean} and {std}")


def check_channels(images: Tensor, mean: Sequence[float]) -> None:
    """Raise ConfigError for images of another number of channels than there are means."""
    if images.shape[1] != len(mean):
        raise ConfigError(f"mean and std are of {len(mean)} channels, the images have {images.shape[1]}")


def statistics(images: Tensor, chunk: int = 256) -> Normalize:
    """Mean and std of the bytes of images, uint8 of shape (n, H, W) or (n, C, H, W), a number a channel, as Normalize.

    They are made of counts of the 256 values, whole numbers: no order of summing, and no thread, changes a bit of them.
    Raises: DataError for no images, and for a channel in which all bytes are the same.

    >>> statistics(torch.tensor([[[0, 255]], [[255, 0]]], dtype=torch.uint8)).mean
    (0.5,)
    """
    if not len(images):
        raise DataError("expected pictures whose mean and spread can be taken, got none that can be read")
    channels = images.shape[1] if images.ndim == 4 else 1
    counts = torch.zeros(channels, 256, dtype=torch.int64)
    for part in images.split(chunk):  # an array may be larger than memory
        for channel in range(channels):
            counts[channel] += torch.bincount((part[:, channel] if images.ndim == 4 else part).flatten(), minlength=256)
    means, stds = [], []
    for row in counts.tolist():
        total = sum(row)
        first, second = (sum(count * value**power for value, count in enumerate(row)) for power in (1, 2))
        means.append(first / total / 255)
        stds.append(math.sqrt(second * total - first**2) / total / 255)
    if not all(stds):
        raise DataError("expected pictures with something on them, got one brightness alone; leave out normalize")
    return Normalize(means, stds)
