"""The predictor's folder: two files and their manifest, read with every byte verified, replaced without a gap.

What is in them is plain data: settings as strict JSON, weights as safetensors. Nothing of it is ever unpickled.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors import torch as tensor_files
from torch import Tensor

from clearloop import durable
from clearloop.data.normalize import Normalize
from clearloop.data.table_spec import TableSpec
from clearloop.errors import CheckpointError, ConfigError, DataError, RunError
from clearloop.imaging import MAX_PIXELS

SETTINGS, WEIGHTS = "predictor.json", "model.safetensors"
FORMAT = 1
FOLDER = "predictor"  # of a run directory

_FILES = {SETTINGS, WEIGHTS, durable.MANIFEST}
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.bool)
    + (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
}


def read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Checked settings, and every tensor under each of its names.

    Raises: RunError where there is no predictor; CheckpointError where it is damaged or of another form.
    """
    try:
        files = durable.read_directory(_find(folder))
    except CheckpointError:
        files = durable.read_directory(_find(folder))  # it may have been replaced while it was read
    if set(files) != {SETTINGS, WEIGHTS}:
        raise CheckpointError(f"{folder}: expected {SETTINGS} and {WEIGHTS}, got {sorted(files)}; save it again")
    settings = _checked(durable.loads_strict(files[SETTINGS], f"{folder}, {SETTINGS}"), f"{folder}, {SETTINGS}")
    try:
        tensors = tensor_files.load(files[WEIGHTS])
    except (SafetensorError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{folder}, {WEIGHTS}: expected safetensors, got {error}; save it again") from error
    tied = settings["tied"]
    if not set(tied.values()) <= set(tensors):
        raise CheckpointError(f"{folder}, {SETTINGS}: expected tied tensors that are stored, got {tied}; save it again")
    return settings, {**tensors, **{name: tensors[stored] for name, stored in tied.items()}}


def _find(folder: Path) -> Path:
    """The predictor folder meant by `folder`; the one before it, where a replacement was cut short."""
    for path in (folder, folder / FOLDER, _beside(folder / FOLDER, ".old"), _beside(folder, ".old")):
        if (path / SETTINGS).exists():
            return path
    got = "a folder without one" if folder.is_dir() else "no such folder"
    raise RunError(f"{folder}: expected a predictor, got {got}; Predictor.of(learn).save(folder) writes one")


def _checked(content: Any, where: str) -> dict[str, Any]:
    """The settings with shapes as tuples and the dtype as torch's; CheckpointError where one has another form."""
    if not isinstance(content, dict) or type(content.get("format")) is not int or content["format"] != FORMAT:
        got = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(f"{where}: expected format {FORMAT}, got {got!r}; use the clearloop that wrote it")
    missing = object()
    classes, size, shape, dtype, tied = (
        content.get(name, missing) for name in ("classes", "image_size", "input_shape", "input_dtype", "tied")
    )
    normalize = content.get("normalize")  # folders that were written before there was any have none
    good = {
        "classes": classes is None or _list_of(str, classes),
        "image_size": size is None or _sizes(size) and len(size) == 2 and math.prod(size) <= MAX_PIXELS,
        "input_shape": _sizes(shape),
        "input_dtype": isinstance(dtype, str) and dtype in _DTYPES,
        "normalize": normalize is None or _normalization(normalize),
        "tied": isinstance(tied, dict) and _list_of(str, list(tied.values())),
        "model": "model" in content,
    }
    bad = [name for name, fine in good.items() if not fine]
    if bad:
        got = repr(content.get(bad[0]))[:200]
        raise CheckpointError(f"{where}: expected {bad[0]} in the form that is written, got {got}; save it again")
    size = None if size is None else tuple(size)
    made = None if normalize is None else Normalize(**normalize)
    try:
        table = None if content.get("table") is None else TableSpec.read(content["table"])
    except DataError as error:
        raise CheckpointError(f"{where}: {error}; save it again") from None
    changed = {"image_size": size, "input_shape": tuple(shape), "input_dtype": _DTYPES[dtype], "normalize": made}
    return {**content, **changed, "table": table}


def _normalization(value: Any) -> bool:
    """Whether it is what `Normalize` takes."""
    if not isinstance(value, dict) or set(value) != {"mean", "std"} or not all(map(_numbers, value.values())):
        return False
    try:
        return bool(Normalize(**value))
    except ConfigError:
        return False


def _numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(number) in (int, float) for number in value)


def _list_of(kind: type, value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is kind for item in value)


def _sizes(value: Any) -> bool:
    return _list_of(int, value) and all(item > 0 for item in value)


def _beside(path: Path, suffix: str) -> Path:
    return path.parent / (path.name + suffix)


def replace_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write `folder` under another name, verify it, and only then let it take the place of the one that is there."""
    new, old = _beside(folder, ".new"), _beside(folder, ".old")
    for path in (folder, new, old):
        _require_predictor_or_nothing(path)
    durable.make_directory(folder.parent)
    if new.exists():
        _remove(new)
    durable.write_directory(new, files)
    try:
        if folder.exists():
            if old.exists():
                _remove(old)
            _rename(folder, old)
        _rename(new, folder)
    except BaseException:
        with contextlib.suppress(RunError):
            if old.exists() and not folder.exists():
                _rename(old, folder)
        with contextlib.suppress(RunError):
            if new.exists():
                _remove(new)
        raise
    if old.exists():
        _remove(old)


def _remove(path: Path) -> None:
    """Remove a folder that nobody needs any more; half of it would not be taken for a predictor."""
    for name in (SETTINGS, WEIGHTS, durable.MANIFEST):
        if os.path.lexists(path / name):
            durable.current().unlink(path / name)
    durable.current().rmdir(path)


def _rename(path: Path, target: Path) -> None:
    durable.current().rename(path, target)
    durable.current().fsync(target.parent)


def _require_predictor_or_nothing(path: Path) -> None:
    """Never replace or remove what is not a predictor."""
    if not os.path.lexists(path):
        return
    if path.is_symlink() or not path.is_dir():
        raise RunError(f"expected a predictor folder or none at {path}, got something else; choose another folder")
    other = sorted(set(os.listdir(path)) - _FILES)
    if other:
        raise RunError(f"expected a predictor folder or none at {path}, got one that holds {other[0]}; choose another")
