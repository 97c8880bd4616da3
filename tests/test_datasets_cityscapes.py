"""Cityscapes: the folders as the data set comes, ids become train ids and back, and every fault is one clear line."""

import pathlib
import shutil

import ml_collections
import numpy as np
import pytest
from PIL import Image

from dpc_jax import datasets
from dpc_jax.base import IGNORE_LABEL
from dpc_jax.datasets import cityscapes

IDS = (np.arange(70) % 34).astype(np.uint8).reshape(7, 10)  # every id there is

FRAMES = {
    'train': ('ulm_000000_000019', 'aachen_000001_000019', 'aachen_000000_000019'),
    'val': ('frankfurt_000000_000294',),
    'test': ('berlin_000000_000019',),
}


def paths(root, split, frame, kind='labelIds'):
    city = frame.split('_')[0]
    image = root / 'leftImg8bit' / split / city / f'{frame}_leftImg8bit.png'
    return image, root / 'gtFine' / split / city / f'{frame}_gtFine_{kind}.png'


@pytest.fixture
def root(tmp_path) -> pathlib.Path:
    """A small Cityscapes: frames of 7x10, three to train, one to validate, one to test without a label."""
    draw = np.random.default_rng(0)
    for split, frames in FRAMES.items():
        for frame in frames:
            image, label = paths(tmp_path / 'cityscapes', split, frame)
            for path in (image, label):
                path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw.integers(0, 256, (7, 10, 3), np.uint8)).save(image)
            if split != 'test':
                Image.fromarray(IDS).save(label)
                Image.fromarray(np.zeros((7, 10, 3), np.uint8)).save(
                    paths(tmp_path / 'cityscapes', split, frame, 'color')[1]
                )
    return tmp_path / 'cityscapes'


def load(root: pathlib.Path | str, split: str = 'train') -> datasets.Dataset:
    return datasets.load('cityscapes', ml_collections.ConfigDict({'root': str(root)}), split)


def test_files_become_examples_in_order_of_city_and_frame(root):
    dataset = load(root)
    assert (dataset.name, dataset.split, len(dataset), dataset.num_classes) == ('cityscapes', 'train', 3, 19)
    images = [str(paths(root, 'train', frame)[0]) for frame in sorted(FRAMES['train'])]
    assert [example.name for example in dataset] == images
    np.testing.assert_array_equal(dataset[1].image, np.asarray(Image.open(images[1])))  # RGB
    assert dataset[1].image.dtype == dataset[1].label.dtype == np.uint8
    with pytest.raises(IndexError):
        dataset[3]


def test_ids_become_the_official_train_ids(root):
    # In the order of their train ids, as the official export writes them (deeplab/vis.py).
    ids = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    expected = [ids.index(value) if value in ids else IGNORE_LABEL for value in IDS.ravel()]
    dataset = load(root)
    np.testing.assert_array_equal(dataset[0].label.ravel(), expected)
    assert list(dataset.export_ids) == ids


def test_ids_are_what_the_fixture_says(shared):
    root = shared('data/fixtures/cityscapes_tiny')
    dataset = load(root, 'val')
    datasets.check(dataset)
    ready = np.asarray(Image.open(dataset.files[0][1].with_name('frankfurt_000000_000294_gtFine_labelTrainIds.png')))
    # The two were shrunk each by itself, so they differ at edges: 77 pixels. A wrong id would be a whole area.
    assert (dataset[0].label != ready).mean() < 0.003
    assert set(np.unique(dataset[0].label)) == set(np.unique(ready))
    assert dataset[0].image.shape == (128, 256, 3)
    # The sky is brighter than the road, and above it.
    sky, road = (dataset[0].label == dataset.classes.index(name) for name in ('sky', 'road'))
    assert np.nonzero(sky)[0].mean() < np.nonzero(road)[0].mean()


def test_labels_and_exported_ids_are_inverse():
    ids = np.array(cityscapes.Cityscapes.export_ids)
    np.testing.assert_array_equal(cityscapes.LABEL_OF_ID[ids], np.arange(19))
    assert (np.delete(cityscapes.LABEL_OF_ID, ids) == IGNORE_LABEL).all()


def test_train_ids_are_read_only_where_there_are_no_ids(root):
    frame = FRAMES['val'][0]
    _, ids = paths(root, 'val', frame)
    ready = np.where(np.arange(70) % 20 == 19, 255, np.arange(70) % 20).astype(np.uint8).reshape(7, 10)
    Image.fromarray(ready).save(paths(root, 'val', frame, 'labelTrainIds')[1])
    np.testing.assert_array_equal(load(root, 'val')[0].label, cityscapes.LABEL_OF_ID[IDS])
    ids.unlink()
    np.testing.assert_array_equal(load(root, 'val')[0].label, ready)


