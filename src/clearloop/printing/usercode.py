"""Prints what a user has defined in a file or a notebook cell: a model, a loss, a metric, with all that it uses."""

from __future__ import annotations

import ast
import builtins
import functools
import inspect
import math
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from clearloop.component import describe, import_path, kept_arguments, source_of
from clearloop.errors import EjectError
from clearloop.printing.expressions import arguments_text, called
from clearloop.printing.printer import Printer, free_names

ALLOWED = {"torch", "numpy", *sys.stdlib_module_names}  # what a program may import
CONSTANTS = (bool, int, float, str, type(None))


def need_object(printer: Printer, thing: Any, role: str) -> str:
    """Print a function or class of the user's, with what it uses; returns its name.

    Args: `role`, what to call it in an error.
    Raises: EjectError for what has no source, or uses what a program cannot have.
    """
    name = getattr(thing, "__name__", type(thing).__name__)
    if name == "<lambda>":
        raise EjectError(f"the {role} is a lambda, which has no name to print it under; define it with def")
    if not inspect.isfunction(thing) and not inspect.isclass(thing):
        raise EjectError(f"the {role} is an object of {type(thing).__name__}: expected a function or class with source")
    if "<locals>" in thing.__qualname__:
        raise EjectError(
            f"the {role} {name} is defined inside a function, whose variables a program cannot have; define it at the "
            "top of a file or in a notebook cell"
        )
    if "." in thing.__qualname__:
        raise EjectError(f"the {role} {thing.__qualname__} is defined inside a class; define it outside")
    source = source_of(thing)
    if source is None:
        raise EjectError(f"the source of the {role} {name} cannot be found; define it in a file or a notebook cell")
    printer.claim(name, f"your {name} in {thing.__module__}")
    if name not in printer.pieces:
        printer.pieces[name] = ""  # for one that uses itself
        for used in free_names(source):
            if used != name:
                need_name(printer, used, namespace_of(thing), name)
        del printer.pieces[name]
        printer.pieces[name] = source
    return name


def component_text(printer: Printer, thing: Any, role: str) -> str:
    """A function or class, or a partial of one, as an expression, printed with what it uses or imported."""
    if isinstance(thing, functools.partial):
        options = arguments_text({"args": describe(list(thing.args)), "kwargs": describe(dict(thing.keywords))})
        return called(printer, component_text(printer, thing.func, role), options, True)
    if not inspect.isroutine(thing) and not inspect.isclass(thing) and not is_handed_by_torch(thing):
        return object_text(printer, thing, role)
    path = library_path(thing, getattr(thing, "__name__", ""))
    if path is None:
        return need_object(printer, thing, role)
    if path.startswith("clearloop."):
        return printer.need(path)
    module, name = path.split(":")
    require_allowed(module, name, f"the {role}")
    if module == "torch.nn.functional":
        printer.need_import("torch.nn.functional as F")
        return f"F.{name}"
    printer.need_import(module, name)
    return name


def is_handed_by_torch(thing: Any) -> bool:
    """Whether something that is neither function nor class by its kind has a name all the same."""
    return hasattr(thing, "__name__")


def object_text(printer: Printer, thing: Any, role: str) -> str:
    """An object of a class of the user's, made again from the attributes that have the names of its arguments."""
    kind = type(thing)
    kept = kept_arguments(thing)
    tensors = list(thing.state_dict()) if hasattr(thing, "state_dict") else []
    if kept is None or tensors:
        why = f"it keeps {tensors[0]!r}" if tensors else "it does not keep its arguments under their own names"
        raise EjectError(f"the {role}, an object of {kind.__name__}, cannot be made again: {why}; use a function")
    return f"{need_object(printer, kind, role)}({arguments_text({'kwargs': kept})})"


