"""Strategies on a table of scored cells: the table, the space that it makes, the searches in it, the script."""

import collections
import csv
import gzip
import itertools
import json
import math
import pathlib
import types

import jax
import numpy as np
import pytest

from configs import scenes_search
from dpc_jax import samplers
from dpc_jax.base import InputError, unstack
from dpc_jax.spaces import SearchSpace
from dpc_jax.spaces.dpc import OP_NAMES, Genotype, Space, make_genotype
from dpc_jax.study import RunInfo, Study
from experiments import cell_table
from experiments.table_space import TableSpace
from tests import forks, scripts
from tests.test_samplers import chi_square

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCRIPT = 'experiments/compare_strategies.py'
TOY = '--config=configs/scenes_search.py:toy'
CONV = OP_NAMES.index('conv1x1')

evaluate_cells = scripts.load('evaluate_cells')
compare = scripts.load('compare_strategies')


def by_key(space: Space, genotypes: list[Genotype]) -> dict[str, Genotype]:
    return {space.canonical_key(genotype): genotype for genotype in genotypes}


def drawn(branches: int, count: int, seed: int = 0) -> dict[str, Genotype]:
    space = Space(branches)
    return by_key(space, unstack(space.sample(jax.random.key(seed), count)))


def row(space: Space, genotype: Genotype, score: float, **fields) -> dict[str, object]:
    """A row as `evaluate_cells` makes it."""
    values = {
        **{'cell': 'x', 'key': space.canonical_key(genotype), 'seed': 0, 'score': score},
        **{'state': 'failed' if math.isnan(score) else 'complete', 'failure': '', 'iou road': 0.5},
        **{'curve': f'0.1 {score!r}', 'parameters': 10, 'multiply_adds': 100, 'seconds': 1.5},
        'json': json.dumps(json.loads(space.to_json(genotype))),
    }
    return values | fields


# ---- the table ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('compressed', [False, True])
def test_a_table_is_read_as_it_was_written(tmp_path, compressed):
    space, cells = Space(3), drawn(3, 5)
    table = [
        row(space, genotype, 0.1 * place + 0.01 * seed, seed=seed, cell=f'sample {place}')
        for place, genotype in enumerate(cells.values())
        for seed in (4, 5)
    ]
    table.append(table[0] | {'cell': 'again'})
    table.append(row(space, next(iter(cells.values())), math.nan, seed=6, curve=''))
    path = evaluate_cells.write_rows(tmp_path, table, compressed=compressed)
    found = cell_table.read([path], space)
    assert list(found) == list(cells)
    for place, (key, cell) in enumerate(found.items()):
        assert space.canonical_key(cell.genotype) == key
        assert (cell.genotype.ops == cells[key].ops).all()
        assert cell.name == f'sample {place}'
        assert {seed: cell.scores[seed] for seed in (4, 5)} == {4: 0.1 * place + 0.04, 5: 0.1 * place + 0.05}
        assert cell.curves[5] == (0.1, 0.1 * place + 0.05)
        assert (cell.parameters, cell.multiply_adds, cell.seconds[4]) == (10, 100, 1.5)
        assert math.isnan(cell.score) if place == 0 else cell.score == pytest.approx(0.1 * place + 0.045)
    assert found[next(iter(cells))].curves[6] == ()


def test_several_tables_are_one(tmp_path):
    space, cells = Space(3), drawn(3, 4)
    rows = [row(space, genotype, 0.1 * place) for place, genotype in enumerate(cells.values())]
    for name, part in (('a', rows[:3]), ('b', [rows[2], rows[3], rows[0] | {'seed': 1, 'score': 0.5}])):
        (tmp_path / name).mkdir()
        evaluate_cells.write_rows(tmp_path / name, part, compressed=name == 'a')
    found = cell_table.read([tmp_path / 'a/cells.csv.gz', tmp_path / 'b/cells.csv'], space)
    assert list(found) == list(cells)
    assert dict(found[next(iter(cells))].scores) == {0: 0.0, 1: 0.5}


