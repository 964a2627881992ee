"""Layers by hand against torch's, to the bit: first weights, values, gradients, draws; and what each has to keep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clearloop.rungs import layers
from clearloop.rungs.updates import sgd

PAIRS: dict[str, tuple[Callable[[], layers.Layer], Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: layers.Linear(7, 5), lambda: nn.Linear(7, 5), (7,)),
    "a wide linear": (lambda: layers.Linear(784, 50), lambda: nn.Linear(784, 50), (784,)),
    "one weight": (lambda: layers.Linear(1, 1), lambda: nn.Linear(1, 1), (1,)),
    "relu": (layers.ReLU, nn.ReLU, (4, 3)),
    "tanh": (layers.Tanh, nn.Tanh, (12,)),
    "sigmoid": (layers.Sigmoid, nn.Sigmoid, (12,)),
    "flatten": (layers.Flatten, nn.Flatten, (2, 3, 4)),
    "flatten of rows": (layers.Flatten, nn.Flatten, (5,)),
    "dropout": (lambda: layers.Dropout(0.3), lambda: nn.Dropout(0.3), (2, 40)),
    "much dropout": (lambda: layers.Dropout(0.9), lambda: nn.Dropout(0.9), (100,)),
}


def run(make: Callable[[], Any], shape: tuple[int, ...], scale: float = 1.0) -> list[Tensor]:
    """All that a layer does from one seed: outputs, gradients of inputs and weights, and the next random number."""
    torch.manual_seed(11)
    layer = make()
    inputs = (scale * torch.randn(shape)).requires_grad_()
    output = layer(inputs)
    output.backward(torch.randn(output.shape))
    grads = [parameter.grad for parameter in layer.parameters()]
    return [output.detach(), inputs.grad, *layer.parameters(), *grads, torch.rand(3)]


def same_bits(mine: list[Tensor], other: list[Tensor]) -> bool:
    """Whether all tensors agree, the sign of a zero and the place of a NaN included."""
    return all(
        a.shape == b.shape and torch.equal(a.contiguous().view(torch.int32), b.contiguous().view(torch.int32))
        for a, b in zip(mine, other, strict=True)
    )


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("batch_size", [1, 33])
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_outputs_gradients_weights_and_draws_are_those_of_torch_to_the_bit(
    name: str, batch_size: int, scale: float
) -> None:
    ours, theirs, shape = PAIRS[name]
    assert same_bits(run(ours, (batch_size, *shape), scale), run(theirs, (batch_size, *shape), scale))


@pytest.mark.parametrize("name", PAIRS)
def test_the_same_seed_gives_the_same_bits_and_another_input_others(name: str) -> None:
    ours, _, shape = PAIRS[name]
    first = run(ours, (8, *shape))
    assert same_bits(first, run(ours, (8, *shape)))
    assert not same_bits(first, run(ours, (8, *shape), scale=1.5))


def test_first_weights_are_those_of_torch_for_any_width() -> None:
    differing = []
    for inputs in [*range(1, 300), 784, 1023, 3000, 12_345]:
        torch.manual_seed(inputs)
        ours = layers.Linear(inputs, 3)
        torch.manual_seed(inputs)
        theirs = nn.Linear(inputs, 3)
        if not torch.equal(ours.weight, theirs.weight) or not torch.equal(ours.bias, theirs.bias):
            differing.append(inputs)
    assert differing == []


@pytest.mark.parametrize("name", [name for name in PAIRS if name != "a wide linear"])
def test_gradients_agree_with_finite_differences_in_double_precision(name: str) -> None:
    ours, _, shape = PAIRS[name]
    layer = ours()
    if isinstance(layer, layers.Linear):
        layer.weight, layer.bias = (p.detach().double().requires_grad_() for p in layer.parameters())
    inputs = torch.randn(3, *shape, dtype=torch.float64, requires_grad=True)

    def outputs(*_: Tensor) -> Tensor:
        torch.manual_seed(0)  # one mask, or there would be no difference to take
        return layer(inputs)

    assert torch.autograd.gradcheck(outputs, (inputs, *layer.parameters()))


def test_relu_has_torch_s_value_and_gradient_at_zero_and_at_the_extremes() -> None:
    edges = [-torch.inf, -1.0, -1e-45, -0.0, 0.0, 1e-45, 1e-30, 2.0, torch.inf]
    found = []
    for layer in (layers.ReLU(), nn.ReLU()):
        x = torch.tensor(edges, requires_grad=True)
        layer(x).sum().backward()
        found.append((layer(x).detach(), x.grad))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    assert layers.ReLU()(torch.tensor([torch.nan])).isnan().all()  # what is lost is not hidden


def test_dropout_does_nothing_and_draws_nothing_in_evaluation() -> None:
    model = layers.Layers({"0": layers.Dropout(0.5)})
    x = torch.randn(4, 10)
    model.eval()
    before = torch.get_rng_state()
    assert torch.equal(model(x), x)
    assert torch.equal(torch.get_rng_state(), before)
    model.train()
    assert not torch.equal(model(x), x)


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    dropped = layers.Dropout(0.3)(torch.ones(200_000))
    assert (dropped == 0).float().mean() == pytest.approx(0.3, abs=0.01)
    assert dropped.mean() == pytest.approx(1.0, abs=0.01)
    assert set(dropped.unique().tolist()) == {0.0, torch.tensor(1.0).div(0.7).item()}


def test_what_each_layer_keeps() -> None:
    linear, a, b = layers.Linear(6, 4), torch.randn(5, 6), torch.randn(5, 6)
    torch.testing.assert_close(linear(a + b) + linear(torch.zeros(5, 6)), linear(a) + linear(b))
    assert torch.equal(layers.ReLU()(layers.ReLU()(a)), layers.ReLU()(a))
    assert torch.equal(layers.Tanh()(-a), -layers.Tanh()(a))
    torch.testing.assert_close(layers.Sigmoid()(a) + layers.Sigmoid()(-a), torch.ones(5, 6))
    images = torch.randn(2, 3, 4)
    assert torch.equal(layers.Flatten()(images).view_as(images), images)


def net(kind: str) -> Any:
    """The same net of layers by hand, or of torch's."""
    torch.manual_seed(4)
    if kind == "torch":
        return nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 2), nn.Sigmoid())
    return layers.Layers(
        {
            "0": layers.Flatten(),
            "1": layers.Linear(6, 8),
            "2": layers.Tanh(),
            "3": layers.Dropout(0.2),
            "4": layers.Linear(8, 2),
            "5": layers.Sigmoid(),
        }
    )


