"""`initial.variables` gives the bits of the whole program, and runs only what they need."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpc_jax import backbones, initial

SHAPES = ((7,), (3, 3, 5, 11), (2, 3, 3, 4, 6), (1, 1, 8, 4))
SAID = []


@pytest.mark.parametrize('shape', SHAPES)
def test_the_initialisers_are_jaxs_to_the_bit(shape):
    key = jax.random.key(len(shape))
    pairs = [(initial.truncated_normal(0.33), nn.initializers.truncated_normal(0.33))]
    if len(shape) > 1:
        pairs += [(initial.xavier_uniform, nn.initializers.xavier_uniform())]
    for ours, theirs in pairs:
        np.testing.assert_array_equal(ours(key, shape), theirs(key, shape))
    found = initial.uniform(key, shape, 0.25)
    np.testing.assert_array_equal(found, jax.random.uniform(key, shape, minval=-0.25, maxval=0.25))


class Loud(nn.Module):
    """Says when it runs."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(7)(x)
        x = jnp.sin(x)
        jax.debug.callback(lambda _: SAID.append('ran'), x)
        return nn.BatchNorm(use_running_average=False)(nn.Dense(3)(x))


def test_the_bits_are_those_of_the_whole_program():
    network = backbones.make('mobilenet_v2_shallow', output_stride=16, width=0.35)

    def init(key):
        return network.init(key, jnp.zeros((1, 33, 33, 3)))

    key = jax.random.key(3)
    whole, found = jax.jit(init)(key), initial.variables(init, key)
    assert jax.tree.structure(whole) == jax.tree.structure(found)
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(found), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_no_layer_runs():
    module = Loud()
    found = initial.variables(lambda key, x: module.init(key, x), jax.random.key(0), jnp.ones((2, 4)))
    jax.effects_barrier()
    assert not SAID
    jax.tree.map(np.testing.assert_array_equal, found, module.init(jax.random.key(0), jnp.ones((2, 4))))
    jax.effects_barrier()
    assert SAID


@pytest.mark.parametrize('batch', [1, 2])
def test_constants_and_arguments_may_be_results(batch):
    def init(key, x):
        return {'one': jnp.ones(batch), 'x': x, 'both': (x, jax.random.normal(key, (batch,))), 'number': np.float32(2)}

    x = jnp.arange(3.0)
    found = initial.variables(init, jax.random.key(1), x)
    jax.tree.map(np.testing.assert_array_equal, found, init(jax.random.key(1), x))
