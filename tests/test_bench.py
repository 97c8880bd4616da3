"""A search, prepared: given cells are scored as the search scores them, once, and whatever stops it."""

import csv
import dataclasses
import gzip
import io
import itertools
import json
import math
import shutil

import jax
import numpy as np
import pytest

from configs import camvid_aux_search
from dpc_jax import assembly, bench, cell_files
from dpc_jax.base import InputError, stack, unstack
from dpc_jax.journeys import search
from dpc_jax.population import PopulationEvaluator
from dpc_jax.scores import CellScore
from dpc_jax.spaces.dpc import Genotype, Space
from tests.test_search import toy

pytestmark = pytest.mark.usefixtures('quick_compilation')

SPACE = Space(2)
CELL = SPACE.to_json(SPACE.named('conv1x1')).replace('"', '""')  # as it stands in a CSV


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
    return tmp_path_factory.mktemp('bench')


@pytest.fixture(scope='module')
def searched(workdir):
    return search.run(toy(), workdir)


@pytest.fixture(scope='module')
def prepared(searched, workdir):
    del searched
    return bench.prepare(toy(), workdir)


@pytest.fixture
def evaluated(monkeypatch):
    """(keys, seed) of every call of the evaluator; raises KeyboardInterrupt after `stop_after` of them."""
    calls = []
    evaluate = PopulationEvaluator.__call__

    def counted(self, genotypes, keep_going=None):
        if len(calls) == counted.stop_after:
            raise KeyboardInterrupt
        calls.append(([SPACE.canonical_key(g) for g in unstack(genotypes)], self.seed))
        return evaluate(self, genotypes, keep_going)

    counted.stop_after = -1
    calls_and_stop = (calls, counted)
    monkeypatch.setattr(PopulationEvaluator, '__call__', counted)
    return calls_and_stop


def test_images_are_drawn_for_a_search_that_asks_for_them(tmp_path):
    config = camvid_aux_search.get_config('toy')
    drawn = bench.with_data(config, tmp_path)
    train, val = assembly.load_datasets(drawn)
    assert (len(train), len(val), config.dataset.root) == (4, 4, '')
    assert bench.with_data(config, tmp_path).to_dict() == drawn.to_dict()  # once
    assert bench.with_data(toy(), tmp_path).to_dict() == toy().to_dict()  # scenes need no files


def cells(*pairs):
    return [Genotype(np.array([-1, source], np.int32), np.array(ops, np.int32)) for source, ops in pairs]


FOUR = cells((0, (1, 2)), (-1, (3, 4)), (-1, (0, 70)), (0, (5, 0)))


def test_given_cells_are_scored_in_order_under_each_seed(prepared, evaluated):
    result = prepared.evaluate(stack(FOUR[:3]), seeds=2)
    assert [(row.cell, row.seed) for row in result.rows] == list(itertools.product(range(3), (0, 1)))
    assert [row.candidate.key for row in result.rows[::2]] == [SPACE.canonical_key(cell) for cell in FOUR[:3]]
    assert [row.candidate.seed for row in result.rows] == [0, 1] * 3
    assert len(list(itertools.chain(*(keys for keys, _ in evaluated[0])))) == 6
    for row in result.rows:
        alone = prepared.evaluator(seed=row.seed)(stack([row.candidate.genotype]))
        assert np.float32(row.score) == alone.scores[0]
        np.testing.assert_array_equal(row.candidate.confusions[-1], alone.confusions[0, -1])
        assert row.candidate.extras['pixel_accuracy'] == pytest.approx(float(alone.extras['pixel_accuracy'][0]))
    evaluated[0].clear()
    again = prepared.evaluate(FOUR[:3], seeds=2)
    assert not evaluated[0]
    np.testing.assert_array_equal(again.scores(), result.scores())


def test_equal_cells_are_trained_once_and_the_searchs_own_scores_are_taken(prepared, searched, evaluated):
    known = next(c for c in searched if not c.reference)
    twin = Genotype(np.array([-1, -1], np.int32), np.array([4, 3], np.int32))  # the branches of FOUR[1] in other order
    result = prepared.evaluate([known.genotype, FOUR[1], twin])
    trained = [key for keys, _ in evaluated[0] for key in keys]
    assert known.key not in trained
    assert len(trained) == len(set(trained))
    assert result.rows[0].score == known.score
    assert result.rows[1].score == result.rows[2].score
    assert len(result.best(3)) == 2


