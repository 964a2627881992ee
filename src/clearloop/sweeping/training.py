"""Sweeps: K models with their own learning rates, decays and seeds, trained together in one program."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.func import vmap

from clearloop import environment, rng, schedules
from clearloop.component import describe
from clearloop.data.augment import sample_keys
from clearloop.data.loader import DataLoader
from clearloop.data.resident import on_device, sent
from clearloop.data.sampler import Sampler, ShuffleSampler, WeightedSampler
from clearloop.errors import ConfigError, DataError
from clearloop.history import weighted_mean
from clearloop.metrics import Metric
from clearloop.step import pair
from clearloop.sweeping.results import Member, Setting, Sweep
from clearloop.sweeping.stack import Stack
from clearloop.sweeping.updates import StackedUpdate, stacked_update
from clearloop.tree import length, tree_map

if TYPE_CHECKING:
    from clearloop.learner import Learner

Shape = Literal["constant", "one-cycle", "cosine"]


def sweep(
    learn: Learner,
    epochs: int = 1,
    *,
    lr: float | Sequence[float] | None = None,
    weight_decay: float | Sequence[float] | None = None,
    momentum: float | Sequence[float] | None = None,
    seeds: int | Sequence[int] = 1,
    schedule: Shape = "constant",
    model: Callable[[], nn.Module] | None = None,
    by: str | None = None,
    threads: int | None = None,
    quiet: bool = False,
) -> Sweep:
    """Train a model with every setting and seed at once, and compare the settings.

    A member's result is that of a run of its own, up to rounding: `Learner(…, seed=seed)` on a loader with that seed,
    its weights made under `torch.manual_seed(seed)`; dropout masks, which a single run draws in another order, are
    the one difference. The Learner is left as it is, and its callbacks are not called. A `sampler` of one's own gives
    all members one order; a WeightedSampler draws by each member's seed.

    Args:
        learn: data, architecture, loss, optimizer, metrics, clipping and device.
        lr, weight_decay, momentum: values to try, all combinations; what is left out is the Learner's.
        seeds: how many, from 0 on, or which: of first weights, batch order and dropout.
        schedule: of the learning rate, over all epochs, with the member's own as the largest.
        model: makes a new model; needed where the Learner's is not one of `clearloop.models`.
        by: the column that decides, "valid_loss" or a metric; the first metric when None. Of losses, errors and
            distances, by their names, the smaller is better; of anything else the larger.
        threads: of the CPU, the Learner's when None. Many models keep all cores busy, where one small model is fastest
            on one. The same number gives the same bits; another, results that agree up to rounding.
        quiet: print nothing; else a line an epoch, the table and the verdict.

    Raises: ConfigError for what cannot be swept, ModelError for a model that `torch.func.vmap` cannot follow.

    >>> import clearloop as cl
    >>> x = torch.linspace(-1, 1, 64)[:, None]
    >>> dls = cl.DataLoaders(cl.DataLoader(cl.TensorDataset(x, 2 * x), 16, shuffle=True, seed=0), cl.DataLoader(
    ...     cl.TensorDataset(x, 2 * x), 64))
    >>> learn = cl.Learner(dls, cl.models.linear(1, 1), device="cpu")
    >>> found = cl.sweep(learn, 3, lr=[0.001, 0.3], seeds=3, quiet=True)
    >>> found.best, len(found.members)
    (Setting(lr=0.3, weight_decay=None, momentum=None), 6)
    """
    if epochs < 1:
        raise ConfigError(f"epochs must be 1 or more, got {epochs}")
    members = members_of(learn, lr, weight_decay, momentum, seeds)
    names = ["train_loss", *([] if learn.dls.valid is None else ["valid_loss", *(m.name for m in learn.metrics)])]
    by = by or names[min(2, len(names) - 1)]
    if by not in names:
        raise ConfigError(f"by must be one of {', '.join(names)}, got {by!r}")
    idle = [type(callback).__name__ for callback in learn.cbs if callback.recorded and not callback.writes]
    if idle:
        warnings.warn(f"a sweep calls no callbacks, so {', '.join(idle)} will not act on its members", stacklevel=2)
    if threads is not None and threads < 1:
        raise ConfigError(f"threads must be 1 or more, got {threads}")
    threads = threads or learn.threads
    training = _Training(learn, members, model, schedule, epochs)
    training.run(threads, lambda line: None if quiet else print(line, flush=True))
    found = Sweep(members, names, by, threads)
    if not quiet:
        print(found.table(), found.verdict if found.ranking else "every member diverged", sep="\n")
    return found


def members_of(learn: Learner, lr: Any, weight_decay: Any, momentum: Any, seeds: int | Sequence[int]) -> list[Member]:
    """Every combination of the values with every seed. Raises ConfigError for values that cannot be."""
    lrs, decays, momenta = (several(values) for values in (learn.lr if lr is None else lr, weight_decay, momentum))
    for name, values, most in (("lr", lrs, math.inf), ("weight_decay", decays, math.inf), ("momentum", momenta, 1.0)):
        for value in values:
            if value is not None and not 0 <= value < most:
                raise ConfigError(f"{name} must be a finite number of 0 or more{' below 1' * (most == 1)}, got {value}")
    wanted = [int(seed) for seed in (seeds if hasattr(seeds, "__iter__") else range(seeds))]
    if any(seed < 0 for seed in wanted):
        raise ConfigError(f"seeds must be whole numbers of 0 or more, got {min(wanted)}")
    settings = [Setting(*values) for values in itertools.product(lrs, decays, momenta)]
    if not wanted or not settings or len(set(wanted)) < len(wanted) or len(set(settings)) < len(settings):
        raise ConfigError("a sweep needs at least one seed and one value of each kind, none of them twice")
    return [Member(setting, seed) for setting in settings for seed in wanted]


def several(values: Any) -> list[Any]:
    """One value or many (a list, an array, a range) as a list.

    >>> several(0.1), several(torch.tensor([1.0, 2.0])), several(None)
    ([0.1], [1.0, 2.0], [None])
    """
    values = values.tolist() if hasattr(values, "tolist") else values
    return list(values) if hasattr(values, "__iter__") else [values]


def sampler_of(train: DataLoader, seed: int) -> Sampler:
    """What gives a member's order: the training loader's sampler, with the member's seed if it draws by one."""
    if train.shuffle:
        return ShuffleSampler(len(train.dataset), seed)
    if isinstance(train.sampler, WeightedSampler):
        return WeightedSampler(train.sampler.weights, seed, train.sampler.draws)
    return train.sampler


