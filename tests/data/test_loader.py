"""Loaders: the order is (seed, epoch) and nothing else; what draws random numbers draws the same in any process."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils import data as torch_data

from clearloop import ConfigError, DataError, DataLoader, Dataset, Subset, TensorDataset, rng
from clearloop.data import loader as loader_module
from clearloop.data.augment import random_shift, sample_keys
from clearloop.data.dataset import ItemDataset
from clearloop.data.items import seeded_item
from clearloop.data.loader import ForeignLoader, as_loader, collate, draw_seed
from clearloop.data.sampler import WeightedSampler
from clearloop.rungs.data import Dataset as ByHand
from clearloop.rungs.data import Sampler
from clearloop.rungs.loader import TensorLoader
from clearloop.tree import leaves

CPU = torch.device("cpu")
every_number_of_workers = pytest.mark.parametrize("num_workers", [0, 1, 2])


class Items:
    """Item by item: a sample is (index, index squared)."""

    def __init__(self, samples: int = 23) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not isinstance(index, int):
            raise TypeError("only ints")
        return torch.tensor(index), index**2


class Drawing(Items):
    """Each sample draws from Python's, NumPy's and torch's generators."""

    def __getitem__(self, index: int) -> tuple[int, float, float, float]:
        return index, random.random(), float(np.random.rand()), float(torch.rand(()))


class Gathering(Dataset):
    """Counts how it is asked."""

    def __init__(self, samples: int) -> None:
        self.samples, self.gathers, self.items = samples, 0, 0

    def __len__(self) -> int:
        return self.samples

    def gather(self, indices: Any) -> tuple[Tensor, Tensor]:
        self.gathers += 1
        numbers = torch.arange(self.samples)[indices]
        return numbers, numbers**2

    def __getitem__(self, index: Any) -> Any:
        self.items += 1
        return super().__getitem__(index)


def numbered(samples: int = 23) -> TensorDataset:
    return TensorDataset(torch.arange(samples), torch.arange(samples) ** 2)


def epoch_of(loader: Any, epoch: int, start: int = 0) -> list[list[list[float]]]:
    """All batches of an epoch as plain lists."""
    return [[part.tolist() for part in batch] for batch in loader.batches(epoch, start)]


def states() -> list[Any]:
    return [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]


# -- batches -----------------------------------------------------------------------------------------------------------


def test_fifteen_items_by_five_make_three_batches_in_order():
    loader = DataLoader(range(15), batch_size=5)
    assert len(loader) == 3
    assert [batch.tolist() for batch in loader] == [list(range(i, i + 5)) for i in (0, 5, 10)]


def test_twenty_six_letters_by_six_leave_an_uneven_last_batch():
    letters = "abcdefghijklmnopqrstuvwxyz"
    loader = DataLoader(letters, batch_size=6, shuffle=True)
    batches = list(loader)
    assert len(loader) == 5
    assert [len(batch) for batch in batches] == [6, 6, 6, 6, 2]
    assert sorted(letter for batch in batches for letter in batch) == list(letters)


DATASETS = {"gathered": numbered, "items": Items, "torch": lambda n: torch_data.TensorDataset(*numbered(n).tensors)}
every_dataset = pytest.mark.parametrize("make", DATASETS.values(), ids=DATASETS)


@every_dataset
@given(
    samples=st.integers(1, 40),
    batch_size=st.integers(1, 45),
    shuffle=st.booleans(),
    drop_last=st.booleans(),
    epoch=st.integers(0, 3),
    data=st.data(),
)
def test_an_epoch_visits_every_sample_once_and_starts_anywhere(
    make, samples, batch_size, shuffle, drop_last, epoch, data
):
    if drop_last and samples < batch_size:
        with pytest.raises(ConfigError, match="drop_last leaves no batch"):
            DataLoader(make(samples), batch_size, shuffle, seed=1, drop_last=True)
        return
    loader = DataLoader(make(samples), batch_size, shuffle, seed=1, drop_last=drop_last)
    batches = epoch_of(loader, epoch)
    sizes = [len(inputs) for inputs, _ in batches]
    whole, rest = divmod(samples, batch_size)
    assert sizes == [batch_size] * whole + ([rest] if rest and not drop_last else [])
    assert len(loader) == len(sizes)
    seen = [number for inputs, _ in batches for number in inputs]
    assert len(set(seen)) == len(seen)
    assert set(seen) <= set(range(samples))
    assert [number**2 for number in seen] == [number for _, targets in batches for number in targets]
    if not shuffle:
        assert seen == list(range(len(seen)))
    start = data.draw(st.integers(0, len(batches) + 1))
    assert epoch_of(loader, epoch, start) == batches[start:]


