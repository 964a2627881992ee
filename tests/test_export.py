"""Models as files for other programs: what they compute, what they say of themselves, and what is refused."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import nn

import clearloop as cl
from clearloop import exporting, models
from clearloop.data.normalize import Normalize
from clearloop.data.table_columns import Table
from clearloop.errors import CheckpointError, ConfigError, DataError, ModelError, RunError
from clearloop.exporting import export
from clearloop.predictor import Predictor
from cli_tools import clearloop, write_idx

FORMATS = ("onnx", "torch")
SUFFIX = {"onnx": ".onnx", "torch": ".pt2"}


def fitted(dls, model, loss_func=None, cbs=()):
    learn = cl.Learner(dls, model, loss_func, seed=0, device="cpu", cbs=cbs)
    learn.fit(1, 0.05, quiet=True)
    return learn


def of_digits(digits, model, loss_func=None, targets="labels", count=192, cbs=()):
    """A Learner on some digits, a few steps old."""
    from clearloop.data.loaders import images_as_targets, scale_images

    transform = scale_images if targets == "labels" else images_as_targets
    parts = [(digits.train_images[:count], digits.train_labels[:count])]
    parts.append((digits.test_images[:150], digits.test_labels[:150]))
    data = [cl.TensorDataset(*part, transform=transform) for part in parts]
    classes = [f"digit {label}" for label in range(10)] if targets == "labels" else None
    loaders = cl.DataLoader(data[0], 64, shuffle=True, seed=0), cl.DataLoader(data[1], 64)
    return fitted(cl.DataLoaders(*loaders, classes=classes, image_size=(28, 28)), model, loss_func, cbs)


def of_colours(model):
    """A Learner on coloured pictures of 16 x 24, normalised."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (96, 3, 16, 24), dtype=torch.uint8, generator=generator)
    norm = Normalize([0.4, 0.5, 0.6], [0.2, 0.3, 0.25])
    data = cl.TensorDataset(pixels, (pixels[:, 0].float().mean((1, 2)) > 127).long(), transform=norm)
    loaders = cl.DataLoader(data, 32, shuffle=True, seed=0), cl.DataLoader(data, 32)
    dls = cl.DataLoaders(*loaders, classes=["blue", "red"], image_size=(16, 24), normalize=norm)
    return fitted(dls, model)


def write_rows(path, kind, rows=120):
    """Numbers with gaps and large ones, a date, a category, and a target of a kind."""
    rng = np.random.default_rng(0)
    lines = ["size,year,built,town,target"]
    for row in range(rows):
        size = "" if row % 7 == 3 else f"{rng.normal():.4f}"
        town = rng.choice(["Ulm", "Bonn", "Köln"])
        year = 2_000_000 + int(rng.integers(0, 50))
        target = {"regression": f"{1000 * rng.normal():.2f}", "binary": str(rng.choice(["no", "yes"]))}
        target["classes"] = str(rng.choice(["a", "b", "c"]))
        lines.append(f"{size},{year},{1950 + row % 60}-05-17,{town},{target[kind]}")
    path.write_text("\n".join(lines) + "\n")
    return path


def of_rows(kind, folder):
    dls = cl.TableDataLoaders.from_csv(write_rows(folder / f"{kind}.csv", kind), "target", 32, seed=0)
    learn = cl.table_learner(dls, (16,), seed=0, device="cpu")
    learn.fit(1, 0.01, quiet=True)
    return learn


