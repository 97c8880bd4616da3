"""Where boxes and edges of a drawn genotype stand: the source at the bottom, the sink at the top, nodes between.

A forest (every node reads one thing, and all of them feed the sink: Dense Prediction Cells) has each node in a column
of its own, its first children's columns to the left of it and the others' to the right, and a row above its input's.
Then an edge to the sink is a straight line up an empty column, and an edge between nodes runs in the gap between two
rows over columns of the same subtree: for no cell do boxes overlap, edges cross, or edges meet boxes other than their
ends.

Any other graph has layers: a node's row is above the rows of all that it reads, and a value that is read further up
takes a narrow place in each row that it passes. Then an edge changes its column in the gaps between rows alone, so it
meets no box but its ends, and each read enters its box at a place of its own. Edges may cross; edges of different
sources never lie on each other.

Coordinates: a column of a forest is 1 wide, y grows upwards.
"""

import itertools
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from dpc_jax.base import FEATURES
from dpc_jax.spaces import Graph

ROW_GAP = 0.4
BOX_WIDTH, BOX_HEIGHT = 0.88, 0.48
BOX_LINES, LINE_HEIGHT = 2, 0.18125  # BOX_HEIGHT has room for so many lines; each further line adds LINE_HEIGHT
BAR_HEIGHT = 0.32
MARGIN = 0.12
PASSAGE_WIDTH, PLACE_GAP = 0.2, 0.16  # of a value that passes a row, and between two places of a row
PORT_GAP = 0.3  # between two edges that enter a box, where there is room
STUB = 0.13  # an edge between layers leaves and arrives upright
GAP_PER_SHIFT = 0.1  # how much a gap grows per unit that an edge goes sideways in it, at most
SWEEPS = 6  # up and down through the layers; cells of ten operators do not change after the third

Point = tuple[float, float]


class Box(NamedTuple):
    """The rectangle of a node, by its centre."""

    node: int  # FEATURES (the source), a node of the graph, or their number for the sink
    x: float
    y: float
    width: float
    height: float

    @property
    def bottom(self) -> float:
        """y of the lower side, where edges end."""
        return self.y - self.height / 2

    @property
    def top(self) -> float:
        """y of the upper side, where edges begin."""
        return self.y + self.height / 2


class Edge(NamedTuple):
    """`target` reads `source`; `points` are the corners of the line between them."""

    source: int
    target: int
    points: tuple[Point, ...]


class Layout(NamedTuple):
    """Boxes by node (FEATURES first, the sink last), and edges."""

    boxes: dict[int, Box]
    edges: tuple[Edge, ...]

    @property
    def extent(self) -> tuple[float, float]:
        """(height, width) of all boxes with a margin; the lower left corner is the origin."""
        sink = self.boxes[max(self.boxes)]
        return sink.top + MARGIN, sink.x + sink.width / 2 + MARGIN


def layout(graph: Graph) -> Layout:
    """Places a graph of at least one node; the head of this file says how."""
    forest = all(len(node.reads) == 1 for node in graph.nodes) and set(graph.outputs) == set(range(len(graph.nodes)))
    return _forest(graph) if forest else _layers(graph)


def _rows(graph: Graph) -> list[int]:
    """Row of each node; the source is in row 0."""
    rows: list[int] = []
    for node in graph.nodes:
        rows.append(1 + max((0 if source == FEATURES else rows[source] for source in node.reads), default=0))
    return rows


def _box_height(graph: Graph) -> float:
    """The same for all boxes."""
    return BOX_HEIGHT + LINE_HEIGHT * max([0, *(len(node.lines) - BOX_LINES for node in graph.nodes)])


# ---- forests --------------------------------------------------------------------------------------------------------


def _forest(graph: Graph) -> Layout:
    inputs, sink = [node.reads[0] for node in graph.nodes], len(graph.nodes)
    columns, rows, box_height = _columns(inputs), _rows(graph), _box_height(graph)
    first_row, row_height = MARGIN + BAR_HEIGHT / 2, box_height + ROW_GAP

    def bar(node: int, row: int) -> Box:
        middle, width = (sink - 1) / 2, sink - 1 + BOX_WIDTH
        return Box(node, MARGIN + BOX_WIDTH / 2 + middle, first_row + row * row_height, width, BAR_HEIGHT)

    boxes = {FEATURES: bar(FEATURES, 0)}
    for node, column in enumerate(columns):
        x = MARGIN + BOX_WIDTH / 2 + column
        boxes[node] = Box(node, x, first_row + rows[node] * row_height, BOX_WIDTH, box_height)
    boxes[sink] = bar(sink, max(rows) + 1)

    reads = [Edge(source, node, _route(boxes[source], boxes[node])) for node, source in enumerate(inputs)]
    feeds = [
        Edge(node, sink, ((boxes[node].x, boxes[node].top), (boxes[node].x, boxes[sink].bottom)))
        for node in range(sink)
    ]
    return Layout(boxes, (*reads, *feeds))


