"""The cell whose genotype is data, in one door: `apply`, what it is given, `init`; and its parts, for who times them.

One compiled program runs any cell, and `jax.vmap` over genotype and parameters runs a population. The same function as
the static view, `cell.DensePredictionCell` (tests/test_equivalence.py).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpc_jax import fused, ops
from dpc_jax.base import FEATURES
from dpc_jax.dynamic_cell.facts import branch_of as branch_of
from dpc_jax.dynamic_cell.facts import counts_of
from dpc_jax.dynamic_cell.facts import facts_of as facts_of
from dpc_jax.dynamic_cell.facts import table_of as table_of
from dpc_jax.dynamic_cell.fast import Fast as Fast
from dpc_jax.dynamic_cell.params import DROPOUT_RATE as DROPOUT_RATE
from dpc_jax.dynamic_cell.params import CellParams as CellParams
from dpc_jax.dynamic_cell.params import CellSettings as CellSettings
from dpc_jax.dynamic_cell.params import CellStats as CellStats
from dpc_jax.dynamic_cell.params import Unit as Unit
from dpc_jax.dynamic_cell.params import Uses as Uses
from dpc_jax.dynamic_cell.params import init as init
from dpc_jax.dynamic_cell.params import moved_stats
from dpc_jax.dynamic_cell.params import rate_multiplier as rate_multiplier
from dpc_jax.dynamic_cell.params import uses as uses
from dpc_jax.dynamic_cell.passes import Frame as Frame
from dpc_jax.dynamic_cell.passes import Kept as Kept
from dpc_jax.dynamic_cell.passes import Mixed as Mixed
from dpc_jax.dynamic_cell.passes import Parts as Parts
from dpc_jax.dynamic_cell.passes import Sources as Sources
from dpc_jax.dynamic_cell.passes import Weights as Weights
from dpc_jax.dynamic_cell.passes import forward
from dpc_jax.dynamic_cell.passes import train as _train
from dpc_jax.dynamic_cell.plain import Plain as Plain
from dpc_jax.spaces.dpc import Genotype


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
    logits: Float[Array, 'D L'] | None = None,
    features_fixed: bool = False,
    kernels: fused.Kernels = 'auto',
) -> tuple[Float[Array, 'B h w _'], CellStats]:
    """One cell whose genotype `[K]` is data (unbatched: vmap over params, stats and genotype for a population).

    `dropout_key` draws the dropout mask when training. `used` may say of a whole population what it uses; by default
    it is that of this genotype. It changes the time and no bit of the result. With `logits` the result is the cell's
    output times these weights, float32 or wider. Features that are `features_fixed` have no gradient (it is 0).
    `kernels` chooses who does the work in training; in float64 both agree to the last digits.
    """
    used = uses(genotype) if used is None else used
    batch, height, width, channels = features.shape
    size, rate = (height, width), settings.dropout_rate
    num_branches = genotype.ops.shape[-1]
    frame = Frame(batch, size, channels, settings.filters, rate, features_fixed)
    facts = facts_of(genotype, used, size, features.dtype, settings)
    keep = None
    if rate and (train or dropout_key is not None):
        keep = ops.dropout_mask(dropout_key, (batch, *size, num_branches * settings.filters), rate)
    weights = Weights(params, logits)
    if not train:
        parts = Plain(frame)
        (y, _), _ = forward(parts, weights, parts.prepare(features), facts, keep, stats)
        return y, stats
    if features_fixed:
        features = jax.lax.stop_gradient(features)

    def run(parts: Parts, *args: Any) -> tuple[Array, CellStats]:
        return _train(parts, *args)

    y, moments = fused.either(
        fused.suit(kernels, dtype=features.dtype, size=size, filters=settings.filters),
        lambda launch, *args: run(Fast(frame, launch), *args),
        lambda *args: run(Plain(frame), *args),
        weights,
        features,
        facts,
        keep,
    )
    entering = jnp.where(genotype.inputs == FEATURES, params.depthwise.scale.shape[-1], settings.filters)
    running = facts.separable[:, None] & (jnp.arange(params.depthwise.scale.shape[-1])[None] < entering[:, None])
    counts = counts_of(facts, batch, size, params.projection.scale.dtype)
    return y, moved_stats(stats, moments, counts, running, settings.decay)
