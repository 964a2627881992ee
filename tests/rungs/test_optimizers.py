"""The optimizers by hand against torch's, to the bit, again and again; convergence; a property."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from clearloop.rungs import optimizers, updates
from clearloop.step import set_lr

PAIRS: list[tuple[Callable[[Any], Any], Callable[[Any], Any]]] = [
    (lambda p: optimizers.SGD(p, 0.1), lambda p: torch.optim.SGD(p, 0.1)),
    (lambda p: optimizers.Momentum(p, 0.07), lambda p: torch.optim.SGD(p, 0.07, momentum=0.9)),
    (lambda p: optimizers.Momentum(p, 0.07, 0.5), lambda p: torch.optim.SGD(p, 0.07, momentum=0.5)),
    (lambda p: optimizers.Adam(p, 3e-3), lambda p: torch.optim.Adam(p, 3e-3)),
    (lambda p: optimizers.Adam(p, 1e-2, (0.8, 0.9), 1e-6), lambda p: torch.optim.Adam(p, 1e-2, (0.8, 0.9), 1e-6)),
    (lambda p: optimizers.AdamW(p, 3e-3), lambda p: torch.optim.AdamW(p, 3e-3)),
    (lambda p: optimizers.AdamW(p, 1e-2, 0.3), lambda p: torch.optim.AdamW(p, 1e-2, weight_decay=0.3)),
    (lambda p: optimizers.Optimizer(p, 0.1, updates.sgd), lambda p: torch.optim.SGD(p, 0.1)),
]


def trained(make: Callable[[Any], Any], steps: int = 60) -> list[torch.Tensor]:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 3))
    opt = make(model.parameters())
    for step in range(steps):
        opt.param_groups[0]["lr"] *= 0.99  # a schedule sets it where it sets torch's
        model(torch.randn(16, 30)).pow(2).mean().backward()
        if step % 7 == 0:
            model[2].bias.grad = None  # a parameter that took no part in the loss is left alone
        opt.step()
        opt.zero_grad()
    return [parameter.detach() for parameter in model.parameters()]


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_sixty_steps_with_gaps_end_in_the_bits_of_torch(ours: Any, theirs: Any) -> None:
    first = trained(ours)
    for others in (trained(theirs), trained(ours)):
        assert all(torch.equal(mine, other) for mine, other in zip(first, others, strict=True))


@pytest.mark.parametrize("make", [pair[0] for pair in PAIRS])
def test_a_bowl_is_descended_to_its_bottom(make: Callable[[Any], Any]) -> None:
    point = torch.tensor([3.0, -4.0], requires_grad=True)
    opt = make([point])
    for step in range(1500):
        opt.param_groups[0]["lr"] = 0.1 * 0.996**step
        point.square().sum().backward()
        opt.step()
        opt.zero_grad()
    assert point.abs().max() < 1e-3


def test_the_step_of_sgd_is_proportional_to_the_learning_rate() -> None:
    moves = []
    for lr in (0.25, 0.5):
        point = torch.tensor([1.0, 2.0], requires_grad=True)
        point.square().sum().backward()
        optimizers.SGD([point], lr).step()
        moves.append(point.detach() - torch.tensor([1.0, 2.0]))
    assert torch.equal(2 * moves[0], moves[1])


def test_a_schedule_of_torch_s_kind_sets_the_rate_of_ours() -> None:
    point = torch.tensor([1.0], requires_grad=True)
    opt = optimizers.SGD([point], 0.5)
    set_lr(opt, 0.125)
    point.sum().backward()
    opt.step()
    assert point.item() == 0.875


def test_steps_record_no_graph_and_change_parameters_in_place() -> None:
    for make, _ in PAIRS:
        point = torch.ones(2, requires_grad=True)
        place = point.data_ptr()
        opt = make(iter([point]))  # a model gives its parameters once
        for _ in range(2):
            point.sum().backward()
            opt.step()
            opt.zero_grad()
        assert (point.is_leaf, point.requires_grad, point.data_ptr()) == (True, True, place)
        assert not torch.equal(point.detach(), torch.ones(2))


def test_zero_grad_forgets() -> None:
    point = torch.ones(1, requires_grad=True)
    opt = optimizers.SGD([point], 0.1)
    point.sum().backward()
    opt.zero_grad()
    assert point.grad is None
