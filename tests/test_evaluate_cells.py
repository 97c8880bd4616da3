"""Batch evaluation of given cells, as a user starts it: tables, stops, several workers, bad input."""

import csv
import gzip
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import time
import types

import numpy as np
import pytest

from configs import scenes_search
from dpc_jax import cell_files, study
from dpc_jax.base import InputError
from dpc_jax.spaces.dpc import Space
from experiments import cell_table
from tests import forks, scripts
from tests.small import trained

pytestmark = pytest.mark.usefixtures('quick_compilation')

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOY = '--config=configs/scenes_search.py:toy'
SCRIPT = 'experiments/evaluate_cells.py'


@pytest.fixture
def searched(toy_search, tmp_path):
    return shutil.copytree(toy_search[0], tmp_path / 'searched')


def start(*argv, **options):
    command = [sys.executable, SCRIPT, TOY, *map(str, argv)]
    pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, 'text': True}
    return subprocess.Popen(command, cwd=ROOT, **pipes, **options)


def finish(*argv, stdin=None):
    if stdin is None:
        done = forks.run(SCRIPT, TOY, *argv)
        return done.returncode, done.stdout, done.stderr
    process = start(*argv, stdin=subprocess.PIPE if stdin is not None else None)
    out, err = process.communicate(stdin)
    return process.returncode, out, err


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_every_cell_has_a_row_for_each_seed_and_a_mean(searched):
    lines = '{"inputs": [-1, 0], "ops": [5, 0]}\n'
    words = (f'--workdir={searched}', '--cells=conv1x1,sample:2,-', '--seeds=2')
    code, out, err = finish(*words, stdin=lines)
    assert (code, err) == (0, '')
    assert 'candidates 8/8' in out
    table, summary = rows(searched / 'cells/cells.csv'), rows(searched / 'cells/summary.csv')
    names = ['conv1x1', 'sample 0', 'sample 1', 'line 1']
    assert [(row['cell'], row['seed']) for row in table] == [(name, seed) for name in names for seed in '01']
    space = Space(2)
    for row in table:
        genotype = space.from_json(row['json'])
        assert space.canonical_key(genotype) == row['key']
        ious = [float(value) for name, value in row.items() if name.startswith('iou ')]
        assert len(ious) == 13
        present = [value for value in ious if value == value]
        assert float(row['score']) == pytest.approx(statistics.fmean(present), abs=1e-6)
        assert float(row['curve'].split()[-1]) == float(row['score'])
        assert int(row['multiply_adds']) == space.cost(genotype, settings_of(searched))['macs']
        assert float(row['seconds']) > 0
    for row in summary:
        scores = [float(other['score']) for other in table if other['cell'] == row['cell']]
        assert float(row['mean']) == pytest.approx(statistics.fmean(scores))
        assert float(row['std']) == pytest.approx(statistics.stdev(scores))
    assert [float(row['mean']) for row in summary] == sorted((float(row['mean']) for row in summary), reverse=True)
    assert (searched / 'cells/cells.png').stat().st_size > 1000
    best = finish(f'--workdir={searched}', f'--cells={searched}/cells/cells.csv', '--best=1', f'--out={searched}/best')
    assert best[0] == 0, best
    assert [row['cell'] for row in rows(searched / 'best/summary.csv')] == [summary[0]['cell']]
    before = (searched / 'cells/cells.csv').read_bytes()
    assert finish(*words, stdin=lines)[0] == 0
    assert (searched / 'cells/cells.csv').read_bytes() == before
    packed = searched / 'cells/cells.csv.gz'
    assert str(packed) in finish(*words, '--compressed', stdin=lines)[1]
    assert gzip.decompress(packed.read_bytes()) == before
    assert not (searched / 'cells/cells.csv').exists()
    found = cell_table.read([packed], space)
    assert {key: list(cell.scores.items()) for key, cell in found.items()} == {
        row['key']: [(int(other['seed']), float(other['score'])) for other in table if other['key'] == row['key']]
        for row in table
    }


def settings_of(workdir):
    return study.read(f'sqlite:///{workdir / "study.db"}', 'dpc-proxy')[1]


def finished(workdir, name='dpc-seed0'):
    try:
        return {c.key: c.finished for c in study.read(f'sqlite:///{workdir / "study.db"}', name)[0]}
    except InputError:  # the study is not there yet
        return {}


