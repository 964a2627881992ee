"""The columns of a table, asked for as numbers, dates or text: what a value is, is decided here, a column at a time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from clearloop.errors import ConfigError, DataError

ColumnKind = Literal["number", "date", "text"]

MISSING = ("", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "NULL", "null", "None", "?")  # how files write a gap
DAY_US = 86_400 * 10**6
EXACT_WHOLE = 1e16  # above it not every whole number is a float

_NUMBER = r"^[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|(?i:inf|infinity))$"
_DATE = r"^\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2}(?:\.\d{1,6})?)?)?$"
# A number as people write it, with a decimal comma, marks between thousands or a long minus: refused, never guessed.
_MEANT = r"^[+\-−–]?(?:\d+,\d+|\d{1,3}(?:[ ,'’  ]\d{3})+(?:[.,]\d+)?|\d+(?:\.\d+)?)$"
_GROUPED = r"^[+\-−–]?\d{1,3}(?:\.\d{3})+,\d+$"
_WRITTEN = "|".join((_NUMBER, _MEANT, _GROUPED))


def pyarrow() -> Any:
    """The package that reads tables; ConfigError where it is not installed."""
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.csv
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError(f'tables need pyarrow ({error}): pip install "clearloop[tables]"') from error
    return pyarrow


class Table:
    """Named columns of one length, asked for as numbers or as text.

    Args:
        data: a `pyarrow.Table`, or what `pyarrow.table` makes one of: a dict of columns, a pandas DataFrame.
        where: what errors call it, such as the file's path.
        missing: how text writes a gap.

    Raises: DataError for what is no table, for names that are empty or appear twice.

    >>> table = Table({"rooms": [3, None], "town": ["Ulm", ""]})
    >>> table.numbers("rooms").tolist(), table.text("town").tolist()
    ([3.0, nan], ['Ulm', None])
    """

    def __init__(self, data: Any, where: str = "the table", missing: Sequence[str] = MISSING) -> None:
        pa = pyarrow()
        if not isinstance(data, pa.Table):
            try:
                data = pa.table(data)
            except (pa.ArrowException, TypeError, ValueError) as error:
                raise DataError(f"{where}: expected a table, or a dict of columns of one length ({error})") from None
        names = [str(name).strip() for name in data.column_names]
        check_names(names, where)
        self.data, self.where, self.missing = data.rename_columns(names), where, tuple(missing)
        self.names = tuple(names)

    def __len__(self) -> int:
        return int(self.data.num_rows)

    def kind(self, name: str) -> ColumnKind | None:
        """What most of a column's values are, None for a column without any. Raises DataError for lists and bytes."""
        pa = pyarrow()
        column = self._column(name)
        if isinstance(column, pa.StringArray | pa.LargeStringArray):
            values = len(column) - column.null_count
            if not values:
                return None
            for kind, pattern in (("number", _WRITTEN), ("date", _DATE)):
                if 2 * pa.compute.sum(pa.compute.match_substring_regex(column, pattern)).as_py() > values:
                    return kind  # type: ignore[return-value]
            return "text"
        if pa.types.is_null(column.type) or column.null_count == len(column):
            return None
        if not is_number(column.type) and not is_date(column.type) and not pa.types.is_boolean(column.type):
            at = f"{self.where}, column {name!r}"
            raise DataError(f"{at}: expected numbers, dates or text, got {column.type}; leave the column out")
        return "number" if is_number(column.type) else "date" if is_date(column.type) else "text"

    def numbers(self, name: str, kind: Literal["number", "date"] = "number") -> Any:
        """A column as float64 of shape (rows,), NaN where a value is missing; dates as days since 1970.

        Raises: DataError with row and column for text among the numbers, and for infinity.
        """
        pa = pyarrow()
        column = self._column(name)
        if isinstance(column, pa.StringArray | pa.LargeStringArray):
            self._require_pattern(name, column, kind)
            column = pa.compute.replace_substring_regex(column, r"^\+", "")  # pyarrow takes no sign that says nothing
        elif not pa.types.is_null(column.type) and not (is_number if kind == "number" else is_date)(column.type):
            raise DataError(f"{self.where}, column {name!r}: expected {kind}s, got {column.type}; convert them")
        values = self._as_floats(name, column, kind)
        infinite = np.isinf(values)
        if infinite.any():
            row = int(infinite.argmax())
            raise DataError(
                f"{self.place(row, name)}: expected a finite number, got {values[row]}; mend it or empty it"
            )
        return values

    def text(self, name: str) -> Any:
        """A column as str in an object array of shape (rows,), None where a value is missing."""
        pa = pyarrow()
        column = self._column(name)
        if pa.types.is_floating(column.type) or pa.types.is_decimal(column.type):
            found = [None if value is None or value != value else plain(float(value)) for value in column.to_pylist()]
        else:
            try:
                found = pa.compute.cast(column, pa.string()).to_pylist()
            except pa.ArrowException:  # of lists and bytes
                raise DataError(f"{self.where}, column {name!r}: expected text, got {column.type}") from None
        values = np.empty(len(found), dtype=object)
        values[:] = found
        return values

    def place(self, row: int, name: str) -> str:
        """Where a value stands, for messages; rows are counted from 1."""
        return f"{self.where}, row {row + 1}, column {name!r}"

    def require(self, names: Sequence[str], role: str) -> None:
        """Raise DataError, with the names that are there, unless every one of `names` is a column."""
        absent = [name for name in names if name not in self.names]
        if absent:
            there = ", ".join(map(repr, self.names[:40])) + (", …" if len(self.names) > 40 else "")
            raise DataError(f"{self.where}: there is no {role} {absent[0]!r}; the columns are {there}")

    def _column(self, name: str) -> Any:
        """A column in one piece; text without spaces around it, and null where it stands for a gap."""
        pa = pyarrow()
        column = self.data[name].combine_chunks()
        if isinstance(column, pa.ChunkedArray):  # of a table without rows
            column = pa.concat_arrays(column.chunks) if column.chunks else pa.array([], column.type)
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if pa.types.is_string_view(column.type):
            column = column.cast(pa.large_string())
        if not isinstance(column, pa.StringArray | pa.LargeStringArray):
            return column
        column = pa.compute.utf8_trim_whitespace(column)
        gaps = pa.compute.is_in(column, value_set=pa.array(self.missing, column.type))
        return pa.compute.if_else(gaps, pa.scalar(None, column.type), column)

    def _require_pattern(self, name: str, column: Any, kind: Literal["number", "date"]) -> None:
        """Raise DataError for the first text that is not of the kind that the column is."""
        compute = pyarrow().compute
        fits = compute.match_substring_regex(column, _NUMBER if kind == "number" else _DATE)
        wrong = compute.fill_null(compute.invert(fits), False).to_numpy(zero_copy_only=False)
        if not wrong.any():
            return
        row = int(wrong.argmax())
        value = column[row].as_py()
        remedy = "mend it, empty it, or take the column as categorical"
        if kind == "number" and re.match(_WRITTEN, value):
            remedy = (
                "write numbers with a decimal point, a plain minus and nothing between thousands, or take the column "
                "as categorical"
            )
        what = "a number" if kind == "number" else "a date such as 2024-02-29 or 2024-02-29 18:30"
        count = int(wrong.sum())
        more = f" ({count} such rows of {len(column)})" if count > 1 else ""
        raise DataError(f"{self.place(row, name)}: expected {what}, got {value[:60]!r}{more}; {remedy}")

    def _as_floats(self, name: str, column: Any, kind: Literal["number", "date"]) -> Any:
        pa = pyarrow()
        if kind == "number":
            return np.asarray(pa.compute.cast(column, pa.float64(), safe=False).to_numpy(zero_copy_only=False), float)
        try:
            moments = pa.compute.cast(column, pa.timestamp("us"), safe=False)
        except pa.ArrowException as error:
            row = next((row for row in range(len(column)) if not _is_moment(column[row])), 0)
            at = self.place(row, name)
            raise DataError(f"{at}: expected a date of the calendar, got {column[row].as_py()!r}; mend it") from error
        micros = pa.compute.cast(moments, pa.int64()).to_numpy(zero_copy_only=False)  # float with NaN if any is null
        return np.asarray(micros, float) / DAY_US


