"""Predictions from files, pictures and arrays; and a predictor folder that survives crashes, damage and malice."""

import errno
import hashlib
import json
import os
import pickle
import random
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

import clearloop as cl
from clearloop import durable, models, predictor, rebuild
from clearloop.callback import Callback
from clearloop.data.loaders import DataLoaders
from clearloop.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    ModelError,
    NonFiniteError,
    RunError,
    StorageError,
)
from clearloop.learner import Learner
from clearloop.predictor import Prediction, Predictor

COUNT = 40


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def learn():
    torch.set_num_threads(1)
    learn = Learner(DataLoaders.mnist(64, seed=0), models.mlp(784, 32, 10), seed=0, device="cpu")
    learn.fit(1, lr=0.3, quiet=True)
    return learn


@pytest.fixture(scope="module")
def trained(learn):
    return Predictor.of(learn)


@pytest.fixture(scope="module")
def digits(trained, learn):
    """Bytes of shape (40, 28, 28) and labels of validation digits that the model is sure of, and right about."""
    images, labels = learn.dls.valid.dataset.tensors
    said = trained.batch(list(images[:400].reshape(-1, 28, 28)))
    sure = [i for i, one in enumerate(said) if one.index == labels[i] and one.probabilities.max() > 0.98][:COUNT]
    return images[sure].reshape(-1, 28, 28), labels[sure]


@pytest.fixture
def folder(trained, tmp_path):
    trained.save(tmp_path / "saved")
    return tmp_path / "saved"


def same_weights(one, other):
    states = one.model.state_dict(), other.model.state_dict()
    return states[0].keys() == states[1].keys() and all(torch.equal(states[0][n], states[1][n]) for n in states[0])


def values(predictions):
    return torch.stack([prediction.values for prediction in predictions])


def rewrite(folder, **files):
    """Put other files into a predictor folder, with a manifest that fits."""
    content = {name: (folder / name).read_bytes() for name in ("predictor.json", "model.safetensors")}
    content.update(files.pop("named", {}))
    shutil.rmtree(folder)
    durable.write_directory(folder, content)


def edit(folder, **changes):
    settings = json.loads((folder / "predictor.json").read_text())
    settings.update(changes)
    rewrite(folder, named={"predictor.json": json.dumps(settings).encode()})


# --- pictures of digits


def in_mode(pixels, mode):
    image = Image.fromarray(pixels.numpy())
    if mode == "I;16":
        return Image.fromarray(pixels.numpy().astype(np.uint16) * 257)
    return image.convert(mode)


@pytest.mark.parametrize("polarity", ["bright on dark", "dark on light"])
@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_files_of_every_mode_and_polarity_are_predicted_as_in_training_to_the_bit(
    mode, polarity, trained, learn, digits, tmp_path
):
    images, labels = digits
    dark = polarity == "dark on light"
    paths = [tmp_path / f"{i}.png" for i in range(COUNT)]
    for path, pixels in zip(paths, images, strict=True):
        in_mode(255 - pixels if dark else pixels, mode).save(path)
    said = trained.batch(paths, dark_on_light=dark)
    scaled, _ = cl.data.loaders.scale_images((images, labels))
    learn.model.eval()
    with torch.no_grad():
        expected = learn.model(scaled)
    learn.model.train()
    assert torch.equal(values(said), expected)
    assert [one.label for one in said] == [str(int(label)) for label in labels]


@pytest.mark.parametrize(
    ("size", "crop", "right"),
    [((56, 56), False, 1.0), ((140, 140), False, 1.0), ((100, 100), False, 0.95), ((31, 31), False, 0.9)]
    + [((56, 56), True, 0.95), ((100, 100), True, 0.95), ((20, 20), True, 0.8)],
)
def test_files_of_other_sizes_are_predicted_right(size, crop, right, trained, digits, tmp_path):
    images, labels = digits
    paths = []
    for i, pixels in enumerate(images):
        paths.append(tmp_path / f"{i}.jpg")
        image = Image.fromarray(pixels.numpy()).resize(size, Image.Resampling.BICUBIC)
        image.convert("RGB").save(paths[-1], quality=95)
    said = trained.batch(paths, crop=crop)
    assert sum(one.index == int(label) for one, label in zip(said, labels, strict=True)) >= right * COUNT


def test_dark_digits_somewhere_on_a_light_sheet_are_found_with_crop(trained, digits):
    images, labels = digits
    right = missed = 0
    for i, (pixels, label) in enumerate(zip(images, labels, strict=True)):
        sheet = np.full((260, 180), 235, np.uint8)
        large = np.asarray(Image.fromarray(pixels.numpy()).resize((84, 84), Image.Resampling.BICUBIC))
        sheet[3 * i : 3 * i + 84, 2 * i : 2 * i + 84] -= (large * 0.8).astype(np.uint8)
        image = Image.fromarray(sheet)
        right += trained(image, dark_on_light=True, crop=True).index == int(label)
        missed += trained(image, dark_on_light=True).index != int(label)
    assert right >= 0.95 * COUNT
    assert missed >= 0.3 * COUNT  # so it is the cropping that finds them


# --- what an image model takes


