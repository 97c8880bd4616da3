"""PASCAL VOC 2012: indices of a palette, the augmented set, hard classes twice; the rest is in test_datasets.py."""

import pathlib
import shutil

import ml_collections
import numpy as np
import pytest
from PIL import Image

from dpc_jax import datasets
from dpc_jax.base import IGNORE_LABEL
from dpc_jax.datasets import VOC_CLASSES, pascal_voc

FOLDER = 'VOCdevkit/VOC2012'


@pytest.fixture
def root(drawn, tmp_path) -> pathlib.Path:
    return shutil.copytree(drawn('pascal_voc'), tmp_path / 'voc')


def load(root: pathlib.Path, split: str = 'train', **fields) -> datasets.Dataset:
    return datasets.load('pascal_voc', ml_collections.ConfigDict({'root': str(root), **fields}), split)


def names(dataset: datasets.Dataset) -> list[str]:
    return [pathlib.Path(dataset.example_name(index)).stem for index in range(len(dataset))]


def histogram(label: np.ndarray) -> dict[str, int]:
    values, counts = np.unique(label, return_counts=True)
    words = {**dict(enumerate(VOC_CLASSES)), IGNORE_LABEL: 'border'}
    return {words[value]: count for value, count in zip(values.tolist(), counts.tolist(), strict=True)}


def test_genuine_files(shared):
    root = shared('data/fixtures/voc2012')
    train, val = load(root), load(root, 'val')
    datasets.check(load(root, 'trainval'))
    assert names(load(root, 'trainval')) == names(train) + names(val)
    assert names(val) == ['2008_002536', '2010_005582']
    # Counted with PIL; the colours of the pictures' palette are those of these classes.
    assert histogram(train[1].label) == {'background': 132550, 'bicycle': 32954, 'border': 21996}
    assert histogram(val[0].label) == {'background': 129916, 'dog': 7321, 'sheep': 13891, 'border': 8372}
    assert histogram(val[1].label) == {'background': 99037, 'bottle': 2598, 'person': 58474, 'border': 6391}
    assert train[1].image.shape == (375, 500, 3)
    palette = Image.open(train.files[0][1]).getpalette()
    np.testing.assert_array_equal(pascal_voc.PascalVOC.palette.ravel(), palette[:63])


def test_genuine_hard_classes_come_twice(shared):
    root = shared('data/fixtures/voc2012')
    assert names(load(root, 'train', duplicate_hard=True)) == ['2007_004189', '2007_006449', '2007_006449']  # bicycle
    assert names(load(root, 'val', duplicate_hard=True)) == names(load(root, 'val'))


def test_hard_classes_come_twice_in_splits_to_train_on(root):
    for split in ('train', 'trainval', 'train_aug', 'val', 'test'):
        once = load(root, split, duplicate_hard=False)
        hard = [bool({2, 9, 11, 16, 18} & set(np.unique(example.label).tolist())) for example in once]
        twice = [name for name, is_hard in zip(names(once), hard, strict=True) for _ in range(1 + is_hard)]
        assert any(hard) == (split != 'test')
        expected = names(once) if split in ('val', 'test') else twice
        assert names(load(root, split, duplicate_hard=True)) == expected


def test_a_search_may_train_on_images_drawn_from_another_list(root):
    every = names(load(root, 'train_aug'))
    assert names(load(root, train_list='train_aug')) == every != names(load(root))
    fields = {'train_list': 'train_aug', 'train_images': len(every) - 1}
    drawn = names(load(root, **fields))
    assert len(drawn) == len(every) - 1
    assert drawn == [name for name in every if name in drawn]  # in the order of the list
    assert names(load(root, **fields)) == drawn
    assert load(root, **fields).fingerprint() != load(root, train_list='train_aug').fingerprint()
    for split in ('val', 'train_aug', 'trainval'):
        assert names(load(root, split, **fields)) == names(load(root, split))


def test_lists_and_numbers_of_images_that_cannot_be_are_refused(root, fault):
    assert fault(lambda: load(root, train_list='val')) == (
        "dataset.train_list is 'val'; allowed: train, train_aug, trainval"
    )
    for count in (3, -1):
        said = fault(lambda count=count: load(root, train_images=count))
        assert said == f'dataset.train_images is {count}; allowed: 0, or 1 to 2 of the 2 images'
    for count in (2, -1):
        said = fault(lambda count=count: load(root, 'trainval', held_out=count))
        assert said == f'dataset.held_out is {count}; allowed: 0, or 1 to 1 of the 2 images'


