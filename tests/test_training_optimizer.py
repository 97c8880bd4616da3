"""Which tensors decay and how fast each learns: by the official lists of variables, and by arithmetic in NumPy."""

import dataclasses
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl import flags
from flax import traverse_util
from ml_collections import config_flags

from configs import camvid, camvid_aux, cityscapes
from dpc_jax import networks, training
from dpc_jax.base import InputError
from dpc_jax.training import optimizer
from dpc_jax.training.checkpoint import flat
from dpc_jax.training.optimizer import OptimizerSettings, PartSettings, read_parts
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


def test_the_learning_rate_is_poly_after_a_slow_start():
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


# ---- parts with rules of their own ----------------------------------------------------------------------------------


def drawn(draw):
    shapes = {
        'backbone': {'Conv': {'kernel': (1, 1, 2, 3)}},
        'context': {'aspp0': {'kernel': (1, 1, 3, 3)}},
        'logits': {'kernel': (1, 1, 3, 2), 'bias': (2,)},
    }
    return jax.tree.map(
        lambda shape: jnp.asarray(draw.standard_normal(shape), jnp.float32),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def moved(transform, params, gradients):
    """The parameters after steps along the gradients."""
    state = transform.init(params)
    for gradient in gradients:
        with jax.numpy_dtype_promotion('standard'):  # optax's Adam, by itself
            updates, state = transform.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize('adaptive', ['adam', 'adamw'])
def test_each_part_moves_as_by_its_own_optimiser(adaptive):
    draw = np.random.default_rng(0)
    params, gradients = drawn(draw), [drawn(draw) for _ in range(3)]
    parts = {
        'backbone': PartSettings(learning_rate=0.001, momentum=0.5, weight_decay=0.1),
        'context': PartSettings(adaptive, learning_rate=0.003, weight_decay=0.2),
    }
    whole = OptimizerSettings(steps=10, learning_rate=0.1, momentum=0.9, weight_decay=0.05)
    settings = dataclasses.replace(whole, parts=parts)
    found = moved(optimizer.make(params, SCOPES, settings), params, gradients)

    def poly(base):
        return lambda step: base * (1 - step / 10) ** 0.9

    decayed_sgd = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(poly(0.001), momentum=0.5))
    by_adam = {
        'adam': optax.chain(optax.add_decayed_weights(0.2), optax.adam(poly(0.003))),
        'adamw': optax.adamw(poly(0.003), weight_decay=0.2),
    }[adaptive]
    by_hand = {'backbone': decayed_sgd, 'context': by_adam, 'logits': optimizer.make(params, SCOPES, whole)}
    for part, transform in by_hand.items():
        mine = (lambda tree: tree) if part == 'logits' else (lambda tree: {part: tree[part]})  # noqa: B023
        expected = moved(transform, mine(params), [mine(gradient) for gradient in gradients])
        jax.tree.map(
            lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7), found[part], expected[part]
        )
    assert np.abs(found['context']['aspp0']['kernel'] - params['context']['aspp0']['kernel']).max() > 0.001


@pytest.mark.parametrize('size', [0.1, 10.0])
def test_parts_with_equal_rules_are_clipped_as_one(size):
    draw = np.random.default_rng(0)
    params, gradient = drawn(draw), jax.tree.map(lambda x: size * x, drawn(draw))
    decoder = PartSettings('adam', learning_rate=0.003, weight_decay=0.0)
    parts = {'backbone': PartSettings(learning_rate=0.001), 'context': decoder, 'logits': decoder}
    whole = OptimizerSettings(steps=10, parts=parts)
    clips = {'backbone': 2.0, 'context': 3.0, 'logits': 3.0}
    clipped = {part: dataclasses.replace(rule, clip_norm=clips[part]) for part, rule in parts.items()}
    transform = optimizer.make(params, SCOPES, dataclasses.replace(whole, parts=clipped))
    found = moved(transform, params, [gradient])

    def cut(of, most):
        norm = np.sqrt(sum(np.sum(np.square(x)) for part in of for x in jax.tree.leaves(gradient[part])))
        return {part: jax.tree.map(lambda x: x * min(1.0, most / norm), gradient[part]) for part in of}

    by_hand = cut(['backbone'], 2.0) | cut(['context', 'logits'], 3.0)
    expected = moved(optimizer.make(params, SCOPES, whole), params, [by_hand])
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5), found, expected)


