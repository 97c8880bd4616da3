"""What a config names, made into a network; and everything that makes none, each in one line."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import camvid, common
from dpc_jax import contexts, networks
from dpc_jax.aspp import ASPP
from dpc_jax.base import InputError
from dpc_jax.cell import DensePredictionCell
from dpc_jax.contexts.dpc import read_genotype
from dpc_jax.segmenter import scale_size
from dpc_jax.spaces import dpc
from tests.networks_by_hand import filled

IMAGES = np.random.default_rng(0).uniform(0, 255, (2, 65, 97, 3)).astype(np.float32)


def toy(**fields):
    config = common.network_config()
    common.shrink_network(config)
    config.update_from_flattened_dict({name.replace('__', '.'): value for name, value in fields.items()})
    return config


@pytest.mark.parametrize('context', [name for name in contexts.names() if name != 'aux_cells'])  # a decoder itself
@pytest.mark.parametrize('decoder', [0, 4])
def test_logits_have_the_stride_that_is_said(context, decoder):
    network = networks.make(toy(context__name=context, decoder__output_stride=decoder), 5)
    logits = jax.eval_shape(network.apply, networks.variable_shapes(network), IMAGES)
    assert network.logits_stride == (decoder or 16)
    assert logits.shape == (2, *scale_size((65, 97), 1 / network.logits_stride), 5)


@pytest.mark.parametrize(
    ('context', 'scope'), [('dpc', 'meta_architecture'), ('aspp', ''), ('image_level', ''), ('none', None)]
)
def test_every_variable_stands_below_a_part_that_has_an_official_scope(context, scope):
    network = networks.make(toy(context__name=context), 5)
    shapes = networks.variable_shapes(network)
    assert network.scopes.get('context') == scope
    assert set(shapes['params']) == set(network.scopes)
    assert set(shapes['batch_stats']) == set(network.scopes) - {'logits'}


def test_shapes_are_those_of_fresh_variables_at_any_size():
    network = networks.make(toy(), 5)
    fresh = networks.init_variables(jax.random.key(0), network)
    fresh = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), fresh)
    assert fresh == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), networks.variable_shapes(network))
    at_size = jax.eval_shape(network.init, jax.random.key(0), IMAGES)
    assert fresh == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), at_size)


@pytest.mark.parametrize('width', [1.0, 0.1])
def test_a_cell_is_that_of_its_name_or_file(tmp_path, width):
    space = dpc.Space(5)
    (tmp_path / 'cell.json').write_text(space.to_json(space.named('aspp')))
    by_name, by_file = (
        networks.make(toy(context__genotype=str(name), backbone__width=width), 5)
        for name in ('aspp', tmp_path / 'cell.json')
    )
    assert by_name == by_file
    assert isinstance(by_name.context, DensePredictionCell)
    assert by_name != networks.make(toy(backbone__width=width), 5)


def test_a_cell_of_three_branches_is_built_too(tmp_path):
    space = dpc.Space(3)
    genotype = space.sample(jax.random.key(0))
    (tmp_path / 'cell.json').write_text(space.to_json(genotype))
    network = networks.make(toy(context__genotype=str(tmp_path / 'cell.json')), 5)
    assert len(network.context.branches) == 3


def test_the_head_of_the_released_mobilenet_models_is_aspp_without_rates():
    context = contexts.make(toy(context__name='image_level', context__image_pooling=False))
    assert isinstance(context, ASPP)
    assert (context.rates, context.image_pooling) == ((), True)


def test_output_stride_8_reads_twice_as_far():
    # The same variables: only rates differ.
    networks_ = [networks.make(toy(backbone__output_stride=stride), 5) for stride in (16, 8)]
    shapes = [jax.tree.map(lambda leaf: leaf.shape, networks.variable_shapes(network)) for network in networks_]
    assert shapes[0] == shapes[1]
    assert [network.context.settings.output_stride for network in networks_] == [16, 8]


def test_pooling_windows_may_be_those_of_another_crop(tmp_path):
    space = dpc.Space(1)
    genotype = dpc.parse(json.dumps([{'input': -1, 'op': 'pyramid_pooling', 'grid_size': [2, 4]}]))
    (tmp_path / 'cell.json').write_text(space.to_json(genotype))
    network = networks.make(toy(context__genotype=str(tmp_path / 'cell.json')), 5)
    variables = filled(network)

    @functools.partial(jax.jit, static_argnums=1)
    def logits(images, pool_crop):
        return network.apply(variables, jnp.asarray(images), False, None, pool_crop)

    np.testing.assert_array_equal(logits(IMAGES, None), logits(IMAGES, (65, 97)))
    assert np.abs(logits(IMAGES, None) - logits(IMAGES, (33, 49))).max() > 1e-6
    with pytest.raises(InputError, match='image_pooling_crop_size must not be larger than the image'):
        logits(IMAGES, (257, 513))
    binned = networks.make(toy(context__genotype=str(tmp_path / 'cell.json'), context__pooling='binned'), 5)
    with pytest.raises(InputError, match="image_pooling_crop_size needs pooling 'sliding'"):
        jax.eval_shape(lambda images: binned.apply(variables, images, False, None, (65, 97)), IMAGES)


@pytest.mark.parametrize('context', ['dpc', 'aspp'])
def test_training_draws_its_dropout_from_the_key(context):
    network = networks.make(toy(context__name=context, context__dropout_rate=0.5), 5)
    variables = filled(network)

    @jax.jit
    def logits(key):
        return network.apply(variables, jnp.asarray(IMAGES), True, key, mutable=['batch_stats'])[0]

    first = logits(jax.random.key(0))
    np.testing.assert_array_equal(first, logits(jax.random.key(0)))
    assert np.abs(first - logits(jax.random.key(1))).max() > 0


@pytest.mark.parametrize('side', [1025, 2049, 769, 513])
def test_sizes_scale_as_officially(shared, side):
    table = json.loads(shared('golden/cell/dpc_golden.json').read_text())['scale_dimension']
    rows = {float(name.split('*')[1]): size for name, size in table.items() if name.startswith(f'{side}*')}
    assert rows
    assert {scale: scale_size((side, side), scale)[0] for scale in rows} == rows


@pytest.mark.parametrize(
    ('fields', 'words'),
    [
        ({'backbone__name': 'resnet'}, "backbone.name is 'resnet'; allowed: mobilenet_v2, mobilenet_v2_refinenet"),
        ({'backbone__output_stride': 4}, 'output stride 4 of mobilenet_v2_shallow: it must be one of 8, 16, 32'),
        ({'backbone__output_stride': 32}, 'output stride 32: the rates of a cell need 4, 8 or 16'),
        ({'backbone__width': 0.0}, 'width 0.0 of mobilenet_v2_shallow'),
        ({'context__name': 'psp'}, "context.name is 'psp'; allowed: aspp, aux_cells, dpc, image_level, none"),
        ({'context__filters': 0}, 'context.filters is 0; it must be at least 1'),
        ({'context__dropout_rate': 1.0}, 'context.dropout_rate is 1.0; it must be at least 0 and below 1'),
        ({'context__pooling': 'max'}, "context.pooling is 'max'; allowed: sliding, binned"),
        (
            {'context__name': 'aspp', 'context__rates': (6, '12')},
            "context.rates is (6, '12'); it must be whole numbers",
        ),
        ({'context__name': 'aspp', 'context__rates': (0,)}, 'atrous rate 0 cannot be scaled to output stride 16'),
        ({'decoder__output_stride': 8}, 'decoder.output_stride is 8; allowed: 4, or 0 for no decoder'),
        ({'decoder__filters': 0}, 'decoder.filters is 0; it must be at least 1'),
        ({'decoder__low_level_filters': -1}, 'decoder.low_level_filters is -1; it must be at least 1'),
        (
            {'context__genotype': 'dpc_top9'},
            "context.genotype 'dpc_top9': No such file or directory; it must be a JSON",
        ),
        ({'context__genotype': '.'}, "context.genotype '.': Is a directory"),
    ],
)
def test_what_makes_no_network_is_one_line(fields, words):
    with pytest.raises(InputError) as error:
        networks.make(toy(**fields), 5)
    assert str(error.value).startswith(words)
    assert '\n' not in str(error.value)


def test_too_few_channels_are_refused():
    with pytest.raises(InputError, match=r'^num_classes is 0; it must be at least 1$'):
        networks.make(toy(), 0)


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('{', 'not JSON'),
        ('[]', 'expected a list of branches'),
        ('[{"input": 0, "op": "conv", "kernel": 1}]', 'branch 0'),
        ('[{"input": -1, "op": "conv", "kernel": 3, "rate": [2, 1]}]', 'branch 0'),
    ],
)
def test_a_faulty_cell_file_is_one_line_that_names_it(tmp_path, text, words):
    path = tmp_path / 'cell.json'
    path.write_text(text)
    with pytest.raises(InputError) as error:
        networks.make(toy(context__genotype=str(path)), 5)
    assert str(error.value).startswith(f'{path}: ')
    assert words in str(error.value)


def test_a_cell_file_that_is_no_text_is_one_line(tmp_path):
    (tmp_path / 'cell.json').write_bytes(b'\xff\xfe\x00')
    with pytest.raises(InputError, match='not a text file; it must be a JSON file or one of'):
        read_genotype(str(tmp_path / 'cell.json'))


def test_the_toy_of_a_config_has_all_parts():
    network = networks.make(camvid.get_config('toy'), 11)
    assert network.decoder is None
    assert isinstance(network.context, DensePredictionCell)


@pytest.mark.parametrize(
    ('context', 'images', 'expected'),
    [
        # 33x49 pixels at output stride 16 are 3x4 cells; the image-level feature is one cell of each image.
        ('aspp', 1, (1, 'context/image_pooling/BatchNorm')),
        ('aspp', 2, (2, 'context/image_pooling/BatchNorm')),
        ('none', 1, (12, '')),
        ('none', 3, (36, '')),
    ],
)
def test_the_fewest_values_of_a_batch_norm(context, images, expected):
    network = networks.make(toy(context__name=context, decoder__output_stride=0), 5)
    values, name = networks.fewest_values(network, images, (33, 49))
    assert values == expected[0]
    assert name == expected[1] or (not expected[1] and name.startswith('backbone/'))
