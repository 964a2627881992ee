"""How the rows of a table become inputs of a model: fitted on training rows, plain data, applied to any rows."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NoReturn, get_args

import numpy as np
from torch import Tensor

from clearloop.data.arrays import from_numpy
from clearloop.data.table_columns import Table, plain
from clearloop.errors import ConfigError, DataError

Kind = Literal["regression", "binary", "classes"]
InputKind = Literal["number", "date", "category"]

LOST = 1e-3  # of the targets' deviation may be lost when they become float32
FEW = 20  # up to so many different whole numbers may be classes
IDENTIFIERS = (
    20  # text with more different values than this, in more than half of the rows, tells rows apart, not kinds
)


@dataclass(frozen=True)
class Column:
    """One column as an input: how its values become numbers.

    Numbers and dates (as days since 1970) become `(value - mean) / std`, where a missing one counts as the median; with
    `gaps`, a second input says 1 where it was missing. Categories become their place in `categories`, counted from 1
    (None stands for missing); 0 is for all that were not among the training rows.
    """

    name: str
    kind: InputKind
    median: float = 0.0
    mean: float = 0.0
    std: float = 1.0
    gaps: bool = False
    categories: tuple[str | None, ...] = ()


@dataclass(frozen=True)
class TableSpec:
    """All that is needed to turn rows into inputs, and a model's outputs back into a prediction.

    Inputs are float32 of shape (rows, width): numbers and dates first, each followed by whether it was missing where
    that is an input too; then the codes of the categories. `center` and `scale` are mean and deviation of the targets
    of a regression.

    >>> spec = fit_spec(Table({"a": [1, 3], "b": ["x", "y"], "y": [0, 1]}), Target("y", "regression"), [0, 1])[0]
    >>> spec.inputs(Table({"a": [3], "b": ["z"]})).tolist(), spec.numeric, spec.category_sizes
    ([[1.0, 0.0]], 1, (3,))
    """

    target: str
    kind: Kind
    columns: tuple[Column, ...]
    classes: tuple[str, ...] | None = None
    center: float = 0.0
    scale: float = 1.0

    @property
    def numeric(self) -> int:
        """How many inputs are numbers, those that say what was missing among them."""
        return sum(1 + column.gaps for column in self.columns if column.kind != "category")

    @property
    def category_sizes(self) -> tuple[int, ...]:
        """How many codes each category has, the one for unseen values among them."""
        return tuple(1 + len(column.categories) for column in self.columns if column.kind == "category")

    @property
    def width(self) -> int:
        """How many values an input holds."""
        return self.numeric + len(self.category_sizes)

    def inputs(self, table: Table) -> Tensor:
        """The rows as a model takes them: float32 of shape (rows, width).

        Raises: DataError for a column that is not there, and for text or infinity among numbers, with row and column.
        """
        table.require([column.name for column in self.columns], "column")
        found = np.empty((len(table), self.width), np.float32)
        place = 0
        for column in self.columns:
            if column.kind == "category":
                found[:, place] = codes(table.text(column.name), column.categories)
                place += 1
                continue
            values = table.numbers(column.name, column.kind)
            missing = np.isnan(values)
            with np.errstate(over="ignore"):
                scaled = ((np.where(missing, column.median, values) - column.mean) / column.std).astype(np.float32)
            if not np.isfinite(scaled).all():
                row = int((~np.isfinite(scaled)).argmax())
                raise DataError(f"{table.place(row, column.name)}: {values[row]:g} is too large; mend it or empty it")
            found[:, place] = scaled
            if column.gaps:
                found[:, place + 1] = missing
            place += 1 + column.gaps
        return from_numpy(found)

    def targets(self, table: Table) -> Tensor:
        """The targets as a loss takes them: float32 of shape (rows, 1), or class indices, int64 of shape (rows,).

        Raises: DataError for a target that is missing, no number in a regression, or of no known class.
        """
        return Target(self.target, self.kind, self.classes).values(table)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)

    @classmethod
    def read(cls, data: Any) -> TableSpec:
        """The spec that `as_dict` made plain data of. Raises DataError for data of another form."""
        try:
            columns = tuple(
                Column(**{**column, "categories": tuple(column["categories"])}) for column in data["columns"]
            )
            classes = None if data["classes"] is None else tuple(data["classes"])
            spec = cls(**{**data, "columns": columns, "classes": classes})
        except (TypeError, KeyError, LookupError) as error:
            raise DataError(f"expected a table's columns in the form that is written, got {error!r}") from None
        bad = next((column.name for column in columns if not _well_formed(column)), None)
        names = [spec.target, *(spec.classes or ())]
        scales = all(type(value) is float and math.isfinite(value) for value in (spec.center, spec.scale))
        if bad is not None or not all(type(name) is str for name in names) or spec.kind not in get_args(Kind):
            raise DataError(
                f"expected a table's columns in the form that is written, got {str(bad or spec.kind)[:80]!r}"
            )
        if not scales or not columns:
            raise DataError("expected a table's columns and a finite scale of its targets; save it again")
        return spec


def _well_formed(column: Column) -> bool:
    numbers = (column.median, column.mean, column.std)
    return (
        type(column.name) is str
        and column.kind in get_args(InputKind)
        and all(type(number) is float and math.isfinite(number) for number in numbers)
        and column.std > 0
        and type(column.gaps) is bool
        and all(value is None or type(value) is str for value in column.categories)
    )


@dataclass(frozen=True)
class Target:
    """What is to be predicted: a number, or one of `classes`; `note` says in a line how that was chosen."""

    name: str
    kind: Kind
    classes: tuple[str, ...] | None = None
    note: str = ""

    def values(self, table: Table) -> Tensor:
        """The column's values; see `TableSpec.targets`."""
        table.require([self.name], "target column")
        if self.classes is None:
            numbers = table.numbers(self.name)
            _require_targets(np.isnan(numbers), table, self.name)
            with np.errstate(over="ignore"):
                narrow = numbers.astype(np.float32)
            if not np.isfinite(narrow).all():
                row = int(np.abs(numbers).argmax())
                raise DataError(f"{table.place(row, self.name)}: {numbers[row]:g} is too large a target; divide them")
            return from_numpy(narrow).unsqueeze(1)  # (rows,) -> (rows, 1), the shape of predictions
        names = class_names(table, self.name)
        found = codes(names, self.classes) - 1
        unknown = found < 0
        if unknown.any():
            row = int(unknown.argmax())
            known = ", ".join(self.classes[:20])
            raise DataError(f"{table.place(row, self.name)}: expected one of the classes {known}; got {names[row]!r}")
        return from_numpy(found)


