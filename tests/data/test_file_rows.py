"""Rows read from files: the same as from the mapping, whatever is in the system's cache, and never silently wrong."""

from __future__ import annotations

import copy
import os
import pickle
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clearloop import DataError, DataLoader, Subset
from clearloop.data import file_rows, mapped
from clearloop.data.file_rows import FileRows, rows_in_file
from clearloop.data.mapped import MappedDataset, asked_ahead, map_npy

pytestmark = pytest.mark.skipif(not hasattr(os, "preadv"), reason="this system has no preadv")


@pytest.fixture(autouse=True)
def _every_file_is_large(monkeypatch):
    monkeypatch.setattr(mapped, "SMALL_BYTES", 0)


def stored(tmp_path, array, name="x.npy"):
    np.save(tmp_path / name, array)
    return map_npy(tmp_path / name)


ARRAYS = {
    "a matrix": np.arange(60, dtype=np.float32).reshape(20, 3),
    "labels": np.arange(20),
    "pictures": np.arange(20 * 24, dtype=np.uint8).reshape(20, 2, 3, 4),
    "the other order of bytes": np.arange(40, dtype=">f8").reshape(20, 2),
}
VIEWS = {
    "whole": lambda x: x,
    "cut": lambda x: x[3:17],
    "thinned": lambda x: x[::3],
    "backwards": lambda x: x[::-1],
}


@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS)
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
@given(numbers=st.lists(st.integers(-5, 4), max_size=12), start=st.integers(0, 6), stop=st.integers(0, 25))
def test_rows_are_those_of_the_mapping(tmp_path_factory, array, view, numbers, start, stop):
    x = view(stored(tmp_path_factory.mktemp("rows"), array))
    rows = rows_in_file(x)
    found = rows.read(torch.tensor(numbers, dtype=torch.int64))
    assert found.dtype == x.dtype
    assert np.array_equal(found, x[np.array(numbers, dtype=np.int64)])
    assert np.array_equal(rows.read(slice(start, stop)), x[start:stop])


def test_what_the_file_does_not_hold_is_indexed_in_memory(tmp_path):
    x = stored(tmp_path, np.zeros((6, 4)))
    private = np.load(tmp_path / "x.npy", mmap_mode="c")
    private[:] = 3
    alike = np.load(tmp_path / "x.npy", mmap_mode="c")
    alike[2] = 3  # in the middle
    for array in (private, alike, x[:, ::2], np.zeros((6, 4)), np.array(x), x[:0]):
        assert rows_in_file(array) is None
    assert MappedDataset(private).gather(torch.tensor([5]))[0].min() == 3


def test_a_name_that_means_another_file_by_now_is_not_read(tmp_path):
    x = stored(tmp_path, np.zeros((6, 4)))
    os.rename(tmp_path / "x.npy", tmp_path / "moved.npy")
    assert rows_in_file(x) is None
    np.save(tmp_path / "x.npy", np.ones((6, 4)))
    assert rows_in_file(x) is None
    np.save(tmp_path / "x.npy", np.zeros((2, 4)))
    assert rows_in_file(x) is None


@pytest.mark.parametrize("number", [6, -7])
def test_rows_that_there_are_not_are_refused(tmp_path, number):
    rows = rows_in_file(stored(tmp_path, np.zeros((6, 4))))
    with pytest.raises(IndexError, match=r"expected rows in \[0, 6\), got"):
        rows.read(torch.tensor([1, number]))


def test_a_file_that_is_cut_short_is_an_error_and_not_the_end_of_the_process(tmp_path):
    data = MappedDataset(stored(tmp_path, np.zeros((2000, 4))))
    os.truncate(tmp_path / "x.npy", 1000)
    for indices in (slice(100, 200), torch.tensor([1, 1500])):
        with pytest.raises(DataError, match=r"x.npy: expected 2000 rows, got a file that was cut short"):
            data.gather(indices)


def test_a_disk_that_fails_is_named_with_the_row(tmp_path, monkeypatch):
    data = MappedDataset(stored(tmp_path, np.zeros((20, 4))))

    def broken(*arguments):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", broken)
    with pytest.raises(DataError, match=r"x.npy: row 3 cannot be read \(Input/output error\)"):
        data.gather(torch.tensor([3, 4]))


def test_what_is_written_to_the_file_is_read(tmp_path):
    x = stored(tmp_path, np.zeros((6, 4)))
    data = MappedDataset(x)
    np.load(tmp_path / "x.npy", mmap_mode="r+")[2] = 7
    assert data.gather(torch.tensor([2, 3]))[0][:, 0].tolist() == [7, 0]


class Disk:
    """Stands between FileRows and the system: what is in its cache, and what it was told of."""

    def __init__(self, monkeypatch, late, error=BlockingIOError):
        self.late, self.error, self.announced, self.read = set(late), error, [], os.preadv
        monkeypatch.setattr(os, "preadv", self.preadv)
        monkeypatch.setattr(os, "posix_fadvise", lambda fd, start, count, advice: self.announced.append(start))
        monkeypatch.setattr(file_rows, "AT_ONCE", 8)

    def preadv(self, descriptor, buffers, position, flags=0):
        if flags and position in self.late:
            raise self.error
        if flags:
            return self.read(descriptor, [buffers[0][:1]], position) if position % 3 == 0 else self.read(
                descriptor, buffers, position
            )  # fmt: skip
        return self.read(descriptor, [buffers[0][:1]], position)  # the rest with the next call


