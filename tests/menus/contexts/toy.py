"""The static view of the toy head: a context that reads two strides and gives an auxiliary map."""

import json

import flax.linen as nn

from dpc_jax import ops
from dpc_jax.context import Context, ContextOutput
from dpc_jax.convolution import ConvUnit


class Module(Context):
    """Maps of stride 8 and 16, added up at stride 8."""

    reads: str = 'both'
    filters: int = 4

    @property
    def auxiliary_weights(self):
        return {'coarse': 0.4}

    def stride(self, output_stride):
        return 8

    def __call__(self, features, train=False, dropout_key=None, pooled_size=None):
        raise NotImplementedError

    @nn.compact
    def of_maps(self, maps, train, dropout_key, pooled_size):
        fine, coarse = (self.convolved(maps[stride], train, name) for stride, name in ((8, 'fine'), (16, 'coarse')))
        parts = {'fine': fine, 'coarse': ops.resize_bilinear(coarse, fine.shape[1:3])}
        chosen = [y for name, y in parts.items() if self.reads in (name, 'both')]
        return ContextOutput(sum(chosen[1:], chosen[0]), {'coarse': coarse})

    def convolved(self, x, train, name):
        return ConvUnit(self.filters, ops.xavier_init, decay=0.9, name=name)(x, train)


def make(config, *, decay):
    return Module(json.loads(config.context.genotype), config.context.filters)
