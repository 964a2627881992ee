"""What happened: one record an epoch, one loss, learning rate and sample count a step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from clearloop.errors import NonFiniteError


@dataclass(frozen=True)
class EpochRecord:
    """One epoch: losses are means over samples; `seconds` is wall clock.

    `steps` counts all optimizer steps so far, `fast_steps` those of them that were compiled ones.
    """

    epoch: int
    train_loss: float
    valid_loss: float | None
    metrics: dict[str, float]
    lr: float
    steps: int
    seconds: float
    fast_steps: int = 0


@dataclass
class History:
    """Records of a run. Losses of recent steps stay on the device until `look` brings them over.

    >>> history = History()
    >>> history.add_steps([torch.tensor(2.0), torch.tensor(1.0)], [0.1, 0.1], [64, 32])
    >>> round(history.mean_loss(since=0), 4)
    1.6667
    """

    epochs: list[EpochRecord] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)  # one a step, as `look` found them
    lrs: list[float] = field(default_factory=list)
    counts: list[Any] = field(default_factory=list)  # samples, or sums of weights
    pending: list[Tensor] = field(default_factory=list)

    @property
    def values(self) -> list[list[float | None]]:
        """A row an epoch: training loss, validation loss, then each metric."""
        return [[record.train_loss, record.valid_loss, *record.metrics.values()] for record in self.epochs]

    @property
    def steps(self) -> int:
        """Optimizer steps so far."""
        return len(self.lrs)

    def add_steps(self, losses: Sequence[Tensor], lrs: Sequence[float], counts: Sequence[Any]) -> None:
        """Note K steps; nothing waits for the device."""
        self.pending += torch.stack([*losses]).unbind()  # one block of memory: many small ones would hold up large ones
        self.lrs += lrs
        self.counts += counts

    def look(self) -> None:
        """Bring the losses over (this waits for the device) and refuse the first that is not finite."""
        if not self.pending:
            return
        losses = torch.stack(self.pending).tolist()
        for step, loss in enumerate(losses, start=len(self.losses)):
            if not math.isfinite(loss):
                lr, self.pending = self.lrs[step], []  # a fit that begins again does not meet them once more
                del self.lrs[step:], self.counts[step:]
                self.losses += losses[: step - len(self.losses)]
                raise NonFiniteError.at(step, loss, lr)
        self.losses += losses
        self.pending = []

    def mean_loss(self, since: int) -> float:
        """The mean over samples of the losses from step `since` on."""
        self.look()
        return weighted_mean(self.losses[since:], [float(count) for count in self.counts[since:]])


def weighted_mean(losses: Sequence[float], counts: Sequence[float]) -> float:
    """The mean over samples of losses that are means over `counts` samples each, summed without rounding.

    >>> weighted_mean([2.0, 1.0], [64, 32])
    1.6666666666666667
    """
    return math.fsum(loss * count for loss, count in zip(losses, counts, strict=True)) / math.fsum(counts)
