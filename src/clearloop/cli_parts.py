"""What the options of a command stand for: data, model, loss, optimizer, schedule, callbacks.

As the command line itself, it imports nothing before a command needs it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from clearloop.errors import ConfigError

if TYPE_CHECKING:
    from clearloop.callbacks.checkpoints import Checkpoints
    from clearloop.data.loaders import DataLoaders
    from clearloop.learner import Learner

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


def set_threads(threads: int | None, default: int) -> None:
    """Fix the number of threads before torch is loaded: it decides speed, and bits."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    count = threads or (int(given) if given.isdigit() and int(given) > 0 else min(default, os.cpu_count() or 1))
    os.environ["OMP_NUM_THREADS"] = str(count)
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # threads that wait long by spinning starve on a busy machine
    import torch

    torch.set_num_threads(count)


def pick_model(model: Model, data: str) -> Model:
    """The model that `auto` stands for: mlp for arrays and tables, resnet18 for folders of pictures, else cnn."""
    if model is not Model.auto:
        return model
    if Path(data).suffix in (".npz", *TABLES):
        return Model.mlp
    return Model.resnet18 if is_folder_of_pictures(Path(data)) else Model.cnn


def is_folder_of_pictures(path: Path) -> bool:
    """Whether it is a folder that holds none of MNIST's kind of files."""
    return path.is_dir() and not any(re.search(r"-idx\d-ubyte(\.gz)?$", inner.name) for inner in path.iterdir())


def open_data(source: Source, targets: Literal["labels", "inputs"] = "labels") -> DataLoaders:
    """The loaders for a DATA argument. Raises DataError for what is not there or not readable."""
    from clearloop.data.loaders import DataLoaders
    from clearloop.errors import DataError

    source.check()
    data, batch_size, seed, held = source.data, source.batch_size, source.seed, source.held
    path = Path(data)
    if data == "mnist":
        if held is not None:
            raise ConfigError("mnist has its own validation set of 10,000 images: leave out --valid")
        if targets == "inputs":  # no label is looked at, so the test images may validate
            return DataLoaders.mnist(batch_size, seed=seed, targets=targets, test=True)
        return DataLoaders.mnist(batch_size, seed=seed)
    if is_folder_of_pictures(path):
        return open_pictures(source, targets)
    if path.is_dir():
        folder = str(path.resolve())
        if targets == "inputs":
            return DataLoaders.idx(folder, batch_size, seed=seed, valid=held, targets=targets)
        return DataLoaders.idx(folder, batch_size, seed=seed, valid=held)
    if path.is_file() and path.suffix == ".npz":
        return DataLoaders.npz(str(path.resolve()), batch_size, seed=seed, valid=held)
    if path.is_file() and path.suffix in TABLES:
        return open_table(source)
    known = "mnist, a folder of IDX files or of pictures, a .csv or .parquet table, or an .npz file"
    raise DataError(f"{data}: {'' if path.exists() else 'no such file or folder; '}expected {known}")


def open_pictures(source: Source, targets: str) -> DataLoaders:
    """The loaders for a folder of pictures, a folder a class."""
    from clearloop.data.images import ImageDataLoaders

    if targets == "inputs":
        raise ConfigError("autoencoders take mnist, a folder of IDX files, or an .npz file, got a folder of pictures")
    return ImageDataLoaders.from_folder(
        str(Path(source.data).resolve()), valid_share=source.share, seed=source.seed, batch_size=source.batch_size,
        size=source.size, grey=True if source.grey else None, skip_bad=source.skip_bad,
    )  # fmt: skip


def open_table(source: Source) -> DataLoaders:
    """The loaders for a table, with a line about its target and what was left out of it."""
    from clearloop.data.tables import TableDataLoaders

    if source.target is None:
        raise ConfigError(f"{source.data} is a table: say which column is to be predicted, as in --target price")
    share = 0.2 if source.share is None else source.share
    dls = TableDataLoaders.from_file(
        str(Path(source.data).resolve()), source.target, source.batch_size,
        kind=None if source.kind is None else source.kind.value, valid_share=share, seed=source.seed,
    )  # fmt: skip
    print(*dls.notes, sep="\n")
    return dls


def make_learner(dls: DataLoaders, net: Net, plan: Plan, seed: int, device: str, **options: Any) -> Learner:
    """The Learner of a command's options; its weights come from the seed."""
    import torch

    from clearloop.learner import Learner

    inputs, targets = next(iter(dls.train.batches(0)))[:2]
    outputs = len(dls.classes) if dls.classes is not None else targets[0].numel()
    opt_func = make_optimizer(plan.opt, plan.weight_decay, plan.momentum)
    torch.manual_seed(seed)
    model = make_model(net, inputs, outputs) if getattr(dls, "table", None) is None else make_table_model(net, dls)
    loss, metrics = make_loss(net, dls)
    return Learner(dls, model, loss, opt_func, metrics=metrics, seed=seed, device=device, **options)


def make_table_model(net: Net, dls: Any) -> Any:
    """The net of a table, whose first layers know its columns."""
    from clearloop.tabular import table_model

    if net.kind is not Model.mlp:
        raise ConfigError(f"a table takes --model mlp, got --model {net.kind}")
    return table_model(dls, tuple(net.widths) or (128, 64), net.dropout)


