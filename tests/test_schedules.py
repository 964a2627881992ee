"""Schedules: pure functions with the shape they promise, and torch's schedulers stepped when they should be."""

from __future__ import annotations

import functools
import itertools
import json
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD, Adam, lr_scheduler

from clearloop import ConfigError, DataLoader, Learner, TensorDataset, TorchSchedule, constant, cosine, one_cycle
from clearloop.adapters import as_schedule
from clearloop.component import describe

lrs = st.floats(1e-6, 10)
steps = st.integers(1, 300)


def optimizer(lr: float = 0.1, kind: Any = SGD) -> torch.optim.Optimizer:
    return kind([nn.Parameter(torch.zeros(1))], lr=lr)


def torchs(make: Any, total_steps: int, lr: float = 0.1) -> list[float]:
    """The learning rates that a scheduler of torch gives to each step."""
    opt = optimizer(lr)
    scheduler = make(opt)
    found = []
    for _ in range(total_steps):
        found.append(opt.param_groups[0]["lr"])
        opt.step()
        scheduler.step()
    return found


# -- pure functions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("total_steps", [12, 101, 1000])
@pytest.mark.parametrize("warmup", [0.1, 0.25, 0.3, 0.5])
def test_one_cycle_equals_torchs_with_the_same_peak(total_steps, warmup):
    peak = (warmup * total_steps + 1) / total_steps  # torch counts the steps before the peak less one
    theirs = torchs(
        lambda opt: lr_scheduler.OneCycleLR(
            opt, 0.4, total_steps, pct_start=peak, div_factor=20, final_div_factor=1e3, cycle_momentum=False
        ),
        total_steps - 1,  # it refuses to be stepped after its last learning rate
    )
    schedule = one_cycle(0.4, total_steps, warmup, div=20, div_final=2e4)
    assert [schedule(step) for step in range(total_steps - 1)] == pytest.approx(theirs, rel=1e-9)
    assert schedule(total_steps - 1) == pytest.approx(0.4 / 2e4, rel=1e-9)


@given(
    lr_max=lrs,
    total_steps=st.integers(4, 500),
    warmup=st.floats(0, 0.7),
    div=st.floats(2, 100),
    final=st.floats(2, 1e6),
)
def test_one_cycle_rises_to_its_peak_and_falls_to_its_end(lr_max, total_steps, warmup, div, final):
    schedule = one_cycle(lr_max, total_steps, warmup, div, final)
    values = [schedule(step) for step in range(total_steps)]
    assert values == [one_cycle(lr_max, total_steps, warmup, div, final)(step) for step in range(total_steps)]
    assert values[0] == pytest.approx(lr_max / div)
    assert values[-1] == pytest.approx(lr_max / final)
    assert all(min(lr_max / div, lr_max / final) * (1 - 1e-9) <= value <= lr_max * (1 + 1e-9) for value in values)
    peak = max(range(total_steps), key=values.__getitem__)
    assert values[: peak + 1] == sorted(values[: peak + 1])
    assert values[peak:] == sorted(values[peak:], reverse=True)
    assert abs(peak - max(1.0, warmup * total_steps)) <= 1
    assert schedule(total_steps + 100) == pytest.approx(lr_max / final)


@given(lr_max=lrs, total_steps=steps)
def test_one_cycle_is_defined_for_any_number_of_steps(lr_max, total_steps):
    schedule = one_cycle(lr_max, total_steps)
    assert all(0 < schedule(step) <= lr_max * (1 + 1e-9) for step in range(total_steps))


@pytest.mark.parametrize("lr_min", [0.0, 0.01])
@pytest.mark.parametrize("total_steps", [2, 11, 200])
def test_cosine_equals_torchs_annealing(total_steps, lr_min):
    schedule = cosine(0.3, total_steps, lr_min=lr_min)
    theirs = torchs(
        lambda opt: lr_scheduler.CosineAnnealingLR(opt, total_steps - 1, eta_min=lr_min), total_steps, lr=0.3
    )
    assert [schedule(step) for step in range(total_steps)] == pytest.approx(theirs, rel=1e-6, abs=1e-12)


