"""The IDX reader: every type it knows, and a DataError for every file that is not whole."""

from __future__ import annotations

import gzip
import math
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from clearloop.data.idx import IDX_DTYPES, read_idx, read_labelled_images
from clearloop.errors import DataError

CODES = {np.dtype(name).newbyteorder("="): code for code, name in IDX_DTYPES.items()}


def idx_bytes(array: np.ndarray) -> bytes:
    """An array in the IDX format, written from the format's description."""
    header = struct.pack(">HBB", 0, CODES[array.dtype], array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def header(code: int, *shape: int) -> bytes:
    return struct.pack(">HBB", 0, code, len(shape)) + struct.pack(f">{len(shape)}I", *shape)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file that examples write over."""
    return tmp_path_factory.mktemp("idx") / "file"


def arrays() -> st.SearchStrategy[np.ndarray]:
    shapes = hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4)
    return st.sampled_from(list(CODES)).flatmap(lambda dtype: hnp.arrays(dtype, shapes))


@given(array=arrays(), packed=st.booleans())
def test_an_array_of_every_dtype_and_shape_comes_back_to_the_bit(scratch, array, packed):
    content = idx_bytes(array)
    scratch.write_bytes(gzip.compress(content, 1) if packed else content)
    read = read_idx(scratch)
    assert tuple(read.shape) == array.shape
    assert read.numpy().dtype == array.dtype
    assert read.numpy().tobytes() == array.tobytes()


@pytest.mark.parametrize("dtype", list(CODES), ids=str)
def test_each_type_code_gives_its_dtype_and_its_extreme_values(tmp_path, dtype):
    limits = np.iinfo(dtype) if dtype.kind in "iu" else np.finfo(dtype)
    array = np.array([[limits.min, 0, limits.max]], dtype=dtype)
    (tmp_path / "file").write_bytes(idx_bytes(array))
    read = read_idx(str(tmp_path / "file"))
    assert read.shape == (1, 3)
    assert read.numpy().tolist() == array.tolist()
    read += 1  # its memory is its own: writing must not fail


@given(content=st.binary(max_size=64))
@example(content=b"")
@example(content=b"\x1f\x8b")
@example(content=b"\0\0\x08\x01\0\0\0\x01")
@example(content=gzip.compress(b"\0\0\x08\x01\0\0\0\x01\x07"))
def test_arbitrary_bytes_give_a_tensor_or_a_data_error(scratch, content):
    scratch.write_bytes(content)
    try:
        read = read_idx(scratch)
    except DataError as error:
        assert str(scratch) in str(error)  # noqa: PT017  # the example decides whether there is one
    else:
        assert isinstance(read, torch.Tensor)


@given(content=st.binary(max_size=40), code=st.sampled_from([*IDX_DTYPES, 0x0A]), shape=st.lists(st.integers(0, 5)))
def test_arbitrary_values_after_a_plausible_header_are_read_only_if_they_fit(scratch, content, code, shape):
    scratch.write_bytes(header(code, *shape) + content)
    fits = shape and code in IDX_DTYPES and math.prod(shape) * np.dtype(IDX_DTYPES[code]).itemsize == len(content)
    if fits:
        assert tuple(read_idx(scratch).shape) == tuple(shape)
    else:
        with pytest.raises(DataError):
            read_idx(scratch)


@given(flip=st.integers(0, 10**6), value=st.integers(1, 255))
def test_a_damaged_gzip_stream_gives_the_right_values_or_a_data_error(scratch, flip, value):
    array = np.arange(200, dtype=np.uint8).reshape(10, 20)
    content = bytearray(gzip.compress(idx_bytes(array), mtime=0))
    content[flip % len(content)] ^= value
    scratch.write_bytes(content)
    try:
        read = read_idx(scratch)
    except DataError:
        return
    assert read.tolist() == array.tolist()  # the change hit the header's time stamp, say


def test_every_byte_of_a_gzip_stream_can_be_damaged_without_another_error(tmp_path):
    array = np.arange(200, dtype=np.uint8)
    whole = gzip.compress(idx_bytes(array), mtime=0)
    path = tmp_path / "stream.gz"
    refused = 0
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            assert read_idx(path).tolist() == array.tolist()
        except DataError:
            refused += 1
    assert refused > 0.9 * len(whole)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("keep", [0, 3, 4, 9, 12, 13, 17])
def test_a_file_cut_short_anywhere_is_refused_by_name(tmp_path, keep, packed):
    content = idx_bytes(np.arange(6, dtype=np.uint8).reshape(2, 3))
    assert len(content) == 18
    path = tmp_path / "short"
    path.write_bytes(gzip.compress(content[:keep]) if packed else content[:keep])
    with pytest.raises(DataError, match="short"):
        read_idx(path)


def test_a_gzip_stream_cut_short_is_refused(tmp_path):
    path = tmp_path / "stream.gz"
    path.write_bytes(gzip.compress(idx_bytes(np.arange(250, dtype=np.uint8)))[:-9])
    with pytest.raises(DataError, match="cut short or damaged"):
        read_idx(path)


@pytest.mark.parametrize("packed", [False, True])
def test_bytes_after_the_values_are_refused(tmp_path, packed):
    content = idx_bytes(np.arange(6, dtype=np.uint8)) + b"\0"
    path = tmp_path / "long"
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(DataError, match="6 bytes of values expected after byte 8, more came"):
        read_idx(path)


@pytest.mark.parametrize(
    "magic", [b"\x89PNG", b"\0\1\x08\x01", b"\1\0\x08\x01", b"\0\0\x07\x01", b"\0\0\x0a\x01", b"\0\0\x08\x00"]
)
def test_a_wrong_magic_number_is_refused_and_shown(tmp_path, magic):
    path = tmp_path / "other"
    path.write_bytes(magic + bytes(100))
    with pytest.raises(DataError, match=f"not an IDX file: its first four bytes are {magic.hex(' ')}"):
        read_idx(path)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "shape", [(2**32 - 1,), (2**32 - 1,) * 4, (2**31, 2**31, 2), (2**32 - 1,) * 255], ids=lambda shape: str(len(shape))
)
def test_dimensions_that_the_file_cannot_hold_are_refused_before_anything_is_allocated(tmp_path, shape, packed):
    content = header(0x0E, *shape) + bytes(1000)
    path = tmp_path / "huge"
    path.write_bytes(gzip.compress(content) if packed else content)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="more than the file can hold"):
            read_idx(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_gzip_bomb_is_not_unpacked_beyond_what_its_header_announces(tmp_path):
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(header(0x08, 5) + bytes(2**26)))
    assert path.stat().st_size < 2**17
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="more came"):
            read_idx(path)
        assert tracemalloc.get_traced_memory()[1] < 2**21
    finally:
        tracemalloc.stop()


def test_an_empty_dimension_makes_an_empty_tensor(tmp_path):
    (tmp_path / "none").write_bytes(header(0x08, 0, 28, 28))
    assert read_idx(tmp_path / "none").shape == (0, 28, 28)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere: no such file"):
        read_idx(tmp_path / "nowhere")


def write_pair(folder: Path, images: np.ndarray, labels: np.ndarray, packed: bool = False) -> None:
    for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
        content = idx_bytes(array)
        path = folder / f"train-{kind}-ubyte{'.gz' if packed else ''}"
        path.write_bytes(gzip.compress(content) if packed else content)


@pytest.mark.parametrize("packed", [False, True])
def test_images_and_labels_are_read_together_plain_or_packed(tmp_path, packed):
    images = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    write_pair(tmp_path, images, np.array([7, 255], dtype=np.uint8), packed)
    read, labels = read_labelled_images(tmp_path, "train")
    assert read.dtype == torch.uint8
    assert read.tolist() == images.tolist()
    assert labels.dtype == torch.int64
    assert labels.tolist() == [7, 255]


def test_images_without_as_many_labels_are_refused(tmp_path):
    write_pair(tmp_path, np.zeros((3, 2, 2), np.uint8), np.zeros(2, np.uint8))
    with pytest.raises(DataError, match="3 train images need as many labels, got 2"):
        read_labelled_images(tmp_path, "train")


def test_images_that_are_not_bytes_of_three_dimensions_are_refused(tmp_path):
    write_pair(tmp_path, np.zeros((3, 2), np.uint8), np.zeros(3, np.uint8))
    with pytest.raises(DataError, match=r"\(n, height, width\)"):
        read_labelled_images(tmp_path, "train")
