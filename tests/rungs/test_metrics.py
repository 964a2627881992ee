"""Accuracy by hand against the library's, in one batch and over batches of different size."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import clearloop
from clearloop.rungs import losses
from clearloop.rungs.metrics import accuracy, mean_over_batches


def samples(count: int, classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, classes, generator=generator), torch.randint(classes, (count,), generator=generator)


@pytest.mark.parametrize("count", [1, 7, 1000])
@pytest.mark.parametrize("classes", [2, 10])
def test_accuracy_is_the_librarys(count: int, classes: int) -> None:
    preds, targets = samples(count, classes)
    found = accuracy(preds, targets)
    assert found.shape == ()
    assert torch.equal(found, clearloop.accuracy(preds, targets))


@pytest.mark.parametrize("shape", [(5,), (5, 1)])
@pytest.mark.parametrize("target_shape", [(5,), (5, 1)])
def test_of_one_logit_a_sample_the_sign_decides(shape: tuple[int, ...], target_shape: tuple[int, ...]) -> None:
    preds, targets = torch.tensor([2.0, -1.0, 0.0, 3.0, 4.0]).view(shape), torch.tensor([1, 0, 0, 0, 1])
    assert accuracy(preds, targets.view(target_shape)).item() == 0.8
    assert torch.equal(accuracy(preds, targets.view(target_shape)), clearloop.accuracy(preds, targets))


def test_a_short_last_batch_counts_by_its_samples() -> None:
    preds, targets = torch.tensor([[1.0, 0.0]] * 10), torch.tensor([0] * 8 + [1, 1])
    batches = [(preds[:8], targets[:8]), (preds[8:], targets[8:])]
    assert mean_over_batches(accuracy, batches).item() == 0.8
    assert torch.stack([accuracy(*batch) for batch in batches]).mean().item() == 0.5  # what it guards against


@pytest.mark.parametrize("batch_size", [1, 7, 64, 99, 100, 1000])
def test_the_mean_over_batches_does_not_depend_on_their_size(batch_size: int) -> None:
    preds, targets = samples(100)
    batches = list(zip(preds.split(batch_size), targets.split(batch_size), strict=True))
    assert mean_over_batches(accuracy, iter(batches)) == clearloop.accuracy(preds, targets)
    torch.testing.assert_close(
        mean_over_batches(losses.cross_entropy, batches), F.cross_entropy(preds, targets).double()
    )


def test_there_is_no_mean_of_nothing() -> None:
    with pytest.raises(clearloop.DataError, match="got none"):
        mean_over_batches(accuracy, [])
