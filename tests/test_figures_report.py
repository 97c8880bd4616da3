"""The files of a report: exact numbers, the order of the ranking, pictures that are there, whole files or none."""

import csv
import math
import pathlib
import re
import xml.etree.ElementTree as ET

import jax
import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from dpc_jax.base import with_unit
from dpc_jax.figures import report, table, text
from dpc_jax.spaces.dpc import Counts, Genotype, Space, count
from dpc_jax.study import Candidate

SPACE = Space(3)
SETTINGS = {
    'dataset': {'name': 'scenes', 'crop_size': (65, 65), 'classes': {'names': 'a|b'}},
    'storage': 'postgresql://me:secret@host/studies',
    'note': '',
    'seed': 7,
    'features': {'size': [23, 31], 'channels': 320},
    'cell': {'filters': 256, 'pooling': 'sliding'},
}


def costs_of(genotype) -> Counts:
    """By the numbers of the settings."""
    return count(genotype, size=(23, 31), channels=320, filters=256, pooling='sliding')


def population(number, seed=0) -> list[Genotype]:
    batch = SPACE.sample(jax.random.key(seed), number)
    return [Genotype(*genes) for genes in zip(*batch, strict=True)]


CELLS = population(40)


def candidate(number, score=math.nan, **changes) -> Candidate:
    genotype = changes.pop('genotype', CELLS[number % len(CELLS)])
    fields = {
        'reference': '',
        'state': 'failed' if math.isnan(score) else 'complete',
        'curve': (score / 3, math.nan, score),
        'losses': (1.1, 0.1),
        'steps': 300,
        'seed': 7,
        'rung': 'proxy',
        'config_hash': 'c0ffee123456',
        'commit': 'abc1234',
        'device': 'cpu × 4',
        'seconds': 10 / 3,
        'worker': 'here:1',
        'finished': f'2026-01-01T00:{number % 60:02d}:00+00:00',
        'failure': 'non-finite loss' if math.isnan(score) else '',
    }
    key = SPACE.canonical_key(genotype)
    return Candidate(number=number, genotype=genotype, key=key, score=score, **(fields | changes))


ASPP = candidate(90, 0.1 + 0.2, reference='aspp', genotype=SPACE.named('conv1x1'))
STUDY = [
    ASPP,
    candidate(0, 0.25),
    candidate(1),
    candidate(2, 1 / 3),
    candidate(3, 0.9, state='pruned', steps=100),
    candidate(4, 0.25),
    candidate(5, math.nextafter(1 / 3, 1)),
    candidate(6),
    candidate(7, 0.2),
]
RANKS = [1, 2, '', 3, 3, 5, '', '', '']


def written(study, directory, **changes) -> list[pathlib.Path]:
    return report.write_report(study, directory, **({'space': SPACE, 'settings': SETTINGS} | changes))


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> pathlib.Path:
    directory = tmp_path_factory.mktemp('reports') / 'new' / 'report'
    written(STUDY, directory)
    return directory


def read(directory) -> list[dict[str, str]]:
    with open(directory / 'ranking.csv', newline='') as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ('number', 'expected'),
    [(0, '0'), (999, '999'), (1000, '1.000 K'), (84_800, '84.80 K'), (2_985_900_000, '2.986 G')],
)
def test_counts_have_four_digits_and_a_unit(number, expected):
    assert with_unit(number) == expected


# ---- rows and CSV -----------------------------------------------------------------------------------------------


def test_rows_are_in_ranking_order_and_failed_ones_last():
    rows = table.rows(STUDY[::-1], space=SPACE, settings=SETTINGS)
    by_key = sorted((0, 4), key=lambda number: STUDY[[c.number for c in STUDY].index(number)].key)
    assert [row['number'] for row in rows][:7] == [5, 2, 90, *by_key, 7, 3]
    assert {row['number'] for row in rows[7:]} == {1, 6}


def test_references_have_no_rank_and_take_none():
    rows = table.rows(STUDY, space=SPACE, settings=SETTINGS)
    assert [row['rank'] for row in rows] == RANKS
    assert [row['reference'] for row in rows] == ['', '', 'aspp', *[''] * 6]


def test_each_rung_has_its_own_ranks_and_the_dearest_comes_first():
    proxy = [candidate(0, 0.25), candidate(1, 0.5)]
    full = [candidate(0, 0.75, rung='full', steps=9000), candidate(1, 0.625, rung='full', steps=9000)]
    rows = table.rows([*proxy, *full], space=SPACE, settings=SETTINGS)
    assert [(row['rung'], row['rank'], row['number']) for row in rows] == [
        ('full', 1, 0),
        ('full', 2, 1),
        ('proxy', 1, 1),
        ('proxy', 2, 0),
    ]


