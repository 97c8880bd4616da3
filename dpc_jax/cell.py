"""The Dense Prediction Cell in two views that are the same function (tests/test_equivalence.py).

`DensePredictionCell` is one genotype as a Flax module, built like the official one: trained, imported, exported.
`apply` is every genotype at once: the genotype is data, so one compiled program runs any cell, and `jax.vmap` over
genotype and parameters runs a population. Its parameters have one shape for all cells; `cell_transfer` carries them
from one view to the other.

Official file: tensorflow/models research/deeplab/core/dense_prediction_cell.py; §3.1 of the paper.
"""

from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from dpc_jax import ops
from dpc_jax.base import FEATURES, InputError, Size
from dpc_jax.context import Context
from dpc_jax.convolution import ConvUnit, separable
from dpc_jax.ops import Moments, Pooling
from dpc_jax.spaces import dpc
from dpc_jax.spaces.dpc import Genotype

DROPOUT_RATE = 0.1  # official dropout_keep_prob 0.9, on the concatenated branches


def rate_multiplier(output_stride: int) -> int:
    """Factor on the atrous rates, which are meant for output stride 16: 16 / output_stride (official model.py)."""
    if output_stride not in (4, 8, 16):
        raise InputError(f'output stride {output_stride}: the rates of a cell need 4, 8 or 16 (32 would make them 0)')
    return 16 // output_stride


class CellSettings(NamedTuple):
    """What all cells of a search share, in both views: Python numbers, compiled in."""

    filters: int = 256
    output_stride: int = 16
    pooling: Pooling = 'sliding'
    dropout_rate: float = DROPOUT_RATE
    decay: float = ops.BN_DECAY


# ---- static view ----------------------------------------------------------------------------------------------------


class DensePredictionCell(Context):
    """One cell. In [B, h, w, C], out [B, h, w, D]; `dropout_key` draws the dropout mask when training.

    The names of its parts are the official scopes: branch{i}_depthwise, branch{i}_pointwise, branch{i},
    concat_projection. `branches` are pairs (input, operator index) as in a genotype.
    """

    branches: tuple[tuple[int, int], ...]
    settings: CellSettings = CellSettings()

    official_scope: ClassVar[str] = 'meta_architecture'

    @classmethod
    def of(cls, genotype: Genotype, settings: CellSettings) -> 'DensePredictionCell':
        """The cell of an unbatched genotype."""
        pairs = zip(genotype.inputs, genotype.ops, strict=True)
        return cls(tuple((int(source), int(op)) for source, op in pairs), settings)

    @nn.compact
    def __call__(
        self,
        features: Float[Array, 'B h w C'],
        train: bool = False,
        dropout_key: jax.Array | None = None,
        pooled_size: Size | None = None,
    ) -> Float[Array, 'B h w D']:
        """`pooled_size` (in cells) is that of `ops.pool`; by default each map is pooled by its own size."""
        outputs: list[jax.Array] = []
        for branch, (source, op) in enumerate(self.branches):
            x = features if source == FEATURES else outputs[source]
            outputs.append(self._branch(x, dpc.OPS[op], f'branch{branch}', train, pooled_size))
        x = jnp.concatenate(outputs, -1)
        if train or dropout_key is not None:
            x = ops.dropout(dropout_key, x, self.settings.dropout_rate)
        return self._unit(ops.xavier_init, 'concat_projection')(x, train)

    def _branch(
        self, x: Float[Array, 'B h w C'], op: dpc.Op, name: str, train: bool, pooled_size: Size | None
    ) -> Float[Array, 'B h w D']:
        if op.rate is not None:
            times = rate_multiplier(self.settings.output_stride)
            rate = (op.rate[0] * times, op.rate[1] * times)
            return separable(x, train, self.settings.filters, name=name, rate=rate, decay=self.settings.decay)
        unit = self._unit(ops.xavier_init, name)
        if op.grid is None:
            return unit(x, train)
        pooled = ops.pool(x, op.grid, self.settings.pooling, pooled_size)
        return ops.resize_bilinear(unit(pooled, train), (x.shape[1], x.shape[2]))

    def _unit(self, init: ops.Initializer, name: str) -> ConvUnit:
        return ConvUnit(self.settings.filters, init, decay=self.settings.decay, name=name)


# ---- dynamic view ---------------------------------------------------------------------------------------------------


class Unit(NamedTuple):
    """A convolution and the affine part of its batch norm."""

    kernel: Float[Array, '...']
    scale: Float[Array, '*K D']
    bias: Float[Array, '*K D']


