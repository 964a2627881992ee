"""Several processes as one run: who they are, what each takes of a batch, what they tell each other.

torchrun starts the processes, torch.distributed carries what they say; a Learner asks its `team`, which is `Alone` for
a single process. What could differ between processes is decided by what all of them know: the clock is that of rank 0,
as the last exchange told it; a signal that came to one of them counts once all have heard of it.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from clearloop.callback import Callback
from clearloop.data.loader import DataLoader, ForeignLoader, Loader
from clearloop.data.loaders import DataLoaders
from clearloop.data.sampler import shard, size
from clearloop.data.shares import Shares
from clearloop.devices import pick_device
from clearloop.errors import ConfigError, DataError, ModelError, RunError
from clearloop.metrics import Metric
from clearloop.peers import Peers, of_communication
from clearloop.signals import Interrupts, SharedInterrupts
from clearloop.tree import leaves, to_device
from clearloop.weights import forms, named_tensors

T = TypeVar("T")
Reduce = Callable[[Any, Any, list[Any]], tuple[Any, Any, list[Any]]]  # loss sum, samples, metric sums: of all
Cursor = tuple[int, int, int]  # seed, epoch, batches of it that are done
CPU = torch.device("cpu")
HOOKS = [name for name in vars(Callback) if name.startswith(("before_", "after_"))]
TIMEOUT_S = 600.0  # how long a process waits for the others, unless CLEARLOOP_TIMEOUT_S says otherwise
LISTEN_S = 1.0  # about how long a long evaluation goes on before it hears of a signal
RUN_OF_THE_JOB = "clearloop/run"


class Alone:
    """One process: what a Learner asks where there are no others. `Team` answers the same for several."""

    rank, world_size, leads = 0, 1, True

    def interrupts(self) -> Interrupts:
        """What makes signals wait for whole steps."""
        return Interrupts()

    def clock(self) -> float:
        """Seconds, by the clock that decides how long a span is."""
        return time.perf_counter()

    def device(self, device: str | torch.device) -> torch.device:
        """Where this process computes."""
        return pick_device(device)

    def agree(self, dls: DataLoaders, model: nn.Module, seed: int) -> int:
        """Begin as the others do: with the same weights, orders and seed, which is returned."""
        return seed

    def callbacks(self, callbacks: Sequence[Callback]) -> list[Callback]:
        """What is called in this process, in its order."""
        return sorted(callbacks, key=lambda callback: callback.order)

    def batches(self, loader: Loader, cursor: Cursor, device: torch.device) -> Iterator[Any]:
        """What this process takes of the training batches of an epoch, from the cursor on."""
        return loader.batches(*cursor[1:], device)

    def evaluated(
        self, loader: Loader, metrics: Sequence[Metric], device: torch.device
    ) -> tuple[Iterator[Any], Reduce | None]:
        """What this process takes of the batches of an evaluation, and how its sums become those of all processes."""
        return loader.batches(0, device=device), None

    def share(self, value: Callable[[], T]) -> T:
        """What `value()` gives in rank 0, which alone calls it."""
        return value()

    def report(self, error: BaseException) -> bool:
        """Tell the others of an error that ends this process; whether this one is to print it."""
        return True

    def note_run(self, run: Path) -> None:
        """Let those know who are begun anew in place of this process where its run is."""

    def recall_run(self) -> Path | None:
        """What `note_run` was told before this process was begun anew."""
        return None


class Team(Alone):
    """The processes that torchrun started, seen from one of them."""

    def __init__(self) -> None:
        self.peers = start_group()
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.leads = self.rank == 0
        self._signals = SharedInterrupts()
        on_cpu = "gloo" in str(dist.get_backend_config())
        self._cpu = dist.group.WORLD if on_cpu else dist.new_group(backend="gloo")
        self._now = 0.0

    def interrupts(self) -> Interrupts:
        """The same for every Learner of this process, as the others hear of all its signals together."""
        return self._signals

    def clock(self) -> float:
        """The clock of rank 0 at the last exchange: the same number in every process."""
        return self._now

    def device(self, device: str | torch.device) -> torch.device:
        """The CPU, or this process's own GPU, whichever of its kind was named."""
        found = pick_device(device)
        local = int(os.environ.get("LOCAL_RANK", 0))
        if found.type != "cuda":
            return found
        if local >= torch.cuda.device_count():
            raise ConfigError(
                f"expected a GPU for every process, got {torch.cuda.device_count()} on this machine for process "
                f'number {local}; use a smaller --nproc-per-node, or device="cpu"'
            )
        torch.cuda.set_device(local)
        return torch.device("cuda", local)

    def agree(self, dls: DataLoaders, model: nn.Module, seed: int) -> int:
        """Rank 0's weights, orders and seed for all.

        Raises: ConfigError for loaders and models that cannot be shared out; DataError and ModelError where the
        processes have different ones.
        """
        if isinstance(dls.train, ForeignLoader):
            raise ConfigError(
                "several processes share out the batches of clearloop's DataLoader, got a training loader of another "
                "kind, which each of them would go through by itself; give DataLoader(loader.dataset, batch_size, "
                "shuffle=True), which takes any torch Dataset"
            )
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            kind = type(model).__name__
            raise ConfigError(f"several processes take the model itself, got one in {kind}: give its .module")
        self.require_same("models", forms(named_tensors(model)), ModelError)
        loaders = [loader for loader in dls if isinstance(loader, DataLoader)]
        self.require_same("data", [(len(ld.dataset), ld.batch_size, ld.drop_last) for ld in loaders], DataError)
        seed, *seeds = self.gather([seed, *((ld.seed, getattr(ld.sampler, "seed", None)) for ld in loaders)])[0]
        for loader, (own, of_sampler) in zip(loaders, seeds, strict=True):
            loader.seed = own
            if of_sampler is not None:
                vars(loader.sampler)["seed"] = of_sampler
        self.require_same("orders of the data", [digest(loader.sampler.order(0)) for loader in loaders], DataError)
        self.broadcast(list(named_tensors(model).values()))
        return int(seed)

    def require_same(self, what: str, value: Any, kind: type[Exception] = ConfigError) -> None:
        """Raise `kind`, in every process, unless `value` is the same in all."""
        values = self.gather(value)
        others = [rank for rank, other in enumerate(values) if other != values[0]]
        if others:
            raise kind(
                f"the processes have different {what}, ranks 0 and {others[0]} for instance: expected the same "
                "everywhere, as each takes its share of one batch; fix the seeds of what is drawn before the Learner"
            )

    def callbacks(self, callbacks: Sequence[Callback]) -> list[Callback]:
        """What prints and writes acts in rank 0 alone; elsewhere something stands in for it that cuts equal spans."""
        absent = [callback.writes and not self.leads for callback in callbacks]
        return super().callbacks([stand_in(cb) if away else cb for cb, away in zip(callbacks, absent, strict=True)])

    def batches(self, loader: Loader, cursor: Cursor, device: torch.device) -> Iterator[Any]:
        """This process's shares of the batches."""
        assert isinstance(loader, DataLoader), "agree() takes no other"
        self.exchange(torch.empty(0))  # what came since the last epoch
        if self.world_size == 1:  # to the bit what it is without torchrun
            return super().batches(loader, cursor, device)
        return Shares(loader, (self.rank, self.world_size), cursor, device)

    def evaluated(
        self, loader: Loader, metrics: Sequence[Metric], device: torch.device
    ) -> tuple[Iterator[Any], Reduce | None]:
        """Every sample in one process, none twice.

        Where a metric keeps its own state, or the loader is not ours, each process goes through all batches, and what
        rank 0 finds counts.
        """
        whole = isinstance(loader, ForeignLoader) or any(hasattr(metric.sums, "reset") for metric in metrics)

        def reduce(loss_sum: Any, samples: Any, sums: list[Any]) -> tuple[Any, Any, list[Any]]:
            parts = self.gather(to_device((loss_sum, samples, sums), CPU))
            if whole:
                loss_sum, samples, sums = parts[0]
                return loss_sum, samples, sums
            losses, counts, columns = zip(*parts, strict=True)
            return sum(losses), sum(counts), [sum(column) for column in zip(*columns, strict=True)]

        if isinstance(loader, ForeignLoader):
            return loader.batches(0, device=device), reduce
        place = (0, 1) if whole else (self.rank, self.world_size)
        shares = [shard(indices, *place) for indices in loader.index_batches(0)]
        mine = loader.load([share for share in shares if size(share)], 0, device)
        return (next(mine) for share in self._listening(shares) if size(share)), reduce

    def _listening(self, items: Sequence[T]) -> Iterator[T]:
        """As many items in every process, with an exchange about once a second: a signal ends a long evaluation."""
        every = left = 1
        for item in items:
            yield item
            left -= 1
            if left == 0:
                since = self._now
                self.exchange(torch.empty(0))
                self._signals.act()
                every = left = max(1, min(2 * every, int(LISTEN_S * every / max(self._now - since, 1e-9))))

    def share(self, value: Callable[[], T]) -> T:
        """What `value()` gives in rank 0, sent to all."""
        found: list[Any] = [value() if self.leads else None]
        with self.together():
            dist.broadcast_object_list(found, src=0, group=self._cpu)
        shared: T = found[0]
        return shared

    def exchange(self, values: Tensor) -> Tensor:
        """`values` (n,) of every process: float64 of shape (world_size, n). With them go the clock and the signals."""
        mine = torch.cat([torch.tensor(self._news(), dtype=torch.float64), values.double().cpu()])
        every = [torch.empty_like(mine) for _ in range(self.world_size)]
        with self.together():
            dist.all_gather(every, mine, group=self._cpu)
        found = torch.stack(every)  # (world_size, 2 + n)
        self._hear(found[:, :2].tolist())
        return found[:, 2:]

    def add(self, values: Tensor) -> Tensor:
        """The sum of `values` over all processes, in the order of ranks; nothing else goes with them."""
        every = [torch.empty_like(values) for _ in range(self.world_size)]
        with self.together():
            dist.all_gather(every, values, group=self._cpu)
        return torch.stack(every).sum(dim=0)

    def gather(self, value: Any) -> list[Any]:
        """`value` of every process, by rank. With them go the clock and the signals."""
        found: list[Any] = [None] * self.world_size
        with self.together():
            dist.all_gather_object(found, (self._news(), value), group=self._cpu)
        self._hear([news for news, _ in found])
        return [value for _, value in found]

    def _news(self) -> list[float]:
        return [time.monotonic(), float(self._signals.noted)]

    def _hear(self, news: list[list[float]]) -> None:
        self._now = news[0][0]
        if any(signalled for _, signalled in news):
            self._signals.agree()

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Copy rank 0's values into tensors that lie on one device, as one message."""
        if not tensors:
            return
        parts = [tensor.detach().contiguous().reshape(-1).view(torch.uint8) for tensor in tensors]
        message = torch.cat(parts)
        with self.together():
            dist.broadcast(message, src=0)
        if not self.leads:
            with torch.no_grad():
                for tensor, part in zip(tensors, message.split([len(part) for part in parts]), strict=True):
                    tensor.copy_(part.clone().view(tensor.dtype).view(tensor.shape))

    @contextmanager
    def together(self) -> Iterator[None]:
        """A block in which processes wait for each other: where one is gone, RunError says which."""
        try:
            yield
        except RuntimeError as error:
            if not of_communication(error):
                raise
            raise RunError(self.peers.roll_call()) from error

    def report(self, error: BaseException) -> bool:
        """Tell the others; True in the process that is the first to tell."""
        return self.peers.report(error)

    def note_run(self, run: Path) -> None:
        """Into torchrun's store, which outlives its processes."""
        if self.leads:
            self.peers.job.set(RUN_OF_THE_JOB, str(run.resolve()))

    def recall_run(self) -> Path | None:
        """From torchrun's store."""
        job = self.peers.job
        known = self.share(lambda: job.get(RUN_OF_THE_JOB).decode() if job.check([RUN_OF_THE_JOB]) else None)
        return None if known is None else Path(known)


