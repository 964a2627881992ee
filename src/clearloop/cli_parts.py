"""What the options of a command stand for: data, model, loss, optimizer, schedule, callbacks.

As the command line itself, it imports nothing before a command needs it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from clearloop.errors import ConfigError

if TYPE_CHECKING:
    from clearloop.data.loaders import DataLoaders
    from clearloop.learner import Learner


class Model(StrEnum):
    """Models by name."""

    auto = "auto"
    linear = "linear"
    mlp = "mlp"
    cnn = "cnn"
    autoencoder = "autoencoder"
    conv_autoencoder = "conv-autoencoder"


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
        return self.kind in (Model.cnn, Model.conv_autoencoder)

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
    """The model that `auto` stands for: cnn unless the data are an .npz file."""
    if model is not Model.auto:
        return model
    return Model.mlp if data.endswith(".npz") else Model.cnn


def open_data(
    data: str, batch_size: int, seed: int, valid: float | None, targets: Literal["labels", "inputs"]
) -> DataLoaders:
    """The loaders for a DATA argument. Raises DataError for what is not there or not readable."""
    from clearloop.data.loaders import DataLoaders
    from clearloop.errors import DataError

    if seed >= 2**63:
        raise ConfigError(f"--seed must be below 2**63, got {seed}")
    if valid is not None and not 0 < valid < 1 and not (valid >= 1 and valid.is_integer()):
        raise ConfigError(f"--valid takes a share between 0 and 1 or a number of samples, got {valid:g}")
    held = int(valid) if valid is not None and valid >= 1 else valid
    path = Path(data)
    if data == "mnist":
        if held is not None:
            raise ConfigError("mnist has its own validation set of 10,000 images: leave out --valid")
        if targets == "inputs":  # no label is looked at, so the test images may validate
            return DataLoaders.mnist(batch_size, seed=seed, targets=targets, test=True)
        return DataLoaders.mnist(batch_size, seed=seed)
    if path.is_dir():
        folder = str(path.resolve())
        if targets == "inputs":
            return DataLoaders.idx(folder, batch_size, seed=seed, valid=held, targets=targets)
        return DataLoaders.idx(folder, batch_size, seed=seed, valid=held)
    if path.is_file() and path.suffix == ".npz":
        return DataLoaders.npz(str(path.resolve()), batch_size, seed=seed, valid=held)
    if path.exists():
        raise DataError(f"{data}: expected mnist, a folder of IDX files, or an .npz file")
    raise DataError(f"{data}: no such file or folder; expected mnist, a folder of IDX files, or an .npz file")


def make_learner(
    dls: DataLoaders,
    net: Net,
    opt: Optimizer,
    weight_decay: float | None,
    momentum: float | None,
    seed: int,
    device: str,
    **options: Any,
) -> Learner:
    """The Learner of a command's options; its weights come from the seed."""
    import torch

    from clearloop.learner import Learner

    inputs, targets = next(iter(dls.train.batches(0)))[:2]
    outputs = len(dls.classes) if dls.classes is not None else targets[0].numel()
    torch.manual_seed(seed)
    model = make_model(net, inputs, outputs)
    loss, metrics = make_loss(net, dls)
    return Learner(
        dls, model, loss, make_optimizer(opt, weight_decay, momentum),
        metrics=metrics, seed=seed, device=device, **options,
    )  # fmt: skip


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


def make_callbacks(ema: float | None, patience: int | None) -> list[Any]:
    """Averaged weights and early stopping, if they are asked for."""
    from clearloop.callbacks.early_stopping import EarlyStopping
    from clearloop.callbacks.ema import EMA

    return [
        *([EMA(ema)] if ema is not None else []),
        *([EarlyStopping(patience=patience)] if patience is not None else []),
    ]


def default_epochs(net: Net) -> int:
    """How often to go over the data: giving back all of an image takes longer than naming it."""
    return 20 if net.reconstructs else 4


def default_opt(net: Net) -> Optimizer:
    """An optimizer to begin with; the decay of adamw costs an autoencoder what it is to remember."""
    return Optimizer.adam if net.reconstructs else Optimizer.adamw


def default_schedule(net: Net) -> Shape:
    """A schedule to begin with."""
    return Shape.constant if net.reconstructs else Shape.one_cycle


def default_lr(net: Net, opt: Optimizer) -> float:
    """A learning rate to begin with."""
    if opt in (Optimizer.sgd, Optimizer.momentum):
        return 0.1
    if net.reconstructs:
        return 0.001
    return 0.01 if net.kind is Model.cnn else 0.003


def make_schedule(shape: Shape, lr: float, total_steps: int) -> Any:
    """The schedule over all steps of the run, or None for a constant learning rate."""
    from clearloop import schedules

    if shape is Shape.one_cycle:
        return schedules.one_cycle(lr, total_steps)
    return schedules.cosine(lr, total_steps) if shape is Shape.cosine else None
