"""Batch norms folded into convolutions: the same logits, and nothing left of what inference does not read."""

import functools
from types import MappingProxyType

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from configs import common
from dpc_jax import contexts, counting, folding, networks, ops
from dpc_jax.convolution import ConvUnit
from dpc_jax.decoder import Logits
from dpc_jax.norms import Moments
from dpc_jax.segmenter import Segmenter
from tests import small
from tests.networks_by_hand import filled

pytestmark = pytest.mark.usefixtures('quick_compilation')

IMAGE = jax.ShapeDtypeStruct((1, 33, 49, 3), jnp.float64)


class Encoder(nn.Module):
    """A map at each stride from 4 to 32: what all contexts read, compiled in a second."""

    output_stride: int = 32
    by_stride = MappingProxyType({4: 'map4', 8: 'map8', 16: 'map16', 32: 'features'})

    @nn.compact
    def __call__(self, images, train=False):
        x, endpoints = images[:, ::2, ::2] / 127.5 - 1, {}
        for stride, name in self.by_stride.items():
            x = ConvUnit(5, ops.xavier_init, (3, 3), stride=2, epsilon=1e-3, name=f'unit{stride}')(x, train)
            endpoints[name] = x
        return endpoints


def network_of(name):
    config = common.network_config()
    common.shrink_network(config)
    if name == 'mobilenet_v2 with dpc and decoder':
        return networks.make(config, 5)
    changes = {'name': name, 'genotype': 'arch0', 'repeats': 1, 'rates': (2, 4)}
    config.context.update(changes)
    config.backbone.output_stride, config.decoder.output_stride = 32, 0
    return Segmenter(Encoder(), contexts.make(config), 5)


@functools.cache
def variables_of(name):
    return filled(network_of(name))


def names(variables):
    return set(traverse_util.flatten_dict(variables, sep='/'))


@pytest.mark.parametrize('name', ['mobilenet_v2 with dpc and decoder', 'aspp', 'aux_cells'])
def test_logits_are_the_same(name):
    network, images = network_of(name), np.random.default_rng(0).uniform(0, 255, IMAGE.shape)
    with jax.enable_x64(True), jax.numpy_dtype_promotion('standard'):
        variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), variables_of(name))
        expected = np.asarray(jax.jit(network.apply)(variables, images))
        folded = jax.jit(lambda variables: folding.fold(network, variables, IMAGE))(variables)
        found = np.asarray(jax.jit(functools.partial(folding.apply, network))(folded, images))
    assert found.dtype == np.float64
    assert expected.std() > 1e-3
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9 * expected.std())


def test_batch_norms_are_gone_and_auxiliary_heads_take_no_part():
    network, image = network_of('aux_cells'), jax.ShapeDtypeStruct(IMAGE.shape, jnp.float32)
    variables = variables_of('aux_cells')
    read = folding.read_in_inference(network, variables, image)
    kernels = {name for name in names(read) if name.endswith('kernel')}
    assert kernels == {f'params/{"/".join(one.path)}/kernel' for one in counting.operations(network, image)}
    left_out = names(variables) - names(read)
    assert left_out
    assert all('_auxiliary/' in name or name.startswith('params/auxiliary/') for name in left_out)
    folded = jax.eval_shape(lambda variables: folding.fold(network, variables, image), read)
    assert names(folded) == kernels | {
        kernel.replace('kernel', 'bias')  # that of the batch norm, or the one that the logits have
        for kernel in kernels
        if names(read) & {kernel.replace('kernel', 'BatchNorm/bias'), kernel.replace('kernel', 'bias')}
    }


def test_a_unit_by_hand():
    """K = 3, gain = 10 / sqrt(3.5 + 0.5) = 5: (3 x - 2) * 5 + 1 = 15 x - 9."""
    one = functools.partial(jnp.full, 1)
    moments = Moments(one(2.0), one(3.5))
    kernel, bias = folding.fold_unit(jnp.full((1, 1, 1, 1), 3.0), one(10.0), one(1.0), moments, epsilon=0.5)
    assert (float(kernel[0, 0, 0, 0]), float(bias[0])) == (15.0, -9.0)


@pytest.mark.parametrize(
    ('module', 'settings'),
    [(ConvUnit(4, jax.nn.initializers.ones, normalize=False), {'train': False}), (Logits(4), {})],
    ids=['unit without batch norm', 'logits'],
)
def test_what_has_no_batch_norm_stays_as_it_is(module, settings):
    x = jnp.ones((1, 3, 3, 2))
    variables = module.init(jax.random.key(1), x, **settings)
    folded = folding.fold(module, variables, x, **settings)
    jax.tree.map(np.testing.assert_array_equal, folded, variables)
    expected = module.apply(variables, x, **settings)
    np.testing.assert_array_equal(folding.apply(module, folded, x, **settings), expected)


def test_a_network_that_computes_in_bfloat16_does_so_folded():
    network = small.network(dtype=jnp.bfloat16)
    images, variables = small.batch(1)[0][0], filled(network)
    run = functools.partial(folding.apply, network)
    folded = jax.jit(lambda variables: folding.fold(network, variables, images))(variables)
    exact = jax.jit(small.network().apply)(variables, images)
    np.testing.assert_allclose(jax.jit(run)(folded, images), exact, atol=0.05 * float(exact.std()))
    assert 'bf16[1,7,7,4] = conv_general_dilated' in str(jax.make_jaxpr(run)(folded, images))


def test_there_is_no_training_with_folded_norms():
    network, images = small.network(), small.batch(1)[0][0]
    with pytest.raises(ValueError, match='runs in inference alone'):
        jax.eval_shape(lambda: folding.apply(network, networks.variable_shapes(network), images, True))