@pytest.mark.slow
def test_kill_9_loses_nothing_and_two_workers_share_the_cells(searched):
    words = (f'--workdir={searched}', '--cells=sample:12')
    first = start(*words)
    while len(finished(searched)) < 2:
        assert first.poll() is None
        time.sleep(0.1)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    kept = finished(searched)
    assert 2 <= len(kept) < 12
    workers = [start(*words, f'--out={searched / name}') for name in 'ab']
    said = [worker.communicate()[1].splitlines() for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    # Where both propose a cell in the same moment, one gives way and says so.
    assert [line for lines in said for line in lines if 'has the cell of trial' not in line] == []
    tables = [rows(searched / name / 'cells.csv') for name in 'ab']
    assert tables[0] == tables[1]
    assert len(tables[0]) == 12
    after = finished(searched)
    assert kept.items() <= after.items()
    assert len(after) == len({row['key'] for row in tables[0]})


def test_many_cells_are_drawn_by_rank():
    module = scripts.load('evaluate_cells')
    table = [
        {'cell': 'aspp' if place == 7 else f'sample {place}', 'key': str(place), 'mean': 1 - place / 100, 'std': 0.01}
        for place in range(60)
    ]

    scores = np.array([[row['mean'] - 0.01, row['mean'] + 0.01] for row in table])
    space = types.SimpleNamespace(canonical_key=str)
    result = types.SimpleNamespace(cells=range(60), space=space, scores=lambda: scores, settings={})
    figure = module.draw(table, frozenset({'aspp'}), result)
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ['mean over seeds', 'aspp (93.00 %)']
    few = module.draw(table[:5], frozenset(), result)
    assert [label.get_text() for label in few.axes[0].get_yticklabels()] == [row['cell'] for row in table[:5]]


def test_those_that_are_taken_are_apart_and_equal_cells_take_one_place():
    module, space = scripts.load('evaluate_cells'), Space(3)
    (first,) = cell_files.read_cells(['sample:1'], space)
    near = cell_files.NamedCell('near', first.genotype._replace(ops=(first.genotype.ops + np.array([0, 0, 1])) % 81))
    (far,) = cell_files.read_cells(['sample:1'], space, seed=1)
    same = {space.canonical_key(cell.genotype): place for place, cell in enumerate((first, near))}
    prepared = types.SimpleNamespace(
        space=space, same=lambda genotype: str(same.get(space.canonical_key(genotype), 'far'))
    )
    cells = [first, near, far]
    assert module.chosen(cells, prepared, 0, 0) == cells
    assert module.chosen(cells, prepared, 2, 0) == [first, near]
    assert module.chosen(cells, prepared, 2, 1) == [first, near]
    assert module.chosen(cells, prepared, 2, 3) == [first, far]
    assert module.chosen(cells, prepared, 3, 3) == cells  # there are too few families
    prepared.same = lambda genotype: 'equal'
    assert module.chosen(cells, prepared, 3, 1) == [first]


def test_whole_networks_are_what_whole_trains(searched, monkeypatch):
    module, seeds = scripts.load('evaluate_cells'), []

    def counted(config, place):
        seeds.append(config.seed)
        return trained(config, place)

    monkeypatch.setattr(module.journeys, 'find', lambda name: types.SimpleNamespace(run=counted))
    monkeypatch.setattr(module.common, 'config_and_workdir', lambda: (scenes_search.get_config('toy'), searched))
    given = {'CELLS': ['conv1x1', 'sample:1'], 'SEEDS': 2, 'BEST': 0, 'APART': 0, 'WHOLE': True}
    for name, value in {**given, 'OUT': '', 'COMPRESSED': False}.items():
        monkeypatch.setattr(module, name, types.SimpleNamespace(value=value))
    module.main([])
    assert sorted(seeds) == [0, 0, 1, 1]
    table = rows(searched / 'networks/cells.csv')
    assert [(row['cell'], row['seed']) for row in table] == [
        (name, seed) for name in ('conv1x1', 'sample 0') for seed in '01'
    ]
    assert all(float(row['curve']) == float(row['score']) for row in table)
    module.main([])
    assert len(seeds) == 4


@pytest.mark.parametrize(
    ('words', 'said'),
    [
        ((), '--cells is needed'),
        (('--cells=conv1x1', '--apart=2'), '--apart is 2 and --best 0'),
        (('--cells=aspp',), "cell 'aspp' has 5 branches; this space has 2"),
        (('--cells=sample:0',), 'sample: takes a whole number of at least 1'),
        (('--cells=absent.json',), "cells 'absent.json': No such file or directory"),
        (('--cells=conv1x1', '--seeds=0'), '--seeds is 0'),
        (('--cells=experiments/results/table1_modules.json',), 'expected a list of branches'),
        (
            ('--cells=experiments/results/scenes_search/reach.csv',),
            "there is no column 'genotype' or 'json'; its columns are: cell",
        ),
        (('--cells=conv1x1', '--config.cell.filters=8'), 'cell.filters: study has 4, config has 8'),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(toy_search, tmp_path, words, said):
    workdir = toy_search[0] if 'filters' in said else tmp_path / 'new'
    code, _, err = finish(f'--workdir={workdir}', *words)
    assert (code, err.count('\n')) == (2, 1), err
    assert said in err
    assert not (tmp_path / 'new').exists()
