"""ASPP, decoder and logits against loops and the official numbers."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpc_jax import aspp, ops
from dpc_jax.aspp import ASPP
from dpc_jax.base import InputError
from dpc_jax.cell import CellSettings, DensePredictionCell
from dpc_jax.decoder import Decoder, Logits
from dpc_jax.spaces import dpc

NORM = {'gamma': 'scale', 'beta': 'bias', 'moving_mean': 'mean', 'moving_variance': 'var'}


def from_official(values: dict[str, np.ndarray], scope: str) -> dict:
    """Flax variables of one module from official ones; written here anew, not with the importer."""
    variables: dict = {'params': {}, 'batch_stats': {}}
    for name, value in values.items():
        if name.startswith(f'{scope}/'):
            *modules, leaf = name.removeprefix(f'{scope}/').split('/')
            kind = 'batch_stats' if leaf.startswith('moving') else 'params'
            place = variables[kind]
            for module in modules:
                place = place.setdefault(module, {})
            value = value.swapaxes(2, 3) if leaf == 'depthwise_weights' else value
            place[NORM.get(leaf, 'bias' if leaf == 'biases' else 'kernel')] = jnp.asarray(value)
    return variables


def test_decoder_and_logits_give_the_official_numbers(shared):
    stored = json.loads(shared('golden/cell/dpc_golden.json').read_text())['decoder_logits']

    def array(data, shape):
        return np.array(data, np.float32).reshape(shape)

    values = {name: array(value['data'], value['shape']) for name, value in stored['variables'].items()}
    context, low = (array(stored[name], stored[f'{name}_shape']) for name in ('feature', 'low'))
    decoder = Decoder(stored['decoder_filters'], stored['projected_filters'])
    _, height, width, _ = stored['decoder_out_shape']
    refined = decoder.apply(from_official(values, 'decoder'), jnp.asarray(context), jnp.asarray(low), (height, width))
    expected = array(stored['decoder_out'], stored['decoder_out_shape'])
    np.testing.assert_allclose(refined, expected, rtol=0, atol=1e-5 * expected.std())
    logits = Logits(2).apply(from_official(values, 'logits/semantic'), refined)
    np.testing.assert_allclose(logits, array(stored['logits'], stored['logits_shape']), rtol=0, atol=2e-6)


FEATURES = np.random.default_rng(0).standard_normal((2, 6, 7, 5)).astype(np.float32)


def outputs_of(module: ASPP, train: bool = False, **options) -> tuple[jax.Array, dict]:
    variables = module.init(jax.random.key(0), jnp.asarray(FEATURES))
    return module.apply(variables, jnp.asarray(FEATURES), train, **options), variables


@pytest.mark.parametrize(
    ('settings', 'parts'),
    [
        ({}, 'image_pooling aspp0 aspp1_depthwise aspp1_pointwise aspp2_depthwise aspp2_pointwise'),
        ({'separable': False}, 'image_pooling aspp0 aspp1 aspp2'),
        ({'image_pooling': False}, 'aspp0 aspp1_depthwise aspp1_pointwise aspp2_depthwise aspp2_pointwise'),
        ({'rates': ()}, 'image_pooling aspp0'),
    ],
)
def test_parts_have_official_names_and_the_projection_reads_them_all(settings, parts):
    _, variables = outputs_of(ASPP(**{'filters': 4, 'rates': (1, 2), **settings}))
    assert set(variables['params']) == {*parts.split(), 'concat_projection'}
    branches = {name.removesuffix('_depthwise').removesuffix('_pointwise') for name in parts.split()}
    assert variables['params']['concat_projection']['kernel'].shape == (1, 1, 4 * len(branches), 4)


def test_the_image_level_feature_is_the_mean_everywhere_and_comes_first():
    module = ASPP(filters=4, rates=())
    _, variables = outputs_of(module)
    kernel = np.zeros((1, 1, 8, 4), np.float32)
    kernel[0, 0, :4] = np.eye(4)  # the projection passes the first part through
    variables['params']['concat_projection']['kernel'] = jnp.asarray(kernel)
    output = module.apply(variables, jnp.asarray(FEATURES))
    mean = FEATURES.mean((1, 2), keepdims=True) @ np.asarray(variables['params']['image_pooling']['kernel'])[0, 0]
    expected = np.broadcast_to(np.maximum(mean, 0), output.shape)
    np.testing.assert_allclose(output, expected, rtol=2e-5, atol=1e-6)


def test_pooling_windows_of_a_smaller_crop_slide_over_the_map():
    module = ASPP(filters=4, rates=())
    _, variables = outputs_of(module)
    kernel = np.zeros((1, 1, 8, 4), np.float32)
    kernel[0, 0, :4] = np.eye(4)
    variables['params']['concat_projection']['kernel'] = jnp.asarray(kernel)
    output = module.apply(variables, jnp.asarray(FEATURES), pooled_size=(5, 3))
    means = np.stack([[FEATURES[:, i : i + 5, j : j + 3].mean((1, 2)) for j in range(5)] for i in range(2)])
    pooled = np.maximum(np.moveaxis(means, 2, 0) @ np.asarray(variables['params']['image_pooling']['kernel'])[0, 0], 0)
    expected = ops.resize_bilinear(jnp.asarray(pooled), (6, 7))
    np.testing.assert_allclose(output, expected, rtol=2e-5, atol=1e-6)
    with pytest.raises(InputError, match=r'image pooling over 7x7 cells: the features have 6x7'):
        module.apply(variables, jnp.asarray(FEATURES), pooled_size=(7, 7))


def test_aspp_is_a_point_of_the_search_space():
    # The head and the cell 'aspp' of the space: other names, another order of the parts, the same function.
    cell = DensePredictionCell.of(dpc.Space(5).named('aspp'), CellSettings(filters=4))
    head = ASPP(filters=4)
    shapes = jax.eval_shape(lambda: head.init(jax.random.key(0), jnp.asarray(FEATURES)))
    draw = np.random.default_rng(1)
    theirs = jax.tree.map(lambda leaf: jnp.asarray(draw.uniform(0.1, 1, leaf.shape), jnp.float32), shapes)
    parts, ours = ['aspp0', 'aspp1', 'aspp2', 'aspp3', 'image_pooling'], {'params': {}, 'batch_stats': {}}
    for kind, tree in theirs.items():
        for index, part in enumerate(parts):
            for name in [name for name in tree if name.startswith(part)]:
                ours[kind][name.replace(part, f'branch{index}')] = tree[name]
        ours[kind]['concat_projection'] = dict(tree['concat_projection'])
    kernel = theirs['params']['concat_projection']['kernel']
    ours['params']['concat_projection']['kernel'] = jnp.concatenate([kernel[:, :, 4:], kernel[:, :, :4]], 2)
    expected = head.apply(theirs, jnp.asarray(FEATURES))
    assert expected.std() > 0.01
    np.testing.assert_allclose(cell.apply(ours, jnp.asarray(FEATURES)), expected, rtol=1e-5)


def test_dropout_comes_behind_the_projection():
    module = ASPP(filters=50, rates=(), dropout_rate=0.25)
    variables = module.init(jax.random.key(0), jnp.asarray(FEATURES))
    variables['params']['concat_projection']['BatchNorm'] = {'scale': jnp.zeros(50), 'bias': jnp.ones(50)}
    output, _ = module.apply(variables, jnp.asarray(FEATURES), True, jax.random.key(1), mutable=['batch_stats'])
    assert sorted(np.unique(np.asarray(output))) == pytest.approx([0, 1 / 0.75])
    np.testing.assert_array_equal(module.apply(variables, jnp.asarray(FEATURES)), 1)
    with pytest.raises(ValueError, match='needs a dropout_key'):
        module.apply(variables, jnp.asarray(FEATURES), True, mutable=['batch_stats'])


@pytest.mark.parametrize(('output_stride', 'expected'), [(32, 3), (16, 6), (8, 12), (4, 24)])
def test_rates_scale_with_the_output_stride(output_stride, expected):
    assert aspp.scaled_rate(6, output_stride) == expected
    coarse = ASPP(filters=4, rates=(6,), output_stride=output_stride)
    same = ASPP(filters=4, rates=(expected,), output_stride=16)
    _, variables = outputs_of(coarse)
    args = variables, jnp.asarray(FEATURES)
    np.testing.assert_array_equal(coarse.apply(*args), same.apply(*args))


@pytest.mark.parametrize(('rate', 'output_stride'), [(3, 32), (0, 16), (-6, 16), (6, 0)])
def test_a_rate_that_does_not_come_out_whole_is_refused(rate, output_stride):
    with pytest.raises(InputError, match=f'^atrous rate {rate} cannot be scaled to output stride {output_stride}'):
        aspp.scaled_rate(rate, output_stride)


def test_logits_are_float32_with_a_bias():
    x = jnp.asarray(FEATURES).astype(jnp.bfloat16)
    variables = Logits(3).init(jax.random.key(0), x)
    assert np.abs(variables['params']['kernel']).max() <= 0.02  # two sigma of the official 0.01
    variables['params']['bias'] = jnp.array([1.0, 2.0, 3.0])
    y = Logits(3).apply(variables, jnp.zeros_like(x))
    assert y.dtype == jnp.float32
    np.testing.assert_array_equal(y[0, 0, 0], [1, 2, 3])
