"""NYU Depth v2 in both of its forms: metres, labels, the official split, and one line for every fault."""

import pathlib

import h5py
import ml_collections
import numpy as np
import pytest
import scipy.io
from PIL import Image

from dpc_jax import datasets, drawn_data
from dpc_jax.base import IGNORE_LABEL
from dpc_jax.datasets import _packed, nyudv2

SIDES = (5, 24, 32)  # images of the drawn file, height, width


def load(root, split='train', **fields):
    config = {'name': 'nyudv2', 'root': str(root), 'depth_scale': 5000.0, 'reduce_zero_label': False, **fields}
    return datasets.load('nyudv2', ml_collections.ConfigDict(config), split)


@pytest.fixture
def labeled(tmp_path):
    """The authors' file with five images, its split, and a mapping of four kinds of labels."""
    draw = np.random.default_rng(0)
    count, height, width = SIDES
    images = draw.integers(0, 256, (count, 3, width, height)).astype(np.uint8)
    depths = draw.uniform(0.7, 9.9, (count, width, height)).astype(np.float32)
    labels = draw.integers(0, 5, (count, width, height)).astype(np.uint16)
    with h5py.File(tmp_path / nyudv2.LABELED, 'w') as file:
        file.update({'images': images, 'depths': depths, 'labels': labels})
    scipy.io.savemat(tmp_path / nyudv2.SPLITS, {'trainNdxs': [[1], [4], [5]], 'testNdxs': [[2], [3]]})
    scipy.io.savemat(tmp_path / nyudv2.MAPPING, {'mapClass': [[40, 1, 7, 2]]})
    return tmp_path, images, depths, labels


# ---- the authors' file ----------------------------------------------------------------------------------------------


def test_the_authors_file_is_read_upright_by_the_official_split(labeled):
    root, images, depths, labels = labeled
    for split, rows in (('train', [0, 3, 4]), ('val', [1, 2])):
        dataset = load(root, split)
        assert len(dataset) == len(rows)
        for example, row in zip(dataset, rows, strict=True):
            np.testing.assert_array_equal(example.image, images[row].transpose(2, 1, 0))
            np.testing.assert_array_equal(example.depth, depths[row].T)
            classes = np.array([IGNORE_LABEL, 39, 0, 6, 1])[labels[row].T]  # 0 is not labelled; classes count from 1
            np.testing.assert_array_equal(example.label, classes)
            assert example.name.endswith(f'#{row + 1:04}')
        with pytest.raises(IndexError):
            dataset[len(rows)]


def test_distances_that_are_no_numbers_are_missing(labeled):
    root, *_ = labeled
    with h5py.File(root / nyudv2.LABELED, 'r+') as file:
        file['depths'][0, 3, 5] = np.nan
    nyudv2.opened.cache_clear()
    depth = load(root)[0].depth
    assert depth[5, 3] == 0
    assert np.isfinite(depth).all()


def test_without_a_mapping_nothing_is_labelled(labeled):
    root, *_ = labeled
    before = load(root).fingerprint()
    (root / nyudv2.MAPPING).unlink()
    dataset = load(root)
    assert set(np.unique(dataset[0].label)) == {IGNORE_LABEL}
    assert dataset.fingerprint() != before


def test_an_image_of_the_authors_file_can_be_packed(labeled, tmp_path):
    root, *_ = labeled
    dataset = load(root)
    _packed.write({'train': dataset}, root, tmp_path / 'pack', track=lambda items, *_: iter(items))
    again = load(tmp_path / 'pack')
    for one, other in zip(again, dataset, strict=True):
        for part in ('image', 'depth', 'label'):
            np.testing.assert_array_equal(getattr(one, part), getattr(other, part))
    assert again.fingerprint() == dataset.fingerprint()


@pytest.mark.parametrize(
    ('spoil', 'said'),
    [
        (lambda root: (root / nyudv2.SPLITS).unlink(), 'there is no '),
        (lambda root: (root / nyudv2.SPLITS).write_text('x'), 'is no MATLAB file of version 5'),
        (lambda root: scipy.io.savemat(root / nyudv2.SPLITS, {'other': 1}), "has no 'trainNdxs'"),
        (lambda root: scipy.io.savemat(root / nyudv2.SPLITS, {'trainNdxs': [6]}), 'does not count the 5 images'),
        (
            lambda root: scipy.io.savemat(root / nyudv2.MAPPING, {'mapClass': [41]}),
            'mapClass has 41; the classes are 1',
        ),
        (lambda root: (root / nyudv2.LABELED).write_text('x'), 'is no HDF5 file'),
    ],
)
def test_what_is_wrong_with_the_authors_files_is_one_line(labeled, fault, spoil, said):
    root, *_ = labeled
    spoil(root)
    assert said in fault(lambda: load(root))


