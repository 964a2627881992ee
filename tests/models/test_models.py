"""The built-in models: shapes, sizes, determinism, gradients, refusals, and that they learn."""

from __future__ import annotations

import importlib
import inspect
import json
import textwrap
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clearloop import models
from clearloop.component import describe
from clearloop.errors import ClearloopError, ConfigError

# name -> (factory, shape of one sample, number of parameters)
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "linear": (lambda: models.linear(784, 10), (784,), 784 * 10 + 10),
    "linear on images": (lambda: models.linear(784, 10), (1, 28, 28), 784 * 10 + 10),
    "mlp": (lambda: models.mlp(784, 64, 10), (784,), 784 * 64 + 64 + 64 * 10 + 10),
    "mlp without hidden layers": (lambda: models.mlp(5, 10), (5,), 5 * 10 + 10),
    "deep mlp with dropout": (
        lambda: models.mlp(9, 8, 7, 10, dropout=0.5),
        (3, 3),
        9 * 8 + 8 + 8 * 7 + 7 + 7 * 10 + 10,
    ),
    "autoencoder, as many outputs as inputs": (
        lambda: models.autoencoder(10, 7, 3),
        (10,),
        10 * 7 + 7 + 7 * 3 + 3 + 3 * 7 + 7 + 7 * 10 + 10,
    ),
    "autoencoder of pictures": (
        lambda: models.conv_autoencoder(code=3, widths=(4, 8), size=12),
        (1, 12, 12),
        (9 + 1) * 4 + (9 * 4 + 1) * 8 + (72 + 1) * 3 + (3 + 1) * 72 + (16 * 8 * 4 + 4) + (16 * 4 + 1),
    ),
    "cnn": (
        lambda: models.cnn(),
        (1, 28, 28),
        25 * 16 + 25 * 16 * 32 + 25 * 32 * 64 + 2 * (16 + 32 + 64) + 64 * 4 * 4 * 10 + 10,
    ),
    "cnn in colour": (
        lambda: models.cnn(classes=10, channels=3, widths=[4, 8], size=17, kernel=3),
        (3, 17, 17),
        9 * 3 * 4 + 9 * 4 * 8 + 2 * (4 + 8) + 8 * 5 * 5 * 10 + 10,
    ),
}
every_model = pytest.mark.parametrize(("factory", "shape", "parameters"), MODELS.values(), ids=MODELS)


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def seeded(factory: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return factory()


def samples(shape: tuple[int, ...], count: int = 20) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, *shape, generator=generator), torch.randint(10, (count,), generator=generator)


@every_model
@pytest.mark.parametrize("batch_size", [1, 2, 33])
def test_logits_have_one_row_a_sample(factory, shape, parameters, batch_size):
    model = seeded(factory).eval()
    outputs = model(torch.rand(batch_size, *shape))
    assert outputs.shape == (batch_size, 144 if shape == (1, 12, 12) else 10)  # a picture again, or ten logits


@every_model
def test_a_sample_gets_the_same_logits_alone_and_in_a_batch(factory, shape, parameters):
    model = seeded(factory).eval()
    inputs, _ = samples(shape)
    alone = torch.cat([model(sample[None]) for sample in inputs])
    torch.testing.assert_close(model(inputs), alone, rtol=1e-4, atol=1e-5)


@every_model
def test_the_number_of_parameters_is_the_one_worked_out_by_hand(factory, shape, parameters):
    assert sum(parameter.numel() for parameter in factory().parameters()) == parameters


@every_model
def test_one_seed_gives_the_same_bits_and_another_gives_others(factory, shape, parameters):
    first, again, other = (seeded(factory, seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@every_model
def test_every_parameter_gets_a_gradient(factory, shape, parameters):
    model = seeded(factory)
    inputs, targets = samples(shape)
    F.cross_entropy(model(inputs), targets).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.count_nonzero() > 0, name


@every_model
def test_models_are_plain_modules_of_torch(factory, shape, parameters):
    assert {type(module).__module__.split(".")[0] for module in factory().modules()} == {"torch"}


@pytest.mark.parametrize("name", ["linear", "mlp", "cnn", "cnn in colour"])
def test_a_model_overfits_twenty_samples(name):
    factory, shape, _ = MODELS[name]
    model = seeded(factory)
    inputs, targets = samples(shape)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(100):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), targets)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    assert (model.eval()(inputs).argmax(1) == targets).all()


def test_mlp_puts_dropout_after_each_hidden_relu_and_nowhere_else():
    kinds = [type(layer) for layer in models.mlp(4, 3, 2, 1, dropout=0.25)]
    hidden = [nn.Linear, nn.ReLU, nn.Dropout]
    assert kinds == [nn.Flatten, *hidden, *hidden, nn.Linear]
    assert not any(isinstance(layer, nn.Dropout) for layer in models.mlp(4, 3, 1))


