"""Eject: a run as one plain PyTorch program, put together from the very functions that the library is made of."""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from clearloop import durable
from clearloop.buildable import build
from clearloop.data.dataset import Dataset, ItemDataset, is_plain
from clearloop.data.loader import DataLoader, ForeignLoader, Loader, collate
from clearloop.data.loaders import DataLoaders
from clearloop.data.normalize import Normalize
from clearloop.data.sampler import SequentialSampler, ShuffleSampler
from clearloop.errors import ClearloopError, EjectError
from clearloop.guard import evaluating
from clearloop.printing.assembly import assemble
from clearloop.printing.byhand import require_rows
from clearloop.printing.draft import Arrays, Objects
from clearloop.printing.printable import data_in_a_file, looked_at, refuse_unprintable
from clearloop.recipe import Recipe
from clearloop.rundir import RunDirectory

if TYPE_CHECKING:
    from clearloop.learner import Learner


@dataclass(frozen=True)
class Program:
    """The text of a program, and the arrays that must lie beside it where text cannot give them.

    Args: `weights`, the first ones, where the seed does not give them; `data`, where they were in memory.
    """

    text: str
    weights: Mapping[str, Tensor] | None = None
    data: Mapping[str, Tensor] | None = None

    def __str__(self) -> str:
        return self.text

    def write(self, path: str | Path) -> Path:
        """Write the program, and `<name>.weights.npz` and `<name>.data.npz` beside it if it needs them.

        Raises: StorageError.
        """
        path = Path(path)
        if not path.parent.is_dir():
            raise EjectError(f"the program cannot be written: there is no folder {path.parent}")
        for kind, tensors in (("weights", self.weights), ("data", self.data)):
            if tensors is not None:
                durable.write_file(path.with_suffix(f".{kind}.npz"), packed(tensors))
        durable.write_file(path, self.text.encode())
        return path