def session(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def about(path):
    """What a file says of itself."""
    if path.suffix == ".onnx":
        return json.loads(session(path).get_modelmeta().custom_metadata_map["clearloop"])
    extra = {"clearloop.json": ""}
    torch.export.load(path, extra_files=extra)
    return json.loads(extra["clearloop.json"])


def outputs_of(path, given):
    """Outputs by name."""
    names = [output["name"] for output in about(path)["outputs"]]
    if path.suffix == ".onnx":
        return dict(zip(names, session(path).run(None, {about(path)["input"]["name"]: given.numpy()}), strict=True))
    with torch.no_grad():
        found = torch.export.load(path).module()(given)
    return {name: output.numpy() for name, output in zip(names, found, strict=True)}


@pytest.fixture(scope="module")
def learn(digits):
    torch.set_num_threads(1)
    return of_digits(digits, models.mlp(784, 16, 10))


@pytest.fixture(scope="module", params=FORMATS)
def exported(request, learn, tmp_path_factory):
    return export(learn, tmp_path_factory.mktemp("files") / f"digits{SUFFIX[request.param]}")


# -- what a file computes ---------------------------------------------------------------------------------------------

MODELS = {
    "linear": lambda d, _: of_digits(d, models.linear(784, 10)),
    "cnn": lambda d, _: of_digits(d, nn.Sequential(*models.cnn(), nn.Dropout(0.3))),
    "one logit": lambda d, folder: of_rows("binary", folder),
    "classes of a table": lambda d, folder: of_rows("classes", folder),
    "numbers of a table": lambda d, folder: of_rows("regression", folder),
    "resnet18": lambda d, _: of_colours(models.resnet18(2)),
    "autoencoder": lambda d, _: of_digits(d, models.autoencoder(784, 32, 8), nn.functional.mse_loss, "inputs"),
    "convolutional": lambda d, _: of_digits(d, models.conv_autoencoder(8), nn.functional.mse_loss, "inputs"),
    "with code": lambda d, _: of_digits(d, models.autoencoder(784, 32, 8, with_code=True), models.sparse_mse, "inputs"),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_model_becomes_a_file_that_agrees_with_it(name, digits, tmp_path):
    learn = MODELS[name](digits, tmp_path)
    for form in FORMATS if name != "resnet18" else ["onnx"]:  # which is large, and like the others
        done = export(learn, tmp_path / f"model{SUFFIX[form]}")
        largest = max(float(output.abs().max()) for output in model_outputs(learn))
        assert max(done.differences.values()) <= (0 if form == "torch" else 1e-5 * max(1, largest))
        assert done.samples > 20
        assert [one["name"] for one in about(done.path)["outputs"]] == list(done.differences)
        assert done.about == about(done.path)
    coded = name in ("autoencoder", "convolutional", "with code")
    first = "reconstruction" if coded else "values" if name == "numbers of a table" else "logits"
    assert next(iter(done.differences)) == first
    assert ("code" in done.differences) == coded
    assert ("probabilities" in done.differences) == (first == "logits")


def model_outputs(learn):
    preds = learn.get_preds()[0]
    return preds if isinstance(preds, tuple) else [preds]


def test_a_file_takes_bytes_and_gives_what_the_learner_gives_for_real_data(exported, learn, digits):
    images = digits.test_images[:150]
    found = outputs_of(exported.path, images)
    preds, _ = learn.get_preds()
    np.testing.assert_allclose(found["logits"], preds.numpy(), atol=1e-5)
    np.testing.assert_allclose(found["probabilities"], preds.softmax(dim=1).numpy(), atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 131])
def test_a_batch_may_have_any_size(count, exported, digits):
    found = outputs_of(exported.path, digits.test_images[:count])
    assert found["logits"].shape == (count, 10)
    alone = outputs_of(exported.path, digits.test_images[:1])
    np.testing.assert_allclose(found["logits"][:1], alone["logits"], atol=1e-5)


def test_coloured_pictures_are_normalised_inside(tmp_path):
    learn = of_colours(nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 24, 2)))
    path = export(learn, tmp_path / "colours.onnx").path
    pixels = torch.randint(0, 256, (5, 3, 16, 24), dtype=torch.uint8)
    expected = [one.values for one in Predictor.of(learn).batch(list(pixels))]
    np.testing.assert_allclose(outputs_of(path, pixels)["logits"], torch.stack(expected).numpy(), atol=1e-4)
    assert about(path)["inside"] == {"scale": 255, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25]}
    assert about(path)["image_size"] == [16, 24]


