"""Agreement of scores: against scipy, and what is left out and refused."""

import gzip
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from dpc_jax.base import InputError
from experiments import rank_agreement


def test_columns_are_compared_over_the_cells_that_have_both(tmp_path):
    random = np.random.default_rng(0)
    one, other = random.normal(size=20), random.normal(size=20)
    path = tmp_path / 'scores.csv'
    rows = [f'c{at},{"" if at < 5 else one[at]},{other[at]}' for at in range(20)]
    path.write_text('\n'.join(['cell,full,quick', *rows]))
    command = [sys.executable, 'experiments/rank_agreement.py', f'--table={path}', '--against=full', '--best=4']
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    cells = [cell.strip() for cell in done.stdout.splitlines()[2].strip('|').split('|')]
    assert cells[:2] == ['quick', '15']
    assert cells[2].startswith(f'{stats.spearmanr(one[5:], other[5:]).statistic:.2f} (')
    kept = set(np.argsort(-other[5:])[:5]) & set(np.argsort(-one[5:])[:4])
    assert int(cells[4]) == len(kept)


def test_points_of_curves_are_compared_with_the_last(tmp_path):
    path = tmp_path / 'cells.csv.gz'
    curves = ['0.1 0.4 0.5', '0.2 0.3 0.4', '0.3 0.2 0.3', '0.9']  # the last was stopped
    with gzip.open(path, 'wt') as file:
        file.write('\n'.join(['cell,curve', *(f'sample{at},{curve}' for at, curve in enumerate(curves)), 'aspp,1 2 3']))
    scores, last = rank_agreement.read(path, 'sample')
    text = rank_agreement.table(scores, last, best=1, share=1 / 3)
    assert text.splitlines()[2].startswith('| evaluation 1 of 3 | 3 | -1.00')
    assert text.splitlines()[3].startswith('| evaluation 2 of 3 | 3 | 1.00')
    assert [line.split('|')[-2].strip() for line in text.splitlines()[2:]] == ['0', '1']


def test_what_cannot_be_compared_is_named(tmp_path):
    with pytest.raises(InputError, match=r"--table '.*absent' cannot be read"):
        rank_agreement.read(tmp_path / 'absent', '')
    scores = {'a': np.arange(4.0), 'b': np.arange(4.0)}
    with pytest.raises(InputError, match=r"--against is 'c'; allowed: a, b"):
        rank_agreement.table(scores, 'c', 1, 0.5)
    with pytest.raises(InputError, match=r"^4 cells have both 'b' and 'a'; at least 5 are needed \(--best\)$"):
        rank_agreement.table(scores, 'a', 5, 0.5)
