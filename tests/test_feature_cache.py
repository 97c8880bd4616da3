"""The feature cache holds what the backbone says of the views, and nothing that is not whole and of its key is used."""

import dataclasses
import errno
import hashlib
import json
import logging
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from dpc_jax import feature_cache, padding, preprocess
from dpc_jax.base import IGNORE_LABEL, InputError, SegmentationExample, with_unit
from dpc_jax.datasets import Dataset
from dpc_jax.feature_cache import CacheSettings, FeatureCache

SETTINGS = CacheSettings((17, 33), views=3, scales=(1.0, 1.5, 2.0), seed=5, batch_size=4)
STRIDES = (8, 16)
DESCRIPTION = {'name': 'toy', 'width': 1.0, 'weights': 'a' * 64}
SHAPES = ((20, 37), (25, 31), (19, 40), (23, 23), (22, 36))  # of the images


@dataclasses.dataclass(frozen=True)
class Toy(Dataset):
    """Noise of several sizes; five images in train, three in val."""

    name: ClassVar[str] = 'toy'
    classes: ClassVar[tuple[str, ...]] = ('a', 'b', 'c')
    palette: ClassVar[np.ndarray] = np.zeros((3, 3), np.uint8)

    seed: int = 0
    shapes: tuple[tuple[int, int], ...] = SHAPES

    def __len__(self):
        return len(self.shapes)

    def __getitem__(self, index):
        rng = np.random.default_rng((self.seed, self.split == 'val', index))
        shape = self.shapes[index]
        image, label = (rng.integers(0, top, (*shape, *more), np.uint8) for top, more in ((256, (3,)), (3, ())))
        return SegmentationExample(image, label, f'{self.split} {index}')

    def example_name(self, index):
        return f'{self.split} {index}'

    def image_bytes(self, index):
        return self[index].image.tobytes()

    def fingerprint(self):
        return hashlib.sha256(repr(self).encode()).hexdigest()


