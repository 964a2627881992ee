"""A Learner for pictures: channels and classes counted, constructors of other libraries, refusals, and learning."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

import clearloop as cl
from clearloop import models
from clearloop.data.images import ImageDataLoaders
from clearloop.errors import CheckpointError, ConfigError, DataError, ModelError
from clearloop.vision import cnn_learner, vision_learner


def pictures(
    n: int = 24, channels: int = 1, classes: int = 3, size: int = 12, names: Any = None, batch_size: int = 8
) -> cl.DataLoaders:
    """Random pictures with labels."""
    data = cl.TensorDataset(torch.rand(n, channels, size, size), torch.arange(n) % classes)
    train = cl.DataLoader(data, batch_size, shuffle=True, seed=0)
    return cl.DataLoaders(train, cl.DataLoader(data, 8), classes=names)


def small(classes: int = 10, channels: int = 3) -> nn.Module:
    """A net in the way of `clearloop.models`."""
    layers = nn.Conv2d(channels, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes)
    return nn.Sequential(*layers)


def torchvision_like(*, weights: Any = None, progress: bool = True, **kwargs: Any) -> nn.Module:
    """A constructor with the arguments that torchvision's have."""
    assert weights is None
    return small(kwargs["num_classes"])


def timm_like(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """A constructor with the arguments that timm's have."""
    assert not pretrained
    return small(kwargs["num_classes"], kwargs["in_chans"])


@pytest.mark.parametrize(("channels", "classes"), [(1, 3), (3, 2), (4, 5)])
def test_channels_and_classes_are_counted_in_the_data(channels, classes):
    learn = vision_learner(pictures(channels=channels, classes=classes), models.resnet18, seed=0, device="cpu")
    assert learn.model.conv1.in_channels == channels
    assert learn.model.fc.out_features == classes
    learn.fit(1, 0.01, quiet=True)
    assert learn.history.steps == 3


def test_the_names_of_classes_count_even_where_the_data_lack_one():
    learn = vision_learner(pictures(classes=2, names=["a", "b", "c", "d"]), models.resnet18, device="cpu")
    assert learn.model.fc.out_features == 4


def test_numbers_as_targets_get_as_many_outputs():
    data = cl.TensorDataset(torch.rand(8, 1, 9, 9), torch.rand(8, 2))
    learn = vision_learner((cl.DataLoader(data, 4), cl.DataLoader(data, 4)), small, device="cpu")
    assert learn.model[3].out_features == 2
    assert learn.validate()[0] > 0


@pytest.mark.parametrize("arch", [small, torchvision_like, timm_like])
@pytest.mark.parametrize("channels", [1, 3])
def test_constructors_are_called_with_the_arguments_of_their_library(arch, channels):
    learn = vision_learner(pictures(channels=channels, classes=5), arch, device="cpu")
    assert learn.model[0].in_channels == channels
    assert learn.model[0].padding == (1, 1)
    assert learn.model[3].out_features == 5


def test_a_net_itself_or_a_function_of_no_arguments_is_taken_as_it_is():
    net = small(3, 1)
    assert vision_learner(pictures(), net, device="cpu").model is net
    assert vision_learner(pictures(), lambda: net, device="cpu").model is net
    assert vision_learner(pictures(classes=2), small(1, 1), cl.mnist_loss, device="cpu").model[3].out_features == 1


def test_the_seed_gives_the_weights_and_nothing_outside_is_changed():
    data = pictures()
    before = torch.get_rng_state()
    one, same, other = (vision_learner(data, small, seed=seed, device="cpu") for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.model[0].weight, same.model[0].weight)
    assert not torch.equal(one.model[0].weight, other.model[0].weight)
    assert one.seed == 3


def test_options_reach_the_learner():
    options = {"lr": 0.3, "metrics": cl.accuracy, "clip": 1.0, "accumulate": 2, "seed": 1, "device": "cpu"}
    learn = vision_learner(pictures(), small, F.cross_entropy, torch.optim.Adam, **options)
    assert (learn.lr, learn.clip, learn.accumulate, learn.seed) == (0.3, 1.0, 2, 1)
    assert isinstance(learn.opt, torch.optim.Adam)
    assert learn.loss_func is F.cross_entropy
    assert [metric.name for metric in learn.metrics] == ["accuracy"]
    assert cnn_learner is vision_learner


def test_weights_from_a_file_go_in_but_for_the_head(tmp_path):
    source = small(7, 3)
    save_file(source.state_dict(), tmp_path / "net.safetensors")
    for pretrained in (True, False):
        learn = vision_learner(
            pictures(), small, pretrained=pretrained, weights=tmp_path / "net.safetensors", device="cpu"
        )
        torch.testing.assert_close(learn.model[0].weight, source[0].weight.sum(dim=1, keepdim=True))
        assert learn.model[3].out_features == 3
    with pytest.raises(CheckpointError, match="got none"):
        vision_learner(pictures(), small, weights=tmp_path / "other.pth", device="cpu")


def test_published_weights_that_are_not_at_hand_are_refused_with_what_to_do():
    with pytest.raises(ConfigError, match=r"no network access to them here.*weights=PATH"):
        vision_learner(pictures(), models.resnet18, pretrained=True)


def flat(x: Tensor, y: Tensor) -> cl.DataLoaders:
    return cl.DataLoaders(cl.DataLoader(cl.TensorDataset(x, y), 4))


@pytest.mark.parametrize(
    ("dls", "message"),
    [
        (lambda: flat(torch.rand(8, 784), torch.zeros(8).long()), r"got \(4, 784\) float32; view flat pictures"),
        (lambda: flat(torch.rand(8, 28, 28), torch.zeros(8).long()), r"got \(4, 28, 28\) float32"),
        (lambda: flat(torch.zeros(8, 1, 9, 9).byte(), torch.zeros(8).long()), r"got \(4, 1, 9, 9\) uint8.* / 255"),
        (lambda: flat(torch.rand(8, 1, 9, 9), torch.rand(8, 1, 9, 9)), "one target for each picture"),
        (lambda: cl.DataLoaders([(torch.rand(4, 1, 9, 9), torch.zeros(4).long())]), r"classes=\[\.\.\.\]"),
    ],
    ids=["flat", "no channels", "bytes", "pictures as targets", "loader that names no classes"],
)
def test_data_that_do_not_say_what_the_net_must_be_are_refused(dls, message):
    with pytest.raises(DataError, match=message):
        vision_learner(dls(), small, device="cpu")


@pytest.mark.parametrize(
    ("arch", "error", "message"),
    [
        ("resnet18", ConfigError, r"such as models\.resnet18, or a net; got 'resnet18'"),
        (lambda: "net", ModelError, "makes a str"),
        (lambda: small(3, 2), ModelError, r"does not take pictures of shape \(1, 12, 12\)"),
        (lambda: small(4, 1), ModelError, r"a net with 3 outputs, as the data ask for, got \(2, 4\)"),
    ],
    ids=["a name", "no net", "other channels", "other classes"],
)
def test_nets_that_do_not_fit_are_refused(arch, error, message):
    with pytest.raises(error, match=message):
        vision_learner(pictures(), arch, device="cpu")


def test_an_epoch_that_ends_with_one_small_picture_is_refused_before_training():
    with pytest.raises(ConfigError, match=r"one picture alone \(25 in batches of 8\)"):
        vision_learner(pictures(n=25), models.resnet18, device="cpu")
    learn = vision_learner(pictures(n=25, size=80), models.resnet18, device="cpu")  # its last maps have several pixels
    assert all(module.training for module in learn.model.modules())
    assert int(learn.model.bn1.num_batches_tracked) == 0
    vision_learner(pictures(n=25), small, device="cpu")  # has no batch norm


def test_a_predictor_and_a_saved_run_keep_the_net(tmp_path):
    data = cl.DataLoaders.arrays(torch.randint(0, 256, (40, 28, 28)).byte(), torch.arange(40) % 3, seed=0)
    learn = vision_learner(data, models.resnet18, metrics=cl.accuracy, seed=0, device="cpu")
    learn.fit(1, 0.01, quiet=True)
    picture = torch.rand(28, 28)
    said = learn.predict(picture)
    learn.save(tmp_path / "run")
    again = cl.Predictor.load(tmp_path / "run")(picture)
    assert said.label in ("0", "1", "2")
    assert torch.equal(again.values, said.values)


def test_a_residual_net_learns_threes_and_sevens_from_few_pictures(digits):
    x, y, x_valid, y_valid = *part(digits, 768, "train"), *part(digits, 300, "test")
    dls = cl.DataLoaders.arrays(x, y, x_valid, y_valid, batch_size=32, seed=0)
    learn = cnn_learner(dls, models.resnet18, loss_func=F.cross_entropy, metrics=cl.accuracy, seed=0, device="cpu")
    learn.fit_one_cycle(1, 0.1, quiet=True)
    assert learn.history.epochs[-1].metrics["accuracy"] > 0.9


def part(digits: Any, n: int, name: str) -> tuple[Tensor, Tensor]:
    """The first threes and sevens of MNIST, labelled 0 and 1."""
    images, labels = getattr(digits, f"{name}_images"), getattr(digits, f"{name}_labels")
    rows = ((labels == 3) | (labels == 7)).nonzero()[:n, 0]
    return images[rows], (labels[rows] == 7).long()


@pytest.mark.slow
def test_one_epoch_of_one_cycle_on_the_folder_of_threes_and_sevens_reaches_over_99_per_cent(sample):
    dls = ImageDataLoaders.from_folder(sample, seed=0)
    learn = cnn_learner(
        dls, models.resnet18, pretrained=False, loss_func=F.cross_entropy, metrics=cl.accuracy, seed=0, device="cpu"
    )
    learn.fit_one_cycle(1, 0.1, quiet=True)
    assert learn.history.epochs[-1].metrics["accuracy"] > 0.99


@pytest.mark.slow
def test_a_residual_net_is_printed_as_a_program_that_gives_the_same_bits(digits):
    x, y = part(digits, 96, "train")
    learn = cnn_learner(cl.DataLoaders.arrays(x, y, batch_size=32, seed=0), models.resnet18, seed=0, device="cpu")
    learn.fit(1, 0.01, quiet=True)
    assert "class BasicBlock" in str(learn.eject(2))
    assert all(line.run == line.program for line in learn.verify(7))
