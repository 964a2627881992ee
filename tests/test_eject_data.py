"""Runs on folders of pictures, tables and .npy files as programs: they read the same data, and end in the same bits."""

from __future__ import annotations

import ast
import dataclasses
import functools
import shutil
import sys
from collections.abc import Callable, Iterable
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import clearloop as cl
from clearloop import models
from clearloop.data.augment import compose, random_flip, random_shift
from clearloop.data.images import ImageDataLoaders
from clearloop.data.normalize import Normalize
from clearloop.data.tables import TableDataLoaders
from clearloop.eject import eject
from clearloop.errors import EjectError
from clearloop.printing.printer import WIDTH
from clearloop.tabular import table_loss, table_metrics, table_model
from clearloop.verify import verify
from cli_tools import clearloop, process
from eject_tools import fitted, printed_by, run_programs

TOWNS = ["Ulm", " Bonn ", "", 'the "Old" Town', "a; b", "Köln\nDeutz", "n/a", "\N{SNOWMAN}\N{GRINNING FACE}"]


# -- data --------------------------------------------------------------------------------------------------------------


def digits(label: int, count: int) -> list[Image.Image]:
    """The first pictures of one of MNIST's digits."""
    found = cl.mnist()
    chosen = (found.train_labels[:2000] == label).nonzero().flatten()[:count]
    return [Image.fromarray(found.train_images[place].numpy()) for place in chosen]