def test_every_form_of_one_digit_gives_the_same_bits(trained, digits, tmp_path):
    bytes_ = digits[0][0].clamp(max=127)
    floats = bytes_.float().div(255)
    Image.fromarray(bytes_.numpy()).save(tmp_path / "digit.png")
    forms = [
        tmp_path / "digit.png",
        str(tmp_path / "digit.png"),
        Image.fromarray(bytes_.numpy()),
        bytes_,
        bytes_[None],
        bytes_.flatten(),
        bytes_.numpy(),
        bytes_.numpy()[:, :, None].repeat(3, axis=2),
        bytes_.expand(3, 28, 28),
        bytes_.tolist(),
        bytes_.long(),
        floats,
        floats[None],
        floats.flatten(),
        floats.numpy(),
        floats.numpy().astype(">f4"),
        floats.double().numpy().astype(np.longdouble),
        np.ascontiguousarray(floats.numpy()[::-1])[::-1],
        *(bytes_.numpy().astype(kind) for kind in (np.int8, np.uint16, np.int32, ">i4", np.uint64)),
        floats.tolist(),
        floats.clone().requires_grad_(),
    ]
    expected = trained(forms[0]).values
    for form in forms:
        assert torch.equal(trained(form).values, expected)


def test_floats_are_inverted_and_cropped_like_pictures(trained, digits):
    bytes_ = digits[0][1]
    floats = (255 - bytes_).float() / 255
    assert torch.equal(trained(floats, dark_on_light=True).values, trained(bytes_).values)
    moved = torch.zeros(28, 28)
    moved[:26, :26] = bytes_[2:, 2:].float() / 255
    assert torch.equal(trained(moved, crop=True).values, trained((moved * 255).round().byte(), crop=True).values)


def test_floats_become_the_nearest_pixel_where_they_must_become_one():
    four = Predictor(nn.Flatten(), image_size=(2, 2))
    floats = torch.tensor([[0.0, 0.996], [0.4999, 1.0]])  # 0, 253.98, 127.47, 255
    assert torch.equal(four(floats, dark_on_light=True).values, torch.tensor([255.0, 1.0, 128.0, 0.0]) / 255)


def test_black_and_white_arrays_are_pixels_of_0_and_255(trained, digits):
    ink = digits[0][2] > 127
    assert torch.equal(trained(ink).values, trained(ink.byte() * 255).values)
    assert torch.equal(trained(ink.numpy()).values, trained(ink.byte() * 255).values)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (torch.rand(27, 28), r"expected an image file.*\(28, 28\).*got floats of shape \(27, 28\)"),
        (torch.rand(2, 28, 28), r"got floats of shape \(2, 28, 28\)"),
        (torch.rand(28, 28) * 200, r"expected floats in \[0, 1\], got .*uint8"),
        (torch.rand(28, 28) - 0.5, r"expected floats in \[0, 1\]"),
        (torch.full((28, 28), torch.nan), "NaN"),
        (torch.full((28, 28), 300), r"expected pixels of 0 to 255, got 300\.\.300"),
        (np.full((28, 28), -1), "expected pixels of 0 to 255"),
        (np.zeros((28, 28, 2), np.uint8), "got shape"),
        (np.zeros((0, 28), np.uint8), "got shape"),
        (np.zeros((28, 28), complex), "expected numbers"),
        (torch.zeros(28, 28, dtype=torch.complex64), "expected real numbers"),
        (torch.eye(28).to_sparse(), "dense"),
        ([["a"] * 28] * 28, "expected numbers"),
        ([[1, 2], [3]], "regular shape"),
        (None, "expected numbers"),
        ({"a": 1}, "expected numbers"),
        (object(), "expected numbers"),
        ("no/such.png", r"no/such\.png.*no such file"),
        (Image.new("F", (28, 28)), "mode F"),
    ],
)
def test_what_is_no_image_is_refused_with_what_was_expected(item, message, trained):
    with pytest.raises(DataError, match=message):
        trained(item)


def test_an_item_of_a_batch_that_is_refused_is_named_by_its_number(trained, digits):
    with pytest.raises(DataError, match=r"item 2: .*\(3, 3\)"):
        trained.batch([digits[0][0], digits[0][1], torch.rand(3, 3)])


def test_a_model_of_flat_inputs_takes_pictures_too(digits):
    flat = Predictor(nn.Linear(784, 10), list("0123456789"), (28, 28), (784,))
    expected = flat.model(digits[0][:1].float().div(255).flatten(1))[0]
    assert torch.equal(flat(digits[0][0]).values, expected)
    assert torch.equal(flat(digits[0][0].float().div(255).flatten()).values, expected)


# --- vectors


def test_a_model_of_vectors_takes_arrays_of_their_shape():
    model = nn.Linear(4, 2)
    vectors = Predictor(model, input_shape=(4,))
    x = torch.randn(4)
    with torch.no_grad():
        expected = model(x[None])[0]
    for form in (x, x.numpy(), x.tolist(), x.double(), x.clone().requires_grad_()):
        said = vectors(form)
        assert torch.equal(said.values, expected)
        assert (said.label, said.index, said.probabilities) == (None, None, None)
    assert torch.equal(vectors([1, 0, 2, 3]).values, vectors([1.0, 0.0, 2.0, 3.0]).values)
    assert torch.equal(vectors(np.array([1, 0, 2, 200], np.uint8)).values, vectors([1.0, 0.0, 2.0, 200.0]).values)


