"""Names for the parts of a run: how a model, loss, optimizer or loader is written down as plain data.

A component is described as `{"path": "package.module:name", "args": [...], "kwargs": {...}}` when it can be imported,
as `{"source": ..., "sha256": ...}` when it is defined in a script, a notebook or a lambda, and as `{"repr": ...}` when
not even its source can be found. Only descriptions with a path can be built again without the user's help.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import inspect
import linecache
import math
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

F = TypeVar("F", bound=Callable[..., Any])


def remember(factory: F) -> F:
    """Decorate a function that builds a component, so that what it returns can say how it was made.

    The call (import path and arguments) is kept on the result as `recipe_call`; `describe` finds it there.
    """

    @functools.wraps(factory)
    def build(*args: Any, **kwargs: Any) -> Any:
        built = factory(*args, **kwargs)
        bound = getattr(args[0], factory.__name__, None) if args and inspect.isclass(args[0]) else None
        owner = [args[0]] if bound is not None and inspect.unwrap(bound) is factory else []  # of a class method
        path = f"{factory.__module__}:{factory.__qualname__}"
        if not hasattr(built, "recipe_call"):  # a factory that filled in a default and called itself has set it
            built.recipe_call = {"path": path, **_arguments(args[len(owner) :], kwargs)}
        return built

    return build  # type: ignore[return-value]


def describe(component: Any) -> Any:
    """Write `component` down as JSON-able data; plain values stay themselves.

    >>> describe(torch.nn.functional.cross_entropy)
    {'path': 'torch.nn.functional:cross_entropy'}
    >>> describe(functools.partial(torch.optim.SGD, momentum=0.9))
    {'path': 'torch.optim.sgd:SGD', 'kwargs': {'momentum': 0.9}}
    """
    if component is None or isinstance(component, (bool, int, str)):
        return component
    if isinstance(component, float):
        return component if math.isfinite(component) else {"float": component.hex()}
    if isinstance(component, (torch.Tensor, np.ndarray, np.generic)):
        return describe(component.tolist())
    if isinstance(component, Path):
        return str(component)
    if isinstance(component, (torch.device, torch.dtype)):
        return str(component)
    if isinstance(component, (list, tuple)):
        return [describe(item) for item in component]
    if isinstance(component, dict):
        return {str(key): describe(value) for key, value in component.items()}
    if hasattr(component, "recipe_call"):
        return component.recipe_call
    if isinstance(component, functools.partial):
        return {**describe(component.func), **_arguments(component.args, component.keywords)}
    if isinstance(component, type) or inspect.isroutine(component):
        path = import_path(component)
        return {"path": path} if path else _source(component)
    return _instance(component)


def unwrapped(thing: Any) -> tuple[Any, dict[str, Any]]:
    """What a `functools.partial` calls, and with which keywords; anything else is itself, with its attributes.

    >>> unwrapped(functools.partial(torch.optim.SGD, momentum=0.9))[1]
    {'momentum': 0.9}
    """
    if isinstance(thing, functools.partial):
        return thing.func, thing.keywords
    return thing, {} if isinstance(thing, type) else dict(getattr(thing, "__dict__", {}))


def import_path(thing: Any) -> str | None:
    """`"module:qualname"` if importing that gives `thing` itself, else None (a lambda, a local, `__main__`)."""
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    if not module or not name or module == "__main__":
        return None
    try:
        found = functools.reduce(getattr, name.split("."), importlib.import_module(module))
    except (ImportError, AttributeError):
        return None
    return f"{module}:{name}" if found is thing else None


def _arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    if args:
        given["args"] = describe(args)
    if kwargs:
        given["kwargs"] = describe(kwargs)
    return given


def _instance(component: Any) -> dict[str, Any]:
    """An object whose constructor arguments are kept as plain attributes, as losses and callbacks do."""
    described = describe(type(component))
    if "path" not in described or isinstance(component, nn.Module) and list(component.parameters()):
        return {**_source(type(component)), "repr": repr(component)[:2000]}
    kwargs = kept_arguments(component)
    if kwargs is None:
        return {"name": type(component).__qualname__, "repr": repr(component)[:2000]}
    return {**described, "kwargs": kwargs} if kwargs else described


def kept_arguments(component: Any) -> dict[str, Any] | None:
    """Constructor arguments, from attributes of the same names; None where one cannot be known."""
    try:
        parameters = inspect.signature(type(component)).parameters
    except (TypeError, ValueError):  # of a type written in C
        return None
    kwargs = {}
    for name, parameter in parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            return None
        if not hasattr(component, name) and parameter.default is not None:  # torch's losses drop old arguments
            return None
        value = getattr(component, name, None)
        if value is not parameter.default:
            kwargs[name] = describe(value)
    return kwargs


def _source(thing: Any) -> dict[str, Any]:
    source = source_of(thing)
    if source is None:
        return {"repr": repr(thing)[:2000]}
    return {
        "name": getattr(thing, "__qualname__", repr(thing)),
        "source": source,
        "sha256": hashlib.sha256(source.encode()).hexdigest(),
    }


def source_of(thing: Any) -> str | None:
    """The source of a function or class, defined in a file or a notebook cell; None where there is none to be found."""
    return _found_source(thing)


@functools.lru_cache(256)  # whole files are parsed for it
def _found_source(thing: Any) -> str | None:
    try:
        return textwrap.dedent(inspect.getsource(thing))
    except (OSError, TypeError):  # a class in a cell has no file of its own: its methods know the cell
        if not inspect.isclass(thing):
            return None
    for method in filter(inspect.isfunction, vars(thing).values()):
        text, line = "".join(linecache.getlines(method.__code__.co_filename)), method.__code__.co_firstlineno
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef) and node.name == thing.__name__ and within(line, node):
                return textwrap.dedent(cut_out(text, node))
    return _source_in_cells(thing) if thing.__module__ == "__main__" else None


def _source_in_cells(thing: type) -> str | None:
    """The source of a class without methods of its own, from the notebook cell that made it.

    Where cells define several classes of its name, it is the one that has what the class has, or else None.
    """
    found: dict[str, ast.ClassDef] = {}
    for name in linecache.cache:
        text = "".join(linecache.getlines(name)) if "ipykernel" in name or name.startswith("<ipython") else ""
        for node in ast.parse(text).body if f"class {thing.__name__}" in text else ():
            if isinstance(node, ast.ClassDef) and node.name == thing.__name__:
                found[cut_out(text, node)] = node
    made = list(found) if len(found) == 1 else [text for text, node in found.items() if has_made(node, thing)]
    return made[0] if len(made) == 1 else None


def has_made(node: ast.ClassDef, thing: type) -> bool:
    """Whether a class may be what a definition made: bases, docstring, names and plain values agree."""
    bases = [ast.unparse(base).split(".")[-1] for base in node.bases] or ["object"]
    given: dict[str, Any] = {}
    for statement in node.body:
        for target in getattr(statement, "targets", [getattr(statement, "target", None)]):
            if isinstance(target, ast.Name) and getattr(statement, "value", None) is not None:
                given[target.id] = statement.value  # type: ignore[attr-defined]
    inner = [statement.name for statement in node.body if isinstance(statement, (ast.FunctionDef, ast.ClassDef))]
    plain = {name: value.value for name, value in given.items() if isinstance(value, ast.Constant)}
    return (
        bases == [base.__name__ for base in thing.__bases__]
        and ast.get_docstring(node) == (thing.__doc__ and inspect.cleandoc(thing.__doc__))
        and public(vars(thing)) == public([*given, *inner])
        and all(repr(vars(thing).get(name)) == repr(value) for name, value in plain.items())
    )


def public(names: Iterable[str]) -> set[str]:
    """Names without those that begin with an underscore, some of which Python makes by itself."""
    return {name for name in names if not name.startswith("_")}


def cut_out(text: str, statement: ast.stmt) -> str:
    """The lines of a statement in the source that it was parsed from, with its decorators and the comments in it.

    >>> text = "x = 1; y = 2\\nz = [\\n    3,  # three\\n]"
    >>> print(cut_out(text, ast.parse(text).body[2]))
    z = [
        3,  # three
    ]
    """
    first = min([statement.lineno, *(decorator.lineno for decorator in getattr(statement, "decorator_list", ()))])
    return "".join(text.splitlines(True)[first - 1 : statement.end_lineno])


def within(line: int, node: ast.ClassDef) -> bool:
    """Whether a line of source belongs to a class."""
    return node.lineno <= line <= (node.end_lineno or node.lineno)
