"""The folders of pictures: what is in them, where they are kept, and that no half of one passes for whole."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clearloop import durable
from clearloop.data import sample as module
from clearloop.data.cache import cache_folder
from clearloop.data.mnist import Mnist
from clearloop.data.sample import URLs, untar_data
from clearloop.errors import ConfigError, DataError, StorageError


@pytest.fixture
def few(digits, tmp_path, monkeypatch):
    """An empty cache, and a collection so small that it is written in no time: 60 training and 40 test pictures."""
    monkeypatch.setenv("CLEARLOOP_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(module, "mnist", lambda: Mnist(*digits[:2], *digits[2:]))
    monkeypatch.setattr(module, "labels", lambda: (digits.train_labels[:60], digits.test_labels[:40]))
    return tmp_path / "home"


def files(folder):
    """The paths of all files below a folder, as text, sorted."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


class Counting(durable.FileSystem):
    """Counts the operations, and raises `error` in place of the n-th."""

    def __init__(self, at=0, error=None):
        self.at, self.error, self.done = at, error, 0

    def tick(self):
        self.done += 1
        if self.done == self.at:
            raise self.error

    def mkdir(self, path):
        self.tick()
        super().mkdir(path)

    def write(self, path, data):
        self.tick()
        super().write(path, data)

    def rename(self, old, new):
        self.tick()
        super().rename(old, new)


def test_the_sample_has_every_three_and_seven_and_nothing_else(sample):
    assert sorted(path.name for path in sample.iterdir()) == ["labels.csv", "train", "valid"]
    counts = {f"{part}/{digit}": len(files(sample / part / digit)) for part in ("train", "valid") for digit in "37"}
    assert counts == {"train/3": 6131, "train/7": 6265, "valid/3": 1010, "valid/7": 1028}
    assert len(files(sample)) == 12_396 + 2_038 + 1


def test_a_picture_is_named_by_its_place_in_mnists_file_and_holds_its_very_bytes(sample, digits):
    first_threes = [int(path.stem) for path in sorted((sample / "train" / "3").iterdir())][:4]
    assert first_threes == [10, 10000, 10011, 10031]
    for part, images, labels in (("train", *digits[:2]), ("valid", *digits[2:])):
        for digit in (3, 7):
            for path in sorted((sample / part / str(digit)).iterdir())[::97]:
                with Image.open(path) as picture:
                    assert (picture.format, picture.mode) == ("PNG", "L")
                    assert np.array_equal(np.array(picture), images[int(path.stem)].numpy())
                assert labels[int(path.stem)] == digit


def test_the_table_of_labels_has_a_row_for_each_picture_0_for_a_three_and_1_for_a_seven(sample):
    header, *rows = (sample / "labels.csv").read_text().splitlines()
    assert header == "name,label"
    label_of = dict(row.split(",") for row in rows)
    assert sorted(label_of) == files(sample)[1:]  # without the table itself
    assert label_of["train/3/10.png"] == "0"
    assert label_of["valid/7/0.png"] == "1"
    assert all(label == ("0" if "/3/" in name else "1") for name, label in label_of.items())


def test_a_second_call_writes_nothing(sample):
    before = sample.stat().st_ino
    with durable.using(Counting(at=1, error=AssertionError("written again"))):
        assert untar_data(URLs.MNIST_SAMPLE) == sample
    assert sample.stat().st_ino == before


def test_all_digits_come_in_folders_named_as_the_well_known_collection_names_them(few):
    path = untar_data(URLs.MNIST)
    assert path.name == "mnist_png"
    assert sorted(folder.name for folder in path.iterdir()) == ["testing", "training"]
    assert sorted(folder.name for folder in (path / "training").iterdir()) == list("0123456789")
    assert len(files(path / "training")) == 60
    assert len(files(path / "testing")) == 40
    assert (path / "training" / "5" / "0.png").is_file()
    assert not list(few.glob(".tmp*"))


@pytest.mark.slow
def test_all_70_000_digits_can_be_written(tmp_path, monkeypatch):
    monkeypatch.setenv("CLEARLOOP_HOME", str(tmp_path))
    path = untar_data(URLs.MNIST)
    assert len(files(path / "training")) == 60_000
    assert len(files(path / "testing")) == 10_000
    assert len(files(path / "training" / "1")) == 6742


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"CLEARLOOP_HOME": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"CLEARLOOP_HOME": "~/kept"}, "/home/me/kept"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/clearloop"),
        ({"XDG_CACHE_HOME": "not/absolute"}, "/home/me/.cache/clearloop"),
        ({"CLEARLOOP_HOME": "", "XDG_CACHE_HOME": ""}, "/home/me/.cache/clearloop"),
        ({}, "/home/me/.cache/clearloop"),
    ],
)
def test_the_cache_is_where_the_environment_says(variables, folder, monkeypatch):
    for name in ("CLEARLOOP_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/me")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(folder)


