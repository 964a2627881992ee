"""A linear constraint between parameters, such as `x + 2 * y <= 1`."""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clearloop.errors import ConfigError

SLACK = 1e-9  # relative: a point on the boundary is in, whatever rounding says


@dataclass(frozen=True)
class Constraint:
    """The sum of `factors[name] * value` is at most `bound`.

    >>> Constraint.parse("lr <= 0.5 * momentum", ["lr", "momentum"]).factors
    {'lr': 1.0, 'momentum': -0.5}
    """

    text: str
    factors: dict[str, float]
    bound: float

    @classmethod
    def parse(cls, text: str, names: Sequence[str]) -> Constraint:
        """A constraint from its text: sums of numbers times `names`, with one `<=` or `>=` between.

        Raises ConfigError for any other text.
        """
        try:
            tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            tree = ast.Constant(None)
        if not (isinstance(tree, ast.Compare) and len(tree.ops) == 1 and isinstance(tree.ops[0], (ast.LtE, ast.GtE))):
            raise ConfigError(f"expected a constraint such as 'x + 2 * y <= 1', got {text!r}")
        left, right = linear(tree.left, text), linear(tree.comparators[0], text)
        sign = 1.0 if isinstance(tree.ops[0], ast.LtE) else -1.0
        total = add(left, right, -1.0)
        bound = -sign * total.pop("", 0.0) + 0.0  # no -0.0
        factors = {name: sign * factor for name, factor in total.items() if factor != 0.0}
        unknown = sorted(factors.keys() - set(names))
        if unknown:
            raise ConfigError(f"{text!r}: {unknown[0]} is no parameter of this search; there are {', '.join(names)}")
        if not factors or not all(math.isfinite(number) for number in (*factors.values(), bound)):
            raise ConfigError(f"{text!r} constrains no parameter; expected one such as 'x + 2 * y <= 1'")
        return cls(text, factors, bound)

    def holds(self, params: Mapping[str, Any]) -> bool:
        """Whether values satisfy it, up to rounding."""
        terms = [factor * float(params[name]) for name, factor in self.factors.items()]
        return math.fsum(terms) <= self.bound + SLACK * max(1.0, abs(self.bound), *map(abs, terms))

    def normal(self) -> str:
        """The same in the one form `a*x + b*y <= c`."""
        return " + ".join(f"{factor!r}*{name}" for name, factor in self.factors.items()) + f" <= {self.bound!r}"


def linear(tree: ast.expr, text: str) -> dict[str, float]:
    """Factors by name of an expression; the constant has the name ""."""
    match tree:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return {"": float(number)}
        case ast.Name(id=name):
            return {name: 1.0}
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return add({}, linear(inner, text), -1.0)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return add(linear(left, text), linear(right, text), 1.0)
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return add(linear(left, text), linear(right, text), -1.0)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            one, other = linear(left, text), linear(right, text)
            if one.keys() <= {""}:
                return add({}, other, one.get("", 0.0))
            if other.keys() <= {""}:
                return add({}, one, other.get("", 0.0))
    raise ConfigError(f"{text!r} is not linear; expected sums of numbers times parameters, as in 'x + 2 * y <= 1'")


def add(one: Mapping[str, float], other: Mapping[str, float], factor: float) -> dict[str, float]:
    """One sum of terms plus `factor` times another."""
    return {name: one.get(name, 0.0) + factor * other.get(name, 0.0) for name in {**one, **other}}
