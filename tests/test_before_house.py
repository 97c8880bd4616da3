"""What an earlier version wrote opens as before.

`before_house.tar.xz` holds two work folders of toy runs, as commit afc5c8d wrote them on Python 3.11 and jax 0.10.2,
before the rooms of the project were built: a finished search (study, backbone, features) and a training after step 2 of
4 (checkpoint, records of all 4 steps, final weights).
"""

import json
import pathlib
import shutil
import tarfile

import numpy as np
import pytest

from configs import camvid, scenes_search
from dpc_jax import bench, networks, weights
from dpc_jax.base import stack
from dpc_jax.journeys import evaluate, search, train
from dpc_jax.population import PopulationEvaluator

pytestmark = pytest.mark.usefixtures('quick_compilation')

ARCHIVE = pathlib.Path(__file__).parent / 'before_house.tar.xz'
KEYS = {'F[s12x15,s1x15]', 'F[s12x18,s1x15]', 'F[s18x6,s21x15]'}
MIOU = 0.011066997144729805  # of the trained weights on val, as it was written


@pytest.fixture(scope='module')
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp('before_house')
    with tarfile.open(ARCHIVE) as file:
        file.extractall(folder, filter='data')
    return folder / 'fx'


@pytest.fixture
def searched(archive, tmp_path):
    return shutil.copytree(archive / 'search', tmp_path / 'search')


@pytest.fixture
def trained(archive, tmp_path):
    return shutil.copytree(archive / 'train', tmp_path / 'train')


def as_it_was(config):
    """A toy of then had the backbone that its config has without `toy`."""
    config.backbone.name = 'mobilenet_v2'
    return config


def config_of_search(count=3):
    config = as_it_was(scenes_search.get_config('toy'))
    config.search.num_candidates = count
    return config


def test_a_study_opens_and_nothing_is_evaluated_again(searched, monkeypatch):
    monkeypatch.setattr(PopulationEvaluator, '__call__', lambda *_: pytest.fail('it was evaluated'))
    results = search.run(config_of_search(), searched)
    assert {c.key for c in results if not c.reference} == KEYS
    assert [c.commit for c in results] == ['afc5c8d139c9'] * 4
    assert all(c.state == 'complete' and c.score == c.curve[-1] and c.confusions == () for c in results)
    assert not list(searched.glob('cache/*.unfinished'))


@pytest.mark.slow
def test_a_study_goes_on_and_the_same_cells_train_as_they_did(searched):
    results = search.run(config_of_search(4), searched)
    old, (new,) = [c for c in results if c.commit == 'afc5c8d139c9'], [c for c in results if c.number == 4]
    assert {c.key for c in old if not c.reference} == KEYS
    assert new.key not in KEYS
    assert len(new.confusions) == 2
    again = bench.prepare(config_of_search(), searched).evaluator()
    losses = np.concatenate([again(stack([c.genotype])).losses for c in old])
    np.testing.assert_allclose(losses, [c.losses for c in old], rtol=1e-4)  # another jax or processor rounds otherwise


@pytest.mark.slow
def test_a_training_goes_on_from_its_checkpoint(trained, capsys):
    written = [json.loads(line) for line in (trained / 'metrics.jsonl').read_text().splitlines()]
    train.run(as_it_was(camvid.get_config('toy')), trained)
    assert 'goes on from step 2 of 4' in capsys.readouterr().out
    found = [json.loads(line) for line in (trained / 'metrics.jsonl').read_text().splitlines()]
    losses = [{r['step']: r['loss'] for r in records if 'loss' in r} for records in (written, found)]
    assert losses[0].keys() == losses[1].keys() == {1, 2, 3, 4}
    for step, loss in losses[0].items():
        assert losses[1][step] == pytest.approx(loss, rel=1e-3)  # batch norms that are trained amplify rounding


@pytest.mark.slow
def test_weights_are_read_and_score_as_they_did(archive, tmp_path):
    config = as_it_was(camvid.get_config('toy'))
    config.journey, config.checkpoint = 'evaluate', str(archive / 'train/weights')
    found = evaluate.run(config, tmp_path)
    assert found.row['miou'] == pytest.approx(MIOU, rel=1e-3)


def test_weights_have_the_names_and_shapes_of_the_network(archive):
    network = networks.make(as_it_was(camvid.get_config('toy')), 11)
    restored = weights.restore(archive / 'train/weights', networks.variable_shapes(network))
    assert set(restored['params']) == {'backbone', 'context', 'logits'}