def packed(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors as the bytes of an .npz file."""
    import numpy as np

    buffer = io.BytesIO()
    np.savez(buffer, **{name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()})  # type: ignore[arg-type]
    return buffer.getvalue()


def eject(run: str | Path, rung: int = 7) -> Program:
    """Print a run as one Python file that needs torch and NumPy alone, at a level of abstraction.

    Args: `rung`, from 1 (raw layers, updates by hand) over 2 (`model.parameters()`), 3 (an optimizer by hand), 4 (one
    of torch's), 5 (a Dataset) and 6 (DataLoaders) to 7 (`fit`).
    Raises: EjectError naming what cannot be printed, and why; RunError for a folder that holds no run.
    """
    directory = RunDirectory.open(run)
    recipe = Recipe.read(directory.read_recipe(), str(directory.recipe))
    refuse_unprintable(recipe, rung)
    weights = None
    if recipe.initial_weights == "unknown":
        raise EjectError(
            f"{run} was first saved after it had been loaded and trained on, so its first weights are not known; train "
            "with the callback Checkpoints(folder), or from the command line"
        )
    if recipe.initial_weights == "file":
        from clearloop import packing

        weights = packing.load(directory.path / "initial")["model"]
    loaders = loaders_of(recipe, run) if looked_at(recipe.data) else None
    return checked(Program(assemble(recipe, rung, weights is not None, None, loaders), weights))


def loaders_of(recipe: Recipe, run: str | Path) -> DataLoaders:
    """The loaders that a recipe describes. Raises EjectError where the data are gone, or others than they were."""
    from clearloop.saving import fingerprint

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the run has warned
            dls: DataLoaders = build(recipe.data, "data")
    except ClearloopError as error:
        raise EjectError(f"the data that {run} was trained on cannot be read again: {error}") from None
    for part, loader in (("train", dls.train), ("valid", dls.valid)):
        if fingerprint(loader) != recipe.fingerprint[part]:
            raise EjectError(f"the {part} data are no longer those that {run} was trained on; put them back")
    return dls


def eject_learner(learn: Learner, rung: int, model_expr: str | Callable[[], nn.Module] | None) -> Program:
    """`Learner.eject`: the same for a Learner at hand, with its own model, loss, metrics and data.

    Args: `model_expr`, how the model was made, where it does not remember: an expression such as `"Net(64)"`, or a
    function without arguments that makes it.
    """
    from clearloop.saving import recipe_of, weights_come_from_seed

    if not learn.plans:
        raise EjectError("there is nothing to print yet: call fit first")
    recipe = recipe_of(learn)
    for loader, part in ((learn.dls.train, "training"), (learn.dls.valid, "validation")):
        if isinstance(loader, ForeignLoader):  # of which a recipe knows nothing
            stored(loader, part)
    refuse_unprintable(recipe, rung)
    require_plain(learn)
    require_unchanged(learn, recipe)
    if learn.first_weights is None:
        raise EjectError("the weights that training began with are not known: the Learner was loaded without them")
    arrays = None if data_in_a_file(recipe.data) else arrays_of(learn)
    namespace = {
        name: value for module in ("__main__", type(learn.model).__module__) for name, value in names_in(module)
    }
    objects = Objects(
        learn.model, model_expr, namespace, learn.loss_func, learn.opt_func, learn.schedule, learn.metrics, arrays
    )
    weights = None if weights_come_from_seed(learn, learn.first_weights) else learn.first_weights
    halves = [name for name, tensor in (weights or {}).items() if tensor.dtype == torch.bfloat16]
    if halves:
        raise EjectError(
            f"the first weights cannot be written: expected types that NumPy has, got bfloat16 ({halves[0]})"
        )
    loaders = learn.dls if looked_at(recipe.data) else None
    text = assemble(recipe, rung, weights is not None, objects, loaders)
    if rung == 1:
        with evaluating(learn.model):
            require_rows(learn.model, learn.prepared().example[0][:2])
    return checked(Program(text, weights, None if arrays is None else arrays.tensors))


def require_plain(learn: Learner) -> None:
    """Raise EjectError for a model with hooks, which its source does not show, or that evaluation changes."""
    for name, module in learn.model.named_modules():
        hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        if any(getattr(module, kind, None) for kind in hooks):
            raise EjectError(
                f"the model has hooks, at {name or 'its top'}, which a program would not have; remove them"
            )
    for name, parameter in learn.model.named_parameters():
        if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
            raise EjectError(f"the weights {name} have hooks, which a program would not have; remove them")
    state = learn.prepared()
    with evaluating(learn.model), torch.no_grad():
        before = {name: buffer.clone() for name, buffer in learn.model.named_buffers()}
        state.forward(state.example[0])
        changed = [name for name, buffer in learn.model.named_buffers() if not torch.equal(before[name], buffer)]
    if changed:
        raise EjectError(
            f"the model changes its buffer {changed[0]!r} in evaluation too, which the Learner undoes and a program "
            "would not; change it only `if self.training`"
        )


def require_unchanged(learn: Learner, recipe: Recipe) -> None:
    """Raise EjectError for a Learner of a run on disk whose data, loss or optimizer are no longer the run's."""
    if learn.run is None or not learn.run.run.recipe.exists():
        return
    then = Recipe.read(learn.run.run.read_recipe(), str(learn.run.run.recipe))
    for part in ("fingerprint", "loss_func", "opt_func"):
        if getattr(then, part) != getattr(recipe, part):
            raise EjectError(f"the {part} of this Learner is not the one that {learn.run.path} was trained with")


def names_in(module: str) -> Iterable[tuple[str, Any]]:
    """What the names in a module mean; nothing where it is not loaded."""
    return vars(sys.modules[module]).items() if module in sys.modules else ()


def checked(program: Program) -> Program:
    """The program, which compiles."""
    compile(program.text, "<ejected>", "exec")
    return program


def arrays_of(learn: Learner) -> Arrays:
    """The data of a Learner's loaders, to be written beside a program. Raises EjectError for other data."""
    train, valid = learn.dls.train, learn.dls.valid
    assert valid is not None, "a run without a validation set is refused before"
    (x_train, y_train), (x_valid, y_valid) = stored(train, "training"), stored(valid, "validation")
    assert isinstance(train, DataLoader)
    assert isinstance(valid, DataLoader)
    if isinstance(valid.sampler, ShuffleSampler):
        order = valid.sampler.order(0)  # evaluation is always in this one
        x_valid, y_valid = x_valid[order], y_valid[order]
    dataset = train.dataset
    transform = dataset.transform if isinstance(dataset, Dataset) else None
    other = valid.dataset.transform if isinstance(valid.dataset, Dataset) else None
    if not does_the_same(transform, other):
        raise EjectError("training and validation data have different transforms: expected the same, or none")
    return Arrays(
        {"x_train": x_train, "y_train": y_train, "x_valid": x_valid, "y_valid": y_valid},
        train.batch_size,
        valid.batch_size,
        train.sampler.seed if isinstance(train.sampler, ShuffleSampler) else None,
        transform,
        train.augment,
    )


def does_the_same(transform: Any, other: Any) -> bool:
    """Whether two transforms are one, or normalise with the same numbers."""
    if isinstance(transform, Normalize) and isinstance(other, Normalize):
        return (transform.mean, transform.std) == (other.mean, other.std)
    return transform is other


def stored(loader: Loader, part: str) -> tuple[Tensor, Tensor]:
    """Inputs and targets of all samples, as they are stored, in the order of the data."""
    what = f"the {part} data cannot be printed: expected"
    if not isinstance(loader, DataLoader):
        raise EjectError(f"{what} a DataLoader of clearloop's, got one that keeps its own order")
    if loader.drop_last:
        raise EjectError(f"{what} drop_last=False")
    if type(loader.sampler) not in (SequentialSampler, ShuffleSampler):
        raise EjectError(f"{what} data in their own order or shuffled, got a {type(loader.sampler).__name__}")
    dataset = loader.dataset
    if isinstance(dataset, Dataset):
        batch = dataset.gather(slice(0, len(dataset)))
    elif isinstance(dataset, ItemDataset) and is_plain(dataset.items) and loader.collate_fn is collate:
        batch = collate([dataset[index] for index in range(len(dataset))])
    else:
        raise EjectError(
            f"{what} a TensorDataset or a list of pairs, got {type(getattr(dataset, 'items', dataset)).__name__}"
        )
    if not isinstance(batch, (tuple, list)) or len(batch) != 2 or not all(torch.is_tensor(part) for part in batch):
        raise EjectError(f"{what} pairs of two tensors, inputs and targets")
    if any(tensor.dtype == torch.bfloat16 for tensor in batch):
        raise EjectError(f"{what} tensors of a type that NumPy has, got bfloat16")
    return batch[0], batch[1]
