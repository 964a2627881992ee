"""A layered layout: places the boxes of a directed graph in rows, so that edges lead from one row to a later one.

Four steps, as Sugiyama, Tagawa and Toda described them ("Methods for visual understanding of hierarchical system
structures", 1981): turn round what closes a cycle; give each node a row; order every row so that few edges cross; then
place the boxes of a row as near to their neighbours as their widths allow. Where an edge passes a row it gets a lane
of its own among the boxes, so it never runs through one.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Point = tuple[float, float]

ROW_GAP, MOST_ROW_GAP, BOX_GAP = 34.0, 90.0, 22.0  # distances of two rows, and the least of two boxes in one
PORT_GAP = 13.0  # between the ends of edges that meet the same side of a box
LANE = 8.0  # the room of an edge that passes a row
LANE_WEIGHT = 6.0  # lanes stay straight rather than boxes centred
LOOP = 26.0  # how far an edge from a node to itself swings out
SWEEPS = 12
MOST_LANES = 20_000  # edges that would need more are drawn straight, through boxes if need be


@dataclass(frozen=True)
class Link:
    """An edge between two nodes, by index.

    A label's size makes room for it. A link that is not ranked has no say in the rows. One that `shares` may begin
    together with others that do.
    """

    tail: int
    head: int
    label: Point | None = None
    ranked: bool = True
    shares: bool = True


@dataclass(frozen=True)
class Layout:
    """Where everything is, as (across, along) the rows: nodes by centre, edges as cubic curves of 3 k + 1 points.

    Edges that leave a node together share the first part of their way: it belongs to the curve of one of them, and the
    curves of the others start where they part.
    """

    rows: list[int]
    centres: list[Point]
    curves: list[list[Point]]
    labels: list[Point | None]


@dataclass
class _Cells:
    """What stands in rows, nodes first, then lanes, with the segments that join cells of neighbouring rows."""

    sizes: list[Point] = field(default_factory=list)  # (across, along)
    rows: list[int] = field(default_factory=list)
    before: list[list[int]] = field(default_factory=list)  # neighbours in the row before
    after: list[list[int]] = field(default_factory=list)
    segments: list[tuple[int, int]] = field(default_factory=list)

    def add(self, size: Point, row: int) -> int:
        self.sizes.append(size)
        self.rows.append(row)
        self.before.append([])
        self.after.append([])
        return len(self.rows) - 1

    def join(self, first: int, second: int) -> int:
        self.after[first].append(second)
        self.before[second].append(first)
        self.segments.append((first, second))
        return len(self.segments) - 1


def layered(sizes: Sequence[Point], links: Sequence[Link], reach: Callable[[int, float], float]) -> Layout:
    """Lay out a directed graph, which may have cycles and parallel edges; the same graph gives the same numbers.

    Args:
        sizes: of each node, (across, along) the direction in which rows follow each other.
        links: the edges.
        reach: for a node and a distance from its centre across, how far its outline is from the centre along.
    """
    turned, rows = _assign_rows(len(sizes), links)
    loops = [0.0] * len(sizes)
    for link in links:
        if link.tail == link.head:
            loops[link.tail] += LOOP + (link.label or (0.0, 0.0))[0]
    cells = _Cells()
    for (across, along), row, loop in zip(sizes, rows, loops, strict=True):
        cells.add((across + 2 * loop, along), row)
    chains, label_cells = _chains(cells, links, turned)
    order = _order(cells)
    places = _place(cells, order)
    _close_up(cells, links, places)
    return _draw(cells, places, links, turned, (chains, label_cells), sizes, reach)


# -- rows ------------------------------------------------------------------------------------------------------------


def _assign_rows(count: int, links: Sequence[Link]) -> tuple[list[bool], list[int]]:
    """Which links are turned round to break cycles, and the row of each node."""
    after: list[list[int]] = [[] for _ in range(count)]
    for link in links:
        if link.ranked and link.tail != link.head:
            after[link.tail].append(link.head)
    place = {node: number for number, node in enumerate(_topological(after))}
    step = 2 if any(link.label for link in links) else 1  # labels stand in the rows between
    forward: list[list[int]] = [[] for _ in range(count)]
    backward: list[list[int]] = [[] for _ in range(count)]
    for tail, heads in enumerate(after):
        for head in heads:
            first, second = (tail, head) if place[tail] < place[head] else (head, tail)
            forward[first].append(second)
            backward[second].append(first)
    rows = [0] * count
    for node in place:
        rows[node] = max((rows[other] + step for other in backward[node]), default=0)
    for node in reversed(place):  # down to where it is used, unless that lengthens more edges than it shortens
        if forward[node] and len(backward[node]) <= len(forward[node]):
            rows[node] = min(rows[other] for other in forward[node]) - step
    ahead = [place if link.ranked else rows for link in links]
    return [number[link.tail] > number[link.head] for number, link in zip(ahead, links, strict=True)], rows


def _topological(after: list[list[int]]) -> list[int]:
    """All nodes, each before those that it leads to, edges that close a cycle apart; no recursion, graphs are deep."""
    finished: list[int] = []
    seen = [False] * len(after)
    entered = {head for heads in after for head in heads}
    first = [node for node in range(len(after)) if node not in entered]
    for start in [*first, *range(len(after))]:
        if seen[start]:
            continue
        seen[start] = True
        stack = [(start, iter(after[start]))]
        while stack:
            node, heads = stack[-1]
            head = next((head for head in heads if not seen[head]), None)
            if head is None:
                finished.append(node)
                stack.pop()
            else:
                seen[head] = True
                stack.append((head, iter(after[head])))
    return finished[::-1]


def _chains(cells: _Cells, links: Sequence[Link], turned: list[bool]) -> tuple[list[list[int]], dict[int, int]]:
    """Lanes for the links that pass rows: each link's segments that no other has drawn, and the cells of labels.

    Links without a label that leave one node share lanes: a weight that is used in 1,000 rows needs 1,000 of them, not
    half a million. The shortest comes first, so each of the others begins where the one before it ended.
    """
    ends = [
        (link.head, link.tail) if turn else (link.tail, link.head) for link, turn in zip(links, turned, strict=True)
    ]
    span = [cells.rows[last] - cells.rows[first] for first, last in ends]
    chains: list[list[int]] = [[] for _ in links]
    label_cells: dict[int, int] = {}
    shared: dict[int, list[int]] = defaultdict(list)
    lanes = 0
    for number in sorted(range(len(links)), key=span.__getitem__):
        (first, last), label = ends[number], links[number].label
        way = shared[first] if links[number].shares and label is None and not turned[number] else []
        missing = span[number] - 1 - len(way)
        if span[number] == 0 or lanes + missing > MOST_LANES:
            continue
        lanes += max(0, missing)
        for row in range(cells.rows[last] - missing, cells.rows[last]):
            middle = label is not None and row == (cells.rows[first] + cells.rows[last]) // 2
            lane = cells.add(label if label and middle else (LANE, 0.0), row)
            if middle:
                label_cells[number] = lane
            chains[number].append(cells.join(way[-1] if way else first, lane))
            way.append(lane)
        before_last = way[span[number] - 2] if span[number] > 1 else first
        chains[number].append(cells.join(before_last, last))
    return chains, label_cells


# -- order and place -------------------------------------------------------------------------------------------------


def _order(cells: _Cells) -> list[list[int]]:
    """The cells of every row, from one side to the other, with the fewest crossings that a few sweeps find."""
    rows: list[list[int]] = [[] for _ in range(max(cells.rows, default=-1) + 1)]
    seen = [False] * len(cells.rows)
    for end in [cell for cell, after in enumerate(cells.after) if not after]:
        stack = [end]
        while stack:  # back from the ends: what is first in the source comes first in its row
            cell = stack.pop()
            if not seen[cell]:
                seen[cell] = True
                rows[cells.rows[cell]].append(cell)
                stack.extend(reversed(cells.before[cell]))
    place = [0.0] * len(cells.rows)
    best = [list(row) for row in rows]
    fewest = _crossings(cells, rows, place)
    for sweep in range(SWEEPS):
        if not fewest:
            break
        near = cells.before if sweep % 2 == 0 else cells.after
        for row in rows if sweep % 2 == 0 else rows[::-1]:
            middle = {c: sum(place[o] for o in near[c]) / len(near[c]) if near[c] else place[c] for c in row}
            row.sort(key=middle.__getitem__)
            for number, cell in enumerate(row):
                place[cell] = number
        found = _crossings(cells, rows, place)
        if found < fewest:
            fewest, best = found, [list(row) for row in rows]
    return best


def _crossings(cells: _Cells, rows: list[list[int]], place: list[float]) -> int:
    """How many pairs of segments cross; notes each cell's number in its row in `place`."""
    for row in rows:
        for number, cell in enumerate(row):
            place[cell] = number
    total = 0
    for row in rows:
        ends: list[float] = []
        for cell in row:
            heads = sorted(place[other] for other in cells.after[cell])
            total += sum(len(ends) - bisect_right(ends, head) for head in heads)
            for head in heads:
                insort(ends, head)
    return total


