"""A head on two strides: a 1x1 convolution on each, those that are read added up; an auxiliary output on one."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dpc_jax import ops
from dpc_jax.heads import Derived, HeadOutputs

FINE, COARSE = 8, 16
READS = ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0))


class Params(NamedTuple):
    """Kernels by stride, of the logits, and of the auxiliary logits."""

    fine: jax.Array
    coarse: jax.Array
    logits: jax.Array
    auxiliary: jax.Array


class Stats(NamedTuple):
    """How many training steps were taken: a moving average that says whether it moved."""

    steps: jax.Array


@dataclasses.dataclass(frozen=True)
class Head(Derived):
    """See `dpc_jax.heads.Head`."""

    num_classes: int
    filters: int
    auxiliary_weight: float = 0.4
    strides = (FINE, COARSE)

    @property
    def auxiliary_weights(self):
        return {'coarse': self.auxiliary_weight}

    def init(self, key, genotype, channels):
        keys = jax.random.split(key, 4)
        shapes = ((channels[FINE], self.filters), (channels[COARSE], self.filters)) + (
            (self.filters, self.num_classes),
        ) * 2
        return Params(*(0.1 * jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True))), Stats(jnp.zeros(()))

    def apply(self, params, stats, genotype, features, *, train, dropout_key=None, used=None, kernels='auto'):
        share = jnp.asarray(READS)[genotype.reads[0]]
        fine = jnp.einsum('bhwc,cd->bhwd', features[FINE], params.fine)
        coarse = jnp.einsum('bhwc,cd->bhwd', features[COARSE], params.coarse)
        y = share[0] * fine + share[1] * ops.resize_bilinear(coarse, fine.shape[1:3])

        def scores(y, kernel):
            return jnp.einsum('bhwd,dl->blhw', y, kernel)

        moved = Stats(stats.steps + 1) if train else stats
        return HeadOutputs(scores(y, params.logits), {'coarse': scores(coarse, params.auxiliary)}), moved

    def uses(self, genotypes):
        return ()

    def decayed(self, params):
        return jax.tree.map(lambda _: True, params)

    def multipliers(self, params):
        return jax.tree.map(lambda _: 1.0, params)


def make(config, num_classes):
    return Head(num_classes, config.cell.filters)