def test_the_warm_up_of_cosine_equals_torchs_linear_one():
    schedule = cosine(0.3, 50, warmup_steps=5)
    theirs = torchs(lambda opt: lr_scheduler.LinearLR(opt, 1 / 5, 1.0, total_iters=4), 5, lr=0.3)
    assert [schedule(step) for step in range(5)] == pytest.approx(theirs)


@given(lr_max=lrs, total_steps=steps, warmup_steps=st.integers(0, 300), share=st.floats(0, 1))
def test_cosine_rises_straight_then_falls_to_its_least(lr_max, total_steps, warmup_steps, share):
    assume(warmup_steps < total_steps)
    lr_min = share * lr_max
    schedule = cosine(lr_max, total_steps, warmup_steps, lr_min)
    rise, fall = ([schedule(step) for step in part] for part in (range(warmup_steps), range(warmup_steps, total_steps)))
    assert rise == pytest.approx([lr_max * (step + 1) / warmup_steps for step in range(warmup_steps)])
    assert fall[0] == pytest.approx(lr_max)
    assert all(after <= before * (1 + 1e-12) for before, after in itertools.pairwise(fall))
    if len(fall) > 1:
        assert fall[-1] == pytest.approx(lr_min, abs=1e-12)
        middle = len(fall) // 2
        assert fall[middle] + fall[-1 - middle] == pytest.approx(lr_max + lr_min)  # a cosine is symmetric
    assert schedule(total_steps + 7) == pytest.approx(lr_min if len(fall) > 1 else schedule(total_steps))


@given(lr=lrs, step=st.integers(0, 10**9))
def test_a_constant_schedule_is_constant(lr, step):
    assert constant(lr)(step) == lr


@pytest.mark.parametrize("schedule", [constant(0.1), one_cycle(0.1, 10), cosine(0.1, total_steps=10, warmup_steps=2)])
def test_a_schedule_remembers_how_it_was_made(schedule):
    described = json.loads(json.dumps(describe(schedule)))
    assert described["path"].startswith("clearloop.schedules:")
    made = {"constant": constant, "one_cycle": one_cycle, "cosine": cosine}[described["path"].split(":")[1]]
    again = made(*described["args"], **described.get("kwargs", {}))
    assert [again(step) for step in range(10)] == [schedule(step) for step in range(10)]


# -- torch's schedulers ------------------------------------------------------------------------------------------------

BATCHES, EPOCHS = 5, 4  # of 16, the last of 6
EVERY_STEP = {
    "OneCycleLR": functools.partial(lr_scheduler.OneCycleLR, max_lr=0.5, total_steps=BATCHES * EPOCHS + 1),
    "CyclicLR": functools.partial(lr_scheduler.CyclicLR, base_lr=0.01, max_lr=0.3, step_size_up=3),
    "CosineAnnealingWarmRestarts": functools.partial(lr_scheduler.CosineAnnealingWarmRestarts, T_0=3, T_mult=2),
}
EVERY_EPOCH = {
    "StepLR": functools.partial(lr_scheduler.StepLR, step_size=2, gamma=0.3),
    "MultiStepLR": functools.partial(lr_scheduler.MultiStepLR, milestones=[1, 3], gamma=0.5),
    "ExponentialLR": functools.partial(lr_scheduler.ExponentialLR, gamma=0.7),
    "CosineAnnealingLR": functools.partial(lr_scheduler.CosineAnnealingLR, T_max=3),
    "LinearLR": functools.partial(lr_scheduler.LinearLR, start_factor=0.1, total_iters=3),
    "ConstantLR": functools.partial(lr_scheduler.ConstantLR, factor=0.5, total_iters=2),
    "PolynomialLR": functools.partial(lr_scheduler.PolynomialLR, total_iters=5, power=2),
    "LambdaLR": functools.partial(lr_scheduler.LambdaLR, lr_lambda=lambda epoch: 1 / (1 + epoch)),
    "MultiplicativeLR": functools.partial(lr_scheduler.MultiplicativeLR, lr_lambda=lambda epoch: 0.9),
    "ReduceLROnPlateau": functools.partial(lr_scheduler.ReduceLROnPlateau, patience=0, threshold=0.5, factor=0.5),
}
SCHEDULERS = {name: (make, "step") for name, make in EVERY_STEP.items()} | {
    name: (make, "epoch") for name, make in EVERY_EPOCH.items()
}
momentum = functools.partial(SGD, momentum=0.9)


