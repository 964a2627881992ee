"""The public names: complete, sorted, importable, documented."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import clearloop
from clearloop.metrics import Metric

ROOT = Path(clearloop.__file__).parent
every_name = pytest.mark.parametrize("name", clearloop.__all__)
MODULES = sorted(path for path in ROOT.rglob("*.py"))


def announced() -> dict[str, str]:
    """The names that type checkers see, and the module that each is imported from."""
    tree = ast.parse((ROOT / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    found = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            assert alias.asname == alias.name, f"{alias.name} is re-exported by `import {alias.name} as {alias.name}`"
            found[alias.name] = node.module
    return found


def test_the_list_of_public_names_is_sorted_and_complete():
    assert clearloop.__all__ == sorted(set(clearloop.__all__))
    assert dir(clearloop) == clearloop.__all__
    assert sorted(announced()) == clearloop.__all__


@every_name
def test_a_public_name_is_what_type_checkers_are_told_it_is(name):
    home = import_module(announced()[name])
    thing = getattr(clearloop, name)
    assert thing is (import_module(f"clearloop.{name}") if name == "models" else getattr(home, name))
    assert vars(clearloop)[name] is thing  # looked up once


@every_name
def test_a_public_name_is_documented(name):
    thing = getattr(clearloop, name)
    if isinstance(thing, Metric):  # an object: its class is documented
        assert thing.name == name
        return
    text = inspect.getdoc(thing)
    assert text
    assert thing.__doc__, "the text must be its own, not that of a base class"
    summary = text.splitlines()[0]
    assert summary[0] not in "abcdefghijklmnopqrstuvwxyz"
    assert summary.endswith((".", ":")) or text.splitlines()[1]


@every_name
def test_the_public_methods_of_a_public_class_are_documented(name):
    thing = getattr(clearloop, name)
    if not inspect.isclass(thing):
        return
    missing = [
        member
        for member, value in vars(thing).items()
        if not member.startswith("_")
        and (inspect.isroutine(value) or isinstance(value, (property, classmethod, staticmethod)))
        and not inspect.getdoc(getattr(thing, member))
    ]
    assert not missing


def test_all_names_can_be_imported_with_a_star():
    code = "from clearloop import *\nimport clearloop\nassert set(clearloop.__all__) <= set(globals())"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'clearloop' has no attribute 'nothing'"):
        clearloop.nothing  # noqa: B018
    assert not hasattr(clearloop, "torch")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_module_class_and_public_function_is_documented(path):
    tree = ast.parse(path.read_text())
    if not tree.body:
        return
    assert ast.get_docstring(tree)
    missing = [
        node.name
        for node in ast.walk(tree)
        if isinstance(node, (ast.ClassDef, ast.FunctionDef))
        and not node.name.startswith("_")
        and node in tree.body
        and not ast.get_docstring(node)
    ]
    assert not missing


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_errors_raised_on_purpose_are_the_librarys_own(path):
    plain = {"Exception", "RuntimeError", "AssertionError", "BaseException"}
    raised = [
        ast.unparse(node.exc.func)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
    ]
    assert not plain & set(raised)


def test_every_error_is_a_clearloop_error_and_drawn_in_the_tree():
    errors = import_module("clearloop.errors")
    classes = {name: cls for name, cls in vars(errors).items() if inspect.isclass(cls)}
    assert all(issubclass(cls, clearloop.ClearloopError) for cls in classes.values())
    assert all(name in errors.__doc__ for name in classes)
    assert set(classes) <= set(clearloop.__all__)
    assert issubclass(clearloop.ConfigError, ValueError)
    assert issubclass(clearloop.DataError, ValueError)
    assert issubclass(clearloop.ModelError, ValueError)
    assert issubclass(clearloop.NonFiniteError, ArithmeticError)
    assert issubclass(clearloop.StorageError, OSError)


def test_the_package_says_that_it_is_typed():
    assert (ROOT / "py.typed").is_file()
