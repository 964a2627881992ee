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
    "clearloop.callbacks.early_stopping:EarlyStopping",  # ends a run, and its recipe says after which epoch
)
PRINTABLE = {  # what each part may be; nothing else from a recipe, which is data, gets into a program
    "model": "a function of clearloop.models",
    "loss": "a function of clearloop.losses or torch.nn.functional, or a class of torch.nn",
    "optimizer": "a class of torch.optim",
    "schedule": "a function of clearloop.schedules, or a class of torch.optim.lr_scheduler",
    "data": "DataLoaders.mnist, .idx or .npz",
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
    ours = is_buildable(description, "data") and description["path"].startswith("clearloop.data.loaders:")
    return ours and not description["path"].endswith(".npy")  # mapped files may not fit into memory


def require_printable(description: Any, part: Part) -> None:
    """Raise EjectError for a part that is not ours or torch's."""
    if not (data_in_a_file(description) if part == "data" else is_buildable(description, part)):
        refuse(description, part)


def refuse(description: Any, part: Part) -> NoReturn:
    """Raise EjectError for a part of which there is a description alone."""
    if part == "data":
        reason = "data in memory, in folders, or from a loader of your own cannot be found by a program"
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
