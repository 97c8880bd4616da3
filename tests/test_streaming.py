"""Features that stay on disk: the same minibatches, the same scores, and never more than two spans on a device."""

import contextlib
import dataclasses
import time

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from dpc_jax import files, memory, population, sharding
from dpc_jax.base import InputError, stack, unstack
from dpc_jax.cell import CellSettings
from dpc_jax.heads.dpc import Head
from dpc_jax.population import PopulationEvaluator
from dpc_jax.proxy import Plan, ProxySettings, image_order
from dpc_jax.spaces.dpc import Space
from dpc_jax.streaming import StreamedData

pytestmark = pytest.mark.usefixtures('quick_compilation')

STEPS = 7  # with scores after 3 and 7, in spans of 2: the last of each is shorter
SETTINGS = ProxySettings(
    Head(3, CellSettings(4, 16, decay=0.9)), STEPS, 2, learning_rate=0.15, evaluations=2, eval_batch_size=2
)
TRAIN, VAL = 9, 5


@pytest.fixture(scope='module')
def on_disk(tmp_path_factory):
    """Memory-mapped, as a cache is; labels are every second pixel of what is in the file."""
    folder, rng = tmp_path_factory.mktemp('arrays'), np.random.default_rng(0)

    def saved(name, array):
        np.save(folder / name, array)
        return np.load(folder / f'{name}.npy', mmap_mode='r')

    def split(name, count, size, label_size):
        features = rng.normal(size=(count, *size, 6)).astype(ml_dtypes.bfloat16)
        labels = rng.integers(0, 3, (count, *label_size)).astype(np.uint8)
        mapped = saved(f'{name}_features', features.view(np.uint16)).view(ml_dtypes.bfloat16)
        return {16: mapped}, saved(f'{name}_labels', labels)

    train, labels = split('train', TRAIN, (5, 7), (17, 25))
    return StreamedData(train, labels[:, ::2, ::2], *split('val', VAL, (6, 5), (41, 33)), sharding.population_mesh(1))


@pytest.fixture(scope='module')
def cells():
    space = Space(2)
    return stack([*unstack(space.sample(jax.random.key(1), 3)), space.named('conv1x1')])


def evaluator_of(data, chunk, steps_per_call=2):
    return PopulationEvaluator(SETTINGS, data, 0, chunk, 4, steps_per_call, data_mesh(data))


def data_mesh(data):
    return getattr(data, 'mesh', sharding.population_mesh(1))


# ---- what is read ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('steps_per_call', [1, 3, 4, 20], ids=lambda n: f'spans of {n}')
def test_every_step_finds_its_images_in_blocks_of_one_shape(on_disk, steps_per_call):
    order = image_order(jax.random.key(0), TRAIN, SETTINGS)
    plan = Plan(jax.random.key(1), jax.random.key(2), jnp.asarray(order))
    edges, shapes, seen = [*range(0, STEPS, steps_per_call), STEPS], set(), []
    for images, of_block, (start, stop) in on_disk.blocks(plan, edges, steps_per_call):
        shapes.add((images.features[16].shape, images.labels.shape, of_block.order.shape))
        for step in range(start, stop):
            places = of_block.order[step - of_block.first]
            np.testing.assert_array_equal(images.features[16][places], on_disk.train_features[16][order[step]])
            np.testing.assert_array_equal(images.labels[places], on_disk.train_labels[order[step]])
            seen.append(step)
    assert seen == list(range(STEPS))
    assert shapes == {
        ((min(TRAIN, 2 * steps_per_call), 5, 7, 6), (min(TRAIN, 2 * steps_per_call), 9, 13), (steps_per_call, 2))
    }


@pytest.mark.parametrize('steps_per_call', [1, 12, 100])
def test_all_of_val_comes_once_in_whole_batches(on_disk, steps_per_call):
    blocks = list(on_disk.val_blocks(SETTINGS, steps_per_call))
    assert len({images.labels.shape for images, _ in blocks}) == 1
    assert all(len(images.labels) % SETTINGS.eval_batch_size == 0 for images, _ in blocks)
    assert all(count % SETTINGS.eval_batch_size == 0 for _, count in blocks[:-1])
    for name in ('features', 'labels'):
        arrays = [getattr(images, name) for images, _ in blocks]
        arrays = [array[16] if name == 'features' else array for array in arrays]
        found = np.concatenate([array[:count] for array, (_, count) in zip(arrays, blocks, strict=True)])
        held = on_disk.val_features[16] if name == 'features' else on_disk.val_labels
        np.testing.assert_array_equal(found, held)
    assert (len(blocks) > 1) == (steps_per_call == 1)