def choose_target(table: Table, name: str, kind: Kind | None = None) -> Target:
    """What kind of target a column is, from its values, unless `kind` says so.

    Text is classes; numbers are classes where there are two of them, or few whole ones, each seen several times; all
    other numbers are a regression.
    Raises: DataError for a column that is not there, missing targets (by row), one value, and values that are no
    classes; ConfigError for an unknown kind.

    >>> choose_target(Table({"y": ["no", "yes", "no", "yes"]}), "y").note
    "target 'y': binary, no or yes"
    """
    if kind is not None and kind not in get_args(Kind):
        raise ConfigError(f"kind must be one of {', '.join(get_args(Kind))}, or None to choose; got {kind!r}")
    table.require([name], "target column")
    found = table.kind(name)
    if found is None:
        raise DataError(f"{table.where}, column {name!r}: every target is missing; choose another target")
    if found == "date":
        raise DataError(f"{table.where}, column {name!r}: a date cannot be the target; make it a number or a class")
    numbers = table.numbers(name) if found == "number" or kind == "regression" else None
    if numbers is not None:
        _require_targets(np.isnan(numbers), table, name)
        different = np.unique(numbers)
        if kind is None and len(different) > 2 and not _few_whole(different, len(table)):
            kind = "regression"
        if len(different) < 2:
            _refuse_one_value(plain(float(different[0])), table, name)
    if numbers is not None and kind == "regression":
        _check_precision(numbers, table, name)
        low, high = plain(float(different[0])), plain(float(different[-1]))
        return Target(name, kind, None, f"target {name!r}: regression, {len(different):,} numbers from {low} to {high}")
    names = class_names(table, name)
    counts = _counted(names)
    if len(counts) < 2:
        _refuse_one_value(names[0], table, name)
    _check_classes(counts, kind, names, table, name)
    classes = tuple(sorted(counts, key=_by_number if numbers is not None else None))
    shown = (
        " or ".join(classes) if len(classes) == 2 else ", ".join(classes[:10]) + (", …" if len(classes) > 10 else "")
    )
    label = f"binary, {shown}" if len(classes) == 2 else f"{len(classes)} classes, {shown}"
    return Target(name, "binary" if len(classes) == 2 else "classes", classes, f"target {name!r}: {label}")


