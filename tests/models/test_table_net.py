"""The net for tables: shapes, vectors of categories, units of the outputs, and what it refuses."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from clearloop import ConfigError
from clearloop.buildable import build, build_model
from clearloop.component import describe
from clearloop.models import table_net
from clearloop.models.table_net import JoinCategories, scaled_mse_loss


def test_numbers_pass_and_codes_become_their_vectors():
    join = JoinCategories(2, (3, 4), (2, 3))
    inputs = torch.tensor([[0.5, -1.0, 2.0, 3.0], [0.25, 1.0, 1.0, 1.0]])
    outputs = join(inputs)
    assert outputs.shape == (2, 7)
    assert torch.equal(outputs[:, :2], inputs[:, :2])
    assert torch.equal(outputs[0, 2:4], join.embeddings[0].weight[2])
    assert torch.equal(outputs[1, 4:], join.embeddings[1].weight[1])


def test_what_was_not_seen_adds_nothing_and_is_never_trained():
    model = table_net(1, (3,), outputs=1, hidden=(4,))
    opt = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(3):
        model(torch.tensor([[0.5, 0.0], [0.5, 1.0]])).square().sum().backward()
        opt.step()
        opt.zero_grad()
    vectors = model[0].embeddings[0].weight
    assert vectors[0].tolist() == [0.0, 0.0]
    assert bool((vectors[1:] != 0).all())


def test_outputs_are_in_the_units_of_the_targets():
    torch.manual_seed(0)
    plain = table_net(3, outputs=1, hidden=(5,))
    torch.manual_seed(0)
    scaled = table_net(3, outputs=1, hidden=(5,), center=1000.0, scale=20.0)
    inputs = torch.randn(4, 3)
    assert torch.allclose(scaled(inputs), plain(inputs) * 20 + 1000)


def test_a_step_is_the_same_whatever_the_targets_are_counted_in():
    inputs, targets = torch.randn(16, 3), torch.randn(16, 1)
    grown = []
    for center, scale in ((0.0, 1.0), (50.0, 1024.0)):
        torch.manual_seed(0)
        model = table_net(3, outputs=1, hidden=(5,), center=center, scale=scale)
        loss = scaled_mse_loss(model(inputs), targets * scale + center, scale=scale)
        loss.backward()
        grown.append([loss.detach(), *(p.grad for p in model.parameters())])
    assert all(torch.allclose(one, other, rtol=1e-4, atol=1e-5) for one, other in zip(*grown, strict=True))


def test_the_scaled_loss_of_the_mean_is_one():
    targets = torch.randn(1000, 1) * 7 + 3
    mean, scale = targets.mean(), float(targets.std(correction=0))
    assert scaled_mse_loss(mean.expand(1000, 1), targets, scale=scale).item() == pytest.approx(1, abs=1e-4)
    assert scaled_mse_loss(targets, targets * 2) == F.mse_loss(targets, targets * 2)


def test_without_hidden_layers_it_is_linear_and_dropout_comes_after_each():
    assert [type(layer) for layer in table_net(3, outputs=2, hidden=())] == [nn.Linear]
    kinds = [type(layer) for layer in table_net(3, outputs=2, hidden=(4, 4), dropout=0.5)]
    assert kinds == [nn.Linear, nn.ReLU, nn.Dropout] * 2 + [nn.Linear]


def test_model_and_loss_are_built_again_from_their_descriptions():
    model = table_net(2, (3, 4), outputs=1, hidden=(5,), dropout=0.1, center=2.5, scale=0.5)
    again = build_model(json.loads(json.dumps(describe(model))))
    assert str(again) == str(model)
    loss = {"path": "clearloop.models.table_net:scaled_mse_loss", "kwargs": {"scale": 2.0}}
    assert build(loss, "loss")(torch.tensor([4.0]), torch.tensor([0.0])) == 4
    with pytest.raises(ConfigError, match="the loss cannot be built from"):
        build({"path": "clearloop.models.table_net:embedding_width"}, "loss")


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((0,), {}, "needs at least one input, got numeric=0"),
        ((-1, (3,)), {}, "needs at least one input, got numeric=-1"),
        ((2.0,), {}, "needs at least one input, got numeric=2.0"),
        ((2, (3, 0)), {}, "category sizes of table_net must be positive ints, got 0 at position 1"),
        ((2, 3), {}, "needs a sequence of categories, got 3"),
        ((2, (), 1, 64), {}, "needs a sequence of hidden, got 64"),
        ((2, (), 0), {}, "outputs and hidden widths of table_net must be positive ints, got 0"),
        ((2,), {"dropout": 1.0}, "dropout must be a probability"),
        ((2,), {"scale": 0.0}, "scale must be a positive number, got 0.0"),
    ],
)
def test_sizes_that_cannot_be_are_refused(arguments, options, message):
    with pytest.raises(ConfigError, match=message):
        table_net(*arguments, **options)
