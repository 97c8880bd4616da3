"""docs/own_data.md from end to end: its commands in their order, on a few drawn images at toy size."""

import ast
import json
import pathlib
import sys
import types

import ml_collections
import numpy as np
import pytest
from absl import flags
from PIL import Image

from dpc_jax import drawn_data, journeys, sharding
from tests import scripts, test_docs

pytestmark = [pytest.mark.usefixtures('quick_compilation'), pytest.mark.slow]

WEIGHTS = ('--config.backbone.weights=', '--config.train.init.checkpoint=')  # of another width than the toy's
SMALLER = {
    'own_data_search': ('--config.search.num_candidates=1', '--config.search.references=()'),
    'own_data': ('--config.train.steps=1', '--config.evaluate.pictures=1'),
}
CLASSES = ['background', 'boat', 'water']


@pytest.fixture
def folder(tmp_path):
    """Photos and masks without any description."""
    fields = {'images': 'photos', 'labels': 'masks', 'label_suffix': '_mask.png', 'unknown': (255,)}
    shares = {'splits': {'train': 0.8, 'val': 0.2}, 'classes': tuple(CLASSES)}
    config = ml_collections.ConfigDict({'name': 'folders', **fields, **shares})
    drawn_data.write('folders', tmp_path / 'mine', 4, config=config, size=(65, 81))
    (tmp_path / 'mine/dataset.json').unlink()
    return tmp_path / 'mine'


def start(script, argv):
    """Runs a script in this process with these arguments; run.py by the journey of its config."""
    given = test_docs.parsed(script, argv)
    if script == 'run.py':
        return journeys.find(given.config.journey).run(given.config, pathlib.Path(given.workdir))
    defaults = {ast.literal_eval(call.args[0]): call.args[1] for call in test_docs.definitions(script)}
    module = scripts.load(pathlib.Path(script).stem)
    with pytest.MonkeyPatch.context() as patch:
        for place in [module, *(held for name, held in sys.modules.items() if name.startswith('experiments.'))]:
            for name, held in list(vars(place).items()):
                if isinstance(held, flags.FlagHolder) and held.name in defaults:
                    value = given[held.name].value
                    value = ast.literal_eval(defaults[held.name]) if value is None else value
                    patch.setattr(place, name, types.SimpleNamespace(value=value))
        try:
            module.main([script])
        except SystemExit as stop:
            return stop.code
    return 0


@pytest.mark.filterwarnings('ignore:the load_module:DeprecationWarning')  # of ml_collections
def test_the_page_leads_from_a_folder_to_scores(folder, tmp_path, monkeypatch):
    one = sharding.data_mesh(1)  # is compiled in half the time of four
    for name in ('data_mesh', 'local_mesh'):
        monkeypatch.setattr(sharding, name, lambda: one)
    monkeypatch.chdir(test_docs.ROOT)
    text = '\n'.join(test_docs.blocks('docs/own_data.md', ''))
    for real, toy in {
        '/data/mine': str(folder),
        'runs/': f'{tmp_path}/',
        'own_data.py': 'own_data.py:toy',
        'own_data_search.py': 'own_data_search.py:toy',
        '321x321': '65x81',
    }.items():
        text = text.replace(real, toy)
    done, results = [], []
    for _, script, *argv in test_docs.commands_of(text):
        (size,) = [SMALLER[name] for name in SMALLER if any(f'/{name}.py' in word for word in argv)] or [()]
        size = size if script == 'run.py' else ()
        found = start(script, [*(word for word in argv if not word.startswith(WEIGHTS)), *size])
        results.append(found)
        done.append(pathlib.Path(script).stem)
        assert script == 'run.py' or found == 0
        if (folder / 'dataset.json').exists() and done[-1] == 'propose_dataset':
            name_the_classes(folder / 'dataset.json')
    assert done == ['propose_dataset', 'propose_dataset', 'prepare_data', 'run', 'export_cell', 'run', 'run', 'run']
    *_, evaluated, predicted = results
    assert (tmp_path / 'look/proposed.png').stat().st_size > 10_000
    assert list(evaluated.row['iou']) == CLASSES
    labels = list((tmp_path / 'mine_val/labels').iterdir())
    assert len(labels) == evaluated.row['images'] == 2
    assert set(np.unique(np.array(Image.open(labels[0])))) <= {0, 1, 2}
    assert len(predicted) == len(list((folder / 'photos').rglob('*.*')))
    assert 'boat' in (tmp_path / 'mine_photos/predictions/predictions.csv').read_text()


def name_the_classes(path):
    """As the page says; the rest was found."""
    fields = json.loads(path.read_text())
    assert fields == {
        **{'classes': ['class 0', 'class 1', 'class 2'], 'images': 'photos', 'labels': 'masks'},
        **{'label_suffix': '_mask.png', 'splits': {'train': 0.8, 'val': 0.2}, 'unknown': [255]},
    }
    path.write_text(json.dumps({**fields, 'classes': CLASSES}))