@every_dataset
def test_order_depends_on_seed_and_epoch_alone(make):
    epochs = [epoch_of(DataLoader(make(23), 4, shuffle=True, seed=7), epoch) for epoch in range(3)]
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    loader = DataLoader(make(23), 4, shuffle=True, seed=7)
    torch.manual_seed(5)
    for epoch in (2, 0, 1, 1):
        side = iter(loader)
        next(side)  # a look beside does not count
        assert epoch_of(loader, epoch) == epochs[epoch]
    assert epoch_of(DataLoader(make(23), 4, shuffle=True, seed=8), 0) != epochs[0]


def test_all_kinds_of_data_come_in_the_same_order():
    kinds = [epoch_of(DataLoader(make(23), 4, shuffle=True, seed=7), 1) for make in DATASETS.values()]
    assert kinds[0] == kinds[1] == kinds[2]
    flat = [number for inputs, _ in kinds[0] for number in inputs]
    other = [number for inputs, _ in epoch_of(DataLoader(numbered(), 5, shuffle=True, seed=7), 1) for number in inputs]
    assert flat == other  # the batch size cuts the order, it does not change it


def test_the_loader_written_by_hand_gives_the_same_batches():
    data = numbered()
    ours = DataLoader(data, 4, shuffle=True, seed=3)
    by_hand = TensorLoader(ByHand(*data.tensors), Sampler(len(data), 4, seed=3))
    for epoch in range(2):
        assert [[part.tolist() for part in batch] for batch in by_hand] == epoch_of(ours, epoch)


@every_number_of_workers
def test_workers_do_not_change_order_start_or_content(num_workers):
    alone = DataLoader(Items(), 4, shuffle=True, seed=7)
    loader = DataLoader(Items(), 4, shuffle=True, seed=7, num_workers=num_workers)
    for epoch, start in ((0, 0), (1, 0), (1, 3), (0, 5), (2, 6), (5, 1)):
        assert epoch_of(loader, epoch, start) == epoch_of(alone, epoch, start)


def test_two_iterations_of_one_loader_with_workers_do_not_disturb_each_other():
    loader = DataLoader(Items(), 4, shuffle=True, seed=7, num_workers=1)
    expected = epoch_of(DataLoader(Items(), 4, shuffle=True, seed=7), 3)
    seen = []
    for number, batch in enumerate(loader.batches(3)):
        seen.append([part.tolist() for part in batch])
        if number == 2:
            aside = next(iter(loader))  # what looking at a batch while training does
            assert [part.tolist() for part in aside] != seen[-1]
    assert seen == expected


def test_worker_processes_are_kept_from_epoch_to_epoch():
    loader = DataLoader(Items(), 4, num_workers=1, collate_fn=lambda items: torch.tensor([_pid()]))
    pids = {int(batch) for epoch in range(3) for batch in loader.batches(epoch)}
    next(iter(loader))
    gc.collect()
    pids |= {int(batch) for batch in loader}
    assert len(pids) == 1
    assert pids != {_pid()}


def _pid() -> int:
    import os

    return os.getpid()


def test_iter_counts_epochs_of_its_own():
    loader = DataLoader(numbered(), 23, shuffle=True, seed=1)
    first, second = (next(iter(loader))[0].tolist() for _ in range(2))
    assert first == epoch_of(loader, 0)[0][0]
    assert second == epoch_of(loader, 1)[0][0]


def test_a_dataset_that_gathers_is_never_asked_item_by_item():
    for shuffle in (False, True):
        data = Gathering(20)
        assert len(epoch_of(DataLoader(data, 6, shuffle=shuffle, seed=0, num_workers=1), 0)) == 4
        assert (data.gathers, data.items) == (4, 0)
        subset = Subset(data, list(range(10)))
        epoch_of(DataLoader(subset, 5, shuffle=shuffle, seed=0), 0)
        assert (data.gathers, data.items) == (6, 0)


def test_a_foreign_getitem_is_asked_with_plain_ints_only():
    asked = []

    class Log(Items):
        def __getitem__(self, index):
            asked.append(index)
            return super().__getitem__(index)

    epoch_of(DataLoader(Log(5), 2, shuffle=True, seed=0), 0)
    assert sorted(asked) == [0, 1, 2, 3, 4]
    assert all(type(index) is int for index in asked)