@pytest.mark.parametrize("kind", ["regression", "binary", "classes"])
def test_rows_of_a_table_are_given_as_numbers_and_codes_that_the_file_explains(kind, tmp_path):
    learn = of_rows(kind, tmp_path)
    path = export(learn, tmp_path / "rows.onnx").path
    rows = {
        "size": [0.5, None, -2.0],
        "year": [2_000_010, 2_000_049, 1999],
        "built": ["1970-01-11", None, "2001-02-03"],
        "town": ["Ulm", "Paris", None],
    }
    expected = Predictor.of(learn).rows(Table(rows))
    columns = about(path)["columns"]
    given = np.full((3, len(columns)), np.nan)
    for place, column in enumerate(columns):
        for row, value in enumerate(rows[column["name"]]):
            if column["kind"] == "category":
                known = column["categories"]
                given[row, place] = known.index(value) + 1 if value in known else 0
            elif column["kind"] == "date":
                days = None if value is None else (np.datetime64(value) - np.datetime64("1970-01-01")).astype(int)
                given[row, place] = np.nan if days is None else days
            elif value is not None:
                given[row, place] = value
    found = outputs_of(path, torch.from_numpy(given))
    name = "values" if kind == "regression" else "logits"
    np.testing.assert_allclose(found[name], torch.stack([one.values for one in expected]).numpy(), rtol=1e-4, atol=1e-4)
    if kind != "regression":
        said = [about(path)["classes"][place] for place in found["probabilities"].argmax(axis=1)]
        assert said == [one.label for one in expected]


def test_a_code_that_no_category_has_counts_as_unseen(tmp_path):
    learn = of_rows("regression", tmp_path)
    path = export(learn, tmp_path / "rows.onnx").path
    place = next(i for i, column in enumerate(about(path)["columns"]) if column["kind"] == "category")
    given = torch.zeros(4, len(about(path)["columns"]), dtype=torch.float64)
    given[:, place] = torch.tensor([0, 99, -1, torch.nan])
    values = outputs_of(path, given)["values"]
    assert np.ptp(values) == 0


def test_averaged_weights_are_exported_where_the_run_is_evaluated_with_them(digits, tmp_path):
    learn = of_digits(digits, models.mlp(784, 10), cbs=[cl.EMA(0.9)])
    path = export(learn, tmp_path / "ema.onnx").path
    found = outputs_of(path, digits.test_images[:150])["logits"]
    np.testing.assert_allclose(found, learn.get_preds()[0].numpy(), atol=1e-5)
    with torch.no_grad():
        raw = learn.model(digits.test_images[:150].unsqueeze(1).float() / 255)
    assert np.abs(found - raw.numpy()).max() > 1e-3


def test_exporting_leaves_no_trace_in_the_training(digits, tmp_path):
    model = nn.Sequential(*models.cnn(), nn.Dropout(0.5))
    runs = [of_digits(digits, copy.deepcopy(model)) for _ in range(2)]
    mode = runs[0].model.training
    export(runs[0], tmp_path / "model.pt2")
    assert runs[0].model.training == mode
    for learn in runs:
        learn.fit(1, 0.05, quiet=True)
    states = [learn.model.state_dict() for learn in runs]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


# -- what a file holds ------------------------------------------------------------------------------------------------


def test_a_file_says_how_to_prepare_pictures_and_what_the_classes_are(exported):
    found = about(exported.path)
    assert found["classes"] == [f"digit {label}" for label in range(10)]
    assert found["image_size"] == [28, 28]
    assert found["inside"] == {"scale": 255}
    assert found["input"]["name"] == "pictures"
    assert found["input"]["shape"] == ["batch", 28, 28]
    assert found["input"]["dtype"] == "uint8"
    assert "bright strokes on black" in found["input"]["how"]