def test_every_field_of_a_candidate_is_in_the_csv_exactly(folder):
    rows = {int(row['number']): row for row in read(folder)}
    assert len(rows) == len(STUDY)
    for expected in STUDY:
        row = rows[expected.number]
        for name in ('score', 'seconds'):
            np.testing.assert_array_equal(float(row[name]), getattr(expected, name))
        for name in ('curve', 'losses'):
            np.testing.assert_array_equal([float(x) for x in row[name].split()], getattr(expected, name))
        for name in ('steps', 'seed'):
            assert int(row[name]) == getattr(expected, name)
        texts = (
            'reference',
            'key',
            'state',
            'rung',
            'config_hash',
            'commit',
            'device',
            'worker',
            'finished',
            'failure',
        )
        assert [row[name] for name in texts] == [getattr(expected, name) for name in texts]
        genotype = SPACE.from_json(row['genotype'])
        np.testing.assert_array_equal(genotype.inputs, expected.genotype.inputs)
        np.testing.assert_array_equal(genotype.ops, expected.genotype.ops)
        costs = ('params', 'macs', 'projection_params', 'projection_macs')
        assert tuple(int(row[name]) for name in costs) == costs_of(expected.genotype)


def test_a_genotype_is_one_line_and_what_is_in_a_failure_stays_in_its_field(tmp_path):
    odd = 'first line\nsecond, "quoted"'
    written([candidate(0, failure=odd)], tmp_path)
    (row,) = read(tmp_path)
    assert row['failure'] == odd
    assert '\n' not in row['genotype']


# ---- report.md ----------------------------------------------------------------------------------------------------


def images(text) -> set[str]:
    return set(re.findall(r'\]\(([^)]+)\)', text)) - {'ranking.csv'}


def pictures_in(directory) -> set[str]:
    return {path.name for path in directory.iterdir() if path.suffix in ('.png', '.svg')}


def lines(directory) -> list[str]:
    return (directory / 'report.md').read_text().splitlines()


def test_the_table_has_the_ranking_with_references_in_place(folder):
    found = [line for line in lines(folder) if re.match(r'\| (\d|–)', line)]
    columns = [[column.strip() for column in line.strip('|').split('|')] for line in found]
    assert [column[0] for column in columns] == ['1', '2', '–', '3', '3', '5']
    assert [column[1] for column in columns] == ['33.33', '33.33', '30.00', '25.00', '25.00', '20.00']
    assert columns[2][2] == '**reference aspp** (2 better) `F[c1x1,c1x1,c1x1]`'
    assert columns[2][3:] == ['245.8 K', '175.2 M', '90']  # 3 * 320 * 256, at 23 * 31 positions
    assert columns[0][2:] == [f'`{STUDY[6].key}`', *map(with_unit, costs_of(STUDY[6].genotype)[:2]), '5']


def front_in(directory) -> list[list[str]]:
    found = (directory / 'report.md').read_text().partition('| cell of the Pareto front |')[2].partition('\n\n')[0]
    return [[column.strip(' `') for column in line.strip('|').split('|')] for line in found.splitlines()[2:]]


def test_the_pareto_front_is_what_no_sampled_cell_beats(tmp_path):
    scores = np.random.default_rng(0).integers(20, 40, 38) / 100
    study = [candidate(number, score) for number, score in enumerate(scores.tolist())]
    twin = candidate(50, 0.45, genotype=CELLS[3])
    study += [ASPP, twin, candidate(51, 0.45, genotype=CELLS[3]), candidate(39), candidate(38, 0.9, state='pruned')]
    dear = [candidate(number, 0.8, rung='full', steps=9000) for number in range(3)]
    written([*study, *dear], tmp_path)
    rows = [c for c in study if c.state == 'complete' and not c.reference]

    def dominated(one: Candidate) -> bool:
        macs = costs_of(one.genotype).branch_macs
        others = [(costs_of(c.genotype).branch_macs, c.score) for c in rows]
        return any(a <= macs and b >= one.score and (a, b) != (macs, one.score) for a, b in others)

    front = sorted((costs_of(c.genotype).branch_macs, c.score, c.key) for c in rows if not dominated(c))
    found = front_in(tmp_path)
    assert [(row[0], row[1]) for row in found] == [(key, f'{100 * score:.2f}') for _, score, key in front]
    costs = list(map(with_unit, costs_of(twin.genotype)[1::-1]))
    assert found[-2:] == [[twin.key, '45.00', *costs, '1']] * 2
    text = (tmp_path / 'report.md').read_text()
    assert text.index('(cost.png)') < text.index('cell of the Pareto front')


