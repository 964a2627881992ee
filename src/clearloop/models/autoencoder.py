"""Two nets, one narrow point: what comes out is to be what went in."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise
from typing import Literal

from torch import nn

from clearloop.component import remember
from clearloop.errors import ConfigError
from clearloop.models.mlp import check_positive


@remember
def autoencoder(*widths: int, output: Literal["tanh", "sigmoid"] = "tanh") -> nn.Sequential:
    """Linear layers down to a short code and up again; `model.encoder` and `model.decoder` work apart, too.

    Args:
        widths: the number of inputs, of units in each hidden layer of the encoder, of the code; the decoder mirrors it.
        output: what bounds the outputs: "tanh" to (-1, 1), which also suits data in [0, 1], "sigmoid" to (0, 1).

    Returns:
        A model from (batch_size, ...), widths[0] values a sample, to reconstructions of shape (batch_size, widths[0]).

    Raises:
        ConfigError: fewer than two widths, a width that is not a positive int, or another output.

    Source: G. Hinton and R. Salakhutdinov, "Reducing the Dimensionality of Data with Neural Networks", 2006.

    >>> model = autoencoder(784, 128, 64, 32)
    >>> [layer.out_features for layer in model.modules() if isinstance(layer, nn.Linear)]
    [128, 64, 32, 64, 128, 784]
    """
    check_autoencoder(widths, output)  # eject: drop
    encoder: list[nn.Module] = [nn.Flatten()]  # (B, ...) -> (B, widths[0])
    for inputs, outputs in pairwise(widths):
        encoder += [nn.Linear(inputs, outputs), nn.ReLU()]
    decoder: list[nn.Module] = []
    for inputs, outputs in pairwise(reversed(widths)):
        decoder += [nn.Linear(inputs, outputs), nn.ReLU()]
    encoder.pop()  # a code that ReLU has cut to positive numbers says less
    decoder[-1] = nn.Sigmoid() if output == "sigmoid" else nn.Tanh()
    return nn.Sequential(OrderedDict(encoder=nn.Sequential(*encoder), decoder=nn.Sequential(*decoder)))


def check_autoencoder(widths: tuple[int, ...], output: str) -> None:
    """Refuse what `autoencoder` cannot build, before a layer is made."""
    check_positive("autoencoder widths", widths)
    if len(widths) < 2:
        raise ConfigError(
            f"autoencoder needs at least two widths, the number of inputs and the length of the code, got {widths}; "
            "write for instance autoencoder(784, 128, 64, 32)"
        )
    if output not in ("tanh", "sigmoid"):
        raise ConfigError(f'output must be "tanh" or "sigmoid", got {output!r}')
