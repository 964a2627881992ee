"""DataLoaders: a training and a validation loader together, with what a predictor needs to know about the data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from clearloop.component import remember
from clearloop.data.arrays import as_tensor, check_finite, read_npz
from clearloop.data.augment import Augment
from clearloop.data.dataset import Batch, Dataset, Subset, TensorDataset
from clearloop.data.idx import read_labelled_images
from clearloop.data.loader import DataLoader, Loader, as_loader, draw_seed, seeded
from clearloop.data.mapped import MappedDataset, map_npy
from clearloop.data.mnist import MNIST_FOLDER, VALID_IMAGES
from clearloop.errors import ConfigError, DataError
from clearloop.rng import fold

if TYPE_CHECKING:
    from clearloop.data.normalize import Normalize
    from clearloop.data.table_spec import TableSpec

Targets = Literal["labels", "inputs"]  # what a net is to give for an image: its class, or the image again


def scale_images(batch: Batch) -> Batch:
    """Bytes to floats in [0, 1]: (B, H, W) uint8 -> (B, 1, H, W) float32; the labels stay."""
    images, labels = batch
    return images.unsqueeze(1).float().div_(255), labels


def images_as_targets(batch: Batch) -> Batch:
    """Bytes to floats in [0, 1], for a net that gives back what goes in: (B, 1, H, W) and, as targets, (B, H * W)."""
    images, _ = scale_images(batch)
    return images, images.flatten(1)


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

    Args: `image_size`, (height, width) where the inputs are images in [0, 1], grey or of three colours: a predictor
    then takes image files. `normalize`, what the images were normalised with on top, which a predictor repeats.

    >>> dls = DataLoaders.mnist(batch_size=64, seed=0)
    >>> inputs, targets = next(iter(dls.train))
    >>> inputs.shape, inputs.dtype, targets.shape
    (torch.Size([64, 1, 28, 28]), torch.float32, torch.Size([64]))
    """

    recipe_call: dict[str, Any]
    table: TableSpec | None = None  # how rows of a table become inputs: a predictor then takes rows

    def __init__(
        self,
        train: Any,
        valid: Any = None,
        *,
        classes: Sequence[str] | None = None,
        image_size: tuple[int, int] | None = None,
        normalize: Normalize | None = None,
    ) -> None:
        self.train: Loader = as_loader(train)
        self.valid: Loader | None = None if valid is None else as_loader(valid)
        self.classes = None if classes is None else [str(name) for name in classes]
        self.image_size, self.normalize = image_size, normalize

    def __iter__(self) -> Iterator[Loader | None]:
        """For `train_dl, valid_dl = dls`."""
        return iter((self.train, self.valid))

    @classmethod
    @seeded
    @remember
    def mnist(
        cls,
        batch_size: int = 64,
        *,
        seed: int | None = None,
        valid_batch_size: int = 512,
        augment: Augment | None = None,
        targets: Targets = "labels",
        test: bool = False,
    ) -> DataLoaders:
        """The embedded digits: 50,000 to train on, shuffled anew every epoch, and 10,000 to validate on.

        Args: `targets`, "inputs" for a net that gives back what goes in; `test`, train on all 60,000 training images,
        validate on the 10,000 test images.
        """
        held = None if test else VALID_IMAGES
        return cls._idx(MNIST_FOLDER, batch_size, seed, valid_batch_size, held, augment, targets)

    @classmethod
    @seeded
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
        targets: Targets = "labels",
    ) -> DataLoaders:
        """Labelled images in MNIST's four IDX files (Fashion-MNIST and others come so), plain or gzipped.

        Args: `valid`, how many of the training images (the last ones), or which share of them, are held out for
        validation; when None the `t10k` files are the validation set. `targets`, "inputs" for a net that gives back
        what goes in.
        Raises: DataError, with the file, when one is missing, damaged or does not fit the others.
        """
        return cls._idx(Path(folder), batch_size, seed, valid_batch_size, valid, augment, targets)

    @classmethod
    def _idx(
        cls,
        folder: Path,
        batch_size: int,
        seed: int | None,
        valid_batch_size: int,
        valid: float | None,
        augment: Augment | None,
        targets: Targets,
    ) -> DataLoaders:
        if targets not in get_args(Targets):
            raise ConfigError(f'targets must be "labels" or "inputs", got {targets!r}')
        (images, labels), (valid_images, valid_labels) = idx_parts(folder, valid)
        transform = scale_images if targets == "labels" else images_as_targets
        train = TensorDataset(images, labels, transform=transform)
        held = TensorDataset(valid_images, valid_labels, transform=transform)
        return cls(
            DataLoader(train, batch_size, shuffle=True, seed=seed, augment=augment),
            DataLoader(held, valid_batch_size),
            classes=[str(label) for label in range(int(labels.max()) + 1)] if targets == "labels" else None,
            image_size=(images.shape[1], images.shape[2]),
        )

    @classmethod
    @seeded
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
        parts, valid_batches = npz_arrays(path), valid_batch_size
        return cls.arrays(
            *parts, batch_size=batch_size, seed=seed, valid_batch_size=valid_batches, valid=valid, augment=augment
        )

    @classmethod
    @seeded
    @remember
    def npy(
        cls,
        x_train: str | Path,
        y_train: str | Path,
        x_valid: str | Path | None = None,
        y_valid: str | Path | None = None,
        batch_size: int = 64,
        *,
        seed: int | None = None,
        valid_batch_size: int = 512,
        valid: float | None = None,
        augment: Augment | None = None,
    ) -> DataLoaders:
        """Arrays in `.npy` files of any size: they are mapped, and a batch reads its own rows alone.

        Args: files of inputs and targets, to train on and to validate with; without the latter, `valid` of them (0.2)
        are held out by seed.
        Raises: DataError for missing or damaged files and lengths that differ; for NaN when a batch is read.
        """
        paths = (x_train, y_train, x_valid, y_valid)
        parts = [None if path is None else map_npy(path) for path in paths]
        return cls.arrays(
            *parts, batch_size=batch_size, seed=seed, valid_batch_size=valid_batch_size, valid=valid, augment=augment
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
        Inputs that are a `np.memmap` stay on the disk, and so do targets beside them: see `MappedDataset`.

        >>> dls = DataLoaders.arrays(torch.randn(100, 5), torch.randn(100, 1), batch_size=10, seed=0)
        >>> len(dls.train), len(dls.valid.dataset)
        (8, 20)
        """
        if seed is None:
            seed = draw_seed()
        train = arrays_dataset(x_train, y_train, "train")
        train_part = held_part = train
        if x_valid is None:
            kept, held = split_indices(len(train), 0.2 if valid is None else valid, seed)
            train_part, held_part = Subset(train, kept), Subset(train, held)
        else:
            held_part = arrays_dataset(x_valid, y_valid, "valid")
        x, highest = train.gather(slice(1))[0], highest_label(train)
        return cls(
            DataLoader(train_part, batch_size, shuffle=True, seed=seed, augment=augment),
            DataLoader(held_part, valid_batch_size),
            classes=None if highest is None else [str(label) for label in range(highest + 1)],
            image_size=(x.shape[1], x.shape[2]) if x.dtype == torch.uint8 and x.ndim == 3 else None,
        )


def held_out(valid: float, samples: int) -> int:
    """How many of `samples` to hold out: a count, or a share between 0 and 1."""
    count = round(valid * samples) if 0 < valid < 1 else int(valid)
    if not 0 < count < samples:
        raise DataError(f"valid must be a share in (0, 1) or a count below {samples}, got {valid}")
    return count


def arrays_dataset(x: Any, y: Any, part: str) -> Dataset:
    """A dataset of inputs and targets: looked at where they are in memory, and left on the disk where `x` is mapped."""
    if not isinstance(x, np.memmap):
        inputs, targets = as_tensor(x, f"x_{part}"), as_tensor(y, f"y_{part}")
        return TensorDataset(*prepared(inputs, targets, part), transform=scaling_of(inputs))
    y = np.asarray(y)
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
        raise DataError(f"{part}: inputs of {x.shape} need as many targets, got {y.shape}")
    return MappedDataset(x, y, transform=prepared_batch)


def prepared_batch(batch: Batch) -> Batch:
    """A batch as `prepared` and `scaling_of` make it, for arrays that nobody can look at as a whole."""
    inputs, targets = scaling_of(batch[0])(batch)
    column = targets.is_floating_point() and targets.ndim == 1
    return (inputs if inputs.is_floating_point() else inputs.float()), targets.unsqueeze(1) if column else targets


def highest_label(data: Dataset) -> int | None:
    """The highest class label among targets that are whole numbers of shape (n,); None for others."""
    first = data.gather(slice(1))[1]
    if first.is_floating_point() or first.ndim != 1:
        return None
    if isinstance(data, MappedDataset):
        edges = torch.stack([torch.stack(torch.aminmax(labels)) for labels in data.columns(1)])
        low, high = int(edges[:, 0].min()), int(edges[:, 1].max())
        if low < 0:
            raise DataError(f"targets must be class labels of 0 or more, or floats; got {low}..{high}; mend them")
        return high
    assert isinstance(data, TensorDataset)
    return int(data.tensors[1].max())


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
