"""A small directed graph as a picture: shown inline in notebooks, written as SVG, PNG or DOT; and DOT text drawn."""

from __future__ import annotations

import re
import shutil
import subprocess
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from clearloop import durable, sketch
from clearloop.dot_language import Attributes, parse
from clearloop.errors import ConfigError
from clearloop.sketch import Direction, Edge, Node, Shape, Sketch, clean

DOT_TIMEOUT_S = 20.0
DOT_MOST = 600  # nodes and edges; dot's time grows steeply, so larger graphs are placed by our own layout
INLINE_MOST = 10_000  # a notebook that keeps a larger one could not be opened

_SHAPES: dict[str, Shape] = {
    **dict.fromkeys(("ellipse", "oval", "circle", "doublecircle", "egg", "point", "mcircle"), "ellipse"),
    **dict.fromkeys(("plaintext", "plain", "none"), "plain"),
    **dict.fromkeys(("diamond", "mdiamond"), "diamond"),
    "box3d": "box3d",
}  # all others are drawn as boxes


@dataclass(frozen=True, repr=False)
class Drawing:
    """Nodes and edges, and their picture: placed by Graphviz where its program `dot` is on the PATH, else by ourselves.

    A notebook shows it by itself. It keeps text alone, no tensor, and nothing is written unless `render` is called. The
    same graph gives the same bytes, on a machine with Graphviz and on one without (but not the same on both).

    Attributes:
        nodes: in the order in which they were made.
        edges: by the nodes' names; an edge that occurs twice is there twice.
        direction: where edges lead: down (TB), up (BT), right (LR) or left (RL).
        dot: the graph as DOT text.
        svg: the picture as SVG text.
    """

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    direction: Direction = "TB"
    source: str | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        note = "" if self.size <= INLINE_MOST else "; too large to be shown inline, write it with render('graph.svg')"
        return f"<Drawing of {len(self.nodes)} nodes and {len(self.edges)} edges{note}>"

    def _repr_svg_(self) -> str | None:
        return self.svg if self.size <= INLINE_MOST else None

    @property
    def size(self) -> int:
        """How many nodes and edges there are."""
        return len(self.nodes) + len(self.edges)

    @cached_property
    def dot(self) -> str:
        """The graph as DOT text, for Graphviz."""
        return self.source if self.source is not None else _to_dot(self)

    @cached_property
    def svg(self) -> str:
        """The picture as SVG text: one element `svg`, which may stand in an HTML page as it is."""
        drawn = self._by_graphviz("svg")
        if drawn is None:
            return sketch.svg(self._sketch)
        text = drawn.decode()
        return text[text.index("<svg") :]

    @cached_property
    def png(self) -> bytes:
        """The picture as PNG."""
        drawn = self._by_graphviz("png")
        return sketch.png(self._sketch) if drawn is None else drawn

    @cached_property
    def _sketch(self) -> Sketch:
        return sketch.sketch(self.nodes, self.edges, self.direction)

    def render(self, path: str | Path) -> Path:
        """Write the picture to `path`: its suffix, .svg, .png or .dot, chooses the format. Missing folders are made.

        Returns:
            The path.

        Raises:
            ConfigError: another suffix, or none.
            StorageError: the file system refused.
        """
        path = Path(path)
        formats: dict[str, Callable[[], bytes]] = {
            ".svg": lambda: self.svg.encode(),
            ".png": lambda: self.png,
            ".dot": lambda: self.dot.encode(),
        }
        if path.suffix.lower() not in formats:
            raise ConfigError(
                f"expected a path that ends in {', '.join(formats)}, got {str(path)!r}; write for example graph.svg"
            )
        data = formats[path.suffix.lower()]()
        durable.make_directory(path.parent)
        durable.write_file(path, data)
        return path

    save = render

    def _by_graphviz(self, form: str) -> bytes | None:
        """What `dot` draws; None where it is not installed, or cannot. Its answer is awaited for a limited time."""
        program = shutil.which("dot")
        if program is None or self.size > DOT_MOST:
            return None
        command = [program, f"-T{form}", "-Gdpi=120"] if form == "png" else [program, f"-T{form}"]
        try:
            done = subprocess.run(command, input=self.dot.encode(), capture_output=True, timeout=DOT_TIMEOUT_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            problem = str(error)
        else:
            if done.returncode == 0 and done.stdout:
                return done.stdout
            problem = (done.stderr.decode(errors="replace").strip() or f"exit status {done.returncode}").splitlines()[0]
        warnings.warn(f"Graphviz could not draw the graph ({problem}); drawn without it", stacklevel=4)
        return None


def gv(source: str) -> Drawing:
    """Draw DOT text, the language of Graphviz, with or without `digraph {…}` around it; Graphviz need not be there.

    Statements are separated by semicolons, newlines or spaces. Without `digraph` the edges lead from left to right.

    Args:
        source: for example `'a->b->c; b[shape=box label="the middle"]; c->a[label=repeat]'`.

    Raises:
        ConfigError: the text is not DOT; the message names the line.

    >>> drawing = gv("program[shape=box3d width=1 height=0.7] inputs->program->results")
    >>> [(edge.tail, edge.head) for edge in drawing.edges]
    [('inputs', 'program'), ('program', 'results')]
    """
    if not isinstance(source, str):
        raise ConfigError(f"expected DOT text such as 'a->b', got {type(source).__name__}")
    text = clean(source)
    read = parse(text)
    wanted = read.attributes.get("rankdir", "TB" if read.whole else "LR").upper()
    direction: Direction = next((known for known in sketch.DIRECTIONS if known == wanted), "TB")
    nodes = tuple(_node(name, attributes) for name, attributes in read.nodes.items())
    edges = tuple(_edge(*edge) for edge in read.edges)
    if not read.directed:
        edges = tuple(replace(edge, arrows="none") for edge in edges)
    return Drawing(nodes, edges, direction, text if read.whole else f'digraph {{\nrankdir="LR"\n{text}\n}}\n')


def _node(name: str, attributes: Attributes) -> Node:
    styles = attributes.get("style", "")
    color = _color(attributes.get("color"), sketch.INK)
    fill = (
        _color(attributes.get("fillcolor") or attributes.get("color"), "#d3d3d3") if "filled" in styles else "#ffffff"
    )
    width, height = (72 * _number(attributes.get(side)) for side in ("width", "height"))
    shape = _SHAPES.get(attributes.get("shape", "ellipse").lower(), "box")
    return Node(name, _label(attributes.get("label", r"\N"), name), "", shape, fill, color, width, height)


def _edge(tail: str, head: str, attributes: Attributes) -> Edge:
    arrows = {"back": "back", "both": "both", "none": "none"}.get(attributes.get("dir", ""), "forward")
    dashed = any(style in attributes.get("style", "") for style in ("dashed", "dotted"))
    label = _label(attributes.get("label") or attributes.get("xlabel") or "", f"{tail}->{head}")
    ranked = attributes.get("constraint", "true").lower() not in ("false", "no", "0")
    return Edge(tail, head, label, dashed, _color(attributes.get("color"), sketch.INK), arrows, ranked)  # type: ignore[arg-type]


def _label(text: str, name: str) -> str:
    r"""A label as it is shown: \n, \l and \r end lines, \N and \E are the name."""
    known = {"n": "\n", "l": "\n", "r": "\n", "N": name, "E": name, "G": "", "L": ""}
    return re.sub(r"\\(.)", lambda match: known.get(match[1], match[1]), text, flags=re.DOTALL).removesuffix("\n")


def _color(text: str | None, default: str) -> str:
    """A colour that matplotlib knows by this name, as #rrggbb."""
    if text is None:
        return default
    from matplotlib.colors import to_hex

    try:
        return to_hex(text.strip().lower())
    except ValueError:
        return default


def _number(text: str | None) -> float:
    """Inches, within what fits a page."""
    try:
        return min(max(0.0, float(text or 0)), 50.0)
    except ValueError:
        return 0.0


def _to_dot(drawing: Drawing) -> str:
    """DOT text; names and labels are quoted, so that no character of theirs means anything."""
    lines = ["digraph {", f"  rankdir={drawing.direction}", '  node [style=filled fontname="Helvetica" fontsize=11]']
    for node in drawing.nodes:
        shape = "plaintext" if node.shape == "plain" else node.shape
        look = f'shape={shape} fillcolor="{node.fill}" color="{node.color}"'
        lines.append(f"  {_quoted(node.name)} [label={_quoted(_shown(node.label))} {look}]")
    for edge in drawing.edges:
        look = f' style={"dashed" if edge.dashed else "solid"} color="{edge.color}" dir={edge.arrows}'
        label = f" label={_quoted(_shown(edge.label))}" if edge.label else ""
        ranked = "" if edge.ranked else " constraint=false"
        lines.append(f"  {_quoted(edge.tail)} -> {_quoted(edge.head)} [{(look + label + ranked).strip()}]")
    return "\n".join([*lines, "}\n"])


def _shown(label: str) -> str:
    return "\n".join(sketch.lines_of(label))


def _quoted(text: str) -> str:
    """A DOT string: backslashes, entities and quotes stand for themselves."""
    text = clean(text).replace("\\", "\\\\").replace("&", "&amp;").replace('"', '\\"').replace("\n", "\\n")
    return f'"{text}"'
