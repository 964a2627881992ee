"""The IDX file format of MNIST and its relatives: a magic number, the dimensions, then the values, big-endian."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from clearloop.errors import DataError

IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: str | Path) -> Tensor:
    """Read one IDX file, gzipped or not.

    Nothing is allocated before the header is known to fit the file: a gzip stream cannot hold more than 1,032 bytes
    for each of its own.

    Returns: a tensor of the file's shape; uint8, int8, int16, int32, float32 or float64 as its magic number says.
    Raises: DataError, with the file and the offset, for a wrong magic number, impossible dimensions, or a file that
    is too short or too long.
    Source: the format's description on the MNIST page of Y. LeCun, C. Cortes and C. Burges.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected an IDX file (gzipped or not)")
    with path.open("rb") as start:
        packed = start.read(2) == b"\x1f\x8b"
    most = path.stat().st_size * (1032 if packed else 1)
    try:
        with gzip.open(path) if packed else path.open("rb") as file:
            magic = file.read(4)
            if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in IDX_DTYPES or magic[3] == 0:
                raise DataError(f"{path}: not an IDX file: its first four bytes are {magic.hex(' ') or 'missing'}")
            header = file.read(4 * magic[3])
            if len(header) < 4 * magic[3]:
                raise DataError(
                    f"{path}: cut short: {magic[3]} dimensions announced, the file ends at {4 + len(header)}"
                )
            shape = [int(size) for size in np.frombuffer(header, ">u4")]
            dtype = np.dtype(IDX_DTYPES[magic[2]])
            expected = math.prod(shape) * dtype.itemsize
            if expected > most:
                raise DataError(f"{path}: its header says {shape}, {expected:,} bytes, more than the file can hold")
            values = file.read(expected + 1)
    except (EOFError, OSError, gzip.zlib.error) as error:  # type: ignore[attr-defined]
        raise DataError(f"{path}: the gzip stream is cut short or damaged ({error})") from None
    if len(values) != expected:
        came = f"only {len(values):,}" if len(values) < expected else "more"
        raise DataError(f"{path}: {expected:,} bytes of values expected after byte {4 + len(header)}, {came} came")
    array = np.frombuffer(values, dtype).reshape(shape)
    return torch.from_numpy(array.astype(dtype.newbyteorder("="), copy=True))


def read_labelled_images(folder: str | Path, part: str) -> tuple[Tensor, Tensor]:
    """Read `<part>-images-idx3-ubyte[.gz]` and `<part>-labels-idx1-ubyte[.gz]` from a folder.

    Args: `part` is "train" or "t10k", as the four files of MNIST are named.
    Returns: images, uint8 of shape (n, height, width); labels, int64 of shape (n,).
    Raises: DataError if a file is missing or damaged, or the two do not hold the same number of items.
    """
    read = []
    for kind in ("images-idx3", "labels-idx1"):
        stem = Path(folder) / f"{part}-{kind}-ubyte"
        read.append(read_idx(stem if stem.is_file() else stem.with_name(stem.name + ".gz")))
    images, labels = read
    if images.dtype != torch.uint8 or images.ndim != 3:
        raise DataError(
            f"{folder}: {part} images must be bytes of shape (n, height, width), "
            f"got {images.dtype} of shape {tuple(images.shape)}"
        )
    if labels.ndim != 1 or len(labels) != len(images):
        raise DataError(f"{folder}: {len(images)} {part} images need as many labels, got {len(labels)}")
    return images, labels.long()
