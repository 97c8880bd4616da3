"""What a drawn cell shows: texts in their boxes, colours, arrows, titles; several cells in one figure."""

import itertools

import numpy as np
import pytest
from matplotlib import colors
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, PathPatch, Polygon

from dpc_jax.base import FEATURES
from dpc_jax.figures import cell_drawing
from dpc_jax.figures.cell_layout import layout
from dpc_jax.palette import PAIRS
from dpc_jax.spaces import Graph, Node, dpc

SEP = dpc.INDEX[dpc.Op('separable', rate=(6, 12))]
CHAIN = range(-1, 7)
STAR = (-1,) * 8
SPACE = dpc.Space(5)
RELEASED, ASPP = SPACE.graph(SPACE.named('dpc_top1')), SPACE.graph(SPACE.named('aspp'))
SUMS = Graph(
    (
        Node(('a very long name', 'of', 'three lines'), 'pink', (FEATURES,)),
        Node(('1×1',), 'green', (FEATURES,)),
        Node(('sum',), 'amber', (0, 1)),
        Node(('another long name', 'twice as long as a box'), 'grey', (FEATURES, 2)),
    ),
    (3,),
    'stride 4',
    'sum of all',
)


def wired(inputs, op=SEP) -> Graph:
    genotype = dpc.make_genotype(list(inputs), [op] * len(inputs))
    return dpc.Space(len(inputs)).graph(genotype)


def touch(a, b) -> bool:
    return a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]


def drawn(graph, title=''):
    axes = Figure().add_subplot()
    cell_drawing.draw_on(axes, graph, title)
    boxes = [patch for patch in axes.patches if isinstance(patch, FancyBboxPatch)]
    texts = [patch for patch in axes.patches if isinstance(patch, PathPatch) and patch.get_label()]
    heads = [patch for patch in axes.patches if isinstance(patch, Polygon)]
    return axes, boxes, texts, heads


def extents(texts) -> list[np.ndarray]:
    return [text.get_path().get_extents().extents for text in texts]


def inside(inner, box) -> bool:
    outer = box.get_bbox()
    return outer.x0 < inner[0] and inner[2] < outer.x1 and outer.y0 < inner[1] and inner[3] < outer.y1


ALL_OPS = [
    dpc.make_genotype([FEATURES] * len(ops), ops.tolist()) for ops in np.array_split(np.arange(len(dpc.OPS)), 11)
]


@pytest.mark.parametrize('graph', [SUMS, *(dpc.Space(len(g.ops)).graph(g) for g in ALL_OPS)])
def test_every_text_is_in_one_box_and_no_two_meet(graph):
    _, boxes, texts, _ = drawn(graph)
    places = extents(texts)
    assert [sum(inside(place, box) for box in boxes) for place in places] == [1] * len(places)
    assert not any(touch(a, b) for a, b in itertools.combinations(places, 2))


def test_a_box_says_its_operator_and_shows_its_kind():
    _, boxes, texts, _ = drawn(ASPP)
    placed = list(zip(texts, extents(texts), strict=True))
    words = [sorted(text.get_label() for text, place in placed if inside(place, box)) for box in boxes]
    assert words == [
        ['features'],
        ['0', '1×1'],
        ['1', '3×3 sep', 'rate 6×6'],
        ['2', '3×3 sep', 'rate 12×12'],
        ['3', '3×3 sep', 'rate 18×18'],
        ['4', 'grid 1×1', 'pool'],
        ['concat'],
    ]
    pairs = ['green', 'blue', 'blue', 'blue', 'orange']
    fills = [colors.to_hex(box.get_facecolor()).upper() for box in boxes[1:-1]]
    assert fills == [PAIRS[pair][1] for pair in pairs]


def test_the_bars_say_what_the_graph_calls_them():
    words = [text.get_label() for text in drawn(SUMS)[2]]
    assert words[0] == 'stride 4'
    assert words[-1] == 'sum of all'


def test_height_stands_before_width():
    graph = wired([-1], dpc.INDEX[dpc.Op('pooling', grid=(2, 8))])
    assert 'grid 2×8' in [text.get_label() for text in drawn(graph)[2]]


@pytest.mark.parametrize('graph', [RELEASED, SUMS], ids=['forest', 'layers'])
def test_an_arrow_ends_at_each_target(graph):
    heads = drawn(graph)[3]
    ends = [edge.points[-1] for edge in layout(graph).edges]
    assert sorted(map(tuple, (head.get_xy()[0] for head in heads))) == sorted(ends)


def test_a_long_title_is_made_to_fit():
    axes, _, texts, _ = drawn(wired([-1]), 'a title that is much longer than a cell of one branch is wide')
    title = texts[-1].get_path().get_extents()
    assert axes.get_xlim()[0] < title.x0 < title.x1 < axes.get_xlim()[1]
    assert axes.get_ylim()[0] < title.y0 < title.y1 < axes.get_ylim()[1]


def test_a_title_is_no_formula():
    assert drawn(wired([-1]), 'costs $5 and $x^2$')[2][-1].get_label() == 'costs $5 and $x^2$'


def test_cells_of_one_figure_do_not_overlap():
    chosen = [(RELEASED, 'a'), (wired(CHAIN), 'b'), (wired(STAR), 'c'), (wired([-1]), 'd'), (SUMS, 'e')]
    for cells_shown in (chosen[:1], chosen[:1] * 3, chosen):
        figure = cell_drawing.cells_figure(cells_shown)
        FigureCanvasAgg(figure).draw()
        places = [axes.get_position().extents for axes in figure.axes]
        assert len(places) == len(cells_shown)
        assert all(place.min() >= 0 and place.max() <= 1 for place in places)
        assert not any(touch(a, b) for a, b in itertools.combinations(places, 2))


def test_cells_of_one_figure_have_one_scale():
    figure = cell_drawing.cells_figure([(wired(CHAIN), 'a'), (wired([-1]), 'b')])
    FigureCanvasAgg(figure).draw()
    scales = [axes.transData.get_matrix()[:2, :2] for axes in figure.axes]
    np.testing.assert_allclose(scales[0], scales[1], rtol=1e-9)
