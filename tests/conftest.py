"""What every test starts from: one thread, and known random states."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from clearloop import rng
from clearloop.data.mnist import Mnist, mnist
from clearloop.data.sample import URLs, untar_data

# The same examples on every machine, and nothing is timed.
settings.register_profile("clearloop", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("clearloop")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The number of threads decides bits, and one is fastest for small models."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _known_random_states() -> None:
    """No test depends on what another one drew."""
    rng.seed_all(0)


@pytest.fixture(scope="session")
def digits() -> Mnist:
    """All of MNIST, read once; tests must not change it."""
    return mnist()


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The threes and sevens as folders of pictures, written once, in a cache of this session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLEARLOOP_HOME", str(tmp_path_factory.mktemp("cache")))
        yield untar_data(URLs.MNIST_SAMPLE)
