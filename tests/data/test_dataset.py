"""Datasets: one index gives a sample, many give a batch, and a split loses nothing."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils import data as torch_data

from clearloop import ConfigError, DataError, Dataset, Subset, TensorDataset, random_split
from clearloop.data.dataset import ItemDataset, as_dataset
from clearloop.tree import tree_map

SAMPLES = 10


def numbered(samples: int = SAMPLES) -> TensorDataset:
    """Inputs (i, i) and target 10 * i."""
    inputs = torch.arange(samples)[:, None].expand(-1, 2).clone()
    return TensorDataset(inputs, torch.arange(samples) * 10)


def rows(batch: tuple[Tensor, Tensor]) -> list[int]:
    """Which samples a batch of `numbered` holds; inputs and targets must agree."""
    inputs, targets = batch
    assert torch.equal(inputs[..., 0] * 10, targets)
    assert torch.equal(inputs[..., 0], inputs[..., 1])
    return inputs[..., 0].tolist()


@pytest.mark.parametrize("index", [3, -7, np.int64(3), np.int64(-7), torch.tensor(3)])
def test_an_int_of_any_kind_gives_one_sample(index):
    inputs, target = numbered()[index]
    assert inputs.tolist() == [3, 3]
    assert target.shape == ()
    assert int(target) == 30


@pytest.mark.parametrize("index", [SAMPLES, -SAMPLES - 1, [0, SAMPLES], torch.tensor([-SAMPLES - 1]), 10**9])
def test_an_index_out_of_range_is_refused_with_its_number(index):
    with pytest.raises(IndexError, match=f"is out of range for {SAMPLES} samples"):
        numbered()[index]


def test_plain_iteration_ends_at_the_last_sample():
    assert [rows(sample) for sample in numbered(3)] == [0, 1, 2]


@pytest.mark.parametrize("index", [1.5, [[1, 2]], torch.tensor([[1]]), torch.tensor([True, False]), [0.5]])
def test_an_index_that_is_no_row_of_ints_is_refused_rather_than_rounded(index):
    with pytest.raises(IndexError, match="expected an int, a slice"):
        numbered()[index]


slices = st.builds(slice, *[st.none() | st.integers(-15, 15)] * 2, st.none() | st.integers(1, 4))
int_lists = st.lists(st.integers(-SAMPLES, SAMPLES - 1))
masks = st.lists(st.booleans(), min_size=SAMPLES, max_size=SAMPLES)


@given(index=slices)
def test_a_slice_gives_the_samples_that_a_list_would(index):
    assert rows(numbered()[index]) == list(range(SAMPLES))[index]


@given(index=int_lists)
def test_ints_in_a_list_tensor_or_array_give_the_same_batch(index):
    expected = [list(range(SAMPLES))[i] for i in index]
    data = numbered()
    assert rows(data[index]) == expected
    assert rows(data[torch.tensor(index, dtype=torch.int64)]) == expected
    assert rows(data[torch.tensor(index, dtype=torch.int32)]) == expected
    assert rows(data[np.array(index, dtype=np.int64)]) == expected


@given(mask=masks)
def test_a_mask_gives_the_samples_where_it_is_true(mask):
    expected = [i for i in range(SAMPLES) if mask[i]]
    assert rows(numbered()[mask]) == expected
    assert rows(numbered()[torch.tensor(mask)]) == expected
    assert rows(Subset(numbered(), torch.tensor(mask))[:]) == expected


def test_what_is_gathered_is_a_copy():
    data = numbered()
    for index in (slice(0, 3), torch.tensor([0, 1, 2])):
        data[index][0].zero_()
        data.gather(index)[0].zero_()
    assert rows(data[:]) == list(range(SAMPLES))


def test_bytes_stay_bytes_until_the_transform():
    images = torch.arange(12, dtype=torch.uint8).view(3, 4)
    data = TensorDataset(images, torch.zeros(3), transform=lambda batch: (batch[0].float() / 255, batch[1]))
    assert data.gather(slice(0, 2))[0].dtype == torch.uint8
    assert data.gather(torch.tensor([2]))[0].dtype == torch.uint8
    assert torch.equal(data[1][0], images[1].float() / 255)
    assert torch.equal(data[1:][0], images[1:].float() / 255)
    assert Subset(data, [1])[0][0].dtype == torch.float32
    assert Subset(data, [1]).gather(torch.tensor([0]))[0].dtype == torch.uint8


def test_arrays_are_taken_as_they_are_without_a_copy_or_a_warning():
    array = np.arange(6.0)
    data = TensorDataset(array, array[::-1])
    assert data.tensors[0].data_ptr() == array.ctypes.data
    assert data.tensors[0].dtype == torch.float64
    assert data.tensors[1].tolist() == [5, 4, 3, 2, 1, 0]
    array.flags.writeable = False
    assert TensorDataset(array)[2][0] == 2


def test_a_file_mapped_into_memory_is_gathered_from_where_it_lies(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(20, dtype=np.uint8).reshape(10, 2))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    data = TensorDataset(mapped, np.arange(10))
    assert data[torch.tensor([4, 1])][0].tolist() == [[8, 9], [2, 3]]


@pytest.mark.parametrize("lengths", [(3, 4), (0,), (0, 0)])
def test_tensors_of_different_or_no_length_are_refused(lengths):
    with pytest.raises(DataError, match="the same number of samples, at least 1; got"):
        TensorDataset(*(torch.zeros(length) for length in lengths))
    with pytest.raises(DataError, match="at least one tensor"):
        TensorDataset()
    with pytest.raises(DataError, match=r"got \[0\]"):
        TensorDataset(torch.tensor(1.0))


@given(indices=int_lists, index=slices)
def test_a_subset_of_a_subset_composes_the_indices(indices, index):
    inner = Subset(numbered(), indices)
    chosen = [list(range(SAMPLES))[i] for i in indices]
    assert len(inner) == len(indices)
    assert rows(inner[:]) == chosen
    assert rows(inner[index]) == chosen[index]
    outer = Subset(inner, list(range(len(indices)))[::-1])
    assert rows(outer[:]) == chosen[::-1]
    assert [rows(sample) for sample in outer] == chosen[::-1]


def test_a_subset_with_an_index_out_of_range_is_refused_at_once():
    with pytest.raises(DataError, match="a subset of 10 samples: index 10 is out of range"):
        Subset(numbered(), [0, 10])


class Counting(Dataset):
    """Nested batches, and how often they were asked for."""

    def __init__(self) -> None:
        self.gathers = 0

    def __len__(self) -> int:
        return 6

    def gather(self, indices):
        self.gathers += 1
        numbers = torch.arange(6)[indices]
        return {"x": (numbers, numbers * 2)}, numbers * 3


def test_a_dataset_of_ones_own_gives_nested_samples_and_batches():
    sample = Counting()[-1]
    assert tree_map(int, sample) == ({"x": (5, 10)}, 15)
    assert tree_map(lambda tensor: tensor.tolist(), Counting()[1:3]) == ({"x": ([1, 2], [2, 4])}, [3, 6])


def test_torch_can_take_a_dataset_of_ours():
    batches = list(torch_data.DataLoader(numbered(5), batch_size=2))
    assert [rows(batch) for batch in batches] == [[0, 1], [2, 3], [4]]


def test_torch_tensor_datasets_and_their_subsets_are_gathered():
    base = torch_data.TensorDataset(*numbered().tensors)
    assert isinstance(as_dataset(base), TensorDataset)
    nested = torch_data.Subset(torch_data.Subset(base, [9, 8, 7]), [2, 0])
    subset = as_dataset(nested)
    assert isinstance(subset, Subset)
    assert rows(subset[:]) == [7, 9]
    assert isinstance(as_dataset(torch_data.Subset(numbered(), [1])), Subset)
    assert isinstance(as_dataset(torch_data.Subset([1, 2], [1])), ItemDataset)


def test_a_torch_dataset_with_a_getitem_of_its_own_is_asked_item_by_item():
    class Doubled(torch_data.TensorDataset):
        def __getitem__(self, index):
            return tuple(2 * tensor for tensor in super().__getitem__(index))

    class Negated(torch_data.Subset):
        def __getitem__(self, index):
            return tuple(-tensor for tensor in super().__getitem__(index))

        __getitems__ = None

    base = torch_data.TensorDataset(*numbered().tensors)
    doubled, negated = as_dataset(Doubled(*base.tensors)), as_dataset(Negated(base, [3, 4]))
    assert isinstance(doubled, ItemDataset)
    assert rows(doubled[4]) == 8
    assert isinstance(negated, ItemDataset)
    assert rows(negated[1]) == -4


def test_what_is_no_collection_is_refused_with_its_type():
    with pytest.raises(DataError, match="expected a dataset with __len__ and __getitem__, or a loader; got generator"):
        as_dataset(number for number in range(3))


# -- random_split ------------------------------------------------------------------------------------------------------

fraction_lists = st.lists(st.integers(1, 20), min_size=1, max_size=4).map(
    lambda weights: [weight / sum(weights) for weight in weights]
)


@given(samples=st.integers(40, 200), fractions=fraction_lists, seed=st.integers(0, 2**70))
def test_a_split_holds_every_sample_exactly_once_and_keeps_the_shares(samples, fractions, seed):
    parts = random_split(numbered(samples), fractions, seed)
    indices = [rows(part[:]) for part in parts]
    assert sorted(index for part in indices for index in part) == list(range(samples))
    for part, fraction in zip(indices, fractions, strict=True):
        assert abs(len(part) - fraction * samples) <= 1
    again = random_split(numbered(samples), fractions, seed)
    assert [rows(part[:]) for part in again] == indices


def test_a_split_depends_on_the_seed_and_on_nothing_else():
    split = [rows(part[:]) for part in random_split(numbered(100), (0.8, 0.2), seed=3)]
    torch.manual_seed(99)
    before = torch.get_rng_state()
    assert [rows(part[:]) for part in random_split(numbered(100), (0.8, 0.2), seed=3)] == split
    assert torch.equal(torch.get_rng_state(), before)
    assert [rows(part[:]) for part in random_split(numbered(100), (0.8, 0.2), seed=4)] != split
    assert split[0] != sorted(split[0])  # a permutation, not a cut


@given(labels=st.lists(st.integers(-1, 3), min_size=40, max_size=120), fractions=fraction_lists)
def test_a_stratified_split_keeps_the_share_of_every_class(labels, fractions):
    data = numbered(len(labels))
    try:
        parts = random_split(data, fractions, seed=5, stratify=labels)
    except DataError:  # many classes of few samples can leave a small part without any
        assert min(fractions) * min(labels.count(label) for label in labels) < 1
        return
    indices = [rows(part[:]) for part in parts]
    assert sorted(index for part in indices for index in part) == list(range(len(labels)))
    for part, fraction in zip(indices, fractions, strict=True):
        for label in set(labels):
            held = sum(labels[index] == label for index in part)
            assert abs(held - fraction * labels.count(label)) <= 1


def test_a_stratified_part_is_in_random_order_not_class_by_class():
    labels = torch.arange(100) % 2
    part = random_split(numbered(100), (0.5, 0.5), seed=0, stratify=labels)[0]
    seen = labels[part.indices].tolist()
    assert seen != sorted(seen)
    assert sum(a != b for a, b in itertools.pairwise(seen)) > 10


def test_a_sum_that_is_off_by_a_rounding_loses_no_sample():
    parts = random_split(TensorDataset(torch.arange(600_000)), (0.5, 0.4999991), seed=0)
    assert [len(part) for part in parts] == [300_000, 300_000]


@pytest.mark.parametrize("fractions", [(0.5, 0.4), (1.5, -0.5), (1.0, 0.0), (), (0.6, 0.6), (float("nan"), 0.5)])
def test_fractions_that_are_no_split_are_refused(fractions):
    with pytest.raises(ConfigError, match="fractions must be positive and sum to 1"):
        random_split(numbered(), fractions, seed=0)


def test_other_splits_that_cannot_be_made_are_refused():
    with pytest.raises(DataError, match="leave a part empty"):
        random_split(numbered(), (0.99, 0.01), seed=0)
    with pytest.raises(DataError, match=r"one label a sample, shape \(10,\), got \(3,\)"):
        random_split(numbered(), (0.5, 0.5), seed=0, stratify=[1, 2, 3])
    with pytest.raises(DataError, match=r"use torch\.utils\.data\.random_split for others"):
        random_split([1, 2, 3], (0.5, 0.5), seed=0)
    with pytest.raises(ConfigError, match="seed must be a whole number of 0 or more"):
        random_split(numbered(), (0.5, 0.5), seed=-1)
