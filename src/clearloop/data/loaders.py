"""DataLoaders: a training and a validation loader together, with what a predictor needs to know about the data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clearloop.component import remember
from clearloop.data.arrays import as_tensor, check_finite, read_npz
from clearloop.data.augment import Augment
from clearloop.data.dataset import Batch, Dataset, Subset, TensorDataset
from clearloop.data.idx import read_labelled_images
from clearloop.data.loader import DataLoader, Loader, as_loader, draw_seed
from clearloop.data.mnist import MNIST_FOLDER, VALID_IMAGES
from clearloop.errors import DataError
from clearloop.rng import fold


def scale_images(batch: Batch) -> Batch:
    """Bytes to floats in [0, 1]: (B, H, W) uint8 -> (B, 1, H, W) float32; the labels stay."""
    images, labels = batch
    return images.unsqueeze(1).float().div_(255), labels


def idx_parts(folder: str | Path, hold_out: float | None) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Images (uint8) and labels (int64) from the IDX files of a folder, to train on and to validate with."""
    images, labels = read_labelled_images(folder, "train")
    if hold_out is not None:
        cut = len(images) - held_out(hold_out, len(images))  # the last ones are held out
        return (images[:cut], labels[:cut]), (images[cut:], labels[cut:])
    valid_images, valid_labels = read_labelled_images(folder, "t10k")
    if valid_images.shape[1:] != images.shape[1:]:
        sizes = f"{tuple(images.shape[1:])} and {tuple(valid_images.shape[1:])}"
        raise DataError(f"{folder}: training and t10k images must have one size, got {sizes}")
    return (images, labels), (valid_images, valid_labels)


def npz_arrays(path: str | Path) -> list[Tensor]:
    """The arrays x_train, y_train, x_valid, y_valid of an `.npz` file, or else its x and y."""
    arrays = read_npz(path)
    for names in (("x_train", "y_train", "x_valid", "y_valid"), ("x", "y")):
        if set(names) <= set(arrays):
            return [arrays[name] for name in names]
    raise DataError(f"{path}: expected arrays x_train, y_train, x_valid, y_valid, or x and y; got {sorted(arrays)}")


class DataLoaders:
    """A training loader, a validation loader (or None), and the names of the classes.

    Loaders of ours, torch's DataLoaders and plain iterables of batches are all accepted.

    Args: `image_size`, (height, width) where the inputs are grey images in [0, 1]: a predictor then takes image files.

    >>> dls = DataLoaders.mnist(batch_size=64, seed=0)
    >>> inputs, targets = next(iter(dls.train))
    >>> inputs.shape, inputs.dtype, targets.shape
    (torch.Size([64, 1, 28, 28]), torch.float32, torch.Size([64]))
    """

    recipe_call: dict[str, Any]

    def __init__(
        self,
        train: Any,
        valid: Any = None,
        *,
        classes: Sequence[str] | None = None,
        image_size: tuple[int, int] | None = None,
    ) -> None:
        self.train: Loader = as_loader(train)
        self.valid: Loader | None = None if valid is None else as_loader(valid)
        self.classes = None if classes is None else [str(name) for name in classes]
        self.image_size = image_size

    def __iter__(self) -> Iterator[Loader | None]:
        """For `train_dl, valid_dl = dls`."""
        return iter((self.train, self.valid))

    @classmethod
    @remember
    def mnist(
        cls,
        batch_size: int = 64,
        *,
        seed: int | None = None,
        valid_batch_size: int = 512,
        augment: Augment | None = None,
    ) -> DataLoaders:
        """The embedded digits: 50,000 to train on, shuffled anew every epoch, and 10,000 to validate on."""
        if seed is None:  # so that what is remembered of the call says which one was drawn
            return cls.mnist(batch_size, seed=draw_seed(), valid_batch_size=valid_batch_size, augment=augment)
        return cls._idx(MNIST_FOLDER, batch_size, seed, valid_batch_size, VALID_IMAGES, augment)

    @classmethod
    @remember
    def idx(
        cls,
        folder: str | Path,
        batch_size: int = 64,
        *,
        seed: int | None = None,
        valid_batch_size: int = 512,
        valid: float | None = None,
        augment: Augment | None = None,
    ) -> DataLoaders:
        """Labelled images in MNIST's four IDX files (Fashion-MNIST and others come so), plain or gzipped.

        Args: `valid`, how many of the training images (the last ones), or which share of them, are held out for
        validation; when None the `t10k` files are the validation set.
        Raises: DataError, with the file, when one is missing, damaged or does not fit the others.
        """
        if seed is None:
            return cls.idx(
                folder, batch_size, seed=draw_seed(), valid_batch_size=valid_batch_size, valid=valid, augment=augment
            )
        return cls._idx(Path(folder), batch_size, seed, valid_batch_size, valid, augment)

    @classmethod
    def _idx(
        cls,
        folder: Path,
        batch_size: int,
        seed: int,
        valid_batch_size: int,
        valid: float | None,
        augment: Augment | None,
    ) -> DataLoaders:
        (images, labels), (valid_images, valid_labels) = idx_parts(folder, valid)
        classes = [str(label) for label in range(int(labels.max()) + 1)]
        train = TensorDataset(images, labels, transform=scale_images)
        held = TensorDataset(valid_images, valid_labels, transform=scale_images)
        return cls(
            DataLoader(train, batch_size, shuffle=True, seed=seed, augment=augment),
            DataLoader(held, valid_batch_size),
            classes=classes,
            image_size=(images.shape[1], images.shape[2]),
        )

    @classmethod
    @remember
    def npz(
        cls,
        path: str | Path,
        batch_size: int = 64,
        *,
        seed: int | None = None,
        valid_batch_size: int = 512,
        valid: float | None = None,
        augment: Augment | None = None,
    ) -> DataLoaders:
        """Arrays in an `.npz` file named x_train, y_train, x_valid, y_valid; or x and y, a share of which is held out.

        Raises: DataError for a missing or damaged file, other names, lengths that differ, NaN or infinity (by row).
        """
        if seed is None:
            return cls.npz(
                path, batch_size, seed=draw_seed(), valid_batch_size=valid_batch_size, valid=valid, augment=augment
            )
        parts, valid_batches = npz_arrays(path), valid_batch_size
        return cls.arrays(
            *parts, batch_size=batch_size, seed=seed, valid_batch_size=valid_batches, valid=valid, augment=augment
        )

    @classmethod
    def arrays(
        cls,
        x_train: Any,
        y_train: Any,
        x_valid: Any = None,
        y_valid: Any = None,
        *,
        batch_size: int = 64,
        seed: int | None = None,
        valid_batch_size: int = 512,
        valid: float | None = None,
        augment: Augment | None = None,
    ) -> DataLoaders:
        """Tensors or NumPy arrays in memory; without a validation pair, `valid` of them (0.2) are held out by seed.

        Inputs become float32 (put token indices into a TensorDataset, which changes nothing); float targets of shape
        (n,) become a column (n, 1), the shape of a model's one output; whole targets of shape (n,) are class labels.
        Bytes with two or three dimensions more than the first are taken as images and scaled to [0, 1] on the batch.

        >>> dls = DataLoaders.arrays(torch.randn(100, 5), torch.randn(100, 1), batch_size=10, seed=0)
        >>> len(dls.train), len(dls.valid.dataset)
        (8, 20)
        """
        if seed is None:
            seed = draw_seed()
        x, y = as_tensor(x_train, "x_train"), as_tensor(y_train, "y_train")
        train = checked(x, y, "train")
        train_part: Dataset
        held_part: Dataset
        train_part = train
        if x_valid is None:
            kept, held = split_indices(len(train), 0.2 if valid is None else valid, seed)
            train_part, held_part = Subset(train, kept), Subset(train, held)
        else:
            held_part = checked(as_tensor(x_valid, "x_valid"), as_tensor(y_valid, "y_valid"), "valid")
        whole = not y.is_floating_point() and y.ndim == 1
        return cls(
            DataLoader(train_part, batch_size, shuffle=True, seed=seed, augment=augment),
            DataLoader(held_part, valid_batch_size),
            classes=[str(label) for label in range(int(y.max()) + 1)] if whole else None,
            image_size=(x.shape[1], x.shape[2]) if x.dtype == torch.uint8 and x.ndim == 3 else None,
        )


