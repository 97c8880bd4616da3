"""The one unit of every static network, against loops and against XLA's own convolution."""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpc_jax import convolution, ops
from dpc_jax.convolution import ConvUnit

SIZES = [(6, 8), (7, 9), (6, 9), (1, 2)]
EPSILON = 1e-5


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def float32(x: np.ndarray) -> jax.Array:
    return jnp.asarray(x, jnp.float32)


def loops(x: np.ndarray, kernel: np.ndarray, *, stride: int, rate: tuple[int, int], padding: str) -> np.ndarray:
    """A full convolution [kh, kw, C, D], cell by cell, in float64."""
    batch, height, width, _ = x.shape
    out = np.zeros((batch, -(-height // stride), -(-width // stride), kernel.shape[3]))
    before = []
    for size, outputs, taps, r in zip(x.shape[1:3], out.shape[1:3], kernel.shape[:2], rate, strict=True):
        same = max((outputs - 1) * stride + r * (taps - 1) + 1 - size, 0) // 2
        before.append(same if padding == 'same' else r * (taps - 1) // 2)
    for row, column, i, j in np.ndindex(*out.shape[1:3], *kernel.shape[:2]):
        y, z = row * stride + i * rate[0] - before[0], column * stride + j * rate[1] - before[1]
        if 0 <= y < height and 0 <= z < width:
            out[:, row, column] += x[:, y, z] @ kernel[i, j]
    return out


def of_unit(unit: ConvUnit, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The kernel and what the unit makes of x in inference, with fresh batch norm."""
    variables = unit.init(jax.random.key(0), float32(x), False)
    y = jax.jit(functools.partial(unit.apply, train=False))(variables, float32(x))
    return np.asarray(variables['params']['kernel'], np.float64), np.asarray(y)


WINDOWS = [(1, (1, 1)), (2, (1, 1)), (1, (2, 3)), (1, (4, 1)), (1, (9, 20)), (2, (2, 1))]


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize(('stride', 'rate'), WINDOWS)
@pytest.mark.parametrize('padding', ['same', 'symmetric'])
@pytest.mark.parametrize('filters', [None, 4])
def test_a_linear_unit_is_loops_then_norm(size, stride, rate, padding, filters):
    x = normal(2, *size, 3)
    init = nn.initializers.normal(1.0)
    unit = ConvUnit(filters, init, (3, 3), stride, rate, padding, activation=None)
    kernel, y = of_unit(unit, x)
    if filters is None:
        assert kernel.shape == (3, 3, 1, 3)
        kernel = np.stack([np.diag(tap) for tap in kernel[:, :, 0].reshape(9, 3)]).reshape(3, 3, 3, 3)
    expected = loops(x, kernel, stride=stride, rate=rate, padding=padding) / np.sqrt(1 + EPSILON)
    np.testing.assert_allclose(y, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('stride', [1, 2])
def test_a_1x1_unit_is_a_product(size, stride):
    x = normal(2, *size, 3)
    kernel, y = of_unit(ConvUnit(5, ops.xavier_init, stride=stride), x)
    expected = np.maximum(x[:, ::stride, ::stride] @ kernel[0, 0] / np.sqrt(1 + EPSILON), 0)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize('n', [3, 8, 9, 16, 17, 33])
@pytest.mark.parametrize(('taps', 'rate'), [(3, 1), (3, 2), (1, 1), (5, 1)])
def test_paddings_agree_at_stride_1_and_where_the_stride_divides_the_size_less_one(n, taps, rate):
    same, symmetric = (
        [convolution.margins(n, taps, stride=stride, rate=rate, padding=padding) for stride in (1, 2)]
        for padding in ('same', 'symmetric')
    )
    assert same[0] == symmetric[0] == (rate * (taps // 2),) * 2
    assert (same[1] == symmetric[1]) == (n % 2 == 1 or taps == 1)


@pytest.mark.parametrize(('activation', 'expected'), [(None, [-3, 2, 9]), (nn.relu, [0, 2, 9]), (nn.relu6, [0, 2, 6])])
def test_the_activation_comes_last(activation, expected):
    unit = ConvUnit(1, nn.initializers.ones, activation=activation, epsilon=0.0)
    _, y = of_unit(unit, np.array([-3.0, 2.0, 9.0]).reshape(1, 1, 3, 1))
    np.testing.assert_allclose(y.ravel(), expected, atol=1e-5)


@pytest.fixture(params=['cpu', 'other devices'])
def device_branch(request, monkeypatch):
    """What a device computes, or what others would, which the CPU can as well."""
    if request.param != 'cpu':
        monkeypatch.setattr(ops.lax, 'platform_dependent', lambda *args, default, cpu: default(*args))
    jax.clear_caches()  # the gradient is traced once for equal arguments


@pytest.mark.usefixtures('device_branch')
@pytest.mark.parametrize('size', [(6, 9), (7, 8)])
@pytest.mark.parametrize('padding', ['same', 'symmetric'])
def test_depthwise_has_the_gradients_of_a_grouped_convolution(size, padding):
    x, kernel = float32(normal(2, *size, 4)), float32(normal(3, 3, 1, 4, seed=1))
    for stride, rate in WINDOWS:
        sides = [
            convolution.margins(n, 3, stride=stride, rate=r, padding=padding) for n, r in zip(size, rate, strict=True)
        ]

        def grouped(x, kernel, stride=stride, rate=rate, sides=sides):
            return jax.lax.conv_general_dilated(
                x,
                kernel,
                (stride, stride),
                sides,
                rhs_dilation=rate,
                dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
                feature_group_count=4,
            )

        expected, expected_vjp = jax.vjp(grouped, x, kernel)
        ours = functools.partial(convolution.depthwise, stride=stride, rate=rate, padding=padding)
        actual, actual_vjp = jax.vjp(ours, x, kernel)
        np.testing.assert_allclose(actual, expected, atol=1e-5)
        cotangent = jnp.cos(expected)
        for grad, other in zip(actual_vjp(cotangent), expected_vjp(cotangent), strict=True):
            np.testing.assert_allclose(grad, other, atol=2e-5)


@pytest.mark.usefixtures('device_branch')
@pytest.mark.parametrize(('taps', 'rate'), [((3, 3), (1, 1)), ((3, 3), (9, 3)), ((2, 5), (1, 2))])
def test_a_convolution_of_many_filters_has_the_gradients_that_jax_derives(taps, rate):
    x, kernel = float32(normal(2, 6, 9, 3)), float32(normal(*taps, 3, convolution.MANY_FILTERS, seed=1))
    sides = [convolution.margins(n, t, rate=r) for n, t, r in zip((6, 9), taps, rate, strict=True)]
    axes = ('NHWC', 'HWIO', 'NHWC')

    def derived(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), sides, rhs_dilation=rate, dimension_numbers=axes)

    expected, expected_vjp = jax.vjp(derived, x, kernel)
    actual, actual_vjp = jax.vjp(functools.partial(convolution.dense, rate=rate), x, kernel)
    np.testing.assert_array_equal(actual, expected)
    for grad, other in zip(actual_vjp(jnp.cos(expected)), expected_vjp(jnp.cos(expected)), strict=True):
        np.testing.assert_allclose(grad, other, atol=5e-5)


@pytest.mark.usefixtures('device_branch')
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_a_product_has_the_gradients_that_jax_derives(dtype):
    x, kernel = (float32(normal(*shape)).astype(dtype) for shape in ((2, 3, 4, 5), (5, 6)))
    expected, expected_vjp = jax.vjp(jnp.matmul, x, kernel)
    actual, actual_vjp = jax.vjp(ops.product, x, kernel)
    np.testing.assert_array_equal(actual, expected)
    for grad, other in zip(actual_vjp(expected), expected_vjp(expected), strict=True):
        assert grad.dtype == dtype
        np.testing.assert_allclose(np.float32(grad), np.float32(other), rtol=1e-5 if dtype == jnp.float32 else 2**-6)


def test_depthwise_rounds_to_bfloat16_once():
    x, kernel = (float32(normal(*shape)).astype(jnp.bfloat16) for shape in ((1, 9, 9, 4), (3, 3, 1, 4)))
    exact = convolution.depthwise(x.astype(jnp.float32), kernel.astype(jnp.float32))
    rounded = np.asarray(convolution.depthwise(x, kernel), np.float32)
    np.testing.assert_allclose(rounded, exact, rtol=2**-8)  # half a unit in the last of 8 bits, and slack


def test_a_separable_convolution_has_a_norm_and_a_relu_in_the_middle():
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            return convolution.separable(x, False, 5, name='part', rate=(2, 1))

    x = normal(1, 6, 7, 4)
    variables = Block().init(jax.random.key(0), float32(x))
    assert set(variables['params']) == {'part_depthwise', 'part_pointwise'}
    kernels = [
        np.asarray(variables['params'][f'part_{kind}']['kernel'], np.float64) for kind in ('depthwise', 'pointwise')
    ]
    dense = np.stack([np.diag(tap) for tap in kernels[0][:, :, 0].reshape(9, 4)]).reshape(3, 3, 4, 4)
    for kernel, rate in zip([dense, kernels[1]], [(2, 1), (1, 1)], strict=True):
        x = np.maximum(loops(x, kernel, stride=1, rate=rate, padding='same') / np.sqrt(1 + EPSILON), 0)
    np.testing.assert_allclose(Block().apply(variables, float32(normal(1, 6, 7, 4))), x, rtol=0, atol=1e-5)


def test_training_moves_the_averages_with_the_units_own_decay():
    unit = ConvUnit(3, ops.xavier_init, decay=0.75, activation=None)
    x = float32(normal(4, 5, 5, 2))
    variables = unit.init(jax.random.key(0), x, False)
    _, updates = unit.apply(variables, x, True, mutable=['batch_stats'])
    seen = np.asarray(x).reshape(-1, 2) @ np.asarray(variables['params']['kernel'])[0, 0]
    moved = updates['batch_stats']['BatchNorm']
    np.testing.assert_allclose(moved['mean'], 0.25 * seen.mean(0), atol=1e-5)
    np.testing.assert_allclose(moved['var'], 0.75 + 0.25 * seen.var(0, ddof=1), rtol=1e-4)


def test_taps_beyond_the_map_are_left_out():
    def reads(rate):
        jaxpr = jax.make_jaxpr(functools.partial(convolution.depthwise, rate=rate))(
            jnp.ones((1, 5, 7, 2)), jnp.ones((3, 3, 1, 2))
        )
        return str(jaxpr).count(' mul ')

    counts = {rate: reads(rate) for rate in itertools.product((4, 5), (6, 7))}
    assert counts == {(4, 6): 9, (4, 7): 3, (5, 6): 3, (5, 7): 1}
