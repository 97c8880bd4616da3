"""Ablations: how factors are read, what an effect is, what is written."""

import csv
import types

import numpy as np
import pytest

from configs import scenes_search
from dpc_jax.base import InputError
from tests.scripts import load

ablations = load('ablations')
RANDOM = np.random.default_rng(1)


def test_factors_are_read_with_their_types():
    found = ablations.read_factors('aux:cell.auxiliary=cell|conv|none; Polyak: proxy.polyak = 0.9|0.0;')
    assert [(one.name, one.field, one.values) for one in found] == [
        ('aux', 'cell.auxiliary', ('cell', 'conv', 'none')),
        ('Polyak', 'proxy.polyak', (0.9, 0.0)),
    ]
    ways = ablations.combinations(found)
    assert len(ways) == 6
    assert next(iter(ways.items())) == ('aux cell, Polyak 0.9', {'cell.auxiliary': 'cell', 'proxy.polyak': 0.9})
    assert list(ways)[1] == 'aux cell, Polyak 0.0'


@pytest.mark.parametrize(
    ('text', 'said'),
    [
        ('', '--factors is empty'),
        ('proxy.steps=3|4', "--factors has 'proxy.steps=3|4'; each is NAME:FIELD=VALUE|VALUE"),
        ('a:proxy.steps=3', "--factors has 'a:proxy.steps=3'"),
        ('a:proxy.steps=3|3', "--factors has 'a:proxy.steps=3|3'"),
        ('a:proxy.steps=3|', "--factors has 'a:proxy.steps=3|'"),
        ('a:proxy.steps=3|4;a:cell.filters=3|4', "--factors has 'a' or 'cell.filters' twice"),
        ('a:proxy.steps=3|4;b:proxy.steps=3|4', "--factors has 'b' or 'proxy.steps' twice"),
    ],
)
def test_wrong_factors_are_one_line(text, said):
    with pytest.raises(InputError) as fault:
        ablations.read_factors(text)
    assert said in str(fault.value)
    assert '\n' not in str(fault.value)


def test_effects_of_a_sum_are_its_parts():
    """Where scores are a sum of a part of the cell and one of each factor, nothing of the others is in an effect."""
    factors = ablations.read_factors('a:x.a=1|2|3;b:x.b=1|2')
    of_a, of_b, of_cell = np.array([0.3, 0.1, 0.0]), np.array([-0.2, 0.0]), RANDOM.normal(size=(9, 1, 1))
    table = of_cell + of_a[:, None] + of_b
    found = ablations.effects(factors, table)
    assert [(one.factor.name, one.value) for one in found] == [('a', 1), ('a', 2), ('b', 1)]
    for one, gain in zip(found, (0.3, 0.1, -0.2), strict=True):
        np.testing.assert_allclose(one.gains, gain)
        assert one.half == pytest.approx(0, abs=1e-12)


def test_the_interval_covers_the_true_effect_as_often_as_it_says():
    factors = ablations.read_factors('a:x.a=1|2;b:x.b=1|2')
    covered = []
    for _ in range(400):
        table = RANDOM.normal(size=(8, 2, 2)) + np.array([0.7, 0.0])[:, None]
        one = ablations.effects(factors, table)[0]
        covered.append(abs(one.mean - 0.7) <= one.half)
    assert 0.91 <= np.mean(covered) <= 0.98


def test_all_combinations_are_scored_and_written(tmp_path, monkeypatch, capsys):
    """Whatever a proxy gives; that what is finished is kept is a law of `Bench.evaluate`."""
    config, asked = scenes_search.get_config('toy'), []

    def prepare(config, workdir, name):
        asked.append((name, workdir))

        def evaluate(cells):
            own = np.array([genotype.ops.sum() for genotype in cells]) / 1000
            scores = own + config.proxy.steps / 1000 + 0.01 * (config.proxy.learning_rate > 0.015)
            return types.SimpleNamespace(scores=lambda: scores[:, None])

        return types.SimpleNamespace(evaluate=evaluate)

    monkeypatch.setattr(ablations.variants, 'prepare', prepare)
    monkeypatch.setattr(ablations.common, 'config_and_workdir', lambda: (config, tmp_path / 'work'))
    chosen = {
        'CELLS': ['sample:5'],
        'FACTORS': 'steps:proxy.steps=20|10;rate:proxy.learning_rate=0.02|0.01',
        'FURTHER': 'longer:proxy.steps=30',
        'OUT': str(tmp_path / 'out'),
    }
    for name, value in chosen.items():
        monkeypatch.setattr(ablations, name, types.SimpleNamespace(value=value))
    ablations.main([])
    text = (tmp_path / 'out/ablations.md').read_text()
    assert text in capsys.readouterr().out
    names = [f'steps {steps}, rate {rate}' for steps in (20, 10) for rate in (0.02, 0.01)]
    assert asked == [(name, tmp_path / 'work') for name in [*names, 'longer']]
    with (tmp_path / 'out/ablations.csv').open(newline='') as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ['cell', *names, 'longer']
    assert len(rows) == 5
    assert '| steps | 20 | 10 | +1.00 ± 0.00 | 100% |' in text
    assert '| rate | 0.02 | 0.01 | +1.00 ± 0.00 | 100% |' in text
    assert '| longer | 1.00 (1.00 to 1.00) |' in text
    assert (tmp_path / 'out/ablations.png').stat().st_size > 10_000


def test_cells_that_are_equal_count_once_and_a_value_without_effect_is_said(tmp_path, monkeypatch):
    """Two of the same would make the interval too narrow."""
    config = scenes_search.get_config('toy')

    def evaluate(cells):
        return types.SimpleNamespace(scores=lambda: np.array([[genotype.ops.sum() / 1000] for genotype in cells]))

    monkeypatch.setattr(ablations.variants, 'prepare', lambda *_: types.SimpleNamespace(evaluate=evaluate))
    monkeypatch.setattr(ablations.common, 'config_and_workdir', lambda: (config, tmp_path / 'work'))
    chosen = {'CELLS': ['sample:4', 'sample:4'], 'FACTORS': 'a:proxy.momentum=0.9|0.0', 'FURTHER': '', 'OUT': ''}
    for name, value in chosen.items():
        monkeypatch.setattr(ablations, name, types.SimpleNamespace(value=value))
    ablations.main([])
    text = (tmp_path / 'work/ablations/ablations.md').read_text()
    assert ', 4 cells;' in text
    assert '| a | 0.9 | 0.0 | no score differs | 0% |' in text
