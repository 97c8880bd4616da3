"""Official variables into ours and back: names, files of every kind, and the one line for each thing that is wrong."""

import io
import json
import pathlib
import tarfile
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import ml_collections
import ml_dtypes
import numpy as np
import pytest
from flax import traverse_util

from configs import common
from dpc_jax import networks
from dpc_jax.base import InputError, PyTree
from dpc_jax.segmenter import Segmenter
from dpc_jax.weights import tf_bundle, tf_import

Find = Callable[[str], pathlib.Path]

GOLDEN = 'golden/ckpt_mnv2_dpc'
SCOPES = {'backbone': 'MobilenetV2', 'context': 'meta_architecture', 'logits': 'logits/semantic'}


def network_of(num_classes: int = 19, **fields: object) -> Segmenter:
    """The network of the golden checkpoint, or with other fields of the config (`__` for `.`)."""
    config: ml_collections.ConfigDict = common.network_config()
    config.decoder.output_stride = 0
    config.update_from_flattened_dict({name.replace('__', '.'): value for name, value in fields.items()})
    return networks.make(config, num_classes)


def small() -> PyTree:
    """A network of three parts with every kind of variable; no two entries are equal."""
    numbers = iter(range(1, 1000))

    def fresh(*shape: int) -> np.ndarray:
        return np.array([next(numbers) / 8 for _ in range(np.prod(shape))], np.float32).reshape(shape)

    norm = {'scale': fresh(3), 'bias': fresh(3)}
    return {
        'params': {
            'backbone': {'Conv': {'kernel': fresh(1, 1, 2, 3), 'BatchNorm': norm}},
            'context': {'branch0_depthwise': {'kernel': fresh(3, 3, 1, 4)}},
            'logits': {'kernel': fresh(1, 1, 3, 5), 'bias': fresh(5)},
        },
        'batch_stats': {'backbone': {'Conv': {'BatchNorm': {'mean': fresh(3), 'var': fresh(3)}}}},
    }


def stored_of(variables: PyTree, **changes: object) -> dict[str, np.ndarray]:
    """Its official variables; `changes` are named by the last two words of a name, None removes one."""
    stored = tf_import.to_official(variables, SCOPES)
    for words, value in changes.items():
        (name,) = [name for name in stored if name.endswith(words.replace('__', '/'))]
        stored[name] = value
    return {name: value for name, value in stored.items() if value is not None}


def zeros() -> PyTree:
    return jax.tree.map(jnp.zeros_like, small())


def refusal(stored: Mapping[str, np.ndarray], variables: PyTree | None = None, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        tf_import.assign(variables or zeros(), stored, SCOPES, source="checkpoint 'x'", **options)
    message = str(caught.value)
    assert '\n' not in message
    assert message.startswith("checkpoint 'x'")
    return message.removeprefix("checkpoint 'x'").removeprefix(':').strip()


def same(found: PyTree, expected: PyTree) -> bool:
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y, strict=True), found, expected)
    return True


# ---- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('path', 'name'),
    [
        ('params/backbone/Conv/kernel', 'MobilenetV2/Conv/weights'),
        ('params/backbone/expanded_conv/depthwise/kernel', 'MobilenetV2/expanded_conv/depthwise/depthwise_weights'),
        ('params/backbone/Conv/BatchNorm/scale', 'MobilenetV2/Conv/BatchNorm/gamma'),
        ('params/context/branch0_depthwise/BatchNorm/bias', 'meta_architecture/branch0_depthwise/BatchNorm/beta'),
        ('batch_stats/context/branch1/BatchNorm/mean', 'meta_architecture/branch1/BatchNorm/moving_mean'),
        ('batch_stats/backbone/Conv/BatchNorm/var', 'MobilenetV2/Conv/BatchNorm/moving_variance'),
        ('params/logits/kernel', 'logits/semantic/weights'),
        ('params/logits/bias', 'logits/semantic/biases'),
    ],
)
def test_official_names(path: str, name: str) -> None:
    assert tf_import.official_name(tuple(path.split('/')), SCOPES) == name


