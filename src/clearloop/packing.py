"""Named states to a directory and back: tensors as safetensors, all else as strict JSON, no pickle anywhere.

A state is any nesting of dicts, lists and tuples of plain values, tensors and arrays. Its skeleton is the same nesting
as JSON, in which everything that JSON has no word for is an object with one key that starts with "~".
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors import torch as tensor_files
from torch import Tensor, nn

from clearloop import durable
from clearloop.errors import CheckpointError

STATE = "state.json"
STATE_LIMIT = 2**28  # bytes of JSON; what is larger belongs in tensors

_FLOATS = "bfloat16 float16 float32 float64 float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz complex64"
_STORABLE = f"{_FLOATS} bool uint8 uint16 uint32 uint64 int8 int16 int32 int64".split()  # what safetensors can hold
_NUMBERS = "?bBhHiIlLqQefdF"  # NumPy's codes of these types
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}
_MALFORMED = (SafetensorError, AssertionError, AttributeError, LookupError, TypeError, ValueError, RuntimeError)
_MAPPINGS: dict[str, Any] = {"~dict": dict, "~ordered": OrderedDict, "~counter": Counter}
_VALUES: dict[str, Any] = {"~float": float.fromhex, "~device": torch.device, "~dtype": _DTYPES.__getitem__}


def pack(tree: Any) -> tuple[Any, dict[str, Tensor]]:
    """Take `tree` apart into a JSON-able skeleton and a flat dict of tensors on the CPU, named by where they stood.

    Args: `tree`, any nesting of dict, OrderedDict, Counter, list, tuple, None, bool, int, float, str, torch.Tensor,
    dtype and device, NumPy array and scalar. Tensors that are one and the same (tied weights) are kept once; all are
    detached, and may share memory with `tree`. Raises CheckpointError naming the place of anything else.

    >>> pack({"weight": torch.zeros(2), "shape": (1, 2)})
    ({'weight': {'~tensor': 'weight'}, 'shape': {'~tuple': [1, 2]}}, {'weight': tensor([0., 0.])})
    """
    tensors: dict[str, Tensor] = {}
    return _pack(tree, "", tensors, {}), tensors


def _pack(value: Any, path: str, tensors: dict[str, Tensor], names: dict[Any, str]) -> Any:
    kind = type(value)
    if value is None or kind in (bool, int, str) or kind is float and math.isfinite(value):
        return value
    if kind is float:
        return {"~float": value.hex()}
    if kind in (list, tuple):
        items = [_pack(item, f"{path}.{index}", tensors, names) for index, item in enumerate(value)]
        return items if kind is list else {"~tuple": items}
    if kind is dict and all(type(key) is str and not key.startswith("~") for key in value):
        return {key: _pack(item, f"{path}.{key}", tensors, names) for key, item in value.items()}
    for tag, mapping in _MAPPINGS.items():
        if kind is mapping:
            pairs = [(_pack(key, f"{path}.key", tensors, names), f"{path}.{key}", item) for key, item in value.items()]
            return {tag: [[key, _pack(item, place, tensors, names)] for key, place, item in pairs]}
    if kind in (Tensor, nn.Parameter):
        return {"~tensor": _store(value, path, tensors, names)}
    if (kind is np.ndarray or isinstance(value, np.generic)) and value.dtype.char in _NUMBERS:
        native = torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("="), order="C"))
        return {"~numpy": [_store(native, path, tensors, names), value.dtype.str, kind is np.ndarray]}
    if kind in (torch.dtype, torch.device):
        return {f"~{kind.__name__}": str(value).removeprefix("torch.")}
    raise _unfit(path, "plain values, tensors and arrays", f"{kind.__module__}.{kind.__qualname__}")


def _store(tensor: Tensor, path: str, tensors: dict[str, Tensor], names: dict[Any, str]) -> str:
    """Put `tensor` among `tensors` and return its name; the same memory seen in the same way is stored once."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    if tensor.layout is not torch.strided or tensor.is_meta or dtype not in _STORABLE:
        got = f"{dtype}, {tensor.layout}, {tensor.device}"
        raise _unfit(path, "dense tensors of types that safetensors holds", got)
    memory = (tensor.device, tensor.data_ptr(), tensor.is_conj(), tensor.is_neg())
    seen = (*memory, tensor.dtype, tensor.shape, tensor.stride())
    if tensor.numel() and seen in names:
        return names[seen]
    name = (path[1:] or "value").encode(errors="replace").decode()
    while name in tensors or name == "__metadata__":  # "a.b" and "a" holding "b"; a word that safetensors keeps
        name += "'"
    names[seen] = name
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    storage = (tensor.device, tensor.untyped_storage().data_ptr())
    tensors[name] = plain if names.setdefault(storage, name) == name else plain.clone()  # safetensors wants no overlap
    return name


