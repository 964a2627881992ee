"""Folders of pictures: decoded once, in any mode, in a known order; what cannot be read is named before training."""

from __future__ import annotations

import json
import os
import shutil
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import clearloop as cl
from clearloop import (
    ConfigError,
    DataError,
    ImageDataLoaders,
    Learner,
    Predictor,
    StorageError,
    durable,
    imaging,
    interpret,
)
from clearloop.buildable import build, is_buildable
from clearloop.component import describe
from clearloop.data import decoding
from clearloop.data.augment import compose, random_flip, random_shift
from clearloop.data.images import natural
from clearloop.data.normalize import IMAGENET_MEAN, IMAGENET_STD, Normalize
from clearloop.eject import eject
from clearloop.errors import EjectError, RunError
from clearloop.models import linear

from_folder = ImageDataLoaders.from_folder


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    """An empty cache."""
    folder = tmp_path_factory.mktemp("home") / "clearloop"
    monkeypatch.setenv("CLEARLOOP_HOME", str(folder))
    return folder


def picture(number: int, size=(6, 4), mode="L") -> Image.Image:
    """A picture of known pixels: (width, height) = `size`."""
    draw = np.random.default_rng(number)
    shape = size[::-1] if mode == "L" else (*size[::-1], len(mode))
    return Image.fromarray(draw.integers(0, 256, shape, dtype=np.uint8), mode if mode != "L" else None)


