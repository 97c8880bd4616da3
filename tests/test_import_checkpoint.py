"""The import script, as a user starts it: a checkpoint that TensorFlow saved gives the golden logits."""

import json
import pathlib
from collections.abc import Callable

import jax
import numpy as np
import pytest

from configs import camvid, cityscapes
from dpc_jax import networks
from dpc_jax.base import PyTree
from dpc_jax.segmenter import Segmenter
from dpc_jax.weights import checkpoint, tf_import
from tests import forks
from tests.scripts import module_at

pytestmark = pytest.mark.usefixtures('quick_compilation')

Find = Callable[[str], pathlib.Path]

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOY = '--config=configs/camvid.py:toy'
MOBILENET = ('--config.backbone.name=mobilenet_v2', '--config.decoder.output_stride=0')


def finish(*argv: object) -> tuple[int, str, str]:
    done = forks.run('experiments/import_checkpoint.py', *argv)
    return done.returncode, done.stdout, done.stderr


def toy(num_classes: int = 11) -> Segmenter:
    return networks.make(camvid.get_config('toy'), num_classes)


def noise(network: Segmenter) -> PyTree:
    draw = np.random.default_rng(0)
    shapes = networks.variable_shapes(network)
    return jax.tree.map(lambda leaf: draw.standard_normal(leaf.shape).astype(leaf.dtype), shapes)


def fresh(network: Segmenter, *, seed: int, parts: tuple[str, ...]) -> PyTree:
    """These parts of fresh variables; the others are not computed, which saves most of the compilation."""

    def draw(key: jax.Array) -> PyTree:
        variables = networks.init_variables(key, network)
        return {kind: {part: tree[part] for part in parts if part in tree} for kind, tree in variables.items()}

    return jax.jit(draw)(jax.random.key(seed))


@pytest.fixture
def official(tmp_path: pathlib.Path) -> pathlib.Path:
    """The toy network for 19 classes, where CamVid has 11."""
    network = toy(19)
    tf_import.save_npz(tmp_path / 'official.npz', tf_import.to_official(noise(network), network.scopes))
    return tmp_path / 'official.npz'


@pytest.mark.slow
def test_the_checkpoint_that_tensorflow_saved_gives_the_golden_logits(shared: Find, tmp_path: pathlib.Path) -> None:
    source = shared('golden/ckpt_mnv2_dpc')
    out, npz = tmp_path / 'imported', tmp_path / 'official.npz'
    code, said, err = finish(
        '--config=configs/cityscapes.py', *MOBILENET, f'--checkpoint={source}', f'--out={out}', f'--npz={npz}'
    )
    assert (code, err) == (0, '')
    counts = {line.split()[0]: line.split()[1] for line in said.splitlines()[:4]}
    assert counts == {'loaded': '312', 'missing': '0', 'unused': '0', 'ignored': '189'}
    assert said.splitlines()[4:] == [str(out), str(npz)]

    config = cityscapes.get_config()
    config.backbone.name, config.decoder.output_stride = 'mobilenet_v2', 0
    network = networks.make(config, 19)
    variables = checkpoint.restore(out, networks.variable_shapes(network))
    stored, exported = tf_import.read(source), tf_import.read(npz)
    assert len(exported) == 312
    for name, value in exported.items():
        np.testing.assert_array_equal(value, stored[name], err_msg=name, strict=True)

    manifest = json.loads(shared('golden/models/mnv2_dpc_os16_small.json').read_text())
    about = manifest['arrays']['logits']
    images = module_at(shared('golden/models/weights_rule.py')).image(*manifest['crop_size'], manifest['batch'], 0)
    logits = np.asarray(jax.jit(network.apply)(variables, images))
    with np.load(shared('golden/models/mnv2_dpc_os16_small.npz')) as golden:
        error = logits[tuple(slice(None, None, step) for step in about['stride'])] - golden['logits']
    assert np.abs(error).max() < 5e-4 * about['std']  # the README of the fixtures says why


@pytest.mark.slow
def test_logits_of_other_classes_are_left_out_and_said(official: pathlib.Path, tmp_path: pathlib.Path) -> None:
    code, said, err = finish(TOY, f'--checkpoint={official}', f'--out={tmp_path / "imported"}', '--config.seed=3')
    assert (code, err) == (0, '')
    assert 'dropped    2  logits/semantic/biases, logits/semantic/weights\n' in said
    assert 'logits left out: the checkpoint has 19 classes, camvid has 11\n' in said
    restored = checkpoint.restore(tmp_path / 'imported', networks.variable_shapes(toy()))
    expected = noise(toy(19))
    expected['params']['logits'] = fresh(toy(), seed=3, parts=('logits',))['params']['logits']
    jax.tree.map(np.testing.assert_array_equal, restored, expected)


@pytest.mark.slow
def test_the_backbone_alone_is_taken_from_another_model(official: pathlib.Path, tmp_path: pathlib.Path) -> None:
    argv = (TOY, '--config.context.name=aspp', f'--checkpoint={official}', f'--out={tmp_path / "imported"}')
    code, said, err = finish(*argv)
    assert (code, said) == (2, '')
    assert err.startswith(
        f"error: checkpoint '{official}' belongs to another model: it holds MobilenetV2, logits, meta_"
    )
    assert err.count('\n') == 1
    assert not (tmp_path / 'imported').exists()

    code, said, err = finish(*argv, '--backbone_only')
    assert (code, err) == (0, '')
    config = camvid.get_config('toy')
    config.context.name = 'aspp'
    network = networks.make(config, 11)
    restored = checkpoint.restore(tmp_path / 'imported', networks.variable_shapes(network))
    expected = fresh(network, seed=0, parts=('context', 'logits'))
    for collection, parts in noise(toy(19)).items():
        expected[collection]['backbone'] = parts['backbone']
    jax.tree.map(np.testing.assert_array_equal, restored, expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('argv', 'words'),
    [
        ((TOY, '--out=x'), '--config, --checkpoint and --out are needed; --help explains them'),
        (
            ('--config=configs/scenes_search.py', '--checkpoint=x', '--out=x'),
            '--config names no whole network; configs/camvid.py and configs/cityscapes.py do',
        ),
    ],
)
def test_bad_input_is_one_line(argv: tuple[str, ...], words: str) -> None:
    assert finish(*argv) == (2, '', f'error: {words}\n')
