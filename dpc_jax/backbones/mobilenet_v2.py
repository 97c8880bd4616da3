"""MobileNet-v2 as slim builds it, up to `layer_18` (Sandler et al. 2018, arXiv:1801.04381).

Source of every number: tensorflow/models, research/slim/nets/mobilenet/{mobilenet,mobilenet_v2,conv_blocks}.py, in the
form that DeepLab uses (no classifier, output stride 8, 16 or 32 by atrous convolution). Parameters are named and nested
like the official variables, so that `checkpoint` maps them by rule.

Convolutions are written as what a CPU does fast, and mean the same: 1x1 as a matrix product, depthwise as nine shifted
reads. On 2 cores the shifted reads took 1/10 to 1/50 of the time of XLA's grouped convolution forward and 1/3 to 1/30
with its gradient, measured on maps of this network (batch 8, 9x9x576 to 65x65x96).
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dpc_jax import ops
from dpc_jax.base import InputError

SCOPE = 'MobilenetV2'
"""What the names of the official variables start with."""

OUTPUT_STRIDES = (8, 16, 32)

STEM_DEPTH = 32
BOTTLENECKS = (  # (expansion, depth, stride of the first, how many): arXiv:1801.04381 Table 2
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 2, 3),
    (6, 64, 2, 4),
    (6, 96, 1, 3),
    (6, 160, 2, 3),
    (6, 320, 1, 1),
)
BN_DECAY = 0.997  # mobilenet.training_scope
BN_EPSILON = 1e-3  # default of slim.batch_norm
INIT_STDDEV = 0.09  # mobilenet.training_scope; of the normal before it is truncated at two sigma, in TF and JAX alike


class Bottleneck(NamedTuple):
    """What an inverted residual block is made of."""

    depth: int  # output channels
    expansion: int
    stride: int
    rate: int


def make_divisible(depth: float, divisor: int = 8, min_value: int = 8) -> int:
    """The multiple of `divisor` nearest to `depth`, but never below `min_value` nor below 90 % of `depth`."""
    rounded = max(min_value, int(depth + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * depth else rounded + divisor


def bottlenecks(width: float, output_stride: int) -> tuple[Bottleneck, ...]:
    """The 17 blocks behind the stem.

    When the output stride is reached, a block that would stride runs at stride 1 and the current rate, and the blocks
    behind it run at the rate times its nominal stride (mobilenet.mobilenet_base).
    """
    blocks, reached_stride, rate = [], 2, 1
    for expansion, depth, first_stride, count in BOTTLENECKS:
        for nominal_stride in (first_stride, *[1] * (count - 1)):
            dense = reached_stride == output_stride
            blocks.append(Bottleneck(make_divisible(depth * width), expansion, 1 if dense else nominal_stride, rate))
            if dense:
                rate *= nominal_stride
            else:
                reached_stride *= nominal_stride
    return tuple(blocks)


def same_padding(size: int, *, stride: int, rate: int) -> tuple[int, int]:
    """(before, after) of a 3-tap kernel under TensorFlow's SAME: the odd cell of padding comes after."""
    outputs = -(-size // stride)
    total = max((outputs - 1) * stride + 2 * rate + 1 - size, 0)
    return total // 2, total - total // 2


def pointwise(x: Float[Array, 'B h w C'], kernel: Float[Array, '1 1 C D']) -> Float[Array, 'B h w D']:
    """1x1 convolution."""
    return x @ kernel[0, 0]


def strided_conv(x: Float[Array, 'B h w C'], kernel: Float[Array, '3 3 C D']) -> Float[Array, 'B _ _ D']:
    """3x3 convolution of stride 2, TF SAME."""
    return jax.lax.conv_general_dilated(x, kernel, (2, 2), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


def depthwise(
    x: Float[Array, 'B h w C'], kernel: Float[Array, '3 3 1 C'], *, stride: int = 1, rate: int = 1
) -> Float[Array, 'B _ _ C']:
    """3x3 depthwise convolution, TF SAME, as nine shifted reads of the padded input; adds up in float32 or wider."""
    batch, height, width, channels = x.shape
    padding = [same_padding(size, stride=stride, rate=rate) for size in (height, width)]
    rows, columns = ((-(-size // stride) - 1) * stride + 1 for size in (height, width))  # first to last output, in x
    wide = jnp.float32 if x.dtype.itemsize < 4 else x.dtype
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0))).astype(wide)
    taps = kernel.astype(wide)

    def tap(i: int, j: int) -> Float[Array, 'B _ _ C']:
        top, left = i * rate, j * rate
        limits = (batch, top + rows, left + columns, channels)
        return jax.lax.slice(padded, (0, top, left, 0), limits, (1, stride, stride, 1)) * taps[i : i + 1, j : j + 1]

    total = functools.reduce(jnp.add, (tap(i, j) for i in range(3) for j in range(3)))
    return total.astype(x.dtype)


class ConvolutionBN(nn.Module):
    """A convolution without bias, batch normalisation, and ReLU6 unless it is `linear`."""

    convolve: Callable[[Array, Array], Array]  # (x, kernel) -> y
    kernel_shape: tuple[int, int, int, int]
    linear: bool = False
    bn_decay: float = BN_DECAY

    @nn.compact
    def __call__(self, x: Float[Array, 'B h w _'], train: bool) -> Float[Array, 'B _ _ _']:
        """Batch statistics normalise, and move the averages, if `train`; else the averages normalise."""
        kernel = self.param('kernel', nn.initializers.truncated_normal(INIT_STDDEV), self.kernel_shape)
        x = self.convolve(x, kernel.astype(x.dtype))
        x = ops.BatchNorm(self.bn_decay, BN_EPSILON, name='BatchNorm')(x, use_running_average=not train)
        return x if self.linear else nn.relu6(x)


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise, linear 1x1 projection; added to its input where shape and stride allow it."""

    block: Bottleneck
    bn_decay: float = BN_DECAY

    @nn.compact
    def __call__(self, x: Float[Array, 'B h w _'], train: bool) -> dict[str, Float[Array, 'B _ _ _']]:
        """`output`, and what lies inside by official name: `depthwise_output`; `expansion_output` if there is one."""
        depth, expansion, stride, rate = self.block
        source, inner = x, x.shape[-1] * expansion  # a multiple of 8 as the input is, so nothing to round
        inside = {}
        unit = functools.partial(ConvolutionBN, bn_decay=self.bn_decay)
        if expansion > 1:
            x = unit(pointwise, (1, 1, x.shape[-1], inner), name='expand')(x, train)
            inside['expansion_output'] = x
        convolve = functools.partial(depthwise, stride=stride, rate=rate)
        x = unit(convolve, (3, 3, 1, inner), name='depthwise')(x, train)
        inside['depthwise_output'] = x
        x = unit(pointwise, (1, 1, inner, depth), linear=True, name='project')(x, train)
        if stride == 1 and source.shape[-1] == depth:
            x = x + source
        return {'output': x, **inside}


class Model(nn.Module):
    """MobileNet-v2 to `layer_18`: 320 linear channels at width 1.

    Attributes:
      width: factor of every layer's depth, the last included, by `make_divisible` (slim's default; DeepLab's own
        graph rounds to any integer instead when the width is not 1).
      output_stride: image / feature resolution, one of `OUTPUT_STRIDES`.
      bn_decay: of the moving averages; a short training needs a faster one than slim's.
      dtype: of the computation; None takes that of the images. Parameters and batch statistics are float32.

    Raises:
      InputError: a width that is not positive, an output stride that is not allowed.
    """

    width: float = 1.0
    output_stride: int = 16
    bn_decay: float = BN_DECAY
    dtype: DTypeLike | None = None

    def __post_init__(self) -> None:
        """Refuses bad settings before anything is built."""
        if self.output_stride not in OUTPUT_STRIDES:
            allowed = ', '.join(map(str, OUTPUT_STRIDES))
            raise InputError(f'output stride {self.output_stride} of mobilenet_v2: it must be one of {allowed}')
        if not self.width > 0:
            raise InputError(f'width {self.width} of mobilenet_v2: it must be greater than 0')
        super().__post_init__()

    @nn.compact
    def __call__(self, images: Float[Array, 'B H W 3'], train: bool = False) -> dict[str, Float[Array, 'B _ _ _']]:
        """Named endpoints of images in 0..255.

        `layer_1` (stem) .. `layer_18`, each k >= 2 with `layer_k/depthwise_output` and each k >= 3 with
        `layer_k/expansion_output` (both behind BN and ReLU6), as slim names them; `features` is `layer_18`. A map is
        ceil(size / stride) large. Under jit, endpoints that the caller does not return cost nothing.
        """
        x = images * (2.0 / 255.0) - 1.0
        x = x if self.dtype is None else x.astype(self.dtype)
        stem_depth = make_divisible(STEM_DEPTH * self.width)
        x = ConvolutionBN(strided_conv, (3, 3, 3, stem_depth), bn_decay=self.bn_decay, name='Conv')(x, train)
        endpoints = {'layer_1': x}
        for index, block in enumerate(bottlenecks(self.width, self.output_stride)):
            scope = f'expanded_conv_{index}' if index else 'expanded_conv'
            inside = InvertedResidual(block, self.bn_decay, name=scope)(x, train)
            x = inside.pop('output')
            endpoints |= {f'layer_{index + 2}': x, **{f'layer_{index + 2}/{name}': y for name, y in inside.items()}}
        return endpoints | {'features': x}
