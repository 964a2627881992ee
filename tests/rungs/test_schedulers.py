"""Schedulers by hand against torch's: equal floats after every epoch, whatever the losses and options."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from clearloop.rungs import schedulers

EPOCHS = 40
RATES = st.floats(1e-6, 10.0)
GAMMAS = st.floats(0.01, 1.5)
LOSSES = st.lists(
    st.one_of(
        st.floats(0.0, 10.0),
        st.sampled_from([0.0, 1.0, 1.0 - 1e-4, 1.0 - 1e-3, 0.5, -1.0, math.inf, math.nan]),  # ties, and at the edge
    ),
    min_size=1,
    max_size=30,
)


def by_torch(name: str, lr: float, losses: list[float], **options: Any) -> list[float]:
    """The learning rate after each epoch."""
    opt = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    scheduler = getattr(lr_scheduler, name)(opt, **options)
    found = []
    for loss in losses:
        opt.step()
        scheduler.step(*([loss] if name == "ReduceLROnPlateau" else []))
        found.append(opt.param_groups[0]["lr"])
    return found


def by_hand(name: str, lr: float, losses: list[float], **options: Any) -> list[float]:
    scheduler = getattr(schedulers, name)(lr, **options)
    return [scheduler.step(loss) for loss in losses]


def check(name: str, lr: float, losses: list[float], **options: Any) -> None:
    assert by_hand(name, lr, losses, **options) == by_torch(name, lr, losses, **options)


@given(lr=RATES, gamma=GAMMAS, step_size=st.integers(1, 12))
def test_steps_are_those_of_torch(lr: float, gamma: float, step_size: int) -> None:
    check("StepLR", lr, [0.0] * EPOCHS, step_size=step_size, gamma=gamma)


@given(lr=RATES, gamma=GAMMAS, milestones=st.lists(st.integers(1, EPOCHS + 2), max_size=12))
@example(lr=0.1, gamma=0.3, milestones=[1, 1, 2, 5, 5, 5])
def test_milestones_are_those_of_torch_also_where_they_are_repeated(
    lr: float, gamma: float, milestones: list[int]
) -> None:
    check("MultiStepLR", lr, [0.0] * EPOCHS, milestones=milestones, gamma=gamma)


@given(lr=RATES, gamma=GAMMAS)
def test_exponential_decay_is_that_of_torch(lr: float, gamma: float) -> None:
    check("ExponentialLR", lr, [0.0] * EPOCHS, gamma=gamma)


@given(
    lr=RATES,
    losses=LOSSES,
    options=st.fixed_dictionaries(
        {},
        optional={
            "factor": st.floats(0.01, 0.99),
            "patience": st.integers(0, 4),
            "threshold": st.sampled_from([0.0, 1e-4, 1e-3, 0.1, 0.5, 1.0]),
            "threshold_mode": st.sampled_from(["rel", "abs"]),
            "cooldown": st.integers(0, 4),
            "min_lr": st.sampled_from([0.0, 1e-4, 0.05, 0.5]),
            "eps": st.sampled_from([0.0, 1e-8, 1e-3, 0.1]),
        },
    ),
)
@example(lr=1.0, losses=[1.0] * 12, options={"patience": 0, "cooldown": 2})
@example(lr=1.0, losses=[3.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0], options={"patience": 1, "min_lr": 0.05})
@example(lr=0.11, losses=[1.0] * 8, options={"patience": 0, "min_lr": 0.1, "eps": 0.05})
@example(lr=1.0, losses=[math.nan] * 14, options={"patience": 2})
def test_reductions_on_a_plateau_are_those_of_torch(lr: float, losses: list[float], options: dict[str, Any]) -> None:
    check("ReduceLROnPlateau", lr, losses, **options)


@pytest.mark.parametrize("patience", [0, 1, 3])
def test_a_plateau_is_left_after_more_than_its_patience(patience: int) -> None:
    rates = by_hand("ReduceLROnPlateau", 1.0, [1.0] * 9, patience=patience, factor=0.5)
    assert rates.index(0.5) == patience + 1  # the first epoch is the best so far


def test_a_loss_that_keeps_falling_reduces_nothing_and_one_that_stands_still_reduces_to_the_least() -> None:
    falling = [1 / (epoch + 1) for epoch in range(EPOCHS)]
    assert by_hand("ReduceLROnPlateau", 0.1, falling, patience=0) == [0.1] * EPOCHS
    still = by_hand("ReduceLROnPlateau", 0.1, [1.0] * EPOCHS, patience=0, factor=0.5, min_lr=1e-3)
    assert still[-1] == 1e-3
    assert still == sorted(still, reverse=True)


def test_a_scheduler_begins_anew_for_every_run() -> None:
    for name, options in (
        ("StepLR", {"step_size": 3}),
        ("MultiStepLR", {"milestones": [2, 4]}),
        ("ExponentialLR", {"gamma": 0.9}),
        ("ReduceLROnPlateau", {"patience": 1}),
    ):
        first = by_hand(name, 0.1, [1.0] * 10, **options)
        assert by_hand(name, 0.1, [1.0] * 10, **options) == first
        assert first[-1] < first[0] <= 0.1


def test_the_milestones_given_are_not_the_scheduler_s_own() -> None:
    milestones = [1, 2]
    scheduler = schedulers.MultiStepLR(1.0, milestones, gamma=0.5)
    milestones.clear()
    assert [scheduler.step() for _ in range(3)] == [0.5, 0.25, 0.25]
