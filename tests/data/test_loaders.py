"""DataLoaders: the ready-made ones, from IDX files, archives and arrays."""

from __future__ import annotations

import gzip
import json
import struct

import numpy as np
import pytest
import torch

from clearloop import ConfigError, DataError, DataLoader, DataLoaders, TensorDataset, get_dls
from clearloop.component import describe
from clearloop.data.augment import random_shift
from clearloop.data.loader import ForeignLoader
from clearloop.data.loaders import held_out


def labels_of(loader, epoch: int = 0) -> list[int]:
    return [int(label) for _, labels in loader.batches(epoch) for label in labels]


def test_the_digits_are_shuffled_anew_every_epoch_and_validation_never_is(digits):
    dls = DataLoaders.mnist(batch_size=64, seed=0)
    train, valid = dls
    assert (len(train), len(valid)) == (782, 20)
    assert labels_of(train) != labels_of(train, 1)
    assert sorted(labels_of(train)) == sorted(digits.train_labels[:50_000].tolist())
    assert labels_of(valid) == labels_of(valid, 1) == digits.train_labels[50_000:].tolist()
    assert dls.classes == list("0123456789")
    assert dls.image_size == (28, 28)
    inputs, targets = next(iter(train))
    assert inputs.shape == (64, 1, 28, 28)
    assert inputs.dtype == torch.float32
    assert targets.dtype == torch.int64
    assert float(inputs.max()) == 1
    assert train.dataset.tensors[0].dtype == torch.uint8  # held as bytes


def test_the_test_images_validate_where_all_others_are_trained_on(digits):
    train, valid = DataLoaders.mnist(batch_size=60, seed=0, test=True)
    assert (len(train), len(valid.dataset)) == (1000, 10_000)
    assert labels_of(valid) == digits.test_labels.tolist()


def test_an_image_is_its_own_target_where_it_is_to_be_given_back(digits):
    dls = DataLoaders.mnist(batch_size=5, seed=0, targets="inputs")
    assert dls.classes is None  # so that no class is predicted
    assert dls.image_size == (28, 28)
    for loader in dls:
        inputs, targets = next(iter(loader))
        assert torch.equal(inputs.flatten(1), targets)
        assert targets.dtype == torch.float32
    images = digits.train_images[50_000:50_512].flatten(1).float() / 255
    assert torch.equal(targets, images)
    assert torch.equal(dls.valid.dataset.tensors[1], digits.train_labels[50_000:])  # labels are there for pictures
    with pytest.raises(ConfigError, match=r'targets must be "labels" or "inputs", got \'images\''):
        DataLoaders.mnist(targets="images")


def test_the_digits_come_in_the_order_of_the_seed():
    one, same, other = (DataLoaders.mnist(512, seed=seed) for seed in (0, 0, 1))
    first = [next(dls.train.batches(0)) for dls in (one, same, other)]
    assert torch.equal(first[0][0], first[1][0])
    assert not torch.equal(first[0][0], first[2][0])


def test_loaders_without_a_seed_remember_the_one_that_was_drawn():
    torch.manual_seed(5)
    drawn = DataLoaders.mnist()
    torch.manual_seed(5)
    assert DataLoaders.mnist().train.seed == drawn.train.seed
    again = DataLoaders.mnist(**drawn.recipe_call["kwargs"] | {"batch_size": 64})
    assert again.train.seed == drawn.train.seed


def write_idx(folder, part: str, images: np.ndarray, labels: np.ndarray) -> None:
    for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
        header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
        (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))


@pytest.fixture
def idx_folder(tmp_path):
    write_idx(tmp_path, "train", np.arange(20 * 6).reshape(20, 2, 3), np.arange(20) % 4)
    write_idx(tmp_path, "t10k", np.zeros((5, 2, 3)), np.array([3, 2, 1, 0, 0]))
    return tmp_path


def test_idx_files_of_ones_own_are_read_with_either_validation_set(idx_folder):
    dls = DataLoaders.idx(idx_folder, batch_size=8, seed=0)
    assert labels_of(dls.valid) == [3, 2, 1, 0, 0]
    assert (len(dls.train.dataset), dls.classes, dls.image_size) == (20, list("0123"), (2, 3))
    for valid, expected in ((0.25, 5), (3, 3)):
        dls = DataLoaders.idx(idx_folder, seed=0, valid=valid)
        assert labels_of(dls.valid) == [label % 4 for label in range(20 - expected, 20)]
        assert len(dls.train.dataset) == 20 - expected


def test_images_of_two_sizes_are_refused(idx_folder):
    write_idx(idx_folder, "t10k", np.zeros((5, 3, 3)), np.zeros(5))
    with pytest.raises(DataError, match=r"must have one size, got .2, 3. and .3, 3."):
        DataLoaders.idx(idx_folder, seed=0)


@pytest.mark.parametrize("valid", [0, 20, 21, -1, 1.5e9])
def test_a_share_or_count_that_leaves_nothing_is_refused(valid):
    with pytest.raises(DataError, match="valid must be a share in"):
        held_out(valid, 20)


