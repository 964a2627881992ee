"""Folders of pictures to learn with, written once from the embedded MNIST: no network."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

from torch import Tensor

from clearloop import durable
from clearloop.data.idx import read_idx
from clearloop.data.mnist import MNIST_FOLDER, mnist
from clearloop.errors import ConfigError, DataError, StorageError

ABANDONED_S = 3600  # what a writer that was killed left is removed once it is so old; writing takes seconds
LABELS = "labels.csv"


class URLs:
    """The collections that `untar_data` knows."""

    MNIST_SAMPLE = "mnist_sample"  # the threes and sevens: train/3, train/7, valid/3, valid/7, labels.csv
    MNIST = "mnist_png"  # all 70,000 digits: training/0 to training/9, testing/0 to testing/9


PARTS = {  # the folders of each collection: a folder's name for the training file, and for the test file
    URLs.MNIST_SAMPLE: ("train", "valid"),
    URLs.MNIST: ("training", "testing"),
}
DIGITS = {URLs.MNIST_SAMPLE: (3, 7), URLs.MNIST: tuple(range(10))}


def untar_data(url: str) -> Path:
    """The folder of a collection of pictures, written into the user's cache the first time.

    Each picture is a grey PNG of 28 x 28 pixels, in a folder named like its digit, and is named by its place in
    MNIST's training or test file. `labels.csv` of the sample has a row for each: its path, then 0 for a three and 1
    for a seven.

    Args: `url`, one of `URLs`.
    Returns: the folder, in `$CLEARLOOP_HOME`, or else `clearloop` in the user's cache (`$XDG_CACHE_HOME`, ~/.cache).
    Raises: ConfigError for anything else; StorageError where the cache cannot be written; DataError for a folder that
    is there and lacks pictures.

        path = untar_data(URLs.MNIST_SAMPLE)  # path / "train" / "3" / "10.png"
    """
    if url not in PARTS:
        raise ConfigError(
            f"expected URLs.MNIST_SAMPLE or URLs.MNIST, which come with clearloop, got {str(url)!r}; unpack other "
            "collections yourself: archives are not fetched yet"
        )
    target = cache_folder() / url
    if not os.path.lexists(target):
        write_collection(url, target)
    check_whole(url, target)
    return target


def cache_folder() -> Path:
    """Where what can be made again is kept: `$CLEARLOOP_HOME`, or `clearloop` in the user's cache."""
    home, cache = os.environ.get("CLEARLOOP_HOME", ""), os.environ.get("XDG_CACHE_HOME", "")
    if home:
        return Path(home).expanduser().absolute()
    return (Path(cache) if os.path.isabs(cache) else Path.home() / ".cache") / "clearloop"


def write_collection(url: str, target: Path) -> None:
    """Write all pictures under a temporary name and rename the folder at the end, so that half of it is never seen."""
    disk = durable.current()
    durable.make_directory(target.parent)
    sweep(target)
    temporary = target.with_name(f".tmp-{target.name}-{uuid4().hex}")
    try:
        disk.mkdir(temporary)
        write_pictures(url, temporary)
        try:
            disk.rename(temporary, target)
        except StorageError:
            if not target.is_dir():  # otherwise another process was faster: its folder is as good
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_pictures(url: str, folder: Path) -> None:
    """The folders and pictures of a collection, and the table of labels where it has one."""
    from PIL import Image

    disk, digits = durable.current(), mnist()
    images = (digits.train_images, digits.test_images)
    rows = ["name,label"]
    for part, part_images, part_labels in zip(PARTS[url], images, labels(), strict=True):
        disk.mkdir(folder / part)
        for digit in DIGITS[url]:
            disk.mkdir(folder / part / str(digit))
        for index, name in names(url, part, part_labels):
            picture = io.BytesIO()
            Image.fromarray(part_images[index].numpy()).save(picture, "PNG")
            disk.write(folder / name, picture.getvalue())
            rows.append(f"{name},{DIGITS[url].index(int(part_labels[index]))}")
    if url == URLs.MNIST_SAMPLE:
        disk.write(folder / LABELS, ("\n".join(rows) + "\n").encode())


def names(url: str, part: str, part_labels: Tensor) -> Iterator[tuple[int, str]]:
    """The index of each picture of a part, in order, with its path below the collection's folder."""
    for index, digit in enumerate(part_labels.tolist()):
        if digit in DIGITS[url]:
            yield index, f"{part}/{digit}/{index}.png"


def labels() -> tuple[Tensor, Tensor]:
    """The labels alone, of the training and the test file: reading the images takes much longer."""
    train, test = (read_idx(MNIST_FOLDER / f"{part}-labels-idx1-ubyte.gz") for part in ("train", "t10k"))
    return train, test


def check_whole(url: str, folder: Path) -> None:
    """Refuse a folder that lacks a picture: somebody removed it, or the machine lost power as it was written."""
    for part, part_labels in zip(PARTS[url], labels(), strict=True):
        there = {}
        for digit in DIGITS[url]:
            place = folder / part / str(digit)
            if place.is_dir():
                with os.scandir(place) as entries:
                    there.update({f"{part}/{digit}/{entry.name}": entry.stat().st_size for entry in entries})
        for _, name in names(url, part, part_labels):
            if not there.get(name):
                came = "an empty one" if name in there else "none"
                raise DataError(f"{folder / name}: expected a picture, got {came}; remove {folder} and call again")
    if url == URLs.MNIST_SAMPLE and not (folder / LABELS).is_file():
        raise DataError(f"{folder / LABELS}: expected the table of labels, got none; remove {folder} and call again")


def sweep(target: Path) -> None:
    """Remove what writers of `target` that were killed left beside it."""
    for path in target.parent.glob(f".tmp-{target.name}-*"):
        with contextlib.suppress(OSError):  # another process may do the same
            if time.time() - path.stat().st_mtime > ABANDONED_S:
                shutil.rmtree(path, ignore_errors=True)
