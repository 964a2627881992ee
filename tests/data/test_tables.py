"""Tables from files and from memory: what is read, what is chosen, what is refused, and what training rows decide."""

from __future__ import annotations

import csv
import datetime
import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clearloop import ConfigError, DataError, TableDataLoaders
from clearloop.data.table_columns import MISSING, Table
from clearloop.data.table_files import read_table
from clearloop.data.table_spec import Column, TableSpec, Target, choose_target, fit_spec


def write(folder: Path, text: str | bytes, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def mixed(rows: int = 120, seed: int = 0) -> dict[str, list]:
    """Numbers with gaps, towns with gaps, dates, names, a constant; a price that depends on the first three."""
    rng = np.random.default_rng(seed)
    rooms = rng.integers(1, 9, rows).tolist()
    towns = rng.choice(["Ulm", "Bonn", "Kiel"], rows).tolist()
    built = [datetime.date(1950, 1, 1) + datetime.timedelta(days=int(days)) for days in rng.integers(0, 20_000, rows)]
    price = [
        20 * r + {"Ulm": 50, "Bonn": 0, "Kiel": -30}[t] + b.year - 1980
        for r, t, b in zip(rooms, towns, built, strict=True)
    ]
    return {
        "name": [f"house {row}" for row in range(rows)],
        "rooms": [None if row % 10 == 3 else value for row, value in enumerate(rooms)],
        "town": [None if row % 15 == 4 else value for row, value in enumerate(towns)],
        "built": built,
        "country": ["D"] * rows,
        "price": price,
    }


def write_csv(path: Path, columns: dict[str, list]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(
            [["" if value is None else value for value in row] for row in zip(*columns.values(), strict=True)]
        )
    return path


# -- reading ----------------------------------------------------------------------------------------------------------


def test_numbers_text_and_gaps_are_told_apart(tmp_path):
    text = "a, b ,c\n1,x,\n+2.5e1,,NA\n -3. , y ,nan\n"
    table = read_table(write(tmp_path, text))
    assert table.names == ("a", "b", "c")
    assert [table.kind(name) for name in table.names] == ["number", "text", None]
    assert table.numbers("a").tolist() == [1, 25, -3]
    assert table.text("b").tolist() == ["x", None, "y"]
    assert np.isnan(table.numbers("c")).all()


def test_a_parquet_file_and_a_csv_file_of_it_give_the_same_loaders(tmp_path):
    columns = mixed()
    one = write_csv(tmp_path / "t.csv", columns)
    pyarrow.parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
    dls, same = (TableDataLoaders.from_file(path, "price", seed=1) for path in (one, tmp_path / "t.parquet"))
    assert dls.table == same.table
    assert torch.equal(dls.train.dataset.tensors[0], same.train.dataset.tensors[0])
    assert torch.equal(dls.valid.dataset.tensors[1], same.valid.dataset.tensors[1])


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_other_separators_are_found_in_the_header(tmp_path, delimiter):
    table = read_table(write(tmp_path, "a,b,c\n1,2,x\n".replace(",", delimiter)))
    assert (table.names, table.numbers("b").tolist()) == (("a", "b", "c"), [2])


def test_quotes_line_breaks_a_byte_order_mark_and_blank_lines_are_understood(tmp_path):
    text = '\ufeff"a, first",b\r\n\r\n"two\r\nlines",1\r\n"say ""so""",2\r\n\r\n'
    table = read_table(write(tmp_path, text))
    assert table.names == ("a, first", "b")
    assert table.text("a, first").tolist() == ["two\r\nlines", 'say "so"']
    assert table.numbers("b").tolist() == [1, 2]


# What is not stripped, taken for a gap or a zero byte comes back as it was.
words = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0\r"), min_size=1, max_size=12).map(
    str.strip
)
words = words.filter(lambda word: word and word not in MISSING)
numbers = st.floats(allow_nan=False, allow_infinity=False, width=64)


@given(st.lists(st.tuples(words, st.none() | numbers), min_size=1, max_size=20))
def test_what_python_writes_as_csv_is_read_back_to_the_bit(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    path = write_csv(path, {"word": [word for word, _ in rows], "number": [number for _, number in rows]})
    table = read_table(path)
    assert table.text("word").tolist() == [word for word, _ in rows]
    expected = [math.nan if number is None else number for _, number in rows]
    assert np.array_equal(table.numbers("number"), np.array(expected), equal_nan=True)


@given(st.lists(st.lists(words, min_size=2, max_size=2), min_size=1, max_size=10), st.integers(0, 9), st.booleans())
def test_a_row_of_another_width_is_never_read(tmp_path_factory, rows, place, longer):
    place %= len(rows)
    rows[place] = [*rows[place], "more"] if longer else rows[place][:1]
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["a", "b"], *rows])
    with pytest.raises(DataError, match=f"expected 2 values as in the header, got {3 if longer else 1}"):
        read_table(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "the file is empty; expected a table"),
        (b"\n\n", "expected a header and rows, got blank lines alone"),
        (b"a,b\n", "expected rows below the header, got none"),
        (b"a,b\n1,2\n1\n", r"t.csv, line 3: expected 2 values as in the header, got 1; mend the row"),
        (b"\n\na,b\n1,2\n1,2,3\n", r"t.csv, line 5: expected 2 values as in the header, got 3"),
        (b"a,b,a\n1,2,3\n", "columns 1 and 3 are both named 'a'; rename one of them"),
        (b"a, a\n1,2\n", "columns 1 and 2 are both named 'a'"),
        (b",b\n1,2\n", r"column 1 of 2 has no name; .*to_csv\(..., index=False\)"),
        (b"a,b\n1,\0\n", "line 2: got a zero byte, which no text holds; .*save it as UTF-8"),
        ("a,b\n1,é\n".encode("latin-1"), "line 2: expected UTF-8, got the byte 0xe9; save the file as UTF-8"),
        ("a,b\n1,é\n".encode("utf-16"), "expected UTF-8, got UTF-16; save the file as UTF-8"),
        (b'a,b\n1,"x\n', r"line 2: not well-formed CSV \(unexpected end of data\); look at the quotes"),
        (b'a,b\n1,"x"y\n', "line 2: not well-formed CSV"),
        (b"PAR1 and no more", "not a readable Parquet file"),
        (b"PK\x03\x04", "expected a table, CSV or Parquet, got another kind of file"),
        (b"\x1f\x8b\x08\x00", "got a compressed file; unpack it"),
    ],
)
def test_files_that_are_no_table_are_refused_with_the_place(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read_table(write(tmp_path, text))


def test_separators_in_quoted_names_do_not_count(tmp_path):
    table = read_table(write(tmp_path, '"a, b, c";"d, ""e""";y\n1;2;3\n'))
    assert table.names == ("a, b, c", 'd, "e"', "y")


@pytest.mark.parametrize("make", [pa.string, pa.large_string, pa.string_view])
def test_text_of_any_of_arrows_types_is_read(make):
    table = Table(
        pa.table({"x": pa.array([" Ulm", "", "NA", "Bonn"], make()), "n": pa.array(["1", "2", None, "x"], make())})
    )
    assert (table.kind("x"), table.text("x").tolist()) == ("text", ["Ulm", None, None, "Bonn"])
    assert table.kind("n") == "number"


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"nothing.csv: no such file; expected a table"):
        TableDataLoaders.from_csv(tmp_path / "nothing.csv", "y")


