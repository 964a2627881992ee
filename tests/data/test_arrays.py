"""NumPy files and arrays: what torch computes with, or a DataError that names the file, the array or the row."""

from __future__ import annotations

import io
import pickle
import re
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from clearloop import DataError
from clearloop.data.arrays import as_tensor, check_finite, from_numpy, read_npz

KINDS = (
    hnp.boolean_dtypes() | hnp.integer_dtypes() | hnp.unsigned_integer_dtypes() | hnp.floating_dtypes(sizes=(32, 64))
)


@given(array=hnp.arrays(KINDS, hnp.array_shapes(min_dims=0, min_side=0, max_side=4)))
def test_every_numeric_array_becomes_a_tensor_of_the_same_values(array):
    try:
        tensor = as_tensor(array, "x")
    except DataError:
        assert array.dtype.kind == "u"
        assert int(array.max()) >= 2**63
        return
    assert tuple(tensor.shape) == array.shape
    kind = array.dtype.kind
    expected = {"b": torch.bool, "f": torch.float32}.get(kind, torch.int64)
    if array.dtype == np.uint8:
        expected = torch.uint8
    assert tensor.dtype == expected
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(tensor.numpy(), array.astype(np.float32) if kind == "f" else array)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.uint16, torch.int64])
def test_integer_tensors_become_int64(dtype):
    assert as_tensor(torch.tensor([1, 2], dtype=dtype), "y").dtype == torch.int64


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.float16, torch.bfloat16, torch.float32])
def test_tensors_that_torch_computes_with_are_taken_as_they_are(dtype):
    tensor = torch.tensor([0, 1]).to(dtype)
    assert as_tensor(tensor, "x") is tensor


@pytest.mark.parametrize(
    "array",
    [
        np.array(["a"]),
        np.array([1 + 2j]),
        np.array([None]),
        np.array([1.5], dtype=object),
        np.zeros(2, "M8[s]"),
        np.zeros(2, [("a", "f4")]),
        np.zeros(2, np.longdouble),
        np.array([2**63], np.uint64),
        torch.zeros(2, dtype=torch.complex64),
        [[1], [2, 3]],
        "text",
        None,
    ],
    ids=lambda array: str(getattr(array, "dtype", type(array).__name__)),
)
def test_what_is_no_number_is_refused_by_name(array):
    with pytest.raises(DataError, match="labels: expected"):
        as_tensor(array, "labels")


def test_read_only_and_reversed_arrays_are_taken_without_a_warning():
    array = np.arange(4, dtype=np.float32)
    array.flags.writeable = False
    assert from_numpy(array).data_ptr() == array.ctypes.data
    assert from_numpy(array[::-1]).tolist() == [3, 2, 1, 0]


# -- .npz --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_the_arrays_of_an_archive_come_back_by_name(tmp_path, save):
    save(tmp_path / "data.npz", x=np.eye(3), y=np.array([1, 2, 3], np.int16), images=np.zeros((2, 4, 4), np.uint8))
    arrays = read_npz(str(tmp_path / "data.npz"))
    assert list(arrays) == ["x", "y", "images"]
    assert torch.equal(arrays["x"], torch.eye(3))
    assert arrays["y"].tolist() == [1, 2, 3]
    assert arrays["images"].dtype == torch.uint8


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was read",))


def test_an_archive_of_python_objects_is_refused_unread(tmp_path):
    np.savez(tmp_path / "objects.npz", x=np.array([Trap()], dtype=object))
    with pytest.raises(DataError, match=r"objects\.npz"):
        read_npz(tmp_path / "objects.npz")
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError, match=r"pickle\.npz"):
        read_npz(tmp_path / "pickle.npz")


def test_an_archive_that_holds_other_files_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(DataError, match=r"other\.npz"):
        read_npz(tmp_path / "other.npz")


def test_a_plain_npy_file_is_refused_with_a_reason(tmp_path):
    np.save(tmp_path / "x.npy", np.eye(2))
    with pytest.raises(DataError, match=r"x\.npy: not a readable \.npz archive"):
        read_npz(tmp_path / "x.npy")


def test_a_missing_archive_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nothing\.npz: no such file"):
        read_npz(tmp_path / "nothing.npz")


def archive_bytes() -> bytes:
    file = io.BytesIO()
    np.savez(file, x=np.arange(6.0).reshape(2, 3), y=np.array([0, 1]))
    return file.getvalue()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("npz") / "file.npz"


@given(cut=st.integers(0, 700), flips=st.lists(st.tuples(st.integers(0, 699), st.integers(1, 255)), max_size=2))
def test_a_damaged_archive_gives_tensors_or_a_data_error(scratch, cut, flips):
    content = bytearray(archive_bytes())
    for place, value in flips:
        content[place % len(content)] ^= value
    scratch.write_bytes(content[: len(content) - cut] if cut < len(content) else b"")
    try:
        arrays = read_npz(scratch)
    except DataError as error:
        assert str(scratch) in str(error)  # noqa: PT017  # the example decides whether there is one
    else:
        assert all(isinstance(tensor, torch.Tensor) for tensor in arrays.values())


# -- NaN ---------------------------------------------------------------------------------------------------------------


@given(
    array=hnp.arrays(
        np.float32, hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=5), elements=st.floats(width=32)
    )
)
def test_the_first_row_that_is_not_finite_is_named(array):
    bad = [row for row in range(len(array)) if not np.isfinite(array[row]).all()]
    if not bad:
        check_finite(torch.from_numpy(array), "x")
        return
    message = f"x: row {bad[0]} holds NaN or infinity ({len(bad)} such rows of {len(array)})"
    with pytest.raises(DataError, match=re.escape(message)):
        check_finite(torch.from_numpy(array), "x")


def test_integers_are_always_finite():
    check_finite(torch.tensor([[2**62]]), "x")