def _place(cells: _Cells, order: list[list[int]]) -> list[float]:
    """Where each cell is across: towards the middle of its neighbours, without overlap."""
    across = [0.0] * len(cells.rows)
    for row in order:
        _settle(cells, row, [0.0] * len(row), across)
    before, after = (
        [_alike(cells, cell, near) for cell, near in enumerate(side)] for side in (cells.before, cells.after)
    )
    both = [one + other for one, other in zip(before, after, strict=True)]
    for sweep in range(SWEEPS + 1):  # the last one as the first: below what leads to it, so that chains are straight
        near = (before, after, both)[sweep % 3]
        for row in order[::-1] if sweep % 3 == 1 else order:
            wanted = [sum(across[o] for o in near[c]) / len(near[c]) if near[c] else across[c] for c in row]
            _settle(cells, row, wanted, across)
    return across


def _alike(cells: _Cells, cell: int, near: list[int]) -> list[int]:
    """Boxes follow boxes and lanes follow lanes where they can: a lane would pull a whole chain of boxes askew."""
    lane = not cells.sizes[cell][1]
    return [other for other in near if (not cells.sizes[other][1]) == lane] or near


def _settle(cells: _Cells, row: list[int], wanted: list[float], across: list[float]) -> None:
    """Put the cells of a row as near as can be to where they want to be, in least squares (pool adjacent violators)."""
    packed: list[float] = []  # the places if all stood close together
    for number, cell in enumerate(row):
        if not number:
            packed.append(0.0)
            continue
        other = row[number - 1]
        gap = BOX_GAP if cells.sizes[cell][1] and cells.sizes[other][1] else BOX_GAP / 2
        packed.append(packed[-1] + (cells.sizes[other][0] + cells.sizes[cell][0]) / 2 + gap)
    blocks: list[tuple[float, float, int]] = []  # (shift, weight, how many cells) of cells that touch
    for cell, want, start in zip(row, wanted, packed, strict=True):
        block = (want - start, 1.0 if cells.sizes[cell][1] else LANE_WEIGHT, 1)
        while blocks and blocks[-1][0] >= block[0]:
            shift, weight, count = blocks.pop()
            total = weight + block[1]
            block = ((shift * weight + block[0] * block[1]) / total, total, count + block[2])
        blocks.append(block)
    shifts = [shift for shift, _, count in blocks for _ in range(count)]
    for cell, start, shift in zip(row, packed, shifts, strict=True):
        across[cell] = start + shift