def test_equal_rows_are_equal_bytes_and_one_of_the_two_files_stays(tmp_path):
    rows = [row(Space(3), genotype, 0.5) for genotype in drawn(3, 40).values()]
    plain = evaluate_cells.write_rows(tmp_path, rows, compressed=False).read_bytes()
    packed = [evaluate_cells.write_rows(tmp_path, rows, compressed=True).read_bytes() for _ in range(2)]
    assert packed[0] == packed[1]
    assert packed[0][4:8] == bytes(4), 'a time'
    assert gzip.decompress(packed[0]) == plain
    assert len(packed[0]) < len(plain) / 3
    assert [path.name for path in tmp_path.iterdir()] == ['cells.csv.gz']
    evaluate_cells.write_rows(tmp_path, rows, compressed=False)
    assert [path.name for path in tmp_path.iterdir()] == ['cells.csv']


GOOD = row(Space(2), Space(2).named('conv1x1'), 0.5)


@pytest.mark.parametrize(
    ('rows', 'said'),
    [
        ([], 'there is no column cell, key, seed, score'),
        (
            [{name: GOOD[name] for name in GOOD if name != 'curve'}],
            'there is no column curve; evaluate_cells.py writes',
        ),
        ([GOOD | {'json': '[]'}], 'line 2: '),
        ([GOOD | {'json': json.dumps(json.loads(Space(1).to_json(Space(1).named('conv1x1'))))}], 'line 2: 1 branches'),
        ([GOOD | {'key': 'F'}], "line 2: the key is 'F', but the cell in the column json is 'F[c1x1,c1x1]'"),
        ([GOOD | {'seed': 'x'}], "line 2: invalid literal for int() with base 10: 'x'"),
        ([GOOD | {'score': ''}], "line 2: could not convert string to float: ''"),
        (
            [GOOD, GOOD | {'score': 0.25}],
            'line 3: the score of F[c1x1,c1x1] under seed 0 is 0.25, and 0.5 in an earlier',
        ),
        ([GOOD, GOOD | {'seed': 1, 'multiply_adds': 7}], 'line 3: F[c1x1,c1x1] has 10 parameters and 7 multiply-adds'),
    ],
)
def test_a_wrong_table_is_one_line_with_its_place(tmp_path, fault, rows, said):
    evaluate_cells.write_rows(tmp_path, rows, compressed=False)
    assert said in fault(lambda: cell_table.read([tmp_path / 'cells.csv'], Space(2)))


@pytest.mark.parametrize(
    ('name', 'content', 'said'),
    [
        ('absent.csv', None, 'No such file or directory'),
        ('x.csv.gz', b'cell,key', 'no gzip file'),
        ('x.csv.gz', gzip.compress(b'cell,key' * 100, mtime=0)[:-9], 'no gzip file'),
        ('x.csv', b'\xff\xfe', 'not a text file'),
        ('x.csv', b'cell\n' + b'x' * 200_000, 'it is not a CSV file'),
        ('x.csv', (','.join(GOOD) + '\n').encode(), 'there are no cells'),
    ],
)
def test_a_file_that_is_no_table_is_one_line(tmp_path, fault, name, content, said):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert said in fault(lambda: cell_table.read([tmp_path / name], Space(2)))


# ---- the space of a table -------------------------------------------------------------------------------------------


def test_it_is_a_search_space_that_draws_its_cells_uniformly():
    cells = drawn(5, 30)
    space = TableSpace(Space(5), cells)
    assert isinstance(space, SearchSpace)
    assert space.size == 30
    counts = collections.Counter(map(space.canonical_key, unstack(space.sample(jax.random.key(0), 3000))))
    assert counts.keys() == cells.keys()
    statistic, bound = chi_square(list(counts.values()))
    assert statistic <= bound
    assert space.canonical_key(space.sample(jax.random.key(1))) in cells


@pytest.mark.parametrize('reach', ['adjacent', 'any'])
def test_the_table_of_a_whole_space_is_that_space(reach):
    whole = Space(1)
    everything = [make_genotype([-1], [op]) for op in range(81)]
    space = TableSpace(whole, by_key(whole, everything), nearest=1)
    for genotype in everything[::4]:
        groups = [
            {
                gene: set(map(whole.canonical_key, others))
                for gene, others in s.neighbours_by_gene(genotype, reach).items()
            }
            for s in (whole, space)
        ]
        assert groups[0] == groups[1]
        assert space.from_params(dict(whole.to_params(genotype))).ops == genotype.ops