def test_wide_floats_are_kept_for_a_model_of_wide_floats():
    model = nn.Linear(3, 1).double()
    x = [0.1, 1 / 3, 1e-17]
    with torch.no_grad():
        expected = model(torch.tensor([x], dtype=torch.float64))[0]
    assert torch.equal(Predictor(model, input_shape=(3,), input_dtype=torch.float64)(x).values, expected)


def test_a_model_of_whole_numbers_takes_those_alone():
    words = Predictor(nn.Embedding(10, 2), input_shape=(3,), input_dtype=torch.int64)
    assert torch.equal(words([1, 2, 9]).values, words.model(torch.tensor([1, 2, 9])))
    with pytest.raises(DataError, match="give whole numbers"):
        words([1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ([1.0, 2.0], r"expected a float32 array of shape \(4,\), got shape \(2,\)"),
        (torch.zeros(1, 4), r"got shape \(1, 4\); give one item at a time"),
        ([0.0, 1.0, 2.0, float("inf")], "NaN or infinity"),
        ("digit.png", r"expected a float32 array.*the path digit\.png"),
        (["1", "2", "3", "4"], "expected numbers"),
    ],
)
def test_what_is_no_such_vector_is_refused(item, message):
    with pytest.raises(DataError, match=message):
        Predictor(nn.Linear(4, 2), input_shape=(4,))(item)


def test_bytes_of_more_dimensions_are_not_guessed_to_be_scaled_or_not():
    colour = Predictor(nn.Flatten(), input_shape=(3, 2, 2))
    assert colour(torch.rand(3, 2, 2)).values.shape == (12,)
    with pytest.raises(DataError, match="divided by 255"):
        colour(torch.zeros(3, 2, 2, dtype=torch.uint8))


def test_options_of_pictures_are_refused_for_vectors():
    with pytest.raises(ConfigError, match="dark_on_light"):
        Predictor(nn.Linear(4, 2), input_shape=(4,))([0, 0, 0, 0], dark_on_light=True)


# --- predictions


def constant(*outputs):
    """A model that always gives these outputs."""

    class Constant(nn.Module):
        def forward(self, inputs):
            return torch.tensor([outputs]).expand(len(inputs), -1)

    return Constant()


def test_probabilities_of_several_classes_are_a_softmax():
    said = Predictor(constant(0.0, 2.0, 1.0), "abc", input_shape=(1,))([0.0])
    assert (said.label, said.index) == ("b", 1)
    assert torch.equal(said.probabilities, torch.tensor([0.0, 2.0, 1.0]).softmax(0))
    assert said.values.tolist() == [0.0, 2.0, 1.0]


@pytest.mark.parametrize(("logit", "label"), [(1.5, "seven"), (-1.5, "three"), (0.0, "three"), (60.0, "seven")])
def test_one_logit_for_two_classes_is_a_sigmoid_positive_for_the_second(logit, label):
    said = Predictor(constant(logit), ["three", "seven"], input_shape=(1,))([0.0])
    assert said.label == label
    expected = torch.tensor([-logit, logit]).sigmoid()
    assert torch.equal(said.probabilities, expected)
    assert said.probabilities[0] > 0  # no 1 - 1


def test_two_outputs_for_two_classes_are_a_softmax():
    said = Predictor(constant(1.0, 3.0), ["no", "yes"], input_shape=(1,))([0.0])
    assert said.label == "yes"
    assert torch.equal(said.probabilities, torch.tensor([1.0, 3.0]).softmax(0))


def test_a_prediction_prints_the_likeliest_classes():
    logits = torch.tensor([0.001, 0.004, 0.002, 0.993]).log()
    names = list("0197")
    assert (
        str(Predictor(constant(*logits.tolist()), names, input_shape=(1,))([0.0]))
        == "7  0.993  (then 1 0.004, 9 0.002)"
    )
    assert str(Predictor(constant(0.0, 50.0), ["no", "yes"], input_shape=(1,))([0.0])) == "yes  1.000"
    assert str(Predictor(constant(1.25, -3.0), input_shape=(1,))([0.0])) == "1.25, -3"
    assert str(Prediction(None, None, None, torch.arange(784.0))).endswith("6, 7, … (784 values)")


class ByName(nn.Module):
    """A model whose outputs have names: none of them is the prediction."""

    def forward(self, x):
        return {"outputs": x}


def test_of_several_outputs_the_first_is_the_prediction():
    assert Predictor(nn.GRU(1, 2), input_shape=(1, 1))([[0.0]]).values.shape == (1, 2)


