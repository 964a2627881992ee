"""A batch worked on in parts: its loss and its gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clearloop.rungs.layers import Layers, Linear
from clearloop.rungs.parts import backward_in_parts
from clearloop.rungs.updates import sgd


def model(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)


def batch(size: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(size)
    return torch.randn(size, 6, generator=generator).to(dtype), torch.randint(3, (size,), generator=generator)


def whole(size: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, list[Tensor]]:
    net = model(dtype)
    inputs, targets = batch(size, dtype)
    loss = F.cross_entropy(net(inputs), targets)
    loss.backward()
    return loss.detach(), [parameter.grad for parameter in net.parameters()]


def in_parts(size: int, part_size: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, list[Tensor]]:
    net = model(dtype)
    loss = backward_in_parts(net, F.cross_entropy, *batch(size, dtype), part_size)
    return loss, [parameter.grad for parameter in net.parameters()]


@pytest.mark.parametrize("part_size", [1, 3, 5, 10, 11, 64])
@pytest.mark.parametrize("size", [1, 2, 10, 31])
def test_parts_have_together_the_loss_and_gradients_of_the_whole(size: int, part_size: int) -> None:
    (expected_loss, expected), (loss, grads) = whole(size), in_parts(size, part_size)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-13, atol=1e-14)
    for mine, other in zip(grads, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 10])
def test_one_part_is_the_whole_to_the_bit(size: int, dtype: torch.dtype) -> None:
    (expected_loss, expected), (loss, grads) = whole(size, dtype), in_parts(size, 10, dtype)
    assert torch.equal(loss, expected_loss)
    assert all(torch.equal(mine, other) for mine, other in zip(grads, expected, strict=True))
    assert not loss.requires_grad


def test_parts_have_the_bits_of_batches_of_their_own() -> None:
    net, x = nn.Linear(6, 4), torch.randn(36, 6)
    found: list[Tensor] = []

    def watched(inputs: Tensor) -> Tensor:
        found.append(net(inputs))
        return found[-1]

    backward_in_parts(watched, F.cross_entropy, x, torch.zeros(36, dtype=torch.long), 9)
    assert all(torch.equal(mine, net(part.clone())) for mine, part in zip(found, x.split(9), strict=True))


def test_the_same_parts_have_the_same_bits() -> None:
    (loss, grads), (again, same) = in_parts(31, 7, torch.float32), in_parts(31, 7, torch.float32)
    assert torch.equal(loss, again)
    assert all(torch.equal(mine, other) for mine, other in zip(grads, same, strict=True))


def test_every_sample_weighs_the_same_also_in_a_small_last_part() -> None:
    doubled = Layers({"": Linear(1, 1)})
    weight, bias = doubled.parameters()
    with torch.no_grad():
        weight.zero_(), bias.zero_()
    targets = torch.tensor([[1.0], [1.0], [1.0], [1.0], [10.0]])
    loss = backward_in_parts(doubled, F.l1_loss, torch.ones(5, 1), targets, 4)
    assert loss.item() == pytest.approx(14 / 5)
    assert bias.grad.item() == pytest.approx(-1.0)


def test_no_part_is_larger_than_was_asked_for() -> None:
    sizes = []

    def watched(inputs: Tensor) -> Tensor:
        sizes.append(len(inputs))
        return inputs @ weights

    weights = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    backward_in_parts(watched, F.cross_entropy, *batch(10), 4)
    assert sizes == [4, 4, 2]


def test_descent_in_parts_reaches_the_minimum() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(50, 3), torch.tensor([[1.0], [-2.0], [3.0]])
    found = torch.zeros(3, 1, requires_grad=True)
    for _ in range(200):
        backward_in_parts(lambda part: part @ found, F.mse_loss, x, x @ weight, 8)
        with torch.no_grad():
            sgd(found, 0.1)
        found.grad = None
    torch.testing.assert_close(found.detach(), weight, rtol=1e-4, atol=1e-4)