def _unfit(path: str, expected: str, got: str) -> CheckpointError:
    return CheckpointError(f"expected {expected}, got {got} at {path[1:] or 'the top'}; convert it or leave it out")


def unpack(skeleton: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The exact inverse of `pack`: unpack(*pack(tree)) equals `tree`, types included.

    Raises LookupError, TypeError, ValueError or RuntimeError for a skeleton that `pack` does not make.

    >>> unpack({"shape": {"~tuple": [1, {"~float": "inf"}]}}, {})
    {'shape': (1, inf)}
    """
    if isinstance(skeleton, list):
        return [unpack(item, tensors) for item in skeleton]
    if not isinstance(skeleton, dict):
        return skeleton
    tag = next(iter(skeleton), "")
    if not tag.startswith("~"):
        return {key: unpack(item, tensors) for key, item in skeleton.items()}
    content = skeleton[tag]
    if tag in _MAPPINGS:
        return _MAPPINGS[tag]({unpack(key, tensors): unpack(item, tensors) for key, item in content})
    if tag == "~tuple":
        return tuple(unpack(item, tensors) for item in content)
    if tag == "~tensor":
        return tensors[content]
    if tag == "~numpy":
        array = tensors[content[0]].numpy().astype(content[1])
        return array if content[2] else array[()]
    return _VALUES[tag](content)


def save(target: Path, states: Mapping[str, Any]) -> None:
    """Write `states` as a directory: `<name>.safetensors` for each that has tensors, one state.json, a manifest.

    Args: `target`, which must not exist, in a folder that does; `states`, trees as `pack` takes them, by plain names.
    Raises CheckpointError for a state that cannot be written, StorageError where the disk refuses; nothing is left.
    """
    files, skeletons = {}, {}
    for name, tree in states.items():
        try:
            skeletons[name], tensors = pack(tree)
        except CheckpointError as error:
            raise CheckpointError(f"state {name!r}: {error}") from None
        if tensors:
            files[f"{name}.safetensors"] = tensor_files.save(tensors)
    durable.write_directory(target, {**files, STATE: durable.dumps_strict(skeletons, limit=STATE_LIMIT)})


def load(path: Path) -> dict[str, Any]:
    """The states that `save` wrote, every byte verified first; tensors are on the CPU.

    Raises CheckpointError naming the file and what is wrong with it.
    """
    files = durable.read_directory(path)
    skeletons = durable.loads_strict(files.pop(STATE, b""), str(path / STATE), limit=STATE_LIMIT)
    try:
        tensors = {name: tensor_files.load(data) for name, data in files.items()}
        return {name: unpack(tree, tensors.get(f"{name}.safetensors", {})) for name, tree in skeletons.items()}
    except _MALFORMED as error:
        raise CheckpointError(f"{path}: expected states as save writes them, got {error!r}; use a backup") from error


def first_nonfinite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor that holds a NaN or an infinity, or None. This waits for a GPU.

    >>> first_nonfinite({"weight": torch.ones(2), "bias": torch.tensor([0.0, torch.nan])})
    'bias'
    """
    for name, tensor in tensors.items():
        wide = tensor.float() if tensor.is_floating_point() and tensor.element_size() == 1 else tensor  # float8
        if not bool(torch.isfinite(wide).all()):
            return name
    return None