def _close_up(cells: _Cells, links: Sequence[Link], across: list[float]) -> None:
    """Put parts that no edge joins side by side: nothing in the sweeps pulls them together, or keeps them apart."""
    near: list[list[int]] = [[] for _ in cells.rows]
    for first, second in [*cells.segments, *((link.tail, link.head) for link in links)]:
        near[first].append(second)
        near[second].append(first)
    parts: list[list[int]] = []
    seen = [False] * len(near)
    for start in range(len(near)):
        part = [] if seen[start] else [start]
        seen[start] = True
        for cell in part:  # grows while it is gone through
            new = [other for other in dict.fromkeys(near[cell]) if not seen[other]]
            for other in new:
                seen[other] = True
            part += new
        parts += [part] if part else []
    end = -BOX_GAP
    for part in sorted(parts, key=lambda part: sum(across[cell] for cell in part) / len(part)):
        shift = end + BOX_GAP - min(across[cell] - cells.sizes[cell][0] / 2 for cell in part)
        for cell in part:
            across[cell] += shift
        end = max(across[cell] + cells.sizes[cell][0] / 2 for cell in part)


# -- curves ----------------------------------------------------------------------------------------------------------


def _draw(
    cells: _Cells,
    across: list[float],
    links: Sequence[Link],
    turned: list[bool],
    ways: tuple[list[list[int]], dict[int, int]],
    sizes: Sequence[Point],
    reach: Callable[[int, float], float],
) -> Layout:
    """Turn cells and segments into points."""
    chains, label_cells = ways
    spans = _spans(cells, across)
    middles = [(top + bottom) / 2 for top, bottom in spans]
    centres = [(across[node], middles[cells.rows[node]]) for node in range(len(sizes))]
    ports = _ports(cells, across, sizes)
    curves: list[list[Point]] = []
    labels: list[Point | None] = []
    loops: dict[int, float] = defaultdict(float)
    label: Point | None
    for number, (link, chain) in enumerate(zip(links, chains, strict=True)):
        tail, head = centres[link.tail], centres[link.head]
        if link.tail == link.head:
            curve, label = _loop(tail, sizes[link.tail][0] / 2, loops[link.tail] + LOOP, link.label)
            loops[link.tail] += LOOP + (link.label or (0.0, 0.0))[0]
        elif not chain:
            curve, label = _straight(tail, head, spans[cells.rows[link.tail]][1], (link.tail, link.head), reach)
        else:
            curve = _curve(cells, across, chain, ports, spans, len(sizes), reach)
            cell = label_cells.get(number)
            label = None if cell is None else (across[cell], middles[cells.rows[cell]])
        curves.append(curve[::-1] if turned[number] and chain else curve)
        labels.append(label if link.label else None)
    return Layout(cells.rows[: len(sizes)], centres, curves, labels)


