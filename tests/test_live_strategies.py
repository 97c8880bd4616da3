"""Live searches of several strategies: what is counted, and a toy study that goes on after a stop."""

import csv
import types

import numpy as np
import pytest

from configs import scenes_search
from dpc_jax.base import InputError
from tests.scripts import load

pytestmark = pytest.mark.usefixtures('quick_compilation')

live = load('live_strategies')


def of(score, state='complete', **more):
    return types.SimpleNamespace(score=score, state=state, shown={}, seconds=1.0, commit='c', key='k', **more)


def test_the_best_so_far_and_the_moving_mean_leave_out_what_failed():
    run = [of(np.nan, 'failed'), of(0.2), of(0.1), of(0.9, 'pruned'), of(0.4), of(0.3)]
    np.testing.assert_array_equal(live.best_so_far(run), [np.nan, 0.2, 0.2, 0.2, 0.4, 0.4])
    np.testing.assert_allclose(live.moving_mean(live.scores_of(run), 2), [np.nan, 0.2, 0.15, 0.1, 0.4, 0.35])


def test_a_table_has_mean_least_and_most_over_seeds():
    searches = {'a': [[of(0.1), of(0.2), of(0.3), of(0.1)], [of(0.3), of(0.1), of(0.5), of(0.2)]]}
    text = live.as_markdown(searches, {'ref': 0.25}, 'mIoU')
    assert '| a | 40.00 (30.00 to 50.00) | 20.00 (10.00 to 30.00) | 15.00 (10.00 to 20.00) |' in text
    assert 'References: ref 25.00.' in text
    assert 'The best of all, found by a: 50.00, `k`.' in text


@pytest.mark.parametrize('names', [[], ['uniform', 'uniform']])
def test_strategies_that_are_none_or_twice_are_refused(names, monkeypatch):
    monkeypatch.setattr(live, 'STRATEGIES', types.SimpleNamespace(value=names))
    with pytest.raises(InputError, match=r'^--strategies is .*; give different names, as in config\.search\.sampler$'):
        live.main([])


def test_each_strategy_is_searched_under_each_seed_and_what_is_finished_is_kept(tmp_path, monkeypatch, capsys):
    config = scenes_search.get_config('toy')
    config.search.num_candidates = 4
    monkeypatch.setattr(live.common, 'config_and_workdir', lambda: (config, tmp_path / 'work'))
    for name, value in {'STRATEGIES': ['uniform', 'evolution'], 'SEEDS': 2, 'OUT': str(tmp_path / 'out')}.items():
        monkeypatch.setattr(live, name, types.SimpleNamespace(value=value))
    live.main([])
    table = (tmp_path / 'out/live.csv').read_text()
    rows = list(csv.DictReader(table.splitlines()))
    assert [(row['strategy'], row['seed'], row['evaluation']) for row in rows] == [
        (name, seed, str(at)) for name in ('uniform', 'evolution') for seed in '01' for at in range(1, 5)
    ]
    cells = {
        (name, seed): [r['cell'] for r in rows if (r['strategy'], r['seed']) == (name, seed)]
        for name in ('uniform', 'evolution')
        for seed in '01'
    }
    assert cells['uniform', '0'] != cells['uniform', '1']
    scores = {}  # a cell has one score, whoever proposes it
    for row in rows:
        assert scores.setdefault(row['cell'], row['score']) == row['score']
    assert len(scores) > 4
    monkeypatch.setattr(live.climbing, 'record', lambda *_: pytest.fail('evaluated again'))
    live.main([])
    assert (tmp_path / 'out/live.csv').read_text() == table
    assert (tmp_path / 'out/live.png').stat().st_size > 10_000
    assert 'uniform, seed 0' in capsys.readouterr().out
