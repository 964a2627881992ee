"""The learning-rate range test: tries what it says, suggests what can be trained with, leaves no trace."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from clearloop import ConfigError, DataLoader, Learner, TensorDataset
from clearloop.lr_find import LOST, SMOOTHING, lr_find, steepest
from clearloop.tree import leaves


def data() -> TensorDataset:
    generator = torch.Generator().manual_seed(2)
    labels = torch.randint(3, (90,), generator=generator)
    return TensorDataset(torch.randn(90, 4, generator=generator) + 2 * labels[:, None], labels)


def net(dropout: float = 0.2) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(dropout), nn.Linear(8, 3))


def learner(model: nn.Module | None = None, opt_func: Any = torch.optim.Adam, **options: Any) -> Learner:
    dls = (DataLoader(data(), 16, shuffle=True, seed=4), DataLoader(data(), 90))
    return Learner(dls, model or net(), F.cross_entropy, opt_func, seed=0, device="cpu", **options)


def trace(learn: Learner) -> list[Any]:
    state = learn.state_dict()
    plain = [leaf.tolist() if hasattr(leaf, "tolist") else leaf for leaf in leaves(state)]
    modes = [module.training for module in learn.model.modules()]
    return [plain, modes, learn.history.losses, torch.get_rng_state().tolist(), learn.epoch, learn.step]


@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize("opt_func", [torch.optim.Adam, functools.partial(torch.optim.SGD, momentum=0.9)])
def test_weights_optimizer_random_states_and_modes_are_as_before(opt_func, fitted):
    learn = learner(opt_func=opt_func)
    if fitted:
        learn.fit(1, 0.01, quiet=True)
    learn.model.eval()
    before = trace(learn)
    learn.lr_find(steps=20)
    assert trace(learn) == before
    assert all(parameter.grad is None for parameter in learn.model.parameters())


def test_a_fit_after_the_test_is_the_one_without_it():
    tested, plain = learner(), learner()
    tested.lr_find(steps=20)
    for learn in (tested, plain):
        learn.fit(2, 0.01, quiet=True)
    assert tested.history.losses == plain.history.losses


def test_the_losses_are_those_of_training_with_the_growing_rate():
    found = learner(net(0.0), torch.optim.SGD).lr_find(1e-3, 1.0, steps=12)
    model = net(0.0)
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(data(), 16, shuffle=True, seed=4)
    batches = itertools.chain.from_iterable(loader.batches(epoch) for epoch in range(9))
    mean, smoothed = 0.0, []
    for step, (inputs, targets) in zip(range(12), batches, strict=False):
        opt.param_groups[0]["lr"] = 1e-3 * 1000 ** (step / 11)
        loss = F.cross_entropy(model(inputs), targets)
        loss.backward()
        opt.step()
        opt.zero_grad()
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss.item()
        smoothed.append(mean / (1 - SMOOTHING ** (step + 1)))
    assert found.losses == pytest.approx(smoothed, rel=1e-12)
    assert found.lrs == pytest.approx([1e-3 * 1000 ** (step / 11) for step in range(12)])


def test_the_rates_grow_by_a_constant_factor_between_the_bounds():
    found = learner().lr_find(1e-5, 1e-2, steps=31)
    assert found.lrs[0] == pytest.approx(1e-5)
    assert found.lrs[-1] == pytest.approx(1e-2)
    ratios = [after / before for before, after in itertools.pairwise(found.lrs)]
    assert ratios == pytest.approx([10 ** (3 / 30)] * 30)


def test_the_test_ends_where_the_loss_is_lost():
    learn = learner(opt_func=torch.optim.SGD)
    found = learn.lr_find(1e-3, 1e6, steps=60)
    assert len(found.lrs) == len(found.losses) < 60
    assert all(math.isfinite(loss) for loss in found.losses)
    assert max(found.losses[:-1]) <= LOST * min(found.losses)


def test_a_loss_that_is_lost_at_once_still_gives_an_answer():
    learn = learner(loss := net(0.0))
    learn.loss_func = lambda preds, targets: preds.mean() * math.nan
    found = learn.lr_find(1e-3, 1.0, steps=10)
    assert found.losses == []
    assert found.suggestion == 1e-3
    assert loss.training


def test_one_can_train_with_what_is_suggested():
    learn = learner()
    found = learn.lr_find()
    assert 1e-6 < found.suggestion < 10
    before = learn.validate()[0]
    learn.fit(5, found.suggestion, quiet=True)
    assert learn.validate()[0] < 0.7 * before


def test_the_same_learner_finds_the_same():
    first, second = (learner().lr_find(steps=20) for _ in range(2))
    assert first == second


@given(low=st.floats(-3, 1), slope=st.floats(0.5, 5))
def test_the_steepest_place_of_a_smooth_step_is_its_middle(low, slope):
    lrs = [10 ** (-5 + step / 10) for step in range(60)]
    losses = [2.3 - 1 / (1 + math.exp(-slope * 4 * (math.log10(lr) - low))) for lr in lrs]
    suggested = steepest(lrs, losses)
    if low < 0.5:  # the middle is inside
        assert abs(math.log10(suggested) - low) < 0.5
    assert suggested in lrs


@pytest.mark.parametrize("losses", [[], [1.0]])
def test_too_few_losses_give_the_smallest_rate(losses):
    assert steepest([1e-4, 1e-3], losses) == 1e-4


@pytest.mark.parametrize("arguments", [(0.0, 1.0, 20), (-1.0, 1.0, 20), (1.0, 1.0, 20), (1.0, 0.1, 20), (0.1, 1.0, 9)])
def test_bounds_that_are_none_are_refused(arguments):
    with pytest.raises(ConfigError, match="needs 0 < lr_min < lr_max and at least 10 steps"):
        lr_find(learner(), *arguments)


def test_a_failure_in_the_middle_gives_everything_back():
    learn = learner()
    before = trace(learn)
    calls = []

    def failing(preds, targets):
        calls.append(1)
        if len(calls) > 5:
            raise ZeroDivisionError
        return F.cross_entropy(preds, targets)

    learn.prepared().loss_func = failing
    with pytest.raises(ZeroDivisionError):
        learn.lr_find(steps=20)
    assert trace(learn) == before