class CellParams(NamedTuple):
    """Parameters of any cell of K branches. M = max(C, D) channels enter a branch; those it does not read are 0."""

    depthwise: Unit  # kernel [K, 3, 3, M], scale and bias [K, M]; used by separable branches only
    pointwise: Unit  # kernel [K, M, D], scale and bias [K, D]; the one product of every kind
    projection: Unit  # kernel [K * D, D], scale and bias [D]


class CellStats(NamedTuple):
    """Moving averages of the batch norms, in the order of `CellParams`."""

    depthwise: Moments  # [K, M]
    pointwise: Moments  # [K, D]
    projection: Moments  # [D]


class Uses(NamedTuple):
    """Which branches need a costly part in any candidate; where no candidate needs it, it is left out."""

    features: Bool[Array, ' K']  # reads the backbone's C channels and not only D
    pooling: Bool[Array, ' K']


def uses(genotypes: Genotype) -> Uses:
    """What a population `[P, K]` or one genotype `[K]` uses."""
    num_branches = genotypes.ops.shape[-1]
    kinds = jnp.asarray(dpc.KIND_OF_OP)[genotypes.ops].reshape(-1, num_branches)
    inputs = jnp.asarray(genotypes.inputs).reshape(-1, num_branches)
    return Uses((inputs == FEATURES).any(0), (kinds == dpc.POOLING).any(0))


def init(key: jax.Array, genotype: Genotype, channels: int, filters: int) -> tuple[CellParams, CellStats]:
    """Fresh parameters of an unbatched genotype; their distribution follows the operators, as in the static view."""
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
    dropout_key: jax.Array | None = None,
    used: Uses | None = None,
) -> tuple[Float[Array, 'B h w D'], CellStats]:
    """One cell whose genotype `[K]` is data (unbatched: vmap over params, stats and genotype for a population).

    `dropout_key` draws the dropout mask when training. `used` may say of a whole population what it uses; by default
    it is that of this genotype. It changes the time and no bit of the result.
    """
    used = uses(genotype) if used is None else used
    # The first D channels are there whatever a branch reads; the rest, if C > D, only where it reads the features.
    narrow, rest = _widen(features, settings.filters), features[..., settings.filters :]
    outputs: list[jax.Array] = []
    moved: list[tuple[Moments, Moments]] = []
    for branch in range(genotype.ops.shape[-1]):
        units, moving, source, op, skip = jax.tree.map(
            lambda leaf: leaf[branch],  # noqa: B023
            (params[:2], stats[:2], genotype.inputs, genotype.ops, used),
        )
        x = _read(source, narrow, outputs)
        y, new = _branch(units, moving, source, op, (x, rest), used=skip, settings=settings, train=train)
        outputs.append(y)
        moved.append(new)
    x = jnp.concatenate(outputs, -1)
    if train or dropout_key is not None:
        x = ops.dropout(dropout_key, x, settings.dropout_rate)
    y = jnp.einsum('bhwm,md->bhwd', x, params.projection.kernel.astype(x.dtype))
    y, projection = _norm(params.projection, stats.projection, y, settings, train)
    depthwise, pointwise = jax.tree.map(lambda *leaves: jnp.stack(leaves), *moved)
    return nn.relu(y), CellStats(depthwise, pointwise, projection)


def _widen(x: Float[Array, 'B h w C'], filters: int) -> Float[Array, 'B h w D']:
    """The first D channels, zeros where there are fewer."""
    missing = max(0, filters - x.shape[-1])
    return jnp.pad(x[..., :filters], ((0, 0), (0, 0), (0, 0), (0, missing)))


def _read(
    source: Int[Array, ''], features: Float[Array, 'B h w D'], outputs: list[Float[Array, 'B h w D']]
) -> Float[Array, 'B h w D']:
    """The first D channels of the map that a branch reads: the features or an earlier output, by index."""
    x = features
    for index, output in enumerate(outputs):
        x = jnp.where(source == index, output, x)
    return x