def test_rows_that_are_not_there_at_once_are_asked_for_together_and_read_whole(tmp_path, monkeypatch):
    x = stored(tmp_path, np.arange(40, dtype=np.uint8).reshape(20, 2))
    place = {row: x.offset + row * 2 for row in range(20)}
    disk = Disk(monkeypatch, [place[4], place[9]])
    rows = rows_in_file(x)
    chosen = torch.tensor([4, 5, 6, 7, 9])
    assert np.array_equal(rows.read(chosen), x[chosen.numpy()])
    short = [place[row] for row in (5, 6, 7) if place[row] % 3 == 0]  # came in part only
    assert short
    assert disk.announced == sorted([place[4], place[9], *short])
    disk.announced.clear()
    rows.ask_for(torch.tensor([1]))
    assert disk.announced == [place[1]]


@pytest.mark.parametrize("error", [OSError(95, "not supported"), OSError(22, "invalid")])
def test_a_system_that_cannot_tell_what_is_there_is_asked_once_and_simply_read(tmp_path, monkeypatch, error):
    x = stored(tmp_path, np.arange(40, dtype=np.uint8).reshape(20, 2))
    disk = Disk(monkeypatch, range(10**4), error)
    rows = rows_in_file(x)
    for _ in range(2):
        assert np.array_equal(rows.read(torch.arange(19, -1, -1)), x[::-1])
    assert disk.announced == []


def test_a_batch_ahead_is_asked_for_only_after_one_that_had_to_wait(tmp_path, monkeypatch):
    x = stored(tmp_path, np.arange(40, dtype=np.uint8).reshape(20, 2))
    data = Subset(Subset(MappedDataset(x), torch.arange(19, -1, -1)), torch.tensor([7, 8, 3, 4]))  # 12, 11, 16, 15
    disk = Disk(monkeypatch, [])
    batches = [torch.tensor([0, 1]), torch.tensor([2]), torch.tensor([3])]
    disk.announced.clear()
    taken = asked_ahead(data, batches)
    assert torch.equal(next(iter(taken)), batches[0])
    assert disk.announced == []
    data.dataset.dataset._rows[0]._ask_ahead = 1  # as after a batch that had to wait, but for one batch
    assert [indices.tolist() for indices in taken] == [[2], [3]]
    assert disk.announced == [x.offset + 2 * 15]
    list(asked_ahead(data, batches))  # enough of it
    assert disk.announced == [x.offset + 2 * 15]


@given(start=st.integers(0, 8), batch_size=st.integers(1, 7), wait=st.booleans())
def test_asking_ahead_changes_no_batch_from_any_start(tmp_path_factory, start, batch_size, wait):
    array = np.random.default_rng(0).normal(size=(23, 3)).astype(np.float32)
    data = MappedDataset(stored(tmp_path_factory.mktemp("ahead"), array))
    data._rows[0]._ask_ahead = 100 * wait
    chosen = Subset(data, torch.randperm(23)[:17])
    loader = DataLoader(chosen, batch_size, shuffle=True, seed=3)
    order = list(loader.index_batches(2))[start:]
    found = list(loader.batches(2, start))
    assert len(found) == len(order)
    for (batch,), indices in zip(found, order, strict=True):
        assert torch.equal(batch, torch.from_numpy(array)[chosen.indices[indices]])
    assert list(asked_ahead(chosen, [])) == []


def test_an_epoch_that_is_left_early_and_one_beside_it_do_not_matter(tmp_path):
    loader = DataLoader(MappedDataset(stored(tmp_path, np.arange(40.0))), 4, shuffle=True, seed=0)
    expected = [batch.tolist() for (batch,) in loader.batches(0)]
    one, other = loader.batches(0), loader.batches(0)
    found = []
    for (batch,) in one:
        found.append(batch.tolist())
        next(loader.batches(1))
        if len(found) % 2:
            next(other)
    assert found == expected


def test_a_bad_row_is_named_by_its_number_in_the_file(tmp_path):
    array = np.zeros((40, 2))
    array[17, 1] = np.inf
    loader = DataLoader(Subset(MappedDataset(stored(tmp_path, array)), torch.arange(39, -1, -1)), 8)
    batches = loader.batches(0)
    with pytest.raises(DataError, match="array 0: row 17 holds NaN or infinity"):
        list(batches)


def test_copies_of_a_dataset_do_not_share_its_descriptor(tmp_path):
    data = MappedDataset(stored(tmp_path, np.arange(40.0).reshape(20, 2)))
    for other in (pickle.loads(pickle.dumps(data)), copy.deepcopy(data)):
        assert torch.equal(other.gather(torch.tensor([3, 1]))[0], data.gather(torch.tensor([3, 1]))[0])
        ours, theirs = data._rows[0], other._rows[0]
        assert isinstance(ours, FileRows)
        assert theirs is None or theirs.descriptor != ours.descriptor


@pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors in Linux' way")
def test_a_dataset_that_is_gone_leaves_no_file_open(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    data = MappedDataset(stored(tmp_path, np.arange(40.0)))
    assert data[3][0] == 3
    del data
    np.save(tmp_path / "x.npy", np.ones(3))
    assert len(os.listdir("/proc/self/fd")) == before
