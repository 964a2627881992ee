"""Drawings of directed graphs: what is drawn and where, the DOT that is read, files, and Graphviz there or not."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from io import BytesIO
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath
from PIL import Image

from clearloop import sketch
from clearloop.dot_language import parse
from clearloop.drawing import DOT_MOST, INLINE_MOST, Drawing, gv
from clearloop.errors import ConfigError, StorageError
from clearloop.sketch import Box, Edge, Node, Sketch

needs_dot = pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz's program dot is not installed")
SVG = "{http://www.w3.org/2000/svg}"
Point = tuple[float, float]


@pytest.fixture
def no_dot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No program can be found."""
    monkeypatch.setenv("PATH", str(tmp_path))


def program(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Put a program named dot, of our own making, before all others."""
    path = folder / "bin" / "dot"
    path.parent.mkdir()
    path.write_text(f"#!{sys.executable}\n{text}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(path.parent))


def titles(svg: str, kind: str) -> list[str]:
    """The titles of the SVG's groups of nodes or edges."""
    groups = [group for group in ET.fromstring(svg).iter(f"{SVG}g") if group.get("class") == kind]
    return [group.findtext(f"{SVG}title") or "" for group in groups]


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter(f"{SVG}text")]


# -- our own layout, on any graph ------------------------------------------------------------------------------------


@st.composite
def graphs(draw: st.DrawFn, *, cycles: bool) -> tuple[list[Node], list[Edge]]:
    """Up to 12 nodes of all shapes and 24 edges, parallel ones, some with labels; loops too where cycles may be."""
    count = draw(st.integers(1, 12))
    shapes = st.sampled_from(["box", "box3d", "ellipse", "diamond", "plain"])
    labels = st.sampled_from(["w", "weight\n(50, 784)", "a rather long label of one line", ""])
    nodes = [Node(str(n), draw(labels), shape=draw(shapes)) for n in range(count)]
    edges = []
    for _ in range(draw(st.integers(0, 24))):
        tail, head = draw(st.integers(0, count - 1)), draw(st.integers(0, count - 1))
        if not cycles and tail >= head:
            continue
        label = draw(st.sampled_from(["", "", "", "label"]))
        edges.append(Edge(str(tail), str(head), label, ranked=not cycles or draw(st.booleans())))
    return nodes, edges


def rectangle(box: Box) -> tuple[float, float, float, float]:
    return box.x - box.width / 2, box.y - box.height / 2, box.x + box.width / 2, box.y + box.height / 2


def overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float], slack: float = 0.1) -> bool:
    return a[0] < b[2] - slack and b[0] < a[2] - slack and a[1] < b[3] - slack and b[1] < a[3] - slack


