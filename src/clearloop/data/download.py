"""Archives from the network or the disk: fetched with progress, checked, and unpacked where nothing can leave."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.client
import os
import re
import shutil
import sys
import tarfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, cast

from clearloop import durable, rng
from clearloop.errors import ConfigError, DataError, StorageError

ENDINGS = (".tar.gz", ".tgz", ".tar", ".zip")
MAX_MEMBERS = 5_000_000
MAX_BYTES = 500 * 2**30  # unpacked
MAX_HEADER = 2**20  # bytes that a tar archive may ask to be read at once: a longer name is no name
BLOCK = 2**20
TIMEOUT_S = 30.0  # without a single byte
PADDING_BLOCKS = 16  # that may follow the end of a tar archive
ATTEMPTS = 4  # to go on after a connection broke in the middle
LOCAL = ("127.0.0.1", "localhost", "::1")
DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, EOFError, ValueError, LookupError)

Show = Callable[[int, int | None], None]  # is told the bytes so far and, where it is known, their number in the end


# -- fetching ----------------------------------------------------------------------------------------------------------


def check_url(url: str, sha256: str | None) -> str:
    """The ending of the archive's name. Raises ConfigError for what is no archive's address, or not to be trusted."""
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise ConfigError(f"sha256 must be 64 hexadecimal digits, got {sha256!r}")
    parts = urllib.parse.urlsplit(url)
    ending = next((ending for ending in ENDINGS if parts.path.lower().endswith(ending)), None)
    if parts.scheme not in ("https", "http", "file") or ending is None:
        raise ConfigError(f"expected https:// or file: and a name in {', '.join(ENDINGS)}, got {url!r}")
    check_trusted(url, sha256)
    return ending


def check_trusted(url: str, sha256: str | None) -> None:
    """Without encryption anybody on the way may change an archive, unless its hash is known."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "http" and parts.hostname not in LOCAL and sha256 is None:
        raise ConfigError(f"{url} is not encrypted: give https://, or the archive's sha256")


def fetch(url: str, target: Path, sha256: str | None = None) -> str:
    """Write what an address holds to a file, with a progress bar where somebody watches.

    A connection that breaks is taken up again where it broke, if the server can, else from the beginning.

    Args: `target`, which must not be there; its folder must be.
    Returns: the SHA-256 of the file.
    Raises: DataError where nothing is to be had, less than was announced, or something of another hash; StorageError
    where the disk refuses. After an error the file may be there in part.
    """
    with progress(urllib.parse.urlsplit(url).path.rsplit("/", 1)[-1]) as show:
        transfer = Transfer(url, target, sha256, show)
        for attempt in range(ATTEMPTS):
            if transfer.attempt():
                break
            if attempt == ATTEMPTS - 1:
                raise DataError(
                    f"{url}: expected {transfer.total or 'more'} bytes, got {transfer.done} before the connection "
                    "broke; try again later"
                )
    found = transfer.digest.hexdigest()
    if sha256 is not None and found != sha256.lower():
        raise DataError(
            f"{url}: expected an archive with SHA-256 {sha256.lower()}, got {found} ({transfer.done} bytes); it has "
            "changed or is not what it should be: check the address and the hash"
        )
    return found


class Transfer:
    """One file on its way: how much of it is there, and its hash so far."""

    def __init__(self, url: str, target: Path, sha256: str | None, show: Show) -> None:
        self.url, self.target, self.show = url, target, show
        self.done, self.digest = 0, hashlib.sha256()
        self.total: int | None = None
        self.version: str | None = None  # what the server calls this version of the file
        self._opener = urllib.request.build_opener(Redirects(sha256))

    def attempt(self) -> bool:
        """Fetch what is missing; whether all is there now. Raises DataError where another attempt is of no use."""
        try:
            with self._open() as answer:
                self._begin(answer)
                while block := answer.read(BLOCK):
                    check_amount(self.url, 1, self.done + len(block))
                    durable.current().append(self.target, block)
                    self.digest.update(block)
                    self.done += len(block)
                    self.show(self.done, self.total)
        except (StorageError, DataError):
            raise
        except urllib.error.HTTPError as error:
            error.close()
            raise DataError(f"{self.url}: expected an archive, got {error.code} {error.reason}; check it") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            if self.done == 0:
                reason = getattr(error, "reason", error)
                raise DataError(
                    f"{self.url}: expected an archive, got none ({reason}); check the address and the network"
                ) from error
            return False
        return self.total is None or self.done >= self.total

    def _open(self) -> Any:
        request = urllib.request.Request(self.url, headers={"User-Agent": "clearloop", "Accept-Encoding": "identity"})
        if self.done and self.version:
            request.add_header("Range", f"bytes={self.done}-")
            request.add_header("If-Range", self.version)  # all of it, if it has changed meanwhile
        return self._opener.open(request, timeout=TIMEOUT_S)

    def _begin(self, answer: Any) -> None:
        """Go on where the last attempt ended, or from the beginning where the server sends all."""
        continued = getattr(answer, "status", None) == 206
        if continued and not answer.headers.get("Content-Range", "").startswith(f"bytes {self.done}-"):
            raise DataError(f"{self.url}: expected the bytes from {self.done} on, got others; try again")
        if not continued:
            durable.current().write(self.target, b"")
            self.done, self.digest = 0, hashlib.sha256()
            etag = answer.headers.get("ETag")
            self.version = etag if etag and not etag.startswith("W/") else answer.headers.get("Last-Modified")
        length = answer.headers.get("Content-Length", "")
        self.total = self.done + int(length) if length.isascii() and length.isdigit() else None
        self.show(self.done, self.total)


class Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirections to addresses that would have been taken themselves."""

    def __init__(self, sha256: str | None) -> None:
        self.sha256 = sha256

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """Refuse to be sent to files of this machine, or to what is not encrypted."""
        fp.close()
        if urllib.parse.urlsplit(newurl).scheme not in ("http", "https"):
            raise DataError(f"{req.full_url}: expected an archive, got a redirection to {newurl}; check the address")
        check_trusted(newurl, self.sha256)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@contextlib.contextmanager
def progress(name: str, unit: Literal["bytes", "files"] = "bytes") -> Iterator[Show]:
    """A bar on the error stream, where that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    with rng.preserved():  # rich draws a random number when it is imported
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn() if unit == "bytes" else MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        task = bar.add_task(name, total=None)
    with bar:
        yield lambda done, total: bar.update(task, completed=done, total=total)


# -- unpacking ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Member:
    """One entry of an archive; `target` is what a link leads to, `open` gives a file's bytes."""

    name: str
    kind: Literal["file", "folder", "symbolic link", "hard link", "device"]
    size: int
    target: str = ""
    open: Callable[[], IO[bytes]] | None = None


def unpack(archive: Path, folder: Path, source: str) -> None:
    """Write what an archive holds into a new folder. Nothing is written outside of it, nor can anything lead there.

    Links are made at the end, when no file can be written through them any more; those that lead to files and folders
    of the archive are kept. Owners, times and permissions are not.

    Args: `source`, what messages call the archive.
    Raises: DataError for a damaged or empty archive, names with `..` or from the root, links that lead outside or to
    nothing, devices, and more files or bytes than `MAX_MEMBERS` and `MAX_BYTES`; StorageError where the disk refuses.
    After an error a part may be there.
    """
    disk = durable.current()
    disk.mkdir(folder)
    links, count, total = [], 0, 0
    free = shutil.disk_usage(folder).free
    try:
        for member in members(archive):
            count, total = count + 1, total + member.size
            check_amount(source, count, total)
            if total > free:
                raise StorageError(
                    f"{source}: unpacked it needs {total} bytes or more, and {free} are free; free space"
                )
            place = inside(source, folder, member.name)
            if member.kind == "device":
                raise DataError(f"{source}: expected files and folders, got a device or pipe: {member.name!r}")
            if member.kind in ("symbolic link", "hard link"):
                links.append((member, place))
            elif place == folder or member.kind == "folder":
                make_folders(source, folder, place)
            else:
                make_folders(source, folder, place.parent)
                write_member(source, member, place)
        if count == 0:
            raise DataError(f"{source}: expected an archive of files, got an empty one; check the address")
        for member, place in links:
            make_folders(source, folder, place.parent)
            link(source, folder, member, place)
    except (StorageError, DataError):
        raise
    except (*DAMAGED, RuntimeError, NotImplementedError, OSError) as error:
        raise DataError(f"{source}: expected a whole archive, got a damaged one ({error}); fetch it again") from error


def members(archive: Path) -> Iterator[Member]:
    """The entries of a tar archive (plain or gzipped) or a zip archive, in their order; its bytes say which it is."""
    with archive.open("rb") as file:
        magic = file.read(4)
    if magic in (b"PK\x03\x04", b"PK\x05\x06"):
        with zipfile.ZipFile(archive) as found:
            for info in found.infolist():
                yield zip_member(found, info)
        return
    with gzip.open(archive) if magic[:2] == b"\x1f\x8b" else archive.open("rb") as file:
        bounded = Bounded(file)
        with tarfile.open(fileobj=cast(IO[bytes], bounded), mode="r:") as tar:
            while (entry := tar.next()) is not None:
                yield tar_member(tar, entry)
                tar.members = []  # type: ignore[attr-defined]  # it would keep them all
        if bounded.last != bytes(tarfile.BLOCKSIZE):  # tarfile takes whatever is no header for the end
            raise tarfile.ReadError("it ends without an end mark")
        for _ in range(PADDING_BLOCKS):  # to its end, where gzip keeps a checksum
            if not file.read(BLOCK):
                return
        raise tarfile.ReadError("there is more after its end mark")


