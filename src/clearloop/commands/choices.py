"""What options can be.

As the command line itself, it imports nothing before a command needs it.
"""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path

TABLES = (".csv", ".parquet")
FOUR_ARRAYS, TWO_ARRAYS = ("x_train", "y_train", "x_valid", "y_valid"), ("x", "y")  # what files of arrays are called


class Form(StrEnum):
    """What DATA can be."""

    mnist = "mnist"
    idx = "a folder of IDX files"
    pictures = "a folder of pictures"
    table = "a table"
    npz = "an .npz file"
    npy = "a folder of .npy files"


class Model(StrEnum):
    """Models by name."""

    auto = "auto"
    linear = "linear"
    mlp = "mlp"
    cnn = "cnn"
    autoencoder = "autoencoder"
    conv_autoencoder = "conv-autoencoder"
    resnet18 = "resnet18"
    resnet34 = "resnet34"
    resnet50 = "resnet50"


RESNETS = (Model.resnet18, Model.resnet34, Model.resnet50)
AUTOENCODERS = (Model.autoencoder, Model.conv_autoencoder)


class Optimizer(StrEnum):
    """Optimizers by name; momentum is SGD with momentum 0.9 unless --momentum says otherwise."""

    sgd = "sgd"
    momentum = "momentum"
    adam = "adam"
    adamw = "adamw"


class Shape(StrEnum):
    """Learning-rate schedules by name."""

    constant = "constant"
    one_cycle = "one-cycle"
    cosine = "cosine"


class Precision(StrEnum):
    """Precisions of the forward pass."""

    bf16 = "bf16"
    fp16 = "fp16"


class Fast(StrEnum):
    """Engines: plain PyTorch step by step, compiled where that saves time, or compiled."""

    off = "off"
    auto = "auto"
    compile = "compile"


class Bound(StrEnum):
    """What bounds the outputs of an autoencoder: tanh to (-1, 1), sigmoid to (0, 1)."""

    tanh = "tanh"
    sigmoid = "sigmoid"


class Log(StrEnum):
    """Where a run's numbers go besides its history."""

    csv = "csv"
    tensorboard = "tensorboard"
    wandb = "wandb"
    mlflow = "mlflow"


class Kind(StrEnum):
    """What a table's target is taken for."""

    regression = "regression"
    binary = "binary"
    classes = "classes"


class Augmentation(StrEnum):
    """What is done to training pictures, anew in every epoch."""

    flip = "flip"
    crop = "crop"
    rotate = "rotate"
    erase = "erase"


class Statistics(StrEnum):
    """Of which pictures mean and spread are taken to normalise with."""

    training = "training"
    imagenet = "imagenet"


def form_of(data: str) -> Form | None:
    """What kind of data DATA names, by the names of files alone; None where it is none that is known."""
    path = Path(data)
    if data == "mnist":
        return Form.mnist
    if path.is_dir():
        names = [inner.name for inner in path.iterdir()]
        if any(re.search(r"-idx\d-ubyte(\.gz)?$", name) for name in names):
            return Form.idx
        arrays = [f"{name}.npy" for name in (*FOUR_ARRAYS, *TWO_ARRAYS)]
        return Form.npy if any(name in arrays for name in names) else Form.pictures
    suffix = path.suffix.lower()
    return Form.table if suffix in TABLES else Form.npz if suffix == ".npz" else None
