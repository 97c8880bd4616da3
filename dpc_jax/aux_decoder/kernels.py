"""What an instruction computes on one map, forward and backward: plain functions that know of no tape.

A *mix* is the linear part of an operator; a unit is a mix, a batch norm and a ReLU. Gradients are written out: what JAX
derives for the kernel of a 3x3 convolution took a core 54 ms, the columns below 20 (64x64x48, batch 8). A is the
filters of all maps.
"""

import functools
import itertools
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from dpc_jax.aux_decoder.module import BN_EPSILON
from dpc_jax.aux_decoder.tape import KINDS
from dpc_jax.base import Size
from dpc_jax.spaces.aux_cells import OPS

Maps = Float[Array, 'B h w A']

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


def _with_unread(found: Float[Array, 'taps *s'], taps: list[tuple[int, int]], side: int) -> Float[Array, 'k k *s']:
    """A kernel of these values at these taps, which are the middle of it, and of zeros at the others.

    (A pad, because a scatter would take a second to compile.)
    """
    rows, columns = (sorted(set(places)) for places in zip(*taps, strict=True))
    kernel = found.reshape(len(rows), len(columns), *found.shape[1:])
    margins = ((rows[0], side - 1 - rows[-1]), (columns[0], side - 1 - columns[-1]))
    return jnp.pad(kernel, (*margins, *[(0, 0)] * (found.ndim - 1)))


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
    rows, starts, zero = _divisor(height, ROWS_AT_ONCE // width), rate * jnp.array(taps, jnp.int32), jnp.int32(0)
    padded = _padded(x, rate)

    def add(part: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        total, columns = carry
        image, row = part // (height // rows), (part % (height // rows)) * rows

        def fill(tap: Array, columns: Float[Array, 'r w n']) -> Float[Array, 'r w n']:
            at = (image, row + starts[tap, 0], starts[tap, 1], zero)
            seen = lax.dynamic_slice(padded, at, (1, rows, width, channels))[0]
            return lax.dynamic_update_slice(columns, seen, (zero, zero, tap * channels))

        columns = lax.fori_loop(zero, jnp.int32(len(taps)), fill, columns)
        given = lax.dynamic_slice(grad, (image, row, zero, zero), (1, rows, width, filters)).reshape(-1, filters)
        # The smaller factor is the one to transpose.
        return total + lax.optimization_barrier(given.T) @ columns.reshape(rows * width, -1), columns

    start = [jnp.zeros((*size, len(taps) * channels), x.dtype) for size in ((filters,), (rows, width))]
    total, _ = lax.fori_loop(zero, jnp.int32(batch * (height // rows)), add, tuple(start))
    return _with_unread(total.T.reshape(len(taps), channels, filters), taps, 3)


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
    """The gradient of the kernel of `depthwise`, tap by tap: written out it took five times as long to compile.

    Images are added before cells, and each is read where it lies: see `convolution._sums_in_a_loop`.
    """
    size, taps = (*_size(x), x.shape[-1]), _taps(_size(x), side, rate)
    padded, zero = _padded(x, rate * (side // 2)), jnp.int32(0)

    def of_tap(start: Int[Array, ' 2']) -> Float[Array, ' A']:
        seen = (lax.dynamic_slice(padded, (jnp.int32(image), *start, zero), (1, *size))[0] for image in range(len(x)))
        total = functools.reduce(jnp.add, (one * given for one, given in zip(seen, list(grad), strict=True)))
        cells = lax.optimization_barrier(_flat(total[None]))
        return jnp.ones(len(cells), x.dtype) @ cells

    return _with_unread(lax.map(of_tap, rate * jnp.array(taps, jnp.int32)), taps, side)


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
