"""Rows of an array in a file, read when they are asked for: nothing stays in memory but what was read.

Rows could be indexed in the mapped array itself. But the system maps some 16 pages around each of them, which count as
this process's memory; to give them back takes several times as long as reading the rows. And a row that is not in the
system's cache yet is waited for before the next is asked for; here the disk is asked for all of them at once.
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from clearloop.data.dataset import Indices
from clearloop.errors import DataError

AT_ONCE = getattr(os, "RWF_NOWAIT", 0)  # read what is in the system's cache, and say so where it is not
ASK_AHEAD = 64  # batches whose rows are asked for a batch ahead, after one that had to wait


class FileRows:
    """An array's rows, read from its file at `position` (of the first row, in bytes)."""

    def __init__(self, array: Any, descriptor: int, position: int) -> None:
        self.array, self.descriptor, self.position = array, descriptor, position
        self.row_bytes, self.stride = array[:1].nbytes, array.strides[0]
        self._flags, self._ask_ahead = AT_ONCE, 0

    def __reduce__(self) -> Any:
        return rows_in_file, (self.array,)  # a descriptor means nothing in another process

    def read(self, indices: Indices) -> Any:
        """A copy of the rows. Raises IndexError; DataError where the file was cut short."""
        rows = self._numbers(indices)
        found = np.empty((len(rows), *self.array.shape[1:]), self.array.dtype)
        if len(rows):
            target = found.reshape(-1).view(np.uint8).data
            if isinstance(rows, range) and self.stride * rows.step == self.row_bytes:
                self._read_one(target, rows[0])
            else:
                self._read_each(
                    [target[at : at + self.row_bytes] for at in range(0, found.nbytes, self.row_bytes)], rows
                )
        return found

    def ask_for(self, indices: Indices) -> None:
        """Have the disk bring rows that are to be read soon, if others had to be waited for; returns at once."""
        if self._ask_ahead and not isinstance(indices, slice):  # what lies in a row comes without asking
            self._ask_ahead -= 1
            self._bring(self._numbers(indices))

    def _numbers(self, indices: Indices) -> Any:
        """Row numbers in [0, rows of the array)."""
        count = len(self.array)
        if isinstance(indices, slice):
            return range(count)[indices]
        rows = indices.tolist()
        if rows and not -count <= min(rows) <= max(rows) < count:
            raise IndexError(f"expected rows in [0, {count}), got {min(rows)}..{max(rows)}")
        return [row % count for row in rows] if rows and min(rows) < 0 else rows

    def _read_each(self, targets: list[memoryview], rows: Any) -> None:
        """Rows into their places: first all that can be had at once, then those that the disk must bring."""
        late = self._had_late(targets, rows) if self._flags else range(len(rows))
        if self._flags and late:
            self._ask_ahead = ASK_AHEAD
            self._bring(rows[place] for place in late)
        for place in late:
            self._read_one(targets[place], rows[place])

    def _had_late(self, targets: list[memoryview], rows: Any) -> Sequence[int]:
        """Read what is in the system's cache; the places of what is not."""
        late = []
        read, descriptor, position, stride = os.preadv, self.descriptor, self.position, self.stride
        for place, row in enumerate(rows):  # once a sample
            try:
                if read(descriptor, (targets[place],), position + row * stride, AT_ONCE) != self.row_bytes:
                    late.append(place)
            except BlockingIOError:
                late.append(place)
            except OSError:  # this system, or this file's, cannot tell
                self._flags = 0
                return range(len(rows))
        return late

    def _bring(self, rows: Iterable[int]) -> None:
        if hasattr(os, "posix_fadvise"):
            for row in rows:
                start = self.position + row * self.stride
                os.posix_fadvise(self.descriptor, start, self.row_bytes, os.POSIX_FADV_WILLNEED)

    def _read_one(self, target: memoryview, row: int) -> None:
        """Fill `target` from the beginning of a row on."""
        position, done = self.position + row * self.stride, 0
        while done < len(target):
            try:
                count = os.preadv(self.descriptor, [target[done:]], position + done)  # 2 GiB at most
            except OSError as error:
                raise DataError(f"{self.array.filename}: row {row} cannot be read ({error.strerror})") from error
            if not count:
                path, rows = self.array.filename, len(self.array)
                raise DataError(f"{path}: expected {rows} rows, got a file that was cut short")
            done += count


def rows_in_file(array: Any) -> FileRows | None:
    """The rows of an `np.memmap` in its file; None for what is not the same as what the file holds, or cannot be read.

    >>> rows_in_file(np.zeros(3)) is None
    True
    """
    mapped = getattr(array, "_mmap", None)
    if not isinstance(mapped, mmap.mmap) or array.mode == "c" or array.filename is None or not hasattr(os, "preadv"):
        return None  # in memory; or what was written to it is not in the file
    if not array.nbytes or not array[:1].flags.c_contiguous:
        return None
    start = array.offset - array.offset % mmap.ALLOCATIONGRANULARITY  # of the file, where the mapping begins
    position = start + array.ctypes.data - np.frombuffer(mapped, np.uint8).ctypes.data
    try:
        descriptor = os.open(array.filename, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except OSError:
        return None
    rows = FileRows(array, descriptor, position)
    weakref.finalize(rows, os.close, descriptor)
    try:
        same = all(
            rows.read(at).tobytes() == array[at].tobytes() for at in (slice(0, 1), slice(len(array) - 1, len(array)))
        )
    except DataError:
        same = False
    return rows if same else None  # the name may be another file's by now
