"""What a genotype says, as data: integers, flags and matrices of each branch; and the tables of its norms."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from dpc_jax import fused, ops
from dpc_jax.base import FEATURES, Size
from dpc_jax.dynamic_cell.params import CellParams, CellSettings, Unit, Uses, rate_multiplier
from dpc_jax.ops import Moments
from dpc_jax.spaces import dpc
from dpc_jax.spaces.dpc import Genotype

OFF_THE_MAP = 1 << 14  # a rate at which no tap but the centre reads anything

Matrices = tuple[Float[Array, '*K h h'], Float[Array, '*K w w']]
"""One for the height and one for the width."""


class Facts(NamedTuple):
    """All branches of a genotype, and the projection."""

    branches: Int[Array, 'K 7']  # see `fused.tiles`
    whole: Int[Array, ' 7']  # the same of the projection, which reads whole maps
    separable: Bool[Array, ' K']
    down: Matrices  # from the map to the pooled one; the identity where nothing is pooled
    up: Matrices  # and back
    used: Uses  # of the population


def facts_of(genotype: Genotype, used: Uses, size: Size, dtype: Any, settings: CellSettings) -> Facts:
    """The facts of one genotype [K] on maps of `size`."""
    kinds = jnp.asarray(dpc.KIND_OF_OP)[genotype.ops]
    separable, pooling = kinds == dpc.SEPARABLE, kinds == dpc.POOLING
    rates = jnp.asarray(dpc.RATE_OF_OP)[genotype.ops] * rate_multiplier(settings.output_stride)
    rates = jnp.where(separable[:, None], rates, OFF_THE_MAP)
    grids = jnp.asarray(dpc.GRID_INDEX_OF_OP)[genotype.ops]
    extents: list[Array] = []
    down: list[Array] = []
    up: list[Array] = []
    for axis, n in enumerate(size):
        table = ops.pool_tables(n, dpc.GRIDS, settings.pooling)
        picked = jax.tree.map(lambda leaf: jnp.asarray(leaf)[grids[:, axis]], table)  # noqa: B023
        extents.append(jnp.where(pooling, picked.extent, n))
        for matrices, values in ((down, picked.pool), (up, picked.resize)):
            matrices.append(jnp.where(pooling[:, None, None], values.astype(dtype), jnp.eye(n, dtype=dtype)))
    ints = [genotype.inputs, *rates.T, pooling, *extents, jnp.arange(len(kinds))]
    return Facts(
        jnp.stack([jnp.asarray(column).astype(jnp.int32) for column in ints], -1),
        jnp.asarray([FEATURES, 0, 0, 0, *size, FEATURES], jnp.int32),
        separable,
        (down[0], down[1]),
        (up[0], up[1]),
        used,
    )


class Branch(NamedTuple):
    """One branch: the facts, and its parameters."""

    ints: Int[Array, ' 7']
    separable: Bool[Array, '']
    kernel: Float[Array, '9 M']  # 1 at the centre where nothing is convolved
    down: Matrices
    up: Matrices
    depthwise: Unit
    pointwise: Unit
    used: Uses

    @property
    def reads_features(self) -> Bool[Array, '']:
        """Whether it reads the backbone's features."""
        reads: Array = self.ints[fused.SOURCE] == FEATURES
        return reads


def branch_of(params: CellParams, facts: Facts, k: int) -> Branch:
    """Branch `k`."""
    depthwise, pointwise, down, up, used = jax.tree.map(
        lambda leaf: leaf[k], (params.depthwise, params.pointwise, facts.down, facts.up, facts.used)
    )
    kernel = depthwise.kernel.reshape(9, -1)
    centre = (jnp.arange(9) == 4).astype(kernel.dtype)[:, None]
    separable = facts.separable[k]
    kernel = jnp.where(separable, kernel, centre)
    return Branch(facts.branches[k], separable, kernel, down, up, depthwise, pointwise, used)


def counts_of(facts: Facts, batch: int, size: Size, dtype: Any) -> tuple[Array, Array, Array]:
    """Values behind each mean, by branch: of the norms before and behind the product, of that of the projection."""
    whole = jnp.full((), batch * size[0] * size[1], dtype)
    extents = facts.branches[:, fused.EXTENT_HEIGHT] * facts.branches[:, fused.EXTENT_WIDTH]
    return jnp.full(extents.shape, whole), (batch * extents).astype(dtype), whole


def table_of(moments: Moments, unit: Unit, active: Array | bool = True) -> Float[Array, '7 C']:
    """The table of a norm with ReLU; of one that is not `active` such that it changes nothing."""
    rstd = lax.rsqrt(moments.var + ops.BN_EPSILON)
    zeros, ones = jnp.zeros_like(rstd), jnp.ones_like(rstd)
    passing = jnp.stack([zeros, ones, zeros, jnp.full_like(rstd, -jnp.inf), zeros, zeros, zeros])
    norming = jnp.stack([moments.mean, rstd * unit.scale, unit.bias, zeros, rstd, zeros, zeros])
    return jnp.where(active, norming, passing)


def with_sums(
    table: Float[Array, '7 C'], count: ArrayLike, sums: Float[Array, '2 C'], active: Array | bool = True
) -> tuple[Float[Array, '7 C'], tuple[Array, Array]]:
    """The table for the way back, and the gradients of the norm's scale and bias.

    `sums` are those of the gradient of its output, alone and times its normalised input; `count` the values behind a
    mean.
    """
    alone, with_input = jnp.where(active, sums, 0)
    share = 1 / count  # as in `plain._moments`
    table = table.at[fused.MEAN_GRAD].set(alone * share).at[fused.MEAN_PRODUCT].set(with_input * share)
    return table, (with_input, alone)
