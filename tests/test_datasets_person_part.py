"""PASCAL-Person-Part: every layout that is read, and genuine files; the rest is in test_datasets.py."""

import pathlib
import shutil

import ml_collections
import numpy as np
import pytest

from dpc_jax import datasets

ZIP = pathlib.Path('pascal_person_part')


@pytest.fixture
def root(drawn, tmp_path) -> pathlib.Path:
    return shutil.copytree(drawn('person_part'), tmp_path / 'person_part')


def load(root: pathlib.Path, split: str = 'train') -> datasets.Dataset:
    return datasets.load('person_part', ml_collections.ConfigDict({'root': str(root)}), split)


def test_genuine_files(shared):
    root = shared('data/fixtures/pascal_person_part')
    train, val = load(root), load(root, 'val')
    # Counted with PIL.
    counts = [np.bincount(dataset[index].label.ravel()).tolist() for dataset, index in ((train, 0), (val, 1))]
    assert counts == [[73512, 6250, 31308, 7701, 9281, 18948], [131547, 10967, 16264, 7077, 7637, 5233, 8775]]
    assert train[0].image.shape == (294, 500, 3)
    both = load(root, 'trainval')  # which has no list there
    assert [example.name for example in both] == [example.name for split in (train, val) for example in split]
    # Heads are above torsos, and these above legs.
    rows = [np.nonzero(val[1].label == train.classes.index(name))[0].mean() for name in ('head', 'torso', 'upper legs')]
    assert rows == sorted(rows)


@pytest.mark.parametrize('images', ['VOCdevkit/VOC2010', 'VOC2010', 'VOCdevkit/VOC2012', 'VOC2012'])
def test_images_beside_the_labels(root, images):
    expected = [pathlib.Path(example.name).name for example in load(root)]
    (root / images).mkdir(parents=True)
    (root / 'JPEGImages').rename(root / images / 'JPEGImages')
    assert [example.name for example in load(root)] == [str(root / images / 'JPEGImages' / name) for name in expected]


@pytest.mark.parametrize('labels', ['pascal_person_part_gt', 'SegmentationPart'])
@pytest.mark.parametrize('lists', ['pascal_person_part_trainval_list', 'ImageSets/Person', 'list', '.'])
@pytest.mark.parametrize('form', ['paths', 'ids'])
def test_other_folders(root, labels, lists, form):
    expected = [example.label.tolist() for example in load(root, 'val')]
    (root / ZIP / 'pascal_person_part_gt').rename(root / labels)
    (root / lists).mkdir(parents=True, exist_ok=True)
    for path in list((root / ZIP / 'pascal_person_part_trainval_list').iterdir()):
        words = [line.split()[0] for line in path.read_text().splitlines()]
        lines = words if form == 'paths' else [pathlib.Path(word).stem for word in words]
        name = path.name if form == 'paths' else f'{path.stem}_id.txt'
        (root / lists / name).write_text('\n'.join(lines))
    shutil.rmtree(root / ZIP)
    assert [example.label.tolist() for example in load(root, 'val')] == expected
    assert len(load(root, 'trainval')) == 2 * len(expected)


def test_what_is_absent_is_named(root, fault):
    folder = root / ZIP / 'pascal_person_part_trainval_list'
    (folder / 'trainval.txt').unlink()
    assert len(load(root, 'trainval')) == 4
    (folder / 'val.txt').unlink()
    expected = f'there is no list {folder / "val"}.txt (or val_id.txt, or in pascal_person_part_trainval_list, '
    assert fault(lambda: load(root, 'trainval')).startswith(expected)
    shutil.rmtree(root / ZIP / 'pascal_person_part_gt')
    expected = f'there is no folder {root / ZIP}/pascal_person_part_gt, nor pascal_person_part_gt, nor SegmentationPart'
    assert fault(lambda: load(root)) == expected
    shutil.rmtree(root / 'JPEGImages')
    expected = f'there is no folder {root / "JPEGImages"}, nor VOCdevkit/VOC2010/JPEGImages, nor VOC2010/JPEGImages'
    assert fault(lambda: load(root)).startswith(expected)
