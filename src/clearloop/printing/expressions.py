"""Parts of a recipe as Python expressions, and long lines broken."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from clearloop.buildable import is_augmentation
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


def print_augmentation(printer: Printer, description: Any) -> str:
    """An augmentation of ours as an expression, and what it is composed of. Raises EjectError for another one."""
    if not is_augmentation(description):
        raise EjectError(
            f"the augmentation {name_of(description)} cannot be printed: expected one of clearloop.data.augment"
        )
    if name_of(description) != "compose":
        return print_call(printer, description)
    parts = [print_augmentation(printer, part) for part in description.get("args", [])]
    return f"{printer.need(description['path'])}({', '.join(parts)})"


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
        return text_literal(value)
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    shown = value.get("name", value) if isinstance(value, Mapping) else value
    raise EjectError(f"an argument {shown!r} cannot be printed: expected numbers, text and lists of them")


def text_literal(text: str) -> str:
    """A text in double quotes, or in single ones where that saves escapes.

    >>> print(text_literal('a "b"'), text_literal("it's"), text_literal("\\n"))
    'a "b"' "it's" "\\n"
    """
    quote = '"' if text.count('"') <= text.count("'") else "'"
    inner = (f"\\{letter}" if letter == quote else repr(letter)[1:-1] for letter in text)
    return f"{quote}{''.join(inner)}{quote}"


def print_constant(printer: Printer, name: str, ends: str, items: Sequence[str]) -> None:
    """Print a tuple, list or dict of expressions under a name of the program's own."""
    printer.claim(name, "the program's own")
    line = f"{name} = {ends[0]}{', '.join(items)}{ends[1]}"
    if len(line) > WIDTH:
        line = "\n".join([f"{name} = {ends[0]}", *(f"    {item}," for item in items), ends[1]])
    printer.pieces[name] = f"{line}\n"


def name_of(description: Mapping[str, Any]) -> str:
    """What to call a component in a message."""
    if not isinstance(description, Mapping):
        return repr(description)[:80]
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
