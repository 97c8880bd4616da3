"""Checkpoints of a training: what comes back, what is passed over, what is said where the disk is full."""

import logging
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpc_jax import sharding
from dpc_jax.base import InputError
from dpc_jax.training import checkpoint as train_checkpoint
from dpc_jax.training import step as train_step
from dpc_jax.training.checkpoint import Checkpoints
from dpc_jax.training.step import StepSettings
from dpc_jax.weights import checkpoint
from dpc_jax.weights.checkpoint import SUMS
from tests import small

ROOT = pathlib.Path(__file__).resolve().parent.parent


def tree(step):
    """Leaves of several types, large enough that a half of them is missed."""
    draw = np.random.default_rng(step)
    weights = draw.standard_normal((64, 64)).astype(np.float32)
    return {'params': {'w': jnp.asarray(weights), 'b': jnp.full((3,), step, jnp.bfloat16)}, 'step': jnp.int32(step)}


SHAPES = jax.eval_shape(lambda: tree(0))


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    """The folder of a run that saved the steps 1 to 4 and keeps 2."""
    folder = tmp_path_factory.mktemp('run') / 'checkpoints'
    with Checkpoints(folder, keep=2) as checkpoints:
        assert checkpoints.restore(SHAPES) is None
        for step in (1, 2, 3, 4):
            checkpoints.save(step, tree(step), {'seconds': step / 2})
    return folder


@pytest.fixture
def folder(written, tmp_path):
    return shutil.copytree(written, tmp_path / 'checkpoints')


def restored(folder):
    with Checkpoints(folder, keep=2) as checkpoints:
        return checkpoints.restore(SHAPES)


def steps(folder):
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())


def same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_the_newest_comes_back_bit_for_bit_and_the_last_few_are_kept(folder):
    found, facts = restored(folder)
    same(found, tree(4))
    assert facts == {'seconds': 2.0}
    assert steps(folder) == [3, 4]


def test_a_whole_training_state_comes_back(tmp_path):
    net, settings = small.network(), StepSettings(small.TASK, ema_decay=0.9)
    state = small.state(net, settings)
    placed = sharding.replicate(state, sharding.data_mesh(4))
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(0, placed, {})
        jax.tree.map(lambda leaf: leaf.delete(), placed)  # as a step does that is given its state
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        found, _ = checkpoints.restore(train_step.state_shapes(net, settings))
    same(found, state)
    assert isinstance(found, train_step.TrainState)


def test_a_step_that_is_there_is_not_written_again(folder):
    with Checkpoints(folder, keep=2) as checkpoints:
        checkpoints.save(4, tree(9), {})
    same(restored(folder)[0], tree(4))


def largest(folder):
    return max((path for path in folder.rglob('*') if path.is_file()), key=lambda path: path.stat().st_size)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def without_sums(path):
    while path.parent.name != 'checkpoints':
        path = path.parent
    (path / SUMS).unlink()


@pytest.mark.parametrize('spoil', [flip, halve, pathlib.Path.unlink, without_sums])
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(folder, caplog, capfd, spoil):
    spoil(largest(folder / '4'))
    with caplog.at_level(logging.WARNING):
        found, _ = restored(folder)
    same(found, tree(3))
    assert [record.message[:22] for record in caplog.records] == ['step 4 is passed over:']
    assert 'Traceback' not in capfd.readouterr().err
    assert steps(folder) == [3]
    with Checkpoints(folder, keep=2) as checkpoints:
        checkpoints.save(4, tree(4), {})
    same(restored(folder)[0], tree(4))


def test_where_none_is_whole_nothing_is_removed(folder):
    for step in ('3', '4'):
        flip(largest(folder / step))
    with pytest.raises(
        InputError, match=r'no checkpoint in .* is whole \(steps 3, 4\); remove the folder to begin anew'
    ):
        restored(folder)
    assert steps(folder) == [3, 4]


def test_a_first_checkpoint_that_was_not_finished_is_none(folder):
    for step in ('3', '4'):
        without_sums(largest(folder / step))
    assert restored(folder) is None
    assert steps(folder) == []