def test_a_stop_loses_no_finished_cell(prepared, evaluated):
    calls, counted = evaluated
    fresh = bench.prepare(toy(search__study='stopped'), prepared.workdir)
    cells = SPACE.sample(jax.random.key(4), 2 * fresh.evaluator().population + 1)
    counted.stop_after = 2
    with pytest.raises(KeyboardInterrupt):
        fresh.evaluate(cells)
    done = [key for keys, _ in calls for key in keys]
    assert len(done) == 2 * fresh.evaluator().population
    counted.stop_after = -1
    calls.clear()
    result = fresh.evaluate(cells)
    assert sorted(done + [key for keys, _ in calls for key in keys]) == sorted(map(SPACE.canonical_key, unstack(cells)))
    assert np.isfinite(result.scores()).all()


def test_the_best_are_by_mean_and_failures_are_left_out(prepared):
    result = prepared.evaluate(FOUR)
    rows = [
        CellScore(cell, seed, dataclasses.replace(result.rows[cell].candidate, score=score))
        for cell, scores in enumerate([(0.1, 0.2), (0.4, 0.1), (0.3, math.nan), (0.25, 0.25)])
        for seed, score in enumerate(scores)
    ]
    forged = dataclasses.replace(result, rows=tuple(rows))
    keys = [SPACE.canonical_key(cell) for cell in forged.best(9)]
    expected = sorted([1, 3], key=lambda i: SPACE.canonical_key(FOUR[i]))  # both have a mean of 0.25
    assert keys == [SPACE.canonical_key(FOUR[i]) for i in (*expected, 0)]


def test_a_cell_that_was_stopped_early_has_no_score(prepared):
    result = prepared.evaluate(FOUR[:2])
    stopped = dataclasses.replace(result.rows[0].candidate, state='pruned', score=0.99)
    forged = dataclasses.replace(result, rows=(CellScore(0, 0, stopped), result.rows[1]))
    assert math.isnan(forged.scores()[0, 0])
    assert [SPACE.canonical_key(cell) for cell in forged.best(9)] == [SPACE.canonical_key(FOUR[1])]


@pytest.mark.parametrize(
    ('given', 'said'),
    [
        ([], 'there are no cells to evaluate'),
        ([Genotype(np.array([-1], np.int32), np.array([0], np.int32))], r'cell 0: genotype.inputs has shape \(1,\)'),
        (cells((0, (1, 2)), (-1, (81, 0))), 'cell 1: branch 0: op index 81 is not in 0..80'),
        (cells((1, (1, 2))), 'cell 0: branch 1: input 1; it may read'),
        (['dpc_top1'], 'cell 0 is not a genotype of this space: dpc_top1'),
    ],
    ids=['none', 'branches', 'operator', 'input', 'a name'],
)
def test_bad_cells_are_refused_in_one_line(prepared, evaluated, given, said):
    with pytest.raises(InputError, match=said) as error:
        prepared.evaluate(given)
    assert '\n' not in str(error.value)
    assert not evaluated[0]


@pytest.mark.parametrize('seeds', [0, -1, (), (-1,), (0, 0)])
def test_bad_seeds_are_refused(prepared, seeds):
    with pytest.raises(InputError, match='seeds is'):
        prepared.evaluate(FOUR, seeds)


def test_a_folder_in_which_only_cells_were_evaluated_keeps_its_config(prepared, tmp_path):
    shutil.copytree(prepared.workdir / 'cache', tmp_path / 'cache')
    for path in prepared.workdir.glob('backbone-*.npz'):
        shutil.copy(path, tmp_path)
    bench.prepare(toy(), tmp_path)
    bench.prepare(toy(proxy__learning_rate=0.2), tmp_path).evaluate(FOUR[:1])  # nothing hung on the first
    for field, value in (('proxy__steps', 3), ('cache__views', 2)):
        with pytest.raises(InputError, match='was made with another config'):
            bench.prepare(toy(**{'proxy__learning_rate': 0.2, field: value}), tmp_path)


