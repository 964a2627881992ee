"""DataLoader: batches in an order that depends on (seed, epoch) alone; gathered if possible, by workers if not."""

from __future__ import annotations

import functools
import signal
import weakref
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils import data as torch_data

from clearloop import rng
from clearloop.data.augment import Augment, sample_keys
from clearloop.data.dataset import Batch, Dataset, Indices, ItemDataset, as_dataset, index_tensor, is_plain
from clearloop.data.gathered import Gathered
from clearloop.data.items import SeededItems, as_list, seeded_item
from clearloop.data.mapped import asked_ahead
from clearloop.data.resident import on_device, sent
from clearloop.data.sampler import Sampler, SequentialSampler, ShuffleSampler
from clearloop.errors import ConfigError, DataError

CPU = torch.device("cpu")
KEYED = 64  # batches whose samples' keys are made at once
Collate = Callable[[list[Any]], Batch]
F = TypeVar("F", bound=Callable[..., Any])


def draw_seed() -> int:
    """A seed from torch's global generator, so that `torch.manual_seed` governs what was not seeded by hand."""
    return int(torch.randint(2**31, ()))


def seeded(make: F) -> F:
    """Decorate a function with a keyword `seed`: None becomes one that is drawn, before the call is remembered."""

    @functools.wraps(make)
    def with_seed(*args: Any, seed: int | None = None, **kwargs: Any) -> Any:
        return make(*args, seed=draw_seed() if seed is None else seed, **kwargs)

    return with_seed  # type: ignore[return-value]


def collate(items: list[Any]) -> Batch:
    """Join samples to a batch as torch does, but tuples stay tuples.

    >>> collate([(1, "a"), (2, "b")])
    (tensor([1, 2]), ('a', 'b'))
    """
    first = items[0]
    if isinstance(first, tuple) and not hasattr(first, "_fields"):
        return tuple(collate(list(column)) for column in zip(*items, strict=True))
    if isinstance(first, str):
        return tuple(items)
    return torch_data.default_collate(items)