def data() -> TensorDataset:
    generator = torch.Generator().manual_seed(2)
    labels = torch.randint(3, (70,), generator=generator)
    return TensorDataset(torch.randn(70, 4, generator=generator) + labels[:, None], labels)


def model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(4, 3)


def by_hand(make: Any, per: str) -> tuple[list[float], nn.Module]:
    """The loop as torch's documentation writes it, and the learning rate of each step."""
    net = model()
    opt = momentum(net.parameters(), lr=0.1)
    scheduler = make(opt)
    loader = DataLoader(data(), 16, shuffle=True, seed=4)
    found = []
    for epoch in range(EPOCHS):
        for inputs, targets in loader.batches(epoch):
            found.append(opt.param_groups[0]["lr"])
            F.cross_entropy(net(inputs), targets).backward()
            opt.step()
            opt.zero_grad()
            if per == "step":
                scheduler.step()
        if per == "epoch":
            with torch.no_grad():
                valid_loss = F.cross_entropy(net(data().tensors[0]), data().tensors[1]).item()
            scheduler.step(valid_loss) if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) else scheduler.step()
    return found, net


def learner(valid: bool = True, **options: Any) -> Learner:
    dls = (DataLoader(data(), 16, shuffle=True, seed=4), DataLoader(data(), 70) if valid else None)
    return Learner(dls, model(), F.cross_entropy, momentum, seed=0, device="cpu", **options)


@pytest.mark.parametrize(("make", "per"), SCHEDULERS.values(), ids=SCHEDULERS)
def test_a_scheduler_of_torch_steps_when_it_would_in_the_loop_by_hand(make, per):
    rates, net = by_hand(make, per)
    learn = learner()
    learn.fit(EPOCHS, 0.1, schedule=make, quiet=True)
    assert learn.history.lrs == rates
    assert len(set(rates)) > 1
    assert torch.equal(learn.model.weight, net.weight)
    assert TorchSchedule(make).per == per
    assert learn.plan["per"] == per


@pytest.mark.parametrize("per", ["step", "epoch"])
def test_when_a_scheduler_steps_can_be_said(per):
    make = functools.partial(lr_scheduler.ExponentialLR, gamma=0.9)
    rates, _ = by_hand(make, per)
    learn = learner()
    learn.fit(EPOCHS, 0.1, schedule=TorchSchedule(make, per=per), quiet=True)
    assert learn.history.lrs == rates


def test_a_chain_of_schedulers_is_made_by_a_function():
    def make(opt: torch.optim.Optimizer) -> lr_scheduler.SequentialLR:
        parts = [lr_scheduler.ConstantLR(opt, 0.1, total_iters=2), lr_scheduler.ExponentialLR(opt, 0.5)]
        return lr_scheduler.SequentialLR(opt, parts, milestones=[2])

    rates, net = by_hand(make, "epoch")
    learn = learner()
    learn.fit(EPOCHS, 0.1, schedule=TorchSchedule(make), quiet=True)
    assert learn.history.lrs == rates
    assert torch.equal(learn.model.weight, net.weight)