def test_an_empty_scope_leaves_no_slash() -> None:
    path = ('params', 'context', 'aspp1_depthwise', 'kernel')
    assert tf_import.official_name(path, {'context': ''}) == 'aspp1_depthwise/depthwise_weights'


@pytest.mark.parametrize(
    ('file', 'backbone', 'context'),
    [
        ('mobilenetv2_dpc_decoder', 'mobilenet_v2', 'dpc'),
        ('xception65_aspp_decoder', 'xception_65', 'aspp'),
        ('xception65_dpc_decoder', 'xception_65', 'dpc'),
        ('xception71_dpc_decoder', 'xception_71', 'dpc'),
    ],
)
def test_whole_networks_have_the_official_variables(shared: Find, file: str, backbone: str, context: str) -> None:
    listed = json.loads(shared(f'golden/tf_vars_{file}.json').read_text())
    network = network_of(backbone__name=backbone, context__name=context, decoder__output_stride=4)
    found = []
    for path, leaf in traverse_util.flatten_dict(networks.variable_shapes(network)).items():
        name, shape = tf_import.official_name(path, network.scopes), list(leaf.shape)
        if name.endswith('depthwise_weights'):
            shape[2:] = shape[:1:-1]
        found.append([name, shape, path[0] == 'params'])
    assert sorted(found) == sorted(listed)


# ---- there and back -------------------------------------------------------------------------------------------------


def test_layouts_are_the_official_ones() -> None:
    variables, stored = small(), stored_of(small())
    taps = stored['meta_architecture/branch0_depthwise/depthwise_weights']
    assert taps.shape == (3, 3, 4, 1)
    np.testing.assert_array_equal(
        taps[..., 0], variables['params']['context']['branch0_depthwise']['kernel'][:, :, 0], strict=True
    )
    for part, name in (('backbone', 'MobilenetV2/Conv/weights'), ('logits', 'logits/semantic/weights')):
        kernel = (variables['params'][part].get('Conv') or variables['params'][part])['kernel']
        np.testing.assert_array_equal(stored[name], kernel, strict=True)


def test_assigning_what_was_exported_changes_nothing() -> None:
    start = zeros()
    variables, report = tf_import.assign(start, stored_of(small()), SCOPES, source='x')
    assert same(variables, small())
    assert same(start, zeros())
    assert set(report.loaded) == set(stored_of(small()))
    assert report == tf_import.LoadReport(report.loaded, (), ())


def test_the_golden_checkpoint_comes_back_bit_for_bit(shared: Find, tmp_path: pathlib.Path) -> None:
    network = network_of()
    shapes = networks.variable_shapes(network)
    stored = tf_import.read(shared(GOLDEN) / 'model.ckpt-90000')
    variables, report = tf_import.assign(shapes, stored, network.scopes, source='golden')
    assert (len(report.loaded), len(report.ignored)) == (312, 189)
    assert (report.missing, report.unused, report.dropped) == ((), (), ())
    assert jax.tree.structure(variables) == jax.tree.structure(shapes)
    tf_import.save_npz(tmp_path / 'ours.npz', tf_import.to_official(variables, network.scopes))
    ours = tf_import.read(tmp_path / 'ours.npz')
    assert set(ours) == set(report.loaded)
    for name, value in ours.items():
        np.testing.assert_array_equal(value, stored[name], err_msg=name, strict=True)
    again, _ = tf_import.assign(shapes, ours, network.scopes, source='ours')
    assert same(again, variables)


@pytest.mark.parametrize('dtype', ['float64', 'float16', 'bfloat16'])
def test_values_become_the_networks_type(dtype: str) -> None:
    stored = {name: value.astype(dtype) for name, value in stored_of(small()).items()}
    assert same(tf_import.assign(zeros(), stored, SCOPES, source='x')[0], small())


