"""A genotype drawn as a graph of boxes and arrows; `cell_layout` says where they stand.

The texts are outlines in the units of the layout, so that they fit their boxes at any size of the axes.
"""

from collections.abc import Sequence

import matplotlib.patches
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.path import Path
from matplotlib.textpath import TextPath
from matplotlib.transforms import Affine2D

from dpc_jax.base import FEATURES
from dpc_jax.figures.cell_layout import LINE_HEIGHT, MARGIN, Box, Edge, Layout, Point, layout
from dpc_jax.palette import EDGE, GREYS, INK, LIGHT_EDGE, PAIRS
from dpc_jax.spaces import Graph

TITLE_HEIGHT = 0.4
TEXT_HEIGHT, SMALL_TEXT_HEIGHT, TITLE_TEXT_HEIGHT = 0.125, 0.085, 0.16
CORNER_RADIUS = 0.13
ARROW_LENGTH, ARROW_WIDTH = 0.1, 0.09
NUMBER_WIDTH = 0.14  # of the corner of a box that its number takes
UNIT_INCHES = 0.95  # of a column in a figure of one cell


def cell_figure(graph: Graph, title: str = '') -> Figure:
    """A figure that holds the graph alone, as large as it needs."""
    height, width = _size(layout(graph), title)
    figure = Figure(figsize=(width * UNIT_INCHES, height * UNIT_INCHES))
    draw_on(figure.add_axes((0, 0, 1, 1)), graph, title)
    return figure


def cells_figure(cells: Sequence[tuple[Graph, str]], max_width_inches: float = 10.5) -> Figure:
    """A figure of cells with their titles, row by row from the upper left, all in one scale; at least one cell."""
    gap, room = 0.35, max_width_inches / UNIT_INCHES
    sizes = [_size(layout(graph), title) for graph, title in cells]
    grid: list[list[int]] = [[]]
    for cell, (_, width) in enumerate(sizes):
        if grid[-1] and sum(sizes[other][1] + gap for other in grid[-1]) + width + gap > room:
            grid.append([])
        grid[-1].append(cell)
    heights = [max(sizes[cell][0] for cell in row) + gap for row in grid]
    total_width, total_height = max(sum(sizes[cell][1] + gap for cell in row) for row in grid), sum(heights)
    figure = Figure(figsize=(total_width * UNIT_INCHES, total_height * UNIT_INCHES))
    top = total_height - gap / 2
    for row, row_height in zip(grid, heights, strict=True):
        left = gap / 2
        for cell in row:
            height, width = sizes[cell]
            box = (left / total_width, (top - height) / total_height, width / total_width, height / total_height)
            draw_on(figure.add_axes(box), *cells[cell])
            left += width + gap
        top -= row_height
    return figure


def _size(placed: Layout, title: str) -> tuple[float, float]:
    height, width = placed.extent
    return height + TITLE_HEIGHT * bool(title), max(width, 2.0)


def draw_on(axes: Axes, graph: Graph, title: str = '') -> None:
    """Draws the graph on `axes`, whose limits, aspect and frame it sets."""
    placed = layout(graph)
    height, width = _size(placed, title)
    middle = placed.extent[1] / 2
    axes.set(xlim=(middle - width / 2, middle + width / 2), ylim=(0, height), aspect='equal')
    axes.set_axis_off()
    sink = len(graph.nodes)
    for edge in sorted(placed.edges, key=lambda edge: edge.target != sink):  # the data's way lies over the rest
        _draw_edge(axes, edge, LIGHT_EDGE if edge.target == sink else EDGE)
    for box in placed.boxes.values():
        _draw_box(axes, box, graph)
    if title:
        at = (middle, placed.extent[0] + TITLE_HEIGHT / 2)
        _draw_text(axes, title, at, TITLE_TEXT_HEIGHT, width - 2 * MARGIN)


def _draw_box(axes: Axes, box: Box, graph: Graph) -> None:
    lines: tuple[str, ...]
    if 0 <= box.node < len(graph.nodes):
        node = graph.nodes[box.node]
        (outline, fill), lines, number = PAIRS[node.colour], node.lines, str(box.node)
    else:
        (outline, fill), lines, number = GREYS, (graph.source if box.node == FEATURES else graph.sink,), ''
    lower_left = (box.x - box.width / 2, box.bottom)
    shape = matplotlib.patches.FancyBboxPatch(
        lower_left, box.width, box.height, 'round,pad=0,rounding_size=0.06', facecolor=fill, edgecolor=outline, lw=1.3
    )
    axes.add_patch(shape)
    for line, text in enumerate(lines):
        y = box.y + ((len(lines) - 1) / 2 - line) * LINE_HEIGHT
        beside_number = bool(number) and y + TEXT_HEIGHT / 2 > box.top - NUMBER_WIDTH
        _draw_text(axes, text, (box.x, y), TEXT_HEIGHT, box.width - (2 * NUMBER_WIDTH if beside_number else 0.06))
    if number:
        corner = (box.x - box.width / 2 + 0.075, box.top - 0.08)
        _draw_text(axes, number, corner, SMALL_TEXT_HEIGHT, NUMBER_WIDTH - 0.04, colour=outline)


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
