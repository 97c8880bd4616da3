"""Labels of every kind go through search, training, evaluation and prediction, and give what class indices give."""

import json

import numpy as np
import pytest
from PIL import Image

from configs import from_checkpoint, own_data, own_data_search
from dpc_jax import sharding
from dpc_jax.journeys import evaluate, predict, search, train

pytestmark = [pytest.mark.usefixtures('quick_compilation', 'one_device'), pytest.mark.slow]

SIZE, COUNT = (65, 65), 8
CLASSES = ('ground', 'leaf', 'stone')
COLOURS = np.array([[90, 60, 20], [20, 140, 30], [150, 150, 160]], np.uint8)
IDS = np.array([7, 300, 21], np.uint16)


@pytest.fixture(autouse=True, scope='module')
def one_device():
    """A program for one device is compiled in half the time of one for four."""
    patch, one = pytest.MonkeyPatch(), sharding.data_mesh(1)
    for name in ('data_mesh', 'local_mesh'):
        patch.setattr(sharding, name, lambda: one)
    yield
    patch.undo()


def write(root, encode, classes=CLASSES, **fields):
    """A folder of images of blocks with labels that `encode` makes of class indices, which are given back."""
    draw, found = np.random.default_rng(0), []
    for folder in ('photos', 'masks'):
        (root / folder).mkdir(parents=True)
    for number in range(COUNT):
        label = draw.integers(0, len(classes), (5, 5)).astype(np.uint8).repeat(13, 0).repeat(13, 1)
        noise = draw.integers(-20, 20, (*SIZE, 3))
        Image.fromarray(np.clip(COLOURS[label] + noise, 0, 255).astype(np.uint8)).save(root / f'photos/{number}.png')
        encode(label).save(root / f'masks/{number}.png')
        found.append(label)
    described = {'classes': classes, 'images': 'photos', 'labels': 'masks', 'splits': {'train': 0.75, 'val': 0.25}}
    (root / 'dataset.json').write_text(json.dumps({**described, **fields}))
    return found


def with_palette(label):
    image = Image.fromarray(label)
    image.putpalette(COLOURS.ravel().tolist())
    return image


KINDS = {
    'palette': (with_palette, {}),
    'id': (lambda label: Image.fromarray(IDS[label]), {'label_kind': 'id', 'ids': IDS.tolist()}),
    'colour': (lambda label: Image.fromarray(COLOURS[label]), {'label_kind': 'colour', 'colours': COLOURS.tolist()}),
}


def journeys(root, place):
    """Scores of a search, counts of a training and of its evaluation, shares of predictions."""
    config = own_data_search.get_config('toy')
    config.dataset.root = str(root)
    config.search.num_candidates, config.search.references = 1, ()
    searched = search.run(config, place / 'search')
    config = own_data.get_config('toy')
    config.dataset.root, config.train.steps = str(root), 1
    trained = train.run(config, place / 'net')
    again = from_checkpoint.get_config()
    again.checkpoint, again.predict.images = str(place / 'net/weights'), str(root / 'photos')
    predicted = predict.run(again, place / 'photos')
    again.journey, again.dataset.root, again.evaluate.export = 'evaluate', str(root), str(place / 'labels')
    evaluated = evaluate.run(again, place / 'scores')
    return {
        'search': [(candidate.key, candidate.score) for candidate in searched],
        'train': trained.confusion.tolist(),
        'evaluate': evaluated.confusion.tolist(),
        'predict': [list(row.summary.values()) for row in predicted],
    }


@pytest.fixture(scope='module')
def of_indices(tmp_path_factory):
    place = tmp_path_factory.mktemp('palette')
    labels = write(place / 'data', with_palette)
    return labels, journeys(place / 'data', place)


def test_every_pixel_of_val_is_counted(of_indices):
    labels, found = of_indices
    counts = [np.bincount(label.ravel(), minlength=3) for label in labels]
    assert found['train'] == found['evaluate']
    assert sum(map(sum, found['evaluate'])) == 2 * SIZE[0] * SIZE[1]
    assert any(
        (counts[one] + counts[other]).tolist() == np.sum(found['evaluate'], axis=1).tolist()
        for one in range(COUNT)
        for other in range(one)
    )
    assert len(found['predict']) == COUNT


@pytest.mark.parametrize('kind', ['id', 'colour'])
def test_other_kinds_give_what_indices_give(of_indices, tmp_path, kind):
    encode, fields = KINDS[kind]
    write(tmp_path / 'data', encode, **fields)
    found = journeys(tmp_path / 'data', tmp_path)
    # A backbone that is trained on the spot is one of the same pixels and labels, so even scores are the same.
    assert found == of_indices[1]
    exported = {
        int(value) for path in (tmp_path / 'labels').iterdir() for value in np.unique(np.array(Image.open(path)))
    }
    assert exported <= set(IDS.tolist() if kind == 'id' else range(3))


def test_masks_of_0_and_255_have_two_classes(tmp_path):
    labels = write(
        tmp_path / 'data',
        lambda label: Image.fromarray(label * np.uint8(255)),
        ('background', 'object'),
        label_kind='id',
        ids=[0, 255],
    )
    found = journeys(tmp_path / 'data', tmp_path)
    assert np.shape(found['evaluate']) == (2, 2)
    assert min(np.sum(found['evaluate'], axis=1)) > 0
    assert sum(map(sum, found['evaluate'])) == 2 * labels[0].size
    exported = {
        int(value) for path in (tmp_path / 'labels').iterdir() for value in np.unique(np.array(Image.open(path)))
    }
    assert exported <= {0, 255}
