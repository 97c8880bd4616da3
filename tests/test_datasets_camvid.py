"""CamVid: lists and labels are read right; what it shares with the others is in test_datasets.py."""

import pathlib
import shutil

import ml_collections
import numpy as np
import pytest
from PIL import Image

from dpc_jax import datasets
from dpc_jax.base import IGNORE_LABEL
from dpc_jax.datasets import camvid


@pytest.fixture
def root(tmp_path) -> pathlib.Path:
    """A small CamVid: two images of 6x8 to train, one to validate; the labels hold 0..11 and repeat."""
    folder = tmp_path / 'camvid'
    rng = np.random.default_rng(0)
    for split, count in (('train', 2), ('val', 1)):
        (folder / split).mkdir(parents=True)
        (folder / f'{split}annot').mkdir()
        lines = []
        for number in range(count):
            image, label = f'{split}/{number}.png', f'{split}annot/{number}.png'
            Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).save(folder / image)
            Image.fromarray((np.arange(48, dtype=np.uint8) % 12).reshape(6, 8)).save(folder / label)
            lines.append(f'{image} {label}')
        (folder / f'{split}.txt').write_text('\n'.join(lines) + '\n')
    return folder


def load(root: pathlib.Path | str, split: str = 'train') -> datasets.Dataset:
    return datasets.load('camvid', ml_collections.ConfigDict({'root': str(root)}), split)


def test_files_become_examples(root):
    dataset = load(root)
    assert (dataset.name, dataset.split, len(dataset), dataset.num_classes) == ('camvid', 'train', 2, 11)
    image, label, name = dataset[1]
    np.testing.assert_array_equal(image, np.asarray(Image.open(root / 'train/1.png')))  # RGB
    expected = (np.arange(48) % 12).reshape(6, 8)
    np.testing.assert_array_equal(label, np.where(expected == 11, IGNORE_LABEL, expected))
    assert image.dtype == label.dtype == np.uint8
    assert name == str(root / 'train/1.png')
    assert [example.name for example in dataset] == [str(root / f'train/{number}.png') for number in (0, 1)]
    with pytest.raises(IndexError):
        dataset[2]


def test_the_original_lists_are_read_too(root):
    lines = (root / 'train.txt').read_text()
    original = lines.replace('train/', '/SegNet/CamVid/train/').replace('trainannot/', '/SegNet/CamVid/trainannot/')
    (root / 'train.txt').write_text(original)
    assert [example.name for example in load(root)] == [str(root / f'train/{number}.png') for number in (0, 1)]


def test_palette_labels_are_indices(root):
    label = Image.open(root / 'trainannot/0.png')
    indices = np.asarray(label)
    coloured = Image.frombytes('P', label.size, indices.tobytes())
    coloured.putpalette(camvid.CamVid.palette.tobytes())
    coloured.save(root / 'trainannot/0.png')
    np.testing.assert_array_equal(load(root)[0].label, np.where(indices == 11, IGNORE_LABEL, indices))


def test_the_fingerprint_follows_names_and_contents_and_not_the_place(root, tmp_path):
    first = load(root).fingerprint()
    assert len(bytes.fromhex(first)) == 32
    assert first != load(root, 'val').fingerprint()
    elsewhere = shutil.copytree(root, tmp_path / 'copy')
    assert load(elsewhere).fingerprint() == first

    label = np.zeros((6, 8), np.uint8)
    Image.fromarray(label).save(elsewhere / 'trainannot/1.png')
    changed = load(elsewhere).fingerprint()
    lines = (elsewhere / 'train.txt').read_text().splitlines()
    (elsewhere / 'train.txt').write_text('\n'.join(reversed(lines)))
    reordered = load(elsewhere).fingerprint()
    (elsewhere / 'train/0.png').rename(elsewhere / 'train/2.png')
    (elsewhere / 'train.txt').write_text('\n'.join(reversed(lines)).replace('train/0', 'train/2'))
    renamed = load(elsewhere).fingerprint()
    assert len({first, changed, reordered, renamed}) == 4


def test_a_list_that_cannot_be_read(root, fault):
    (root / 'train.txt').write_bytes(b'\xff\xfe\x00')
    assert f'cannot read the list file {root / "train.txt"}' in fault(lambda: load(root))


def test_an_empty_list(root, fault):
    (root / 'train.txt').write_text('\n\n')
    assert f'the list file {root / "train.txt"} is empty' in fault(lambda: load(root))


@pytest.mark.parametrize('line', ['train/0.png', 'train/0.png trainannot/0.png 3'])
def test_a_malformed_line(root, line, fault):
    (root / 'train.txt').write_text(f'train/1.png trainannot/1.png\n\n{line}\n')
    message = fault(lambda: load(root))
    assert f'{root / "train.txt"}, line 3: {line!r} is not an image path and a label path' in message


def test_trainval_is_train_and_val_and_test_has_a_list_of_its_own(root, fault):
    both = [example.name for split in ('train', 'val') for example in load(root, split)]
    assert [example.name for example in load(root, 'trainval')] == both
    assert f'there is no list file {root / "test.txt"} (lines: image path' in fault(lambda: load(root, 'test'))
    shutil.copy(root / 'val.txt', root / 'test.txt')
    assert [example.name for example in load(root, 'test')] == both[2:]


def test_the_real_files(shared):
    folder = shared('data/camvid')
    counts = {split: len(load(folder, split)) for split in ('train', 'val', 'trainval')}
    assert counts == {split: camvid.CamVid.published[split] for split in counts}
    dataset = load(folder, 'val')
    datasets.check(dataset)
    image, label, _ = dataset[0]
    assert image.shape == (360, 480, 3)
    # The sky is brighter than the road, and above it.
    sky, road = (label == dataset.classes.index(name) for name in ('sky', 'road'))
    assert image[sky].mean() > image[road].mean() + 50
    assert np.nonzero(sky)[0].mean() < np.nonzero(road)[0].mean()
