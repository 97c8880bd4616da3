"""Modified aligned Xception of 41, 65 and 71 layers (Chollet 2017, arXiv:1610.02357; Qi et al. 2017; DeepLabv3+).

Source of every number: tensorflow/models, research/deeplab/core/{xception,feature_extractor}.py. Max pooling is
replaced by strided separable convolutions, every 3x3 depthwise convolution has its own batch norm, and output strides
8 and 16 are reached by atrous convolution. Parameters are named and nested like the official variables.
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dpc_jax import backbones, ops
from dpc_jax.backbones import make_divisible
from dpc_jax.base import InputError
from dpc_jax.convolution import ConvUnit

NAMES = {f'xception_{layers}': {'layers': layers} for layers in (41, 65, 71)}

BN_DECAY = 0.9997  # xception_arg_scope
STEM_DEPTHS = (32, 64)

Endpoints = dict[str, jax.Array]

_unit = functools.partial(
    ConvUnit,
    kernel_init=ops.truncated_normal(backbones.INIT_STDDEV),
    padding='symmetric',
    epsilon=backbones.BN_EPSILON,
)


class Block(NamedTuple):
    """`units` equal units of three separable convolutions each; the third of every unit has the stride."""

    name: str
    depths: tuple[int, int, int]
    stride: int
    skip: str = 'conv'  # 'conv': 1x1 with the unit's stride; 'sum': the input itself; 'none'
    units: int = 1
    rate: int = 1
    preactivated: bool = True  # ReLU before each separable convolution alone; if False, after each part


_ENTRY = (Block('block1', (128,) * 3, 2), Block('block2', (256,) * 3, 2), Block('block3', (728,) * 3, 2))
_ENTRY_71 = (
    Block('block1', (128,) * 3, 2),
    Block('block2', (256,) * 3, 1),
    Block('block3', (256,) * 3, 2),
    Block('block4', (728,) * 3, 1),
    Block('block5', (728,) * 3, 2),
)
_EXIT = (Block('block1', (728, 1024, 1024), 2), Block('block2', (1536, 1536, 2048), 1, 'none', preactivated=False))


def flows(layers: int) -> dict[str, tuple[Block, ...]]:
    """The blocks after the stem, by flow (xception_41, xception_65, xception_71 of the official file)."""
    return {
        'entry_flow': _ENTRY_71 if layers == 71 else _ENTRY,
        'middle_flow': (Block('block1', (728,) * 3, 1, 'sum', units=8 if layers == 41 else 16),),
        'exit_flow': _EXIT,
    }


def with_stride(blocks: Mapping[str, tuple[Block, ...]], output_stride: int) -> dict[str, tuple[Block, ...]]:
    """The same blocks with the strides and rates that lead to the output stride."""
    nominal = [block.stride for flow in blocks.values() for block in flow]
    strided = iter(backbones.atrous(nominal, output_stride, reached_stride=2))
    return {
        name: tuple(
            block._replace(stride=stride, rate=rate) for block, (stride, rate) in zip(flow, strided, strict=False)
        )
        for name, flow in blocks.items()
    }


class XceptionModule(nn.Module):
    """One unit: three separable convolutions and a way around them."""

    block: Block
    multi_grid: tuple[int, int, int]
    bn_decay: float

    @nn.compact
    def __call__(self, x: Float[Array, 'B h w _'], train: bool) -> tuple[Float[Array, 'B _ _ _'], Endpoints]:
        """The output, and the parts by official name, each after its batch norm (and ReLU, if that is its place)."""
        block, source, parts = self.block, x, {}
        unit = functools.partial(_unit, decay=self.bn_decay, activation=None if block.preactivated else nn.relu)
        for index, (depth, grid) in enumerate(zip(block.depths, self.multi_grid, strict=True), 1):
            name, stride, rate = f'separable_conv{index}', block.stride if index == 3 else 1, block.rate * grid
            x = nn.relu(x) if block.preactivated else x
            depthwise = unit(None, kernel_size=(3, 3), stride=stride, rate=(rate, rate), name=f'{name}_depthwise')
            parts[f'{name}_depthwise'] = x = depthwise(x, train)
            parts[f'{name}_pointwise'] = x = unit(depth, name=f'{name}_pointwise')(x, train)
        if block.skip == 'conv':
            around = unit(block.depths[-1], stride=block.stride, activation=None, name='shortcut')(source, train)
            parts['shortcut'] = around
            x = x + around
        elif block.skip == 'sum':
            x = x + source
        return x, parts


class ScopedUnit(nn.Module):
    """A unit in the scope that the official code puts around it."""

    block: Block
    multi_grid: tuple[int, int, int]
    bn_decay: float

    @nn.compact
    def __call__(self, x: Float[Array, 'B h w _'], train: bool) -> tuple[Float[Array, 'B _ _ _'], Endpoints]:
        """Output and endpoints."""
        module = XceptionModule(self.block, self.multi_grid, self.bn_decay, name='xception_module')
        x, parts = module(x, train)
        return x, {**_below('xception_module', parts), 'xception_module': x}


class UnitStack(nn.Module):
    """The units of a block."""

    block: Block
    multi_grid: tuple[int, int, int]
    bn_decay: float

    @nn.compact
    def __call__(self, x: Float[Array, 'B h w _'], train: bool) -> tuple[Float[Array, 'B _ _ _'], Endpoints]:
        """Output and endpoints."""
        endpoints: Endpoints = {}
        for number in range(1, 1 + self.block.units):
            x, parts = ScopedUnit(self.block, self.multi_grid, self.bn_decay, name=f'unit_{number}')(x, train)
            endpoints |= _below(f'unit_{number}', parts)
        return x, endpoints


class Flow(nn.Module):
    """A stem, if it has depths, and blocks; the last block of a network takes the `multi_grid`."""

    blocks: tuple[Block, ...]
    bn_decay: float
    stem_depths: tuple[int, ...] = ()
    multi_grid: tuple[int, int, int] = (1, 1, 1)

    @nn.compact
    def __call__(self, x: Float[Array, 'B h w _'], train: bool) -> tuple[Float[Array, 'B _ _ _'], Endpoints]:
        """Output and endpoints."""
        endpoints: Endpoints = {}
        for index, depth in enumerate(self.stem_depths, 1):
            name, stride = f'conv1_{index}', 2 if index == 1 else 1
            x = _unit(depth, kernel_size=(3, 3), stride=stride, decay=self.bn_decay, name=name)(x, train)
            endpoints[name] = x
        for block in self.blocks:
            grid = self.multi_grid if block is self.blocks[-1] else (1, 1, 1)
            x, parts = UnitStack(block, grid, self.bn_decay, name=block.name)(x, train)
            endpoints |= {**_below(block.name, parts), block.name: x}
        return x, endpoints


def _below(scope: str, endpoints: Endpoints) -> Endpoints:
    return {f'{scope}/{name}': x for name, x in endpoints.items()}


class Model(nn.Module):
    """Modified aligned Xception: 2048 rectified channels at width 1.

    Attributes:
      layers: 41, 65 or 71.
      width: factor of every layer's depth, by `make_divisible`; 1 in all of the literature.
      output_stride: image / feature resolution, one of `backbones.OUTPUT_STRIDES`.
      multi_grid: factors of the atrous rates of the three convolutions in the last block (official `multi_grid`).
      bn_decay: of the moving averages.
      dtype: of the computation; None takes that of the images. Parameters and batch statistics are float32.

    Raises:
      InputError: layers or an output stride that are not allowed, a width that is not positive.
    """

    layers: int = 65
    width: float = 1.0
    output_stride: int = 16
    multi_grid: tuple[int, int, int] = (1, 1, 1)
    bn_decay: float = BN_DECAY
    dtype: DTypeLike | None = None

    def __post_init__(self) -> None:
        """Refuses bad settings before anything is built."""
        if f'xception_{self.layers}' not in NAMES:
            raise InputError(f'xception has no {self.layers} layers; allowed: 41, 65, 71')
        backbones.check(f'xception_{self.layers}', self.output_stride, self.width)
        super().__post_init__()

    @property
    def official_scope(self) -> str:
        """What the names of the official variables start with."""
        return f'xception_{self.layers}'

    @property
    def low_level(self) -> str:
        """The endpoint that a decoder at stride 4 reads: 256 channels, not rectified (feature_extractor.py)."""
        return self.by_stride[4]

    @property
    def by_stride(self) -> Mapping[int, str]:
        """What the strided convolution of a block reads: 256, 728, 1024, 2048 channels at width 1, output stride 32.

        The official decoder reads it at stride 4 (feature_extractor.py), and names no endpoint for the others.
        """
        flow_blocks = with_stride(flows(self.layers), self.output_stride).items()
        return backbones.last_of_each_stride(
            (block.stride, f'{flow}/{block.name}/unit_1/xception_module/separable_conv2_pointwise')
            for flow, blocks in flow_blocks
            for block in blocks
        )

    @nn.compact
    def __call__(self, images: Float[Array, 'B H W 3'], train: bool = False) -> dict[str, Float[Array, 'B _ _ _']]:
        """Named endpoints of images in 0..255, as the official file names them, without the network's own scope.

        `entry_flow/conv1_1`, `entry_flow/conv1_2`; of each unit `{block}/unit_{n}/xception_module` and below that
        `separable_conv{1,2,3}_{depthwise,pointwise}` and `shortcut`; `{block}`; `features` is the last of them. A map
        is ceil(size / stride) large. Under jit, endpoints that the caller does not return cost nothing.
        """
        x = backbones.scaled(images, self.dtype)
        endpoints: Endpoints = {}
        for name, blocks in with_stride(flows(self.layers), self.output_stride).items():
            scaled = tuple(self._scaled(block) for block in blocks)
            stem = tuple(map(self._depth, STEM_DEPTHS)) if name == 'entry_flow' else ()
            grid = self.multi_grid if name == 'exit_flow' else (1, 1, 1)
            x, parts = Flow(scaled, self.bn_decay, stem, grid, name=name)(x, train)
            endpoints |= _below(name, parts)
        return endpoints | {'features': x}

    def _scaled(self, block: Block) -> Block:
        first, second, third = map(self._depth, block.depths)
        return block._replace(depths=(first, second, third))

    def _depth(self, depth: int) -> int:
        return depth if self.width == 1 else make_divisible(depth * self.width)