def _branch(
    units: tuple[Unit, Unit],
    moving: tuple[Moments, Moments],
    source: Int[Array, ''],
    op: Int[Array, ''],
    x: tuple[Float[Array, 'B h w D'], Float[Array, 'B h w R']],
    *,
    used: Uses,
    settings: CellSettings,
    train: bool,
) -> tuple[Float[Array, 'B h w D'], tuple[Moments, Moments]]:
    """One branch: the part of its kind, then the product that all kinds share, with pooling around its norm.

    `x` are the D channels that every branch reads and the R = C - D others of the features.
    """
    depthwise, pointwise = units
    is_pooling = jnp.asarray(dpc.KIND_OF_OP)[op] == dpc.POOLING
    filters = settings.filters

    def product(channels: slice, x: Float[Array, 'B h w _']) -> tuple[Float[Array, 'B h w D'], Moments]:
        mine = Unit(depthwise.kernel[:, :, channels], depthwise.scale[channels], depthwise.bias[channels])
        averages = Moments(moving[0].mean[channels], moving[0].var[channels])
        z, moved = _before_product(mine, averages, op, x, settings, train)
        return jnp.einsum('bhwm,md->bhwd', z, pointwise.kernel[channels].astype(z.dtype)), moved

    y, moved = product(slice(filters), x[0])
    if x[1].shape[-1]:
        others = Moments(moving[0].mean[filters:], moving[0].var[filters:])

        def with_others() -> tuple[Float[Array, 'B h w D'], Moments]:
            found = product(slice(filters, None), x[1])
            return jax.tree.map(
                lambda new, old: jnp.where(source == FEATURES, new, old), (y + found[0], found[1]), (y, others)
            )

        y, moved_others = lax.cond(used.features, with_others, lambda: (y, others))
        moved = jax.tree.map(lambda *parts: jnp.concatenate(parts), moved, moved_others)

    # The product commutes with the mean (there is no bias between them): pooling after it works on D channels, and
    # the product is one and the same for every kind.
    size = (y.shape[1], y.shape[2])
    down, up, extent = _pooling_of(jnp.asarray(dpc.GRID_INDEX_OF_OP)[op], size, settings)
    rows, cols = (jnp.where(is_pooling, cells, n) for cells, n in zip(extent, size, strict=True))
    y = _where_pooling(used.pooling, is_pooling, y, down)
    y, moved_pointwise = _norm(pointwise, moving[1], y, settings, train, extent=(rows, cols))
    return _where_pooling(used.pooling, is_pooling, nn.relu(y), up), (moved, moved_pointwise)


def _before_product(
    unit: Unit, moving: Moments, op: Int[Array, ''], x: Float[Array, 'B h w C'], settings: CellSettings, train: bool
) -> tuple[Float[Array, 'B h w C'], Moments]:
    """Some channels of what the product of a branch reads: the depthwise convolution if separable, else the map."""
    is_separable = jnp.asarray(dpc.KIND_OF_OP)[op] == dpc.SEPARABLE
    rate = jnp.asarray(dpc.RATE_OF_OP)[op] * rate_multiplier(settings.output_stride)
    z, moved = _norm(unit, moving, ops.atrous_depthwise(x, unit.kernel.astype(x.dtype), rate), settings, train)
    moved = jax.tree.map(lambda new, old: jnp.where(is_separable, new, old), moved, moving)
    return jnp.where(is_separable, nn.relu(z), x), moved


def _pooling_of(
    grid: Int[Array, ' 2'], size: Size, settings: CellSettings
) -> tuple[list[Float[Array, 'n n']], list[Float[Array, 'n n']], list[Int[Array, '']]]:
    """Per axis: the matrix that pools, the one that resizes back, and how many cells lie between them."""
    tables = [ops.pool_tables(n, dpc.GRIDS, settings.pooling) for n in size]
    picked = [jax.tree.map(lambda leaf: jnp.asarray(leaf)[grid[axis]], table) for axis, table in enumerate(tables)]  # noqa: B023
    return [t.pool for t in picked], [t.resize for t in picked], [t.extent for t in picked]


def _where_pooling(
    any_pooling: Bool[Array, ''], is_pooling: Bool[Array, ''], y: Float[Array, 'B h w D'], matrices: list[jax.Array]
) -> Float[Array, 'B h w D']:
    """Applies the per-axis matrices to a pooling branch; skipped where no candidate of the program pools here."""
    return lax.cond(any_pooling, lambda y: jnp.where(is_pooling, ops.along_axes(y, *matrices), y), lambda y: y, y)


def _norm(
    unit: Unit,
    moving: Moments,
    x: Float[Array, 'B h w D'],
    settings: CellSettings,
    train: bool,
    *,
    extent: tuple[Int[Array, ''], Int[Array, '']] | None = None,
) -> tuple[Float[Array, 'B h w D'], Moments]:
    return ops.batch_norm(
        x, unit.scale, unit.bias, moving, train=train, decay=settings.decay, epsilon=ops.BN_EPSILON, extent=extent
    )
