"""What can be made again, kept in folders: each appears at once, and those of decoded pictures stay within a bound.

A folder of decoded pictures is in use as long as a process has it mapped, which holds a shared lock on its index; one
is only ever removed by who got the exclusive lock. Its index is touched with every use, so that its time says which
folder was not needed for longest.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import shutil
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from clearloop import durable
from clearloop.errors import ConfigError, StorageError

try:
    import fcntl
except ImportError:  # Windows, which lets nobody remove a file that is mapped
    fcntl = None  # type: ignore[assignment]

ABANDONED_S = 24 * 3600  # what a writer that was killed left is removed once it is so old
TEMPORARY = ".tmp-"  # what names of folders that are being written begin with
IMAGES = "images"  # the folder of decoded pictures; all in it is ours
INDEX = "index.json"  # of one folder of decoded pictures
MOST_GIB = 50.0  # of decoded pictures, unless the environment says so
VARIABLE = "CLEARLOOP_CACHE_GIB"


def cache_folder() -> Path:
    """Where what can be made again is kept: `$CLEARLOOP_HOME`, or `clearloop` in the user's cache."""
    home, cache = os.environ.get("CLEARLOOP_HOME", ""), os.environ.get("XDG_CACHE_HOME", "")
    if home:
        return Path(home).expanduser().absolute()
    return (Path(cache) if os.path.isabs(cache) else Path.home() / ".cache") / "clearloop"


# -- writing -----------------------------------------------------------------------------------------------------------


def write_at_once(
    target: Path,
    fill: Callable[[Path], None],
    *,
    stands: Callable[[Path], bool] = Path.is_dir,
    abandoned: str | None = None,
    older_than_s: float = ABANDONED_S,
) -> None:
    """Fill a folder of a temporary name and rename it at the end, so that half of it is never seen.

    Args:
        fill: writes into the folder that it is given.
        stands: whether a folder that another process wrote meanwhile is as good; one that is not makes way.
        abandoned: which names beside `target` are of writers that were killed; those of this target when None.
        older_than_s: how long ago a killed writer must have written last.
    """
    disk = durable.current()
    durable.make_directory(target.parent)
    sweep(target.parent, abandoned or f"{TEMPORARY}{target.name}-*", older_than_s)
    temporary = target.with_name(f"{TEMPORARY}{target.name}-{uuid4().hex}")
    try:
        disk.mkdir(temporary)
        fill(temporary)
        if os.path.lexists(target) and not stands(target):
            shutil.rmtree(target, ignore_errors=True)
        try:
            disk.rename(temporary, target)
        except StorageError:
            if not stands(target):  # otherwise another process was faster
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sweep(folder: Path, pattern: str, older_than_s: float) -> None:
    """Remove what writers that were killed left in a folder, by its names and by when they wrote last."""
    for path in folder.glob(pattern):
        with contextlib.suppress(OSError):  # another process may do the same
            times = [entry.stat().st_mtime for entry in os.scandir(path) if entry.is_file()]
            if time.time() - max(path.stat().st_mtime, *times, 0) > older_than_s:
                shutil.rmtree(path, ignore_errors=True)


# -- decoded pictures --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CachedPictures:
    """One folder of decoded pictures: its size, when it was last used (seconds since 1970), and if it is now."""

    path: Path
    size_bytes: int
    last_used_s: float
    in_use: bool


def cached_pictures() -> list[CachedPictures]:
    """What `from_folder(..., cache="disk")` keeps, that which was not used for longest first.

    for kept in cached_pictures():
        print(kept.path, kept.size_bytes, kept.in_use)
    """
    found = []
    with contextlib.suppress(FileNotFoundError):
        for path in (cache_folder() / IMAGES).iterdir():
            with contextlib.suppress(OSError):  # another process removes it just now
                if not path.name.startswith(TEMPORARY) and path.is_dir():
                    size = sum(entry.stat().st_size for entry in os.scandir(path))
                    with alone(path) as free:
                        used = last_used(path)
                    found.append(CachedPictures(path, size, used, not free))
    return sorted(found, key=lambda one: (one.last_used_s, one.path))


