"""How time and memory grow with the rows of the data, with the batch and with the processes; a table and a picture.

Rows: the bytes of 5,000 digits, repeated up to 100 times, held in memory or as a mapped `.npy` file; 784-50-10 at batch
128, one thread. Each size is a process of its own. Its first epoch is watched for memory, those after it are timed.
"resident" is the most that the process held at one time (VmHWM), pages of a mapped file among it, which the system
can take back; "private" is what is the process's alone (RssAnon, looked at every 50 steps). Both are given above what
the process held before it had data. Mapped files were just written: they are read from the system's cache, not a disk.

Batches: 784-50-10 on 50,000 rows in memory, one thread, sizes in turn.

Processes: torchrun and gloo, one thread each, batches of 512 over all of them; beside one process with two threads.
"""

from __future__ import annotations

import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from torch import nn

from clearloop import Callback, DataLoader, DataLoaders, Learner, TensorDataset, mnist, models
from clearloop.data.loaders import scale_images
from clearloop.plots import BLUE, GREEN, GREY, VERMILLION, Plot

BASE = 5_000  # rows that are repeated
FACTORS = (1, 3, 10, 30, 100)
BATCHES = (16, 32, 64, 128, 256, 512, 1024)
PROCESSES = (1, 2)
ROW_BYTES = 28 * 28 + 8  # an image and its label
ROUNDS = 3  # epochs that are timed, at least
FORMS = ("in memory", "mapped")
RESULTS = Path(__file__).parent / "results"
Result = dict[str, Any]


# -- what the processes that are measured do ---------------------------------------------------------------------------


