"""Metrics are sums over samples: the same however the samples are cut into batches."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from clearloop import ConfigError, accuracy, error_rate, mae, mse, r2_score, rmse, top_k_accuracy
from clearloop.adapters import as_metrics
from clearloop.metrics import Metric
from clearloop.step import evaluate

CLASSES = 6
CLASSIFYING = [accuracy, error_rate, top_k_accuracy(1), top_k_accuracy(3)]
REGRESSING = [mse, rmse, mae, r2_score]


def in_parts(metric: Metric, preds: Tensor, targets: Tensor, cuts: list[int]) -> float:
    """The metric over batches that end at `cuts`."""
    edges = [0, *sorted(set(cuts)), len(targets)]
    total: Any = 0.0
    for start, stop in itertools.pairwise(edges):
        if stop > start:
            total = total + metric.sums(preds[start:stop], targets[start:stop])
    return float(metric.value(total))


def classified(samples: int = 40) -> tuple[Tensor, Tensor]:
    return torch.randn(samples, CLASSES), torch.randint(CLASSES, (samples,))


@pytest.mark.parametrize("metric", CLASSIFYING, ids=lambda metric: metric.name)
@given(cuts=st.lists(st.integers(1, 39)))
def test_metrics_of_classes_do_not_depend_on_the_batches(metric, cuts):
    preds, targets = classified()
    assert in_parts(metric, preds, targets, cuts) == pytest.approx(float(metric(preds, targets)), rel=1e-12)


@pytest.mark.parametrize("metric", REGRESSING, ids=lambda metric: metric.name)
@pytest.mark.parametrize("shape", [(40,), (40, 3)])
@given(cuts=st.lists(st.integers(1, 39)))
def test_metrics_of_values_do_not_depend_on_the_batches(metric, shape, cuts):
    preds, targets = torch.randn(shape), torch.randn(shape)
    assert in_parts(metric, preds, targets, cuts) == pytest.approx(float(metric(preds, targets)), rel=1e-9)


def test_accuracy_counts_what_is_right():
    preds, targets = classified()
    right = sum(int(row.argmax()) == int(label) for row, label in zip(preds, targets, strict=True))
    assert float(accuracy(preds, targets)) == right / 40
    assert float(error_rate(preds, targets)) == pytest.approx(1 - right / 40)
    assert accuracy.sums(preds, targets).dtype == torch.float64
    assert accuracy.sums(preds, targets).tolist() == [right, 40]


@pytest.mark.parametrize("shape", [(5,), (5, 1)])
@pytest.mark.parametrize("target_shape", [(5,), (5, 1)])
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.bool])
def test_accuracy_of_one_logit_asks_for_its_sign(shape, target_shape, dtype):
    preds = torch.tensor([2.0, -1.0, 0.5, 0.0, -3.0]).view(shape)
    targets = torch.tensor([1, 0, 0, 0, 1]).to(dtype).view(target_shape)
    assert float(accuracy(preds, targets)) == 3 / 5


def test_accuracy_of_pixels_counts_pixels():
    preds, targets = torch.randn(2, 3, 4, 5), torch.randint(3, (2, 4, 5))
    assert float(accuracy(preds, targets)) == pytest.approx(float((preds.argmax(1) == targets).double().mean()))


def test_the_k_best_hold_the_class_more_often_the_larger_k_is():
    preds, targets = classified()
    shares = [float(top_k_accuracy(k)(preds, targets)) for k in range(1, CLASSES + 1)]
    assert shares == sorted(shares)
    assert shares[0] == float(accuracy(preds, targets))
    assert shares[-1] == 1.0
    by_hand = [
        int(label) in row.sort(descending=True).indices[:3].tolist() for row, label in zip(preds, targets, strict=True)
    ]
    assert shares[2] == pytest.approx(sum(by_hand) / 40)
    assert top_k_accuracy(3).name == "top_3_accuracy"


def test_errors_of_values_equal_their_definitions():
    preds, targets = torch.randn(30, 2), torch.randn(30, 2)
    errors = (preds.double() - targets.double()).flatten()
    assert float(mse(preds, targets)) == pytest.approx(float(errors.square().mean()), rel=1e-12)
    assert float(rmse(preds, targets)) == pytest.approx(math.sqrt(float(errors.square().mean())), rel=1e-12)
    assert float(mae(preds, targets)) == pytest.approx(float(errors.abs().mean()), rel=1e-6)
    spread = (targets.double() - targets.double().mean()).square().sum()
    assert float(r2_score(preds, targets)) == pytest.approx(float(1 - errors.square().sum() / spread), rel=1e-9)


def test_r2_equals_that_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    preds, targets = torch.randn(50, dtype=torch.float64), 3 + torch.randn(50, dtype=torch.float64)
    assert float(r2_score(preds, targets)) == pytest.approx(metrics.r2_score(targets, preds), rel=1e-9)
    assert float(r2_score(targets, targets)) == 1
    assert float(r2_score(targets.mean().expand(50), targets)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("metric", REGRESSING, ids=lambda metric: metric.name)
def test_a_column_of_predictions_fits_a_row_of_targets(metric):
    preds, targets = torch.randn(8, 1), torch.randn(8)
    assert float(metric(preds, targets)) == float(metric(preds.flatten(), targets))


# -- what users bring --------------------------------------------------------------------------------------------------


def test_a_function_of_ones_own_is_weighted_by_samples():
    def largest_is_even(preds, targets):
        return (preds.argmax(1) % 2 == 0).float().mean()

    (metric,) = as_metrics(largest_is_even)
    preds, targets = classified()
    exact = float((preds.argmax(1) % 2 == 0).double().mean())
    assert metric.name == "largest_is_even"
    for cuts in ([], [1], [7, 9], list(range(40))):
        assert in_parts(metric, preds, targets, cuts) == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("value", [3, 2.5, torch.tensor(1.0)])
def test_a_function_may_return_a_number_of_any_kind(value):
    (metric,) = as_metrics(lambda preds, targets: value)
    assert in_parts(metric, *classified(), [3]) == pytest.approx(float(value))


class Streaming:
    """An object with update, compute and reset, as torchmetrics has them."""

    def __init__(self) -> None:
        self.reset()
        self.resets = 0

    def update(self, preds: Tensor, targets: Tensor) -> None:
        self.right += int((preds.argmax(1) == targets).sum())
        self.seen += len(targets)

    def compute(self) -> Tensor:
        return torch.tensor(self.right / self.seen)

    def reset(self) -> None:
        self.right = self.seen = 0
        self.resets = getattr(self, "resets", 0) + 1


def test_an_object_that_keeps_its_own_state_is_updated_by_batches_and_reset_each_time():
    streaming = Streaming()
    (metric,) = as_metrics([streaming])
    assert metric.name == "Streaming"
    preds, targets = classified()
    for cuts in ([], [5], [11, 30]):
        assert in_parts(metric, preds, targets, cuts) == pytest.approx(float(accuracy(preds, targets)))
    assert streaming.resets == 3
    assert streaming.seen == 0


def test_metrics_come_one_or_several_and_keep_their_order():
    assert as_metrics(()) == ()
    assert as_metrics(accuracy) == (accuracy,)
    assert [metric.name for metric in as_metrics((mse, lambda p, t: 0.0))] == ["mse", "<lambda>"]


@pytest.mark.parametrize("metric", [3, "accuracy", None])
def test_what_is_no_metric_is_refused(metric):
    with pytest.raises(ConfigError, match="a metric must be a function"):
        as_metrics([metric])


def test_evaluation_sums_losses_and_metrics_over_samples():
    preds, targets = classified()
    batches = [(preds[:3], targets[:3]), (preds[3:33], targets[3:33]), (preds[33:], targets[33:])]
    loss_func = torch.nn.functional.cross_entropy
    row = evaluate(lambda inputs: inputs, loss_func, [accuracy, top_k_accuracy(2)], batches)
    exact = [loss_func(preds, targets), accuracy(preds, targets), top_k_accuracy(2)(preds, targets)]
    assert row == pytest.approx([float(value) for value in exact], rel=1e-6)
    assert all(type(value) is float for value in row)
