"""A cell drawn as a graph: features at the bottom, one box per branch, the concatenation at the top.

Every branch reads one input, so the branches form a forest over the features, and every branch also feeds the
concatenation. Each branch gets a column of its own, its first children's columns to the left of it and the others'
to the right, and a row above its input's. Then an edge to the concatenation is a straight line up an empty column,
and an edge between branches runs in the gap between two rows over columns of the same subtree: for no cell do boxes
overlap, edges cross, or edges meet boxes other than their ends.

Coordinates: a column is 1 wide, y grows upwards; the texts are outlines in the same units, so that
they fit their boxes at any size of the axes.
"""

import itertools
from typing import NamedTuple

import matplotlib.patches
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.path import Path
from matplotlib.textpath import TextPath
from matplotlib.transforms import Affine2D

from dpc_jax.base import FEATURES, Genotype
from dpc_jax.palette import BLUES, EDGE, GREENS, GREYS, INK, LIGHT_EDGE, ORANGES
from dpc_jax.spaces import dpc

ROW_HEIGHT = 0.88
BOX_WIDTH, BOX_HEIGHT = 0.88, 0.48
BAR_HEIGHT = 0.32
MARGIN = 0.12
TITLE_HEIGHT = 0.4
TEXT_HEIGHT, SMALL_TEXT_HEIGHT, TITLE_TEXT_HEIGHT = 0.125, 0.085, 0.16
CORNER_RADIUS = 0.13
ARROW_LENGTH, ARROW_WIDTH = 0.1, 0.09
UNIT_INCHES = 0.95  # of a column in a figure of one cell

KIND_COLOURS = {'conv1x1': GREENS, 'separable': BLUES, 'pooling': ORANGES}

Point = tuple[float, float]


class Box(NamedTuple):
    """The rectangle of a node, by its centre."""

    node: int  # FEATURES, a branch, or K for the concatenation
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
    """`target` reads `source`; `points` are the corners of the line from the one to the other."""

    source: int
    target: int
    points: tuple[Point, ...]


class Layout(NamedTuple):
    """Boxes by node (FEATURES first, the concatenation last), and edges."""

    boxes: dict[int, Box]
    edges: tuple[Edge, ...]

    @property
    def extent(self) -> tuple[float, float]:
        """(height, width) of all boxes with a margin; the lower left corner is the origin."""
        concat = self.boxes[max(self.boxes)]
        return concat.top + MARGIN, concat.x + concat.width / 2 + MARGIN


def layout(genotype: Genotype) -> Layout:
    """Places a valid cell `[K]`; the module's text says how."""
    inputs = [int(source) for source in genotype.inputs]
    columns, rows = _columns(inputs), _rows(inputs)
    first_row = MARGIN + BAR_HEIGHT / 2

    def bar(node: int, row: int) -> Box:
        middle, width = (len(inputs) - 1) / 2, len(inputs) - 1 + BOX_WIDTH
        return Box(node, MARGIN + BOX_WIDTH / 2 + middle, first_row + row * ROW_HEIGHT, width, BAR_HEIGHT)

    boxes = {FEATURES: bar(FEATURES, 0)}
    for branch, column in enumerate(columns):
        x = MARGIN + BOX_WIDTH / 2 + column
        boxes[branch] = Box(branch, x, first_row + rows[branch] * ROW_HEIGHT, BOX_WIDTH, BOX_HEIGHT)
    concat = len(inputs)
    boxes[concat] = bar(concat, max(rows) + 1)

    reads = [Edge(source, branch, _route(boxes[source], boxes[branch])) for branch, source in enumerate(inputs)]
    feeds = [
        Edge(branch, concat, ((boxes[branch].x, boxes[branch].top), (boxes[branch].x, boxes[concat].bottom)))
        for branch in range(len(inputs))
    ]
    return Layout(boxes, (*reads, *feeds))


def _columns(inputs: list[int]) -> list[int]:
    children: dict[int, list[int]] = {branch: [] for branch in range(FEATURES, len(inputs))}
    for branch, source in enumerate(inputs):
        children[source].append(branch)

    def in_order(branch: int) -> list[int]:
        subtrees = [in_order(child) for child in children[branch]]
        half = len(subtrees) // 2
        return [*itertools.chain(*subtrees[:half]), branch, *itertools.chain(*subtrees[half:])]

    order = list(itertools.chain(*map(in_order, children[FEATURES])))
    return [order.index(branch) for branch in range(len(inputs))]


def _rows(inputs: list[int]) -> list[int]:
    rows: list[int] = []
    for source in inputs:
        rows.append(1 if source == FEATURES else rows[source] + 1)
    return rows


def _route(source: Box, target: Box) -> tuple[Point, ...]:
    """From the features straight up; from a branch up to the middle of the gap, across, and up."""
    if source.node == FEATURES:
        return (target.x, source.top), (target.x, target.bottom)
    middle = (source.top + target.bottom) / 2
    return (source.x, source.top), (source.x, middle), (target.x, middle), (target.x, target.bottom)


def cell_figure(genotype: Genotype, title: str = '') -> Figure:
    """A figure that holds the cell `[K]` alone, as large as the cell needs."""
    height, width = _size(genotype, title)
    figure = Figure(figsize=(width * UNIT_INCHES, height * UNIT_INCHES))
    draw_on(figure.add_axes((0, 0, 1, 1)), genotype, title)
    return figure


