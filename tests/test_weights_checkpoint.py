import hashlib
import io
import json
import pathlib
import shutil
import types
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from dpc_jax.backbones import mobilenet_v2
from dpc_jax.base import InputError, PyTree
from dpc_jax.weights import checkpoint, tf_import

Find = Callable[[str], pathlib.Path]


def small_variables() -> PyTree:
    """One dense and one depthwise convolution with batch norm; no two entries are equal."""
    numbers = iter(range(1, 1000))

    def fresh(*shape: int) -> np.ndarray:
        return np.array([next(numbers) for _ in range(np.prod(shape))], np.float32).reshape(shape)

    def conv(*shape: int) -> dict[str, PyTree]:
        return {'kernel': fresh(*shape), 'BatchNorm': {'scale': fresh(shape[3]), 'bias': fresh(shape[3])}}

    def stats(channels: int) -> dict[str, PyTree]:
        return {'BatchNorm': {'mean': fresh(channels), 'var': fresh(channels)}}

    return {
        'params': {'Conv': conv(1, 1, 2, 3), 'expanded_conv': {'depthwise': conv(3, 3, 1, 2)}},
        'batch_stats': {'Conv': stats(3), 'expanded_conv': {'depthwise': stats(2)}},
    }


@pytest.fixture
def saved(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / 'weights.npz'
    checkpoint.save_backbone(small_variables(), path)
    return path


def arrays_of(path: pathlib.Path) -> dict[str, np.ndarray]:
    with np.load(path) as archive:
        return dict(archive)


def zeros() -> PyTree:
    return jax.tree.map(jnp.zeros_like, small_variables())


def network_shapes() -> PyTree:
    model = mobilenet_v2.Model()
    return jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 33, 33, 3), jnp.float32))


# ---- names and layouts ----------------------------------------------------------------------------------------------


def test_file_has_official_names_and_layouts(saved: pathlib.Path) -> None:
    variables, arrays = small_variables(), arrays_of(saved)
    params, stats = variables['params'], variables['batch_stats']
    norm = params['expanded_conv']['depthwise']['BatchNorm']
    scope = 'MobilenetV2/expanded_conv/depthwise'
    assert len(arrays) == 10
    np.testing.assert_array_equal(arrays['MobilenetV2/Conv/weights'], params['Conv']['kernel'])
    np.testing.assert_array_equal(arrays[f'{scope}/BatchNorm/gamma'], norm['scale'])
    np.testing.assert_array_equal(arrays[f'{scope}/BatchNorm/beta'], norm['bias'])
    np.testing.assert_array_equal(arrays['MobilenetV2/Conv/BatchNorm/moving_mean'], stats['Conv']['BatchNorm']['mean'])
    np.testing.assert_array_equal(
        arrays['MobilenetV2/Conv/BatchNorm/moving_variance'], stats['Conv']['BatchNorm']['var']
    )
    taps = arrays[f'{scope}/depthwise_weights']
    assert taps.shape == (3, 3, 2, 1)
    np.testing.assert_array_equal(taps[..., 0], params['expanded_conv']['depthwise']['kernel'][:, :, 0])


def test_network_has_the_official_variables(shared: Find) -> None:
    manifest = json.loads(shared('golden/models/mnv2_dpc_os16_small.json').read_text())
    official = {name: tuple(shape) for name, shape, _ in manifest['variables'] if name.startswith('MobilenetV2/')}
    trainable = {name for name, _, is_trained in manifest['variables'] if is_trained and name in official}
    leaves = traverse_util.flatten_dict(network_shapes())
    scopes = {'backbone': 'MobilenetV2'}
    named = {
        tf_import.official_name((path[0], 'backbone', *path[1:]), scopes): (path, leaf) for path, leaf in leaves.items()
    }
    assert named.keys() == official.keys()
    assert {name for name, (path, _) in named.items() if path[0] == 'params'} == trainable
    for name, (_, leaf) in named.items():
        height, width, *channels = leaf.shape if leaf.ndim == 4 else (*leaf.shape, 1)
        swapped = (height, width, *channels[::-1]) if name.endswith('depthwise_weights') else leaf.shape
        assert swapped == official[name], name


# ---- round trip -----------------------------------------------------------------------------------------------------