def along(curve: Sequence[Point], steps: int = 12) -> list[Point]:
    """Points on a chain of cubic curves."""
    found = []
    for (x0, y0), (x1, y1), (x2, y2), (x3, y3) in zip(curve[::3], curve[1::3], curve[2::3], curve[3::3], strict=False):
        for step in range(steps + 1):
            t = step / steps
            a, b, c, d = (1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3
            found.append((a * x0 + b * x1 + c * x2 + d * x3, a * y0 + b * y1 + c * y2 + d * y3))
    return found


def label_rectangles(picture: Sketch) -> list[tuple[float, float, float, float]]:
    labels = [(arrow.label, arrow.label_size) for arrow in picture.arrows if arrow.label]
    return [(x - w / 2, y - h / 2, x + w / 2, y + h / 2) for (x, y), (w, h) in labels]


@given(graphs(cycles=True), st.sampled_from(sketch.DIRECTIONS))
def test_every_node_and_edge_is_drawn_within_the_picture(graph, direction):
    nodes, edges = graph
    picture = sketch.sketch(nodes, edges, direction)
    svg = sketch.svg(picture)
    assert len(titles(svg, "node")) == len(nodes)
    assert titles(svg, "edge") == [f"{edge.tail} → {edge.head}" for edge in edges]
    assert texts(svg).count("label") == sum(bool(edge.label) for edge in edges)
    points = [point for arrow in picture.arrows for point in along(arrow.curve)]
    points += [point for box in picture.boxes for point in (rectangle(box)[:2], rectangle(box)[2:])]
    for x, y in points:
        assert 0 <= x <= picture.width
        assert 0 <= y <= picture.height


@given(graphs(cycles=True), st.sampled_from(sketch.DIRECTIONS))
def test_boxes_and_labels_do_not_overlap(graph, direction):
    nodes, edges = graph
    picture = sketch.sketch(nodes, edges, direction)
    rectangles = [*map(rectangle, picture.boxes)]
    flat = {i for i, arrow in enumerate(picture.arrows) if not arrow.edge.ranked}  # those may bow across others
    labels = [found for i, found in enumerate(picture.arrows) if found.label and i not in flat]
    rectangles += label_rectangles(Sketch(0, 0, [], labels))
    assert not [pair for pair in combinations(rectangles, 2) if overlap(*pair)]


@given(graphs(cycles=False), st.sampled_from(sketch.DIRECTIONS))
def test_edges_lead_onwards_where_there_is_no_cycle(graph, direction):
    nodes, edges = graph
    boxes = {box.node.name: rectangle(box) for box in sketch.sketch(nodes, edges, direction).boxes}
    for edge in edges:
        (left, top, right, bottom), (left2, top2, right2, bottom2) = boxes[edge.tail], boxes[edge.head]
        gap = {"TB": top2 - bottom, "BT": top - bottom2, "LR": left2 - right, "RL": left - right2}[direction]
        assert gap >= 20


@given(graphs(cycles=True), st.sampled_from(["TB", "LR"]))
def test_no_edge_touches_a_box_that_it_does_not_belong_to(graph, direction):
    nodes, edges = graph
    picture = sketch.sketch(nodes, edges, direction)
    for arrow in picture.arrows:
        for box in picture.boxes:
            if box.node.name in (arrow.edge.tail, arrow.edge.head):
                continue
            at = rectangle(box)
            assert not [point for point in along(arrow.curve) if overlap((*point, *point), at, slack=-3)]


@given(graphs(cycles=True))
def test_an_edge_ends_at_its_head_and_begins_at_its_tail_or_on_another_edge_of_it(graph):
    nodes, edges = graph
    picture = sketch.sketch(nodes, edges)
    boxes = {box.node.name: rectangle(box) for box in picture.boxes}

    def touches(point: Point, name: str) -> bool:
        left, top, right, bottom = boxes[name]
        return left - 0.1 <= point[0] <= right + 0.1 and top - 0.1 <= point[1] <= bottom + 0.1

    for arrow in picture.arrows:
        assert touches(arrow.heads[0][0], arrow.edge.head)
        siblings = [other for other in picture.arrows if other.edge.tail == arrow.edge.tail and other is not arrow]
        trunk = {point for other in siblings for point in other.curve}
        assert touches(arrow.curve[0], arrow.edge.tail) or arrow.curve[0] in trunk


@given(graphs(cycles=True))
def test_the_same_graph_gives_the_same_bytes(graph):
    assert sketch.svg(sketch.sketch(*graph)) == sketch.svg(sketch.sketch(*graph))


@given(st.text(), st.text(min_size=1), st.text())
def test_any_text_gives_well_formed_xml_and_dot_that_means_it(label, name, edge_label):
    drawing = Drawing((Node(name, label), Node(name + "2", label)), (Edge(name, name + "2", edge_label),))
    svg = sketch.svg(sketch.sketch(drawing.nodes, drawing.edges))
    svg.encode()
    assert len(titles(svg, "node")) == 2
    read = parse(drawing.dot)
    assert len(read.nodes) == 2
    assert len(read.edges) == 1


def test_what_a_name_holds_is_shown_and_never_means_anything(no_dot):
    label = "<b>&amp;\"'</b>\n$x^2$ 😀 \x00\ud800\\N \\n"
    drawing = Drawing((Node("a", label),), ())
    assert texts(drawing.svg) == ["<b>&amp;\"'</b>", "$x^2$ 😀 ��\\N \\n"]
    with Image.open(BytesIO(drawing.png)) as image:
        assert image.width > image.height


def test_long_labels_are_cut_and_the_tooltip_has_the_whole(no_dot):
    drawing = Drawing((Node("a", "x" * 500 + "\n" + "\n".join("abcdefghijklmnop")),), ())
    assert len(texts(drawing.svg)) == 12
    assert max(map(len, texts(drawing.svg))) == 48
    assert titles(drawing.svg, "node")[0].startswith("x" * 500)
    assert sketch.sketch(drawing.nodes, ()).width < 600


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("label", ["max_pool2d_with_indices", "WWWW MMMM", "a += {b} <= c", "Жлобин", "日本語", "w"])
def test_labels_fit_their_boxes_in_the_font_of_the_png(label):
    width, _, _ = TextToPath().get_text_width_height_descent(label, FontProperties(size=sketch.FONT), False)
    assert 0.93 * width <= sketch.text_width(label) <= 1.3 * width


def test_a_weight_that_is_used_everywhere_needs_one_lane_beside_the_chain():
    chain = [Edge(str(n), str(n + 1)) for n in range(300)]
    shared = [Edge("w", str(n)) for n in range(1, 301)]
    nodes = [Node(str(n), "mul") for n in range(301)] + [Node("w", "w")]
    picture = sketch.sketch(nodes, [*chain, *shared])
    assert sum(len(arrow.curve) for arrow in picture.arrows) < 20 * 600
    assert picture.width < 300


def test_parts_that_no_edge_joins_stand_side_by_side():
    texts = ["a->b; b->c[label=x]; c->c[label=self]; a->c; a->c[label=z]; c->d->a[label=back]", "e->{f g h}->i"]
    drawings = [gv(text) for text in (*texts, " ".join(texts))]
    first, second, both = (sketch.sketch(each.nodes, each.edges, "LR").height for each in drawings)
    assert max(first, second) < both < first + second + 10


def test_deep_graphs_are_drawn_without_recursion():
    count = 5 * sys.getrecursionlimit()
    nodes = [Node(str(n), "sin") for n in range(count)]
    picture = sketch.sketch(nodes, [Edge(str(n), str(n + 1)) for n in range(count - 1)])
    assert len({box.x for box in picture.boxes}) == 1  # straight
    assert picture.height > 30 * count


def test_a_graph_that_needs_too_many_lanes_is_drawn_all_the_same(monkeypatch):
    monkeypatch.setattr("clearloop.layered.MOST_LANES", 3)
    nodes = [Node(str(n), "n") for n in range(8)]
    edges = [Edge(str(a), str(b), "x" if (a, b) == (0, 7) else "") for a, b in combinations(range(8), 2)]
    picture = sketch.sketch(nodes, edges)
    assert len(picture.arrows) == len(edges)
    assert all(len(arrow.curve) >= 4 and len(arrow.heads) == 1 for arrow in picture.arrows)
    assert max(len(arrow.curve) for arrow in picture.arrows) <= 10  # lanes would have made it 40


@pytest.mark.parametrize(("arrows", "ends"), [("forward", "b"), ("back", "a"), ("both", "ba"), ("none", "")])
def test_arrowheads_are_at_the_ends_that_were_asked_for(arrows, ends):
    picture = sketch.sketch([Node("a", "a"), Node("b", "b")], [Edge("a", "b", arrows=arrows)])
    a, b = picture.boxes
    tips = {"a": a.y + a.height / 2, "b": b.y - b.height / 2}
    [arrow] = picture.arrows
    assert [head[0][1] for head in arrow.heads] == [tips[end] for end in ends]
    assert arrow.curve[-1][1] == tips["b"] - sketch.ARROW * ("b" in ends)
    assert arrow.curve[0][1] == tips["a"] + sketch.ARROW * ("a" in ends)


# -- gv --------------------------------------------------------------------------------------------------------------


def pairs(drawing: Drawing) -> list[tuple[str, str]]:
    return [(edge.tail, edge.head) for edge in drawing.edges]


def test_statements_as_courses_write_them():
    drawing = gv("program[shape=box3d width=1 height=0.7] inputs->program->results")
    assert [node.name for node in drawing.nodes] == ["program", "inputs", "results"]
    assert pairs(drawing) == [("inputs", "program"), ("program", "results")]
    assert drawing.direction == "LR"
    first = drawing.nodes[0]
    assert (first.shape, first.width, first.height) == ("box3d", 72, pytest.approx(50.4))
    assert drawing.nodes[1].shape == "ellipse"


@pytest.mark.parametrize(
    "text",
    ["a->b->c;b->d", "a->b->c b->d", "a->b->c\nb->d\n", "a -> b -> c; b -> d;", "a->b # x\n->c// y\n/* z\n*/b->d"],
)
def test_semicolons_newlines_or_spaces_separate_statements(text):
    if "#" in text:
        text = text.replace("# x", "// x")
    assert pairs(gv(text)) == [("a", "b"), ("b", "c"), ("b", "d")]


def test_a_line_that_begins_with_a_hash_is_a_comment():
    assert pairs(gv("# from the course: a->x\na->b")) == [("a", "b")]


def test_attributes_of_edges():
    drawing = gv('loss->parameters[constraint=false label=update style=dashed color=red] a->b[label="x y", dir=both]')
    first, second = drawing.edges
    assert (first.label, first.ranked, first.dashed, first.color) == ("update", False, True, "#ff0000")
    assert (second.label, second.arrows) == ("x y", "both")


def test_names_and_labels_may_be_quoted_and_escaped():
    drawing = gv(r'"a b" -> "c\"d" -> -1.5 -> größe; "a b"[label="one\ntwo\l<\N>" style=filled fillcolor="#ff000080"]')
    assert pairs(drawing) == [("a b", 'c"d'), ('c"d', "-1.5"), ("-1.5", "größe")]
    assert drawing.nodes[0].label == "one\ntwo\n<a b>"
    assert drawing.nodes[0].fill == "#ff0000"


def test_defaults_and_groups():
    drawing = gv("node[shape=box] a; subgraph cluster_1 { node[shape=diamond] b; c } {b c} -> {d e} edge[label=l] d->e")
    assert [(node.name, node.shape) for node in drawing.nodes] == [
        ("a", "box"),
        ("b", "diamond"),
        ("c", "diamond"),
        ("d", "box"),
        ("e", "box"),
    ]
    assert pairs(drawing) == [("b", "d"), ("b", "e"), ("c", "d"), ("c", "e"), ("d", "e")]
    assert [edge.label for edge in drawing.edges] == ["", "", "", "", "l"]


def test_a_whole_graph_is_taken_as_it_is():
    text = "strict digraph G { a:n -> b:p:s; c [label=<<b>bold</b> text>] }"
    drawing = gv(text)
    assert drawing.dot == text
    assert drawing.direction == "TB"
    assert pairs(drawing) == [("a", "b")]
    assert drawing.nodes[2].label == "bold text"
    assert gv("graph { rankdir=LR a -- b }").edges[0].arrows == "none"


@pytest.mark.parametrize(("text", "direction"), [("rankdir=TB a->b", "TB"), ('graph[rankdir="BT"]', "BT"), ("a", "LR")])
def test_the_direction_can_be_chosen(text, direction):
    assert gv(text).direction == direction


@pytest.mark.parametrize("text", ["", " \n ", "# nothing", "a"])
def test_little_or_nothing_is_drawn_too(text, no_dot):
    drawing = gv(text)
    assert not drawing.edges
    assert ET.fromstring(drawing.svg).get("width")
    assert drawing.png.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a->", "line 1 .* expected a name, got 'the end of the text'"),
        ("a->b\n\nb->!", "line 3 .* got '!'"),
        ("a[label", r"expected a name, got 'the end of the text'"),
        ("a[label=]", r"expected a name, got '\]'"),
        ('a[label="open]', "got '\"'"),
        ("{a", "expected a name, got 'the end"),
        ("a}", "expected a name, got '}'"),
        ("digraph { a } b", "nothing after the last '}'"),
        ("node -> a", 'quote it as "node"'),
        ('"a" + b', "a quoted text after"),
        ("strict a", "'digraph' or 'graph' after 'strict'"),
        ("{" * 20_000, "at most 50 groups"),
        ("/* open", "got '/'"),
    ],
)
def test_what_is_not_dot_is_refused_with_the_line(text, problem):
    with pytest.raises(ConfigError, match=problem):
        gv(text)