def test_columns_of_lists_are_refused_unless_they_are_ignored():
    columns = {"x": list(range(20)), "l": [[1]] * 20, "y": [0, 1] * 10}
    with pytest.raises(DataError, match="column 'l': expected numbers, dates or text, got list<"):
        TableDataLoaders.from_table(columns, "y", seed=0)
    assert TableDataLoaders.from_table(columns, "y", seed=0, ignore=["l"]).table.width == 1


def test_without_pyarrow_the_package_to_install_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r'pip install "clearloop\[tables\]"'):
        Table({"a": [1]})


# -- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            ["1", "2", "three", "4", "x"],
            r"row 3, column 'x': expected a number, got 'three' \(2 such rows of 5\); mend",
        ),
        (["1", "2", "3,5"], "row 3, column 'x': expected a number, got '3,5'; write numbers with a decimal point"),
        (["1", "2", "inf"], "row 3, column 'x': expected a finite number, got inf"),
        (["1", "1e999", "2"], "row 2, column 'x': expected a finite number, got inf"),
        ([1.0, 2.0, math.inf], "row 3, column 'x': expected a finite number, got inf"),
        (["2024-02-28", "2024-02-29", "soon"], "row 3, column 'x': expected a date such as 2024-02-29.*got 'soon'"),
        (["2024-02-28", "2024-02-30", None], "row 2, column 'x': expected a date of the calendar, got '2024-02-30'"),
        ([1e308, -1e308, 1e308], "column 'x': numbers up to 1e.308 are too large"),
    ],
)
def test_values_that_do_not_fit_their_column_are_named_with_row_and_column(values, message):
    with pytest.raises(DataError, match=message):
        fit_spec(Table({"x": values}), Target("y", "classes", ("a",)), range(len(values)))