def _columns(inputs: list[int]) -> list[int]:
    children: dict[int, list[int]] = {node: [] for node in range(FEATURES, len(inputs))}
    for node, source in enumerate(inputs):
        children[source].append(node)

    def in_order(node: int) -> list[int]:
        subtrees = [in_order(child) for child in children[node]]
        half = len(subtrees) // 2
        return [*itertools.chain(*subtrees[:half]), node, *itertools.chain(*subtrees[half:])]

    order = list(itertools.chain(*map(in_order, children[FEATURES])))
    return [order.index(node) for node in range(len(inputs))]


def _route(source: Box, target: Box) -> tuple[Point, ...]:
    """From the source straight up; from a node up to the middle of the gap, across, and up."""
    if source.node == FEATURES:
        return (target.x, source.top), (target.x, target.bottom)
    middle = (source.top + target.bottom) / 2
    return (source.x, source.top), (source.x, middle), (target.x, middle), (target.x, target.bottom)


# ---- layers ---------------------------------------------------------------------------------------------------------

Place = tuple[int, int]
"""(node, row): a node's own place in its row, and those where its value passes a row further up."""

Way = tuple[Place, ...]
"""The places of an edge row by row: its source's own first, its target's last."""

Link = tuple[Place, Place]
"""From a place of a way to the next, one row up; those from the source's bar and to the sink's bar do not count."""

Shift = tuple[float, float]
"""x where an edge leaves a row, and where it enters the next."""


def _layers(graph: Graph) -> Layout:
    sink, box_height = len(graph.nodes), _box_height(graph)
    rows = dict(enumerate(_rows(graph)))
    last = max(rows.values()) + 1
    centres, ways = _placed(graph, rows | {FEATURES: 0, sink: last})
    shifts = _shifts(ways, centres, last)

    gaps = [ROW_GAP] * last
    for way, edge_shifts in zip(ways, shifts, strict=True):
        for gap, (x0, x1) in enumerate(edge_shifts, way[0][1]):
            gaps[gap] = max(gaps[gap], ROW_GAP + GAP_PER_SHIFT * abs(x1 - x0))
    heights = [BAR_HEIGHT, *[box_height] * (last - 1), BAR_HEIGHT]
    middles = [MARGIN + sum(heights[:row]) + sum(gaps[:row]) + heights[row] / 2 for row in range(last + 1)]
    bottoms, tops = (
        [middle + half * height for middle, height in zip(middles, heights, strict=True)] for half in (-0.5, 0.5)
    )
    width = max(x + _width(place, rows) / 2 for place, x in centres.items()) - MARGIN

    def bar(node: int, row: int) -> Box:
        return Box(node, MARGIN + width / 2, middles[row], width, BAR_HEIGHT)

    boxes = {FEATURES: bar(FEATURES, 0)}
    for node, row in rows.items():
        boxes[node] = Box(node, centres[node, row], middles[row], BOX_WIDTH, box_height)
    boxes[sink] = bar(sink, last)
    edges = [
        Edge(way[0][0], way[-1][0], _corners(edge_shifts, tops[way[0][1] :], bottoms[way[0][1] + 1 :]))
        for way, edge_shifts in zip(ways, shifts, strict=True)
    ]
    return Layout(boxes, tuple(edges))


def _placed(graph: Graph, rows: Mapping[int, int]) -> tuple[dict[Place, float], list[Way]]:
    """x of each place between the bars, and the way of each edge: reads node by node, then those to the sink."""
    sink = len(graph.nodes)
    reads = [(source, node) for node, box in enumerate(graph.nodes) for source in box.reads]
    ways: list[Way] = [
        (*((source, row) for row in range(rows[source], rows[target])), (target, rows[target]))
        for source, target in [*reads, *((source, sink) for source in graph.outputs)]
    ]
    places = dict.fromkeys([*((node, rows[node]) for node in range(sink)), *itertools.chain(*ways)])
    layers: list[list[Place]] = [[] for _ in range(1, rows[sink])]
    for place in places:
        if 0 < place[1] < rows[sink]:
            layers[place[1] - 1].append(place)
    links = dict.fromkeys(link for way in ways for link in itertools.pairwise(way))
    inner = [(low, high) for low, high in links if low[1] > 0 and high[1] < rows[sink]]
    centres = _centres(layers, inner, rows)
    left = min(x - _width(place, rows) / 2 for place, x in centres.items())
    return {place: x - left + MARGIN for place, x in centres.items()}, ways