@pytest.mark.parametrize(("output", "last", "low"), [("tanh", nn.Tanh, -1), ("sigmoid", nn.Sigmoid, 0)])
def test_an_autoencoder_is_an_encoder_and_a_decoder_that_mirror_each_other(output, last, low):
    model = seeded(lambda: models.autoencoder(784, 16, 8, 3, output=output))
    images = torch.rand(5, 1, 28, 28) * 100
    code = model.encoder(images)
    assert code.shape == (5, 3)
    assert bool((code < 0).any())  # no ReLU on the code
    outputs = model(images)
    assert torch.equal(outputs, model.decoder(code))
    assert outputs.shape == (5, 784)
    assert low <= outputs.min() < outputs.max() <= 1
    kinds = [type(layer) for part in model for layer in part]
    assert kinds == [nn.Flatten, *[nn.Linear, nn.ReLU] * 2, nn.Linear, *[nn.Linear, nn.ReLU] * 2, nn.Linear, last]
    widths = [layer.in_features for layer in model.modules() if isinstance(layer, nn.Linear)]
    assert widths == [784, 16, 8, 3, 8, 16]


@pytest.mark.parametrize("make", [models.autoencoder, lambda *w, **o: models.conv_autoencoder(w[-1], size=28, **o)])
def test_an_autoencoder_can_give_its_code_too(make):
    images = torch.rand(3, 1, 28, 28)
    plain, both = (seeded(lambda given=given: make(784, 5, with_code=given)) for given in (False, True))
    outputs, code = both(images)
    assert torch.equal(outputs, plain(images))
    assert torch.equal(code, plain.encoder(images))
    assert list(both.state_dict()) == list(plain.state_dict())


@pytest.mark.parametrize(("size", "widths"), [(28, (16, 32)), (8, (3,)), (32, (2, 3, 4, 5))])
def test_a_convolutional_autoencoder_gives_back_pictures_of_its_size(size, widths):
    model = models.conv_autoencoder(code=6, channels=3, widths=widths, size=size)
    images = torch.rand(2, 3, size, size)
    assert model.encoder(images).shape == (2, 6)
    assert model(images).shape == images.flatten(1).shape


def test_the_sparse_loss_is_the_squared_error_and_a_share_of_the_size_of_the_code():
    generator = torch.Generator().manual_seed(0)
    outputs, targets, code = (torch.randn(7, 5, generator=generator, dtype=torch.float64) for _ in range(3))
    code.requires_grad_()
    loss = models.sparse_mse((outputs, code), targets, penalty=0.25)
    torch.testing.assert_close(loss, F.mse_loss(outputs, targets) + 0.25 * code.abs().mean())
    assert torch.equal(models.sparse_mse((outputs, code), targets, penalty=0.0), F.mse_loss(outputs, targets))
    loss.backward()
    torch.testing.assert_close(code.grad, 0.25 * code.detach().sign() / code.numel())  # towards 0, by the same force


