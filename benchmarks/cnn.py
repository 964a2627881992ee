"""The convolutional net of `clearloop train mnist` on 10,000 digits, Adam, batch 128, two threads: see `mlp`."""

from __future__ import annotations

from benchmarks.comparison import compare, keep
from benchmarks.contest import Tolerance
from benchmarks.peers.workloads import Workload
from benchmarks.roster import contestants
from clearloop import get_data

TRAIN, VALID = 10_000, 2_000


def main() -> None:
    """Print the table, keep the figures."""
    x, y, x_valid, y_valid = get_data()
    data = {
        "x_train": x[:TRAIN].view(-1, 1, 28, 28),
        "y_train": y[:TRAIN],
        "x_valid": x_valid[:VALID].view(-1, 1, 28, 28),
        "y_valid": y_valid[:VALID],
    }
    work = Workload("cnn 16-32-64", "cnn", (16, 32, 64), "cross_entropy", "Adam", 1e-3, 128, 2, threads=2, data="")
    # Batch norm and Adam magnify differences in the last bits, which sums in another order leave.
    keep(compare([work], contestants(peers_tuned=False), Tolerance(weights=None, loss=0.02), data), "cnn")


if __name__ == "__main__":
    main()