class DataLoader:
    """Batches of a dataset or any collection.

    Data that can be gathered (a `Dataset` of ours, torch's TensorDataset) are gathered a batch at a time, in this
    process. Other collections are asked item by item, by `num_workers` processes if there are any, under random
    states made from (seed, epoch, sample index).

    Args:
        data: a dataset, or any collection with `__len__` and `__getitem__`.
        batch_size: samples a batch; the last batch is smaller where the data do not divide, unless `drop_last`.
        shuffle: a new order every epoch; without it, the order of the data.
        seed: drawn from torch's global generator when None.
        sampler: decides the order in place of `shuffle`.
        augment: `(inputs, keys) -> inputs`, applied to whole batches; see `clearloop.data.augment`.
        collate_fn: joins single items to a batch; not used where data are gathered.

    Raises: ConfigError for a batch size below 1, DataError for data of length 0 or of no known kind.

    >>> [batch.tolist() for batch in DataLoader(range(15), batch_size=5)]
    [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11, 12, 13, 14]]
    >>> [len(letters) for letters in DataLoader("abcdefghijklmnopqrstuvwxyz", batch_size=6, shuffle=True)]
    [6, 6, 6, 6, 2]
    """

    def __init__(
        self,
        data: Any,
        batch_size: int = 64,
        shuffle: bool = False,
        *,
        seed: int | None = None,
        drop_last: bool = False,
        num_workers: int = 0,
        sampler: Sampler | None = None,
        augment: Augment | None = None,
        collate_fn: Collate = collate,
    ) -> None:
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ConfigError(f"batch_size must be a whole number of at least 1, got {batch_size!r}")
        if num_workers < 0:
            raise ConfigError(f"num_workers must be 0 or more, got {num_workers}")
        if seed is not None and seed < 0:
            raise ConfigError(f"seed must be a whole number of 0 or more, got {seed}")
        if sampler is not None and not hasattr(sampler, "order"):
            kind = type(sampler).__name__
            raise ConfigError(f"a sampler needs order(epoch), as those of clearloop.data.sampler have; got {kind}")
        if sampler is not None and shuffle:
            raise ConfigError("a sampler decides the order: leave shuffle=False, or leave out the sampler")
        self.dataset = as_dataset(data)
        if len(self.dataset) == 0:
            raise DataError("the data hold no samples")
        self.batch_size, self.drop_last, self.num_workers = batch_size, drop_last, num_workers
        self.shuffle, self.augment, self.collate_fn = shuffle, augment, collate_fn
        draws = shuffle or augment is not None or isinstance(self.dataset, ItemDataset)
        self.seed = seed if seed is not None else draw_seed() if draws else 0  # what draws nothing needs none
        shuffled = ShuffleSampler(len(self.dataset), self.seed)
        self.sampler = sampler or (shuffled if shuffle else SequentialSampler(len(self.dataset)))
        if drop_last and len(self.sampler) < batch_size:
            raise ConfigError(f"drop_last leaves no batch: {len(self.sampler)} samples, batch_size {batch_size}")
        self._own_epochs = 0
        self._seeded = SeededItems()
        self._idle_workers: list[_Workers] = []

    def __len__(self) -> int:
        """Batches an epoch."""
        return len(self.sampler) // self.batch_size if self.drop_last else -(-len(self.sampler) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """The batches of the next epoch, by this loader's own count, which training does not share."""
        self._own_epochs += 1
        return self.batches(self._own_epochs - 1)

    def batches(self, epoch: int, start: int = 0, device: torch.device = CPU) -> Iterator[Batch]:
        """The batches of `epoch` from the `start`-th on, on `device`."""
        return self.load(islice(self.index_batches(epoch), start, None), epoch, device)

    def load(self, index_batches: Iterable[Indices], epoch: int, device: torch.device) -> Iterator[Batch]:
        """The batches with these indices, as `epoch` has them."""
        if isinstance(self.dataset, ItemDataset):
            if self.num_workers:
                return self._worked_batches(index_batches, epoch, device)
            return (self._items(self.dataset, indices, epoch, device) for indices in index_batches)
        dataset, index_batches = on_device(self.dataset, index_batches, device)
        gathered = functools.partial(self._gathered, dataset, epoch=epoch, device=device)
        return Gathered(dataset, index_batches, gathered, plain=self.augment is None)

    def _worked_batches(self, index_batches: Iterable[Indices], epoch: int, device: torch.device) -> Iterator[Batch]:
        """Batches from worker processes; who iterates beside somebody else gets processes of their own."""
        assert isinstance(self.dataset, ItemDataset)
        if not self._idle_workers:
            self._idle_workers.append(_Workers(self.dataset, self.seed, self.num_workers, self.collate_fn))
        workers = self._idle_workers.pop()
        index_batches = list(index_batches)
        try:
            for indices, batch in zip(index_batches, workers.batches(epoch, index_batches), strict=True):
                yield self._augmented(sent(batch, device), indices, epoch, device)
        finally:
            self._idle_workers.append(workers)

    def index_batches(self, epoch: int) -> Iterator[Indices]:
        """The indices of each batch of `epoch`: slices where the order is that of the data, else int64 tensors."""
        if isinstance(self.sampler, SequentialSampler):
            stops = range(self.batch_size, len(self) * self.batch_size + 1, self.batch_size)
            return iter([slice(stop - self.batch_size, min(stop, len(self.sampler))) for stop in stops])
        return iter(self.sampler.order(epoch).split(self.batch_size)[: len(self)])

    def _gathered(
        self, dataset: Dataset, index_batches: Iterable[Indices], epoch: int, device: torch.device
    ) -> Iterator[Batch]:
        """Batches gathered as stored, moved, made ready by the dataset's transform, then augmented."""
        gather, transform, augment = dataset.gather, dataset.transform, self.augment
        apart, index_batches = device.type != "cpu", list(index_batches)
        keys = self._keys(index_batches, epoch, device)
        for indices in asked_ahead(dataset, index_batches):  # once a step: what can be asked before has been asked
            batch = gather(indices)
            if apart:
                batch = sent(batch, device)
            if transform is not None:
                batch = transform(batch)
            yield batch if augment is None else (augment(batch[0], next(keys)), *batch[1:])

    def _items(self, dataset: ItemDataset, indices: Indices, epoch: int, device: torch.device) -> Batch:
        """One batch of single items, asked for in this process."""
        if is_plain(dataset.items) and self.collate_fn is collate:  # nothing in there draws
            batch = collate([dataset[i] for i in as_list(indices)])
        else:
            batch = self._seeded.batch(dataset, as_list(indices), self.seed, epoch, self.collate_fn)
        return self._augmented(sent(batch, device), indices, epoch, device)

    def _augmented(self, batch: Batch, indices: Indices, epoch: int, device: torch.device) -> Batch:
        if self.augment is None:
            return batch
        return (self.augment(batch[0], next(self._keys([indices], epoch, device))), *batch[1:])

    def _keys(self, index_batches: list[Indices], epoch: int, device: torch.device) -> Iterator[Tensor]:
        """The samples' keys, batch by batch; made for many batches at once, as each hash is dozens of operations."""
        for start in range(0, len(index_batches), KEYED):
            numbers = [index_tensor(indices) for indices in index_batches[start : start + KEYED]]
            keys = sample_keys(self.seed, epoch, torch.cat(numbers).to(device))
            yield from keys.split([len(number) for number in numbers])


