"""What options can be, and what they say of data, of a net and of its training.

As the command line itself, it imports nothing before a command needs it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from clearloop.errors import ConfigError

TABLES = (".csv", ".parquet")


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


class Bound(StrEnum):
    """What bounds the outputs of an autoencoder: tanh to (-1, 1), sigmoid to (0, 1)."""

    tanh = "tanh"
    sigmoid = "sigmoid"


class Kind(StrEnum):
    """What a table's target is taken for."""

    regression = "regression"
    binary = "binary"
    classes = "classes"


@dataclass(frozen=True)
class Source:
    """What DATA and the options that belong to it say."""

    data: str
    batch_size: int
    seed: int
    valid: float | None = None
    target: str | None = None
    kind: Kind | None = None
    size: int | None = None
    grey: bool = False
    skip_bad: bool = False

    @property
    def held(self) -> float | int | None:
        """How much of the training data is held out: a share, or a number of samples."""
        return int(self.valid) if self.valid is not None and self.valid >= 1 else self.valid

    @property
    def share(self) -> float | None:
        """The same where only a share will do."""
        if self.valid is not None and self.valid >= 1:
            raise ConfigError(f"--valid takes a share between 0 and 1 for such data, got {self.valid:g}")
        return self.valid

    def check(self) -> None:
        """Raise ConfigError for options that cannot be, or that other data have."""
        if self.seed >= 2**63:
            raise ConfigError(f"--seed must be below 2**63, got {self.seed}")
        if self.valid is not None and not 0 < self.valid < 1 and not (self.valid >= 1 and self.valid.is_integer()):
            raise ConfigError(f"--valid takes a share between 0 and 1 or a number of samples, got {self.valid:g}")
        if Path(self.data).suffix not in TABLES and (self.target is not None or self.kind is not None):
            raise ConfigError(f"--target and --kind are for tables (.csv, .parquet), got {self.data}")
        if (self.size is not None or self.grey or self.skip_bad) and not is_folder_of_pictures(Path(self.data)):
            raise ConfigError(f"--size, --grey and --skip-bad are for folders of pictures, got {self.data}")


@dataclass(frozen=True)
class Plan:
    """How a net is trained."""

    opt: Optimizer
    shape: Shape
    epochs: int
    lr: float
    weight_decay: float | None = None
    momentum: float | None = None

    def schedule(self, steps_per_epoch: int) -> Any:
        """The schedule over all steps of the run, or None for a constant learning rate."""
        from clearloop import schedules

        if self.shape is Shape.one_cycle:
            return schedules.one_cycle(self.lr, self.epochs * steps_per_epoch)
        return schedules.cosine(self.lr, self.epochs * steps_per_epoch) if self.shape is Shape.cosine else None


@dataclass(frozen=True)
class Net:
    """What --model and the options that belong to it say of a net."""

    kind: Model
    hidden: str = ""
    dropout: float | None = None
    code: int = 32
    sparse: float | None = None
    output: Bound = Bound.tanh

    @property
    def reconstructs(self) -> bool:
        """Whether it is to give back what goes in."""
        return self.kind in (Model.autoencoder, Model.conv_autoencoder)

    @property
    def convolves(self) -> bool:
        """Whether a second thread pays."""
        return self.kind in (Model.cnn, Model.conv_autoencoder, *RESNETS)

    @property
    def targets(self) -> Literal["labels", "inputs"]:
        """What it is to give for an image."""
        return "inputs" if self.reconstructs else "labels"

    @property
    def widths(self) -> list[int]:
        """The numbers of --hidden."""
        try:
            return [int(width) for width in self.hidden.split(",")] if self.hidden else []
        except ValueError:
            raise ConfigError(f"--hidden takes whole numbers such as 64 or 16,32,64, got {self.hidden!r}") from None


def is_folder_of_pictures(path: Path) -> bool:
    """Whether it is a folder that holds none of MNIST's kind of files."""
    return path.is_dir() and not any(re.search(r"-idx\d-ubyte(\.gz)?$", inner.name) for inner in path.iterdir())
