"""What all backbones share, and Xception: blocks, endpoints, names, strides."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from dpc_jax import backbones
from dpc_jax.backbones import OUTPUT_STRIDES, xception
from dpc_jax.base import InputError, PyTree

pytestmark = pytest.mark.usefixtures('quick_compilation')

XCEPTIONS = ('xception_41', 'xception_65', 'xception_71')


def shapes_of(model, size=(33, 33)) -> PyTree:
    return jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, *size, 3))))


def lively_variables(model) -> PyTree:
    """Random kernels and norms under which no ReLU kills its map."""
    draw = np.random.default_rng(0)

    def liven(path, leaf):
        name = path[-1].key
        noise = draw.standard_normal(leaf.shape).astype(np.float32)
        if name == 'kernel':
            fan_in = leaf.size // leaf.shape[-1]
            return jnp.asarray(noise * np.sqrt(2 / fan_in))
        return jnp.asarray({'scale': 1 + 0.1 * noise, 'var': 1 + 0.1 * abs(noise)}.get(name, 0.1 * noise))

    return jax.tree_util.tree_map_with_path(liven, shapes_of(model))


def test_the_menu_names_all_and_refuses_others():
    mobile = ('mobilenet_v2', 'mobilenet_v2_refinenet', 'mobilenet_v2_shallow')
    assert backbones.names() == (*mobile, *XCEPTIONS)
    with pytest.raises(InputError, match=rf"^backbone\.name is 'resnet'; allowed: {', '.join(mobile)}, xception_41, "):
        backbones.make('resnet', output_stride=16)


@pytest.mark.parametrize('name', backbones.names())
def test_bad_settings_are_refused(name):
    with pytest.raises(InputError, match=f'^output stride 4 of {name}: it must be one of 8, 16, 32$'):
        backbones.make(name, output_stride=4)
    with pytest.raises(InputError, match=f'^width 0.0 of {name}: it must be a number greater than 0$'):
        backbones.make(name, output_stride=16, width=0.0)
    with pytest.raises(InputError, match=r'^width inf'):
        backbones.make(name, output_stride=16, width=float('inf'))


def test_xception_of_other_depth_is_refused():
    with pytest.raises(InputError, match=r'^xception has no 50 layers; allowed: 41, 65, 71$'):
        xception.Model(layers=50)


@pytest.mark.parametrize(
    ('nominal', 'output_stride', 'expected'),
    [
        ((2, 2, 2), 16, [(2, 1), (2, 1), (2, 1)]),
        ((2, 2, 2), 8, [(2, 1), (2, 1), (1, 1)]),
        ((2, 1, 2, 1, 2, 1), 8, [(2, 1), (1, 1), (2, 1), (1, 1), (1, 1), (1, 2)]),
        ((2, 1, 2, 1, 2, 1), 4, [(2, 1), (1, 1), (1, 1), (1, 2), (1, 2), (1, 4)]),
    ],
)
def test_strides_become_rates_after_the_output_stride(nominal, output_stride, expected):
    assert backbones.atrous(nominal, output_stride, reached_stride=2) == expected


@pytest.mark.parametrize(
    ('layers', 'output_stride', 'expected'),  # what is not (1, 1): rule of xception.stack_blocks_dense
    [
        (65, 32, {'entry_flow': [2, 2, 2], 'middle_flow': [1], 'exit_flow': [2, 1]}),
        (65, 16, {'entry_flow': [2, 2, 2], 'middle_flow': [1], 'exit_flow': [1, (1, 2)]}),
        (65, 8, {'entry_flow': [2, 2, 1], 'middle_flow': [(1, 2)], 'exit_flow': [(1, 2), (1, 4)]}),
        (71, 16, {'entry_flow': [2, 1, 2, 1, 2], 'middle_flow': [1], 'exit_flow': [1, (1, 2)]}),
        (71, 8, {'entry_flow': [2, 1, 2, 1, 1], 'middle_flow': [(1, 2)], 'exit_flow': [(1, 2), (1, 4)]}),
    ],
)
def test_xception_strides_and_rates(layers, output_stride, expected):
    strided = xception.with_stride(xception.flows(layers), output_stride)
    found = {
        flow: [block.stride if block.rate == 1 else (block.stride, block.rate) for block in blocks]
        for flow, blocks in strided.items()
    }
    assert found == expected


@pytest.mark.parametrize(('name', 'weights'), [('xception_65', 37_682_112), ('xception_71', 40_090_760)])
def test_convolution_weights_are_those_of_the_official_network(name, weights):
    leaves = traverse_util.flatten_dict(shapes_of(backbones.make(name, output_stride=16))['params'])
    assert sum(leaf.size for path, leaf in leaves.items() if path[-1] == 'kernel') == weights


def test_xception_41_is_65_with_eight_units_fewer_in_the_middle():
    small, large = (
        traverse_util.flatten_dict(shapes_of(backbones.make(f'xception_{n}', output_stride=16))) for n in (41, 65)
    )
    missing = {path[:4] for path in large if path not in small}
    assert missing == {('params', 'middle_flow', 'block1', f'unit_{n}') for n in range(9, 17)} | {
        ('batch_stats', 'middle_flow', 'block1', f'unit_{n}') for n in range(9, 17)
    }
    assert all(small[path].shape == large[path].shape for path in small)


@pytest.mark.parametrize(
    ('name', 'output_stride', 'size'),
    [*zip(XCEPTIONS, OUTPUT_STRIDES, [(65, 97), (70, 90), (65, 97)], strict=True), ('xception_71', 8, (70, 90))],
)
def test_xception_endpoints_are_named_and_as_large_as_their_stride_says(name, output_stride, size):
    model = backbones.make(name, output_stride=output_stride)
    endpoints = jax.eval_shape(model.apply, shapes_of(model), jax.ShapeDtypeStruct((1, *size, 3), jnp.float32))
    blocks = 5 if name == 'xception_71' else 3
    strides = {'entry_flow/conv1_2': 2, f'entry_flow/block{blocks}': 16, 'middle_flow/block1': 16, 'features': 32}
    depths = {'entry_flow/conv1_2': 64, f'entry_flow/block{blocks}': 728, 'middle_flow/block1': 728, 'features': 2048}
    for endpoint, stride in strides.items():
        cells = tuple(-(-side // min(stride, output_stride)) for side in size)
        assert endpoints[endpoint].shape == (1, *cells, depths[endpoint]), endpoint
    assert endpoints[model.low_level].shape == (1, *(-(-side // 4) for side in size), 256)
    units = 8 if name == 'xception_41' else 16
    parts = [f'separable_conv{i}_{kind}' for i in (1, 2, 3) for kind in ('depthwise', 'pointwise')]
    expected = {
        f'middle_flow/block1/unit_{n}/xception_module{part}'
        for n in range(1, units + 1)
        for part in ('', *(f'/{part}' for part in parts))
    }
    assert {name for name in endpoints if name.startswith('middle_flow/block1/')} == expected
    assert {name for name in endpoints if name.endswith('shortcut')} == {
        f'{scope}/unit_1/xception_module/shortcut'
        for scope in (*(f'entry_flow/block{i}' for i in range(1, blocks + 1)), 'exit_flow/block1')
    }


LAST_OF_XCEPTION = {
    4: ('entry_flow/block{}/unit_1/xception_module/separable_conv2_pointwise', 256),
    8: ('entry_flow/block{}/unit_1/xception_module/separable_conv2_pointwise', 728),
    16: ('exit_flow/block1/unit_1/xception_module/separable_conv2_pointwise', 1024),
    32: ('exit_flow/block2', 2048),
}
BLOCKS_OF_XCEPTION = {'xception_41': (2, 3), 'xception_65': (2, 3), 'xception_71': (3, 5)}  # at strides 4 and 8
LAST = {
    **{
        name: {4: ('layer_4', 24), 8: ('layer_7', 32), 16: ('layer_14', 96), 32: ('layer_18', 320)}
        for name in ('mobilenet_v2', 'mobilenet_v2_refinenet')
    },
    'mobilenet_v2_shallow': {4: ('layer_3', 24), 8: ('layer_4', 32), 16: ('layer_6', 96), 32: ('layer_8', 320)},
    **{
        name: {
            stride: (endpoint.format(blocks[stride == 8]), channels)
            for stride, (endpoint, channels) in LAST_OF_XCEPTION.items()
        }
        for name, blocks in BLOCKS_OF_XCEPTION.items()
    },
}
"""Stride -> the last endpoint at it and its channels, at output stride 32 and width 1."""


@pytest.mark.parametrize('output_stride', OUTPUT_STRIDES)
@pytest.mark.parametrize('name', backbones.names())
def test_every_stride_up_to_the_output_stride_has_its_endpoint(name, output_stride):
    model, size = backbones.make(name, output_stride=output_stride), (65, 70)
    endpoints = jax.eval_shape(model.apply, shapes_of(model), jax.ShapeDtypeStruct((1, *size, 3), jnp.float32))
    finer = {stride: name for stride, (name, _) in LAST[name].items() if stride < output_stride}
    assert model.by_stride == {**finer, output_stride: 'features'}
    for stride, endpoint in model.by_stride.items():
        channels = LAST[name][stride if stride < output_stride else 32][1]
        assert endpoints[endpoint].shape == (1, *(-(-side // stride) for side in size), channels)
    assert endpoints[model.low_level].shape[1:3] == tuple(-(-side // 4) for side in size)


def test_a_map_by_stride_is_the_array_of_its_endpoint():
    model = backbones.make('mobilenet_v2', output_stride=16, width=0.1)
    images = jnp.asarray(np.random.default_rng(0).uniform(0, 255, (1, 33, 33, 3)).astype(np.float32))
    endpoints = jax.jit(model.apply)(lively_variables(model), images)
    assert list(model.by_stride) == [4, 8, 16]
    np.testing.assert_array_equal(endpoints[model.by_stride[16]], endpoints['layer_18'])


@pytest.mark.parametrize('model', ['xception71_dpc', 'xception65_dpc', 'xception65_aspp', 'mobilenetv2_dpc'])
def test_variables_are_the_official_ones(shared, model):
    stored = json.loads(shared(f'golden/tf_vars_{model}_decoder.json').read_text())
    name = model.split('_')[0].replace('xception', 'xception_').replace('mobilenetv2', 'mobilenet_v2')
    network = backbones.make(name, output_stride=16)
    found = {}
    for path, leaf in traverse_util.flatten_dict(shapes_of(network)).items():
        norm = {'scale': 'gamma', 'bias': 'beta', 'mean': 'moving_mean', 'var': 'moving_variance'}
        depthwise = path[-1] == 'kernel' and path[-2].endswith('depthwise')
        leaf_name = norm.get(path[-1], 'depthwise_weights' if depthwise else 'weights')
        shape = (*leaf.shape[:2], leaf.shape[3], leaf.shape[2]) if depthwise else leaf.shape
        found['/'.join((network.official_scope, *path[1:-1], leaf_name))] = (list(shape), path[0] == 'params')
    scope = f'{network.official_scope}/'
    assert found == {name: (shape, trainable) for name, shape, trainable in stored if name.startswith(scope)}


@pytest.mark.parametrize(('fine', 'coarse'), [(16, 32), (8, 16)])
def test_dense_features_hold_the_strided_ones_at_the_shared_positions(fine, coarse):
    # Size 32k+1 keeps every stage odd, so that cell i of one map lies on cell 2i of the other.
    models = [xception.Model(layers=41, width=0.05, output_stride=stride) for stride in (fine, coarse)]
    variables = lively_variables(models[0])
    images = jnp.asarray(np.random.default_rng(0).uniform(0, 255, (1, 65, 97, 3)).astype(np.float32))
    dense, strided = (jax.jit(model.apply)(variables, images)['features'] for model in models)
    spread = float(np.asarray(strided).std())
    assert spread > 0
    np.testing.assert_allclose(dense[:, ::2, ::2], strided, rtol=0, atol=1e-3 * spread)
    assert np.abs(dense[:, 1::2, 1::2] - strided[:, :-1, :-1]).max() > 0.1 * spread


def test_multi_grid_changes_the_last_block_alone():
    models = [xception.Model(layers=41, width=0.05, multi_grid=grid) for grid in ((1, 1, 1), (1, 2, 4))]
    variables = lively_variables(models[0])
    images = jnp.asarray(np.random.default_rng(0).uniform(0, 255, (1, 97, 97, 3)).astype(np.float32))
    plain, wide = (jax.jit(model.apply)(variables, images) for model in models)
    differing = {name for name in plain if np.abs(plain[name] - wide[name]).max() > 1e-6}
    module = 'exit_flow/block2/unit_1/xception_module'
    later = {f'{module}/separable_conv{i}_{kind}' for i in (2, 3) for kind in ('depthwise', 'pointwise')}
    assert differing == {*later, module, 'exit_flow/block2', 'features'}


def test_training_mode_moves_every_average():
    model = xception.Model(layers=41, width=0.03)
    variables = lively_variables(model)
    images = jnp.asarray(np.random.default_rng(0).uniform(0, 255, (2, 33, 33, 3)).astype(np.float32))
    apply = jax.jit(functools.partial(model.apply, train=True, mutable=['batch_stats']))
    _, updates = apply(variables, images)
    before, after = (traverse_util.flatten_dict(v['batch_stats']) for v in (variables, updates))
    assert all(np.abs(after[path] - before[path]).max() > 0 for path in before)


def test_bfloat16_computes_in_bfloat16_and_keeps_the_variables_in_float32():
    model = xception.Model(layers=41, width=0.05, dtype=jnp.bfloat16)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(shapes_of(model))} == {'float32'}
    endpoints = jax.eval_shape(model.apply, shapes_of(model), jax.ShapeDtypeStruct((1, 33, 33, 3), jnp.float32))
    assert {x.dtype.name for x in endpoints.values()} == {'bfloat16'}
