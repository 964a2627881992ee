"""`clearloop predict`: what a run's model says of new items."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clearloop.commands import own_models
from clearloop.commands.choices import TABLES
from clearloop.commands.options import Arguments, Changed, OwnModel, Run
from clearloop.commands.speech import say
from clearloop.errors import ConfigError

if TYPE_CHECKING:
    from clearloop.predictor import Predictor


def predict(
    run: Run,
    items: Annotated[
        list[Path], typer.Argument(help="pictures, .npy and .npz files with one item or many; or a table of rows")
    ],
    dark_on_light: Annotated[bool, typer.Option("--dark-on-light", help="ink on paper: invert the picture")] = False,
    crop: Annotated[
        bool, typer.Option("--crop", help="cut the picture to its ink and centre it, as MNIST's were")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object a line")] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="tables: the file to write; else the screen")] = None,
    model: OwnModel = None,
    arguments: Arguments = None,
    changed: Changed = False,
) -> None:
    """Predict new items with a run's model: class and probabilities, or values; rows of a table as a table."""
    from clearloop.predictor import Predictor

    predictor = Predictor.load(run, own_models.of_run("predict", run, model, arguments, changed))
    if predictor.table is not None:
        if dark_on_light or crop or as_json:
            option = "--json" if as_json else "--crop" if crop else "--dark-on-light"
            raise ConfigError(
                f"{option} is not for runs on tables: their predictions are written as a table; leave it out"
            )
        predict_table(predictor, items, out)
        return
    if out is not None:
        raise ConfigError("--out is for runs on tables: what is predicted for other items is printed")
    for path in items:
        for name, item in items_in(path, predictor):
            prediction = predictor(item, dark_on_light=dark_on_light, crop=crop)
            if as_json:
                probabilities = prediction.probabilities
                values = {"item": name, "label": prediction.label, "values": prediction.values.flatten().tolist()}
                values["probabilities"] = None if probabilities is None else probabilities.flatten().tolist()
                print(json.dumps(values))
            else:
                print(f"{name}: {prediction}")


def predict_table(predictor: Predictor, items: list[Path], out: Path | None) -> None:
    """The rows of a table with their predictions, as CSV on the screen or in a file."""
    import tempfile

    from clearloop.row_predictions import predict_rows

    if len(items) != 1 or items[0].suffix.lower() not in TABLES:
        raise ConfigError(
            f"expected one table with rows to predict, .csv or .parquet, got {', '.join(map(str, items))}"
        )
    if out is not None:
        predict_rows(predictor, items[0], out)
        say(f"wrote {out}")
        return
    with tempfile.TemporaryDirectory() as folder:
        predict_rows(predictor, items[0], Path(folder) / "rows.csv")
        sys.stdout.write((Path(folder) / "rows.csv").read_text())


def items_in(path: Path, predictor: Predictor) -> Any:
    """(name, item) for a picture or an array file with one item, or for each row of one with many."""
    from clearloop.data.arrays import read_npy, read_npz
    from clearloop.errors import DataError

    if path.suffix not in (".npy", ".npz"):
        yield str(path), path
        return
    arrays = {"x": read_npy(path)} if path.suffix == ".npy" else read_npz(path)
    if "x" not in arrays:
        raise DataError(f"{path}: expected an array named x, got {sorted(arrays)}")
    array, size = arrays["x"], predictor.image_size
    if size is None:
        one = array.ndim <= len(predictor.input_shape)
    else:  # flat pixels, a grey picture or one in colour; rows of flat pixels are many
        one = array.ndim < 2 or array.ndim == 2 and array.shape[1] != size[0] * size[1]
        one = one or array.ndim == 3 and array.shape[2] in (3, 4)
    yield from [(str(path), array)] if one else ((f"{path}[{row}]", item) for row, item in enumerate(array))
