"""Arrays that stay on the disk: the same batches as from memory, in memory that does not grow with them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import clearloop as cl
from clearloop import DataError, DataLoaders, Learner, RunError, Subset
from clearloop.data.mapped import MappedDataset, map_npy
from clearloop.saving import fingerprint


def saved(folder, **arrays):
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return [folder / f"{name}.npy" for name in arrays]


def batches_of(loader) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(loader.batches(1))


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (np.random.default_rng(0).normal(size=(50, 3)), np.arange(50) % 3),
        (np.arange(150, dtype=np.int32).reshape(50, 3), np.arange(50, dtype=np.float64)),
        (np.arange(50 * 12, dtype=np.uint16).reshape(50, 3, 4), np.arange(50, dtype=np.uint8) % 2),
        (np.arange(50 * 12).astype(np.uint8).reshape(50, 3, 4), np.arange(50) % 2),
        (np.arange(50 * 36).astype(np.uint8).reshape(50, 3, 4, 3), np.arange(50) % 2),
        (np.arange(150.0).reshape(50, 3), np.arange(100, dtype=np.float32).reshape(50, 2)),
    ],
    ids=["float64", "int32", "uint16", "grey", "colour", "many targets"],
)
def test_mapped_arrays_give_the_batches_that_arrays_in_memory_give(tmp_path, x, y):
    paths = saved(tmp_path, x=x, y=y)
    mapped, kept = DataLoaders.npy(*paths, batch_size=8, seed=0), DataLoaders.arrays(x, y, batch_size=8, seed=0)
    assert (mapped.classes, mapped.image_size) == (kept.classes, kept.image_size)
    for ours, theirs in ((mapped.train, kept.train), (mapped.valid, kept.valid)):
        for one, other in zip(batches_of(ours), batches_of(theirs), strict=True):
            assert [tensor.dtype for tensor in one] == [tensor.dtype for tensor in other]
            assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))


def test_an_array_that_is_mapped_stays_so_and_its_file_is_read_by_rows(tmp_path):
    x, y = saved(tmp_path, x=np.zeros((40, 2), np.float32), y=np.arange(40) % 2)
    dls = DataLoaders.arrays(np.load(x, mmap_mode="r"), np.load(y), seed=0)
    data = dls.train.dataset.dataset
    assert isinstance(data, MappedDataset)
    assert isinstance(data.arrays[0], np.memmap)
    np.load(x, mmap_mode="r+")[:] = 7  # whoever changes the file changes what the next batch reads
    assert next(dls.train.batches(0))[0].min() == 7


def test_a_private_copy_on_write_is_never_thrown_away(tmp_path):
    x, y = saved(tmp_path, x=np.zeros((4000, 2), np.float32), y=np.arange(4000) % 2)
    private = np.load(x, mmap_mode="c")
    private[:] = 3
    data = MappedDataset(private, np.load(y))
    for start in range(0, 4000, 500):
        assert data.gather(torch.arange(start, start + 500))[0].min() == 3


def test_a_row_with_nan_is_named_when_it_is_read(tmp_path):
    x = np.zeros((40, 2))
    x[17, 1] = np.nan
    dls = DataLoaders.npy(*saved(tmp_path, x=x, y=np.arange(40) % 2), seed=0)
    with pytest.raises(DataError, match="array 0: row 17 holds NaN or infinity"):
        batches_of(dls.train) + batches_of(dls.valid)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((3, 2)), np.zeros(4), r"train: inputs of \(3, 2\) need as many targets, got \(4,\)"),
        (np.zeros((3, 2)), np.array([0, -1, 1]), "class labels of 0 or more, or floats; got -1..1"),
        (np.zeros((3, 2)), np.array(["a", "b", "c"]), "array 1: expected numbers, got an array of <U1"),
        (np.asfortranarray(np.arange(6.0).reshape(3, 2)), np.zeros(3), "expected rows one after the other"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, x, y, message):
    with pytest.raises(DataError, match=message):
        DataLoaders.npy(*saved(tmp_path, x=x, y=y), seed=0)


def test_files_that_are_no_arrays_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"x.npy: no such file; expected an .npy file"):
        map_npy(tmp_path / "x.npy")
    np.savez(tmp_path / "x.npz", x=np.zeros(3))
    with pytest.raises(DataError, match=r"expected one array of numbers, .* DataLoaders.npz reads archives"):
        map_npy(tmp_path / "x.npz")
    np.save(tmp_path / "o.npy", np.array([{}, None]), allow_pickle=True)
    (tmp_path / "cut.npy").write_bytes(saved(tmp_path, whole=np.zeros(900))[0].read_bytes()[:1000])
    for name in ("o.npy", "cut.npy"):
        with pytest.raises(DataError, match=rf"{name}: not a readable .npy file"):
            map_npy(tmp_path / name)


def test_a_run_on_mapped_arrays_is_loaded_goes_on_to_the_same_bits_and_knows_its_data(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 5)).astype(np.float32)
    paths = saved(tmp_path, x=x, y=(x[:, 0] > 0).astype(np.int64))

    def learner():
        torch.manual_seed(1)
        return Learner(DataLoaders.npy(*paths, batch_size=16, seed=0), cl.models.mlp(5, 4, 2), seed=1, device="cpu")

    whole, half = learner(), learner()
    whole.fit(4, 0.1, quiet=True)
    half.fit(2, 0.1, quiet=True)
    half.save(tmp_path / "run")
    again = Learner.load(tmp_path / "run")
    assert isinstance(again.dls.train.dataset.dataset, MappedDataset)
    again.fit(2, 0.1, quiet=True)
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True))
    saved(tmp_path, x=x + 1)
    with pytest.raises(RunError, match="train data are not those that the run was started on"):
        Learner.load(tmp_path / "run")


def test_the_fingerprint_of_data_in_memory_is_the_same_for_a_subset_and_for_a_copy_of_it():
    data = cl.TensorDataset(torch.randn(300, 4), torch.arange(300))
    rows = torch.randperm(300)[:70]
    subset, copy = Subset(data, rows), cl.TensorDataset(*(tensor[rows] for tensor in data.tensors))
    assert fingerprint(cl.DataLoader(subset, 8)) == fingerprint(cl.DataLoader(copy, 8))
    copy.tensors[0][69, 3] += 1
    assert fingerprint(cl.DataLoader(subset, 8))["sha256"] != fingerprint(cl.DataLoader(copy, 8))["sha256"]


MEMORY = """
import json, resource, sys
import torch
torch.set_num_threads(1)
import clearloop as cl

