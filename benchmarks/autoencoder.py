"""784-128-64-32 and back on 20,000 digits, mean squared error, Adam, batch 128, one thread: see `mlp`."""

from __future__ import annotations

from benchmarks.comparison import compare, keep
from benchmarks.contest import Tolerance
from benchmarks.peers.workloads import Workload
from benchmarks.roster import contestants
from clearloop import get_data

TRAIN, VALID = 20_000, 2_000


def main() -> None:
    """Print the table, keep the figures."""
    x, _, x_valid, _ = get_data()
    widths = (784, 128, 64, 32)
    work = Workload("autoencoder 784-128-64-32", "autoencoder", widths, "mse", "Adam", 1e-3, 128, 2, threads=1, data="")
    data = {"x_train": x[:TRAIN], "x_valid": x_valid[:VALID]}  # and the targets are the inputs
    keep(compare([work], contestants(floor=True), Tolerance(weights=0.03, loss=1e-3), data), "autoencoder")


if __name__ == "__main__":
    main()
