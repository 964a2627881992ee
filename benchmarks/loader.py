"""Batches without a model: samples a second of our DataLoader, torch's with 0 and 2 workers, and indexing by hand.

The same order for all. That all give the same batches is checked before a time is printed; pictures are augmented by
the same function everywhere. Each round times every loader once, in turn, over one epoch (of torch's with workers, the
start of its processes included, as it is in every epoch of a loop); rounds repeat, medians and ratios are printed.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import data as torch_data

from clearloop import DataLoader, Subset, TensorDataset, mnist
from clearloop.data.augment import compose, random_crop, random_flip, sample_keys
from clearloop.data.loaders import scale_channels, scale_images
from clearloop.data.mapped import MappedDataset, map_npy
from clearloop.data.sampler import shuffled_order

BUDGET_S = 1.2  # of rounds, for each line of a table
FEWEST, MOST = 3, 25
SEED, EPOCH = 0, 0

Batches = Callable[[Tensor], Iterable[Any]]  # an order, in batches, to the batches of an epoch


@dataclass(frozen=True)
class Kind:
    """A kind of data: ours, what torch's DataLoader is given, what makes its batches ours, and the loop by hand."""

    name: str
    ours: Any
    theirs: torch_data.Dataset[Any]
    finish: Callable[[Any, Tensor], Any]  # (batch, its indices) -> batch
    by_hand: Callable[[Tensor], Any]  # the indices of a batch -> batch
    augment: Any = None


class Items(torch_data.Dataset[Any]):
    """Sample by sample, as a Dataset of one's own."""

    def __init__(self, *columns: Tensor) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        return tuple(column[index] for column in self.columns)


class MappedItems(Items):
    """Sample by sample, of arrays in files."""

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        return tuple(torch.as_tensor(np.array(column[index])) for column in self.columns)


def as_it_is(batch: Any, indices: Tensor) -> Any:
    """The batch that came."""
    return batch


def kinds(folder: Path) -> Iterator[Kind]:
    """One kind after the other, so that each has the memory to itself."""
    digits = mnist()
    images, labels = digits.train_images[:20_000], digits.train_labels[:20_000]
    floats = images.flatten(1).float().div_(255)
    yield Kind(
        "MNIST as floats (20,000 x 784)",
        TensorDataset(floats, labels),
        torch_data.TensorDataset(floats, labels),
        as_it_is,
        lambda i: (floats.index_select(0, i), labels.index_select(0, i)),
    )
    yield Kind(
        "MNIST as bytes, scaled (20,000 x 28 x 28)",
        TensorDataset(images, labels, transform=scale_images),
        torch_data.TensorDataset(images, labels),
        lambda batch, indices: scale_images(batch),
        lambda i: scale_images((images.index_select(0, i), labels.index_select(0, i))),
    )
    yield large_file(folder / "x.npy", floats.repeat(10, 1), labels.repeat(10))
    yield Kind(
        "a dataset asked item by item (5,000 x 784)",
        Items(floats[:5000], labels[:5000]),
        Items(floats[:5000], labels[:5000]),
        as_it_is,
        lambda i: tuple(map(torch.stack, zip(*[(floats[n], labels[n]) for n in i.tolist()], strict=True))),
    )
    yield pictures()
    table = torch.randn(50_000, 28, generator=torch.Generator().manual_seed(0))
    prices = table.sum(dim=1, keepdim=True)
    yield Kind(
        "a table (50,000 x 28)",
        TensorDataset(table, prices),
        torch_data.TensorDataset(table, prices),
        as_it_is,
        lambda i: (table.index_select(0, i), prices.index_select(0, i)),
    )


