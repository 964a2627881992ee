"""A small convolutional net for small images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from clearloop.component import remember
from clearloop.errors import ConfigError
from clearloop.models.mlp import check_positive


@remember
def cnn(
    classes: int = 10, channels: int = 1, widths: Sequence[int] = (16, 32, 64), size: int = 28, kernel: int = 5
) -> nn.Sequential:
    """Strided convolutions with batch norm and ReLU, then one linear layer: the default net for digits.

    A stride of 2 halves the image at each layer, which costs less than pooling after a full convolution. The linear
    layer sees the last feature maps whole. Their mean alone (global average pooling) would fit any image size, but it
    loses where a stroke lies: 0.1 to 0.4 points of accuracy on MNIST. So the image size is an argument.

    Args:
        classes: the number of outputs.
        channels: 1 for grey images, 3 for colour.
        widths: the number of feature maps after each convolution; each convolution halves height and width.
        size: height and width of the images, in pixels.
        kernel: height and width of each convolution's window, an odd number of pixels.

    Returns:
        A model from float images of shape (batch_size, channels, size, size) to logits of shape (batch_size, classes).

    Raises:
        ConfigError: no widths, an even kernel, or a number that is not a positive int.

    >>> import torch
    >>> net = cnn()
    >>> net(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    >>> len(net)  # three times convolution, batch norm, ReLU; then flatten and linear
    11
    """
    check_cnn(classes, channels, widths, size, kernel)  # eject: drop
    layers: list[nn.Module] = []
    for maps in widths:  # (B, channels, size, size) -> (B, maps, size / 2, size / 2), rounded up
        layers += [
            nn.Conv2d(channels, maps, kernel, stride=2, padding=kernel // 2, bias=False),  # the norm has a bias
            nn.BatchNorm2d(maps),
            nn.ReLU(),
        ]
        channels, size = maps, (size + 1) // 2
    layers += [
        nn.Flatten(),  # (B, channels, size, size) -> (B, channels * size * size)
        nn.Linear(channels * size * size, classes),
    ]
    return nn.Sequential(*layers)


def check_cnn(classes: int, channels: int, widths: Sequence[int], size: int, kernel: int) -> None:
    """Refuse what `cnn` cannot build, before a layer is made."""
    check_positive("classes, channels, size and kernel of cnn", (classes, channels, size, kernel))
    if isinstance(widths, (str, int)) or not widths:
        raise ConfigError(f"cnn needs a width for each of one or more convolutions, got {widths!r}; try (16, 32, 64)")
    check_positive("cnn widths", widths)
    if kernel % 2 == 0:
        raise ConfigError(f"cnn needs an odd kernel, which has a middle pixel, got {kernel}; try {kernel + 1}")
