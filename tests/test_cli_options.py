"""Every option of `clearloop train` with every kind of data and of net: what is of no use is refused, not ignored."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image

from clearloop import models
from clearloop.commands import sources
from clearloop.errors import DataError
from cli_tools import Done, clearloop, write_idx

DATA = ("mnist", "idx", "pictures", "table.csv", "vectors.npz", "mapped")
LABELLING = ("linear", "mlp", "cnn", "resnet18", "resnet34", "resnet50")
AUTOENCODERS = ("autoencoder", "conv-autoencoder")
NETS = LABELLING + AUTOENCODERS

# Option -> how it is given, and the data and nets that it is for.
FOR: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "--target": ("--target y", ("table.csv",), NETS),
    "--kind": ("--kind classes", ("table.csv",), NETS),
    "--ignore": ("--ignore a", ("table.csv",), NETS),
    "--categorical": ("--categorical a", ("table.csv",), NETS),
    "--class-weights": ("--class-weights", ("table.csv",), NETS),
    "--size": ("--size 8", ("pictures",), NETS),
    "--grey": ("--grey", ("pictures",), NETS),
    "--skip-bad": ("--skip-bad", ("pictures",), NETS),
    "--normalize": ("--normalize training", ("pictures",), LABELLING),
    "--augment": ("--augment erase", tuple(name for name in DATA if name != "table.csv"), NETS),
    "--weights": ("--weights file.pth", DATA, ("resnet18", "resnet34", "resnet50")),
    "--hidden": ("--hidden 4", DATA, ("mlp", "cnn", *AUTOENCODERS)),
    "--dropout": ("--dropout 0.0", DATA, ("mlp",)),
    "--code": ("--code 32", DATA, AUTOENCODERS),
    "--sparse": ("--sparse 0.1", DATA, AUTOENCODERS),
    "--output": ("--output tanh", DATA, AUTOENCODERS),
    "--reconstructions-every": ("--reconstructions-every 5", DATA, AUTOENCODERS),
}
FOR_ALL = {
    *("--model", "--epochs", "--lr", "--batch-size", "--opt", "--schedule", "--one-cycle", "--weight-decay"),
    *("--momentum", "--clip", "--accumulate", "--ema", "--patience", "--precision", "--fast", "--seed", "--valid"),
    *("--device", "--threads", "--out", "--every", "--keep", "--log", "--quiet", "--help"),
    *("--sync-batch-norm", "--print-recipe", "--set"),  # the last with nets of one's own: tests/test_own_models.py
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small data of every kind, and a file of weights."""
    made = tmp_path_factory.mktemp("kinds")
    write_idx(made / "idx", 40, 20)
    draws = np.random.default_rng(0)
    for number in range(12):
        path = made / "pictures" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 256, (8, 8), np.uint8)).save(path)
    lines = [f"{number},{number % 7},{'no' if number % 3 else 'yes'}" for number in range(60)]
    (made / "table.csv").write_text("\n".join(["a,b,y", *lines]))
    vectors, labels = draws.normal(size=(40, 3)), draws.integers(0, 2, 40)
    np.savez(made / "vectors.npz", x=vectors, y=labels)
    np.savez(made / "four.npz", x_train=vectors, y_train=labels, x_valid=vectors, y_valid=labels)
    for name, arrays in (("mapped", ("x", "y")), ("four", ("x_train", "y_train", "x_valid", "y_valid"))):
        (made / name).mkdir()
        for array in arrays:
            np.save(made / name / f"{array}.npy", vectors if array[0] == "x" else labels)
    torch.save(models.resnet18(3, 1).state_dict(), made / "file.pth")
    torch.save(models.mlp(3, 2).state_dict(), made / "other.pth")
    return made


@pytest.fixture(autouse=True)
def _there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def refused(*arguments: Any) -> str:
    """The one line that a command says before it ends with 2, having written nothing."""
    before = sorted(os.listdir())
    done = clearloop("train", *arguments)
    assert (done.code, done.out) == (2, "")
    assert sorted(os.listdir()) == before
    (line,) = done.err.splitlines()
    return line


def opened(*arguments: Any) -> Done:
    """A command that ends where the data are opened, which is after all options were looked at."""

    def stop(source: Any, net: Any) -> None:
        raise DataError("opened")

    with mock.patch.dict(sources.OPENERS, dict.fromkeys(sources.OPENERS, stop)):
        return clearloop("train", *arguments)


def test_every_option_is_for_all_data_and_nets_or_in_the_table_of_this_file() -> None:
    rows = re.split(r"\n  (?=-)", clearloop("train", "--help").out.partition("Options:")[2])
    names = {name for row in rows for name in re.findall(r"--[a-z-]+", re.split(r"\s{2,}", row.strip())[0])}
    assert names == {*FOR, *FOR_ALL}


def nets_to_try(data: str, fitting_data: tuple[str, ...], fitting_nets: tuple[str, ...]) -> set[str]:
    """All nets where they decide, with one kind of data; elsewhere one that fits and one that does not."""
    if data == "table.csv":
        return {"mlp"}
    if data in fitting_data and (data == "idx" or len(fitting_data) == 1):
        return {*NETS}
    others = [net for net in NETS if net not in fitting_nets]
    return {fitting_nets[0], *others[:1]} if data in fitting_data else {fitting_nets[0]}


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("option", FOR)
def test_an_option_is_taken_where_it_is_of_use_and_refused_elsewhere(option: str, data: str) -> None:
    given, fitting_data, fitting_nets = FOR[option]
    for net in nets_to_try(data, fitting_data, fitting_nets):
        if data in fitting_data and net in fitting_nets:
            assert opened(data, "--model", net, *given.split()).err == "error: opened\n"
        else:
            line = refused(data, "--model", net, *given.split())
            got = data if data not in fitting_data else f"--model {net}"
            assert re.fullmatch(rf"error: {option} is for [^;]+, got {re.escape(got)}", line)