def test_bfloat16_variables_are_exported_as_float32_and_come_back(tmp_path: pathlib.Path) -> None:
    halved = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), small())
    tf_import.save_npz(tmp_path / 'x.npz', tf_import.to_official(halved, SCOPES))
    stored = tf_import.read(tmp_path / 'x.npz')
    assert {value.dtype for value in stored.values()} == {np.dtype(np.float32)}
    assert same(tf_import.assign(jax.tree.map(jnp.zeros_like, halved), stored, SCOPES, source='x')[0], halved)


def test_equal_variables_give_equal_bytes_in_whatever_order(tmp_path: pathlib.Path) -> None:
    stored = stored_of(small())
    tf_import.save_npz(tmp_path / 'a.npz', stored)
    tf_import.save_npz(tmp_path / 'b.npz', dict(reversed(stored.items())))
    assert (tmp_path / 'a.npz').read_bytes() == (tmp_path / 'b.npz').read_bytes()


def test_a_file_that_cannot_be_written(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match=r"^weights file '.*absent/x.npz': No such file or directory$"):
        tf_import.save_npz(tmp_path / 'absent/x.npz', {})
    tf_import.save_npz(tmp_path / 'x.npz', stored_of(small()))
    before = (tmp_path / 'x.npz').read_bytes()
    with pytest.raises(ValueError, match='Object arrays'):
        tf_import.save_npz(tmp_path / 'x.npz', {'x': np.array([None])})
    assert [file.name for file in tmp_path.iterdir()] == ['x.npz']
    assert (tmp_path / 'x.npz').read_bytes() == before


# ---- what is loaded and what is not ---------------------------------------------------------------------------------


def test_what_training_kept_for_itself_is_ignored() -> None:
    slots = ('Momentum', 'Adam', 'Adam_1', 'RMSProp', 'RMSProp_1', 'ExponentialMovingAverage', 'Adagrad')
    kept = {f'MobilenetV2/Conv/weights/{slot}': np.array(['not read']) for slot in slots}
    kept |= {name: np.array(['not read']) for name in ('global_step', 'beta1_power', 'beta2_power')}
    others = {'MobilenetV2/Logits/weights': np.ones(3), 'MobilenetV2/global_steps': np.ones(1)}
    variables, report = tf_import.assign(zeros(), {**kept, **stored_of(small()), **others}, SCOPES, source='x')
    assert same(variables, small())
    assert report.ignored == tuple(kept)
    assert report.unused == tuple(others)


def test_variables_of_a_checkpoint_that_are_not_needed_are_not_read(shared: Find) -> None:
    bundle = tf_bundle.open_bundle(shared(GOLDEN) / 'model.ckpt-90000')
    asked = []

    class Watched(dict):
        def __getitem__(self, name):
            asked.append(name)
            return bundle[name]

    network = network_of()
    shapes = networks.variable_shapes(network)
    stored = Watched.fromkeys(bundle)
    _, report = tf_import.assign(shapes, stored, network.scopes, source='x', only=('backbone',))
    assert sorted(asked) == sorted(report.loaded)


def test_a_part_alone_is_loaded_and_the_others_keep_their_values() -> None:
    stored = stored_of(small(), semantic__biases=None)
    variables, report = tf_import.assign(zeros(), stored, SCOPES, source='x', only=('backbone', 'context'))
    expected = small()
    expected['params']['logits'] = zeros()['params']['logits']
    assert same(variables, expected)
    assert report.missing == ()
    assert report.unused == ('logits/semantic/weights',)


def test_missing_variables_keep_their_values_where_that_is_allowed() -> None:
    stored = stored_of(small(), Conv__weights=None, BatchNorm__gamma=None)
    variables, report = tf_import.assign(zeros(), stored, SCOPES, source='x', allow_missing=True)
    assert sorted(report.missing) == ['MobilenetV2/Conv/BatchNorm/gamma', 'MobilenetV2/Conv/weights']
    assert not np.any(variables['params']['backbone']['Conv']['kernel'])
    np.testing.assert_array_equal(variables['params']['logits']['bias'], small()['params']['logits']['bias'])