def test_an_onnx_file_names_inputs_and_outputs_and_the_batch(learn, tmp_path):
    opened = session(export(learn, tmp_path / "m.onnx").path)
    assert [(one.name, one.type, one.shape) for one in opened.get_inputs()] == [
        ("pictures", "tensor(uint8)", ["batch", 28, 28])
    ]
    assert [(one.name, one.shape) for one in opened.get_outputs()] == [
        ("logits", ["batch", 10]),
        ("probabilities", ["batch", 10]),
    ]


def test_a_file_holds_no_pickle_and_no_path_of_this_machine(exported):
    data = exported.path.read_bytes()
    if exported.path.suffix == ".pt2":
        with zipfile.ZipFile(exported.path) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        assert not any(part.startswith((b"\x80\x02", b"\x80\x04", b"PK")) for part in parts.values())
        assert next(part for name, part in parts.items() if "sample_inputs" in name) == b""
        data = b"".join(parts.values())
    for path in (Path(cl.__file__).parent, Path(torch.__file__).parent, Path.home(), Path.cwd()):
        if len(str(path)) > 1:
            assert str(path).encode() not in data


ALONE = """
import json, sys
class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("clearloop", *sys.argv[3:]):
            raise ImportError(name)
sys.meta_path.insert(0, Refused())
import numpy as np
from PIL import Image
pixels = np.asarray(Image.open(sys.argv[2]).convert("L"))[None]
"""
WITH_ONNXRUNTIME = """
import onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
about = json.loads(session.get_modelmeta().custom_metadata_map["clearloop"])
logits, probabilities = session.run(None, {"pictures": pixels})
"""
WITH_TORCH = """
import torch
before = len(sys.modules)
def audit(event, args):
    if event.startswith("pickle."):
        print("unpickled", args)
sys.addaudithook(audit)
extra = {"clearloop.json": ""}
model = torch.export.load(sys.argv[1], extra_files=extra).module()
about = json.loads(extra["clearloop.json"])
logits, probabilities = model(torch.tensor(pixels))
"""
SAY = "print(about['classes'][probabilities[0].argmax()], float(probabilities[0].max()))"