def write_pictures(folder: Path, count: int, first: int = 0) -> None:
    """Threes and sevens of several sizes, modes and formats; one lies in a folder of its own, one on its side."""
    for label in (3, 7):
        (folder / str(label) / "more").mkdir(parents=True)
        for number, image in enumerate(digits(label, first + count)[first:], start=first):
            name, options = f"{number}.png", {}
            if number % 5 == 1:
                image = image.resize((40, 31))
            if number % 5 == 2:
                image = Image.merge("RGB", (image, image.point(lambda value: value // 2), image))
            if number % 5 == 3:
                image, name = image.convert("RGB"), f"more/{number}.jpg"
                exif = Image.Exif()
                exif[274] = 6  # held with the camera on its side
                options = {"exif": exif}
            if number % 5 == 4:
                image.putalpha(image.transpose(Image.Transpose.ROTATE_90))
            image.save(folder / str(label) / name, **options)
        (folder / str(label) / ".hidden").write_text("no picture")


def csv_text(rows: int, seed: int, delimiter: str = ",") -> str:
    """A table with gaps, dates, quotes and numbers in several spellings."""
    draw = np.random.default_rng(seed)
    lines = [["size", " town ", "built", "code", "rooms", "price", "sold"]]
    for number in range(rows):
        size = f"{draw.normal():.3f}" if number % 7 else "NA"
        built = f"20{number % 20 + 1:02d}-0{number % 9 + 1}-11{' 18:30' if number % 2 else ''}" if number % 5 else ""
        price = f"{'+' if number % 3 else ''}{draw.integers(1, 999)}e-1"
        town = TOWNS[int(draw.integers(len(TOWNS)))].replace('"', '""')
        rooms = ["1", "2", "2.0", "3", "03"][int(draw.integers(5))]
        code = f"0{int(draw.integers(4))}"
        lines.append([size, f'"{town}"', built, code, rooms, price, ["yes", "no"][number % 3 > 0]])
    return "\r\n".join(delimiter.join(line) for line in lines) + "\r\n"


def parquet_table(rows: int) -> pa.Table:
    """Columns of the types that a Parquet file may have."""
    draw = np.random.default_rng(5)
    size = [None if number % 6 == 0 else float(draw.normal()) for number in range(rows)]
    return pa.table(
        {
            "size": pa.array(size, pa.float32()),
            "count": pa.array(draw.integers(-9, 9, rows)),
            "day": pa.array([date(2020, 1, number % 28 + 1) for number in range(rows)]),
            "moment": pa.array([datetime(2021, 3, 4, number % 24) for number in range(rows)], pa.timestamp("ms")),
            "new": pa.array([number % 3 == 0 for number in range(rows)]),
            "town": pa.array([TOWNS[number % 5] for number in range(rows)]).dictionary_encode(),
            "grade": pa.array([float(value) for value in draw.integers(1, 4, rows)]),
        }
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of pictures, tables, and arrays."""
    folder = tmp_path_factory.mktemp("data")
    write_pictures(folder / "parts" / "train", 12)
    write_pictures(folder / "parts" / "valid", 5, first=12)
    write_pictures(folder / "classes", 15)
    for label in (3, 7):
        (folder / "equal" / str(label)).mkdir(parents=True)
        for number, image in enumerate(digits(label, 12)):
            image.save(folder / "equal" / str(label) / f"{number}.png")
    (folder / "rows.csv").write_bytes(b"\xef\xbb\xbf" + csv_text(90, 1, ";").encode())
    (folder / "more").mkdir()
    (folder / "more" / "valid.csv").write_text(csv_text(40, 2), newline="")
    pq.write_table(parquet_table(80), folder / "rows.parquet")
    draw = np.random.default_rng(3)
    x = draw.normal(size=(70, 6))
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", x @ draw.normal(size=6))
    found = cl.mnist()
    for part, rows in (("train", slice(0, 60)), ("valid", slice(60, 85))):
        np.save(folder / f"images_{part}.npy", found.train_images[rows].numpy())
        np.save(folder / f"labels_{part}.npy", found.train_labels[rows].numpy().astype(np.uint16))
    return folder


# -- runs --------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Case:
    """A run, and what its program reads: `source`, what --data is, below the folder of the data."""

    source: str
    dls: Callable[[Path], Any]
    rungs: Iterable[int]
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    imports: frozenset[str] = frozenset()


def from_folder(name: str, **options: Any) -> Callable[[Path], Any]:
    return lambda data: ImageDataLoaders.from_folder(data / name, **{"seed": 3, "batch_size": 8, **options})


def from_file(name: str, target: str, **options: Any) -> Callable[[Path], Any]:
    def read(data: Path) -> Any:
        if "valid_path" in options:
            options["valid_path"] = data / "more" / "valid.csv"
        return TableDataLoaders.from_file(data / name, target, **{"batch_size": 16, "seed": 5, **options})

    return read


def pictures(source: str, model: Callable[[], nn.Module], rungs: Iterable[int], **options: Any) -> Case:
    given = {key: options.pop(key) for key in ("loss_func", "metrics", "opt_func", "schedule") if key in options}
    return Case(source, from_folder(source, **options), rungs, {"model": model, **given}, frozenset({"PIL"}))


def table(name: str, target: str, rungs: Iterable[int], source: str | None = None, **options: Any) -> Case:
    imports = frozenset({"pyarrow"} if name.endswith("parquet") else ())
    return Case(source or name, from_file(name, target, **options), rungs, {"table": True}, imports)


def flat(classes: int = 2) -> nn.Module:
    return models.mlp(20 * 24, 8, classes)


CASES = {
    "grey, in two folders": pictures("parts", flat, range(1, 8), size=(20, 24), grey=True),
    "normalised and augmented": pictures(
        "parts",
        flat,
        (1, 4, 5, 7),
        size=(20, 24),
        grey=True,
        normalize=([0.2], [0.3]),
        augment=compose(random_flip, random_shift(2)),
    ),
    "colour, held out": pictures("classes", lambda: models.cnn(2, 3, (4,), size=16), range(2, 8), size=16),
    "a residual net": pictures(
        "classes", lambda: models.resnet18(2), (4, 6), size=16, normalize="imagenet", valid_share=0.3, split_seed=8
    ),
    "held out of a folder of two": pictures("parts", flat, (2, 7), size=(20, 24), grey=True, valid_share=0.25),
    "of one size": pictures("equal", lambda: models.mlp(784, 8, 2), (1, 7), valid_batch_size=3, cache="disk"),
    "pictures that are their own targets": pictures(
        "classes",
        lambda: models.autoencoder(3 * 64, 6, 2),
        (2, 4, 7),
        size=8,
        targets="inputs",
        loss_func=F.mse_loss,
        metrics=[cl.mse],
    ),
    "classes of a table": table("rows.csv", "sold", range(2, 8)),
    "a regression": table("rows.csv", "price", (2, 5, 6), kind="regression", valid_share=0.3),
    "numbers as classes": table("rows.csv", "rooms", (4, 7), categorical=["code"], ignore=["built"], stratify=False),
    "a file to validate with": table("rows.csv", "sold", (2, 6), ".", columns=["size", "town"], valid_path=True),
    "Parquet": table("rows.parquet", "new", (3, 7)),
    "Parquet with numbers as classes": table("rows.parquet", "grade", (4,), categorical=["count"]),
    "arrays": Case(
        ".",
        lambda data: cl.DataLoaders.npy(data / "x.npy", data / "y.npy", batch_size=9, seed=4, valid=20),
        range(1, 8),
        {"model": lambda: models.mlp(6, 4, 1), "loss_func": F.mse_loss, "metrics": [cl.mae]},
    ),
    "arrays of images": Case(
        ".",
        lambda data: cl.DataLoaders.npy(
            *(data / f"{kind}_{part}.npy" for part in ("train", "valid") for kind in ("images", "labels")),
            16,
            seed=1,
            augment=random_flip,
        ),
        (1, 4, 5, 7),
        {"model": lambda: models.mlp(784, 8, 10)},
    ),
}


def train(data: Path, run: Path, case: Case, **more: Any) -> cl.Learner:
    """A run of two epochs."""
    options = {**case.options, "epochs": 2, "seed": 2, **more}
    if options.pop("table", False):
        dls = case.dls(data)
        options |= {"model": lambda: table_model(dls, (6,)), "metrics": table_metrics(dls)}
        options = {"loss_func": table_loss(dls), "opt_func": torch.optim.Adam, **options}
        return fitted(data, run, dls=lambda data: dls, **options)
    return fitted(data, run, dls=case.dls, **options)


@dataclasses.dataclass(frozen=True)
class Printed:
    """What a run and its programs printed."""

    expected: list[str]
    paths: dict[int, Path]
    output: dict[int, list[str]]
    moved: list[str]  # by the first program, of data that lie elsewhere


@pytest.fixture(scope="module")
def printed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Printed]:
    """Every case trained, printed, removed; its programs run where clearloop cannot be imported."""
    folder = tmp_path_factory.mktemp("programs")
    shutil.copytree(data, folder / "moved")
    expected, paths = {}, {}
    for number, (name, case) in enumerate(CASES.items()):
        run = folder / f"run-{number}"
        train(data, run, case)
        expected[name] = printed_by(run)
        for rung in case.rungs:
            paths[name, rung] = eject(run, rung).write(folder / f"program_{number}_{rung}.py")
        shutil.rmtree(run)
    first = {name: paths[name, next(iter(case.rungs))] for name, case in CASES.items()}
    moved = [[path, "--data", folder / "moved" / CASES[name].source] for name, path in first.items()]
    lines = run_programs([*([path] for path in paths.values()), *moved], folder)
    output = dict(zip(paths, lines, strict=False))
    return {
        name: Printed(
            expected[name],
            {rung: paths[name, rung] for rung in case.rungs},
            {rung: output[name, rung] for rung in case.rungs},
            lines[len(paths) + number],
        )
        for number, (name, case) in enumerate(CASES.items())
    }


@pytest.mark.parametrize("name", CASES)
def test_the_program_reads_the_data_and_ends_in_the_same_bits(printed: dict[str, Printed], name: str) -> None:
    assert len(printed[name].expected) == 3
    for rung in CASES[name].rungs:
        assert printed[name].output[rung] == printed[name].expected, f"rung {rung}"
    assert printed[name].moved == printed[name].expected


@pytest.mark.parametrize("name", CASES)
def test_the_program_imports_what_reads_its_data_and_nothing_else(printed: dict[str, Printed], name: str) -> None:
    for path in printed[name].paths.values():
        modules = set()
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                modules.add((node.module or "").split(".")[0])
        assert modules - set(sys.stdlib_module_names) == {"torch", "numpy", *CASES[name].imports}


def test_ruff_finds_nothing_in_the_programs(printed: dict[str, Printed]) -> None:
    paths = [path for one in printed.values() for path in one.paths.values()]
    rules = "E,F,W,I,B,UP,SIM,C4,PIE,RET,ARG,PLW,ERA,D101,D103"
    done = process("-m", "ruff", "check", "--isolated", "--select", rules, "--line-length", WIDTH, *paths)
    assert done.code == 0, done.out[:3000]
    done = process("-m", "ruff", "format", "--isolated", "--line-length", WIDTH, "--diff", *paths)
    assert done.code == 0, done.out[:3000]


@pytest.mark.parametrize("name", CASES)
def test_every_function_is_used_and_documented_and_nothing_is_said_of_what_was_cut(
    printed: dict[str, Printed], name: str
) -> None:
    for path in printed[name].paths.values():
        text = path.read_text()
        assert text.count("clearloop") == 1  # where the docstring says what printed it
        for word in ("eject", ">>>", "dark_on_light", "_centred", "DataError", "ConfigError", "    import "):
            assert word not in text
        tree = ast.parse(text)
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
        for statement in tree.body:
            if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
                assert statement.name in used
                assert ast.get_docstring(statement)


def test_verify_runs_the_program_on_the_data_of_the_run(data: Path, tmp_path: Path) -> None:
    for number, name in enumerate(("colour, held out", "a file to validate with", "arrays")):
        run = tmp_path / f"run-{number}"
        train(data, run, CASES[name])
        if number < 2:
            assert all(comparison.same for comparison in verify(run, list(CASES[name].rungs)[-1])), name
    done = clearloop("verify", run)
    assert done.out.endswith("the program and the run agree to the bit\n")


# -- a Learner at hand -------------------------------------------------------------------------------------------------


def test_a_learner_at_hand_is_printed_with_the_folder_that_it_reads(data: Path, tmp_path: Path) -> None:
    learn = train(data, tmp_path / "run", CASES["normalised and augmented"])
    program = learn.eject(5)
    assert program.data is None
    assert "normalize = Normalize((0.2,), (0.3,))" in program.text
    assert all(comparison.same for comparison in learn.verify(2))


def test_pictures_in_memory_are_normalised_by_the_program(tmp_path: Path) -> None:
    found = cl.mnist()
    parts = [
        cl.TensorDataset(found.train_images[rows], found.train_labels[rows], transform=Normalize([0.1], [0.3]))
        for rows in (slice(0, 60), slice(60, 90))
    ]
    dls = cl.DataLoaders(cl.DataLoader(parts[0], 16, shuffle=True, seed=3), cl.DataLoader(parts[1], 16))
    learn = fitted(None, tmp_path / "run", dls=lambda data: dls)
    assert learn.eject(4).data is not None
    for rung in (1, 7):
        assert all(comparison.same for comparison in learn.verify(rung))


def test_training_and_validation_that_are_normalised_apart_are_refused(tmp_path: Path) -> None:
    found = cl.mnist()
    parts = [
        cl.TensorDataset(found.train_images[:40], found.train_labels[:40], transform=Normalize([mean], [0.3]))
        for mean in (0.1, 0.2)
    ]
    dls = cl.DataLoaders(cl.DataLoader(parts[0], 16, shuffle=True, seed=3), cl.DataLoader(parts[1], 16))
    with pytest.raises(EjectError, match="different transforms"):
        fitted(None, tmp_path / "run", dls=lambda data: dls).eject()


def test_a_table_in_memory_is_written_beside_the_program(tmp_path: Path) -> None:
    rows = {"size": range(40), "town": ["Ulm", "Bonn"] * 20, "price": [3.5 * n for n in range(40)]}
    dls = TableDataLoaders.from_table(rows, "price", batch_size=8, seed=0)
    model = functools.partial(table_model, dls, (4,))
    learn = fitted(
        None, tmp_path / "run", dls=lambda data: dls, model=model, loss_func=table_loss(dls), metrics=[cl.mae]
    )
    assert learn.eject().data is not None
    assert all(comparison.same for comparison in learn.verify(6))


# -- what cannot be printed --------------------------------------------------------------------------------------------


def refused(run: Path, *words: str, rung: int = 7) -> None:
    """Assert that a run is refused in one line that has all the words."""
    with pytest.raises(EjectError) as caught:
        eject(run, rung)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("name", ["grey, in two folders", "classes of a table", "arrays"])
def test_data_that_are_no_longer_those_of_the_run_are_refused(data: Path, tmp_path: Path, name: str) -> None:
    own = shutil.copytree(data, tmp_path / "data")
    train(own, tmp_path / "run", CASES[name])
    eject(tmp_path / "run")
    path = own / "parts" / "train" / "3" / "0.png"
    Image.open(path).point(lambda value: 255 - value).save(path)
    (own / "rows.csv").write_text(csv_text(90, 7, ";"), newline="")
    np.save(own / "x.npy", np.load(own / "x.npy") + 1)
    refused(tmp_path / "run", "the train data are no longer those that", "put them back")
    shutil.rmtree(own)
    refused(tmp_path / "run", "cannot be read again")


def test_files_that_were_left_out_are_refused(data: Path, tmp_path: Path) -> None:
    own = shutil.copytree(data / "parts", tmp_path / "parts")
    (own / "train" / "3" / "bad.png").write_bytes(b"no picture")
    case = pictures("parts", flat, (7,), size=(20, 24), grey=True, skip_bad=True)
    with pytest.warns(UserWarning, match=r"bad\.png"):
        train(tmp_path, tmp_path / "run", case)
    refused(tmp_path / "run", "expected the 34 pictures of the run and no other files, got 35", "skip_bad")


def test_pictures_without_classes_are_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "loose").mkdir()
    for number, image in enumerate(digits(3, 6)):
        image.save(tmp_path / "loose" / f"{number}.png")
    options = {"targets": "inputs", "loss_func": F.mse_loss, "metrics": [cl.mse]}
    train(tmp_path, tmp_path / "run", pictures("loose", lambda: models.autoencoder(784, 6, 2), (7,), **options))
    refused(tmp_path / "run", "expected a folder a class, got pictures alone")


def test_a_table_that_the_short_reader_reads_otherwise_is_refused(tmp_path: Path) -> None:
    value = [Decimal(number) / 7 for number in range(40)]
    rows = {"exact": pa.array(value, pa.decimal128(38, 30)), "zone": pa.array([datetime(2020, 1, 1)] * 20 * 2)}
    stamps = [datetime(2020, 1, number % 28 + 1) for number in range(40)]
    rows["zone"] = pa.array(stamps, pa.timestamp("us", tz="Europe/Berlin"))
    rows["y"] = pa.array([number % 2 for number in range(40)])
    pq.write_table(pa.table(rows), tmp_path / "rows.parquet")
    train(tmp_path, tmp_path / "run", table("rows.parquet", "y", (7,)))
    refused(tmp_path / "run", "table")
