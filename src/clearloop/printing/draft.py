"""A program in the making: what it is made from, and for which rung."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from clearloop.data.loaders import DataLoaders
from clearloop.metrics import Metric
from clearloop.printing.printer import Printer
from clearloop.recipe import Recipe

BY_HAND = 3  # up to this rung the optimizer is hand-made
INDEXED = 4  # up to this one the loop indexes tensors


@dataclass(frozen=True)
class Arrays:
    """Data in memory, as its loaders give it: they are written beside the program."""

    tensors: Mapping[str, Any]  # x_train, y_train, x_valid, y_valid, as stored
    batch_size: int
    valid_batch_size: int
    seed: int | None  # of the order; None where that is the order of the data
    transform: Callable[[Any], Any] | None = None
    augment: Any = None


@dataclass(frozen=True)
class Objects:
    """The parts of a Learner themselves, for what their descriptions do not say."""

    model: nn.Module
    model_expr: str | Callable[[], nn.Module] | None
    namespace: Mapping[str, Any]  # what the names in `model_expr` mean
    loss_func: Any
    opt_func: Any
    schedule: Any
    metrics: Sequence[Metric]
    arrays: Arrays | None


@dataclass(frozen=True)
class Draft:
    """A program in the making."""

    printer: Printer
    recipe: Recipe
    rung: int
    objects: Objects | None
    loaders: DataLoaders | None = None  # the run's own, where the data are to be looked at

    @property
    def opened(self) -> Any:
        """The run's loaders, of which the data were asked for."""
        assert self.loaders is not None, "the loaders of files that have to be looked at are opened before"
        return self.loaders

    @property
    def plan(self) -> dict[str, Any]:
        """What the one fit set out to do."""
        return self.recipe.fits[0]

    def need(self, path: str) -> str:
        """Print a thing of this package; returns its name."""
        return self.printer.need(path)


@dataclass(frozen=True)
class Data:
    """What is said of the data: where from, how stored, in which batches."""

    source: str | None  # what --data is to be; None where the data lie beside the program
    default: str | None  # where that was; None where --data has to be given
    lines: list[str]  # that make train and valid
    transform: str | None  # from a batch as it is stored to what the model takes
    batch_size: int
    valid_batch_size: int
    seed: str | None
    augment: str | None
