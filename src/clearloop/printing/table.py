"""What a program says of the columns of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clearloop.data.loaders import split_indices
from clearloop.data.table_columns import plain
from clearloop.data.table_files import check_csv
from clearloop.data.table_spec import TableSpec
from clearloop.errors import EjectError
from clearloop.printing.draft import Draft
from clearloop.printing.expressions import print_constant, value_text
from clearloop.printing.sources import Read, files_of, folder_line, paths_in_folder, seed_text
from clearloop.rungs import tables

KINDS = {"number": tables.numbers, "date": tables.dates, "category": tables.categories}
TABLES = "clearloop.rungs.tables"


def read_table(draft: Draft, options: Mapping[str, Any]) -> Read:
    """Columns of a CSV or Parquet file, or of two."""
    spec, files = draft.opened.table, files_of(draft.recipe.data)
    assert spec is not None
    stratify = spec.classes is not None and options["stratify"]
    columns = require_same(draft, spec, files, stratify, options)
    calls = [read_call(draft, path, name) for path, name in zip(files, paths_in_folder(draft), strict=True)]
    target = f"columns[{value_text(spec.target)}]"
    lines = [f"columns = {calls[0]}"]
    if len(files) > 1:
        lines = [folder_line(draft), f"columns = {draft.need(f'{TABLES}:below')}({', '.join(calls)})"]
    lines.append(f"targets = {target_call(draft, spec, target, columns[spec.target])}")
    if len(files) > 1:
        parts = [len(loader.dataset) for loader in draft.opened]
        lines.append(f"rows, valid_rows = torch.arange({sum(parts)}).split({parts})  # those of the two files")
    elif stratify:
        split, seed = draft.need(f"{TABLES}:stratified_split"), seed_text(draft, options["seed"])
        lines.append(f"rows, valid_rows = {split}(targets, {value_text(options['valid_share'])}, seed={seed})")
    else:
        split, seed = draft.need("clearloop.data.loaders:split_indices"), seed_text(draft, options["seed"])
        lines.append(f"rows, valid_rows = {split}(len(targets), {value_text(options['valid_share'])}, seed={seed})")
    kinds = {column.name: draft.need(f"{TABLES}:{KINDS[column.kind].__name__}") for column in spec.columns}
    inputs = draft.need(f"{TABLES}:table_inputs")
    print_constant(draft.printer, "INPUTS", "{}", [f"{value_text(name)}: {kind}" for name, kind in kinds.items()])
    lines += [
        f"inputs = {inputs}(columns, INPUTS, rows)",
        "train, valid = (inputs[rows], targets[rows]), (inputs[valid_rows], targets[valid_rows])",
    ]
    return "file with the table" if len(files) == 1 else "folder with the tables", lines, None


def read_call(draft: Draft, path: Path, name: str) -> str:
    """The call that reads a file."""
    if is_parquet(path):
        return f"{draft.need(f'{TABLES}:parquet_columns')}({name})"
    return f"{draft.need(f'{TABLES}:csv_columns')}({name}, {value_text(check_csv(path)[1])})"


def is_parquet(path: Path) -> bool:
    """Whether a file is a Parquet file, by its first bytes."""
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"


def target_call(draft: Draft, spec: TableSpec, target: str, texts: list[str | None]) -> str:
    """The call that makes targets of a column."""
    if spec.classes is None:
        return f"{draft.need(f'{TABLES}:number_targets')}({target})"
    if not are_names(texts, spec.classes):
        target = f"[{draft.need('clearloop.data.table_columns:plain')}(float(text)) for text in {target}]"
    print_constant(draft.printer, "CLASSES", "()", [value_text(name) for name in spec.classes])
    return f"{draft.need(f'{TABLES}:class_targets')}({target}, CLASSES)"


def are_names(texts: Sequence[str | None], classes: Sequence[str]) -> bool:
    """Whether texts are classes as they are written; if not, they are numbers: 0.50 is the class 0.5."""
    return bool((tables.class_targets(texts, classes) >= 0).all())


def require_same(
    draft: Draft, spec: TableSpec, files: list[Path], stratify: bool, options: Mapping[str, Any]
) -> tables.Columns:
    """The columns as the program will read them. Raises EjectError unless it makes the run's own inputs of them."""
    try:
        read = [
            tables.parquet_columns(path) if is_parquet(path) else tables.csv_columns(path, check_csv(path)[1])
            for path in files
        ]
        columns = read[0] if len(read) == 1 else tables.below(*read)
        texts = columns[spec.target]
        if spec.classes is None:
            targets = tables.number_targets(texts)
        elif are_names(texts, spec.classes):
            targets = tables.class_targets(texts, spec.classes)
        else:
            targets = tables.class_targets([plain(float(text or "")) for text in texts], spec.classes)
        parts: Any
        if len(files) > 1:
            parts = torch.arange(len(targets)).split([len(loader.dataset) for loader in draft.opened])
        elif stratify:
            parts = tables.stratified_split(targets, options["valid_share"], options["seed"])
        else:
            parts = split_indices(len(targets), options["valid_share"], options["seed"])
        inputs = tables.table_inputs(columns, {column.name: KINDS[column.kind] for column in spec.columns}, parts[0])
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise EjectError(f"the table cannot be read as a program reads it: {error}") from None
    for loader, rows in zip(draft.opened, parts, strict=True):
        require_equal(loader.dataset.tensors, (inputs[rows], targets[rows]))
    return columns


def require_equal(expected: tuple[Tensor, Tensor], found: tuple[Tensor, Tensor]) -> None:
    """Raise EjectError where a program would train on other numbers than the run did."""
    if not all(map(torch.equal, expected, found)):
        raise EjectError(
            "the table cannot be printed: the short reader of a program makes other numbers of it than the run had "
            "(decimals and moments with a time zone in Parquet files, say); write it as CSV and train on that"
        )
