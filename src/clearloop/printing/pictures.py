"""What a program says of pictures in folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clearloop.component import import_path
from clearloop.data.images import HELD_OUT
from clearloop.data.normalize import Normalize
from clearloop.errors import EjectError
from clearloop.printing.draft import Draft
from clearloop.printing.expressions import value_text
from clearloop.printing.sources import Read, data_path, folder_line, seed_text
from clearloop.rungs import pictures

SOURCE = "folder with the pictures, in a folder a class"


def is_grey(loaders: Any) -> bool:
    """Whether the pictures of loaders are grey: uint8 of shape (n, H, W)."""
    return bool(loaders.train.dataset.tensors[0].ndim == 3)


def read_pictures(draft: Draft, options: Mapping[str, Any]) -> Read:
    """Folders of pictures, one a class."""
    root, share, train = data_path(draft.recipe.data), options["valid_share"], options["train"]
    apart = (root / train).is_dir()
    split = not apart or share is not None
    require_all_pictures(draft, root / train if apart else root, None if split else root / options["valid"])
    by_class = draft.need("clearloop.rungs.pictures:files_by_class")
    top = f"{by_class}(folder{f' / {value_text(train)}' if apart else ''})"
    if split:
        splitting = draft.need("clearloop.rungs.pictures:split_files")
        seed = seed_text(draft, options["seed"] if options["split_seed"] is None else options["split_seed"])
        files = f"{splitting}({top}, {value_text(HELD_OUT if share is None else share)}, seed={seed})"
    else:
        files = f"{top}, {by_class}(folder / {value_text(options['valid'])})"
    labelled, size = draft.need("clearloop.rungs.pictures:labelled"), value_text(draft.opened.image_size)
    lines = [
        folder_line(draft),
        f"files, valid_files = {files}",
        "classes = list(files)",
        f"train, valid = {labelled}(files, classes, {size}), {labelled}(valid_files, classes, {size})",
    ]
    transform = draft.opened.train.dataset.transform
    if isinstance(transform, Normalize):
        return SOURCE, [*lines, normalize_line(draft, transform)], "normalize"
    path = import_path(transform)
    if path is None or not path.startswith("clearloop.data."):
        raise EjectError("the transform of the pictures is no longer that of ImageDataLoaders.from_folder")
    return SOURCE, lines, draft.need(path)


def normalize_line(draft: Draft, transform: Normalize) -> str:
    """The line that makes a transform of bytes to floats with mean 0."""
    make = draft.need("clearloop.data.normalize:Normalize")
    return f"normalize = {make}({value_text(transform.mean)}, {value_text(transform.std)})"


def require_all_pictures(draft: Draft, top: Path, valid: Path | None) -> None:
    """Raise EjectError unless the pictures lie in folders of classes, and none was left out."""
    dls = draft.opened
    if dls.train.dataset.tensors[1].ndim != 1:
        raise EjectError("pictures without classes cannot be printed: expected a folder a class, got pictures alone")
    try:
        found = [pictures.files_by_class(folder) for folder in (top, valid) if folder is not None]
    except OSError as error:
        raise EjectError(f"the pictures that were trained on are no longer there ({error}); put them back") from None
    files, samples = sum(len(part) for one in found for part in one.values()), 0
    for loader in (dls.train, dls.valid):
        samples += len(loader.dataset)
    if files != samples:
        raise EjectError(
            f"{top}: expected the {samples} pictures of the run and no other files, got {files}; a program leaves no "
            "bad file out: remove those that skip_bad left out, and train again"
        )