def test_outputs_that_do_not_fit_the_classes_are_a_model_error():
    with pytest.raises(ModelError, match="each of 2 classes"):
        Predictor(constant(1.0, 2.0, 3.0), ["no", "yes"], input_shape=(1,))([0.0])
    with pytest.raises(ModelError, match="one row an item"):
        Predictor(ByName(), input_shape=(1, 1))([[0.0]])
    with pytest.raises(ModelError, match=r"one row an item \(1\), got \(3,\)"):
        Predictor(nn.Flatten(0), input_shape=(3,))([0.0, 1.0, 2.0])


def test_lost_weights_are_seen_in_the_outputs():
    with pytest.raises(NonFiniteError, match="NaN or infinity"):
        Predictor(constant(float("nan"), 1.0), ["no", "yes"], input_shape=(1,))([0.0])


def test_a_batch_is_predicted_in_pieces_like_the_whole(trained, digits, monkeypatch):
    items = list(digits[0])
    labels = [one.label for one in trained.batch(items)]
    monkeypatch.setattr(predictor, "CHUNK", 7)
    seen = []
    trained.model.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    assert [one.label for one in trained.batch(iter(items))] == labels
    assert seen == [7, 7, 7, 7, 7, 5]
    trained.model._forward_hooks.clear()
    assert trained.batch([]) == []
    single = values([trained(item) for item in items])
    assert torch.allclose(single, values(trained.batch(items)), rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match="give a list"):
        trained.batch("digit.png")


def test_predicting_leaves_no_trace_in_random_states_weights_or_the_callers_tensors(digits):
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.drop = nn.BatchNorm2d(1), nn.Dropout(0.5)

        def forward(self, inputs):
            torch.rand(3), random.random(), np.random.rand()
            return self.drop(self.norm(inputs)).flatten(1)

    noisy = Predictor(Noisy(), image_size=(28, 28))
    noisy.model.train()
    before = {name: tensor.clone() for name, tensor in noisy.model.state_dict().items()}
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    item = digits[0][0].float() / 255
    copy = item.clone()
    assert torch.equal(noisy(item).values, noisy(item).values)
    assert torch.equal(item, copy)
    assert all(torch.equal(before[name], tensor) for name, tensor in noisy.model.state_dict().items())
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (random.getstate(), np.random.get_state()[1].tolist())


def test_values_may_be_computed_with_afterwards(trained, digits):
    said = trained(digits[0][0])
    assert not said.values.is_inference()
    assert not said.values.requires_grad
    said.values.clone().requires_grad_().sum().backward()


def test_a_predictor_that_does_not_know_its_input_is_refused():
    with pytest.raises(ConfigError, match="image_size or input_shape"):
        Predictor(nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="do not fill"):
        Predictor(nn.Linear(2, 2), image_size=(28, 28), input_shape=(783,))


# --- of a Learner


def test_the_predictor_of_a_learner_is_a_copy_that_training_does_not_change(digits):
    learn = Learner(DataLoaders.mnist(500, seed=0), models.cnn(), seed=0, device="cpu")
    learn.model.train()
    before = {name: tensor.clone() for name, tensor in learn.model.state_dict().items()}
    state = torch.get_rng_state()
    now = Predictor.of(learn)
    assert torch.equal(state, torch.get_rng_state())
    assert learn.model.training
    assert not now.model.training
    first = now(digits[0][0])
    assert all(torch.equal(before[name], tensor) for name, tensor in learn.model.state_dict().items())
    with torch.no_grad():
        for parameter in learn.model.parameters():
            parameter.add_(1.0)
    assert torch.equal(now(digits[0][0]).values, first.values)
    assert (now.image_size, now.input_shape, now.classes) == ((28, 28), (1, 28, 28), tuple("0123456789"))


def test_averaged_weights_are_those_that_predict():
    class Averages(Callback):
        def before_validate(self, learn):
            self.own = learn.model[1].weight.detach().clone()
            with torch.no_grad():
                learn.model[1].weight.fill_(0.25)

        def after_validate(self, learn):
            with torch.no_grad():
                learn.model[1].weight.copy_(self.own)

    data = cl.TensorDataset(torch.randn(8, 3), torch.randn(8, 1))
    learn = Learner((cl.DataLoader(data, 4),), models.linear(3, 1), cbs=[Averages()], device="cpu")
    own = learn.model[1].weight.detach().clone()
    assert torch.equal(Predictor.of(learn).model[1].weight, torch.full((1, 3), 0.25))
    assert torch.equal(learn.model[1].weight, own)


def learner(inputs, targets, model, classes=None):
    loader = cl.DataLoader(cl.TensorDataset(inputs, targets), 4)
    return Learner(DataLoaders(loader, classes=classes), model, loss_func=lambda p, t: p.sum(), device="cpu")


@pytest.mark.parametrize(
    ("targets", "outputs", "classes", "expected"),
    [
        (torch.arange(8) % 3, 3, None, ("0", "1", "2")),
        (torch.arange(8) % 2, 1, None, ("0", "1")),
        (torch.arange(8), 1, None, None),  # counts, not classes
        (torch.randn(8), 1, None, None),
        (torch.randn(8), 2, None, None),
        (torch.randn(8, 2), 2, None, None),
        (torch.arange(8) % 2, 2, ["no", "yes"], ("no", "yes")),
        (torch.randn(8, 3), 3, ["no", "yes"], None),  # an autoencoder on labelled data
    ],
)
def test_classes_are_named_where_the_model_classifies(targets, outputs, classes, expected):
    assert Predictor.of(learner(torch.randn(8, 3), targets, nn.Linear(3, outputs), classes)).classes == expected


