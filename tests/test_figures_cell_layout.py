"""Where boxes and edges stand: for every wiring of small cells, for large ones, and for graphs that are no forest."""

import itertools
import random

import jax
import numpy as np
import pytest

from dpc_jax.base import FEATURES
from dpc_jax.figures.cell_layout import BOX_HEIGHT, layout
from dpc_jax.spaces import Graph, Node, dpc

CHAIN = range(-1, 7)
STAR = (-1,) * 8
FAN = (-1, *(0,) * 7)


def node(*reads, lines=1) -> Node:
    return Node(('op',) * lines, 'blue', reads)


def wired(inputs) -> Graph:
    """A forest, all of it in the output."""
    return Graph(tuple(node(source) for source in inputs), tuple(range(len(inputs))))


def wirings(num_branches):
    """All of them."""
    return itertools.product(*(range(FEATURES, branch) for branch in range(num_branches)))


def forests(num_branches) -> list[Graph]:
    if num_branches <= 5:
        return [wired(inputs) for inputs in wirings(num_branches)]
    space = dpc.Space(num_branches)
    population = space.sample(jax.random.key(num_branches), 40)
    shapes = [wired(shape[:num_branches]) for shape in (tuple(CHAIN), STAR, FAN)]
    return [*shapes, *(space.graph(dpc.Genotype(*genes)) for genes in zip(*population, strict=True))]


def tangle(seed) -> Graph:
    """Nodes that read none to three earlier ones, some of them twice; any of them are the output."""
    chance = random.Random(seed)
    reads = [[chance.randrange(FEATURES, i) for _ in range(chance.randrange(4))] for i in range(chance.randint(1, 12))]
    outputs = [i for i in range(len(reads)) if chance.random() < 0.4]
    return Graph(tuple(node(*sources) for sources in reads), tuple(outputs or [len(reads) - 1]))


def blocks(seed, number=4) -> Graph:
    """Two operators and their sum, again and again; each reads what was there before, and loose ends are the output."""
    chance, nodes, values = random.Random(seed), [], [FEATURES]
    for _ in range(number):
        here = len(nodes)
        nodes += [node(chance.choice(values)), node(chance.choice(values)), node(here, here + 1)]
        values += range(here, here + 3)
    read = {source for made in nodes for source in made.reads}
    return Graph(tuple(nodes), tuple(i for i in range(len(nodes)) if i not in read))


def rectangle(box):
    return box.x - box.width / 2, box.bottom, box.x + box.width / 2, box.top


def upright_pieces(edge):
    """The straight pieces of an edge as rectangles without area; all of them are upright or level."""
    for (x0, y0), (x1, y1) in itertools.pairwise(edge.points):
        assert x0 == x1 or y0 == y1
        yield min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)


def touch(a, b) -> bool:
    return a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]


def samples(edge) -> np.ndarray:
    """Points along the edge, closer than the smallest side of a box."""
    pairs = itertools.pairwise(np.array(edge.points))
    return np.concatenate([a + np.linspace(0, 1, 60)[:, None] * (b - a) for a, b in pairs])


FORESTS = {f'forests of {size}': [*forests(size)] for size in range(1, 9)}
TANGLES = {
    'tangles': [tangle(seed) for seed in range(150)],
    'blocks': [blocks(seed, number) for number in (1, 2, 3, 5) for seed in range(20)],
}


@pytest.fixture(scope='module', params=FORESTS)
def forest_layouts(request):
    return [(graph, layout(graph)) for graph in FORESTS[request.param]]


@pytest.fixture(scope='module', params=TANGLES)
def layered(request):
    return [(graph, layout(graph)) for graph in TANGLES[request.param]]


@pytest.fixture(scope='module', params=[*FORESTS, *TANGLES])
def layouts(request):
    return [(graph, layout(graph)) for graph in (FORESTS | TANGLES)[request.param]]


# ---- any graph ------------------------------------------------------------------------------------------------------


def test_no_two_boxes_touch(layouts):
    for graph, placed in layouts:
        assert list(placed.boxes) == list(range(FEATURES, len(graph.nodes) + 1))
        for a, b in itertools.combinations(map(rectangle, placed.boxes.values()), 2):
            assert not touch(a, b)


def test_the_edges_are_those_of_the_graph(layouts):
    for graph, placed in layouts:
        reads = [(source, reader) for reader, made in enumerate(graph.nodes) for source in made.reads]
        feeds = [(source, len(graph.nodes)) for source in graph.outputs]
        assert sorted(edge[:2] for edge in placed.edges) == sorted(reads + feeds)