def batch_seeds(train: DataLoader, seeds: list[int]) -> list[int]:
    """The seeds of the batches that members with these seeds, in order, need: S of them, where S divides K.

    Members of one seed see the same batches, which are gathered once, and go through the model once: so do all, where
    the order is the same for every seed. But every batch must be that of as many members: where members were dropped
    here and there, each has its own.
    """
    if not (train.shuffle or train.augment is not None or isinstance(train.sampler, WeightedSampler)):
        return seeds[:1]
    once = sorted(set(seeds))
    return once if all(seeds.count(seed) * len(once) == len(seeds) for seed in once) else seeds


class _Training:
    """The loop of a sweep: what `Learner.fit` does, for all members at once."""

    def __init__(
        self, learn: Learner, members: list[Member], make: Callable[[], nn.Module] | None, shape: Shape, epochs: int
    ) -> None:
        self.learn, self.epochs = learn, epochs
        self.state = learn.prepared()
        require_sweepable(learn)
        train = learn.dls.train
        assert isinstance(train, DataLoader)
        self.train = train
        members = sorted(members, key=lambda member: member.seed)  # those that see the same batches, side by side
        self.alive = members
        self.stack = Stack([self._fresh(member.seed, make) for member in members], self.state.loss_func)
        like = next(iter(self.stack.weights.values()))
        self.update: StackedUpdate = stacked_update(
            learn.opt_func,
            [member.setting.weight_decay for member in members],
            [member.setting.momentum for member in members],
            like,
        )
        total = epochs * len(train)
        if shape not in ("constant", "one-cycle", "cosine"):
            raise ConfigError(f"schedule must be constant, one-cycle or cosine, got {shape!r}")
        kinds: dict[str, Any] = {"one-cycle": schedules.one_cycle, "cosine": schedules.cosine}
        lrs = [member.setting.lr for member in members]
        self.schedules = [kinds[shape](lr, total) if shape in kinds else schedules.constant(lr) for lr in lrs]

    def run(self, threads: int, say: Callable[[str], None]) -> None:
        """Train all epochs; members whose loss is lost are dropped."""
        keep_freed_memory()
        say(f"{len(self.alive)} members, CPU threads: {threads}")
        # Random states: or the Learner's next fit would go on from those of the sweep.
        with self.learn.conditions(), rng.preserved(), environment.threads(threads):
            torch.manual_seed(self.learn.seed)
            for epoch in range(self.epochs):
                losses, counts = self._train(epoch)
                valid = self._validate()
                lost = []
                for number, member in enumerate(self.alive):
                    row = [weighted_mean_or_nan(losses[number], counts[number]), *valid[number]]
                    member.values.append(row)
                    if not all(map(math.isfinite, row[:2])):
                        member.diverged = epoch
                        lost.append(number)
                self._drop(lost)
                say(f"epoch {epoch}: {len(self.alive)} members" + (f", {len(lost)} diverged" if lost else ""))
                if not self.alive:
                    return
        for number, member in enumerate(self.alive):
            member.weights = {name: tensor.cpu() for name, tensor in self.stack.state(number).items()}

    def _train(self, epoch: int) -> tuple[list[list[float]], list[list[float]]]:
        """One epoch of all members: losses and sample counts, a list of steps for each member."""
        seeds = batch_seeds(self.train, [member.seed for member in self.alive])
        steps, weights = len(self.train), self.stack.weights
        like = next(iter(weights.values()))
        lrs = [[lr(epoch * steps + step) for lr in self.schedules] for step in range(steps)]
        batches = self._batches(seeds, epoch)
        losses, counts = [], []
        for lr, (inputs, targets) in zip(torch.tensor(lrs, dtype=like.dtype).to(like.device), batches, strict=True):
            gradients, loss = self.stack.gradients(inputs, targets)
            if self.learn.clip is not None:
                gradients = clipped(gradients, self.learn.clip)
            self.update(weights, gradients, lr)
            losses.append(loss)
            counts.append(self._counts(targets).repeat_interleave(len(self.alive) // len(seeds)))
        return torch.stack(losses).T.tolist(), torch.stack(counts).T.tolist()

    def _batches(self, seeds: list[int], epoch: int) -> Iterator[tuple[Any, Any]]:
        """The batches of all seeds, step by step: (inputs, targets) of shape (S, batch_size, …)."""
        orders = torch.stack([sampler_of(self.train, seed).order(epoch) for seed in seeds])  # (S, n)
        wanted = orders[:, : len(self.train) * self.train.batch_size].split(self.train.batch_size, dim=1)
        device, augment = self.learn.device, self.train.augment
        dataset, numbers = on_device(self.train.dataset, [part.flatten() for part in wanted], device)  # type: ignore[arg-type]
        for indices in numbers:
            batch = sent(dataset.gather(indices), device)
            if dataset.transform is not None:
                batch = dataset.transform(batch)
            if augment is not None:
                rows = zip(seeds, indices.to(device).view(len(seeds), -1), strict=True)  # type: ignore[union-attr]
                keys = torch.cat([sample_keys(seed, epoch, row) for seed, row in rows])
                batch = (augment(batch[0], keys), *batch[1:])
            yield pair(tree_map(lambda tensor: tensor.unflatten(0, (len(seeds), -1)), batch))

    def _counts(self, targets: Any) -> Tensor:
        """What the mean loss of each of S batches was divided by: (S,)."""
        if self.state.count is length:
            return torch.full((length(targets),), float(length(one(targets, 0))))
        return torch.stack([torch.as_tensor(self.state.count(one(targets, own))) for own in range(length(targets))])

    @torch.no_grad()
    def _validate(self) -> list[list[float]]:
        """Validation loss and metrics of each member: all of them look at the same batches."""
        learn, members = self.learn, range(len(self.alive))
        if learn.dls.valid is None:
            return [[] for _ in members]
        losses, samples = torch.zeros(len(members), dtype=torch.float64, device=learn.device), 0.0
        sums: list[Any] = [0.0] * len(learn.metrics)  # of each metric, for all members: (K, …)
        with rng.preserved():
            for inputs, targets in map(pair, learn.dls.valid.batches(0, device=learn.device)):
                count = float(self.state.count(targets))
                seen, wanted = (tree_map(lambda tensor: tensor[None], part) for part in (inputs, targets))
                preds = self.stack.preds(seen)
                samples += count
                losses += self.stack.losses(preds, wanted).double() * count
                found = (sums_of(metric, preds, targets, len(members)) for metric in learn.metrics)
                sums = [total + each for total, each in zip(sums, found, strict=True)]
        means = (losses / samples).tolist()
        values = [
            [float(metric.value(own)) for own in total] for metric, total in zip(learn.metrics, sums, strict=True)
        ]
        return [[means[member], *(column[member] for column in values)] for member in members]

    def _drop(self, lost: list[int]) -> None:
        if lost:
            stay = [number for number in range(len(self.alive)) if number not in lost]
            for kept in (self.stack, self.update):
                kept.keep(torch.tensor(stay, dtype=torch.long, device=self.learn.device))
            self.alive = [self.alive[number] for number in stay]
            self.schedules = [self.schedules[number] for number in stay]

    def _fresh(self, seed: int, make: Callable[[], nn.Module] | None) -> nn.Module:
        """A new model with the first weights of a seed."""
        from clearloop.buildable import build

        with rng.preserved():
            torch.manual_seed(seed)
            model = make() if make is not None else build(describe(self.learn.model), "model")
        found: nn.Module = model.to(self.learn.device)
        shapes = {name: tensor.shape for name, tensor in self.learn.model.state_dict().items()}
        if {name: tensor.shape for name, tensor in found.state_dict().items()} != shapes:
            raise ConfigError("model makes another architecture than the Learner's")
        return found


def keep_freed_memory() -> None:
    """Have the C library keep the memory of a step for the next one, where it would give it back and ask for it anew.

    glibc gives blocks back above a size that follows the largest block freed so far, up to 32 MiB; a block of that size
    that nobody writes to costs nothing. Stacked gradients are of such sizes: a step of Adam takes a third less time.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


def require_sweepable(learn: Learner) -> None:
    """Raise for what a stack of models cannot do, with the remedy."""
    train = learn.dls.train
    if not isinstance(train, DataLoader) or not hasattr(train.dataset, "gather"):
        raise DataError("a sweep gathers the batches of all members at once: give data that can be gathered, such as "
                        "DataLoaders.arrays, mnist, from_folder or a TensorDataset")  # fmt: skip
    for name, value in (
        ("accumulate", learn.accumulate if learn.accumulate > 1 else None),
        ("precision", learn.precision),
    ):
        if value is not None:
            raise ConfigError(f"a sweep does not know {name}={value!r}: leave it out, or run the members one by one")
    stateful = [m.name for m in learn.metrics if hasattr(m.sums, "reset")]
    if stateful:
        raise ConfigError(f"{stateful[0]} keeps a state of its own, which K members cannot share; use clearloop's")


def clipped(gradients: dict[str, Tensor], most: float) -> dict[str, Tensor]:
    """Gradients whose norm, of each member over all weights, is at most `most`, as `clip_grad_norm_` does."""
    squares = [gradient.flatten(1).square().sum(1) for gradient in gradients.values()]
    norms = torch.stack(squares).sum(0).sqrt()  # (K,)
    factors = (most / (norms + 1e-6)).clamp(max=1.0)
    return {name: gradient * factors.view(-1, *[1] * (gradient.ndim - 1)) for name, gradient in gradients.items()}


def sums_of(metric: Metric, preds: Any, targets: Any, members: int) -> Tensor:
    """A metric's sums for each member: (K, …). All at once where vmap can follow the metric, else one by one."""
    try:
        return vmap(metric.sums, in_dims=(0, None))(preds, targets)
    except (
        Exception
    ):  # a metric of a user's own may want numbers, or NumPy: it shows its own error below, if it has one
        return torch.stack([metric.sums(one(preds, member), targets) for member in range(members)])


def one(batch: Any, member: int) -> Any:
    """A member's part of what is stacked."""
    return tree_map(lambda tensor: tensor[member], batch)


def weighted_mean_or_nan(losses: list[float], counts: list[float]) -> float:
    """The mean over samples; NaN where a loss was lost."""
    return weighted_mean(losses, counts) if all(map(math.isfinite, losses)) else math.nan