def test_round_trip_is_exact(saved: pathlib.Path) -> None:
    start = zeros()
    variables, report = checkpoint.load_backbone(start, saved)
    jax.tree.map(np.testing.assert_array_equal, variables, small_variables())
    jax.tree.map(np.testing.assert_array_equal, start, zeros())  # the argument is as it was
    assert set(report.loaded) == set(arrays_of(saved))
    assert (report.missing, report.unused) == ((), ())


def test_official_weights_survive_the_round_trip_bit_for_bit(shared: Find, tmp_path: pathlib.Path) -> None:
    official = shared('data/mobilenet_v2/imagenet.npz')
    variables, report = checkpoint.load_backbone(network_shapes(), official)
    checkpoint.save_backbone(variables, tmp_path / 'ours.npz')
    theirs, ours = arrays_of(official), arrays_of(tmp_path / 'ours.npz')
    assert set(ours) == set(report.loaded) == set(theirs) - set(report.unused)
    assert {name.split('/')[1] for name in report.unused} == {'Conv_1', 'Logits'}
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name, strict=True)


def test_a_backbone_comes_from_a_whole_checkpoint_of_tensorflow(shared: Find, tmp_path: pathlib.Path) -> None:
    prefix = shared('golden/ckpt_mnv2_dpc') / 'model.ckpt-90000'
    variables, report = checkpoint.load_backbone(network_shapes(), prefix)
    assert len(report.loaded) == len(jax.tree.leaves(network_shapes()))
    assert {name.split('/')[0] for name in report.unused} == {'meta_architecture', 'logits'}
    checkpoint.save_backbone(variables, tmp_path / 'backbone.npz')
    stored = tf_import.read(prefix)
    for name, value in arrays_of(tmp_path / 'backbone.npz').items():
        np.testing.assert_array_equal(value, stored[name], err_msg=name, strict=True)
    digests = {checkpoint.fingerprint(path) for path in (prefix, prefix.parent, f'{prefix}.index')}
    assert len(digests) == 1
    assert digests != {checkpoint.fingerprint(f'{prefix.parent}/tiny/single.ckpt')}


def test_another_scope_is_another_network(saved: pathlib.Path, tmp_path: pathlib.Path) -> None:
    checkpoint.save_backbone(small_variables(), tmp_path / 'other', scope='xception_71')
    assert all(name.startswith('xception_71/') for name in arrays_of(tmp_path / 'other'))
    variables, _ = checkpoint.load_backbone(zeros(), tmp_path / 'other', scope='xception_71')
    jax.tree.map(np.testing.assert_array_equal, variables, small_variables())


def test_fingerprint_is_sha256_and_equal_variables_give_equal_files(
    saved: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    checkpoint.save_backbone(small_variables(), tmp_path / 'again.npz')
    assert checkpoint.fingerprint(saved) == hashlib.sha256(saved.read_bytes()).hexdigest()
    assert checkpoint.fingerprint(saved) == checkpoint.fingerprint(tmp_path / 'again.npz')
    checkpoint.save_backbone(zeros(), tmp_path / 'again.npz')
    assert checkpoint.fingerprint(saved) != checkpoint.fingerprint(tmp_path / 'again.npz')


def test_a_save_that_fails_leaves_the_old_file(saved: pathlib.Path) -> None:
    before = saved.read_bytes()
    with pytest.raises(ValueError, match='Object arrays'):
        checkpoint.save_backbone({'params': {'Conv': {'kernel': np.array([None])}}}, saved)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ['weights.npz']


# ---- the difference -------------------------------------------------------------------------------------------------


def rewrite(path: pathlib.Path, **changes: np.ndarray | None) -> None:
    """Sets variables of the file, named without their scope and with `.` for `/`; None removes one."""
    named = {f'MobilenetV2/{name.replace(".", "/")}': value for name, value in changes.items()}
    arrays = arrays_of(path) | named
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})


def test_unused_variables_are_reported_and_harmless(saved: pathlib.Path) -> None:
    rewrite(saved, **{'Logits.weights': np.ones(3), 'Logits.names': np.array(['text'])})
    variables, report = checkpoint.load_backbone(zeros(), saved)
    jax.tree.map(np.testing.assert_array_equal, variables, small_variables())
    assert report.unused == ('MobilenetV2/Logits/weights', 'MobilenetV2/Logits/names')