@pytest.mark.parametrize(
    "values",
    [
        ["0,5", "1,5", "2,5", "3,5"],  # all of them: neither classes nor names
        ["1", "2", "2,5", "3,5"],
        ["1,234", "22,345,678", "3,456.5"],
        ["1.234,5", "22.345.678,25", "5,0"],
        ["1 234", "2 345,5", "3\u202f456"],
        ["1'234", "2\u2019345.5"],
        ["\u22125", "\u22126.5", "\u2013" + "7"],
    ],
)
def test_numbers_that_are_written_for_people_are_refused_as_input_and_target_never_taken_for_names(values):
    rows = {"x": list(range(20)), "z": (values * 20)[:20]}
    first = next(row for row, value in enumerate(values, 1) if not value.isdigit())
    for target in ("x", "z"):
        with pytest.raises(
            DataError, match=rf"row {first}, column 'z': expected a number, got .*decimal point, a plain minus"
        ):
            TableDataLoaders.from_table(rows, target, kind="regression" if target == "x" else None, seed=0)
    dls = TableDataLoaders.from_table(rows, "x", kind="regression", categorical=["z"], seed=0)
    assert dls.table.columns[0].kind == "category"


@pytest.mark.parametrize("value", ["192.168.100.200", "12.05.2024", "1-2", "3a", "48.1,11.5", "030/123", "1,2,3"])
def test_other_text_with_digits_stays_text(value):
    assert Table({"x": [value] * 3}).kind("x") == "text"


def test_a_column_that_is_mostly_text_is_categorical_and_numbers_can_be_said_to_be():
    table = Table({"code": ["12a", "7", "b", "7"], "zip": [12345, 54321, None, 12345]})
    spec, _ = fit_spec(table, Target("y", "classes", ("a",)), range(4), categorical=["zip"])
    assert [column.categories for column in spec.columns] == [("12a", "7", "b"), (None, "12345", "54321")]
    assert spec.inputs(table).tolist() == [[1, 2], [2, 3], [3, 1], [2, 2]]


