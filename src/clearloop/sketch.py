"""Draws a small directed graph without Graphviz: SVG written by hand, PNG through matplotlib."""

from __future__ import annotations

import io
import math
import re
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from xml.sax.saxutils import escape

from clearloop.layered import Link, Point, layered

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Direction = Literal["TB", "BT", "LR", "RL"]
DIRECTIONS: tuple[Direction, ...] = ("TB", "BT", "LR", "RL")
Shape = Literal["box", "box3d", "ellipse", "diamond", "plain"]

FONT = 13.0  # points; all lengths here are points, which are the units of the SVG too
FONTS = "Helvetica, Arial, DejaVu Sans, sans-serif"
LINE = 16.0
PAD_X, PAD_Y, MARGIN = 10.0, 6.0, 8.0
DEPTH = 4.0  # of a box3d
ARROW, ARROW_WIDTH = 8.0, 3.4
INK = "#333333"
DPI, MOST_PIXELS = 144.0, 15_000  # of a PNG's longer side: what is longer gets fewer pixels per inch
LONGEST_LINE, MOST_LINES = 48, 12  # of a label; the whole of it is in the SVG's tooltip


@dataclass(frozen=True)
class Node:
    """A box: `name` is what edges call it; `kind` says what it stands for; sizes are the least, in points."""

    name: str
    label: str
    kind: str = ""
    shape: Shape = "box"
    fill: str = "#ffffff"
    color: str = INK
    width: float = 0.0
    height: float = 0.0


@dataclass(frozen=True)
class Edge:
    """An arrow from the node named `tail` to that named `head`; unranked ones do not decide where nodes stand."""

    tail: str
    head: str
    label: str = ""
    dashed: bool = False
    color: str = INK
    arrows: Literal["forward", "back", "both", "none"] = "forward"
    ranked: bool = True


@dataclass(frozen=True)
class Box:
    """A node in its place."""

    node: Node
    x: float
    y: float
    width: float
    height: float

    @property
    def outline(self) -> list[Point]:
        """The corners of a diamond."""
        half_x, half_y = self.width / 2, self.height / 2
        return [
            (self.x, self.y - half_y),
            (self.x + half_x, self.y),
            (self.x, self.y + half_y),
            (self.x - half_x, self.y),
        ]

    @property
    def depth_lines(self) -> list[list[Point]]:
        """What makes a box look solid."""
        left, top = self.x - self.width / 2, self.y - self.height / 2
        right, bottom = left + self.width, top + self.height
        inner = (right - DEPTH, top + DEPTH)
        return [[(left, inner[1]), inner, (inner[0], bottom)], [inner, (right, top)]]


@dataclass(frozen=True)
class Arrow:
    """An edge in its place: cubic curves of 3 k + 1 points, arrowheads, and the middle and size of the label."""

    edge: Edge
    curve: list[Point]
    heads: list[list[Point]]
    label: Point | None
    label_size: Point


@dataclass(frozen=True)
class Sketch:
    """A graph in its place."""

    width: float
    height: float
    boxes: list[Box]
    arrows: list[Arrow]


