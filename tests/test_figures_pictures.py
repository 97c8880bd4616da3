"""What the pictures of a study show, read back from the figures."""

import functools
import math

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection

from dpc_jax.figures import pictures
from dpc_jax.spaces import dpc
from dpc_jax.spaces.dpc import Genotype
from dpc_jax.study import Candidate
from tests import forged

SPACE = dpc.Space(3)
OP_NAMES = list(dpc.OP_NAMES)


def candidate(number, score=math.nan, ops='conv1x1 conv1x1 conv1x1', **fields) -> Candidate:
    indices = [OP_NAMES.index(name.replace('_', ' ')) for name in ops.split()]
    genotype = Genotype(np.array([-1, 0, 0], np.int32), np.array(indices, np.int32))
    of_cell = {'genotype': genotype, 'key': SPACE.canonical_key(genotype), 'curve': (score,)}
    return forged.candidate(number, score, **{**of_cell, 'losses': (1.0,), 'seconds': 1.0, **fields})


def macs(genotype) -> int:
    """Any cost will do: a million for each unit of the operators' indices."""
    return 1_000_000 * int(genotype.ops.sum())


ASPP, TOP1 = candidate(90, 0.405, reference='aspp'), candidate(91, 0.455, reference='dpc_top1')
STUDY = [
    candidate(0, 0.40, 'conv1x1 sep_1x3 pool_2x4'),
    candidate(1),
    candidate(2, 0.42, 'sep_1x3 sep_1x3 sep_6x1'),
    candidate(3, 0.39, 'conv1x1 conv1x1 pool_2x4', state='pruned'),
    candidate(4, 0.41, 'sep_21x21 pool_8x1 pool_2x4'),
    candidate(5, 0.45, 'conv1x1 sep_1x3 sep_6x1'),
    candidate(6, 0.44, 'sep_6x1 sep_6x1 sep_6x1'),
    ASPP,
    TOP1,
]
EVERY = {
    'histogram': pictures.histogram,
    'progress': pictures.progress,
    'operators': functools.partial(pictures.operators, space=SPACE),
    'cost': functools.partial(pictures.cost, macs=macs),
}


def points(axes, label):
    return next(
        item.get_offsets().data
        for item in axes.collections
        if isinstance(item, PathCollection) and item.get_label() == label
    )


def line(axes, beginning):
    return next(line.get_xydata() for line in axes.lines if str(line.get_label()).startswith(beginning))


def test_the_histogram_counts_complete_sampled_cells_alone():
    (axes,) = pictures.histogram(STUDY).axes
    assert sum(bar.get_height() for bar in axes.patches) == 5
    middles = [bar.get_x() + bar.get_width() / 2 for bar in axes.patches]
    assert np.diff(middles) == pytest.approx(np.ones(4))  # 40 to 45 %
    assert [bar.get_height() for bar in axes.patches] == [1, 1, 1, 0, 2]


def test_references_are_lines_at_their_scores():
    (axes,) = pictures.histogram(STUDY).axes
    np.testing.assert_allclose(line(axes, 'aspp (40.50 %)')[:, 0], 40.5)
    (axes,) = pictures.progress(STUDY).axes
    np.testing.assert_allclose(line(axes, 'dpc_top1 (45.50 %)')[:, 1], 45.5)


def test_a_reference_of_several_seeds_has_one_entry_and_all_its_lines():
    (axes,) = pictures.histogram([ASPP, candidate(92, 0.415, reference='aspp')]).axes
    assert [line.get_xdata()[0] for line in axes.lines] == pytest.approx([40.5, 41.5])
    assert axes.get_legend_handles_labels()[1][1:] == ['aspp (40.50 to 41.50 %)']


def test_the_best_so_far_is_the_running_maximum_of_complete_scores():
    (axes,) = pictures.progress(STUDY[::-1]).axes  # in whatever order they come
    best = line(axes, 'best so far')
    np.testing.assert_allclose(best, [[1, 40], [3, 42], [5, 42], [6, 45], [7, 45], [7, 45]])
    np.testing.assert_allclose(points(axes, 'complete'), [[1, 40], [3, 42], [5, 41], [6, 45], [7, 44]])


def test_failed_and_pruned_candidates_are_shown_as_such():
    (axes,) = pictures.progress(STUDY).axes
    np.testing.assert_allclose(points(axes, 'failed')[:, 0], [2])
    np.testing.assert_allclose(points(axes, 'pruned, fewer steps'), [[4, 39]])


