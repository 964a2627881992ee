"""NumPy files: `.npz` archives and pairs of `.npy`, read without pickle and checked before anything trains on them."""

from __future__ import annotations

import struct
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clearloop.errors import DataError

# what NumPy, zipfile and zlib raise over files that are damaged or are no archives at all
UNREADABLE = (
    *(ValueError, TypeError, LookupError, OSError, EOFError, RuntimeError, MemoryError),
    *(zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, struct.error),
)


def read_npz(path: str | Path) -> dict[str, Tensor]:
    """Read the arrays of an `.npz` archive as tensors, by name.

    Raises: DataError for a missing or damaged file, or an array of Python objects (which would need pickle).
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected an .npz archive")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except UNREADABLE as error:
        raise DataError(f"{path}: not a readable .npz archive of plain arrays ({error})") from None
    return {name: as_tensor(array, f"{path}:{name}") for name, array in arrays.items()}


def read_npy(path: str | Path) -> Tensor:
    """Read one array from an `.npy` file. Raises DataError as `read_npz` does."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected an .npy file")
    try:
        with path.open("rb") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
    except UNREADABLE as error:
        raise DataError(f"{path}: not a readable .npy file of numbers ({error})") from None
    return as_tensor(array, str(path))


def as_tensor(array: Any, name: str) -> Tensor:
    """A NumPy array, list or tensor as a tensor of a dtype that torch computes with.

    float64 becomes float32 (models are float32); integers other than bytes become int64; booleans stay.
    Raises: DataError for text, objects and other kinds.

    >>> as_tensor([[0.5, 1.0]], "x").dtype, as_tensor([1, 2], "y").dtype
    (torch.float32, torch.int64)
    """
    if isinstance(array, Tensor):
        tensor = array
    else:
        try:
            values = np.asarray(array)
        except ValueError as error:
            raise DataError(f"{name}: expected numbers, all rows of one length ({error})") from None
        if values.dtype.kind not in "buif" or values.dtype.itemsize > 8:
            raise DataError(f"{name}: expected numbers, got an array of {values.dtype}")
        if values.dtype.kind == "u" and values.dtype.itemsize > 1:
            if values.size and values.max() > np.iinfo(np.int64).max:
                raise DataError(f"{name}: expected integers below 2**63, got {values.max()}")
            values = values.astype(np.int64)
        tensor = from_numpy(values)
    if tensor.is_complex():
        raise DataError(f"{name}: expected real numbers, got a tensor of {tensor.dtype}")
    if tensor.dtype == torch.float64:
        return tensor.float()
    if tensor.is_floating_point() or tensor.dtype in (torch.uint8, torch.bool):
        return tensor
    return tensor.long()


def from_numpy(array: Any) -> Tensor:
    """A tensor of an array's own dtype, in the same memory where torch can use it as it is.

    Memory that must not be written to (a file mapped for reading) is taken without torch's warning: data are read only.
    """
    array = np.asarray(array.astype(array.dtype.newbyteorder("="), copy=False), order="C")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writ")
        return torch.from_numpy(array)


def is_finite(tensor: Tensor) -> bool:
    """Whether a float tensor certainly holds neither NaN nor infinity: False too where its sum overflows."""
    return bool(torch.isfinite(tensor.sum()))  # NaN and infinity survive a sum


def check_finite(tensor: Tensor, name: str) -> None:
    """Raise DataError, with the first row, if a float tensor holds NaN or infinity."""
    if not tensor.is_floating_point() or is_finite(tensor):
        return
    finite = torch.isfinite(tensor)
    bad = ~(finite.flatten(1).all(dim=1) if tensor.ndim > 1 else finite)
    if bool(bad.any()):  # finite values alone can overflow a sum
        rows = bad.nonzero().flatten()
        raise DataError(
            f"{name}: row {int(rows[0])} holds NaN or infinity ({len(rows)} such rows of {len(tensor)}); "
            "remove or fill them first"
        )