@pytest.mark.parametrize("source", [None, 3, b"a->b", ["a->b"]])
def test_what_is_not_text_is_refused(source):
    with pytest.raises(ConfigError, match="expected DOT text"):
        gv(source)


@given(st.text(alphabet='ab->[]{}=;, "\n\\<>/*#:+1', max_size=30))
def test_any_text_is_read_or_refused(text):
    with contextlib.suppress(ConfigError):  # what else is raised fails the test
        drawing = gv(text)
        assert {name for pair in pairs(drawing) for name in pair} <= {node.name for node in drawing.nodes}
        sketch.svg(sketch.sketch(drawing.nodes, drawing.edges))


# -- files and notebooks ---------------------------------------------------------------------------------------------


def test_the_suffix_chooses_the_format(tmp_path, no_dot):
    drawing = gv("a->b")
    for name in ("g.svg", "deep/er/g.png", "g.dot", "G.SVG"):
        assert drawing.render(tmp_path / name) == tmp_path / name
    assert (tmp_path / "g.svg").read_text() == drawing.svg == (tmp_path / "G.SVG").read_text()
    assert (tmp_path / "deep/er/g.png").read_bytes() == drawing.png
    assert (tmp_path / "g.dot").read_text() == drawing.dot
    assert drawing.save(str(tmp_path / "s.svg")).read_text() == drawing.svg


