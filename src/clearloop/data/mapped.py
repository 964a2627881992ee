"""Arrays that stay on the disk: of a file that is mapped, a batch reads its own rows and nothing else."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clearloop.data.arrays import UNREADABLE, as_tensor, check_finite
from clearloop.data.dataset import Batch, Dataset, Indices
from clearloop.errors import DataError

HELD_BYTES = 32 * 2**20  # pages that may stay in memory after they were read
FAULT_BYTES = 64 * 2**10  # what the system maps around a row that is read: 16 pages


def map_npy(path: str | Path) -> Any:
    """An `.npy` file as an array that is read when it is indexed: `np.memmap`, for reading.

    Raises: DataError for a missing or damaged file, one of Python objects, and one in Fortran's order, in which a row
    lies scattered over the whole file.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected an .npy file")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except UNREADABLE as error:
        raise DataError(f"{path}: not a readable .npy file of numbers ({error})") from None
    if not isinstance(array, np.memmap):
        raise DataError(f"{path}: expected one array of numbers, an .npy file; DataLoaders.npz reads archives")
    if not array.flags.c_contiguous:
        raise DataError(f"{path}: expected rows one after the other; np.save(path, np.ascontiguousarray(array))")
    return array


class MappedDataset(Dataset):
    """Arrays that share their first dimension, of which some are mapped files: inputs first, targets last.

    A batch has the types that `as_tensor` gives: float64 as float32, integers as int64, bytes as they are. What was
    read of a mapped file is let go of again, so that resident memory does not grow with the file. Nothing looks at all
    the values beforehand: each batch is searched for NaN and infinity as it is read.

    Args: `transform`, as for TensorDataset.
    Raises: DataError for lengths that differ or arrays of other things than numbers; and, from `gather`, for a row with
    NaN or infinity.

    >>> data = MappedDataset(np.arange(6.0).reshape(3, 2), np.array([0, 1, 0]))
    >>> data[1]
    (tensor([2., 3.]), tensor(1))
    """

    def __init__(self, *arrays: Any, transform: Callable[[Batch], Batch] | None = None) -> None:
        self.arrays = tuple(array if isinstance(array, np.ndarray) else np.asarray(array) for array in arrays)
        self.transform = transform
        lengths = [len(array) if array.ndim else 0 for array in self.arrays]
        if len(set(lengths)) != 1 or not lengths[0]:
            raise DataError(f"the arrays of a dataset must hold the same number of samples, at least 1; got {lengths}")
        for number, array in enumerate(self.arrays):
            as_tensor(array[:1], f"array {number}")  # or it is of no numbers
        self._files = [found for found in map(mapped_file, self.arrays) if found is not None]
        self._row_bytes = sum(max(FAULT_BYTES, array[:1].nbytes) for array in self.arrays)
        self._held = 0

    def __len__(self) -> int:
        return len(self.arrays[0])

    def gather(self, indices: Indices) -> Batch:
        """A copy of the samples, converted."""
        rows: Any = indices if isinstance(indices, slice) else indices.cpu().numpy()
        found = []
        for number, array in enumerate(self.arrays):
            tensor = as_tensor(np.array(array[rows]), f"array {number}")
            self._require_finite(tensor, number, indices)
            found.append(tensor)
        self._let_go(len(found[0]))
        return tuple(found)

    def columns(self, number: int, rows: int = 2**16) -> Iterator[Tensor]:
        """All of one array, some rows at a time."""
        for start in range(0, len(self), rows):
            yield as_tensor(np.array(self.arrays[number][start : start + rows]), f"array {number}")
            self._let_go(rows)

    def _require_finite(self, tensor: Tensor, number: int, indices: Indices) -> None:
        try:
            check_finite(tensor, f"array {number}")
        except DataError:
            bad = ~torch.isfinite(tensor.flatten(1) if tensor.ndim > 1 else tensor[:, None]).all(dim=1)
            rows = torch.arange(len(self))[indices]
            at = int(rows[bad][0])
            raise DataError(f"array {number}: row {at} holds NaN or infinity; remove or fill such rows first") from None

    def _let_go(self, rows: int) -> None:
        """Count what was read, and now and then give the pages back; they stay in the system's cache."""
        self._held += rows * self._row_bytes
        if self._held > HELD_BYTES:
            self._held = 0
            for file in self._files:
                file.madvise(mmap.MADV_DONTNEED)


def mapped_file(array: Any) -> mmap.mmap | None:
    """The mapped file behind an array, where its pages may be dropped: not if writes to them are the array's alone."""
    if not isinstance(array, np.memmap) or array.mode == "c" or not hasattr(mmap, "MADV_DONTNEED"):
        return None
    found = getattr(array, "_mmap", None)
    return found if isinstance(found, mmap.mmap) else None