def test_logits_of_other_classes_are_dropped_and_said() -> None:
    other = {'semantic__weights': np.ones((1, 1, 3, 7), np.float32), 'semantic__biases': np.ones(7, np.float32)}
    stored = stored_of(small(), **other)
    variables, report = tf_import.assign(zeros(), stored, SCOPES, source='x', drop_logits=True)
    assert sorted(report.dropped) == ['logits/semantic/biases', 'logits/semantic/weights']
    assert report.lines()[-1] == f'dropped    2  {", ".join(report.dropped)}'
    assert not set(report.dropped) & {*report.loaded, *report.missing, *report.unused}
    expected = small()
    expected['params']['logits'] = zeros()['params']['logits']
    assert same(variables, expected)
    assert refusal(stored).startswith('logits/semantic/')


def test_logits_of_the_same_classes_are_not_dropped() -> None:
    variables, report = tf_import.assign(zeros(), stored_of(small()), SCOPES, source='x', drop_logits=True)
    assert same(variables, small())
    assert report.dropped == ()


def test_the_report_prints_counts_and_the_first_names() -> None:
    report = tf_import.LoadReport(loaded=tuple('abcde'), missing=(), unused=('x', 'y', 'z'))
    assert report.lines() == ['loaded     5  a, b, c and 2 more', 'missing    0', 'unused     3  x, y, z']
    report = tf_import.LoadReport((), (), (), ignored=('global_step',), dropped=('logits/semantic/biases',))
    assert report.lines()[3:] == ['ignored    1  global_step', 'dropped    1  logits/semantic/biases']
    assert str(report) == '\n'.join(report.lines())


# ---- what does not fit ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize('options', [{}, {'drop_logits': True}])
@pytest.mark.parametrize(
    ('words', 'name', 'shape', 'needed'),
    [
        ('Conv__weights', 'MobilenetV2/Conv/weights', (1, 1, 2, 4), (1, 1, 2, 3)),
        (
            *('depthwise__depthwise_weights', 'meta_architecture/branch0_depthwise/depthwise_weights'),
            *((3, 3, 1, 4), (3, 3, 4, 1)),
        ),
        ('semantic__weights', 'logits/semantic/weights', (1, 1, 4, 5), (1, 1, 3, 5)),
        ('BatchNorm__moving_mean', 'MobilenetV2/Conv/BatchNorm/moving_mean', (), (3,)),
    ],
)
def test_a_wrong_shape_is_told_with_the_right_one(
    options: dict[str, bool], words: str, name: str, shape: tuple[int, ...], needed: tuple[int, ...]
) -> None:
    stored = stored_of(small(), **{words: np.ones(shape, np.float32)})
    assert refusal(stored, **options) == f'{name} has shape {shape}, the network needs {needed}'


def test_values_that_are_no_floating_point_numbers() -> None:
    name = 'MobilenetV2/Conv/BatchNorm/beta'
    for value, words in (
        (np.array([1, 2, 3]), 'has type int64, it must be floating-point'),
        (np.array([1, np.nan, 3], np.float32), 'has values that are not finite'),
        (np.array([1, np.inf, 3], ml_dtypes.bfloat16), 'has values that are not finite'),
        (np.array([1, 1e300, 3]), 'has values that are not finite'),  # as float32
    ):
        assert refusal(stored_of(small(), BatchNorm__beta=value)) == f'{name} {words}'


def test_a_checkpoint_without_anything_in_common() -> None:
    assert refusal({'resnet/conv1': np.ones(1), 'resnet/conv2': np.ones(1)}, allow_missing=True) == (
        'has no variable of this network: it holds resnet/conv1, resnet/conv2;'
        f' the network needs {", ".join(list(stored_of(zeros()))[:3])} and 5 more'
    )
    assert 'it holds nothing; the network needs MobilenetV2' in refusal({})


def test_missing_variables_are_named_and_so_is_what_is_there_instead() -> None:
    stored = stored_of(small(), semantic__biases=None)
    assert refusal(stored) == 'lacks 1 of 8 variables: logits/semantic/biases'
    stored |= {'MobilenetV2/Conv_1/weights': np.ones(1), 'global_step': np.ones(1)}
    words = 'lacks 1 of 8 variables: logits/semantic/biases; the network does not use MobilenetV2/Conv_1/weights'
    assert refusal(stored) == words