def most():  # in MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

dls = cl.DataLoaders.npy(sys.argv[1], sys.argv[2], batch_size=int(sys.argv[4]), seed=0)
learn = cl.Learner(dls, cl.models.linear(int(sys.argv[5]), 2), metrics=cl.accuracy, device="cpu")
before = most()
learn.fit(1, 0.1, quiet=True)
learn.save(sys.argv[3])
print(json.dumps({"before": before, "after": most()}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts memory in Linux' units")
@pytest.mark.parametrize(
    ("dtype", "width", "batch_size"),
    [(np.float32, 1024, 512), (np.uint8, 784, 128)],  # the second: batches that lie in the heap, among losses
    ids=["large batches", "small batches"],
)
def test_resident_memory_stays_flat_while_the_data_grow_tenfold(tmp_path, dtype, width, batch_size):
    found = {}
    for megabytes in (50, 500):
        rows = megabytes * 10**6 // (width * np.dtype(dtype).itemsize)
        x, y = tmp_path / "x.npy", tmp_path / "y.npy"
        empty = np.lib.format.open_memmap(x, "w+", dtype, (rows, width))  # a sparse file: it takes no disk
        del empty
        np.save(y, np.arange(rows) % 2)
        command = [sys.executable, "-c", MEMORY, str(x), str(y), str(tmp_path / f"run{megabytes}"), str(batch_size)]
        command.append(str(width))
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        found[megabytes] = json.loads(done.stdout)
    assert found[500]["after"] - found[500]["before"] < 70  # of 500 MB
    assert found[500]["after"] - found[50]["after"] < 50