def prune_pictures(most_bytes: int = 0) -> list[CachedPictures]:
    """Remove decoded pictures, those first that were not used for longest, until `most_bytes` are left.

    Those that a process has open are never removed. What was removed is decoded again when it is next asked for.
    Returns: what was removed. Raises: ConfigError for a number below 0.
    """
    if not most_bytes >= 0:
        raise ConfigError(f"most_bytes must be at least 0, got {most_bytes!r}")
    kept, removed = cached_pictures(), []
    total = sum(one.size_bytes for one in kept)
    for one in kept:
        if total <= most_bytes:
            break
        if remove_unused(one.path):
            removed.append(one)
            total -= one.size_bytes
    return removed


def make_room(needed: int) -> int:
    """Prune for `needed` bytes more: to the bound, and further where the disk is full. Returns what is free on it.

    Pictures that are larger than the bound alone are kept all the same, and alone. Nothing is removed where that would
    not make enough room.
    """
    folder, bound = cache_folder() / IMAGES, most_cached_bytes()
    kept, free = cached_pictures(), shutil.disk_usage(folder).free
    if needed > free + sum(one.size_bytes for one in kept if not one.in_use):
        return free  # it would be of no use
    prune_pictures(max(0, bound - needed))
    lacking = needed - shutil.disk_usage(folder).free
    if lacking > 0:
        prune_pictures(max(0, sum(one.size_bytes for one in cached_pictures()) - lacking))
    return shutil.disk_usage(folder).free


def most_cached_bytes() -> int:
    """How many bytes of decoded pictures are kept: `$CLEARLOOP_CACHE_GIB`, or 50 GiB. Raises ConfigError."""
    text = os.environ.get(VARIABLE, "")
    try:
        found = float(text) if text else MOST_GIB
    except ValueError:
        found = math.nan
    if not 0 <= found < math.inf:
        raise ConfigError(f"expected {VARIABLE} to be a number of GiB, 0 or more, got {text!r}")
    return int(found * 2**30)


def last_used(path: Path) -> float:
    """When a folder of decoded pictures was last asked for; damaged ones count as never."""
    try:
        return (path / INDEX).stat().st_mtime
    except OSError:
        return 0.0


def remove_unused(path: Path) -> bool:
    """Remove a folder of decoded pictures, unless a process has it open; whether it is gone."""
    aside = path.with_name(f"{TEMPORARY}{path.name}-{uuid4().hex}")
    with alone(path) as free:
        if not free:
            return False
        try:
            os.rename(path, aside)  # who comes now finds nothing, rather than half of it
        except OSError:
            return False
    shutil.rmtree(aside, ignore_errors=True)
    return True


@contextlib.contextmanager
def alone(path: Path) -> Iterator[bool]:
    """Lock a folder of decoded pictures against all others for a block, if none has it open; whether that worked."""
    try:
        descriptor = os.open(path / INDEX, os.O_RDONLY)
    except OSError as error:
        yield isinstance(error, FileNotFoundError)  # without an index nobody can have it open
        return
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        free = True
    except OSError:  # another has it open; or the file system has no locks, and nothing is removed from it
        free = False
    try:
        yield free
    finally:
        os.close(descriptor)


def keep_in_use(path: Path, mapped: mmap.mmap) -> bool:
    """Keep a folder of decoded pictures from being removed as long as its file is mapped; False where it is going."""
    try:
        descriptor = os.open(path / INDEX, os.O_RDONLY)
    except OSError:
        return False
    weakref.finalize(mapped, os.close, descriptor)
    if fcntl is not None:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_SH)  # others lock it but for a moment, to look or to rename it
    try:
        still = os.stat(path / INDEX).st_ino == os.fstat(descriptor).st_ino
    except OSError:
        return False
    if still:
        with contextlib.suppress(OSError):  # a cache that belongs to somebody else
            os.utime(path / INDEX)
    return still
