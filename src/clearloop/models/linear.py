"""One linear layer: the smallest model, and the baseline for all others."""

from __future__ import annotations

from torch import nn

from clearloop.component import remember
from clearloop.models.mlp import check_positive


@remember
def linear(inputs: int, outputs: int) -> nn.Sequential:
    """One linear layer: logistic regression with a cross-entropy loss, linear regression with a squared one.

    Args:
        inputs: the number of values a sample holds, its dimensions multiplied.
        outputs: the number of classes, or of regression targets.

    Returns:
        A model from (batch_size, ...), `inputs` values a sample, to logits of shape (batch_size, outputs).

    Raises:
        ConfigError: a number that is not a positive int.

    >>> linear(784, 10)
    Sequential(
      (0): Flatten(start_dim=1, end_dim=-1)
      (1): Linear(in_features=784, out_features=10, bias=True)
    )
    """
    check_positive("inputs and outputs of linear", (inputs, outputs))  # eject: drop
    return nn.Sequential(
        nn.Flatten(),  # (B, ...) -> (B, inputs)
        nn.Linear(inputs, outputs),  # (B, inputs) -> (B, outputs)
    )
