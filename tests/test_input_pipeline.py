"""Batches: a function of seed and step, whoever makes them; every image once an epoch; faults by their policy."""

import multiprocessing
import pathlib
import time

import jax
import numpy as np
import pytest
from PIL import Image

from configs import camvid
from dpc_jax import datasets, input_pipeline, preprocess, sharding, tasks
from dpc_jax.base import InputError
from dpc_jax.input_pipeline import pipeline_settings, train_batches

COUNT = 7
TASK = tasks.make(camvid.get_config('toy'))


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """Seven train images in CamVid's format, each of one gray value that is its number times 20, of two sizes."""
    folder = tmp_path_factory.mktemp('camvid')
    draw = np.random.default_rng(0)
    for number in range(COUNT):
        size = (40, 50) if number % 2 else (36, 60)
        Image.fromarray(np.full((*size, 3), 20 * number, np.uint8)).save(folder / f'{number}.png')
        Image.fromarray(draw.integers(0, 12, size, np.uint8)).save(folder / f'{number}_label.png')
    lines = [f'{number}.png {number}_label.png\n' for number in range(COUNT)]
    (folder / 'train.txt').write_text(''.join(lines))
    return folder


def load(root):
    config = camvid.get_config('toy')
    config.dataset.root = str(root)
    return datasets.load('camvid', config.dataset, 'train')


def settings(devices=1, **fields):
    config = camvid.get_config('toy')
    config.train.crop_size = (33, 33)
    config.seed = fields.pop('seed', 0)
    with config.ignore_type():
        config.train.update(fields)
    return pipeline_settings(config, devices)


def batches(root, *, start=0, stop=6, process=0, processes=1, **fields):
    return list(
        train_batches(
            load(root), TASK, settings(**fields), start=start, stop=stop, process=process, processes=processes
        )
    )