def test_a_learner_on_vectors_gives_a_predictor_of_vectors():
    learn = learner(torch.randn(8, 5), torch.randn(8, 1), nn.Linear(5, 1))
    said = learn.predict([1, 2, 3, 4, 5])
    assert torch.equal(said.values, learn.model(torch.tensor([[1.0, 2, 3, 4, 5]]))[0])


def test_a_model_of_two_inputs_is_refused_with_the_reason():
    data = cl.TensorDataset(torch.randn(8, 3), torch.randn(8, 3), torch.randn(8, 1))
    learn = Learner((cl.DataLoader(data, 4),), nn.Bilinear(3, 3, 1), device="cpu")
    with pytest.raises(ConfigError, match="one tensor"):
        Predictor.of(learn)


# --- saved and loaded


def test_a_saved_predictor_predicts_the_same_bits(folder, trained, digits):
    loaded = Predictor.load(folder)
    assert not loaded.model.training
    items = list(digits[0])
    assert torch.equal(values(loaded.batch(items)), values(trained.batch(items)))
    names = ("classes", "image_size", "input_shape", "input_dtype")
    assert [getattr(loaded, name) for name in names] == [getattr(trained, name) for name in names]


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (models.linear(12, 3), (12,)),
        (models.mlp(12, 4, 3, dropout=0.5), (3, 4)),
        (models.cnn(3, 1, (4, 8), 12), (1, 12, 12)),
    ],
    ids=["linear", "mlp", "cnn"],
)
def test_every_model_comes_back_with_all_its_parameters_and_buffers(model, shape, tmp_path):
    model.train()(torch.randn(8, *shape))  # moves the statistics of batch norm
    one = Predictor(model, input_shape=shape)
    one.save(tmp_path / "p")
    state = torch.get_rng_state()
    loaded = Predictor.load(tmp_path / "p")
    assert torch.equal(state, torch.get_rng_state())
    assert same_weights(one, loaded)
    x = torch.randn(shape)
    assert torch.equal(one(x).values, loaded(x).values)


def test_a_run_directory_gives_its_predictor(trained, tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "recipe.json").write_text("{}")
    trained.save(tmp_path / "run" / "predictor")
    assert same_weights(Predictor.load(tmp_path / "run"), trained)
    assert same_weights(Predictor.load(str(tmp_path / "run" / "predictor")), trained)


def test_the_folder_holds_safetensors_and_strict_json_alone(folder, trained):
    assert sorted(os.listdir(folder)) == ["manifest.json", "model.safetensors", "predictor.json"]
    settings = json.loads((folder / "predictor.json").read_text(), parse_constant=pytest.fail)
    assert settings["model"] == {"path": "clearloop.models.mlp:mlp", "args": [784, 32, 10]}
    assert settings["image_size"] == [28, 28]
    assert settings["torch"] == torch.__version__
    weights = load_file(folder / "model.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in weights.items()} == {
        name: tuple(tensor.shape) for name, tensor in trained.model.state_dict().items()
    }
    assert b"\x80\x04" not in (folder / "predictor.json").read_bytes()


class Tied(nn.Module):
    """Ties two layers, keeps a buffer that state_dict leaves out, and one that is a view of a weight."""

    def __init__(self):
        super().__init__()
        self.there, self.back = nn.Linear(4, 4), nn.Linear(4, 4)
        self.back.weight = self.there.weight
        self.register_buffer("scale", torch.tensor(2.0), persistent=False)
        self.register_buffer("view", self.there.bias.detach()[1:3])

    def forward(self, inputs):
        return self.back(self.there(inputs)) * self.scale + self.view.sum()


def test_tied_weights_hidden_buffers_and_views_come_back(tmp_path):
    model = Tied()
    with torch.no_grad():
        model.scale.fill_(3.0)
    one = Predictor(model, input_shape=(4,))
    one.save(tmp_path / "p")
    assert set(load_file(tmp_path / "p" / "model.safetensors")) == {
        "there.weight", "there.bias", "back.bias", "scale", "view",
    }  # fmt: skip
    for given in (Tied(), Tied):
        loaded = Predictor.load(tmp_path / "p", model=given)
        assert loaded.model.back.weight is loaded.model.there.weight
        assert loaded.model.scale == 3.0
        assert torch.equal(one([1, 2, 3, 4]).values, loaded([1, 2, 3, 4]).values)


def test_weights_tied_after_the_model_was_built_come_back(tmp_path):
    model = models.mlp(3, 3, 3)
    model[3].weight = model[1].weight
    one = Predictor(model, input_shape=(3,))
    one.save(tmp_path / "p")
    assert "3.weight" not in load_file(tmp_path / "p" / "model.safetensors")
    assert torch.equal(one([1, 2, 3]).values, Predictor.load(tmp_path / "p")([1, 2, 3]).values)