def make_loss(net: Net, dls: DataLoaders) -> tuple[Any, Any]:
    """The loss, and the metric, of what the net is to do."""
    from functools import partial

    import torch.nn.functional as F

    from clearloop.metrics import accuracy, mse, r2_score
    from clearloop.models import sparse_mse

    if net.reconstructs:
        if net.sparse is None:
            return F.mse_loss, ()
        if not 0 < net.sparse < float("inf"):
            raise ConfigError(f"--sparse must be a positive number, got {net.sparse}")
        return partial(sparse_mse, penalty=net.sparse), mse
    if getattr(dls, "table", None) is not None:
        from clearloop.tabular import table_loss, table_metrics

        tables: Any = dls
        return table_loss(tables), table_metrics(tables)
    return (F.cross_entropy, accuracy) if dls.classes is not None else (F.mse_loss, r2_score)


def make_model(net: Net, inputs: Any, outputs: int) -> Any:
    """A model from its name, for a batch of inputs."""
    from clearloop import models

    kind, values = net.kind, inputs[0].numel()
    widths = net.widths
    if net.dropout is not None and kind is not Model.mlp:
        raise ConfigError(f"--dropout is for --model mlp, got --model {kind}")
    if net.sparse is not None and not net.reconstructs:
        raise ConfigError(f"--sparse is for autoencoders, got --model {kind}")
    if widths and kind is Model.linear:
        raise ConfigError("--hidden is for --model mlp and cnn: a linear model has no hidden layer")
    if net.reconstructs and outputs != values:
        raise ConfigError(
            f"--model {kind} gives back what goes in, {values} values, and the targets have {outputs}; it takes mnist, "
            "a folder of IDX files, or an .npz file whose y is x"
        )
    if kind is Model.linear:
        return models.linear(values, outputs)
    if kind is Model.mlp:
        options = {} if net.dropout is None else {"dropout": net.dropout}
        return models.mlp(values, *(widths or [64]), outputs, **options)
    bounded: dict[str, Any] = {"output": net.output.value, **({"with_code": True} if net.sparse is not None else {})}
    if kind is Model.autoencoder:
        return models.autoencoder(values, *(widths or [128, 64]), net.code, **bounded)
    if kind in RESNETS:
        if inputs.ndim != 4:
            raise ConfigError(f"--model {kind} needs pictures, got inputs of shape {tuple(inputs.shape[1:])}")
        return getattr(models, kind.value)(outputs, inputs.shape[1])
    if inputs.ndim != 4 or inputs.shape[2] != inputs.shape[3]:
        raise ConfigError(
            f"--model {kind} needs square images, got inputs of shape {tuple(inputs.shape[1:])}; use --model "
            f"{'autoencoder' if net.reconstructs else 'mlp'}"
        )
    if kind is Model.conv_autoencoder:
        return models.conv_autoencoder(net.code, inputs.shape[1], tuple(widths) or (16, 32), inputs.shape[2], **bounded)
    return models.cnn(outputs, inputs.shape[1], tuple(widths) or (16, 32, 64), inputs.shape[2])


def make_optimizer(opt: Optimizer, weight_decay: float | None, momentum: float | None) -> Callable[..., Any]:
    """An optimizer class of torch's, with the options that were given."""
    from functools import partial

    import torch

    if momentum is not None and opt in (Optimizer.adam, Optimizer.adamw):
        raise ConfigError(f"--momentum is for sgd, got --opt {opt}")
    for name, value in (("--weight-decay", weight_decay), ("--momentum", momentum)):
        if value is not None and not 0 <= value < float("inf"):
            raise ConfigError(f"{name} must be a finite number of 0 or more, got {value}")
    options: dict[str, Any] = {} if weight_decay is None else {"weight_decay": weight_decay}
    if opt is Optimizer.momentum or momentum is not None:
        options["momentum"] = 0.9 if momentum is None else momentum
    classes = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    made: Any = classes.get(opt.value, torch.optim.SGD)
    return partial(made, **options) if options else made


def make_callbacks(ema: float | None, patience: int | None, checks: Checkpoints) -> list[Any]:
    """Averaged weights and early stopping, if they are asked for; checkpoints last."""
    from clearloop.callbacks.early_stopping import EarlyStopping
    from clearloop.callbacks.ema import EMA

    return [
        *([EMA(ema)] if ema is not None else []),
        *([EarlyStopping(patience=patience)] if patience is not None else []),
        checks,
    ]


def make_plan(
    net: Net,
    opt: Optimizer | None = None,
    shape: Shape | None = None,
    epochs: int | None = None,
    lr: float | None = None,
    weight_decay: float | None = None,
    momentum: float | None = None,
) -> Plan:
    """What was asked for; what was left out is what suits the net.

    To give back all of an image takes longer than to name it, and the decay of adamw costs what is to be remembered.
    """
    opt = opt or (Optimizer.adam if net.reconstructs else Optimizer.adamw)
    if lr is None and opt in (Optimizer.sgd, Optimizer.momentum):
        lr = 0.1
    if lr is None:
        lr = 0.001 if net.reconstructs else 0.01 if net.kind is Model.cnn else 0.003
    shape = shape or (Shape.constant if net.reconstructs else Shape.one_cycle)
    epochs = (20 if net.reconstructs else 4) if epochs is None else epochs
    return Plan(opt, shape, epochs, lr, weight_decay, momentum)