def test_a_png_file_becomes_a_class_name_without_clearloop(exported, learn, digits, tmp_path):
    Image.fromarray(digits.test_images[7].numpy()).save(tmp_path / "digit.png")
    onnx = exported.path.suffix == ".onnx"
    code = ALONE + (WITH_ONNXRUNTIME if onnx else WITH_TORCH) + SAY
    refused = ["torch"] if onnx else []
    arguments = [sys.executable, "-W", "ignore", "-c", code, exported.path, tmp_path / "digit.png", *refused]
    done = subprocess.run(list(map(str, arguments)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = learn.predict(tmp_path / "digit.png")
    name, _, probability = done.stdout.strip().rpartition(" ")
    assert name == said.label, done.stdout
    assert float(probability) == pytest.approx(float(said.probabilities.max()), abs=1e-5)


# -- transforms of one's own ------------------------------------------------------------------------------------------


def with_transform(transform, foreign=False):
    rows = torch.randint(0, 50, (90, 6)).float()
    data = cl.TensorDataset(rows, (rows.sum(dim=1) > 150).long(), transform=transform)
    return fitted((cl.DataLoader(data, 30), cl.DataLoader(data, 30)), nn.Linear(6, 2))


def squared(batch):
    inputs, targets = batch
    return (inputs / 50) ** 2, targets.long()


def through_numpy(batch):
    inputs, targets = batch
    return torch.from_numpy(np.sqrt(inputs.numpy())), targets


def noisy(batch):
    return torch.rand_like(batch[0]), batch[1]


@pytest.mark.parametrize("form", FORMATS)
def test_a_transform_of_ones_own_goes_into_the_file(form, tmp_path):
    learn = with_transform(squared)
    path = export(learn, tmp_path / f"own{SUFFIX[form]}").path
    stored = learn.dls.valid.dataset.tensors[0]
    np.testing.assert_allclose(outputs_of(path, stored)["logits"], learn.get_preds()[0].numpy(), atol=1e-5)
    assert "before its transform" in about(path)["input"]["how"]


def test_a_transform_that_cannot_be_exported_is_named(tmp_path):
    learn = with_transform(through_numpy)
    with pytest.raises(ModelError, match=r"through_numpy .*prepared=True"):
        export(learn, tmp_path / "own.onnx")
    assert not list(tmp_path.iterdir())
    done = export(learn, tmp_path / "own.onnx", prepared=True)
    given = torch.sqrt(learn.dls.valid.dataset.tensors[0])
    np.testing.assert_allclose(outputs_of(done.path, given)["logits"], learn.get_preds()[0].numpy(), atol=1e-5)


def test_a_transform_that_draws_is_refused_for_what_it_gives_differs(tmp_path):
    with pytest.raises((ModelError, DataError), match=r"cannot be exported|differ|expected validation data"):
        export(with_transform(noisy), tmp_path / "own.onnx")
    assert not list(tmp_path.iterdir())


def test_pictures_that_the_file_would_prepare_otherwise_are_refused(digits, tmp_path):
    images = (digits.train_images[:90].unsqueeze(1).float() / 255 - 0.13) / 0.31  # normalised, and nobody knows
    data = cl.TensorDataset(images, digits.train_labels[:90])
    loaders = cl.DataLoader(data, 30), cl.DataLoader(data, 30)
    learn = fitted(cl.DataLoaders(*loaders, image_size=(28, 28)), models.mlp(784, 10))
    with pytest.raises(DataError, match="give DataLoaders the normalize"):
        export(learn, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


# -- refusals: a file that is not right is not written ----------------------------------------------------------------


class Drawing(nn.Linear):
    def forward(self, x):
        return super().forward(x) + torch.rand(())


class Branching(nn.Linear):
    def forward(self, x):
        return super().forward(x if float(x.sum()) > 0 else -x)


class OneSize(nn.Linear):
    def forward(self, x):
        return super().forward(x.reshape(30, 6) if len(x) == 30 else x[:30])


class Named(nn.Linear):
    def forward(self, x):
        return {"a": super().forward(x), "b": "text"}


def of_vectors(model, **options):
    rows = torch.randn(60, 6)
    data = cl.TensorDataset(rows, torch.randn(60, 2))
    return cl.Learner((cl.DataLoader(data, 30), cl.DataLoader(data, 30)), model, nn.functional.mse_loss, device="cpu")


@pytest.mark.parametrize("model", [Drawing, Branching])
@pytest.mark.parametrize("form", FORMATS)
def test_a_model_that_no_file_can_hold_is_refused_and_no_file_is_touched(model, form, tmp_path):
    path = tmp_path / f"model{SUFFIX[form]}"
    path.write_bytes(b"before")
    with pytest.raises(ModelError, match=r"differ|cannot be exported"):
        export(of_vectors(model(6, 2)), path)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_differs_is_not_written(learn, tmp_path, monkeypatch):
    real = exporting.torch_runner

    def runner(data):
        run, name = real(data)
        return (lambda given: [output + 0.01 for output in run(given)]), name

    monkeypatch.setattr(exporting, "torch_runner", runner)
    with pytest.raises(ModelError, match=r"logits differ from the model's by up to 0\.01"):
        export(learn, tmp_path / "model.pt2")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda logits, shares: [logits + 0.01, shares], r"logits differ from the model's by up to 0\.01"),
        (lambda logits, shares: [logits, shares + 0.001], "probabilities differ"),
        (lambda logits, shares: [logits, shares.flip(1)], "other classes"),
        (lambda logits, shares: [logits * torch.nan, shares], "logits differ from the model's by up to inf"),
        (lambda logits, shares: [logits[:1], shares[:1]], r"the file gives \(1, 10\)"),
    ],
)
def test_numbers_classes_and_shapes_that_differ_are_seen(change, message, learn, digits):
    deployed = exporting.Deployed(Predictor.of(learn), torch.zeros(1, 1, 28, 28)).eval()
    batches = [digits.test_images[:1], digits.test_images[1:9]]
    with torch.no_grad():
        assert exporting.compared(deployed, lambda given: list(deployed(given)), batches, "here")["logits"] == 0
        with pytest.raises(ModelError, match=message):
            exporting.compared(deployed, lambda given: change(*deployed(given)), batches, "here")