def sketch(nodes: Sequence[Node], edges: Sequence[Edge], direction: Direction = "TB") -> Sketch:
    """Lay out nodes and edges; edges lead down (TB), up (BT), right (LR) or left (RL) where there is no cycle."""
    sideways, backwards = direction in ("LR", "RL"), direction in ("BT", "RL")
    sizes = [node_size(node) for node in nodes]

    def reach(number: int, beside: float) -> float:
        across, along = turn(sizes[number])
        return along / 2 * outline_share(nodes[number].shape, beside / (across / 2))

    def turn(point: Point) -> Point:
        return (point[1], point[0]) if sideways else point

    index = {node.name: number for number, node in enumerate(nodes)}
    label_sizes = [text_size(edge.label, 6.0, 2.0) if edge.label else None for edge in edges]
    links = [
        Link(index[edge.tail], index[edge.head], turn(size) if size else None, edge.ranked, plain(edge))
        for edge, size in zip(edges, label_sizes, strict=True)
    ]
    layout = layered([turn(size) for size in sizes], links, reach)
    points = [*corners(layout.centres, [turn(size) for size in sizes]), *(p for curve in layout.curves for p in curve)]
    points += corners([p for p in layout.labels if p], [turn(s) for s in label_sizes if s])
    low, high = extent([point[0] for point in points]), extent([point[1] for point in points])

    def put(point: Point) -> Point:
        across = point[0] - low[0] + MARGIN
        along = (high[1] - point[1] if backwards else point[1] - high[0]) + MARGIN
        x, y = turn((across, along))
        return round(x, 2), round(y, 2)

    boxes = [Box(node, *put(at), *size) for node, at, size in zip(nodes, layout.centres, sizes, strict=True)]
    arrows = [
        arrow(edge, [put(point) for point in curve], put(label) if label else None, size or (0.0, 0.0))
        for edge, curve, label, size in zip(edges, layout.curves, layout.labels, label_sizes, strict=True)
    ]
    width, height = turn((low[1] - low[0] + 2 * MARGIN, high[1] - high[0] + 2 * MARGIN))
    return Sketch(width, height, boxes, arrows)


def plain(edge: Edge) -> bool:
    """Whether it looks like any other and may begin together with one."""
    return not edge.dashed and edge.color == INK and edge.arrows == "forward"


def corners(centres: Sequence[Point], sizes: Sequence[Point]) -> list[Point]:
    """Two opposite corners of each box."""
    pairs = list(zip(centres, sizes, strict=True))
    return [(x + sign * w / 2, y + sign * h / 2) for (x, y), (w, h) in pairs for sign in (-1, 1)]


def extent(values: Sequence[float]) -> Point:
    """The least and the greatest."""
    return min(values, default=0.0), max(values, default=0.0)


def outline_share(shape: Shape, beside: float) -> float:
    """How far an outline reaches, as a share of half its height, at a share of half its width beside the centre."""
    if shape == "ellipse":
        return math.sqrt(max(0.0, 1 - beside * beside))
    return 1 - abs(beside) if shape == "diamond" else 1.0


# -- text ------------------------------------------------------------------------------------------------------------