def test_neighbours_are_those_in_the_table_and_then_the_nearest():
    whole, centre = Space(5), Space(5).named('dpc_top1')
    near = whole.neighbours_by_gene(centre, 'any')
    chosen = [near['branch1.rate_width'][0], near['branch1.rate_width'][3], near['branch4.input'][1]]
    cells = by_key(whole, [*drawn(5, 50).values(), centre, *chosen])
    space = TableSpace(whole, cells, nearest=10)
    groups = space.neighbours_by_gene(centre, 'any')
    keys = {gene: [whole.canonical_key(other) for other in others] for gene, others in groups.items()}
    assert keys['branch1.rate_width'] == list(map(whole.canonical_key, chosen[:2]))
    assert keys['branch4.input'] == [whole.canonical_key(chosen[2])]
    further = [keys[gene] for gene in keys if gene.startswith('nearest')]
    assert [len(group) for group in further] == [1] * 7
    assert len(set(itertools.chain(*keys.values()))) == 10

    def apart(key: str) -> int:
        here, there = (list(whole.to_params(cell).values()) for cell in (centre, cells[key]))
        return sum(a != b for a, b in zip(here, there, strict=True))

    left = cells.keys() - set(itertools.chain(*keys.values())) - {whole.canonical_key(centre)}
    assert max(apart(key) for (key,) in further) <= min(map(apart, left))
    assert [apart(key) for (key,) in further] == sorted(apart(key) for (key,) in further)


def test_parameters_that_are_in_no_row_stand_for_the_nearest_cell():
    whole, cells = Space(4), drawn(4, 40)
    space = TableSpace(whole, cells)
    for genotype in unstack(whole.sample(jax.random.key(9), 20)):
        params = dict(whole.to_params(genotype))
        found = whole.to_params(space.from_params(params))
        distances = [sum(params[n] != whole.to_params(c)[n] for n in params) for c in cells.values()]
        assert sum(params[name] != found[name] for name in params) == min(distances)
        assert space.canonical_key(genotype) == whole.canonical_key(genotype)
        assert space.to_params(genotype) == params
        around = itertools.chain(*space.neighbours_by_gene(genotype).values())
        assert {space.canonical_key(other) for other in around} < cells.keys()


def test_what_neighbourhoods_say_is_one_for_smooth_scores_and_nothing_for_noise():
    whole = Space(1)
    cells = by_key(whole, [make_genotype([-1], [op]) for op in range(81)])
    space = TableSpace(whole, cells, nearest=1)
    smooth = [sum(map(int, op.removeprefix('F[s').rstrip(']').split('x'))) if 's' in op else -20 for op in cells]
    noise = np.random.default_rng(0).normal(size=81).tolist()
    rank, apart = space.says(smooth, 'adjacent')
    assert rank > 0.9
    assert abs(space.says(noise, 'adjacent')[0]) < 0.4
    assert apart == 1.0
    smooth[3] = math.nan
    assert space.says(smooth, 'adjacent')[0] > 0.8


@pytest.mark.parametrize(
    ('count', 'nearest', 'said'),
    [(1, 20, 'the table has 1 cells; a search needs at least 2'), (9, 0, 'nearest is 0; a cell has at least 1')],
)
def test_a_table_that_is_no_space_is_one_line(fault, count, nearest, said):
    assert said in fault(lambda: TableSpace(Space(5), drawn(5, count), nearest))


# ---- searches in a table --------------------------------------------------------------------------------------------

SETTINGS = {
    'uniform': {},
    'near_best': {'incumbents': 3},
    'evolution': {'population': 6, 'sample': 3},
    'optuna.TPESampler': {'n_startup_trials': 6},
}


def table(count: int = 60) -> tuple[Space, dict[str, Genotype], dict[str, float]]:
    """Cells of many 1x1 convolutions, whose score is how many they have; few have the most."""
    space, random = Space(6), np.random.default_rng(3)
    kinds = [CONV, *map(OP_NAMES.index, ('sep 1x6', 'sep 12x12', 'pool 2x2'))]
    found: dict[str, Genotype] = {}
    while len(found) < count:
        ops = random.choice(kinds, 6, p=(0.3, 0.3, 0.2, 0.2)).tolist()
        found |= by_key(space, [make_genotype([int(random.integers(-1, branch)) for branch in range(6)], ops)])
    return space, found, {key: int((genotype.ops == CONV).sum()) / 10 for key, genotype in found.items()}


