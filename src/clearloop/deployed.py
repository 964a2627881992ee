"""A model with its preprocessing in one module: what an exported file computes, from what a user has to probabilities.

    Pictures   uint8 pixels, as an image library gives them         ─┐
    Rows       numbers and codes of a table, as its file has them    ├─▶ Deployed ─▶ logits, probabilities
    Prepared   inputs as the model takes them                        │              or values, or picture and code
    Stored     what the data set stores, before its own transform   ─┘

Each of the four knows how to come from an input of the model back to what a user has: so real data can check the file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from clearloop.data.dataset import Dataset
from clearloop.data.normalize import Normalize
from clearloop.data.table_spec import TableSpec
from clearloop.errors import ModelError
from clearloop.predictor import Predictor
from clearloop.tree import leaves

OwnTransform = tuple[Dataset, Callable[[Any], Any]]  # a data set and what it does with its batches

GREY = (
    "8-bit grey pixels, bright strokes on black as in training; another size is scaled to height x width, keeping its "
    "proportions, and padded with black"
)
COLOUR = (
    "8-bit RGB pixels, channels first; another size is scaled to height x width, keeping its proportions, and padded "
    "with black"
)
ROWS = (
    "one column a value, in the order of 'columns': numbers as they are, dates as days since 1970-01-01, NaN where a "
    "value is missing; a category is its place in 'categories', counted from 1, and 0 where it is not among them "
    "(null stands for a missing one)"
)


class Preparation(Protocol):
    """What comes before the model in an exported file: a module, what it is called, and its way back."""

    name: str  # of the file's input
    how: str  # what a user has to do before

    def __call__(self, given: Tensor) -> Tensor:
        """What a user has, a batch, to inputs of the model."""
        ...

    def undone(self, inputs: Tensor) -> Tensor:
        """Inputs of the model back to what a user has."""
        ...


class Pictures(nn.Module):
    """Bytes to what a model of pictures sees: uint8 (B, H, W), or (B, 3, H, W) in colour, to (B, *input_shape)."""

    name = "pictures"
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        image_size: tuple[int, int],
        shape: Sequence[int],
        dtype: torch.dtype,
        colour: bool,
        norm: Normalize | None,
    ) -> None:
        super().__init__()
        self.image_size, self.shape, self.dtype, self.colour = image_size, tuple(shape), dtype, colour
        self.normalized = norm is not None
        mean, std = ((0.0,), (1.0,)) if norm is None else (norm.mean, norm.std)
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))
        self.how = COLOUR if colour else GREY

    def forward(self, given: Tensor) -> Tensor:
        """As training prepares them, in the same order of operations."""
        images = (given if self.colour else given.unsqueeze(1)).float().div(255)  # (B, C, H, W)
        if self.normalized:
            images = (images - self.mean) / self.std
        return images.reshape(given.shape[0], *self.shape).to(self.dtype)

    def undone(self, inputs: Tensor) -> Tensor:
        """The nearest bytes."""
        images = inputs.float().reshape(len(inputs), 3 if self.colour else 1, *self.image_size)
        pixels = ((images * self.std + self.mean) * 255).round().clamp(0, 255).byte()
        return pixels if self.colour else pixels[:, 0]


class Rows(nn.Module):
    """Rows of a table to what `TableSpec.inputs` makes of them: float64 (B, columns) to float32 (B, width).

    Float64, as the table's own numbers are: large ones (years, prices) less their mean keep all their digits.
    """

    name = "rows"
    how = ROWS
    numbers: Tensor

    def __init__(self, spec: TableSpec) -> None:
        super().__init__()
        self.spec = spec
        numbers = [(column.median, column.mean, column.std) for column in spec.columns]
        self.register_buffer("numbers", torch.tensor(numbers, dtype=torch.float64))  # plain ones become float32 in ONNX

    def forward(self, given: Tensor) -> Tensor:
        """Gaps filled, numbers standardised, codes that no category has made 0."""
        parts = []
        for place, column in enumerate(self.spec.columns):
            values, (median, mean, std) = given[:, place], self.numbers[place].unbind()
            if column.kind == "category":
                known = (values >= 0) & (values <= len(column.categories))
                parts.append(torch.where(known, values, torch.zeros_like(values)).float())
                continue
            missing = torch.isnan(values)
            parts.append(((torch.where(missing, median, values) - mean) / std).float())
            if column.gaps:
                parts.append(missing.float())
        return torch.stack(parts, dim=1)  # (B, width)

    def undone(self, inputs: Tensor) -> Tensor:
        """The numbers and codes behind standardised ones."""
        parts, place = [], 0
        for column in self.spec.columns:
            values = inputs[:, place].double()
            place += 1
            if column.kind == "category":
                parts.append(values)
                continue
            values = values * column.std + column.mean
            if column.gaps:
                values = torch.where(inputs[:, place] != 0, torch.nan, values)
                place += 1
            parts.append(values)
        return torch.stack(parts, dim=1)


class Prepared(nn.Module):
    """Inputs as the model takes them, of any kind: (B, *input_shape)."""

    name = "inputs"
    how = "as in training: what the data set gives for a sample"

    def forward(self, given: Tensor) -> Tensor:
        """As they are."""
        return given

    def undone(self, inputs: Tensor) -> Tensor:
        """As they are."""
        return inputs


class Stored(nn.Module):
    """What a data set stores, before its own transform, which becomes part of the file as far as it is torch code."""

    name = "inputs"
    how = "as the data set stores them, before its transform, which the file holds"

    def __init__(self, transform: Callable[[Any], Any], targets: Tensor | None) -> None:
        super().__init__()
        self.transform = transform
        self.target = None if targets is None else (tuple(targets.shape[1:]), targets.dtype)

    def forward(self, given: Tensor) -> Tensor:
        """What the transform makes of a batch; it may look at the form of targets, which are zeros here."""
        targets = None
        if self.target is not None:
            targets = torch.zeros((given.shape[0], *self.target[0]), dtype=self.target[1])
        inputs: Tensor = self.transform((given, targets))[0]
        return inputs

    def undone(self, inputs: Tensor) -> Tensor:
        """There is no way back: the stored samples themselves are asked for."""
        raise NotImplementedError


class Deployed(nn.Module):
    """Preparation, model, and what its outputs are called: the module that is exported.

    Args: `predictor`, whose model is in evaluation mode, with averaged weights where a callback had some.
    `example`: a small batch of inputs of the model.
    Raises: ModelError for outputs that are no tensors.

    >>> from clearloop.models import mlp
    >>> predictor = Predictor(mlp(4, 2), ["no", "yes"], image_size=(2, 2))
    >>> deployed = Deployed(predictor, torch.zeros(1, 1, 2, 2))
    >>> deployed.names, deployed(torch.zeros(3, 2, 2, dtype=torch.uint8))[1].shape
    (('logits', 'probabilities'), torch.Size([3, 2]))
    """

    def __init__(self, predictor: Predictor, example: Tensor, preparation: Preparation | None = None) -> None:
        super().__init__()
        self.model = predictor.model
        self.prepare = preparation_of(predictor) if preparation is None else preparation
        self.classes = 0 if predictor.classes is None else len(predictor.classes)
        self.coding = is_coder(self.model)
        with torch.no_grad():
            outputs = self.raw(example)
        if not outputs or not all(isinstance(output, Tensor) for output in outputs):
            kinds = ", ".join(type(output).__name__ for output in outputs)
            raise ModelError(f"expected a model whose outputs are tensors, got {kinds}; wrap it")
        self.names = output_names(len(outputs), self.classes > 0, coder(self.model))

    def forward(self, given: Tensor) -> tuple[Tensor, ...]:
        """What a user has to all outputs, in the order of `names`."""
        outputs = self.raw(self.prepare(given))
        return (*outputs, probabilities(outputs[0], self.classes)) if self.classes else tuple(outputs)

    def raw(self, inputs: Tensor) -> list[Tensor]:
        """The model's outputs; of an autoencoder also the code, where it keeps that to itself."""
        if self.coding:
            code = self.model.encoder(inputs)  # type: ignore[operator]
            return [self.model.decoder(code), code]  # type: ignore[operator]
        return leaves(self.model(inputs))


