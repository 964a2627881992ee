"""The command line on data of one's own: tables and folders of pictures."""

from __future__ import annotations

import csv
import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import clearloop as cl
from clearloop.callbacks.checkpoints import Checkpoints
from clearloop.data.mapped import MappedDataset
from clearloop.rundir import RunDirectory
from cli_tools import clearloop, process, write_idx

pytest.importorskip("pyarrow")
TOWNS = {"Ulm": 20_000, "Bonn": 50_000, "Kiel": 0}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table with gaps, rows to predict, and a folder of pictures."""
    folder, draws = tmp_path_factory.mktemp("data"), random.Random(0)
    rows: list[list[Any]] = [["size", "town", "rooms", "price"]]
    for _ in range(300):
        size, town = round(draws.uniform(30, 200), 1), draws.choice([*TOWNS])
        rows.append([size, town, draws.choice(["", 2, 3]), 1000 * size + TOWNS[town] + draws.gauss(0, 5000)])
    write(folder / "houses.csv", rows)
    write(folder / "rows.csv", [["rooms", "town", "size"], ["3", "Ulm", "100"], ["", "Rome", "50"]])
    digits = cl.mnist()
    for part, first, last in (("train", 0, 60), ("valid", 60, 90)):
        for place in range(first, last):
            path = folder / "pictures" / part / ("odd" if digits.train_labels[place] % 2 else "even") / f"{place}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(digits.train_images[place].numpy()).save(path)
    return folder


def write(path: Path, rows: list[list[Any]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


@pytest.fixture(scope="module")
def table_run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run on the table, and what training it said."""
    run = tmp_path_factory.mktemp("runs") / "table"
    return run, clearloop(
        "train", data / "houses.csv", "--target", "price", "-n", 20, "-b", 16, "--hidden", "32", "-o", run
    )


def test_a_table_is_trained_on_with_a_word_on_its_target_and_a_baseline(table_run: Any) -> None:
    run, done = table_run
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0].startswith("target 'price': regression")
    assert any(line.startswith("without the inputs: the mean of the training targets") for line in lines)
    assert f"next: clearloop predict {run} ROWS.csv" in lines[-1]
    score = cl.Learner.load(run).history.epochs[-1].metrics["r2_score"]
    assert score > 0.9


def test_rows_of_a_table_are_predicted_on_the_screen_or_into_a_file(data: Path, table_run: Any, tmp_path: Path) -> None:
    run, _ = table_run
    done = clearloop("predict", run, data / "rows.csv")
    assert (done.code, done.err) == (0, "")
    header, ulm, rome = csv.reader(done.out.splitlines())
    assert header == ["rooms", "town", "size", "price_predicted"]
    assert (ulm[:3], rome[:3]) == (["3", "Ulm", "100"], ["", "Rome", "50"])
    assert 80_000 < float(ulm[3]) < 160_000  # the truth is 120,000
    assert (
        clearloop("predict", run, data / "rows.csv", "-o", tmp_path / "out.csv").out
        == f"wrote {tmp_path / 'out.csv'}\n"
    )
    assert (tmp_path / "out.csv").read_text() == done.out


def test_classes_of_a_table_are_told_by_the_option_or_the_values(data: Path, tmp_path: Path) -> None:
    done = clearloop(
        "train", data / "houses.csv", "--target", "rooms", "--kind", "classes", "-n", 1, "-o", tmp_path / "r"
    )
    assert done.code == 2
    assert "rooms" in done.err  # some of them are missing
    done = clearloop("train", data / "houses.csv", "--target", "town", "-n", 1, "-o", tmp_path / "run")
    assert (done.code, done.err) == (0, "")
    assert cl.Learner.load(tmp_path / "run").dls.classes == ["Bonn", "Kiel", "Ulm"]


