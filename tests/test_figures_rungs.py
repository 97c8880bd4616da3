"""From the first rung of a ladder to its last: counts, pairs, the correlation, what the report says of them."""

import dataclasses
import math

import numpy as np
import pytest

from dpc_jax import metrics
from dpc_jax.figures import report, rungs
from tests.test_figures_report import SETTINGS, SPACE, candidate, population

CELLS = {SPACE.canonical_key(cell): cell for cell in population(60, seed=1)}
CELLS = list(CELLS.values())[:30]


def row(cell, score, **changes):
    """The cell with that number; its number in the study is the same in every rung."""
    return candidate(cell, score, genotype=CELLS[cell], **changes)


def ladder(seeds=(7,)):
    """Thirty cells: ten stop early; the best four (25 to 28, 29 failed) and three drawn at random go on."""
    first = [row(i, 0.3 + 0.01 * i, state='pruned', steps=100, seconds=1.0) for i in range(10)]
    first += [row(i, 0.3 + 0.01 * i, seconds=3.0) for i in range(10, 29)]
    first += [row(29, math.nan, seconds=3.0)]
    first += [candidate(90, 0.45, reference='aspp', genotype=SPACE.named('conv1x1'))]
    places = {28: 0.50, 27: 0.48, 26: 0.55, 25: 0.52, 12: 0.41, 15: 0.47, 20: 0.45}
    changes = {'rung': 'full', 'steps': 900, 'seconds': 60.0}
    last = [
        row(i, score + 0.01 * at, seed=seed, **changes) for at, seed in enumerate(seeds) for i, score in places.items()
    ]
    last += [candidate(90, 0.46, reference='aspp', genotype=SPACE.named('conv1x1'), **changes)]
    return first + last


def test_stages_count_who_got_how_far():
    found = rungs.stages(ladder())
    assert [(stage.name, stage.candidates) for stage in found] == [
        ('proxy: 100 steps', 30),
        ('proxy: 300 steps', 20),
        ('full, 900 steps', 7),
    ]
    # Ten stopped cells of a second each, and a third of the three seconds of the others (the reference has 10 / 3).
    assert found[0].seconds == pytest.approx(10 + 20 * 1 + 10 / 9)
    assert sum(stage.seconds for stage in found) == pytest.approx(sum(c.seconds for c in ladder()))


def test_pairs_are_of_cells_that_both_rungs_have():
    found = rungs.pairs(ladder())
    assert [(pair.place, pair.chosen) for pair in found if not pair.reference] == [
        *((3, True), (4, True), (1, True), (2, True)),
        *((14, False), (9, False), (17, False)),
    ]
    (aspp,) = [pair for pair in found if pair.reference]
    assert (aspp.reference, aspp.place, aspp.chosen) == ('aspp', 14, False)


def test_what_was_drawn_at_random_is_said_by_the_study_where_it_does():
    """The best of several families are no prefix of the ranking (`search.apart`), and a random cell may be the best."""
    known = [dataclasses.replace(c, drawn=c.number in (28, 12)) for c in ladder()]
    found = [pair for pair in rungs.pairs(known) if not pair.reference]
    assert {pair.place for pair in found if not pair.chosen} == {1, 17}
    assert len(found) == 7


def test_bars_in_keys_do_not_end_the_cells_of_a_table():
    barred = [dataclasses.replace(c, key=c.key.replace('F', 'F|')) for c in ladder()]
    assert rungs.pairs(barred)[0].key.startswith('F|')
    *_, table = rungs.text(barred)
    assert all(line.replace('\\|', '').count('|') == 6 for line in table.splitlines())
    assert '`F\\|' in table


def test_the_correlation_is_that_of_the_candidates():
    found = [pair for pair in rungs.pairs(ladder()) if not pair.reference]
    first, last = (np.array([getattr(pair, name) for pair in found]) for name in ('first', 'last'))
    assert rungs.agreement(rungs.pairs(ladder())) == pytest.approx(metrics.spearman(first, last))
    assert math.isnan(rungs.agreement(found[:2]))


def test_seeds_count_as_their_mean_and_a_cell_that_failed_under_one_is_left_out():
    several = ladder(seeds=(7, 8, 9))
    assert [len(pair.seeds) for pair in rungs.pairs(several) if not pair.reference] == [3] * 7
    assert rungs.pairs(several)[0].last == pytest.approx(0.56)
    failed = [
        dataclasses.replace(c, state='failed', score=math.nan) if (c.seed, c.number) == (8, 26) else c for c in several
    ]
    assert len(rungs.pairs(failed)) == len(rungs.pairs(several)) - 1


def test_a_single_rung_has_nothing_to_compare():
    alone = [c for c in ladder() if c.rung == 'proxy']
    assert rungs.pairs(alone) == []
    assert rungs.text(alone) == []
    assert rungs.comparison(alone) is None
    assert rungs.flow([c for c in alone if c.state != 'pruned']) is None
    assert rungs.flow(alone) is not None


@pytest.mark.parametrize('seeds', [(7,), (7, 8)])
def test_the_report_says_which_place_the_winner_had(seeds, tmp_path):
    report.write_report(ladder(seeds), tmp_path, space=SPACE, settings=SETTINGS)
    text = (tmp_path / 'report.md').read_text()
    assert '## From proxy to full' in text
    rho = rungs.agreement(rungs.pairs(ladder(seeds)))
    assert "The best of full was 3rd on proxy (that of the DPC paper's search: 12th)." in text
    assert f"Spearman's correlation of the two scores over 7 cells is {rho:.2f}." in text
    assert text.count('at random `') == 3
    assert ('± 0.71' in text) == (len(seeds) > 1)
    for picture in ('ladder.png', 'rerank.png'):
        assert (tmp_path / picture).stat().st_size > 5000
        assert f']({picture})' in text


def test_ordinals():
    assert [rungs.ordinal(n) for n in (1, 2, 3, 4, 11, 12, 13, 21, 102, 112)] == [
        *('1st', '2nd', '3rd', '4th', '11th', '12th', '13th', '21st', '102nd', '112th')
    ]
