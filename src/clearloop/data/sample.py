"""Folders of pictures to learn with: written once from the embedded MNIST, or unpacked once from any archive."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from clearloop import durable
from clearloop.data import download
from clearloop.data.cache import TEMPORARY, cache_folder, write_at_once
from clearloop.data.idx import read_idx
from clearloop.data.mnist import MNIST_FOLDER, mnist
from clearloop.errors import CheckpointError, ConfigError, DataError

ABANDONED_S = 3600  # what a writer that was killed left is removed once it is so old; writing takes seconds
LABELS = "labels.csv"
ARCHIVES, FILES, RECORD = "archives", "files", "archive.json"  # where archives are unpacked, and what each was


class URLs:
    """The collections that `untar_data` knows."""

    MNIST_SAMPLE = "mnist_sample"  # the threes and sevens: train/3, train/7, valid/3, valid/7, labels.csv
    MNIST = "mnist_png"  # all 70,000 digits: training/0 to training/9, testing/0 to testing/9


PARTS = {  # the folders of each collection: a folder's name for the training file, and for the test file
    URLs.MNIST_SAMPLE: ("train", "valid"),
    URLs.MNIST: ("training", "testing"),
}
DIGITS = {URLs.MNIST_SAMPLE: (3, 7), URLs.MNIST: tuple(range(10))}


def untar_data(url: str, sha256: str | None = None) -> Path:
    """The folder of a collection of pictures, written into the user's cache the first time.

    Of `URLs`, each picture is a grey PNG of 28 x 28 pixels, in a folder named like its digit, and is named by its place
    in MNIST's training or test file. `labels.csv` of the sample has a row for each: its path, then 0 for a three and 1
    for a seven. These need no network. Any other archive is fetched, with a progress bar on a terminal, and unpacked
    where nothing can leave the folder.

    Args: `url`, one of `URLs`, or the `https://` or `file:` address of a .tgz, .tar.gz, .tar or .zip archive (`http://`
    too, where the hash is given); `sha256`, the hash that the archive must have.
    Returns: the folder, in `$CLEARLOOP_HOME`, or else `clearloop` in the user's cache (`$XDG_CACHE_HOME`, ~/.cache);
    where an archive holds one folder and nothing beside it, that folder.
    Raises: ConfigError for anything else; StorageError where the cache cannot be written; DataError for a folder that
    is there and lacks pictures, and for an archive that cannot be had, is damaged, has another hash or is not safe.

        path = untar_data(URLs.MNIST_SAMPLE)  # path / "train" / "3" / "10.png"
    """
    if url not in PARTS:
        if not isinstance(url, str) or "/" not in url:
            raise ConfigError(
                f"expected URLs.MNIST_SAMPLE or URLs.MNIST, which come with clearloop, or the address of an archive, "
                f"https://… or file:…, got {str(url)!r}"
            )
        return unpacked(url, sha256)
    if sha256 is not None:
        raise ConfigError(f"{url} comes with clearloop, there is no archive to compare a hash with: leave sha256 out")
    target = cache_folder() / url
    if not os.path.lexists(target):
        write_collection(url, target)
    check_whole(url, target)
    return target


def unpacked(url: str, sha256: str | None) -> Path:
    """The folder of an archive, fetched and unpacked if it is not there."""
    ending = download.check_url(url, sha256)
    target = cache_folder() / ARCHIVES / archive_name(url, ending)
    if not os.path.lexists(target):

        def fill(folder: Path) -> None:
            found = download.fetch(url, folder / "archive", sha256)
            download.unpack(folder / "archive", folder / FILES, url)
            durable.current().unlink(folder / "archive")
            durable.current().write(folder / RECORD, durable.dumps_strict({"url": url, "sha256": found}))

        write_at_once(target, fill, abandoned=f"{TEMPORARY}*")  # all of it: an address may never be asked for again
    try:
        found = durable.loads_strict((target / RECORD).read_bytes(), str(target / RECORD))["sha256"]
    except (OSError, CheckpointError, LookupError, TypeError) as error:
        raise DataError(f"{target}: expected an unpacked archive, got {error}; remove it and call again") from error
    if sha256 is not None and found != sha256.lower():
        raise DataError(
            f"{target}: expected the files of an archive with SHA-256 {sha256.lower()}, got those of one with {found}; "
            "remove the folder and call again"
        )
    return only_folder(target / FILES)


def archive_name(url: str, ending: str) -> str:
    """What the folder of an archive is called: its own name, with a hash of the address; a file's date goes into it."""
    parts = urllib.parse.urlsplit(url)
    version = ""
    if parts.scheme == "file":
        with contextlib.suppress(OSError):
            status = os.stat(urllib.request.url2pathname(parts.path))
            version = f" {status.st_size} {status.st_mtime_ns}"
    name = urllib.parse.unquote(parts.path.rsplit("/", 1)[-1])[: -len(ending)]
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:60] or "archive"
    return f"{plain}-{hashlib.sha256((url + version).encode()).hexdigest()[:10]}"


def only_folder(folder: Path) -> Path:
    """The folder in `folder`, if it is all that is in there."""
    there = [entry for entry in folder.iterdir() if not entry.name.startswith(".") and entry.name != "__MACOSX"]
    return there[0] if len(there) == 1 and there[0].is_dir() and not there[0].is_symlink() else folder


def write_collection(url: str, target: Path) -> None:
    """Write all pictures of one of `URLs`."""
    write_at_once(target, lambda folder: write_pictures(url, folder), older_than_s=ABANDONED_S)


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