def test_batches_of_a_gathered_dataset_are_transformed_after_the_gathering():
    data = TensorDataset(torch.arange(6, dtype=torch.uint8), torch.arange(6))
    seen = []

    def to_float(batch):
        seen.append(batch[0].dtype)
        return batch[0].float() / 255, batch[1]

    data.transform = to_float
    loader = DataLoader(data, 4)
    assert [batch[0].dtype for batch in loader] == [torch.float32] * 2
    assert seen == [torch.uint8] * 2


def test_a_sampler_decides_the_order_and_the_length():
    loader = DataLoader(numbered(), 4, sampler=WeightedSampler(torch.eye(23)[5] + torch.eye(23)[6], seed=0, draws=10))
    batches = epoch_of(loader, 0)
    assert len(loader) == len(batches) == 3
    assert {number for inputs, _ in batches for number in inputs} == {5, 6}
    assert batches != epoch_of(loader, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"batch_size": 2.0}, "batch_size must be a whole number"),
        ({"num_workers": -1}, "num_workers must be 0 or more, got -1"),
        ({"seed": -1}, "seed must be a whole number of 0 or more, got -1"),
        ({"shuffle": True, "sampler": WeightedSampler(torch.ones(23), 0)}, "a sampler decides the order"),
        ({"batch_size": 24, "drop_last": True}, "drop_last leaves no batch: 23 samples, batch_size 24"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_arguments_that_cannot_work_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        DataLoader(numbered(), **arguments)


def test_no_samples_and_no_collection_are_refused():
    with pytest.raises(DataError, match="the data hold no samples"):
        DataLoader([])
    with pytest.raises(DataError, match="got generator"):
        DataLoader(number for number in range(3))


def test_without_a_seed_torchs_generator_decides():
    def order() -> list[Any]:
        torch.manual_seed(3)
        return epoch_of(DataLoader(numbered(), 23, shuffle=True), 0)

    assert order() == order()
    torch.manual_seed(3)
    seed = draw_seed()
    assert order() == epoch_of(DataLoader(numbered(), 23, shuffle=True, seed=seed), 0)
    torch.manual_seed(4)
    assert epoch_of(DataLoader(numbered(), 23, shuffle=True), 0) != order()


# -- collate -----------------------------------------------------------------------------------------------------------


def test_collate_joins_as_torch_does_but_leaves_tuples_tuples():
    items = [(torch.ones(2) * i, i, float(i), "ab"[i], {"x": np.float32(i)}, [i, i]) for i in range(2)]
    joined = collate(items)
    torchs = torch_data.default_collate(items)
    assert type(joined) is tuple
    for ours, theirs in zip(leaves(joined), leaves(torchs), strict=True):
        assert ours.tolist() == theirs.tolist() if isinstance(ours, Tensor) else ours == theirs
    assert joined[3] == ("a", "b")
    assert joined[1].dtype == torch.int64


def test_nested_tuples_keep_their_shape():
    joined = collate([((1, 2), 3), ((4, 5), 6)])
    assert type(joined[0]) is tuple
    assert [leaf.tolist() for leaf in leaves(joined)] == [[1, 4], [2, 5], [3, 6]]


# -- data that draw random numbers -------------------------------------------------------------------------------------


def drawn(num_workers: int = 0, batch_size: int = 4, seed: int = 7, shuffle: bool = True) -> list[dict[int, tuple]]:
    """What each sample drew in three epochs."""
    loader = DataLoader(Drawing(), batch_size, shuffle=shuffle, seed=seed, num_workers=num_workers)
    found = []
    for epoch in range(3):
        columns = [torch.cat([batch[column] for batch in loader.batches(epoch)]).tolist() for column in range(4)]
        found.append({index: draws for index, *draws in zip(*columns, strict=True)})
    return found


def test_every_sample_and_epoch_draws_something_new_from_each_generator():
    epochs = drawn()
    for generator in range(3):
        numbers = [draws[generator] for epoch in epochs for draws in epoch.values()]
        assert len(set(numbers)) == len(numbers) == 3 * 23
        assert 0.3 < sum(numbers) / len(numbers) < 0.7


@every_number_of_workers
def test_draws_do_not_depend_on_workers_batch_size_or_order(num_workers):
    expected = drawn()
    assert drawn(num_workers) == expected
    assert drawn(num_workers, batch_size=5, shuffle=False) == expected
    assert drawn(num_workers, seed=8)[0] != expected[0]


@every_number_of_workers
def test_draws_do_not_depend_on_where_an_epoch_starts(num_workers):
    loader = DataLoader(Drawing(), 4, shuffle=True, seed=7, num_workers=num_workers)
    assert epoch_of(loader, 1, 2) == epoch_of(loader, 1)[2:]


@every_number_of_workers
def test_a_collate_function_that_draws_does_so_the_same_in_any_number_of_workers(num_workers):
    def noisy(items: list[Any]) -> tuple[Tensor, Tensor]:
        return torch.stack([item[0] for item in items]), torch.rand(len(items))

    alone = epoch_of(DataLoader(Items(), 4, shuffle=True, seed=7, collate_fn=noisy), 1)
    loader = DataLoader(Items(), 4, shuffle=True, seed=7, collate_fn=noisy, num_workers=num_workers)
    before = states()
    assert epoch_of(loader, 1) == alone
    assert states() == before


@every_number_of_workers
def test_loading_leaves_the_callers_random_states_untouched(num_workers):
    loader = DataLoader(Drawing(), 4, shuffle=True, seed=7, num_workers=num_workers)
    before = states()
    for epoch in range(2):
        for _ in loader.batches(epoch):
            assert states() == before
    assert states() == before


def test_random_states_come_back_after_an_item_that_fails():
    class Failing(Drawing):
        def __getitem__(self, index):
            random.random()
            raise KeyError("no such item")

    before = states()
    with pytest.raises(KeyError, match="no such item"):
        next(DataLoader(Failing(), seed=0).batches(0))
    assert states() == before


def test_items_that_draw_nothing_are_asked_once_and_no_generator_is_seeded(monkeypatch):
    asked = []

    class Log(Items):
        def __getitem__(self, index):
            asked.append(index)
            return super().__getitem__(index)

    monkeypatch.setattr(random, "seed", None)  # whoever calls it fails
    loader = DataLoader(Log(), 4, seed=0)
    for epoch in range(2):
        epoch_of(loader, epoch)
    assert asked == 2 * list(range(23))


def test_after_the_first_batch_that_drew_each_item_is_asked_once():
    asked = []

    class Late(Items):
        def __getitem__(self, index):
            asked.append(index)
            return random.random() if index > 5 else 0.0

    loader = DataLoader(Late(), 4, seed=0)
    for epoch in range(2):
        list(loader.batches(epoch))
    assert asked == [*range(8), *range(4, 23), *range(23)]


DRAWS = {
    "python": random.random,
    "python, normal": lambda: random.gauss(0, 1),
    "numpy": np.random.rand,
    "numpy, normal": np.random.randn,
    "torch": lambda: float(torch.rand(())),
    "torch, normal": lambda: float(torch.randn(())),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
@given(drawing=st.sets(st.integers(0, 22), min_size=1), batch_size=st.integers(1, 23))
def test_an_item_that_draws_does_so_from_its_own_seed_whatever_the_others_do(draw, drawing, batch_size):
    class Sometimes(Items):
        def __getitem__(self, index):
            return index, draw() if index in drawing else 0.0

    def expected(index):
        with rng.preserved():
            return seeded_item(ItemDataset(Sometimes()), 7, 1, index)[1]

    loader, before = DataLoader(Sometimes(), batch_size, shuffle=True, seed=7), states()
    for _ in range(2):
        for indices, drawn_numbers in epoch_of(loader, 1):
            assert drawn_numbers == [expected(index) for index in indices]
            assert states() == before


@pytest.mark.parametrize("draws", [False, True])
@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt])
def test_an_item_that_fails_is_asked_again_only_where_the_batch_has_drawn(draws, error):
    asked = []

    class Failing(Items):
        def __getitem__(self, index):
            asked.append(random.random() if draws else 0)
            raise error("stop")

    before = states()
    with pytest.raises(error, match="stop"):
        next(DataLoader(Failing(), seed=0).batches(0))
    assert states() == before
    assert len(asked) == (2 if draws and error is KeyError else 1)


