"""The history: nothing is lost, averages are over samples, and a loss that is lost is named."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clearloop import NonFiniteError
from clearloop.history import EpochRecord, History, weighted_mean

losses_and_counts = st.lists(st.tuples(st.floats(-1e6, 1e6, width=32), st.integers(1, 10**6)), min_size=1, max_size=50)


def filled(losses: list[float], lr: float = 0.1) -> History:
    history = History()
    for loss in losses:
        history.add_steps([torch.tensor(loss)], [lr], [8])
    return history


@given(pairs=losses_and_counts)
def test_a_mean_over_samples_equals_exact_arithmetic(pairs):
    losses, counts = zip(*pairs, strict=True)
    exact = sum(Fraction(loss) * count for loss, count in pairs) / sum(counts)
    scale = max(abs(loss) for loss in losses)
    assert weighted_mean(losses, counts) == pytest.approx(float(exact), rel=1e-12, abs=1e-12 * scale)


@given(pairs=losses_and_counts)
def test_the_order_of_batches_does_not_change_their_mean(pairs):
    forwards, backwards = pairs, pairs[::-1]
    assert weighted_mean(*zip(*forwards, strict=True)) == weighted_mean(*zip(*backwards, strict=True))


@given(cuts=st.lists(st.integers(0, 10)))
def test_however_often_one_looks_the_losses_are_the_same(cuts):
    history = History()
    for step in range(10):
        history.add_steps([torch.tensor(step / 2)], [0.1], [step + 1])
        if step in cuts:
            history.look()
    history.look()
    assert history.losses == [step / 2 for step in range(10)]
    assert history.pending == []
    assert history.steps == 10
    assert history.mean_loss(since=8) == pytest.approx((4 * 9 + 4.5 * 10) / 19)


def test_steps_count_before_anybody_looks():
    history = History()
    history.add_steps([torch.tensor(1.0), torch.tensor(2.0)], [0.1, 0.2], [4, 4])
    assert history.steps == 2
    assert history.losses == []
    assert history.lrs == [0.1, 0.2]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_first_loss_that_is_not_finite_is_named_with_its_step_and_rate(value):
    history = filled([1.0, 2.0])
    history.look()
    history.add_steps([torch.tensor(3.0), torch.tensor(value), torch.tensor(math.nan)], [0.1, 0.25, 0.3], [8, 8, 8])
    with pytest.raises(NonFiniteError, match=rf"the loss is {value} at step 3 \(learning rate 0\.25\)"):
        history.look()


def test_sums_of_weights_on_a_device_count_like_samples():
    history = History()
    history.add_steps([torch.tensor(2.0), torch.tensor(1.0)], [0.1, 0.1], [torch.tensor(0.5), torch.tensor(1.5)])
    assert history.mean_loss(since=0) == 1.25


def test_values_hold_a_row_an_epoch():
    record = EpochRecord(0, 0.5, 0.4, {"accuracy": 0.9, "mse": 0.1}, 0.1, 7, 1.0)
    assert History(epochs=[record]).values == [[0.5, 0.4, 0.9, 0.1]]
    assert History(epochs=[EpochRecord(0, 0.5, None, {}, 0.1, 7, 1.0)]).values == [[0.5, None]]


def test_a_record_cannot_be_changed_afterwards():
    record = EpochRecord(0, 0.5, 0.4, {}, 0.1, 7, 1.0)
    with pytest.raises(AttributeError):
        record.train_loss = 0.0
