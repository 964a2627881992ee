"""Options in groups: what they say of data, of a net, of its training and of what is kept.

Each field is an option of the commands that have the group; `options.grouped` makes commands of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from clearloop.commands import options
from clearloop.commands.choices import (
    AUTOENCODERS,
    RESNETS,
    Augmentation,
    Fast,
    Form,
    Model,
    Optimizer,
    Shape,
    form_of,
)
from clearloop.errors import ConfigError


@dataclass(frozen=True)
class Source:
    """What DATA and the options that belong to it say."""

    data: options.Data
    target: options.Target = None
    kind: options.KindName = None
    ignore: options.Ignore = None
    categorical: options.Categorical = None
    size: options.Size = None
    grey: options.Grey = False
    skip_bad: options.SkipBad = False
    augment: options.Augment = None
    normalize: options.Normalized = None
    batch_size: options.BatchSize = 128
    valid: options.Valid = None
    seed: options.Seed = 0

    @cached_property
    def form(self) -> Form | None:
        """What kind of data it is; None where it is none that is known."""
        return form_of(self.data)

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

    @property
    def augments(self) -> list[Augmentation]:
        """The augmentations of --augment, in the order in which they were given."""
        names = [name.strip() for given in self.augment or () for name in given.split(",")]
        unknown = [name for name in names if name not in [*Augmentation]]
        if unknown:
            raise ConfigError(f"--augment takes {', '.join(Augmentation)}, one or more of them; got {unknown[0]!r}")
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ConfigError(f"--augment takes each augmentation once, got {twice[0]} again")
        return [Augmentation(name) for name in names]

    def check(self) -> None:
        """Raise ConfigError for values that cannot be."""
        if self.seed >= 2**63:
            raise ConfigError(f"--seed must be below 2**63, got {self.seed}")
        if self.valid is not None and not 0 < self.valid < 1 and not (self.valid >= 1 and self.valid.is_integer()):
            raise ConfigError(f"--valid takes a share between 0 and 1 or a number of samples, got {self.valid:g}")
        if self.valid is not None and self.form is Form.mnist:
            raise ConfigError("mnist has its own validation set of 10,000 images: leave out --valid")
        if self.target is not None and self.target in (self.ignore or ()):
            raise ConfigError(f"--ignore {self.target} leaves out the column that --target names; name one of them")


@dataclass(frozen=True)
class Net:
    """What --model and the options that belong to it say of a net."""

    model: options.ModelName = Model.auto
    arguments: options.Arguments = None
    hidden: options.Hidden = ""
    dropout: options.Dropout = None
    code: options.Code = None
    sparse: options.Sparse = None
    output: options.Output = None
    reconstructions_every: options.ReconstructionsEvery = None
    weights: options.Weights = None
    class_weights: options.ClassWeights = False

    def chosen_for(self, source: Source) -> Net:
        """The net with the model that `auto` stands for: mlp for arrays and tables, resnet18 for pictures, else cnn."""
        if self.model is not Model.auto:
            return self
        if source.form in (Form.npz, Form.npy, Form.table):
            return replace(self, model=Model.mlp)
        return replace(self, model=Model.resnet18 if source.form is Form.pictures else Model.cnn)

    @property
    def owned(self) -> bool:
        """Whether it is a model of the user's own, FILE.py:NAME."""
        return not isinstance(self.model, Model)

    @property
    def reconstructs(self) -> bool:
        """Whether it is to give back what goes in."""
        return self.model in AUTOENCODERS

    @property
    def convolves(self) -> bool:
        """Whether a second thread pays."""
        return self.owned or self.model in (Model.cnn, Model.conv_autoencoder, *RESNETS)

    @property
    def widths(self) -> list[int]:
        """The numbers of --hidden."""
        try:
            return [int(width) for width in self.hidden.split(",")] if self.hidden else []
        except ValueError:
            raise ConfigError(f"--hidden takes whole numbers such as 64 or 16,32,64, got {self.hidden!r}") from None


