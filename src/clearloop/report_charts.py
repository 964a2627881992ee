"""Curves, dots and bars as SVG for a page: their colours are the page's, so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from clearloop.report_page import Markup, tag

WIDTH, HEIGHT = 400, 260
LEFT, RIGHT, TOP, BOTTOM = 54, 394, 12, 222
POINTS = 300  # a curve of more is averaged to as many
LOGARITHMIC = 30  # times as high as low: from there on, the axis is logarithmic

Axis = Callable[[float], float]
Tone = Literal["a", "b", "c"]


@dataclass(frozen=True)
class Series:
    """Points in one colour: a line, a thin line behind others, dots, or a cloud of dots."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    tone: Tone = "a"
    kind: Literal["line", "thin", "dots", "cloud"] = "line"

    def points(self) -> list[tuple[float, float]]:
        """Those that can be drawn."""
        return [(x, y) for x, y in zip(self.xs, self.ys, strict=True) if drawable(x) and drawable(y)]


def drawable(value: float) -> bool:
    """Whether a value is a number, and one whose differences are numbers too."""
    return abs(value) < 1e300


def chart(
    title: str, series: Sequence[Series], x_name: str, *, diagonal: bool = False, straight: bool = False
) -> Markup:
    """A figure with one axis for each direction; the vertical one is logarithmic where the values ask for it.

    Args: `diagonal`, draw the line on which both are the same; `straight`, never logarithmic.
    """
    drawn = [(one, one.points()) for one in series]
    xs = [x for _, points in drawn for x, _ in points]
    ys = [y for _, points in drawn for _, y in points]
    if not xs:
        return Markup("")
    logarithmic = min(ys) > 0 and max(ys) / min(ys) >= LOGARITHMIC and not (diagonal or straight)
    across, below = axis(min(xs), max(xs), LEFT + 6, RIGHT, False)
    if all(x == int(x) for x in (min(xs), max(xs))):  # steps and epochs
        below = [tick for tick in below if tick == int(tick)]
    upward, beside = axis(min(ys), max(ys), BOTTOM - 4, TOP, logarithmic)
    parts = [frame(across, below, upward, beside, x_name)]
    if diagonal:
        low, high = max(min(xs), min(ys)), min(max(xs), max(ys))
        parts.append(polyline([(across(low), upward(low)), (across(high), upward(high))], "thin c"))
    for one, points in drawn:
        placed = [(across(x), upward(y)) for x, y in points]
        if one.kind in ("line", "thin") and len(placed) > 1:
            parts.append(polyline(placed, f"{one.kind} {one.tone}"))
        else:
            radius, more = (2, " cloud") if one.kind == "cloud" else (3, "")
            parts += [dot(x, y, radius, one.tone + more) for x, y in placed]
    return figure(title, [(one.name, f"{one.tone} {one.kind}") for one in series if one.name], parts, logarithmic)


def bars(title: str, values: Sequence[float], x_name: str, first: int = 0) -> Markup:
    """A bar for each value, from 0 up."""
    known = [value for value in values if drawable(value)]
    if not known:
        return Markup("")
    upward, beside = axis(0.0, max(0.0, *known) or 1.0, BOTTOM, TOP, False)
    wide = (RIGHT - LEFT - 6) / len(values)
    across, below = axis(first, first + max(1, len(values) - 1), LEFT + 6 + wide / 2, RIGHT - wide / 2, False)
    below = [tick for tick in below if tick == int(tick)] if len(values) > 1 else [float(first)]
    parts = [frame(across, below, upward, beside, x_name)]
    for place, value in enumerate(values):
        if drawable(value):
            top = upward(value)
            left, width = LEFT + 6 + place * wide + wide * 0.12, wide * 0.76
            box = {"x": left, "y": top, "width": width, "height": max(0.0, BOTTOM - top)}
            parts.append(tag("rect", class_="bar a", **{name: f"{side:.1f}" for name, side in box.items()}))
    return figure(title, [], parts)


