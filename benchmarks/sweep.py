"""A sweep of K members beside K runs alone, one after the other: 784-50-10 on MNIST at batch 64, one epoch.

Each round times, in turn, the sweep and some of its members as runs alone by `Learner.fit`, with one CPU thread and
with all; rounds repeat, medians are compared. The time of K runs is that of those timed, scaled; of the thread counts
they have the faster one. The sweep's time has the making of its models in it, that of a run alone is its fit; the first
look at the data is in neither. That members end as the runs alone is checked before a time is printed.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from clearloop import DataLoader, DataLoaders, Learner, TensorDataset, accuracy, get_data, models, sweep
from clearloop.sweeping.results import Member, Sweep

BATCH_SIZE, HIDDEN = 64, 50
ALONE = 4  # members that are run alone too, in a round
CLOSE = 1e-3  # what rounding may come to in an epoch of 782 steps, of losses and weights
OPTIMIZERS: dict[str, tuple[Any, float]] = {  # and the largest rate
    "SGD": (torch.optim.SGD, 0.3),
    "momentum": (partial(torch.optim.SGD, momentum=0.9), 0.1),
    "Adam": (torch.optim.Adam, 0.003),
}
CASES = (  # optimizer, learning rates, seeds, rounds
    ("SGD", 1, 1, 3),
    ("SGD", 8, 1, 3),
    ("SGD", 1, 8, 3),
    ("SGD", 32, 1, 3),
    ("SGD", 8, 4, 3),
    ("SGD", 1, 32, 3),
    ("momentum", 8, 4, 1),
    ("Adam", 8, 4, 1),
)


def learner(arrays: tuple[torch.Tensor, ...], opt_func: Any, seed: int) -> Learner:
    """A Learner that has looked at its data."""
    torch.manual_seed(seed)
    dls = DataLoaders(
        DataLoader(TensorDataset(*arrays[:2]), BATCH_SIZE, shuffle=True, seed=seed),
        DataLoader(TensorDataset(*arrays[2:]), 512),
    )
    learn = Learner(dls, models.mlp(784, HIDDEN, 10), F.cross_entropy, opt_func, metrics=accuracy, seed=seed)
    learn.prepared()
    return learn


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what came out."""
    started = time.perf_counter()
    found = run()
    return time.perf_counter() - started, found


def distance(member: Member, learn: Learner) -> float:
    """How far a member is from its run alone: the largest difference of a weight or of a value of its history."""
    gaps = [(member.weights[name] - tensor.cpu()).abs().max() for name, tensor in learn.model.state_dict().items()]
    return float(max(*gaps, (torch.tensor(member.values) - torch.tensor(learn.recorder.values)).abs().max()))


def round_of(
    arrays: tuple[torch.Tensor, ...], name: str, lrs: list[float], seeds: int, threads: int
) -> tuple[float, float, float]:
    """Seconds of the sweep, seconds of a run alone in the mean, and how far the two are apart."""
    torch.set_num_threads(threads)
    opt_func, _ = OPTIMIZERS[name]
    learn = learner(arrays, opt_func, 0)
    together, found = timed(lambda: sweep(learn, 1, lr=lrs, seeds=seeds, quiet=True))
    assert isinstance(found, Sweep)
    members = found.members[:: -(-len(found.members) // ALONE)]
    seconds, apart = [], 0.0
    for member in members:
        alone = learner(arrays, opt_func, member.seed)
        seconds.append(timed(partial(alone.fit, 1, member.setting.lr, quiet=True))[0])
        apart = max(apart, distance(member, alone))
    return together, statistics.fmean(seconds), apart


def products(members: int, batches: int, threads: int, rounds: int = 40) -> tuple[float, float]:
    """Seconds that the first layer's products of an epoch of training take: as runs alone make them, as the sweep does.

    Args: `batches`, how many batches the members have in a step, 1 where all share one.
    """
    torch.set_num_threads(threads)
    weights, gradients = torch.rand(members, HIDDEN, 784), torch.rand(members, HIDDEN, BATCH_SIZE)
    inputs, one = torch.rand(batches, BATCH_SIZE, 784), torch.rand(BATCH_SIZE, 784)
    shared = weights.view(batches, -1, 784), gradients.view(batches, -1, BATCH_SIZE)

    def alone() -> None:
        for weight, gradient in zip(weights, gradients, strict=True):
            torch.mm(one, weight.T)
            torch.mm(gradient, one)

    def together() -> None:
        torch.bmm(shared[0], inputs.mT)
        torch.bmm(shared[1], inputs)

    pairs = [(timed(alone)[0], timed(together)[0]) for _ in range(rounds)]
    steps = -(-50_000 // BATCH_SIZE)
    own, stacked = (steps * statistics.median(column) for column in zip(*pairs, strict=True))
    return own, stacked


def main() -> None:
    """Print a line for each kind of sweep and number of threads."""
    counts = sorted({1, os.cpu_count() or 1})
    arrays = get_data()
    for threads in counts:  # warms up
        round_of(tuple(tensor[:640] for tensor in arrays), "SGD", [0.1, 0.2], 1, threads)
    print(f"seconds an epoch; of K runs alone {ALONE} are timed, and scaled to K")
    print(f"{'':22}{'threads':>9}{'sweep':>9}{'K runs':>9}{'products':>10}{'runs own':>10}{'sweep / K runs':>16}")
    for name, rates, seeds, rounds in CASES:
        members, largest = rates * seeds, OPTIMIZERS[name][1]
        lrs = [largest * 0.9**power for power in range(rates)]
        found = {n: [round_of(arrays, name, lrs, seeds, n) for _ in range(rounds)] for n in counts}
        apart = max(gap for runs in found.values() for *_, gap in runs)
        assert apart < CLOSE, f"a member ended {apart:.1g} away from its run alone"
        alone = {n: members * statistics.median(each for _, each, _ in runs) for n, runs in found.items()}
        print(f"{name}, K = {members}: {rates} learning rate{'s' * (rates > 1)}, {seeds} seed{'s' * (seeds > 1)}; "
              f"members within {apart:.0e} of their runs")  # fmt: skip
        for n, runs in found.items():
            together = statistics.median(seconds for seconds, *_ in runs)
            single, stacked = products(members, seeds, n)
            ratio = together / min(alone.values())
            print(f"{'':22}{n:9}{together:9.2f}{alone[n]:9.2f}{stacked:10.2f}{single:10.2f}{ratio:16.2f}")
    print("sweep / K runs: by the faster of the two thread counts of the runs. products: those of the first layer in")
    print("training as the sweep makes them, which no form of the loop takes away; runs own: as K runs make them.")


if __name__ == "__main__":
    main()