@pytest.mark.parametrize("name", ["graph", "graph.pdf", "graph.svg.gz", ""])
def test_another_suffix_is_refused_and_nothing_is_written(tmp_path, name):
    with pytest.raises(ConfigError, match=r"ends in \.svg, \.png, \.dot"):
        gv("a->b").render(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path, no_dot):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        gv("a->b").render(tmp_path / "file" / "graph.svg")


def test_a_notebook_shows_the_svg_and_nothing_is_written(tmp_path, monkeypatch, no_dot):
    monkeypatch.chdir(tmp_path)
    drawing = gv("a->b")
    assert drawing._repr_svg_() == drawing.svg
    assert repr(drawing) == "<Drawing of 2 nodes and 1 edges>"
    assert not list(tmp_path.iterdir())


def test_a_picture_that_no_notebook_could_hold_is_not_shown_inline():
    drawing = Drawing(tuple(Node(str(n), "") for n in range(INLINE_MOST + 1)), ())
    assert drawing._repr_svg_() is None
    assert "render" in repr(drawing)


def test_a_very_long_png_gets_fewer_pixels_per_inch(no_dot):
    drawing = gv("rankdir=TB " + "->".join(f"n{n}" for n in range(320)))
    with Image.open(BytesIO(drawing.png)) as image:
        assert image.height <= 15_001