def test_an_archive_with_its_own_validation_set(tmp_path):
    x, y = np.random.rand(12, 3), np.arange(12) % 3
    np.savez(tmp_path / "d.npz", x_train=x[:8], y_train=y[:8], x_valid=x[8:], y_valid=y[8:])
    dls = DataLoaders.npz(tmp_path / "d.npz", batch_size=4, seed=0)
    assert labels_of(dls.valid) == y[8:].tolist()
    assert next(iter(dls.valid))[0].dtype == torch.float32
    assert (dls.classes, dls.image_size) == (list("012"), None)


def test_an_archive_of_x_and_y_is_split_by_the_seed(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.random.rand(50, 3), y=np.arange(50))
    dls, same, other = (DataLoaders.npz(tmp_path / "d.npz", seed=seed, valid=0.3) for seed in (1, 1, 2))
    assert len(labels_of(dls.valid)) == 15
    assert sorted(labels_of(dls.valid) + labels_of(dls.train)) == list(range(50))
    assert labels_of(dls.valid) == labels_of(same.valid) != labels_of(other.valid)


def test_an_archive_of_other_names_is_refused_with_what_it_holds(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.zeros(3), labels=np.zeros(3))
    with pytest.raises(DataError, match=r"or x and y; got \['labels', 'x'\]"):
        DataLoaders.npz(tmp_path / "d.npz", seed=0)


def test_arrays_for_regression_get_targets_of_the_predictions_shape():
    dls = DataLoaders.arrays(np.random.rand(10, 2), np.random.rand(10), batch_size=4, seed=0)
    inputs, targets = next(iter(dls.train))
    assert inputs.dtype == targets.dtype == torch.float32
    assert targets.shape == (4, 1)
    assert dls.classes is None
    assert (len(dls.train.dataset), len(dls.valid.dataset)) == (8, 2)


def test_arrays_of_bytes_are_images_and_of_integers_are_numbers():
    grey = DataLoaders.arrays(np.full((10, 4, 5), 255, np.uint8), np.arange(10) % 2, seed=0)
    colour = DataLoaders.arrays(np.full((10, 3, 4, 5), 51, np.uint8), np.arange(10) % 2, seed=0)
    table = DataLoaders.arrays(np.arange(20).reshape(10, 2), np.arange(10) % 2, seed=0)
    assert next(iter(grey.train))[0].shape == (8, 1, 4, 5)
    assert grey.image_size == (4, 5)
    assert next(iter(colour.train))[0].shape == (8, 3, 4, 5)
    assert torch.equal(next(iter(colour.train))[0], torch.full((8, 3, 4, 5), 0.2))
    assert next(iter(table.train))[0].dtype == torch.float32


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([[1.0], [np.nan], [1.0]], [0, 1, 0], r"x_train: row 1 holds NaN"),
        ([[1.0], [2.0], [1.0]], [0.0, 1.0, np.inf], r"y_train: row 2 holds NaN or infinity"),
        ([[1.0], [2.0], [1.0]], [0, 1], "need as many targets"),
        ([[1.0], [2.0], [1.0]], ["a", "b", "c"], "y_train: expected numbers"),
        (np.zeros((0, 3)), np.zeros((0, 1)), "the same number of samples, at least 1"),
        (1.0, [1.0], "need as many targets"),
    ],
    ids=["nan", "inf", "lengths", "text", "empty", "scalar"],
)
def test_arrays_that_cannot_be_trained_on_are_refused(x, y, message):
    with pytest.raises(DataError, match=message):
        DataLoaders.arrays(x, y, seed=0)


def test_torch_loaders_and_lists_are_taken_as_they_are():
    data = TensorDataset(torch.arange(6.0), torch.arange(6))
    dls = DataLoaders(
        torch.utils.data.DataLoader(data, batch_size=2), [(torch.zeros(1), torch.zeros(1))], classes=[0, 1]
    )
    assert isinstance(dls.train, ForeignLoader)
    assert isinstance(dls.valid, ForeignLoader)
    assert dls.classes == ["0", "1"]
    assert DataLoaders(DataLoader(data)).valid is None


def test_get_dls_makes_a_shuffled_and_an_ordered_loader():
    data = TensorDataset(torch.arange(40), torch.arange(40))
    train_dl, valid_dl = get_dls(data, data, batch_size=8)
    assert (train_dl.batch_size, valid_dl.batch_size) == (8, 16)
    assert labels_of(train_dl) != list(range(40)) == sorted(labels_of(train_dl))
    assert labels_of(valid_dl) == list(range(40))


def test_a_call_is_remembered_as_plain_data_that_makes_the_same_again(idx_folder):
    dls = DataLoaders.idx(idx_folder, 8, seed=3, valid=5, augment=random_shift(1))
    described = json.loads(json.dumps(describe(dls)))
    assert described["path"] == "clearloop.data.loaders:DataLoaders.idx"
    assert described["args"] == [str(idx_folder), 8]
    assert described["kwargs"]["seed"] == 3
    again = DataLoaders.idx(*described["args"], seed=3, valid=5, augment=random_shift(1))
    for ours, theirs in zip(dls.train.batches(2), again.train.batches(2), strict=True):
        assert torch.equal(ours[0], theirs[0])
