"""Predictions for the rows of a file, beside what the file holds."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch

from clearloop.data.table_columns import Table, pyarrow
from clearloop.data.table_files import read_table
from clearloop.errors import ConfigError, DataError, StorageError
from clearloop.predictor import Predictor


def predict_rows(
    predictor: Predictor | str | os.PathLike[str], rows: Any, out: str | os.PathLike[str] | None = None
) -> Any:
    """The rows with their predictions: a column `<target>_predicted`, and for classes `p_<class>` for each.

    Args:
        predictor: one that was trained on a table, or the folder of a run or predictor.
        rows: a CSV or Parquet file, a `Table`, or what one is made of; it needs the columns that the model was trained
            on, in any order. Others, the target among them, pass through.
        out: where to write them, as CSV, or as Parquet where it ends in .parquet; nothing is written when None.

    Returns:
        A `pyarrow.Table`, which `.to_pydict()` and `.to_pandas()` turn into others.

    Raises: ConfigError for a predictor of other data; DataError, with row and column, for rows that do not fit;
    StorageError where the disk refuses.
    """
    pa = pyarrow()
    if not isinstance(predictor, Predictor):
        predictor = Predictor.load(predictor)
    if predictor.table is None:
        raise ConfigError("expected a predictor that was trained on a table, got one of other data; call it with items")
    path = isinstance(rows, (str, os.PathLike))
    table = read_table(Path(rows)) if path else rows if isinstance(rows, Table) else Table(rows)
    predictions = predictor.rows(table)
    spec = predictor.table
    said = f"{spec.target}_predicted"
    if predictor.classes is None:
        added = [(said, pa.array([float(found.values) for found in predictions], pa.float64()))]
    else:
        added = [(said, pa.array([found.label for found in predictions], pa.string()))]
        shares = torch.stack([found.probabilities for found in predictions if found.probabilities is not None])
        added += [(f"p_{name}", pa.array(shares[:, place].numpy())) for place, name in enumerate(predictor.classes)]
    joined = table.data
    for name, values in added:
        if name in joined.column_names:
            remedy = "rename it, or leave it out" if name in table.names else "rename the target or the class"
            raise DataError(f"{table.where}: there is a column {name!r} already; {remedy}")
        joined = joined.append_column(name, values)
    if out is not None:
        write_table(joined, Path(out))
    return joined


def write_table(data: Any, path: Path) -> None:
    """Write a `pyarrow.Table` as CSV, or as Parquet by its suffix; whole, or not at all.

    Raises: DataError for columns of lists and the like, which CSV cannot hold; StorageError where the disk refuses.
    """
    pa = pyarrow()
    if path.is_dir():
        raise StorageError(f"{path}: the predictions cannot be written (it is a folder); choose another place")
    parquet = path.suffix.lower() == ".parquet"
    nested = [field.name for field in data.schema if pa.types.is_nested(field.type)]
    if nested and not parquet:
        raise DataError(f"{path}: CSV cannot hold the lists in column {nested[0]!r}; leave it out, or write .parquet")
    beside = path.with_name(f".{path.name}.{uuid4().hex}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        (pa.parquet.write_table if parquet else pa.csv.write_csv)(data, beside)
        os.replace(beside, path)
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"{path}: the predictions cannot be written ({error}); choose another place") from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