def test_samples_come_from_all_over_the_validation_set(learn):
    parts = list(exporting.check_batches(learn, 10, None))
    assert [len(inputs) for inputs, _ in parts] == [1, 9]
    whole = torch.cat([inputs for inputs, _ in parts])
    rows = [7, 22, 37, 52, 67, 82, 97, 112, 127, 142]
    assert torch.equal(whole, next(iter(cl.DataLoader(learn.dls.valid.dataset, 150)))[0][rows])


def test_another_librarys_loader_gives_data_to_check_with(digits, tmp_path):
    data = torch.utils.data.TensorDataset(torch.randn(40, 6), torch.randint(0, 2, (40,)))
    loaders = [torch.utils.data.DataLoader(data, 16) for _ in range(2)]
    with pytest.warns(UserWarning, match="keeps its own order"):
        learn = fitted(loaders, nn.Linear(6, 2))
    done = export(learn, tmp_path / "model.onnx", samples=20)
    assert done.samples == 32
    assert done.available is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "model.onnx", "format": "torch"}, "correct one"),
        ({"path": "model.txt"}, r"ends in \.onnx"),
        ({"path": "model.onnx", "format": "coreml"}, '"onnx" or "torch"'),
        ({}, "give path"),
        ({"path": "model.onnx", "samples": 0}, "1 or more"),
    ],
)
def test_options_that_cannot_work_are_refused(options, message, learn):
    with pytest.raises(ConfigError, match=message):
        export(learn, **options)


def test_packages_that_are_missing_are_named_with_how_to_get_them(learn, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'onnxruntime.*pip install "clearloop\[export\]"'):
        export(learn, tmp_path / "m.onnx")
    export(learn, tmp_path / "m.pt2")  # torch alone


def test_without_validation_data_there_is_nothing_to_check_with(tmp_path):
    data = cl.TensorDataset(torch.randn(30, 6), torch.randn(30, 2))
    learn = cl.Learner((cl.DataLoader(data, 30), None), nn.Linear(6, 2), nn.functional.mse_loss, device="cpu")
    with pytest.raises(DataError, match="expected validation data"):
        export(learn, tmp_path / "model.onnx")


def test_outputs_that_are_no_tensors_are_refused(tmp_path):
    learn = of_vectors(Named(6, 2))
    predictor = Predictor(learn.model, input_shape=(6,))
    with pytest.raises(ModelError, match="Tensor, str"):
        exporting.Deployed(predictor, torch.zeros(1, 6))


# -- runs -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_idx(folder / "idx", 400, 120)
    done = clearloop("train", folder / "idx", "-n", 1, "--model", "mlp", "--hidden", 16, "-q", "-o", folder / "run")
    assert done.code == 0, done.err
    return folder / "run"


def test_the_command_writes_beside_the_run_and_says_what_it_saw(run):
    for form, name in (("onnx", "model.onnx"), ("torch", "model.pt2")):
        done = clearloop("export", run, "--format", form)
        assert done.code == 0, done.err
        assert f"{name} (" in done.out
        assert "pictures uint8 (batch, 28, 28) -> logits (batch, 10), probabilities (batch, 10)" in done.out
        assert "checked on 120 validation samples in " in done.out
        assert "every class the same" in done.out
        assert (run / name).is_file()
    assert clearloop("export", run, "-o", run / "other.pt2", "--samples", 10).out.count("checked on 10 of 120") == 1