class _SeededItems(torch_data.Dataset[Any]):
    """What workers are given: it is asked for (epoch, index) pairs."""

    def __init__(self, dataset: ItemDataset, seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, key: tuple[int, int]) -> Any:
        epoch, index = key
        return seeded_item(self.dataset, self.seed, epoch, index)


class _Workers:
    """torch's own worker processes, kept from epoch to epoch and told by the keys which epoch it is."""

    def __init__(self, dataset: ItemDataset, seed: int, num_workers: int, collate_fn: Collate) -> None:
        self.keys = _Keys()
        self.torch_loader = torch_data.DataLoader(
            _SeededItems(dataset, seed),
            batch_sampler=self.keys,  # any iterable of lists of keys will do
            num_workers=num_workers,
            collate_fn=collate_fn,
            persistent_workers=True,
            generator=torch.Generator(),  # or each epoch would draw from the global one
            worker_init_fn=_leave_interrupts_to_the_parent,
        )
        # Held from outside too: processes that go down inside a cycle of garbage take torch 5 s each.
        weakref.finalize(self, _let_go, self.torch_loader)

    def batches(self, epoch: int, index_batches: list[Indices]) -> Iterator[Batch]:
        self.keys.batches = [[(epoch, index) for index in as_list(indices)] for indices in index_batches]
        return iter(self.torch_loader)


def _leave_interrupts_to_the_parent(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal; the parent decides when to stop, and needs its workers till then."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class _Keys:
    """The (epoch, index) pairs of the batches to come."""

    def __init__(self) -> None:
        self.batches: list[list[tuple[int, int]]] = []

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def _let_go(loader: Any) -> None:
    """Called when the workers' owner is gone; `loader` goes with the call."""


class ForeignLoader:
    """A DataLoader of torch's, or any iterable of batches, taken as it is: its order is its own.

    Nothing can be promised of an order that is not ours: a run on such a loader is not exact on resume in the middle
    of an epoch, and says so.
    """

    def __init__(self, loader: Any) -> None:
        if not hasattr(loader, "__iter__") or hasattr(loader, "__next__"):
            raise DataError(f"expected a loader that can be iterated every epoch, got {type(loader).__name__}")
        self.loader = loader
        self.dataset = getattr(loader, "dataset", None)
        self._length: int | None = None

    def __len__(self) -> int:
        """Batches an epoch, counted by going through it once where the loader cannot say."""
        try:
            return len(self.loader)
        except TypeError:
            if self._length is None:
                with rng.preserved():
                    self._length = sum(1 for _ in self.loader)
            return self._length

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.loader)

    def batches(self, epoch: int, start: int = 0, device: torch.device = CPU) -> Iterator[Batch]:
        """The loader's next epoch without its first `start` batches; `set_epoch` of its sampler is called."""
        sampler = getattr(self.loader, "sampler", None)
        set_epoch = getattr(sampler, "set_epoch", None)
        if set_epoch is not None:
            set_epoch(epoch)
        for batch in islice(self.loader, start, None):  # begun when the first batch is asked for: beginning may draw
            yield sent(batch, device)


Loader = DataLoader | ForeignLoader


def as_loader(loader: Any) -> Loader:
    """Ours as it is; anything else that can be iterated again and again as a ForeignLoader."""
    if loader is None:
        raise DataError("there is no validation set: give a loader")
    return loader if isinstance(loader, (DataLoader, ForeignLoader)) else ForeignLoader(loader)
