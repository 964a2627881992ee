"""Tables as they stand in a file: CSV and Parquet, looked at before anything is made of them.

A CSV file is gone through twice. Python's own strict reader finds what fast readers let pass: rows that are too short
or too long, zero bytes, quotes that never close, other encodings than UTF-8. Then pyarrow reads it, as text; what is
a number is decided in `table_columns`.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from clearloop.data.table_columns import MISSING, Table, check_names, pyarrow
from clearloop.errors import DataError

DELIMITERS = ",;\t|"
BLOCK_BYTES = 2**24  # pyarrow reads so many at a time; a row must fit in


def read_table(path: str | Path, missing: Sequence[str] = MISSING) -> Table:
    """The table in a CSV or Parquet file.

    Raises: DataError, with line or row and column, for a file that is missing, empty, damaged or ambiguous.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected a table, CSV or Parquet")
    with path.open("rb") as file:
        head = file.read(4)
    if not head:
        raise DataError(f"{path}: the file is empty; expected a table, CSV or Parquet")
    if head == b"PAR1":
        return _read_parquet(path, missing)
    if head[:2] == b"\x1f\x8b":
        raise DataError(f"{path}: expected a table, CSV or Parquet, got a compressed file; unpack it (gzip -d)")
    if path.suffix in (".npy", ".npz") or head in (b"PK\x03\x04", b"\x93NUM"):
        raise DataError(f"{path}: expected a table, CSV or Parquet, got another kind of file; save it as CSV")
    return _read_csv(path, missing)


def _read_parquet(path: Path, missing: Sequence[str]) -> Table:
    pa = pyarrow()
    try:
        data = pa.parquet.ParquetFile(path).read()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error})") from None
    if not data.num_rows:
        raise DataError(f"{path}: expected rows, got none")
    return Table(data, str(path), missing)


def _read_csv(path: Path, missing: Sequence[str]) -> Table:
    pa = pyarrow()
    names, delimiter, rows = check_csv(path)
    convert = pa.csv.ConvertOptions(column_types={name: pa.string() for name in names}, null_values=[])
    parse = pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    try:
        data = pa.csv.read_csv(path, pa.csv.ReadOptions(block_size=BLOCK_BYTES), parse, convert)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not readable as CSV ({error})") from None
    if data.num_rows != rows or list(data.column_names) != names:
        raise DataError(
            f"{path}: expected {rows} rows, read {data.num_rows}: line ends or quotes can be read in two ways; "
            "write the file again, with quotes around text that holds line breaks"
        )
    return Table(data, str(path), missing)


def check_csv(path: Path) -> tuple[list[str], str, int]:
    """Look at every row of a CSV file; the names in its header, what separates values, and how many rows follow.

    Raises: DataError with the line.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = _without_zeros(file, path)
            skipped, first = next(((n, line) for n, line in enumerate(lines) if line.strip("\r\n")), (0, ""))
            if not first:
                raise DataError(f"{path}: expected a header and rows, got blank lines alone")
            bare = re.sub(r'"[^"]*("|$)', "", first)  # names in quotes may hold any mark
            delimiter = max(DELIMITERS, key=lambda mark: bare.count(mark))
            reader = csv.reader(itertools.chain([first], lines), delimiter=delimiter, strict=True)
            names = next(reader)
            check_names([name.strip() for name in names], str(path))
            rows = _count_rows(reader, path, len(names), skipped)
    except UnicodeDecodeError:
        raise DataError(_not_utf8(path)) from None
    except csv.Error as error:
        at = f"{path}, line {reader.line_num}"
        raise DataError(f"{at}: not well-formed CSV ({error}); look at the quotes there and above") from None
    if not rows:
        raise DataError(f"{path}: expected rows below the header, got none")
    return names, delimiter, rows


def _count_rows(reader: Any, path: Path, width: int, skipped: int) -> int:
    rows = 0
    for row in reader:
        if len(row) != width:
            if not row:  # a blank line
                continue
            raise DataError(
                f"{path}, line {skipped + reader.line_num}: expected {width} values as in the header, got {len(row)}; "
                "mend the row, or put quotes around a value that holds the separator"
            )
        rows += 1
    return rows


def _without_zeros(file: Any, path: Path) -> Iterator[str]:
    for number, line in enumerate(file, 1):
        if "\0" in line:
            raise DataError(
                f"{path}, line {number}: got a zero byte, which no text holds; if the file is UTF-16 (Excel's "
                "'Unicode text'), save it as UTF-8"
            )
        yield line


def _not_utf8(path: Path) -> str:
    """Says which line is not UTF-8."""
    with path.open("rb") as file:
        if file.read(2) in (b"\xff\xfe", b"\xfe\xff"):
            return f"{path}: expected UTF-8, got UTF-16; save the file as UTF-8 (in a spreadsheet: CSV UTF-8)"
        file.seek(0)
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                got = f"the byte 0x{line[error.start]:02x}"
                return f"{path}, line {number}: expected UTF-8, got {got}; save the file as UTF-8"
    return f"{path}: expected UTF-8; save the file so"
