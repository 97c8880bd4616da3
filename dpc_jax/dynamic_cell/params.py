"""The variables of a cell whose genotype is data, and what all cells of a search share."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from dpc_jax import initial, ops
from dpc_jax.base import FEATURES, InputError
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
    """Moments of the batch norms, of a batch or their moving averages, in the order of `CellParams`."""

    depthwise: Moments  # [K, M]
    pointwise: Moments  # [K, D]
    projection: Moments  # [D]


class Uses(NamedTuple):
    """Which branches need a costly part in any candidate; where no candidate needs it, it is left out."""

    features: Bool[Array, ' K']  # reads the backbone's C channels and not only D
    separable: Bool[Array, ' K']
    pooling: Bool[Array, ' K']


def uses(genotypes: Genotype) -> Uses:
    """What a population `[P, K]` or one genotype `[K]` uses."""
    num_branches = genotypes.ops.shape[-1]
    kinds = jnp.asarray(dpc.KIND_OF_OP)[genotypes.ops].reshape(-1, num_branches)
    inputs = jnp.asarray(genotypes.inputs).reshape(-1, num_branches)
    used = (inputs == FEATURES, kinds == dpc.SEPARABLE, kinds == dpc.POOLING)
    return Uses(*(flags.any(0) for flags in used))


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
    xavier = jnp.sqrt(6 / (fan_in + filters)) * initial.uniform(key_xavier, shape)
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


def moved_stats(
    old: CellStats, batch: CellStats, counts: tuple[Array, Array, Array], running: Bool[Array, 'K M'], decay: float
) -> CellStats:
    """The averages after a batch with these moments, each of `counts` values (by branch; of the projection, one).

    The norm before the product moves where it is `running`. Variances are made unbiased, see `ops.batch_norm`.
    """

    def moved(old: Moments, batch: Moments, count: Array) -> Moments:
        unbiased = Moments(batch.mean, batch.var * (count / jnp.maximum(count - 1, 1)))
        return jax.tree.map(lambda old, new: decay * old + (1 - decay) * lax.stop_gradient(new), old, unbiased)

    depthwise, pointwise, projection = (
        moved(mine, new, count[..., None]) for mine, new, count in zip(old, batch, counts, strict=True)
    )
    kept: Moments = jax.tree.map(lambda new, old: jnp.where(running, new, old), depthwise, old.depthwise)
    return CellStats(kept, pointwise, projection)
