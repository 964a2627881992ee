"""A residual net of 18 layers on made-up pictures of 64 x 64, SGD, batch 32, two threads: see `mlp`."""

from __future__ import annotations

import torch

from benchmarks.comparison import compare, keep
from benchmarks.contest import Tolerance
from benchmarks.peers.workloads import Workload
from benchmarks.roster import contestants

TRAIN, VALID, SIDE, CLASSES = 256, 64, 64, 10


def main() -> None:
    """Print the table, keep the figures. A class of pictures is a pattern under noise."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randn(CLASSES, 3, SIDE, SIDE, generator=generator)
    labels = torch.randint(CLASSES, (TRAIN + VALID,), generator=generator)
    pictures = patterns[labels] + torch.randn(TRAIN + VALID, 3, SIDE, SIDE, generator=generator)
    data = {
        "x_train": pictures[:TRAIN],
        "y_train": labels[:TRAIN],
        "x_valid": pictures[TRAIN:],
        "y_valid": labels[TRAIN:],
    }
    work = Workload("resnet18", "resnet18", (CLASSES,), "cross_entropy", "SGD", 0.01, 32, 2, threads=2, data="")
    keep(compare([work], contestants(peers_tuned=False), Tolerance(weights=None, loss=0.05), data), "resnet18")


if __name__ == "__main__":
    main()
