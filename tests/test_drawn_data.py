"""Drawn data: the same on every call, every class in a few images, complete or not there. They are read in
test_datasets.py."""

import json
import pathlib

import ml_collections
import numpy as np
import pytest
from PIL import Image

from dpc_jax import datasets, drawn_data
from dpc_jax.base import IGNORE_LABEL
from dpc_jax.datasets import coco

OF_LABELS = sorted(set(drawn_data.names()) - {'mpii', 'coco_keypoints'})


def load(name: str, root: pathlib.Path, split: str = 'train') -> datasets.Dataset:
    return datasets.load(name, ml_collections.ConfigDict({'root': str(root), 'depth_scale': 5000.0}), split)


def files(root: pathlib.Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob('*')) if path.is_file()}


def test_all_but_the_scenes_can_be_drawn():
    assert {*drawn_data.names(), 'scenes'} == set(datasets.names())


@pytest.mark.parametrize('name', drawn_data.names())
def test_equal_arguments_give_equal_files(name, drawn, tmp_path):
    drawn_data.write(name, tmp_path / 'again', 2)
    assert files(tmp_path / 'again') == files(drawn(name))
    drawn_data.write(name, tmp_path / 'other', 2, seed=1)
    assert files(tmp_path / 'other').keys() == files(drawn(name)).keys()
    assert load(name, tmp_path / 'other').fingerprint() != load(name, drawn(name)).fingerprint()


@pytest.mark.parametrize('name', OF_LABELS)
def test_six_images_hold_all_classes_and_a_colour_tells_each(name, tmp_path):
    drawn_data.write(name, tmp_path / name, 6, size=(60, 90))
    dataset = load(name, tmp_path / name, 'val')
    assert len(dataset) == 6
    assert dataset[0].image.shape == (60, 90, 3)
    images = np.concatenate([example.image.reshape(-1, 3) for example in dataset])
    labels = np.concatenate([example.label.ravel() for example in dataset])
    if dataset.num_classes <= 6 * drawn_data.SHAPES:
        assert set(np.unique(labels)) == {*range(dataset.num_classes), IGNORE_LABEL}
    # The class whose colour is nearest is the right one for most pixels: there is something to learn.
    known = np.flatnonzero(labels != IGNORE_LABEL)[::17]
    colours = 30 + 0.75 * dataset.palette
    nearest = np.abs(images[known, None] - colours).sum(axis=-1).argmin(axis=-1)
    assert (nearest == labels[known]).mean() > 0.7


def test_splits_share_no_image_but_as_in_the_real_data(drawn):
    for name in drawn_data.names():
        train, val = ({one.image.tobytes() for one in load(name, drawn(name), split)} for split in datasets.SPLITS)
        assert len(train | val) == 4
    voc = [load('pascal_voc', drawn('pascal_voc'), split) for split in ('train', 'train_aug', 'val')]
    train, aug, val = ({example.name for example in dataset} for dataset in voc)
    assert train < aug
    assert not aug & val


@pytest.mark.parametrize('name', ['mpii', 'coco_keypoints'])
def test_joints_have_colours_of_their_own(name, tmp_path):
    drawn_data.write(name, tmp_path / name, 6, size=(120, 160))
    dataset = load(name, tmp_path / name, 'val')
    right = []
    for example in dataset:
        for index in np.flatnonzero(example.person.visible):
            x, y = np.rint(example.person.joints[index]).astype(int)
            far = np.abs(dataset.palette.astype(float) - example.image[y, x]).sum(-1)
            right.append(int(far.argmin()) == index)
    assert len(dataset) == 9  # every other picture has two people
    assert np.mean(right) > 0.5  # some are covered by others, and JPEG mixes colours


def test_drawn_distances_are_those_of_their_classes(drawn):
    example = load('nyudv2', drawn('nyudv2'))[0]
    there = (example.label != IGNORE_LABEL) & (example.label != example.label[0, 0])
    np.testing.assert_allclose(example.depth[there], 1 + 0.1 * example.label[there], atol=1e-4)
    assert not example.depth[example.label == IGNORE_LABEL].any()


