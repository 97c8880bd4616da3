"""The operators of the cell: 1x1, atrous separable and pyramid pooling, each in a static and a dynamic view.

Static: Flax modules; rate and grid are Python integers. These are trained at full size and exported.
Dynamic: functions in which rate and grid are data, so that one compiled program serves all 81 operators. A rate
becomes shifted reads of the map, a grid becomes rows of a table of per-axis matrices.

Both do what the official code does (tensorflow/models research/deeplab/core/dense_prediction_cell.py): a separable
convolution is depthwise, BN, ReLU, pointwise, BN, ReLU; pooling is mean, 1x1, BN, ReLU, align-corners resize.
"""

import functools
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from dpc_jax.base import InputError, Size
from dpc_jax.initial import Initializer as Initializer
from dpc_jax.initial import truncated_normal as truncated_normal
from dpc_jax.initial import xavier_uniform
from dpc_jax.norms import BN_DECAY as BN_DECAY
from dpc_jax.norms import BN_EPSILON as BN_EPSILON
from dpc_jax.norms import BatchNorm as BatchNorm
from dpc_jax.norms import Moments as Moments
from dpc_jax.norms import batch_norm as batch_norm

Pooling = Literal['sliding', 'binned']
"""'sliding': a mean of stride 1 as in the released code. 'binned': one mean per cell of the grid, as in the paper's
text (§3.1). They are equal for the grid 1x1; the released cell has no pooling, so it does not show which is right."""

POOLINGS: tuple[Pooling, ...] = ('sliding', 'binned')

# Official initialisers: truncated normals for the separable convolution, slim's Xavier for every other 1x1.
DEPTHWISE_STDDEV = 0.33
POINTWISE_STDDEV = 0.06
depthwise_init: Initializer = truncated_normal(DEPTHWISE_STDDEV)
pointwise_init: Initializer = truncated_normal(POINTWISE_STDDEV)
xavier_init: Initializer = xavier_uniform


# ---- dropout --------------------------------------------------------------------------------------------------------


def dropout(key: jax.Array | None, x: Float[Array, '*n C'], rate: float) -> Float[Array, '*n C']:
    """Sets a share `rate` of the entries to 0 and scales the rest; both views use it, so that a key gives one mask.

    A rate of 0 needs no key; ValueError if another rate has none.

    16 random bits per entry: the share is right to 1 / 65536. The two halves of a random word are two entries of the
    last axis, which on a CPU takes a third of the time of asking JAX for 16-bit integers.
    """
    return x if rate == 0 else dropped(x, dropout_mask(key, x.shape, rate), rate)


def dropped(x: Float[Array, '*n C'], keep: Bool[Array, '*n C'], rate: float) -> Float[Array, '*n C']:
    """The entries that are kept, scaled; 0 for the others."""
    return jnp.where(keep, x / jnp.asarray(1 - rate, x.dtype), jnp.zeros((), x.dtype))