def same(one, other):
    for a, b in zip(one, other, strict=True):
        for name in ('images', 'target', 'indices'):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_a_batch_is_the_official_augmentation_of_its_images(root):
    dataset = load(root)
    for step, batch in enumerate(batches(root, stop=2, accumulate=2)):
        assert batch.images.shape == (2, 2, 33, 33, 3)
        assert (batch.images.dtype, batch.target.dtype) == (np.float32, np.uint8)
        for place, index in enumerate(batch.indices):
            key = np.random.SeedSequence(0, spawn_key=(4 * step + place,))
            crop = preprocess.augment(key, dataset[int(index)], crop_size=(33, 33))
            np.testing.assert_array_equal(batch.images[place // 2, place % 2], crop.image)
            np.testing.assert_array_equal(batch.target[place // 2, place % 2], crop.label)


def test_every_image_is_seen_once_an_epoch_in_an_order_of_its_own(root):
    indices = np.concatenate([batch.indices for batch in batches(root, stop=7)])  # four epochs of seven images
    epochs = indices.reshape(4, COUNT)
    assert all(sorted(epoch) == list(range(COUNT)) for epoch in epochs.tolist())
    assert len({tuple(epoch) for epoch in epochs.tolist()}) > 1


def test_the_seed_decides(root):
    same(batches(root), batches(root))
    one, other = batches(root), batches(root, seed=1)
    assert any((a.indices != b.indices).any() for a, b in zip(one, other, strict=True))


def test_to_go_on_behind_a_step_is_to_begin_there(root):
    same(batches(root)[2:], batches(root, start=2))
    same(batches(root, stop=20)[:6], batches(root))
    assert batches(root, start=6) == []


@pytest.mark.parametrize('processes', [2, 4])
def test_processes_share_a_batch(root, processes):
    whole = batches(root, batch_size=8, accumulate=2)
    shares = [
        batches(root, batch_size=8, accumulate=2, process=process, processes=processes) for process in range(processes)
    ]
    for step, batch in enumerate(whole):
        for name in ('images', 'target'):
            joined = np.concatenate([getattr(share[step], name) for share in shares], 1)
            np.testing.assert_array_equal(joined, getattr(batch, name))
        assert all((share[step].indices == batch.indices).all() for share in shares)


@pytest.mark.slow
def test_workers_and_threads_change_nothing_and_end_with_the_iterator(root):
    expected = batches(root)
    same(batches(root, threads=3), expected)
    same(batches(root, workers=2), expected)
    before = set(multiprocessing.active_children())
    going = train_batches(load(root), TASK, settings(workers=1), start=0, stop=1000)
    same([next(going)], expected[:1])
    assert set(multiprocessing.active_children()) - before
    going.close()
    deadline = time.monotonic() + 20
    while set(multiprocessing.active_children()) - before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not set(multiprocessing.active_children()) - before


def test_batches_lie_along_the_devices(root):
    mesh = sharding.data_mesh(4)
    made = train_batches(load(root), TASK, settings(4, batch_size=8, accumulate=2), start=0, stop=3)
    placed = list(input_pipeline.on_devices(made, mesh))
    for batch, images, labels in placed:
        np.testing.assert_array_equal(images, batch.images)
        np.testing.assert_array_equal(labels, batch.target)
        assert {shard.data.shape for shard in images.addressable_shards} == {(2, 1, 33, 33, 3)}
        assert len(images.sharding.device_set) == 4
    assert len(placed) == 3
    assert isinstance(placed[0][1], jax.Array)


@pytest.mark.slow
def test_a_worker_that_is_killed_is_one_line(root):
    before = set(multiprocessing.active_children())
    going = train_batches(load(root), TASK, settings(workers=1), start=0, stop=1000)
    next(going)
    for process in set(multiprocessing.active_children()) - before:
        process.kill()
    with pytest.raises(input_pipeline.WorkersError, match=r'was killed; train\.workers \(1\) times train\.batch_size'):
        list(going)


# ---- faults ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def faulty(root, tmp_path):
    """The same, of which image 2 is no image and label 3 has a value that is none."""
    for path in root.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / '2.png').write_bytes((root / '2.png').read_bytes()[:60])
    Image.fromarray(np.full((40, 50), 77, np.uint8)).save(tmp_path / '3_label.png')
    return tmp_path


@pytest.mark.parametrize('workers', [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_faulty_image_stops_and_is_named(faulty, workers):
    with pytest.raises(InputError, match=r'(cannot decode .*2\.png|3_label\.png: label value 77 is out of range)'):
        batches(faulty, workers=workers)


def test_a_faulty_image_is_skipped_for_the_next_that_is_whole_and_named(faulty):
    dataset, found = load(faulty), batches(faulty, faulty_images='skip', stop=7)
    for step, batch in enumerate(found):
        wrong = [index for index in batch.indices.tolist() if index in (2, 3)]
        names = [name for fault in batch.faults for name in ('2.png', '3_label.png') if name in fault]
        assert names == [
            name for index in wrong for name in (['2.png', '3_label.png'] if index == 2 else ['3_label.png'])
        ]
        for place, index in enumerate(batch.indices.tolist()):
            key = np.random.SeedSequence(0, spawn_key=(4 * step + place,))
            crop = preprocess.augment(key, dataset[4 if index in (2, 3) else index], crop_size=(33, 33))
            np.testing.assert_array_equal(batch.images[0, place], crop.image)
    assert sum(len(batch.faults) for batch in found) == 4 * 3


def test_where_no_image_is_whole_that_is_said(root, tmp_path):
    for path in root.iterdir():
        (tmp_path / path.name).write_bytes(b'' if path.suffix == '.png' else path.read_bytes())
    with pytest.raises(InputError, match='no image is whole; the last fault: cannot decode'):
        batches(tmp_path, faulty_images='skip')


@pytest.mark.parametrize(
    ('fields', 'said'),
    [
        ({'batch_size': 0}, 'train.batch_size is 0; it must be at least 1'),
        ({'accumulate': 0}, 'train.accumulate is 0'),
        ({'seed': -1}, 'seed is -1; it must be at least 0 and below 2**32'),
        ({'seed': 2**32}, 'seed is 4294967296'),
        ({'workers': -1}, 'train.workers is -1; it must be at least 0'),
        ({'threads': 0}, 'train.threads is 0; it must be at least 1'),
        (
            {'batch_size': 6, 'devices': 4},
            'train.batch_size is 6; it must be a multiple of train.accumulate (1) times the number of devices (4)',
        ),
        ({'batch_size': 6, 'accumulate': 4}, 'train.batch_size is 6; it must be a multiple of train.accumulate (4)'),
        ({'crop_size': (33,)}, 'train.crop_size is (33,); it must be (height, width)'),
        ({'crop_size': (33.0, 33)}, 'train.crop_size is (33.0, 33)'),
        ({'crop_size': (-15, 33)}, 'train.crop_size is (-15, 33)'),
        (
            {'crop_size': (33, 40)},
            'train.crop_size is (33, 40); it must be output stride (16) * k + 1, such as (33, 49)',
        ),
        ({'scales': ()}, 'train.scales is (); it must be one or more numbers above 0'),
        ({'scales': (1.0, -1.0)}, 'train.scales is (1.0, -1.0)'),
        ({'scales': ('1',)}, "train.scales is ('1',)"),
        ({'flip_probability': 1.5}, 'train.flip_probability is 1.5'),
        ({'faulty_images': 'ignore'}, "train.faulty_images is 'ignore'; allowed: stop, skip"),
    ],
)
def test_a_wrong_setting_is_refused(fields, said):
    with pytest.raises(InputError) as error:
        settings(**fields)
    assert str(error.value).startswith(said)


def test_workers_hold_the_data_set_by_its_paths(root):
    import pickle

    copy = pickle.loads(pickle.dumps(input_pipeline.Load(load(root), TASK, settings())))
    rows = np.array([[0, 1], [1, 2], [2, 3], [3, 4]])
    np.testing.assert_array_equal(copy(rows).images, input_pipeline.Load(load(root), TASK, settings())(rows).images)
    assert isinstance(copy.dataset.files[0][0], pathlib.Path)
