"""Writes that survive a crash: what is on disk after each operation in turn has failed, been cut or corrupted."""

import ast
import errno
import hashlib
import io
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clearloop import durable
from clearloop.errors import CheckpointError, RunError, StorageError

OPERATIONS = ("mkdir", "write", "append", "truncate", "fsync", "rename", "unlink", "rmdir")
FILES = {"model.safetensors": bytes(range(256)) * 5, "state.json": b'{"epoch": 3}', "empty": b""}
ATTEMPT = durable._attempt

names = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True).filter(lambda name: name != "manifest.json")
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


class Shim(durable.FileSystem):
    """Keeps a log of operations; refuses those whose number is in `refused` as the system would, with `code`."""

    def __init__(self, refused=(), code=errno.EIO, half=False):
        self.log, self.refused, self.code, self.half = [], refused, code, half

    def step(self, operation, *args):
        self.log.append((operation, *args))
        method = getattr(super(), operation)
        if len(self.log) not in self.refused:
            return method(*args)
        if self.half and operation in ("write", "append"):
            method(args[0], args[1][: len(args[1]) // 2])

        def refuse():
            raise OSError(self.code, os.strerror(self.code))

        with mock.patch.object(durable, "_attempt", lambda what, path, size, action: ATTEMPT(what, path, size, refuse)):
            return method(*args)


for _operation in OPERATIONS:
    setattr(Shim, _operation, lambda self, *args, _operation=_operation: self.step(_operation, *args))


def count(action):
    """How many operations `action` takes when nothing fails."""
    with durable.using(Shim()) as shim:
        action()
    return len(shim.log)


def tree(folder):
    """Every file below `folder` with its bytes, and every folder."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


# --- directories


@settings(max_examples=30, deadline=None)
@given(files=st.dictionaries(names, st.binary(max_size=300), max_size=4))
def test_a_directory_reads_back_what_was_written(files, tmp_path_factory):
    target = tmp_path_factory.mktemp("round") / "step"
    durable.write_directory(target, files)
    assert durable.read_directory(target) == files


@pytest.mark.parametrize("half", [False, True], ids=["whole", "half-written"])
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
def test_each_refused_operation_of_a_directory_leaves_no_trace_and_a_typed_error(tmp_path, code, half):
    durable.write_directory(tmp_path / "step-1", FILES)
    before = tree(tmp_path)
    for number in range(1, count(lambda: durable.write_directory(tmp_path / "counted", FILES)) + 1):
        durable.remove_directory(tmp_path / "counted") if (tmp_path / "counted").exists() else None
        with durable.using(Shim({number}, code, half)) as shim, pytest.raises(StorageError) as caught:
            durable.write_directory(tmp_path / "step-2", FILES)
        assert tree(tmp_path) == before
        operation, path, *rest = shim.log[number - 1]
        assert str(path) in str(caught.value)
        assert errno.errorcode[code] in str(caught.value)
        assert caught.value.errno == code
        if operation == "write":
            assert f"({len(rest[0])} bytes)" in str(caught.value)
        if code == errno.ENOSPC:
            assert "free space" in str(caught.value)


def test_a_disk_that_stays_broken_reports_its_first_error(tmp_path):
    for number in range(1, count(lambda: durable.write_directory(tmp_path / "counted", FILES)) + 1):
        with durable.using(Shim(range(number, 1000))) as shim, pytest.raises(StorageError) as caught:
            durable.write_directory(tmp_path / f"step-{number}", FILES)
        operation, path, *_ = shim.log[number - 1]
        words = {"mkdir": "make directory", "fsync": "flush to disk"}.get(operation, operation)
        assert str(caught.value).startswith((f"expected to {words} {path}, got", f"expected to {words} {path} ("))


def test_what_the_disk_changed_in_silence_is_noticed_when_it_is_read_back(tmp_path):
    class Lying(durable.FileSystem):
        def write(self, path, data):
            super().write(path, data[:-1] + b"?" if path.name == "model.safetensors" else data)

    with durable.using(Lying()), pytest.raises(CheckpointError, match=r"model\.safetensors: expected SHA-256"):
        durable.write_directory(tmp_path / "step-1", FILES)
    assert tree(tmp_path) == {}


def test_a_target_that_exists_is_not_written_over(tmp_path):
    durable.write_directory(tmp_path / "step-1", FILES)
    with pytest.raises(StorageError, match="remove it or choose another name"):
        durable.write_directory(tmp_path / "step-1", {})
    assert durable.read_directory(tmp_path / "step-1") == FILES


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../up", "/etc/passwd", "a/b", "a\\b", ".hidden", "manifest.json", "é"]
)
def test_only_plain_names_are_written(tmp_path, name):
    with pytest.raises(CheckpointError, match="plain file names"):
        durable.write_directory(tmp_path / "step-1", {name: b""})
    assert tree(tmp_path) == {}


def test_an_interrupt_leaves_nothing_behind(tmp_path):
    class Interrupted(Shim):
        def __init__(self, number):
            super().__init__()
            self.number = number

        def step(self, operation, *args):
            super().step(operation, *args)
            if len(self.log) == self.number:
                raise KeyboardInterrupt

    for number in range(1, count(lambda: durable.write_directory(tmp_path / "counted", FILES)) + 1):
        with durable.using(Interrupted(number)), pytest.raises(KeyboardInterrupt):
            durable.write_directory(tmp_path / "step-1", FILES)
        assert os.listdir(tmp_path) == ["counted"]


def test_removal_hides_the_directory_before_the_first_file_goes(tmp_path):
    durable.write_directory(tmp_path / "step-1", FILES)
    with durable.using(Shim()) as shim:
        durable.remove_directory(tmp_path / "step-1")
    assert tree(tmp_path) == {}
    assert [entry[0] for entry in shim.log] == ["rename", "fsync", *["unlink"] * 4, "rmdir"]
    for number in range(1, len(shim.log) + 1):
        durable.write_directory(tmp_path / "step-1", FILES)
        with durable.using(Shim({number})), pytest.raises(StorageError):
            durable.remove_directory(tmp_path / "step-1")
        if number == 1:  # not even hidden yet: still whole
            durable.remove_directory(tmp_path / "step-1")
        assert tree(tmp_path) == {}


# --- damage


@pytest.fixture
def written(tmp_path):
    durable.write_directory(tmp_path / "step-1", FILES)
    return tmp_path / "step-1"


def flip(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def test_every_bit_flip_in_a_manifest_and_many_in_the_files_are_noticed(written):
    generator = random.Random(0)
    for name in [*FILES, "manifest.json"]:
        path, good = written / name, (written / name).read_bytes()
        bits = range(len(good) * 8)
        for bit in bits if name == "manifest.json" else generator.sample(bits, min(len(bits), 100)):
            flip(path, bit)
            with pytest.raises(CheckpointError, match=str(written)):
                durable.read_directory(written)
            path.write_bytes(good)
    assert durable.read_directory(written) == FILES


def test_a_file_cut_at_any_length_or_grown_is_noticed(written):
    for name in [*FILES, "manifest.json"]:
        path, good = written / name, (written / name).read_bytes()
        cuts = {len(good) * part // 64 for part in range(64)} - {len(good)}
        for damaged in [*(good[:cut] for cut in cuts), good + b"\0"]:
            path.write_bytes(damaged)
            with pytest.raises(CheckpointError, match=name):
                durable.read_directory(written)
        path.write_bytes(good)


def test_missing_extra_and_swapped_files_are_named(written):
    model, state = written / "model.safetensors", written / "state.json"
    model.rename(written / "aside")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: expected a file listed in the manifest, got none"):
        durable.read_directory(written)
    (written / "aside").rename(model)
    (written / "extra.pkl").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"extra\.pkl: expected only files listed"):
        durable.read_directory(written)
    (written / "extra.pkl").unlink()
    data = model.read_bytes(), state.read_bytes()
    model.write_bytes(data[1])
    state.write_bytes(data[0])
    with pytest.raises(CheckpointError, match="bytes, got"):
        durable.read_directory(written)


def test_links_pipes_and_directories_are_refused_unread(written, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(FILES["state.json"])
    path = written / "state.json"
    for replace in (
        lambda: path.symlink_to(secret),
        lambda: path.symlink_to("/dev/zero"),
        lambda: os.mkfifo(path),
        lambda: path.mkdir(),
    ):
        path.rmdir() if path.is_dir() else path.unlink()
        replace()
        with pytest.raises(CheckpointError, match="expected a regular file"):
            durable.read_directory(written)


def entry(data):
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/hostname", "..", "sub/secret", ".secret", "a\x00b", "", "manifest.json"]
)
def test_a_crafted_manifest_cannot_name_a_file_outside(tmp_path, name):
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "step-1" / "sub").mkdir(parents=True)
    (tmp_path / "step-1" / "sub" / "secret").write_bytes(b"secret")
    manifest = {"format": 1, "files": {name: entry(b"secret")}}
    (tmp_path / "step-1" / "manifest.json").write_bytes(durable.dumps_strict(manifest))
    with pytest.raises(CheckpointError, match="plain file names"):
        durable.read_directory(tmp_path / "step-1")


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"null",
        b"[]",
        b'{"files": {}}',
        b'{"format": true, "files": {}}',
        b'{"format": 2, "files": {}}',
        b'{"format": 1, "files": []}',
        b'{"format": 1,"files": {}}',
        b'{"format": 1, "files": {"a": null}}',
        b'{"format": 1, "files": {"a": {"bytes": -1, "sha256": ""}}}',
        b'{"format": 1, "files": {"a": {"bytes": 1.0, "sha256": ""}}}',
        b'{"format": 1, "files": {"a": {"bytes": 1, "sha256": 5}}}',
        b'{"format": 1, "format": 1, "files": {}}',
        b'{"format": NaN, "files": {}}',
        b'{"format": 1e999, "files": {}}',
        b"[" * 100_000,
        b"1" * 5_000,
        b"\xff\xfe",
        b" " * (durable.JSON_LIMIT + 1),
    ],
    ids=lambda manifest: repr(manifest[:60]),
)
def test_a_malformed_manifest_is_refused_by_name(tmp_path, manifest):
    (tmp_path / "manifest.json").write_bytes(manifest)
    with pytest.raises(CheckpointError, match=r"manifest\.json: expected"):
        durable.read_directory(tmp_path)


def test_a_folder_that_is_missing_or_has_no_manifest_is_refused_by_name(tmp_path):
    for path in (tmp_path, tmp_path / "none", Path("/dev/null")):
        with pytest.raises(CheckpointError, match=r"manifest\.json: expected a file"):
            durable.read_directory(path)


# --- files


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_file_holds_the_old_or_the_new_bytes_whichever_operation_fails(tmp_path, code):
    path = tmp_path / "recipe.json"
    path.write_bytes(b"old")
    for number in range(1, count(lambda: durable.write_file(tmp_path / "counted", b"new")) + 1):
        path.write_bytes(b"old")
        with durable.using(Shim({number}, code, half=True)) as shim, pytest.raises(StorageError):
            durable.write_file(path, b"new")
        renamed = [entry[0] for entry in shim.log[: number - 1]].count("rename")
        assert tree(tmp_path) == {"recipe.json": b"new" if renamed else b"old", "counted": b"new"}


def test_appending_cuts_what_a_crash_left_and_takes_back_what_failed(tmp_path):
    path = tmp_path / "history.jsonl"
    durable.append_file(path, b"one\n", at=0)
    path.write_bytes(b"one\ntw")
    durable.append_file(path, b"two\n", at=4)
    assert path.read_bytes() == b"one\ntwo\n"
    for number in (1, 2):
        shim = Shim({number}, errno.ENOSPC, half=True)
        with durable.using(shim), pytest.raises(StorageError, match=r"6 bytes|flush"):
            durable.append_file(path, b"three\n", at=8)
        assert path.read_bytes() == b"one\ntwo\n"
    with pytest.raises(CheckpointError, match="expected at least 9 bytes, got 8"):
        durable.append_file(path, b"four\n", at=9)
    for number in (1, 2, 3):
        with durable.using(Shim({number}, half=True)), pytest.raises(StorageError):
            durable.append_file(tmp_path / "new", b"line\n", at=0)
        assert not (tmp_path / "new").exists()


def test_short_writes_are_continued_and_a_write_of_nothing_is_an_error(tmp_path, monkeypatch):
    class Short(io.FileIO):
        longest = 7

        def write(self, data):
            return super().write(memoryview(data)[: self.longest])

    monkeypatch.setattr(durable, "open", lambda path, mode, buffering: Short(path, mode), raising=False)
    durable.FileSystem().write(tmp_path / "file", bytes(100))
    assert (tmp_path / "file").read_bytes() == bytes(100)
    monkeypatch.setattr(Short, "longest", 0)
    with pytest.raises(StorageError, match="wrote none of the last 100 bytes"):
        durable.FileSystem().write(tmp_path / "file", bytes(100))


def test_new_directories_are_flushed_into_their_parents(tmp_path):
    with durable.using(Shim()) as shim:
        durable.make_directory(tmp_path / "a" / "b")
        durable.make_directory(tmp_path / "a" / "b")
    a = tmp_path / "a"
    assert shim.log == [("mkdir", a), ("fsync", tmp_path), ("mkdir", a / "b"), ("fsync", a)]
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="EEXIST"):
        durable.make_directory(tmp_path / "file")


def test_a_real_refusal_says_what_where_and_what_to_do(tmp_path):
    for operation, args in {"write": (b"12345",), "rename": (tmp_path / "new",), "unlink": (), "fsync": ()}.items():
        path = tmp_path / "missing" / "file"
        with pytest.raises(StorageError, match=r"expected to .*ENOENT.*check the path") as caught:
            getattr(durable.FileSystem(), operation)(path, *args)
        assert str(path) in str(caught.value)
        assert isinstance(caught.value, OSError)
        assert caught.value.errno == errno.ENOENT


def test_a_file_system_that_cannot_flush_directories_is_no_error(tmp_path, monkeypatch):
    def refuse(descriptor):
        raise OSError(errno.EINVAL, "Invalid argument")

    (tmp_path / "file").touch()
    monkeypatch.setattr(os, "fsync", refuse)
    durable.FileSystem().fsync(tmp_path)
    with pytest.raises(StorageError):
        durable.FileSystem().fsync(tmp_path / "file")


# --- left-overs


def test_temporaries_of_dead_writers_are_swept_and_others_stay(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for pid in (dead.pid, os.getpid(), os.getppid(), 9999999999):
        durable.write_directory(tmp_path / f".tmp-step-{pid}", FILES)
    for name in ("step-1", ".tmp-mine", "tmp-step-1", ".tmp-recipe.json-9999999999"):
        (tmp_path / name).touch()
    durable.sweep_temporaries(tmp_path)
    kept = {"step-1", ".tmp-mine", "tmp-step-1"}
    assert set(os.listdir(tmp_path)) == {*kept, f".tmp-step-{os.getppid()}"}
    durable.sweep_temporaries(tmp_path, only_dead=False)
    assert set(os.listdir(tmp_path)) == kept
    durable.sweep_temporaries(tmp_path / "none")


def test_a_left_over_of_an_earlier_process_with_our_id_is_no_obstacle(tmp_path):
    left = tmp_path / f".tmp-step-1-{os.getpid()}"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    durable.write_directory(tmp_path / "step-1", FILES)
    assert os.listdir(tmp_path) == ["step-1"]


def test_the_shim_is_put_back_after_an_error():
    first = durable.current()
    with pytest.raises(ZeroDivisionError), durable.using(Shim()), durable.using(Shim()):
        raise ZeroDivisionError
    assert durable.current() is first


# --- strict JSON


@given(values)
def test_strict_json_reads_back_what_was_written(value):
    data = durable.dumps_strict(value)
    assert data.isascii()
    assert repr(durable.loads_strict(data)) == repr(value)
    assert json.loads(data) == value


@pytest.mark.parametrize(
    "value", [float("nan"), [float("inf")], {"a": -float("inf")}, {1: 2}, {"a": {None: 1}}, b"bytes", {1, 2}, object()]
)
def test_what_json_has_no_word_for_is_refused(value):
    with pytest.raises(RunError, match="expected plain data"):
        durable.dumps_strict(value)


def test_a_structure_without_end_is_refused():
    endless = []
    endless.append(endless)
    with pytest.raises(RunError, match="expected plain data"):
        durable.dumps_strict(endless)


@pytest.mark.parametrize(
    "text", [b"NaN", b"-Infinity", b"[1e999]", b'{"a":1,"a":2}', b"[" * 10_000, b"1 2", b"\xff", b"'a'"]
)
def test_text_that_is_not_strict_json_is_refused_by_name(text):
    with pytest.raises(CheckpointError, match="some file: expected strict JSON"):
        durable.loads_strict(text, "some file")
    with pytest.raises(RunError) as caught:
        durable.loads_strict(text, error=RunError)
    assert type(caught.value) is RunError


def test_json_has_the_same_size_limit_both_ways():
    assert durable.loads_strict(durable.dumps_strict("x" * 8, limit=10), limit=10) == "x" * 8
    with pytest.raises(RunError, match="at most 10 bytes"):
        durable.dumps_strict("x" * 9, limit=10)
    with pytest.raises(CheckpointError, match="at most 10 bytes"):
        durable.loads_strict(b'"xxxxxxxxx"', limit=10)


def test_durable_imports_only_the_standard_library_and_the_errors():
    imported = set()
    for node in ast.walk(ast.parse(Path(durable.__file__).read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module)
    assert {name for name in imported if name.split(".")[0] not in sys.stdlib_module_names} == {"clearloop.errors"}