def write(folder: Path, *names: str, mode="L", size=(6, 4)) -> Path:
    """Pictures below a folder, each of other pixels."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture(number, size, mode).save(folder / name)
    return folder


def pets(folder: Path, **kwargs) -> Path:
    """train/ and valid/ of cats and dogs: 6 and 4 pictures to train on, 2 and 2 to validate with."""
    counts = {"train/cat": 6, "train/dog": 4, "valid/cat": 2, "valid/dog": 2}
    return write(folder, *[f"{part}/{i}.png" for part, count in counts.items() for i in range(count)], **kwargs)


def stored(dls) -> list[torch.Tensor]:
    return [*dls.train.dataset.tensors, *dls.valid.dataset.tensors]


def equal(one, other) -> bool:
    return all(torch.equal(*both) for both in zip(stored(one), stored(other), strict=True))


# -- what is read ------------------------------------------------------------------------------------------------------


def test_the_sample_is_read_as_the_digits_that_it_was_written_from(sample, digits):
    dls = from_folder(sample, seed=0)
    train = (digits.train_labels == 3) | (digits.train_labels == 7)
    order = torch.cat([(digits.train_labels == digit).nonzero().flatten() for digit in (3, 7)])
    assert torch.equal(dls.train.dataset.tensors[0], digits.train_images[order])  # natural order is that of the index
    assert torch.equal(dls.train.dataset.tensors[1], (digits.train_labels[order] == 7).long())
    assert (len(dls.train.dataset), len(dls.valid.dataset)) == (int(train.sum()), 2_038)
    assert (dls.classes, dls.image_size, dls.normalize) == (["3", "7"], (28, 28), None)
    inputs, targets = next(iter(dls.train))
    assert (inputs.shape, inputs.dtype, targets.dtype) == ((64, 1, 28, 28), torch.float32, torch.int64)
    assert 0 <= float(inputs.min()) < float(inputs.max()) == 1
    assert dls.train.dataset.tensors[0].dtype == torch.uint8


def test_training_is_shuffled_anew_every_epoch_and_validation_never(tmp_path):
    dls = from_folder(pets(tmp_path), seed=1, batch_size=3)
    epochs = [torch.cat([inputs for inputs, _ in dls.train.batches(epoch)]) for epoch in (0, 1)]
    assert not torch.equal(*epochs)
    assert torch.equal(epochs[0].flatten(1).sum(1).sort().values, epochs[1].flatten(1).sum(1).sort().values)
    assert [label for _, labels in dls.valid.batches(5) for label in labels.tolist()] == [0, 0, 1, 1]
    assert (dls.train.batch_size, dls.valid.batch_size) == (3, 6)
    assert from_folder(tmp_path, valid_batch_size=5).valid.batch_size == 5


def test_colour_pictures_are_three_channels_and_a_size_may_be_asked_for(tmp_path):
    pets(tmp_path, mode="RGB")
    dls = from_folder(tmp_path, seed=0)
    first = np.asarray(Image.open(tmp_path / "train/cat/0.png")).transpose(2, 0, 1)
    assert torch.equal(dls.train.dataset.tensors[0][0], torch.from_numpy(first.copy()))
    assert next(iter(dls.train))[0].shape == (10, 3, 4, 6)
    assert torch.equal(dls.valid.dataset[0][0], dls.valid.dataset.tensors[0][0].float() / 255)
    for size, shape in ((5, (5, 5)), ((3, 7), (3, 7)), ([3, 7], (3, 7))):
        dls = from_folder(tmp_path, seed=0, size=size)
        assert next(iter(dls.train))[0].shape == (10, 3, *shape)
        assert dls.image_size == shape
    assert next(iter(from_folder(tmp_path, grey=True).train))[0].shape == (10, 1, 4, 6)


@pytest.mark.parametrize("coloured", [0, 3, 9])
def test_pictures_are_grey_if_all_are_wherever_the_one_with_colour_lies(coloured, tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "CHUNK", 2)
    pets(tmp_path)
    assert next(iter(from_folder(tmp_path).train))[0].shape == (10, 1, 4, 6)
    name = [*[f"cat/{i}" for i in range(6)], *[f"dog/{i}" for i in range(4)]][coloured]
    picture(1, mode="RGB").save(tmp_path / f"train/{name}.png")
    dls = from_folder(tmp_path, workers=2)
    assert next(iter(dls.train))[0].shape == (10, 3, 4, 6)
    assert equal(dls, from_folder(tmp_path, grey=False))


def test_the_order_is_natural_and_does_not_depend_on_who_decodes(tmp_path, monkeypatch):
    names = ["9.png", "10.png", "a2.png", "a10.png", "deep/er/1.png", "deep/2.png"]
    write(tmp_path, *[f"{part}/{label}/{name}" for part in ("train", "valid") for label in "ab" for name in names])
    monkeypatch.setattr(decoding, "CHUNK", 1)
    one = from_folder(tmp_path, workers=1)
    expected = ["9.png", "10.png", "a2.png", "a10.png", "deep/2.png", "deep/er/1.png"]
    pixels = [np.asarray(Image.open(tmp_path / "train" / label / name)) for label in "ab" for name in expected]
    assert torch.equal(one.train.dataset.tensors[0], torch.from_numpy(np.stack(pixels)))
    assert equal(one, from_folder(tmp_path, workers=4))
    listing = os.scandir

    class Backwards:
        def __init__(self, folder):
            with listing(folder) as entries:
                self.entries = list(entries)[::-1]

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(os, "scandir", Backwards)
    assert equal(one, from_folder(tmp_path))


def test_names_sort_by_the_numbers_in_them():
    names = ["b1", "a10", "a9", "a", "10", "9", "a09", "²", "img10.png", "img9.png"]
    expected = ["9", "10", "a", "a09", "a9", "a10", "b1", "img9.png", "img10.png", "²"]
    assert sorted(names, key=natural) == expected


def test_hidden_files_and_what_systems_leave_are_passed_over(tmp_path):
    dls = from_folder(pets(tmp_path), seed=0)
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._0.png", ".hidden/1.png", "__MACOSX/._0.png"):
        for folder in (tmp_path, tmp_path / "train", tmp_path / "train/cat"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(b"no picture")
    (tmp_path / "labels.csv").write_text("beside the folders")
    (tmp_path / "train/README.md").write_text("beside the classes")
    (tmp_path / "train/empty").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert equal(dls, from_folder(tmp_path, seed=0))


def test_links_are_followed_and_a_circle_of_them_ends(tmp_path):
    pets(tmp_path / "real")
    (tmp_path / "linked").mkdir()
    for part in ("train", "valid"):
        (tmp_path / "linked" / part).symlink_to(tmp_path / "real" / part)
    (tmp_path / "real/train/cat/again").symlink_to(tmp_path / "real/train/cat")
    assert equal(from_folder(tmp_path / "linked"), from_folder(tmp_path / "real"))
    assert len(from_folder(tmp_path / "real").train.dataset) == 10


# -- pictures of every mode --------------------------------------------------------------------------------------------

RED = np.zeros((4, 6, 3), np.uint8) + np.array([200, 40, 20], np.uint8)


def in_mode(mode: str) -> Image.Image:
    image = Image.fromarray(RED)
    if mode == "P":
        return image.quantize(8)
    if mode == "RGBA":
        clear = Image.fromarray(np.repeat([[0, 255]], 4, 0).repeat(3, 1).astype(np.uint8))
        image.putalpha(clear)  # the left half is transparent
        return image
    if mode == "I;16":
        return Image.fromarray((np.arange(24).reshape(4, 6) * 257).astype(np.uint16))
    return image.convert(mode)


@pytest.mark.parametrize(
    ("mode", "ending"),
    [("RGB", "png"), ("P", "png"), ("P", "gif"), ("CMYK", "tiff"), ("CMYK", "jpg"), ("YCbCr", "jpg"), ("RGB", "webp")],
)
def test_pictures_with_colour_in_any_mode_become_rgb(mode, ending, tmp_path):
    pets(tmp_path, mode="RGB")
    in_mode(mode).save(tmp_path / f"train/cat/0.{ending}")
    (tmp_path / "train/cat/0.png").unlink(missing_ok=ending != "png")
    if ending == "png":
        in_mode(mode).save(tmp_path / "train/cat/0.png")
    got = from_folder(tmp_path).train.dataset.tensors[0][0].numpy().transpose(1, 2, 0).astype(int)
    assert np.abs(got - RED).max() <= (0 if ending in ("png", "tiff", "gif") else 12)


def test_transparent_parts_are_white_with_colour_and_black_in_grey(tmp_path):
    pets(tmp_path, mode="RGB")
    in_mode("RGBA").save(tmp_path / "train/cat/0.png")
    colour = from_folder(tmp_path).train.dataset.tensors[0][0]
    assert colour[:, :, :3].eq(255).all()
    assert torch.equal(colour[:, :, 3:].permute(1, 2, 0), torch.from_numpy(RED[:, 3:]))
    assert from_folder(tmp_path, grey=True).train.dataset.tensors[0][0][:, :3].eq(0).all()


def test_16_bits_and_palettes_of_greys_are_grey(tmp_path):
    pets(tmp_path)
    in_mode("I;16").save(tmp_path / "train/cat/0.png")
    grey = picture(7).quantize(200)
    grey.save(tmp_path / "train/cat/1.png")
    (picture(8).convert("LA")).save(tmp_path / "train/cat/2.png")
    picture(9).convert("1").save(tmp_path / "train/cat/3.png")
    images = from_folder(tmp_path).train.dataset.tensors[0]
    assert images.shape == (10, 4, 6)
    assert images[0].flatten().tolist() == list(range(24))
    assert torch.equal(images[1], torch.from_numpy(np.array(grey.convert("L"))))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright_as_their_exif_says(orientation, tmp_path):
    turns = [
        None,
        None,
        *[
            getattr(Image.Transpose, name)
            for name in (
                "FLIP_LEFT_RIGHT",
                "ROTATE_180",
                "FLIP_TOP_BOTTOM",
                "TRANSPOSE",
                "ROTATE_90",
                "TRANSVERSE",
                "ROTATE_270",
            )
        ],
    ]  # what was done to the picture before it was written, to be undone
    upright = picture(0, (6, 4), "RGB")
    turn = turns[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    pets(tmp_path, mode="RGB")
    (upright if turn is None else upright.transpose(turn)).save(tmp_path / "train/cat/0.png", exif=exif)
    found = from_folder(tmp_path)  # one size: that of upright pictures
    assert torch.equal(found.train.dataset.tensors[0][0].permute(1, 2, 0), torch.from_numpy(np.array(upright)))


def test_pictures_of_other_sizes_keep_their_proportions_and_are_padded_with_black(tmp_path):
    pets(tmp_path, mode="RGB")
    Image.new("RGB", (40, 20), (255, 255, 255)).save(tmp_path / "train/cat/0.png")
    image = from_folder(tmp_path, size=(8, 8)).train.dataset.tensors[0][0]
    assert image[:, :2].eq(0).all()
    assert image[:, 2:6].eq(255).all()
    assert image[:, 6:].eq(0).all()


# -- parts and classes -------------------------------------------------------------------------------------------------


def test_folders_of_classes_alone_are_split_within_every_class_by_the_seed(tmp_path):
    write(tmp_path, *[f"{label}/{i}.png" for label, count in (("a", 50), ("b", 10), ("c", 2)) for i in range(count)])
    dls = from_folder(tmp_path, seed=0)
    assert dls.train.dataset.tensors[1].bincount().tolist() == [40, 8, 1]
    assert dls.valid.dataset.tensors[1].bincount().tolist() == [10, 2, 1]
    together = torch.cat([dls.train.dataset.tensors[0], dls.valid.dataset.tensors[0]])
    whole = [np.asarray(Image.open(p)) for p in tmp_path.rglob("*.png")]
    assert sorted(map(tuple, together.flatten(1).tolist())) == sorted(tuple(p.flatten().tolist()) for p in whole)
    assert equal(dls, from_folder(tmp_path, seed=0))
    assert not equal(dls, from_folder(tmp_path, seed=1))
    assert equal(dls, from_folder(tmp_path, seed=1, split_seed=0))
    half = from_folder(tmp_path, seed=0, valid_share=0.5)
    assert half.valid.dataset.tensors[1].bincount().tolist() == [25, 5, 1]
    most = from_folder(tmp_path, seed=0, valid_share=0.9)
    assert most.train.dataset.tensors[1].bincount().tolist() == [5, 1, 1]


def test_a_share_is_held_out_of_the_training_folder_where_it_is_asked_for(tmp_path):
    pets(tmp_path)
    dls = from_folder(tmp_path, valid_share=0.25)
    assert (len(dls.train.dataset), len(dls.valid.dataset)) == (7, 3)
    shutil.rmtree(tmp_path / "valid")
    assert equal(dls, from_folder(tmp_path, valid_share=0.25))


def test_the_folders_may_have_other_names(tmp_path):
    pets(tmp_path)
    dls = from_folder(tmp_path, seed=0)
    (tmp_path / "train").rename(tmp_path / "training")
    (tmp_path / "valid").rename(tmp_path / "testing")
    with pytest.raises(DataError, match=r'say which is which: train="testing"'):
        from_folder(tmp_path)
    assert equal(dls, from_folder(tmp_path, "training", "testing"))


def test_a_training_folder_without_another_is_refused_with_what_there_is(tmp_path):
    (pets(tmp_path) / "valid").rename(tmp_path / "val")
    with pytest.raises(DataError, match=r"no such folder \(there are: train, val\).*valid_share=0.2"):
        from_folder(tmp_path)
    (tmp_path / "valid").mkdir()
    with pytest.raises(DataError, match="valid: expected a folder of pictures for each class, got none"):
        from_folder(tmp_path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "two or more classes, got none"),
        (["1.png", "2.png"], "two or more classes, got none"),
        (["a/1.png", "a/2.png"], "got one class, 'a'"),
        (["train/a/1.png", "valid/a/1.png"], "got one class, 'a'"),
        (["a/1.png", "b/1.png", "b/2.png"], "two or more pictures of each class.*got one of a"),
        (
            ["train/a/1.png", "train/b/1.png", "valid/a/1.png", "valid/c/1.png"],
            r"classes of .*train \(a, b\), got c too",
        ),
    ],
)
def test_folders_that_cannot_be_learnt_from_are_refused(names, message, tmp_path):
    write(tmp_path, *names)
    with pytest.raises(DataError, match=message):
        from_folder(tmp_path)


def test_a_folder_that_is_none_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere: expected a folder of pictures, got no such folder"):
        from_folder(tmp_path / "nowhere")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="got a file"):
        from_folder(tmp_path / "file")


def test_a_class_may_be_called_train_where_one_says_so(tmp_path):
    write(tmp_path, *[f"{label}/{i}.png" for label in ("bus", "train") for i in range(5)])
    with pytest.raises(DataError, match=r"if 'train' is a class itself, pass train=\".\" and valid_share"):
        from_folder(tmp_path)
    assert from_folder(tmp_path, ".", valid_share=0.2).classes == ["bus", "train"]


def test_there_is_a_bar_on_a_terminal_and_not_a_character_elsewhere(tmp_path, capfd, monkeypatch):
    from_folder(pets(tmp_path))
    assert capfd.readouterr() == ("", "")
    monkeypatch.setattr(decoding, "MANY", 3)
    from_folder(tmp_path)
    assert capfd.readouterr() == ("", "")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    dls = from_folder(tmp_path)
    assert "decoding" in capfd.readouterr().err
    assert len(dls.train.dataset) == 10


def test_a_class_that_validation_does_not_see_is_warned_of(tmp_path):
    shutil.rmtree(pets(tmp_path) / "valid/dog")
    with pytest.warns(UserWarning, match="no pictures to validate with of dog") as caught:
        dls = from_folder(tmp_path)
    assert dls.classes == ["cat", "dog"]
    assert caught[0].filename == __file__


# -- bad files ---------------------------------------------------------------------------------------------------------


def spoil(folder: Path) -> list[str]:
    """Bad files of every kind among good ones; their paths."""
    png = (folder / "train/cat/0.png").read_bytes()
    bad = {
        "train/cat/a_text.png": b"no picture at all",
        "train/cat/b_cut.png": png[:-30],
        "train/cat/c_empty.png": b"",
        "train/cat/d_named.txt": png,
        "train/cat/e_unnamed": png,
        "train/dog/f_notes.txt": b"notes",
        "valid/dog/h_cut.jpg": b"\xff\xd8\xff\xe0" + bytes(50),
    }
    for name, data in bad.items():
        (folder / name).write_bytes(data)
    Image.new("1", (300, 300)).save(folder / "valid/cat/g_giant.png")
    (folder / "valid/dog/i_link.png").symlink_to(folder / "nothing.png")
    return sorted([*bad, "valid/cat/g_giant.png", "valid/dog/i_link.png"])


@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_every_bad_file_is_named_at_once_or_left_out_with_one_warning(cache, tmp_path, monkeypatch):
    good = from_folder(pets(tmp_path), seed=0)
    monkeypatch.setattr(imaging, "MAX_PIXELS", 80_000)
    bad = spoil(tmp_path)
    with pytest.raises(DataError) as error:
        from_folder(tmp_path, seed=0, cache=cache)
    lines = str(error.value).splitlines()
    assert lines[0] == "9 files cannot be trained on; mend or remove them, or pass skip_bad=True:"
    assert [line.split(":")[0].strip() for line in lines[1:]] == [str(tmp_path / name) for name in bad]
    for _ in range(2):  # the second time from the cache
        with pytest.warns(UserWarning, match="9 files cannot be trained on, and are left out") as caught:
            dls = from_folder(tmp_path, seed=0, cache=cache, skip_bad=True)
        assert len(caught) == 1
        assert caught[0].filename == __file__
        assert equal(dls, good)
    with pytest.raises(DataError, match="9 files"):
        from_folder(tmp_path, seed=0, cache=cache)


def test_of_many_bad_files_the_first_twenty_are_named_and_the_others_counted(tmp_path):
    pets(tmp_path)
    for number in range(100):
        (tmp_path / f"train/dog/{number + 10}.png").write_bytes(b"x")
    with pytest.raises(DataError) as error:
        from_folder(tmp_path)
    lines = str(error.value).splitlines()
    assert (len(lines), lines[1].count("/10.png"), lines[-1].strip()) == (22, 1, "… and 80 more")


@pytest.mark.parametrize("link", ["folder", "file", "hard link", "same"])
def test_pictures_to_validate_with_that_are_trained_on_are_warned_of_however_they_are_linked(link, tmp_path):
    pets(tmp_path)
    one, other = tmp_path / "train/dog/0.png", tmp_path / "valid/dog/0.png"
    if link == "folder":
        shutil.rmtree(tmp_path / "valid")
        (tmp_path / "valid").symlink_to("train")
    elif link == "same":
        shutil.rmtree(tmp_path / "valid")
    else:
        other.unlink()
        (os.link if link == "hard link" else os.symlink)(one, other)
    several = link in ("folder", "same")
    count = r"\d+ of \d+" if several else "1 of 4"
    with pytest.warns(UserWarning, match=rf"{count} files to validate with are trained on, too: .*0.png"):
        from_folder(tmp_path, valid="train" if link == "same" else "valid")


def test_names_with_line_breaks_or_bytes_that_are_no_text_are_named_in_one_line_each(tmp_path):
    write(tmp_path, "a/0.png", "a/1.png", "b/0.png", "b/1.png")
    names = [b"a/x\ny.png", b"a/\xff.png", b"\xfe.png", b"c\r.png"]
    for name in names:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(b"no picture")
    with pytest.raises(DataError, match="4 files cannot be trained on") as error:
        from_folder(tmp_path)
    lines = str(error.value).split("\n")
    assert len(lines) == 5
    assert str(error.value).encode()  # no lone surrogates
    assert [
        any(name in line for line in lines) for name in (r"x\ny.png", r"\udcff.png", r"\udcfe.png", r"c\r.png")
    ] == [True] * 4


def test_a_picture_beside_the_folders_of_classes_is_a_mistake(tmp_path):
    pets(tmp_path)
    picture(0).save(tmp_path / "train/stray.png")
    with pytest.raises(DataError, match=r"1 file cannot.*\n.*stray\.png: expected pictures in folders of classes"):
        from_folder(tmp_path)
    with pytest.warns(UserWarning, match="stray"):
        assert len(from_folder(tmp_path, skip_bad=True).train.dataset) == 10


def test_pictures_of_several_sizes_need_one_to_be_brought_to(tmp_path):
    pets(tmp_path)
    picture(0, (9, 5)).save(tmp_path / "train/dog/2.png")
    with pytest.raises(DataError, match=r"2\.png: expected 6 x 4 pixels as in .*cat/0\.png, got 9 x 5; .*size=128"):
        from_folder(tmp_path)
    assert from_folder(tmp_path, size=8).image_size == (8, 8)


@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_folders_without_a_single_whole_picture_are_refused(cache, tmp_path):
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match="4 files"):
        from_folder(tmp_path, cache=cache)
    with pytest.warns(UserWarning, match="4 files"), pytest.raises(DataError, match="of which none is one"):
        from_folder(tmp_path, cache=cache, skip_bad=True)


def test_a_class_that_is_lost_with_its_bad_files_is_an_error(tmp_path):
    pets(tmp_path)
    for number in range(4):
        (tmp_path / f"train/dog/{number}.png").write_bytes(b"x")
    with (
        pytest.warns(UserWarning, match="4 files"),
        pytest.raises(DataError, match="no picture of the class 'dog' could be read"),
    ):
        from_folder(tmp_path, skip_bad=True)


def test_warnings_are_shown_as_before_once_pictures_were_decoded(tmp_path):
    pets(tmp_path)
    before = list(warnings.filters)
    from_folder(tmp_path, workers=4)
    assert warnings.filters == before


# -- arguments ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        *[({"valid_share": share}, "valid_share must be a share") for share in (0, 1, -0.5, float("nan"))],
        *[({"size": size}, "size must be") for size in (0, -3, (3,), (3, 0), (3.5, 2), (1, 2, 3))],
        ({"cache": "tape"}, 'cache must be "memory" or "disk"'),
        *[({"workers": workers}, "workers must be") for workers in (0, -1, 1.5)],
        ({"normalize": "cifar"}, "normalize must be"),
        ({"normalize": ([0.5], [0.5], [0.5])}, "normalize must be"),
        ({"normalize": ([0.5] * 3, [0.5] * 3)}, "of 3 channels, the pictures have 1; grey=False"),
        ({"normalize": "imagenet"}, "of 3 channels, the pictures have 1; grey=False"),
        ({"normalize": (0.5, 0.5), "grey": False}, "of 1 channels, the pictures have 3"),
        ({"normalize": (0.5, 0)}, "stds above 0"),
        ({"targets": "labels and inputs"}, 'targets must be "labels" or "inputs"'),
        ({"targets": "inputs", "normalize": (0.5, 0.5)}, "got normalize too; leave it out"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"seed": -1}, "seed"),
    ],
)
def test_arguments_that_cannot_work_are_refused(kwargs, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        from_folder(pets(tmp_path), **kwargs)


def test_pictures_are_normalised_channel_by_channel(tmp_path):
    pets(tmp_path, mode="RGB")
    plain, dls = from_folder(tmp_path, seed=0), from_folder(tmp_path, seed=0, normalize="imagenet")
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (IMAGENET_MEAN, IMAGENET_STD))
    for one, other in zip(plain.train.batches(0), dls.train.batches(0), strict=True):
        assert torch.allclose((one[0] - mean) / std, other[0], atol=1e-6)
    assert isinstance(dls.normalize, Normalize)
    pets(tmp_path / "grey")
    grey = from_folder(tmp_path / "grey", normalize=(0.5, 0.25), seed=0).valid.dataset
    assert torch.equal(grey[0][0], (grey.tensors[0][0].float() / 255 - 0.5)[None] / 0.25)
    assert next(iter(from_folder(tmp_path / "grey", grey=False, normalize="imagenet").train))[0].shape[1] == 3


@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_a_size_that_no_machine_can_hold_is_an_error_whatever_the_system_says(cache, tmp_path, monkeypatch):
    pets(tmp_path)
    with pytest.raises((DataError, StorageError), match=r"need .* MiB"):
        from_folder(tmp_path, size=2_000_000_000, cache=cache)
    monkeypatch.setattr(decoding, "free_memory", lambda: None)
    if cache == "memory":
        with pytest.raises(DataError, match="do not fit into memory; pass a smaller size"):
            from_folder(tmp_path, size=2_000_000_000)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"normalize": ("a", "b")}, "mean and std must be numbers"),
        ({"normalize": (None, 1)}, "mean and std must be numbers"),
        ({"normalize": ([[1]], [1])}, "mean and std must be numbers"),
        ({"valid_share": "0.2"}, r"valid_share must be a share in \(0, 1\), got '0.2'"),
        ({"size": 28.0}, "size must be a whole number"),
    ],
)
def test_arguments_of_other_types_are_refused_as_those_of_other_values_are(kwargs, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        from_folder(pets(tmp_path), **kwargs)


@pytest.mark.parametrize(("mean", "std"), [([], []), ([1], [1, 2]), ([float("nan")], [1]), ([0], [-1])])
def test_means_and_stds_that_cannot_be_are_refused(mean, std):
    with pytest.raises(ConfigError, match="expected"):
        Normalize(mean, std)


# -- memory and disk ---------------------------------------------------------------------------------------------------


def test_more_than_fits_into_memory_is_refused_before_it_is_taken(tmp_path, monkeypatch):
    pets(tmp_path)
    monkeypatch.setattr(decoding, "free_memory", lambda: 10**6)
    with pytest.raises(DataError, match=r'14 pictures of 500 x 500 pixels need 3 MiB.*got 1 MiB.*cache="disk"'):
        from_folder(tmp_path, size=500)
    assert from_folder(tmp_path, size=500, cache="disk").image_size == (500, 500)


def test_the_free_memory_is_what_the_system_says():
    free = decoding.free_memory()
    assert free is None or 2**20 < free < 2**50


@pytest.fixture
def counted(monkeypatch):
    """The files that were decoded."""
    seen = []
    monkeypatch.setattr(decoding, "load_image", lambda path: seen.append(path) or imaging.load_image(path))
    return seen


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_the_disk_gives_the_same_as_memory_and_a_second_call_decodes_nothing(
    mode, tmp_path, home, counted, monkeypatch
):
    pets(tmp_path, mode=mode)
    for kwargs in ({}, {"size": 9}, {"grey": True}, {"grey": False}):
        dls = from_folder(tmp_path, seed=0, cache="disk", **kwargs)
        assert equal(dls, from_folder(tmp_path, seed=0, **kwargs))
        counted.clear()
        again = from_folder(tmp_path, seed=0, cache="disk", **kwargs)
        assert equal(dls, again)
        assert not counted
    monkeypatch.chdir(tmp_path.parent)
    from_folder(tmp_path.name, cache="disk")
    assert not counted
    assert len(list((home / "images").iterdir())) == 4


def test_what_is_held_out_stays_without_a_seed_so_that_the_cache_is_found(tmp_path, counted):
    write(tmp_path, *[f"{label}/{i}.png" for label in "ab" for i in range(20)])
    dls = from_folder(tmp_path, cache="disk")
    counted.clear()
    other = from_folder(tmp_path, cache="disk")
    assert dls.train.seed != other.train.seed
    assert equal(dls, other)
    assert not counted


@pytest.mark.parametrize("change", ["content", "time", "added", "removed", "renamed"])
def test_a_change_of_any_file_is_decoded_anew(change, tmp_path, counted):
    pets(tmp_path)
    from_folder(tmp_path, cache="disk")
    path = tmp_path / "train/dog/0.png"
    if change == "content":
        picture(77).save(path)
    elif change == "time":
        os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))
    elif change == "added":
        picture(77).save(path.with_name("new.png"))
    elif change == "removed":
        path.unlink()
    else:
        path.rename(path.with_name("zz.png"))
    counted.clear()
    assert equal(from_folder(tmp_path, cache="disk"), from_folder(tmp_path))
    assert len(counted) > 20


@pytest.mark.parametrize("damage", ["cut", "index", "other", "missing", "empty"])
def test_a_damaged_cache_is_made_anew(damage, tmp_path, home):
    dls = from_folder(pets(tmp_path), cache="disk")
    whole = [tensor.clone() for tensor in stored(dls)]
    (folder,) = (home / "images").iterdir()
    pixels, index = folder / "pixels.npy", folder / "index.json"
    if damage == "cut":
        pixels.write_bytes(pixels.read_bytes()[:-1])
    elif damage == "index":
        index.write_bytes(index.read_bytes()[:-2])
    elif damage == "other":
        index.write_text(json.dumps({"format": 1, "shape": [14, 4, 6], "bad": []}))
    elif damage == "missing":
        pixels.unlink()
    else:
        shutil.rmtree(folder)
        folder.mkdir()
    again = from_folder(tmp_path, cache="disk")
    assert all(torch.equal(*both) for both in zip(whole, stored(again), strict=True))


def test_half_of_a_cache_is_never_taken_for_one(tmp_path, home, monkeypatch):
    class Killed(BaseException):
        pass

    def die(path):
        if path.name == "1.png" and path.parent.name == "dog":
            raise Killed
        return imaging.load_image(path)

    pets(tmp_path)
    monkeypatch.setattr(decoding, "load_image", die)
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)  # who is killed does not tidy up
    with pytest.raises(Killed):
        from_folder(tmp_path, cache="disk")
    monkeypatch.undo()
    monkeypatch.setenv("CLEARLOOP_HOME", str(home))
    assert [path.name[:5] for path in (home / "images").iterdir()] == [".tmp-"]
    assert equal(from_folder(tmp_path, cache="disk"), from_folder(tmp_path))


def test_two_that_decode_at_once_both_get_the_whole(tmp_path, home):
    together, found = threading.Barrier(2, timeout=60), []

    class Together(durable.FileSystem):
        def rename(self, old, new):
            if new.parent == home / "images":
                together.wait()
            super().rename(old, new)

    pets(tmp_path)
    threads = [threading.Thread(target=lambda: found.append(from_folder(tmp_path, seed=0, cache="disk"))) for _ in "ab"]
    with durable.using(Together()):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(list((home / "images").iterdir())) == 1
    assert all(equal(dls, from_folder(tmp_path, seed=0)) for dls in found)
    assert len(found) == 2


def test_a_disk_without_room_is_an_error_before_a_byte_is_written(tmp_path, home, monkeypatch):
    pets(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 100))
    with pytest.raises(StorageError, match=r"14 decoded pictures need .* set CLEARLOOP_HOME"):
        from_folder(tmp_path, cache="disk")
    assert not list((home / "images").iterdir())


def test_a_disk_that_is_full_after_all_is_an_error(tmp_path, home, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    pets(tmp_path)
    monkeypatch.setattr(decoding.os, "posix_fallocate", full)
    with pytest.raises(StorageError, match="No space left") as error:
        from_folder(tmp_path, cache="disk")
    assert error.value.errno == 28
    assert not list((home / "images").iterdir())


# -- pictures that are their own targets -------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "shape"), [("L", (3, 1, 4, 6)), ("RGB", (3, 3, 4, 6))])
def test_the_target_of_a_picture_may_be_the_picture_as_it_goes_in(mode, shape, tmp_path):
    dls = from_folder(pets(tmp_path, mode=mode), seed=0, batch_size=3, targets="inputs")
    for loader in (dls.train, dls.valid):
        inputs, targets = next(iter(loader.batches(0)))
        assert inputs.shape[1:] == shape[1:]
        assert torch.equal(inputs.flatten(1), targets)
        assert (inputs.dtype, float(targets.min()) >= 0, float(targets.max()) <= 1) == (torch.float32, True, True)
    assert (dls.classes, dls.image_size, dls.normalize) == (None, (4, 6), None)
    labelled = from_folder(tmp_path, seed=0, batch_size=3)
    assert equal(dls, labelled)  # the labels stay behind, to colour codes by
    assert torch.equal(next(iter(dls.train))[0], next(iter(labelled.train))[0])


def test_what_augmentation_does_to_a_picture_is_not_done_to_its_target(tmp_path):
    dls = from_folder(pets(tmp_path), seed=0, batch_size=10, targets="inputs", augment=random_shift(2))
    plain = from_folder(tmp_path, seed=0, batch_size=10, targets="inputs")
    inputs, targets = next(iter(dls.train))
    assert torch.equal(targets, next(iter(plain.train))[1])
    assert not torch.equal(inputs.flatten(1), targets)


FLAT = {
    "one folder": [f"{i}.png" for i in range(10)],
    "one folder in it": [f"all/{i}.png" for i in range(10)],
    "folders and files": [*[f"{i}.png" for i in range(5)], *[f"{part}/{i}.png" for part in "ab" for i in range(3)]],
    "a class of one": ["a/1.png", *[f"b/{i}.png" for i in range(9)]],
}


@pytest.mark.parametrize("names", FLAT.values(), ids=FLAT)
def test_pictures_without_classes_are_enough_and_a_share_is_held_out_by_the_seed(names, tmp_path):
    write(tmp_path, *names)
    (tmp_path / "notes.txt").write_text("no picture")
    one, again, other = (from_folder(tmp_path, seed=seed, targets="inputs") for seed in (0, 0, 1))
    assert equal(one, again)
    assert not torch.equal(one.valid.dataset.tensors[0], other.valid.dataset.tensors[0])
    held = round(0.2 * len(names))
    assert (len(one.train.dataset), len(one.valid.dataset)) == (len(names) - held, held)
    assert one.train.dataset.tensors[1].shape == (len(names) - held, 0)
    everything = torch.cat([one.train.dataset.tensors[0], one.valid.dataset.tensors[0]])
    expected = torch.stack([torch.from_numpy(np.array(Image.open(tmp_path / name))) for name in names])
    assert sorted(everything.flatten(1).tolist()) == sorted(expected.flatten(1).tolist())
    assert len(from_folder(tmp_path, seed=0, targets="inputs", valid_share=0.5).valid.dataset) == round(len(names) / 2)


def test_pictures_without_classes_may_lie_in_two_folders(tmp_path):
    write(tmp_path, *[f"train/{i}.png" for i in range(3)], *[f"valid/{i}.png" for i in range(2)])
    dls = from_folder(tmp_path, targets="inputs")
    assert [len(part) for part in stored(dls)] == [3, 3, 2, 2]
    assert len(from_folder(tmp_path, targets="inputs", valid_share=0.4).valid.dataset) == 1
    write(tmp_path / "mixed", "train/a/1.png", "train/b/1.png", "valid/1.png")
    mixed = from_folder(tmp_path / "mixed", targets="inputs")
    assert [tuple(part.shape) for part in stored(mixed)] == [(2, 4, 6), (2, 0), (1, 4, 6), (1, 0)]
    (tmp_path / "valid").rename(tmp_path / "val")
    with pytest.raises(DataError, match=r"no such folder \(there are: mixed, train, val\)"):
        from_folder(tmp_path, targets="inputs")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "one of them to be held out; got 0; add some"),
        (["1.png"], "one of them to be held out; got 1; add some"),
        (["train/1.png", "valid/notes.txt"], "got 1 and 0; add some"),
        (["training/1.png", "valid/1.png"], "say which is which"),
    ],
)
def test_too_few_pictures_that_are_their_own_targets_are_refused(names, message, tmp_path):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("") if name.endswith(".txt") else write(tmp_path, name)
    with pytest.raises(DataError, match=message):
        from_folder(tmp_path, targets="inputs")


def test_bad_files_among_pictures_that_are_their_own_targets_are_named_or_left_out(tmp_path):
    write(tmp_path, *[f"train/{i}.png" for i in range(3)], *[f"valid/{i}.png" for i in range(2)])
    (tmp_path / "train/1.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"1 file cannot be trained on(.|\n)*train/1.png"):
        from_folder(tmp_path, targets="inputs")
    with pytest.warns(UserWarning, match="1 file cannot"):
        assert len(from_folder(tmp_path, targets="inputs", skip_bad=True).train.dataset) == 2
    for name in ("valid/0.png", "valid/1.png"):
        (tmp_path / name).write_bytes(b"no picture")
    with pytest.warns(UserWarning, match="3 files"), pytest.raises(DataError, match="no picture to validate with"):
        from_folder(tmp_path, targets="inputs", skip_bad=True)


@pytest.mark.parametrize("flat", [False, True])
def test_an_autoencoder_of_a_folder_is_saved_goes_on_to_the_bit_and_shows_itself(flat, tmp_path):
    folder = tmp_path / "pictures"
    write(folder, *FLAT["one folder"], mode="RGB") if flat else pets(folder, mode="RGB")
    dls = from_folder(folder, batch_size=3, seed=5, targets="inputs")
    torch.manual_seed(0)
    learn = Learner(dls, cl.models.autoencoder(72, 8, 3), nn.functional.mse_loss, device="cpu", seed=0)
    learn.fit(2, 0.1, quiet=True)
    learn.save(tmp_path / "run")
    again = Learner.load(tmp_path / "run")
    for one in (learn, again):
        one.fit(1, 0.1, quiet=True)
    assert learn.history.losses == again.history.losses
    written = interpret.write_plots(learn, tmp_path / "plots")
    assert {"reconstructions.png", "embedding.png"} <= {path.name for path in written if path.is_file()}
    labels = interpret.embedding(learn).labels
    assert labels is None if flat else labels.tolist() == [0, 0, 1, 1]
    given = Predictor.load(tmp_path / "run")(next(folder.rglob("*.png")))
    assert given.values.shape == (72,)
    fitted = Learner(dls, cl.models.autoencoder(72, 8, 3), nn.functional.mse_loss, device="cpu", seed=0)
    fitted.fit(1, 0.1, quiet=True)
    if flat:
        with pytest.raises(EjectError, match="pictures without classes cannot be printed"):
            fitted.eject()
    else:
        assert "images.flatten(1)" in fitted.eject().text


# -- runs --------------------------------------------------------------------------------------------------------------

OPTIONS = {
    "grey": ({}, {}),
    "colour": ({"mode": "RGB"}, {"normalize": "imagenet", "size": [5, 7]}),
    "disk": ({"mode": "RGB"}, {"cache": "disk", "normalize": ([0.1, 0.2, 0.3], [1, 2, 0.5])}),
    "augmented": ({}, {"augment": compose(random_flip, random_shift(1)), "normalize": (0.5, 0.25)}),
    "split": ({}, {"valid_share": 0.3}),
}
TO_RECONSTRUCT = {"inputs": ({"mode": "RGB"}, {"targets": "inputs", "augment": random_flip})}


@pytest.mark.parametrize(
    ("pictures", "kwargs"), [*OPTIONS.values(), *TO_RECONSTRUCT.values()], ids=[*OPTIONS, *TO_RECONSTRUCT]
)
def test_the_call_is_remembered_as_plain_data_that_makes_the_same_again(pictures, kwargs, tmp_path):
    dls = from_folder(pets(tmp_path, **pictures), batch_size=3, **kwargs)
    described = json.loads(json.dumps(describe(dls)))
    assert is_buildable(described, "data")
    again = build(described, "data")
    for epoch in (0, 1):
        for one, other in zip(dls.train.batches(epoch), again.train.batches(epoch), strict=True):
            assert torch.equal(one[0], other[0])
            assert torch.equal(one[1], other[1])
    assert equal(dls, again)
    assert not is_buildable({"path": "clearloop.data.images:ImageDataLoaders._of"}, "data")
    assert not is_buildable({"path": "clearloop.data.images:list_pictures"}, "data")


def trained(folder: Path, epochs=2, **kwargs) -> Learner:
    dls = from_folder(folder, batch_size=3, seed=5, **kwargs)
    channels = next(iter(dls.train))[0].shape[1]
    torch.manual_seed(0)
    model = linear(channels * dls.image_size[0] * dls.image_size[1], 2)
    learn = Learner(dls, model, metrics=[cl.accuracy], device="cpu")
    learn.fit(epochs, 0.1, quiet=True)
    return learn


@pytest.mark.parametrize(("pictures", "kwargs"), OPTIONS.values(), ids=OPTIONS)
def test_a_run_is_loaded_with_its_data_and_goes_on_to_the_bit(pictures, kwargs, tmp_path):
    pets(tmp_path / "pets", **pictures)
    learn = trained(tmp_path / "pets", **kwargs)
    learn.save(tmp_path / "run")
    again = Learner.load(tmp_path / "run")
    for one in (learn, again):
        one.fit(1, 0.1, quiet=True)
    assert learn.history.losses == again.history.losses
    picture(99, mode=pictures.get("mode", "L")).save(tmp_path / "pets/train/cat/0.png")
    with pytest.raises(RunError, match="the train data are not those"):
        Learner.load(tmp_path / "run")


@pytest.mark.parametrize(("pictures", "kwargs"), OPTIONS.values(), ids=OPTIONS)
def test_a_predictor_prepares_files_as_training_did_to_the_bit(pictures, kwargs, tmp_path):
    pets(tmp_path / "pets", **pictures)
    learn = trained(tmp_path / "pets", **{**kwargs, "valid_share": None})
    learn.save(tmp_path / "run")
    files = sorted((tmp_path / "pets/valid").rglob("*.png"))
    inputs = learn.dls.valid.dataset[:][0]
    with torch.no_grad():
        expected = learn.model(inputs)
    loaded = Predictor.load(tmp_path / "run")
    for predictor in (Predictor.of(learn), loaded):
        predictions = predictor.batch(files)
        assert torch.equal(torch.stack([prediction.values for prediction in predictions]), expected)
        assert {prediction.label for prediction in predictions} <= {"cat", "dog"}
    with Image.open(files[0]) as opened:
        alone = loaded(files[0]).values  # a batch of one may be multiplied in another order
        assert torch.equal(loaded(opened).values, alone)
        assert torch.equal(loaded(np.array(opened)).values, alone)
    floats = learn.dls.valid.dataset.tensors[0][0].float() / 255
    assert torch.allclose(loaded(floats).values, expected[0], atol=1e-6)


def test_a_predictor_of_colour_says_what_it_wants(tmp_path):
    pets(tmp_path / "pets", mode="RGB")
    predictor = Predictor.of(trained(tmp_path / "pets", 1))
    with pytest.raises(DataError, match=r"floats of shape \(3, 4, 6\) in \[0, 1\], got floats of shape \(4, 6\)"):
        predictor(torch.zeros(4, 6))
    with pytest.raises(ConfigError, match="for models of grey images; this one sees colour"):
        predictor(torch.zeros(3, 4, 6), crop=True)
    grey = predictor(picture(3))  # a grey picture is one with colour
    assert torch.equal(grey.values, predictor(picture(3).convert("RGB")).values)
    with pytest.raises(ConfigError, match="normalize is of 1 channels"):
        Predictor(nn.Linear(2, 2), input_shape=(2,), normalize=Normalize([0.5], [0.5]))


@pytest.mark.parametrize(
    "normalize", [{}, {"mean": [1]}, {"mean": [0.5], "std": [0]}, {"mean": "a", "std": "b"}, [1, 2]]
)
def test_settings_of_a_predictor_that_no_images_can_be_normalised_with_are_refused(normalize, tmp_path):
    predictor = Predictor(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), image_size=(2, 2))
    predictor.save(tmp_path / "p")
    settings = json.loads((tmp_path / "p/predictor.json").read_text())
    assert settings["normalize"] is None
    settings["normalize"] = normalize
    from clearloop.predictor_folder import _checked

    with pytest.raises(cl.CheckpointError, match="expected normalize in the form"):
        _checked(settings, "predictor.json")
    del settings["normalize"]
    assert _checked(settings, "predictor.json")["normalize"] is None  # a folder of before


def test_a_run_on_folders_is_printed_from_the_learner_and_from_the_run(tmp_path):
    pets(tmp_path / "pets")
    learn = trained(tmp_path / "pets")
    learn.save(tmp_path / "run")
    assert "scale_images" in learn.eject().text
    assert eject(tmp_path / "run").text == learn.eject().text


@pytest.mark.slow
def test_one_epoch_on_the_folder_of_threes_and_sevens_is_nearly_right(sample):
    dls = from_folder(sample, seed=0)
    learn = Learner(dls, linear(784, 2), metrics=[cl.accuracy], device="cpu", seed=0)
    learn.fit(1, 0.1, quiet=True)
    assert learn.history.epochs[-1].metrics["accuracy"] > 0.95
