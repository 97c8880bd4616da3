"""The menu of contexts; and that a new file in it trains and is evaluated without a change in `dpc_jax`."""

import json
import pathlib
import sys
import tarfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import camvid
from dpc_jax import contexts, networks, sharding, training
from dpc_jax.aspp import ASPP
from dpc_jax.base import InputError
from dpc_jax.cell import DensePredictionCell
from dpc_jax.journeys import evaluate, train
from tests import forged

pytestmark = pytest.mark.usefixtures('quick_compilation')

TESTS = pathlib.Path(__file__).resolve().parent


def toy(name, **fields):
    config = camvid.get_config('toy')
    config.context.name = name
    config.update_from_flattened_dict({field.replace('__', '.'): value for field, value in fields.items()})
    return config


@pytest.fixture
def further_contexts(monkeypatch):
    """The menu with the files of tests/further_contexts."""
    monkeypatch.setattr(contexts, '__path__', [*contexts.__path__, str(TESTS / 'further_contexts')])
    yield
    sys.modules.pop('dpc_jax.contexts.two_strides', None)
    vars(contexts).pop('two_strides', None)


@pytest.fixture
def one_device(monkeypatch):
    """One is compiled in half the time of four."""
    one = sharding.data_mesh(1)
    monkeypatch.setattr(sharding, 'data_mesh', lambda: one)
    monkeypatch.setattr(sharding, 'local_mesh', lambda: one)


def records(workdir):
    return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def test_the_menu_names_all_and_refuses_others():
    assert contexts.names() == ('aspp', 'aux_cells', 'dpc', 'image_level', 'none')
    with pytest.raises(InputError, match=r"^context\.name is 'psp'; allowed: aspp, aux_cells, dpc, image_level, none$"):
        contexts.make(toy('psp'))


@pytest.mark.parametrize(
    ('name', 'kind', 'scope'),
    [('dpc', DensePredictionCell, 'meta_architecture'), ('aspp', ASPP, ''), ('image_level', ASPP, '')],
)
def test_a_context_of_one_map_reads_the_features_and_gives_no_other(name, kind, scope):
    context = contexts.make(toy(name))
    assert isinstance(context, kind)
    assert (context.official_scope, dict(context.auxiliary_weights), context.stride(16)) == (scope, {}, 16)
    draw = np.random.default_rng(0)
    maps = {
        stride: jnp.asarray(draw.standard_normal((1, 64 // stride, 64 // stride, 6), np.float32)) for stride in (4, 16)
    }
    variables = context.init(jax.random.key(0), maps[16])
    found = context.apply(variables, maps, False, None, None, method='of_maps')
    np.testing.assert_array_equal(found.features, context.apply(variables, maps[16]))
    assert not found.auxiliary


def test_no_context_is_none():
    assert contexts.make(toy('none')) is None


# ---- a context of another system ------------------------------------------------------------------------------------


@pytest.mark.usefixtures('further_contexts')
def test_a_new_file_has_parts_of_its_own_names():
    network = networks.make(toy('two_strides'), 11)
    shapes = networks.variable_shapes(network)
    assert set(shapes['params']) == set(network.scopes) == {'backbone', 'context', 'logits', 'auxiliary'}
    assert shapes['params']['auxiliary']['coarse']['bias'].shape == (11,)
    assert set(shapes['params']['context']) == {'adapt4', 'adapt16'}
    assert network.logits_stride == 4
    images = jax.ShapeDtypeStruct((2, 65, 97, 3), jnp.float32)
    assert jax.eval_shape(network.apply, shapes, images).shape == (2, 17, 25, 11)
    found = jax.eval_shape(lambda *given: network.apply(*given, method='outputs'), shapes, images)
    assert {name: x.shape for name, x in found.auxiliary.items()} == {'coarse': (2, 5, 7, 11)}


@pytest.mark.slow
@pytest.mark.usefixtures('further_contexts', 'one_device')
def test_a_new_file_trains_goes_on_and_is_evaluated(tmp_path):
    parts = {'backbone': {'learning_rate': 0.001}, 'context': {'optimizer': 'adam', 'learning_rate': 0.003}}
    config = toy('two_strides', train__ema_decay=0.5)
    config.train.parts = parts
    found = train.run(config, tmp_path)
    assert [record['step'] for record in records(tmp_path) if 'loss' in record] == [1, 2, 3, 4]
    assert all(np.isfinite(record['loss']) for record in records(tmp_path) if 'loss' in record)
    again = toy('two_strides', journey='evaluate', checkpoint=str(tmp_path / 'weights'))
    again.dataset.root = str(tmp_path / 'data/camvid')
    np.testing.assert_array_equal(evaluate.run(again, tmp_path / 'again').confusion, found.confusion)
    table = (tmp_path / 'parameters.txt').read_text()
    assert 'auxiliary/coarse/kernel' in table
    config.train.parts.context.learning_rate = 0.004
    with pytest.raises(InputError, match=r'train\.parts\.context\.learning_rate was 0\.003 there and is 0\.004 now'):
        train.run(config, tmp_path)


# ---- what was written before ----------------------------------------------------------------------------------------


@pytest.fixture
def before(tmp_path):
    """The folder of a training that was written before parts had rules: a checkpoint at step 2 of 4, all records."""
    with tarfile.open(TESTS / 'before_house.tar.xz') as archive:
        archive.extractall(tmp_path, filter='data')
    return tmp_path / 'fx/train'


def of_then():
    """The toy config with the backbone that it had."""
    config = camvid.get_config('toy')
    config.backbone.name = 'mobilenet_v2'
    return config


@pytest.mark.slow
@pytest.mark.usefixtures('one_device')
def test_an_old_work_folder_goes_on_to_the_old_losses(before, capsys):
    expected = [record['loss'] for record in records(before) if 'loss' in record]
    train.run(of_then(), before)
    assert 'goes on from step 2 of 4' in capsys.readouterr().out
    found = [record['loss'] for record in records(before) if 'loss' in record]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_an_old_work_folder_is_of_another_config_where_a_part_has_a_rule(before):
    config = of_then()
    config.train.parts = {'backbone': {'learning_rate': 0.001}}
    with pytest.raises(InputError, match=r'train\.parts\.backbone\.learning_rate was None there and is 0\.001 now'):
        training.claim(before, config, forged.Images('train'))