def test_missing_variables_are_an_error_unless_allowed(saved: pathlib.Path) -> None:
    rewrite(saved, **{'Conv.weights': None, 'Conv.BatchNorm.moving_mean': None})
    with pytest.raises(InputError, match=r'lacks 2 of 10 variables: MobilenetV2/Conv/\S+, MobilenetV2/Conv/\S+$'):
        checkpoint.load_backbone(zeros(), saved)
    variables, report = checkpoint.load_backbone(zeros(), saved, allow_missing=True)
    assert set(report.missing) == {'MobilenetV2/Conv/weights', 'MobilenetV2/Conv/BatchNorm/moving_mean'}
    assert len(report.loaded) == 8
    assert not variables['params']['Conv']['kernel'].any()  # kept its value
    np.testing.assert_array_equal(
        variables['batch_stats']['Conv']['BatchNorm']['var'],
        small_variables()['batch_stats']['Conv']['BatchNorm']['var'],
    )


# ---- faults: each is one line that names the file -------------------------------------------------------------------


def refusal(path: pathlib.Path) -> str:
    with pytest.raises(InputError) as caught:
        checkpoint.load_backbone(zeros(), path)
    message = str(caught.value)
    assert '\n' not in message
    assert message.startswith(f"weights file '{path}'")
    return message


def test_absent_file(tmp_path: pathlib.Path) -> None:
    assert 'No such file' in refusal(tmp_path / 'absent.npz')
    with pytest.raises(InputError, match=r"^weights file '.*absent.npz': No such file"):
        checkpoint.fingerprint(tmp_path / 'absent.npz')


def test_folder_instead_of_file(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match=r"^'.*' holds no checkpoint"):
        checkpoint.load_backbone(zeros(), tmp_path)


def npy_bytes() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ones(3))
    return buffer.getvalue()


@pytest.mark.parametrize('content', [b'', b'not an archive', npy_bytes()], ids=['empty', 'text', 'npy'])
def test_file_that_is_no_archive(tmp_path: pathlib.Path, content: bytes) -> None:
    (tmp_path / 'file').write_bytes(content)
    assert 'not an .npz archive, or is cut short or corrupt' in refusal(tmp_path / 'file')


@pytest.mark.parametrize('share', [0.01, 0.5, 0.99])
def test_file_cut_short(saved: pathlib.Path, share: float) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[: int(len(content) * share)])
    assert 'cut short or corrupt' in refusal(saved)


def test_a_flipped_bit_is_refused_or_touches_no_value(saved: pathlib.Path) -> None:
    content, refused = saved.read_bytes(), 0
    for position in range(0, len(content), 17):
        flipped = bytearray(content)
        flipped[position] ^= 0x10
        saved.write_bytes(flipped)
        try:
            variables, _ = checkpoint.load_backbone(zeros(), saved)
        except InputError:
            refused += 1
        else:  # dates and attributes of the archive's entries
            jax.tree.map(np.testing.assert_array_equal, variables, small_variables())
    assert refused > len(content) / 17 / 2


def test_file_of_another_network(saved: pathlib.Path) -> None:
    np.savez(saved, **{f'resnet/conv{i}': np.ones(3) for i in range(9)})
    message = refusal(saved)
    assert 'holds resnet/conv0, resnet/conv1, resnet/conv2 and 6 more; the network needs MobilenetV2/' in message
    np.savez(saved)
    assert 'it holds nothing' in refusal(saved)


@pytest.mark.parametrize(
    ('name', 'shape', 'needed'),
    [
        ('Conv/weights', (1, 1, 2, 4), (1, 1, 2, 3)),
        ('expanded_conv/depthwise/depthwise_weights', (3, 3, 1, 2), (3, 3, 2, 1)),
    ],
)
def test_wrong_shape(saved: pathlib.Path, name: str, shape: tuple[int, ...], needed: tuple[int, ...]) -> None:
    rewrite(saved, **{name.replace('/', '.'): np.ones(shape, np.float32)})
    assert f'MobilenetV2/{name} has shape {shape}, the network needs {needed}' in refusal(saved)


def test_values_that_are_no_floating_point_numbers(saved: pathlib.Path) -> None:
    rewrite(saved, **{'Conv.BatchNorm.beta': np.array([1, 2, 3])})
    assert 'MobilenetV2/Conv/BatchNorm/beta has type int64, it must be floating-point' in refusal(saved)
    rewrite(saved, **{'Conv.BatchNorm.beta': np.array([1, np.nan, 3])})
    assert 'MobilenetV2/Conv/BatchNorm/beta has values that are not finite' in refusal(saved)


