"""The Dense Prediction Cell in two views that are the same function (tests/test_equivalence.py).

`DensePredictionCell` is one genotype as a Flax module, built like the official one: trained, imported, exported.
`apply` is every genotype at once: the genotype is data, so one compiled program runs any cell, and `jax.vmap` over
genotype and parameters runs a population. Its parameters have one shape for all cells; `to_static` and
`from_static` carry them over.

Official file: tensorflow/models research/deeplab/core/dense_prediction_cell.py; §3.1 of the paper.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from dpc_jax import ops
from dpc_jax.base import FEATURES, Genotype, InputError, PyTree, Size
from dpc_jax.ops import Moments, Pooling
from dpc_jax.spaces import dpc

DROPOUT_RATE = 0.1  # official dropout_keep_prob 0.9, on the concatenated branches


def rate_multiplier(output_stride: int) -> int:
    """Factor on the atrous rates, which are meant for output stride 16: 16 / output_stride (official model.py)."""
    if output_stride not in (4, 8, 16):
        raise InputError(f'output stride {output_stride}: the rates of a cell need 4, 8 or 16 (32 would make them 0)')
    return 16 // output_stride


# ---- static view ----------------------------------------------------------------------------------------------------


class DensePredictionCell(nn.Module):
    """One cell. In [B, h, w, C], out [B, h, w, D]; `key` draws the dropout mask when training.

    The names of its parts are the official scopes: branch{i}_depthwise, branch{i}_pointwise, branch{i},
    concat_projection. `branches` are pairs (input, operator index) as in a genotype.
    """

    branches: tuple[tuple[int, int], ...]
    filters: int = 256
    output_stride: int = 16
    pooling: Pooling = 'sliding'
    dropout_rate: float = DROPOUT_RATE
    decay: float = ops.BN_DECAY
    dtype: jnp.dtype | None = None

    @classmethod
    def of(cls, genotype: Genotype, **settings: object) -> 'DensePredictionCell':
        """The cell of an unbatched genotype."""
        pairs = zip(genotype.inputs, genotype.ops, strict=True)
        return cls(branches=tuple((int(source), int(op)) for source, op in pairs), **settings)

    @nn.compact
    def __call__(
        self, features: Float[Array, 'B h w C'], train: bool = False, key: jax.Array | None = None
    ) -> Float[Array, 'B h w D']:
        outputs: list[jax.Array] = []
        for branch, (source, op) in enumerate(self.branches):
            x = features if source == FEATURES else outputs[source]
            outputs.append(self._branch(x, dpc.OPS[op], f'branch{branch}', train))
        x = jnp.concatenate(outputs, -1)
        if train and self.dropout_rate:
            if key is None:
                raise ValueError('a training cell with dropout needs a key')
            x = ops.dropout(key, x, self.dropout_rate)
        return self._unit(self.filters, ops.xavier_init, 'concat_projection')(x, train)

    def _branch(self, x: Float[Array, 'B h w C'], op: dpc.Op, name: str, train: bool) -> Float[Array, 'B h w D']:
        if op.rate is not None:
            times = rate_multiplier(self.output_stride)
            rate = (op.rate[0] * times, op.rate[1] * times)
            depthwise = ops.ConvUnit(
                None, ops.depthwise_init, (3, 3), rate, self.decay, self.dtype, name=f'{name}_depthwise'
            )
            return self._unit(self.filters, ops.pointwise_init, f'{name}_pointwise')(depthwise(x, train), train)
        unit = self._unit(self.filters, ops.xavier_init, name)
        if op.grid is None:
            return unit(x, train)
        return ops.resize_bilinear(unit(ops.pool(x, op.grid, self.pooling), train), x.shape[1:3])

    def _unit(self, filters: int, init: ops.Initializer, name: str) -> ops.ConvUnit:
        return ops.ConvUnit(filters, init, decay=self.decay, dtype=self.dtype, name=name)


# ---- dynamic view ---------------------------------------------------------------------------------------------------


class Unit(NamedTuple):
    """A convolution and the affine part of its batch norm."""

    kernel: Float[Array, '...']
    scale: Float[Array, '*K D']
    bias: Float[Array, '*K D']


class CellParams(NamedTuple):
    """Parameters of any cell of K branches. M = max(C, D) channels enter a branch; those that it does not have are 0."""

    depthwise: Unit  # kernel [K, 3, 3, M], scale and bias [K, M]; used by separable branches only
    pointwise: Unit  # kernel [K, M, D], scale and bias [K, D]; the one product of every kind
    projection: Unit  # kernel [K * D, D], scale and bias [D]


class CellStats(NamedTuple):
    """Moving averages of the batch norms, in the order of `CellParams`."""

    depthwise: Moments  # [K, M]
    pointwise: Moments  # [K, D]
    projection: Moments  # [D]


class CellSettings(NamedTuple):
    """What all cells of one program share: Python numbers, compiled in."""

    filters: int = 256
    output_stride: int = 16
    pooling: Pooling = 'sliding'
    dropout_rate: float = DROPOUT_RATE
    decay: float = ops.BN_DECAY


class Uses(NamedTuple):
    """Which branches of any candidate need the costly extra of a kind; a branch that none needs is skipped."""

    pooling: Bool[Array, ' K']


def uses(genotypes: Genotype) -> Uses:
    """Of a population `[P, K]` or one genotype `[K]`."""
    kinds = jnp.asarray(dpc.KIND_OF_OP)[genotypes.ops].reshape(-1, genotypes.ops.shape[-1])
    return Uses(pooling=(kinds == dpc.POOLING).any(0))


def init(key: jax.Array, genotype: Genotype, channels: int, filters: int) -> tuple[CellParams, CellStats]:
    """Fresh parameters of an unbatched genotype; the distribution follows the chosen operators, as in the static view."""
    key_depthwise, key_pointwise, key_xavier, key_projection = jax.random.split(key, 4)
    num_branches, width = genotype.ops.shape[-1], max(channels, filters)
    entering = _entering(genotype, channels, filters)  # [K, M]
    separable = jnp.asarray(dpc.KIND_OF_OP)[genotype.ops] == dpc.SEPARABLE
    depthwise = ops.depthwise_init(key_depthwise, (num_branches, 3, 3, width))
    shape = (num_branches, width, filters)
    # Xavier uniform has the bound sqrt(6 / (fan in + fan out)); the fan in is that of the chosen input.
    fan_in = entering.sum(-1, keepdims=True).astype(jnp.float32)[:, :, None]
    xavier = jnp.sqrt(6 / (fan_in + filters)) * jax.random.uniform(key_xavier, shape, minval=-1, maxval=1)
    pointwise = jnp.where(separable[:, None, None], ops.pointwise_init(key_pointwise, shape), xavier)
    params = CellParams(
        Unit(depthwise * entering[:, None, None, :], *_identity(num_branches, width)),
        Unit(pointwise * entering[:, :, None], *_identity(num_branches, filters)),
        Unit(ops.xavier_init(key_projection, (num_branches * filters, filters)), *_identity(filters)),
    )
    stats = CellStats(*(Moments(jnp.zeros_like(unit.scale), jnp.ones_like(unit.scale)) for unit in params))
    return params, stats


def _identity(*shape: int) -> tuple[Float[Array, '*K C'], Float[Array, '*K C']]:
    return jnp.ones(shape), jnp.zeros(shape)


def _entering(genotype: Genotype, channels: int, filters: int) -> Float[Array, 'K M']:
    """1 for the channels that enter each branch: C where it reads the features, else D."""
    count = jnp.where(jnp.asarray(genotype.inputs) == FEATURES, channels, filters)
    return (jnp.arange(max(channels, filters))[None, :] < count[:, None]).astype(jnp.float32)


def apply(
    params: CellParams,
    stats: CellStats,
    genotype: Genotype,
    features: Float[Array, 'B h w C'],
    *,
    settings: CellSettings,
    train: bool,
    key: jax.Array | None = None,
    used: Uses | None = None,
) -> tuple[Float[Array, 'B h w D'], CellStats]:
    """One cell whose genotype `[K]` is data (unbatched: vmap over params, stats and genotype for a population).

    `key` draws the dropout mask when training. `used` may say of a whole population what it uses; by default it is
    that of this genotype. It changes the time taken and not one bit of the result.
    """
    used = uses(genotype) if used is None else used
    num_branches, width = params.pointwise.kernel.shape[:2]
    wide = _widen(features, width)
    outputs: list[jax.Array] = []
    moved: list[tuple[Moments, Moments]] = []
    for branch in range(num_branches):
        x = _read(genotype.inputs[branch], wide, outputs, width)
        here = jax.tree.map(lambda leaf: leaf[branch], (params[:2], stats[:2]))  # noqa: B023
        y, new = _branch(*here, genotype.ops[branch], x, used.pooling[branch], settings, train)
        outputs.append(y)
        moved.append(new)
    x = jnp.concatenate(outputs, -1)
    if train and settings.dropout_rate:
        if key is None:
            raise ValueError('a training cell with dropout needs a key')
        x = ops.dropout(key, x, settings.dropout_rate)
    y, projection = _product(params.projection, stats.projection, x, settings, train)
    depthwise, pointwise = jax.tree.map(lambda *leaves: jnp.stack(leaves), *moved)
    return nn.relu(y), CellStats(depthwise, pointwise, projection)


def _widen(x: Float[Array, 'B h w C'], width: int) -> Float[Array, 'B h w M']:
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, width - x.shape[-1])))


def _read(
    source: Int[Array, ''], wide: Float[Array, 'B h w M'], outputs: list[Float[Array, 'B h w D']], width: int
) -> Float[Array, 'B h w M']:
    """The map that a branch reads: the features or an earlier output, by index."""
    if not outputs:
        return wide
    x = outputs[0]
    for index, output in enumerate(outputs[1:], 1):
        x = jnp.where(source == index, output, x)
    return jnp.where(source == FEATURES, wide, _widen(x, width))


def _branch(
    params: tuple[Unit, Unit],
    stats: tuple[Moments, Moments],
    op: Int[Array, ''],
    x: Float[Array, 'B h w M'],
    any_pooling: Bool[Array, ''],
    settings: CellSettings,
    train: bool,
) -> tuple[Float[Array, 'B h w D'], tuple[Moments, Moments]]:
    (depthwise, pointwise), (depthwise_stats, pointwise_stats) = params, stats
    kind = jnp.asarray(dpc.KIND_OF_OP)[op]
    is_separable, is_pooling = kind == dpc.SEPARABLE, kind == dpc.POOLING
    rate = jnp.asarray(dpc.RATE_OF_OP)[op] * rate_multiplier(settings.output_stride)
    z = ops.atrous_depthwise(x, depthwise.kernel.astype(x.dtype), rate)
    z, moved = _norm(depthwise, depthwise_stats, z, settings, train)
    z = jnp.where(is_separable, nn.relu(z), x)
    moved = jax.tree.map(lambda new, old: jnp.where(is_separable, new, old), moved, depthwise_stats)

    # The product commutes with the mean (no bias between them), so it is the same one for all kinds and pooling works on D
    # channels instead of M.
    y = _matmul(z, pointwise.kernel)
    size, grid = x.shape[1:3], jnp.asarray(dpc.GRID_INDEX_OF_OP)[op]
    tables = [ops.pool_tables(n, dpc.GRIDS, settings.pooling) for n in size]
    down = [jnp.asarray(table.pool)[grid[axis]] for axis, table in enumerate(tables)]
    up = [jnp.asarray(table.resize)[grid[axis]] for axis, table in enumerate(tables)]
    extents = [jnp.asarray(table.extent)[grid[axis]] for axis, table in enumerate(tables)]
    rows, cols = (jnp.where(is_pooling, extent, n) for extent, n in zip(extents, size, strict=True))

    y = _where_pooling(any_pooling, is_pooling, y, down)
    y, moved_pointwise = _norm(pointwise, pointwise_stats, y, settings, train, (rows, cols))
    y = _where_pooling(any_pooling, is_pooling, nn.relu(y), up)
    return y, (moved, moved_pointwise)


def _where_pooling(
    any_pooling: Bool[Array, ''], is_pooling: Bool[Array, ''], y: Float[Array, 'B h w D'], matrices: list[jax.Array]
) -> Float[Array, 'B h w D']:
    """Applies the per-axis matrices to a pooling branch; skipped where no candidate of the program pools here."""
    return lax.cond(any_pooling, lambda y: jnp.where(is_pooling, ops.along_axes(y, *matrices), y), lambda y: y, y)


def _product(
    unit: Unit, moving: Moments, x: Float[Array, 'B h w M'], settings: CellSettings, train: bool
) -> tuple[Float[Array, 'B h w D'], Moments]:
    return _norm(unit, moving, _matmul(x, unit.kernel), settings, train)


def _matmul(x: Float[Array, 'B h w M'], kernel: Float[Array, 'M D']) -> Float[Array, 'B h w D']:
    return jnp.einsum('bhwm,md->bhwd', x, kernel.astype(x.dtype))


def _norm(
    unit: Unit,
    moving: Moments,
    x: Float[Array, 'B h w D'],
    settings: CellSettings,
    train: bool,
    extent: tuple[Int[Array, ''], Int[Array, '']] | None = None,
) -> tuple[Float[Array, 'B h w D'], Moments]:
    return ops.batch_norm(
        x, unit.scale, unit.bias, moving, train=train, decay=settings.decay, epsilon=ops.BN_EPSILON, extent=extent
    )


# ---- from one view to the other -------------------------------------------------------------------------------------


def to_static(params: CellParams, stats: CellStats, genotype: Genotype, channels: int) -> PyTree:
    """Variables of `DensePredictionCell.of(genotype)` from those of the dynamic view (unbatched)."""
    variables: PyTree = {'params': {}, 'batch_stats': {}}

    def put(name: str, kernel: jax.Array, unit: Unit, moving: Moments, count: int) -> None:
        norm = {'scale': unit.scale[:count], 'bias': unit.bias[:count]}
        variables['params'][name] = {'conv': {'kernel': kernel}, 'norm': norm}
        variables['batch_stats'][name] = {'norm': {'mean': moving.mean[:count], 'var': moving.var[:count]}}

    filters = params.pointwise.kernel.shape[-1]
    for branch, (source, op) in enumerate(zip(genotype.inputs, genotype.ops, strict=True)):
        entering = channels if source == FEATURES else filters
        units, moving = jax.tree.map(lambda leaf: leaf[branch], (params[:2], stats[:2]))  # noqa: B023
        name = f'branch{branch}'
        if dpc.OPS[op].kind == 'separable':
            kernel = units[0].kernel[:, :, None, :entering]
            put(f'{name}_depthwise', kernel, units[0], moving[0], entering)
            name = f'{name}_pointwise'
        put(name, units[1].kernel[None, None, :entering], units[1], moving[1], filters)
    put('concat_projection', params.projection.kernel[None, None], params.projection, stats.projection, filters)
    return variables


def from_static(variables: PyTree, genotype: Genotype, channels: int, filters: int) -> tuple[CellParams, CellStats]:
    """Inverse of `to_static`; entries that the genotype does not use are zero kernels and fresh norms."""
    num_branches, width = len(genotype.ops), max(channels, filters)
    template = init(jax.random.key(0), genotype, channels, filters)
    params, stats = jax.tree.map(lambda leaf: np.array(leaf), template)
    params.depthwise.kernel[:] = 0
    params.pointwise.kernel[:] = 0

    def take(name: str) -> tuple[np.ndarray, Unit, Moments]:
        part, moving = variables['params'][name], variables['batch_stats'][name]['norm']
        kernel = np.asarray(part['conv']['kernel'])
        return kernel, Unit(kernel, part['norm']['scale'], part['norm']['bias']), Moments(moving['mean'], moving['var'])

    def fill(to: Unit, to_moving: Moments, index: tuple, unit: Unit, moving: Moments) -> None:
        to.scale[index], to.bias[index] = unit.scale, unit.bias
        to_moving.mean[index], to_moving.var[index] = moving.mean, moving.var

    del width
    for branch in range(num_branches):
        name = f'branch{branch}'
        if f'{name}_depthwise' in variables['params']:
            kernel, unit, moving = take(f'{name}_depthwise')
            entering = kernel.shape[-1]
            params.depthwise.kernel[branch, :, :, :entering] = kernel[:, :, 0]
            fill(params.depthwise, stats.depthwise, (branch, slice(entering)), unit, moving)
            name = f'{name}_pointwise'
        kernel, unit, moving = take(name)
        params.pointwise.kernel[branch, : kernel.shape[2]] = kernel[0, 0]
        fill(params.pointwise, stats.pointwise, (branch,), unit, moving)
    kernel, unit, moving = take('concat_projection')
    params.projection.kernel[:] = kernel[0, 0]
    fill(params.projection, stats.projection, (slice(None),), unit, moving)
    return jax.tree.map(jnp.asarray, (params, stats))


# ---- what a cell costs ----------------------------------------------------------------------------------------------


class Counts(NamedTuple):
    """Convolution weights and multiply-adds of a cell for one image; no batch norm, no bias (there is none)."""

    branch_params: int  # what Table 1 of the paper calls Params
    branch_macs: int  # and MAdds, within 0.5 %
    projection_params: int
    projection_macs: int


def count(genotype: Genotype, *, size: Size, channels: int, filters: int, pooling: Pooling) -> Counts:
    """Counts an unbatched genotype on features of `size` (h, w) with C `channels`.

    A pooled branch multiplies at the positions of its pooled map. Means and resizes are not counted, as in the
    paper, whose convention this is: Table 1 prints the branches without the projection.
    """
    positions = size[0] * size[1]
    params = macs = 0
    for source, index in zip(genotype.inputs, genotype.ops, strict=True):
        op, entering = dpc.OPS[index], channels if source == FEATURES else filters
        weights = entering * filters + (9 * entering if op.rate is not None else 0)
        params += weights
        if op.grid is None:
            macs += weights * positions
        else:
            extents = [ops.pool_tables(n, (g,), pooling).extent[0] for n, g in zip(size, op.grid, strict=True)]
            macs += weights * int(extents[0]) * int(extents[1])
    projection = len(genotype.ops) * filters * filters
    return Counts(params, macs, projection, projection * positions)
