"""The default path beside plain loops in one process: 784-50-10 on MNIST, one thread, the same bits.

The contestants are those of `mlp`. There each has a process of its own, as other libraries need, and where its memory
lies is a matter of luck that is worth some percent: as much as the aims of the default path are about.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import torch

from benchmarks.comparison import write_data
from benchmarks.contest import gap
from benchmarks.mlp import aim
from benchmarks.peers import ours, plain
from benchmarks.peers.wire import Clock, Result, Trainer
from benchmarks.peers.workloads import Workload
from clearloop import get_data, mnist
from clearloop.data.sampler import shuffled_order

ROUNDS = 9
CONTESTANTS: dict[str, Trainer] = {
    "by hand": plain.by_hand,
    "clearloop": ours.default,
    "by hand, bytes": plain.by_hand_bytes,
    "clearloop, bytes": ours.default_bytes,
    "torch DataLoader": plain.with_torch_loader,
}


def main() -> None:
    """Print a table and the aims for each batch size."""
    torch.set_num_threads(1)
    x, y, x_valid, y_valid = get_data()
    images, targets = mnist().train_images, {"y_train": y, "y_valid": y_valid}
    with tempfile.TemporaryDirectory() as name:
        floats = write_data(Path(name, "floats"), {"x_train": x, "x_valid": x_valid, **targets})
        held = {"x_train": images[: len(x)], "x_valid": images[len(x) :], **targets}
        as_bytes = write_data(Path(name, "bytes"), held)
        orders = [shuffled_order(len(x), 0, epoch) for epoch in range(2)]
        net = ("mlp 784-50-10", "mlp", (784, 50, 10), "cross_entropy", "SGD", 0.1)
        for batch_size, of_loader in ((64, 0.7), (512, 0.5)):
            work = Workload(*net, batch_size, 2, threads=1, data=floats, data_bytes=as_bytes)
            times = measured(work.write(Path(name, str(batch_size)), orders))
            print(f"\nbatch {batch_size}: seconds an epoch, median of {ROUNDS} rounds; all end in the same bits")
            for contestant, seconds in times.items():
                print(f"  {contestant:18} {statistics.median(seconds):.4f}")
            pairs = (("clearloop", "by hand", 1.05), ("clearloop, bytes", "by hand, bytes", 1.05))
            for first, second, most in (*pairs, ("clearloop", "torch DataLoader", of_loader)):
                ratios = [own / other for own, other in zip(times[first], times[second], strict=True)]
                print(aim(f"{first} / {second}, batch {batch_size}", statistics.median(ratios), most=most))


def measured(work: Workload) -> dict[str, list[float]]:
    """Seconds of the second epoch of each contestant in each round, after one that warms up."""
    times: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    for number in range(ROUNDS + 1):
        ends: list[Result] = []
        for name, train in CONTESTANTS.items():
            clock = Clock()
            result = train(work, clock)
            assert result is not None
            ends.append(result)
            if number:
                times[name].append(clock.epochs_s[-1])
        assert all(gap(end.weights, ends[0].weights) == 0 for end in ends), "they must end in the same weights"
    return times


if __name__ == "__main__":
    main()
