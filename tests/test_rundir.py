"""Never lose a run: refused, killed, powered off or corrupted, it gives back step N or N-1, or a typed error."""

import ast
import contextlib
import errno
import json
import os
import pickle
import random
import resource
import shutil
import signal
import sys
import warnings
from pathlib import Path

import pytest
import torch

from clearloop import durable, rundir
from clearloop.errors import CheckpointError, ConfigError, RunError, StorageError
from clearloop.rundir import RunDirectory

torch.set_num_threads(1)

OPERATIONS = ("mkdir", "write", "append", "truncate", "fsync", "rename", "unlink", "rmdir")


def states(step, version=0):
    """What a run holds at `step`; `version` tells two timelines apart."""
    weight = torch.full((4, 4), float(step)) + version
    return {
        "model": {"weight": weight, "tied": weight, "bias": torch.tensor([step])},
        "optim": {"state": {0: {"momentum": weight * 2}}, "lr": 0.1},
        "rng": {"python": (3, tuple(range(20)), None)},
        "progress": {"step": step, "version": version, "best": float("inf")},
    }


def record(step):
    return {
        "kind": "epoch",
        "epoch": step // 10,
        "train_loss": 1 / (1 + step),
        "valid_loss": None,
        "metrics": {"acc": 0.5},
    }


def save(run, step, version=0, **options):
    run.append_history([{"kind": "step", "step": step, "loss": 0.25}, record(step)])
    return run.save_checkpoint(step, states(step, version), **options)


@pytest.fixture
def run(tmp_path):
    """A run with a recipe and good checkpoints of steps 10 and 20."""
    run = RunDirectory.create(tmp_path / "run")
    run.write_recipe({"model": "mlp", "data": "mnist", "lr": 0.1})
    save(run, 10)
    save(run, 20)
    return run


def unexpected(line):
    raise AssertionError(f"nothing to report was expected, got {line}")


def check_loaded(loaded, versions=(0,)):
    """The loaded step, after a look at whether all of it is what was saved."""
    step, found, history = loaded
    assert found.pop("history")["step"] == step
    version = found["progress"]["version"]
    assert version in versions
    for name, state in states(step, version).items():
        if name == "model":
            assert found[name]["weight"] is found[name]["tied"]
            assert all(torch.equal(found[name][key], state[key]) for key in state)
        elif name == "optim":
            assert torch.equal(found[name]["state"][0]["momentum"], state["state"][0]["momentum"])
        else:
            assert found[name] == state
    assert history[-1] == record(step)
    return step


def reopen(run):
    """The run as another process would see it."""
    return RunDirectory.open(run.path)


def tree(folder):
    """Every file below `folder` with its bytes, and every folder; the lock file apart."""
    found = {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}
    return {name: data for name, data in found.items() if not name.endswith(".lock")}


def litter(run):
    return [name for name in tree(run.path) if ".tmp-" in name or ".old" in name]


class Shim(durable.FileSystem):
    """Calls `before(number, operation, args)` ahead of each operation, numbered from 1, and keeps a log."""

    def __init__(self, before=lambda number, operation, args: None):
        self.log, self.before = [], before

    def step(self, operation, *args):
        self.log.append((operation, *args))
        self.before(len(self.log), operation, args)
        return getattr(super(), operation)(*args)


for _operation in OPERATIONS:
    setattr(Shim, _operation, lambda self, *args, _operation=_operation: self.step(_operation, *args))


def logged(action):
    with durable.using(Shim()) as shim:
        action()
    return shim.log


