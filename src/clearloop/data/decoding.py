"""Many picture files to one array of bytes, by threads, in memory or in a file that is mapped into it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from clearloop import durable
from clearloop.data.arrays import from_numpy
from clearloop.data.cache import IMAGES, INDEX, TEMPORARY, cache_folder, keep_in_use, make_room, write_at_once
from clearloop.data.download import progress
from clearloop.errors import ClearloopError, DataError, StorageError
from clearloop.imaging import colour_pixels, grey_pixels, is_grey, load_image

if TYPE_CHECKING:
    from PIL.Image import Image

FORMAT = 1  # of the files in the cache, and of how pictures are decoded: a change of either needs another number
PIXELS = "pixels.npy"
SHOWN = 20  # bad files that an error names
CHUNK = 32  # files that a thread decodes before it asks for more
MOST_THREADS = 16
MANY = 2000  # files, of which the decoding is shown with a bar
MARGIN = 0.8  # of the memory that is free may be filled; training needs some as well

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)

Size = int | tuple[int, int]
Pixels = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True)
class Pictures:
    """Decoded pictures: `pixels`, uint8 of shape (n, H, W) or (n, 3, H, W); `kept`, which files they are of, (n,)."""

    pixels: Tensor
    kept: Tensor


@dataclass
class Job:
    """What the threads that decode share: what is asked for, and what they found out. Each writes its own rows."""

    files: Sequence[Path]
    size: tuple[int, int]
    exact: bool  # whether all pictures must have this size
    grey: bool
    assumed: bool  # whether `grey` is a guess
    pixels: Pixels
    bad: dict[int, str] = field(default_factory=dict)
    other_sizes: dict[int, tuple[int, int]] = field(default_factory=dict)
    coloured: bool = False
    stop: threading.Event = field(default_factory=threading.Event)

    def decode(self, rows: range) -> None:
        """Decode some of the files into their rows; what cannot be read is noted."""
        for row in rows:
            if self.stop.is_set():
                return
            try:
                self._decode(row)
            except DataError as error:
                self.bad[row] = named(self.files[row], error)

    def _decode(self, row: int) -> None:
        image = opened(self.files[row])
        if self.exact and (image.height, image.width) != self.size:
            self.other_sizes[row] = image.height, image.width
            self.stop.set()
        elif self.assumed and not is_grey(image):
            self.coloured = True
            self.stop.set()
        else:
            to_pixels = grey_pixels if self.grey else colour_pixels
            self.pixels[row] = to_pixels(image, self.size).numpy()


def read_pictures(
    root: Path,
    files: Sequence[Path],
    misplaced: Sequence[Path],
    size: tuple[int, int] | None,
    grey: bool | None,
    cache: str,
    skip_bad: bool,
    workers: int | None,
) -> Pictures:
    """Decode every file, or map what an earlier call decoded; see `ImageDataLoaders.from_folder` for the arguments.

    Raises: DataError for files that are no pictures (unless `skip_bad`), for several sizes where none is given, and
    for more than fits into memory; StorageError where the cache cannot be written.
    """
    beside = "expected pictures in folders of classes, got one beside them"
    bad = {str(path): printable(f"{path}: {beside}") for path in misplaced}
    if cache == "disk":
        pixels, found = on_disk(root, files, size, grey, workers)
    else:
        pixels, found = decode(files, size, grey, workers, in_memory)
    report([*bad.values(), *(found[row] for row in sorted(found))], skip_bad)
    kept = torch.tensor([row for row in range(len(files)) if row not in found], dtype=torch.int64)
    if len(kept) == 0:
        raise DataError(f"{root}: expected pictures, got {len(files)} files of which none is one")
    return Pictures(from_numpy(pixels), kept)


def report(bad: Sequence[str], skip: bool) -> None:
    """Name the files that cannot be used, in an error or in a warning."""
    if not bad:
        return
    listed = "\n  ".join([*bad[:SHOWN], *([f"… and {len(bad) - SHOWN} more"] if len(bad) > SHOWN else [])])
    count = f"{len(bad)} file{'s' if len(bad) > 1 else ''}"
    if not skip:
        raise DataError(f"{count} cannot be trained on; mend or remove them, or pass skip_bad=True:\n  {listed}")
    warn(f"{count} cannot be trained on, and {'are' if len(bad) > 1 else 'is'} left out:\n  {listed}")


def warn(message: str) -> None:
    """Warn at the line outside of clearloop that led here, however many calls lie between."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("clearloop."):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)


# -- decoding ----------------------------------------------------------------------------------------------------------


