"""Layers of linear maps with ReLU between them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from torch import nn

from clearloop.component import remember
from clearloop.errors import ConfigError


@remember
def mlp(*widths: int, dropout: float | None = None) -> nn.Sequential:
    """Linear layers with ReLU between them: the net for tables, vectors and small flat images.

    Args:
        widths: the number of inputs, then the width of each hidden layer, then the number of outputs.
        dropout: the probability of zeroing a hidden unit while training, in [0, 1); None leaves the layers out.

    Returns:
        A model from (batch_size, ...), widths[0] values a sample, to logits of shape (batch_size, widths[-1]).

    Raises:
        ConfigError: fewer than two widths, a width that is not a positive int, or dropout outside [0, 1).

    >>> mlp(784, 64, 10)
    Sequential(
      (0): Flatten(start_dim=1, end_dim=-1)
      (1): Linear(in_features=784, out_features=64, bias=True)
      (2): ReLU()
      (3): Linear(in_features=64, out_features=10, bias=True)
    )
    """
    check_mlp(widths, dropout)  # eject: drop
    layers: list[nn.Module] = [nn.Flatten()]  # (B, ...) -> (B, widths[0])
    for inputs, outputs in pairwise(widths[:-1]):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        if dropout is not None:
            layers.append(nn.Dropout(dropout))
    layers.append(nn.Linear(widths[-2], widths[-1]))  # the outputs are logits: no ReLU
    return nn.Sequential(*layers)


def check_mlp(widths: tuple[int, ...], dropout: float | None) -> None:
    """Refuse what `mlp` cannot build, before a layer is made."""
    check_positive("mlp widths", widths)
    if len(widths) < 2:
        raise ConfigError(
            f"mlp needs at least two widths, the number of inputs and of outputs, got {widths}; "
            "write for instance mlp(784, 64, 10)"
        )
    if dropout is not None and not 0 <= dropout < 1:
        raise ConfigError(f"dropout must be a probability in [0, 1), got {dropout!r}; None leaves it out")


def check_positive(what: str, sizes: Iterable[object]) -> None:
    """Refuse sizes that are not positive ints (a bool or a NumPy integer is not an int here).

    >>> check_positive("mlp widths", (784, 0, 10))
    Traceback (most recent call last):
    clearloop.errors.ConfigError: mlp widths must be positive ints, got 0 at position 1 of (784, 0, 10)...
    """
    given = tuple(sizes)
    for position, size in enumerate(given):
        if type(size) is not int or size < 1:
            raise ConfigError(
                f"{what} must be positive ints, got {size!r} at position {position} of {given}; "
                "count features, channels or classes, and convert other number types with int()"
            )
