"""Where the data of a run lie: what the description of its loaders says of files and folders."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from functools import reduce
from importlib import import_module
from pathlib import Path
from typing import Any

from clearloop.data.mnist import MNIST_FOLDER, VALID_IMAGES
from clearloop.errors import EjectError
from clearloop.printing.draft import Draft
from clearloop.printing.expressions import value_text

FILES = {  # the arguments that are paths of files, of readers that may have several
    "npy": ("x_train", "y_train", "x_valid", "y_valid"),
    "from_file": ("path", "valid_path"),
}
Read = tuple[str, list[str], str | None]  # what --data is, lines that make train and valid, the transform of a batch


def method_of(description: Mapping[str, Any]) -> str:
    """The name of the function that reads the data: "idx", "from_folder", …"""
    return str(description["path"]).split(".")[-1]


def options_of(description: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the function that reads the data, by name, those that are left out too."""
    module, name = description["path"].split(":")
    make = reduce(getattr, name.split("."), import_module(module))
    try:
        bound = inspect.signature(make).bind(*description.get("args", []), **description.get("kwargs", {}))  # type: ignore[arg-type]
    except TypeError as error:
        raise EjectError(f"the data cannot be read as the recipe says: {error}") from None
    bound.apply_defaults()
    return bound.arguments


def files_of(description: Mapping[str, Any]) -> list[Path]:
    """The files of which the data are, where that is more than a folder or one file."""
    options = options_of(description)
    return [Path(options[name]) for name in FILES.get(method_of(description), ()) if options[name] is not None]


def data_path(description: Mapping[str, Any]) -> Path:
    """What --data has to be: the folder, the file, or the folder that all the files lie in or below."""
    files = files_of(description)
    if len(files) > 1:
        return Path(os.path.commonpath([path.absolute().parent for path in files]))
    if files:
        return files[0]
    options = options_of(description)
    return (
        MNIST_FOLDER
        if method_of(description) == "mnist"
        else Path(options["folder" if "folder" in options else "path"])
    )


def held_out(description: Mapping[str, Any]) -> Any:
    """How much of the training data is held out, as the recipe says it; None where other files are."""
    options = options_of(description)
    if method_of(description) == "mnist":
        return None if options["test"] else VALID_IMAGES
    return options.get("valid")


def seed_text(draft: Draft, seed: int) -> str:
    """The seed of the data, which need not be that of the model."""
    return "SEED" if seed == draft.recipe.seed else value_text(seed)


def folder_line(draft: Draft) -> str:
    """The line that makes a path of what --data is."""
    draft.printer.need_import("pathlib", "Path")
    return "folder = Path(arguments.data)"


def paths_in_folder(draft: Draft) -> list[str]:
    """The files of the data as expressions: of one file, --data is its path; of several, that of their folder."""
    files, folder = files_of(draft.recipe.data), data_path(draft.recipe.data)
    if len(files) == 1:
        return ["arguments.data"]
    return [f"folder / {value_text(str(path.absolute().relative_to(folder)))}" for path in files]
