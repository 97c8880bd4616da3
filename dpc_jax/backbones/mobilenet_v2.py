"""MobileNet-v2 as slim builds it, up to `layer_18` (Sandler et al. 2018, arXiv:1801.04381).

Source of every number: tensorflow/models, research/slim/nets/mobilenet/{mobilenet,mobilenet_v2,conv_blocks}.py, in the
form that DeepLab uses (no classifier, output stride 8, 16 or 32 by atrous convolution). Parameters are named and nested
like the official variables.
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dpc_jax import backbones, ops
from dpc_jax.backbones import make_divisible
from dpc_jax.convolution import ConvUnit

NAMES: dict[str, dict[str, int]] = {
    'mobilenet_v2': {},
    'mobilenet_v2_refinenet': {'expand_first': True},
    'mobilenet_v2_shallow': {'shallow': True},
}
"""The second is the encoder of Light-Weight RefineNet, in which the search of arXiv:1810.10804 starts. The third is
nobody's: the first block of each row of Table 2 alone, which compiles faster. Every `:toy` config has it."""

SCOPE = 'MobilenetV2'
"""What the names of the official variables start with."""

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

_unit = functools.partial(
    ConvUnit,
    kernel_init=ops.truncated_normal(backbones.INIT_STDDEV),
    activation=nn.relu6,
    epsilon=backbones.BN_EPSILON,
)


class Bottleneck(NamedTuple):
    """What an inverted residual block is made of."""

    depth: int  # output channels
    expansion: int
    stride: int
    rate: int


def bottlenecks(width: float, output_stride: int, *, shallow: bool = False) -> tuple[Bottleneck, ...]:
    """The 17 blocks after the stem; the 7 that are first of their row if `shallow`."""
    nominal = [
        (depth, expansion, stride)
        for expansion, depth, first_stride, count in BOTTLENECKS
        for stride in (first_stride, *[1] * (0 if shallow else count - 1))
    ]
    strided = backbones.atrous([stride for *_, stride in nominal], output_stride, reached_stride=2)
    return tuple(
        Bottleneck(make_divisible(depth * width), expansion, stride, rate)
        for (depth, expansion, _), (stride, rate) in zip(nominal, strided, strict=True)
    )


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise, linear 1x1 projection; added to its input where shape and stride allow it."""

    block: Bottleneck
    bn_decay: float = BN_DECAY
    always_expand: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, 'B h w _'], train: bool) -> dict[str, Float[Array, 'B _ _ _']]:
        """`output`, and what lies inside by official name: `depthwise_output`; `expansion_output` if there is one."""
        depth, expansion, stride, rate = self.block
        source, inner = x, x.shape[-1] * expansion  # a multiple of 8 like the input, so there is nothing to round
        inside = {}
        unit = functools.partial(_unit, decay=self.bn_decay)
        if expansion > 1 or self.always_expand:
            x = unit(inner, name='expand')(x, train)
            inside['expansion_output'] = x
        x = unit(None, kernel_size=(3, 3), stride=stride, rate=(rate, rate), name='depthwise')(x, train)
        inside['depthwise_output'] = x
        x = unit(depth, activation=None, name='project')(x, train)
        if stride == 1 and source.shape[-1] == depth:
            x = x + source
        return {'output': x, **inside}


class Model(nn.Module):
    """MobileNet-v2 to `layer_18`: 320 linear channels at width 1.

    Attributes:
      width: factor of every layer's depth, the last included, by `make_divisible` (slim's default; DeepLab's own
        graph rounds to any integer instead when the width is not 1).
      output_stride: image / feature resolution, one of `backbones.OUTPUT_STRIDES`.
      bn_decay: of the moving averages; a short training needs a faster one than slim's.
      dtype: of the computation; None takes that of the images. Parameters and batch statistics are float32.
      expand_first: the first block has a 1x1 expansion, too, by a factor of 1 (Light-Weight RefineNet's encoder).
      shallow: only the first block of each row of Table 2, so 7 of 17, and endpoints up to `layer_8`.

    Raises:
      InputError: a width that is not positive, an output stride that is not allowed.
    """

    width: float = 1.0
    output_stride: int = 16
    bn_decay: float = BN_DECAY
    dtype: DTypeLike | None = None
    expand_first: bool = False
    shallow: bool = False

    def __post_init__(self) -> None:
        """Refuses bad settings before anything is built."""
        name = 'mobilenet_v2' + '_refinenet' * self.expand_first + '_shallow' * self.shallow
        backbones.check(name, self.output_stride, self.width)
        super().__post_init__()

    @property
    def official_scope(self) -> str:
        """What the names of the official variables start with."""
        return SCOPE

    @property
    def low_level(self) -> str:
        """The endpoint that a decoder at stride 4 reads, 144 channels at width 1 (official feature_extractor.py).

        A shallow one has 96 there: its only block at stride 4 expands 16 channels.
        """
        return 'layer_3/depthwise_output' if self.shallow else 'layer_4/depthwise_output'

    @property
    def by_stride(self) -> Mapping[int, str]:
        """The output of the last block at each stride: 24, 32, 96 and 320 channels at width 1, output stride 32."""
        blocks = bottlenecks(self.width, self.output_stride, shallow=self.shallow)
        return backbones.last_of_each_stride((block.stride, f'layer_{index + 1}') for index, block in enumerate(blocks))

    @nn.compact
    def __call__(self, images: Float[Array, 'B H W 3'], train: bool = False) -> dict[str, Float[Array, 'B _ _ _']]:
        """Named endpoints of images in 0..255.

        `layer_1` (stem) .. `layer_18`, each k >= 2 with `layer_k/depthwise_output` and each k >= 3 with
        `layer_k/expansion_output` (both after BN and ReLU6), as slim names them; `features` is the last. A map is
        ceil(size / stride) large. Under jit, endpoints that the caller does not return cost nothing.
        """
        x = backbones.scaled(images, self.dtype)
        stem_depth = make_divisible(STEM_DEPTH * self.width)
        x = _unit(stem_depth, kernel_size=(3, 3), stride=2, decay=self.bn_decay, name='Conv')(x, train)
        endpoints = {'layer_1': x}
        for index, block in enumerate(bottlenecks(self.width, self.output_stride, shallow=self.shallow)):
            scope = f'expanded_conv_{index}' if index else 'expanded_conv'
            inside = InvertedResidual(block, self.bn_decay, self.expand_first, name=scope)(x, train)
            x = inside.pop('output')
            endpoints |= {f'layer_{index + 2}': x, **{f'layer_{index + 2}/{name}': y for name, y in inside.items()}}
        return endpoints | {'features': x}
