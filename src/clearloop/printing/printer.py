"""Prints functions of this library, and all that they use, as the text of one stand-alone module.

The text is taken from the source files of the package. What a program does not need is cut: doctests, checks marked
`# eject: drop`, parameters whose value is known, branches that it decides, and variables that nobody reads any more.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import re
import symtable
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

from clearloop.component import cut_out
from clearloop.errors import EjectError

ERRORS = {"DataError": "ValueError", "ConfigError": "ValueError", "ModelError": "ValueError"}
WIDTH = 120


@dataclass(frozen=True)
class Given:
    """In place of a known value: the parameter stays, and is always given a value of this type, which is not None."""

    type: str


@dataclass(frozen=True)
class Always:
    """In place of a known value: the parameter goes, and what was called by its name is this function."""

    function: str


class Printer:
    """Collects pieces of source in the order in which they can be defined, and the imports that they need."""

    def __init__(self, known: dict[str, Any]) -> None:
        """`known`: what is known of parameters, by name: a value (then they go), a Given or an Always."""
        self.known = known
        self.pieces: dict[str, str] = {}
        self.imports: dict[str, set[str]] = {}  # module -> names; a plain import has the name ""
        self.origins: dict[str, str] = {}  # each name of the program, and where it comes from

    def need(self, path: str) -> str:
        """Print the thing at "module:name" of this package, after all that it uses; returns its name."""
        module_name, name = path.split(":")
        self.claim(name, path)
        if name in self.pieces:
            return name
        module = import_module(module_name)
        text = specialise(top_level_source(module, name), self.known)
        for used in free_names(text):
            if used != name:
                self._resolve(module, used)
        self.pieces[name] = text
        return name

    def claim(self, name: str, origin: str) -> None:
        """Keep a name for what comes from `origin`. Raises EjectError if something else in the program has it."""
        if self.origins.setdefault(name, origin) != origin:
            raise EjectError(
                f"two parts of the program would be called {name!r}: {self.origins[name]} and {origin}; give your own "
                "another name"
            )

    def need_import(self, module: str, name: str = "") -> None:
        """Import a module of torch's, NumPy's or Python's own."""
        path, _, alias = (name or module).partition(" as ")
        whole = not name and not alias  # `import a.b` gives the name a
        self.claim(alias or path.split(".")[0], path.split(".")[0] if whole else f"{module}:{name}")
        self.imports.setdefault(module, set()).add(name)

    def _resolve(self, module: ModuleType, name: str) -> None:
        imported = imports_of(module)
        if name in imported:
            source, alias = imported[name]
            if source.split(".")[0] == "clearloop":
                self.need(f"{source}:{alias}")
            else:
                self.need_import(source, alias)
        elif name in defined_names(module):
            self.need(f"{module.__name__}:{name}")
        elif not hasattr(builtins, name):
            raise EjectError(f"{module.__name__} uses {name!r}, whose source cannot be found")

    def import_lines(self) -> str:
        """The import block: Python's own modules, a blank line, all others."""
        plain = [f"import {module}" for module, names in self.imports.items() if "" in names]
        from_ = [line for module, names in self.imports.items() for line in from_lines(module, names - {""})]
        own = [
            line
            for line in (*sorted(plain), *sorted(from_))
            if line.split()[1].split(".")[0] in sys.stdlib_module_names
        ]
        other = [line for line in (*sorted(plain), *sorted(from_)) if line not in own]
        return "\n\n".join("\n".join(block) for block in (own, other) if block)

    def text(self) -> str:
        """All pieces, two blank lines around functions and classes; what needs none of these comes first."""
        alone = [
            piece
            for piece in self.pieces.values()
            if not is_block(piece) and not set(free_names(piece)) & set(self.pieces)
        ]
        out, after_block = "", False
        for piece in (*alone, *(piece for piece in self.pieces.values() if piece not in alone)):
            out += ("\n\n\n" if after_block or is_block(piece) else "\n") + piece.rstrip("\n")
            after_block = is_block(piece)
        return out.strip("\n") + "\n"


def from_lines(module: str, names: set[str]) -> list[str]:
    """`from module import …`: a line for all names, and one for each that is renamed.

    >>> from_lines("torch", {"nn", "Tensor", "optim as o"})
    ['from torch import Tensor, nn', 'from torch import optim as o']
    """
    renamed = {name for name in names if " as " in name}
    plain = sorted(names - renamed, key=import_order)
    return [f"from {module} import {text}" for text in ([", ".join(plain)] if plain else []) + sorted(renamed)]


