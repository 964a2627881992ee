"""Losses equal what they are defined to be, and each knows how many samples its mean was taken over."""

from __future__ import annotations

import functools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from clearloop import ConfigError, mnist_loss, soft_cross_entropy
from clearloop.adapters import default_loss
from clearloop.losses import count_for
from clearloop.tree import length

LOGITS = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=20)


@given(logits=LOGITS, data=st.data())
def test_the_two_class_loss_is_the_mean_distance_from_the_target(logits, data):
    targets = data.draw(st.lists(st.integers(0, 1), min_size=len(logits), max_size=len(logits)))
    loss = mnist_loss(torch.tensor(logits), torch.tensor(targets)).item()
    expected = [abs(target - 1 / (1 + math.exp(-logit))) for logit, target in zip(logits, targets, strict=True)]
    assert loss == pytest.approx(sum(expected) / len(expected), abs=1e-6)
    assert 0 <= loss <= 1


def test_the_two_class_loss_takes_floats_and_columns_as_targets():
    preds = torch.tensor([[2.0], [-1.0]])
    for targets in (torch.tensor([[1], [0]]), torch.tensor([[1.0], [0.0]]), torch.tensor([[True], [False]])):
        assert mnist_loss(preds, targets) == mnist_loss(preds.flatten(), targets.flatten())


def test_the_two_class_loss_trains_a_model_to_tell_two_classes_apart():
    inputs, targets = torch.randn(200, 2), torch.arange(200)[:, None] % 2
    inputs += 3 * targets
    model = nn.Linear(2, 1)
    opt = torch.optim.SGD(model.parameters(), lr=1.0)
    before = mnist_loss(model(inputs), targets).item()
    for _ in range(50):
        mnist_loss(model(inputs), targets).backward()
        opt.step()
        opt.zero_grad()
    assert mnist_loss(model(inputs), targets).item() < 0.1 < before


def test_cross_entropy_against_probabilities_equals_torchs():
    preds, targets = torch.randn(7, 4), torch.rand(7, 4).softmax(1)
    torch.testing.assert_close(soft_cross_entropy(preds, targets), F.cross_entropy(preds, targets))
    labels = torch.randint(4, (7,))
    torch.testing.assert_close(soft_cross_entropy(preds, F.one_hot(labels, 4)), F.cross_entropy(preds, labels))
    assert torch.equal(soft_cross_entropy(preds, targets), soft_cross_entropy(preds, targets))


def test_cross_entropy_is_least_where_the_prediction_is_the_target():
    targets = torch.rand(5, 3).softmax(1)
    best = soft_cross_entropy(targets.log(), targets)
    assert all(soft_cross_entropy(torch.randn(5, 3), targets) > best for _ in range(20))
    torch.testing.assert_close(soft_cross_entropy(targets.log() + 1e4, targets), best, atol=1e-2, rtol=0)


@pytest.mark.parametrize("loss_func", [F.cross_entropy, F.mse_loss, nn.MSELoss(), torch.dist, lambda p, t: p.mean()])
def test_without_weights_a_loss_is_a_mean_over_samples(loss_func):
    assert count_for(loss_func)(torch.zeros(7, 3)) == 7


WEIGHT = torch.tensor([0.25, 2.0, 1.0])
WEIGHTED = {
    "CrossEntropyLoss": nn.CrossEntropyLoss(WEIGHT),
    "partial of cross_entropy": functools.partial(F.cross_entropy, weight=WEIGHT),
    "smoothed": nn.CrossEntropyLoss(WEIGHT, label_smoothing=0.2),
    "subclass": type("Mine", (nn.CrossEntropyLoss,), {})(WEIGHT),
    "partial of an object": functools.partial(nn.CrossEntropyLoss(WEIGHT)),
    "NLLLoss": nn.NLLLoss(WEIGHT),
    "partial of nll_loss": functools.partial(F.nll_loss, weight=WEIGHT),
    "ignore_index": nn.CrossEntropyLoss(ignore_index=1),
    "ignore_index, weighted": nn.CrossEntropyLoss(WEIGHT, ignore_index=1),
    "partial, ignore_index": functools.partial(F.cross_entropy, ignore_index=1, weight=WEIGHT),
}


@pytest.mark.parametrize("loss_func", WEIGHTED.values(), ids=WEIGHTED)
@given(labels=st.lists(st.integers(0, 2), min_size=2, max_size=20), data=st.data())
def test_batches_joined_by_their_counts_give_the_loss_of_all_samples(loss_func, labels, data):
    targets = torch.tensor(labels)
    preds = torch.linspace(-2, 2, 3 * len(labels)).sin().view(-1, 3).log_softmax(1).double()
    weight = getattr(loss_func, "weight", None)
    if weight is not None:
        loss_func.double()
    elif isinstance(loss_func, functools.partial) and isinstance(loss_func.func, nn.Module):
        loss_func.func.double()
    elif "weight" in loss_func.keywords if isinstance(loss_func, functools.partial) else False:
        loss_func = functools.partial(loss_func.func, **{**loss_func.keywords, "weight": WEIGHT.double()})
    count = count_for(loss_func)
    cut = data.draw(st.integers(1, len(labels) - 1))
    parts = [(preds[:cut], targets[:cut]), (preds[cut:], targets[cut:])]
    counts = [float(count(t)) for _, t in parts]
    assert float(count(targets)) == pytest.approx(sum(counts))
    if 0 in counts:
        return  # a batch of ignored targets alone has no mean
    joined = sum(loss_func(p, t).item() * n for (p, t), n in zip(parts, counts, strict=True)) / sum(counts)
    assert joined == pytest.approx(loss_func(preds, targets).item(), rel=1e-9)


def test_targets_that_are_probabilities_count_as_samples_even_with_weights():
    assert count_for(nn.CrossEntropyLoss(WEIGHT))(torch.full((4, 3), 1 / 3)) == 4


def test_weights_of_other_losses_do_not_change_what_the_mean_is_over():
    assert count_for(nn.BCEWithLogitsLoss(pos_weight=torch.tensor([3.0])))(torch.zeros(5, 1)) == 5
    assert count_for(nn.BCELoss(torch.rand(5, 1))) is length


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_losses_that_are_no_means_are_refused(reduction):
    for loss_func in (nn.MSELoss(reduction=reduction), functools.partial(F.mse_loss, reduction=reduction)):
        with pytest.raises(ConfigError, match=f"a loss must be a mean over samples.*{reduction}"):
            count_for(loss_func)
    assert count_for(nn.KLDivLoss(reduction="batchmean"))(torch.zeros(3, 2)) == 3


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (torch.tensor([1, 2]), F.cross_entropy),
        (torch.tensor([1, 2], dtype=torch.uint8), F.cross_entropy),
        (torch.tensor([1.0]), F.mse_loss),
        (torch.tensor([1.0], dtype=torch.float64), F.mse_loss),
    ],
)
def test_the_loss_for_targets_of_a_type(targets, expected):
    assert default_loss(targets) is expected


@pytest.mark.parametrize("targets", [torch.tensor([True]), (torch.tensor([1]),), {"a": torch.tensor([1])}, "a"])
def test_for_other_targets_a_loss_must_be_given(targets):
    with pytest.raises(ConfigError, match=r"no loss is known for targets of type .*; give Learner a loss_func"):
        default_loss(targets)