def test_a_folder_of_pictures_is_trained_on_and_predicted(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = clearloop("train", data / "pictures", "-n", 1, "-b", 30, "--device", "cpu", "-o", run)
    assert (done.code, done.err) == (0, "")
    learn = cl.Learner.load(run)
    assert learn.dls.classes == ["even", "odd"]
    assert type(learn.model).__name__ == "ResNet"
    picture = next((data / "pictures" / "valid" / "odd").iterdir())
    assert clearloop("predict", run, picture).out.startswith(f"{picture}: ")
    done = clearloop("train", data / "pictures", "--model", "mlp", "--size", "14", "-n", 1, "-o", tmp_path / "small")
    assert (done.code, done.err) == (0, "")
    assert cl.Learner.load(tmp_path / "small").model[1].in_features == 14 * 14


@pytest.mark.parametrize(
    ("options", "plots"),
    [
        ("houses.csv --target price", "loss model residuals top_losses"),
        ("houses.csv --target town", "confusion loss model per_class top_losses"),
        ("pictures --model mlp", "batch confusion loss model per_class results top_losses"),
    ],
)
def test_a_run_shows_what_its_model_gets_right_and_wrong(data: Path, tmp_path: Path, options: str, plots: str) -> None:
    source, *others = options.split()
    done = process("-m", "clearloop", "train", data / source, *others, "-n", 1, "-o", tmp_path / "run")
    assert (done.code, done.err) == (0, "")
    found = {path.stem: path.stat().st_size for path in (tmp_path / "run" / "plots").iterdir()}
    assert sorted(found) == plots.split()
    assert min(found.values()) > 5000


def test_predictions_of_a_table_need_one_table(data: Path, table_run: Any) -> None:
    done = clearloop("predict", table_run[0], data / "rows.csv", data / "rows.csv")
    assert done.code == 2
    assert "expected one table with rows to predict" in done.err


@pytest.mark.parametrize("option", ["--json", "--crop", "--dark-on-light"])
def test_predictions_of_a_table_refuse_what_pictures_have(data: Path, table_run: Any, option: str) -> None:
    done = clearloop("predict", table_run[0], data / "rows.csv", option)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"error: {option} is not for runs on tables: ")


# -- options of tables ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sold(data: Path) -> Path:
    """A table of houses of which few were sold, most of them large, with a number of each and a postcode."""
    draws = random.Random(1)
    rows: list[list[Any]] = [["house", "size", "postcode", "sold"]]
    for number in range(200):
        size = draws.uniform(30, 200)
        rows.append([f"h{number}", size, draws.choice([89073, 53111]), "yes" if draws.random() < size / 600 else "no"])
    write(data / "sold.csv", rows)
    return data / "sold.csv"


def test_balanced_class_weights_columns_to_ignore_and_codes_come_into_the_run(sold: Path, tmp_path: Path) -> None:
    done = clearloop(
        "train", sold, "--target", "sold", "--class-weights", "--ignore", "house", "--categorical", "postcode",
        "-n", 2, "-o", tmp_path / "run",
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    assert "is left out" not in done.out
    learn = cl.Learner.load(tmp_path / "run")
    labels = torch.cat([targets for _, targets in learn.dls.train.batches(0)])
    counts = torch.bincount(labels)
    assert counts[0] > 2 * counts[1]
    assert torch.equal(learn.loss_func.weight, (len(labels) / (2 * counts.double())).float())
    spec = learn.dls.table
    assert [(column.name, column.kind) for column in spec.columns] == [("size", "number"), ("postcode", "category")]
    write(tmp_path / "rows.csv", [["postcode", "size"], [89073, 100]])  # what was ignored is not asked for
    done = clearloop("predict", tmp_path / "run", tmp_path / "rows.csv")
    assert (done.code, done.err) == (0, "")
    header, row = csv.reader(done.out.splitlines())
    assert header == ["postcode", "size", "sold_predicted", "p_no", "p_yes"]
    assert float(row[3]) + float(row[4]) == pytest.approx(1)


def test_class_weights_change_what_is_learned(sold: Path, tmp_path: Path) -> None:
    common = ["train", sold, "--target", "sold", "-n", 1, "-q", "-b", 20]
    plain, balanced = (
        clearloop(*common, "-o", tmp_path / "1"),
        clearloop(*common, "--class-weights", "-o", tmp_path / "2"),
    )
    assert plain.out.split()[:2] != balanced.out.split()[:2]


def test_a_column_that_is_left_out_is_named_with_the_option_that_takes_it(sold: Path, tmp_path: Path) -> None:
    done = clearloop("train", sold, "--target", "sold", "-n", 1, "-o", tmp_path / "run")
    names = "column 'house' is left out: its 160 different values in 160 rows are names or free text"
    assert f"{names} (--categorical takes it)" in done.out.splitlines()
    done = clearloop("train", sold, "--target", "sold", "-n", 1, "-q", "-o", tmp_path / "quiet")
    assert done.out.startswith("train_loss ")


@pytest.mark.parametrize(
    ("target", "kind", "values", "predicted"),
    [
        ("y", "binary", "01", {"0", "1"}),
        ("y", "classes", "123", {"1", "2", "3"}),
        ("y", "regression", "123", None),
        ("y", "regression", "01", None),
    ],
)
def test_a_kind_that_is_asked_for_is_what_is_trained_and_predicted(
    tmp_path: Path, target: str, kind: str, values: str, predicted: set[str] | None
) -> None:
    write(tmp_path / "t.csv", [["x", "y"], *([number % 9, values[number % len(values)]] for number in range(90))])
    run = tmp_path / "run"
    done = clearloop("train", tmp_path / "t.csv", "--target", target, "--kind", kind, "-n", 1, "-o", run)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"target 'y': {kind if kind != 'classes' else '3 classes'}, ")
    done = clearloop("predict", run, tmp_path / "t.csv")
    header, *rows = csv.reader(done.out.splitlines())
    assert len(rows) == 90
    if predicted is None:
        assert header == ["x", "y", "y_predicted"]
        assert all(math.isfinite(float(row[2])) for row in rows)
    else:
        assert header == ["x", "y", "y_predicted", *(f"p_{name}" for name in sorted(predicted))]
        assert {row[2] for row in rows} <= predicted