def test_a_model_of_the_users_own_is_saved_and_asked_for(tmp_path):
    one = Predictor(Tied(), input_shape=(4,))
    one.save(tmp_path / "p")
    with pytest.raises(RunError, match=r"Tied.*Predictor\.load\(folder, model=\.\.\.\)"):
        Predictor.load(tmp_path / "p")
    mine = Tied()
    before = mine.there.weight.detach().clone()
    Predictor.load(tmp_path / "p", model=mine)
    assert torch.equal(mine.there.weight, before)  # the weights went into a copy
    with pytest.raises(CheckpointError, match=r"back\.bias: saved \(4,\) float32, model nothing"):
        Predictor.load(tmp_path / "p", model=nn.Linear(4, 4))
    with pytest.raises(CheckpointError, match="float64"):
        Predictor.load(tmp_path / "p", model=Tied().double())


def test_a_model_whose_layers_were_changed_is_not_built_by_its_old_description(tmp_path):
    model = models.mlp(4, 3, 2)
    model[2] = nn.Tanh()  # no tensor changes its shape
    one = Predictor(model, input_shape=(4,))
    one.save(tmp_path / "p")
    with pytest.raises(RunError, match="model="):
        Predictor.load(tmp_path / "p")
    other = models.mlp(4, 3, 2)
    other[2] = nn.Tanh()
    x = [1.0, -2.0, 3.0, 0.5]
    assert torch.equal(Predictor.load(tmp_path / "p", model=other)(x).values, one(x).values)


def test_a_model_with_tensors_that_no_file_holds_is_refused_and_nothing_is_left(tmp_path):
    model = nn.Linear(2, 2)
    model.register_buffer("sparse", torch.eye(2).to_sparse())
    with pytest.raises(RunError, match="dense tensors"):
        Predictor(model, input_shape=(2,)).save(tmp_path / "p")
    assert os.listdir(tmp_path) == []


def test_loading_imports_no_training_code(folder, digits):
    code = """
import sys, torch
torch.set_num_threads(1)
before = set(sys.modules)
from clearloop import Predictor
predictor = Predictor.load(sys.argv[1])
print(predictor([[0] * 28] * 28).index)
training = ("clearloop.learner", "clearloop.step", "clearloop.callback", "clearloop.checkpoint", "clearloop.history",
    "clearloop.metrics", "clearloop.schedules", "clearloop.engines", "clearloop.saving", "torch.optim")
print([name for name in sys.modules if name not in before and name.startswith(training)])
"""
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    index, training = done.stdout.splitlines()
    assert index in "0123456789"
    assert training == "[]"


# --- no predictor, damage, malice


def test_a_missing_predictor_is_a_run_error_that_says_how_to_write_one(tmp_path):
    with pytest.raises(RunError, match=r"no such folder.*Predictor\.of\(learn\)\.save"):
        Predictor.load(tmp_path / "none")
    with pytest.raises(RunError, match="a folder without one"):
        Predictor.load(tmp_path)