def test_double_precision_in_the_file_becomes_the_networks_type(saved: pathlib.Path) -> None:
    rewrite(saved, **{'Conv.BatchNorm.beta': np.array([0.1, 0.2, 0.3])})
    variables, _ = checkpoint.load_backbone(zeros(), saved)
    beta = variables['params']['Conv']['BatchNorm']['bias']
    assert beta.dtype == jnp.float32
    np.testing.assert_array_equal(beta, np.array([0.1, 0.2, 0.3], np.float32))


# ---- whole networks as Orbax checkpoints ----------------------------------------------------------------------------


def shapes_of(variables: PyTree) -> PyTree:
    return jax.eval_shape(lambda: variables)


@pytest.fixture
def kept(tmp_path: pathlib.Path) -> pathlib.Path:
    checkpoint.save(tmp_path / 'kept', small_variables())
    return tmp_path / 'kept'


def restore_refusal(path: pathlib.Path, variables: PyTree | None = None) -> str:
    with pytest.raises(InputError) as caught:
        checkpoint.restore(path, shapes_of(variables or small_variables()))
    message = str(caught.value)
    assert '\n' not in message
    assert message.startswith(f"checkpoint '{path}'")
    return message.removeprefix(f"checkpoint '{path}'")


def test_what_was_saved_is_restored_exactly(kept: pathlib.Path) -> None:
    restored = checkpoint.restore(kept, shapes_of(small_variables()))
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y, strict=True), restored, small_variables())
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(restored))
    assert [path.name for path in kept.parent.iterdir()] == ['kept']