def large_file(path: Path, floats: Tensor, labels: Tensor) -> Kind:
    """Rows here and there in a file; by hand they stay in memory, once read."""
    np.save(path, floats.numpy())
    mapped, numbers = map_npy(path), labels.numpy()
    rows = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))[:10_000]

    def by_hand(indices: Tensor) -> Any:
        chosen = rows[indices].numpy()
        return torch.from_numpy(np.asarray(mapped)[chosen]), torch.from_numpy(numbers[chosen])

    return Kind(
        "a memory-mapped .npy (10,000 rows of 200,000 x 784, 627 MB)",
        Subset(MappedDataset(mapped, numbers), rows),
        torch_data.Subset(MappedItems(mapped, labels), rows.tolist()),
        as_it_is,
        by_hand,
    )


def pictures() -> Kind:
    """Decoded pictures, flipped and moved."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (3000, 3, 64, 64), dtype=torch.uint8, generator=generator)
    classes = torch.randint(10, (3000,), generator=generator)
    augment = compose(random_flip, random_crop(0.1))

    def finish(batch: Any, indices: Tensor) -> Any:
        inputs, targets = scale_channels(batch)
        return augment(inputs, sample_keys(SEED, EPOCH, indices)), targets

    return Kind(
        "pictures, flipped and moved (3,000 x 3 x 64 x 64)",
        TensorDataset(pixels, classes, transform=scale_channels),
        torch_data.TensorDataset(pixels, classes),
        finish,
        lambda i: finish((pixels.index_select(0, i), classes.index_select(0, i)), i),
        augment,
    )


def contestants(kind: Kind, batch_size: int) -> dict[str, Callable[[], Iterator[Any]]]:
    """What gives the batches of the epoch, by name."""
    order = shuffled_order(len(kind.ours), SEED, EPOCH)
    parts = order.split(batch_size)
    loader = DataLoader(kind.ours, batch_size, shuffle=True, seed=SEED, augment=kind.augment)

    def with_torch(workers: int) -> Iterator[Any]:
        theirs = torch_data.DataLoader(kind.theirs, batch_size, sampler=order.tolist(), num_workers=workers)
        return (kind.finish(tuple(batch), indices) for batch, indices in zip(theirs, parts, strict=True))

    return {
        "by hand": lambda: map(kind.by_hand, parts),
        "clearloop": lambda: loader.batches(EPOCH),
        "torch DataLoader": lambda: with_torch(0),
        "torch DataLoader, 2 workers": lambda: with_torch(2),
    }


def seconds(batches: Iterator[Any]) -> float:
    """How long an epoch takes."""
    started = time.perf_counter()
    for _ in batches:
        pass
    return time.perf_counter() - started


def require_same(makers: dict[str, Callable[[], Iterator[Any]]]) -> None:
    """Stop where two loaders differ in a bit of a batch."""
    for rows in zip(*(make() for make in makers.values()), strict=True):
        for batch in rows[1:]:
            assert all(torch.equal(*pair) for pair in zip(batch, rows[0], strict=True)), "the batches differ"


def measure(kind: Kind, batch_size: int) -> None:
    """Print a table."""
    makers = contestants(kind, batch_size)
    require_same(makers)
    times: dict[str, list[float]] = {name: [] for name in makers}
    ended = time.perf_counter() + BUDGET_S * len(makers)
    while len(times["by hand"]) < FEWEST or (len(times["by hand"]) < MOST and time.perf_counter() < ended):
        for name, make in makers.items():
            times[name].append(seconds(make()))
    print(f"\n{kind.name}, batch {batch_size}: the same batches; median of {len(times['by hand'])} rounds")
    for name, values in times.items():
        ratio = statistics.median(mine / base for mine, base in zip(values, times["by hand"], strict=True))
        speed = len(kind.ours) / statistics.median(values)
        print(f"  {name:28} {speed:12,.0f} samples/s   {ratio:7.2f} of the time by hand")


def main() -> None:
    """Print a table for each kind of data and batch size."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for kind in kinds(Path(folder)):
            for batch_size in (64, 512):
                measure(kind, batch_size)


if __name__ == "__main__":
    main()
