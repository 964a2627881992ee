"""A trained model with its preprocessing and class names: all that is needed to predict, in a folder without pickle.

    predictor/
      predictor.json       how to build the model, class names, the size of images, the shape of one input
      model.safetensors    every parameter and buffer by name
      manifest.json        sizes and SHA-256 of both

Reading it needs no training code: neither the Learner nor callbacks nor anything of `clearloop.step` is imported.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors import torch as tensor_files
from torch import Tensor, nn

from clearloop import durable, environment, rng
from clearloop.buildable import build_model
from clearloop.data.arrays import check_finite
from clearloop.data.loaders import scaling_of
from clearloop.data.normalize import Normalize
from clearloop.data.table_columns import Table
from clearloop.data.table_spec import TableSpec
from clearloop.errors import CheckpointError, ConfigError, DataError, ModelError, NonFiniteError, RunError
from clearloop.imaging import colour_pixels, grey_pixels, load_image
from clearloop.predictor_folder import FORMAT, SETTINGS, WEIGHTS, read_folder, replace_folder
from clearloop.rebuild import description_of, on_no_device
from clearloop.tree import first_tensor
from clearloop.weights import check_same_tensors, named_tensors

if TYPE_CHECKING:
    from clearloop.learner import Learner

CHUNK = 256  # items that go through the model together

Model = nn.Module | Callable[[], nn.Module]  # one that is there, or a function that makes one


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model says about one item; printed, the likeliest class and the next two.

    `label`, `index` and `probabilities` (float tensor of shape (classes,)) are None where the model does not classify.
    `values` are the model's raw outputs: logits, or what it was trained to give.

    >>> print(Prediction("7", 1, torch.tensor([0.25, 0.75]), torch.tensor([0.0, 1.0986]), ("1", "7")))
    7  0.750  (then 1 0.250)
    >>> print(Prediction(None, None, None, torch.tensor([2.5, -1.0])))
    2.5, -1
    """

    label: str | None
    index: int | None
    probabilities: Tensor | None
    values: Tensor
    classes: tuple[str, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        if self.probabilities is None or self.index is None:
            numbers = [f"{value:g}" for value in self.values.flatten()[:8].tolist()]
            return ", ".join(numbers) + (f", … ({self.values.numel()} values)" if self.values.numel() > 8 else "")
        shares = self.probabilities.tolist()
        others = [i for i in self.probabilities.argsort(descending=True).tolist() if i != self.index][:2]
        then = ", ".join(f"{self.classes[i]} {shares[i]:.3f}" for i in others if shares[i] >= 0.0005)
        return f"{self.label}  {shares[self.index]:.3f}" + (f"  (then {then})" if then else "")


class Predictor:
    """Predicts for new items: image files, pictures, arrays, lists of numbers.

    Args:
        model: takes a batch, gives a tensor; it is copied to the CPU.
        classes: the names of the classes, in the order of the outputs; None where the model does not classify.
        image_size: (height, width) where the model takes images in [0, 1]; None where it takes arrays.
        input_shape: the shape of one input; (1, height, width) for images when None. Images are in colour where it is
            (3, height, width), else grey.
        input_dtype: the type of the inputs.
        normalize: what images were normalised with in training; None where they stay in [0, 1].
        table: how rows of a table become inputs; None where the model takes others.

    Raises: ConfigError for sizes that do not fit each other.

    >>> predictor = Predictor(nn.Linear(2, 2), ["no", "yes"], input_shape=(2,))
    >>> predictor([0.5, 1.0]).probabilities.shape
    torch.Size([2])
    """

    def __init__(
        self,
        model: nn.Module,
        classes: Sequence[str] | None = None,
        image_size: tuple[int, int] | None = None,
        input_shape: Sequence[int] | None = None,
        input_dtype: torch.dtype = torch.float32,
        normalize: Normalize | None = None,
        table: TableSpec | None = None,
    ) -> None:
        if input_shape is None:
            if image_size is None:
                raise ConfigError("a predictor needs to know its input: give image_size or input_shape")
            input_shape = (1, *image_size)
        colour = image_size is not None and tuple(input_shape) == (3, *image_size)
        if image_size is not None and not colour and math.prod(image_size) != math.prod(input_shape):
            raise ConfigError(f"images of {image_size} do not fill inputs of {tuple(input_shape)}; correct one of them")
        channels = 3 if colour else 1
        if normalize is not None and (image_size is None or len(normalize.mean) != channels):
            raise ConfigError(f"normalize is of {len(normalize.mean)} channels: expected images of as many")
        if table is not None and tuple(input_shape) != (table.width,):
            raise ConfigError(f"rows of {table.width} inputs do not fill inputs of {tuple(input_shape)}")
        self.model = copy.deepcopy(model).cpu().eval()
        self.model.zero_grad()
        self.classes = None if classes is None else tuple(classes)
        self.image_size = None if image_size is None else (image_size[0], image_size[1])
        self.input_shape, self.input_dtype = tuple(input_shape), input_dtype
        self.colour, self.normalize, self.table = colour, normalize, table

    @classmethod
    def of(cls, learn: Learner) -> Predictor:
        """The predictor of a Learner's model as it is evaluated now: with averaged weights, where a callback has some.

        Classes without names, in data with whole numbers as targets, are named by their numbers.
        Raises: ConfigError for a model that takes more than one tensor.
        """
        inputs, targets = learn.prepared().example
        if not isinstance(inputs, Tensor):
            raise ConfigError(f"a predictor needs a model of one tensor, got inputs in a {type(inputs).__name__}")
        with learn.evaluation():
            dls = learn.dls
            predictor = cls(
                learn.model, None, dls.image_size, inputs.shape[1:], inputs.dtype, dls.normalize, table=dls.table
            )
        with torch.inference_mode(), rng.preserved():
            outputs = predictor.model(inputs[:1].cpu())
        predictor.classes = _names(outputs, targets, learn.dls.classes)
        return predictor

    def __call__(self, item: Any, *, dark_on_light: bool = False, crop: bool = False) -> Prediction:
        """Predict for one item.

        Args:
            item: for a model of images: a picture file, a PIL image, uint8 pixels of shape (H, W), (1, H, W) or
                (H, W, 3), or floats in [0, 1] of shape (H, W) or (1, H, W), taken as they are. Otherwise an array,
                tensor or nested list of the input's shape.
            dark_on_light: the strokes are darker than the paper.
            crop: find the ink and place it as MNIST's digits are placed.

        Raises: DataError naming what was expected and what came; NonFiniteError if the outputs are not finite.
        """
        return self.batch([item], dark_on_light=dark_on_light, crop=crop)[0]

    def batch(self, items: Iterable[Any], *, dark_on_light: bool = False, crop: bool = False) -> list[Prediction]:
        """Predict for several items, each as in a single call."""
        if isinstance(items, (str, os.PathLike)):
            raise ConfigError(f"batch takes several items, got the one path {items}; give a list")
        if self.image_size is None and (dark_on_light or crop):
            raise ConfigError("dark_on_light and crop are for models of images, this one takes arrays; leave them out")
        if self.colour and (dark_on_light or crop):
            raise ConfigError("dark_on_light and crop are for models of grey images; this one sees colour")
        predictions: list[Prediction] = []
        rows: list[Tensor] = []
        for number, item in enumerate(items):
            try:
                rows.append(self._row(item, dark_on_light, crop))
            except DataError as error:
                raise DataError(f"item {number}: {error}" if number else str(error)) from error
            if len(rows) == CHUNK:
                predictions += self._predict(torch.stack(rows))
                rows = []
        return predictions + (self._predict(torch.stack(rows)) if rows else [])

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write a predictor folder, in place of the one that is there; at any moment a whole one is found by `load`.

        Raises: RunError where `folder` holds anything else, or the model has tensors that cannot be stored;
        StorageError where the disk refuses.
        """
        named = named_tensors(self.model)
        first: dict[int, str] = {}
        tied = {name: first[id(tensor)] for name, tensor in named.items() if first.setdefault(id(tensor), name) != name}
        settings = {
            "format": FORMAT,
            "clearloop": environment.clearloop_version(),
            "torch": str(torch.__version__),
            "model": description_of(self.model),
            "classes": None if self.classes is None else list(self.classes),
            "image_size": None if self.image_size is None else list(self.image_size),
            "input_shape": list(self.input_shape),
            "input_dtype": str(self.input_dtype).removeprefix("torch."),
            "normalize": None if self.normalize is None else {"mean": self.normalize.mean, "std": self.normalize.std},
            "tied": tied,
            "table": None if self.table is None else self.table.as_dict(),
        }
        try:
            kept = {name: tensor.detach() for name, tensor in named.items() if name not in tied}
            weights = tensor_files.save(
                {name: tensor.contiguous().clone() for name, tensor in kept.items()}
            )  # no views
        except (SafetensorError, RuntimeError, LookupError, ValueError) as error:
            raise RunError(f"expected dense tensors in the model, got what safetensors refuses: {error}") from error
        replace_folder(
            Path(folder).resolve(), {SETTINGS: durable.dumps_strict(settings, indent=2) + b"\n", WEIGHTS: weights}
        )

    @classmethod
    def load(cls, folder: str | os.PathLike[str], model: Model | None = None) -> Predictor:
        """Read the predictor of a run directory, or a predictor folder itself; every byte is verified first.

        Args: `model`, one like that which was saved, or a function that makes one: for models that are not of
        `clearloop.models`, which no file may import. Its weights are replaced in a copy.
        Raises: RunError where there is no predictor or its model cannot be built; CheckpointError where it is damaged
        or of another model.
        """
        folder = Path(folder)
        settings, saved = read_folder(folder)
        if model is None:
            model = _built(settings["model"], saved, folder)
        elif not isinstance(model, nn.Module):
            model = model()
        _require_same(named_tensors(model), saved, folder)
        names = ("classes", "image_size", "input_shape", "input_dtype", "normalize", "table")
        try:
            predictor = cls(model, **{name: settings[name] for name in names})
        except ConfigError as error:
            raise CheckpointError(f"{folder}, {SETTINGS}: {error}") from error
        with torch.no_grad():
            for name, tensor in named_tensors(predictor.model).items():
                tensor.copy_(saved[name])
        return predictor

    # -- from items to a batch -----------------------------------------------------------------------------------------

    def _row(self, item: Any, dark_on_light: bool, crop: bool) -> Tensor:
        """One item as the model takes it: a tensor of shape `input_shape`."""
        row = self._array(item) if self.image_size is None else self._image(item, dark_on_light, crop)
        check_finite(row[None], "the input")
        return row.reshape(self.input_shape).to(self.input_dtype)

    def _array(self, item: Any) -> Tensor:
        """One input of a model that takes arrays, of the right shape; of one for tables also a row, as a dict."""
        if self.table is not None and isinstance(item, Mapping):
            return self.table.inputs(Table({name: [value] for name, value in item.items()}, "the row"))[0]
        if isinstance(item, (str, os.PathLike)):
            raise DataError(f"expected {self._wanted()}, got the path {item}; read it first")
        array = _tensor(item)
        if array.shape != self.input_shape:
            raise DataError(f"expected {self._wanted()}, got shape {tuple(array.shape)}; give one item at a time")
        if array.dtype == torch.uint8 and array.ndim > 1 and self.input_dtype.is_floating_point:
            raise DataError(
                f"expected {self._wanted()}, prepared as in training, got bytes; convert them to floats, divided by "
                "255 if training did so"
            )
        if array.is_floating_point() and not self.input_dtype.is_floating_point:
            raise DataError(f"expected {self._wanted()}, got {array.dtype}; give whole numbers")
        return array

    def _image(self, item: Any, dark_on_light: bool, crop: bool) -> Tensor:
        """Floats as the model sees images, of shape (1, H, W), or (3, H, W) in colour."""
        from PIL import Image

        assert self.image_size is not None
        shape = (3 if self.colour else 1, *self.image_size)
        if isinstance(item, (str, os.PathLike)):
            item = load_image(item)
        if not isinstance(item, Image.Image):
            array = _tensor(item)
            if array.is_floating_point():
                self._check_floats(array)
                if not (dark_on_light or crop):
                    floats = array.reshape(1, *shape).float()
                    return (floats if self.normalize is None else self.normalize.normalized_(floats.clone()))[0]
                array = (array.reshape(self.image_size) * 255).round().byte()
            item = Image.fromarray(self._bytes(array).numpy())
        if self.colour:
            pixels = colour_pixels(item, self.image_size)  # (3, H, W)
        else:
            pixels = grey_pixels(item, self.image_size, dark_on_light, crop)  # (H, W)
        transform = self.normalize or scaling_of(pixels[None])  # the function that training uses
        ready: Tensor = transform((pixels[None], None))[0][0]
        return ready

    def _check_floats(self, array: Tensor) -> None:
        assert self.image_size is not None
        grey = () if self.colour else (self.image_size, (1, *self.image_size))
        shapes = (*grey, self.input_shape, (math.prod(self.input_shape),))
        if array.shape not in shapes:
            raise DataError(
                f"expected {self._wanted()}, got floats of shape {tuple(array.shape)}; to have it scaled, give it as "
                "uint8 pixels or as a picture"
            )
        low, high = (float(edge) for edge in torch.aminmax(array))
        if low < 0 or high > 1:
            raise DataError(f"expected floats in [0, 1], got {low:g}..{high:g}; give pixels of 0 to 255 as uint8")

    def _bytes(self, array: Tensor) -> Tensor:
        """Whole numbers as uint8 pixels of shape (h, w) or (h, w, 3 or 4)."""
        assert self.image_size is not None
        if array.dtype == torch.bool:
            array = array.byte() * 255
        if array.numel() and array.dtype != torch.uint8:
            low, high = (int(edge) for edge in torch.aminmax(array))
            if low < 0 or high > 255:
                raise DataError(f"expected pixels of 0 to 255, got {low}..{high}; scale them first")
        if array.shape == (math.prod(self.image_size),):
            array = array.reshape(self.image_size)
        if array.ndim == 3 and array.shape[0] == 1:
            array = array[0]
        elif array.ndim == 3 and array.shape[0] in (3, 4) and array.shape[2] not in (3, 4):
            array = array.permute(1, 2, 0)  # (C, h, w) -> (h, w, C)
        if not array.numel() or array.ndim != 2 and (array.ndim != 3 or array.shape[2] not in (3, 4)):
            raise DataError(f"expected {self._wanted()}, or pixels of a picture, got shape {tuple(array.shape)}")
        return array.byte().contiguous()

    def _wanted(self) -> str:
        dtype = str(self.input_dtype).removeprefix("torch.")
        if self.image_size is not None:
            shape = self.input_shape if self.colour else self.image_size
            return f"an image file, a picture, or floats of shape {shape} in [0, 1]"
        return f"a {dtype} array of shape {self.input_shape}"

    # -- from a batch to predictions -----------------------------------------------------------------------------------

    def rows(self, table: Table) -> list[Prediction]:
        """Predict for every row of a table, with a model that was trained on one.

        Raises: ConfigError for a model of other inputs; DataError for a column that is not there or a value that is not
        of its kind, with the row.
        """
        if self.table is None:
            raise ConfigError(f"expected a model that was trained on a table, got one that takes {self._wanted()}")
        inputs = self.table.inputs(table)
        return [prediction for chunk in inputs.split(CHUNK) for prediction in self._predict(chunk)]

    def _predict(self, inputs: Tensor) -> list[Prediction]:
        self.model.eval()
        with torch.inference_mode(), rng.preserved():
            outputs = first_tensor(self.model(inputs))
        if not isinstance(outputs, Tensor) or outputs.ndim == 0 or len(outputs) != len(inputs):
            came = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise ModelError(f"expected a tensor with one row an item ({len(inputs)}), got {came}; wrap the model")
        if outputs.is_floating_point() and not bool(torch.isfinite(outputs).all()):
            raise NonFiniteError("expected finite outputs of the model, got NaN or infinity; load an older checkpoint")
        return [self._prediction(values) for values in outputs.clone()]  # a clone is no inference tensor

    def _prediction(self, values: Tensor) -> Prediction:
        """`values`: the outputs for one item, (classes,); or one logit for two classes, positive for the second."""
        if self.classes is None:
            return Prediction(None, None, None, values)
        if values.numel() == 1 and len(self.classes) == 2:
            logit = values.reshape(())
            index, probabilities = int(logit > 0), torch.stack([-logit, logit]).sigmoid()
        elif values.shape == (len(self.classes),):
            index, probabilities = int(values.argmax()), values.softmax(dim=0)
        else:
            raise ModelError(
                f"expected an output for each of {len(self.classes)} classes, got shape {tuple(values.shape)}; "
                "correct the classes"
            )
        return Prediction(self.classes[index], index, probabilities, values, self.classes)


def _names(outputs: Any, targets: Any, classes: Sequence[str] | None) -> tuple[str, ...] | None:
    """The names of what the outputs, of shape (1, ...), tell apart; None where they are no logits of classes."""
    if not isinstance(outputs, Tensor) or outputs.ndim > 2:
        return None
    width = outputs.numel()
    whole = isinstance(targets, Tensor) and targets.ndim == 1 and targets.dtype == torch.int64
    if classes is None and whole:
        binary = width == 1 and bool(((targets == 0) | (targets == 1)).all())
        classes = [str(number) for number in range(2 if binary else width)]
    fits = classes is not None and (len(classes) == width > 1 or len(classes) == 2 and width == 1)
    return tuple(classes) if classes is not None and fits else None


def _tensor(item: Any) -> Tensor:
    """Numbers in any container as a tensor on the CPU, in their own type as far as torch has it."""
    if isinstance(item, Tensor):
        if item.is_complex() or item.layout is not torch.strided:
            raise DataError(f"expected real numbers in a dense tensor, got {item.dtype}, {item.layout}")
        return item.detach().cpu()
    try:
        array = np.asarray(item)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise DataError(f"expected numbers in a regular shape, got a {type(item).__name__}: {error}") from error
    if array.dtype.kind not in "buif":
        raise DataError(f"expected numbers, got a {type(item).__name__} of {array.dtype}")
    if array.dtype.kind == "f":
        array = array.astype(min(array.dtype, np.dtype(np.float64)), copy=False)  # torch has no longer floats
    elif array.dtype.kind in "ui" and array.dtype != np.uint8:
        array = array.astype(np.int64)
    return torch.from_numpy(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False)))


# -- the model ---------------------------------------------------------------------------------------------------------


def _require_same(model: Mapping[str, Tensor], saved: Mapping[str, Tensor], folder: Path) -> None:
    try:
        check_same_tensors(model, saved)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from None


def _built(description: Any, saved: Mapping[str, Tensor], folder: Path) -> nn.Module:
    try:
        _require_same(named_tensors(on_no_device(description)), saved, folder)
        with rng.preserved():
            return build_model(description)
    except ConfigError as error:
        raise RunError(f"{folder}: {error}, or Predictor.load(folder, model=...)") from error
