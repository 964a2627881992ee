"""A model's parameters and buffers by name: compared, copied, hashed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from clearloop.errors import CheckpointError


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and all buffers, those that `state_dict` leaves out too; tied ones under each of their names."""
    named = dict(model.named_parameters(remove_duplicate=False))
    return {**named, **dict(model.named_buffers(remove_duplicate=False))}


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """A copy of them on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in named_tensors(model).items()}


@torch.no_grad()
def load_tensors(model: nn.Module, saved: Mapping[str, Tensor]) -> None:
    """Copy parameters and buffers into the model; CheckpointError if names, shapes or types differ."""
    current = named_tensors(model)
    check_same_tensors(current, saved)
    for name, tensor in current.items():
        tensor.copy_(saved[name])


def check_same_tensors(current: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError, naming the first differences, unless names, shapes and dtypes agree."""
    now, then = forms(current), forms(saved)
    names = [*now, *sorted(set(then) - set(now))]  # a file keeps no order
    differing = [name for name in names if now.get(name) != then.get(name)]
    if differing:
        missing = "nothing"
        lines = [f"{name}: saved {then.get(name, missing)}, model {now.get(name, missing)}" for name in differing[:3]]
        raise CheckpointError(
            f"expected the weights of this model, got those of another model ({len(differing)} tensors differ: "
            f"{'; '.join(lines)}); give the model that was saved"
        )


def forms(named: Mapping[str, Tensor]) -> dict[str, str]:
    """Shapes and dtypes by name.

    >>> forms({"bias": torch.zeros(3)})
    {'bias': '(3,) float32'}
    """
    return {name: f"{tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}" for name, t in named.items()}


def weights_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of parameters and buffers, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