def test_an_autoencoder_learns_to_give_back_what_lies_on_a_line():
    along = torch.linspace(-0.9, 0.9, 64)[:, None]
    x = along * torch.tensor([[1.0, -0.5, 0.3, 0.8]])
    model = seeded(lambda: models.autoencoder(4, 8, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(400):
        optimizer.zero_grad()
        F.mse_loss(model(x), x).backward()
        optimizer.step()
    assert F.mse_loss(model(x), x).item() < 1e-3 < x.var().item()


@pytest.mark.parametrize("size", [8, 28, 29, 32])
def test_cnn_takes_images_of_the_size_it_was_built_for(size):
    assert models.cnn(size=size)(torch.rand(2, 1, size, size)).shape == (2, 10)


@pytest.mark.parametrize(
    ("call", "path", "arguments"),
    [
        (lambda: models.linear(4, outputs=2), "linear:linear", {"args": [4], "kwargs": {"outputs": 2}}),
        (lambda: models.mlp(4, 3, 2), "mlp:mlp", {"args": [4, 3, 2]}),
        (
            lambda: models.mlp(4, 3, 2, dropout=0.1),
            "mlp:mlp",
            {"args": [4, 3, 2], "kwargs": {"dropout": 0.1}},
        ),
        (
            lambda: models.autoencoder(9, 4, 2, output="sigmoid"),
            "autoencoder:autoencoder",
            {"args": [9, 4, 2], "kwargs": {"output": "sigmoid"}},
        ),
        (
            lambda: models.conv_autoencoder(5, with_code=True),
            "autoencoder:conv_autoencoder",
            {"args": [5], "kwargs": {"with_code": True}},
        ),
        (lambda: models.cnn(), "cnn:cnn", {}),
        (lambda: models.cnn(2, widths=(4, 8)), "cnn:cnn", {"args": [2], "kwargs": {"widths": [4, 8]}}),
    ],
)
def test_the_description_of_a_model_builds_it_again(call, path, arguments):
    description = json.loads(json.dumps(describe(call())))
    assert description == {"path": f"clearloop.models.{path}", **arguments}
    module, name = description["path"].split(":")
    factory = getattr(importlib.import_module(module), name)
    again = seeded(lambda: factory(*description.get("args", ()), **description.get("kwargs", {})))
    assert repr(again) == repr(call())
    expected = seeded(call).state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in again.state_dict().items())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: models.linear(0, 10), r"positive ints, got 0 at position 0"),
        (lambda: models.linear(4, -1), r"positive ints, got -1 at position 1"),
        (lambda: models.linear(4, 2.0), r"positive ints, got 2\.0 at position 1"),
        (lambda: models.linear(True, 2), r"positive ints, got True at position 0"),
        (lambda: models.mlp(), r"at least two widths.*got \(\).*mlp\(784, 64, 10\)"),
        (lambda: models.mlp(784), r"at least two widths.*got \(784,\)"),
        (lambda: models.mlp(784, 0, 10), r"positive ints, got 0 at position 1"),
        (lambda: models.mlp(784, "64", 10), r"positive ints, got '64' at position 1"),
        (lambda: models.mlp([784, 64, 10]), r"positive ints, got \[784, 64, 10\] at position 0"),
        (lambda: models.mlp(784, np.int64(64), 10), r"positive ints.*convert other number types with int\(\)"),
        (lambda: models.mlp(4, 3, 2, dropout=1.0), r"in \[0, 1\), got 1\.0; None leaves it out"),
        (lambda: models.mlp(4, 3, 2, dropout=-0.1), r"in \[0, 1\), got -0\.1"),
        (lambda: models.mlp(4, 3, 2, dropout=float("nan")), r"in \[0, 1\), got nan"),
        (lambda: models.autoencoder(784), r"at least two widths.*got \(784,\).*autoencoder\(784, 128, 64, 32\)"),
        (lambda: models.autoencoder(784, 0), r"positive ints, got 0 at position 1"),
        (lambda: models.autoencoder(784, 32, output="relu"), r'output must be "tanh" or "sigmoid", got \'relu\''),
        (lambda: models.conv_autoencoder(0), r"positive ints, got 0 at position 0"),
        (lambda: models.conv_autoencoder(size=30), r"halves the side .* once for each of 2 widths, got a side of 30"),
        (lambda: models.conv_autoencoder(widths=()), r"give fewer widths, at least one, or images of 2 times"),
        (lambda: models.conv_autoencoder(output="relu"), r'output must be "tanh" or "sigmoid"'),
        (lambda: models.cnn(classes=0), r"positive ints, got 0 at position 0"),
        (lambda: models.cnn(channels=1.5), r"positive ints, got 1\.5 at position 1"),
        (lambda: models.cnn(size=-28), r"positive ints, got -28 at position 2"),
        (lambda: models.cnn(widths=()), r"one or more convolutions, got \(\); try \(16, 32, 64\)"),
        (lambda: models.cnn(widths=16), r"one or more convolutions, got 16"),
        (lambda: models.cnn(widths=(16, None)), r"positive ints, got None at position 1"),
        (lambda: models.cnn(kernel=4), r"odd kernel.*got 4; try 5"),
    ],
)
def test_arguments_that_cannot_work_are_refused_with_a_remedy(call, message):
    with pytest.raises(ConfigError, match=message) as caught:
        call()
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, ClearloopError)


def test_a_refused_model_draws_no_random_numbers():
    before = torch.get_rng_state()
    with pytest.raises(ConfigError):
        models.mlp(784, 64, 0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("factory", [models.linear, models.mlp, models.autoencoder, models.cnn])
def test_a_factory_needs_only_torch_once_its_check_is_dropped(factory):
    lines = textwrap.dedent(inspect.getsource(factory.__wrapped__)).splitlines()
    kept = [line for line in lines if not line.endswith("# eject: drop") and line != "@remember"]
    assert len(lines) - len(kept) == 2
    imports = ["__future__ import annotations", "collections import OrderedDict", "itertools import pairwise"]
    program = "".join(f"from {line}\n" for line in [*imports, "torch import nn"])
    names: dict[str, Callable[..., nn.Module]] = {}
    exec(program + "\n".join(kept), names)
    arguments = {"linear": (4, 2), "mlp": (4, 3, 2), "autoencoder": (4, 3, 2), "cnn": ()}[factory.__name__]
    printed = seeded(lambda: names[factory.__name__](*arguments)).state_dict()
    own = seeded(lambda: factory(*arguments)).state_dict()
    assert all(torch.equal(printed[key], own[key]) for key in own)