def _centres(layers: Sequence[Sequence[Place]], links: Sequence[Link], rows: Mapping[int, int]) -> dict[Place, float]:
    """Goes up and down through the layers: a place wants to be above the median of what it reads, or below that of its
    readers. Of the layouts on the way the one with the fewest crossings is taken, and then the one with short edges."""
    below: dict[Place, list[Place]] = {place: [] for layer in layers for place in layer}
    above: dict[Place, list[Place]] = {place: [] for place in below}
    for low, high in links:
        below[high].append(low)
        above[low].append(high)
    centres: dict[Place, float] = {}
    for layer in layers:
        centres |= _packed(dict.fromkeys(layer, 0.0), rows)
    found = [dict(centres)]
    for sweep in range(SWEEPS):
        order, others = (layers[::-1], above) if sweep % 2 else (layers, below)
        for layer in order:
            wishes = {p: statistics.median(centres[o] for o in others[p]) if others[p] else centres[p] for p in layer}
            centres |= _packed(dict(sorted(wishes.items(), key=lambda item: (item[1], centres[item[0]]))), rows)
        found.append(dict(centres))
    return min(found, key=lambda x: (_crossings(links, x), sum(abs(x[low] - x[high]) for low, high in links)))


def _packed(wishes: Mapping[Place, float], rows: Mapping[int, int]) -> dict[Place, float]:
    """x of the places of a row, in this order, as near to the wishes as two passes come: each is in order and has its
    room in both, and so it has in their mean."""
    places = list(wishes)
    room = [_width(place, rows) / 2 for place in places]
    rightmost, leftmost = [wishes[place] for place in places], [wishes[place] for place in places]
    for at in range(1, len(places)):
        rightmost[at] = max(rightmost[at], rightmost[at - 1] + room[at - 1] + PLACE_GAP + room[at])
    for at in reversed(range(len(places) - 1)):
        leftmost[at] = min(leftmost[at], leftmost[at + 1] - room[at + 1] - PLACE_GAP - room[at])
    return {place: (a + b) / 2 for place, a, b in zip(places, rightmost, leftmost, strict=True)}


def _width(place: Place, rows: Mapping[int, int]) -> float:
    node, row = place
    return BOX_WIDTH if node != FEATURES and rows[node] == row else PASSAGE_WIDTH


def _crossings(links: Iterable[Link], centres: Mapping[Place, float]) -> int:
    return sum(
        (centres[a[0]] - centres[b[0]]) * (centres[a[1]] - centres[b[1]]) < 0
        for a, b in itertools.combinations(links, 2)
        if a[0][1] == b[0][1]
    )


def _shifts(ways: Sequence[Way], centres: Mapping[Place, float], last: int) -> list[list[Shift]]:
    """Where each edge leaves and enters, row by row. Edges into one box enter side by side, in the order in which they
    come; the bars are as wide as the drawing, so what leaves the source or enters the sink goes straight up."""
    into: dict[Place, list[int]] = {}
    for at, way in enumerate(ways):
        into.setdefault(way[-1], []).append(at)
    ports: dict[int, float] = {}
    for target, edges in into.items():
        if target[1] < last:
            edges = sorted(edges, key=lambda at: centres.get(ways[at][-2], centres[target]))
            gap = min(PORT_GAP, BOX_WIDTH / (len(edges) + 1))
            for port, at in enumerate(edges):
                ports[at] = centres[target] + (port - (len(edges) - 1) / 2) * gap
    found = []
    for at, way in enumerate(ways):
        enters = [*(centres[place] for place in way[1:-1]), ports.get(at, centres.get(way[-2], 0.0))]
        leaves = [centres.get(way[0], enters[0]), *enters[:-1]]
        found.append(list(zip(leaves, enters, strict=True)))
    return found


def _corners(shifts: Sequence[Shift], tops: Sequence[float], bottoms: Sequence[float]) -> tuple[Point, ...]:
    """From row to row: upright at both ends of a gap, and slanting between them where x changes."""
    corners: list[Point] = [(shifts[0][0], tops[0])]
    for (x0, x1), top, bottom in zip(shifts, tops, bottoms, strict=False):
        if x0 != x1:
            corners += [(x0, top + STUB), (x1, bottom - STUB)]
    return *corners, (shifts[-1][1], bottoms[len(shifts) - 1])
