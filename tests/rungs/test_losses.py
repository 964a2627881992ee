"""The losses by hand against torch's: values, gradients, extremes."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clearloop.rungs import losses

CLASSES = 7
PAIRS: list[tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = [
    (losses.cross_entropy, F.cross_entropy),
    (losses.cross_entropy_one_hot, F.cross_entropy),
    (lambda p, t: losses.nll(losses.log_softmax_naive(p), t), F.cross_entropy),
    (lambda p, t: losses.nll(losses.log_softmax_quotient(p), t), F.cross_entropy),
    (losses.nll, F.nll_loss),
    (lambda p, t: losses.mse(p[:, 0], t.to(p.dtype)), lambda p, t: F.mse_loss(p[:, 0], t.to(p.dtype))),
    (lambda p, t: losses.l1(p[:, 0], t.to(p.dtype)), lambda p, t: F.l1_loss(p[:, 0], t.to(p.dtype))),
    (lambda p, t: losses.softmax(p)[:, 1].mean(), lambda p, t: F.softmax(p, dim=1)[:, 1].mean()),
    (lambda p, t: losses.sigmoid(p).sum(), lambda p, t: p.sigmoid().sum()),
    (lambda p, t: losses.logsumexp(p).sum(), lambda p, t: p.logsumexp(dim=1).sum()),
]


def samples(batch_size: int, classes: int = CLASSES, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(batch_size)
    preds = torch.randn(batch_size, classes, generator=generator, dtype=dtype).requires_grad_()
    return preds, torch.randint(classes, (batch_size,), generator=generator)


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
@pytest.mark.parametrize("batch_size", [1, 32])
@pytest.mark.parametrize("classes", [2, CLASSES])
def test_value_and_gradient_are_those_of_torch(ours: Callable, theirs: Callable, batch_size: int, classes: int) -> None:
    preds, targets = samples(batch_size, classes)
    (expected,) = torch.autograd.grad(theirs(preds, targets), preds)
    (found,) = torch.autograd.grad(ours(preds, targets), preds)
    torch.testing.assert_close(ours(preds, targets), theirs(preds, targets), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("loss", [losses.cross_entropy, losses.cross_entropy_one_hot])
def test_gradients_agree_with_finite_differences(loss: Callable) -> None:
    preds, targets = samples(3)
    assert torch.autograd.gradcheck(lambda p: loss(p, targets), preds)


@pytest.mark.parametrize("loss", [losses.cross_entropy, losses.cross_entropy_one_hot])
def test_logits_of_ten_thousand_overflow_neither_the_loss_nor_its_gradient(loss: Callable) -> None:
    preds = torch.tensor([[1e4, 0.0, -1e4], [-1e4, 1e4, 0.0]], requires_grad=True)
    targets = torch.tensor([1, 1])
    value = loss(preds, targets)
    value.backward()
    assert value.item() == pytest.approx(F.cross_entropy(preds, targets).item())
    assert torch.isfinite(preds.grad).all()


def test_the_naive_forms_do_overflow_there() -> None:
    big = torch.tensor([[1e4, 0.0]])
    assert not torch.isfinite(losses.log_softmax_naive(big)).all()
    assert not torch.isfinite(losses.log_softmax_quotient(big)).all()
    assert torch.isfinite(losses.log_softmax(big)).all()


def test_sigmoid_stays_finite_with_its_gradient_at_the_extremes() -> None:
    x = torch.tensor([-1e4, -90.0, 0.0, 90.0, 1e4], requires_grad=True)
    losses.sigmoid(x).sum().backward()
    torch.testing.assert_close(losses.sigmoid(x), x.sigmoid())
    assert torch.isfinite(x.grad).all()


def test_one_class_costs_nothing() -> None:
    assert losses.cross_entropy(torch.randn(5, 1), torch.zeros(5, dtype=torch.long)).item() == pytest.approx(
        0, abs=1e-6
    )


def test_a_model_that_knows_nothing_has_the_logarithm_of_the_number_of_classes() -> None:
    assert losses.cross_entropy(torch.zeros(3, 10), torch.tensor([0, 5, 9])).item() == pytest.approx(math.log(10))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-50, 50), min_size=2, max_size=6), st.floats(-50, 50))
def test_softmax_sums_to_one_and_does_not_see_a_constant(logits: list[float], shift: float) -> None:
    x = torch.tensor([logits], dtype=torch.float64)
    torch.testing.assert_close(losses.softmax(x).sum(), torch.tensor(1.0, dtype=torch.float64))
    torch.testing.assert_close(losses.softmax(x), losses.softmax(x + shift), rtol=1e-9, atol=1e-12)