def test_without_costs_or_sampled_cells_there_is_no_front(tmp_path):
    written([ASPP], tmp_path / 'references')
    written(STUDY, tmp_path / 'old', settings={name: SETTINGS[name] for name in SETTINGS if name != 'cell'})
    for name in ('references', 'old'):
        assert front_in(tmp_path / name) == []


def test_the_head_says_what_the_ranking_depends_on(folder):
    text = '\n'.join(lines(folder))
    for fact in (
        '# Ranking of 8 cells\n',
        '8 sampled (5 complete, 1 pruned, 2 failed), 1 reference\n',
        '300 training steps each, seed 7; 30 s of evaluation in all, 3.3 s each;',
        'finished 2026-01-01T00:00:00+00:00 to 2026-01-01T00:30:00+00:00',
        '- **device**: cpu × 4\n',
        '- **commit**: abc1234\n',
        '- **config hash**: c0ffee123456\n',
        '- **dataset**: name `scenes`, crop_size `(65, 65)`, classes names `a/b`\n',
        "- **note**: `''`\n",
        '- **seed**: `7`\n',
        'the projection has 196.6 K and 140.2 M in every cell.',
    ):
        assert fact in text


def test_what_is_counted_and_how_to_read_stand_once_below_all_rankings(tmp_path):
    written([candidate(0, 0.25), candidate(0, 0.5, rung='full', steps=9000)], tmp_path)
    found = (tmp_path / 'report.md').read_text()
    for words in ('Counted are the weights of the branches', 'How to read a cell'):
        assert found.count(words) == 1
        assert found.index('## Ranking: proxy') < found.index(words) < found.index('## The best cells')


@pytest.mark.parametrize('lacking', ['features', 'cell'])
def test_an_old_study_whose_settings_say_nothing_of_costs_has_a_report(lacking, tmp_path):
    written(STUDY, tmp_path, settings={name: value for name, value in SETTINGS.items() if name != lacking})
    assert {(row['params'], row['macs']) for row in read(tmp_path)} == {('', '')}
    found = (tmp_path / 'report.md').read_text()
    assert 'Counted are' not in found
    assert 'How to read a cell' in found
    assert 'cost.png' not in pictures_in(tmp_path)


def test_a_password_in_a_url_is_not_printed(folder):
    assert 'secret' not in (folder / 'report.md').read_text()
    assert 'postgresql://me:***@host/studies' in (folder / 'report.md').read_text()


def test_failed_candidates_are_named_with_their_reason(tmp_path):
    study = [candidate(number, failure='too |\nlong `x`') for number in range(12)]
    written(study, tmp_path)
    found = lines(tmp_path)
    assert f"- 3, `{study[3].key}`: too / long 'x'" in found
    assert [line for line in found if line.startswith('- and')] == ['- and 2 more']


def test_a_reference_far_down_is_shown_with_what_was_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(report, '_figures', lambda candidates, space, settings: {})
    study = [candidate(number, 0.9 - number / 100) for number in range(40)]
    written([*study, candidate(90, 0.605, reference='aspp')], tmp_path)
    found = [line for line in lines(tmp_path) if re.match(r'\| (\d|–|…)', line)]
    assert len(found) == text.TABLE_ROWS + 3
    assert found[text.TABLE_ROWS] == '| … | | 10 more | | | |'
    assert '**reference aspp** (30 better)' in found[text.TABLE_ROWS + 1]
    assert found[-1] == '| … | | 10 more | | | |'


def test_many_different_values_are_a_range(tmp_path, monkeypatch):
    monkeypatch.setattr(report, '_figures', lambda candidates, space, settings: {})
    written([candidate(number, 0.5, seed=number) for number in range(9)], tmp_path)
    assert 'seed 0 to 8 (9 different)' in (tmp_path / 'report.md').read_text()


# ---- pictures and files -------------------------------------------------------------------------------------------


NAN_CURVE = candidate(0, 0.25, curve=(math.nan, math.nan, 0.25))


@pytest.mark.parametrize(
    ('study', 'expected'),
    [
        ([], set()),
        ([candidate(0), candidate(1)], {'progress.png'}),
        ([candidate(0, 0.4, state='pruned')], {'progress.png'}),
        ([ASPP], {'cells.png', 'cell_reference_aspp.svg', 'scores.png', 'cost.png'}),
        ([NAN_CURVE], {'cells.png', 'cell_01.svg', 'scores.png', 'progress.png', 'operators.png', 'cost.png'}),
    ],
    ids=['empty', 'failed', 'pruned', 'reference', 'one'],
)
def test_the_report_shows_the_pictures_that_exist(study, expected, tmp_path):
    paths = written(study, tmp_path)
    assert pictures_in(tmp_path) == images((tmp_path / 'report.md').read_text()) == expected
    assert {path.name for path in paths} == {path.name for path in tmp_path.iterdir()}
    assert paths[0] == tmp_path / 'report.md'


