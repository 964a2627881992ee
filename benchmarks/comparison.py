"""A comparison, whole: the workloads written to a folder, all contestants run on them, tables printed, figures kept."""

from __future__ import annotations

import dataclasses
import datetime
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from benchmarks.contest import Case, Contestant, Line, Stage, Tolerance
from benchmarks.peers.workloads import Workload
from benchmarks.roster import ABSENT, FLOOR
from clearloop.data.sampler import shuffled_order

RESULTS = Path(__file__).parent / "results"
HEADINGS = ("s/epoch", "ratio", "samples/s", "floor is", "peak MB", "1st epoch", "rounds", "weights off")
WIDTHS = (9, 7, 11, 9, 9, 10, 7, 12)


def compare(
    works: Sequence[Workload],
    contestants: Sequence[Contestant],
    tolerance: Tolerance,
    data: dict[str, Tensor],
    data_bytes: dict[str, Tensor] | None = None,
) -> list[Case]:
    """Run `works`, all on the same data and threads, and print a table of each.

    Args: `data` and `data_bytes`, tensors by the names that `Workload` knows.
    """
    cases = []
    samples = len(data["x_train"]) + len(data["x_valid"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        floats = write_data(folder / "floats", data)
        as_bytes = None if data_bytes is None else write_data(folder / "bytes", data_bytes)
        with Stage(contestants, works[0].threads, folder) as stage:
            for number, work in enumerate(works):
                # The order of clearloop's own loader with seed 0: it is the one contestant that is given none.
                orders = [shuffled_order(len(data["x_train"]), 0, epoch) for epoch in range(work.epochs)]
                written = dataclasses.replace(work, data=floats, data_bytes=as_bytes)
                cases.append(stage.run(written.write(folder / str(number), orders), tolerance, samples))
                print("\n".join(table(cases[-1], tolerance)), flush=True)
    print("\n".join(f"left out: {name}: {reason}" for name, reason in ABSENT.items()))
    return cases


def write_data(path: Path, data: dict[str, Tensor]) -> str:
    """The data in a file, whose path is returned."""
    save_file({name: tensor.contiguous().clone() for name, tensor in data.items()}, path)
    return str(path)


def table(case: Case, tolerance: Tolerance) -> list[str]:
    """The lines to print of a case."""
    work = case.work
    weights = "not compared" if tolerance.weights is None else f"within {tolerance.weights:g}"
    threads = "one thread" if work.threads == 1 else f"{work.threads} threads"
    lines = [
        "",
        f"{work.name}: batch {work.batch_size}, {work.optimizer}, lr {work.lr:g}, {threads}; epochs after the first",
        f"same steps; validation loss within {tolerance.loss:g} of that by hand, weights {weights}",
        "ratio: to the loop by hand in the same round; samples: trained on and validated with",
        "",
        f"{'':26}" + "".join(f"{heading:>{width}}" for heading, width in zip(HEADINGS, WIDTHS, strict=True)),
    ]
    lines += [row(case, line) for line in case.lines.values()]
    for name, line in case.lines.items():
        if line.cold_s is not None and line.warm_s is not None:
            lines.append(f"{name}: compiling takes {line.cold_s:.1f} s cold, {line.warm_s:.1f} s from the cache")
    return lines + [f"left out: {name}: {reason}" for name, reason in case.out.items()]


def row(case: Case, line: Line) -> str:
    """One contestant's line."""
    name, seconds = line.contestant.name, line.seconds
    ratio, floor = case.ratio(name, line.contestant.base), case.ratio(FLOOR, name)
    trains = line.contestant.compared
    cells = (
        f"{seconds:.4f}",
        f"{ratio:.2f}" if ratio is not None else "",
        f"{case.samples / seconds:,.0f}" if trains else "",
        f"{floor:.0%}" if floor is not None and trains else "",
        f"{line.peak_mb:.0f}",
        f"{line.first_s:.3f}",
        str(len(line.times)),
        "" if line.weights_gap is None else "same bits" if line.weights_gap == 0 else f"{line.weights_gap:.1g}",
    )
    return f"{name:26}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, WIDTHS, strict=True))


def keep(cases: Sequence[Case], name: str) -> Path:
    """Write the figures as JSON, beside the text of the same name; returns the path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{datetime.date.today()}-{name}.json"
    path.write_text(json.dumps([figures(case) for case in cases], indent=1) + "\n")
    return path


def figures(case: Case) -> dict[str, Any]:
    """What was measured of a case, as plain data."""
    work = dataclasses.asdict(case.work)
    for key in ("folder", "data", "data_bytes"):  # of this machine, and gone
        del work[key]
    lines = []
    for line in case.lines.values():
        found = dataclasses.asdict(line)
        name = found.pop("contestant")["name"]
        ratio, floor = case.ratio(name, line.contestant.base), case.ratio(FLOOR, name)
        lines.append({"name": name, "seconds": line.seconds, "ratio": ratio, "floor_share": floor, **found})
    return {"workload": work, "samples": case.samples, "lines": lines, "out": case.out | ABSENT}
