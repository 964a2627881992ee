"""The data side by hand: datasets, orders, batches, augmentation with random numbers of its own, loaders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import clearloop as cl
from clearloop.data import augment
from clearloop.data.loaders import scale_images
from clearloop.rungs import data
from clearloop.rungs.loader import AugmentingLoader, TensorLoader, array_parts, npz_parts

SIZES = st.tuples(st.integers(1, 40), st.integers(1, 45))


def pairs(samples: int) -> data.Dataset:
    """Samples that can be told apart."""
    return data.Dataset(torch.arange(samples, dtype=torch.float32).view(-1, 1), torch.arange(samples))


def in_batches(loader: object) -> list[list[int]]:
    return [targets.tolist() for _, targets in loader]


def test_a_dataset_gives_a_pair_for_an_index_and_a_batch_for_several() -> None:
    ten = pairs(10)
    assert len(ten) == 10
    assert (ten[3][0].item(), ten[3][1].item()) == (3.0, 3)
    for several in (slice(2, 6, 2), torch.tensor([2, 4]), [2, 4]):
        x, y = ten[several]
        assert (x.flatten().tolist(), y.tolist()) == ([2.0, 4.0], [2, 4])


def test_a_stored_dataset_makes_of_a_batch_what_the_model_takes() -> None:
    stored = torch.arange(6 * 4, dtype=torch.uint8).view(6, 2, 2)
    images = data.StoredDataset(stored, torch.arange(6), scale_images)
    x, y = images[torch.tensor([5, 0])]
    assert torch.equal(x, stored[[5, 0]].unsqueeze(1).float() / 255)
    assert y.tolist() == [5, 0]
    assert len(images) == 6
    assert images.x.dtype == torch.uint8


@given(SIZES, st.one_of(st.none(), st.integers(0, 2**40)))
def test_a_sampler_names_each_sample_once_in_batches_of_its_size(sizes: tuple[int, int], seed: int | None) -> None:
    samples, batch_size = sizes
    sampler = data.Sampler(samples, batch_size, seed)
    for epoch in range(3):
        batches = list(sampler)
        assert sampler.epoch == epoch + 1
        assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
        assert 1 <= len(batches[-1]) <= batch_size
        joined = torch.cat(batches)
        assert joined.dtype == torch.int64
        assert torch.equal(joined.sort().values, torch.arange(samples))
        if seed is None:
            assert torch.equal(joined, torch.arange(samples))


def test_the_sampler_gives_a_new_order_every_epoch_that_belongs_to_its_seed() -> None:
    def orders(seed: int) -> list[Tensor]:
        sampler = data.Sampler(50, 7, seed)
        return [torch.cat(list(sampler)) for _ in range(3)]

    first = orders(1)
    assert all(torch.equal(mine, same) for mine, same in zip(first, orders(1), strict=True))
    for one, other in ((first[0], first[1]), (first[1], first[2]), (first[0], orders(2)[0])):
        assert not torch.equal(one, other)


@given(SIZES, st.integers(0, 1000), st.booleans())
def test_its_batches_are_those_of_the_library_s_loader(sizes: tuple[int, int], seed: int, shuffle: bool) -> None:
    samples, batch_size = sizes
    theirs = cl.DataLoader(cl.TensorDataset(torch.arange(samples)), batch_size, shuffle=shuffle, seed=seed)
    ours = data.Sampler(samples, batch_size, seed if shuffle else None)
    for epoch in range(2):
        expected = [batch.tolist() for (batch,) in theirs.batches(epoch)]
        assert [batch.tolist() for batch in ours] == expected


@given(SIZES)
def test_batches_in_order_are_slices_of_all_tensors(sizes: tuple[int, int]) -> None:
    samples, batch_size = sizes
    x, y = torch.randn(samples, 2), torch.arange(samples)
    batches = list(data.in_order([x, y], batch_size))
    assert [len(part) for part, _ in batches] == [len(part) for part in x.split(batch_size)]
    assert torch.equal(torch.cat([part for part, _ in batches]), x)
    assert torch.equal(torch.cat([part for _, part in batches]), y)


def test_batches_in_order_have_the_bits_of_batches_that_were_gathered() -> None:
    model, x = torch.nn.Linear(6, 4), torch.randn(40, 6)  # on most CPUs, unaligned rows of 24 bytes add up otherwise
    for (batch,), indices in zip(data.in_order([x], 9), data.Sampler(40, 9), strict=True):
        assert torch.equal(model(batch), model(x[indices]))


def test_collate_stacks_samples() -> None:
    x, y = data.collate([(torch.zeros(2, 3), torch.tensor(1)), (torch.ones(2, 3), torch.tensor(2))])
    assert (x.shape, y.tolist()) == ((2, 2, 3), [1, 2])


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("samples", [1, 10, 13])
def test_loaders_by_hand_and_torch_s_give_the_same_batches(samples: int, seed: int | None) -> None:
    dataset = pairs(samples)
    batches = [sampled.tolist() for sampled in data.Sampler(samples, 5, seed)]
    found = [
        in_batches(data.DataLoader(dataset, data.Sampler(samples, 5, seed))),
        in_batches(TensorLoader(dataset, data.Sampler(samples, 5, seed))),
        in_batches(torch.utils.data.DataLoader(dataset, batch_sampler=batches)),
    ]
    assert found == [batches] * 3


# -- augmentation ------------------------------------------------------------------------------------------------------


def noise(inputs: Tensor, keys: Tensor) -> Tensor:
    """One random number added to each sample."""
    return inputs + augment.uniform(keys, 0).view(-1, *[1] * (inputs.ndim - 1))


@given(st.permutations(range(12)), st.integers(1, 12), st.integers(0, 100), st.integers(0, 50))
def test_a_sample_is_augmented_the_same_way_in_any_batch_and_order(
    order: list[int], batch_size: int, seed: int, epoch: int
) -> None:
    change, x = data.keyed(noise, seed), torch.zeros(12, 1)
    whole = change(x, epoch, torch.arange(12))
    for indices in torch.tensor(order).split(batch_size):
        assert torch.equal(change(x[indices], epoch, indices), whole[indices])


def test_augmentation_is_a_function_of_seed_epoch_and_index_and_of_nothing_else() -> None:
    x, indices = torch.zeros(200, 1), torch.arange(200)
    first = data.keyed(noise, 1)(x, 0, indices)
    torch.manual_seed(99)
    assert torch.equal(data.keyed(noise, 1)(x, 0, indices), first)
    for other in (data.keyed(noise, 2)(x, 0, indices), data.keyed(noise, 1)(x, 1, indices)):
        assert (other == first).float().mean() < 0.05
    assert len(first.unique()) > 195  # each sample draws for itself


@pytest.mark.parametrize("change", [noise, augment.random_flip, augment.random_shift(2)])
def test_an_augmenting_loader_gives_the_batches_of_the_library_s_and_of_a_loop_by_index(
    change: augment.Augment,
) -> None:
    x, y = torch.rand(23, 1, 6, 6), torch.arange(23)
    theirs = cl.DataLoader(cl.TensorDataset(x, y), 5, shuffle=True, seed=4, augment=change)
    ours = AugmentingLoader(data.Dataset(x, y), data.Sampler(23, 5, 4), data.keyed(change, 4))
    by_index, sampler = data.keyed(change, 4), data.Sampler(23, 5, 4)
    for epoch in range(3):
        for (inputs, targets), (mine, labels), indices in zip(theirs.batches(epoch), ours, sampler, strict=True):
            assert torch.equal(targets, labels)
            assert torch.equal(mine, inputs)
            assert torch.equal(by_index(x[indices], epoch, indices), inputs)


# -- arrays in files ---------------------------------------------------------------------------------------------------


def test_kept_arrays_come_back_with_their_types(tmp_path: Path) -> None:
    kept = {
        "x_train": np.arange(12, dtype=np.uint8).reshape(3, 2, 2),
        "y_train": np.array([0, 2, 1]),
        "x_valid": np.arange(4, dtype=np.uint8).reshape(1, 2, 2),
        "y_valid": np.array([1]),
    }
    np.savez(tmp_path / "kept.npz", **kept)
    found = array_parts(tmp_path / "kept.npz")
    for part, (x, y) in zip(("train", "valid"), found, strict=True):
        assert np.array_equal(x.numpy(), kept[f"x_{part}"])
        assert (x.dtype, y.dtype, y.tolist()) == (torch.uint8, torch.int64, kept[f"y_{part}"].tolist())


@pytest.mark.parametrize("own_valid", [False, True])
def test_arrays_of_a_file_are_split_and_prepared_as_the_library_does(tmp_path: Path, own_valid: bool) -> None:
    rng = np.random.default_rng(0)
    arrays = {"x": rng.random((20, 3)), "y": rng.random(20)}
    if own_valid:
        valid = {"x_valid": rng.random((4, 3)), "y_valid": rng.random(4)}
        arrays = {"x_train": arrays["x"], "y_train": arrays["y"], **valid}
    np.savez(tmp_path / "rows.npz", **arrays)
    theirs = cl.DataLoaders.npz(tmp_path / "rows.npz", batch_size=64, seed=6)
    (x, y), (x_valid, y_valid) = npz_parts(tmp_path / "rows.npz", seed=6)
    expected = [theirs.train.dataset[:], theirs.valid.dataset[:]]
    for mine, other in zip(((x, y), (x_valid, y_valid)), expected, strict=True):
        assert all(torch.equal(a, b) and a.dtype == torch.float32 for a, b in zip(mine, other, strict=True))
    assert (len(x), len(x_valid)) == ((20, 4) if own_valid else (16, 4))
