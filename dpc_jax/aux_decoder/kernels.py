"""What an instruction computes on one map, forward and backward: plain functions that know of no tape.

A *mix* is the linear part of an operator; a unit is a mix, a batch norm and a ReLU. Gradients are written out: what JAX
derives for the kernel of a 3x3 convolution took a core 54 ms, the columns below 20 (64x64x48, batch 8). A is the
filters of all maps.
"""

import functools
import itertools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from dpc_jax import ops
from dpc_jax.aux_decoder.module import BN_EPSILON
from dpc_jax.aux_decoder.tape import KINDS
from dpc_jax.base import Size
from dpc_jax.spaces.aux_cells import OPS

Maps = Float[Array, 'B h w A']

LOOPED = 2**17  # numbers of a map: the gradient of a depthwise kernel is a loop up to these
ROWS_AT_ONCE = 256  # of the columns of a dense kernel's gradient: 256 * 9 * 48 numbers are 0.4 MB


class Weights(NamedTuple):
    """Those of one unit; a mix reads what its kind needs."""

    pointwise: Float[Array, 'A A']
    dense: Float[Array, '3 3 A A']
    depthwise: Float[Array, '5 5 A']


def needs(kind: int) -> tuple[str, ...]:
    """Fields of `Weights` that the operator reads."""
    op = OPS[KINDS[kind]]
    if op.kind == 'conv' and op.kernel > 1:
        return ('dense',)
    return ('pointwise', 'depthwise') if op.kind == 'separable' else ('pointwise',)


# ---- linear parts ---------------------------------------------------------------------------------------------------


def mix(kind: int, x: Maps, weights: Weights) -> Maps:
    """The linear part of operator `KINDS[kind]`."""
    op = OPS[KINDS[kind]]
    if op.kind == 'pooling':
        return jnp.broadcast_to(x.mean((1, 2), keepdims=True) @ weights.pointwise, x.shape)
    if op.kind == 'separable':
        return depthwise(x, _of_side(weights.depthwise, op.kernel), op.rate) @ weights.pointwise
    return x @ weights.pointwise if op.kernel == 1 else dense(x, weights.dense, op.rate)


def mix_back(kind: int, x: Maps, grad: Float[Array, 'B _ _ A'], weights: Weights) -> tuple[Maps, dict[str, Array]]:
    """Gradients of the map and of the weights that the mix reads."""
    op = OPS[KINDS[kind]]
    if op.kind == 'pooling':
        mean, total = x.mean((1, 2)), grad.sum((1, 2))
        share = (total @ weights.pointwise.T) / (x.shape[1] * x.shape[2])
        return jnp.broadcast_to(share[:, None, None, :], x.shape), {'pointwise': mean.T @ total}
    if op.kind == 'separable':
        kernel = _of_side(weights.depthwise, op.kernel)
        spread = depthwise(x, kernel, op.rate)
        inner = lax.optimization_barrier(grad @ weights.pointwise.T)
        side = (5 - op.kernel) // 2
        of_kernel = jnp.pad(depthwise_kernel_grad(x, inner, op.kernel, op.rate), ((side, side), (side, side), (0, 0)))
        return depthwise(inner, kernel[::-1, ::-1], op.rate), {
            'pointwise': _flat(spread).T @ _flat(grad),
            'depthwise': of_kernel,
        }
    if op.kernel == 1:
        return grad @ weights.pointwise.T, {'pointwise': _flat(x).T @ _flat(grad)}
    turned = weights.dense[::-1, ::-1].transpose(0, 1, 3, 2)
    return dense(grad, turned, op.rate), {'dense': dense_kernel_grad(x, grad, op.rate)}


def of_unit(kind: int, z: Maps, grad: Maps) -> tuple[Float[Array, 'B _ _ A'], Float[Array, 'B _ _ A']]:
    """What the batch norm of an operator has seen, and its gradient: of a global mean one value of each image."""
    if OPS[KINDS[kind]].kind == 'pooling':
        return z[:, :1, :1], grad.sum((1, 2), keepdims=True)
    return z, grad


def _flat(x: Float[Array, 'B h w C']) -> Float[Array, 'n C']:
    return x.reshape(-1, x.shape[-1])


def _of_side(kernel: Float[Array, '5 5 A'], side: int) -> Float[Array, 'k k A']:
    """The middle of a kernel of five."""
    margin = (5 - side) // 2
    return kernel[margin : 5 - margin, margin : 5 - margin]


def _taps(size: Size, side: int, rate: int) -> list[tuple[int, int]]:
    """The taps of a square kernel that read a map of this size at all."""
    middle = side // 2
    places = itertools.product(range(side), range(side))
    return [(i, j) for i, j in places if abs(i - middle) * rate < size[0] and abs(j - middle) * rate < size[1]]


def _size(x: Float[Array, 'B h w _']) -> Size:
    return x.shape[1], x.shape[2]


def _padded(x: Float[Array, 'B h w C'], margin: int) -> Float[Array, 'B _ _ C']:
    return lax.optimization_barrier(jnp.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0))))


def dense(x: Float[Array, 'B h w C'], kernel: Float[Array, '3 3 C D'], rate: int) -> Float[Array, 'B h w D']:
    """3x3 convolution, SAME."""
    if _taps(_size(x), 3, rate) == [(1, 1)]:
        return x @ kernel[1, 1]
    return lax.conv_general_dilated(
        x, kernel, (1, 1), 'SAME', rhs_dilation=(rate, rate), dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )


