"""The losses by hand against torch's: values, gradients, extremes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import clearloop
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


EDGES = [-torch.inf, -1e4, -90.0, -1.0, -0.0, 0.0, 1.0, 90.0, 1e4, torch.inf]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sigmoid_has_the_values_and_gradients_of_torch_also_at_zero_and_at_the_extremes(dtype: torch.dtype) -> None:
    x = torch.tensor(EDGES, dtype=dtype, requires_grad=True)
    torch.testing.assert_close(losses.sigmoid(x), x.sigmoid())
    (found,) = torch.autograd.grad(losses.sigmoid(x).sum(), x)
    (expected,) = torch.autograd.grad(x.sigmoid().sum(), x)
    torch.testing.assert_close(found, expected)
    assert found[EDGES.index(0.0)] == 0.25


def test_the_gradient_of_sigmoid_agrees_with_finite_differences_at_zero() -> None:
    x = torch.tensor([-3.0, -1e-9, 0.0, 1e-9, 3.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(losses.sigmoid, x)


def test_sigmoid_does_not_hide_what_is_lost() -> None:
    assert losses.sigmoid(torch.tensor(torch.nan)).isnan()


@pytest.mark.parametrize("shape", [(6,), (6, 1)])
def test_mnist_loss_has_the_value_and_gradient_of_the_librarys(shape: tuple[int, ...]) -> None:
    preds = torch.tensor([0.0, 0.0, 1.5, -2.0, 1e4, -1e4], dtype=torch.float64).view(shape).requires_grad_()
    targets = torch.tensor([1, 0, 1, 0, 0, 1]).view(shape)
    torch.testing.assert_close(losses.mnist_loss(preds, targets), clearloop.losses.mnist_loss(preds, targets))
    (found,) = torch.autograd.grad(losses.mnist_loss(preds, targets), preds)
    (expected,) = torch.autograd.grad(clearloop.losses.mnist_loss(preds, targets), preds)
    torch.testing.assert_close(found, expected)
    assert found.count_nonzero() == 4


def test_logsumexp_of_infinite_logits_is_that_of_torch() -> None:
    inf = torch.inf
    rows = [[-inf, -inf], [inf, 0.0], [inf, inf], [inf, -inf], [-inf, 3.0], [1.0, 2.0], [torch.nan, 0.0]]
    x = torch.tensor(rows, requires_grad=True)
    expected = torch.tensor([-inf, inf, inf, inf, 3.0, math.log(math.e + math.e**2), torch.nan])
    torch.testing.assert_close(losses.logsumexp(x), expected, equal_nan=True)
    torch.testing.assert_close(losses.logsumexp(x), x.logsumexp(dim=1), equal_nan=True)
    (found,) = torch.autograd.grad(losses.logsumexp(x).sum(), x)
    (theirs,) = torch.autograd.grad(x.logsumexp(dim=1).sum(), x)
    torch.testing.assert_close(found, theirs, equal_nan=True)


def test_a_class_that_is_ruled_out_leaves_the_gradient_of_the_others_as_torch_has_it() -> None:
    preds = torch.tensor([[-torch.inf, 1.0, 2.0]], requires_grad=True)
    (found,) = torch.autograd.grad(losses.cross_entropy(preds, torch.tensor([1])), preds)
    (expected,) = torch.autograd.grad(F.cross_entropy(preds, torch.tensor([1])), preds)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("loss", [losses.mse, losses.l1, losses.mnist_loss])
@pytest.mark.parametrize("shapes", [((4, 1), (4,)), ((4,), (4, 1)), ((4, 2), (1, 2)), ((4,), ())])
def test_shapes_that_differ_are_refused_rather_than_broadcast(loss: Callable, shapes: tuple[tuple, tuple]) -> None:
    with pytest.raises(ValueError, match=re.escape(f"same shape, got {shapes[0]} and {shapes[1]};")):
        loss(torch.zeros(shapes[0]), torch.zeros(shapes[1]))


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
