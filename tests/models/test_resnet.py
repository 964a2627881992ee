"""Residual nets: names and shapes of the published weights, any size of picture, and weights from files."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from clearloop import models
from clearloop.buildable import build, is_buildable
from clearloop.component import describe
from clearloop.errors import CheckpointError, ConfigError
from clearloop.models.published import load_weights

# name -> (parameters, tensors, SHA-256 of the lines "name shape" of torchvision 0.28's state dict)
PUBLISHED = {
    "resnet18": (11_689_512, 122, "84fb10d9c6905a1cbb020b284537dc97c4f4ec55fb2a780a41152a23a2dd0e9d"),
    "resnet34": (21_797_672, 218, "28f9096d5130749948981c6900083e57b19456b8b835829b8bdfe415bddc3f32"),
    "resnet50": (25_557_032, 320, "d7e4f8bb0a5363446a59c81c3887ccf66900a11651a0ae2dec96d1bb1eb6ea81"),
}
every_net = pytest.mark.parametrize("name", PUBLISHED)


def make(name: str, *args: Any, **kwargs: Any) -> nn.Module:
    return getattr(models, name)(*args, **kwargs)


@every_net
def test_names_and_shapes_are_those_of_the_published_weights(name):
    with torch.device("meta"):
        net = make(name)
    parameters, tensors, digest = PUBLISHED[name]
    state = net.state_dict()
    lines = "\n".join(f"{key} {tuple(tensor.shape)}" for key, tensor in state.items())
    assert sum(parameter.numel() for parameter in net.parameters()) == parameters
    assert len(state) == tensors
    assert hashlib.sha256(lines.encode()).hexdigest() == digest


def test_the_names_that_others_rely_on_are_there():
    state = models.resnet18(2, 1).state_dict()
    wanted = {
        "conv1.weight": (64, 1, 7, 7),
        "bn1.running_var": (64,),
        "layer1.0.conv1.weight": (64, 64, 3, 3),
        "layer2.0.downsample.0.weight": (128, 64, 1, 1),
        "layer2.0.downsample.1.num_batches_tracked": (),
        "layer4.1.bn2.bias": (512,),
        "fc.weight": (2, 512),
        "fc.bias": (2,),
    }
    assert {name: tuple(state[name].shape) for name in wanted} == wanted
    assert not any(name.startswith("layer1.0.downsample") for name in state)
    assert tuple(models.resnet50(2).state_dict()["layer1.0.downsample.0.weight"].shape) == (256, 64, 1, 1)


@every_net
@pytest.mark.parametrize("size", [(28, 28), (33, 57), (1, 1)], ids=str)
def test_pictures_of_any_size_are_taken(name, size):
    net = make(name, 3, 1).eval()
    logits = net(torch.rand(2, 1, *size))
    assert logits.shape == (2, 3)
    assert torch.isfinite(logits).all()


def test_large_pictures_in_colour_are_taken_and_every_parameter_gets_a_gradient():
    net = models.resnet18(7)
    net(torch.rand(2, 3, 224, 224)).square().sum().backward()
    assert all(parameter.grad is not None and bool(parameter.grad.any()) for parameter in net.parameters())


def test_first_weights_follow_the_seed_and_have_the_spread_of_their_outputs():
    torch.manual_seed(0)
    one = models.resnet18(2)
    torch.manual_seed(0)
    other = models.resnet18(2)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    weight = one.layer3[0].conv2.weight
    assert float(weight.detach().std()) == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.02)  # fan out, for ReLU
    assert (one.layer1[0].bn2.weight == 1).all()


def test_a_block_adds_to_its_input_and_halves_where_a_stage_begins():
    net = models.resnet18(2).eval()
    block = net.layer1[0]
    nn.init.zeros_(block.conv2.weight)
    x = torch.rand(1, 64, 9, 9)
    assert torch.equal(block(x), x)
    assert net.layer2[0](x).shape == (1, 128, 5, 5)


@every_net
def test_a_recipe_can_build_the_net_again(name):
    with torch.device("meta"):
        net = make(name, 2, channels=1)
        description = describe(net)
        assert description == {
            "path": f"clearloop.models.resnet:{name}",
            "args": [2],
            "kwargs": {"channels": 1},
        }
        assert str(build(description, "model")) == str(net)


@pytest.mark.parametrize("name", ["ResNet", "BasicBlock", "shortcut"])
def test_the_parts_of_a_net_are_no_models_for_a_recipe(name):
    assert not is_buildable({"path": f"clearloop.models.resnet:{name}"}, "model")


def test_a_reader_of_weights_is_no_model_for_a_recipe():
    assert not is_buildable({"path": "clearloop.models.published:load_weights"}, "model")
    assert not is_buildable({"path": "clearloop.models.published:read_weights"}, "model")


@every_net
@pytest.mark.parametrize(("classes", "channels"), [(0, 3), (2, 1.0), (True, 3)])
def test_classes_and_channels_must_be_positive_ints(name, classes, channels):
    with pytest.raises(ConfigError, match=rf"classes and channels of {name} must be positive ints"):
        make(name, classes, channels)


# -- weights from files ------------------------------------------------------------------------------------------------


class Net(nn.Module):
    """Small, with what matters: a convolution, a norm, a head."""

    def __init__(self, classes: int = 4, channels: int = 3, maps: int = 5) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, maps, 3)
        self.bn = nn.BatchNorm2d(maps)
        self.fc = nn.Linear(maps, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.bn(self.conv(x)).mean(dim=(2, 3)))


def saved(path: Path, change: dict[str, torch.Tensor | None] | None = None) -> dict[str, torch.Tensor]:
    """The weights of a Net in a file, some of them replaced, left out (None) or added."""
    torch.manual_seed(1)
    net = Net()
    net.bn.running_mean.uniform_()
    state = {name: tensor for name, tensor in {**net.state_dict(), **(change or {})}.items() if tensor is not None}
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return state


def untouched(net: nn.Module, before: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def copied(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
def test_weights_of_the_same_net_are_taken_whole(tmp_path, suffix):
    state = saved(tmp_path / f"net{suffix}")
    net = Net()
    assert load_weights(net, tmp_path / f"net{suffix}") == ()
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())


def test_a_head_of_other_classes_stays_as_it_is_and_is_named(tmp_path):
    state = saved(tmp_path / "net.safetensors")
    net = Net(classes=2)
    before = copied(net)
    assert load_weights(net, tmp_path / "net.safetensors") == ("fc.weight", "fc.bias")
    assert torch.equal(net.fc.weight, before["fc.weight"])
    assert torch.equal(net.fc.bias, before["fc.bias"])
    assert torch.equal(net.conv.weight, state["conv.weight"])
    assert torch.equal(net.bn.running_mean, state["bn.running_mean"])


def test_grey_pictures_give_what_the_same_pictures_in_colour_give(tmp_path):
    saved(tmp_path / "net.pth")
    colour, grey = Net().eval(), Net(channels=1).eval()
    load_weights(colour, tmp_path / "net.pth")
    load_weights(grey, tmp_path / "net.pth")
    x = torch.rand(2, 1, 9, 9)
    torch.testing.assert_close(grey(x), colour(x.expand(2, 3, 9, 9)))


def test_the_weights_of_a_residual_net_go_into_a_grey_one_with_a_new_head(tmp_path):
    source = models.resnet18(10)
    save_file(source.state_dict(), tmp_path / "net.safetensors")
    net = models.resnet18(2, channels=1)
    assert load_weights(net, tmp_path / "net.safetensors") == ("fc.weight", "fc.bias")
    torch.testing.assert_close(net.conv1.weight, source.conv1.weight.sum(dim=1, keepdim=True))
    assert torch.equal(net.layer4[1].conv2.weight, source.layer4[1].conv2.weight)


def test_files_without_counters_of_batches_and_of_half_precision_fit(tmp_path):
    state = saved(tmp_path / "net.pth", {"bn.num_batches_tracked": None, "conv.bias": torch.ones(5).half()})
    assert "bn.num_batches_tracked" not in state
    net = Net()
    load_weights(net, tmp_path / "net.pth")
    assert net.conv.bias.dtype == torch.float32
    assert (net.conv.bias == 1).all()


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_weights_inside_a_training_checkpoint_are_found(tmp_path, key):
    torch.save({"epoch": 3, key: Net().state_dict()}, tmp_path / "net.pth")
    assert load_weights(Net(), tmp_path / "net.pth") == ()


UNFIT = {
    "a missing tensor": ({"conv.bias": None}, r"conv\.bias: the file has nothing, the model \(5,\)"),
    "one too many": ({"more": torch.zeros(2)}, r"more: the file has \(2,\), the model nothing"),
    "another shape": ({"conv.weight": torch.zeros(6, 3, 3, 3)}, r"the file has \(6, 3, 3, 3\), the model \(5, 3"),
    "more channels": ({"conv.weight": torch.zeros(5, 4, 3, 3)}, r"conv\.weight: the file has \(5, 4, 3, 3\)"),
    "a head of other inputs": ({"fc.weight": torch.zeros(4, 9)}, r"fc\.weight: the file has \(4, 9\)"),
    "whole numbers": ({"conv.bias": torch.zeros(5).long()}, r"\(5,\) of whole numbers, the model \(5,\)"),
    "NaN": ({"conv.bias": torch.tensor([0, 1, 2, 3, float("nan")])}, r"conv\.bias: the file has NaN or infinity"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_what_does_not_fit_is_named_and_the_model_stays_as_it_was(tmp_path, name):
    change, message = UNFIT[name]
    saved(tmp_path / "net.pth", change)
    net = Net()
    before = copied(net)
    with pytest.raises(CheckpointError, match=message):
        load_weights(net, tmp_path / "net.pth")
    assert untouched(net, before)


class Boom:
    """A pickle of it would run code."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("write", [torch.save, lambda thing, path: path.write_bytes(pickle.dumps(thing))])
