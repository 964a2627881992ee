"""Writes that survive a crash: every byte that a run writes passes through the `FileSystem` of this file.

Why each fsync is there: a file is synced before its rename (else the new name could show an empty file after a power
loss), a directory before its own rename (else files could be missing from it), and the parent after the rename (else
the rename itself could be lost although the caller was told that it happened).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from clearloop.errors import CheckpointError, RunError, StorageError

MANIFEST = "manifest.json"
FORMAT = 1  # of a directory with a manifest
JSON_LIMIT = 16 * 2**20  # bytes; a larger text is refused before it is parsed

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_TEMPORARY = re.compile(r"\.tmp-.+-(\d{1,10})", re.DOTALL)
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP)  # a file system that cannot sync a directory says one of these
_REMEDIES = {
    errno.EACCES: "choose a folder that you may write to",
    errno.EDQUOT: "free space within your quota or choose a folder on another disk",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f) or choose a folder on another file system",
    errno.EIO: "check the disk (dmesg) and choose a folder on another one",
    errno.EPERM: "choose a folder that you may write to",
    errno.EROFS: "choose a folder that you may write to",
}


class FileSystem:
    """The operations that change a disk, one method each; whatever the system refuses becomes a `StorageError`.

    Tests put another instance in place with `using`, to record the operations, or to fail or stop at the n-th.
    """

    def mkdir(self, path: Path) -> None:
        """Make one directory, whose parent is there."""
        _attempt("make directory", path, None, lambda: os.mkdir(path))

    def write(self, path: Path, data: bytes) -> None:
        """Create the file, or empty it, and write all of `data`."""
        _attempt("write", path, len(data), lambda: _write_all(path, "wb", data))

    def append(self, path: Path, data: bytes) -> None:
        """Write all of `data` after the end of the file, which is created if need be."""
        _attempt("append to", path, len(data), lambda: _write_all(path, "ab", data))

    def truncate(self, path: Path, size: int) -> None:
        """Cut the file to `size` bytes."""
        _attempt("cut", path, size, lambda: os.truncate(path, size))

    def fsync(self, path: Path) -> None:
        """Wait until the file's bytes, or the directory's entries, are on the disk."""
        _attempt("flush to disk", path, None, lambda: _sync(path))

    def rename(self, old: Path, new: Path) -> None:
        """Give a file or directory another name, in one step; a file of that name is replaced."""
        _attempt("rename", old, None, lambda: os.replace(old, new))

    def unlink(self, path: Path) -> None:
        """Remove a file."""
        _attempt("remove", path, None, lambda: os.unlink(path))

    def rmdir(self, path: Path) -> None:
        """Remove an empty directory."""
        _attempt("remove directory", path, None, lambda: os.rmdir(path))


_current: FileSystem = FileSystem()


def current() -> FileSystem:
    """The file system that writes go to."""
    return _current


@contextlib.contextmanager
def using(file_system: FileSystem) -> Iterator[FileSystem]:
    """Send every write of the block to `file_system`.

    >>> with using(FileSystem()) as file_system:
    ...     current() is file_system
    True
    """
    global _current
    before, _current = _current, file_system
    try:
        yield file_system
    finally:
        _current = before


def make_directory(path: Path) -> None:
    """Make `path` and the parents that are missing, durably; a directory that is there already is kept.

    Raises StorageError where the file system refuses, or where a file has that name.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.is_dir()]
    for folder in reversed(missing):
        try:
            _current.mkdir(folder)
        except StorageError:
            if not folder.is_dir():  # otherwise another process made it meanwhile
                raise
        _current.fsync(folder.parent)


def write_file(path: Path, data: bytes) -> None:
    """Write `path` so that it holds either what it held before or all of `data`, whatever happens.

    Args: `path`, whose folder is there; `data`, the whole content. Raises StorageError.
    """
    temporary = _temporary(path)
    try:
        _current.write(temporary, data)
        _current.fsync(temporary)
        _current.rename(temporary, path)
        _current.fsync(path.parent)
    except BaseException:
        _discard(temporary)
        raise