def test_the_file_of_a_run_is_its_predictor(run, digits, tmp_path):
    path = export(run, tmp_path / "model.onnx").path
    expected = Predictor.load(run).batch(list(digits.test_images[:20]))
    found = outputs_of(path, digits.test_images[:20])
    np.testing.assert_allclose(found["logits"], torch.stack([one.values for one in expected]).numpy(), atol=1e-5)


def test_a_run_that_is_none_or_damaged_is_an_error_of_one_line(run, tmp_path):
    assert clearloop("export", tmp_path / "none").code == 2
    with pytest.raises(RunError, match="expected a predictor"):
        export(tmp_path / "none")
    folder = tmp_path / "run"
    subprocess.run(["cp", "-r", run, folder], check=True)
    weights = folder / "predictor" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(CheckpointError):
        export(folder)
    assert not (folder / "model.onnx").exists() or (run / "model.onnx").exists()


class Mine(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.a, self.b = nn.Linear(6, width), nn.Linear(width, 2)

    def forward(self, x):
        return self.b(self.a(x).relu())


def test_a_model_of_ones_own_is_exported_from_python(tmp_path):
    rows, targets = torch.randn(60, 6), torch.randint(0, 2, (60,))
    dls = cl.DataLoaders.arrays(rows, targets, batch_size=20, seed=0)
    learn = fitted(dls, Mine())
    learn.save(tmp_path / "run")
    with pytest.raises(
        (RunError, ConfigError), match=r"export\(Learner\.load\(RUN, model=\.\.\., dls=\.\.\.\), FILE\)"
    ):
        export(tmp_path / "run")
    done = export(cl.Learner.load(tmp_path / "run", model=Mine(), dls=dls))
    assert done.path == tmp_path / "run" / "model.onnx"
    assert max(done.differences.values()) < 1e-5


# -- predictors -------------------------------------------------------------------------------------------------------

PREDICT = """
import sys, torch
torch.set_num_threads(1)
opened = []
def audit(event, args):
    if event.startswith("pickle."):
        raise SystemExit(f"unpickled: {args}")
    if event == "open" and str(args[0]).startswith(sys.argv[1]):
        opened.append(str(args[0]).rpartition("/")[2])
before = set(sys.modules)
sys.addaudithook(audit)
import numpy as np
from clearloop import Predictor
predictor = Predictor.load(sys.argv[1])
one = predictor(sys.argv[2])
pixels = np.stack([np.full((28, 28), value, np.uint8) for value in (0, 90)])
labels = [one.label, *(p.label for p in predictor.batch([sys.argv[2]] * 2)), predictor(pixels[0]).label]
labels += [p.label for p in predictor.batch(pixels)]
training = ("clearloop.learner", "clearloop.step", "clearloop.callback", "clearloop.checkpoint", "clearloop.history",
    "clearloop.metrics", "clearloop.schedules", "clearloop.engines", "clearloop.saving", "clearloop.build.",
    "clearloop.exporting", "torch.optim", "torch.export", "onnx")
print(len(labels), [name for name in sys.modules if name not in before and name.startswith(training)])
print(sorted(set(opened)))
"""


def test_a_predictor_of_a_run_needs_no_training_code_and_never_unpickles(run, digits, tmp_path):
    Image.fromarray(digits.test_images[3].numpy()).save(tmp_path / "digit.png")
    arguments = [sys.executable, "-c", PREDICT, str(run), str(tmp_path / "digit.png")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    imported, opened = done.stdout.splitlines()
    assert imported == "6 []"
    assert opened == "['manifest.json', 'model.safetensors', 'predictor.json']"
