"""Several processes on this machine, started by torchrun: they do what one does, and end as one."""

import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import clearloop as cl
from clearloop import peers
from clearloop.commands import running
from cli_tools import clearloop, write_idx
from distributed_scenarios import CASES, digits, five_hundred_steps, net
from resume_tools import differences, end_on_disk

HERE = Path(__file__).parent
DEADLINE_S = 300
says_so = pytest.mark.filterwarnings("always:the run goes on, but not to the bit")  # with another number of processes
OPTIONS = ["--model", "mlp", "--hidden", "16", "-n", "3", "-b", "75", "--out", "run", "--every", "4"]  # 60 steps
DRAWING = [*OPTIONS, "--dropout", "0.2", "--ema", "0.9"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
SAME = [
    "plain", "few_samples", "accumulated_and_clipped", "weighted_classes", "augmented", "items_with_workers",
    "unused_and_thawed", "plateau_and_early_stopping", "metric_with_a_state", "signal_in_validation",
]  # fmt: skip


def torchrun(processes, *arguments, cwd, restarts=0, env=None):
    """Start it; what it prints goes to output.txt in `cwd`."""
    command = [*TORCHRUN, f"--nproc-per-node={processes}", f"--max-restarts={restarts}", *map(str, arguments)]
    paths = f"{HERE}{os.pathsep}{Path(cl.__file__).parent.parent}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, **(env or {})}
    with open(cwd / "output.txt", "w") as output:
        return subprocess.Popen(command, cwd=cwd, env=environment, stdout=output, stderr=subprocess.STDOUT)


@pytest.fixture(scope="module")
def alone():
    """What one process finds, scenario by scenario."""
    known = {}

    def run(name):
        if name not in known:
            torch.set_num_threads(1)
            known[name] = CASES[name]()
        return known[name]

    return run


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """1,500 digits to train on."""
    return write_idx(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def worlds(data, tmp_path_factory):
    """Folders in which so many processes ran all scenarios, and then a command that nothing stopped."""
    known = {}

    def run(processes):
        if processes not in known:
            known[processes] = folder = tmp_path_factory.mktemp(f"world-{processes}")
            command = ["train", data, *DRAWING]
            with torchrun(processes, HERE / "distributed_scenarios.py", folder, *command, cwd=folder) as process:
                code = process.wait(DEADLINE_S)
            assert code == 0, (folder / "output.txt").read_text()
        return known[processes]

    return run


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def found(request, worlds):
    """What each of several processes found, by scenario."""
    folder = worlds(request.param)
    ranks = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(request.param)]
    return {name: [found[name] for found in ranks] for name in CASES}


def largest_difference(one, other):
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.parametrize("name", SAME)
def test_several_processes_train_as_one_does(found, alone, name):
    expected = alone(name)
    for rank in found[name]:
        assert rank["counts"] == pytest.approx(expected["counts"], rel=1e-6)  # sums of weights are rounded
        assert rank["lrs"] == expected["lrs"]
        assert rank["losses"] == pytest.approx(expected["losses"], abs=1e-5)
        assert list(itertools.chain(*rank["values"])) == pytest.approx(
            list(itertools.chain(*expected["values"])), abs=1e-5
        )
        assert largest_difference(rank["weights"], expected["weights"]) <= 1e-5


@pytest.mark.parametrize("name", [*SAME, "unseeded", "batch_norm"])
def test_all_processes_end_with_the_same_bits(found, name):
    first, *others = found[name]
    for other in others:
        assert other["losses"] == first["losses"]
        assert other["values"] == first["values"]
        assert all(torch.equal(other["weights"][part], first["weights"][part]) for part in first["weights"])


def test_predictions_are_all_there_in_order_in_every_process(found, alone):
    expected = alone("plain")
    for rank in found["plain"]:
        assert torch.equal(rank["targets"], expected["targets"])
        assert torch.allclose(rank["preds"], expected["preds"], atol=1e-4)


def test_every_sample_is_seen_once_an_epoch_in_the_order_of_one_process(found):
    ranks = found["samples"]
    whole = [ranks[0]["whole"][epoch] for epoch in range(2)]
    for step in range(6):
        batches = [
            whole[step // 3][start : start + 10] for start in range(20 * (step % 3), min(20 * (step % 3 + 1), 53), 10)
        ]
        taken = [rank["seen"][step] for rank in ranks]
        assert sorted(itertools.chain(*taken)) == sorted(itertools.chain(*batches))
        assert max(map(len, taken)) - min(map(len, taken)) <= len(batches)


def test_random_numbers_differ_between_processes_and_steps(found):
    drawn = [number for rank in found["random_states"] for number in rank["drawn"]]
    assert len(set(drawn)) == len(drawn)


def test_weights_and_orders_that_nobody_seeded_are_those_of_the_first_process(found, alone):
    expected = alone("unseeded")
    for rank in found["unseeded"]:
        assert rank["losses"] == pytest.approx(expected["losses"], abs=1e-5)


def test_batch_norm_uses_each_processes_statistics_and_says_so(found):
    first, *others = found["batch_norm"]
    (told,) = first["told"]
    assert "batch norm: each of the" in told
    for other in others:
        assert other["told"] == []
        assert all(torch.equal(other["averages"][name], first["averages"][name]) for name in first["averages"])


def test_a_learning_rate_is_found_as_by_one_process(found, alone):
    for rank in found["lr_finder"]:
        assert rank["losses"] == pytest.approx(alone("lr_finder")["losses"], abs=1e-6)


def test_a_signal_ends_a_long_validation_in_all_processes_where_it_can_go_on(found, alone):
    assert alone("signal_in_validation")["ended"] == 128 + signal.SIGTERM
    for rank in found["signal_in_validation"]:
        assert rank["ended"] == 0
        assert rank["validated"] < 30  # of the 40 that an evaluation has
        assert rank["at"] == [0, 7, True]


def test_time_spent_on_loading_shares_is_seen_by_timing(found):
    (data,) = found["timed"][0]["data"]
    assert data > 0.01 * 21 / len(found["timed"])  # each process asks for its share of 21 slow items


def test_what_cannot_be_shared_is_refused_by_every_process(found):
    for rank in found["refusals"]:
        foreign, wrapped, sizes, models, values, synchronised = rank["refused"]
        assert foreign.startswith("ConfigError: several processes share out the batches")
        assert wrapped.startswith("ConfigError: several processes take the model itself, got one in DataParallel")
        assert sizes.startswith("DataError: the processes have different data")
        assert models.startswith("ModelError: the processes have different models")
        assert values.startswith("DataError: the processes have different first batches")
        assert synchronised.startswith("ConfigError: SyncBatchNorm needs GPUs")


def test_a_model_in_data_parallel_trains_as_it_is_in_one_process(alone, tmp_path):
    wrapped = cl.Learner(digits(), nn.DataParallel(net()), F.cross_entropy, lr=0.1, seed=0)
    plain = cl.Learner(digits(), net(), F.cross_entropy, lr=0.1, seed=0)
    for learn in (wrapped, plain):
        learn.fit(1, quiet=True)
    assert wrapped.history.values == plain.history.values
    assert largest_difference(plain.model.state_dict(), wrapped.model.module.state_dict()) == 0
    wrapped.save(tmp_path / "run")
    again = cl.Learner.load(tmp_path / "run", dls=digits(), model=nn.DataParallel(net()))
    for learn in (again, wrapped):
        learn.fit(1, quiet=True)
    assert largest_difference(again.model.state_dict(), wrapped.model.state_dict()) == 0


@pytest.mark.cuda
def test_a_process_on_a_gpu_trains_as_one_without_torchrun(tmp_path):
    job = Job(tmp_path, 1, "steps")  # nccl
    assert job.wait() == 0, job.output
    found, expected = torch.load(tmp_path / "steps.pt", weights_only=True), five_hundred_steps()
    assert largest_difference(found["weights"], expected["weights"]) <= 1e-4


@pytest.mark.cuda
def test_processes_on_their_own_gpus_train_as_one(tmp_path):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    job = Job(tmp_path, 2, "steps")
    assert job.wait() == 0, job.output
    found, expected = torch.load(tmp_path / "steps.pt", weights_only=True), five_hundred_steps()
    assert largest_difference(found["weights"], expected["weights"]) <= 1e-4


@pytest.mark.cuda
def test_more_processes_than_gpus_are_refused(tmp_path):
    job = Job(tmp_path, torch.cuda.device_count() + 1, "steps")
    assert job.wait() == 1
    assert "expected a GPU for every process" in job.output


# -- runs: failures, signals, restarts, other numbers of processes -----------------------------------------------------

RUN = HERE / "distributed_run.py"


def silent_peers(monkeypatch, tmp_path):
    """Rank 0 of two processes, of which the other has given one sign of life, and no more."""
    monkeypatch.setattr(peers, "BEAT_S", 0.01)
    monkeypatch.setattr(peers, "UNEASY_S", 0.1)
    monkeypatch.setattr(peers, "SILENCE_S", 0.1)
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    store.add("beat-1", 1)
    return peers.Peers(0, 2, store, store)


def test_a_process_that_gives_no_sign_of_life_is_spoken_of_once(monkeypatch, tmp_path, capfd):
    monkeypatch.setattr(sys, "__stderr__", sys.stderr)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    found = silent_peers(monkeypatch, tmp_path)
    time.sleep(0.5)
    found.close()
    assert capfd.readouterr().err.count("note: rank 1 has given no sign of life") == 1
    assert found.roll_call() == "rank 1 gave no sign of life: killed, stopped or cut off from the others"


def test_a_process_that_ended_by_itself_is_not_called_killed(monkeypatch, tmp_path, capfd):
    monkeypatch.setattr(sys, "__stderr__", sys.stderr)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    found = silent_peers(monkeypatch, tmp_path)
    found.store.set("ended-1", "")
    time.sleep(0.5)
    found.close()
    assert "no sign of life" not in capfd.readouterr().err
    assert found.roll_call().startswith("rank 1 ended by itself while others waited for it")


@pytest.mark.parametrize("command", [["check", "mnist"], ["sweep", "mnist"], ["predict", "run", "x.png"], ["runs"]])
def test_what_is_not_shared_out_is_refused_once(monkeypatch, command):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    first = clearloop(*command)
    assert first.code == 2
    assert f"clearloop {command[0]} works in one process: start it without torchrun" in first.err
    monkeypatch.setenv("RANK", "1")
    other = clearloop(*command)
    assert (other.code, other.out, other.err) == (0, "", "")


def test_a_command_that_was_killed_before_its_run_was_there_keeps_its_folder(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    left = tmp_path / "runs" / "data-1"
    (left / "initial").mkdir(parents=True)
    monkeypatch.setattr(running, "left_without_run", lambda: left)
    monkeypatch.setattr(running, "draw_curves", lambda learn: None)
    done = clearloop("train", data, "--model", "mlp", "--hidden", "4", "-n", "1")
    assert done.code == 0, done.err
    assert os.listdir(tmp_path / "runs") == ["data-1"]
    assert not (left / "initial").exists()


@pytest.mark.slow
@pytest.mark.parametrize("out", [[], ["--out", "runs/own"]])
def test_a_kill_before_the_recipe_leaves_one_run(data, tmp_path, out):
    job = Job(tmp_path, 2, "dying", data, "--model", "mlp", "--hidden", "4", "-n", "1", *out, restarts=1)
    assert job.wait() == 0, job.output
    (run,) = (tmp_path / "runs").iterdir()
    assert (run / "recipe.json").exists()
    assert not (run / "git.diff").exists() or (run / "git.diff").read_text() != "half"


class Job:
    """One torchrun in a folder of its own, watched from outside."""

    def __init__(self, cwd, processes, *arguments, restarts=0, env=None):
        self.cwd = cwd
        for left in cwd.glob("pids/*"):
            left.unlink()
        self.process = torchrun(processes, RUN, *arguments, cwd=cwd, restarts=restarts, env=env)

    @property
    def output(self):
        return (self.cwd / "output.txt").read_text()

    def wait(self):
        try:
            return self.process.wait(DEADLINE_S)
        finally:
            self.process.kill()

    def wait_for_step(self, step, restart=0):
        """Until a checkpoint of `step` or a later one is there, written by the processes of this start."""
        latest = time.monotonic() + DEADLINE_S
        while not any((self.cwd / "pids").glob(f"{restart}-*")) or newest_step(self.cwd) < step:
            assert self.process.poll() is None, self.output
            assert time.monotonic() < latest, self.output
            time.sleep(0.005)

    def send(self, rank, number, restart=0):
        os.kill(int((self.cwd / "pids" / f"{restart}-{rank}").read_text()), number)


def newest_step(cwd):
    """The newest checkpoint's step; -1 where there is none."""
    return max((int(path.name[5:13]) for path in cwd.glob("run/checkpoints/step-*")), default=-1)


def history(cwd):
    lines = [json.loads(line) for line in (cwd / "run" / "history.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "step"]


def weights(cwd):
    return cl.Learner.load(cwd / "run", cbs=[]).model.state_dict()


def test_one_process_prints_a_table_and_writes_one_run(worlds):
    output = (worlds(2) / "output.txt").read_text()
    assert output.count("train_loss  valid_loss") == 1
    assert output.count("saved in run;") == 1
    assert [line["step"] for line in history(worlds(2))] == list(range(60))
    assert json.loads((worlds(2) / "run" / "recipe.json").read_text())["processes"] == 2


def kill_and_compare(data, cwd, expected, rank, step, number=signal.SIGKILL, env=None, processes=2):
    """Lose a process after `step`; torchrun begins all anew, and the run must end as the one that nothing stopped."""
    job = Job(cwd, processes, "train", data, *DRAWING, restarts=1, env=env)
    job.wait_for_step(step)
    job.send(rank, number)
    assert job.wait() == 0, job.output
    assert (cwd / "pids" / "1-0").exists(), "it ended before it could be killed"
    assert differences(end_on_disk(cwd / "run"), end_on_disk(expected / "run")) == set()
    return job.output


def stop_by_signal(cwd, step, processes, *arguments, rank=0):
    """SIGTERM to one process when `step` is saved; the step at which all of them stopped."""
    job = Job(cwd, processes, *arguments, restarts=3)
    job.wait_for_step(step)
    job.send(rank, signal.SIGTERM)
    assert job.wait() == 0, job.output
    assert not (cwd / "pids" / "1-0").exists(), "torchrun has begun it anew"
    stopped = newest_step(cwd)
    assert step <= stopped < 60
    assert len(history(cwd)) == stopped, "it was not saved where it stopped"
    assert "go on with" in job.output
    return stopped


def compare_with_one_process(data, cwd):
    """The run in `cwd` with the same one of a single process."""
    (cwd / "alone").mkdir()
    with contextlib.chdir(cwd / "alone"):
        assert clearloop("train", data, *OPTIONS, "-q").code == 0
    ours, expected = history(cwd), history(cwd / "alone")
    assert [(line["step"], line["count"]) for line in ours] == [(line["step"], line["count"]) for line in expected]
    assert [line["loss"] for line in ours] == pytest.approx([line["loss"] for line in expected], abs=1e-5)
    assert largest_difference(weights(cwd), weights(cwd / "alone")) <= 1e-5


@says_so
def test_a_killed_process_is_replaced_then_a_signal_stops_all_and_one_process_goes_on(data, worlds, tmp_path):
    job = Job(tmp_path, 2, "train", data, *DRAWING, restarts=3)
    job.wait_for_step(12)
    job.send(1, signal.SIGKILL)
    job.wait_for_step(28, restart=1)
    job.send(1, signal.SIGTERM, restart=1)
    assert job.wait() == 0, job.output
    assert not (tmp_path / "pids" / "2-0").exists(), "torchrun has begun it anew"
    assert job.output.count("error: rank 1 gave no sign of life: killed, stopped or cut off from the others") == 1
    assert "rank 1 gave no sign of life" in (tmp_path / "run" / "log.txt").read_text()
    assert job.output.count("run: going on at epoch") == 1
    stopped, whole = newest_step(tmp_path), history(worlds(2))
    assert 28 <= stopped < 60
    assert history(tmp_path) == whole[:stopped]  # to the bit, and saved where it stopped
    with contextlib.chdir(tmp_path):
        done = clearloop("resume", "run")
    assert done.code == 0
    assert "processes: 2 -> 1" in done.err
    assert [(line["step"], line["count"]) for line in history(tmp_path)] == [
        (line["step"], line["count"]) for line in whole
    ]


@pytest.mark.slow
@says_so
def test_a_signal_to_one_process_stops_all_and_one_process_goes_on(data, tmp_path):
    stop_by_signal(tmp_path, 12, 2, "train", data, *OPTIONS, rank=1)
    with contextlib.chdir(tmp_path):
        done = clearloop("resume", "run")
    assert done.code == 0
    assert "processes: 2 -> 1" in done.err
    compare_with_one_process(data, tmp_path)


@says_so
@pytest.mark.slow
def test_runs_go_on_with_any_number_of_processes(data, tmp_path):
    first = stop_by_signal(tmp_path, 8, 2, "train", data, *OPTIONS)
    second = stop_by_signal(tmp_path, first + 8, 1, "resume", "run")
    third = stop_by_signal(tmp_path, second + 8, 4, "resume", "run", rank=3)
    assert third < 60
    job = Job(tmp_path, 2, "resume", "run")
    assert job.wait() == 0, job.output
    compare_with_one_process(data, tmp_path)


@says_so
@pytest.mark.slow
def test_torchrun_that_is_told_to_stop_saves_the_run(data, tmp_path):
    job = Job(tmp_path, 2, "train", data, *OPTIONS)
    job.wait_for_step(12)
    job.process.terminate()
    job.wait()
    assert len(history(tmp_path)) == newest_step(tmp_path) < 60
    with contextlib.chdir(tmp_path):
        assert clearloop("resume", "run").code == 0
    compare_with_one_process(data, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(10))
def test_ten_kills_of_ten_are_survived(data, worlds, tmp_path, number):
    kill_and_compare(data, tmp_path, worlds(2), number % 2, 4 + 5 * number)


@pytest.mark.slow
def test_one_of_four_is_named_and_replaced_and_the_bits_are_the_same(data, worlds, tmp_path):
    output = kill_and_compare(data, tmp_path, worlds(4), 2, 16, processes=4)
    assert "rank 2 gave no sign of life" in output


@pytest.mark.slow
def test_a_stopped_process_is_named_and_replaced(data, worlds, tmp_path):
    env = {"CLEARLOOP_TIMEOUT_S": "20"}
    output = kill_and_compare(data, tmp_path, worlds(2), 1, 12, signal.SIGSTOP, env)
    assert "rank 1 gave no sign of life" in output


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_five_hundred_steps_stay_within_a_hundred_thousandth(tmp_path, processes):
    job = Job(tmp_path, processes, "steps")
    assert job.wait() == 0, job.output
    found, expected = torch.load(tmp_path / "steps.pt", weights_only=True), five_hundred_steps()
    assert len(found["losses"]) == 500
    assert largest_difference(found["weights"], expected["weights"]) <= 1e-5


@pytest.mark.slow
def test_bad_data_end_all_processes_with_one_error(tmp_path):
    x = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    x[17, 2] = np.nan
    np.savez(tmp_path / "bad.npz", x=x, y=np.arange(60) % 2)
    job = Job(tmp_path, 2, "train", "bad.npz", "--out", "run")
    assert job.wait() == 1
    assert job.output.count("error: ") == 1, job.output
    assert "17" in job.output
    assert not (tmp_path / "run").exists()


def test_an_error_in_one_process_ends_all_and_is_told_once_with_its_rank(tmp_path):
    job = Job(tmp_path, 2, "raising", 1)
    assert job.wait() == 1
    assert len(re.findall(r"DataError: item \d+ of the test cannot be read", job.output)) == 1, job.output
    assert "rank 1 of 2:" in job.output
    assert "RunError" not in job.output


@pytest.mark.slow
def test_a_script_goes_on_with_its_run_when_it_is_begun_anew(tmp_path):
    job = Job(tmp_path, 2, "script", restarts=1)
    job.wait_for_step(20)
    job.send(0, signal.SIGKILL)
    assert job.wait() == 0, job.output
    assert (tmp_path / "pids" / "1-0").exists()
    assert [line["step"] for line in history(tmp_path)] == list(range(64))
