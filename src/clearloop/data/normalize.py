"""Images with a known mean and spread in each channel, which published weights expect."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from clearloop.data.dataset import Batch
from clearloop.data.loaders import scaling_of
from clearloop.errors import ConfigError

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
        if not self.mean or len(self.mean) != len(self.std):
            raise ConfigError(f"expected one mean and one std a channel, got {len(self.mean)} and {len(self.std)}")
        if not all(map(math.isfinite, self.mean + self.std)) or not all(deviation > 0 for deviation in self.std):
            raise ConfigError(f"expected finite means and stds above 0, got {self.mean} and {self.std}")

    def __call__(self, batch: Batch) -> Batch:
        """Bytes (B, H, W) or (B, C, H, W) -> float32 (B, C, H, W); the labels stay."""
        images, labels = scaling_of(batch[0])(batch)
        return self.normalized_(images), labels

    def normalized_(self, images: Tensor) -> Tensor:
        """Floats in [0, 1] of shape (B, C, H, W), normalised in place."""
        if images.shape[1] != len(self.mean):
            raise ConfigError(f"mean and std are of {len(self.mean)} channels, the images have {images.shape[1]}")
        for channel, (mean, std) in enumerate(zip(self.mean, self.std, strict=True)):
            images[:, channel].sub_(mean).div_(std)  # plain numbers: nothing to move to the images' device
        return images
