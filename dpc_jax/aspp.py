"""Atrous spatial pyramid pooling (official model.py; arXiv:1706.05587 §3.3), which a cell takes the place of."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpc_jax import ops
from dpc_jax.base import InputError, Size
from dpc_jax.context import Context
from dpc_jax.convolution import ConvUnit, separable

FILTERS = 256  # of every context (official model.py)
DROPOUT_RATE = 0.1  # official keep_prob 0.9


def scaled_rate(rate: int, output_stride: int) -> int:
    """An atrous rate for output stride 16 at another: rate * 16 / output_stride, which must come out whole."""
    if output_stride < 1 or rate * 16 % output_stride or rate < 1:
        raise InputError(f'atrous rate {rate} cannot be scaled to output stride {output_stride}; ASPP uses 6, 12, 18')
    return rate * 16 // output_stride


class ASPP(Context):
    """Atrous spatial pyramid pooling. In [B, h, w, C], out [B, h, w, D].

    Attributes:
      filters: D, of each part and of the output.
      rates: of the 3x3 convolutions at output stride 16; () with an image-level feature is the context of the
        released MobileNet-v2 models.
      output_stride: scales the rates. The official flags leave that to the user.
      image_pooling: whether there is an image-level feature.
      separable: 3x3 convolutions are separable; else full ones.

    Names of the parts are the official ones: image_pooling, aspp0, aspp{i} or aspp{i}_depthwise and aspp{i}_pointwise,
    concat_projection. Dropout comes after the projection, where a cell has it before.
    """

    filters: int = FILTERS
    rates: tuple[int, ...] = (6, 12, 18)
    output_stride: int = 16
    image_pooling: bool = True
    separable: bool = True
    dropout_rate: float = DROPOUT_RATE
    decay: float = ops.BN_DECAY

    @nn.compact
    def __call__(
        self,
        features: Float[Array, 'B h w C'],
        train: bool = False,
        dropout_key: jax.Array | None = None,
        pooled_size: Size | None = None,
    ) -> Float[Array, 'B h w D']:
        """`dropout_key` draws the dropout mask when training; `pooled_size` (in cells) is that of `ops.pool`."""
        parts = []
        if self.image_pooling:
            pooled = self._unit('image_pooling')(ops.pool(features, (1, 1), 'sliding', pooled_size), train)
            parts.append(ops.resize_bilinear(pooled, (features.shape[1], features.shape[2])))
        parts.append(self._unit('aspp0')(features, train))
        for index, rate in enumerate(self.rates, 1):
            parts.append(self._atrous(features, scaled_rate(rate, self.output_stride), f'aspp{index}', train))
        x = self._unit('concat_projection')(jnp.concatenate(parts, -1), train)
        if train or dropout_key is not None:
            x = ops.dropout(dropout_key, x, self.dropout_rate)
        return x

    def _atrous(self, x: Float[Array, 'B h w C'], rate: int, name: str, train: bool) -> Float[Array, 'B h w D']:
        if self.separable:
            return separable(x, train, self.filters, name=name, rate=(rate, rate), decay=self.decay)
        return self._unit(name, (3, 3), (rate, rate))(x, train)

    def _unit(self, name: str, kernel_size: Size = (1, 1), rate: Size = (1, 1)) -> ConvUnit:
        return ConvUnit(self.filters, ops.xavier_init, kernel_size, rate=rate, decay=self.decay, name=name)