def test_images_that_are_held_out_are_val_and_nobody_trains_on_them(root):
    fields = {'train_list': 'train_aug', 'held_out': 1}
    every, apart = names(load(root, 'train_aug')), names(load(root, 'val', **fields))
    assert len(apart) == 1
    assert set(apart) < set(every)
    for split in ('train', 'trainval', 'train_aug'):
        whole = every if split == 'train' else names(load(root, split))
        assert names(load(root, split, **fields)) == [name for name in whole if name not in apart]
    drawn = load(root, 'train', **fields, train_images=len(every) - 1)
    assert names(drawn) == names(load(root, 'train', **fields))
    assert load(root, 'val', **fields).split == 'val'
    assert names(load(root, 'test', **fields)) == names(load(root, 'test'))


def test_colours_are_those_of_the_development_kit():
    # Everingham et al., VOCdevkit, VOClabelcolormap: some of the well-known ones.
    colours = {'background': (0, 0, 0), 'person': (192, 128, 128), 'cow': (64, 128, 0), 'tvmonitor': (0, 64, 128)}
    for name, colour in colours.items():
        assert tuple(pascal_voc.PascalVOC.palette[VOC_CLASSES.index(name)].tolist()) == colour
    assert datasets.voc_palette(256)[255].tolist() == [224, 224, 192]  # the border


@pytest.mark.parametrize('folder', [FOLDER, 'VOCdevkit', '.'])
def test_the_root_may_be_any_folder_on_the_way(root, folder):
    assert names(load(root / folder)) == names(load(root))


def test_a_palette_is_read_as_indices_and_the_border_is_ignored(root):
    label = Image.open(load(root).files[0][1])
    assert label.mode == 'P'
    np.testing.assert_array_equal(load(root)[0].label, np.asarray(label))
    assert (load(root)[0].label == IGNORE_LABEL).any()


@pytest.mark.parametrize('file', pascal_voc.LISTS_AUG)
def test_lists_of_the_augmented_set(root, file):
    expected = names(load(root, 'train_aug'))
    assert len(expected) == 4
    assert expected[:2] == names(load(root))
    path = root / FOLDER / file
    path.parent.mkdir(exist_ok=True)
    lines = (root / FOLDER / pascal_voc.LISTS_AUG[0]).read_text().split()
    (root / FOLDER / pascal_voc.LISTS_AUG[0]).unlink()
    path.write_text('\n'.join(f'/JPEGImages/{name}.jpg /SegmentationClassAug/{name}.png' for name in lines))
    assert names(load(root, 'train_aug')) == expected


def test_labels_of_the_augmented_set_come_first(root):
    aug, own = (
        root / FOLDER / kind / f'{names(load(root))[0]}.png' for kind in ('SegmentationClassAug', 'SegmentationClass')
    )
    Image.fromarray(np.full((72, 96), 20, np.uint8)).save(aug)
    assert (load(root, 'train_aug')[0].label == 20).all()
    aug.unlink()
    np.testing.assert_array_equal(load(root, 'train_aug')[0].label, np.asarray(Image.open(own)))


def test_what_the_augmented_set_lacks_is_named(root, fault):
    (root / FOLDER / 'ImageSets/Segmentation/trainaug.txt').unlink()
    message = fault(lambda: load(root, 'train_aug'))
    assert f'there is no list of the augmented set, {root / FOLDER}/ImageSets/Segmentation/trainaug.txt' in message
    assert 'train_aug.txt' in message
    assert 'https://' in message
    shutil.rmtree(root / FOLDER / 'SegmentationClassAug')
    assert fault(lambda: load(root, 'train_aug')) == f'there is no folder {root / FOLDER / "SegmentationClassAug"}'


def test_the_line_of_a_fault_is_named(root, fault):
    path = root / FOLDER / 'ImageSets/Segmentation/val.txt'
    path.write_text('\n2008_000000\n2099_000001\n')
    message = fault(lambda: load(root, 'val'))
    assert message == f'{path}, line 3: there is no image {root / FOLDER}/JPEGImages/2099_000001.jpg'