def append_file(path: Path, data: bytes, at: int) -> None:
    """Append `data` at byte `at` and wait until it is on the disk; after an error the file ends at `at` again.

    Args: `path`, made if missing; `at`, where the good part ends: what lies beyond (a write cut off) is removed first.
    Raises StorageError, or CheckpointError where the file is shorter than `at`.
    """
    size = path.stat().st_size if path.is_file() else None
    if (size or 0) < at:
        raise CheckpointError(f"{path}: expected at least {at} bytes, got {size or 0}; resume from an older checkpoint")
    if size is not None and size > at:
        _current.truncate(path, at)
    try:
        _current.append(path, data)
        _current.fsync(path)
        if size is None:
            _current.fsync(path.parent)
    except BaseException:
        with contextlib.suppress(RunError):
            _current.unlink(path) if size is None else _current.truncate(path, at)
        raise


def write_directory(target: Path, files: Mapping[str, bytes]) -> None:
    """Write a whole directory with a manifest, under a temporary name first; then read it back and verify it.

    Args: `target`, which must not exist, in a folder that does; `files`, contents by plain file name.
    Raises StorageError where the file system refuses, CheckpointError where what is read back differs. After an error
    nothing is left behind.
    """
    if os.path.lexists(target):
        raise StorageError(f"expected no directory named {target}, got one; remove it or choose another name")
    for name in files:
        _check_name(target, name)
    listing = {name: {"bytes": len(data), "sha256": _sha256(data)} for name, data in files.items()}
    manifest = dumps_strict({"format": FORMAT, "files": listing})
    temporary = _temporary(target)
    _discard(temporary)  # of an earlier process with this id
    try:
        _current.mkdir(temporary)
        for name, data in [*files.items(), (MANIFEST, manifest)]:
            _current.write(temporary / name, data)
            _current.fsync(temporary / name)
        _current.fsync(temporary)
        _current.rename(temporary, target)
        _current.fsync(target.parent)
        for _ in _verified(target):
            pass
    except BaseException:
        with contextlib.suppress(RunError):
            if target.exists():  # renamed, but not known to be good
                _current.rename(target, temporary)
        _discard(temporary)
        raise


def read_directory(path: Path) -> dict[str, bytes]:
    """The files of a directory that `write_directory` wrote, by name, each checked by size and SHA-256.

    Raises CheckpointError that names the file and what differs. Nothing but the listed files is opened.
    """
    return dict(_verified(path))


def remove_directory(path: Path) -> None:
    """Remove a directory of files; it takes a temporary name first, so that half of it is never seen under `path`.

    Raises StorageError.
    """
    temporary = _temporary(path)
    _current.rename(path, temporary)
    try:
        _current.fsync(path.parent)
        for name in _listing(temporary):
            _current.unlink(temporary / name)
        _current.rmdir(temporary)
    except BaseException:
        _discard(temporary)
        raise


def sweep_temporaries(folder: Path, *, only_dead: bool = True) -> None:
    """Remove what writers that died left in `folder` under temporary names; call it before writing there.

    Args: `only_dead`, spare those of other processes that live. False when `folder` has no other writer: the process
    that has the id now need not be the one that wrote.
    """
    for entry in _listing(folder):
        match = _TEMPORARY.fullmatch(entry)
        if match and not (only_dead and _alive(int(match[1]))):
            _discard(folder / entry)


