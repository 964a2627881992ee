"""A net for the rows of a table: numbers as they are, categories as learned vectors."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clearloop.component import remember
from clearloop.errors import ConfigError
from clearloop.models.mlp import check_positive


@remember
def table_net(
    numeric: int,
    categories: Sequence[int] = (),
    outputs: int = 1,
    hidden: Sequence[int] = (128, 64),
    *,
    dropout: float | None = None,
    center: float = 0.0,
    scale: float = 1.0,
) -> nn.Sequential:
    """Linear layers with ReLU between them, over numbers and the vectors of categories.

    Args:
        numeric: how many of the inputs are numbers; they come first.
        categories: how many codes each category has; its input holds one of them, from 0. Code 0 stands for what was
            not seen in training: its vector is 0, and stays so.
        outputs: the number of classes, or of regression targets.
        hidden: the width of each hidden layer; none makes a linear model.
        dropout: the probability of zeroing a hidden unit while training, in [0, 1); None leaves the layers out.
        center, scale: mean and deviation of a regression's targets, so that the last layer learns standardised ones
            and the outputs are in the targets' own units.

    Returns:
        A model from float32 of shape (batch_size, numeric + len(categories)) to (batch_size, outputs).

    Raises:
        ConfigError: sizes that are not positive ints, no inputs, dropout outside [0, 1), a scale that is not positive.

    >>> table_net(3, (5,), outputs=2, hidden=(8,))
    Sequential(
      (0): JoinCategories(
        numeric=3
        (embeddings): ModuleList(
          (0): Embedding(5, 3, padding_idx=0)
        )
      )
      (1): Linear(in_features=6, out_features=8, bias=True)
      (2): ReLU()
      (3): Linear(in_features=8, out_features=2, bias=True)
    )
    """
    check_table_net(numeric, categories, outputs, hidden, dropout, scale)  # eject: drop
    layers: list[nn.Module] = []
    inputs = numeric
    if categories:
        widths = [embedding_width(size) for size in categories]
        layers.append(JoinCategories(numeric, categories, widths))  # (B, numeric + categories) -> (B, inputs)
        inputs += sum(widths)
    for width_in, width_out in pairwise((inputs, *hidden)):
        layers += [nn.Linear(width_in, width_out), nn.ReLU()]
        if dropout is not None:
            layers.append(nn.Dropout(dropout))
    layers.append(nn.Linear(hidden[-1] if hidden else inputs, outputs))
    if (center, scale) != (0.0, 1.0):
        layers.append(Rescale(center, scale))
    return nn.Sequential(*layers)


class JoinCategories(nn.Module):
    """Replaces the codes of categories by learned vectors: (B, numeric + categories) -> (B, numeric + widths)."""

    def __init__(self, numeric: int, sizes: Sequence[int], widths: Sequence[int]) -> None:
        super().__init__()
        self.numeric = numeric
        self.embeddings = nn.ModuleList(
            nn.Embedding(size, width, padding_idx=0) for size, width in zip(sizes, widths, strict=True)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Numbers pass, codes become vectors."""
        codes = inputs[:, self.numeric :].long()
        vectors = [embedding(codes[:, place]) for place, embedding in enumerate(self.embeddings)]
        return torch.cat([inputs[:, : self.numeric], *vectors], dim=1)

    def extra_repr(self) -> str:
        """What the printed form says besides the embeddings."""
        return f"numeric={self.numeric}"


class Rescale(nn.Module):
    """From standardised outputs to the targets' own units: `outputs * scale + center`."""

    def __init__(self, center: float, scale: float) -> None:
        super().__init__()
        self.center, self.scale = center, scale

    def forward(self, outputs: Tensor) -> Tensor:
        """Any shape, kept."""
        return outputs * self.scale + self.center

    def extra_repr(self) -> str:
        """What the printed form says."""
        return f"center={self.center}, scale={self.scale}"


def scaled_mse_loss(preds: Tensor, targets: Tensor, scale: float = 1.0) -> Tensor:
    """Mean squared error in units of `scale`: with the targets' deviation, 1 is what predicting their mean costs.

    Learning rates then mean the same whatever the targets are counted in.

    >>> scaled_mse_loss(torch.tensor([[10.0]]), torch.tensor([[30.0]]), scale=10.0)
    tensor(4.)
    """
    return F.mse_loss(preds / scale, targets / scale)


def embedding_width(size: int) -> int:
    """How long the vector of a category with `size` codes is: half as many and one more, 32 at most.

    >>> embedding_width(3), embedding_width(500)
    (2, 32)
    """
    return min(32, size // 2 + 1)


def check_table_net(
    numeric: int,
    categories: Sequence[int],
    outputs: int,
    hidden: Sequence[int],
    dropout: float | None,
    scale: float,
) -> None:
    """Refuse what `table_net` cannot build, before a layer is made."""
    for name, sizes in (("categories", categories), ("hidden", hidden)):
        if isinstance(sizes, (str, int)):
            raise ConfigError(f"table_net needs a sequence of {name}, got {sizes!r}; write for instance (128, 64)")
    if type(numeric) is not int or numeric < 0 or not (numeric or categories):
        raise ConfigError(f"table_net needs at least one input, got numeric={numeric!r} and no categories")
    check_positive("outputs and hidden widths of table_net", (outputs, *hidden))
    check_positive("category sizes of table_net", categories)
    if dropout is not None and not 0 <= dropout < 1:
        raise ConfigError(f"dropout must be a probability in [0, 1), got {dropout!r}; None leaves it out")
    if not 0 < scale < float("inf"):
        raise ConfigError(f"scale must be a positive number, got {scale!r}")