def dense_kernel_grad(x: Float[Array, 'B h w C'], grad: Float[Array, 'B h w D'], rate: int) -> Float[Array, '3 3 C D']:
    """The gradient of the kernel of `dense`: columns of all taps, so few rows at a time that they stay in the cache."""
    (batch, height, width, channels), filters = x.shape, grad.shape[-1]
    taps = _taps((height, width), 3, rate)
    rows = _divisor(height, ROWS_AT_ONCE // width)
    padded = _padded(x, rate)

    def add(part: Array, total: Float[Array, 'n D']) -> Float[Array, 'n D']:
        image, start = part // (height // rows), (part % (height // rows)) * rows
        zero = jnp.zeros_like(part)
        span = (1, rows + 2 * rate, width + 2 * rate, channels)
        seen = lax.dynamic_slice(padded, (image, start, zero, zero), span)[0]
        given = lax.dynamic_slice(grad, (image, start, zero, zero), (1, rows, width, filters)).reshape(-1, filters)
        reads = [seen[i * rate : i * rate + rows, j * rate : j * rate + width] for i, j in taps]
        columns = jnp.concatenate(reads, -1).reshape(rows * width, -1)
        return total + lax.optimization_barrier(given.T) @ columns  # the smaller factor is the one to transpose

    start = jnp.zeros((filters, len(taps) * channels), x.dtype)
    total = lax.fori_loop(jnp.int32(0), jnp.int32(batch * (height // rows)), add, start)
    kernel = jnp.zeros((3, 3, channels, filters), x.dtype)
    where = tuple(jnp.array(axis, jnp.int32) for axis in zip(*taps, strict=True))
    return kernel.at[where].set(total.T.reshape(len(taps), channels, filters))


def depthwise(x: Maps, kernel: Float[Array, 'k k A'], rate: int) -> Maps:
    """Depthwise convolution, SAME, as shifted reads."""
    (height, width), side = _size(x), kernel.shape[0]
    padded = _padded(x, rate * (side // 2))
    reads = [
        padded[:, i * rate : i * rate + height, j * rate : j * rate + width] * _along(kernel[i, j])
        for i, j in _taps((height, width), side, rate)
    ]
    return functools.reduce(jnp.add, reads)


def depthwise_kernel_grad(x: Maps, grad: Maps, side: int, rate: int) -> Float[Array, 'k k A']:
    """The gradient of the kernel of `depthwise`.

    Written out for large maps, which is twice as fast there; for small ones a loop over the rows of the kernel, which
    takes a third of the time to compile.
    """
    (height, width), taps = _size(x), _taps(_size(x), side, rate)
    rows, columns = (sorted(set(places)) for places in zip(*taps, strict=True))
    padded = _padded(x, rate * (side // 2))

    def of_row(start: Int[Array, ''] | int) -> Float[Array, 'c A']:
        band = lax.dynamic_slice_in_dim(padded, start, height, 1)
        return jnp.stack([ops.sum_of_products(band[:, :, j * rate : j * rate + width], grad) for j in columns])

    if x.size > LOOPED:
        found = jnp.stack([of_row(row * rate) for row in rows])
    else:
        found = lax.map(of_row, rate * jnp.array(rows, jnp.int32))
    kernel = jnp.zeros((side, side, x.shape[-1]), x.dtype)
    return kernel.at[np.array(rows)[:, None], np.array(columns)[None, :]].set(found)


def _divisor(count: int, most: int) -> int:
    """The largest divisor of the count that is at most that, at least 1."""
    return max(one for one in range(1, max(1, min(count, most)) + 1) if count % one == 0)


# ---- norms ----------------------------------------------------------------------------------------------------------


class Norm(NamedTuple):
    """How a stored map is read: relu((x - mean) * inv * scale + bias)."""

    mean: Float[Array, ' A']
    inv: Float[Array, ' A']
    scale: Float[Array, ' A']
    bias: Float[Array, ' A']


def normalised(z: Maps, norm: Norm) -> Maps:
    """What a stored map means."""
    return jnp.maximum((z - _along(norm.mean)) * _along(norm.inv * norm.scale) + _along(norm.bias), 0)


def _along(values: Float[Array, ' A']) -> Float[Array, '1 1 1 A']:
    return values[None, None, None, :]


def moments(z: Maps) -> tuple[Float[Array, ' A'], Float[Array, ' A']]:
    """Mean and (biased) variance of each channel."""
    mean = z.mean((0, 1, 2))
    return mean, jnp.square(z - _along(mean)).mean((0, 1, 2))


def inverse(var: Float[Array, '*s A']) -> Float[Array, '*s A']:
    """1 / deviation."""
    return lax.rsqrt(var + BN_EPSILON)


def norm_back(z: Maps, grad: Maps, norm: Norm) -> tuple[Maps, Float[Array, ' A'], Float[Array, ' A']]:
    """Gradients of a stored map, of scale and of bias, from that of what it means."""
    count = z.shape[0] * z.shape[1] * z.shape[2]
    centred = (z - _along(norm.mean)) * _along(norm.inv)
    grad = jnp.where(centred * _along(norm.scale) + _along(norm.bias) > 0, grad, 0)
    bias_grad, scale_grad = grad.sum((0, 1, 2)), (grad * centred).sum((0, 1, 2))
    shift = _along(bias_grad / count) + centred * _along(scale_grad / count)
    return _along(norm.scale * norm.inv) * (grad - shift), scale_grad, bias_grad