def need_expression(printer: Printer, expression: str, namespace: Mapping[str, Any], role: str) -> str:
    """Print all that an expression uses, such as `Net(64)`; returns it in the form of this library's programs."""
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except SyntaxError as error:
        raise EjectError(f"the expression for the {role}, {expression!r}, is not Python: {error.msg}") from None
    for used in free_names(expression.strip()):
        need_name(printer, used, namespace, f"the expression {expression!r}")
    return ast.unparse(tree).replace("'", '"') if '"' not in expression else ast.unparse(tree)


def namespace_of(thing: Any) -> dict[str, Any]:
    """The names that a function or class sees."""
    if inspect.isfunction(thing):
        globals_: dict[str, Any] = inspect.unwrap(thing).__globals__  # of its source, whatever it is decorated with
        return globals_
    module = sys.modules.get(thing.__module__)
    return {} if module is None else vars(module)


def need_name(printer: Printer, name: str, namespace: Mapping[str, Any], user: str) -> None:
    """Make a name mean in the program what it means in the namespace of `user`, who uses it."""
    if name not in namespace:
        if not hasattr(builtins, name):
            raise EjectError(f"{user} uses {name!r}, which is not defined where it is defined")
        return
    thing = namespace[name]
    if isinstance(thing, ModuleType):
        need_module(printer, thing, name, user)
        return
    path = library_path(thing, name)
    if path is not None and path.startswith("clearloop."):
        needed = printer.need(path)
        if needed != name:
            printer.claim(name, path)
            printer.pieces[name] = f"{name} = {needed}\n"
    elif path is not None:
        module, original = path.split(":")
        require_allowed(module, name, user)
        printer.need_import(module, original if original == name else f"{original} as {name}")
    elif inspect.isfunction(thing) or inspect.isclass(thing):
        if need_object(printer, thing, f"{name!r}, which {user} uses,") != name:
            raise EjectError(f"{user} uses {thing.__name__} by another name, {name}; use the one it was defined with")
    elif is_constant(thing):
        printer.claim(name, f"your {name} = {thing!r}")
        printer.pieces.setdefault(name, f"{name} = {thing!r}\n")
    else:
        raise EjectError(
            f"{user} uses {name!r}, an object of {type(thing).__name__} that cannot be printed; make it an argument, "
            "or a number, a text, or a function"
        )


def need_module(printer: Printer, module: ModuleType, name: str, user: str) -> None:
    """Import a module under the name that its user knows it by."""
    path = module.__name__
    require_allowed(path, name, user)
    parent, _, leaf = path.rpartition(".")
    if name != leaf:
        printer.need_import(f"{path} as {name}")
    elif parent:
        printer.need_import(parent, leaf)
    else:
        printer.need_import(path)


def require_allowed(module: str, name: str, user: str) -> None:
    """Raise EjectError for a module that a printed program does not have."""
    if module.split(".")[0] not in ALLOWED:
        raise EjectError(
            f"{user} uses {name!r} from {module.split('.')[0]}: expected torch, numpy and Python's own modules alone"
        )


def library_path(thing: Any, name: str) -> str | None:
    """`"module:name"` of what was imported from a package; None for what the user has made."""
    path = import_path(thing)
    if path is None or path.split(":")[0].startswith("clearloop."):
        found = path
    else:
        found = path if path.split(".")[0].split(":")[0] in ALLOWED or is_installed(path) else None
    if found is None:
        for module in ("torch", "numpy", "math", "clearloop.metrics", "clearloop.rungs.updates", "typing"):
            if getattr(sys.modules.get(module), name, None) is thing:
                return f"{module}:{name}"
    return found


def is_installed(path: str) -> bool:
    """Whether a module was installed, rather than written beside the user's program."""
    module = sys.modules.get(path.split(":")[0])
    return "site-packages" in (getattr(module, "__file__", None) or "")


def is_constant(thing: Any) -> bool:
    """Whether a value can be written down."""
    if type(thing) in (tuple, list, set, frozenset):  # a named tuple prints as a call of its class
        return all(map(is_constant, thing))
    if type(thing) is dict:
        return all(map(is_constant, thing)) and all(map(is_constant, thing.values()))
    return type(thing) in CONSTANTS and (not isinstance(thing, float) or math.isfinite(thing))
