"""The cache of decoded pictures: how large it is, what makes way, and that nothing in use ever does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clearloop.data import cache
from clearloop.data.cache import cached_pictures, prune_pictures
from clearloop.data.images import ImageDataLoaders
from clearloop.errors import ConfigError, StorageError


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("CLEARLOOP_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("CLEARLOOP_CACHE_GIB", raising=False)
    return tmp_path / "home"


@pytest.fixture
def photos(tmp_path) -> Path:
    for label in "ab":
        for number in range(4):
            path = tmp_path / "photos" / label / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 8), 10 * number, np.uint8)).save(path)
    return tmp_path / "photos"


def decoded(photos, side, *, used=None):
    """Keep the pictures at some size on the disk; the loaders, which have them open."""
    dls = ImageDataLoaders.from_folder(photos, size=side, cache="disk", seed=0)
    if used is not None:
        os.utime(cached_pictures()[-1].path / cache.INDEX, (used, used))
    return dls


def sides():
    """The sides of the pictures that are kept, least recently used first."""
    return [np.load(one.path / "pixels.npy", mmap_mode="r").shape[-1] for one in cached_pictures()]


def test_what_is_kept_is_listed_with_its_size_and_whether_it_is_in_use(photos):
    assert cached_pictures() == []
    before = time.time()
    dls = decoded(photos, 32)
    (kept,) = cached_pictures()
    assert 8 * 32**2 < kept.size_bytes < 8 * 32**2 + 1000
    assert before - 5 < kept.last_used_s < time.time() + 5
    assert kept.in_use
    del dls
    assert not cached_pictures()[0].in_use


def test_what_was_not_used_for_longest_is_removed_first(photos):
    for side, used in ((16, 100), (32, 50), (24, 200)):
        decoded(photos, side, used=used)
    assert sides() == [32, 16, 24]
    (removed,) = prune_pictures(8 * (16**2 + 24**2) + 1500)
    assert removed.size_bytes > 8 * 32**2
    assert sides() == [16, 24]
    decoded(photos, 16)  # is used again
    assert sides() == [24, 16]
    assert len(prune_pictures()) == 2
    assert sides() == []


def test_what_is_in_use_is_never_removed_here_nor_by_another_process(photos):
    dls = decoded(photos, 16, used=1)
    whole = dls.train.dataset.tensors[0].clone()
    assert prune_pictures(0) == []
    code = "from clearloop.data.cache import *\nprint(len(prune_pictures()), cached_pictures()[0].in_use)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "True"]
    assert torch.equal(dls.train.dataset.tensors[0], whole)
    part = dls.train.dataset.tensors[0][:1]
    del dls
    assert prune_pictures(0) == []  # a piece of it is enough
    del part
    assert len(prune_pictures(0)) == 1


def test_new_pictures_make_older_ones_go_beyond_the_bound(photos, monkeypatch):
    monkeypatch.setenv("CLEARLOOP_CACHE_GIB", str((8 * (16**2 + 24**2) + 1500) / 2**30))
    decoded(photos, 16, used=100)
    decoded(photos, 20, used=50)
    assert sides() == [20, 16]
    decoded(photos, 24)
    assert sides() == [16, 24]
    decoded(photos, 64)  # more than the bound: kept, alone
    assert sides() == [64]


def test_where_the_disk_is_full_older_pictures_make_way_before_there_is_an_error(photos, monkeypatch):
    decoded(photos, 16, used=100)
    usage = lambda path: shutil._ntuple_diskusage(0, 0, 2700 if sides() else 5000)  # noqa: E731
    monkeypatch.setattr(shutil, "disk_usage", usage)
    decoded(photos, 24)
    assert sides() == [24]
    with pytest.raises(StorageError, match="8 decoded pictures need"):
        decoded(photos, 64)
    assert sides() == [24]  # to remove it would have been of no use


def test_without_locks_nothing_is_removed(photos, monkeypatch):
    decoded(photos, 16)

    def refuse(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(cache.fcntl, "flock", refuse)
    assert prune_pictures() == []
    assert sides() == [16]
    decoded(photos, 16)


def test_a_folder_that_goes_away_as_it_is_opened_is_decoded_anew(photos, monkeypatch):
    decoded(photos, 16)
    (kept,) = cached_pictures()
    flock, gone = cache.fcntl.flock, []

    def slow(descriptor, operation):
        if operation == cache.fcntl.LOCK_SH and not gone:  # another process has the lock, and renames
            gone.append(kept.path.rename(kept.path.with_name(".tmp-gone")))
        flock(descriptor, operation)

    monkeypatch.setattr(cache.fcntl, "flock", slow)
    decoded(photos, 16)
    assert gone
    assert sides() == [16]


def test_damaged_folders_are_the_first_to_go(photos, home):
    decoded(photos, 16)
    (home / "images" / "odd").mkdir()
    assert cached_pictures()[0].last_used_s == 0
    assert [one.path.name for one in prune_pictures(8 * 16**2 + 1000)] == []
    (home / "images" / "odd" / "pixels.npy").write_bytes(bytes(4000))
    assert [one.path.name for one in prune_pictures(8 * 16**2 + 1000)] == ["odd"]


@pytest.mark.parametrize("text", ["much", "-1", "nan", "inf"])
def test_a_bound_that_is_none_is_refused(text, photos, monkeypatch):
    monkeypatch.setenv("CLEARLOOP_CACHE_GIB", text)
    with pytest.raises(ConfigError, match="CLEARLOOP_CACHE_GIB to be a number of GiB"):
        decoded(photos, 16)
    with pytest.raises(ConfigError, match="at least 0"):
        prune_pictures(-1)


def test_what_any_killed_writer_of_pictures_left_goes_once_it_is_old(photos, home):
    old, new, writing = (home / "images" / f".tmp-{name}" for name in ("other-1", "other-2", "other-3"))
    for folder in (old, new, writing):
        folder.mkdir(parents=True)
    (writing / "pixels.npy").write_bytes(b"x")  # just now
    for folder in (old, writing):
        os.utime(folder, (time.time() - 2 * 24 * 3600,) * 2)
    decoded(photos, 16)
    assert sorted(path.name for path in (home / "images").glob(".tmp-*")) == [new.name, writing.name]
    assert len(cached_pictures()) == 1