@pytest.mark.parametrize('name', SETTINGS)
def test_a_search_in_a_table_is_the_search_of_a_study(name, tmp_path):
    whole, cells, scores = table()
    failing = list(scores)[5::7]
    scores |= dict.fromkeys(failing, math.nan)
    space = TableSpace(whole, cells, nearest=5)
    sampler = samplers.make(name, space, seed=4, **SETTINGS[name])
    run = RunInfo(seed=0, config_hash='', commit='', device='cpu')
    with Study.open(
        f'sqlite:///{tmp_path / "study.db"}', 'search', space=space, sampler=sampler, settings={}, run=run
    ) as study:
        while proposals := study.ask(4, 26):
            for p in proposals:
                study.tell(p.number, score=scores[p.key], curve=[], losses=[], steps=1, seconds=0.1)
        expected = [candidate.key for candidate in study.candidates()]
    assert len(expected) == 26 or name.startswith('optuna')
    assert set(failing) & set(expected)
    sampler = samplers.make(name, space, seed=4, **SETTINGS[name])
    assert compare.Replay(space, scores).run(sampler, 26, 4) == expected


def test_a_table_is_searched_to_its_last_cell_and_no_further():
    whole, cells, scores = table(12)
    for name, settings in SETTINGS.items():
        if not name.startswith('optuna'):
            space = TableSpace(whole, cells, nearest=3)
            found = compare.Replay(space, scores).run(samplers.make(name, space, seed=0, **settings), 20, 5)
            assert sorted(found) == sorted(cells), name


@pytest.fixture(scope='module')
def compared():
    whole, cells, scores = table()
    space, names = TableSpace(whole, cells, nearest=8), ('uniform', 'evolution')
    strategies = {name: SETTINGS[name] for name in names}
    return compare.compare(space, scores, strategies, repeats=49, evaluations=30, together=3), scores


def test_uniform_searches_find_what_the_best_of_a_draw_without_replacement_is(compared):
    curves, scores = compared
    ascending, total = sorted(scores.values()), len(scores)
    for number in (1, 3, 10, 30):
        # The best of n is the i-th smallest if that is drawn, with n - 1 of the i - 1 below it.
        chances = [math.comb(place, number - 1) / math.comb(total, number) for place in range(total)]
        expected = sum(chance * score for chance, score in zip(chances, ascending, strict=True))
        found = curves['uniform'][:, number - 1]
        assert abs(found.mean() - expected) < 4.5 * found.std(ddof=1) / 7 + 1e-9


def test_evolution_beats_uniform_where_single_genes_decide(compared):
    curves, scores = compared
    best = max(scores.values())
    needed = {name: np.median(compare.until_found(curve, best)) for name, curve in curves.items()}
    assert needed['evolution'] < needed['uniform']
    assert (np.diff(curves['evolution'], axis=1) >= 0).all()


def test_what_is_written_is_computed_from_the_searches_by_hand():
    nan = math.nan
    curves = {
        'one': np.array([[0.1, 0.2, 0.3], [0.2, 0.2, 0.4], [nan, 0.3, 0.4]]),
        'two': np.array([[0.1, 0.1, 0.1], [0.2, 0.2, 0.2], [0.3, 0.3, 0.3]]),
    }
    assert compare.best_so_far([nan, 0.2, 0.1], 4).tolist()[1:] == [0.2, 0.2, 0.2]
    assert compare.until_found(curves['one'], 0.3).tolist() == [3, 3, 2]
    assert compare.until_found(curves['two'], 0.3).tolist() == [math.inf, math.inf, 1]
    assert compare.quartiles(curves['one'])[1].tolist() == [0.1, 0.2, 0.4]
    text = compare.as_markdown(curves, 0.4, 10.0, ['facts'])
    assert '| one | 40.00 (35.00 to 40.00) | 0.00 | 3 | 100 % |' in text
    assert '| two | 20.00 (15.00 to 25.00) | 20.00 | > 3 | 33 % |' in text
    lines = compare.as_csv(curves, 0.4).splitlines()
    assert lines[0] == 'strategy,evaluations,lower quartile,median,upper quartile,median regret'
    assert lines[2] == 'one,2,0.2,0.2,0.25,0.2'
    assert len(lines) == 7
    (axes,) = compare.draw(curves, 0.4).axes
    said = [text.get_text() for text in axes.get_legend().get_texts()]
    assert said == ['one (40.00)', 'two (20.00)', 'best of the table (40.00)']


