"""The fidelity of proxies: correlations, their intervals, the cells that are kept, what is written."""

import csv
import types

import numpy as np
import pytest
from scipy import stats

from configs import scenes_search
from dpc_jax import metrics
from dpc_jax.base import InputError
from experiments import variants
from tests.scripts import load
from tests.small import trained

pytestmark = pytest.mark.usefixtures('quick_compilation')

proxy_fidelity = load('proxy_fidelity')
correlation, spearman, kendall = proxy_fidelity.correlation, proxy_fidelity.spearman, proxy_fidelity.kendall

RANDOM = np.random.default_rng(3)
TRUTH = RANDOM.normal(size=31)


def test_correlations_of_resamples_are_scipys_of_the_cells_that_are_in_them():
    for noise in (0.1, 1.0, 10.0):
        other = np.round(TRUTH + noise * RANDOM.normal(size=31), 1)  # with ties
        counts = RANDOM.multinomial(31, np.full(31, 1 / 31), size=20)
        for of, scipys in ((spearman, stats.spearmanr), (kendall, stats.kendalltau)):
            samples = [np.repeat(np.arange(31), row) for row in counts]
            expected = [scipys(TRUTH[rows], other[rows]).statistic for rows in samples]
            np.testing.assert_allclose(of(TRUTH, other, counts), expected, atol=1e-12)
    for of in (spearman, kendall):
        assert np.isnan(of(TRUTH, np.ones(31), np.ones((1, 31), int))).all()


def test_the_interval_covers_the_true_correlation_as_often_as_it_says():
    """Over 400 draws of 31 cells of a population whose Spearman correlation is known."""
    covered, pearson = [], 0.6
    true = 6 / np.pi * np.arcsin(pearson / 2)
    for seed in range(400):
        pairs = np.random.default_rng(seed).multivariate_normal([0, 0], [[1, pearson], [pearson, 1]], 31)
        found = correlation(spearman, pairs[:, 0], pairs[:, 1], resamples=400)
        covered.append(found.low <= true <= found.high)
    assert 0.88 <= np.mean(covered) <= 0.98


def test_it_is_the_same_every_time_and_leaves_out_what_failed():
    other = TRUTH + RANDOM.normal(size=31)
    first, again = (correlation(kendall, TRUTH, other) for _ in range(2))
    assert first == again
    assert first.value == pytest.approx(stats.kendalltau(TRUTH, other).statistic)
    broken = other.copy()
    broken[:3] = np.nan
    assert correlation(kendall, TRUTH, broken) == correlation(kendall, TRUTH[3:], other[3:])
    assert np.isnan(correlation(spearman, TRUTH, np.ones(31)).low)


@pytest.mark.parametrize('count', [3, 7, 31, 99])
def test_strata_are_spread_over_the_ranks_with_both_ends(count):
    scores = RANDOM.permutation(31) / 31
    scores[4] = np.nan
    kept = proxy_fidelity.strata(scores, count)
    ranks = stats.rankdata(-scores[np.isfinite(scores)])
    assert len(kept) == len(set(kept)) == min(count, 30)
    assert 4 not in kept
    assert scores[kept[0]] == np.nanmax(scores)
    assert scores[kept[-1]] == np.nanmin(scores)
    places = np.sort(stats.rankdata(-scores, nan_policy='omit')[kept])
    assert np.ptp(np.diff(places)) <= 1
    assert len(ranks) == 30


def test_variants_are_read_with_their_types():
    text = 'short:proxy.steps=80; wide: cell.filters=64, cache.crop_size=(65, 97);b:backbone.name=mobilenet_v2'
    assert variants.read(text) == {
        'short': {'proxy.steps': 80},
        'wide': {'cell.filters': 64, 'cache.crop_size': (65, 97)},
        'b': {'backbone.name': 'mobilenet_v2'},
    }
    assert variants.read('') == {}


@pytest.mark.parametrize(
    ('text', 'said'),
    [
        ('proxy.steps=80', "--variants has 'proxy.steps=80'; each is NAME:FIELD=VALUE"),
        ('a:proxy.steps', "--variants has 'a:proxy.steps'"),
        ('a:proxy.steps=1;a:proxy.steps=2', "--variants has two proxies 'a'"),
        ('config:proxy.steps=1', "--variants has two proxies 'config'"),
        ('a:proxy.stepz=1', "--variants, 'a': proxy.stepz=1"),
        ('a:proxy.steps=many', "--variants, 'a': proxy.steps='many'"),
    ],
)
def test_a_wrong_variant_is_one_line(text, said):
    def read():
        config = scenes_search.get_config('toy')
        return [variants.with_fields(config, *of) for of in variants.read(text, taken=('config',)).items()]

    with pytest.raises(InputError) as fault:
        read()
    assert said in str(fault.value)
    assert '\n' not in str(fault.value)


def test_a_variant_starts_with_the_backbones_of_the_work_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(variants.bench, 'prepare', lambda config, place: place)
    (tmp_path / 'backbone-1.npz').write_bytes(b'trained')
    place = variants.prepare(None, tmp_path, 'steps 8.5')
    assert place == tmp_path / 'variants/steps_8_5'
    (place / 'backbone-1.npz').write_bytes(b'its own')
    (tmp_path / 'backbone-2.npz').write_bytes(b'later')
    assert variants.prepare(None, tmp_path, 'steps 8.5') == place
    assert [path.read_bytes() for path in sorted(place.iterdir())] == [b'its own', b'later']


def test_the_ceiling_is_the_mean_over_pairs_of_seeds():
    whole = TRUTH[:, None] + RANDOM.normal(size=(31, 3))
    found = proxy_fidelity.ceiling(whole, spearman)
    pairs = [metrics.spearman(whole[:, a], whole[:, b]) for a, b in ((1, 0), (2, 0), (2, 1))]
    assert found.value == pytest.approx(np.mean(pairs))
    assert isinstance(found, proxy_fidelity.Correlation)


def test_a_study_of_fidelity_writes_what_it_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(proxy_fidelity.journeys, 'find', lambda name: types.SimpleNamespace(run=trained))
    config = scenes_search.get_config('toy')
    config.proxy.steps, config.proxy.bn_decay = 40, 0.5  # enough for scores that differ
    monkeypatch.setattr(proxy_fidelity.common, 'config_and_workdir', lambda: (config, tmp_path / 'work'))
    chosen = {
        'CELLS': ['sample:8'],
        'STRATA': 5,
        'SEEDS': 2,
        'VARIANTS': 'shorter:proxy.steps=20',
        'OUT': tmp_path / 'out',
    }
    for name, value in chosen.items():
        monkeypatch.setattr(proxy_fidelity, name, types.SimpleNamespace(value=value))
    proxy_fidelity.main([])
    text = (tmp_path / 'out/fidelity.md').read_text()
    proxy_fidelity.main([])  # all of it is kept
    assert (tmp_path / 'out/fidelity.md').read_text() == text
    assert text in capsys.readouterr().out
    for row in ('| config |', '| shorter |', '| noise ceiling: full training, another seed |'):
        assert row in text
    with (tmp_path / 'out/fidelity.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ['cell', 'full 0', 'full 1', 'config', 'shorter']
    proxies = {name: np.array([float(row[name]) for row in rows]) for name in ('config', 'shorter')}
    mean = np.array([(float(row['full 0']) + float(row['full 1'])) / 2 for row in rows])
    assert len(set(mean)) > 1
    for scores in proxies.values():
        value = correlation(spearman, scores, mean).value
        assert f'| {value:.2f} (' in text
    assert (tmp_path / 'out/fidelity.png').stat().st_size > 10_000
