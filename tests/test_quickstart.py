"""The notebook, cell by cell, at toy size: as Jupyter runs it, without Jupyter."""

import json
import pathlib
import re
import tempfile

import matplotlib.pyplot as plt
import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures('quick_compilation')

ROOT = pathlib.Path(__file__).resolve().parent.parent
NOTEBOOK = json.loads((ROOT / 'examples/quickstart.ipynb').read_text(encoding='utf-8'))

TOY = (
    (r"'configs/(scenes|scenes_search)\.py'", r"'configs/\1.py:toy'"),
    (r"'backbone\.pretrain\.steps': \d+, 'proxy\.steps': \d+", "'backbone.pretrain.steps': 2, 'space.num_branches': 5"),
    (r"'dataset\.num_train': \d+", "'dataset.num_train': 6"),
    (r"'dataset\.num_val': \d+", "'dataset.num_val': 4"),
    (r"'train\.steps': \d+", "'train.steps': 2"),
    (r"'sample:3'", "'sample:1'"),
)


def sources():
    return [''.join(cell['source']) for cell in NOTEBOOK['cells'] if cell['cell_type'] == 'code']


def test_the_notebook_is_kept_without_outputs():
    assert all(
        not cell['outputs'] and cell['execution_count'] is None for cell in NOTEBOOK['cells'] if 'outputs' in cell
    )
    assert NOTEBOOK['nbformat'] == 4
    assert len({cell['id'] for cell in NOTEBOOK['cells']}) == len(NOTEBOOK['cells'])


@pytest.mark.slow
def test_the_notebook_runs_from_cells_to_a_prediction(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT / 'examples')
    monkeypatch.setattr(tempfile, 'mkdtemp', lambda prefix: str(tmp_path))
    shown = []
    monkeypatch.setattr(plt, 'show', lambda: shown.append(plt.gcf()))
    changed, names = 0, {}
    for source in sources():
        for pattern, toy in TOY:
            source, times = re.subn(pattern, toy, source)
            changed += times
        exec(compile(source, 'quickstart', 'exec'), names)
    assert changed >= len(TOY)
    assert len(shown) == 2
    assert names['classes'].shape == names['scene'].label.shape
    assert set(np.unique(names['classes'])) <= set(range(13))
    assert len(names['result'].rows) == 4
    assert (tmp_path / 'network/weights').is_dir()
    plt.close('all')