# -- options of pictures ----------------------------------------------------------------------------------------------


def test_pictures_are_normalised_by_the_statistics_of_those_to_train_on(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = clearloop(
        "train", data / "pictures", "--model", "linear", "--normalize", "training", "-n", 1, "-q", "-o", run
    )
    assert (done.code, done.err) == (0, "")
    paths = sorted((data / "pictures" / "train").rglob("*.png"))
    pixels = np.stack([np.asarray(Image.open(path)) for path in paths]) / 255
    predictor, learn = cl.Predictor.load(run), cl.Learner.load(run)
    assert predictor.normalize is not None
    assert predictor.normalize.mean == (pytest.approx(pixels.mean(), rel=1e-12),)
    assert predictor.normalize.std == (pytest.approx(pixels.std(), rel=1e-12),)
    inputs = torch.cat([inputs for inputs, _ in learn.dls.train.batches(0)])
    assert abs(float(inputs.mean())) < 1e-5
    assert abs(float(inputs.std()) - 1) < 1e-3
    picture = next((data / "pictures" / "valid" / "odd").iterdir())
    place = sorted((data / "pictures" / "valid" / "odd").iterdir(), key=lambda path: int(path.stem)).index(picture)
    valid = torch.cat([targets for _, targets in learn.dls.valid.batches(0)])
    row = int((valid == 1).nonzero()[place])
    learn.model.eval()
    with torch.no_grad():
        logits = learn.model(learn.dls.valid.dataset[row : row + 1][0])[0]
    assert torch.allclose(predictor(picture).values, logits, atol=1e-6)


def test_augmentations_come_into_the_recipe_in_their_order(data: Path, tmp_path: Path) -> None:
    command = ["train", data / "pictures", "--model", "linear", "-n", 1, "-q", "--augment", "flip,crop"]
    assert clearloop(*command, "--augment", "rotate,erase", "-o", tmp_path / "run").code == 0
    described = RunDirectory.open(tmp_path / "run").read_recipe()["data"]["kwargs"]["augment"]
    assert described["path"] == "clearloop.data.augment:compose"
    names = [part["path"].partition(":")[2] for part in described["args"]]
    assert names == ["random_flip", "random_crop", "random_rotate", "random_erase"]
    assert clearloop(*command[:-1], "crop", "-o", tmp_path / "one").code == 0
    described = RunDirectory.open(tmp_path / "one").read_recipe()["data"]["kwargs"]["augment"]
    assert described == {"path": "clearloop.data.augment:random_crop", "args": [0.1]}
    learn = cl.Learner.load(tmp_path / "one")
    stored = {tuple(image.flatten().tolist()) for image in learn.dls.train.dataset[:][0]}
    moved = [tuple(image.flatten().tolist()) for image in next(iter(learn.dls.train.batches(0)))[0]]
    assert sum(image in stored for image in moved) < len(moved) / 2


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_published_weights_are_begun_with_and_the_last_layer_is_new(data: Path, tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(3)
    state = cl.models.resnet18(1000, 3).state_dict()
    file = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(state, file)
    else:
        save_file(state, file)
    done = clearloop(
        "train", data / "pictures", "--size", 8, "--weights", file, "--lr", 0, "-n", 1, "-q", "-o", tmp_path / "run"
    )
    assert (done.code, done.err) == (0, "")
    file.unlink()  # the run has them now
    learn = cl.Learner.load(tmp_path / "run")
    assert torch.equal(learn.model.conv1.weight, state["conv1.weight"].sum(dim=1, keepdim=True))  # grey pictures
    assert torch.equal(learn.model.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])
    assert learn.model.fc.weight.shape == (2, 512)
    assert RunDirectory.open(tmp_path / "run").read_recipe()["initial_weights"] == "file"
    picture = next((data / "pictures" / "valid" / "odd").iterdir())
    assert clearloop("predict", tmp_path / "run", picture).out.startswith(f"{picture}: ")


def test_pictures_of_16_bits_in_cmyk_or_turned_by_exif_are_taken_as_they_look(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    for number in range(6):
        for name in ("deep", "print", "turned"):
            (tmp_path / "odd" / name).mkdir(parents=True, exist_ok=True)
        deep = draws.integers(0, 2**16, (8, 12)).astype(np.uint16)
        Image.fromarray(deep).save(tmp_path / "odd" / "deep" / f"{number}.png")
        ink = Image.fromarray(draws.integers(0, 256, (8, 12, 4), np.uint8), "CMYK")
        ink.save(tmp_path / "odd" / "print" / f"{number}.jpg")
        upright = Image.fromarray(draws.integers(0, 256, (8, 12, 3), np.uint8))
        exif = Image.Exif()
        exif[0x0112] = 6  # shown a quarter turn clockwise from how it is stored
        turned = tmp_path / "odd" / "turned" / f"{number}.png"
        upright.transpose(Image.Transpose.ROTATE_90).save(turned, exif=exif)
    upright.save(tmp_path / "upright.png")
    run = tmp_path / "run"
    done = clearloop("train", tmp_path / "odd", "--model", "mlp", "-n", 1, "-q", "--valid", 0.3, "-o", run)
    assert (done.code, done.err) == (0, "")
    assert cl.Learner.load(run).dls.image_size == (8, 12)
    lines = clearloop("predict", run, turned, tmp_path / "upright.png").out.splitlines()
    assert lines[0].partition(": ")[2] == lines[1].partition(": ")[2]
    deep_file = tmp_path / "odd" / "deep" / "0.png"
    assert clearloop("predict", run, deep_file).out.startswith(f"{deep_file}: ")


# -- files of arrays --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of .npy files: `two`, split by the run, and `four`, with a validation set of its own."""
    folder, draws = tmp_path_factory.mktemp("arrays"), np.random.default_rng(0)
    x = draws.normal(size=(120, 3))
    for name, files in {
        "two": {"x": x, "y": (x[:, 0] > 0).astype(np.int64)},
        "four": {"x_train": x, "y_train": x[:, 0], "x_valid": x[:40], "y_valid": x[:40, 0]},
    }.items():
        (folder / name).mkdir()
        for array, values in files.items():
            np.save(folder / name / f"{array}.npy", values)
    return folder


def test_a_folder_of_npy_files_is_mapped_trained_on_and_predicted(arrays: Path, tmp_path: Path) -> None:
    done = clearloop("train", arrays / "two", "-n", 1, "-b", 20, "--valid", 30, "-o", tmp_path / "two")
    assert (done.code, done.err) == (0, "")
    assert f"next: clearloop predict {tmp_path / 'two'} ITEMS.npy" in done.out
    learn = cl.Learner.load(tmp_path / "two")
    assert isinstance(learn.dls.train.dataset.dataset, MappedDataset)
    assert len(learn.dls.valid.dataset) == 30
    done = clearloop("predict", tmp_path / "two", arrays / "two" / "x.npy")
    assert (done.code, done.out.count("\n")) == (0, 120)
    done = clearloop("train", arrays / "four", "-n", 1, "-q", "-o", tmp_path / "four")
    assert (done.code, done.err) == (0, "")
    learn = cl.Learner.load(tmp_path / "four")
    assert (len(learn.dls.train.dataset), len(learn.dls.valid.dataset)) == (120, 40)
    assert [metric.name for metric in learn.metrics] == ["r2_score"]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (
            {"x": 20},
            "{folder}: expected x.npy and y.npy, or x_train.npy, y_train.npy, x_valid.npy, y_valid.npy; got x.npy",
        ),
        ({"x_train": 20, "y_train": 20, "x_valid": 4}, "got x_train.npy, x_valid.npy, y_train.npy"),
        ({"x": 20, "y": 19}, "inputs of (20, 2) need as many targets, got (19,)"),
        ({"x": 20, "y": -20}, "{folder}/y.npy: row 17 holds NaN or infinity; remove or fill such rows first"),
        ({"x": -20, "y": 20}, "{folder}/x.npy: row 17 holds NaN or infinity; remove or fill such rows first"),
    ],
)
def test_npy_files_that_do_not_do_are_refused_before_a_folder_is_made(
    tmp_path: Path, files: dict[str, int], said: str
) -> None:
    folder = tmp_path / "arrays"
    folder.mkdir()
    for name, rows in files.items():
        values = np.zeros((abs(rows), 2) if name[0] == "x" else abs(rows))
        values[17:18] = np.nan if rows < 0 else 0
        np.save(folder / f"{name}.npy", values)
    done = clearloop("train", folder, "-o", tmp_path / "run")
    assert done.code == 2
    assert said.format(folder=folder) in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