def test_a_pickle_is_never_run(tmp_path, write):
    write({"conv.weight": Boom(tmp_path / "ran")}, tmp_path / "net.pth")
    net = Net()
    before = copied(net)
    with pytest.raises(CheckpointError, match="it was not run"):
        load_weights(net, tmp_path / "net.pth")
    assert not (tmp_path / "ran").exists()
    assert untouched(net, before)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize(
    "content", [b"", b"not weights at all", b"\x00" * 100, None], ids=["empty", "text", "0", "cut"]
)
def test_a_damaged_file_is_refused(tmp_path, suffix, content):
    path = tmp_path / f"net{suffix}"
    saved(path)
    path.write_bytes(path.read_bytes()[:300] if content is None else content)
    with pytest.raises(CheckpointError, match=r"net\.(safetensors|pth): expected"):
        load_weights(Net(), path)


def test_files_of_other_kinds_or_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"ends in \.safetensors, \.pth or \.pt, got .*net\.bin"):
        load_weights(Net(), tmp_path / "net.bin")
    with pytest.raises(CheckpointError, match=r"expected a file of weights at .*, got none"):
        load_weights(Net(), tmp_path / "net.pth")
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(CheckpointError, match="got a folder"):
        load_weights(Net(), tmp_path / "folder.pt")
    torch.save([torch.zeros(2)], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="expected tensors by name"):
        load_weights(Net(), tmp_path / "list.pt")