def test_a_byte_changed_cut_or_added_anywhere_is_a_checkpoint_error(folder, tmp_path):
    draws = random.Random(0)
    for name in sorted(os.listdir(folder)):
        whole = (folder / name).read_bytes()
        places = [0, len(whole) - 1, *(draws.randrange(len(whole)) for _ in range(20))]
        changed = [whole[:i] + bytes([whole[i] ^ 1 << draws.randrange(8)]) + whole[i + 1 :] for i in places]
        for data in [*changed, whole[: len(whole) // 2], whole + b"\n", b""]:
            (folder / name).write_bytes(data)
            with pytest.raises(CheckpointError):
                Predictor.load(folder)
        (folder / name).write_bytes(whole)
    Predictor.load(folder)


@pytest.mark.parametrize("name", ["manifest.json", "model.safetensors"])
def test_a_missing_file_is_named(name, folder):
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        Predictor.load(folder)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("pickled",)


def test_a_pickle_in_the_folder_is_never_loaded(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: pytest.fail("torch.load was called"))
    for name in ("model.pkl", "model.pt", "pytorch_model.bin"):
        (folder / name).write_bytes(pickle.dumps(Evil()))
        with pytest.raises(CheckpointError, match=name):  # a file that the manifest does not list
            Predictor.load(folder)
        (folder / name).unlink()
    weights = (folder / "model.safetensors").read_bytes()
    for name in ("model.pkl", "model.safetensors", "predictor.json"):
        rewrite(folder, named={name: pickle.dumps(Evil())})
        with pytest.raises(CheckpointError):  # one that it does
            Predictor.load(folder)
        shutil.rmtree(folder)
        durable.write_directory(folder, {"predictor.json": b"{}", "model.safetensors": weights})
    torch.save({"a": Evil()}, folder / "a.pt")
    rewrite(folder, named={"model.safetensors": (folder / "a.pt").read_bytes()})
    with pytest.raises(CheckpointError):
        Predictor.load(folder)
    assert not (tmp_path / "pickled").exists()
    pickle.loads(pickle.dumps(Evil()))  # the trap works
    assert (tmp_path / "pickled").exists()


@pytest.mark.parametrize(
    "model",
    [
        {"path": "os:system", "args": ["mkdir pickled"]},
        {"path": "os:mkdir", "args": ["pickled"]},
        {"path": "clearloop.models.mlp:nn.Linear", "args": [784, 10]},
        {"path": "torch.hub:load", "args": ["x", "y"]},
        {"path": "clearloop.models.mlp:mlp", "args": [784, {"path": "os:mkdir", "args": ["pickled"]}]},
        {"path": "clearloop.models.mlp:mlp", "args": [784]},
        {"path": "clearloop.models.mlp:mlp", "args": ["784", 32, 10]},
        {"source": "import os; os.mkdir('pickled')", "name": "Net"},
        {"repr": "Net()"},
        "clearloop.models.mlp:mlp",
        None,
        7,
        [],
    ],
)
def test_a_poisoned_description_of_the_model_is_refused_with_the_way_out(model, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    edit(folder, model=model)
    with pytest.raises(RunError, match=r"Predictor\.load\(folder, model=\.\.\.\)"):
        Predictor.load(folder)
    assert not (tmp_path / "pickled").exists()
    Predictor.load(folder, model=models.mlp(784, 32, 10))


@pytest.mark.parametrize("args", [[784, 33, 10], [784, 10], [784, 32, 32, 10], [10**9, 10**9, 10**6], [10**18, 10]])
def test_a_description_of_another_model_is_refused_before_memory_is_allocated(args, folder, monkeypatch):
    devices = []

    def spy(description):
        devices.append(torch.empty(0).device.type)
        return build(description)

    build = predictor.build_model
    monkeypatch.setattr(predictor, "build_model", spy)
    monkeypatch.setattr(rebuild, "build_model", spy)
    edit(folder, model={"path": "clearloop.models.mlp:mlp", "args": args})
    with pytest.raises((CheckpointError, RunError), match="model"):
        Predictor.load(folder)
    assert devices == ["meta"]
    edit(folder, model={"path": "clearloop.models.mlp:mlp", "args": [784, 32, 10]})
    Predictor.load(folder)
    assert devices == ["meta", "meta", "cpu"]


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"format": True},
        {"format": "1"},
        {"classes": "0123456789"},
        {"classes": [0, 1, 2]},
        {"classes": {}},
        {"image_size": [28]},
        {"image_size": [28, -28]},
        {"image_size": [28, 28.0]},
        {"image_size": [784]},
        {"image_size": [28, 28, 1]},
        {"image_size": [-28, -28]},
        {"image_size": [10**9, 10**9], "input_shape": [10**9, 10**9]},
        {"image_size": [28, 27]},
        {"image_size": "28"},
        {"input_shape": None},
        {"input_shape": [0]},
        {"input_shape": [[784]]},
        {"input_dtype": "load"},
        {"input_dtype": ["float32"]},
        {"input_dtype": None},
        {"tied": None},
        {"tied": []},
        {"tied": {"a": 1}},
        {"tied": {"a": "missing"}},
        {"tied": {"1.weight": "1.bias"}},
        {"tied": {"more": "1.bias"}},
    ],
)
def test_settings_of_another_form_are_refused(changes, folder):
    edit(folder, **changes)
    with pytest.raises(CheckpointError):
        Predictor.load(folder)


@pytest.mark.parametrize("missing", ["format", "model", "classes", "image_size", "input_shape", "input_dtype", "tied"])
def test_a_setting_that_is_missing_is_named(missing, folder):
    settings = json.loads((folder / "predictor.json").read_text())
    del settings[missing]
    rewrite(folder, named={"predictor.json": json.dumps(settings).encode()})
    with pytest.raises(CheckpointError, match=missing):
        Predictor.load(folder)


@pytest.mark.parametrize(
    "text", [b"[]", b"7", b'{"format": 1, "format": 1}', b'{"format": NaN}', b"{", b"\xff", b"[" * 9999]
)
def test_settings_that_are_no_strict_json_are_refused(text, folder):
    rewrite(folder, named={"predictor.json": text})
    with pytest.raises(CheckpointError):
        Predictor.load(folder)


def test_weights_that_are_none_or_of_another_form_are_refused(folder, tmp_path):
    weights = load_file(folder / "model.safetensors")
    wrong = [
        {**weights, "more": torch.zeros(2)},
        {name: tensor for name, tensor in weights.items() if name != "1.bias"},
        {**weights, "1.bias": weights["1.bias"].double()},
        {**weights, "1.bias": weights["1.bias"].reshape(4, 8)},
        {},
    ]
    for tensors in wrong:
        save_file(tensors, tmp_path / "w")
        rewrite(folder, named={"model.safetensors": (tmp_path / "w").read_bytes()})
        with pytest.raises(CheckpointError, match="tensors differ"):
            Predictor.load(folder)
    for data in (b"", b"\xff" * 100, (8).to_bytes(8, "little") + b'{"a":{}}', (2**62).to_bytes(8, "little")):
        rewrite(folder, named={"model.safetensors": data})
        with pytest.raises(CheckpointError, match="expected safetensors"):
            Predictor.load(folder)


