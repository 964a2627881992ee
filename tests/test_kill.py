"""Killed at any moment, a run goes on with `clearloop resume` to the bytes of the run that never stopped."""

import dataclasses
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from clearloop.data.mnist import mnist
from resume_processes import DEADLINE_S, Processes
from resume_tools import differences, end_on_disk

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs the process handles of Linux")

SMALL = "--model mlp --hidden 16 --dropout 0.2 --ema 0.9 -n 3 -b 75 --every 4"  # 20 steps an epoch
TINY = "--model mlp --hidden 4 --dropout 0.2 --ema 0.9 -n 2 -b 500 --every 1"  # 3 steps an epoch, each one saved
COVERING = [
    SMALL,
    "--model mlp --hidden 8 --dropout 0.5 --opt sgd --schedule constant -n 3 -b 40 --every 3",
    "--model linear --opt momentum --schedule cosine --accumulate 3 --clip 0.5 -n 4 -b 25 --every 2",
    "--model mlp --hidden 16,16 --opt adam --schedule one-cycle --accumulate 4 --ema 0.99 -n 4 -b 20 --every 5",
    "--model mlp --precision bf16 --opt adamw --schedule cosine -n 3 -b 50 --every 0.02s",
    "--model mlp --hidden 8 --dropout 0.1 --opt adamw --lr 0 --patience 1 -n 9 -b 50 --every 7",
    "--model cnn --hidden 4,8 --threads 1 --opt momentum --lr 0.02 -n 2 -b 50 --every 4",
    "--model mlp --hidden 8 --dropout 0.2 --ema 0.9 --opt adam -n 3 -b 50 --keep 4 --every 60s",
]


@dataclasses.dataclass
class Whole:
    """A run that nothing stopped: what it ends with, its operations on the disk, its steps, and how long it took."""

    ends: dict[str, Any]
    operations: list[str]
    steps: int


@dataclasses.dataclass
class Killed:
    """Where a process died, and whether there was a run to resume."""

    step: int
    doing: str
    resumed: bool