def test_every_picture_of_a_full_report_is_shown(folder):
    assert pictures_in(folder) == images((folder / 'report.md').read_text())
    drawn = {name for name in pictures_in(folder) if name.endswith('.svg')}
    assert drawn == {'cell_01.svg', 'cell_02.svg', 'cell_03.svg', 'cell_04.svg', 'cell_reference_aspp.svg'}


def test_pictures_of_an_older_report_go_and_other_files_stay(tmp_path):
    written([NAN_CURVE], tmp_path)
    (tmp_path / 'mine.png').write_text('mine')
    written([candidate(0)], tmp_path)
    assert pictures_in(tmp_path) == {'progress.png', 'mine.png'}


def test_the_best_cells_are_drawn_in_order_and_each_once_at_its_best(monkeypatch):
    titles = {}
    monkeypatch.setattr(report, 'cell_figure', lambda graph, title: titles.setdefault(title, graph) and None)
    scores = {0: 0.25, 1: 0.5, 2: 0.375, 40: 0.4375, 41: 0.125}  # 40 and 41 are the cells 0 and 1 again
    report._figures([candidate(number, score) for number, score in scores.items()], SPACE, SETTINGS)
    drawn = {'rank 1: 50.00 % mIoU': 1, 'rank 2: 43.75 % mIoU': 0, 'rank 3: 37.50 % mIoU': 2}
    assert list(titles) == list(drawn)
    assert [titles[title] for title in drawn] == [SPACE.graph(CELLS[cell]) for cell in drawn.values()]


def test_files_are_what_their_names_say(folder):
    for path in folder.glob('*.png'):
        with Image.open(path) as image:
            image.load()
            assert image.info['dpi'] == pytest.approx((150, 150), abs=0.1)
    for path in folder.glob('*.svg'):
        assert ET.parse(path).getroot().tag == '{http://www.w3.org/2000/svg}svg'


def test_the_same_candidates_give_the_same_bytes_in_any_order(tmp_path):
    study = [STUDY[0], *STUDY[4:6]]
    for name, candidates in (('a', study), ('b', study[::-1])):
        written(candidates, tmp_path / name)
    first, second = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in 'ab')
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


def test_a_write_that_fails_leaves_the_old_file_whole_and_no_other(tmp_path, monkeypatch):
    written([candidate(0)], tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(self, data):
        with open(self, 'wb') as file:
            file.write(data[:10])
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(pathlib.Path, 'write_bytes', full)
    with pytest.raises(OSError, match='No space left'):
        written([candidate(0), candidate(1)], tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_drawing_leaves_matplotlib_as_it_was(tmp_path):
    before = dict(matplotlib.rcParams)
    report.draw_cell(SPACE.graph(CELLS[0]), tmp_path / 'cell.svg')
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize('suffix', ['svg', 'png', 'pdf'])
def test_a_cell_is_drawn_into_a_file_of_the_suffix(suffix, tmp_path):
    report.draw_cell(SPACE.graph(SPACE.named('conv1x1')), tmp_path / f'cell.{suffix}', title='1×1')
    beginning = {'svg': b'<?xml', 'png': b'\x89PNG', 'pdf': b'%PDF'}[suffix]
    assert (tmp_path / f'cell.{suffix}').read_bytes().startswith(beginning)


def test_a_cell_is_drawn_on_axes():
    axes = Figure().add_subplot()
    report.draw_cell(Space(5).graph(Space(5).named('dpc_top1')), axes, title='released')
    texts = [patch.get_label() for patch in axes.patches]
    assert 'released' in texts
    assert 'rate 18×15' in texts


def test_another_score_has_its_name_in_every_text(tmp_path, monkeypatch):
    """Where a search ranks by another score, nothing calls it mIoU."""
    drawn = []
    save = report._save
    monkeypatch.setattr(report, '_save', lambda figure, path: drawn.append(figure) or save(figure, path))
    settings = SETTINGS | {'search': {'score': 'geometric_mean'}}
    first, *_ = written(STUDY, tmp_path, settings=settings)
    texts = [text.get_text() for figure in drawn for text in figure.findobj(matplotlib.text.Text)]
    texts.append(first.read_text())
    assert sum('geometric mean' in shown for shown in texts) > 4
    assert not any('mIoU' in shown for shown in texts)