def dropout_mask(key: jax.Array | None, shape: tuple[int, ...], rate: float) -> Bool[Array, '*n C']:
    """True for the entries that `dropout` keeps."""
    if key is None:
        raise ValueError('a network that trains with dropout needs a dropout_key')
    channels, threshold = shape[-1], jnp.uint32(round(rate * 2**16))
    words = jax.random.bits(key, (*shape[:-1], -(-channels // 2)), jnp.uint32)
    kept = jnp.concatenate([words & jnp.uint32(0xFFFF) >= threshold, words >> jnp.uint32(16) >= threshold], -1)
    return kept[..., :channels]


# ---- what XLA on a CPU needs to be told ------------------------------------------------------------------------------


def once(x: Float[Array, '*n']) -> Float[Array, '*n']:
    """x, which several read: XLA on a CPU would compute it anew in each that it fuses it into. A GPU is left alone."""
    found: Array = lax.platform_dependent(x, cpu=lax.optimization_barrier, default=lambda x: x)
    return found


@jax.custom_vjp
def product(x: Float[Array, '*n C'], kernel: Float[Array, 'C D']) -> Float[Array, '*n D']:
    """x @ kernel. Its gradient is written out: of the one that JAX derives XLA on a CPU transposes the other factor."""
    return x @ kernel


def _product_backward(kept: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    x, kernel = kept
    grad = once(grad)
    return grad @ kernel.T, x.reshape(-1, x.shape[-1]).T @ grad.reshape(-1, grad.shape[-1])


product.defvjp(lambda x, kernel: (x @ kernel, (x, kernel)), _product_backward)


# ---- resizing -------------------------------------------------------------------------------------------------------


def align_corners(source: int, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per target position: lower index, upper index, weight of the upper one (TensorFlow's align_corners=True)."""
    step = (source - 1) / (target - 1) if target > 1 else 0.0
    position = np.arange(target) * step
    lower = np.minimum(np.floor(position).astype(np.int32), source - 1)
    return lower, np.minimum(lower + 1, source - 1), position - lower


def resize_bilinear(x: Float[Array, 'B h w C'], size: Size) -> Float[Array, 'B H W C']:
    """Bilinear, corners aligned on corners; a map of one cell is repeated."""
    for axis in (1, 2):
        lower, upper, weight = align_corners(x.shape[axis], size[axis - 1])
        shape = [1] * x.ndim
        shape[axis] = -1
        share = jnp.asarray(weight, x.dtype).reshape(shape)
        below, above = (jnp.take(x, index, axis=axis, mode='clip') for index in (lower, upper))
        x = below * (1 - share) + above * share
    return x


def upsample_logits(
    y: Float[Array, 'B _ _ _'], size: Size, *, axes: str = 'bhwl', precision: lax.Precision | None = None
) -> Float[Array, 'B L H W']:
    """Logits at the size of the labels, which are never made smaller (DeepLabv3 §4.1): align-corners bilinear.

    `axes` are those of `y`. One matrix product per axis, classes in front of both: its gradient is a product again,
    where that of a gather is a scatter.
    """
    sides = (y.shape[axes.index('h')], y.shape[axes.index('w')])
    if sides == tuple(size):
        return y.transpose(*map(axes.index, 'blhw'))
    rows, columns = (jnp.asarray(resize_matrix(*pair), y.dtype) for pair in zip(sides, size, strict=True))
    y = jnp.einsum(f'{axes},Ww->blhW', y, columns, precision=precision)
    return jnp.einsum('blhW,Hh->blHW', y, rows, precision=precision)


# ---- static view ----------------------------------------------------------------------------------------------------


def pool(
    x: Float[Array, 'B h w C'], grid: Size, pooling: Pooling, pooled_size: Size | None = None
) -> Float[Array, 'B p q C']:
    """Mean over windows of a map; see `Pooling`. The result is smaller than the map (grid 1x1: one cell).

    Sliding windows are those of a map of `pooled_size` cells, by default of this map: a network that was trained on
    crops may keep their windows on whole images (the official image_pooling_crop_size). InputError if one of them
    is larger than the map, or if bins get a `pooled_size`.
    """
    if pooling == 'sliding':
        height, width = pooled_size or (x.shape[1], x.shape[2])
        window = (sliding_window(height, grid[0]), sliding_window(width, grid[1]))
        if window[0] > x.shape[1] or window[1] > x.shape[2]:
            raise InputError(
                f'image pooling over {window[0]}x{window[1]} cells: the features have {x.shape[1]}x{x.shape[2]};'
                ' image_pooling_crop_size must not be larger than the image'
            )
        # flax's avg_pool divides by an integer, which strict dtype promotion refuses. The 0 is a Python number: an
        # array would be traced under jit, and JAX differentiates a window only where it knows that it is a sum.
        wide = x.astype(np.promote_types(x.dtype, np.float32))  # in bfloat16, 256 + 1 is 256
        total = nn.pool(wide, 0.0, lax.add, window, strides=(1, 1), padding='VALID')
        return (total / (window[0] * window[1])).astype(x.dtype)
    if pooled_size is not None:
        raise InputError("image_pooling_crop_size needs pooling 'sliding'; bins cover the whole map whatever its size")
    for axis in (1, 2):
        bins = bin_edges(x.shape[axis], grid[axis - 1])
        parts = [lax.slice_in_dim(x, start, stop, axis=axis).mean(axis, keepdims=True) for start, stop in bins]
        x = jnp.concatenate(parts, axis)
    return x


def sliding_window(size: int, grid: int) -> int:
    """Window of the sliding mean on an axis of `size` cells.

    The official scale_dimension(crop, 1 / (output_stride * grid)) with crop = (size - 1) * output_stride + 1.
    """
    return (size - 1) // grid + 1


def bin_edges(size: int, grid: int) -> list[tuple[int, int]]:
    """Start and stop of each bin that covers an axis of `size` cells: overlapping where `grid` does not divide it.

    A grid finer than the map leaves the map as it is.
    """
    grid = min(grid, size)
    return [(i * size // grid, -((i + 1) * size // -grid)) for i in range(grid)]


# ---- dynamic view ---------------------------------------------------------------------------------------------------


def extent_mask(size: Size, extent: tuple[Int[Array, ''], Int[Array, '']]) -> Bool[Array, 'h w']:
    """True in the upper left `extent` (rows, columns) of a map of `size`."""
    rows, cols = (jnp.arange(n, dtype=jnp.int32) < inside for n, inside in zip(size, extent, strict=True))
    return rows[:, None] & cols[None, :]


def neighbour_index(size: Size, rate: Int[Array, ' 2'], tap: tuple[int, int]) -> Int[Array, ' hw']:
    """For each cell of a flattened map, the cell at `tap * rate` from it; h*w where that lies outside."""
    rows = jnp.arange(size[0], dtype=jnp.int32) + tap[0] * rate[0]
    cols = jnp.arange(size[1], dtype=jnp.int32) + tap[1] * rate[1]
    inside = ((rows >= 0) & (rows < size[0]))[:, None] & ((cols >= 0) & (cols < size[1]))[None, :]
    return jnp.where(inside, rows[:, None] * size[1] + cols[None, :], size[0] * size[1]).reshape(-1)


_TAPS = tuple((i, j) for i in (-1, 0, 1) for j in (-1, 0, 1))


def _with_outside(x: Float[Array, 'B h w C']) -> Float[Array, 'B n C']:
    """The flattened map with one more row of zeros, which stands for all that is outside."""
    # The barrier keeps it one array that nine gathers read; fused into them it would be computed nine times.
    batch, _, _, channels = x.shape
    return lax.optimization_barrier(jnp.pad(x.reshape(batch, -1, channels), ((0, 0), (0, 1), (0, 0))))


def _reads(size: Size, rate: Int[Array, ' 2']) -> list[Int[Array, ' hw']]:
    return [neighbour_index(size, rate, tap) for tap in _TAPS]


def weighted_reads(
    x: Float[Array, 'B h w C'], kernel: Float[Array, '3 3 C'], rate: Int[Array, ' 2']
) -> Float[Array, 'B h w C']:
    """Depthwise 3x3 convolution, SAME, whose atrous rate (height, width) is data; `kernel` in x's dtype.

    Its gradient for the map is the same with the kernel turned by half a turn, since a map that is read at a tap gives
    back at the opposite one; where JAX differentiates a gather there is a scatter. That for the kernel is
    `kernel_gradient`.
    """
    flat, total = _with_outside(x), jnp.zeros((), x.dtype)
    for (i, j), read in zip(_TAPS, _reads((x.shape[1], x.shape[2]), rate), strict=True):
        total = total + flat.at[:, read].get(mode='promise_in_bounds') * kernel[i + 1, j + 1][None, None, :]
    return total.reshape(x.shape)


def kernel_gradient(
    x: Float[Array, 'B h w C'], grad: Float[Array, 'B h w C'], rate: Int[Array, ' 2']
) -> Float[Array, '3 3 C']:
    """The gradient of the kernel of `weighted_reads` on `x`, from that of its result; in the wide type."""
    # Products are added over the images first, one image at a time: that is one pass of plain arithmetic over a map.
    # XLA on a CPU reads a gather that it fuses into a sum in an order ten times slower. One loop over the taps, because
    # nine times the code takes nine times as long to compile.
    wide = np.promote_types(x.dtype, np.float32)
    images, seen = list(_with_outside(x)), list(grad.reshape(x.shape[0], -1, x.shape[-1]).astype(wide))

    def tap_gradient(read: Int[Array, ' hw']) -> Float[Array, ' C']:
        shifted = (image.at[read].get(mode='promise_in_bounds').astype(wide) for image in images)
        by_cell = functools.reduce(jnp.add, (one * other for one, other in zip(shifted, seen, strict=True)))
        total: Array = lax.optimization_barrier(by_cell).sum(0)
        return total

    return lax.map(tap_gradient, jnp.stack(_reads((x.shape[1], x.shape[2]), rate))).reshape(3, 3, -1)


class PoolTables(NamedTuple):
    """Pooling and resizing along one axis of n cells as matrices, one per entry of the space's list of grids (G)."""

    pool: Float[np.ndarray, 'G n n']  # pooled = pool @ map; rows from `extent` on are 0
    resize: Float[np.ndarray, 'G n n']  # map = resize @ pooled; columns from `extent` on are 0
    extent: Int[np.ndarray, ' G']  # cells of the pooled axis


@functools.lru_cache(maxsize=64)
def pool_tables(size: int, grids: tuple[int, ...], pooling: Pooling) -> PoolTables:
    """The tables for an axis of `size` cells; constants of the compiled program."""
    pools, resizes, extents = [], [], []
    for grid in grids:
        if pooling == 'sliding':
            window = sliding_window(size, grid)
            windows = [(start, start + window) for start in range(size - window + 1)]
        else:
            windows = bin_edges(size, grid)
        down, up = np.zeros((size, size)), np.zeros((size, size))
        for row, (start, stop) in enumerate(windows):
            down[row, start:stop] = 1 / (stop - start)
        up[:, : len(windows)] = resize_matrix(len(windows), size)
        pools.append(down)
        resizes.append(up)
        extents.append(len(windows))
    return PoolTables(np.stack(pools), np.stack(resizes), np.array(extents, np.int32))


def resize_matrix(source: int, target: int) -> Float[np.ndarray, 'target source']:
    """Align-corners bilinear resizing of one axis as a matrix."""
    lower, upper, weight = align_corners(source, target)
    matrix = np.zeros((target, source))
    np.add.at(matrix, (np.arange(target), lower), 1 - weight)
    np.add.at(matrix, (np.arange(target), upper), weight)
    return matrix


def half_pixel_matrix(source: int, target: int) -> Float[np.ndarray, 'target source']:
    """Bilinear resizing of one axis to more cells as a matrix, centres of cells on centres (align_corners=False)."""
    position = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    lower = np.floor(position).astype(np.int32)
    matrix = np.zeros((target, source))
    np.add.at(matrix, (np.arange(target), lower), 1 - (position - lower))
    np.add.at(matrix, (np.arange(target), np.minimum(lower + 1, source - 1)), position - lower)
    return matrix


def resize_half_pixel(x: Float[Array, 'B h w C'], size: Size) -> Float[Array, 'B H W C']:
    """Bilinear enlargement, centres of cells on centres (PyTorch's interpolate with align_corners=False)."""
    if (x.shape[1], x.shape[2]) == size:
        return x
    rows, columns = (jnp.asarray(half_pixel_matrix(*pair), x.dtype) for pair in zip(x.shape[1:3], size, strict=True))
    return along_axes(x, rows, columns)


def along_axes(
    x: Float[Array, 'B h w D'], rows: Float[Array, 'p h'], cols: Float[Array, 'q w']
) -> Float[Array, 'B p q D']:
    """Applies one matrix along the height and one along the width."""
    x = jnp.einsum('ph,bhwd->bpwd', rows.astype(x.dtype), x)
    return jnp.einsum('qw,bpwd->bpqd', cols.astype(x.dtype), x)