def test_missing_numbers_are_the_median_and_an_input_of_their_own():
    table = Table({"x": [1.0, None, 3.0, 8.0], "z": [0.0, 2.0, 0.0, 2.0]})
    spec, _ = fit_spec(table, Target("y", "classes", ("a",)), range(4))
    filled = np.array([1.0, 3.0, 3.0, 8.0])
    expected = ((filled - filled.mean()) / filled.std()).astype(np.float32)
    assert spec.inputs(table)[:, 0].tolist() == expected.tolist()
    assert spec.inputs(table)[:, 1].tolist() == [0, 1, 0, 0]
    assert spec.inputs(table)[:, 2].tolist() == [-1, 1, -1, 1]
    later = spec.inputs(Table({"z": [None], "x": [3.0]}))  # a gap where none was: the median, and no input says so
    assert later[0, 1:].tolist() == [0, 0]


def test_categories_that_were_not_seen_are_a_class_of_their_own_and_so_are_missing_ones():
    table = Table({"c": ["b", None, "a", "b"], "d": ["p", "q", "p", "q"]})
    spec, _ = fit_spec(table, Target("y", "classes", ("k",)), range(4))
    assert spec.category_sizes == (4, 3)
    assert spec.inputs(table).tolist() == [[3, 1], [1, 2], [2, 1], [3, 2]]
    assert spec.inputs(Table({"c": ["new", "?"], "d": ["", "q"]})).tolist() == [[0, 0], [1, 2]]


@pytest.mark.parametrize(
    ("trained", "asked"),
    [
        (["True", "False", "True"], [True, False, None, "TRUE", "true"]),
        ([True, False, True], ["True", "FALSE", None, "true", True]),
        (["1.0", "2.0", "1.0"], [1, 2, 3, 1.0, "1"]),
        ([1, 2, 1], ["1.0", 2.0, "3.0", "1", 1]),
        (["07", "7", "07"], ["07", "7", "007", "07", "07.0"]),
    ],
)
def test_a_category_is_known_however_files_and_programs_spell_it(trained, asked):
    table = {"x": trained * 10, "y": list(range(30))}
    spec = TableDataLoaders.from_table(table, "y", kind="regression", categorical=["x"], seed=0).table
    one, other = (spec.inputs(Table({"x": [value]})).item() for value in (trained[0], trained[1]))
    assert {one, other} == {1, 2}
    found = [spec.inputs(Table({"x": [value]})).item() for value in asked]
    assert found == [one, other, 0, one, one]


def test_two_spellings_among_the_training_rows_stay_two_categories():
    rows = {"x": ["True", "TRUE", "no"] * 10, "y": list(range(30))}
    spec = TableDataLoaders.from_table(rows, "y", kind="regression", seed=0).table
    assert spec.columns[0].categories == ("TRUE", "True", "no")
    asked = Table({"x": ["True", "TRUE", "no", "true"]})
    assert spec.inputs(asked).flatten().tolist() == [2, 1, 3, 1]


def test_dates_are_days_since_1970_whether_written_or_stored():
    moments = [datetime.datetime(1970, 1, 2), datetime.datetime(2000, 1, 1, 12)]
    stored, written = Table({"d": moments}), Table({"d": ["1970-01-02", "2000-01-01 12:00"]})
    assert stored.kind("d") == written.kind("d") == "date"
    assert stored.numbers("d", "date").tolist() == written.numbers("d", "date").tolist() == [1.0, 10957.5]


def test_columns_that_tell_nothing_are_left_out_aloud(tmp_path):
    columns = {**mixed(), "empty": [None] * 120}
    dls = TableDataLoaders.from_csv(write_csv(tmp_path / "t.csv", columns), "price", seed=0)
    assert [column.name for column in dls.table.columns] == ["rooms", "built", "town"]
    assert dls.notes[1:] == (
        "column 'name' is left out: its 96 different values in 96 rows are names or free text (name it as categorical "
        "to take it)",
        "column 'country' is left out: it is 'D' in every row to train on",
        "column 'empty' is left out: it holds no values",
    )
    assert "name" in [c.name for c in TableDataLoaders.from_table(columns, "price", categorical=["name"]).table.columns]


def test_a_table_of_which_nothing_is_left_is_refused():
    with pytest.raises(DataError, match=r"expected columns to predict 'y' from, got none .column 'x' is left out"):
        TableDataLoaders.from_table({"x": [1] * 20, "y": [0, 1] * 10}, "y")


