"""The batches of one update, as indices into data that a program can gather from, or as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from clearloop.data.gathered import Gathered
from clearloop.engines.eager import ended
from clearloop.step import Span, TrainState, pair
from clearloop.tree import leaves, length

Part = tuple[Any, Tensor | None]  # a batch, and its share of the window's samples if there are several


@dataclass
class Window:
    """One update's batches. `made` makes a batch of indices; None where the sources are batches (inputs, targets).

    `data` is what it makes them of: tensors, and the dataset's transform.
    """

    sources: list[Any]
    counts: list[Any]
    made: Callable[[Tensor], Any] | None = None
    data: tuple[Any, ...] = ()
    counted: Any = None  # by an eager step

    @property
    def form(self) -> Any:
        """Windows of one form share a program."""
        if self.made is not None:
            return True, *map(len, self.sources)
        found = leaves(self.sources)
        return False, *((tuple(leaf.shape), leaf.dtype) if isinstance(leaf, Tensor) else repr(leaf) for leaf in found)

    @property
    def total(self) -> Any:
        """Samples, or the sum of their weights, that the loss is a mean over."""
        return sum(self.counts) if self.counted is None else self.counted

    def batches(self) -> Iterator[Any]:
        """The batches themselves, for eager steps."""
        return iter(self.sources) if self.made is None else map(self.made, self.sources)

    def given(self) -> Window:
        """The same with batches in place of indices."""
        return Window([pair(batch) for batch in self.batches()], self.counts)

    def parts(self) -> list[Part]:
        """What a program is given."""
        if len(self.sources) == 1:
            return [(self.sources[0], None)]
        shares = [torch.tensor(float(count / self.total)) for count in self.counts]
        return list(zip(self.sources, shares, strict=True))


def take(state: TrainState, span: Span, updates: int, inside: bool) -> list[Window]:
    """The windows of the next updates of a span; of the next one alone where they hold batches.

    To make batches may draw random numbers, and those of the second come after what the first step draws.

    Args: `inside`, take indices where the batches allow it, so that a program gathers by itself.
    Raises: DataError if the loader ends before.
    """
    batches, size = span.batches, span.accumulate
    if not (inside and isinstance(batches, Gathered) and gathers(state, batches)):
        pairs = [pair(batch) for batch in islice(batches, size)] or ended()
        return [Window(pairs, [state.count(targets) for _, targets in pairs])]
    indices, data = batches.take(updates * size), (batches.dataset.transform, *(batches.tensors or ()))
    groups = [indices[start : start + size] for start in range(0, len(indices), size)]
    windows = [Window(list(group), [len(each) for each in group], batches.made, data) for group in groups]
    return windows if len(windows) == updates else ended()


def gathers(state: TrainState, batches: Gathered) -> bool:
    """Whether a program can gather these batches: from tensors where the model is, with samples that count alike."""
    tensors = batches.tensors
    if tensors is None or state.count is not length:
        return False
    device = next(state.model.parameters()).device
    return all(tensor.device == device for tensor in tensors)


def is_whole(state: TrainState, window: Window, accumulate: int) -> bool:
    """Whether a window is not cut short: of as many batches as it should be, each as large as the first of the run."""
    size = length(state.example[1])
    lengths = [len(source) if window.made is not None else length(source[1]) for source in window.sources]
    return lengths == [size] * accumulate
