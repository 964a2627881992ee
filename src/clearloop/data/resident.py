"""Data in a GPU's own memory: moved there once, as stored, where they fit; what does not fit goes batch by batch."""

from __future__ import annotations

import copy
import operator
import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from clearloop.data.dataset import Batch, Dataset, Indices, Subset, TensorDataset
from clearloop.tree import to_device, tree_map

SHARE = 0.25  # of the GPU's free memory, which data may take: the model, its gradients and activations come after them

# By dataset, and no longer than it: the device and the tensors that were asked about, and their copies there, if any.
_asked: weakref.WeakKeyDictionary[TensorDataset, tuple[Any, tuple[Tensor, ...] | None]] = weakref.WeakKeyDictionary()


def on_device(
    dataset: Dataset, index_batches: Iterable[Indices], device: torch.device
) -> tuple[Dataset, Iterable[Indices]]:
    """A dataset and the indices of its batches, both on `device` where the data fit there; else as they are.

    Batches have the same values either way. What fits is decided once a dataset and device, and anew after its tensors
    were changed by torch (of a change by NumPy, in the same memory, torch knows nothing).
    """
    if device.type == "cpu":
        return dataset, index_batches
    moved = _moved(dataset, device)
    if moved is None:
        return dataset, index_batches
    index_batches = list(index_batches)
    numbers = [indices for indices in index_batches if isinstance(indices, Tensor)]
    if numbers and len(numbers) == len(index_batches):  # one transfer an epoch
        return moved, torch.cat(numbers).to(device).split([len(indices) for indices in numbers])
    return moved, index_batches


def _moved(dataset: Dataset, device: torch.device) -> Dataset | None:
    """The dataset on `device`; None where it does not fit, or where nobody knows what its `gather` does."""
    if type(dataset) is Subset:
        base = _moved(dataset.dataset, device)
        if base is None:
            return None
        subset = copy.copy(dataset)
        subset.dataset, subset.indices = base, dataset.indices.to(device)
        return subset
    if type(dataset) is not TensorDataset:
        return None
    tensors = dataset.tensors
    state = (device, tensors, [0 if tensor.is_inference() else tensor._version for tensor in tensors])
    before, moved = _asked.get(dataset, (None, None))
    if before is None or not _same(before, state):
        needed = sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor.device != device)
        moved = to_device(tensors, device) if needed <= SHARE * free_bytes(device) else None
        _asked[dataset] = state, moved
    return None if moved is None else TensorDataset(*moved, transform=dataset.transform)


def _same(before: Any, now: Any) -> bool:
    """Whether device, tensors and their versions are those of before."""
    (device, tensors, versions), (device_now, tensors_now, versions_now) = before, now
    return (device, versions) == (device_now, versions_now) and all(map(operator.is_, tensors, tensors_now))


def free_bytes(device: torch.device) -> int:
    """Bytes of a GPU's memory that this process may still fill; 0 where nobody can say."""
    if device.type != "cuda":
        return 0
    free, _ = torch.cuda.mem_get_info(device)
    return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def sent(batch: Batch, device: torch.device) -> Batch:
    """A batch on `device`; to a GPU by way of pinned memory, so that nobody waits for the transfer.

    A pinned copy is not used again before its transfer has ended: torch's own allocator sees to that.
    """
    if device.type == "cuda":
        batch = tree_map(lambda tensor: tensor.pin_memory() if may_pin(tensor) else tensor, batch)
    return to_device(batch, device)


def may_pin(tensor: Tensor) -> bool:
    """Whether it lies in this machine's memory, as plain numbers one after the other."""
    return tensor.device.type == "cpu" and tensor.layout == torch.strided
