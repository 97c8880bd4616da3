"""The tables of arXiv:1810.10804: published numbers, what was reached, commands for the rest."""

import json

import pytest

from tests import scripts

SCRIPTS = {name: scripts.load(name) for name in ('aux_table1_voc', 'aux_table2_pose', 'aux_depth')}


def rows_of(name):
    module = SCRIPTS[name]
    return [*module.rows('mpii'), *module.rows('coco')] if name == 'aux_table2_pose' else module.rows()


def printed(name, runs, monkeypatch, capsys):
    monkeypatch.setattr(SCRIPTS[name].RUNS, '_value', str(runs), raising=False)
    monkeypatch.setattr(SCRIPTS[name], 'RUNS', type('Flag', (), {'value': str(runs)}))
    SCRIPTS[name].main([])
    return capsys.readouterr().out


@pytest.mark.parametrize('name', SCRIPTS)
def test_rows_that_were_not_run_are_named_with_their_commands(name, tmp_path, monkeypatch, capsys):
    out = printed(name, tmp_path, monkeypatch, capsys)
    for row in rows_of(name):
        assert f'- {row.name}: ' in out
        assert f'--workdir=runs/{row.folder} ' in row.command or not row.command
    assert ' / –' in out


def test_the_numbers_are_those_of_the_paper(tmp_path, monkeypatch, capsys):
    out = printed('aux_table2_pose', tmp_path, monkeypatch, capsys)
    assert '| arch2 | 87.1 / – | 31.8 / – |' in out
    assert '| DeepLab-v3+ | 0.668 / – | 0.700 / – |' in out


def test_a_finished_training_stands_beside_the_published_number(tmp_path, monkeypatch, capsys):
    place = tmp_path / 'nyud_arch1/evaluation'
    place.mkdir(parents=True)
    (place / 'metrics.json').write_text(json.dumps({'rmse': 0.5431, 'absolute_relative': 0.15, 'delta1': 0.8}))
    out = printed('aux_depth', tmp_path, monkeypatch, capsys)
    assert '| arch1 | ~0.52 / 0.543 | – / 0.15 | – / 80 | – / – |' in out
    assert '- arch1: ' not in out
    assert '- arch0: ' in out
