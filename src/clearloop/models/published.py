"""Weights from a file, such as those that are published for a net of pictures, into a model of the same names."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from clearloop.errors import CheckpointError, ConfigError

SAFETENSORS, TORCH = (".safetensors",), (".pth", ".pt")
INSIDE = ("state_dict", "model")  # where training scripts put the weights, beside other things
COUNTER = "num_batches_tracked"  # files from before torch 0.4.1 lack it


def load_weights(model: nn.Module, path: str | Path) -> tuple[str, ...]:
    """Copy weights into `model`, from `.safetensors`, or from `.pth` and `.pt` files that hold nothing but tensors.

    Two things may differ. The last linear layer stays as it is where the file's has another number of outputs: it
    tells other classes apart. And a first convolution of one channel takes the sum of the file's over its channels,
    which gives for grey pictures what the file's gives for the same pictures in colour.

    Args:
        model: it is changed only once all of the file was found to fit.
        path: the file. Nothing in it is run: a pickle that holds more than tensors is refused.

    Returns: the names of the weights that stayed as they were, none or those of the last layer.

    Raises: ConfigError for another kind of file; CheckpointError for one that is missing, damaged, holds anything but
    finite tensors, or has other names or shapes than the model.

        load_weights(models.resnet18(classes=2, channels=1), "resnet18.safetensors")  # ('fc.weight', 'fc.bias')
    """
    path = Path(path)
    saved = read_weights(path)
    current = model.state_dict()
    grey, head = first_convolution(model), head_of(model)
    if (
        grey in saved
        and grey in current
        and only_differ_in(current[grey], saved[grey], 1)
        and len(current[grey][0]) == 1
    ):
        saved[grey] = saved[grey].sum(dim=1, keepdim=True)  # (outputs, channels, k, k) -> (outputs, 1, k, k)
    other_classes = any(name in saved and only_differ_in(current[name], saved[name], 0) for name in head)
    kept = head if other_classes else ()
    check_fit(current, saved, kept, path)
    with torch.no_grad():
        for name, tensor in current.items():
            if name in saved and name not in kept:
                tensor.copy_(saved[name])
    return kept


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, on the CPU. Raises ConfigError or CheckpointError."""
    if path.suffix not in SAFETENSORS + TORCH:
        raise ConfigError(f"expected weights in a file that ends in .safetensors, .pth or .pt, got {path}; convert it")
    if not path.is_file():
        raise CheckpointError(f"expected a file of weights at {path}, got {'a folder' if path.is_dir() else 'none'}")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")  # what matters is what is in it
            content: Any = load_file(path) if path.suffix in SAFETENSORS else torch.load(path, "cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: expected tensors alone, got a pickle that holds other things, or is damaged; it was not run. "
            "Save the model's state_dict(), best as .safetensors"
        ) from error
    except (SafetensorError, OSError, EOFError, RuntimeError, ValueError, LookupError, zipfile.BadZipFile) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise CheckpointError(f"{path}: expected a file of weights, got {first}; fetch it again") from error
    if isinstance(content, Mapping):
        content = next((content[key] for key in INSIDE if isinstance(content.get(key), Mapping)), content)
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items()
    ):
        raise CheckpointError(f"{path}: expected tensors by name, as state_dict() gives them, got something else")
    return dict(content)


def first_convolution(model: nn.Module) -> str:
    """The name of the weight that pictures meet first; an empty one if there is no convolution."""
    return next((f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Conv2d)), "")


def head_of(model: nn.Module) -> tuple[str, ...]:
    """The names of the weight and the bias of the last linear layer."""
    linear = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return tuple(f"{linear[-1][0]}.{part}" for part, _ in linear[-1][1].named_parameters()) if linear else ()


def only_differ_in(current: Tensor, saved: Tensor, dim: int) -> bool:
    """Whether two tensors have the same shape but for one dimension.

    >>> only_differ_in(torch.zeros(2, 512), torch.zeros(1000, 512), 0)
    True
    """
    one, other = list(current.shape), list(saved.shape)
    return (
        len(one) == len(other) > dim and one != other and one[:dim] + one[dim + 1 :] == other[:dim] + other[dim + 1 :]
    )


def check_fit(current: Mapping[str, Tensor], saved: Mapping[str, Tensor], kept: tuple[str, ...], path: Path) -> None:
    """Raise CheckpointError, naming the first differences, unless every name has tensors that can be copied."""
    problems = []
    for name in [*current, *(name for name in saved if name not in current)]:
        if name in kept or name not in saved and name.endswith(COUNTER):
            continue
        in_model, in_file = (form(tensors.get(name)) for tensors in (current, saved))
        if in_model != in_file:
            problems.append(f"{name}: the file has {in_file}, the model {in_model}")
        elif saved[name].is_floating_point() and not bool(torch.isfinite(saved[name]).all()):
            problems.append(f"{name}: the file has NaN or infinity")
    if problems:
        raise CheckpointError(
            f"{path}: expected weights for this model, got {len(problems)} that do not fit "
            f"({'; '.join(problems[:3])}); make the model that they were saved from, or take the file for this one"
        )


def form(tensor: Tensor | None) -> str:
    """The shape, and whether the numbers are whole: floats of any precision can be copied into each other."""
    if tensor is None:
        return "nothing"
    return f"{tuple(tensor.shape)}{'' if tensor.is_floating_point() else ' of whole numbers'}"
