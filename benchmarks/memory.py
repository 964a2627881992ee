"""Resident memory of a training run on MNIST: the images are held once, as bytes (47 MB), and never as floats."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import torch
import torch.nn.functional as F

from clearloop import DataLoaders, Learner, accuracy, models


def resident_mb() -> float:
    """Resident set size of this process, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    """Print what each part adds."""
    torch.set_num_threads(1)
    small = DataLoaders.arrays(torch.zeros(256, 784), torch.zeros(256, dtype=torch.long), seed=0)
    warm = Learner(small, models.mlp(784, 50, 1), F.cross_entropy, metrics=accuracy, seed=0)
    warm.fit(1, lr=0.1, quiet=True)  # so that torch's own buffers and imports are there already
    gc.collect()
    before = resident_mb()
    dls = DataLoaders.mnist(64, seed=0)
    gc.collect()
    loaded = resident_mb()
    Learner(dls, models.mlp(784, 50, 10), metrics=accuracy, seed=0).fit(1, lr=0.1, quiet=True)
    gc.collect()
    trained = resident_mb()
    as_bytes = 60_000 * 784 / 1e6
    print(f"60,000 images as bytes are {as_bytes:.0f} MB, as float32 they would be {4 * as_bytes:.0f} MB")
    print(f"DataLoaders.mnist adds     {loaded - before:6.1f} MB")
    print(f"an epoch of training adds  {trained - loaded:6.1f} MB")


if __name__ == "__main__":
    main()
