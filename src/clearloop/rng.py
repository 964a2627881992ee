"""Random states as values: seeds derived from other numbers, states captured and given back.

The library never leaves a caller's random states changed: whatever draws does so inside `preserved`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def fold(*numbers: int) -> int:
    """A well-mixed seed in [0, 2**63) from any non-negative integers, such as (seed, epoch).

    Neighbouring inputs give unrelated seeds, so epoch 1 of seed 0 is not epoch 0 of seed 1.
    Source: NumPy's SeedSequence, whose output is fixed across versions and platforms.

    >>> fold(0, 1) == fold(1, 0)
    False
    """
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1


def seed_all(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators (every GPU's too)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def capture() -> dict[str, Any]:
    """The random states of Python, NumPy (its cached gaussian too), torch's CPU and every GPU in use."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": cuda,
    }


def restore(states: dict[str, Any]) -> None:
    """Put back what `capture` returned."""
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.is_available():  # saved where there may have been more GPUs
        torch.cuda.set_rng_state_all(states["cuda"][: torch.cuda.device_count()])


def seeded(seed: int) -> dict[str, Any]:
    """The states that `seed_all` would leave, without a change to the present ones."""
    with preserved():
        seed_all(seed)
        return capture()


@contextmanager
def preserved() -> Iterator[None]:
    """Run a block that may draw random numbers; afterwards all states are as they were.

    >>> before = torch.get_rng_state()
    >>> with preserved():
    ...     _ = torch.rand(3)
    >>> bool(torch.equal(before, torch.get_rng_state()))
    True
    """
    states = capture()
    try:
        yield
    finally:
        restore(states)