# ---- scores ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('chunk', [1, 2])
def test_scores_are_those_of_features_on_the_device(on_disk, cells, chunk):
    """Bit for bit, also for those that others' ends have moved, by one program whatever the spans are."""
    whole = evaluator_of(on_disk.on_device(), chunk)(cells)
    assert whole.finite.all()
    population.programs.cache_clear()
    streamed = evaluator_of(on_disk, chunk)
    stopped = streamed(cells, lambda *_: np.array([False, True, True, False]))
    result = streamed(cells)
    for name in ('scores', 'curves', 'losses', 'confusions', 'steps'):
        np.testing.assert_array_equal(getattr(result, name), getattr(whole, name))
        going = [1, 2]
        np.testing.assert_array_equal(getattr(stopped, name)[going], getattr(whole, name)[going])
    np.testing.assert_array_equal(stopped.curves[:, 0], whole.curves[:, 0])
    assert stopped.steps.tolist() == [3, STEPS, STEPS, 3]
    assert [population.compilations(program) for program in streamed.programs] == [1, 1, 1]


def test_two_spans_at_most_are_on_a_device(on_disk, cells, monkeypatch):
    shape, found = (4, 5, 7, 6), []  # of the features of two steps

    def note():
        found.append(sum(array.shape == shape and not array.is_deleted() for array in jax.live_arrays()))

    send = StreamedData._send

    def noted_send(self, *args):
        sent = send(self, *args)
        note()
        return sent

    monkeypatch.setattr(StreamedData, '_send', noted_send)
    evaluator = evaluator_of(on_disk, 1)
    real = evaluator.programs

    def slow(*args):
        result = real.train(*args)
        time.sleep(0.1)  # the next span has come meanwhile
        note()
        return result

    monkeypatch.setattr(PopulationEvaluator, 'programs', property(lambda self: real._replace(train=slow)))
    evaluator(cells)
    assert max(found) == 2
    assert not sum(array.shape == shape for array in jax.live_arrays())


def test_what_is_not_asked_for_is_not_read(on_disk, monkeypatch):
    plan = Plan(jax.random.key(1), jax.random.key(2), jnp.asarray(image_order(jax.random.key(0), TRAIN, SETTINGS)))
    sent = []
    monkeypatch.setattr(StreamedData, '_send', lambda self, held, chosen, rows: sent.append(chosen))
    with contextlib.closing(on_disk.blocks(plan, range(STEPS + 1), 1)) as blocks:
        next(blocks)
    assert len(sent) <= 2


# ---- where they lie -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('stream', 'device', 'host', 'expected'),
    [
        ('auto', 2.0, 0.0, False),  # in shares of what is needed
        ('auto', 1.2, 9.0, True),  # some is left for the program
        ('auto', None, 3.0, False),
        ('auto', None, 2.5, True),  # two devices of a CPU share its memory
        ('auto', None, None, False),  # nobody says
        ('never', 0.1, 0.1, False),
        ('always', 9.0, 9.0, True),
    ],
)
def test_features_stay_on_disk_where_they_do_not_fit(on_disk, monkeypatch, capsys, stream, device, host, expected):
    def share(part):
        return None if part is None else int(part * on_disk.num_bytes)

    monkeypatch.setattr(memory, 'device_memory', lambda mesh: share(device))
    monkeypatch.setattr(files, 'available_memory', lambda: share(host))
    data = dataclasses.replace(on_disk, mesh=sharding.population_mesh(2))
    assert memory.is_streamed(stream, data) == expected
    assert ('stay on disk' in capsys.readouterr().out) == (expected and stream == 'auto')


def test_features_that_turn_out_not_to_fit_stay_on_disk_or_are_one_line(on_disk, monkeypatch, capsys):
    for said, stream, kind in (
        ('RESOURCE_EXHAUSTED', 'auto', None),
        ('RESOURCE_EXHAUSTED', 'never', InputError),
        ('INTERNAL', 'auto', jax.errors.JaxRuntimeError),
    ):

        def refuse(self, said=said):
            raise jax.errors.JaxRuntimeError(f'{said}: no')

        monkeypatch.setattr(StreamedData, 'on_device', refuse)
        with contextlib.nullcontext() if kind is None else pytest.raises(kind) as caught:
            assert memory.place(stream, on_disk) is on_disk
        if kind is InputError:
            assert str(caught.value) == (
                '0.0 GiB of features do not fit the device with proxy.stream never; auto and always leave them on disk'
            )
    assert capsys.readouterr().out == 'the device does not hold the features, which stay on disk\n'


def test_the_memory_of_a_container_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(files, 'CONTAINER', tmp_path)
    whole = files.available_memory()
    assert whole is None or whole > 0  # Linux says, others do not
    for name, text in (
        ('memory.max', '5000'),
        ('memory.current', '3000'),
        ('memory.stat', 'anon 1\ninactive_file 700'),
    ):
        (tmp_path / name).write_text(f'{text}\n')
    assert files.available_memory() == 2700
    (tmp_path / 'memory.max').write_text('max\n')
    assert (files.available_memory() is None) == (whole is None)