def test_what_was_saved_on_many_devices_is_restored_on_one(tmp_path: pathlib.Path) -> None:
    mesh = jax.make_mesh((4,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    checkpoint.save(tmp_path / 'kept', jax.device_put(small_variables(), everywhere))
    restored = checkpoint.restore(tmp_path / 'kept', shapes_of(small_variables()))
    jax.tree.map(np.testing.assert_array_equal, restored, small_variables())
    assert {len(leaf.devices()) for leaf in jax.tree.leaves(restored)} == {1}


def test_paths_may_be_relative_new_or_empty(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'empty').mkdir()
    for path in ('empty', 'new', 'a/b/c'):
        checkpoint.save(path, small_variables())
        restored = checkpoint.restore(path, shapes_of(small_variables()))
        jax.tree.map(np.testing.assert_array_equal, restored, small_variables())


def test_checksums_can_be_verified_with_the_usual_tool(kept: pathlib.Path) -> None:
    lines = (kept / 'SHA256SUMS').read_text().splitlines()
    sums = {line[66:]: line[:64] for line in lines}
    files = {str(path.relative_to(kept)): path for path in kept.rglob('*') if path.is_file()}
    assert sums == {
        name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items() if name != 'SHA256SUMS'
    }


def test_nothing_is_overwritten(kept: pathlib.Path) -> None:
    file = kept.parent / 'file'
    file.write_text('text')
    for path in (kept, file):
        with pytest.raises(InputError, match=r"' exists already; give a folder that is new or empty$"):
            checkpoint.save(path, zeros())
    with pytest.raises(InputError, match=r"file/below': (Not a directory|File exists)$"):
        checkpoint.save(file / 'below', zeros())
    restored = checkpoint.restore(kept, shapes_of(small_variables()))
    jax.tree.map(np.testing.assert_array_equal, restored, small_variables())


def test_a_checkpoint_that_fails_leaves_nothing(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('dpc_jax.files.write', full)
    with pytest.raises(InputError, match=r"kept': no space is left on the disk$"):
        checkpoint.save(tmp_path / 'kept', small_variables())
    assert list(tmp_path.iterdir()) == []


def test_too_little_room_is_seen_before_anything_is_written(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: types.SimpleNamespace(free=0))
    with pytest.raises(InputError, match=r"kept': no space is left on the disk \(0\.\d MB needed, 0\.0 MB free\)$"):
        checkpoint.save(tmp_path / 'kept', small_variables())
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_checkpoint(tmp_path: pathlib.Path) -> None:
    (tmp_path / 'file').write_text('text')
    assert restore_refusal(tmp_path / 'absent') == ': no such folder'
    assert restore_refusal(tmp_path / 'file').startswith(' is a file; wanted: a folder that a training wrote')
    assert restore_refusal(tmp_path) == ' is not of this project, or damaged: no readable SHA256SUMS'


def test_any_change_of_any_file_is_refused(kept: pathlib.Path) -> None:
    files = sorted(path for path in kept.rglob('*') if path.is_file())
    assert len(files) > 5
    for file in files:
        content = file.read_bytes()
        for position in range(0, len(content), 1 + len(content) // 40):
            flipped = bytearray(content)
            flipped[position] ^= 1 << position % 8
            for damaged in (bytes(flipped), content[:position]):
                file.write_bytes(damaged)
                assert 'damaged' in restore_refusal(kept)
        file.unlink()
        assert 'damaged' in restore_refusal(kept)
        file.write_bytes(content)
    checkpoint.restore(kept, shapes_of(small_variables()))


def test_a_file_that_is_gone_is_called_missing(kept: pathlib.Path) -> None:
    (name, *_) = sorted(path.name for path in kept.iterdir() if path.is_file() and path.name != 'SHA256SUMS')
    (kept / name).unlink()
    assert restore_refusal(kept) == f' is damaged: {name} is missing'


def test_a_file_that_was_added_is_refused_unless_it_is_hidden_or_lies_beside(kept: pathlib.Path) -> None:
    (kept / '.DS_Store').write_text('of a file manager')
    (kept / 'README.md').write_text("of the user's")
    checkpoint.restore(kept, shapes_of(small_variables()))
    for name in ('network.json', '_sharding_of_others', 'more.ocdbt'):  # these might be read
        (kept / name).write_text('{}')
        assert restore_refusal(kept) == f' is damaged: {name} is not as SHA256SUMS says'
        (kept / name).unlink()
    checkpoint.restore(kept, shapes_of(small_variables()))
    (kept / 'd/more').write_text('text')
    assert restore_refusal(kept) == ' is damaged: d/more is not as SHA256SUMS says'


def test_another_network_is_told_by_the_first_name_that_differs(kept: pathlib.Path) -> None:
    more, fewer = small_variables(), small_variables()
    more['params']['Conv']['bias'] = np.ones(3, np.float32)
    del fewer['batch_stats']['expanded_conv']
    assert restore_refusal(kept, more) == ' belongs to another network: it lacks params/Conv/bias'
    words = (
        ' belongs to another network: it has batch_stats/expanded_conv/depthwise/BatchNorm/mean, which is not needed'
    )
    assert restore_refusal(kept, fewer) == words


def test_other_shapes_and_types_are_told_both(kept: pathlib.Path) -> None:
    other = small_variables()
    other['params']['Conv']['kernel'] = np.ones((1, 1, 2, 7), np.float32)
    words = ': params/Conv/kernel is float32 (1, 1, 2, 3), the network needs float32 (1, 1, 2, 7)'
    assert restore_refusal(kept, other) == words
    other['params']['Conv']['kernel'] = np.ones((1, 1, 2, 3), np.float16)
    words = ': params/Conv/kernel is float32 (1, 1, 2, 3), the network needs float16 (1, 1, 2, 3)'
    assert restore_refusal(kept, other) == words


def test_a_checkpoint_can_be_replaced_and_nothing_else(tmp_path):
    variables = small_variables()
    checkpoint.save(tmp_path / 'best', variables)
    other = jax.tree.map(lambda leaf: leaf + 1, variables)
    with pytest.raises(InputError, match='exists already'):
        checkpoint.save(tmp_path / 'best', other)
    checkpoint.save(tmp_path / 'best', other, replace=True)
    jax.tree.map(np.testing.assert_array_equal, checkpoint.read(tmp_path / 'best'), other)
    assert [path.name for path in tmp_path.iterdir()] == ['best']
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine/file').write_text('mine')
    with pytest.raises(InputError, match='exists already'):
        checkpoint.save(tmp_path / 'mine', other, replace=True)
    checkpoint.save(tmp_path / 'new', other, replace=True)
    jax.tree.map(np.testing.assert_array_equal, checkpoint.read(tmp_path / 'new'), other)