class Backbone:
    """Every stride-th pixel, times the stride; says what it was called with."""

    def __init__(self, channels: int = 3):
        self.batches: list[tuple[int, ...]] = []
        self.channels = channels

    def __call__(self, images: jax.Array) -> Mapping[int, jax.Array]:
        self.batches.append(images.shape)
        wide = jnp.tile(images, (1, 1, 1, self.channels // 3))
        return {s: wide[:, ::s, ::s] * s / 3 for s in (4, *STRIDES)}


TRAIN, VAL = Toy('train'), Toy('val', shapes=SHAPES[:3])


def load(directory: pathlib.Path, backbone: Backbone, **changes) -> FeatureCache:
    changes = {'datasets': (TRAIN, VAL), 'description': DESCRIPTION, 'settings': SETTINGS, **changes}
    return feature_cache.load_or_build(directory, backbone=backbone, **{'output_strides': STRIDES, **changes})


def only_folder(directory: pathlib.Path) -> pathlib.Path:
    (folder,) = (path for path in directory.iterdir() if path.is_dir())
    return folder


def contents(cache: FeatureCache) -> list[np.ndarray]:
    arrays = [*cache.train.features.values(), cache.train.labels, *cache.val.features.values(), cache.val.labels]
    return [np.array(array) for array in arrays]


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    """A cache that tests copy and damage."""
    directory = tmp_path_factory.mktemp('built')
    backbone = Backbone()
    cache = load(directory, backbone)
    return directory, backbone, cache, contents(cache)


@pytest.fixture
def copied(built, tmp_path):
    shutil.copytree(built[0], tmp_path / 'cache')
    return tmp_path / 'cache'


# ---- what is in it --------------------------------------------------------------------------------------------------


def test_train_holds_the_features_of_every_augmented_view(built):
    _, _, cache, _ = built
    assert len(cache.train.labels) == len(TRAIN) * SETTINGS.views
    for row, label in enumerate(cache.train.labels):
        image, view = divmod(row, SETTINGS.views)
        key = np.random.SeedSequence(SETTINGS.seed, spawn_key=(image, view))
        crop = preprocess.augment(key, TRAIN[image], crop_size=(17, 33), scales=SETTINGS.scales)
        np.testing.assert_array_equal(label, crop.label)
        for stride in STRIDES:
            expected = (crop.image[::stride, ::stride] * np.float32(stride) / np.float32(3)).astype(ml_dtypes.bfloat16)
            np.testing.assert_array_equal(cache.train.features[stride][row], expected)


def test_views_of_an_image_differ(built):
    features = np.asarray(built[2].train.features[8], np.float32)
    for image in range(len(TRAIN)):
        views = features[image * SETTINGS.views : (image + 1) * SETTINGS.views]
        assert len({view.tobytes() for view in views}) == SETTINGS.views


def test_val_is_whole_and_padded_with_the_ignore_label(built):
    _, _, cache, _ = built
    assert cache.val.labels.shape == (3, 33, 49)  # 16 * k + 1 that holds 25 x 40
    for row, example in enumerate(VAL):
        height, width = example.label.shape
        np.testing.assert_array_equal(cache.val.labels[row, :height, :width], example.label)
        outside = np.ones((33, 49), bool)
        outside[:height, :width] = False
        assert (cache.val.labels[row][outside] == IGNORE_LABEL).all()
        image = np.full((33, 49, 3), preprocess.MEAN_PIXEL, np.float32)
        image[:height, :width] = example.image
        for stride in STRIDES:
            expected = (image[::stride, ::stride] * np.float32(stride) / np.float32(3)).astype(ml_dtypes.bfloat16)
            np.testing.assert_array_equal(cache.val.features[stride][row], expected)


def test_the_backbone_sees_one_shape_for_each_split(built):
    # 15 views and 3 whole images in batches of 4, the last ones filled up.
    assert built[1].batches == [(4, 17, 33, 3)] * 4 + [(4, 33, 49, 3)]


def test_arrays_are_mapped_and_read_only(built):
    _, _, cache, _ = built
    for array in (*cache.train.features.values(), cache.train.labels, *cache.val.features.values(), cache.val.labels):
        assert isinstance(array, np.memmap)
        assert not array.flags.writeable


def test_the_batch_size_changes_nothing(built, tmp_path):
    cache = load(tmp_path, Backbone(), settings=dataclasses.replace(SETTINGS, batch_size=7))
    assert cache.key == built[2].key
    for one, other in zip(contents(cache), built[3], strict=True):
        np.testing.assert_array_equal(one, other)


def test_memory_holds_a_batch_and_not_the_features(tmp_path):
    settings = CacheSettings((65, 65), views=16, batch_size=1)
    tracemalloc.start()
    try:
        cache = load(tmp_path, Backbone(channels=300), datasets=(TRAIN, VAL), settings=settings)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < sum(array.nbytes for array in cache.train.features.values()) / 3


# ---- key ------------------------------------------------------------------------------------------------------------

OTHERS = {
    'train set': {'datasets': (Toy('train', seed=1), VAL)},
    'val set': {'datasets': (TRAIN, Toy('val', shapes=SHAPES[:2]))},
    'weights': {'description': {**DESCRIPTION, 'weights': 'b' * 64}},
    'width': {'description': {**DESCRIPTION, 'width': 0.5}},
    'output strides': {'output_strides': (8,)},
    'crop': {'settings': dataclasses.replace(SETTINGS, crop_size=(33, 33))},
    'views': {'settings': dataclasses.replace(SETTINGS, views=2)},
    'scales': {'settings': dataclasses.replace(SETTINGS, scales=(1.0, 2.0))},
    'flip': {'settings': dataclasses.replace(SETTINGS, flip_probability=0.25)},
    'seed': {'settings': dataclasses.replace(SETTINGS, seed=6)},
}


def test_whatever_makes_a_cache_makes_its_key(built, tmp_path):
    keys = {name: load(tmp_path, Backbone(), **change).key for name, change in OTHERS.items()}
    assert len({*keys.values(), built[2].key}) == len(OTHERS) + 1
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == len(OTHERS)  # they live side by side


def test_a_second_start_reads_and_runs_nothing(built, copied, caplog):
    backbone = Backbone()
    cache = load(copied, backbone, settings=dataclasses.replace(SETTINGS, batch_size=1))
    assert backbone.batches == []
    assert caplog.messages == []
    assert cache.key == built[2].key  # of another directory too
    for one, other in zip(contents(cache), built[3], strict=True):
        np.testing.assert_array_equal(one, other)


# ---- damage ---------------------------------------------------------------------------------------------------------


def truncate(folder):
    os.truncate(folder / 'train_features_8.npy', (folder / 'train_features_8.npy').stat().st_size - 2)


def lengthen(folder):
    with open(folder / 'val_labels.npy', 'ab') as file:
        file.write(b'\0')


def flip_one_bit(folder):
    data = bytearray((folder / 'val_features_16.npy').read_bytes())
    data[-3] ^= 16
    (folder / 'val_features_16.npy').write_bytes(data)


def remove_an_array(folder):
    (folder / 'train_labels.npy').unlink()


def put_a_folder_in_place_of_an_array(folder):
    remove_an_array(folder)
    (folder / 'train_labels.npy').mkdir()


def remove_meta(folder):
    (folder / 'meta.json').unlink()


def cut_meta(folder):
    text = (folder / 'meta.json').read_text()
    (folder / 'meta.json').write_text(text[: len(text) // 2])


def make_meta_a_list(folder):
    (folder / 'meta.json').write_text('[]')


def edit(folder, change):
    meta = json.loads((folder / 'meta.json').read_text())
    change(meta)
    (folder / 'meta.json').write_text(json.dumps(meta))


DAMAGES = {
    truncate: 'train_features_8.npy has ',
    lengthen: 'val_labels.npy has ',
    flip_one_bit: 'val_features_16.npy is corrupt (its checksum differs)',
    remove_an_array: 'train_labels.npy cannot be read (FileNotFoundError)',
    put_a_folder_in_place_of_an_array: 'train_labels.npy ',
    remove_meta: 'meta.json cannot be read (FileNotFoundError)',
    cut_meta: 'meta.json cannot be read (JSONDecodeError)',
    make_meta_a_list: 'meta.json cannot be read (TypeError)',
    lambda folder: edit(folder, lambda meta: meta['description']['views'].update(seed=9)): 'seed: 9 instead of 5',
    lambda folder: edit(folder, lambda meta: meta['description'].update(format=0)): 'format: 0 instead of',
    lambda folder: edit(folder, lambda meta: meta['files'].clear()): 'meta.json lists no file instead of train_f',
    lambda folder: edit(folder, lambda meta: meta['files'].update({'train_labels.npy': 5})): 'cannot be read (TypeErr',
    lambda folder: edit(
        folder, lambda meta: meta['files']['val_labels.npy'].update(sha256='0')
    ): 'val_labels.npy is co',
}


@pytest.mark.parametrize(('damage', 'line'), DAMAGES.items())
def test_a_damaged_cache_is_refused_aloud_and_built_anew(built, copied, caplog, damage, line):
    damage(only_folder(copied))
    backbone = Backbone()
    cache = load(copied, backbone)
    assert backbone.batches == built[1].batches
    (message,) = caplog.messages
    assert line in message
    assert str(only_folder(copied)) in message
    assert '\n' not in message
    for one, other in zip(contents(cache), built[3], strict=True):
        np.testing.assert_array_equal(one, other)
    caplog.clear()
    load(copied, backbone)
    assert caplog.messages == []  # it's whole again


@pytest.mark.parametrize('name', OTHERS)
def test_the_cache_of_another_key_under_this_name_is_refused(built, copied, caplog, name):
    this = only_folder(copied)
    shutil.rmtree(this)
    load(copied, Backbone(), **OTHERS[name])
    only_folder(copied).rename(this)
    backbone = Backbone()
    cache = load(copied, backbone)
    assert backbone.batches == built[1].batches
    assert 'it was made of something else' in caplog.messages[0]
    np.testing.assert_array_equal(cache.train.labels, built[2].train.labels)


# ---- interruption and company ---------------------------------------------------------------------------------------


class Stopped(Backbone):
    """Stops in the middle of train, or of val."""

    def __init__(self, after: int, stop):
        super().__init__()
        self.after, self.stop = after, stop

    def __call__(self, images):
        if len(self.batches) == self.after:
            self.stop()
        return super().__call__(images)


def interrupt():
    raise KeyboardInterrupt


def build_until_killed(directory: str) -> None:
    """Run by a process of its own."""
    load(pathlib.Path(directory), Stopped(2, lambda: os.kill(os.getpid(), signal.SIGKILL)))


@pytest.mark.parametrize('after', [0, 2, 4])
def test_an_interrupted_build_leaves_nothing_that_is_used(built, tmp_path, caplog, after):
    with pytest.raises(KeyboardInterrupt):
        load(tmp_path, Stopped(after, interrupt))
    check_built_anew(built, tmp_path, caplog)


def test_a_killed_build_leaves_nothing_that_is_used(built, tmp_path, caplog):
    code = f'import test_feature_cache as t; t.build_until_killed({str(tmp_path)!r})'
    here = pathlib.Path(__file__).parent
    environment = {**os.environ, 'PYTHONPATH': f'{here.parent}{os.pathsep}{here}'}
    ended = subprocess.run([sys.executable, '-c', code], env=environment, capture_output=True, timeout=120, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert only_folder(tmp_path).name.endswith('.unfinished')
    check_built_anew(built, tmp_path, caplog)


def check_built_anew(built, directory, caplog):
    backbone = Backbone()
    cache = load(directory, backbone)
    assert backbone.batches == built[1].batches
    assert caplog.messages == []  # there was no cache, hence none to refuse
    assert only_folder(directory) == directory / f'features-{cache.key[:16]}'
    for one, other in zip(contents(cache), built[3], strict=True):
        np.testing.assert_array_equal(one, other)


def test_of_two_that_want_a_cache_one_builds_and_the_other_waits(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    begun, go_on, found = threading.Event(), threading.Event(), []

    def hold():
        begun.set()
        assert go_on.wait(60)

    first, second = Stopped(1, hold), Backbone()
    threads = [threading.Thread(target=lambda b=b: found.append(load(tmp_path, b))) for b in (first, second)]
    threads[0].start()
    assert begun.wait(60)
    threads[1].start()
    while not caplog.messages and threads[1].is_alive():
        threads[1].join(0.01)
    go_on.set()
    for thread in threads:
        thread.join(60)
    assert 'is being built by another process; waiting for it' in caplog.messages[0]
    assert len(caplog.messages) == 1
    assert second.batches == []
    np.testing.assert_array_equal(found[0].train.labels, found[1].train.labels)


# ---- bad input ------------------------------------------------------------------------------------------------------


def test_one_large_image_of_val_is_named_before_the_work_and_does_not_fill_the_memory(tmp_path, caplog):
    """Seven images of 20x37 and one of 160x150: padded to 161x161 one is 32 times a common one, so one at a time."""
    shapes = (*[(20, 37)] * 3, (160, 150), *[(20, 37)] * 4)
    backbone, val = Backbone(), Toy('val', shapes=shapes)
    cache = load(tmp_path / 'large', backbone, datasets=(TRAIN, val))
    sizes = {shape[1:3]: shape[0] for shape in backbone.batches if shape[1:3] != SETTINGS.crop_size}
    assert sizes == {(161, 161): 1}
    each = 2 * 3 * (21 * 21 + 11 * 11) + 161 * 161  # bfloat16 maps at strides 8 and 16, and the label
    assert (
        f'features of val: val 3 has 160x150 pixels, where 20x37 are common: all 8 images are padded to 161x161 and'
        f' take {with_unit(8 * each)}B ({with_unit(each)}B each), 1 at a time;'
    ) in caplog.text
    np.testing.assert_array_equal(cache.val.labels[3, :160, :150], val[3].label)
    assert cache.val.features[8].shape == (8, 21, 21, 3)


def test_padding_is_planned_by_the_common_size():
    assert padding.plan([(20, 30), (33, 17), (30, 30)], 16, 8) == ((33, 33), 8, 2, False)
    assert padding.plan([(500, 375)] * 40 + [(4000, 6000)], 16, 8) == ((4001, 6001), 1, 40, True)
    assert padding.plan([(500, 375)] * 9 + [(1000, 1000)], 16, 8)[1:] == (1, 9, True)


def test_a_file_system_without_locks_is_warned_of_and_used(built, tmp_path, monkeypatch, caplog):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, 'No locks available')

    monkeypatch.setattr(feature_cache.fcntl, 'flock', no_locks)
    cache = load(tmp_path / 'cache', Backbone())
    for found, expected in zip(contents(cache), built[3], strict=True):
        np.testing.assert_array_equal(found, expected)
    assert 'No locks available; start no second process that builds this feature cache' in caplog.text


def test_a_crop_that_does_not_fit_the_strides_is_refused(tmp_path):
    settings = dataclasses.replace(SETTINGS, crop_size=(17, 41))  # fits stride 8 and not 16
    with pytest.raises(InputError, match=r'crop size \(17, 41\) is not 16 \* k \+ 1; the next that is: \(17, 49\)'):
        load(tmp_path, Backbone(), settings=settings)


@pytest.mark.parametrize(
    ('change', 'line'),
    [
        ({'views': 0}, 'cache.views is 0; it must be at least 1'),
        ({'batch_size': 0}, 'cache.batch_size is 0; it must be at least 1'),
        ({'crop_size': (17, -15)}, r'cache.crop_size is \(17, -15\); both sides must be at least 1'),
        ({'scales': ()}, r'cache.scales is \(\); it must be one or more numbers above 0'),
        ({'scales': (1.0, 0.0)}, r'cache.scales is \(1.0, 0.0\); it must be one or more numbers above 0'),
        ({'scales': (float('nan'),)}, 'cache.scales is'),
        ({'flip_probability': 1.5}, 'cache.flip_probability is 1.5; it must be in 0..1'),
        ({'seed': -1}, 'seed is -1; it must be at least 0'),
    ],
)
def test_bad_settings_are_refused(change, line):
    with pytest.raises(InputError, match=line):
        dataclasses.replace(SETTINGS, **change)


def test_a_directory_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(InputError, match=r'file/cache/features-\w+ cannot be written: Not a directory$'):
        load(tmp_path / 'file' / 'cache', Backbone())


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, 'posix_fallocate', full)
    with pytest.raises(InputError, match=r'cannot be written: No space left on device$'):
        load(tmp_path, Backbone())