def test_genotypes_of_other_integers_are_taken(prepared, evaluated):
    result = prepared.evaluate([Genotype([-1, 0], [1, 2]), Genotype(np.array([-1, 0]), np.array([1, 2]))])
    assert result.rows[0].score == result.rows[1].score
    assert result.cells[0].ops.dtype == np.int32


# ---- cells as people have them --------------------------------------------------------------------------------------


def keys_of(sources, space=SPACE, seed=0):
    return [
        (cell.name, space.canonical_key(cell.genotype)) for cell in cell_files.read_cells(sources, space, seed=seed)
    ]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / 'cells').mkdir()
    for name, cell in zip('ba', FOUR, strict=False):
        (tmp_path / f'cells/{name}.json').write_text(SPACE.to_json(cell))
    lines = [' '.join(SPACE.to_json(FOUR[2]).split()), '', 'conv1x1', '{"inputs": [-1, 0], "ops": [5, 0]}']
    (tmp_path / 'found.jsonl').write_text('\n'.join(lines))
    return tmp_path


def test_files_folders_lines_names_and_samples(folder, monkeypatch):
    names = [SPACE.canonical_key(cell) for cell in FOUR]
    conv = SPACE.canonical_key(SPACE.named('conv1x1'))
    assert keys_of([str(folder / 'cells')]) == [('a', names[1]), ('b', names[0])]
    assert keys_of([str(folder / 'cells/b.json'), 'conv1x1']) == [('b', names[0]), ('conv1x1', conv)]
    lines = [('line 1', names[2]), ('conv1x1', conv), ('line 4', names[3])]
    assert keys_of([str(folder / 'found.jsonl')]) == lines
    monkeypatch.setattr('sys.stdin', io.StringIO((folder / 'found.jsonl').read_text()))
    assert keys_of(['-']) == lines
    drawn = keys_of(['sample:5'], seed=3)
    assert [key for _, key in drawn] == [SPACE.canonical_key(g) for g in unstack(SPACE.sample(jax.random.key(3), 5))]


@pytest.mark.parametrize(('branches', 'name'), [(5, 'aspp'), (5, 'dpc_top1'), (6, 'aspp'), (2, 'conv1x1')])
def test_the_neighbours_of_a_named_cell_differ_from_it_in_one_gene(branches, name):
    space = Space(branches)
    found = cell_files.read_cells([f'near:{name}'], space)
    as_genes = [(*cell.genotype.inputs.tolist(), *cell.genotype.ops.tolist()) for cell in found]
    expected = space.neighbours(space.named(name), 'adjacent')
    assert as_genes == [(*cell.inputs.tolist(), *cell.ops.tolist()) for cell in expected]
    centre = space.named(name)
    genes = (*centre.inputs.tolist(), *centre.ops.tolist())
    assert {sum(a != b for a, b in zip(genes, other, strict=True)) for other in as_genes} == {1}
    assert len({cell.name for cell in found}) == len(found) == len(set(as_genes))
    assert f'{name} branch1.input 0' in [cell.name for cell in found]


def test_all_named_cells_are_those_that_the_space_has():
    large, small = Space(5), Space(2)
    assert keys_of(['named'], large) == keys_of(large.names, large)
    assert keys_of(['named'], small) == keys_of(['conv1x1'], small)


def test_a_report_is_read_with_its_ranks_and_references(searched, workdir):
    found = dict(keys_of([str(workdir / 'report/ranking.csv')]))
    assert found['conv1x1'] == SPACE.canonical_key(SPACE.named('conv1x1'))
    assert set(found.values()) == {c.key for c in searched}
    assert len(found) == len(searched)
    assert any(name.startswith('rank 1, number ') for name in found)


def test_a_table_of_scores_gives_each_cell_once_and_the_best_first(tmp_path):
    lines = [('conv1x1', '0.3'), ('a', '0.5'), ('b', 'nan'), ('c', '0.4'), ('conv1x1', '0.6'), ('b', '0.9')]
    genotypes = dict(zip(('conv1x1', *'abc'), FOUR, strict=True))
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(['cell', 'seed', 'state', 'score', 'json'])
    for seed, (name, score) in enumerate(lines):
        state = 'failed' if score == 'nan' else 'complete'
        writer.writerow([name, seed, state, score, SPACE.to_json(genotypes[name])])
    path = tmp_path / 'cells.csv.gz'
    path.write_bytes(gzip.compress(text.getvalue().encode()))
    keys = {name: SPACE.canonical_key(cell) for name, cell in genotypes.items()}
    assert len(set(keys.values())) == 4
    assert keys_of([str(path)]) == [(name, keys[name]) for name in ('a', 'conv1x1', 'c', 'b')]


