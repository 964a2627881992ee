"""What the options of a command stand for: threads, model, loss, optimizer, schedule, callbacks."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from clearloop.commands.choices import RESNETS, Bound, Log, Model, Optimizer, Shape
from clearloop.commands.groups import Keeping, Net, Plan, Training
from clearloop.errors import ConfigError

if TYPE_CHECKING:
    from clearloop.data.loaders import DataLoaders
    from clearloop.learner import Learner


def set_threads(threads: int | None, default: int) -> None:
    """Fix the number of threads before torch is loaded: it decides speed, and bits."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    count = threads or (int(given) if given.isdigit() and int(given) > 0 else min(default, os.cpu_count() or 1))
    os.environ["OMP_NUM_THREADS"] = str(count)
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # threads that wait long by spinning starve on a busy machine
    import torch

    torch.set_num_threads(count)


def make_learner(
    dls: DataLoaders, net: Net, plan: Plan, training: Training, seed: int, cbs: Sequence[Any] = ()
) -> Learner:
    """The Learner of a command's options; its weights come from the seed, or from a file."""
    import torch

    from clearloop.learner import Learner
    from clearloop.vision import check_last_batch

    inputs, targets = next(iter(dls.train.batches(0)))[:2]
    outputs = len(dls.classes) if dls.classes is not None else targets[0].numel()
    opt_func = make_optimizer(plan.opt, plan.weight_decay, plan.momentum)
    torch.manual_seed(seed)
    of_columns = getattr(dls, "table", None) is not None and not net.owned
    model = make_table_model(net, dls) if of_columns else make_model(net, inputs, outputs)
    if net.weights is not None:
        from clearloop.models.published import load_weights

        load_weights(model, net.weights)
    loss, metrics = make_loss(net, dls)
    check_last_batch(model, dls, inputs)
    return Learner(
        dls, model, loss, opt_func, metrics=metrics, cbs=cbs, seed=seed, device=training.device, clip=training.clip,
        accumulate=training.accumulate, precision=None if training.precision is None else training.precision.value,
        fast=training.fast.value,
    )  # fmt: skip


def make_table_model(net: Net, dls: Any) -> Any:
    """The net of a table, whose first layers know its columns."""
    from clearloop.tabular import table_model

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
        if net.class_weights and dls.classes is None:
            raise ConfigError(
                f"--class-weights is for classes, got {tables.table.target!r}, the target of a regression; leave it out"
            )
        return table_loss(tables, "balanced" if net.class_weights else None), table_metrics(tables)
    return (F.cross_entropy, accuracy) if dls.classes is not None else (F.mse_loss, r2_score)


def make_model(net: Net, inputs: Any, outputs: int) -> Any:
    """A model from its name, for a batch of inputs."""
    if net.owned:
        from clearloop.commands import own_models

        return own_models.make(own_models.read(net.model, net.arguments))
    from clearloop import models

    kind, widths, values = net.model, net.widths, inputs[0].numel()
    code = 32 if net.code is None else net.code
    if net.reconstructs and outputs != values:
        raise ConfigError(
            f"--model {kind} gives back what goes in, {values} values, and the targets have {outputs}; it takes mnist, "
            "a folder of IDX files or of pictures, or arrays whose y is x"
        )
    if kind is Model.linear:
        return models.linear(values, outputs)
    if kind is Model.mlp:
        options = {} if net.dropout is None else {"dropout": net.dropout}
        return models.mlp(values, *(widths or [64]), outputs, **options)
    bounded: dict[str, Any] = {"output": (net.output or Bound.tanh).value}
    bounded |= {} if net.sparse is None else {"with_code": True}
    if kind is Model.autoencoder:
        return models.autoencoder(values, *(widths or [128, 64]), code, **bounded)
    if kind in RESNETS:
        if inputs.ndim != 4:
            raise ConfigError(f"--model {kind} needs pictures, got inputs of shape {tuple(inputs.shape[1:])}")
        return getattr(models, str(kind))(outputs, inputs.shape[1])
    if inputs.ndim != 4 or inputs.shape[2] != inputs.shape[3]:
        raise ConfigError(
            f"--model {kind} needs square images, got inputs of shape {tuple(inputs.shape[1:])}; use --model "
            f"{'autoencoder' if net.reconstructs else 'mlp'}"
        )
    if kind is Model.conv_autoencoder:
        return models.conv_autoencoder(code, inputs.shape[1], tuple(widths) or (16, 32), inputs.shape[2], **bounded)
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


def make_callbacks(dls: DataLoaders, net: Net, training: Training, keeping: Keeping) -> list[Any]:
    """Averaged weights and early stopping, if they are asked for; pictures of an autoencoder's; checkpoints; loggers.

    The folder for these is made when all else is known to be right.
    """
    from clearloop.callbacks.checkpoints import Checkpoints
    from clearloop.callbacks.early_stopping import EarlyStopping
    from clearloop.callbacks.ema import EMA
    from clearloop.callbacks.reconstructions import SaveReconstructions
    from clearloop.callbacks.sync_batch_norm import SyncBatchNorm

    shown = net.reconstructions_every is not None
    if net.reconstructs and not shown:  # nobody asked: where the inputs are pictures
        from clearloop.interpretation import is_picture

        shown = is_picture(next(iter(dls.train.batches(0)))[0][0], dls.image_size)
    return [
        *([SyncBatchNorm()] if training.sync_batch_norm else []),
        *([EMA(training.ema)] if training.ema is not None else []),
        *([EarlyStopping(patience=training.patience)] if training.patience is not None else []),
        *([SaveReconstructions(net.reconstructions_every or 10)] if shown else []),
        Checkpoints(keeping.out or "runs", keeping.every, keeping.keep),
        *map(make_logger, dict.fromkeys(keeping.log or ())),
    ]


def make_logger(log: Log) -> Any:
    """The callback that writes a run's numbers somewhere. Raises ConfigError where its package is missing."""
    from clearloop.callbacks.csv_logger import CSVLogger
    from clearloop.callbacks.logger import package
    from clearloop.callbacks.mlflow import MLflow
    from clearloop.callbacks.tensorboard import TensorBoard
    from clearloop.callbacks.wandb import WandB

    if log is not Log.csv:
        package(log.value, log.value)
    return {Log.csv: CSVLogger, Log.tensorboard: TensorBoard, Log.wandb: WandB, Log.mlflow: MLflow}[log]()


def make_plan(net: Net, training: Training) -> Plan:
    """What was asked for; what was left out is what suits the net.

    To give back all of an image takes longer than to name it, and the decay of adamw costs what is to be remembered.
    """
    opt = training.opt or (Optimizer.adam if net.reconstructs else Optimizer.adamw)
    lr = training.lr
    if lr is None and opt in (Optimizer.sgd, Optimizer.momentum):
        lr = 0.1
    if lr is None:
        lr = 0.001 if net.reconstructs else 0.01 if net.model is Model.cnn else 0.003
    shape = training.shape or (Shape.constant if net.reconstructs else Shape.one_cycle)
    epochs = (20 if net.reconstructs else 4) if training.epochs is None else training.epochs
    return Plan(opt, shape, epochs, lr, training.weight_decay, training.momentum)