def fail_at(number, code):
    """A file system whose n-th operation, of a write the second half, is refused."""
    plain = durable.FileSystem()

    def before(current, operation, args):
        if current == number:
            if operation in ("write", "append"):
                getattr(plain, operation)(args[0], args[1][: len(args[1]) // 2])
            error = StorageError(f"refused {operation} {args[0]}")
            error.errno = code
            raise error

    return Shim(before)


# --- making, finding and locking runs


def test_create_and_open_refuse_what_is_not_theirs(tmp_path):
    run = RunDirectory.create(tmp_path / "a" / "b")
    RunDirectory.create(tmp_path / "a" / "b")  # making it was cut short: not a run yet
    with pytest.raises(RunError, match=r"without recipe\.json"):
        RunDirectory.open(run.path)
    run.write_recipe({})
    assert RunDirectory.open(str(run.path)).path == run.path
    with pytest.raises(RunError, match="resume it, or choose another"):
        RunDirectory.create(run.path)
    with pytest.raises(RunError, match="with other things in it; choose another"):
        RunDirectory.create(tmp_path)
    (tmp_path / "file").touch()
    for missing in ("none", "file"):
        with pytest.raises(RunError, match=r"expected a run at .*lists the runs"):
            RunDirectory.open(tmp_path / missing)
    with pytest.raises(RunError, match="choose another"):
        RunDirectory.create(tmp_path / "file")


def test_numbers_go_on_after_the_highest_and_are_never_given_twice(tmp_path, monkeypatch):
    assert RunDirectory.numbered(tmp_path / "runs", "mnist").path.name == "mnist-1"
    (tmp_path / "runs" / "mnist-7").mkdir()
    (tmp_path / "runs" / "mnist-x").mkdir()
    (tmp_path / "runs" / "other-9").mkdir()
    assert RunDirectory.numbered(tmp_path / "runs", "mnist").path.name == "mnist-8"
    monkeypatch.setattr(os, "listdir", lambda path: [])  # as if others were made after the look
    assert RunDirectory.numbered(tmp_path / "runs", "mnist").path.name == "mnist-2"
    for stem in ("", "../up", "a/b", ".x"):
        with pytest.raises(ConfigError, match="plain name"):
            RunDirectory.numbered(tmp_path, stem)


def in_child(action):
    """Run `action` in a forked child; its process id. The child exits with 0, or 1 after an exception."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer versions of Python warn of forks in general
        pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        action()
        code = 0
    finally:
        os._exit(code)


def test_only_one_process_writes_and_a_dead_one_frees_the_run_even_if_its_workers_live(run):
    ready, tell = os.pipe()
    worker_id, tell_worker = os.pipe()

    def train():
        with run.lock():
            worker = in_child(signal.pause)
            os.write(tell_worker, str(worker).encode())
            os.write(tell, b"x")
            signal.pause()

    assert not run.is_locked()
    child = in_child(train)
    worker = None
    try:
        os.read(ready, 1)
        worker = int(os.read(worker_id, 20))
        assert run.is_locked()
        assert run.summary()["state"] == "running"
        with pytest.raises(RunError, match="another process is writing this run"), run.lock():
            pass
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with run.lock():
            assert run.is_locked()
            with pytest.raises(RunError), reopen(run).lock():
                pass
        assert not run.is_locked()
    finally:
        for pid in (child, worker):
            if pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def test_the_lock_sweeps_left_overs_and_is_not_needed_where_there_is_none(run, monkeypatch):
    left = [run.path / ".tmp-recipe.json-9999999999", run.folder / f".tmp-step-00000030-{os.getppid()}"]
    for path in left:
        path.mkdir()
        (path / "model.safetensors").touch()
    with run.lock():
        assert litter(run) == []
    monkeypatch.setattr(rundir, "fcntl", None)
    with run.lock(), reopen(run).lock():
        assert not run.is_locked()


def test_a_recipe_comes_back_and_damage_to_it_is_named(run):
    recipe = {"model": {"path": "a:b", "kwargs": {"n": 5}}, "lr": 0.1, "name": "é", "none": None}
    run.write_recipe(recipe)
    assert run.read_recipe() == recipe
    good = run.recipe.read_bytes()
    values = good[: good.index(b'"checksum"')]
    for bit in random.Random(0).sample(range(len(values) * 8), 300):
        damaged = bytearray(good)
        damaged[bit // 8] ^= 1 << bit % 8
        run.recipe.write_bytes(damaged)
        if values[bit // 8 - 4 : bit // 8 + 1] != b"\\u00e":  # an upper-case digit there means the same
            with pytest.raises(RunError, match=r"recipe\.json: expected"):
                run.read_recipe()
    for damaged in (b"", b"[]", good[:-20], b'{"lr": NaN}'):
        run.recipe.write_bytes(damaged)
        with pytest.raises(RunError, match=r"recipe\.json: expected"):
            run.read_recipe()
    run.recipe.write_bytes(b'{"lr": 0.5}')  # edited by hand, the checksum taken out
    assert run.read_recipe() == {"lr": 0.5}
    run.recipe.unlink()
    with pytest.raises(RunError, match="No such file"):
        run.read_recipe()
    with pytest.raises(RunError, match="expected plain data"):
        run.write_recipe({"model": torch.nn.ReLU()})


# --- history


def test_history_comes_back_with_words_for_what_is_not_finite(tmp_path):
    run = RunDirectory.create(tmp_path / "run")
    assert run.read_history() == []
    assert run.history_position() == rundir.NO_HISTORY
    run.append_history([])
    assert not run.history.exists()
    run.append_history([{"loss": float("nan"), "metrics": {"a": [float("inf"), -float("inf"), 0.1]}, "name": "é\n"}])
    run.append_history([record(1), record(2)])
    words = {"loss": "nan", "metrics": {"a": ["inf", "-inf", 0.1]}, "name": "é\n"}
    assert run.read_history() == [words, record(1), record(2)]
    assert [json.loads(line) for line in run.history.read_text().splitlines()] == run.read_history()
    before = run.history.read_bytes()
    with pytest.raises(RunError, match="expected plain data"):
        run.append_history([record(3), {"loss": torch.ones(1)}])
    assert run.history.read_bytes() == before


def test_a_position_is_a_prefix_that_is_checked_and_can_be_gone_back_to(run):
    position = run.history_position()
    assert position == reopen(run).history_position()
    run.append_history([record(30)])
    later = run.history_position()
    assert reopen(run).read_history(position) == run.read_history(later)[:-1]
    run.truncate_history(position)
    assert run.history_position() == position == reopen(run).history_position()
    with pytest.raises(CheckpointError, match=r"expected .* bytes with SHA-256"):
        run.read_history(later)
    run.append_history([record(31)])
    assert reopen(run).read_history()[-1] == record(31)
    with pytest.raises(CheckpointError, match="differ"):
        run.truncate_history({**position, "sha256": "0"})
    for damaged in ({}, {"bytes": -1}, {"bytes": True}, {"bytes": "1"}):
        with pytest.raises(CheckpointError, match="expected a position"):
            run.read_history(damaged)
    assert reopen(run).read_history()[-1] == record(31)


def test_a_line_cut_off_by_a_crash_is_no_record_and_is_written_over(run):
    whole = run.read_history()
    with open(run.history, "ab") as file:
        file.write(b'{"kind": "ep')
    after = reopen(run)
    assert after.read_history() == whole
    after.append_history([record(30)])
    assert reopen(run).read_history() == [*whole, record(30)]
    run.history.write_bytes(b'{"a": 1}\n[2]\n')
    with pytest.raises(CheckpointError, match=r"history\.jsonl, line 2: expected an object"):
        run.read_history()


def test_a_refused_append_leaves_the_history_as_it_was(run):
    before, position = run.history.read_bytes(), run.history_position()
    for number in (1, 2):
        with durable.using(fail_at(number, errno.ENOSPC)), pytest.raises(StorageError):
            run.append_history([record(30)])
        assert run.history.read_bytes() == before
        assert run.history_position() == position
    run.append_history([record(30)])
    assert run.read_history(run.history_position())[-1] == record(30)


# --- checkpoints


def test_the_newest_two_and_the_best_are_kept(run):
    assert check_loaded(run.load_newest(unexpected)) == 20
    for step in (30, 40, 50):
        save(run, step, best_step=20)
    assert [step for step, _ in run.checkpoints()] == [20, 40, 50]
    save(run, 60, keep=3)
    assert [step for step, _ in run.checkpoints()] == [40, 50, 60]
    assert litter(run) == []
    with pytest.raises(ConfigError, match="keep >= 2"):
        run.save_checkpoint(70, states(70), keep=1)
    assert check_loaded(run.load_step(50)) == 50
    with pytest.raises(CheckpointError, match="step 10, got 40, 50, 60; choose"):
        run.load_step(10)


def test_steps_are_ordered_as_numbers_and_other_names_are_left_alone(run):
    for name in ("step-5", "step-000000011", "step-00000099.bak", "notes"):
        (run.folder / name).mkdir()
    save(run, 99_999_999)
    save(run, 123_456_789)
    assert [step for step, _ in run.checkpoints()] == [99_999_999, 123_456_789]
    assert check_loaded(run.load_newest(unexpected)) == 123_456_789
    assert (run.folder / "notes").is_dir()


def test_a_step_saved_again_replaces_what_was_there_only_when_it_is_in_place(run):
    log = logged(lambda: save(run, 20, version=1))
    assert check_loaded(run.load_newest(unexpected), versions=(1,)) == 20
    assert [step for step, _ in run.checkpoints()] == [10, 20]
    assert litter(run) == []
    for number in range(1, len(log) + 1):
        with durable.using(fail_at(number, errno.EIO)), pytest.raises(StorageError):
            save(run, 20, version=2)
        both = (run.folder / "step-00000020.old").exists()  # when what failed is the removal of the former one
        assert check_loaded(reopen(run).load_newest(unexpected), versions=(2,) if both else (1, 2)) == 20
        assert run.checkpoints()[-1][1].name == "step-00000020"
        assert [name for name in litter(run) if ".tmp-" in name] == []
        save(run, 20, version=1)
        assert litter(run) == []


def test_checkpoints_of_an_abandoned_timeline_step_aside(run):
    loaded = run.load_step(10)[1]
    run.truncate_history(loaded["history"])
    save(run, 15)
    assert [step for step, _ in run.checkpoints()] == [10, 15]
    assert check_loaded(reopen(run).load_newest(unexpected)) == 15
    assert (run.folder / "step-00000020.superseded").is_dir()


def test_a_checkpoint_that_is_not_the_one_of_its_step_is_passed_over(run):
    shutil.rmtree(run.folder / "step-00000020")
    shutil.copytree(run.folder / "step-00000010", run.folder / "step-00000020")
    lines = []
    assert check_loaded(run.load_newest(lines.append)) == 10
    assert "step-00000020" in lines[0]


def test_nothing_is_removed_before_the_new_checkpoint_has_been_read_back(run):
    class Lying(durable.FileSystem):
        def write(self, path, data):
            super().write(path, data[:-1] + b"?" if path.name == "model.safetensors" else data)

    save(run, 25, keep=3)
    with durable.using(Lying()), pytest.raises(CheckpointError, match=r"model\.safetensors"):
        save(run, 30)
    assert [step for step, _ in run.checkpoints()] == [10, 20, 25]
    assert litter(run) == []
    damaged = bytearray(run.history.read_bytes())
    damaged[5] ^= 1
    run.history.write_bytes(damaged)
    with pytest.raises(CheckpointError, match=r"history\.jsonl"):
        run.save_checkpoint(30, states(30))
    assert [step for step, _ in run.checkpoints()] == [10, 20, 25]


def test_a_run_without_checkpoints_says_none_and_one_with_only_bad_ones_says_so(tmp_path, run):
    assert RunDirectory.create(tmp_path / "new").load_newest(unexpected) is None
    for _, path in run.checkpoints():
        (path / "state.json").write_bytes(b"{}")
    lines = []
    with pytest.raises(CheckpointError, match="got 2 that do not"):
        run.load_newest(lines.append)
    assert len(lines) == 2
    assert [step for step, _ in run.checkpoints()] == [10, 20]  # nothing was renamed: there is nothing better


def test_bad_ones_are_reported_and_put_out_of_the_way_once_a_good_one_is_found(run):
    for _ in range(2):
        save(run, 30)
        (run.folder / "step-00000030" / "state.json").write_bytes(b"{}")
        lines = []
        assert check_loaded(run.load_newest(lines.append)) == 20
        assert len(lines) == 1
        assert "step-00000030" in lines[0]
        assert "state.json" in lines[0]
        assert check_loaded(run.load_newest(unexpected)) == 20
    assert {path.name for path in run.folder.glob("*.damaged*")} == {
        "step-00000030.damaged",
        "step-00000030.damaged-2",
    }


def test_a_reader_may_not_rename_and_still_loads(run):
    (run.folder / "step-00000020" / "manifest.json").write_bytes(b"{}")
    lines = []
    with durable.using(fail_at(1, errno.EROFS)):
        assert check_loaded(run.load_newest(lines.append)) == 10
    assert len(lines) == 2


def test_a_reader_goes_on_with_newer_ones_when_the_writer_removes_what_it_was_reading(run, monkeypatch):
    from clearloop import packing

    load, writer = packing.load, reopen(run)

    def race(path):
        if path.name == "step-00000020":
            save(writer, 30)
            save(writer, 40)
        return load(path)

    monkeypatch.setattr(packing, "load", race)
    assert check_loaded(run.load_newest(unexpected)) == 40


def test_a_dangling_link_in_the_place_of_a_checkpoint_is_passed_over(run):
    (run.folder / "step-00000030").symlink_to(run.path / "nowhere")
    assert check_loaded(run.load_newest(lambda line: None)) == 20


# --- every operation refused


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
def test_each_refused_operation_of_a_save_leaves_the_earlier_checkpoints_and_no_litter(run, code):
    run.append_history([record(30)])
    before = tree(run.path)
    count = len(logged(lambda: run.save_checkpoint(30, states(30))))
    for number in range(1, count + 1):
        shutil.rmtree(run.path)
        run.path.mkdir()
        for name, data in sorted(before.items()):
            (run.path / name).mkdir() if data is None else (run.path / name).write_bytes(data)
        fresh = reopen(run)
        with durable.using(fail_at(number, code)) as shim, pytest.raises(StorageError) as caught:
            fresh.save_checkpoint(30, states(30))
        assert str(run.path) in str(caught.value)
        assert caught.value.errno == code
        assert litter(run) == []
        step = check_loaded(reopen(run).load_newest(unexpected))
        written = any(entry[0] == "rename" and entry[2].name == "step-00000030" for entry in shim.log[: number - 1])
        if step == 20:  # nothing at all has changed
            assert tree(run.path) == before
        else:  # what failed is the removal of an older one
            assert written
        save(fresh, 40)
        assert check_loaded(reopen(run).load_newest(unexpected)) == 40


def test_a_real_limit_on_file_sizes_is_a_storage_error_with_path_and_bytes(run):
    before = tree(run.path)

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        with pytest.raises(StorageError, match=r"step-00000030.*model\.safetensors \(\d{6} bytes\), got EFBIG.*ulimit"):
            run.save_checkpoint(30, {"model": {"weight": torch.zeros(100_000)}})
        assert tree(run.path) == before
        with pytest.raises(StorageError, match="EFBIG"):
            run.append_history([record(30)] * 1000)
        assert tree(run.path) == before
        run.append_history([record(30)])
        run.save_checkpoint(30, states(30))

    _, status = os.waitpid(in_child(limited), 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert check_loaded(reopen(run).load_newest(unexpected)) == 30


def test_too_little_space_is_said_before_anything_is_written(run):
    run.require_space(1)
    with pytest.raises(StorageError, match=r"expected at least 1\d{24} bytes free .* got \d+; free space"):
        run.require_space(10**24)


def test_a_log_on_a_full_disk_warns_once_and_stops_nothing(run):
    run.log("epoch 0")
    run.log("café \udcff")
    assert (run.path / "log.txt").read_bytes() == "epoch 0\ncafé \\udcff\n".encode()
    (run.path / "log.txt").unlink()
    (run.path / "log.txt").symlink_to("/dev/full")
    with pytest.warns(UserWarning, match=r"log is not complete: .*log\.txt \(2 bytes\), got ENOSPC"):
        run.log("x")
    run.log("y")


# --- killed


def kill_at(number, half):
    """A file system that kills its process ahead of its n-th operation, or in the middle of it if that is a write."""
    plain = durable.FileSystem()

    def before(current, operation, args):
        if current == number:
            if half and operation in ("write", "append"):
                getattr(plain, operation)(args[0], args[1][: len(args[1]) // 2])
            os.kill(os.getpid(), signal.SIGKILL)

    return Shim(before)


def kill_everywhere(run, scratch, action, steps, versions=(0,)):
    """Kill `action` at each of its operations, on copies of `run`; each copy must load, and save again."""
    shutil.copytree(run.path, scratch / "counted")
    log = logged(lambda: action(RunDirectory.open(scratch / "counted")))
    seen = set()
    for number in range(1, len(log) + 2):
        for half in (False, True) if number <= len(log) and log[number - 1][0] in ("write", "append") else (False,):
            copy = scratch / "copy"
            shutil.copytree(run.path, copy)

            def victim(copy=copy, number=number, half=half):
                with durable.using(kill_at(number, half)):
                    action(RunDirectory.open(copy))

            _, status = os.waitpid(in_child(victim), 0)
            assert os.waitstatus_to_exitcode(status) == (0 if number > len(log) else -signal.SIGKILL)
            after = RunDirectory.open(copy)
            seen.add(step := check_loaded(after.load_newest(unexpected), versions))
            assert step in steps
            with after.lock():
                after.truncate_history(after.load_step(step)[1]["history"])
                save(after, 40)
                save(after, 50)
            assert check_loaded(RunDirectory.open(copy).load_newest(unexpected), versions) == 50
            assert litter(after) == []
            shutil.rmtree(copy)
    assert seen == set(steps)


def test_killed_at_any_operation_of_a_save_a_run_has_this_checkpoint_or_the_one_before(run, tmp_path):
    kill_everywhere(run, tmp_path, lambda run: save(run, 30), {20, 30})


def test_killed_at_any_operation_of_a_save_of_the_same_step_a_run_has_that_step(run, tmp_path):
    kill_everywhere(run, tmp_path, lambda run: save(run, 20, version=1), {20}, versions=(0, 1))


# --- powered off


class Node:
    """A file (bytes) or directory (names to nodes) as it is, and as the disk has it for certain."""

    def __init__(self, live):
        self.live = live
        self.synced = type(live)()
        self.pending = []  # of a directory: groups of (name, node or None) that the disk may or may not have

    @classmethod
    def of(cls, path):
        """What is on a real disk, all of it synced."""
        children = {child.name: cls.of(child) for child in path.iterdir()} if path.is_dir() else None
        node = cls(path.read_bytes() if children is None else children)
        node.synced = node.live if children is None else dict(children)
        return node

    def change(self, *group):
        self.pending.append(group)
        for name, node in group:
            self.live.pop(name, None)
            if node is not None:
                self.live[name] = node

    def fsync(self):
        self.synced = self.live if isinstance(self.live, bytes) else dict(self.live)
        self.pending = []


class Disk:
    """Replays a shim's log in memory; `crash` writes down what a power loss may leave."""

    def __init__(self, root):
        self.root, self.top = root, Node.of(root)

    def find(self, path):
        node = self.top
        for part in path.relative_to(self.root).parts:
            node = node.live[part]
        return node

    def replay(self, operation, path, *args):
        parent, name = self.find(path.parent) if path != self.root else None, path.name
        if operation == "fsync":
            self.find(path).fsync()
        elif operation == "mkdir":
            parent.change((name, Node({})))
        elif operation == "rename":
            assert args[0].parent == path.parent
            parent.change((name, None), (args[0].name, parent.live[name]))
        elif operation in ("unlink", "rmdir"):
            parent.change((name, None))
        else:
            if name not in parent.live:
                parent.change((name, Node(b"")))
            node = parent.live[name]
            before = b"" if operation == "write" else node.live
            node.live = before[: args[0]] if operation == "truncate" else before + args[0]

    def crash(self, target, generator, contents, entries):
        self._put(self.top, target, generator, contents, entries)

    def _put(self, node, target, generator, contents, entries):
        if isinstance(node.live, bytes):
            target.write_bytes(torn(node, generator, contents))
            return
        target.mkdir()
        names = dict(node.synced)
        for group in survivors(node.pending, generator, entries):
            for name, child in group:
                names.pop(name, None)
                if child is not None:
                    names[name] = child
        for name, child in names.items():
            self._put(child, target / name, generator, contents, entries)


def torn(node, generator, contents):
    """What a file holds after a power loss if its last writes were not synced."""
    if node.live == node.synced or contents == "kept":
        return node.live
    if contents == "dropped":
        return node.synced
    if contents == "zeros":  # the length was written, the bytes were not
        return node.synced[: len(node.live)].ljust(len(node.live), b"\0")
    cut = generator.randrange(len(node.live) + 1)
    return node.live[:cut] + node.synced[cut:]


def survivors(pending, generator, entries):
    """Which changes of a directory reached the disk: those first made, or any of them."""
    if entries == "kept":
        return pending
    if entries == "dropped":
        return []
    if entries == "prefix":
        return pending[: generator.randrange(len(pending) + 1)]
    return [group for group in pending if generator.random() < 0.5]


WAYS = [
    (contents, entries)
    for contents in ("kept", "dropped", "zeros", "torn")
    for entries in ("kept", "dropped", "prefix", "reordered")
]


def power_off_everywhere(run, scratch, action, steps, last, versions=(0,), repeats=1):
    """Lose power after each operation of `action`, in many ways; each remainder must load, the finished one `last`."""
    disk = Disk(run.path)
    log = logged(lambda: action(reopen(run)))
    generator = random.Random(0)
    for number in range(len(log) + 1):
        if number:
            disk.replay(*log[number - 1])
        for contents, entries in WAYS * repeats:
            target = scratch / "after"
            disk.crash(target, generator, contents, entries)
            after = RunDirectory.open(target)
            step = check_loaded(after.load_newest(unexpected), versions)
            assert step in steps, (log[:number], contents, entries)
            if number == len(log):
                assert step == last, "what was reported as saved must survive"
            if generator.random() < 0.1:
                with after.lock():
                    after.truncate_history(after.load_step(step)[1]["history"])
                    save(after, 50)
                assert check_loaded(RunDirectory.open(target).load_newest(unexpected), versions) == 50
            shutil.rmtree(target)


def test_a_power_loss_during_a_save_leaves_this_checkpoint_or_the_one_before(run, tmp_path):
    power_off_everywhere(run, tmp_path, lambda run: save(run, 30), {20, 30}, last=30)


def test_a_power_loss_during_a_save_of_the_same_step_leaves_that_step(run, tmp_path):
    power_off_everywhere(run, tmp_path, lambda run: save(run, 20, version=1), {20}, last=20, versions=(0, 1))


def test_a_power_loss_during_the_first_save_leaves_it_or_nothing(tmp_path):
    run = RunDirectory.create(tmp_path / "run")
    run.write_recipe({})
    disk, generator = Disk(run.path), random.Random(0)
    log = logged(lambda: save(run, 10))
    for number in range(len(log) + 1):
        if number:
            disk.replay(*log[number - 1])
        for contents, entries in WAYS:
            disk.crash(tmp_path / "after", generator, contents, entries)
            loaded = RunDirectory.open(tmp_path / "after").load_newest(unexpected)
            assert loaded is None and number < len(log) or check_loaded(loaded) == 10
            shutil.rmtree(tmp_path / "after")


def test_a_power_loss_while_a_run_is_made_leaves_a_run_or_room_for_one(tmp_path):
    disk, generator = Disk(tmp_path), random.Random(0)
    log = logged(lambda: RunDirectory.numbered(tmp_path / "runs", "mnist").write_recipe({"lr": 0.1}))
    for number in range(len(log) + 1):
        if number:
            disk.replay(*log[number - 1])
        for contents, entries in WAYS:
            target = tmp_path.with_name(tmp_path.name + "-after")
            disk.crash(target, generator, contents, entries)
            path = target / "runs" / "mnist-1"
            if (path / "recipe.json").exists():
                assert RunDirectory.open(path).read_recipe() == {"lr": 0.1}
            else:
                assert number < len(log)
                RunDirectory.numbered(target / "runs", "mnist").write_recipe({})
            shutil.rmtree(target)


# --- corrupted


def flip_bits(run, count, seed):
    """Flip `count` random bits, one at a time, over all files of the newest checkpoint; each must be noticed."""
    newest = run.folder / "step-00000020"
    files = {path: path.read_bytes() for path in sorted(newest.iterdir())}
    generator = random.Random(seed)
    for _ in range(count):
        path = generator.choice(list(files))
        damaged = bytearray(files[path])
        bit = generator.randrange(len(damaged) * 8)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        lines = []
        assert check_loaded(run.load_newest(lines.append)) == 10
        assert len(lines) == 1
        os.replace(run.folder / "step-00000020.damaged", newest)
        path.write_bytes(files[path])
    assert check_loaded(run.load_newest(unexpected)) == 20


def test_flipped_bits_are_noticed_and_the_checkpoint_before_is_used(run):
    flip_bits(run, 300, seed=0)


@pytest.mark.slow
def test_ten_thousand_flipped_bits_are_noticed(run):
    flip_bits(run, 10_000, seed=1)


def test_files_cut_at_64_lengths_are_noticed_and_the_checkpoint_before_is_used(run):
    newest = run.folder / "step-00000020"
    for path in sorted(newest.iterdir()):
        good = path.read_bytes()
        for length in {len(good) * part // 64 for part in range(64)}:
            path.write_bytes(good[:length])
            lines = []
            assert check_loaded(run.load_newest(lines.append)) == 10
            assert path.name in lines[0]
            os.replace(run.folder / "step-00000020.damaged", newest)
        path.write_bytes(good)


def test_swapped_missing_and_foreign_files_are_noticed_and_the_checkpoint_before_is_used(run):
    older, newest = run.folder / "step-00000010", run.folder / "step-00000020"
    names = sorted(os.listdir(newest))
    for name in names:
        good = (newest / name).read_bytes()
        for damaged in (
            None,
            (older / name).read_bytes(),
            *((newest / other).read_bytes() for other in names if other != name),
        ):
            (newest / name).unlink()
            if damaged is not None:
                (newest / name).write_bytes(damaged)
            if damaged != good:
                lines = []
                assert check_loaded(run.load_newest(lines.append)) == 10
                assert len(lines) == 1
                os.replace(run.folder / "step-00000020.damaged", newest)
            (newest / name).write_bytes(good)
    assert check_loaded(run.load_newest(unexpected)) == 20


def test_a_flipped_bit_in_the_history_withdraws_the_checkpoints_that_know_it(run):
    good, first = run.history.read_bytes(), run.load_step(10)[1]["history"]["bytes"]
    generator = random.Random(0)
    for place in [*generator.sample(range(len(good)), 40), first - 1, first]:
        damaged = bytearray(good)
        damaged[place] ^= 1 << generator.randrange(8)
        run.history.write_bytes(damaged)
        if place < first:
            with pytest.raises(CheckpointError, match=r"history\.jsonl"):
                run.load_newest(lambda line: None)
        else:
            assert check_loaded(run.load_newest(lambda line: None)) == 10
            os.replace(run.folder / "step-00000020.damaged", run.folder / "step-00000020")
    run.history.unlink()
    with pytest.raises(CheckpointError, match=r"history\.jsonl"):
        run.load_newest(lambda line: None)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_pickles_lying_about_in_a_run_are_never_loaded(run, tmp_path):
    bomb = pickle.dumps(Bomb(tmp_path / "executed"))
    for folder in (run.path, run.folder):
        for name in ("state.pkl", "model.pt", "step-00000030.pt", "step-00000031"):
            (folder / name).write_bytes(bomb)
    (run.folder / "step-00000020" / "optim.pt").write_bytes(bomb)
    lines = []
    assert check_loaded(run.load_newest(lines.append)) == 10
    assert any("optim.pt" in line for line in lines)
    run.summary()
    assert not (tmp_path / "executed").exists()


# --- listings


def test_a_summary_has_what_a_table_of_runs_shows(run):
    run.append_history([{"kind": "step", "step": 21, "loss": 0.1}])
    summary = run.summary()
    assert summary.pop("modified") > 1e9
    assert summary == {
        "path": str(run.path),
        "name": "run",
        "model": "mlp",
        "data": "mnist",
        "epoch": 2,
        "epochs_planned": None,
        "train_loss": 1 / 21,
        "valid_loss": None,
        "metrics": {"acc": 0.5},
        "checkpoints": 2,
        "locked": False,
        "state": "stopped",
    }


def test_a_summary_of_a_damaged_run_says_what_is_damaged(run):
    run.history.write_bytes(b"nonsense\n")
    assert "damaged: " in run.summary()["state"]
    assert "history.jsonl, line 1" in run.summary()["state"]
    run.recipe.write_bytes(b"{")
    assert "recipe.json" in run.summary()["state"]
    shutil.rmtree(run.path)
    assert run.summary()["state"].startswith("damaged: ")


def test_a_table_of_runs_needs_no_torch():
    at_the_top = ast.parse(Path(rundir.__file__).read_text()).body
    imported = {alias.name for node in at_the_top if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in at_the_top if isinstance(node, ast.ImportFrom)}
    assert {name for name in imported if name.split(".")[0] not in sys.stdlib_module_names} == {
        "clearloop",
        "clearloop.errors",
    }
