"""The six models: one net, the same weights from one seed, found by registration."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from clearloop.rungs import modules

MODELS: list[Any] = [
    modules.ListModel,
    modules.HandModel,
    modules.NamedModel,
    modules.RegisteredModel,
    modules.ModuleListModel,
    modules.sequential_model,
    lambda i, h, o: modules.Sequential(modules.Linear(i, h), modules.ReLU(), modules.Linear(h, o)),
]


def built(make: Any) -> Any:
    torch.manual_seed(3)
    return make(20, 8, 4)


@pytest.mark.parametrize("make", MODELS)
def test_every_model_has_the_weights_outputs_and_gradients_of_sequential(make: Any) -> None:
    reference, model = built(modules.sequential_model), built(make)
    x = torch.randn(5, 20)
    reference(x).pow(2).sum().backward()
    model(x).pow(2).sum().backward()
    torch.testing.assert_close(model(x), reference(x))
    pairs = list(zip(model.parameters(), reference.parameters(), strict=True))
    assert len(pairs) == 4
    for ours, theirs in pairs:
        assert torch.equal(ours, theirs)
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_linear_draws_the_weights_of_torch_from_the_same_seed() -> None:
    torch.manual_seed(0)
    ours = modules.Linear(784, 50)
    torch.manual_seed(0)
    theirs = nn.Linear(784, 50)
    assert torch.equal(ours.weight, theirs.weight)
    assert torch.equal(ours.bias, theirs.bias)


def test_what_is_assigned_is_registered_and_shown() -> None:
    model = built(modules.HandModel)
    assert [name for name, _ in model.named_children()] == ["l1", "relu", "l2"]
    assert repr(model) == "HandModel(l1=Linear(20, 8), relu=ReLU(), l2=Linear(8, 4))"
    assert list(model.state_dict()) == ["l1.weight", "l1.bias", "l2.weight", "l2.bias"]


def test_a_plain_list_is_not_registered() -> None:
    class Forgetful(modules.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = [modules.Linear(3, 2)]

    assert list(Forgetful().parameters()) == []


def test_modules_nest() -> None:
    model = modules.Sequential(modules.Sequential(modules.Linear(3, 2)), modules.Linear(2, 1))
    assert [name for name, _ in model.named_parameters()] == ["0.0.weight", "0.0.bias", "1.weight", "1.bias"]
    assert len(model) == 2


def test_a_module_without_forward_says_so() -> None:
    with pytest.raises(NotImplementedError, match="Module must define forward"):
        modules.Module()(torch.zeros(1))


def test_relu_has_the_values_and_gradients_of_torch_also_at_zero_and_at_the_extremes() -> None:
    ours = torch.tensor([-torch.inf, -1.0, -0.0, 0.0, 1e-30, 2.0, torch.inf], requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    assert torch.equal(modules.ReLU()(ours), theirs.relu())
    modules.ReLU()(ours).sum().backward()
    theirs.relu().sum().backward()
    assert torch.equal(ours.grad, theirs.grad)
    assert modules.ReLU()(torch.tensor(torch.nan)).isnan()  # what is lost is not hidden