# -- targets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "kind", "note", "classes"),
    [
        ([0.5 * n for n in range(40)], "regression", "target 'y': regression, 40 numbers from 0 to 19.5", None),
        (list(range(40)), "regression", "target 'y': regression, 40 numbers from 0 to 39", None),
        (["no", "yes"] * 20, "binary", "target 'y': binary, no or yes", ("no", "yes")),
        ([3.5, 7.0] * 20, "binary", "target 'y': binary, 3.5 or 7", ("3.5", "7")),
        ([True, False] * 20, "binary", "target 'y': binary, false or true", ("false", "true")),
        ([10, 9, 2, 1] * 10, "classes", "target 'y': 4 classes, 1, 2, 9, 10", ("1", "2", "9", "10")),
        (["c", "a", "b", "a"] * 10, "classes", "target 'y': 3 classes, a, b, c", ("a", "b", "c")),
        ([1.5, 2.5, 3.5, 4.5] * 10, "regression", "target 'y': regression, 4 numbers from 1.5 to 4.5", None),
    ],
)
def test_the_kind_of_target_is_chosen_from_its_values_and_said(values, kind, note, classes):
    target = choose_target(Table({"y": values}), "y")
    assert (target.kind, target.note, target.classes) == (kind, note, classes)


def test_a_kind_that_is_given_overrules_the_values():
    few, many = Table({"y": [1, 2, 3, 4] * 10}), Table({"y": ["1.5", "2.5", "3.5", "4.5"] * 10})
    assert choose_target(few, "y", "regression").values(few)[:3].tolist() == [[1], [2], [3]]
    assert choose_target(many, "y", "classes").classes == ("1.5", "2.5", "3.5", "4.5")


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        ([1, 1, 1], None, "column 'y': every target is '1'; there is nothing to predict"),
        ([1.0, None, 2.0], None, r"row 2, column 'y': the target is missing \(1 such rows of 3\); remove or fill"),
        (["a", "", "b", "NA"], None, r"row 2, column 'y': the target is missing \(2 such rows of 4\)"),
        ([None, None], None, "column 'y': every target is missing"),
        (["1", "2", "3", "4", "five"], None, "row 5, column 'y': expected a number, got 'five'"),
        (["a", "b", "a", "b"], "regression", r"row 1, column 'y': expected a number, got 'a' \(4 such rows of 4\)"),
        (["a", "b", "c"] * 5, "binary", "expected two values for kind='binary', got 3; use kind='classes'"),
        (["a", "a", "b"], None, "row 3, column 'y': the class 'b' has this row alone; it needs two or more"),
        ([f"n{n}" for n in range(50)], None, "expected classes, got 50 different values in 50 rows"),
        (["2024-01-01", "2024-01-02"], None, "a date cannot be the target"),
        ([1.0, math.inf, 2.0], None, "row 2, column 'y': expected a finite number, got inf"),
    ],
)
def test_targets_that_cannot_be_trained_on_are_refused(values, kind, message):
    with pytest.raises(DataError, match=message):
        choose_target(Table({"y": values}), "y", kind)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1e300, 2e300, 3e300, 2.5], "row 3, column 'y': 3e.300 is too large a target"),
        ([1e39, 1.5, 2, 3], "row 1, column 'y': 1e.39 is too large a target"),
        (
            [1e9 + 0.5, 1e9 + 1, 1e9 + 1.25, 1e9 + 3],
            r"targets of about 1e.09 differ by 0\.\d+ or so.*subtract a number",
        ),
    ],
)
def test_targets_that_float32_cannot_hold_or_tell_apart_are_refused(values, message):
    with pytest.raises(DataError, match=message):
        TableDataLoaders.from_table({"x": list(range(20)), "y": values * 5}, "y", kind="regression", seed=0)
    year = [1.7e9 + 1e6 * n for n in range(20)]  # moments in seconds, over months: exact enough
    assert TableDataLoaders.from_table({"x": list(range(20)), "y": year}, "y", seed=0).table.kind == "regression"


