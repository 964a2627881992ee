"""Two nets, one narrow point between them: what comes out is to be what went in."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from clearloop.component import remember
from clearloop.errors import ConfigError
from clearloop.models.mlp import check_positive


@remember
def autoencoder(*widths: int, output: Literal["tanh", "sigmoid"] = "tanh", with_code: bool = False) -> nn.Sequential:
    """Linear layers down to a short code and up again; `model.encoder` and `model.decoder` work apart, too.

    Args:
        widths: the number of inputs, of units in each hidden layer of the encoder, of the code; the decoder mirrors it.
        output: what bounds the outputs: "tanh" to (-1, 1), which also suits data in [0, 1], "sigmoid" to (0, 1).
        with_code: whether outputs are pairs (reconstruction, code), for losses that look at the code.

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
    parts: OrderedDict[str, nn.Module] = OrderedDict(encoder=nn.Sequential(*encoder), decoder=nn.Sequential(*decoder))
    return WithCode(parts) if with_code else nn.Sequential(parts)


def check_autoencoder(widths: tuple[int, ...], output: str) -> None:
    """Refuse what `autoencoder` cannot build, before a layer is made."""
    check_positive("autoencoder widths", widths)
    if len(widths) < 2:
        raise ConfigError(
            f"autoencoder needs at least two widths, the number of inputs and the length of the code, got {widths}; "
            "write for instance autoencoder(784, 128, 64, 32)"
        )
    check_output(output)


def check_output(output: str) -> None:
    """Refuse what is no bound of outputs."""
    if output not in ("tanh", "sigmoid"):
        raise ConfigError(f'output must be "tanh" or "sigmoid", got {output!r}')


@remember
def conv_autoencoder(
    code: int = 32,
    channels: int = 1,
    widths: Sequence[int] = (16, 32),
    size: int = 28,
    *,
    output: Literal["tanh", "sigmoid"] = "tanh",
    with_code: bool = False,
) -> nn.Sequential:
    """Convolutions down to a short code and up again, for square images: neighbouring pixels share what is learned.

    Args:
        code: the length of the code.
        channels: of the images.
        widths: feature maps of each convolution, which halves the side of what it is given.
        size: the side of the images, in pixels; halved once for each of `widths` without a remainder.
        output: what bounds the outputs, as in `autoencoder`.
        with_code: whether outputs are pairs (reconstruction, code), for losses that look at the code.

    Returns:
        A model from (batch_size, channels, size, size) to reconstructions of shape (batch_size, channels * size**2).

    Raises:
        ConfigError: a number that is not a positive int, a size that cannot be halved so often, or another output.

    >>> import torch
    >>> conv_autoencoder(code=8)(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 784])
    """
    check_conv_autoencoder((code, channels, *widths, size), len(widths), output)  # eject: drop
    side = size // 2 ** len(widths)  # of the last feature maps
    encoder: list[nn.Module] = []
    for inputs, outputs in pairwise((channels, *widths)):
        encoder += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.ReLU()]  # (B, C, H, W) -> (B, C', H/2, W/2)
    encoder += [nn.Flatten(), nn.Linear(widths[-1] * side**2, code)]
    decoder: list[nn.Module] = [nn.Linear(code, widths[-1] * side**2), nn.Unflatten(1, (widths[-1], side, side))]
    for inputs, outputs in pairwise(reversed((channels, *widths))):
        decoder += [nn.ReLU(), nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)]  # side times 2
    decoder += [nn.Sigmoid() if output == "sigmoid" else nn.Tanh(), nn.Flatten()]
    parts: OrderedDict[str, nn.Module] = OrderedDict(encoder=nn.Sequential(*encoder), decoder=nn.Sequential(*decoder))
    return WithCode(parts) if with_code else nn.Sequential(parts)


def check_conv_autoencoder(sizes: Sequence[int], halvings: int, output: str) -> None:
    """Refuse what `conv_autoencoder` cannot build, before a layer is made."""
    check_positive("sizes of conv_autoencoder", sizes)
    check_output(output)
    if not halvings or sizes[-1] % 2**halvings:
        raise ConfigError(
            f"conv_autoencoder halves the side of the images once for each of {halvings} widths, got a side of "
            f"{sizes[-1]}; give fewer widths, at least one, or images of {2 ** max(1, halvings)} times a whole number"
        )


class WithCode(nn.Sequential):
    """Encoder and decoder in a row, whose outputs are pairs (reconstruction, code)."""

    encoder: nn.Sequential
    decoder: nn.Sequential

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(batch_size, ...) -> (batch_size, values), (batch_size, code)."""
        code = self.encoder(x)
        return self.decoder(code), code


def sparse_mse(preds: tuple[Tensor, Tensor], targets: Tensor, penalty: float = 1e-3) -> Tensor:
    """Mean squared error of the reconstruction, plus `penalty` times the mean size of the code's numbers.

    The second part pulls numbers of the code to 0 that do not pay for themselves, so that few are in use at a time.

    Args: `preds`, pairs (reconstruction, code) as `autoencoder(..., with_code=True)` gives them.

    >>> import torch
    >>> sparse_mse((torch.ones(2, 3), torch.tensor([[1.0, -3.0]])), torch.zeros(2, 3), penalty=0.5)
    tensor(2.)
    """
    outputs, code = preds
    return F.mse_loss(outputs, targets) + penalty * code.abs().mean()