# -- augmentation ------------------------------------------------------------------------------------------------------


class Pictures(Items):
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.full((1, 6, 6), index + 1.0), index


def augmented(data: Any, batch_size: int, epoch: int, num_workers: int = 0, **options: Any) -> dict[int, list]:
    loader = DataLoader(data, batch_size, augment=random_shift(2), seed=7, num_workers=num_workers, **options)
    return {
        int(label): image.tolist()
        for images, labels in loader.batches(epoch)
        for image, label in zip(images, labels, strict=False)
    }


def gathered_pictures() -> TensorDataset:
    return TensorDataset(torch.stack([Pictures()[i][0] for i in range(23)]), torch.arange(23))


@every_number_of_workers
def test_a_sample_is_augmented_the_same_way_in_any_batch_worker_or_order(num_workers):
    expected = augmented(gathered_pictures(), 23, epoch=1)
    assert augmented(gathered_pictures(), 4, epoch=1, shuffle=True) == expected
    assert augmented(Pictures(), 5, epoch=1, num_workers=num_workers, shuffle=True) == expected
    assert augmented(Pictures(), 3, epoch=1, num_workers=num_workers) == expected
    assert augmented(gathered_pictures(), 23, epoch=2) != expected
    assert any(image != Pictures()[index][0].tolist() for index, image in expected.items())


