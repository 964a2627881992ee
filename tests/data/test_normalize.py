"""Mean and spread of training images."""

from __future__ import annotations

import pytest
import torch

from clearloop.data.normalize import statistics
from clearloop.errors import DataError


@pytest.mark.parametrize("shape", [(30, 5, 7), (30, 3, 5, 7)])
def test_statistics_are_those_of_numbers_counted_one_by_one(shape: tuple[int, ...]) -> None:
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found, floats = statistics(images, chunk=7), images.double().div(255)
    others = [0, *range(2, len(shape))] if len(shape) == 4 else [0, 1, 2]
    mean, std = floats.mean(others).flatten().tolist(), floats.std(others, correction=0).flatten().tolist()
    assert found.mean == pytest.approx(mean, rel=1e-12)
    assert found.std == pytest.approx(std, rel=1e-12)
    assert (statistics(images.flip(0)).mean, statistics(images).std) == (found.mean, found.std)


def test_images_without_any_spread_are_refused() -> None:
    with pytest.raises(DataError, match="one brightness alone"):
        statistics(torch.full((3, 4, 4), 9, dtype=torch.uint8))
    with pytest.raises(DataError, match="none that can be read"):
        statistics(torch.empty(0, 4, 4, dtype=torch.uint8))