def held_out(valid: float, samples: int) -> int:
    """How many of `samples` to hold out: a count, or a share between 0 and 1."""
    count = round(valid * samples) if 0 < valid < 1 else int(valid)
    if not 0 < count < samples:
        raise DataError(f"valid must be a share in (0, 1) or a count below {samples}, got {valid}")
    return count


def checked(x: Tensor, y: Tensor, part: str) -> TensorDataset:
    """A dataset of inputs and targets that have been looked at."""
    return TensorDataset(*prepared(x, y, part), transform=scaling_of(x))


def prepared(x: Tensor, y: Tensor, part: str) -> tuple[Tensor, Tensor]:
    """Inputs and targets as training keeps them: as many targets as inputs, no NaN, floats unless they are images."""
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
        raise DataError(f"{part}: inputs of {tuple(x.shape)} need as many targets, got {tuple(y.shape)}")
    check_finite(x, f"x_{part}")
    check_finite(y, f"y_{part}")
    images = x.dtype == torch.uint8 and x.ndim in (3, 4)
    if y.is_floating_point() and y.ndim == 1:
        y = y.unsqueeze(1)  # (n,) -> (n, 1), the shape of a model's one output
    return x if images or x.is_floating_point() else x.float(), y


def split_indices(samples: int, valid: float, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of the samples to train on and of those to hold out, by a permutation that depends on the seed alone."""
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(fold(seed)))
    cut = samples - held_out(valid, samples)
    return order[:cut], order[cut:]


def scaling_of(x: Tensor) -> Callable[[Batch], Batch]:
    """What turns a batch of such inputs into what a model takes: bytes of images become floats in [0, 1]."""
    if x.dtype == torch.uint8 and x.ndim in (3, 4):
        return scale_images if x.ndim == 3 else scale_channels
    return as_it_is


def scale_channels(batch: Batch) -> Batch:
    """Bytes to floats in [0, 1]: (B, C, H, W) uint8 -> float32; the labels stay."""
    images, labels = batch
    return images.float().div_(255), labels


def as_it_is(batch: Batch) -> Batch:
    """The batch, which needs no scaling."""
    return batch


def get_dls(train_ds: Any, valid_ds: Any, batch_size: int) -> tuple[DataLoader, DataLoader]:
    """A shuffled training loader and a validation loader of twice its batch size, from two datasets."""
    return DataLoader(train_ds, batch_size, shuffle=True), DataLoader(valid_ds, batch_size * 2)