def preparation_of(predictor: Predictor) -> Preparation:
    """What a predictor does with pictures and rows; other inputs come prepared."""
    if predictor.table is not None:
        return Rows(predictor.table)
    if predictor.image_size is not None:
        shape, dtype = predictor.input_shape, predictor.input_dtype
        return Pictures(predictor.image_size, shape, dtype, predictor.colour, predictor.normalize)
    return Prepared()


def own_transform(loader: Any) -> OwnTransform | None:
    """The data set of a loader with a transform that is not one of clearloop's, and that transform."""
    data = getattr(loader, "dataset", None)
    if not isinstance(data, Dataset) or data.transform is None:
        return None
    transform = data.transform
    home = getattr(transform, "__module__", None) or type(transform).__module__
    return None if home.startswith("clearloop.") else (data, transform)


def coder(model: nn.Module) -> bool:
    """Whether a model is an encoder and a decoder."""
    return all(isinstance(getattr(model, part, None), nn.Module) for part in ("encoder", "decoder"))


def is_coder(model: nn.Module) -> bool:
    """Whether a model is its encoder, then its decoder, and nothing else."""
    return type(model) is nn.Sequential and [name for name, _ in model.named_children()] == ["encoder", "decoder"]


def output_names(count: int, classifies: bool, codes: bool) -> tuple[str, ...]:
    """What an exported file calls a model's outputs.

    >>> output_names(1, True, False), output_names(2, False, True), output_names(2, False, False)
    (('logits', 'probabilities'), ('reconstruction', 'code'), ('values', 'values_1'))
    """
    if codes and count == 2:
        return ("reconstruction", "code")
    first = "logits" if classifies else "reconstruction" if codes else "values"
    rest = tuple(f"{first}_{number}" for number in range(1, count))
    return (first, *rest, "probabilities") if classifies else (first, *rest)


def probabilities(logits: Tensor, classes: int) -> Tensor:
    """Of each class: (B, classes); one logit for two classes is positive for the second.

    >>> probabilities(torch.tensor([[0.0]]), 2)
    tensor([[0.5000, 0.5000]])
    """
    if classes == 2 and logits[0].numel() == 1:
        logit = logits.reshape(logits.shape[0], 1)
        return torch.cat([-logit, logit], dim=1).sigmoid()
    return logits.softmax(dim=1)
