"""A net for tables, 28 inputs and five layers of 300, two classes, Adam, batch 512, one thread: see `mlp`."""

from __future__ import annotations

import torch

from benchmarks.comparison import compare, keep
from benchmarks.contest import Tolerance
from benchmarks.peers.workloads import Workload
from benchmarks.roster import contestants

TRAIN, VALID, COLUMNS = 50_000, 10_000, 28


def main() -> None:
    """Print the table, keep the figures. The rows are made up: the class is the sign of their sum under noise."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(TRAIN + VALID, COLUMNS, generator=generator)
    labels = (rows.sum(1) + 5 * torch.randn(TRAIN + VALID, generator=generator) > 0).long()
    data = {"x_train": rows[:TRAIN], "y_train": labels[:TRAIN], "x_valid": rows[TRAIN:], "y_valid": labels[TRAIN:]}
    widths = (COLUMNS, *[300] * 5, 2)
    work = Workload("table 28-5x300-2", "mlp", widths, "cross_entropy", "Adam", 1e-4, 512, 2, threads=1, data="")
    keep(compare([work], contestants(floor=True, peers_tuned=False), Tolerance(weights=0.05, loss=0.01), data), "table")


if __name__ == "__main__":
    main()