def test_images_to_test_need_no_label(root):
    image, label = paths(root, 'test', FRAMES['test'][0])
    for dummy in (None, np.full((7, 10), 3, np.uint8)):  # the data set comes with labels that hold no class
        if dummy is not None:
            Image.fromarray(dummy).save(label)
        (example,) = load(root, 'test')
        assert (example.name, example.image.shape) == (str(image), (7, 10, 3))
        np.testing.assert_array_equal(example.label, np.full((7, 10), IGNORE_LABEL))


@pytest.fixture
def coarse(root) -> pathlib.Path:
    """The same with coarse labels, which hold nothing but road, and a frame more of train_extra."""
    for split, frames in (*FRAMES.items(), ('train_extra', ('troisdorf_000000_000073',))):
        for frame in frames:
            image, fine = paths(root, split, frame)
            label = root / 'gtCoarse' / split / fine.parent.name / f'{frame}_gtCoarse_labelIds.png'
            for path in (image, label):
                path.parent.mkdir(parents=True, exist_ok=True)
            if not image.exists():
                Image.fromarray(np.zeros((7, 10, 3), np.uint8)).save(image)
            Image.fromarray(np.full((7, 10), 7, np.uint8)).save(label)
    return root


def test_splits_are_made_of_folders_with_fine_or_coarse_labels(coarse):
    train = [str(paths(coarse, 'train', frame)[0]) for frame in sorted(FRAMES['train'])]
    val, extra = (
        str(paths(coarse, *where)[0])
        for where in (('val', FRAMES['val'][0]), ('train_extra', 'troisdorf_000000_000073'))
    )
    expected = {
        'train': (train, False),
        'trainval': ([*train, val], False),
        'train_extra': ([extra], True),
        'train_coarse': ([*train, extra], True),
        'trainval_coarse': ([*train, val, extra], True),
    }
    for split, (names, is_coarse) in expected.items():
        dataset = load(coarse, split)
        assert [example.name for example in dataset] == names
        assert all((example.label == 0).all() == is_coarse for example in dataset)


def test_what_a_split_needs_is_named(coarse, fault):
    label = coarse / 'gtCoarse/train_extra/troisdorf/troisdorf_000000_000073_gtCoarse_labelIds.png'
    label.unlink()
    assert f'has no label, there is no {label}' in fault(lambda: load(coarse, 'train_coarse'))
    shutil.rmtree(coarse / 'leftImg8bit/train_extra')
    message = f'there is no image {coarse}/leftImg8bit/train_extra/<city>/<frame>_leftImg8bit.png'
    assert fault(lambda: load(coarse, 'trainval_coarse')) == message


def test_classes_and_palette_agree():
    kind = cityscapes.Cityscapes
    assert kind.palette.shape == (len(kind.classes), 3)
    assert len(np.unique(kind.palette, axis=0)) == len(set(kind.classes)) == len(set(kind.export_ids)) == 19


def test_the_fingerprint_follows_names_and_contents_and_not_the_place(root, tmp_path):
    first = load(root).fingerprint()
    assert len(bytes.fromhex(first)) == 32
    assert first not in (load(root, 'val').fingerprint(), load(root, 'test').fingerprint())
    elsewhere = shutil.copytree(root, tmp_path / 'copy')
    assert load(elsewhere).fingerprint() == first
    Image.fromarray(np.zeros((7, 10), np.uint8)).save(paths(elsewhere, 'train', 'ulm_000000_000019')[1])
    changed = load(elsewhere).fingerprint()
    for path in paths(elsewhere, 'train', 'ulm_000000_000019'):
        path.rename(path.with_name(path.name.replace('000019', '000020')))
    assert len({first, changed, load(elsewhere).fingerprint()}) == 3


@pytest.mark.parametrize('split', FRAMES)
def test_no_image(root, split, fault):
    shutil.rmtree(root / 'leftImg8bit' / split)
    message = fault(lambda: load(root, split))
    assert f'there is no image {root}/leftImg8bit/{split}/<city>/<frame>_leftImg8bit.png' in message


@pytest.mark.parametrize(
    ('kind', 'value', 'allowed'),
    [('labelIds', 34, '0..33'), ('labelIds', 255, '0..33'), ('labelTrainIds', 19, '0..18, and 255 for unknown')],
)
def test_a_label_value_out_of_range(root, kind, value, allowed, fault):
    paths(root, 'val', FRAMES['val'][0])[1].unlink()
    path = paths(root, 'val', FRAMES['val'][0], kind)[1]
    label = np.zeros((7, 10), np.uint8)
    label[3, 4] = value
    Image.fromarray(label).save(path)
    message = fault(lambda: datasets.check(load(root, 'val')))
    assert message == f'{path}: label value {value} is out of range; allowed: {allowed}'


def test_classes_and_splits_are_known_without_files():
    assert datasets.classes(ml_collections.ConfigDict({'name': 'cityscapes'}))[:2] == ('road', 'sidewalk')
    assert datasets.kind(ml_collections.ConfigDict({'name': 'cityscapes'})).splits[:4] == (
        'train',
        'val',
        'test',
        'trainval',
    )
    assert datasets.kind(ml_collections.ConfigDict({'name': 'scenes'})).splits == datasets.SPLITS
