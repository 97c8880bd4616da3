"""Convolution, batch normalisation, activation: the one unit that every static network here is built of.

Parameters are named and nested like the official variables, so that `tf_import` maps them by rule and `counting` finds
every multiplication by looking for this module.

Convolutions are written in a form that a CPU does fast: 1x1 as a matrix product, depthwise as nine shifted
reads. On 2 cores the shifted reads took 1/10 to 1/50 of the time of XLA's grouped convolution forward and 1/3 to 1/30
with its gradient, measured on maps of MobileNet-v2 (batch 8, 9x9x576 to 65x65x96).
"""

import functools
import itertools
from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dpc_jax import ops
from dpc_jax.base import Size

Padding = Literal['same', 'symmetric']
"""Where a strided convolution begins: TensorFlow's SAME (slim's MobileNet-v2), or as many cells before as after
(official xception.fixed_padding). They are the same for stride 1 and on maps of odd size."""

Activation = Callable[[Array], Array]


def margins(size: int, taps: int, *, stride: int = 1, rate: int = 1, padding: Padding = 'same') -> tuple[int, int]:
    """Cells of zeros (before, after) on an axis of `size` cells, for ceil(size / stride) outputs."""
    reach = rate * (taps - 1)
    needed = max((-(-size // stride) - 1) * stride + reach + 1 - size, 0)
    before = needed // 2 if padding == 'same' else reach // 2
    return before, max(needed - before, 0)


def dense(
    x: Float[Array, 'B h w C'],
    kernel: Float[Array, 'i j C D'],
    *,
    stride: int = 1,
    rate: Size = (1, 1),
    padding: Padding = 'same',
) -> Float[Array, 'B _ _ D']:
    """Convolution; a 1x1 kernel is a matrix product."""
    taps = kernel.shape[:2]
    if taps == (1, 1):
        return x[:, ::stride, ::stride] @ kernel[0, 0]
    sides = [
        margins(n, t, stride=stride, rate=r, padding=padding) for n, t, r in zip(x.shape[1:3], taps, rate, strict=True)
    ]
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), sides, rhs_dilation=rate, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )


def depthwise(
    x: Float[Array, 'B h w C'],
    kernel: Float[Array, 'i j 1 C'],
    *,
    stride: int = 1,
    rate: Size = (1, 1),
    padding: Padding = 'same',
) -> Float[Array, 'B _ _ C']:
    """Depthwise convolution as shifted reads of the padded input; adds up in float32 or wider.

    A tap that reads nothing but padding, because its rate exceeds the map, costs nothing.
    """
    batch, *size, channels = x.shape
    sides = [
        margins(n, taps, stride=stride, rate=r, padding=padding)
        for n, taps, r in zip(size, kernel.shape[:2], rate, strict=True)
    ]
    spans = [(-(-n // stride) - 1) * stride + 1 for n in size]  # from the first cell that is read to the last
    wide = np.promote_types(x.dtype, np.float32)
    padded = jnp.pad(x, ((0, 0), *sides, (0, 0))).astype(wide)
    taps = kernel.astype(wide)
    total = []
    for i, j in itertools.product(*map(range, kernel.shape[:2])):
        first = (i * rate[0], j * rate[1])
        if all(_reads_map(f, span, n, side) for f, span, n, side in zip(first, spans, size, sides, strict=True)):
            last = (batch, first[0] + spans[0], first[1] + spans[1], channels)
            window = jax.lax.slice(padded, (0, *first, 0), last, (1, stride, stride, 1))
            total.append(window * taps[i : i + 1, j : j + 1])
    return functools.reduce(jnp.add, total).astype(x.dtype)


def _reads_map(first: int, span: int, size: int, side: tuple[int, int]) -> bool:
    return first + span > side[0] and first < side[0] + size


class ConvUnit(nn.Module):
    """Convolution without bias, BN, activation. In [B, h, w, C], out [B, h / stride, w / stride, filters or C].

    Attributes:
      filters: output channels; None makes it depthwise.
      kernel_init: of the kernel [kh, kw, C, filters], or [kh, kw, 1, C] of a depthwise one.
      activation: None leaves the output linear.
      decay, epsilon: of the batch norm.

    Parameters (`kernel`, `BatchNorm`) are float32; the computation is in the dtype of the input.
    """

    filters: int | None
    kernel_init: ops.Initializer
    kernel_size: Size = (1, 1)
    stride: int = 1
    rate: Size = (1, 1)
    padding: Padding = 'same'
    activation: Activation | None = nn.relu
    decay: float = ops.BN_DECAY
    epsilon: float = ops.BN_EPSILON

    @nn.compact
    def __call__(self, x: Float[Array, 'B h w C'], train: bool) -> Float[Array, 'B _ _ D']:
        """Batch statistics normalise, and move the averages, if `train`; else the averages normalise."""
        channels = x.shape[-1]
        fans = (1, channels) if self.filters is None else (channels, self.filters)
        kernel = self.param('kernel', self.kernel_init, (*self.kernel_size, *fans)).astype(x.dtype)
        norm = ops.BatchNorm(self.decay, self.epsilon, name='BatchNorm')
        convolve = depthwise if self.filters is None else dense
        x = convolve(x, kernel, stride=self.stride, rate=self.rate, padding=self.padding)
        x = norm(x, use_running_average=not train)
        return x if self.activation is None else self.activation(x)


def separable(
    x: Float[Array, 'B h w C'],
    train: bool,
    filters: int,
    *,
    name: str,
    rate: Size = (1, 1),
    decay: float = ops.BN_DECAY,
) -> Float[Array, 'B h w D']:
    """Depthwise 3x3, BN, ReLU, pointwise, BN, ReLU, in the compact module that calls it.

    The parts are named `{name}_depthwise` and `{name}_pointwise`, with their initialisers (official model.py,
    split_separable_conv2d; the same in dense_prediction_cell.py).
    """
    unit = functools.partial(ConvUnit, decay=decay)
    x = unit(None, ops.depthwise_init, kernel_size=(3, 3), rate=rate, name=f'{name}_depthwise')(x, train)
    return unit(filters, ops.pointwise_init, name=f'{name}_pointwise')(x, train)