def test_a_part_that_is_not_clipped_is_left_alone():
    draw = np.random.default_rng(0)
    params, gradient = drawn(draw), drawn(draw)
    parts = {'backbone': PartSettings(learning_rate=0.001, clip_norm=1e-3)}
    found = moved(optimizer.make(params, SCOPES, OptimizerSettings(parts=parts)), params, [gradient])
    plain = moved(optimizer.make(params, SCOPES, OptimizerSettings()), params, [gradient])
    for part in ('context', 'logits'):
        jax.tree.map(np.testing.assert_array_equal, found[part], plain[part])


def test_without_parts_the_state_has_the_leaves_that_it_always_had():
    params = drawn(np.random.default_rng(0))
    names = set(flat(optimizer.make(params, SCOPES, OptimizerSettings()).init(params)))
    tensors = {'backbone.Conv.kernel', 'context.aspp0.kernel', 'logits.kernel', 'logits.bias'}
    assert names == {*(f'2.0.trace.{name}' for name in tensors), '2.1.count'}


def test_types_promote_strictly_around_adam():
    params = drawn(np.random.default_rng(0))
    transform = optimizer.make(params, SCOPES, OptimizerSettings(parts={'logits': PartSettings('adam')}))
    updates, _ = jax.jit(transform.update)(params, transform.init(params), params)
    assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize(
    ('parts', 'said'),
    [
        ({'backbone': 0.1}, "train.parts.backbone is 0.1; it must be a mapping such as {'learning_rate': 0.001}"),
        (
            {'backbone': {'lr': 0.1}},
            "train.parts.backbone has no setting 'lr'; allowed: optimizer, learning_rate, momentum, weight_decay,"
            ' clip_norm',
        ),
        ({'logits': {'optimizer': 'lion'}}, "train.parts.logits.optimizer is 'lion'; allowed: sgd, adam, adamw"),
        ({'logits': {'learning_rate': 0.0}}, 'train.parts.logits.learning_rate is 0.0; it must be a number above 0'),
        ({'logits': {'learning_rate': '1'}}, "train.parts.logits.learning_rate is '1'; it must be a number"),
        ({'logits': {'momentum': 1.0}}, 'train.parts.logits.momentum is 1.0; it must be at least 0 and below 1'),
        (
            {'logits': {'weight_decay': -1}},
            'train.parts.logits.weight_decay is -1.0; it must be a number of at least 0',
        ),
        (
            {'logits': {'clip_norm': -1}},
            'train.parts.logits.clip_norm is -1.0; it must be a number of at least 0 (0: not clipped)',
        ),
    ],
)
def test_a_wrong_rule_of_a_part_is_one_line(parts, said, fault):
    assert fault(lambda: read_parts(parts)) == said


def test_auxiliary_heads_that_are_switched_off_need_no_rule():
    config = camvid_aux.get_config('toy')
    assert 'auxiliary' in config.train.parts
    config.context.auxiliary = 'none'
    training.check(config, 1)


def test_a_part_that_the_network_lacks_is_one_line(fault):
    config = camvid.get_config('toy')
    config.train.parts = {'decoder': {'learning_rate': 0.1}}
    said = "train.parts names 'decoder'; parts of this network: backbone, context, logits"
    assert fault(lambda: training.check(config, 1)) == said
    settings = OptimizerSettings(parts=read_parts(config.train.parts.to_dict()))
    assert fault(lambda: optimizer.make(drawn(np.random.default_rng(0)), SCOPES, settings)) == said


def test_the_command_line_gives_parts_their_rules(monkeypatch):
    given = "{'backbone': {'optimizer': 'sgd', 'learning_rate': 0.001}}"
    argv = ['run.py', f'--config.train.parts={given}']
    monkeypatch.setattr(sys, 'argv', argv)  # where config_flags looks for what a flag overrides
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_dict('config', camvid.get_config('toy'), flag_values=values)
    values(argv)
    parts = training.step_settings(config.value).optimizer.parts
    assert parts == {'backbone': PartSettings('sgd', learning_rate=0.001)}
