"""The search for decoders of auxiliary cells as a user starts it, at toy size: most of its time is compilation."""

import csv
import pathlib
import re
import subprocess
import sys

import pytest

from experiments import bench_aux_cells

ROOT = pathlib.Path(__file__).resolve().parent.parent

pytestmark = [pytest.mark.usefixtures('quick_compilation'), pytest.mark.slow]

COMMAND = (
    '--config=configs/scenes_aux_search.py:toy',
    '--config.dataset.size=(65, 65)',
    '--config.cache.crop_size=(33, 33)',
    '--config.search.num_candidates=4',
    '--config.search.sampler=controller',
)


def search(*argv):
    command = [sys.executable, 'run.py', *COMMAND, *argv]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    return done.returncode, done.stdout, done.stderr


def test_a_search_ranks_decoders_and_the_same_command_goes_on(tmp_path):
    """Four decoders and a reference; then two more, and nothing is evaluated twice."""
    code, out, err = search(f'--workdir={tmp_path}')
    assert (code, err) == (0, '')
    assert 'teacher.checkpoint is empty: candidates are trained without a teacher' in out
    assert len(re.findall(r'^\d\. \d+\.\d\d % geometric mean  \S+@\S+$', out, re.MULTILINE)) == 4
    assert 'arch2 (reference, proxy)' in out
    code, out, err = search(f'--workdir={tmp_path}', '--config.search.num_candidates=6')
    assert (code, err) == (0, '')
    with (tmp_path / 'report/ranking.csv').open(newline='') as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 7
    assert len({row['finished'] for row in rows}) > 1
    for name in ('cell_01.svg', 'cell_01_decoder.svg', 'cost.png', 'operators.png'):
        assert (tmp_path / 'report' / name).stat().st_size > 1000


def test_the_benchmark_times_the_engine_with_one_program():
    work = bench_aux_cells.Work(images=1, size=(4, 4), filters=2, classes=2, steps=1)
    text = bench_aux_cells.run(work, 2, torch=False)
    assert text.endswith('compilations of the training program: 1')
    assert len(re.findall(r'^(?:\d+ ){18}\d+ +\d+$', text, re.MULTILINE)) == 2
