"""What a search may choose from: ranges, whole numbers, choices, and linear constraints between them."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clearloop.errors import ConfigError
from clearloop.searching.constraint import Constraint

Value = bool | int | float | str
Params = dict[str, Value]
FINITE = 10_000  # a space of at most so many points can be walked through one by one


@dataclass(frozen=True)
class Range:
    """Real numbers from `low` to `high`, both among them; with `log=True` each factor of ten gets the same share.

    >>> Range(1e-4, 1, log=True)
    Range(low=0.0001, high=1.0, log=True)
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        check_bounds(self.low, self.high, self.log)
        object.__setattr__(self, "low", float(self.low))
        object.__setattr__(self, "high", float(self.high))

    def has(self, value: object) -> bool:
        """Whether a value is in the range."""
        return isinstance(value, (int, float)) and not isinstance(value, bool) and self.low <= value <= self.high


@dataclass(frozen=True)
class Integer:
    """Whole numbers from `low` to `high`, both among them; `log=True` as for Range."""

    low: int
    high: int
    log: bool = False

    def __post_init__(self) -> None:
        if type(self.low) is not int or type(self.high) is not int:
            raise ConfigError(f"expected whole numbers as bounds, got {self.low!r} and {self.high!r}; use Range")
        check_bounds(self.low, self.high, self.log)

    def has(self, value: object) -> bool:
        """Whether a value is one of these numbers."""
        return type(value) is int and self.low <= value <= self.high


@dataclass(frozen=True, init=False)
class Choice:
    """One of several values, all of one kind: strings, truth values, or numbers (which keep their order).

    >>> Choice("sgd", "adam").values
    ('sgd', 'adam')
    """

    values: tuple[Value, ...]

    def __init__(self, *values: Value) -> None:
        kinds = {type(value) for value in values}
        if kinds == {int, float}:
            values, kinds = tuple(float(value) for value in values), {float}
        if len(values) < 2 or len(set(values)) < len(values):
            raise ConfigError(f"a choice needs two values or more, all different, got {list(values)}")
        if len(kinds) != 1 or not kinds <= {bool, int, float, str}:
            raise ConfigError(f"a choice is of strings, of truth values or of numbers, got {list(values)}")
        if not all(math.isfinite(value) for value in values if isinstance(value, float)):
            raise ConfigError(f"a choice is of finite numbers, got {list(values)}")
        object.__setattr__(self, "values", values)

    def has(self, value: object) -> bool:
        """Whether a value is one of these, and of their type."""
        return type(value) is type(self.values[0]) and value in self.values


Parameter = Range | Integer | Choice


def check_bounds(low: float, high: float, log: bool) -> None:
    """Raise ConfigError for a range that holds fewer than two values, or that has no logarithm."""
    if not all(isinstance(bound, (int, float)) and math.isfinite(bound) for bound in (low, high)):
        raise ConfigError(f"expected finite numbers as bounds, got {low} and {high}")
    if low >= high:
        raise ConfigError(f"the range from {low:g} to {high:g} is empty; the lower bound comes first")
    if log and low <= 0:
        raise ConfigError(f"a log scale has no place for {low:g}; begin above 0, as in log:1e-4:1")