def test_an_edge_goes_up_from_its_source_to_its_target(layouts):
    for _, placed in layouts:
        for edge in placed.edges:
            (x0, y0), *_, (x1, y1) = edge.points
            source, target = placed.boxes[edge.source], placed.boxes[edge.target]
            assert y0 == source.top < target.bottom == y1
            assert abs(x0 - source.x) <= source.width / 2
            assert abs(x1 - target.x) <= target.width / 2
            assert all(a[1] <= b[1] and a != b for a, b in itertools.pairwise(edge.points))


def test_the_extent_holds_all_boxes_and_edges(layouts):
    for _, placed in layouts:
        height, width = placed.extent
        for left, bottom, right, top in map(rectangle, placed.boxes.values()):
            assert 0 < left < right < width
            assert 0 < bottom < top < height
        assert all(0 < x < width for edge in placed.edges for x, _ in edge.points)


# ---- forests --------------------------------------------------------------------------------------------------------


def test_an_edge_of_a_forest_meets_no_box_but_its_ends(forest_layouts):
    for _, placed in forest_layouts:
        for edge in placed.edges:
            others = [rectangle(box) for name, box in placed.boxes.items() if name not in (edge.source, edge.target)]
            assert not any(touch(piece, box) for piece in upright_pieces(edge) for box in others)


def test_edges_of_different_sources_never_meet_in_a_forest(forest_layouts):
    for _, placed in forest_layouts:
        for a, b in itertools.combinations(placed.edges, 2):
            if a.source != b.source:
                assert not any(touch(*pair) for pair in itertools.product(upright_pieces(a), upright_pieces(b)))


# ---- layers ---------------------------------------------------------------------------------------------------------


def test_an_edge_between_layers_meets_no_box_but_its_ends(layered):
    for _, placed in layered:
        for edge in placed.edges:
            x, y = samples(edge).T
            for name, box in placed.boxes.items():
                if name not in (edge.source, edge.target):
                    left, bottom, right, top = rectangle(box)
                    assert not ((left <= x) & (x <= right) & (bottom <= y) & (y <= top)).any()


def test_edges_between_layers_of_different_sources_never_lie_on_each_other(layered):
    for _, placed in layered:
        drawn: dict[tuple, int] = {}
        upright: dict[float, list] = {}
        for edge in placed.edges:
            for (x0, y0), (x1, y1) in itertools.pairwise(edge.points):
                assert drawn.setdefault((x0, y0, x1, y1), edge.source) == edge.source
                if x0 == x1:
                    upright.setdefault(x0, []).append((y0, y1, edge.source))
        for pieces in upright.values():
            for a, b in itertools.combinations(pieces, 2):
                assert a[2] == b[2] or a[1] <= b[0] or b[1] <= a[0]


def test_each_read_arrives_at_a_place_of_its_own(layered):
    for graph, placed in layered:
        ends = [edge.points[-1] for edge in placed.edges if edge.target < len(graph.nodes)]
        assert len(set(ends)) == len(ends)


def test_a_graph_is_drawn_the_same_way_each_time():
    assert layout(tangle(3)) == layout(tangle(3))


def test_a_row_is_above_all_that_it_reads():
    graph = Graph((node(-1), node(0), node(-1, 1), node(-1)), (2, 3))
    rows = [layout(graph).boxes[name].y for name in range(4)]
    assert rows[0] == rows[3] < rows[1] < rows[2]


def test_two_inputs_that_swap_sides_do_not_cross():
    graph = Graph((node(-1), node(-1), node(1), node(0), node(2), node(3), node(4, 5)), (6,))
    edges = {edge[:2]: edge.points for edge in layout(graph).edges}
    for left, right in [((1, 2), (0, 3)), ((2, 4), (3, 5)), ((4, 6), (5, 6))]:
        assert (edges[left][0][0] < edges[right][0][0]) == (edges[left][-1][0] < edges[right][-1][0])


@pytest.mark.parametrize('outputs', [(0, 1), (1,)], ids=['forest', 'layers'])
def test_boxes_are_as_high_as_the_longest_text_needs(outputs):
    graph = Graph((node(-1, lines=2), node(0, lines=4)), outputs)
    assert layout(graph._replace(nodes=(node(-1), node(0)))).boxes[1].height == BOX_HEIGHT
    heights = {layout(graph).boxes[name].height for name in range(2)}
    assert len(heights) == 1
    assert heights.pop() > BOX_HEIGHT + 0.3