def dumps_strict(obj: Any, *, indent: int | None = None, limit: int = JSON_LIMIT) -> bytes:
    """`obj` as strict JSON in ASCII: no NaN or infinity, only string keys, and no larger than may be read again.

    Raises RunError saying what could not be written.

    >>> dumps_strict({"lr": 0.1, "name": "é"})
    b'{"lr": 0.1, "name": "\\\\u00e9"}'
    """
    try:
        _check_keys(obj)
        data = json.dumps(obj, allow_nan=False, indent=indent).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise RunError(
            f"expected plain data (dict, list, str, int, finite float, bool, None), got {type(obj).__name__} for which "
            f"JSON says {error}; convert it before saving"
        ) from error
    if len(data) > limit:
        raise RunError(f"expected at most {limit} bytes of JSON, got {len(data)}; keep large values as tensors")
    return data


def loads_strict(
    data: bytes, name: str = "JSON text", *, limit: int = JSON_LIMIT, error: type[RunError] = CheckpointError
) -> Any:
    """The inverse of `dumps_strict`; refuses NaN literals, numbers out of range and keys that come twice.

    Args: `name`, what the text is, for messages; `limit`, the largest size parsed; `error`, the type that is raised.

    >>> loads_strict(b'{"a": [1, null]}')
    {'a': [1, None]}
    """
    if len(data) > limit:
        raise error(f"{name}: expected at most {limit} bytes of JSON, got {len(data)}; restore it from a backup")
    try:
        text = data.decode("utf-8")
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)
    except (ValueError, RecursionError) as problem:
        raise error(
            f"{name}: expected strict JSON, got a text that is not ({problem}); restore it from a backup"
        ) from None


def _attempt(operation: str, path: Path, size: int | None, action: Callable[[], None]) -> None:
    """Do one system-level operation; an OSError becomes a StorageError that says what, where and what to do."""
    try:
        action()
    except OSError as problem:
        code = problem.errno or 0
        remedy = _space(path) if code == errno.ENOSPC else _REMEDIES.get(code, "check the path and the disk")
        amount = "" if size is None else f" ({size} bytes)"
        failed = StorageError(
            f"expected to {operation} {path}{amount}, got {errno.errorcode.get(code, 'an error')}: "
            f"{problem.strerror or problem}; {remedy}; what was saved before is untouched"
        )
        failed.errno = problem.errno
        raise failed from problem


def _space(path: Path) -> str:
    try:
        free = f" ({shutil.disk_usage(path.parent).free} bytes are free)"
    except OSError:
        free = ""
    return f"free space on this disk{free} or choose a folder on another one"


def _write_all(path: Path, mode: str, data: bytes) -> None:
    with open(path, mode, buffering=0) as file:
        rest = memoryview(data)
        while rest:
            written = file.write(rest)
            if not written:
                raise OSError(errno.EIO, f"the system wrote none of the last {len(rest)} bytes")
            rest = rest[written:]


def _sync(path: Path) -> None:
    directory = path.is_dir()
    if directory and os.name == "nt":  # Windows has no way to do this
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as problem:
        if not (directory and problem.errno in _NO_SYNC):
            raise
    finally:
        os.close(descriptor)


def _temporary(path: Path) -> Path:
    return path.with_name(f".tmp-{path.name}-{os.getpid()}")


def _alive(pid: int) -> bool:
    """Whether another process has this id; our own id means that an earlier process had it."""
    if pid == os.getpid():
        return False
    if os.name != "posix":
        return True  # there a signal 0 would not be harmless
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _discard(path: Path) -> None:
    """Remove a temporary file or directory as far as that works; called where another error is on its way."""
    if path.is_dir() and not path.is_symlink():
        for name in _listing(path):
            with contextlib.suppress(RunError):
                _current.unlink(path / name)
        with contextlib.suppress(RunError):
            _current.rmdir(path)
    elif os.path.lexists(path):
        with contextlib.suppress(RunError):
            _current.unlink(path)


