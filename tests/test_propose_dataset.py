"""A folder is looked at: what is found reads the folder as it was drawn, and nothing is written over."""

import json
import types

import ml_collections
import numpy as np
import pytest
from PIL import Image

from dpc_jax import datasets, drawn_data
from dpc_jax.base import InputError
from dpc_jax.datasets import cityscapes
from tests import scripts

folder_trees, label_values, propose_dataset = map(scripts.load, ('folder_trees', 'label_values', 'propose_dataset'))

CLASSES = ('background', 'leaf', 'stone')
SHARES = {'splits': {'train': 0.8, 'val': 0.2}}


@pytest.fixture
def propose(monkeypatch, tmp_path, capsys):
    """`propose(root)`: what is printed."""

    def run(root, **given):
        held = {
            'root': str(root),
            'out': str(tmp_path / 'out'),
            'write': False,
            'replace': False,
            'labels': 500,
            'images': 4,
        }
        for name, value in {**held, **given}.items():
            monkeypatch.setattr(propose_dataset, name.upper(), types.SimpleNamespace(value=value))
        propose_dataset.main([])
        return capsys.readouterr().out

    return run


def draw(root, **fields):
    """A folder without a description, and the labels of its splits."""
    config = ml_collections.ConfigDict({'name': 'folders', 'classes': CLASSES, **fields})
    drawn_data.write('folders', root, 3, config=config)
    labels = labels_of(root)
    (root / 'dataset.json').unlink()
    return labels


def labels_of(root):
    config = ml_collections.ConfigDict({'name': 'folders', 'root': str(root)})
    sets = (datasets.load('folders', config, split) for split in datasets.SPLITS)
    return {example.name: example.label for dataset in sets for example in dataset}


@pytest.mark.parametrize(
    'fields',
    [
        {'images': 'im', 'labels': 'an', **SHARES, 'unknown': (255,)},
        {'images': 'all', 'labels': 'all', 'label_suffix': '_m.png', **SHARES, 'unknown': (255,)},
        {'images': 'all', 'labels': 'all', 'image_suffix': '.jpg', 'label_suffix': '.png', **SHARES, 'unknown': (255,)},
        {'images': '{split}', 'labels': '{split}annot', 'splits': {'train': 'train', 'val': 'val'}, 'unknown': (255,)},
        {
            **{'images': 'x/{split}', 'labels': 'y/{split}', 'splits': {'train': 'training', 'val': 'validation'}},
            **{'image_suffix': '_rgb.png', 'label_suffix': '_label_ids.png', 'unknown': (255,)},
        },
        {
            'images': 'a',
            'labels': 'b',
            'splits': {'train': 'lists/train.txt', 'val': 'lists/val_list.txt'},
            'unknown': (255,),
        },
        {'images': 'a', 'labels': 'b', **SHARES, 'label_kind': 'id', 'ids': (3, 700, 90), 'unknown': (255,)},
    ],
)
def test_what_is_proposed_reads_the_folder(tmp_path, propose, fields):
    labels = draw(tmp_path / 'mine', **fields)
    said = propose(tmp_path / 'mine', write=True)
    assert str(tmp_path / 'mine/dataset.json') in said
    found = labels_of(tmp_path / 'mine')
    assert found.keys() == labels.keys()
    ranks = {0: 0, 1: 1, 2: 2, 255: 255} if 'ids' not in fields else {0: 0, 1: 2, 2: 1, 255: 255}  # ids ascend
    for name, label in labels.items():
        np.testing.assert_array_equal(found[name], np.vectorize(ranks.get)(label))
    assert (tmp_path / 'out/proposed.png').stat().st_size > 10_000


def test_colours_of_a_known_data_set_have_its_names(tmp_path, propose):
    colours = tuple(kind.colour for kind in cityscapes.CLASSES)
    fields = {'label_kind': 'colour', 'colours': colours, 'unknown': ((0, 0, 0),)}
    names = tuple(kind.name for kind in cityscapes.CLASSES)
    labels = draw(tmp_path / 'mine', images='a', labels='b', **SHARES, **{**fields, 'classes': names})
    assert 'colours and names from Cityscapes' in propose(tmp_path / 'mine', write=True)
    for name, label in labels_of(tmp_path / 'mine').items():
        np.testing.assert_array_equal(label, labels[name])


