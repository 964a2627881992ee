"""Losses that torch does not have, and how many samples a loss was averaged over.

A loss is any function `(preds, targets) -> 0-d tensor`, a mean over samples. torch's own (`F.cross_entropy`,
`nn.MSELoss()`) are used as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import CrossEntropyLoss, NLLLoss

from clearloop.component import unwrapped
from clearloop.errors import ConfigError
from clearloop.tree import length

LossFunc = Callable[[Any, Any], Tensor]
Count = Callable[[Any], Any]  # targets -> what the mean of a batch was divided by: samples, or the sum of weights


def mnist_loss(preds: Tensor, targets: Tensor) -> Tensor:
    """For two classes: mean of 1 - p where the target is 1, and of p where it is 0, p being sigmoid(preds).

    Args: `preds`, logits, and `targets`, 0 or 1, of the same shape.

    >>> mnist_loss(torch.tensor([0.0, 0.0]), torch.tensor([1, 0]))
    tensor(0.5000)
    """
    probabilities = preds.sigmoid()
    return torch.where(targets == 1, 1 - probabilities, probabilities).mean()


def soft_cross_entropy(preds: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy against probabilities, in nats: `preds` and `targets` both of shape (batch_size, classes).

    >>> soft_cross_entropy(torch.zeros(1, 4), torch.full((1, 4), 0.25))
    tensor(1.3863)
    """
    return -(targets * F.log_softmax(preds, dim=1)).sum(dim=1).mean()


def count_for(loss_func: LossFunc, plain: bool = True) -> Count:
    """What `loss_func` divides by: samples, or with class weights the sum of the weights of a batch's targets.

    Args: `plain`, whether no target has the value -100, which cross-entropy leaves out by default.

    Raises: ConfigError for a loss that is not a mean: sums make the learning rate depend on the batch size.
    """
    base, options = unwrapped(loss_func)
    if options.get("reduction", "mean") not in ("mean", "batchmean"):
        raise ConfigError(f"a loss must be a mean over samples, got reduction={options['reduction']!r}; use 'mean'")
    weight, ignored = options.get("weight", getattr(base, "weight", None)), options.get("ignore_index", -100)
    by_class = base in (F.cross_entropy, F.nll_loss) or isinstance(base, (CrossEntropyLoss, NLLLoss))
    if not by_class or weight is None and ignored == -100 and plain:
        return length

    def count(targets: Tensor) -> Any:
        if targets.is_floating_point():  # probabilities: torch divides by the number of samples
            return length(targets)
        kept = targets[targets != ignored]
        return len(kept) if weight is None else weight.to(kept.device)[kept].sum()

    return count
