"""What the options of a command stand for: threads, model, loss, optimizer, schedule, callbacks."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from clearloop.commands.choices import RESNETS, Model, Net, Optimizer, Plan, Shape
from clearloop.errors import ConfigError

if TYPE_CHECKING:
    from clearloop.callbacks.checkpoints import Checkpoints
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
