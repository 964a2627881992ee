"""Data on the device: moved once where they fit, the same batches either way."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from clearloop import DataLoader, Dataset, Subset, TensorDataset, random_split
from clearloop.data import resident
from clearloop.data.augment import random_flip
from clearloop.data.loaders import scale_images
from clearloop.data.resident import free_bytes, on_device, sent

META = torch.device("meta")  # a device without values: what lies there was moved there
CPU = torch.device("cpu")


def pictures(samples: int = 20) -> TensorDataset:
    images = torch.arange(samples * 12, dtype=torch.int64).remainder(256).to(torch.uint8).view(samples, 3, 4)
    return TensorDataset(images, torch.arange(samples), transform=scale_images)


BYTES = 20 * 12 + 20 * 8


@pytest.fixture
def room(monkeypatch):
    """A device with so many bytes free, which counts how often it is asked."""
    asked = []

    def make(free):
        monkeypatch.setattr(resident, "free_bytes", lambda device: asked.append(device) or free)
        return asked

    return make


def test_data_that_fit_are_moved_once_and_gathered_there(room):
    asked, data = room(4 * BYTES), pictures()
    loader = DataLoader(data, 8, shuffle=True, seed=0, augment=random_flip)
    for epoch in range(3):
        for inputs, targets in loader.batches(epoch, 0, META):
            assert (inputs.device, targets.device, inputs.dtype) == (META, META, torch.float32)
    assert asked == [META]
    dataset, index_batches = on_device(data, loader.index_batches(0), META)
    assert [tensor.device for tensor in dataset.tensors] == [META, META]
    assert [(indices.device, len(indices)) for indices in index_batches] == [(META, 8), (META, 8), (META, 4)]
    assert data.tensors[0].device == CPU


def test_slices_stay_slices_and_an_epoch_may_have_no_batch_left(room):
    room(10**9)
    loader = DataLoader(pictures(), 8)
    assert on_device(loader.dataset, loader.index_batches(0), META)[1] == [slice(0, 8), slice(8, 16), slice(16, 20)]
    assert [len(targets) for _, targets in loader.batches(0, 1, META)] == [8, 4]
    assert list(loader.batches(0, 3, META)) == []
    assert list(DataLoader(pictures(), 8, shuffle=True, seed=0).batches(0, 3, META)) == []


def test_what_takes_more_than_a_quarter_of_the_free_memory_stays(room):
    asked, data = room(4 * BYTES - 1), pictures()
    for _ in range(2):
        assert on_device(data, [], META) == (data, [])
    assert asked == [META]
    inputs, _ = next(DataLoader(data, 8).batches(0, 0, META))
    assert inputs.device == META  # batch by batch


def test_parts_of_one_dataset_share_its_copy(room):
    asked, data = room(4 * BYTES), pictures()
    train, valid = random_split(data, (0.75, 0.25), seed=0)
    (ours, _), (theirs, _) = on_device(train, [], META), on_device(Subset(valid, [1, 2]), [], META)
    assert asked == [META]
    assert ours.dataset.tensors[0] is theirs.dataset.dataset.tensors[0]
    assert (ours.indices.device, len(ours), len(theirs)) == (META, 15, 2)


def test_a_part_gives_the_samples_of_its_part(room, monkeypatch):
    room(10**9)
    monkeypatch.setattr(resident, "to_device", lambda tensors, device: tuple(tensor.clone() for tensor in tensors))
    train, _ = random_split(pictures(), (0.75, 0.25), seed=0)
    train.transform = None
    there, (indices,) = on_device(train, [torch.tensor([3, 1])], torch.device("cpu", 0))
    assert there is train  # the CPU needs no copy
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, device: tensor)
    there, (indices,) = on_device(train, [torch.tensor([3, 1])], META)
    assert there is not train
    assert there.transform is None
    for ours, theirs in zip(there.gather(indices), train.gather(indices), strict=True):
        assert torch.equal(ours, theirs)


def test_data_that_change_are_moved_again_and_a_new_transform_is_used(room):
    asked, data = room(10**9), pictures()
    first, _ = on_device(data, [], META)
    data.tensors = tuple(tensor.clone() for tensor in data.tensors)
    on_device(data, [], META)
    assert len(asked) == 2
    data.tensors[1].add_(1)
    second, _ = on_device(data, [], META)
    assert second.tensors[0] is not first.tensors[0]
    data.transform = None
    assert on_device(data, [], META)[0].transform is None
    on_device(data, [], torch.device("meta", 0))
    assert len(asked) == 4


def test_data_made_in_inference_mode_are_moved_too(room):
    room(10**9)
    with torch.inference_mode():
        data = TensorDataset(torch.zeros(4))
    assert on_device(data, [], META)[0].tensors[0].device == META


def test_a_copy_does_not_outlive_its_dataset(room):
    room(10**9)
    data = pictures()
    there = weakref.ref(on_device(data, [], META)[0].tensors[0])
    gc.collect()
    assert there() is not None
    del data
    gc.collect()
    assert there() is None


def test_a_dataset_of_ones_own_is_left_alone(room):
    room(10**9)

    class Changed(TensorDataset):
        def gather(self, indices):
            return super().gather(indices)

    class Own(Dataset):
        def __len__(self):
            return 4

        def gather(self, indices):
            return (torch.arange(4)[indices],)

    class Part(Subset):
        def gather(self, indices):
            return super().gather(indices)

    for data in (Changed(torch.arange(4)), Own(), Subset(Own(), [1, 2]), Part(TensorDataset(torch.arange(4)), [1, 2])):
        assert on_device(data, [slice(0, 2)], META) == (data, [slice(0, 2)])


def test_nothing_fits_where_nobody_can_say_what_is_free():
    assert free_bytes(META) == 0


def test_batches_that_stay_are_sent_as_they_are():
    batch = (torch.zeros(3), {"mask": torch.ones(2)}, "name")
    moved = sent(batch, META)
    assert (moved[0].device, moved[1]["mask"].device, moved[2]) == (META, META, "name")
    assert sent(batch, CPU)[0] is batch[0]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("share", [0.25, 0.0], ids=["moved once", "batch by batch"])
def test_on_a_gpu_the_batches_have_the_values_that_they_have_on_the_cpu(monkeypatch, share):
    monkeypatch.setattr(resident, "SHARE", share)
    data = pictures(100)
    for chosen in (data, random_split(data, (0.75, 0.25), seed=0)[0]):
        for shuffle in (True, False):
            loader = DataLoader(chosen, 16, shuffle=shuffle, seed=0, augment=random_flip)
            there = list(loader.batches(1, 2, torch.device("cuda")))
            for ours, theirs in zip(there, loader.batches(1, 2), strict=True):
                assert ours[0].is_cuda
                assert all(torch.equal(one.cpu(), other) for one, other in zip(ours, theirs, strict=True))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_an_epoch_of_resident_data_waits_for_nothing():
    loader = DataLoader(pictures(1000), 16, shuffle=True, seed=0)
    batches = loader.batches(0, 0, torch.device("cuda"))
    next(batches)
    torch.cuda.set_sync_debug_mode("error")
    try:
        list(batches)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_free_memory_of_a_gpu_counts_what_torch_holds_for_later():
    device = torch.device("cuda")
    block = torch.empty(2**26, device=device)
    held = free_bytes(device)
    del block  # torch keeps it
    assert free_bytes(device) >= held + 2**28 - 2**24