def heat(axes) -> np.ndarray:
    return axes.images[0].get_array().filled(np.nan)


def test_operator_scores_are_means_over_the_cells_that_contain_it():
    _, rates, grids, _ = pictures.operators(STUDY, SPACE).axes
    expected = np.full((8, 8), np.nan)
    expected[0, 1] = (40 + 42 + 45) / 3  # sep 1x3: twice in the second cell, which counts once
    expected[2, 0] = (42 + 45 + 44) / 3  # sep 6x1
    expected[7, 7] = 41
    np.testing.assert_allclose(heat(rates), expected)
    expected = np.full((4, 4), np.nan)
    expected[1, 2] = (40 + 41) / 2  # pool 2x4; the pruned cell counts nowhere
    expected[3, 0] = 41
    np.testing.assert_allclose(heat(grids), expected)


def test_operator_counts_stand_beside_the_means():
    kinds, rates, grids, _ = pictures.operators(STUDY, SPACE).axes
    assert sorted(text.get_text() for text in rates.texts if 'n' in text.get_text()) == ['n 1', 'n 3', 'n 3']
    assert sorted(text.get_text() for text in grids.texts if 'n' in text.get_text()) == ['n 1', 'n 2']
    labels = [text.get_text().replace('\n', ' ') for text in kinds.get_yticklabels()]
    assert labels == ['all cells n = 5', '1×1 convolution n = 2', '3×3 separable n = 5', 'pooling n = 2']


def test_kinds_are_shown_with_their_mean():
    kinds = pictures.operators(STUDY, SPACE).axes[0]
    means = [line.get_xydata()[0].tolist() for line in kinds.lines if line.get_marker() == 'o']
    expected = [[(40 + 42 + 41 + 45 + 44) / 5, 0], [42.5, 1], [42.4, 2], [40.5, 3]]
    np.testing.assert_allclose(means, expected)


def test_cost_shows_each_cell_at_its_cost_and_score():
    (axes,) = pictures.cost(STUDY, macs).axes
    expected = [(macs(c.genotype) / 1e6, 100 * c.score) for c in STUDY if c.state == 'complete' and not c.reference]
    np.testing.assert_allclose(points(axes, 'sampled cells (5)'), expected)
    assert 'millions' in axes.get_xlabel()
    assert points(axes, 'aspp').tolist() == pytest.approx(np.array([[0, 40.5]]))


def test_costs_of_billions_are_in_billions_and_wide_ranges_logarithmic():
    study = [candidate(0, 0.4, 'sep_1x1 conv1x1 conv1x1'), candidate(1, 0.5, 'sep_21x21 sep_21x21 sep_21x21')]
    (axes,) = pictures.cost(study, lambda genotype: 50 * macs(genotype)).axes
    assert axes.get_xscale() == 'log'
    assert points(axes, 'sampled cells (2)')[:, 0] == pytest.approx([0.05, 9.6])
    assert 'billions' in axes.get_xlabel()


def test_the_pareto_front_is_what_nothing_dominates():
    generator = np.random.default_rng(0)
    cloud = [tuple(map(float, point)) for point in generator.integers(0, 12, (60, 2))]

    def dominated(point):
        return any(o[0] <= point[0] and o[1] >= point[1] and o != point for o in cloud)

    assert pictures.pareto_front(cloud) == sorted({point for point in cloud if not dominated(point)})


@pytest.mark.parametrize('name', EVERY)
def test_nothing_to_show_is_no_picture(name):
    assert EVERY[name]([]) is None
    assert (EVERY[name]([candidate(0)]) is None) == (name != 'progress')


LONG = candidate(95, 0.43, reference='a_reference_with_a_name_' + 'x' * 60)
MANY = [candidate(100 + at, 0.4 + at / 100, reference=f'reference_number_{at}') for at in range(7)]


@pytest.mark.parametrize(
    'study',
    [STUDY, [*STUDY, LONG, *MANY], STUDY[:1], [candidate(at, 0.4) for at in range(4)], STUDY[1:2], STUDY[-2:]],
    ids=['all', 'many references', 'one', 'equal', 'failed', 'references'],
)
@pytest.mark.parametrize('name', EVERY)
def test_nothing_is_cut_off(name, study):
    figure = EVERY[name](study)
    if figure is None:
        return
    FigureCanvasAgg(figure).draw()
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert 0 <= drawn.x0 < drawn.x1 <= width
    assert 0 <= drawn.y0 < drawn.y1 <= height