def decode(
    files: Sequence[Path],
    size: tuple[int, int] | None,
    grey: bool | None,
    workers: int | None,
    allocate: Callable[[tuple[int, ...]], Pixels],
) -> tuple[Pixels, dict[int, str]]:
    """All files that are pictures, in their order, and what is wrong with each of the others, by its number.

    Nobody has to say whether pictures are grey: they are taken to be as the first is, and once one has colour all are
    decoded anew.
    """
    import PIL.Image

    PIL.Image.init()  # Pillow finds its decoders when it first needs one, which threads must not do at once
    with warnings.catch_warnings():  # threads would undo each other's
        warnings.simplefilter("ignore")
        wrong, first = first_picture(files)
        if first is None:
            return np.empty((0, 1, 1), np.uint8), wrong
        exact, assumed = size is None, grey is None and is_grey(first)
        size = size or (first.height, first.width)
        grey = assumed if grey is None else grey
        job = run(files, size, exact, grey, assumed, workers, allocate)
        if job.coloured:
            del job  # and its memory
            job = run(files, size, exact, False, False, workers, allocate)
    if job.other_sizes:
        row = min(job.other_sizes)
        other, usual = (printable(str(files[at])) for at in (row, len(wrong)))
        raise DataError(
            f"{other}: expected {text(size)} pixels as in {usual}, got {text(job.other_sizes[row])}; pictures of "
            "several sizes need one to be brought to: pass size=128, say, or size=(height, width)"
        )
    return compact(job), job.bad


def opened(path: Path) -> Image:
    """A file's picture. Raises DataError; a name that is no picture's is a mistake too, whatever the file holds."""
    if path.suffix.lower() not in SUFFIXES:
        what = f"a name in {path.suffix}" if path.suffix else "a name without an ending"
        raise DataError(f"{path}: expected the name of a picture (.png, .jpg, …), got {what}; rename or remove it")
    return load_image(path)


def first_picture(files: Sequence[Path]) -> tuple[dict[int, str], Image | None]:
    """What is wrong with the files before the first that is a picture, and that picture; None where there is none."""
    wrong: dict[int, str] = {}
    for row, path in enumerate(files):
        try:
            return wrong, opened(path)
        except DataError as error:
            wrong[row] = named(path, error)
    return wrong, None


def run(
    files: Sequence[Path],
    size: tuple[int, int],
    exact: bool,
    grey: bool,
    assumed: bool,
    workers: int | None,
    allocate: Callable[[tuple[int, ...]], Pixels],
) -> Job:
    """Decode with threads: Pillow lets others work while it decodes, and nothing has to be sent between processes."""
    shape = (len(files), *size) if grey else (len(files), 3, *size)
    job = Job(files, size, exact, grey, assumed, allocate(shape))
    pieces = [range(start, min(start + CHUNK, len(files))) for start in range(0, len(files), CHUNK)]
    with ThreadPoolExecutor(workers or cores()) as pool:
        try:
            with progress("decoding", "files") if len(files) > MANY else contextlib.nullcontext(quiet) as show:
                for piece, _ in zip(pieces, pool.map(job.decode, pieces), strict=True):
                    show(piece.stop, len(files))
        except BaseException:
            job.stop.set()  # so that Ctrl-C does not wait for the rest
            raise
    return job


def quiet(done: int, total: int | None) -> None:
    """No bar."""


def compact(job: Job) -> Pixels:
    """The rows of good files, moved up over those of bad ones, in the same memory."""
    kept = [row for row in range(len(job.files)) if row not in job.bad]
    for place, row in enumerate(kept):
        if place != row:
            job.pixels[place] = job.pixels[row]
    return job.pixels[: len(kept)]


def in_memory(shape: tuple[int, ...]) -> Pixels:
    """An array, if there is room for it. Raises DataError."""
    needed, free = math.prod(shape), free_memory()
    if free is not None and needed > MARGIN * free:
        raise DataError(
            f"{shape[0]} pictures of {text(shape[-2:])} pixels need {megabytes(needed)} of memory, got "
            f'{megabytes(free)} that are free; pass cache="disk", or a smaller size'
        )
    try:
        return np.empty(shape, np.uint8)
    except (MemoryError, ValueError):
        raise DataError(
            f"{shape[0]} pictures of {text(shape[-2:])} pixels do not fit into memory; pass a smaller size"
        ) from None