def figure(title: str, names: Sequence[tuple[str, str]], parts: Sequence[Markup], logarithmic: bool = False) -> Markup:
    """A drawing with its title and its key above it."""
    key = [tag("span", name, class_=f"key {tone}") for name, tone in names] if len(names) > 1 else []
    note = [tag("span", "logarithmic")] if logarithmic else []
    svg = tag("svg", parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=title)
    return tag("figure", tag("figcaption", tag("b", title), key, note), svg)


def frame(across: Axis, below: Sequence[float], upward: Axis, beside: Sequence[float], x_name: str) -> Markup:
    """Grid lines with their numbers, and the name of the horizontal axis."""
    parts = []
    for value in beside:
        y = f"{upward(value):.1f}"
        parts.append(tag("line", class_="grid", x1=LEFT, x2=RIGHT, y1=y, y2=y))
        parts.append(tag("text", number(value), x=LEFT - 8, y=f"{upward(value) + 4.5:.1f}", text_anchor="end"))
    for value in below:
        anchor = "end" if across(value) > RIGHT - 12 else "middle"
        parts.append(tag("text", number(value), x=f"{across(value):.1f}", y=BOTTOM + 17, text_anchor=anchor))
    parts.append(tag("text", x_name, x=(LEFT + RIGHT) // 2, y=HEIGHT - 3, text_anchor="middle"))
    return Markup("".join(parts))


def axis(low: float, high: float, start: float, end: float, logarithmic: bool) -> tuple[Axis, list[float]]:
    """From values to places, and the values to write at it."""
    if logarithmic:
        first, last = math.log10(low), math.log10(high)
        marks = [m * 10.0**p for p in range(math.floor(first), math.ceil(last) + 1) for m in (1, 2, 5)]
        marks = [mark for mark in marks if low <= mark <= high]
        if len(marks) > 6:
            marks = [mark for mark in marks if math.log10(mark) == round(math.log10(mark))]
        return (lambda value: start + (math.log10(value) - first) / (last - first) * (end - start)), marks
    if high - low <= max(abs(low), abs(high)) * 1e-6:  # no difference, or hardly any: one value, in the middle
        return (lambda value: (start + end) / 2), [low]
    span = high - low
    return (lambda value: start + (value - low) / span * (end - start)), ticks(low, high)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Up to so many round numbers in a range.

    >>> ticks(0, 1), ticks(3, 97)
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [20.0, 40.0, 60.0, 80.0])
    """
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{place * step:.12g}") for place in range(first, last + 1)]


def polyline(points: Sequence[tuple[float, float]], class_: str) -> Markup:
    """A line through points."""
    return tag("polyline", class_=class_, points=" ".join(f"{x:.1f},{y:.1f}" for x, y in points))


def dot(x: float, y: float, radius: float, tone: str) -> Markup:
    """A point."""
    return tag("circle", class_=f"dot {tone}", cx=f"{x:.1f}", cy=f"{y:.1f}", r=radius)


def averaged(values: Sequence[float], most: int = POINTS) -> tuple[list[float], list[float]]:
    """Places and means of stretches of a long curve; the curve itself where it is short.

    >>> averaged([1.0, 3.0, 5.0, 7.0], 2)
    ([0.5, 2.5], [2.0, 6.0])
    """
    width = math.ceil(len(values) / most) if values else 1
    pieces = [(at, values[at : at + width]) for at in range(0, len(values), width)]
    return [at + (len(piece) - 1) / 2 for at, piece in pieces], [math.fsum(piece) / len(piece) for _, piece in pieces]


def aligned(value: float) -> str:
    """A number of a column, with as many digits as its neighbours.

    >>> aligned(0.109), aligned(0.00012), aligned(5000.0)
    ('0.1090', '0.00012', '5,000')
    """
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1000 else number(value)


def number(value: float) -> str:
    """A number of an axis or a table, in few digits.

    >>> number(0.25), number(12000.0), number(1e-7)
    ('0.25', '12,000', '1e-07')
    """
    if value and (abs(value) < 1e-3 or abs(value) >= 1e6):
        return f"{value:.3g}"
    return f"{value:,.4f}".rstrip("0").rstrip(".") if abs(value) < 1000 else f"{value:,.0f}"