@dataclass(frozen=True)
class Space:
    """Parameters by name, and linear constraints between those on a linear scale.

    >>> space = Space.of({"x": Range(0, 1), "n": Integer(1, 3)}, ["x <= 0.5 * n"])
    >>> space.has({"x": 0.9, "n": 1}), space.has({"x": 0.9, "n": 2})
    (False, True)
    """

    parameters: dict[str, Parameter]
    constraints: tuple[Constraint, ...] = ()

    @classmethod
    def of(cls, parameters: Mapping[str, Parameter], constraints: Sequence[str] = ()) -> Space:
        """A space that was looked at: raises ConfigError for one that cannot be."""
        if not parameters:
            raise ConfigError("a search needs at least one parameter, such as lr=log:1e-4:1")
        for name, parameter in parameters.items():
            if not re.fullmatch(r"[A-Za-z_]\w*", name):
                raise ConfigError(f"a parameter's name is made of letters, digits and '_', got {name!r}")
            if not isinstance(parameter, (Range, Integer, Choice)):
                raise ConfigError(f"{name}: expected a Range, an Integer or a Choice, got {parameter!r}")
        space = cls(dict(parameters), tuple(Constraint.parse(text, list(parameters)) for text in constraints))
        space._check_constraints()
        return space

    def _check_constraints(self) -> None:
        for constraint in self.constraints:
            for name in constraint.factors:
                parameter = self.parameters[name]
                if isinstance(parameter, Choice):
                    raise ConfigError(f"{constraint.text!r}: {name} is a choice; constraints are for ranges")
                if parameter.log:
                    raise ConfigError(f"{constraint.text!r}: {name} is on a log scale; constraints need a linear one")
            lows = [
                factor * (self.parameters[name].low if factor > 0 else self.parameters[name].high)  # type: ignore[union-attr]
                for name, factor in constraint.factors.items()
            ]
            if math.fsum(lows) > constraint.bound:
                raise ConfigError(f"{constraint.text!r} leaves nothing of the space; widen a range or the constraint")

    def has(self, params: Mapping[str, object]) -> bool:
        """Whether these values, one a parameter, lie in the space."""
        return (
            params.keys() == self.parameters.keys()
            and all(parameter.has(params[name]) for name, parameter in self.parameters.items())
            and all(constraint.holds(params) for constraint in self.constraints)
        )

    def points(self) -> Iterator[Params] | None:
        """All points of a small space, in order; None where there are more than can be walked through."""
        values: list[Sequence[Value]] = []
        for parameter in self.parameters.values():
            if isinstance(parameter, Range):
                return None
            values.append(
                parameter.values if isinstance(parameter, Choice) else range(parameter.low, parameter.high + 1)
            )
        if math.prod(len(several) for several in values) > FINITE:
            return None
        every = (dict(zip(self.parameters, point, strict=True)) for point in itertools.product(*values))
        return (params for params in every if self.has(params))

    def record(self) -> dict[str, Any]:
        """The space as plain data."""
        rows: dict[str, Any] = {}
        for name, parameter in self.parameters.items():
            if isinstance(parameter, Choice):
                rows[name] = {"kind": "choice", "values": list(parameter.values)}
            else:
                kind = "integer" if isinstance(parameter, Integer) else "range"
                rows[name] = {"kind": kind, "low": parameter.low, "high": parameter.high, "log": parameter.log}
        return {"parameters": rows, "constraints": [constraint.text for constraint in self.constraints]}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Space:
        """The space that `record` gave. Raises ConfigError, KeyError or TypeError for what is none."""
        made: dict[str, Parameter] = {}
        for name, row in record["parameters"].items():
            if row["kind"] == "choice":
                made[name] = Choice(*row["values"])
            else:
                made[name] = (Integer if row["kind"] == "integer" else Range)(row["low"], row["high"], row["log"])
        return cls.of(made, record["constraints"])


def parse_parameter(text: str) -> tuple[str, Parameter]:
    """A parameter as the command line writes it.

    `lr=0.01:0.1` and `lr=log:1e-4:1` are ranges, `width=int:16:256` and `width=log-int:16:256` whole numbers,
    `opt=sgd,adam` and `epochs=2,4` choices. Raises ConfigError, naming the parameter.

    >>> parse_parameter("width=int:16:256")
    ('width', Integer(low=16, high=256, log=False))
    """
    name, equals, rest = text.partition("=")
    name = name.strip().replace("-", "_")
    if not equals or not name or not rest.strip():
        raise ConfigError(f"expected NAME=LOW:HIGH or NAME=A,B, got {text!r}; for example lr=log:1e-4:1")
    *scale, low, high = ["", "", *rest.strip().split(":")]
    scale = [part for part in scale if part]
    try:
        if ":" not in rest:
            return name, Choice(*parse_values(rest))
        if scale in ([], ["log"]):
            return name, Range(float(low), float(high), log=bool(scale))
        if scale in (["int"], ["log-int"]):
            return name, Integer(int(low), int(high), log=scale == ["log-int"])
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None
    except ValueError:
        kind = "whole numbers" if "int" in "".join(scale) else "numbers"
        raise ConfigError(f"{name}: expected two {kind} around the colon, got {rest!r}") from None
    known = "LOW:HIGH, log:LOW:HIGH, int:LOW:HIGH, log-int:LOW:HIGH or A,B,C"
    raise ConfigError(f"{name}: expected {known}, got {rest!r}")


def parse_values(text: str) -> list[Value]:
    """The values of a choice: numbers where all of them are.

    >>> parse_values("2,4"), parse_values("0.1,1"), parse_values("sgd,adam")
    ([2, 4], [0.1, 1.0], ['sgd', 'adam'])
    """
    parts = [part.strip() for part in text.split(",")]
    for kind in (int, float):
        try:
            return [kind(part) for part in parts]
        except ValueError:
            continue
    return [*parts]


def parse_space(parameters: Sequence[str], constraints: Sequence[str] = ()) -> Space:
    """The space of a command's options. Raises ConfigError."""
    made: dict[str, Parameter] = {}
    for text in parameters:
        name, parameter = parse_parameter(text)
        if name in made:
            raise ConfigError(f"{name} comes twice; give each parameter once")
        made[name] = parameter
    return Space.of(made, constraints)