def fit_spec(
    table: Table,
    target: Target,
    rows: Sequence[int] | Tensor,
    columns: Sequence[str] | None = None,
    ignore: Sequence[str] = (),
    categorical: Sequence[str] = (),
) -> tuple[TableSpec, list[str]]:
    """How to turn rows into inputs, from the training `rows` alone, and a line for each column that is left out.

    Args: `columns`, the inputs (all but the target when None); `ignore`, columns to leave out; `categorical`, columns
    of numbers that are names.
    Raises: DataError for names that are not there, and when no column is left.
    """
    for names, role in ((columns or (), "column"), (ignore, "column to ignore"), (categorical, "categorical column")):
        if isinstance(names, str):
            raise ConfigError(f"expected a list of names, got the one name {names!r}; write [{names!r}]")
        table.require(names, role)
    wanted = [name for name in (columns or table.names) if name not in ignore and name != target.name]
    chosen = np.asarray(rows)
    found, notes = [], []
    for name in wanted:
        kind = "text" if name in categorical else table.kind(name)
        column: Column | str
        if kind is None:
            column = "it holds no values"
        elif kind == "text":
            column = _category(name, table.text(name)[chosen], name in categorical)
        else:
            column = _number(name, kind, table.numbers(name, kind)[chosen], table.where)
        if isinstance(column, str):
            notes.append(f"column {name!r} is left out: {column}")
        else:
            found.append(column)
    if not found:
        left = f" ({'; '.join(notes)})" if notes else ""
        raise DataError(f"{table.where}: expected columns to predict {target.name!r} from, got none{left}")
    found.sort(key=lambda column: column.kind == "category")  # numbers first; the order is kept otherwise
    center, scale = 0.0, 1.0
    if target.kind == "regression":
        values = table.numbers(target.name)[chosen]
        center, scale = float(values.mean()), float(values.std())
        if scale == 0:
            raise DataError(
                f"{table.where}, column {target.name!r}: every target to train on is {plain(center)}; take another seed"
            )
    return TableSpec(target.name, target.kind, tuple(found), target.classes, center, scale), notes


def _number(name: str, kind: Literal["number", "date"], values: Any, where: str) -> Column | str:
    """The column, or why it is left out."""
    missing = np.isnan(values)
    there = values[~missing]
    if not len(there):
        return "it holds no values in the rows to train on"
    gaps = bool(missing.any())
    if there.min() == there.max() and not gaps:
        return f"it is {plain(float(there[0]))} in every row to train on"
    median = float(np.median(there))
    with np.errstate(over="ignore", invalid="ignore"):
        filled = np.where(missing, median, values)
        mean, std = float(filled.mean()), float(filled.std())
    if not math.isfinite(mean) or not math.isfinite(std):
        raise DataError(f"{where}, column {name!r}: numbers up to {np.abs(there).max():g} are too large; scale them")
    constant = there.min() == there.max() or std == 0
    return Column(name, kind, median, mean, 1.0 if constant else std, gaps)


def _category(name: str, values: Any, asked_for: bool) -> Column | str:
    """The column, or why it is left out."""
    counts = _counted(values)
    named = sorted(value for value in counts if value is not None)
    if len(counts) == 1:
        return f"it is {named[0]!r} in every row to train on" if named else "it holds no values in the rows to train on"
    if not asked_for and len(named) > max(IDENTIFIERS, (len(values) - counts.get(None, 0)) / 2):
        count = f"its {len(named):,} different values in {len(values):,} rows"
        return f"{count} are names or free text (name it as categorical to take it)"
    gaps = [None] if None in counts else []
    return Column(name, "category", categories=(*gaps, *named))


