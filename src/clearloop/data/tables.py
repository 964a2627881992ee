"""Loaders for tables: CSV, Parquet, and tables in memory, with a target column."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clearloop.component import remember
from clearloop.data.dataset import TensorDataset, random_split
from clearloop.data.loader import DataLoader, draw_seed, seeded
from clearloop.data.loaders import DataLoaders, split_indices
from clearloop.data.table_columns import Table
from clearloop.data.table_files import read_table
from clearloop.data.table_spec import Kind, TableSpec, Target, choose_target, fit_spec
from clearloop.errors import DataError


class TableDataLoaders(DataLoaders):
    """Loaders of a table: inputs float32 of shape (batch_size, width), targets as the kind of task needs them.

    Class indices are int64 of shape (batch_size,), for two classes too (two logits, cross-entropy: one way for all
    classes). Targets of a regression are float32 of shape (batch_size, 1), in their own units.

    `table` is the `TableSpec`, fitted on the training rows alone; `notes` say in a line each what was chosen and left
    out; `train_rows` and `valid_rows` are int64 indices into the rows of the file (of `valid_path`, where that is
    given).

    >>> rows = {"size": range(40), "town": ["Ulm", "Bonn"] * 20, "price": [3.5 * n for n in range(40)]}
    >>> dls = TableDataLoaders.from_table(rows, "price", batch_size=8, seed=0)
    >>> dls.notes[0]
    "target 'price': regression, 40 numbers from 0 to 136.5"
    >>> [tensor.shape for tensor in next(iter(dls.train))]
    [torch.Size([8, 2]), torch.Size([8, 1])]
    """

    table: TableSpec
    notes: tuple[str, ...]
    train_rows: Tensor
    valid_rows: Tensor

    @classmethod
    @seeded
    @remember
    def from_file(
        cls,
        path: str | Path,
        target: str,
        batch_size: int = 64,
        *,
        kind: Kind | None = None,
        columns: Sequence[str] | None = None,
        ignore: Sequence[str] = (),
        categorical: Sequence[str] = (),
        valid_share: float = 0.2,
        valid_path: str | Path | None = None,
        stratify: bool = True,
        seed: int | None = None,
        valid_batch_size: int = 512,
    ) -> TableDataLoaders:
        """A CSV or Parquet file; its first bytes tell which. `from_csv` and `from_parquet` are this function.

        Args:
            target: the column to predict.
            kind: "regression", "binary" or "classes"; chosen from the target's values when None, and said in `notes`.
            columns: the inputs; all columns but the target when None.
            ignore: columns to leave out.
            categorical: columns of numbers that are names (postcodes, say).
            valid_share: the share of rows held out for validation, by a permutation that depends on the seed alone.
            valid_path: a file of its own to validate with, with the same columns, in place of a share.
            stratify: hold out the same share of every class.

        Raises: DataError, with file, row and column, for what cannot be trained on; see the guide to tables.
        """
        return cls.from_table(
            read_table(path), target, batch_size, kind=kind, columns=columns, ignore=ignore, categorical=categorical,
            valid_share=valid_share, valid=None if valid_path is None else read_table(valid_path), stratify=stratify,
            seed=seed, valid_batch_size=valid_batch_size,
        )  # fmt: skip

    from_csv = from_file
    from_parquet = from_file

    @classmethod
    def from_table(
        cls,
        data: Any,
        target: str,
        batch_size: int = 64,
        *,
        kind: Kind | None = None,
        columns: Sequence[str] | None = None,
        ignore: Sequence[str] = (),
        categorical: Sequence[str] = (),
        valid_share: float = 0.2,
        valid: Any = None,
        stratify: bool = True,
        seed: int | None = None,
        valid_batch_size: int = 512,
    ) -> TableDataLoaders:
        """A table in memory: a `Table`, a `pyarrow.Table`, a pandas DataFrame or a dict of columns.

        Args: as for `from_file`; `valid`, a table of its own to validate with. Runs on such loaders are loaded with
        `Learner.load(run, dls=...)`.
        """
        seed = draw_seed() if seed is None else seed
        table = as_table(data, "the table")
        chosen = choose_target(table, target, kind)
        targets = chosen.values(table)
        held = None if valid is None else as_table(valid, "the validation table")
        if held is None:
            rows, held_rows = split_rows(targets, valid_share, stratify and chosen.classes is not None, seed)
        else:
            rows, held_rows = torch.arange(len(table)), torch.arange(len(held))
        _require_every_class(targets[rows], chosen, table)
        spec, left_out = fit_spec(table, chosen, rows, columns, ignore, categorical)
        inputs = spec.inputs(table)
        if held is None:
            valid_set = TensorDataset(inputs[held_rows], targets[held_rows])
        else:
            valid_set = TensorDataset(spec.inputs(held), spec.targets(held))
        dls = cls(
            DataLoader(TensorDataset(inputs[rows], targets[rows]), batch_size, shuffle=True, seed=seed),
            DataLoader(valid_set, valid_batch_size),
            classes=chosen.classes,
        )
        dls.table, dls.notes = spec, (chosen.note, *left_out)
        dls.train_rows, dls.valid_rows = rows, held_rows
        return dls


def as_table(data: Any, where: str) -> Table:
    """A Table as it is, anything else that holds columns as one."""
    table = data if isinstance(data, Table) else Table(data, where)
    if not len(table):
        raise DataError(f"{table.where}: expected rows, got none")
    return table


def split_rows(targets: Tensor, valid_share: float, stratify: bool, seed: int) -> tuple[Tensor, Tensor]:
    """Rows to train on and rows to validate with, both int64; stratified, the same share of every class.

    >>> [len(part) for part in split_rows(torch.tensor([0, 1] * 10), 0.2, True, seed=0)]
    [16, 4]
    """
    if not 0 < valid_share < 1:
        raise DataError(
            f"valid_share must be a share in (0, 1), got {valid_share}; give valid_path for a file of its own"
        )
    if not stratify:
        return split_indices(len(targets), valid_share, seed)
    try:
        train, valid = random_split(TensorDataset(targets), (1 - valid_share, valid_share), seed, stratify=targets)
    except DataError as error:
        raise DataError(f"{error}; add rows, hold out another share, or give valid_path") from None
    return train.indices, valid.indices


def _require_every_class(labels: Tensor, target: Target, table: Table) -> None:
    """Raise DataError for a class that no training row has."""
    for number, name in enumerate(target.classes or ()):
        if not bool((labels == number).any()):
            raise DataError(
                f"{table.where}, column {target.name!r}: no row of class {name!r} is left to train on; hold out less, "
                "or use stratify=True"
            )