def is_block(piece: str) -> bool:
    """Whether a piece is a function or a class."""
    return piece.startswith(("def ", "class ", "@"))


def import_order(name: str) -> tuple[bool, bool, str]:
    """Constants, then classes, then functions, each by name."""
    return not name.isupper(), name[0].islower(), name.lower()


def alias_text(alias: ast.alias) -> str:
    """`name` or `name as other`."""
    return f"{alias.name} as {alias.asname}" if alias.asname else alias.name


@cache
def parsed(module: ModuleType) -> ast.Module:
    """The syntax tree of a module's source file."""
    return ast.parse(inspect.getsource(module))


@cache
def imports_of(module: ModuleType) -> dict[str, tuple[str, str]]:
    """What the names that a module imports stand for: (module, name), the latter "" for a module itself."""
    found: dict[str, tuple[str, str]] = {}
    for statement in ast.walk(parsed(module)):
        if isinstance(statement, ast.ImportFrom) and statement.module:
            for alias in statement.names:
                found.setdefault(alias.asname or alias.name, (statement.module, alias_text(alias)))
        elif isinstance(statement, ast.Import):
            for alias in statement.names:
                found.setdefault(alias.asname or alias.name.split(".")[0], (alias_text(alias), ""))
    return found


@cache
def defined_names(module: ModuleType) -> set[str]:
    """Names that a module's own top-level statements define."""
    return {name for statement in parsed(module).body for name in names_of(statement)}


def names_of(statement: ast.stmt) -> list[str]:
    """The names that one statement defines."""
    if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
        return [statement.name]
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def top_level_source(module: ModuleType, name: str) -> str:
    """The text of the top-level statement that defines `name`, comments in it included."""
    for statement in parsed(module).body:
        if name in names_of(statement):
            return cut_out(inspect.getsource(module), statement)
    raise EjectError(f"{module.__name__} defines no {name!r} at its top level")


def free_names(text: str) -> list[str]:
    """Names that a piece of source uses and neither defines nor takes as parameters, in the order of their use."""
    found = set(global_names(symtable.symtable(text, "<piece>", "exec")))
    used = [node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)]
    return [name for name in dict.fromkeys(used) if name in found]


def global_names(table: symtable.SymbolTable) -> Iterator[str]:
    """Names that a scope, or one inside it, looks up outside of the piece."""
    top = table.get_type() == "module"
    for symbol in table.get_symbols():
        if symbol.is_referenced() and (not symbol.is_assigned() if top else symbol.is_global()):
            yield symbol.get_name()
    own = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_assigned()} if top else set()
    for inner in table.get_children():
        yield from (name for name in global_names(inner) if name not in own)


def specialise(text: str, known: dict[str, Any]) -> str:
    """A piece of source without what `known` values make needless; comments elsewhere stay."""
    text = "".join(line for line in text.splitlines(True) if not line.rstrip().endswith("# eject: drop"))
    text = re.sub(r"^@remember\n", "", text, flags=re.M)
    text = re.sub(r"  # type: ignore.*$", "", text, flags=re.M)
    for error, plain in ERRORS.items():
        text = re.sub(rf"\b{error}\b", plain, text)
    for edit in (shorten_docstring, drop_import, fold_branch, fold_choice, drop_argument, drop_parameter, drop_unread):
        while (edited := edit(text, known)) is not None:
            text = edited
    return text