def memory_mb(*names: str) -> list[float]:
    """Fields of /proc/self/status, in MB: VmRSS, VmHWM (the most so far), RssAnon."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return [int(fields[name].split()[0]) * 1024 / 1e6 for name in names]


class Watch(Callback):
    """The most private memory that was seen in the first epoch, in MB."""

    interval = 50

    def __init__(self) -> None:
        self.most = 0.0

    def after_step(self, learn: Any) -> None:
        """Look, in the first epoch, which is not timed."""
        if learn.epoch == 0:
            self.most = max(self.most, *memory_mb("RssAnon"))


def stored(folder: Path, factor: int, form: str, batch_size: int, rows: int | None = None) -> Any:
    """A shuffling loader over one of the files that `write_rows` wrote, held or mapped; over its first `rows` alone."""
    x, y = (folder / f"{name}{factor}.npy" for name in "xy")
    if form == "mapped":
        small = folder / f"x{FACTORS[0]}.npy", folder / f"y{FACTORS[0]}.npy"
        return DataLoaders.npy(x, y, *small, batch_size=batch_size, seed=0).train
    dataset = TensorDataset(np.load(x)[:rows], np.load(y)[:rows], transform=scale_images)
    return DataLoader(dataset, batch_size, shuffle=True, seed=0)


def learner(loader: Any, model: nn.Module | None = None, cbs: tuple[Callback, ...] = ()) -> Learner:
    """784-50-10, or another model, over a loader."""
    torch.manual_seed(0)
    return Learner((loader, None), model or models.mlp(784, 50, 10), F.cross_entropy, lr=0.1, cbs=cbs, seed=0)


def measure_rows(folder: Path, factor: int, form: str) -> Result:
    """Seconds an epoch, and memory above what was there before the data."""
    few = TensorDataset(torch.zeros(256, 28, 28, dtype=torch.uint8), torch.zeros(256).long(), transform=scale_images)
    learner(DataLoader(few, 128)).fit(1, quiet=True)  # so that torch's own buffers and imports are there already
    Path("/proc/self/clear_refs").write_text("5")  # the most so far is what is there now
    before = memory_mb("VmRSS", "RssAnon")
    watch = Watch()
    learn = learner(stored(folder, factor, form, 128), cbs=(watch,))
    epochs = max(ROUNDS, 60 // factor)  # the small sizes are the noisy ones
    learn.fit(1, quiet=True)
    most = (*memory_mb("VmHWM"), watch.most)
    learn.fit(epochs, quiet=True)
    seconds = [epoch.seconds for epoch in learn.history.epochs[1:]]
    resident, private = (now - then for now, then in zip(most, before, strict=True))
    return {"rows": BASE * factor, "seconds": statistics.median(seconds), "resident": resident, "private": private}


def measure_batches(folder: Path) -> list[Result]:
    """Seconds an epoch at each batch size, sizes in turn."""
    learners = {size: learner(stored(folder, 10, "in memory", size)) for size in BATCHES}
    for _ in range(ROUNDS + 1):
        for learn in learners.values():
            learn.fit(1, quiet=True)
    return [{"batch": size, **timed(learn)} for size, learn in learners.items()]


def measure_processes(folder: Path, threads: int) -> list[Result]:
    """Seconds an epoch of two models, in as many processes as torchrun started."""
    torch.set_num_threads(threads)
    results = []
    for name, model, rows in (("784-50-10", models.mlp(784, 50, 10), 50_000), ("cnn", models.cnn(), 5_000)):
        learn = learner(stored(folder, 10, "in memory", 512, rows), model)
        learn.fit(ROUNDS + 1, quiet=True)
        processes = int(os.environ.get("WORLD_SIZE", "1"))
        results.append({"model": name, "processes": processes, "threads": threads, **timed(learn)})
    return results if learn.team.leads else []


def timed(learn: Learner) -> Result:
    """Seconds of the epochs after the first, in the median, and the samples a second that this makes."""
    seconds = statistics.median(epoch.seconds for epoch in learn.history.epochs[1:])
    samples = sum(learn.history.counts) / len(learn.history.epochs)
    return {"seconds": seconds, "samples_per_s": samples / seconds}


# -- what starts them, and what it prints ------------------------------------------------------------------------------


def write_rows(folder: Path) -> None:
    """x1.npy, y1.npy, x3.npy, …: the first digits, repeated; uint8 of shape (n, 28, 28) and int64 of shape (n,)."""
    digits = mnist()
    for name, tensor in (("x", digits.train_images), ("y", digits.train_labels)):
        base = tensor[:BASE].numpy()
        for factor in FACTORS:
            shape = (BASE * factor, *base.shape[1:])
            file = np.lib.format.open_memmap(folder / f"{name}{factor}.npy", "w+", base.dtype, shape)
            for start in range(0, len(file), BASE):
                file[start : start + BASE] = base
            file.flush()


def in_process(*arguments: object, processes: int = 1) -> Any:
    """What a measurement gives in a process of its own, or in several under torchrun."""
    torchrun = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"] if processes > 1 else []
    command = [sys.executable, "-m", *torchrun, "benchmarks.scale", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads([line for line in done.stdout.splitlines() if line.startswith(("{", "[{"))][-1])


def exponent(sizes: list[float], seconds: list[float]) -> float:
    """The slope of log(seconds) over log(size): 1 where time grows as the size does.

    >>> round(exponent([1, 10, 100], [2, 20, 200]), 6)
    1.0
    """
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def bytes_a_row(rows: list[float], megabytes: list[float]) -> float:
    """The slope of memory over rows.

    >>> round(bytes_a_row([1000, 2000, 3000], [5.0, 6.0, 7.0]))
    1000
    """
    return round(float(np.polyfit(rows, megabytes, 1)[0]) * 1e6, 3) + 0.0  # no -0


def step_cost(batches: list[float], seconds: list[float]) -> tuple[float, float]:
    """Microseconds of a step whatever its batch, and of a sample: a line through the times of a step.

    Every point weighs alike by its relative error.

    >>> tuple(round(value) for value in step_cost([10, 100], [60e-6, 150e-6]))
    (50, 1)
    """
    slope, fixed = np.polyfit(batches, seconds, 1, w=1 / np.array(seconds))
    return float(fixed) * 1e6, float(slope) * 1e6


def column(results: list[Result], name: str) -> list[float]:
    """One field of all results."""
    return [float(result[name]) for result in results]


def print_rows(found: dict[str, list[Result]]) -> None:
    """Tables of time and memory over rows."""
    for form, results in found.items():
        print(f"\nrows {form}: 784-50-10, batch 128, one thread; MB above what the process held before")
        print(f"  {'rows':>8} {'data MB':>8} {'s an epoch':>11} {'rows/s':>9} {'resident MB':>12} {'private MB':>11}")
        for one in results:
            rows, seconds = one["rows"], one["seconds"]
            print(
                f"  {rows:8,} {rows * ROW_BYTES / 1e6:8.1f} {seconds:11.4f} {rows / seconds:9,.0f} "
                f"{one['resident']:12.1f} {one['private']:11.1f}"
            )
        rows = column(results, "rows")
        slopes = [bytes_a_row(rows, column(results, name)) for name in ("resident", "private")]
        print(f"  time grows as rows to the power {exponent(rows, column(results, 'seconds')):.3f}")
        print(
            f"  memory grows by {slopes[0]:.0f} bytes a row resident, {slopes[1]:.0f} private; "
            f"a row is {ROW_BYTES} bytes"
        )
        first, last = results[len(results) // 2], results[-1]  # tenfold
        grown = [last[name] - first[name] for name in ("resident", "private")]
        print(
            f"  from {first['rows']:,} to {last['rows']:,} rows: {grown[0]:+.1f} MB resident, {grown[1]:+.1f} private"
        )


def print_batches(results: list[Result]) -> None:
    """The table of speed over batch sizes."""
    print("\nbatches: 784-50-10, 50,000 rows in memory, one thread")
    print(f"  {'batch':>6} {'s an epoch':>11} {'samples/s':>10} {'us a step':>10}")
    sizes, steps = column(results, "batch"), []
    for one in results:
        steps.append(one["batch"] / one["samples_per_s"])
        print(f"  {one['batch']:6} {one['seconds']:11.3f} {one['samples_per_s']:10,.0f} {steps[-1] * 1e6:10.0f}")
    fixed, each = step_cost(sizes, steps)
    print(f"  an epoch takes the batch to the power {exponent(sizes, column(results, 'seconds')):.3f}")
    print(f"  a step takes {fixed:.0f} microseconds and {each:.2f} a sample")


def print_processes(results: list[Result]) -> None:
    """The table of speed over processes."""
    print(f"\nprocesses: batches of 512 over all, {os.cpu_count()} cores")
    print(f"  {'model':10} {'processes':>9} {'threads each':>13} {'s an epoch':>11} {'samples/s':>10} {'speed-up':>9}")
    for name in dict.fromkeys(result["model"] for result in results):
        mine = [result for result in results if result["model"] == name]
        for one in mine:
            print(
                f"  {name:10} {one['processes']:9} {one['threads']:13} {one['seconds']:11.3f} "
                f"{one['samples_per_s']:10,.0f} {mine[0]['seconds'] / one['seconds']:9.2f}"
            )
        single = [one for one in mine if one["threads"] == 1 and one["processes"] <= (os.cpu_count() or 1)]
        power = exponent(column(single, "processes"), column(single, "seconds"))
        print(f"  {name}: up to one process a core, time goes as processes to the power {power:.2f} (ideal: -1)")


# -- the picture -------------------------------------------------------------------------------------------------------


def draw(rows: dict[str, list[Result]], batches: list[Result], processes: list[Result], path: Path) -> Plot:
    """Three panels: rows (time above memory), batches, processes."""
    figure = Plot(13, 4.8)
    axes = figure.subplot_mosaic([["time", "batch", "processes"], ["memory", "batch", "processes"]])
    draw_rows(axes["time"], axes["memory"], rows)
    sizes = column(batches, "batch")
    axes["batch"].plot(sizes, np.array(column(batches, "samples_per_s")) / 1e3, "o-", color=BLUE)
    axes["batch"].set(title="batch size", xlabel="samples a batch", ylabel="thousand samples a second")
    axes["batch"].set_xscale("log", base=2)
    axes["batch"].set_xticks(sizes, [f"{size:.0f}" for size in sizes])
    axes["batch"].set_ylim(bottom=0)
    draw_processes(axes["processes"], processes)
    for each in axes.values():
        each.grid(alpha=0.3)
    figure.write(path)
    return figure


def draw_rows(time: Axes, memory: Axes, found: dict[str, list[Result]]) -> None:
    """Seconds an epoch, and MB, over rows."""
    for (form, results), color in zip(found.items(), (BLUE, VERMILLION), strict=True):
        rows = column(results, "rows")
        power = exponent(rows, column(results, "seconds"))
        time.plot(rows, column(results, "seconds"), "o-", color=color, label=f"{form}: rows$^{{{power:.2f}}}$")
        memory.plot(rows, column(results, "resident"), "o-", color=color, label=f"{form}, resident")
        memory.plot(rows, column(results, "private"), "s--", color=color, alpha=0.6, label=f"{form}, private")
    time.set(title="rows of data", xscale="log", yscale="log", ylabel="seconds an epoch")
    memory.set(xscale="log", yscale="symlog", xlabel="rows", ylabel="MB above the start")
    memory.set_yticks([0, 1, 10, 100, 1000], ["0", "1", "10", "100", "1000"])
    memory.set_ylim(0, 1200)
    memory.plot(rows, np.array(rows) * ROW_BYTES / 1e6, ":", color=GREY, label="the data")
    for each in (time, memory):
        each.set_xticks(rows, [f"{count:,.0f}" for count in rows])
        each.minorticks_off()
        each.legend(fontsize="x-small", loc="upper left")


def draw_processes(axes: Axes, results: list[Result]) -> None:
    """How many times faster than one process with one thread."""
    names = list(dict.fromkeys(result["model"] for result in results))
    for name, color in zip(names, (BLUE, GREEN), strict=True):
        mine = [result for result in results if result["model"] == name]
        first = mine[0]["seconds"]
        alone = [one for one in mine if one["threads"] == 1]
        speed = [first / one["seconds"] for one in alone]
        axes.plot(column(alone, "processes"), speed, "o-", color=color, label=f"{name}, 1 thread each")
        for one in mine:
            if one["threads"] == 2:
                axes.plot(2, first / one["seconds"], "x", color=color, label=f"{name}, 1 process of 2 threads")
    axes.plot([1, 2], [1, 2], ":", color=GREY, label="ideal, 2 cores")
    axes.set(title=f"processes on {os.cpu_count()} cores", xlabel="processes", ylabel="times as fast as one process")
    axes.set_xticks(PROCESSES, [str(count) for count in PROCESSES])
    axes.set_xlim(0.8, PROCESSES[-1] + 0.2)
    axes.set_ylim(0, 2.2)
    axes.legend(fontsize="x-small", loc="upper left")


def main(results: Path = RESULTS) -> None:
    """Print the tables, and draw them to a dated picture in `results`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder)
        rows = {form: [in_process("rows", folder, factor, form) for factor in FACTORS] for form in FORMS}
        print_rows(rows)
        batches = in_process("batches", folder)
        print_batches(batches)
        processes = [result for count in PROCESSES for result in in_process("processes", folder, 1, processes=count)]
        processes += in_process("processes", folder, 2)
        print_processes(processes)
    path = results / f"{datetime.date.today()}-scale.png"
    draw(rows, batches, processes, path)
    print(f"\ndrawn: {path.parent.name}/{path.name}")


def measure(what: str, folder: str, *rest: str) -> None:
    """Print the JSON of one measurement: what a process that is started for it does."""
    torch.set_num_threads(1)
    if what == "rows":
        print(json.dumps(measure_rows(Path(folder), int(rest[0]), rest[1])))
    elif what == "batches":
        print(json.dumps(measure_batches(Path(folder))))
    elif found := measure_processes(Path(folder), int(rest[0])):
        print(json.dumps(found))


if __name__ == "__main__":
    measure(*sys.argv[1:])
