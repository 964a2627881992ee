"""The command line on data of one's own: tables and folders of pictures."""

from __future__ import annotations

import csv
import random
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import clearloop as cl
from cli_tools import clearloop, process

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


REFUSED = {
    "no target": (["houses.csv"], "is a table: say which column is to be predicted, as in --target price"),
    "no such column": (["houses.csv", "--target", "cost"], "there is no target column 'cost'; the columns are 'size'"),
    "a target of pictures": (["pictures", "--target", "price"], "--target and --kind are for tables (.csv, .parquet)"),
    "the size of a table": (
        ["houses.csv", "--target", "price", "--size", "3"],
        "--size, --grey and --skip-bad are for",
    ),
    "a number of pictures": (
        ["pictures", "--valid", "10"],
        "--valid takes a share between 0 and 1 for such data, got 10",
    ),
    "pictures given back": (["pictures", "--model", "autoencoder"], "autoencoders take mnist, a folder of IDX files"),
    "a net for pictures on a table": (
        ["houses.csv", "--target", "price", "--model", "cnn"],
        "a table takes --model mlp",
    ),
    "a resnet on a table": (["houses.csv", "--target", "town", "--model", "resnet18"], "a table takes --model mlp"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_the_data_is_refused_before_a_folder_is_made(data: Path, tmp_path: Path, name: str) -> None:
    (source, *options), said = REFUSED[name]
    done = clearloop("train", data / source, *options, "-o", tmp_path / "run")
    assert done.code == 2
    assert said in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_predictions_of_a_table_need_one_table(data: Path, table_run: Any) -> None:
    done = clearloop("predict", table_run[0], data / "rows.csv", data / "rows.csv")
    assert done.code == 2
    assert "expected one table with rows to predict" in done.err
