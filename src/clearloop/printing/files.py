"""What a program says of data in files: where they lie, and the lines that read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clearloop.errors import EjectError
from clearloop.printing.draft import INDEXED, Data, Draft
from clearloop.printing.expressions import print_augmentation, value_text
from clearloop.printing.pictures import read_pictures
from clearloop.printing.sources import (
    Read,
    data_path,
    folder_line,
    held_out,
    method_of,
    options_of,
    paths_in_folder,
    seed_text,
)
from clearloop.printing.table import read_table


def data_in_files(draft: Draft) -> Data:
    """Data that a function of DataLoaders read from files."""
    description = draft.recipe.data
    options, method = options_of(description), method_of(description)
    readers = {"npz": read_npz, "npy": read_npy, "from_folder": read_pictures, "from_file": read_table}
    source, lines, transform = readers.get(method, read_idx)(draft, options)
    batch_size, valid_batch_size, augment = options["batch_size"], options["valid_batch_size"], options.get("augment")
    if valid_batch_size is None and method == "from_folder":
        valid_batch_size = 2 * batch_size
    if type(batch_size) is not int or type(valid_batch_size) is not int:
        raise EjectError(f"expected whole numbers for batch sizes, got {batch_size!r} and {valid_batch_size!r}")
    return Data(
        source,
        None if method == "mnist" else str(data_path(description)),
        lines,
        transform,
        batch_size,
        valid_batch_size,
        seed_text(draft, options["seed"]),
        None if augment is None else print_augmentation(draft.printer, augment),
    )


# -- one function a kind: what --data is, lines that make train and valid, and the transform of a batch ---------------


def read_idx(draft: Draft, options: Mapping[str, Any]) -> Read:
    """MNIST's files."""
    held = held_out(draft.recipe.data)
    arguments = ["arguments.data", *([] if held is None else [f"hold_out={value_text(held)}"])]
    parts = draft.need("clearloop.data.loaders:idx_parts")
    scaling = "images_as_targets" if options["targets"] == "inputs" else "scale_images"
    source = f"folder with the IDX files {'train-* and t10k-*' if held is None else 'train-*'}, gzipped or not"
    lines = [f"train, valid = {parts}({', '.join(arguments)})"]
    return source, lines, draft.need(f"clearloop.data.loaders:{scaling}")


def read_npz(draft: Draft, options: Mapping[str, Any]) -> Read:
    """One archive of arrays."""
    valid, seed = options["valid"], seed_text(draft, options["seed"])
    arguments = ["arguments.data", *([] if valid is None else [f"valid={value_text(valid)}"]), f"seed={seed}"]
    lines = [
        f"train, valid = {draft.need('clearloop.rungs.loader:npz_parts')}({', '.join(arguments)})",
        f"scale = {draft.need('clearloop.data.loaders:scaling_of')}(train[0])",
    ]
    return "file with the arrays, an .npz archive", lines, "scale"


def read_npy(draft: Draft, options: Mapping[str, Any]) -> Read:
    """Arrays in files of their own, of which rows are read when they are needed, or all of them where indexed."""
    names = paths_in_folder(draft)
    if len(names) == 4:
        mapped = draft.need("clearloop.rungs.mapped:mapped")
        lines = [f"train = {mapped}({names[0]}, {names[1]})", f"valid = {mapped}({names[2]}, {names[3]})"]
    elif len(names) == 2:
        valid = value_text(0.2 if options["valid"] is None else options["valid"])
        parts, seed = draft.need("clearloop.rungs.mapped:mapped_parts"), seed_text(draft, options["seed"])
        lines = [f"train, valid = {parts}({', '.join(names)}, valid={valid}, seed={seed})"]
    else:
        raise EjectError("expected files of inputs and targets, two or four, got three; give x_valid and y_valid")
    if draft.rung <= INDEXED:
        whole = draft.need("clearloop.rungs.mapped:in_memory")
        lines.append(f"train, valid = {whole}(train), {whole}(valid)")
    transform = draft.need("clearloop.rungs.mapped:tensors_of")
    return "folder with the arrays, .npy files", [folder_line(draft), *lines], transform
