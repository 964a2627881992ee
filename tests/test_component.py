"""The parts of a run as plain data: what is written down is enough to make the part again, or says that it is not."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import linecache
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from clearloop import EMA, EarlyStopping, models, one_cycle
from clearloop.component import describe, import_path, remember, source_of

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(value=plain)
def test_plain_values_are_written_as_they_are(value):
    assert describe(value) == value
    assert json.loads(json.dumps(describe(value), allow_nan=False)) == value


@given(value=st.floats())
def test_every_float_survives_even_those_that_json_has_no_word_for(value):
    described = json.loads(json.dumps(describe(value), allow_nan=False))
    back = float.fromhex(described["float"]) if isinstance(described, dict) else described
    assert back == value or math.isnan(back) and math.isnan(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ((1, (2.5, "a")), [1, [2.5, "a"]]),
        (Path("a") / "b", "a/b"),
        (torch.device("cpu"), "cpu"),
        (torch.float16, "torch.float16"),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.array([1, 2]), [1, 2]),
        (torch.tensor([0.5, 2.0]), [0.5, 2.0]),
        (torch.tensor(3), 3),
        ({1: Path("x")}, {"1": "x"}),
    ],
    ids=str,
)
def test_values_of_other_types_become_plain(value, expected):
    described = describe(value)
    assert described == expected
    assert type(described) is type(expected)


@pytest.mark.parametrize(
    ("component", "path"),
    [
        (F.cross_entropy, "torch.nn.functional:cross_entropy"),
        (torch.optim.SGD, "torch.optim.sgd:SGD"),
        (nn.CrossEntropyLoss, "torch.nn.modules.loss:CrossEntropyLoss"),
        (models.mlp, "clearloop.models.mlp:mlp"),
        (math.sqrt, "math:sqrt"),
    ],
)
def test_what_can_be_imported_is_written_as_its_path(component, path):
    assert describe(component) == {"path": path}
    assert import_path(component) == path


def test_partials_are_written_with_their_arguments_nested_or_not():
    adam = functools.partial(torch.optim.AdamW, weight_decay=0.1)
    nested = functools.partial(functools.partial(adam, betas=(0.8, 0.9)), 1e-3)
    assert describe(nested) == {
        "path": "torch.optim.adamw:AdamW",
        "args": [1e-3],
        "kwargs": {"weight_decay": 0.1, "betas": [0.8, 0.9]},
    }
    weighted = functools.partial(F.cross_entropy, weight=torch.tensor([1.0, 2.0]))
    assert describe(weighted) == {"path": "torch.nn.functional:cross_entropy", "kwargs": {"weight": [1.0, 2.0]}}


def here(preds: Any, targets: Any) -> Any:
    return preds - targets


def test_what_cannot_be_imported_is_written_as_its_source_with_a_hash():
    def inner(preds, targets):
        return preds * targets

    square = lambda preds, targets: (preds - targets) ** 2  # noqa: E731
    for function in (inner, square):
        described = describe(function)
        assert set(described) == {"name", "source", "sha256"}
        assert described["sha256"] == hashlib.sha256(described["source"].encode()).hexdigest()
    assert describe(inner)["source"] == "def inner(preds, targets):\n    return preds * targets\n"
    assert "square = lambda" in describe(square)["source"]
    assert "path" not in describe(inner)


def test_a_name_that_means_something_else_by_now_has_no_path(monkeypatch):
    import clearloop.losses

    old = clearloop.losses.mnist_loss
    assert import_path(old) == "clearloop.losses:mnist_loss"
    monkeypatch.setattr(clearloop.losses, "mnist_loss", here)
    assert import_path(old) is None


def test_code_without_source_is_written_as_it_prints():
    space: dict[str, Any] = {"__name__": "nowhere"}
    exec("def unknown(x): return x", space)
    assert set(describe(space["unknown"])) == {"repr"}


@pytest.mark.parametrize(
    ("component", "kwargs"),
    [
        (nn.MSELoss(), None),
        (nn.CrossEntropyLoss(label_smoothing=0.1), {"label_smoothing": 0.1}),
        (nn.CrossEntropyLoss(torch.tensor([1.0, 3.0]), ignore_index=5), {"weight": [1.0, 3.0], "ignore_index": 5}),
        (nn.BCEWithLogitsLoss(pos_weight=torch.tensor([2.0])), {"pos_weight": [2.0]}),
        (nn.HuberLoss(delta=0.5), {"delta": 0.5}),
        (EMA(0.9), {"decay": 0.9}),
        (EarlyStopping("accuracy", 5), {"monitor": "accuracy", "patience": 5}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_object_that_keeps_its_arguments_is_written_with_those_that_are_not_the_default(component, kwargs):
    described = json.loads(json.dumps(describe(component)))
    cls = type(component)
    assert described["path"] == f"{cls.__module__}:{cls.__qualname__}"
    assert described.get("kwargs") == kwargs
    rebuilt = {key: torch.tensor(value) if isinstance(value, list) else value for key, value in (kwargs or {}).items()}
    assert describe(cls(**rebuilt)) == described


class Hiding:
    """Does not keep its argument under its name."""

    def __init__(self, alpha: float = 0.5) -> None:
        self._alpha = alpha


@pytest.mark.parametrize(
    "component",
    [Hiding(0.9), nn.Sequential(nn.ReLU()), nn.Linear(2, 2), {1, 2}, b"x", range(3), torch.Generator(), slice(1)],
    ids=lambda component: type(component).__name__,
)
def test_an_object_whose_arguments_cannot_be_known_has_no_path(component):
    described = json.loads(json.dumps(describe(component)))
    assert "path" not in described
    assert "repr" in described


@given(st.data())
def test_whatever_comes_the_description_is_json(data):
    values = [object(), 1j, ..., type, print, np.float16(1), nn.Dropout(), torch.optim.SGD, Hiding, NotImplemented]
    value = data.draw(st.recursive(st.sampled_from(values), lambda inner: st.lists(inner) | st.tuples(inner)))
    json.dumps(describe(value), allow_nan=False)


# -- remember ----------------------------------------------------------------------------------------------------------


@remember
def make(*args: Any, **kwargs: Any) -> nn.Module:
    """Makes a module."""
    return nn.ReLU()


class Loaders:
    @classmethod
    @remember
    def of(cls, number: int, kind: Any = None) -> Any:
        return cls.of(number + 1) if number == 0 else cls()


def test_what_a_factory_makes_remembers_the_call():
    made = make(1, "a", rate=0.5)
    assert made.recipe_call == {"path": f"{__name__}:make", "args": [1, "a"], "kwargs": {"rate": 0.5}}
    assert describe(made) == made.recipe_call
    assert make().recipe_call == {"path": f"{__name__}:make"}


def test_the_class_of_a_class_method_is_no_argument_but_other_classes_are():
    assert Loaders.of(3).recipe_call == {"path": f"{__name__}:Loaders.of", "args": [3]}
    assert Loaders.of(3, int).recipe_call["args"] == [3, {"path": "builtins:int"}]
    assert make(int).recipe_call["args"] == [{"path": "builtins:int"}]


def test_a_factory_that_calls_itself_remembers_the_innermost_call():
    assert Loaders.of(0).recipe_call["args"] == [1]


def test_a_remembered_factory_keeps_its_name_and_signature():
    assert make.__name__ == "make"
    assert make.__doc__ == "Makes a module."
    assert list(inspect.signature(one_cycle).parameters) == ["lr_max", "total_steps", "warmup", "div", "div_final"]


def test_each_call_is_remembered_apart():
    first, second = models.mlp(4, 3, 2), models.mlp(4, 2, dropout=0.1)
    assert first.recipe_call["args"] == [4, 3, 2]
    assert second.recipe_call == {"path": "clearloop.models.mlp:mlp", "args": [4, 2], "kwargs": {"dropout": 0.1}}


CELLS = (
    "class Plain:\n    slope = 1\n",
    "class Plain:\n    slope = 2  # a comment that stays\n",
    "x = 3\n\n\nclass Other(Plain):\n    pass\n",
    'class Plain:\n    """Says what it is."""\n\n    slope = 2\n',
    "class Plain:\n    slope = 2\n    more = slope\n",
)


def made_in_cells(monkeypatch, cells):
    """The classes that notebook cells make one after the other; none of them has a method."""
    namespace, made = {"__name__": "__main__"}, []
    for number, cell in enumerate(cells):
        name = f"/tmp/ipykernel_7/{number}.py"
        monkeypatch.setitem(linecache.cache, name, (len(cell), None, cell.splitlines(True), name))
        exec(compile(cell, name, "exec"), namespace)
        made.append(namespace[cell.split("class ")[1].split(":")[0].split("(")[0]])
    return made


def test_a_class_without_methods_has_the_source_of_the_cell_that_made_it_whatever_came_later(monkeypatch):
    for thing, cell in zip(made_in_cells(monkeypatch, CELLS), CELLS, strict=True):
        assert source_of(thing) == cell[cell.index("class") :]


def test_of_two_cells_that_cannot_be_told_apart_neither_is_taken(monkeypatch):
    cells = ["class Plain:\n    slope = abs(-1)\n", "class Plain:\n    slope = abs(-2)\n"]
    assert [source_of(thing) for thing in made_in_cells(monkeypatch, cells)] == [None, None]
    once = made_in_cells(monkeypatch, [cells[0], "y = 1\n\nclass Single:\n    slope = abs(-1)\n"])
    assert source_of(once[1]) == "class Single:\n    slope = abs(-1)\n"