def shorten_docstring(text: str, known: dict[str, Any]) -> str | None:
    """Keep the summary and the source of an algorithm; examples and what goes with them are cut."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or ast.get_docstring(node) is None:
            continue
        body = node.body[0]
        paragraphs = re.split(r"\n\s*\n", (ast.get_docstring(node) or "").rstrip())
        source = re.search(r"^Source:.*?(?=\n\s*\n|\n>>>|\Z)", "\n\n".join(paragraphs), flags=re.M | re.S)
        kept = paragraphs[0] if source is None else f"{paragraphs[0]}\n\n{source[0].rstrip()}"
        indent = " " * body.col_offset
        if "\n" not in kept and len(indent + kept) + 6 > WIDTH:  # its quotes stood on a line of their own
            kept = textwrap.fill(kept, WIDTH - len(indent) - 6)
        if "\n" in kept:
            kept += "\n"
        new = indent + '"""' + textwrap.indent(kept, indent).lstrip() + (indent if "\n" in kept else "") + '"""'
        old = "\n".join(text.splitlines()[body.lineno - 1 : body.end_lineno])
        if new != old:
            return replace_lines(text, body.lineno, body.end_lineno, new)
    return None


def drop_import(text: str, known: dict[str, Any]) -> str | None:
    """Remove the first import inside a function: a program has all of its imports at the top."""
    for node in ast.walk(ast.parse(text)):
        for inner in ast.walk(node) if isinstance(node, ast.FunctionDef) else ():
            if isinstance(inner, (ast.Import, ast.ImportFrom)):
                below = text.splitlines()[inner.end_lineno : (inner.end_lineno or 0) + 1]
                blank = 1 if below == [""] else 0
                return replace_lines(text, inner.lineno, (inner.end_lineno or 0) + blank, None)
    return None


def known_parameters(text: str, known: dict[str, Any]) -> Iterator[tuple[ast.FunctionDef, dict[str, Any]]]:
    """Each function of a piece of source, with what is known of its own parameters."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            own = [argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)]
            found = {name: f"{node.name}.{name}" if f"{node.name}.{name}" in known else name for name in own}
            yield node, {name: known[key] for name, key in found.items() if key in known}


def fold_branch(text: str, known: dict[str, Any]) -> str | None:
    """Replace the first `if` that known parameters decide by the branch that is taken."""
    for function, own in known_parameters(text, known):
        for node in ast.walk(function):
            if isinstance(node, ast.If) and (taken := decided(node.test, own)) is not None:
                return with_branch(text, function, node, node.body if taken else node.orelse)
    return None


def fold_choice(text: str, known: dict[str, Any]) -> str | None:
    """Replace the first `a if test else b` that known parameters decide by what it comes to."""
    for function, own in known_parameters(text, known):
        for node in ast.walk(function):
            if isinstance(node, ast.IfExp) and (taken := decided(node.test, own)) is not None:
                old, new = (ast.get_source_segment(text, part) for part in (node, node.body if taken else node.orelse))
                return text.replace(old or "", new or "", 1)
    return None


def decided(test: ast.expr, own: dict[str, Any]) -> bool | None:
    """What a condition comes to, or None if more would have to be known."""
    names = {name.id for name in ast.walk(test) if isinstance(name, ast.Name)}
    certain = ast.unparse(test).endswith((" is None", " is not None"))
    if not names or not names <= set(own) or not certain and any(isinstance(own[name], Given) for name in names):
        return None
    return bool(eval(compile(ast.Expression(test), "<test>", "eval"), {"__builtins__": {}}, dict(own)))


def with_branch(text: str, function: ast.FunctionDef, node: ast.If, branch: list[ast.stmt]) -> str:
    """`branch` in place of an `if`, with the comments in it; what comes after a branch that returns goes too."""
    if not branch:
        return replace_lines(text, node.lineno, node.end_lineno, None)
    first = node.lineno + 1 if branch is node.body else branch[0].lineno
    kept = textwrap.dedent("\n".join(text.splitlines()[first - 1 : branch[-1].end_lineno]))
    kept = re.sub(r"\Aelif\b", "if", kept)
    last: ast.stmt = node
    if isinstance(branch[-1], (ast.Return, ast.Raise)):
        blocks = [getattr(parent, part, None) for parent in ast.walk(function) for part in ("body", "orelse")]
        last = next(block[-1] for block in blocks if isinstance(block, list) and node in block)
    return replace_lines(text, node.lineno, last.end_lineno, textwrap.indent(kept, " " * node.col_offset))


def drop_parameter(text: str, known: dict[str, Any]) -> str | None:
    """Write the first signature that has a known parameter without it, or without its default if it is always given."""
    for node, own in known_parameters(text, known):
        before, parameters = ast.unparse(node.args), node.args
        plain = with_defaults(parameters.args, [*parameters.defaults], own)
        last = max((index for index, (_, default) in enumerate(plain) if default is None), default=-1)
        parameters.args = [argument for argument, _ in plain]
        parameters.defaults = [default for _, default in plain[last + 1 :] if default is not None]
        named = with_defaults(parameters.kwonlyargs, parameters.kw_defaults, own)
        parameters.kwonlyargs, parameters.kw_defaults = [pair[0] for pair in named], [pair[1] for pair in named]
        if ast.unparse(parameters) == before:
            continue
        body = "\n".join(text.splitlines()[node.body[0].lineno - 1 : node.end_lineno])
        for name, value in own.items():
            if isinstance(value, Always):
                body = re.sub(rf"\b{name}\(", f"{value.function}(", body)
        return replace_lines(text, node.lineno, node.end_lineno, f"{signature(node)}\n{body}")
    return None