def _listing(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _check_name(folder: Path, name: str) -> None:
    if not _PLAIN_NAME.fullmatch(name) or name == MANIFEST:
        raise CheckpointError(
            f"{folder}: expected plain file names (letters, digits, '_', '-', '.'), got {name[:200]!r}; "
            "use another name, or do not trust this directory if it came from elsewhere"
        )


def _verified(path: Path) -> Iterator[tuple[str, bytes]]:
    """Each listed file with its bytes, once it has the right size and hash; sizes are all looked at before a hash."""
    listing = _read_manifest(path)
    try:
        present = set(os.listdir(path)) - {MANIFEST}
    except OSError as problem:
        raise _damaged(path, "a directory", problem.strerror) from problem
    for name in sorted(listing.keys() - present):
        raise _damaged(path / name, "a file listed in the manifest", "none")
    for name in sorted(present - listing.keys()):
        raise _damaged(path / name, "only files listed in the manifest", "this one besides")
    for name, (size, _) in listing.items():
        _check_size(path / name, size)
    for name, (size, sha256) in listing.items():
        data = _read_regular(path / name, size)
        if _sha256(data) != sha256:
            raise _damaged(path / name, f"SHA-256 {sha256}", _sha256(data))
        yield name, data


def _read_manifest(path: Path) -> dict[str, tuple[int, str]]:
    """Sizes and hashes by name; a manifest is taken only to the letter in which `write_directory` writes it."""
    manifest = path / MANIFEST
    data = _read_regular(manifest, JSON_LIMIT)
    content = loads_strict(data, str(manifest))
    if not isinstance(content, dict) or type(content.get("format")) is not int:
        raise _damaged(manifest, "an object with a format version", "another text")
    if content["format"] != FORMAT:
        raise _damaged(manifest, f"format {FORMAT}", f"{content['format']} (written by another version of clearloop)")
    files = content.get("files")
    if not isinstance(files, dict) or dumps_strict(content) != data:
        raise _damaged(manifest, "a manifest as it was written", "another text")
    listing = {}
    for name, entry in files.items():
        _check_name(path, name)
        size, sha256 = (entry.get("bytes"), entry.get("sha256")) if isinstance(entry, dict) else (None, None)
        if type(size) is not int or size < 0 or not isinstance(sha256, str):
            raise _damaged(manifest, f"a size and a hash for {name}", repr(entry)[:200])
        listing[name] = (size, sha256)
    return listing


def _check_size(path: Path, size: int | None) -> None:
    """Refuse what is not a regular file (a link or pipe too) before it is opened."""
    try:
        status = os.lstat(path)
    except OSError as problem:
        raise _damaged(path, "a file", problem.strerror) from problem
    if not stat.S_ISREG(status.st_mode):
        raise _damaged(path, "a regular file", "a link, directory or device")
    if size is not None and status.st_size != size:
        raise _damaged(path, f"{size} bytes", f"{status.st_size}")


def _read_regular(path: Path, limit: int) -> bytes:
    """At most one byte more than `limit`, so that a file that is too long shows."""
    _check_size(path, None)
    try:
        with open(path, "rb", buffering=0) as file:
            return _read_up_to(file.read, limit + 1)
    except OSError as problem:
        raise _damaged(path, "a readable file", problem.strerror) from problem


def _read_up_to(read: Callable[[int], bytes | None], size: int) -> bytes:
    parts, left = [], size
    while left > 0 and (part := read(min(left, 2**30))):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _damaged(path: Path, expected: str, got: str | None) -> CheckpointError:
    return CheckpointError(f"{path}: expected {expected}, got {got}; use an older checkpoint or a backup")


def _check_keys(obj: Any) -> None:
    """json.dumps would turn the keys 1, True and None into strings without a word."""
    if isinstance(obj, dict):
        for key, value in obj.items():
            if not isinstance(key, str):
                raise TypeError(f"key {key!r} is not a string")
            _check_keys(value)
    elif isinstance(obj, (list, tuple)):
        for value in obj:
            _check_keys(value)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:200]!r} comes twice")
    return content


def _no_constant(literal: str) -> float:
    raise ValueError(f"the literal {literal} is not JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"the number {digits[:40]} is out of range")
    return value
