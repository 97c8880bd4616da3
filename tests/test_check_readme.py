"""The numbers of README and docs are those of their rows, and a wrong one is noticed and mended."""

import csv
import pathlib
import re
import shutil

import pytest

from experiments import claims
from experiments.claims import Claim, Source, Stated
from tests import forks
from tests.scripts import load

ROOT = pathlib.Path(__file__).resolve().parent.parent
check_readme = load('check_readme')

ROWS = Source('rows.csv', lambda path: {'best': float(path.read_text()), 'cells': 1200, 'loss': -0.5})
BEST = Claim('README.md', ROWS, 'of {cells:,} cells the best scores {best:.2f} % mIoU')
LOSS = Claim('docs/page.md', ROWS, '| loss | {loss:+.1f} |')


@pytest.fixture
def folder(tmp_path):
    for name in ('docs', 'experiments/results'):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / 'README.md').write_text('Here,\nof 1,200 cells\nthe best scores 49.53 % mIoU.\n')
    (tmp_path / 'docs/page.md').write_text('| loss | -0.5 |\n')
    (tmp_path / 'experiments/README.md').write_text('Nothing.\n')
    (tmp_path / 'experiments/results/rows.csv').write_text('49.5312')
    return tmp_path


def faults(folder, stated=(BEST, LOSS), elsewhere=()):
    return check_readme.check(folder, stated, elsewhere).faults


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_the_documents_have_the_numbers_of_their_rows():
    report = check_readme.check(ROOT, claims.CLAIMS, claims.ELSEWHERE)
    assert report.faults == []
    assert {number.document for number in report.numbers} >= {'README.md', 'docs/search.md', 'docs/training.md'}


def test_numbers_that_agree_are_listed_with_their_file(folder):
    report = check_readme.check(folder, (BEST, LOSS), ())
    assert report.faults == []
    assert [number.found for number in report.numbers] == ['1,200', '49.53', '-0.5']
    assert report.numbers[1].what == 'experiments/results/rows.csv, best'


@pytest.mark.parametrize('forged', ['49.54', '49.5', '149.53', '49.530'])
def test_a_forged_number_names_its_line_and_both_numbers(folder, forged):
    edit(folder / 'README.md', '49.53', forged)
    (line,) = faults(folder)
    assert line == f'README.md:3: found {forged}, expected 49.53 (experiments/results/rows.csv, best)'


def test_a_row_that_changed_is_noticed(folder):
    (folder / 'experiments/results/rows.csv').write_text('50.0')
    assert ['found 49.53, expected 50.00' in line for line in faults(folder)] == [True]


def test_a_phrase_that_is_gone_or_stands_twice_is_a_fault(folder):
    edit(folder / 'docs/page.md', 'loss', 'gain')
    text = (folder / 'README.md').read_text()
    (folder / 'README.md').write_text(text + text)
    twice, gone, *without_entry = faults(folder)
    assert twice.startswith('README.md: ')
    assert twice.endswith('stands there 2 times')
    assert gone.startswith('docs/page.md: ')
    assert gone.endswith('is not there')
    assert all('has no entry' in line for line in without_entry)


def test_a_name_that_the_rows_do_not_have_is_a_fault(folder):
    stated = (Claim('README.md', ROWS, 'the best scores {worst:.2f} % mIoU'), LOSS)
    (line,) = faults(folder, stated)
    assert line == 'experiments/results/rows.csv, worst: the file has no such number'


@pytest.mark.parametrize(
    'text', ['It scores 51.2 there.', '3 minutes', '7 % of it', '| 4 points |', '12 images/s', '5 s']
)
def test_a_number_without_an_entry_is_a_fault_until_its_source_is_stated(folder, text):
    (folder / 'docs/page.md').write_text(f'| loss | -0.5 |\n\n{text}\n')
    (line,) = faults(folder)
    assert line.startswith('docs/page.md:3: ')
    assert 'has no entry' in line
    assert faults(folder, elsewhere=(Stated('docs/page.md', text, 'the paper'),)) == []


@pytest.mark.parametrize(
    'text',
    ['`--rate=0.5`', '```\nx = 0.5\n```', '[page](https://example.org/1.5)', 'jax 0.10.2', 'arXiv:1809.04184', '3x3'],
)
def test_code_links_and_versions_need_no_entry(folder, text):
    (folder / 'docs/page.md').write_text(f'| loss | -0.5 |\n\n{text}\n')
    assert faults(folder) == []


def test_a_stated_number_that_is_gone_is_a_fault(folder):
    (line,) = faults(folder, elsewhere=(Stated('README.md', '51.2', 'the paper'),))
    assert 'is not there' in line


@pytest.mark.parametrize('broken', ['', 'many'])
def test_rows_that_cannot_be_read_are_a_fault(folder, broken):
    path = folder / 'experiments/results/rows.csv'
    path.write_text(broken) if broken else path.unlink()
    assert any('rows.csv cannot be read' in line for line in faults(folder))


def test_fix_writes_the_numbers_of_the_rows_and_nothing_else(folder, monkeypatch):
    monkeypatch.setattr(claims, 'CLAIMS', (BEST, LOSS))
    monkeypatch.setattr(claims, 'ELSEWHERE', ())
    before = {path: path.read_text() for path in folder.rglob('*.md')}
    edit(folder / 'README.md', '49.53', '4.1')
    edit(folder / 'README.md', '1,200', '7')
    edit(folder / 'docs/page.md', '-0.5', '+12.5')
    assert len(check_readme.run(folder, fix=False, say=str)) == 3
    assert check_readme.run(folder, fix=True, say=str) == []
    assert {path: path.read_text() for path in before} == before


def test_the_real_documents_are_mended(tmp_path):
    for name in ('docs', 'experiments/results'):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ('README.md', 'experiments/README.md'):
        shutil.copy(ROOT / name, tmp_path / name)
    path = tmp_path / 'experiments/results/scenes_search/ranking.csv'
    with path.open(newline='') as file:
        best = next(row['score'] for row in csv.DictReader(file) if row['rank'] == '1')
    edit(path, f',{best},complete,', ',0.99,complete,')
    (line,) = check_readme.run(tmp_path, fix=False, say=str)
    assert 'expected 99.00' in line
    assert check_readme.run(tmp_path, fix=True, say=str) == []
    assert '99.00 % mIoU' in (tmp_path / 'README.md').read_text()


def test_the_script_prints_what_it_compared():
    done = forks.run('experiments/check_readme.py')
    assert (done.returncode, done.stderr) == (0, '')
    assert re.search(r'^docs/costs\.md:\d+: 418,240 \(experiments/results/table1_modules\.json, ', done.stdout, re.M)