def test_layers_in_a_row_have_the_names_and_values_of_torch_s_sequential() -> None:
    ours, theirs = net("ours"), net("torch")
    named = dict(theirs.named_parameters())
    assert list(ours.named_parameters()) == list(named) == ["1.weight", "1.bias", "4.weight", "4.bias"]
    assert all(torch.equal(ours.named_parameters()[name], parameter) for name, parameter in named.items())
    assert [id(parameter) for parameter in ours.parameters()] == [*map(id, ours.named_parameters().values())]
    x = torch.randn(5, 2, 3)
    for training in (True, False):
        ours.train(training)
        theirs.train(training)
        torch.manual_seed(1)
        mine = ours(x)
        torch.manual_seed(1)
        assert torch.equal(mine, theirs(x))


def test_a_layer_that_is_the_whole_net_has_names_without_a_number() -> None:
    model = layers.Layers({"": layers.Linear(3, 2)})
    assert list(model.named_parameters()) == list(dict(nn.Linear(3, 2).named_parameters()))


def test_nested_names_stay_as_torch_has_them() -> None:
    nested = nn.Sequential(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), nn.Linear(2, 1))
    ours = layers.Layers({"0.0": layers.Linear(3, 2), "0.1": layers.ReLU(), "1": layers.Linear(2, 1)})
    assert list(ours.named_parameters()) == list(dict(nested.named_parameters()))


def test_layers_learn_what_can_be_learnt() -> None:
    torch.manual_seed(0)
    weight, x = torch.tensor([[2.0, -1.0, 0.5]]), torch.randn(200, 3)
    targets = x @ weight.T + 3
    model = layers.Layers({"": layers.Linear(3, 1)})
    for _ in range(300):
        F.mse_loss(model(x), targets).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                sgd(parameter, 0.1)
                parameter.grad = None
    found, bias = model.parameters()
    torch.testing.assert_close(found, weight, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(bias, torch.tensor([3.0]), rtol=1e-4, atol=1e-4)


def test_a_layer_that_computes_nothing_says_so_and_layers_show_what_they_are() -> None:
    with pytest.raises(NotImplementedError, match="Layer must say what it computes"):
        layers.Layer()(torch.zeros(1))
    shown = [repr(layer) for layer in (layers.Linear(3, 2), layers.ReLU(), layers.Dropout(0.25))]
    assert shown == ["Linear(3, 2)", "ReLU()", "Dropout(0.25)"]
