"""The default engine: one step after the other, the same bits as a loop written by hand."""

from __future__ import annotations

from itertools import islice
from typing import Any, NoReturn

from torch import Tensor

from clearloop.engines.engine import Engine
from clearloop.errors import DataError
from clearloop.step import Span, TrainState, accumulated_step, pair, set_lr, train_step


class EagerEngine(Engine):
    """Runs a span with plain PyTorch; holds nothing that a checkpoint would need."""

    def run(self, state: TrainState, span: Span) -> tuple[list[Tensor], list[Any]]:
        """Take the steps of `span`: their detached losses, and the sample count that each loss is a mean over."""
        losses, counts = [], []
        forward, loss_func, opt, count = state.forward, state.loss_func, state.opt, state.count
        clip, scaler = state.clip, state.scaler
        for step in range(span.steps):
            if span.lrs is not None:
                set_lr(opt, span.lrs[step])
            if span.accumulate == 1:
                inputs, targets = pair(next(span.batches, None) or ended())
                losses.append(train_step(forward, loss_func, opt, inputs, targets, clip, scaler))
                counts.append(count(targets))
            else:
                window = [pair(batch) for batch in islice(span.batches, span.accumulate)] or ended()
                window_counts = [count(targets) for _, targets in window]
                losses.append(accumulated_step(forward, loss_func, opt, window, window_counts, clip, scaler))
                counts.append(sum(window_counts))
        return losses, counts


def ended() -> NoReturn:
    """A loader that gives fewer batches than it said would leave an epoch without an end."""
    raise DataError("the training loader ended before the number of batches that its len() announced")