def _spans(cells: _Cells, across: list[float]) -> list[Point]:
    """Where each row begins and ends along; rows are further apart where edges swing far across."""
    count = max(cells.rows, default=-1) + 1
    thick, swing = [0.0] * count, [0.0] * count
    for (_, along), row in zip(cells.sizes, cells.rows, strict=True):
        thick[row] = max(thick[row], along)
    for first, second in cells.segments:
        row = cells.rows[second]
        swing[row] = max(swing[row], abs(across[first] - across[second]))
    spans: list[Point] = []
    for row in range(count):
        gap = min(MOST_ROW_GAP, max(ROW_GAP, 0.2 * swing[row])) if row else 0.0
        top = (spans[-1][1] if spans else 0.0) + gap
        spans.append((top, top + thick[row]))
    return spans


def _ports(cells: _Cells, across: list[float], sizes: Sequence[Point]) -> list[Point]:
    """For each segment how far beside the centres of its two ends it begins and ends: side by side, not crossing."""
    ports = [[0.0, 0.0] for _ in cells.segments]
    for side in (0, 1):
        meeting: dict[int, list[int]] = defaultdict(list)
        for number, segment in enumerate(cells.segments):
            if segment[side] < len(sizes):
                meeting[segment[side]].append(number)
        for node, numbers in meeting.items():
            numbers.sort(key=lambda number: across[cells.segments[number][1 - side]])
            gap = min(PORT_GAP, 0.6 * sizes[node][0] / len(numbers))
            for place, number in enumerate(numbers):
                ports[number][side] = gap * (place - (len(numbers) - 1) / 2)
    return [(first, second) for first, second in ports]


def _curve(
    cells: _Cells,
    across: list[float],
    chain: list[int],
    ports: list[Point],
    spans: list[Point],
    nodes: int,
    reach: Callable[[int, float], float],
) -> list[Point]:
    """The points of a chain of segments: straight within rows, a curve from one row to the next."""
    points: list[Point] = []
    for number in chain:
        (first, second), (leave, enter) = cells.segments[number], ports[number]
        (top, bottom), (next_top, next_bottom) = spans[cells.rows[first]], spans[cells.rows[second]]
        start, end = across[first] + leave, across[second] + enter
        if not points:
            points.append((start, (top + bottom) / 2 + reach(first, leave) if first < nodes else bottom))
        _line_to(points, (start, bottom))
        between = (bottom + next_top) / 2
        points += [(start, between), (end, between), (end, next_top)]
        _line_to(points, (end, (next_top + next_bottom) / 2 - reach(second, enter) if second < nodes else next_bottom))
    return points


def _line_to(points: list[Point], end: Point) -> None:
    if points[-1] != end:
        points += [points[-1], end, end]


def _straight(
    tail: Point, head: Point, bottom: float, nodes: tuple[int, int], reach: Callable[[int, float], float]
) -> tuple[list[Point], Point]:
    """An edge without lanes: a bow after the row that both ends stand in, or a line past all rows between."""
    flat = tail[1] == head[1]
    turn = -1 if tail[1] > head[1] else 1
    start = (tail[0], tail[1] + turn * reach(nodes[0], 0.0))
    end = (head[0], head[1] + (turn if flat else -turn) * reach(nodes[1], 0.0))
    if not flat:
        return [start, start, end, end], ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
    points = [start]
    _line_to(points, (start[0], bottom))
    points += [(start[0], bottom + ROW_GAP), (end[0], bottom + ROW_GAP), (end[0], bottom)]
    _line_to(points, end)
    return points, ((start[0] + end[0]) / 2, bottom + 0.75 * ROW_GAP)


def _loop(centre: Point, side: float, swing: float, label: Point | None) -> tuple[list[Point], Point]:
    """An edge from a node to itself: out on one side and back."""
    (x, y), out = centre, side + swing
    points = [(x + side, y - 5), (x + out, y - 16), (x + out, y + 16), (x + side, y + 5)]
    return points, (x + out + (label or (0.0, 0.0))[0] / 2, y)