def cells_figure(cells: list[tuple[Genotype, str]], max_width_inches: float = 10.5) -> Figure:
    """A figure of cells with their titles, row by row from the upper left, all in one scale; at least one cell."""
    sizes = [_size(genotype, title) for genotype, title in cells]
    gap = 0.35
    widest = max(width for _, width in sizes) + gap
    per_row = min(len(cells), max(1, int(max_width_inches / (widest * UNIT_INCHES))))
    grid = [range(first, min(first + per_row, len(cells))) for first in range(0, len(cells), per_row)]
    heights = [max(sizes[cell][0] for cell in row) + gap for row in grid]
    total_width, total_height = per_row * widest, sum(heights)
    figure = Figure(figsize=(total_width * UNIT_INCHES, total_height * UNIT_INCHES))
    top = total_height - gap / 2
    for row, row_height in zip(grid, heights, strict=True):
        for place, cell in enumerate(row):
            height, width = sizes[cell]
            left = place * widest + gap / 2
            box = (left / total_width, (top - height) / total_height, width / total_width, height / total_height)
            draw_on(figure.add_axes(box), *cells[cell])
        top -= row_height
    return figure


def _size(genotype: Genotype, title: str) -> tuple[float, float]:
    height, width = layout(genotype).extent
    return height + TITLE_HEIGHT * bool(title), max(width, 2.0)


def draw_on(axes: Axes, genotype: Genotype, title: str = '') -> None:
    """Draws the cell `[K]` on `axes`, whose limits, aspect and frame it sets."""
    placed = layout(genotype)
    height, width = _size(genotype, title)
    middle = placed.extent[1] / 2
    axes.set(xlim=(middle - width / 2, middle + width / 2), ylim=(0, height), aspect='equal')
    axes.set_axis_off()
    concat = max(placed.boxes)
    for edge in sorted(placed.edges, key=lambda edge: edge.target != concat):  # the data's way lies over the rest
        _draw_edge(axes, edge, LIGHT_EDGE if edge.target == concat else EDGE)
    for box in placed.boxes.values():
        _draw_box(axes, box, genotype)
    if title:
        at = (middle, placed.extent[0] + TITLE_HEIGHT / 2)
        _draw_text(axes, title, at, TITLE_TEXT_HEIGHT, width - 2 * MARGIN)


def _draw_box(axes: Axes, box: Box, genotype: Genotype) -> None:
    if 0 <= box.node < len(genotype.ops):
        op = dpc.OPS[int(genotype.ops[box.node])]
        (outline, fill), lines = KIND_COLOURS[op.kind], box_lines(op)
        corner = (box.x - box.width / 2 + 0.075, box.top - 0.08)
        index = str(box.node)
    else:
        (outline, fill), lines = GREYS, ['features' if box.node == FEATURES else 'concat']
        corner, index = (box.x, box.y), ''
    lower_left = (box.x - box.width / 2, box.bottom)
    shape = matplotlib.patches.FancyBboxPatch(
        lower_left, box.width, box.height, 'round,pad=0,rounding_size=0.06', facecolor=fill, edgecolor=outline, lw=1.3
    )
    axes.add_patch(shape)
    for line, text in enumerate(lines):
        y = box.y + ((len(lines) - 1) / 2 - line) * 1.45 * TEXT_HEIGHT
        _draw_text(axes, text, (box.x, y), TEXT_HEIGHT, box.width - 0.06)
    if index:
        _draw_text(axes, index, corner, SMALL_TEXT_HEIGHT, 0.2, colour=outline)


def box_lines(op: dpc.Op) -> list[str]:
    """What stands in the box of an operator: its name, and its rate or grid (height × width)."""
    if op.rate is not None:
        return ['3×3 sep', f'rate {op.rate[0]}×{op.rate[1]}']
    if op.grid is not None:
        return ['pool', f'grid {op.grid[0]}×{op.grid[1]}']
    return ['1×1']


def _draw_text(axes: Axes, text: str, at: Point, size: float, max_width: float, *, colour: str = INK) -> None:
    """Writes one line centred at `at`, smaller than `size` where it would be wider than `max_width`."""
    outline = TextPath((0, 0), text.replace('$', r'\$'), size=1)
    box = outline.get_extents()
    scale = min(size, max_width / box.width if box.width else size)
    # The height of a capital, not of this text, so that lines with and without descenders stand alike.
    place = Affine2D().translate(-(box.x0 + box.x1) / 2, -0.36).scale(scale).translate(*at)
    axes.add_patch(matplotlib.patches.PathPatch(outline.transformed(place), facecolor=colour, lw=0, label=text))


def _draw_edge(axes: Axes, edge: Edge, colour: str) -> None:
    *corners, (x, y) = edge.points
    line = _rounded([*corners, (x, y - ARROW_LENGTH / 2)])
    axes.add_patch(matplotlib.patches.PathPatch(line, fill=False, edgecolor=colour, lw=1.4, capstyle='butt'))
    head = [(x, y), (x - ARROW_WIDTH / 2, y - ARROW_LENGTH), (x + ARROW_WIDTH / 2, y - ARROW_LENGTH)]
    axes.add_patch(matplotlib.patches.Polygon(head, closed=True, facecolor=colour, lw=0))


def _rounded(points: list[Point]) -> Path:
    """The line through `points` with its corners rounded."""
    vertices, codes = [points[0]], [Path.MOVETO]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        for end in (before, after):
            step = np.subtract(end, corner)
            length = float(np.hypot(*step))
            reach = min(CORNER_RADIUS, length / 2) / length
            vertices.append((corner[0] + float(step[0]) * reach, corner[1] + float(step[1]) * reach))
            codes.append(Path.LINETO if end == before else Path.CURVE3)
        vertices.insert(-1, corner)
        codes.insert(-1, Path.CURVE3)
    return Path([*vertices, points[-1]], [*codes, Path.LINETO])