@pytest.mark.parametrize(
    ('theirs', 'ours', 'words'),
    [
        ('aspp', 'dpc', ': its context module is ASPP, that of the network a cell'),
        ('dpc', 'aspp', ': its context module is a cell, that of the network ASPP'),  # tensorflow/models issue 5630
        ('image_level', 'dpc', ': its context module is ASPP, that of the network a cell'),
        ('none', 'dpc', 'the network needs MobilenetV2, logits, meta_architecture'),
    ],
)
def test_a_checkpoint_of_another_context_module_is_told_apart(theirs: str, ours: str, words: str) -> None:
    network, other = (
        network_of(backbone__width=0.1, context__filters=8, context__name=name) for name in (ours, theirs)
    )
    shapes = networks.variable_shapes(other)
    stored = tf_import.to_official(jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes), other.scopes)
    with pytest.raises(InputError) as caught:
        tf_import.assign(networks.variable_shapes(network), stored, network.scopes, source="checkpoint 'x'")
    message = str(caught.value)
    assert message.startswith("checkpoint 'x' belongs to another model: it holds MobilenetV2, ")
    assert message.endswith(words)
    assert '\n' not in message


# ---- files ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(shared: Find, tmp_path: pathlib.Path) -> pathlib.Path:
    """Two small checkpoints that TensorFlow wrote."""
    for file in (shared(GOLDEN) / 'tiny').glob('*.ckpt.*'):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_a_checkpoint_is_found_by_its_prefix_and_by_any_of_its_files(folder: pathlib.Path) -> None:
    expected = tf_bundle.open_bundle(folder / 'sharded.ckpt')
    for name in ('sharded.ckpt', *(file.name for file in folder.glob('sharded.ckpt.*'))):
        found = tf_import.read(folder / name)
        assert list(found) == list(expected)
        assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_of_several_checkpoints_in_a_folder_the_one_that_is_named_is_read(folder: pathlib.Path) -> None:
    with pytest.raises(InputError, match=r'holds 2 checkpoints \(sharded.ckpt, single.ckpt\); name one$'):
        tf_import.read(folder)
    for named, count in (('single.ckpt', 507), ('/home/me/train_logs/sharded.ckpt', 40)):
        state = f'model_checkpoint_path: "{named}"\nall_model_checkpoint_paths: "other.ckpt"\n'
        (folder / 'checkpoint').write_text(state)
        assert len(tf_import.read(folder)) == count
    (folder / 'checkpoint').write_text('model_checkpoint_path: "gone.ckpt"')
    with pytest.raises(InputError, match='holds 2 checkpoints'):
        tf_import.read(folder)
    (folder / 'single.ckpt.index').unlink()
    assert len(tf_import.read(folder)) == 40


def test_a_folder_without_a_checkpoint(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match=r"' holds no checkpoint \(NAME.index, NAME.data-...\)$"):
        tf_import.read(tmp_path)


def test_a_folder_that_cannot_be_read(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: pathlib.Path) -> None:
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr(pathlib.Path, 'iterdir', denied)
    with pytest.raises(InputError, match=r"^checkpoint '.*': Permission denied$"):
        tf_import.read(folder)


def test_nothing_there(tmp_path: pathlib.Path) -> None:
    for name, words in (
        ('x.npz', "weights file '{}': No such file or directory"),
        ('x.tar.gz', "weights file '{}': No such file or directory"),
        ('model.ckpt-1', "checkpoint '{}.index': No such file or directory"),
    ):
        with pytest.raises(InputError) as caught:
            tf_import.read(tmp_path / name)
        assert str(caught.value) == words.format(tmp_path / name)