@pytest.mark.parametrize(
    ('parts', 'said'),
    [
        ({'images': (2, 3, 8, 6), 'depths': (2, 8, 6)}, "it has no 'labels'"),
        ({'images': (2, 8, 6, 3), 'depths': (2, 8, 6), 'labels': (2, 8, 6)}, 'images are (2, 8, 6, 3)'),
        ({'images': (2, 3, 8, 6), 'depths': (3, 8, 6), 'labels': (2, 8, 6)}, 'distances (3, 8, 6)'),
        ({'images': (2, 3, 8, 6), 'depths': (2, 8, 6), 'labels': (2, 8, 5)}, 'labels (2, 8, 5)'),
    ],
)
def test_another_file_is_not_the_labelled_set(tmp_path, fault, parts, said):
    with h5py.File(tmp_path / nyudv2.LABELED, 'w') as file:
        for name, shape in parts.items():
            file[name] = np.zeros(shape, np.uint8)
    message = fault(lambda: load(tmp_path))
    assert 'is not the labelled set of NYU Depth v2' in message
    assert said in message


# ---- PNG files ------------------------------------------------------------------------------------------------------


def test_the_real_files_are_metres_and_labels(shared):
    root = shared('data/fixtures/nyudv2')
    (example,) = load(root)
    values = np.asarray(Image.open(root / 'depth/000464.png'))
    np.testing.assert_allclose(example.depth, values / 5000, rtol=1e-6)
    assert (example.image.shape, example.label.max()) == ((480, 640, 3), IGNORE_LABEL)
    np.testing.assert_array_equal(example.label, np.asarray(Image.open(root / 'masks40/000464.png')))
    assert example.depth[values == 0].max() == 0
    (other,) = load(root, 'val', depth_scale=1000.0)
    assert other.depth.max() == pytest.approx(29.649)


@pytest.fixture
def folder(drawn, tmp_path):
    drawn_data.write('nyudv2', tmp_path / 'nyudv2', 2)
    return tmp_path / 'nyudv2'


def test_labels_may_be_missing_or_count_from_1(folder):
    lines = [line.rsplit('\t', 1)[0] for line in (folder / 'train.txt').read_text().splitlines()]
    (folder / 'val.txt').write_text('\n'.join(lines))
    assert all((example.label == IGNORE_LABEL).all() for example in load(folder, 'val'))
    first = load(folder)[0]
    path = folder / 'masks40/train_0000.png'
    Image.fromarray(np.where(first.label == IGNORE_LABEL, 0, first.label + 1).astype(np.uint8)).save(path)
    np.testing.assert_array_equal(load(folder, reduce_zero_label=True)[0].label, first.label)


def test_the_fingerprint_follows_the_content_and_how_it_is_read(folder):
    first = load(folder).fingerprint()
    assert load(folder).fingerprint() == first != load(folder, depth_scale=1000.0).fingerprint()
    Image.fromarray(np.ones((72, 96), np.uint16)).save(folder / 'depth/train_0001.png')
    assert load(folder).fingerprint() != first


def spoil_depth(folder: pathlib.Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(folder / 'depth/train_0000.png')


@pytest.mark.parametrize(
    ('spoil', 'fields', 'said'),
    [
        (lambda root: spoil_depth(root, np.ones((72, 96), np.uint8)), {}, 'is not a gray image of 16 bits'),
        (lambda root: spoil_depth(root, np.ones((72, 96, 3), np.uint8)), {}, 'is not a gray image of 16 bits'),
        (lambda root: spoil_depth(root, np.ones((72, 96), bool)), {}, 'is not a gray image of 16 bits'),
        (lambda root: spoil_depth(root, np.ones((71, 96), np.uint16)), {}, 'sizes differ'),
        (lambda root: (root / 'depth/train_0000.png').unlink(), {}, 'train.txt, line 1: there is no file'),
        (lambda root: (root / 'train.txt').write_text('a b c d'), {}, "'a b c d' has 4 paths"),
        (lambda root: None, {'depth_scale': 0.0}, 'dataset.depth_scale is 0.0; it must be above 0'),
        (lambda root: (root / 'train.txt').unlink(), {}, 'there is no list file'),
    ],
)
def test_what_is_wrong_with_png_files_is_one_line(folder, fault, spoil, fields, said):
    spoil(folder)
    assert said in fault(lambda: load(folder, **fields)[0])