def clean(text: str) -> str:
    """Without what XML and UTF-8 cannot hold: control characters and lone surrogates become U+FFFD."""
    return re.sub("[^\t\n -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text.replace("\r\n", "\n"))


def lines_of(label: str) -> list[str]:
    """What is drawn of a label: its lines, the long ones and the last of many cut.

    >>> lines_of("weight\\n(10, 784)")
    ['weight', '(10, 784)']
    """
    lines = [line.replace("\t", " ") for line in clean(label).split("\n")]
    if len(lines) > MOST_LINES:
        lines = [*lines[: MOST_LINES - 1], "…"]
    return [line if len(line) <= LONGEST_LINE else line[: LONGEST_LINE - 1] + "…" for line in lines]


def text_width(line: str) -> float:
    """About how wide a line is, in points: rather too wide, since the fonts that show it differ."""
    return FONT * sum(map(_letter_width, line))


def _letter_width(letter: str) -> float:
    if unicodedata.combining(letter):
        return 0.0
    if unicodedata.east_asian_width(letter) in "WF":
        return 1.1
    if letter in "iljtfrI.,:;'|!()[] ":
        return 0.41
    if letter in "mMW@%#&+<=>^~":
        return 0.99
    return 0.79 if letter.isupper() or letter == "w" else 0.64 if letter.isascii() else 0.75


def text_size(label: str, pad_x: float, pad_y: float) -> Point:
    """Width and height of a label with a margin."""
    lines = lines_of(label)
    return round(max(map(text_width, lines)) + 2 * pad_x, 2), len(lines) * LINE + 2 * pad_y


def node_size(node: Node) -> Point:
    """Width and height of a node's outline."""
    width, height = text_size(node.label, PAD_X, PAD_Y)
    stretch = {"ellipse": 1.2, "diamond": 1.7}.get(node.shape, 1.0)
    extra = DEPTH if node.shape == "box3d" else 0.0
    return max(width * stretch + extra, node.width), max(height * stretch + extra, node.height)


# -- arrows ----------------------------------------------------------------------------------------------------------


def arrow(edge: Edge, curve: list[Point], label: Point | None, label_size: Point) -> Arrow:
    """Cut the curve where its arrowheads begin."""
    heads = []
    for end in ("forward", "back"):
        curve = curve[::-1]
        if edge.arrows in (end, "both"):
            (x, y), before = curve[0], next((p for p in curve if p != curve[0]), (curve[0][0], curve[0][1] - 1))
            length = math.dist((x, y), before)
            dx, dy = (before[0] - x) / length, (before[1] - y) / length
            base = (x + ARROW * dx, y + ARROW * dy)
            side = (-ARROW_WIDTH * dy, ARROW_WIDTH * dx)
            heads.append([(x, y), (base[0] + side[0], base[1] + side[1]), (base[0] - side[0], base[1] - side[1])])
            curve = [base, (curve[1][0] + ARROW * dx, curve[1][1] + ARROW * dy), *curve[2:]]
    return Arrow(edge, curve, heads, label, label_size)


# -- SVG -------------------------------------------------------------------------------------------------------------


def svg(picture: Sketch) -> str:
    """The picture as SVG text, the same for the same graph."""
    width, height = (f"{math.ceil(side)}" for side in (picture.width, picture.height))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="{FONTS}" font-size="{FONT:g}" text-anchor="middle">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for each in picture.arrows:
        parts += _svg_arrow(each)
    for box in picture.boxes:
        parts += _svg_box(box)
    return "\n".join([*parts, "</svg>\n"])


def _svg_arrow(arrow: Arrow) -> Iterator[str]:
    edge = arrow.edge
    dashes = ' stroke-dasharray="5 3"' if edge.dashed else ""
    yield f'<g class="edge"><title>{escape(clean(f"{edge.tail} → {edge.head}"))}</title>'
    yield f'<path d="{_svg_path(arrow.curve)}" fill="none" stroke="{edge.color}" stroke-width="1.1"{dashes}/>'
    yield from (f'<polygon points="{_svg_points(head)}" fill="{edge.color}"/>' for head in arrow.heads)
    if arrow.label:
        (x, y), (width, height) = arrow.label, arrow.label_size
        at = f'x="{x - width / 2:.2f}" y="{y - height / 2:.2f}" width="{width:g}" height="{height:g}"'
        yield f'<rect {at} fill="white"/>'
        yield from _svg_text(edge.label, x, y)
    yield "</g>"


def _svg_path(curve: list[Point]) -> str:
    """Lines where the control points say nothing else."""
    parts = ["M" + _svg_points(curve[:1])]
    for start, first, second, end in zip(curve[::3], curve[1::3], curve[2::3], curve[3::3], strict=False):
        straight = first == start and second == end
        parts.append("L" + _svg_points([end]) if straight else "C" + _svg_points([first, second, end]))
    return " ".join(parts)


def _svg_points(points: list[Point]) -> str:
    return " ".join(f"{x:.2f},{y:.2f}" for x, y in points)


def _svg_box(box: Box) -> Iterator[str]:
    node = box.node
    look = f'fill="{node.fill}" stroke="{node.color}"'
    left, top = box.x - box.width / 2, box.y - box.height / 2
    yield f'<g class="node"><title>{escape(clean(node.label or node.name)[:1000])}</title>'
    if node.shape == "ellipse":
        yield f'<ellipse cx="{box.x:g}" cy="{box.y:g}" rx="{box.width / 2:g}" ry="{box.height / 2:g}" {look}/>'
    elif node.shape == "diamond":
        yield f'<polygon points="{_svg_points(box.outline)}" {look}/>'
    elif node.shape != "plain":
        yield f'<rect x="{left:.2f}" y="{top:.2f}" width="{box.width:g}" height="{box.height:g}" {look}/>'
    if node.shape == "box3d":
        yield from (
            f'<polyline points="{_svg_points(line)}" fill="none" stroke="{node.color}"/>' for line in box.depth_lines
        )
    yield from _svg_text(node.label, box.x, box.y)
    yield "</g>"


def _svg_text(label: str, x: float, y: float) -> Iterator[str]:
    for line, at in zip(lines_of(label), baselines(label, y), strict=True):
        if line:
            yield f'<text x="{x:.2f}" y="{at:.2f}">{escape(line)}</text>'


def baselines(label: str, y: float) -> list[float]:
    """Where the lines of a label that is centred at `y` stand."""
    count = len(lines_of(label))
    return [y + (number - (count - 1) / 2) * LINE + 0.35 * FONT for number in range(count)]


# -- PNG -------------------------------------------------------------------------------------------------------------


def png(picture: Sketch) -> bytes:
    """The picture as PNG; a very large one gets fewer pixels per inch."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    dpi = min(DPI, 72 * MOST_PIXELS / max(picture.width, picture.height))
    figure = Figure(figsize=(picture.width / 72, picture.height / 72), dpi=dpi)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set(xlim=(0, picture.width), ylim=(picture.height, 0))
    for each in picture.arrows:
        _draw_arrow(axes, each)
    for box in picture.boxes:
        _draw_box(axes, box)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the font draws a box for an emoji that it lacks
        FigureCanvasAgg(figure)
        figure.savefig(buffer, format="png", dpi="figure", metadata={"Software": None})
    return buffer.getvalue()


def _draw_arrow(axes: Axes, arrow: Arrow) -> None:
    from matplotlib.patches import PathPatch, Polygon
    from matplotlib.path import Path

    codes = [Path.MOVETO, *[Path.CURVE4] * (len(arrow.curve) - 1)]
    line = (0, (5, 3)) if arrow.edge.dashed else "-"
    look: dict[str, Any] = {"edgecolor": arrow.edge.color, "linestyle": line, "linewidth": 1.1, "facecolor": "none"}
    axes.add_artist(PathPatch(Path(arrow.curve, codes), **look))
    for head in arrow.heads:
        axes.add_artist(Polygon(head, color=arrow.edge.color, linewidth=0))
    if arrow.label:
        (x, y), (width, height) = arrow.label, arrow.label_size
        axes.add_artist(_rectangle(x, y, width, height, facecolor="white", linewidth=0))
        _draw_text(axes, arrow.edge.label, x, y)


def _draw_box(axes: Axes, box: Box) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Ellipse, Polygon

    node = box.node
    look: dict[str, Any] = {"facecolor": node.fill, "edgecolor": node.color, "linewidth": 1.0}
    if node.shape == "ellipse":
        axes.add_artist(Ellipse((box.x, box.y), box.width, box.height, **look))
    elif node.shape == "diamond":
        axes.add_artist(Polygon(box.outline, **look))
    elif node.shape != "plain":
        axes.add_artist(_rectangle(box.x, box.y, box.width, box.height, **look))
    if node.shape == "box3d":
        for line in box.depth_lines:
            axes.add_artist(Line2D(*zip(*line, strict=True), color=node.color, linewidth=1.0))
    _draw_text(axes, node.label, box.x, box.y)


def _rectangle(x: float, y: float, width: float, height: float, **look: Any) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x - width / 2, y - height / 2), width, height, **look)


def _draw_text(axes: Axes, label: str, x: float, y: float) -> None:
    for line, at in zip(lines_of(label), baselines(label, y), strict=True):
        axes.text(x, at, line, fontsize=FONT, ha="center", va="baseline", parse_math=False, color="black")