def with_defaults(
    arguments: list[ast.arg], defaults: Sequence[ast.expr | None], own: dict[str, Any]
) -> list[tuple[ast.arg, ast.expr | None]]:
    """The parameters that stay, with their defaults; one that is always given has the type that is given, and none."""
    pairs: list[tuple[ast.arg, ast.expr | None]] = []
    for argument, default in zip(arguments, padded(arguments, defaults), strict=True):
        value = own.get(argument.arg)
        if isinstance(value, Given):
            pairs.append((ast.arg(argument.arg, ast.parse(value.type, mode="eval").body), None))
        elif argument.arg not in own:
            pairs.append((argument, default))
    return pairs


def padded(arguments: list[ast.arg], defaults: Sequence[ast.expr | None]) -> list[ast.expr | None]:
    """A default for each parameter; None for the first ones, which have none."""
    return [*[None] * (len(arguments) - len(defaults)), *defaults]


def signature(node: ast.FunctionDef) -> str:
    """A `def` line, broken where it is long."""
    indent = " " * node.col_offset
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    plain, named = node.args.args, node.args.kwonlyargs
    defaults = [*padded(plain, node.args.defaults), *node.args.kw_defaults]
    written = [argument_text(argument, default) for argument, default in zip([*plain, *named], defaults, strict=True)]
    if node.args.vararg is not None or named:
        written.insert(len(plain), "*" + (ast.unparse(node.args.vararg) if node.args.vararg is not None else ""))
    lines = bracketed(f"def {node.name}", written, f"{returns}:", WIDTH - len(indent))
    return "\n".join(indent + line for line in lines)


def bracketed(head: str, parts: Sequence[str], tail: str = "", width: int = WIDTH) -> list[str]:
    """`head(part, part)tail` in one line; or in three; or with a line for each part.

    >>> bracketed("f", ["first", "second"], width=12)
    ['f(', '    first,', '    second,', ')']
    """
    joined = ", ".join(parts)
    if len(head) + len(joined) + len(tail) + 2 <= width:
        return [f"{head}({joined}){tail}"]
    if len(joined) + 4 <= width:
        return [f"{head}(", f"    {joined}", f"){tail}"]
    return [f"{head}(", *(f"    {part}," for part in parts), f"){tail}"]


def argument_text(argument: ast.arg, default: ast.expr | None) -> str:
    """A parameter with its type and default."""
    text = ast.unparse(argument)
    if default is None:
        return text
    return f"{text}{' = ' if argument.annotation else '='}{ast.unparse(default)}"


def drop_argument(text: str, known: dict[str, Any]) -> str | None:
    """Remove a known parameter from the first call that hands it on."""
    for function, own in known_parameters(text, known):
        dropped = {name for name, value in own.items() if not isinstance(value, Given)} - assigned_in(function)
        for node in ast.walk(function):
            if not isinstance(node, ast.Call):
                continue
            args = [a for a in node.args if not (isinstance(a, ast.Name) and a.id in dropped)]
            keywords = [k for k in node.keywords if not (isinstance(k.value, ast.Name) and k.value.id in dropped)]
            if len(args) + len(keywords) < len(node.args) + len(node.keywords):
                old = ast.get_source_segment(text, node) or ""
                node.args, node.keywords = args, keywords
                return text.replace(old, ast.unparse(node), 1)
    return None


def assigned_in(function: ast.FunctionDef) -> set[str]:
    """The names that a function gives values to itself."""
    names = (node for node in ast.walk(function) if isinstance(node, ast.Name))
    return {name.id for name in names if isinstance(name.ctx, ast.Store)}


def drop_unread(text: str, known: dict[str, Any]) -> str | None:
    """Remove the first line inside a function that gives a constant to a variable which nobody reads."""
    tree = ast.parse(text)
    read = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        for node in function.body:
            if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Constant):
                continue
            if names_of(node) and not read & {*names_of(node)}:
                return replace_lines(text, node.lineno, node.end_lineno, None)
    return None


def replace_lines(text: str, first: int, last: int | None, new: str | None) -> str:
    """`text` with lines first..last (counted from 1) replaced; None takes them out."""
    lines = text.splitlines()
    lines[first - 1 : last] = [] if new is None else new.splitlines()
    return "\n".join(lines) + "\n"