def stand_in(callback: Callback) -> Callback:
    """A callback that does nothing at the same hooks and intervals, so that spans are cut as where it acts.

    >>> class Shout(Callback):
    ...     interval = 5
    ...     def after_step(self, learn):
    ...         print("step")
    >>> quiet = stand_in(Shout())
    >>> quiet.interval, quiet.after_step(None)
    (5, None)
    """
    hooks = [name for name in HOOKS if getattr(type(callback), name) is not getattr(Callback, name)]
    nothing: dict[str, Any] = {name: lambda self, learn: None for name in hooks}
    absent: Callback = type(
        "Absent", (Callback,), {**nothing, "order": callback.order, "interval": callback.interval}
    )()
    return absent


def digest(tree: Any) -> str:
    """SHA-256 of all tensors of a tree.

    >>> digest((torch.zeros(2), "a")) == digest((torch.zeros(2), "a"))
    True
    """
    found = hashlib.sha256()
    for leaf in leaves(tree):
        if isinstance(leaf, Tensor):
            found.update(f"{leaf.dtype} {tuple(leaf.shape)}".encode())
            found.update(leaf.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


_joined: list[Alone] = []


def join() -> Alone:
    """The team that this process belongs to: the processes that torchrun started (one, perhaps), or itself alone.

    Every Learner joins; a script that wants to know its rank earlier may. Raises: ConfigError where the environment
    speaks of several processes but not of where they meet.
    """
    if not _joined:
        several = under_torchrun() or int(os.environ.get("WORLD_SIZE", "1")) > 1
        _joined.append(Team() if several or dist.is_available() and dist.is_initialized() else Alone())
    return _joined[0]


def joined() -> Alone | None:
    """The team, if there has been a reason to join it."""
    return _joined[0] if _joined else None


def resumable(path: str | Path) -> bool:
    """Whether a run at `path` is there to go on with: for scripts that may be started again, as by --max-restarts.

        if resumable("runs/digits"):
            learn = Learner.load("runs/digits")
            learn.resume()

    Every process gets the answer of rank 0.
    """
    return join().share(lambda: (Path(path) / "recipe.json").exists())


def under_torchrun() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def restarted() -> bool:
    """Whether torchrun has begun this process anew after a failure."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def start_group() -> Peers:
    """Begin to talk to the other processes, unless the script has done so itself.

    The store lives in torchrun and outlives a restart: each start gets names of its own in it, or a group that forms
    anew would find the addresses of the dead one.
    """
    missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ConfigError(f"several processes need {', '.join(missing)} in the environment; start them by torchrun")
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    timeout = timedelta(seconds=float(os.environ.get("CLEARLOOP_TIMEOUT_S", TIMEOUT_S)))
    served = dist.is_initialized() or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])

    def connect(serve: bool = False) -> Store:
        return TCPStore(host, port, is_master=serve, timeout=timeout, wait_for_workers=False)

    store = connect(serve=not served and rank == 0)
    names = f"clearloop-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        prefixed = PrefixStore(f"{names}/group", store)
        dist.init_process_group(backend, store=prefixed, rank=rank, world_size=world_size, timeout=timeout)
        atexit.register(leave_group)
    return Peers(rank, world_size, store, PrefixStore(f"{names}/peers", connect()))


def leave_group() -> None:
    """Let go of the connections; a process that ends with them open aborts."""
    if dist.is_initialized():
        dist.destroy_process_group()