def test_drawing_a_png_leaves_pyplot_alone():
    code = "import sys; from clearloop.drawing import gv; gv('a->b').png; assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PATH": "/nowhere"})


# -- Graphviz --------------------------------------------------------------------------------------------------------


@needs_dot
def test_graphviz_draws_the_same_nodes_and_edges():
    drawing = gv('a->b; b->c[label="x<y"]; "d e"->a')
    assert titles(drawing.svg, "node") == ["a", "b", "c", "d e"]
    assert len(titles(drawing.svg, "edge")) == 3
    assert "x<y" in texts(drawing.svg)
    assert drawing.svg.startswith("<svg")
    assert drawing.png.startswith(b"\x89PNG")
    assert drawing.svg == gv(drawing.source).svg


@needs_dot
def test_graphviz_shows_labels_as_they_are():
    label = "<b>&amp;\"'</b> \\N\n{x|y} 😀"
    assert texts(Drawing((Node("a&b", label),), ()).svg) == ["<b>&amp;\"'</b> \\N", "{x|y} 😀"]


@needs_dot
def test_graphviz_is_not_asked_about_large_graphs(monkeypatch):
    monkeypatch.setattr(subprocess, "run", None)
    drawing = Drawing(tuple(Node(str(n), "") for n in range(DOT_MOST + 1)), ())
    assert len(titles(drawing.svg, "node")) == DOT_MOST + 1


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("import sys; sys.exit('no layout engine')", "no layout engine"),
        ("raise SystemExit(3)", "exit status 3"),
        ("", "exit status 0"),
        ("import time; time.sleep(60)", "timed out"),
    ],
)
def test_a_graphviz_that_fails_is_done_without_aloud(tmp_path, monkeypatch, text, problem):
    monkeypatch.setattr("clearloop.drawing.DOT_TIMEOUT_S", 1.0)
    program(tmp_path, monkeypatch, text)
    drawing = gv("a->b")
    with pytest.warns(UserWarning, match=problem):
        assert titles(drawing.svg, "node") == ["a", "b"]


def test_the_source_is_given_to_graphviz_as_input_and_to_no_shell(tmp_path, monkeypatch):
    program(
        tmp_path,
        monkeypatch,
        f"import sys; open({str(tmp_path / 'seen')!r}, 'w').write(sys.stdin.read()); print('<svg/>')",
    )
    source = "a->b // $(touch x) `y` ; | é"
    assert gv(source).svg == "<svg/>\n"
    assert source in (tmp_path / "seen").read_text(encoding="utf-8")
