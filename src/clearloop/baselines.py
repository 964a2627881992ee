"""What predicting the same for every sample costs: the number that a model has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from clearloop.adapters import as_loaders, default_loss, is_for_numbers
from clearloop.data.loader import as_loader
from clearloop.errors import DataError
from clearloop.losses import LossFunc, count_for
from clearloop.metrics import Metric
from clearloop.preflight import stored_targets
from clearloop.step import evaluate, pair
from clearloop.tree import length


@dataclass(frozen=True)
class Baseline:
    """What was predicted, in words, and its loss and metrics on the validation set."""

    what: str
    valid_loss: float
    metrics: dict[str, float]

    def __str__(self) -> str:
        numbers = {"valid_loss": self.valid_loss, **self.metrics}
        return f"{self.what}: " + "  ".join(f"{name} {value:.4f}" for name, value in numbers.items())


def baseline(dls: Any, loss_func: LossFunc | None = None, metrics: Sequence[Metric] = ()) -> Baseline:
    """Predict the mean of the training targets, or for classes how frequent each is, whatever the inputs.

    Args: `dls`, loaders of data in memory with a validation set; `loss_func` and `metrics` as a Learner has them.
    Raises: DataError for targets that are not in memory, or neither floats nor class indices.

    >>> from clearloop import DataLoaders, accuracy
    >>> dls = DataLoaders.arrays(torch.zeros(4, 1), [1, 1, 1, 0], torch.zeros(2, 1), [1, 1], seed=0)
    >>> print(baseline(dls, metrics=[accuracy]))
    always '1', 75.0 % of the training rows: valid_loss 0.2877  accuracy 1.0000
    """
    dls = as_loaders(dls)
    targets = stored_targets(dls.train)
    if targets is None or targets.ndim == 0:
        raise DataError(
            "a baseline needs the training targets in memory, as DataLoaders of arrays and tables have them"
        )
    if targets.is_floating_point() or is_for_numbers(loss_func):
        constant = targets.double().mean(dim=0).to(targets.dtype if targets.is_floating_point() else torch.float32)
        shown = ", ".join(f"{value:.6g}" for value in constant.flatten()[:4].tolist())
        what = f"the mean of the training targets, {shown}" + (", …" if constant.numel() > 4 else "")
    elif targets.ndim == 1 and targets.dtype == torch.int64:
        counts = torch.bincount(targets, minlength=0 if dls.classes is None else len(dls.classes))
        shares = counts.double() / counts.sum()
        constant = shares.clamp_min(1e-12).log().float()  # logits, of which cross-entropy makes the shares again
        most = int(counts.argmax())
        name = str(most) if dls.classes is None else dls.classes[most]
        what = f"always {name!r}, {100 * float(shares[most]):.1f} % of the training rows"
    else:
        raise DataError(
            f"a baseline needs floats or class indices as targets, got {targets.dtype} {tuple(targets.shape)}"
        )
    loss_func = loss_func or default_loss(targets)
    batches = map(pair, as_loader(dls.valid).batches(0))
    found = evaluate(
        lambda inputs: constant.expand(length(inputs), *constant.shape),
        loss_func,
        metrics,
        batches,
        count_for(loss_func),
    )
    return Baseline(what, found[0], {metric.name: value for metric, value in zip(metrics, found[1:], strict=True)})