def test_a_link_in_place_of_a_file_is_refused(folder, tmp_path):
    (folder / "model.safetensors").rename(tmp_path / "elsewhere")
    (folder / "model.safetensors").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="regular file"):
        Predictor.load(folder)


# --- replacing a folder


class Crash(BaseException):
    pass


class FailsAt(durable.FileSystem):
    """Refuses operation number `at`, as the system does; or dies there, in the middle of a write, for good."""

    def __init__(self, at, dies):
        self.at, self.dies, self.count = at, dies, 0

    def step(self, operation, *args):
        self.count += 1
        method = getattr(super(), operation)
        if self.dies and self.count >= self.at:
            if operation == "write" and self.count == self.at:
                method(args[0], args[1][: len(args[1]) // 2])
            raise Crash
        if self.count == self.at:
            error = StorageError("no space")
            error.errno = errno.ENOSPC
            raise error
        return method(*args)


for _operation in ("mkdir", "write", "append", "truncate", "fsync", "rename", "unlink", "rmdir"):
    setattr(FailsAt, _operation, lambda self, *args, _operation=_operation: self.step(_operation, *args))


def small(value):
    one = Predictor(models.linear(2, 2), ["no", "yes"], input_shape=(2,))
    with torch.no_grad():
        one.model[1].weight.fill_(value)
    return one


def value_in(folder):
    weight = Predictor.load(folder).model[1].weight.detach()
    assert (weight == weight[0, 0]).all()
    return float(weight[0, 0])


@pytest.mark.parametrize("dies", [False, True], ids=["refused", "killed"])
@pytest.mark.parametrize("place", ["p", "run/predictor"])
def test_replacing_a_folder_leaves_the_old_or_the_new_whatever_fails(place, dies, tmp_path):
    target = tmp_path / place
    with durable.using(FailsAt(10**9, False)) as file_system:
        small(0.0).save(target)
        file_system.count = 0
        small(1.0).save(target)
    operations = file_system.count
    assert operations > 15
    seen = set()
    for at in range(1, operations + 1):
        shutil.rmtree(tmp_path / place.split("/")[0])
        small(1.0).save(target)
        with pytest.raises((Crash, StorageError)), durable.using(FailsAt(at, dies)):
            small(2.0).save(target)
        assert dies or target.exists()
        seen.add(value_in(target))
        if "/" in place:
            assert value_in(target.parent) == value_in(target)
        small(3.0).save(target)  # and what was left over is no hindrance
        assert value_in(target) == 3.0
        left = [name for name in os.listdir(target.parent) if not name.startswith(".tmp-")]
        assert left == [target.name]
    assert seen == {1.0, 2.0}


def test_the_first_save_leaves_nothing_or_all_whatever_fails(tmp_path):
    with durable.using(FailsAt(10**9, False)) as file_system:
        small(1.0).save(tmp_path / "x" / "p")
    for at in range(1, file_system.count + 1):
        shutil.rmtree(tmp_path / "x", ignore_errors=True)
        with pytest.raises(StorageError), durable.using(FailsAt(at, False)):
            small(1.0).save(tmp_path / "x" / "p")
        left = os.listdir(tmp_path / "x") if (tmp_path / "x").exists() else []
        assert left in ([], ["p"])
        if left:
            assert value_in(tmp_path / "x" / "p") == 1.0


def test_a_reader_that_meets_a_replacement_reads_the_new_folder(folder, trained, monkeypatch):
    read = durable.read_directory
    calls = []

    def replaced_meanwhile(path):
        calls.append(path)
        if len(calls) == 1:
            raise CheckpointError("half old, half new")
        return read(path)

    monkeypatch.setattr(durable, "read_directory", replaced_meanwhile)
    assert same_weights(Predictor.load(folder), trained)


def test_a_folder_that_holds_anything_else_is_never_replaced(trained, tmp_path):
    for name in ("folder", "folder.old", "folder.new"):
        other = tmp_path / name
        other.mkdir()
        (other / "thesis.tex").write_text("years of work")
        with pytest.raises(RunError, match=r"thesis\.tex"):
            trained.save(tmp_path / "folder")
        assert (other / "thesis.tex").read_text() == "years of work"
        shutil.rmtree(other)
    (tmp_path / "folder").write_text("a file")
    with pytest.raises(RunError, match="something else"):
        trained.save(tmp_path / "folder")
    assert (tmp_path / "folder").read_text() == "a file"


def test_a_link_to_a_folder_stays_one(trained, tmp_path):
    trained.save(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    small(5.0).save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert value_in(tmp_path / "real") == 5.0


def test_a_damaged_or_empty_folder_may_be_replaced(folder, trained):
    (folder / "manifest.json").write_bytes(b"")
    trained.save(folder)
    assert same_weights(Predictor.load(folder), trained)
    shutil.rmtree(folder)
    folder.mkdir()
    trained.save(folder)
    assert same_weights(Predictor.load(folder), trained)


def test_the_same_predictor_is_written_as_the_same_bytes(trained, tmp_path):
    digests = []
    for name in ("a", "b"):
        trained.save(tmp_path / name)
        digests.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted((tmp_path / name).iterdir())])
    assert digests[0] == digests[1]