# -- to the bit -------------------------------------------------------------------------------------------------------


EXACT = {
    "pictures, augmented and normalised": "pictures --model mlp --hidden 8 --augment flip,crop,rotate,erase "
    "--normalize training",
    "pictures, published weights": "pictures --size 8 --weights weights.pth",
    "pictures given back": "pictures --model autoencoder --hidden 8 --code 3 --augment erase",
    "table with class weights": "sold.csv --target sold --class-weights --ignore house --categorical postcode",
    "IDX files, augmented": "idx --model linear --augment crop,rotate",
    "mapped arrays": "two",
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if "weights.pth" in EXACT[name] else name for name in EXACT]
)
def test_a_run_that_is_interrupted_goes_on_to_the_bit(
    data: Path, sold: Path, arrays: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for source in (data / "pictures", sold, arrays / "two"):
        Path(source.name).symlink_to(source)
    if "idx" in EXACT[name]:
        write_idx("idx", 60, 20)
    if "weights.pth" in EXACT[name]:
        torch.save(cl.models.resnet18(7, 1).state_dict(), "weights.pth")
    command = ["train", *EXACT[name].split(), "-n", 2, "-b", 23, "-q", "--device", "cpu"]
    done = clearloop(*command, "-o", "whole")
    assert (done.code, done.err) == (0, "")

    former = Checkpoints.after_epoch

    def interrupt(self: Checkpoints, learn: cl.Learner) -> None:
        former(self, learn)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "after_epoch", interrupt)
        assert clearloop(*command, "-o", "parts").code == 130
    Path("weights.pth").unlink(missing_ok=True)
    assert clearloop("resume", "parts", "-q").code == 0
    saved = [max(Path(run).glob("checkpoints/step-*")) / "model.safetensors" for run in ("whole", "parts")]
    assert saved[0].parent.name == saved[1].parent.name
    assert saved[0].read_bytes() == saved[1].read_bytes()
    records = [map(json.loads, Path(run, "history.jsonl").read_text().splitlines()) for run in ("whole", "parts")]
    losses = [[record["loss"] for record in lines if record["kind"] == "step"] for lines in records]
    assert losses[0] == losses[1]


