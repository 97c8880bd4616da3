"""What follows the context: the decoder of DeepLabv3+ and the logits (official model.py; arXiv:1802.02611 §3)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dpc_jax import ops
from dpc_jax.base import Size
from dpc_jax.convolution import ConvUnit, dense, separable

FILTERS = 256  # official refine_by_decoder
LOW_LEVEL_FILTERS = 48  # official refine_by_decoder
LOGITS_STDDEV = 0.01  # official get_branch_logits


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
    """Convolution with bias, float32 out: [B, h, w, C] -> [B, h, w, L]."""

    num_classes: int
    kernel_size: Size = (1, 1)
    kernel_init: ops.Initializer = ops.truncated_normal(LOGITS_STDDEV)
    bias_init: ops.Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: Float[Array, 'B h w C']) -> Float[Array, 'B h w L']:
        shape = (*self.kernel_size, x.shape[-1], self.num_classes)
        kernel = self.param('kernel', self.kernel_init, shape)
        bias = self.param('bias', self.bias_init, (self.num_classes,))
        y = dense(x, kernel.astype(x.dtype))
        return y.astype(np.promote_types(x.dtype, np.float32)) + bias[None, None, None, :]


class AuxiliaryLogits(nn.Module):
    """Logits of each auxiliary map; parameters are under its name."""

    num_classes: int
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of `Logits`

    @nn.compact
    def __call__(self, maps: Mapping[str, Float[Array, 'B _ _ _']]) -> dict[str, Float[Array, 'B _ _ L']]:
        """Logits by name of the map, each at the size of its map."""
        return {name: Logits(self.num_classes, **self.settings, name=name)(x) for name, x in maps.items()}