def test_what_a_killed_run_left_half_written_is_removed(folder):
    (folder / '5.orbax-checkpoint-tmp-77').mkdir()
    same(restored(folder)[0], tree(4))
    assert not list(folder.glob('*tmp*'))


SAVER = """
import sys, pathlib
sys.path.insert(0, '.')
from tests.test_training_checkpoint import tree
from dpc_jax.training.checkpoint import Checkpoints
with Checkpoints(pathlib.Path(sys.argv[1]), keep=3) as checkpoints:
    for step in range(1, 1000):
        checkpoints.save(step, tree(step), {})
        print(step, flush=True)
"""


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
    for number, delay in enumerate((0.0, 0.013, 0.037, 0.071)):
        folder = tmp_path / str(number)
        process = subprocess.Popen(
            [sys.executable, '-c', SAVER, str(folder)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4):
            begun = int(process.stdout.readline())
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        found, _ = restored(folder)
        assert int(found['step']) >= begun - 2
        same(found, tree(int(found['step'])))


def save_many(folder):
    with Checkpoints(folder, keep=100) as checkpoints:
        for step in range(1, 60):
            checkpoints.save(step, tree(step), {})


@pytest.mark.parametrize('kilobytes', range(360, 460, 20))  # ends in several of the files of a checkpoint
def test_a_full_disk_is_one_line_and_older_checkpoints_stay(tmp_path, kilobytes, capfd):
    small_disk = tmp_path / 'disk'
    small_disk.mkdir()
    mount = ['mount', '-t', 'tmpfs', '-o', f'size={kilobytes}k', 'tmpfs', str(small_disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip('a file system that is small enough to be full can be mounted by root only')
    try:
        folder = small_disk / 'checkpoints'
        with pytest.raises(
            InputError, match=r'^the checkpoint of step \d+ cannot be written into .*: no space is left'
        ):
            save_many(folder)
        found, _ = restored(folder)
        same(found, tree(int(found['step'])))
        assert int(found['step']) >= 1
        assert 'Traceback' not in capfd.readouterr().err
    finally:
        subprocess.run(['umount', '-l', str(small_disk)], check=True)


@pytest.mark.parametrize(
    ('error', 'said'),
    [
        (OSError(28, 'No space left on device'), 'no space is left on the disk; the same command goes on from step 4'),
        (ValueError('RESOURCE_EXHAUSTED: writing'), 'no space is left on the disk; the same command'),
        (
            PermissionError(13, 'Permission denied'),
            '[Errno 13] Permission denied; the same command goes on from step 4',
        ),
    ],
)
def test_what_goes_wrong_in_writing_is_one_line(folder, monkeypatch, error, said):
    def fail(*_, **__):
        raise error

    with Checkpoints(folder, keep=2) as checkpoints:
        monkeypatch.setattr(checkpoints._manager, 'save', fail)
        with pytest.raises(InputError) as found:
            checkpoints.save(5, tree(5), {})
    assert str(found.value).startswith(f'the checkpoint of step 5 cannot be written into {folder}: {said}')


def test_too_little_room_is_seen_before_anything_is_written(folder, monkeypatch):
    before = sorted(folder.rglob('*'))
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: types.SimpleNamespace(free=16_000))
    with Checkpoints(folder, keep=2) as checkpoints, pytest.raises(InputError) as found:
        checkpoints.save(5, tree(5), {})
    assert 'no space is left on the disk (0.0 MB needed, 0.0 MB free); the same command goes' in str(found.value)
    assert sorted(folder.rglob('*')) == before


def test_a_fault_of_ours_is_no_full_disk(folder, monkeypatch):
    def fail(*_, **__):
        raise ValueError('a fault')

    with Checkpoints(folder, keep=2) as checkpoints:
        monkeypatch.setattr(checkpoints._manager, 'save', fail)
        with pytest.raises(ValueError, match='a fault'):
            checkpoints.save(5, tree(5), {})


def test_leaves_are_named_by_their_paths():
    assert list(train_checkpoint.flat(tree(1))) == ['params.b', 'params.w', 'step']


def test_a_state_is_no_weights(folder):
    with pytest.raises(InputError, match=r"/4' has no weights alone; a training writes them into weights/ and best/$"):
        checkpoint.read(folder / '4')
