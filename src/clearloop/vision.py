"""A Learner for pictures: a net with as many channels and outputs as the data have channels and classes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD

from clearloop import rng
from clearloop.adapters import as_loaders
from clearloop.callback import Callback
from clearloop.data.loader import DataLoader, draw_seed
from clearloop.data.loaders import DataLoaders
from clearloop.errors import ConfigError, DataError, ModelError
from clearloop.guard import evaluating
from clearloop.learner import Learner
from clearloop.losses import LossFunc
from clearloop.models.published import load_weights
from clearloop.preflight import first_batch, one_line, shapes, stored_targets

Arch = Callable[..., nn.Module] | nn.Module


def vision_learner(
    dls: Any,
    arch: Arch,
    loss_func: LossFunc | None = None,
    opt_func: Callable[..., Any] = SGD,
    lr: float | None = None,
    metrics: Any = (),
    cbs: Callback | Sequence[Callback] = (),
    *,
    pretrained: bool = False,
    weights: str | Path | None = None,
    seed: int | None = None,
    device: str | torch.device = "auto",
    precision: str | None = None,
    clip: float | None = None,
    accumulate: int = 1,
    fast: str = "off",
) -> Learner:
    """A Learner whose net fits the pictures of `dls`: channels and outputs are counted in them.

    Args:
        dls: `DataLoaders`, or a pair of loaders, whose batches are float pictures of shape (batch_size, C, H, W) and
            their targets: class numbers, or floats of shape (batch_size, outputs).
        arch: `models.resnet18` or another function of `clearloop.models`; a constructor of torchvision or timm; any
            function of no arguments, or a module, which must fit as they are.
        pretrained: start from published weights, which must be at hand: there is no downloading.
        weights: the file that holds them; see `load_weights`. The last layer is new where it has other outputs.
        seed: of the first weights, and of the run; drawn from torch's generator when None.

    The other arguments are those of `Learner`. Returns: the Learner, not trained yet.

    Raises: ConfigError for `pretrained` without `weights`; DataError for batches that are no pictures; ModelError for
    a net that does not fit them; CheckpointError for weights that do not fit the net.

        dls = ImageDataLoaders.from_folder("photos")
        learn = vision_learner(dls, models.resnet18, metrics=accuracy)
        learn.fit_one_cycle(1, 0.1)
    """
    if pretrained and weights is None:
        raise ConfigError(
            "pretrained=True needs the published weights in a file: there is no network access to them here. Fetch "
            "the .safetensors or .pth file of this net where you may, and give weights=PATH"
        )
    dls = as_loaders(dls)
    seed = draw_seed() if seed is None else seed
    inputs, targets = first_batch(dls.train, torch.device("cpu"))
    check_pictures(inputs)
    with rng.preserved():
        torch.manual_seed(seed)
        model = build_net(arch, outputs_for(dls, targets), inputs.shape[1])
    check_net(model, inputs, outputs_for(dls, targets))
    check_last_batch(model, dls, inputs)
    if weights is not None:
        load_weights(model, weights)
    return Learner(
        dls,
        model,
        loss_func,
        opt_func,
        lr,
        metrics,
        cbs,
        seed=seed,
        device=device,
        precision=precision,
        clip=clip,
        accumulate=accumulate,
        fast=fast,
    )


cnn_learner = vision_learner  # the name that courses know


def check_pictures(inputs: Any) -> None:
    """Raise DataError unless a batch holds float pictures of shape (B, C, H, W)."""
    if not isinstance(inputs, Tensor) or inputs.ndim != 4 or not inputs.is_floating_point():
        raise DataError(
            f"expected batches of float pictures of shape (batch_size, channels, H, W), got {shapes(inputs)}; view "
            "flat pictures as x.view(-1, 1, 28, 28), and turn bytes into floats in [0, 1] with x.float() / 255"
        )


def outputs_for(dls: DataLoaders, targets: Any) -> int:
    """How many outputs the targets ask for: one for each class, or for each number of a target.

    Raises: DataError where the number of classes cannot be known.
    """
    if not isinstance(targets, Tensor) or targets.ndim > 2:
        raise DataError(f"expected one target for each picture, a class or some numbers, got {shapes(targets)}")
    if targets.is_floating_point():
        return 1 if targets.ndim == 1 else targets.shape[1]
    if dls.classes is not None:
        return len(dls.classes)
    stored = [stored_targets(loader) for loader in dls if loader is not None]
    if any(labels is None for labels in stored):
        raise DataError("expected loaders that name their classes; give DataLoaders(train, valid, classes=[...])")
    return 1 + max(int(labels.max()) for labels in stored if labels is not None)


def build_net(arch: Arch, outputs: int, channels: int) -> nn.Module:
    """Call a constructor with the number of outputs and of channels, by the names that its library has for them."""
    if isinstance(arch, nn.Module):
        return arch
    if not callable(arch):
        raise ConfigError(f"expected a function that makes a net, such as models.resnet18, or a net; got {arch!r}")
    try:
        names = set(inspect.signature(arch).parameters)
    except (TypeError, ValueError):
        names = set()
    if {"classes", "channels"} <= names:
        return arch(classes=outputs, channels=channels)
    if {"weights", "progress"} <= names:  # torchvision's
        return with_channels(arch(weights=None, num_classes=outputs), channels)
    if "pretrained" in names:  # timm's
        return arch(pretrained=False, num_classes=outputs, in_chans=channels)
    return arch()


def with_channels(model: nn.Module, channels: int) -> nn.Module:
    """The model with a new first convolution, if that takes another number of channels."""
    name, first = next(((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d)), ("", None))
    if first is None or first.in_channels == channels or first.groups != 1:
        return model
    made = nn.Conv2d(
        channels,
        first.out_channels,
        first.kernel_size,  # type: ignore[arg-type]  # torch keeps its pairs as tuples of any length
        first.stride,  # type: ignore[arg-type]
        first.padding,  # type: ignore[arg-type]
        first.dilation,  # type: ignore[arg-type]
        bias=first.bias is not None,
        padding_mode=first.padding_mode,
    )
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, made)
    return model


def check_net(model: Any, inputs: Tensor, outputs: int) -> None:
    """Raise ModelError unless the model takes the pictures and has an output for each class."""
    if not isinstance(model, nn.Module):
        raise ModelError(f"expected a function that makes a net, got one that makes a {type(model).__name__}")
    few = inputs[:2].to(next((parameter.device for parameter in model.parameters()), inputs.device))
    with evaluating(model), torch.no_grad():
        try:
            logits = model(few)
        except Exception as error:  # a forward written by a user can raise anything
            raise ModelError(
                f"the net does not take pictures of shape {tuple(few.shape[1:])}: {one_line(error)}; resize them, or "
                "make the net for so many channels"
            ) from error
    came = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    single = outputs == 2 and came == (len(few), 1)  # one logit tells two classes apart
    if came != (len(few), outputs) and not single:
        raise ModelError(
            f"expected a net with {outputs} outputs, as the data ask for, got {came}; change its last layer"
        )


def check_last_batch(model: nn.Module, dls: DataLoaders, inputs: Tensor) -> None:
    """Raise ConfigError where an epoch ends with one picture alone, of which batch norm cannot take the spread."""
    loader = dls.train
    if not isinstance(loader, DataLoader) or loader.drop_last or len(loader.dataset) % loader.batch_size != 1:
        return
    with evaluating(model), torch.no_grad():
        model.train()  # modes and running means are put back at the end
        try:
            model(inputs[:1].to(next(model.parameters()).device))
        except ValueError as error:
            raise ConfigError(
                f"the last batch of an epoch holds one picture alone ({len(loader.dataset)} in batches of "
                f"{loader.batch_size}), which batch norm cannot train on; take another batch_size"
            ) from error
