"""The report of a space that is no Dense Prediction Cell: nothing in figures knows the fields of a genotype."""

import csv

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection

from dpc_jax import figures, spaces
from dpc_jax.figures import pictures, table
from dpc_jax.study import Candidate
from tests.summing_space import SummingSpace

SPACE = SummingSpace()
CELLS = SPACE.all()
SETTINGS = {'space': {'name': 'summing'}, 'width': 32}


def candidate(number, score, **changes) -> Candidate:
    genotype = changes.pop('genotype', CELLS[number % len(CELLS)])
    fields = {'reference': '', 'state': 'complete', 'curve': (score,), 'losses': (0.5,), 'steps': 10, 'seed': 0}
    fields |= {'rung': 'proxy', 'config_hash': 'c0ffee', 'commit': 'abc', 'device': 'cpu', 'seconds': 1.0}
    fields |= {'worker': 'here:1', 'finished': '2026-01-01T00:00:00+00:00', 'failure': ''}
    key = SPACE.canonical_key(genotype)
    return Candidate(number=number, genotype=genotype, key=key, score=score, **(fields | changes))


STUDY = [candidate(number, 0.3 + number % 17 / 100) for number in range(0, len(CELLS), 5)]
STUDY.append(candidate(999, 0.2, reference='nothing', genotype=SPACE.named('nothing')))


def test_it_is_a_space():
    assert isinstance(SPACE, spaces.Space)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    directory = tmp_path_factory.mktemp('report')
    figures.write_report(STUDY, directory, space=SPACE, settings=SETTINGS)
    return directory


def test_its_report_has_all_pictures(folder):
    names = {path.name for path in folder.iterdir()}
    assert names > {
        'cells.png',
        'scores.png',
        'progress.png',
        'operators.png',
        'cost.png',
        'cell_reference_nothing.svg',
    }


def test_its_costs_are_columns(folder):
    with (folder / 'ranking.csv').open() as file:
        header, *rows = csv.reader(file)
    at = header.index('params')
    assert header[at - 1 : at + 4] == ['genotype', 'params', 'macs', 'sums', 'steps']
    assert {row[at + 2] for row in rows} == {'2'}
    for row in rows:
        genotype = SPACE.from_json(row[at - 1])
        assert row[at - 2] == SPACE.canonical_key(genotype)
        assert int(row[at]) == 9 * 32 * (genotype.kinds == 1).sum()


def test_its_words_stand_below_the_ranking(folder):
    text = (folder / 'report.md').read_text()
    assert '\n\nA cell is 2 sums, each of them of 2 operators.\n\n' in text
    assert 'branches' not in text


def test_costs_that_are_not_known_are_left_empty(tmp_path):
    settings = {'space': {'name': 'summing'}}
    figures.write_report(STUDY[:4], tmp_path, space=SPACE, settings=settings)
    rows = table.rows(STUDY[:4], space=SPACE, settings=settings)
    assert [(row['params'], row['macs']) for row in rows] == [('', '')] * 4
    assert 'sums' not in rows[0]
    text = (tmp_path / 'report.md').read_text()
    assert '| – | – |' in text
    assert 'A cell is 2 sums.\n' in text
    assert not (tmp_path / 'cost.png').exists()


def test_an_operator_without_arguments_is_a_strip():
    (axes,) = pictures.operators(STUDY, SPACE).axes
    rows = [c for c in STUDY if not c.reference]
    counts = [sum(kind in c.genotype.kinds for c in rows) for kind in range(3)]
    labels = [text.get_text().replace('\n', ' ') for text in axes.get_yticklabels()]
    expected = zip(('all cells', 'skip', 'sep 3x3', 'global pool'), (len(rows), *counts), strict=True)
    assert labels == [f'{name} n = {count}' for name, count in expected]


def test_one_map_takes_its_operators_in_the_order_of_the_group():
    _, axes, _ = pictures.operators(STUDY, SummingSpace(mapped=True)).axes
    rows = [c for c in STUDY if not c.reference]
    means = [np.mean([100 * c.score for c in rows if kind in c.genotype.kinds]) for kind in (1, 2)]
    np.testing.assert_allclose(axes.images[0].get_array().filled(np.nan), [[np.nan, means[0]], [means[1], np.nan]])
    assert axes.get_title() == 'Others, by step'
    assert axes.get_xlabel() == 'step over width'


@pytest.mark.parametrize('mapped', [False, True])
def test_nothing_is_cut_off(mapped):
    figure = pictures.operators(STUDY, SummingSpace(mapped))
    FigureCanvasAgg(figure).draw()
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert 0 <= drawn.x0 < drawn.x1 <= width
    assert 0 <= drawn.y0 < drawn.y1 <= height


def test_cells_are_at_their_cost():
    (axes,) = pictures.cost(STUDY, lambda genotype: SPACE.cost(genotype, SETTINGS)['macs']).axes
    assert axes.get_xlabel() == 'Multiply-adds (millions)'
    marks = next(c for c in axes.collections if isinstance(c, PathCollection) and c.get_label().startswith('sampled'))
    expected = [900 * 32 * int((c.genotype.kinds == 1).sum()) / 1e6 for c in STUDY if not c.reference]
    np.testing.assert_allclose(marks.get_offsets()[:, 0], expected)