def test_a_target_of_another_table_that_float32_cannot_hold_is_refused():
    with pytest.raises(DataError, match=r"row 2, column 'y': -1e.39 is too large a target"):
        Target("y", "regression").values(Table({"y": [1.0, -1e39]}))


def test_infinity_among_categories_is_a_name_like_others():
    values = [1.0, math.inf, 2.5, math.nan] * 5
    spec = TableDataLoaders.from_table(
        {"x": values, "y": list(range(20))}, "y", kind="regression", categorical=["x"], seed=0
    ).table
    assert spec.columns[0].categories == (None, "1", "2.5", "inf")


def test_a_class_in_two_spellings_is_refused():
    with pytest.raises(DataError, match="the classes 'TRUE' and 'True' are one, written in two ways"):
        choose_target(Table({"y": ["True", "false", "TRUE", "false", "True", "TRUE"]}), "y")
    assert choose_target(Table({"y": ["1.1", "1.10", "x", "y"] * 3}), "y").classes == ("1.1", "1.10", "x", "y")


def test_a_split_that_leaves_nothing_says_what_to_do():
    with pytest.raises(DataError, match="leave a part empty; add rows, hold out another share, or give valid_path"):
        TableDataLoaders.from_table({"x": [1, 2, 3, 4], "y": ["a", "b"] * 2}, "y", seed=0)


def test_an_unknown_target_column_is_refused_with_the_columns_that_are_there(tmp_path):
    path = write(tmp_path, "size,price\n" + "1,2\n3,4\n" * 5)
    with pytest.raises(DataError, match=r"t.csv: there is no target column 'prize'; the columns are 'size', 'price'"):
        TableDataLoaders.from_csv(path, "prize")
    with pytest.raises(DataError, match="there is no column to ignore 'id'"):
        TableDataLoaders.from_csv(path, "price", kind="regression", ignore=["id"])
    with pytest.raises(ConfigError, match="kind must be one of regression, binary, classes"):
        TableDataLoaders.from_csv(path, "price", kind="number")
    with pytest.raises(ConfigError, match="expected a list of names, got the one name 'size'"):
        TableDataLoaders.from_csv(path, "price", kind="regression", columns="size")


# -- loaders ----------------------------------------------------------------------------------------------------------


def test_the_rows_held_out_have_no_part_in_the_scaling():
    columns = mixed()
    dls = TableDataLoaders.from_table(columns, "price", seed=3)
    changed = {name: list(values) for name, values in columns.items()}
    for row in dls.valid_rows.tolist():
        changed["rooms"][row], changed["town"][row] = 1e6, "Atlantis"
        changed["built"][row], changed["price"][row] = datetime.date(1600, 1, 1), -1e9
    other = TableDataLoaders.from_table(changed, "price", seed=3)
    assert other.table == dls.table
    assert torch.equal(other.train.dataset.tensors[0], dls.train.dataset.tensors[0])
    assert not torch.equal(other.valid.dataset.tensors[0], dls.valid.dataset.tensors[0])
    for row in dls.train_rows[:1].tolist():  # while one row that is trained on changes all
        changed["built"][row] = datetime.date(1600, 1, 1)
    assert TableDataLoaders.from_table(changed, "price", seed=3).table != dls.table


def test_the_training_rows_are_standardised():
    inputs = TableDataLoaders.from_table(mixed(), "price", seed=0).train.dataset.tensors[0]
    numbers = inputs[:, [0, 2]].double()
    assert numbers.mean(dim=0).abs().max() < 1e-6
    assert (numbers.std(dim=0, correction=0) - 1).abs().max() < 1e-6