@pytest.mark.parametrize("net", [name for name in NETS if name != "mlp"])
def test_a_table_takes_the_net_that_knows_its_columns_alone(net: str) -> None:
    assert (
        refused("table.csv", "--target", "y", "--model", net) == f"error: a table takes --model mlp, got --model {net}"
    )


NOT_TOGETHER = {
    "mnist --valid 0.1": "mnist has its own validation set of 10,000 images: leave out --valid",
    "four.npz --valid 0.1": "four.npz has its own validation set, x_valid and y_valid: leave out --valid",
    "four --valid 0.1": "four has its own validation set, x_valid and y_valid: leave out --valid",
    "pictures --valid 3": "--valid takes a share between 0 and 1 for such data, got 3",
    "table.csv --target y --valid 3": "--valid takes a share between 0 and 1 for such data, got 3",
    "idx --one-cycle --schedule cosine": "--one-cycle is --schedule one-cycle, got --schedule cosine as well; give one",
    "idx --momentum 0.9": "--momentum is for sgd, got --opt adamw",
    "idx --opt adam --momentum 0.9": "--momentum is for sgd, got --opt adam",
    "mnist --augment crop,flip": "--augment flip is for pictures that may be mirrored, got mnist",
    "idx --augment crop,mirror": "--augment takes flip, crop, rotate, erase, one or more of them; got 'mirror'",
    "idx --augment crop --augment flip,crop": "--augment takes each augmentation once, got crop again",
    "idx --augment crop,": "--augment takes flip, crop, rotate, erase, one or more of them; got ''",
    "idx --model autoencoder --augment erase,flip": "--augment of autoencoders is erase alone, got erase, flip",
    "vectors.npz --augment crop": "--augment is for pictures, got inputs of shape (3,) in vectors.npz",
    "mapped --augment crop": "--augment is for pictures, got inputs of shape (3,) in mapped",
    "table.csv": "table.csv is a table: say which column is to be predicted, as in --target price",
    "table.csv --target y --ignore y": "--ignore y leaves out the column that --target names; name one of them",
    "table.csv --target y --ignore z": "there is no column to ignore 'z'; the columns are 'a', 'b', 'y'",
    "table.csv --target y --categorical z": "there is no categorical column 'z'; the columns are 'a', 'b', 'y'",
    "pictures --normalize imagenet": "mean and std are of 3 channels, the pictures have 1; --normalize training counts",
    "pictures --weights nowhere.pth": "expected a file of weights at nowhere.pth, got none",
    "pictures --weights other.pth": "other.pth: expected weights for this model, got",
    "pictures --weights table.csv": "expected weights in a file that ends in .safetensors, .pth or .pt, got table.csv",
    "pictures --model resnet34 --weights file.pth": "file.pth: expected weights for this model, got",
    "vectors.npz --model resnet18": "--model resnet18 needs pictures, got inputs of shape (3,)",
    "vectors.npz --model cnn": "--model cnn needs square images, got inputs of shape (3,); use --model mlp",
    "vectors.npz --model autoencoder": "--model autoencoder gives back what goes in, 3 values, and the targets have 2",
    "pictures --model mlp -b 3 --valid 0.25 --size 4 --code 3": "--code is for autoencoders, got --model mlp",
    "mapped/x.npy": "mapped/x.npy: put it into a folder with x.npy and y.npy; expected mnist, a folder of",
}


@pytest.mark.parametrize("options", NOT_TOGETHER)
def test_options_that_exclude_each_other_are_refused_with_the_reason(options: str) -> None:
    data, *others = options.split()
    target = ["--kind", "classes"] if data == "table.csv" and "--target" in options else []
    assert NOT_TOGETHER[options] in refused(data, *others, *target)


def test_class_weights_of_a_regression_are_refused_once_its_target_is_known() -> None:
    done = clearloop("train", "table.csv", "--target", "a", "--class-weights")
    assert done.code == 2
    assert done.err == "error: --class-weights is for classes, got 'a', the target of a regression; leave it out\n"
    assert not Path("runs").exists()


def test_a_batch_of_one_picture_that_batch_norm_cannot_take_is_told_before_training() -> None:
    assert "the last batch of an epoch holds one picture alone" in refused("pictures", "-b", "3", "--valid", "0.2")


@pytest.mark.parametrize("option", [name for name in FOR if name != "--reconstructions-every"])
def test_lr_find_refuses_the_same_options(option: str) -> None:
    data = "idx" if "table.csv" in FOR[option][1] and "idx" not in FOR[option][1] else "table.csv"
    target = [] if data == "idx" else ["--target", "y"]
    if FOR[option][1] == DATA and "mlp" in FOR[option][2]:
        data, target = "idx", ["--model", "linear"]
    done = clearloop("lr-find", data, *target, *FOR[option][0].split())
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"error: {option} is for ")
    assert not Path("lr_find.png").exists()
