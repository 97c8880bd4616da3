"""No overlap, no crossing, no text outside its box: for every wiring of small cells and for large ones."""

import itertools

import jax
import numpy as np
import pytest
from matplotlib import colors
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, PathPatch, Polygon

from dpc_jax.base import FEATURES
from dpc_jax.figures import cell_drawing
from dpc_jax.spaces import dpc
from dpc_jax.spaces.dpc import Genotype

SEP = dpc.INDEX[dpc.Op('separable', rate=(6, 12))]
CHAIN = range(-1, 7)
STAR = (-1,) * 8
FAN = (-1, *(0,) * 7)


def wired(inputs, op=SEP) -> Genotype:
    return Genotype(np.array(inputs, np.int32), np.full(len(inputs), op, np.int32))


def wirings(num_branches):
    """All of them."""
    return itertools.product(*(range(FEATURES, branch) for branch in range(num_branches)))


def cells(num_branches) -> list[Genotype]:
    if num_branches <= 5:
        return [wired(inputs) for inputs in wirings(num_branches)]
    population = dpc.Space(num_branches).sample(jax.random.key(num_branches), 40)
    shapes = [wired(shape[:num_branches]) for shape in (tuple(CHAIN), STAR, FAN)]
    return [*shapes, *(Genotype(*genes) for genes in zip(*population, strict=True))]


def rectangle(box):
    return box.x - box.width / 2, box.bottom, box.x + box.width / 2, box.top


def pieces(edge):
    """The straight pieces of an edge as rectangles without area; all of them are upright or level."""
    for (x0, y0), (x1, y1) in itertools.pairwise(edge.points):
        assert x0 == x1 or y0 == y1
        yield min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)


def touch(a, b) -> bool:
    return a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]


@pytest.fixture(scope='module', params=range(1, 9), ids=lambda num_branches: f'{num_branches}branches')
def layouts(request):
    return [(genotype, cell_drawing.layout(genotype)) for genotype in cells(request.param)]


def test_no_two_boxes_touch(layouts):
    for _, layout in layouts:
        for a, b in itertools.combinations(map(rectangle, layout.boxes.values()), 2):
            assert not touch(a, b)


def test_an_edge_meets_no_box_but_its_ends(layouts):
    for _, layout in layouts:
        for edge in layout.edges:
            others = [rectangle(box) for node, box in layout.boxes.items() if node not in (edge.source, edge.target)]
            assert not any(touch(piece, box) for piece in pieces(edge) for box in others)


def test_edges_of_different_sources_never_meet(layouts):
    for _, layout in layouts:
        for a, b in itertools.combinations(layout.edges, 2):
            if a.source != b.source:
                assert not any(touch(*pair) for pair in itertools.product(pieces(a), pieces(b)))


def test_the_edges_are_those_of_the_genotype(layouts):
    for genotype, layout in layouts:
        concat = len(genotype.inputs)
        reads = {(int(source), branch) for branch, source in enumerate(genotype.inputs)}
        assert {edge[:2] for edge in layout.edges} == reads | {(branch, concat) for branch in range(concat)}
        assert len(layout.edges) == 2 * concat


def test_an_edge_goes_up_from_its_source_to_its_target(layouts):
    for _, layout in layouts:
        for edge in layout.edges:
            (x0, y0), *_, (x1, y1) = edge.points
            source, target = layout.boxes[edge.source], layout.boxes[edge.target]
            assert y0 == source.top < target.bottom == y1
            assert abs(x0 - source.x) <= source.width / 2
            assert abs(x1 - target.x) <= target.width / 2


def test_the_extent_holds_all_boxes(layouts):
    for _, layout in layouts:
        height, width = layout.extent
        for left, bottom, right, top in map(rectangle, layout.boxes.values()):
            assert 0 < left < right < width
            assert 0 < bottom < top < height


def drawn(genotype, title=''):
    axes = Figure().add_subplot()
    cell_drawing.draw_on(axes, genotype, title)
    boxes = [patch for patch in axes.patches if isinstance(patch, FancyBboxPatch)]
    texts = [patch for patch in axes.patches if isinstance(patch, PathPatch) and patch.get_label()]
    heads = [patch for patch in axes.patches if isinstance(patch, Polygon)]
    return axes, boxes, texts, heads


def extents(texts) -> list[np.ndarray]:
    return [text.get_path().get_extents().extents for text in texts]


def inside(inner, box) -> bool:
    outer = box.get_bbox()
    return outer.x0 < inner[0] and inner[2] < outer.x1 and outer.y0 < inner[1] and inner[3] < outer.y1


def test_every_text_is_in_one_box_and_no_two_meet():
    for ops in np.array_split(np.arange(len(dpc.OPS), dtype=np.int32), 11):
        _, boxes, texts, _ = drawn(Genotype(np.full(len(ops), FEATURES, np.int32), ops))
        places = extents(texts)
        assert [sum(inside(place, box) for box in boxes) for place in places] == [1] * len(places)
        assert not any(touch(a, b) for a, b in itertools.combinations(places, 2))


def test_a_box_says_its_operator_and_shows_its_kind():
    aspp = dpc.Space(5).named('aspp')
    _, boxes, texts, _ = drawn(aspp)
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
    kinds = ['conv1x1', 'separable', 'separable', 'separable', 'pooling']
    fills = [colors.to_hex(box.get_facecolor()).upper() for box in boxes[1:-1]]
    assert fills == [cell_drawing.KIND_COLOURS[kind][1] for kind in kinds]


def test_height_stands_before_width():
    genotype = wired([-1], dpc.INDEX[dpc.Op('pooling', grid=(2, 8))])
    assert 'grid 2×8' in [text.get_label() for text in drawn(genotype)[2]]


def test_an_arrow_ends_at_each_target():
    genotype = dpc.Space(5).named('dpc_top1')
    heads = drawn(genotype)[3]
    ends = [edge.points[-1] for edge in cell_drawing.layout(genotype).edges]
    assert sorted(map(tuple, (head.get_xy()[0] for head in heads))) == sorted(ends)


def test_a_long_title_is_made_to_fit():
    axes, _, texts, _ = drawn(wired([-1]), 'a title that is much longer than a cell of one branch is wide')
    title = texts[-1].get_path().get_extents()
    assert axes.get_xlim()[0] < title.x0 < title.x1 < axes.get_xlim()[1]
    assert axes.get_ylim()[0] < title.y0 < title.y1 < axes.get_ylim()[1]


def test_a_title_is_no_formula():
    assert drawn(wired([-1]), 'costs $5 and $x^2$')[2][-1].get_label() == 'costs $5 and $x^2$'


def test_cells_of_one_figure_do_not_overlap():
    chosen = [(dpc.Space(5).named('dpc_top1'), 'a'), (wired(CHAIN), 'b'), (wired(STAR), 'c'), (wired([-1]), 'd')]
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