def test_every_row_is_in_one_part_and_classes_have_the_same_share_in_both():
    columns = {"x": list(range(100)), "y": ["rare"] * 10 + ["common"] * 90}
    dls, same, other = (TableDataLoaders.from_table(columns, "y", seed=seed) for seed in (0, 0, 1))
    assert sorted(torch.cat([dls.train_rows, dls.valid_rows]).tolist()) == list(range(100))
    assert dls.valid.dataset.tensors[1].tolist().count(dls.classes.index("rare")) == 2
    assert dls.valid_rows.tolist() == same.valid_rows.tolist() != other.valid_rows.tolist()
    assert (dls.classes, dls.table.kind) == (["common", "rare"], "binary")
    assert dls.train.dataset.tensors[1].dtype == torch.int64


def test_a_file_of_its_own_validates_with_the_scaling_of_the_other(tmp_path):
    columns, held = mixed(), mixed(30, seed=9)
    held["town"][0] = "Atlantis"
    paths = [write_csv(tmp_path / name, data) for name, data in (("train.csv", columns), ("valid.csv", held))]
    dls = TableDataLoaders.from_csv(paths[0], "price", valid_path=paths[1], seed=0)
    assert (len(dls.train.dataset), len(dls.valid.dataset)) == (120, 30)
    assert dls.valid.dataset.tensors[0].equal(dls.table.inputs(read_table(paths[1])))
    assert dls.valid.dataset.tensors[0][0, -1] == 0
    del held["town"]
    with pytest.raises(DataError, match=r"valid.csv: there is no column 'town'"):
        TableDataLoaders.from_csv(paths[0], "price", valid_path=write_csv(paths[1], held), seed=0)


def test_a_class_that_is_not_in_the_training_table_is_refused():
    train, valid = {"x": [1, 2, 3, 4], "y": ["a", "b", "a", "b"]}, {"x": [1, 2], "y": ["a", "c"]}
    with pytest.raises(DataError, match="row 2, column 'y': expected one of the classes a, b; got 'c'"):
        TableDataLoaders.from_table(train, "y", valid=valid, seed=0)


@pytest.mark.parametrize("share", [0, 1, -0.5, 30])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(DataError, match="valid_share must be a share in"):
        TableDataLoaders.from_table(mixed(), "price", valid_share=share)


def test_a_call_remembers_the_seed_that_was_drawn(tmp_path):
    path = write_csv(tmp_path / "t.csv", mixed())
    dls = TableDataLoaders.from_csv(path, "price")
    call = json.loads(json.dumps(dls.recipe_call))
    assert call["path"] == "clearloop.data.tables:TableDataLoaders.from_file"
    again = TableDataLoaders.from_file(*call["args"], **call["kwargs"])
    assert again.train_rows.tolist() == dls.train_rows.tolist()
    assert again.train.seed == dls.train.seed


# -- the spec as plain data -------------------------------------------------------------------------------------------


def test_a_spec_comes_back_from_json_to_the_bit():
    spec = TableDataLoaders.from_table(mixed(), "price", seed=0).table
    assert TableSpec.read(json.loads(json.dumps(spec.as_dict()))) == spec


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "clustering"},
        {"columns": []},
        {"columns": [{"name": "x"}]},
        {"scale": "1"},
        {"center": None},
        {"classes": [1, 2]},
        {"more": 1},
        {"columns": [{**Column("x", "number").__dict__, "std": 0.0}]},
        {"columns": [{**Column("x", "number").__dict__, "kind": "exec"}]},
        {"columns": [{**Column("x", "category").__dict__, "categories": [1]}]},
    ],
)
def test_a_spec_of_another_form_is_refused(change):
    good = TableSpec("y", "regression", (Column("x", "number"),)).as_dict()
    assert TableSpec.read(good).width == 1
    with pytest.raises(DataError, match="expected a table's columns"):
        TableSpec.read({**good, **change})
    with pytest.raises(DataError):
        TableSpec.read("nothing")
