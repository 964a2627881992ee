"""The summary of a model: shapes, parameters and multiply-adds, against counts by hand; and that it leaves no trace."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import clearloop as cl
from clearloop import models, rng
from clearloop.errors import ConfigError, ModelError

# name -> (layer, shape of a batch, multiply-adds for one sample)
LAYERS = {
    "linear": (nn.Linear(6, 5), (4, 6), 6 * 5),
    "linear on rows of rows": (nn.Linear(6, 5), (4, 7, 6), 7 * 6 * 5),
    "convolution": (nn.Conv2d(3, 8, 5, stride=2, padding=2), (4, 3, 9, 9), 5 * 5 * 8 * 3 * 25),
    "convolution in groups": (nn.Conv2d(4, 8, 3, groups=4), (2, 4, 5, 5), 3 * 3 * 8 * 9),
    "convolution in one dimension": (nn.Conv1d(2, 3, 4), (2, 2, 10), 7 * 3 * 2 * 4),
    "transposed convolution": (nn.ConvTranspose2d(3, 2, 4, stride=2), (4, 3, 5, 5), 5 * 5 * 3 * 2 * 16),
    "batch norm": (nn.BatchNorm2d(3), (4, 3, 5, 5), 0),
}


@pytest.mark.parametrize("name", LAYERS)
def test_multiply_adds_of_a_layer_are_those_counted_by_hand(name):
    layer, shape, expected = LAYERS[name]
    found = cl.summary(nn.Sequential(layer), torch.rand(shape))
    [row] = found.layers
    assert row.multiply_adds == found.multiply_adds == expected
    assert row.parameters == found.parameters == sum(p.numel() for p in layer.parameters())
    assert row.output_shape == tuple(layer(torch.rand(shape)).shape[1:])


def test_the_figures_of_known_nets_come_out():
    with torch.device("meta"):
        nets = {"resnet18": (11_689_512, 1_814_073_344), "resnet50": (25_557_032, 4_089_184_256)}
        for name, (parameters, work) in nets.items():
            found = cl.summary(getattr(models, name)(), torch.zeros(1, 3, 224, 224))
            assert (found.parameters, found.multiply_adds) == (parameters, work)


class Shares(nn.Module):
    """One layer passed twice, one never, a parameter of its own, two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.never = nn.Linear(9, 9)
        self.twice = nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.ones(3))
        self.tied = nn.Linear(4, 4)
        self.tied.weight = self.twice.weight

    def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        return {"out": self.tied(self.twice(self.twice(a + b)))}


def test_what_is_shared_counts_once_and_what_is_passed_twice_works_twice():
    net = Shares()
    net.never.requires_grad_(False)
    found = cl.summary(net, (torch.rand(5, 4), torch.rand(5, 4)))
    rows = {row.name: row for row in found.layers}
    assert [row.name for row in found.layers] == ["twice", "tied", "Shares", "never"]
    assert (rows["twice"].parameters, rows["twice"].multiply_adds) == (20, 32)
    assert (rows["tied"].parameters, rows["tied"].multiply_adds) == (4, 16)
    assert rows["Shares"].parameters == 3
    assert rows["never"].output_shape is None
    assert found.parameters == sum(row.parameters for row in found.layers) == 90 + 20 + 4 + 3
    assert found.trainable == 27
    assert found.input_shape == "(1, 4) float32, (1, 4) float32"
    assert " -  " in str(found)


def test_a_learner_gives_its_own_example_and_the_table_adds_up():
    data = cl.TensorDataset(torch.rand(8, 1, 28, 28), torch.arange(8))
    learn = cl.Learner((cl.DataLoader(data, 4), None), models.cnn(), F.cross_entropy, device="cpu")
    found = cl.summary(learn)
    lines = str(found).splitlines()
    assert lines[0].split() == ["layer", "kind", "output", "parameters", "multiply-adds"]
    assert len(lines) == 11 + 5
    assert lines[-2].split() == ["total", f"{found.parameters:,}", f"{found.multiply_adds:,}"]
    assert found.layers[0].output_shape == (16, 14, 14)
    assert [axes.get_title(loc="left").split(":")[0] for axes in found.figure.axes] == ["Parameters", "Multiply-adds"]


def test_it_leaves_no_trace():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5), nn.Flatten(), nn.LazyLinear(2))
    net(torch.rand(2, 1, 6, 6))
    net[1].train()
    net[2].eval()
    net.zero_grad()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    modes, states = [module.training for module in net.modules()], rng.capture()
    cl.summary(net, torch.rand(2, 1, 6, 6, generator=torch.Generator()))
    assert torch.equal(rng.capture()["torch"], states["torch"])
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not any(module._forward_hooks for module in net.modules())


def test_hooks_go_also_where_the_model_fails():
    net = nn.Sequential(nn.Linear(3, 2))
    with pytest.raises(ModelError, match=r"does not take inputs of \(1, 4\) float32"):
        cl.summary(net, torch.rand(2, 4))
    assert not net[0]._forward_hooks


def test_a_transformer_is_passed_layer_by_layer():
    block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    found = cl.summary(block, torch.rand(2, 5, 8))
    rows = {row.name: row for row in found.layers}
    assert rows["linear1"].multiply_adds == 5 * 8 * 16
    assert found.parameters == sum(p.numel() for p in block.parameters())


@pytest.mark.parametrize(("model", "example"), [("net", torch.rand(2, 3)), (nn.Linear(3, 2), None)])
def test_a_model_and_an_example_are_needed(model, example):
    with pytest.raises(ConfigError, match=r"expected a (model|batch)"):
        cl.summary(model, example)


def test_its_figure_is_whole_for_a_deep_net(tmp_path):
    found = cl.summary(models.resnet18(2, 1), torch.rand(1, 1, 28, 28), path=tmp_path / "model.png")
    assert (tmp_path / "model.png").stat().st_size > 10_000
    found.figure.draw_without_rendering()
    frame = found.figure.bbox
    for axes in found.figure.axes:
        box = axes.get_tightbbox()
        assert box.x0 > -1
        assert box.y0 > -1
        assert box.x1 < frame.x1 + 1
        assert box.y1 < frame.y1 + 1