def test_the_plateau_scheduler_looks_at_the_training_loss_where_there_is_no_validation():
    seen = []

    class Spy(lr_scheduler.ReduceLROnPlateau):
        def step(self, metrics, epoch=None):
            seen.append(metrics)
            super().step(metrics)

    with_valid, without = learner(), learner(valid=False)
    with_valid.fit(2, 0.1, schedule=Spy, quiet=True)
    assert seen == [record.valid_loss for record in with_valid.history.epochs]
    seen.clear()
    without.fit(2, 0.1, schedule=Spy, quiet=True)
    assert seen == [record.train_loss for record in without.history.epochs]


def test_a_second_fit_starts_a_scheduler_of_its_own():
    make = functools.partial(lr_scheduler.StepLR, step_size=1, gamma=0.5)
    learn = learner()
    learn.fit(2, 0.1, schedule=make, quiet=True)
    learn.fit(2, 0.4, schedule=make, quiet=True)
    learn.fit(1, 0.3, quiet=True)
    assert [record.lr for record in learn.history.epochs] == [0.1, 0.05, 0.4, 0.2, 0.3]


def test_a_scheduler_steps_once_for_each_window_of_accumulated_batches():
    learn = learner(accumulate=2)
    learn.fit(1, 0.1, schedule=functools.partial(lr_scheduler.CosineAnnealingWarmRestarts, T_0=10), quiet=True)
    assert learn.history.steps == 3
    assert learn.history.lrs == torchs(lambda opt: lr_scheduler.CosineAnnealingWarmRestarts(opt, 10), 3)


def test_the_learning_rate_of_every_step_is_that_of_the_schedule():
    schedule = one_cycle(0.3, BATCHES * 2)
    learn = learner()
    learn.fit(2, schedule=schedule, quiet=True)
    assert learn.history.lrs == [schedule(step) for step in range(BATCHES * 2)]
    assert [record.lr for record in learn.history.epochs] == [schedule(BATCHES - 1), schedule(2 * BATCHES - 1)]


def test_a_scheduler_takes_its_state_back_without_touching_the_optimizer():
    for make in (*EVERY_STEP.values(), *EVERY_EPOCH.values()):
        schedule = TorchSchedule(make)
        opt = optimizer(0.1, functools.partial(Adam, betas=(0.9, 0.99)) if "Cyc" in str(make) else momentum)
        scheduler = schedule.attach(opt)
        for _ in range(3):
            opt.step()
            schedule.after_epoch(scheduler, 1.0)
        state, groups = scheduler.state_dict(), [dict(group) for group in opt.param_groups]
        again = schedule.attach(opt, state)
        assert [dict(group) for group in opt.param_groups] == groups
        schedule.after_epoch(scheduler, 1.0)
        expected = opt.param_groups[0]["lr"]
        opt.param_groups[0].update(groups[0])
        schedule.after_epoch(again, 1.0)
        assert opt.param_groups[0]["lr"] == expected


def test_schedulers_are_given_as_classes_or_partials():
    assert isinstance(as_schedule(lr_scheduler.ExponentialLR), TorchSchedule)
    assert as_schedule(None) is None
    pure = constant(0.1)
    assert as_schedule(pure) is pure
    with pytest.raises(ConfigError, match=r"functools\.partial\(StepLR, …\), not as an instance"):
        as_schedule(lr_scheduler.StepLR(optimizer(), 3))
    for wrong in (0.1, "cosine", [0.1]):
        with pytest.raises(ConfigError, match="a schedule must be a function of the step or a torch scheduler class"):
            as_schedule(wrong)


def test_nothing_in_a_schedule_is_random_or_remembers():
    schedule = cosine(0.1, 20, warmup_steps=3)
    forwards = [schedule(step) for step in range(20)]
    assert [schedule(step) for step in reversed(range(20))] == forwards[::-1]
    assert all(math.isfinite(value) for value in forwards)