def free_memory() -> int | None:
    """Bytes that this process may still fill, as far as the system says: of the machine, and of its control group."""
    free = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free.append(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")))
    with contextlib.suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        used = int((group / "memory.current").read_text())
        free.append(int((group / "memory.max").read_text()) - used)  # "max" is no number: no limit
    return min(free) if free else None


def cores() -> int:
    """How many threads pay: one for each core that this process may use, as far as Python's own lock lets them."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(found, MOST_THREADS)


def named(path: Path, error: DataError) -> str:
    """What is wrong with a file, beginning with its path."""
    return printable(str(error) if str(error).startswith(f"{path}:") else f"{path}: {error}")


def printable(message: str) -> str:
    """A message in one line that any terminal takes: names of files may hold line breaks, and bytes that are no text.

    >>> printable("a\\nb.png")
    'a\\\\nb.png'
    """
    return "".join(mark if mark.isprintable() else mark.encode("unicode_escape").decode() for mark in message)


def text(size: Sequence[int]) -> str:
    """Height and width as one says them: width first.

    >>> text((28, 20))
    '20 x 28'
    """
    return f"{size[1]} x {size[0]}"


def megabytes(count: int) -> str:
    """Bytes, for messages."""
    return f"{count / 2**20:,.0f} MiB"


# -- on disk -----------------------------------------------------------------------------------------------------------


def on_disk(
    root: Path, files: Sequence[Path], size: tuple[int, int] | None, grey: bool | None, workers: int | None
) -> tuple[Pixels, dict[int, str]]:
    """The pixels in a file of the cache, mapped for reading; decoded now if none is there."""
    target = cache_folder() / IMAGES / key_of(root, files, size, grey)
    found = mapped(target, len(files))
    if found is None:
        write(target, files, size, grey, workers)
        found = mapped(target, len(files))
    if found is None:
        raise StorageError(
            f"expected the pictures that were just written in {target}, got a damaged file; check the disk"
        )
    return found


def key_of(root: Path, files: Sequence[Path], size: tuple[int, int] | None, grey: bool | None) -> str:
    """A name for the bytes that these files give: it changes with a file's path, size or time, and with the options."""
    listing: list[tuple[str, int, int]] = []
    for name in map(str, files):
        try:
            status = os.stat(name)
            listing.append((name, status.st_size, status.st_mtime_ns))
        except OSError:
            listing.append((name, -1, -1))  # a link to nothing, which decoding reports
    content = json.dumps([FORMAT, os.path.abspath(root), size, grey, listing])  # ASCII, whatever the names are
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def mapped(target: Path, files: int) -> tuple[Pixels, dict[int, str]] | None:
    """What an earlier call wrote; None where there is nothing, or it is not whole."""
    try:
        index = durable.loads_strict((target / INDEX).read_bytes(), str(target / INDEX))
        pixels = np.load(target / PIXELS, mmap_mode="r", allow_pickle=False)
        bad = {int(row): str(message) for row, message in index["bad"].items()}
        whole = index["format"] == FORMAT and list(pixels.shape) == index["shape"] and pixels.dtype == np.uint8
    except (OSError, ClearloopError, ValueError, LookupError, TypeError, AttributeError, EOFError):  # in whatever way
        return None
    whole = whole and len(pixels) == (files if len(bad) < files else 1)
    return (pixels[: files - len(bad)], bad) if whole and keep_in_use(target, pixels._mmap) else None


def write(
    target: Path, files: Sequence[Path], size: tuple[int, int] | None, grey: bool | None, workers: int | None
) -> None:
    """Decode into a file of the cache."""

    def fill(folder: Path) -> None:
        place = Reserved(folder / PIXELS)
        _, bad = decode(files, size, grey, workers, place)
        index = {"format": FORMAT, "shape": place.finish(), "bad": {str(row): bad[row] for row in sorted(bad)}}
        durable.write_file(folder / INDEX, durable.dumps_strict(index))

    def stands(folder: Path) -> bool:
        return mapped(folder, len(files)) is not None

    write_at_once(target, fill, stands=stands, abandoned=f"{TEMPORARY}*")  # all: the same files may never come again


class Reserved:
    """An allocator of one array in a file, whose room on the disk is taken before anything is written there.

    A file that is mapped and has holes kills the process when the disk is full.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.array: np.memmap[Any, np.dtype[np.uint8]] | None = None

    def __call__(self, shape: tuple[int, ...]) -> Pixels:
        """An array of zeros. Raises StorageError where the disk has no room for it."""
        needed = math.prod(shape)
        try:
            free = make_room(needed)
            if needed > free:
                raise StorageError(
                    f"{shape[0]} decoded pictures need {megabytes(needed)} in {self.path.parent.parent}, and "
                    f"{megabytes(free)} are free; free space, set CLEARLOOP_HOME elsewhere, or pass a smaller size"
                )
            array = np.lib.format.open_memmap(self.path, "w+", np.uint8, shape)
            if hasattr(os, "posix_fallocate"):
                with self.path.open("r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, self.path.stat().st_size)
        except StorageError:
            raise
        except OSError as error:
            failed = StorageError(f"expected to write {self.path}, got {error.strerror}; free space on its disk")
            failed.errno = error.errno
            raise failed from error
        self.array = array
        return array

    def finish(self) -> list[int]:
        """Write what is in memory to the file; its shape."""
        if self.array is None:  # there was no picture
            self((1, 1, 1))
        assert self.array is not None
        self.array.flush()
        return list(self.array.shape)
