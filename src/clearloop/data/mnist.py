"""MNIST, shipped inside the package: 70,000 handwritten digits, no network needed."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from clearloop.data.idx import read_labelled_images

MNIST_FOLDER = Path(__file__).parent / "idx"
VALID_IMAGES = 10_000  # the last of the 60,000 training images are held out for validation


class Mnist(NamedTuple):
    """All of MNIST: images are uint8 of shape (n, 28, 28), labels int64 of shape (n,)."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def mnist() -> Mnist:
    """All 70,000 digits as bytes.

    >>> digits = mnist()
    >>> digits.train_images.shape, digits.train_labels[:5].tolist()
    (torch.Size([60000, 28, 28]), [5, 0, 4, 1, 9])
    """
    return Mnist(*read_labelled_images(MNIST_FOLDER, "train"), *read_labelled_images(MNIST_FOLDER, "t10k"))


def get_data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The 60,000 training digits as courses use them, split into 50,000 and 10,000.

    Returns: x_train, float32 in [0, 1] of shape (50000, 784); y_train, int64 of shape (50000,); x_valid and y_valid,
    the same for the last 10,000.

    >>> x_train, y_train, x_valid, y_valid = get_data()
    >>> x_train.shape, x_valid.shape, x_train.max().item()
    (torch.Size([50000, 784]), torch.Size([10000, 784]), 1.0)
    """
    images, labels = read_labelled_images(MNIST_FOLDER, "train")
    pixels = images.flatten(1).float().div_(255)  # (60000, 28, 28) -> (60000, 784)
    cut = len(images) - VALID_IMAGES
    return pixels[:cut], labels[:cut], pixels[cut:], labels[cut:]
