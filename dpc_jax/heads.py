"""What stands on a backbone besides a cell: ASPP, decoder, logits (official model.py; arXiv:1802.02611 §3)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dpc_jax import ops
from dpc_jax.base import InputError, Size
from dpc_jax.convolution import ConvUnit, separable

FILTERS = 256  # of every head (official model.py)
LOW_LEVEL_FILTERS = 48  # official refine_by_decoder
DROPOUT_RATE = 0.1  # official keep_prob 0.9
LOGITS_STDDEV = 0.01  # official get_branch_logits


def scaled_rate(rate: int, output_stride: int) -> int:
    """An atrous rate for output stride 16 at another: rate * 16 / output_stride, which must come out whole."""
    if output_stride < 1 or rate * 16 % output_stride or rate < 1:
        raise InputError(f'atrous rate {rate} cannot be scaled to output stride {output_stride}; ASPP uses 6, 12, 18')
    return rate * 16 // output_stride


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling. In [B, h, w, C], out [B, h, w, D].

    Attributes:
      filters: D, of each part and of the output.
      rates: of the 3x3 convolutions at output stride 16; () with an image-level feature is the head of the released
        MobileNet-v2 models.
      output_stride: scales the rates. The official flags leave that to the user.
      image_pooling: whether there is an image-level feature.
      separable: 3x3 convolutions are separable; else full ones.

    Names of the parts are the official ones: image_pooling, aspp0, aspp{i} or aspp{i}_depthwise and aspp{i}_pointwise,
    concat_projection. Dropout is behind the projection, where a cell has it before.
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


class Decoder(nn.Module):
    """The decoder of DeepLabv3+: the context, resized, refined with a finer endpoint of the backbone.

    In [B, h, w, D] and [B, *, *, C], out [B, *size, filters].
    """

    filters: int = FILTERS
    low_level_filters: int = LOW_LEVEL_FILTERS
    output_stride: int = 4
    decay: float = ops.BN_DECAY

    @nn.compact
    def __call__(
        self, context: Float[Array, 'B h w D'], low_level: Float[Array, 'B _ _ C'], size: Size, train: bool = False
    ) -> Float[Array, 'B H2 W2 F']:
        """`size`: of the image at this output stride."""
        project = ConvUnit(self.low_level_filters, ops.xavier_init, decay=self.decay, name='feature_projection0')
        parts = [context, project(low_level, train)]
        x = jnp.concatenate([ops.resize_bilinear(part, size) for part in parts], -1)
        for index in range(2):
            x = separable(x, train, self.filters, name=f'decoder_conv{index}', decay=self.decay)
        return x


class Logits(nn.Module):
    """1x1 convolution with bias, float32 out: [B, h, w, C] -> [B, h, w, L]."""

    num_classes: int

    @nn.compact
    def __call__(self, x: Float[Array, 'B h w C']) -> Float[Array, 'B h w L']:
        shape = (1, 1, x.shape[-1], self.num_classes)
        kernel = self.param('kernel', ops.truncated_normal(LOGITS_STDDEV), shape)
        bias = self.param('bias', nn.initializers.zeros, (self.num_classes,))
        y = x @ kernel[0, 0].astype(x.dtype)
        return y.astype(np.promote_types(x.dtype, np.float32)) + bias[None, None, None, :]
