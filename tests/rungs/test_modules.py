"""The six models: one net, the same weights from one seed, found by registration."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clearloop.rungs import loops, modules
from clearloop.rungs.data import Sampler
from clearloop.rungs.layers import Dropout, Layer

MODELS: list[Any] = [
    modules.ListModel,
    modules.NamedModel,
    modules.HandModel,
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


def test_the_six_models_stand_in_the_order_of_their_numbers() -> None:
    numbers = ["First", "Second", "Third", "Fourth", "Fifth", "Sixth"]
    assert [inspect.getdoc(model).split(":")[0] for model in MODELS[:6]] == numbers
    places = [inspect.getsourcelines(model)[1] for model in MODELS[:6]]
    assert places == sorted(places)


def both(layer: Any) -> tuple[Any, Any]:
    """One net that holds all kinds of things, on the hand-made Module and on torch's."""

    def filled(module: type) -> Any:
        class Net(module):
            def __init__(self) -> None:
                super().__init__()
                self.first = layer(3, 2)
                self.scale = nn.Parameter(torch.ones(1))
                self.note = "neither"
                self.rate = torch.ones(2)  # wants no gradient
                self.kind = layer  # a class, not a layer
                self.second = layer(2, 2)
                self.shift = nn.Parameter(torch.zeros(2))

        return Net()

    return filled(modules.Module), filled(nn.Module)


def names(model: Any) -> tuple[list[str], list[str], list[str]]:
    found = model.named_parameters()
    return [name for name, _ in found], list(model.state_dict()), [name for name, _ in model.named_children()]


def test_parameters_are_registered_in_the_order_and_under_the_names_of_torch() -> None:
    ours, theirs = both(nn.Linear)
    assert names(ours) == names(theirs)
    assert names(ours)[0] == ["scale", "shift", "first.weight", "first.bias", "second.weight", "second.bias"]
    by_hand, _ = both(modules.Linear)
    assert names(by_hand) == names(theirs)
    assert next(ours.parameters()) is ours.scale


def test_a_tensor_that_requires_a_gradient_is_a_parameter_and_a_computed_one_is_not() -> None:
    model = modules.Module()
    model.weight = torch.zeros(2, requires_grad=True)
    model.output = model.weight * 2
    assert [id(parameter) for parameter in model.parameters()] == [id(model.weight)]
    assert list(model.state_dict()) == ["weight"]


@pytest.mark.parametrize("what", [None, 3, "text", torch.zeros(1), nn.Linear(1, 1), nn.Parameter(torch.zeros(1))])
@pytest.mark.parametrize("name", ["first", "scale"])
def test_what_is_assigned_anew_takes_the_place_of_what_was_there(name: str, what: Any) -> None:
    model, _ = both(modules.Linear)
    setattr(model, name, what)
    assert getattr(model, name) is what
    expected = {"scale", "shift", "first.weight", "first.bias", "second.weight", "second.bias"}
    expected -= {f"{name}.weight", f"{name}.bias", name}
    if isinstance(what, nn.Module):
        expected |= {f"{name}.weight", f"{name}.bias"}
    if isinstance(what, nn.Parameter):
        expected |= {name}
    assert set(names(model)[0]) == set(names(model)[1]) == expected
    assert (name in names(model)[2]) == isinstance(what, nn.Module)


def test_one_of_the_same_kind_keeps_the_place_in_the_order() -> None:
    ours, theirs = both(nn.Linear)
    for model in (ours, theirs):
        model.first, model.scale = nn.Linear(3, 2), nn.Parameter(torch.zeros(1))
    assert names(ours) == names(theirs)
    assert next(ours.parameters()) is ours.scale


def test_what_is_deleted_is_no_part_of_the_module() -> None:
    ours, theirs = both(nn.Linear)
    for model in (ours, theirs):
        del model.first, model.scale, model.note
    assert names(ours) == names(theirs)
    assert not hasattr(ours, "first")
    with pytest.raises(AttributeError):
        del ours.never


def test_what_is_there_twice_is_counted_once_and_saved_twice() -> None:
    ours, theirs = both(nn.Linear)
    for model in (ours, theirs):
        model.again, model.same, model.tied = model.first, model.scale, model.second.weight
    assert names(ours) == names(theirs)
    assert len(list(ours.parameters())) == len(list(theirs.parameters())) == 6
    assert "again.weight" in ours.state_dict()
    linear = nn.Linear(2, 2)
    tied = nn.Sequential(linear, nn.ReLU(), linear)
    assert list(modules.Sequential(tied).state_dict()) == list(nn.Sequential(tied).state_dict())
    by_hand, _ = both(modules.Linear)
    by_hand.again = by_hand.first
    assert len(list(by_hand.parameters())) == 6


def test_a_layer_that_is_there_twice_is_called_twice() -> None:
    linear = modules.Linear(2, 2)
    x = torch.ones(1, 2)
    model = modules.Sequential(linear, modules.ReLU(), linear)
    assert len(model) == len(list(model)) == 3
    assert torch.equal(model(x), linear(linear(x).relu()))


class Many(Layer):
    """A layer of five parameters, of which two have no attribute of their own."""

    def __init__(self) -> None:
        self.a, self.b, self.c = (torch.zeros(1, requires_grad=True) for _ in range(3))
        self.more = [torch.zeros(1, requires_grad=True) for _ in range(2)]

    def parameters(self) -> list[Tensor]:
        return [self.a, self.b, self.c, *self.more]


def test_layers_with_any_number_of_parameters_keep_their_names() -> None:
    model = modules.Sequential(Many(), modules.ReLU())
    assert names(model)[0] == names(model)[1] == ["0.a", "0.b", "0.c", "0.3", "0.4"]
    assert len({id(parameter) for parameter in model.parameters()}) == 5


def test_train_and_eval_reach_layers_of_every_kind() -> None:
    model = modules.Sequential(modules.Sequential(Dropout(0.5)), nn.Sequential(nn.Dropout(0.5)), Dropout(0.5))
    inner = [model, *model, next(iter(next(iter(model)))), list(model)[1][0]]
    assert [layer.training for layer in inner] == [True] * 6
    assert model.eval() is model
    assert [layer.training for layer in inner] == [False] * 6
    assert torch.equal(model(torch.ones(4)), torch.ones(4))
    assert model.train() is model
    assert [layer.training for layer in inner] == [True] * 6


@pytest.mark.parametrize("part_size", [None, 3])
def test_the_loop_over_parameters_trains_the_hand_made_model_as_it_trains_torchs(part_size: int | None) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(30, 20, generator=generator), torch.randint(4, (30,), generator=generator)
    ends = []
    for make in (modules.HandModel, modules.NamedModel):
        model = built(make)
        sampler = Sampler(30, 8, seed=0)
        loops.parameters(2, model, F.cross_entropy, (x, y), [(x, y)], sampler, lr=0.5, part_size=part_size)
        ends.append([parameter.detach() for parameter in model.parameters()])
        assert not model.training
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*ends, strict=True))
    assert not torch.equal(ends[0][0], next(built(modules.HandModel).parameters()))


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