def codes(values: Any, categories: Sequence[str | None]) -> Any:
    """The place of each value among `categories`, counted from 1, or 0 where it is none of them: int64 (rows,).

    What is none of them letter for letter may be one in another spelling.

    >>> codes(["b", "?", "a"], ["a", "b"]).tolist(), codes(["true", "3", "3.5"], ["3.0", "True"]).tolist()
    ([2, 0, 1], [2, 1, 0])
    """
    places = range(len(categories), 0, -1)  # of two that are alike, the first counts
    known = {spelling(categories[place - 1]): place for place in places}
    known |= {categories[place - 1]: place for place in places}
    return np.fromiter((known.get(value, known.get(spelling(value), 0)) for value in values), np.int64, len(values))


def spelling(value: str | None) -> str | None:
    """One spelling for what files, programs and libraries write in several: booleans, and whole numbers.

    >>> spelling("TRUE"), spelling("3.0"), spelling("3.10"), spelling("007")
    ('true', '3', '3.10', '007')
    """
    if value is None or value.lower() in ("true", "false"):
        return value and value.lower()
    return re.sub(r"^([+-]?[0-9]+)\.0+$", r"\1", value)


def class_names(table: Table, name: str) -> Any:
    """The names of the targets' classes, str in an object array; 1 and 1.0 are one. Raises DataError for a gap."""
    values = table.text(name)
    _require_targets(np.array([value is None for value in values], bool), table, name)
    if table.kind(name) == "number":
        numbers = table.numbers(name)
        values[:] = [plain(number) for number in numbers.tolist()]
    return values


def _check_precision(numbers: Any, table: Table, name: str) -> None:
    """Raise DataError for targets whose differences float32, in which models compute, does not tell apart."""
    where = f"{table.where}, column {name!r}"
    with np.errstate(over="ignore", invalid="ignore"):
        lost, spread = float(np.abs(numbers.astype(np.float32) - numbers).max()), float(numbers.std())
    if not math.isfinite(lost) or not math.isfinite(spread):
        row = int(np.abs(numbers).argmax())
        raise DataError(f"{table.place(row, name)}: {numbers[row]:g} is too large a target; divide all of them")
    if lost > LOST * spread:
        raise DataError(
            f"{where}: targets of about {numbers.mean():.6g} differ by {spread:.2g} or so, which models, in float32, "
            "cannot tell; subtract a number from all of them"
        )


def _counted(values: Any) -> dict[Any, int]:
    counts: dict[Any, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    return counts


def _few_whole(different: Any, rows: int) -> bool:
    """Whether numbers look like classes: whole, few, and each seen several times."""
    return len(different) <= min(FEW, rows // 5) and bool((different == np.floor(different)).all())


def _refuse_one_value(value: str, table: Table, name: str) -> NoReturn:
    raise DataError(f"{table.where}, column {name!r}: every target is {value!r}; there is nothing to predict")


def _check_classes(counts: dict[Any, int], kind: Kind | None, names: Any, table: Table, name: str) -> None:
    where = f"{table.where}, column {name!r}"
    if kind == "binary" and len(counts) > 2:
        raise DataError(f"{where}: expected two values for kind='binary', got {len(counts)}; use kind='classes'")
    if len(counts) > max(FEW, len(table) / 2):
        raise DataError(
            f"{where}: expected classes, got {len(counts):,} different values in {len(table):,} rows; choose another "
            "target, or kind='regression' for numbers"
        )
    spellings: dict[Any, str] = {}
    for value in counts:
        if spellings.setdefault(spelling(value), value) != value:
            one, other = sorted((value, spellings[spelling(value)]))
            raise DataError(f"{where}: the classes {one!r} and {other!r} are one, written in two ways; write it in one")
    single = next((value for value, count in counts.items() if count == 1), None)
    if single is not None:
        row = int(np.flatnonzero(names == single)[0])
        number = ", or give kind='regression'" if table.kind(name) == "number" else ""
        raise DataError(
            f"{table.place(row, name)}: the class {single!r} has this row alone; it needs two or more, to train on and "
            f"to validate with: remove it, or join it with another class{number}"
        )


def _require_targets(missing: Any, table: Table, name: str) -> None:
    """Raise DataError, with the first row, where targets are missing."""
    if missing.any():
        row, count = int(missing.argmax()), int(missing.sum())
        raise DataError(
            f"{table.place(row, name)}: the target is missing ({count} such rows of {len(table)}); remove or fill them"
        )


def _by_number(name: str) -> float:
    return float(name)
