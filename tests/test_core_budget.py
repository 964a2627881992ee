"""The core stays small enough to be read in one sitting."""

from __future__ import annotations

import ast
import io
import tokenize
from pathlib import Path

import pytest

import clearloop

ROOT = Path(clearloop.__file__).parent
CORE = ("losses", "metrics", "schedules", "step", "history", "callback", "learner", "checkpoint")
BUDGET = 600  # lines of code in all core files together
LINES_A_FUNCTION = 50

IGNORED = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def code_lines(source: str) -> set[int]:
    """The numbers of the lines that hold code: no docstrings, no comments, no blank lines."""
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in IGNORED:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and node.body:
            first = node.body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                lines -= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return lines


def test_the_counter_leaves_out_docstrings_comments_and_blank_lines():
    lines = [
        '"""Module.',
        "",
        'Text."""',
        "",
        "x = 1  # code",
        "# no code",
        "def f(",
        "    a,",
        "):",
        '    """Doc."""',
        '    return """two',
        'lines"""',
    ]
    assert code_lines("\n".join(lines)) == {5, 7, 8, 9, 11, 12}


def test_the_core_is_within_its_budget():
    sizes = {name: len(code_lines((ROOT / f"{name}.py").read_text())) for name in CORE}
    assert sum(sizes.values()) <= BUDGET, f"{sum(sizes.values())} lines of code: {sizes}"


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_functions_are_at_most_50_lines(path):
    source = path.read_text()
    code = code_lines(source)
    long = {
        node.name: size
        for node in ast.walk(ast.parse(source))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (size := len(code & set(range(node.lineno, (node.end_lineno or node.lineno) + 1)))) > LINES_A_FUNCTION
    }
    assert not long