# -- bad data ---------------------------------------------------------------------------------------------------------


def table(rows: list[str]) -> dict[str, str]:
    return {"table.csv": "\n".join(rows)}


def folders(**counts: int) -> dict[str, Any]:
    """Pictures: `a_train=3` are three in train/a, `a=3` three in a."""
    picture = np.arange(64, dtype=np.uint8).reshape(8, 8)
    files = {}
    for name, count in counts.items():
        label, _, part = name.partition("_")
        files |= {f"photos/{part}/{label}/{number}.png": picture for number in range(count)}
    return files


BAD: dict[str, tuple[dict[str, Any], str, list[str]]] = {
    "ragged rows": (
        table(["a,b,y", "1,2,3", "1,2", "4,5,6"]),
        "table.csv --target y",
        ["{folder}/table.csv, line 3: expected 3 values as in the header, got 2"],
    ),
    "an unknown target": (
        table(["a,y", *["1,2", "2,3"] * 9]),
        "table.csv --target z",
        ["{folder}/table.csv: there is no target column 'z'; the columns are 'a', 'y'"],
    ),
    "one value": (table(["a,y", *["1,5", "2,5"] * 9]), "table.csv --target y", ["column 'y': every target is '5'"]),
    "targets that are NaN": (
        table(["a,y", *["1,5", "2,nan"] * 9]),
        "table.csv --target y",
        ["table.csv, row 2, column 'y': the target is missing (9 such rows of 18)"],
    ),
    "a class with one row": (
        table(["a,y", *["1,x", "2,z"] * 9, "3,alone"]),
        "table.csv --target y",
        ["table.csv, row 19, column 'y': the class 'alone' has this row alone"],
    ),
    "three values as binary": (
        table(["a,y", *["1,x", "2,z", "3,w"] * 9]),
        "table.csv --target y --kind binary",
        ["expected two values for --kind binary, got 3; use --kind classes"],
    ),
    "text as numbers": (
        table(["a,y", *["1,x", "2,z"] * 9]),
        "table.csv --target y --kind regression",
        ["row 1, column 'y': expected a number, got 'x'"],
    ),
    "a class with one picture": (
        folders(a=5, b=1),
        "photos",
        ["{folder}/photos: expected two or more pictures of each class", "got one of b; add pictures"],
    ),
    "classes that differ": (
        folders(a_train=4, b_train=4, b_valid=2, c_valid=2),
        "photos",
        ["{folder}/photos/valid: expected the classes of {folder}/photos/train (a, b), got c too"],
    ),
    "nothing to validate with": (
        folders(a_train=4, b_train=4),
        "photos",
        ["{folder}/photos/valid: expected the pictures to validate with", "make it, or hold out some: --valid 0.2"],
    ),
    "several sizes": (
        {**folders(a=4, b=4), "photos/b/9.png": np.zeros((6, 9), np.uint8)},
        "photos",
        ["photos/b/9.png: expected 8 x 8 pixels as in {folder}/photos/a/0.png, got 9 x 6", "pass --size 128, say"],
    ),
    "folders of other names": (
        folders(a_training=4, b_training=4),
        "photos",
        ["{folder}/photos: expected train/ and valid/, or folders of classes, got training; call them train and valid"],
    ),
    "an empty folder": (
        {"photos/.keep": ""},
        "photos",
        ["expected a folder of pictures for each of two or more classes"],
    ),
    "files that are no pictures": (
        {**folders(a=4, b=4), "photos/a/bad.png": "none", "photos/b/bad.jpg": "none", "photos/b/notes.txt": "none"},
        "photos",
        [
            "error: 3 files cannot be trained on; mend or remove them, or pass --skip-bad:\n",
            "\n  {folder}/photos/a/bad.png: expected a picture",
            "\n  {folder}/photos/b/bad.jpg: expected a picture",
            "\n  {folder}/photos/b/notes.txt: expected the name of a picture",
        ],
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_data_are_refused_with_their_place_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    files, options, said = BAD[name]
    lay_out(files)
    before = sorted(tmp_path.rglob("*"))
    done = clearloop("train", *options.split())
    assert (done.code, done.out) == (2, "")
    for each in said:
        assert each.format(folder=tmp_path.resolve()) in done.err
    assert done.err.count("\n") == (4 if "no pictures" in name else 1)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.filterwarnings("default")  # the command shows a warning as a note
def test_files_that_are_no_pictures_are_left_out_when_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lay_out(BAD["files that are no pictures"][0])
    done = clearloop("train", "photos", "--skip-bad", "--model", "linear", "-n", 1, "-q")
    assert done.code == 0
    first, *others = done.err.splitlines()
    assert first == "note: 3 files cannot be trained on, and are left out:"
    left_out = [line for line in others if line.startswith("  ")]
    assert [line.split(":")[0].rpartition("/")[2] for line in left_out] == ["bad.png", "bad.jpg", "notes.txt"]
    dls = cl.Learner.load("runs/photos-1").dls
    assert len(dls.train.dataset) + len(dls.valid.dataset) == 8


def lay_out(files: dict[str, Any]) -> None:
    """Write text, and arrays as pictures."""
    for name, content in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            Path(name).write_text(content)
        else:
            Image.fromarray(content).save(name)