# ---- the script -----------------------------------------------------------------------------------------------------


def finish(*argv):
    done = forks.run(SCRIPT, *argv)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    """A table of the toy search's space."""
    folder, space = tmp_path_factory.mktemp('table'), Space(2)
    rows = [row(space, cell, 0.2 + 0.001 * place) for place, cell in enumerate(drawn(2, 60).values())]
    rows[7] |= {'state': 'failed', 'score': math.nan, 'failure': 'non-finite loss'}
    return evaluate_cells.write_rows(folder, rows, compressed=True)


@pytest.mark.slow
def test_the_script_compares_strategies_on_a_table(written, tmp_path):
    words = (TOY, f'--table={written}', '--repeats=5', '--evaluations=20', '--together=3', '--nearest=5')
    code, out, err = finish(*words, f'--out={tmp_path / "a"}')
    assert (code, err) == (0, '')
    assert 'searches 15/15' in out
    assert f'60 cells, 1 failed; the best has {100 * (0.2 + 0.001 * 59):.2f} %' in out
    with (tmp_path / 'a/strategies.csv').open() as file:
        rows = list(csv.DictReader(file))
    expected = [(name, str(at)) for name in ('uniform', 'near_best', 'evolution') for at in range(1, 21)]
    assert [(found['strategy'], found['evaluations']) for found in rows] == expected
    last = next(found for found in rows if found['strategy'] == 'evolution' and found['evaluations'] == '20')
    shown = [f'{100 * float(last[name]):.2f}' for name in ('median', 'lower quartile', 'upper quartile')]
    text = (tmp_path / 'a/strategies.md').read_text()
    (line,) = [line for line in text.splitlines() if line.startswith('| evolution |')]
    assert '{} ({} to {})'.format(*shown) in line
    assert (tmp_path / 'a/strategies.png').stat().st_size > 1000
    assert finish(*words, f'--out={tmp_path / "b"}')[0] == 0
    for name in ('strategies.csv', 'strategies.md', 'strategies.png'):
        assert (tmp_path / 'a' / name).read_bytes() == (tmp_path / 'b' / name).read_bytes()


@pytest.fixture
def refusal(monkeypatch):
    """What main says with these flags and fields of the toy config."""

    def call(fields, **values):
        config = scenes_search.get_config('toy')
        config.update_from_flattened_dict(fields)
        monkeypatch.setattr(compare.common, 'CONFIG', types.SimpleNamespace(value=config))
        defaults = {'TOGETHER': 0, 'NEAREST': 20, 'REPEATS': 2, 'EVALUATIONS': 20, 'STRATEGIES': ['evolution']}
        for name, value in (defaults | values).items():
            monkeypatch.setattr(compare, name, types.SimpleNamespace(value=value, present=True))
        with pytest.raises(InputError) as found:
            compare.main([])
        assert '\n' not in str(found.value)
        return str(found.value)

    return call


@pytest.mark.parametrize(
    ('fields', 'values', 'said'),
    [
        ({}, {'TABLE': []}, '--config, --table and --out are needed'),
        ({}, {'TABLE': ['absent.csv']}, "table 'absent.csv': No such file or directory"),
        ({}, {'EVALUATIONS': 61}, '--evaluations is 61; the table has 60 cells'),
        ({}, {'STRATEGIES': []}, '--strategies is empty'),
        ({}, {'STRATEGIES': ['tpe']}, "sampler 'tpe' is not known; allowed: controller, evolution"),
        ({'search.sampler_settings.evolution.sample': 9}, {}, 'sample is 9; allowed: 1 to 2'),
        ({'space.num_branches': 3}, {}, 'line 2: 2 branches; allowed here: 3'),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(written, tmp_path, refusal, fields, values, said):
    assert said in refusal(fields, **{'TABLE': [str(written)], 'OUT': str(tmp_path / 'new'), **values})
    assert not (tmp_path / 'new').exists()


def test_a_table_without_a_score_is_refused(tmp_path, refusal):
    rows = [row(Space(2), cell, math.nan) for cell in drawn(2, 3).values()]
    path = evaluate_cells.write_rows(tmp_path, rows, compressed=False)
    assert 'no cell has a score' in refusal({}, TABLE=[str(path)], OUT=str(tmp_path / 'new'))
