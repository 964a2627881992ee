"""Parts of a recipe as Python expressions, and long lines broken."""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from clearloop.errors import EjectError
from clearloop.printing.printer import WIDTH, Printer, bracketed


def print_call(printer: Printer, description: Mapping[str, Any]) -> str:
    """A component as an expression; ours are printed, torch's imported."""
    module, name = description["path"].split(":")
    if module.startswith("clearloop."):
        function = printer.need(description["path"])
    elif module == "torch.nn.functional":
        printer.need_import("torch.nn.functional as F")
        function = f"F.{name}"
    elif module.startswith("torch.optim.lr_scheduler"):
        printer.need_import("torch.optim", "lr_scheduler")
        function = f"lr_scheduler.{name}"
    else:
        printer.need_import("torch", "nn")
        function = f"nn.{name}"
    if module == "clearloop.schedules":  # numbers that nobody would understand without their names
        makes = inspect.signature(getattr(import_module(module), name))
        try:
            bound = makes.bind(*description.get("args", []), **description.get("kwargs", {}))
        except TypeError as error:
            raise EjectError(f"the schedule {name} cannot be made as the recipe says: {error}") from None
        description = {**description, "args": [], "kwargs": bound.arguments}
    if module.startswith("clearloop.models"):  # our models take None for "left out"
        named = {key: value for key, value in description.get("kwargs", {}).items() if value is not None}
        description = {**description, "kwargs": named}
    return called(printer, function, arguments_text(description), is_handed_on(module, name))


def is_handed_on(module: str, name: str) -> bool:
    """Whether a function is itself the component, rather than what makes it."""
    if module.startswith("clearloop."):
        return not hasattr(getattr(import_module(module), name), "__wrapped__")
    return module == "torch.nn.functional"


def called(printer: Printer, function: str, options: str, handed_on: bool) -> str:
    """`function(options)`; for a function that is handed on, the function itself or a partial of it."""
    if not handed_on:
        return f"{function}({options})"
    if not options:
        return function
    printer.need_import("functools", "partial")
    return f"partial({function}, {options})"


def arguments_text(description: Mapping[str, Any]) -> str:
    """Arguments of a call as source."""
    named = description.get("kwargs", {})
    if not all(name.isidentifier() for name in named):
        raise EjectError(f"expected the names of arguments, got {sorted(named)}")
    args = [value_text(value) for value in description.get("args", [])]
    return ", ".join([*args, *(f"{name}={value_text(value)}" for name, value in named.items())])


def value_text(value: Any) -> str:
    """A plain value as source; lists were tuples as often as not, and serve as either.

    >>> value_text([1, 2.5, "mean", None, {"float": "inf"}])
    '(1, 2.5, "mean", None, float("inf"))'
    """
    if isinstance(value, (list, tuple)):
        return f"({', '.join(map(value_text, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, Mapping) and set(value) == {"float"}:
        return f'float("{float.fromhex(value["float"])}")'  # one that is not finite
    if isinstance(value, str):
        return json.dumps(value)
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    shown = value.get("name", value) if isinstance(value, Mapping) else value
    raise EjectError(f"an argument {shown!r} cannot be printed: expected numbers, text and lists of them")


def name_of(description: Mapping[str, Any]) -> str:
    """What to call a component in a message."""
    known = [description[name] for name in ("path", "name", "repr") if name in description]
    return str(known[0] if known else "?").split(":")[-1].split("\n")[0][:80]


def wrap_all(lines: list[str]) -> list[str]:
    """Break calls that are too long at their commas."""
    wrapped = []
    for line in lines:
        call = call_in(line) if len(line) + 4 > WIDTH else None
        if call is None:
            wrapped.append(line)
            continue
        parts = [source_of_part(line, part) for part in call.args]
        parts += [f"{keyword.arg}={source_of_part(line, keyword.value)}" for keyword in call.keywords]
        wrapped += bracketed(line.split("(")[0], [wrap_part(part) for part in parts], width=WIDTH - 4)
    return "\n".join(wrapped).split("\n")


def wrap_part(part: str) -> str:
    """A long argument over several lines, as they stand within a call: a list or a call is broken at its commas."""
    name, equals, value = part.partition("=") if re.match(r"\w+=[^=]", part) else ("", "", part)
    node = ast.parse(value, mode="eval").body
    if len(part) + 9 <= WIDTH or not isinstance(node, (ast.List, ast.Call)):
        return part
    if isinstance(node, ast.List):
        head, inner, ends = f"{name}{equals}", [ast.get_source_segment(value, item) or "" for item in node.elts], "[]"
    else:
        head, ends = f"{name}{equals}{ast.get_source_segment(value, node.func)}", "()"
        inner = [ast.get_source_segment(value, item) or "" for item in node.args]
        inner += [f"{item.arg}={ast.get_source_segment(value, item.value)}" for item in node.keywords]
    lines = [f"{head}{ends[0]}", *(f"    {wrap_part(item)}," for item in inner), ends[1]]
    return "\n".join(lines).replace("\n", "\n    ")


def source_of_part(line: str, part: ast.expr) -> str:
    """An argument as it is written in a line."""
    return ast.get_source_segment(line.strip(), part) or ast.unparse(part)


def call_in(line: str) -> ast.Call | None:
    """The call that a line consists of, perhaps with a name for its result."""
    (statement,) = ast.parse(line.strip()).body
    found = getattr(statement, "value", None)
    return found if isinstance(found, ast.Call) else None