def test_augmentation_starts_anywhere_and_leaves_targets_alone():
    loader = DataLoader(gathered_pictures(), 4, shuffle=True, seed=7, augment=random_shift(2))
    assert epoch_of(loader, 1, 3) == epoch_of(loader, 1)[3:]
    assert sorted(label for _, labels in epoch_of(loader, 0) for label in labels) == list(range(23))


@pytest.mark.parametrize("shuffle", [True, False])
@given(batch_size=st.integers(1, 9), start=st.integers(0, 8), at_once=st.integers(1, 5))
def test_keys_are_those_of_each_batch_however_many_are_made_at_once(shuffle, batch_size, start, at_once):
    seen: list[Tensor] = []
    loader = DataLoader(
        numbered(), batch_size, shuffle, seed=7, augment=lambda inputs, keys: seen.append(keys) or inputs
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loader_module, "KEYED", at_once)
        batches = list(loader.batches(3, start))
    expected = [sample_keys(7, 3, inputs) for inputs, _ in batches]  # an input is its own index
    assert [keys.tolist() for keys in seen] == [keys.tolist() for keys in expected]
    assert len(batches) == max(0, len(loader) - start)


# -- foreign loaders ---------------------------------------------------------------------------------------------------


class Stream(torch_data.IterableDataset):
    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        return iter((torch.tensor(float(i)), i) for i in range(7))


def test_a_torch_loader_is_taken_as_it_is_with_its_own_order():
    def foreign() -> torch_data.DataLoader:
        generator = torch.Generator().manual_seed(3)
        return torch_data.DataLoader(numbered(), 4, shuffle=True, generator=generator)

    loader = as_loader(foreign())
    assert isinstance(loader, ForeignLoader)
    theirs = foreign()
    for epoch in range(2):
        assert epoch_of(loader, epoch) == [[part.tolist() for part in batch] for batch in theirs]
    assert len(loader) == len(theirs) == 6
    assert loader.dataset is loader.loader.dataset
    assert as_loader(loader) is loader


def test_wrapping_a_torch_loader_draws_nothing_and_starts_nothing():
    class Starts(torch_data.DataLoader):
        def __iter__(self):
            raise AssertionError("started")

    before = torch.get_rng_state()
    as_loader(Starts(numbered(), 4, num_workers=2))
    as_loader(torch_data.DataLoader(numbered(), 4, shuffle=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_torch_loader_over_an_iterable_dataset_is_counted_once():
    loader = as_loader(torch_data.DataLoader(Stream(), batch_size=3))
    before = torch.get_rng_state()
    assert len(loader) == 3
    assert torch.equal(torch.get_rng_state(), before)
    assert [batch[1] for batch in epoch_of(loader, 0)] == [[0, 1, 2], [3, 4, 5], [6]]
    assert [batch[1] for batch in epoch_of(loader, 1, start=2)] == [[6]]


def test_a_plain_list_of_batches_is_a_loader():
    batches = [(torch.zeros(2), torch.ones(2))] * 3
    loader = as_loader(batches)
    assert len(loader) == 3
    assert len(list(loader.batches(0, 1))) == 2
    assert len(list(loader)) == 3


def test_a_sampler_that_wants_to_know_the_epoch_is_told():
    sampler = torch_data.DistributedSampler(numbered(), num_replicas=2, rank=0, seed=1)
    loader = as_loader(torch_data.DataLoader(numbered(), 4, sampler=sampler))
    first = epoch_of(loader, 0)
    assert epoch_of(loader, 3) != first
    assert sampler.epoch == 3
    assert epoch_of(loader, 0) == first


@pytest.mark.parametrize(
    "make",
    [lambda: (i for i in range(3)), lambda: iter([1]), lambda: 5],
    ids=["a generator", "an iterator", "a number"],
)
def test_generators_iterators_and_other_things_are_refused(make):
    with pytest.raises(DataError, match="expected a loader that can be iterated every epoch, got"):
        as_loader(make())


def test_random_states_of_the_run_govern_a_foreign_order():
    loader = as_loader(torch_data.DataLoader(numbered(), 23, shuffle=True))
    orders = []
    for seed in (1, 1, 2):
        rng.seed_all(seed)
        orders.append(epoch_of(loader, 0))
    assert orders[0] == orders[1] != orders[2]
