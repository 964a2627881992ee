"""Arrays that stay on the disk: of a file that is mapped, a batch reads its own rows and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clearloop.data.arrays import UNREADABLE, as_tensor, check_finite
from clearloop.data.dataset import Batch, Dataset, Indices, Subset
from clearloop.data.file_rows import rows_in_file
from clearloop.errors import DataError

SMALL_BYTES = 128 * 2**20  # an array up to this size may be in memory as a whole, once all its rows were read


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

    A batch has the types that `as_tensor` gives: float64 as float32, integers as int64, bytes as they are. Rows of
    large files are read, not mapped, so that resident memory does not grow with the file. Nothing looks at all the
    values beforehand: each batch is searched for NaN and infinity as it is read.

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
        self._rows = [rows_in_file(array) if array.nbytes > SMALL_BYTES else None for array in self.arrays]

    def __len__(self) -> int:
        return len(self.arrays[0])

    def gather(self, indices: Indices) -> Batch:
        """A copy of the samples, converted."""
        found = []
        for number in range(len(self.arrays)):
            tensor = as_tensor(self._values(number, indices), f"array {number}")
            self._require_finite(tensor, number, indices)
            found.append(tensor)
        return tuple(found)

    def ask_for(self, indices: Indices) -> None:
        """Have the disk bring samples that are to be gathered soon; returns at once."""
        for rows in self._rows:
            if rows is not None:
                rows.ask_for(indices)

    def columns(self, number: int, rows: int = 2**16) -> Iterator[Tensor]:
        """All of one array, some rows at a time."""
        for start in range(0, len(self), rows):
            yield as_tensor(self._values(number, slice(start, start + rows)), f"array {number}")

    def _values(self, number: int, indices: Indices) -> Any:
        """A copy of rows of one array, as it has them."""
        array, rows = self.arrays[number], self._rows[number]
        if rows is not None:
            return rows.read(indices)
        if isinstance(indices, slice):
            return np.array(array[indices])
        return np.asarray(array).take(indices.cpu().numpy(), axis=0)

    def _require_finite(self, tensor: Tensor, number: int, indices: Indices) -> None:
        try:
            check_finite(tensor, f"array {number}")
        except DataError:
            bad = ~torch.isfinite(tensor.flatten(1) if tensor.ndim > 1 else tensor[:, None]).all(dim=1)
            rows = torch.arange(len(self))[indices]
            at = int(rows[bad][0])
            raise DataError(f"array {number}: row {at} holds NaN or infinity; remove or fill such rows first") from None


def asked_ahead(dataset: Dataset, index_batches: Iterable[Indices]) -> Iterable[Indices]:
    """The batches of indices; of mapped files, the disk is asked for each while the step before it is taken."""
    subsets: list[Subset] = []
    while isinstance(dataset, Subset):
        subsets.append(dataset)
        dataset = dataset.dataset
    return _asked_ahead(dataset, subsets, index_batches) if isinstance(dataset, MappedDataset) else index_batches


def _asked_ahead(dataset: MappedDataset, subsets: list[Subset], index_batches: Iterable[Indices]) -> Iterator[Indices]:
    before: list[Indices] = []
    for indices in index_batches:
        among_all = indices
        for subset in subsets:
            among_all = subset.indices[among_all]
        dataset.ask_for(among_all)
        yield from before
        before = [indices]
    yield from before
