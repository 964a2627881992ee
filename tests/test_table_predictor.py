"""Runs on tables: saved, loaded, gone on with to the bit; and predictions for rows that nobody has seen."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch
from torch import nn

from clearloop import (
    Callback,
    CheckpointError,
    ConfigError,
    DataError,
    Learner,
    Predictor,
    RunError,
    StorageError,
    TableDataLoaders,
    durable,
    predict_rows,
    table_learner,
)
from clearloop.data.table_columns import Table

COLUMNS = ["rooms", "town", "built", "sold", "price"]


def write_houses(path: Path, rows: int = 160, without: tuple[str, ...] = (), seed: int = 0) -> Path:
    """Rooms with gaps, towns, dates; whether it was sold, and for how much."""
    rng = np.random.default_rng(seed)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [name for name in COLUMNS if name not in without], extrasaction="ignore")
        writer.writeheader()
        for row in range(rows):
            rooms, town, year = int(rng.integers(1, 9)), str(rng.choice(["Ulm", "Bonn"])), int(rng.integers(1950, 2020))
            price = 20_000 * rooms + (50_000 if town == "Ulm" else 0) + 1000 * (year - 1950)
            gap = row % 11 == 5
            sold = "yes" if price < 180_000 else "no"
            values = ["" if gap else rooms, town, f"{year}-05-17", sold, price]
            writer.writerow(dict(zip(COLUMNS, values, strict=True)))
    return path


@pytest.fixture
def houses(tmp_path):
    return write_houses(tmp_path / "houses.csv")


def learner(path: Path, target: str = "price", epochs: int = 3) -> Learner:
    ignored = ["sold" if target == "price" else "price"]
    learn = table_learner(
        TableDataLoaders.from_csv(path, target, 16, ignore=ignored, seed=1), (16,), seed=2, device="cpu"
    )
    if epochs:
        learn.fit(epochs, 0.01, quiet=True)
    return learn


# -- runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["price", "sold"])
def test_a_run_is_loaded_and_goes_on_to_the_same_bits(houses, tmp_path, target):
    whole, half = learner(houses, target, 4), learner(houses, target, 2)
    half.save(tmp_path / "run")
    again = Learner.load(tmp_path / "run")
    assert isinstance(again.dls, TableDataLoaders)
    assert again.dls.table == half.dls.table
    assert again.validate() == half.validate()
    again.fit(2, 0.01, quiet=True)
    assert again.history.losses == whole.history.losses
    assert again.validate() == whole.validate()
    for one, other in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_an_interrupted_run_is_resumed_in_the_middle_of_an_epoch_to_the_same_bits(houses, tmp_path):
    whole, cut = learner(houses, epochs=3), learner(houses, epochs=0)

    class Stop(Exception):
        pass

    class Stopper(Callback):
        def before_step(self, learn):
            if learn.history.steps == 13:
                raise Stop

    cut.cbs.append(Stopper())
    with pytest.raises(Stop):
        cut.fit(3, 0.01, quiet=True)
    cut.cbs.clear()
    cut.whole = True
    cut.save(tmp_path / "run")
    again = Learner.load(tmp_path / "run")
    assert (again.epoch, again.step) == (1, 13 - again.steps_per_epoch)
    again.resume(quiet=True)
    assert again.history.losses == whole.history.losses
    assert again.validate() == whole.validate()


def test_a_table_that_has_changed_is_not_gone_on_with(houses, tmp_path):
    learner(houses).save(tmp_path / "run")
    write_houses(houses, seed=1)
    with pytest.raises(RunError, match="the train data are not those that the run was started on"):
        Learner.load(tmp_path / "run")
    houses.unlink()
    with pytest.raises(DataError, match=r"houses.csv: no such file"):
        Learner.load(tmp_path / "run")


# -- predictors -------------------------------------------------------------------------------------------------------


def test_a_predictor_folder_holds_all_that_rows_need(houses, tmp_path):
    learn = learner(houses, "sold")
    learn.save(tmp_path / "run")
    settings = json.loads((tmp_path / "run" / "predictor" / "predictor.json").read_text())
    assert settings["table"]["classes"] == settings["classes"] == ["no", "yes"]
    predictor = Predictor.load(tmp_path / "run")
    assert predictor.table == learn.dls.table
    found = predictor.rows(Table(pyarrow.csv.read_csv(houses)))
    logits = learn.get_preds()[0]
    assert torch.equal(torch.stack([found[row].values for row in learn.dls.valid_rows.tolist()]), logits)


def test_one_row_as_a_dict_gives_what_it_gives_among_others(houses, tmp_path):
    learn = learner(houses)
    row = {"rooms": 4, "town": "Ulm", "built": "1990-05-17", "garden": "not asked for"}
    alone = Predictor.of(learn)(row)
    assert alone.label is None
    table = Table({name: [value, value] for name, value in row.items()})
    both = predict_rows(Predictor.of(learn), table)["price_predicted"].to_pylist()
    assert both == [pytest.approx(float(alone.values), rel=1e-6)] * 2
    with pytest.raises(DataError, match="the row: there is no column 'built'"):
        learn.predict({"rooms": 4, "town": "Ulm"})
    with pytest.raises(DataError, match=r"the row, row 1, column 'rooms': expected a number, got 'four'"):
        learn.predict({**row, "rooms": "four"})


def test_the_training_side_is_not_imported_to_predict_rows(houses, tmp_path):
    learner(houses).save(tmp_path / "run")
    code = (
        "import sys\nfrom clearloop import predict_rows\n"
        f"assert predict_rows({str(tmp_path / 'run')!r}, {str(houses)!r}).num_rows == 160\n"
        "print('\\n'.join(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "clearloop.predictor" in loaded
    assert not loaded & {"clearloop.learner", "clearloop.step", "clearloop.callback", "clearloop.saving"}


# -- files of rows ----------------------------------------------------------------------------------------------------


def test_rows_come_back_with_their_predictions_beside_them(houses, tmp_path):
    learner(houses).save(tmp_path / "run")
    rows = write_houses(tmp_path / "new.csv", 7, without=("price", "sold"), seed=3)
    found = predict_rows(tmp_path / "run", rows, tmp_path / "made" / "out.csv")
    with rows.open() as before, (tmp_path / "made" / "out.csv").open() as after:
        given, written = list(csv.DictReader(before)), list(csv.DictReader(after))
    assert [{**row, "price_predicted": ""} for row in given] == [{**row, "price_predicted": ""} for row in written]
    assert [float(row["price_predicted"]) for row in written] == found["price_predicted"].to_pylist()
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["out.csv"]


def test_classes_come_with_a_probability_each_and_parquet_is_written_too(houses, tmp_path):
    learner(houses, "sold").save(tmp_path / "run")
    found = predict_rows(tmp_path / "run", houses, tmp_path / "out.parquet")
    assert pyarrow.parquet.read_table(tmp_path / "out.parquet").equals(found)
    shares = np.stack([found["p_no"].to_numpy(), found["p_yes"].to_numpy()])
    assert np.allclose(shares.sum(axis=0), 1, atol=1e-6)
    assert found["sold_predicted"].to_pylist() == [["no", "yes"][place] for place in shares.argmax(axis=0)]


def test_the_order_of_columns_does_not_matter_nor_does_what_was_not_trained_on(houses, tmp_path):
    predictor = Predictor.of(learner(houses))
    table = pyarrow.csv.read_csv(houses)
    turned = table.select(table.column_names[::-1]).append_column("more", pa.array(["x"] * len(table)))
    one, other = (predict_rows(predictor, rows)["price_predicted"] for rows in (table, turned))
    assert one.equals(other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"without": ("town",)}, r"new.csv: there is no column 'town'; the columns are 'rooms', 'built'"),
        ({"rows": 0}, r"new.csv: expected rows below the header, got none"),
    ],
)
def test_rows_that_do_not_fit_are_refused(houses, tmp_path, change, message):
    predictor = Predictor.of(learner(houses, epochs=1))
    with pytest.raises(DataError, match=message):
        predict_rows(predictor, write_houses(tmp_path / "new.csv", **change))


def test_a_value_that_is_no_number_is_named_and_nothing_is_written(houses, tmp_path):
    predictor = Predictor.of(learner(houses, epochs=1))
    text = houses.read_text().splitlines()
    rows = tmp_path / "new.csv"
    rows.write_text("\n".join([text[0], text[1], "many" + text[2][1:]]))
    with pytest.raises(DataError, match=r"new.csv, row 2, column 'rooms': expected a number, got 'many'"):
        predict_rows(predictor, rows, tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()
    rows.write_text("\n".join([text[0] + ",price_predicted", text[1] + ",1"]))
    with pytest.raises(DataError, match="there is a column 'price_predicted' already; rename it"):
        predict_rows(predictor, rows)


def test_a_place_that_cannot_be_written_to_is_refused_and_nothing_is_left(houses, tmp_path):
    predictor = Predictor.of(learner(houses, epochs=1))
    (tmp_path / "out.csv").mkdir()
    with pytest.raises(StorageError, match=r"out.csv: the predictions cannot be written"):
        predict_rows(predictor, houses, tmp_path / "out.csv")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_form_of_the_file_follows_its_suffix_whatever_its_case_and_lists_need_parquet(houses, tmp_path):
    learn = learner(houses, epochs=0)
    rows = {"rooms": [3], "town": ["Ulm"], "built": ["1990-01-01"], "tags": [["a", "b"]]}
    with pytest.raises(DataError, match=r"o.csv: CSV cannot hold the lists in column 'tags'; leave it out, or write"):
        predict_rows(Predictor.of(learn), rows, tmp_path / "o.csv")
    predict_rows(Predictor.of(learn), rows, tmp_path / "o.PARQUET")
    with pytest.raises(StorageError, match="cannot be written"):
        predict_rows(Predictor.of(learn), rows, houses / "o.parquet")
    assert pa.parquet.read_table(tmp_path / "o.PARQUET").column_names == [
        "rooms",
        "town",
        "built",
        "tags",
        "price_predicted",
    ]
    with pytest.raises(StorageError, match=r"cannot be written \(it is a folder\)"):
        predict_rows(Predictor.of(learn), rows, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["houses.csv", "o.PARQUET"]


def test_a_class_whose_probability_would_overwrite_the_prediction_is_refused():
    dls = TableDataLoaders.from_table({"a": list(range(20)), "p": ["predicted", "b"] * 10}, "p", seed=0)
    predictor = Predictor.of(table_learner(dls, (4,), device="cpu"))
    with pytest.raises(DataError, match="there is a column 'p_predicted' already; rename the target or the class"):
        predict_rows(predictor, {"a": [1, 2]})


def test_predictors_of_other_data_are_refused(houses):
    with pytest.raises(ConfigError, match="expected a predictor that was trained on a table"):
        predict_rows(Predictor(nn.Linear(3, 1), input_shape=(3,)), houses)
    with pytest.raises(ConfigError, match="expected a model that was trained on a table, got one that takes a float32"):
        Predictor(nn.Linear(3, 1), input_shape=(3,)).rows(Table({"x": [1]}))
    with pytest.raises(ConfigError, match=r"rows of 4 inputs do not fill inputs of \(3,\)"):
        Predictor(nn.Linear(3, 1), input_shape=(3,), table=learner(houses, epochs=0).dls.table)


def test_settings_that_were_changed_are_refused(houses, tmp_path):
    learner(houses).save(tmp_path / "run")
    files = durable.read_directory(tmp_path / "run" / "predictor")
    for number, change in enumerate([{"kind": "magic"}, {"columns": [{}]}, []]):
        settings = json.loads(files["predictor.json"])
        settings["table"] = {**settings["table"], **change} if isinstance(change, dict) else change
        durable.write_directory(tmp_path / f"{number}", {**files, "predictor.json": json.dumps(settings).encode()})
        with pytest.raises(CheckpointError, match=r"predictor.json: expected a table's columns"):
            Predictor.load(tmp_path / f"{number}")


def test_a_predictor_that_was_written_before_there_were_tables_is_read(tmp_path):
    Predictor(nn.Linear(3, 1), input_shape=(3,)).save(tmp_path / "old")
    files = durable.read_directory(tmp_path / "old")
    settings = json.loads(files["predictor.json"])
    assert settings.pop("table") is None
    durable.write_directory(tmp_path / "new", {**files, "predictor.json": json.dumps(settings).encode()})
    assert Predictor.load(tmp_path / "new", model=nn.Linear(3, 1)).table is None
