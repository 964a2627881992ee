"""A table by hand: columns of a file to numbers, with what is learned from the training rows alone.

The short form of `clearloop.data.tables`, for files that it has read: what it refuses is not looked for again. A column
is a list of texts, with None for a gap; a function of a column and the training rows makes one input of it, or two.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clearloop.data.table_columns import DAY_US, MISSING, plain
from clearloop.data.table_spec import codes
from clearloop.rng import fold

Texts = Sequence[str | None]
Columns = dict[str, list[str | None]]
Input = Callable[[Texts, Tensor], list[Any]]  # a column, training rows -> arrays of numbers, each of shape (rows,)


def csv_columns(path: str | Path, delimiter: str) -> Columns:
    """The columns of a CSV file by name, without the spaces around a text."""
    with Path(path).open(encoding="utf-8-sig", newline="") as file:
        names, *rows = [row for row in csv.reader(file, delimiter=delimiter) if row]
    columns = zip(names, zip(*rows, strict=True), strict=True)
    return {name.strip(): [as_text(text) for text in column] for name, column in columns}


def parquet_columns(path: str | Path) -> Columns:
    """The columns of a Parquet file by name, its values written out."""
    from pyarrow import parquet

    table = parquet.ParquetFile(path).read()
    return {name.strip(): [as_text(value) for value in table[name].to_pylist()] for name in table.column_names}


def as_text(value: Any) -> str | None:
    """A value as people write it; None for a gap."""
    if isinstance(value, float) and value == value:  # not a number is not itself
        value = plain(value)
    text = str(value).strip()
    return None if text in MISSING else text.lower() if isinstance(value, bool) else text


def below(first: Columns, second: Columns) -> Columns:
    """Two tables as one: the rows of the second follow those of the first."""
    return {name: texts + second[name] for name, texts in first.items() if name in second}


def numbers(texts: Texts, rows: Tensor) -> list[Any]:
    """A column of numbers."""
    return scaled(np.array([np.nan if text is None else float(text) for text in texts]), rows)


def dates(texts: Texts, rows: Tensor) -> list[Any]:
    """A column of dates, as days since 1970."""
    return scaled(np.array([np.nan if text is None else days(text) for text in texts]), rows)


def days(text: str) -> float:
    """A date, perhaps with a time, in days since 1970.

    >>> days("1970-01-03 12:00")
    2.5
    """
    return float((datetime.fromisoformat(text) - datetime(1970, 1, 1)) // timedelta(microseconds=1)) / DAY_US


def scaled(values: Any, rows: Tensor) -> list[Any]:
    """Numbers with mean 0 and deviation 1 over the training rows, and where the gaps are, if these rows have any.

    A gap counts as the median.

    >>> [column.tolist() for column in scaled(np.array([1.0, 5.0, np.nan]), torch.tensor([0, 1]))]
    [[-1.0, 1.0, 0.0]]
    """
    missing = np.isnan(values)
    known = values[rows][~missing[rows]]
    filled = np.where(missing, np.median(known), values)
    mean, deviation = filled[rows].mean(), filled[rows].std()
    constant = known.min() == known.max() or deviation == 0
    column = (filled - mean) / (1.0 if constant else deviation)
    return [column, missing] if missing[rows].any() else [column]


def categories(texts: Texts, rows: Tensor) -> list[Any]:
    """A column of names, as their places among those of the training rows; 0 for all others.

    >>> categories(["b", None, "a", "c"], torch.tensor([0, 1, 2]))[0].tolist()
    [3, 1, 2, 0]
    """
    seen = {texts[row] for row in rows.tolist()}
    gaps = [None] if None in seen else []
    return [codes(texts, [*gaps, *sorted(text for text in seen if text is not None)])]


def table_inputs(columns: Columns, kinds: Mapping[str, Input], rows: Tensor) -> Tensor:
    """All rows as a model takes them: float32 of shape (all rows, inputs)."""
    found = [column for name, kind in kinds.items() for column in kind(columns[name], rows)]
    return torch.from_numpy(np.stack(found, axis=1).astype(np.float32))


def class_targets(texts: Sequence[Any], classes: Sequence[str]) -> Tensor:
    """Names of classes as their places: int64 of shape (rows,)."""
    return torch.from_numpy(codes(texts, classes) - 1)


def number_targets(texts: Sequence[Any]) -> Tensor:
    """Numbers to be predicted: float32 of shape (rows, 1), the shape of a model's one output."""
    return torch.tensor([[float(text)] for text in texts])


def stratified_split(labels: Tensor, valid: float, seed: int) -> tuple[Tensor, Tensor]:
    """Rows to train on and rows that are held out, the same share of every class, by a permutation from the seed.

    >>> [len(rows) for rows in stratified_split(torch.tensor([0, 1] * 10), 0.2, seed=0)]
    [16, 4]
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(fold(seed)))
    train = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        of_class = order[labels[order] == label]
        train[of_class[: round((1 - valid) * len(of_class))]] = True
    return order[train[order]], order[~train[order]]
