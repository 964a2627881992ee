"""Which runs can be printed, and why another cannot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NoReturn

from clearloop.buildable import is_buildable
from clearloop.errors import EjectError
from clearloop.printing.expressions import name_of
from clearloop.recipe import Recipe

RUNGS = range(1, 8)
IGNORED_CALLBACKS = (  # they do not change what is trained
    "clearloop.callbacks.checkpoints:Checkpoints",
    "clearloop.callbacks.progress:Progress",
    "clearloop.callbacks.reconstructions:SaveReconstructions",
    "clearloop.callbacks.early_stopping:EarlyStopping",  # ends a run, and its recipe says after which epoch
)
PRINTABLE = {  # what each part may be; nothing else from a recipe, which is data, gets into a program
    "model": "a function of clearloop.models",
    "loss": "a function of clearloop.losses or torch.nn.functional, or a class of torch.nn",
    "optimizer": "a class of torch.optim",
    "schedule": "a function of clearloop.schedules, or a class of torch.optim.lr_scheduler",
    "data": "DataLoaders.mnist, .idx, .npz or .npy, ImageDataLoaders.from_folder or TableDataLoaders.from_file",
}
Part = Literal["model", "loss", "optimizer", "schedule", "data"]


def refuse_unprintable(recipe: Recipe, rung: int) -> None:
    """Raise EjectError, with the reason, for a recipe that cannot be printed at any rung, or for no rung at all."""
    if rung not in RUNGS:
        raise EjectError(f"expected a rung from 1 (all by hand) to 7 (fit with loaders), got {rung}")
    callbacks = [name_of(callback) for callback in recipe.callbacks if callback.get("path") not in IGNORED_CALLBACKS]
    options = recipe.loss_func.get("kwargs", {})
    reasons = {
        f"a run of one fit, got {len(recipe.fits)}, one after the other": len(recipe.fits) != 1,
        f"the eager engine, got fast={recipe.fast!r}": recipe.fast != "off",
        f"a run on the CPU, got {recipe.device}": recipe.device != "cpu",
        f"a run of one process, got {recipe.processes}": recipe.processes != 1,
        f"float32, got precision={recipe.precision!r}": recipe.precision is not None,
        f"no callback that changes training, got {', '.join(callbacks)}": bool(callbacks),
        "a loss without class weights, got one with them": options.get("weight") is not None,
        "a loss over all targets, got one with ignore_index": options.get("ignore_index", -100) != -100,
        "a validation set, got none": recipe.fingerprint["valid"] is None,
    }
    for expected, unmet in reasons.items():
        if unmet:
            raise EjectError(f"only what can be printed exactly is printed: expected {expected}")


def data_in_a_file(description: Any) -> bool:
    """Whether a program can read the data itself, with the few functions that are printed for it."""
    return is_buildable(description, "data")


def looked_at(description: Any) -> bool:
    """Whether the data themselves say something that a program needs: sizes of pictures, columns of a table."""
    return data_in_a_file(description) and description["path"].split(".")[-1] in ("npy", "from_folder", "from_file")


def require_printable(description: Any, part: Part) -> None:
    """Raise EjectError for a part that is not ours or torch's."""
    if not is_buildable(description, part):
        refuse(description, part)


def refuse(description: Any, part: Part) -> NoReturn:
    """Raise EjectError for a part of which there is a description alone."""
    if part == "data":
        reason = "data in memory or from a loader of your own cannot be found by a program"
    elif isinstance(description, Mapping) and "path" in description:
        reason = "it is neither clearloop's nor torch's"
    elif part == "model":
        reason = "a model object does not remember the arguments that it was made with"
    else:
        reason = "it is defined in a script, a notebook cell or a lambda"
    raise EjectError(
        f"the {part} ({name_of(description)}) cannot be printed: {reason}; expected {PRINTABLE[part]}. Where the "
        "Learner is at hand, learn.eject() prints your own parts and data too"
    )