def packed(path: pathlib.Path, members: Mapping[str, bytes]) -> pathlib.Path:
    kind = {'.gz': 'gz', '.tgz': 'gz', '.bz2': 'bz2', '.xz': 'xz'}.get(path.suffix, '')
    with tarfile.open(path, f'w:{kind}') as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def zoo_members(folder: pathlib.Path) -> dict[str, bytes]:
    """As a tarball of the model zoo: a folder with the checkpoint and other files."""
    members = {'zoo/frozen_inference_graph.pb': b'graph', 'zoo/._single.ckpt.index': b'macOS'}
    return members | {f'zoo/{file.name}': file.read_bytes() for file in sorted(folder.glob('single.ckpt.*'))}


@pytest.mark.parametrize('ending', ['.tar', '.tar.gz', '.tgz', '.tar.bz2', '.tar.xz'])
def test_a_tarball_is_read_as_the_folder_in_it(folder: pathlib.Path, ending: str) -> None:
    path = folder / f'zoo{ending}'
    packed(path, zoo_members(folder))
    found, expected = tf_import.read(path), tf_import.read(folder / 'single.ckpt')
    assert list(found) == list(expected)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], strict=True)


def test_of_several_checkpoints_in_a_tarball_the_one_that_is_named_is_read(folder: pathlib.Path) -> None:
    members = {f'a/{file.name}': file.read_bytes() for file in folder.glob('*.ckpt.*')}
    with pytest.raises(InputError, match=r'holds 2 checkpoints \(sharded.ckpt, single.ckpt\); name one$'):
        tf_import.read(packed(folder / 'zoo.tar', members))
    members['a/checkpoint'] = b'model_checkpoint_path: "sharded.ckpt"'
    assert len(tf_import.read(packed(folder / 'zoo.tar', members))) == 40
    with pytest.raises(InputError, match='holds no checkpoint'):
        tf_import.read(packed(folder / 'zoo.tar', {'a/checkpoint': b''}))


def test_members_of_a_tarball_write_nothing_and_links_are_not_followed(folder: pathlib.Path) -> None:
    inner = folder / 'a/b'  # '../..' of it is the test's own folder: others are written to by other processes
    inner.mkdir(parents=True)
    path = packed(inner / 'zoo.tar', zoo_members(folder) | {'../../escaped.index.data-00000-of-00001': b'x'})
    with tarfile.open(path, 'a') as archive:
        link = tarfile.TarInfo('zoo/other.ckpt.index')
        link.type, link.linkname = tarfile.SYMTYPE, '/etc/passwd'
        archive.addfile(link)
    before = sorted(folder.rglob('*'))
    assert len(tf_import.read(path)) == 507
    assert sorted(folder.rglob('*')) == before


@pytest.mark.parametrize('ending', ['.tar', '.tar.gz', '.tar.bz2', '.tar.xz'])
def test_a_damaged_tarball(folder: pathlib.Path, ending: str) -> None:
    path = packed(folder / f'zoo{ending}', zoo_members(folder))
    content = path.read_bytes()
    for share in (0.0, 0.01, 0.3, 0.6):
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(
            InputError, match=rf"^weights file '.*zoo{ending}' is not a tarball, or is cut short or corr"
        ):
            tf_import.read(path)
    path.write_bytes(content[:3000] + bytes([content[3000] ^ 8]) + content[3001:])
    with pytest.raises(InputError, match=rf'zoo{ending}'):
        dict(tf_import.read(path))


def test_a_tarball_without_data(folder: pathlib.Path) -> None:
    members = {name: content for name, content in zoo_members(folder).items() if 'data' not in name}
    with pytest.raises(InputError, match=r"zoo.tar/zoo/single.ckpt.data-00000-of-00001': No such file"):
        tf_import.read(packed(folder / 'zoo.tar', members))


def test_the_files_of_each_kind(folder: pathlib.Path) -> None:
    (folder / 'checkpoint').write_text('model_checkpoint_path: "sharded.ckpt"')
    files = sorted(folder.glob('sharded.ckpt.*'))
    assert len(files) == 3
    for name in ('sharded.ckpt', 'sharded.ckpt.index', 'sharded.ckpt.data-00001-of-00002', ''):
        assert tf_import.files_of(folder / name) == files
    for name in ('x.npz', 'x.tar.gz', 'absent.ckpt'):
        assert tf_import.files_of(folder / name) == [folder / name]