@pytest.mark.parametrize(
    ('name', 'text', 'said'),
    [
        ('x.json', '[{"op": "conv", "kernel": 1, "input": -1}]', 'x.json: 1 branches; allowed here: 2'),
        ('x.json', 'cell', 'x.json: not JSON'),
        ('x.jsonl', '{"inputs": [-1, 0], "ops": [5, 81]}', 'x.jsonl: line 1: branch 1: op index 81 is not in 0..80'),
        ('x.jsonl', '{"inputs": [-1, 0]}', 'x.jsonl: line 1: fields inputs; expected inputs, ops'),
        ('x.jsonl', '{"inputs": [-1, "a"], "ops": [0, 0]}', 'x.jsonl: line 1: the fields of a genotype are lists of'),
        ('x.jsonl', '{"inputs": [-1, 0], "ops": [0, 1.7]}', 'x.jsonl: line 1: the fields of a genotype are lists of'),
        ('x.jsonl', '{"inputs": [-1, 0], "ops": [0, true]}', 'x.jsonl: line 1: the fields of a genotype are lists of'),
        ('x.csv', 'genotype\n' + 'x' * 200_000, 'it is not a CSV file: field larger'),
        ('x.jsonl', '\n\n', 'there are no cells; allowed: a name (dpc_top1, aspp, conv1x1, '),
        (
            'x.csv',
            'cell,score\na,0.5\n',
            "x.csv: there is no column 'genotype' or 'json'; its columns are: cell, score",
        ),
        ('x.csv', 'genotype\n[]\n', 'x.csv: line 2: found list'),
        ('x.csv', '', "there is no column 'genotype' or 'json'; its columns are: none"),
        ('x.csv', f'json,score\n"{CELL}",0.5\n', "x.csv: line 2: there is no seed, state and score: 'seed'"),
        ('x.csv', f'json,seed,state,score\n"{CELL}",0,complete,\n', 'line 2: there is no seed, state and score: could'),
        (
            'x.csv',
            f'json,seed,state,score\n"{CELL}",0,complete,0.5\n"{CELL}",0,complete,0.6\n',
            'x.csv: line 3: the score under seed 0 is 0.6, and 0.5 in a row before',
        ),
        ('x.csv.gz', 'json,score\n', "x.csv.gz': no gzip file; allowed: a name"),
    ],
)
def test_a_bad_file_is_one_line_with_its_place(tmp_path, fault, name, text, said):
    (tmp_path / name).write_text(text)
    assert said in fault(lambda: keys_of([str(tmp_path / name)]))


@pytest.mark.parametrize(
    ('source', 'said'),
    [
        ('absent.json', "cells 'absent.json': No such file or directory; allowed: a name"),
        ('sample:0', "cells 'sample:0': sample: takes a whole number of at least 1"),
        ('sample:x', "cells 'sample:x': sample:"),
        ('sample:' + '9' * 5000, 'sample: takes a whole number'),
        ('near:xaspp', "cells 'near:xaspp': near: takes one of these names: dpc_top1, aspp, conv1x1"),
        ('near:', "cells 'near:': near: takes one of these names"),
        ('near:aspp', "cell 'aspp' has 5 branches; this space has 2"),
        ('x' * 300, 'File name too long'),
        ('~nosuchuser/x.json', 'Could not determine home directory'),
        ('', 'an empty source of cells; allowed: a name'),
        ('aspp', "cell 'aspp' has 5 branches; this space has 2"),
    ],
)
def test_a_bad_source_is_one_line(fault, source, said):
    assert said in fault(lambda: keys_of([source]))


def test_an_empty_folder_is_one_line(tmp_path, fault):
    assert 'the folder has no .json files' in fault(lambda: keys_of([str(tmp_path)]))


def test_genotypes_in_lines_are_what_the_space_writes():
    text = json.dumps({name: genes.tolist() for name, genes in FOUR[0]._asdict().items()})
    assert cell_files._parsed(text, 'x', SPACE).ops.tolist() == FOUR[0].ops.tolist()