@pytest.fixture(scope="module")
def processes():
    processes = Processes()
    yield processes
    processes.close()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The first digits of MNIST as IDX files: 1,500 to train on, 300 to validate on."""
    folder, digits = tmp_path_factory.mktemp("data"), mnist()
    for part, images, labels, count in (
        ("train", digits.train_images, digits.train_labels, 1500),
        ("t10k", digits.test_images, digits.test_labels, 300),
    ):
        for name, values in (("images-idx3", images[:count]), ("labels-idx1", labels[:count])):
            header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
            (folder / f"{part}-{name}-ubyte").write_bytes(header + values.byte().numpy().tobytes())
    return folder


@pytest.fixture(scope="module")
def whole(processes, data, tmp_path_factory):
    """Runs by their options, each run once."""
    known = {}

    def run(options):
        if options not in known:
            cwd = tmp_path_factory.mktemp("whole")
            process = processes.run("train", data, *options.split(), "--out", "run", cwd=cwd)
            assert process.code == 0, process.output
            known[options] = Whole(end_on_disk(cwd / "run"), process.operations, process.place()[0])
        return known[options]

    return run


def kill_at(process, step, delay_s):
    """Send SIGKILL when `step` steps are taken, a little later; False where the process was quicker."""
    if process.wait_for(lambda now, doing: now >= step):
        time.sleep(delay_s)
        process.send(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def resume_and_compare(processes, cwd, expected):
    """Go on with the run in `cwd`; False where it had been killed before it was one, which must be said."""
    there = (cwd / "run" / "recipe.json").exists()
    process = processes.run("resume", "run", cwd=cwd)
    if not there:
        assert process.code == 2, process.output
        assert process.output.startswith("error: expected a run at run, got "), process.output
        return False
    assert process.code == 0, process.output
    assert differences(end_on_disk(cwd / "run"), expected.ends) == set(), process.output
    return True


def killed_at_random(processes, data, cwd, options, expected, seed, share, kills=1):
    """Start a run, kill it when about `share` of its steps are taken, again when it goes on, and let it end."""
    draw = random.Random(seed)
    for attempt in range(20):  # of a process that had ended before it could be killed
        shutil.rmtree(cwd / "run", ignore_errors=True)
        places, command = [], ["train", data, *options.split(), "--out", "run"]
        for kill in range(kills):
            process = processes.start(*command, cwd=cwd)
            step = int((share + 0.1 * kill / kills) * (expected.steps - attempt)) - attempt
            if not kill_at(process, step, draw.random() * 0.004):
                break
            places.append(process.place())
            command = ["resume", "run"]
        else:
            resumed = resume_and_compare(processes, cwd, expected)
            return [Killed(*place, resumed) for place in places]
    raise AssertionError(f"the process could never be killed at a share of {share}")


def many_at_random(processes, data, folder, whole, cases):
    """All of `cases` (options, seed, share, kills), two at a time."""

    def one(case):
        options, seed, share, kills = case
        cwd = folder / f"{seed}"
        cwd.mkdir()
        found = killed_at_random(processes, data, cwd, options, whole(options), seed, share, kills)
        shutil.rmtree(cwd)
        return found

    for options in {options for options, *_ in cases}:
        whole(options)
    with ThreadPoolExecutor(2) as pool:
        killed = [place for places in pool.map(one, cases) for place in places]
    phases = Counter(place.doing.split(" ")[0] for place in killed)
    print(f"killed at steps {sorted(place.step for place in killed)}, in {dict(phases)}")
    print(f"of {len(killed)} kills, {sum(not place.resumed for place in killed)} came before there was a run")
    return killed


def test_a_run_killed_at_twenty_random_moments_ends_the_same(processes, data, whole, tmp_path):
    draw = random.Random(0)
    cases = [(SMALL, number, (number + draw.random()) / 20, 1) for number in range(20)]
    killed = many_at_random(processes, data, tmp_path, whole, cases)
    assert len({place.step for place in killed}) >= 15
    assert sum(place.resumed for place in killed) >= 18


def test_a_run_killed_three_times_in_an_epoch_ends_the_same(processes, data, whole, tmp_path):
    cases = [(SMALL, number, share, 3) for number, share in enumerate((0.05, 0.4, 0.75))]
    killed = many_at_random(processes, data, tmp_path, whole, cases)
    assert len(killed) == 9


PHASES = {  # what must be hit at least once: an operation, and how the path begins
    "the run's folder": "mkdir run",
    "the checkpoint's folder": "mkdir run/checkpoints/.tmp-step",
    "weights": "write run/checkpoints/.tmp-step/model.safetensors",
    "optimizer": "write run/checkpoints/.tmp-step/optim.safetensors",
    "random states": "write run/checkpoints/.tmp-step/random.safetensors",
    "averages": "write run/checkpoints/.tmp-step/callbacks.safetensors",
    "all else": "write run/checkpoints/.tmp-step/state.json",
    "manifest": "write run/checkpoints/.tmp-step/manifest.json",
    "fsync of a file": "fsync run/checkpoints/.tmp-step/model.safetensors",
    "fsync of the manifest": "fsync run/checkpoints/.tmp-step/manifest.json",
    "fsync of the checkpoint's folder": "fsync run/checkpoints/.tmp-step",
    "the checkpoint's name": "rename run/checkpoints/.tmp-step",
    "fsync of the parent": "fsync run/checkpoints",
    "removal of an old one: its name": "rename run/checkpoints/step",
    "removal of an old one: its files": "unlink run/checkpoints/.tmp-step/model.safetensors",
    "removal of an old one: its folder": "rmdir run/checkpoints/.tmp-step",
    "history": "append run/history.jsonl",
    "fsync of the history": "fsync run/history.jsonl",
    "the recipe": "write run/.tmp-recipe.json",
    "fsync of the recipe": "fsync run/.tmp-recipe.json",
    "the recipe's name": "rename run/.tmp-recipe.json",
    "predictor": "write run/.tmp-predictor.new/model.safetensors",
    "the former predictor's name": "rename run/predictor",
    "the predictor's name": "rename run/predictor.new",
    "removal of the former predictor": "rmdir run/predictor.old",
}


def killed_at_operations(processes, data, folder, expected, kills):
    """Die at each of `kills`, (operation by number, "before" or "middle"); two at a time."""

    def one(die):
        cwd = folder / f"{die[0]}-{die[1]}"
        cwd.mkdir()
        process = processes.run("train", data, *TINY.split(), "--out", "run", cwd=cwd, die=die)
        assert process.code == -signal.SIGKILL, process.output
        assert process.operations == expected.operations[: die[0] + 1]
        step, doing = process.place()
        resumed = resume_and_compare(processes, cwd, expected)
        shutil.rmtree(cwd)
        return Killed(step, doing, resumed)

    with ThreadPoolExecutor(2) as pool:
        killed = list(pool.map(one, kills))
    print(f"killed at {len(killed)} operations of {len(expected.operations)}:")
    for doing, count in sorted(Counter(place.doing for place in killed).items()):
        print(f"{count:5}  {doing}")
    print(f"{sum(not place.resumed for place in killed)} of them came before there was a run")
    hit = {place.doing for place in killed}
    assert {phase for phase, operation in PHASES.items() if operation not in hit} == set()
    assert {place.doing for place in killed if not place.resumed} <= BEFORE_THE_RUN
    return killed


BEFORE_THE_RUN = {  # until the recipe has its name, there is no run
    "mkdir run", "fsync the parent", "mkdir run/checkpoints", "fsync run",
    "write run/.tmp-recipe.json", "fsync run/.tmp-recipe.json", "rename run/.tmp-recipe.json",
}  # fmt: skip


def test_a_run_killed_in_each_phase_of_a_save_ends_the_same(processes, data, whole, tmp_path):
    expected, draw = whole(TINY), random.Random(0)
    numbers = {name: [k for k, done in enumerate(expected.operations) if done == name] for name in PHASES.values()}
    kills = [(draw.choice(numbers[name]), "before") for name in PHASES.values()]
    torn = ("the recipe", "weights", "manifest", "history", "predictor")
    kills += [(draw.choice(numbers[PHASES[phase]]), "middle") for phase in torn]
    killed_at_operations(processes, data, tmp_path, expected, kills)


def test_a_run_of_the_installed_script_killed_in_the_middle_ends_the_same(data, whole, tmp_path):
    command = [str(Path(sys.executable).with_name("clearloop"))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    options = [*SMALL.split(), "--out", "run"]
    latest = time.monotonic() + DEADLINE_S
    with subprocess.Popen([*command, "train", data, *options], cwd=tmp_path, env=environment) as process:
        while not list(tmp_path.glob("run/checkpoints/step-0000004*")):
            assert process.poll() is None
            assert time.monotonic() < latest
            time.sleep(0.001)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    subprocess.run([*command, "resume", "run"], cwd=tmp_path, env=environment, check=True, timeout=DEADLINE_S)
    assert differences(end_on_disk(tmp_path / "run"), whole(SMALL).ends) == set()


def test_the_comparison_sees_a_run_that_was_killed_and_not_resumed(processes, data, whole, tmp_path):
    process = processes.start("train", data, *SMALL.split(), "--out", "run", cwd=tmp_path)
    assert kill_at(process, 33, 0)
    seen = differences(end_on_disk(tmp_path / "run"), whole(SMALL).ends)
    assert {"model.safetensors", "optim.safetensors", "random.safetensors", "callbacks.safetensors", "history"} <= seen


def test_a_process_that_writes_a_run_keeps_others_away_until_it_is_killed(processes, data, whole, tmp_path):
    process = processes.start("train", data, *SMALL.split(), "--out", "run", cwd=tmp_path)
    assert process.wait_for(lambda step, doing: step >= 5)
    process.send(signal.SIGSTOP)
    other = processes.run("resume", "run", cwd=tmp_path)
    assert other.code == 2
    assert "another process is writing this run" in other.output
    process.send(signal.SIGKILL)
    process.wait()
    assert resume_and_compare(processes, tmp_path, whole(SMALL))


@pytest.mark.slow
def test_runs_of_every_kind_killed_two_hundred_times_end_the_same(processes, data, whole, tmp_path):
    draw = random.Random(1)
    cases = []
    for number, options in enumerate(COVERING):
        cases += [(options, 100 * number + part, (part + draw.random()) / 16, 1) for part in range(16)]
        cases += [(options, 100 * number + 50 + part, draw.random() * 0.8, 3) for part in range(3)]
    killed = many_at_random(processes, data, tmp_path, whole, cases)
    assert len(killed) == 200


@pytest.mark.slow
def test_a_run_killed_at_every_operation_on_the_disk_ends_the_same(processes, data, whole, tmp_path):
    expected = whole(TINY)
    kills = []
    for number, operation in enumerate(expected.operations):
        kills += [(number, "before"), (number, "middle")][: 2 if operation.startswith(("write", "append")) else 1]
    killed_at_operations(processes, data, tmp_path, expected, kills)