@pytest.mark.parametrize('line', ['{},{},{},{}', '{1} {2} {3}\t\t{0}', '{}:{},{},{}::'], ids=['csv', 'SegNet', 'CVAT'])
def test_a_table_of_colours_beside_the_data_is_read(tmp_path, propose, line):
    fields = {'label_kind': 'colour', 'colours': ((9, 9, 0), (200, 0, 7), (0, 0, 255)), 'unknown': ((0, 0, 0),)}
    draw(tmp_path / 'mine', images='a', labels='b', **SHARES, **fields)
    names = {'csv': 'class_dict.csv', 'SegNet': 'label_colors.txt', 'CVAT': 'labelmap.txt'}
    name = names['csv' if line[2] == ',' else 'CVAT' if line[2] == ':' else 'SegNet']
    rows = [line.format(*row) for row in (('deep water', 200, 0, 7), ('land', 9, 9, 0), ('sky', 0, 0, 255))]
    (tmp_path / 'mine' / name).write_text('# a head\n' + '\n'.join(rows) + '\n')
    propose(tmp_path / 'mine', write=True)
    found = json.loads((tmp_path / 'mine/dataset.json').read_text())
    assert found['classes'] == ['deep water', 'land', 'sky']
    assert (found['colours'], found['unknown']) == ([[200, 0, 7], [9, 9, 0], [0, 0, 255]], [[0, 0, 0]])


@pytest.mark.parametrize(('low', 'high'), [(0, 255), (0, 1)])
def test_masks_are_two_classes(tmp_path, propose, low, high):
    for number in range(4):
        for folder, pixels in (('a', np.random.default_rng(number).integers(0, 256, (9, 9, 3))), ('b', None)):
            path = tmp_path / 'mine' / folder / f'{number}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            mask = np.where(np.eye(9) > 0, high, low)
            Image.fromarray((mask if pixels is None else pixels).astype(np.uint8)).save(path)
    said = propose(tmp_path / 'mine', write=True)
    assert f'masks of {low} and {high}, taken for two classes' in said
    for label in labels_of(tmp_path / 'mine').values():
        np.testing.assert_array_equal(label, np.eye(9))


def test_names_beside_the_data_are_taken(tmp_path, propose):
    draw(tmp_path / 'mine', images='a', labels='b', **SHARES, unknown=(255,))
    (tmp_path / 'mine/classes.txt').write_text('soil\n\nplant\nstone\nice\n')
    assert 'names from classes.txt' in propose(tmp_path / 'mine', write=True)
    assert json.loads((tmp_path / 'mine/dataset.json').read_text())['classes'] == ['soil', 'plant', 'stone', 'ice']


def test_what_is_odd_is_said(tmp_path, propose):
    draw(tmp_path / 'mine', images='a', labels='b', **SHARES, unknown=(255,))
    (tmp_path / 'mine/b/train_0000.png').unlink()
    (tmp_path / 'mine/b/train_0001.png').write_bytes(b'')
    said = propose(tmp_path / 'mine')
    assert '1 images have no label, such as a/train_0000.jpg' in said
    assert f'faulty: cannot decode {tmp_path / "mine/b/train_0001.png"}' in said
    assert 'val: 1 of 6 images' in said  # nothing can be read until it has one
    assert not (tmp_path / 'mine/dataset.json').exists()


def test_nothing_is_written_over(tmp_path, propose):
    draw(tmp_path / 'mine', images='a', labels='b', **SHARES, unknown=(255,))
    (tmp_path / 'mine/dataset.json').write_text('mine')
    with pytest.raises(InputError, match='is there already; --replace writes another'):
        propose(tmp_path / 'mine', write=True)
    assert (tmp_path / 'mine/dataset.json').read_text() == 'mine'
    propose(tmp_path / 'mine', write=True, replace=True)
    assert len(labels_of(tmp_path / 'mine')) == 6


def test_folders_of_which_nothing_can_be_made(tmp_path):
    with pytest.raises(InputError, match='there is no image in '):
        folder_trees.find(tmp_path)
    for name in ('one', 'two'):
        Image.new('RGB', (4, 4)).save(tmp_path / f'{name}.png')
    with pytest.raises(InputError, match=r'of 2 images in .*, no two have names that belong together'):
        folder_trees.find(tmp_path)
    many = np.stack([np.indices((20, 15))[0], np.indices((20, 15))[1], np.zeros((20, 15))], axis=2)
    Image.fromarray(many.astype(np.uint8)).save(tmp_path / 'label.png')
    with pytest.raises(InputError, match='the labels have 300 colours, and there may be 255 classes'):
        label_values.propose(label_values.look([tmp_path / 'label.png']), tmp_path)


