"""The found cell against the known ones: which cell is taken, under which seeds, with which intervals."""

import csv
import json
import types

import numpy as np
import pytest
from scipy import stats

from configs import scenes_search
from dpc_jax.base import InputError
from dpc_jax.journeys import search
from dpc_jax.spaces.dpc import Space
from tests.scripts import load
from tests.small import trained

winner = load('winner')

pytestmark = pytest.mark.usefixtures('quick_compilation')


def test_the_interval_is_students():
    values = np.array([0.5, 0.52, 0.49, 0.55, 0.51])
    found = winner.interval(values)
    low, high = stats.t.interval(0.95, 4, loc=values.mean(), scale=stats.sem(values))
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high))
    assert np.isnan(winner.interval(values[:1]).half)


def test_differences_are_paired_by_seed():
    """What all cells gain or lose under a seed is no uncertainty of the difference."""
    luck = np.array([0.0, 0.1, -0.1])
    text = winner.summary({'winner': 0.5 + luck, 'aspp': 0.48 + luck}, 'F[c1x1]')
    assert '| aspp | 48.00 ± 24.84 | +2.00 ± 0.00 |' in text
    assert '| winner | 50.00 ± 24.84 | – |' in text


def test_the_winner_is_trained_beside_the_references_under_seeds_it_was_not_chosen_by(tmp_path, monkeypatch, capsys):
    seeds = []

    def counted(config, place):
        seeds.append(config.seed)
        return trained(config, place)

    monkeypatch.setattr(winner.journeys, 'find', lambda name: types.SimpleNamespace(run=counted))
    config, workdir = scenes_search.get_config('toy,ladder'), tmp_path / 'work'
    monkeypatch.setattr(winner.common, 'config_and_workdir', lambda: (config, workdir))
    monkeypatch.setattr(winner.found_cells, 'FOLDER', tmp_path / 'cells')
    for name, value in {'SEEDS': 2, 'PLACE': 1, 'OUT': tmp_path / 'out', 'NAME': 'toy_best'}.items():
        monkeypatch.setattr(winner, name, types.SimpleNamespace(value=value))
    config.search.ladder = ()
    with pytest.raises(InputError, match=r'--place is 1, but the search in .* has 0 whole networks; it needs a rung'):
        winner.main([])
    config.search.ladder = (('full', 1),)
    results = search.run(config, workdir, make_rungs=lambda prepared: prepared.rungs(counted))
    assert set(seeds) == {0}
    seeds.clear()
    winner.main([])
    assert sorted(seeds) == [1, 1, 2, 2]
    winner.main([])
    assert len(seeds) == 4
    text = (tmp_path / 'out/winner.md').read_text()
    assert text in capsys.readouterr().out
    best = search.best(results, 1)[0]
    assert f'The winner is `{best.key}`.' in text
    written = (tmp_path / 'out/winner.json').read_text()
    assert json.loads(written)
    assert (tmp_path / 'cells/toy_best.json').read_text() == written
    assert Space(2).canonical_key(Space(2).from_json(written)) == best.key
    with (tmp_path / 'out/winner.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert [row['cell'] for row in rows] == ['winner', 'conv1x1']
    assert list(rows[0]) == ['cell', 'seed 1', 'seed 2']
    assert (tmp_path / 'out/winner.png').stat().st_size > 5000