def test_a_cache_below_the_working_folder_is_given_as_an_absolute_path(few, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLEARLOOP_HOME", "home")
    assert untar_data(URLs.MNIST_SAMPLE) == few / "mnist_sample"


@pytest.mark.parametrize("url", ["mnist", "", Path("mnist_sample"), None, 3])
def test_what_is_not_known_is_refused_with_what_is(url, few):
    with pytest.raises(ConfigError, match=r"expected URLs\.MNIST_SAMPLE or URLs\.MNIST.*got"):
        untar_data(url)
    assert not few.exists()


def test_a_writer_killed_at_any_operation_leaves_nothing_that_passes_for_whole(few, monkeypatch):
    class Killed(BaseException):
        pass

    with durable.using(Counting()) as count:
        whole = files(untar_data(URLs.MNIST_SAMPLE))
    assert count.done > 20
    assert len(whole) == count.done - 9  # home, seven folders, the rename
    for at in range(1, count.done + 1):
        home = few / f"home-{at}"
        monkeypatch.setenv("CLEARLOOP_HOME", str(home))
        with pytest.MonkeyPatch.context() as patch, durable.using(Counting(at, Killed())):
            patch.setattr(shutil, "rmtree", lambda path, **_: None)  # who is killed does not tidy up
            with pytest.raises(Killed):
                untar_data(URLs.MNIST_SAMPLE)
        assert not (home / "mnist_sample").exists()
        assert files(untar_data(URLs.MNIST_SAMPLE)) == whole


def test_what_a_killed_writer_left_is_removed_once_it_is_old_and_that_of_a_living_one_is_not(few):
    old, new = few / ".tmp-mnist_sample-old", few / ".tmp-mnist_sample-new"
    other = few / ".tmp-mnist_png-old"
    for folder in (old, new, other):
        (folder / "train" / "3").mkdir(parents=True)
    for folder in (old, other):
        os.utime(folder, (time.time() - 4000,) * 2)
    untar_data(URLs.MNIST_SAMPLE)
    assert sorted(path.name for path in few.iterdir()) == [other.name, new.name, "mnist_sample"]


@pytest.mark.parametrize("at", [1, 3, 10, 30], ids=["first", "folder", "picture", "rename"])
def test_a_disk_that_refuses_is_an_error_and_nothing_is_left(at, few):
    few.mkdir()
    with durable.using(Counting(at, StorageError("no space"))), pytest.raises(StorageError, match="no space"):
        untar_data(URLs.MNIST_SAMPLE)
    assert not list(few.iterdir())


def test_a_cache_that_cannot_be_made_is_an_error(few):
    few.write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="make directory") as caught:
        untar_data(URLs.MNIST_SAMPLE)
    assert caught.value.errno in (errno.EEXIST, errno.ENOTDIR)


def test_two_writers_at_once_both_get_the_whole_collection(few):
    both_have_written = threading.Barrier(2, timeout=60)

    class Together(durable.FileSystem):
        def rename(self, old, new):
            both_have_written.wait()
            super().rename(old, new)

    found, threads = [], [threading.Thread(target=lambda: found.append(untar_data(URLs.MNIST_SAMPLE))) for _ in "ab"]
    with durable.using(Together()):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [few / "mnist_sample"] * 2
    assert [path.name for path in few.iterdir()] == ["mnist_sample"]


@pytest.mark.parametrize("damage", ["removed", "empty", "folder", "table"])
def test_a_folder_that_lacks_a_picture_is_refused_with_what_to_do(damage, few):
    path = untar_data(URLs.MNIST_SAMPLE)
    picture = path / "train" / "3" / "10.png"
    if damage == "removed":
        picture.unlink()
    elif damage == "empty":
        picture.write_bytes(b"")
    elif damage == "folder":
        for file in picture.parent.iterdir():
            file.unlink()
        picture.parent.rmdir()
    else:
        (path / "labels.csv").unlink()
    with pytest.raises(DataError, match=r"remove .*mnist_sample and call again"):
        untar_data(URLs.MNIST_SAMPLE)


def test_what_a_user_adds_to_the_folder_does_no_harm(few):
    path = untar_data(URLs.MNIST_SAMPLE)
    (path / "models").mkdir()
    (path / "train" / "3" / "mine.png").write_bytes(b"x")
    assert untar_data(URLs.MNIST_SAMPLE) == path


@pytest.mark.slow
def test_a_process_killed_while_it_writes_leaves_no_half_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CLEARLOOP_HOME", str(tmp_path))
    code = "from clearloop import URLs, untar_data; untar_data(URLs.MNIST_SAMPLE)"
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".tmp-*/train/7/*9.png")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "mnist_sample").exists()
    assert len(files(untar_data(URLs.MNIST_SAMPLE))) == 14_435