def test_genuine_folders(shared):
    found = folder_trees.find(shared('data/camvid'))
    assert (found.fields['images'], found.fields['labels']) == ('images/{split}', 'labels/{split}')
    assert len(found.pairs) == 468
    root = shared('data/fixtures/voc2012') / 'VOCdevkit/VOC2012'
    found = folder_trees.find(root)
    assert (found.fields['images'], found.fields['labels']) == ('JPEGImages', 'SegmentationClass')
    splits, _ = folder_trees.splits_of(root, found)
    assert splits == {split: f'ImageSets/Segmentation/{split}.txt' for split in ('train', 'val')}
    found = folder_trees.find(shared('data/fixtures/cityscapes_tiny'))
    assert found.fields['image_suffix'] == '_leftImg8bit.png'
    assert found.fields['label_suffix'] == '_gtFine_labelTrainIds.png'
    seen = label_values.look([shared('data/fixtures/cityscapes_tiny') / found.pairs[0][1]])
    assert set(seen.pixels) <= {*range(19), 255}


# ---- what cannot be taken for labels --------------------------------------------------------------------------------


def mask(number):
    label = np.zeros((64, 80), np.uint8)
    label[10 + 5 * number : 40 + 5 * number, 20:60] = 255
    return label


@pytest.mark.parametrize('how', ['smooth', 'jpeg'])
def test_masks_with_soft_edges_are_refused(tmp_path, propose, how, fault):
    """255 would be taken for unknown, and what lies between for dozens of classes."""
    for number in range(4):
        for folder in ('photos', 'masks'):
            (tmp_path / 'root' / folder).mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (80, 64), (number, 9, 9)).save(tmp_path / f'root/photos/i{number}.jpg')
        small = Image.fromarray(mask(number)).resize((19, 15))
        image = small.resize((80, 64), Image.Resampling.BILINEAR) if how == 'smooth' else Image.fromarray(mask(number))
        image.save(tmp_path / f'root/masks/i{number}.{"png" if how == "smooth" else "jpg"}')
    message = fault(lambda: propose(tmp_path / 'root', write=True))
    assert 'are masks of 0 and 255 with many values between: smoothed edges or JPEG' in message
    assert not (tmp_path / 'root/dataset.json').exists()


def test_labels_of_different_kinds_are_named(tmp_path, propose, fault):
    root = tmp_path / 'root'
    for number in range(2):
        for folder in ('photos', 'masks'):
            (root / folder).mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 256, (64, 80, 3), np.uint8)
        Image.fromarray(noise).save(root / f'photos/i{number}.jpg')
    Image.fromarray(np.full((64, 80), 1000, np.uint16)).save(root / 'masks/i0.png')
    Image.new('RGB', (80, 64), (200, 0, 30)).save(root / 'masks/i1.png')
    message = fault(lambda: propose(root))
    assert message.startswith('the labels are of different kinds: ')
    assert f'{root / "masks/i0.png"} is gray of 16 bits' in message
    assert f'{root / "masks/i1.png"} is of colours' in message


def test_what_is_asked_for_is_checked(tmp_path, propose, fault):
    assert fault(lambda: propose('')) == '--root is empty; give the folder of images and labels'
    assert '--labels is -1 and --images 4' in fault(lambda: propose(tmp_path, labels=-1))


def test_names_that_are_not_utf_8_have_their_share(tmp_path):
    """Splits by share: the digest that orders images takes any name."""
    root = tmp_path / 'root'
    for folder in ('photos', 'masks'):
        (root / folder).mkdir(parents=True)
    for number, name in enumerate(('a', 'caf\udce9', 'c', 'd')):
        Image.new('RGB', (8, 6), (9 * number, 0, 0)).save(root / f'photos/{name}.png')
        Image.fromarray(np.eye(6, 8, dtype=np.uint8)).save(root / f'masks/{name}.png')
    fields = {'images': 'photos', 'labels': 'masks', 'classes': ('a', 'b'), 'splits': {'train': 0.5, 'val': 0.5}}
    (root / 'dataset.json').write_text(json.dumps(fields))
    config = ml_collections.ConfigDict({'name': 'folders', 'root': str(root)})
    found = [datasets.load('folders', config, split) for split in datasets.SPLITS]
    assert sum(len(split) for split in found) == 4
    assert any('\udce9' in split.example_name(index) for split in found for index in range(len(split)))