def test_coco_has_polygons_and_a_crowd_of_runs(drawn):
    content = json.loads((drawn('coco') / 'annotations/instances_train2017.json').read_text())
    crowds = [item for item in content['annotations'] if item['iscrowd']]
    assert [item['image_id'] for item in crowds] == [1, 2]
    for item in crowds:
        assert sum(item['segmentation']['counts'][1::2]) == item['area'] == 9 * 32
    shapes = [item for item in content['annotations'] if not item['iscrowd']]
    assert len(shapes) == 8
    for item in shapes:
        pixels = coco.fill([(coco.POLYGON, np.array(item['segmentation'][0]))], (72, 96))
        assert abs(pixels.sum() - item['area']) < 0.05 * item['area']


def test_run_lengths_are_what_is_read(tmp_path):
    draw = np.random.default_rng(0)
    for mask in (np.zeros((3, 4), bool), np.ones((3, 4), bool), *(draw.random((5, 7)) < 0.5 for _ in range(4))):
        counts = np.array(drawn_data.run_lengths(mask), np.int32)
        np.testing.assert_array_equal(coco.fill_runs(counts, mask.shape), mask)


def test_coarse_labels_know_less(drawn):
    fine, coarse = (load('cityscapes', drawn('cityscapes'), split) for split in ('train', 'train_coarse'))
    for one, other in zip(fine, coarse, strict=False):
        known = other.label != IGNORE_LABEL
        np.testing.assert_array_equal(one.label[known], other.label[known])
        assert 0 < known.sum() < (one.label != IGNORE_LABEL).sum()


def test_voc_labels_have_a_palette(drawn):
    folder = drawn('pascal_voc') / 'VOCdevkit' / 'VOC2012'
    for kind, mode in (('SegmentationClass', 'P'), ('SegmentationClassAug', 'L')):
        with Image.open(folder / kind / '2007_000000.png') as label:
            assert label.mode == mode


def test_what_cannot_be_drawn(tmp_path, fault):
    message = f"the data set 'scenes' cannot be drawn; there are: {', '.join(drawn_data.names())}"
    assert fault(lambda: drawn_data.write('scenes', tmp_path, 1)) == message
    assert fault(lambda: drawn_data.write('camvid', tmp_path, 0)) == 'dataset.generated is 0; it must be at least 1'


def config(**fields) -> ml_collections.ConfigDict:
    made = ml_collections.ConfigDict({'name': 'camvid', 'root': '', 'generated': 1, 'other': 7, **fields})
    made.lock()
    return made


def test_data_are_drawn_once_where_none_are_named(tmp_path):
    prepared = drawn_data.prepared(config(), tmp_path)
    assert prepared.to_dict() == {**config().to_dict(), 'root': str(tmp_path / 'data' / 'camvid')}
    assert len(datasets.load('camvid', prepared, 'train')) == 1
    assert [path.name for path in (tmp_path / 'data').iterdir()] == ['camvid']
    marks = {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*')}
    assert drawn_data.prepared(config(), tmp_path) == prepared
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*')} == marks


def test_other_configs_stay_as_they_are(tmp_path):
    scenes = ml_collections.ConfigDict({'name': 'scenes', 'num_train': 3})
    for unchanged in (config(root='/data/camvid'), config(generated=0), scenes):
        assert drawn_data.prepared(unchanged, tmp_path) is unchanged
    assert not list(tmp_path.iterdir())


def test_data_of_a_faster_process_are_taken(tmp_path, monkeypatch):
    write = drawn_data.write

    def slow(name: str, root: pathlib.Path, count: int, **fields: object) -> None:
        write(name, root, count)
        write(name, tmp_path / 'data' / name, count)  # the other one's

    monkeypatch.setattr(drawn_data, 'write', slow)
    prepared = drawn_data.prepared(config(), tmp_path)
    assert len(datasets.load('camvid', prepared, 'train')) == 1
    assert [path.name for path in (tmp_path / 'data').iterdir()] == ['camvid']


def test_a_failure_leaves_no_data(tmp_path, monkeypatch):
    def fail(name: str, root: pathlib.Path, count: int, **fields: object) -> None:
        root.mkdir(parents=True)
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(drawn_data, 'write', fail)
    with pytest.raises(OSError, match='No space'):
        drawn_data.prepared(config(), tmp_path)
    assert not (tmp_path / 'data' / 'camvid').exists()


def test_data_that_cannot_be_put_in_place_are_removed(tmp_path, monkeypatch):
    def refuse(self: pathlib.Path, target: pathlib.Path) -> None:
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr(pathlib.Path, 'replace', refuse)
    with pytest.raises(PermissionError):
        drawn_data.prepared(config(), tmp_path)
    assert not list((tmp_path / 'data').iterdir())
