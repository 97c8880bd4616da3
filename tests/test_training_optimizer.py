"""Which tensors decay and how fast each learns: by the official lists of variables, and by arithmetic in NumPy."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from configs import camvid, cityscapes
from dpc_jax import networks
from dpc_jax.base import InputError
from dpc_jax.training import optimizer
from dpc_jax.training.optimizer import OptimizerSettings
from dpc_jax.weights import tf_import

SCOPES = {'backbone': 'MobilenetV2', 'context': '', 'logits': 'logits/semantic'}


@pytest.mark.parametrize(
    ('backbone', 'decoder', 'stored', 'expected'),
    [
        ('xception_71', 4, 'xception71_dpc', 87),
        ('xception_65', 4, 'xception65_dpc', 79),
        ('mobilenet_v2', 4, 'mobilenetv2_dpc', 44),
    ],
)
def test_the_official_code_decays_these_tensors(shared, backbone, decoder, stored, expected):
    # The counts are those of the official graph; its lists of variables say which are convolutions that are not
    # depthwise, and those are what slim's arg scopes regularise.
    config = cityscapes.get_config()
    config.backbone.name, config.decoder.output_stride = backbone, decoder
    network = networks.make(config, 19)
    params = networks.variable_shapes(network)['params']
    flags = traverse_util.flatten_dict(optimizer.decayed(params, network.scopes))
    names = {tf_import.official_name(('params', *path), network.scopes) for path, flag in flags.items() if flag}
    assert len(names) == expected
    listed = json.loads(shared(f'golden/tf_vars_{stored}_decoder.json').read_text())
    assert names == {name for name, _, trainable in listed if trainable and name.endswith('/weights')}


def test_only_biases_learn_twice_as_fast_and_only_the_backbone_is_no_last_layer():
    network = networks.make(camvid.get_config('toy'), 11)
    params = networks.variable_shapes(network)['params']
    factors = traverse_util.flatten_dict(optimizer.gradient_multipliers(params, network.scopes, 5.0))
    for path, factor in factors.items():
        assert factor == (1.0 if path[0] == 'backbone' else 5.0) * (2.0 if path == ('logits', 'bias') else 1.0)
    assert {path[0] for path in factors} == {'backbone', 'context', 'logits'}


def test_the_learning_rate_is_poly_behind_a_slow_start():
    settings = OptimizerSettings(steps=100, learning_rate=0.5, slow_start_steps=20, slow_start_learning_rate=0.01)
    found = [float(optimizer.learning_rate(jnp.int32(step), settings)) for step in (0, 19, 20, 60, 99, 100)]
    expected = [0.01, 0.01, 0.5, 0.5 * 0.5**0.9, 0.5 * (1 / 80) ** 0.9, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-9)


def test_the_compiled_learning_rate_is_0_after_the_last_step():
    # Not so of optax's polynomial alone, which is NaN there.
    settings = OptimizerSettings(steps=90_000)
    found = jax.jit(jax.vmap(lambda step: optimizer.learning_rate(step, settings)))(jnp.int32([89_999, 90_000, 90_001]))
    np.testing.assert_allclose(found, [0.01 * (1 / 90_000) ** 0.9, 0, 0], rtol=0.01)


def test_steps_by_hand():
    # accumulator = momentum * accumulator + multiplier * (gradient + decay * weight); weight -= rate * accumulator
    shapes = {'backbone': {'Conv': {'kernel': (1, 1, 2, 3)}}, 'logits': {'kernel': (1, 1, 3, 2), 'bias': (2,)}}
    draw = np.random.default_rng(0)
    params = jax.tree.map(draw.standard_normal, shapes, is_leaf=lambda x: isinstance(x, tuple))
    settings = OptimizerSettings(
        steps=10, learning_rate=0.1, momentum=0.8, weight_decay=0.05, last_layer_gradient_multiplier=3.0
    )
    ours = jax.tree.map(jnp.float32, params)
    transform = optimizer.make(ours, SCOPES, settings)
    state = transform.init(ours)
    held = {
        ('backbone', 'Conv', 'kernel'): (1.0, 0.05),
        ('logits', 'kernel'): (3.0, 0.05),
        ('logits', 'bias'): (6.0, 0.0),
    }
    theirs, sums = traverse_util.flatten_dict(params), {path: 0.0 for path in held}
    for step in range(3):
        gradients = {path: draw.standard_normal(value.shape) for path, value in theirs.items()}
        nested = jax.tree.map(jnp.float32, traverse_util.unflatten_dict(gradients))
        updates, state = transform.update(nested, state, ours)
        ours = jax.tree.map(jnp.add, ours, updates)
        for path, (factor, decay) in held.items():
            sums[path] = 0.8 * sums[path] + factor * (gradients[path] + decay * theirs[path])
            theirs[path] = theirs[path] - 0.1 * (1 - step / 10) ** 0.9 * sums[path]
    for path, value in traverse_util.flatten_dict(ours).items():
        np.testing.assert_allclose(value, theirs[path], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ('field', 'value'),
    [
        ('steps', 0),
        ('learning_rate', 0.0),
        ('learning_rate', float('nan')),
        ('slow_start_learning_rate', -1.0),
        ('last_layer_gradient_multiplier', 0.0),
        ('power', -1.0),
        ('weight_decay', float('inf')),
        ('momentum', 1.0),
        ('slow_start_steps', -1),
        ('slow_start_steps', 90_000),
    ],
)
def test_a_wrong_setting_is_refused(field, value):
    with pytest.raises(InputError, match=rf'^train\.{field} is '):
        OptimizerSettings(**{field: value})
