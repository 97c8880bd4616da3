"""A context as a later system may bring it: it reads two maps of the backbone and has an auxiliary one."""

import flax.linen as nn

from dpc_jax import ops
from dpc_jax.context import Context, ContextOutput
from dpc_jax.convolution import ConvUnit


class TwoStrides(Context):
    filters: int
    decay: float

    @property
    def auxiliary_weights(self):
        return {'coarse': 0.25}

    def stride(self, output_stride):
        return 4

    @nn.compact
    def of_maps(self, maps, train, dropout_key, pooled_size):
        fine, coarse = (
            ConvUnit(self.filters, ops.xavier_init, decay=self.decay, name=f'adapt{stride}')(maps[stride], train)
            for stride in (4, 16)
        )
        size = (fine.shape[1], fine.shape[2])
        return ContextOutput(fine + ops.resize_bilinear(coarse, size), {'coarse': coarse})


def make(config, *, decay):
    return TwoStrides(config.context.filters, decay)