@dataclass(frozen=True)
class Training:
    """What the options say of how a net is trained."""

    epochs: options.Epochs = None
    lr: options.LearningRate = None
    opt: options.OptimizerName = None
    schedule: options.ShapeName = None
    one_cycle: options.OneCycle = False
    weight_decay: options.WeightDecay = None
    momentum: options.Momentum = None
    clip: options.Clip = None
    accumulate: options.Accumulate = 1
    ema: options.Average = None
    patience: options.Patience = None
    sync_batch_norm: options.SyncBatchNorm = False
    precision: options.PrecisionName = None
    fast: options.FastName = Fast.off
    device: options.Device = "auto"
    threads: options.Threads = None

    @property
    def shape(self) -> Shape | None:
        """The schedule that --schedule or --one-cycle names. Raises ConfigError where they name two."""
        if self.one_cycle and self.schedule not in (None, Shape.one_cycle):
            raise ConfigError(
                f"--one-cycle is --schedule one-cycle, got --schedule {self.schedule} as well; give one of them"
            )
        return Shape.one_cycle if self.one_cycle else self.schedule


@dataclass(frozen=True)
class Keeping:
    """What the options say of what is kept of a run, and what is printed."""

    out: options.RunFolder = None
    every: options.Every = "60s"
    keep: options.Keep = 2
    log: options.Logs = None
    quiet: options.Quiet = False


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


# Option -> what it is for: the data, or the nets, and how they are called. What is not here is for all of them.
FOR_DATA: dict[str, tuple[tuple[Form, ...], str]] = {
    **dict.fromkeys(
        ("target", "kind", "ignore", "categorical", "class_weights"), ((Form.table,), "tables (.csv, .parquet)")
    ),
    **dict.fromkeys(("size", "grey", "skip_bad", "normalize"), ((Form.pictures,), "folders of pictures")),
    "augment": (tuple(form for form in Form if form is not Form.table), "pictures"),
}
FOR_NETS: dict[str, tuple[tuple[Model, ...], str]] = {
    "hidden": ((Model.mlp, Model.cnn, *AUTOENCODERS), "--model mlp and cnn, and autoencoders"),
    "dropout": ((Model.mlp,), "--model mlp"),
    **dict.fromkeys(("code", "sparse", "output", "reconstructions_every"), (AUTOENCODERS, "autoencoders")),
    "weights": (RESNETS, "resnets"),
    "normalize": (tuple(model for model in Model if model not in AUTOENCODERS), "nets that name classes"),
}


def check_options(source: Source, net: Net) -> None:
    """Raise ConfigError for options that cannot be, or that are of no use with such data or such a net."""
    source.check()
    if net.arguments and not net.owned:
        raise ConfigError(f"--set is for a model of your own, --model FILE.py:NAME, got --model {net.model}")
    if source.form is Form.table and net.model is not Model.mlp and not net.owned:
        raise ConfigError(f"a table takes --model mlp, got --model {net.model}")
    given = {name: value for part in (source, net) for name, value in vars(part).items() if is_given(value)}
    for name, (forms, what) in FOR_DATA.items():
        if name in given and source.form not in forms:
            raise ConfigError(f"--{name.replace('_', '-')} is for {what}, got {source.data}")
    for name, (models, what) in FOR_NETS.items():
        kind = Model.linear if net.owned else net.model  # neither has options of its own
        if name in given and kind not in models:
            raise ConfigError(f"--{name.replace('_', '-')} is for {what}, got --model {net.model}")
    if source.form is Form.mnist and Augmentation.flip in source.augments:
        raise ConfigError("--augment flip is for pictures that may be mirrored, got mnist: a mirrored digit is none")
    if net.reconstructs and source.augments not in ([], [Augmentation.erase]):
        raise ConfigError(
            f"--augment of autoencoders is erase alone, got {', '.join(source.augments)}: a net cannot tell how a "
            "picture was moved, and is to give it back as it was"
        )


def is_given(value: object) -> bool:
    """Whether it is the value of an option that was given.

    >>> is_given(None), is_given(False), is_given(()), is_given(0.0)
    (False, False, False, True)
    """
    return value is not None and value is not False and value != "" and value != () and value != []