def _is_moment(text: Any) -> bool:
    """Whether the calendar has a date."""
    pa = pyarrow()
    try:
        text.cast(pa.timestamp("us"))
    except pa.ArrowException:
        return False
    return True


def is_number(kind: Any) -> bool:
    """Whether a type of pyarrow's is one of numbers."""
    types = pyarrow().types
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind))


def is_date(kind: Any) -> bool:
    """Whether a type of pyarrow's is one of days or moments."""
    types = pyarrow().types
    return bool(types.is_date(kind) or types.is_timestamp(kind))


def plain(value: float) -> str:
    """A number as people write it.

    >>> plain(3.0), plain(0.25), plain(1e300)
    ('3', '0.25', '1e+300')
    """
    return str(int(value)) if value.is_integer() and abs(value) < EXACT_WHOLE else repr(value)


def check_names(names: Sequence[str], where: str) -> None:
    """Raise DataError for a name that is empty or appears twice."""
    if not names:
        raise DataError(f"{where}: expected named columns, got none")
    for number, name in enumerate(names):
        if not name:
            raise DataError(
                f"{where}: column {number + 1} of {len(names)} has no name; name it, or leave it out (pandas writes "
                "its row numbers so: to_csv(..., index=False))"
            )
        if name in names[:number]:
            raise DataError(
                f"{where}: columns {names.index(name) + 1} and {number + 1} are both named {name!r}; rename one of them"
            )