def zip_member(found: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
    """An entry of a zip archive; systems that have links write them as files with a mode."""
    linked = (info.external_attr >> 28) == 0xA
    name = info.orig_filename
    if linked:
        if info.file_size > 4096:
            raise DataError(f"{found.filename}: expected a link of at most 4096 bytes, got one of {info.file_size}")
        return Member(name, "symbolic link", 0, found.read(info).decode())
    return Member(name, "folder" if name.endswith("/") else "file", info.file_size, open=lambda: found.open(info))


def tar_member(tar: tarfile.TarFile, info: tarfile.TarInfo) -> Member:
    """An entry of a tar archive."""
    if info.isreg():
        return Member(info.name, "file", info.size, open=lambda: cast(IO[bytes], tar.extractfile(info)))
    if info.issym() or info.islnk():
        return Member(info.name, "symbolic link" if info.issym() else "hard link", 0, info.linkname)
    return Member(info.name, "folder" if info.isdir() else "device", 0)


class Bounded:
    """A file of which nobody may ask too much at once: what announces a name of a gigabyte would get the memory.

    `last` is what was read last.
    """

    last: bytes

    def __init__(self, file: Any) -> None:
        self._file, self.last = file, b""
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        """At most `MAX_HEADER` bytes."""
        if not 0 <= size <= MAX_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        self.last = self._file.read(size)
        return self.last


def check_amount(source: str, count: int, total: int) -> None:
    """Refuse an archive that grows without measure."""
    if count > MAX_MEMBERS or total > MAX_BYTES:
        raise DataError(
            f"{source}: expected at most {MAX_MEMBERS} files and {MAX_BYTES} bytes, got {count} and {total} so far; "
            "unpack it yourself, if you trust it"
        )


def inside(source: str, folder: Path, name: str) -> Path:
    """Where an entry belongs. Raises DataError for a name that leads out of the folder, on any system."""
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or ".." in parts or re.match(r"[A-Za-z]:", name) or "\0" in name:
        raise DataError(f"{source}: expected names below one folder, got {name!r}, which leads out; do not use it")
    return folder.joinpath(*[part for part in name.split("/") if part not in ("", ".")])


def make_folders(source: str, folder: Path, place: Path) -> None:
    """Make the folders from `folder` down to `place`; there are no links yet that one of them could be."""
    current = folder
    for part in place.relative_to(folder).parts:
        current = current / part
        if current.is_symlink() or current.exists() and not current.is_dir():
            name = current.relative_to(folder).as_posix()
            raise DataError(f"{source}: {name!r} is both a file and a folder; it is damaged")
        if not current.is_dir():
            durable.current().mkdir(current)


def write_member(source: str, member: Member, place: Path) -> None:
    """Write one file, of just the size that was announced."""
    if place.is_dir():
        raise DataError(f"{source}: {member.name!r} is both a file and a folder; it is damaged")
    assert member.open is not None
    disk, left = durable.current(), member.size
    with member.open() as file:
        block = file.read(min(BLOCK, left))
        disk.write(place, block)  # in place of one of the same name before
        left -= len(block)
        while left > 0 and block:
            block = file.read(min(BLOCK, left))
            disk.append(place, block)
            left -= len(block)
        if left == 0 and not file.read(1):  # a read at the end, where zip keeps a checksum
            return
    raise DataError(f"{source}: {member.name!r}: expected {member.size} bytes, got another number; fetch it again")


def link(source: str, folder: Path, member: Member, place: Path) -> None:
    """Make a link to what was unpacked: a file or folder that is reached through no other link."""
    base = folder if member.kind == "hard link" else place.parent  # as tar means them
    target = Path(os.path.normpath(base / member.target))
    leads_out = member.target.startswith("/") or "\\" in member.target or "\0" in member.target
    real = os.path.join(os.path.realpath(folder), os.path.relpath(target, folder))
    if leads_out or not target.is_relative_to(folder) or os.path.realpath(target) != os.path.normpath(real):
        raise DataError(
            f"{source}: expected links that stay inside, got {member.name!r} -> {member.target!r}; do not use it"
        )
    if not target.exists() or os.path.lexists(place) or member.kind == "hard link" and not target.is_file():
        raise DataError(f"{source}: the link {member.name!r} -> {member.target!r} leads to nothing, or lies on a file")
    try:
        if member.kind == "hard link":
            os.link(target, place)
        else:
            os.symlink(os.path.relpath(target, place.parent), place)
    except OSError as error:
        raise StorageError(f"expected to make a link {place}, got {error.strerror}; use another disk") from error
