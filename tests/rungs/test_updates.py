"""Update rules by hand against torch's optimizers, to the bit; repeatable; convergent; and a property of each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clearloop.rungs import updates

SHAPES = [(20, 30), (20,), (3, 20), (3,), (), (1,)]
STEPS = 60
RULES: dict[str, tuple[Callable[[], updates.Update], Callable[..., Any]]] = {
    "sgd": (lambda: updates.sgd, torch.optim.SGD),
    "momentum": (updates.momentum, partial(torch.optim.SGD, momentum=0.9)),
    "little momentum": (lambda: updates.momentum(0.5), partial(torch.optim.SGD, momentum=0.5)),
    "nesterov": (
        lambda: updates.momentum(0.8, nesterov=True),
        partial(torch.optim.SGD, momentum=0.8, nesterov=True),
    ),
    "adam": (updates.adam, torch.optim.Adam),
    "adam with options": (
        lambda: updates.adam((0.8, 0.95), eps=1e-5),
        partial(torch.optim.Adam, betas=(0.8, 0.95), eps=1e-5),
    ),
    "adam without memory": (lambda: updates.adam((0.0, 0.0)), partial(torch.optim.Adam, betas=(0.0, 0.0))),
    "adamw": (updates.adamw, torch.optim.AdamW),
    "adamw with options": (
        lambda: updates.adamw((0.7, 0.9), 1e-4, 0.3),
        partial(torch.optim.AdamW, betas=(0.7, 0.9), eps=1e-4, weight_decay=0.3),
    ),
    "sgd with decay": (
        lambda: updates.with_weight_decay(updates.sgd, 0.1),
        partial(torch.optim.SGD, weight_decay=0.1),
    ),
    "nesterov with decay": (
        lambda: updates.with_weight_decay(updates.momentum(0.6, nesterov=True), 0.05),
        partial(torch.optim.SGD, momentum=0.6, nesterov=True, weight_decay=0.05),
    ),
    "adam with decay": (
        lambda: updates.with_weight_decay(updates.adam(), 0.1),
        partial(torch.optim.Adam, weight_decay=0.1),
    ),
}


def weights() -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(shape).requires_grad_() for shape in SHAPES]


def learning_rate(step: int) -> float:
    """One that changes at every step, and is once 0."""
    return 0.07 * 0.98**step if step != 31 else 0.0


def give_gradients(parameters: list[Tensor], step: int, gaps: bool, scale: float) -> None:
    """The gradients of a step; with gaps, each parameter has none in some, and some have none at first."""
    generator = torch.Generator().manual_seed(step)
    for number, parameter in enumerate(parameters):
        grad = scale * torch.randn(parameter.shape, generator=generator)
        missing = gaps and (step % (number + 2) == 0 or step < 3 * number)
        parameter.grad = None if missing else grad


def moved_by(rule: updates.Update, gaps: bool = False, scale: float = 1.0) -> list[Tensor]:
    parameters = weights()
    for step in range(STEPS):
        give_gradients(parameters, step, gaps, scale)
        with torch.no_grad():
            for parameter in parameters:
                if parameter.grad is not None:
                    rule(parameter, learning_rate(step))
    return [parameter.detach() for parameter in parameters]


def moved_by_torch(make: Callable[..., Any], gaps: bool = False, scale: float = 1.0) -> list[Tensor]:
    parameters = weights()
    opt = make(parameters, lr=0.1)
    for step in range(STEPS):
        give_gradients(parameters, step, gaps, scale)
        opt.param_groups[0]["lr"] = learning_rate(step)
        opt.step()
    return [parameter.detach() for parameter in parameters]


def same_bits(mine: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a.view(torch.int32), b.view(torch.int32)) for a, b in zip(mine, other, strict=True))


@pytest.mark.parametrize("scale", [1.0, 0.0, 1e-25, 1e25], ids=["usual", "zero", "tiny", "huge"])
@pytest.mark.parametrize("gaps", [False, True], ids=["whole", "gaps"])
@pytest.mark.parametrize("name", RULES)
def test_sixty_steps_at_changing_rates_end_in_the_bits_of_torch(name: str, gaps: bool, scale: float) -> None:
    ours, theirs = RULES[name]
    assert same_bits(moved_by(ours(), gaps, scale), moved_by_torch(theirs, gaps, scale))


@pytest.mark.parametrize("name", RULES)
def test_the_same_steps_again_end_in_the_same_bits(name: str) -> None:
    ours, _ = RULES[name]
    first = moved_by(ours(), gaps=True)
    assert same_bits(first, moved_by(ours(), gaps=True))
    assert not same_bits(first, moved_by(ours(), gaps=False))


@pytest.mark.parametrize("name", [name for name in RULES if "decay" not in name and "memory" not in name])
def test_a_bowl_is_descended_to_its_bottom(name: str) -> None:
    rule, point = RULES[name][0](), torch.tensor([3.0, -4.0], requires_grad=True)
    for step in range(1200):
        point.grad = 2 * point.detach()
        with torch.no_grad():
            rule(point, 0.1 * 0.996**step)
    assert point.abs().max() < 1e-3


def one_step(rule: updates.Update, start: Tensor, grad: Tensor, lr: float) -> Tensor:
    """How far a step goes."""
    point = start.clone().requires_grad_()
    point.grad = grad.clone()
    with torch.no_grad():
        rule(point, lr)
    return point.detach() - start


def test_a_step_of_sgd_is_proportional_to_rate_and_gradient() -> None:
    zero, grad = torch.zeros(3), torch.tensor([1.0, -2.0, 0.5])
    step = one_step(updates.sgd, zero, grad, 0.25)
    assert torch.equal(step, -0.25 * grad)
    assert torch.equal(one_step(updates.sgd, zero, grad, 0.5), 2 * step)
    assert torch.equal(one_step(updates.sgd, zero, 4 * grad, 0.25), 4 * step)


def test_momentum_under_a_steady_gradient_goes_ten_times_as_far() -> None:
    rule, point = updates.momentum(0.9), torch.zeros(1, dtype=torch.float64, requires_grad=True)
    for _ in range(300):
        before = point.detach().clone()
        point.grad = torch.ones_like(point)
        with torch.no_grad():
            rule(point, 0.01)
    assert (point.detach() - before).item() == pytest.approx(-0.01 / (1 - 0.9), rel=1e-9)


def test_the_first_step_of_adam_has_the_length_of_the_rate_whatever_the_gradient() -> None:
    zero, grad = torch.zeros(3), torch.tensor([1.0, -2e-3, 5e4])
    torch.testing.assert_close(one_step(updates.adam(), zero, grad, 0.01), -0.01 * grad.sign(), rtol=1e-4, atol=0)
    scaled = one_step(updates.adam(eps=0.0), zero, 8 * grad, 0.01)
    assert torch.equal(one_step(updates.adam(eps=0.0), zero, grad, 0.01), scaled)


def test_decay_alone_shrinks_all_weights_by_one_factor() -> None:
    start, nothing = torch.tensor([2.0, -4.0]), torch.zeros(2)
    for rule in (updates.adamw(weight_decay=0.5), updates.with_weight_decay(updates.sgd, 0.5)):
        torch.testing.assert_close(one_step(rule, start, nothing, 0.1), -0.05 * start)


def test_rules_that_look_back_share_nothing_with_each_other() -> None:
    for make in (updates.momentum, updates.adam, updates.adamw):
        used = make()
        for _ in range(5):
            one_step(used, torch.zeros(2), torch.ones(2), 0.1)
        step = one_step(make(), torch.zeros(2), torch.tensor([0.5, 1.0]), 0.1)
        assert torch.equal(step, one_step(used, torch.zeros(2), torch.tensor([0.5, 1.0]), 0.1))  # of a new parameter


def test_a_parameter_without_a_gradient_is_refused() -> None:
    with pytest.raises(AssertionError, match=r"call backward\(\) first"):
        updates.sgd(torch.zeros(2), 0.1)


# -- clipping ----------------------------------------------------------------------------------------------------------


def with_gradients(grads: list[Tensor | None]) -> list[Tensor]:
    parameters = [torch.zeros(3 if grad is None else grad.shape, requires_grad=True) for grad in grads]
    for parameter, grad in zip(parameters, grads, strict=True):
        parameter.grad = None if grad is None else grad.clone()
    return parameters


def some(scale: float = 1.0) -> list[Tensor | None]:
    generator = torch.Generator().manual_seed(2)
    return [scale * torch.randn(shape, generator=generator) for shape in SHAPES]


GRADIENTS: dict[str, list[Tensor | None]] = {
    "several": some(),
    "some missing": [None, *some(), None],
    "a single tensor": [torch.randn(50, generator=torch.Generator().manual_seed(3))],
    "a single number": [torch.tensor(-7.0)],
    "norm five": [torch.tensor([3.0]), torch.tensor([4.0])],
    "all zero": [torch.zeros(4), torch.zeros(2, 2)],
    "huge": some(1e18),
    "overflowing": some(1e38),
    "tiny": some(1e-30),
    "not a number": [torch.tensor([torch.nan, 1.0]), torch.ones(2)],
    "infinite": [torch.tensor([torch.inf, 1.0]), torch.ones(2)],
}


@pytest.mark.parametrize("largest", [5.0, 0.3, 1e-6, 1e6, 4.999999])
@pytest.mark.parametrize("name", GRADIENTS)
def test_clipped_gradients_are_those_of_torch_to_the_bit(name: str, largest: float) -> None:
    ours, theirs = with_gradients(GRADIENTS[name]), with_gradients(GRADIENTS[name])
    updates.clip_gradients(ours, largest)
    nn.utils.clip_grad_norm_(theirs, largest)
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine.grad is None) == (other.grad is None)
        if mine.grad is not None:
            assert torch.equal(mine.grad.view(torch.int32), other.grad.view(torch.int32))


def test_clipping_shortens_to_the_largest_norm_keeps_the_direction_and_leaves_short_ones_alone() -> None:
    long, short = with_gradients(GRADIENTS["norm five"]), with_gradients(GRADIENTS["norm five"])
    updates.clip_gradients(iter(long), 0.5)  # a model gives its parameters once
    grads = torch.cat([parameter.grad for parameter in long])
    torch.testing.assert_close(grads, torch.tensor([0.3, 0.4]), rtol=1e-5, atol=0)
    updates.clip_gradients(short, 5.1)
    assert [parameter.grad.item() for parameter in short] == [3.0, 4.0]
