"""The auxiliary-cell decoder as a Flax module: one genotype, compiled for it (static view; arXiv:1810.10804 §3).

    maps at strides 4, 8, 16, 32 -> adapters, A filters each
      -> three blocks: a cell on each of two earlier maps, 1x1 convolutions, the coarser resized, their sum
      -> blocks that no block reads, resized to the finest and concatenated -> 1x1 convolution -> 3x3 to the classes
    in training, at blocks: another cell, 3x3 to the classes

All convolutions but those to the classes are without bias, and followed by batch norm and ReLU (of a separable operator
the 1x1 part is). Initial values and batch norms are PyTorch's, in which the authors' networks were trained.
A is the filters of all maps.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dpc_jax import initial, ops
from dpc_jax.base import Size
from dpc_jax.context import Context, ContextOutput
from dpc_jax.convolution import ConvUnit
from dpc_jax.spaces import aux_cells
from dpc_jax.spaces.aux_cells import BLOCKS, OPS, STRIDES, Slot

AUXILIARIES = ('cell', 'conv', 'none')
"""What stands at a block in training: a cell and a 3x3 convolution, that convolution alone, nothing."""

BN_DECAY = 0.9  # PyTorch's momentum 0.1
BN_EPSILON = 1e-5
AUXILIARY_WEIGHT = 0.15  # of the loss of each head (release; both stages)


def uniform_init(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """PyTorch's initial kernel [kh, kw, C or 1, D]: uniform in ± 1 / sqrt(fan in)."""
    bound = 1 / math.sqrt(math.prod(shape[:-1]))
    return initial.uniform(key, shape, bound, dtype)


def bias_init(fan_in: int) -> ops.Initializer:
    """PyTorch's initial bias of a convolution: uniform in ± 1 / sqrt(fan in)."""

    def draw(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
        bound = 1 / math.sqrt(fan_in)
        return initial.uniform(key, shape, bound, dtype)

    return draw


class Cell(nn.Module):
    """One cell: [B, h, w, A] -> the same.

    Attributes:
      genotype: as nested tuples of integers (`aux_cells.Genotype` of tuples), so that it can be hashed.
      repeats: how often a separable operator is stacked.
    """

    genotype: aux_cells.Genotype
    repeats: int = 1
    decay: float = BN_DECAY

    @nn.compact
    def __call__(self, x: Float[Array, 'B h w A'], train: bool) -> Float[Array, 'B h w A']:
        """Batch statistics normalise, and move the averages, if `train`."""
        operate = functools.partial(self._operate, train)
        y: Array = aux_cells.wire_cell(self.genotype, x, operate, jnp.add)
        return y

    def _operate(self, train: bool, number: int, slot: Slot, x: Float[Array, 'B h w A']) -> Float[Array, 'B h w A']:
        op, filters = OPS[slot.op], x.shape[-1]
        unit = functools.partial(ConvUnit, kernel_init=uniform_init, decay=self.decay, epsilon=BN_EPSILON)
        size, rate, name = (op.kernel, op.kernel), (op.rate, op.rate), f'op{number}'
        if op.kind == 'skip':
            return x
        if op.kind == 'none':
            return jnp.zeros_like(x)
        if op.kind == 'conv':
            return unit(filters, kernel_size=size, rate=rate, name=name)(x, train)
        if op.kind == 'pooling':
            mean = x.mean((1, 2), keepdims=True)
            return jnp.broadcast_to(unit(filters, name=name)(mean, train), x.shape)
        for repeat in range(self.repeats):
            part = f'{name}_{repeat}'
            spread = unit(None, kernel_size=size, rate=rate, normalize=False, activation=None, name=f'{part}_depthwise')
            x = unit(filters, name=f'{part}_pointwise')(spread(x, train), train)
        return x


class Decoder(Context):
    """A decoder of auxiliary cells on four maps of an encoder.

    Attributes:
      genotype: of tuples; `of` makes it.
      filters: A, of all maps: 48 in the paper's search and 64 in its final networks.
      repeats: 1 in the search, 2 in final networks.
      auxiliary: one of `AUXILIARIES`; the heads take part in training alone.
      inner: heads at the blocks that are not the last (the paper's Fig. 1) instead of at all (the release).
    """

    genotype: aux_cells.Genotype
    filters: int = 64
    repeats: int = 2
    auxiliary: str = 'cell'
    inner: bool = False
    weight: float = AUXILIARY_WEIGHT
    decay: float = BN_DECAY

    @classmethod
    def of(cls, genotype: aux_cells.Genotype, **settings: Any) -> 'Decoder':
        """The decoder of a genotype (unbatched) of arrays."""
        # Flax compares and hashes modules by their fields.
        genes: Any = (tuple(map(int, field)) for field in genotype)
        return cls(aux_cells.Genotype(*genes), **settings)

    @property
    def auxiliary_weights(self) -> Mapping[str, float]:
        """The same weight for each block that has a head."""
        blocks = range(0 if self.auxiliary == 'none' else BLOCKS - 1 if self.inner else BLOCKS)
        return {f'block{block + 1}': self.weight for block in blocks}

    @property
    def logits_settings(self) -> Mapping[str, Any]:
        """3x3 convolutions."""
        return {'kernel_size': (3, 3), 'kernel_init': uniform_init, 'bias_init': bias_init(9 * self.filters)}

    def stride(self, output_stride: int) -> int:
        """That of the finest block that is concatenated, whatever the encoder's."""
        levels, ends = aux_cells.levels(self.genotype), aux_cells.loose(self.genotype)
        return STRIDES[min(levels[aux_cells.MAPS + block] for block in ends)]

    @nn.compact
    def of_maps(
        self,
        maps: Mapping[int, Float[Array, 'B _ _ _']],
        train: bool,
        dropout_key: jax.Array | None,
        pooled_size: Size | None,
    ) -> ContextOutput:
        """`maps` are those of the encoder by stride; heads are computed in training (and where weights are made).

        A training with frozen batch norms is known by its `dropout_key`, though nothing here drops anything.
        """
        unit = functools.partial(ConvUnit, self.filters, kernel_init=uniform_init, decay=self.decay, epsilon=BN_EPSILON)
        cell = functools.partial(Cell, self.genotype, self.repeats, self.decay)
        adapted = [unit(name=f'adapter{stride}')(maps[stride], train) for stride in STRIDES]

        def block(number: int, one: Array, other: Array) -> Array:
            sides = []
            for side, x in enumerate((one, other)):
                name = f'block{number + 1}_{side + 1}'
                sides.append(unit(name=f'{name}_merge')(cell(name=name)(x, train), train))
            size = _finest(sides)
            return ops.resize_half_pixel(sides[0], size) + ops.resize_half_pixel(sides[1], size)

        blocks = aux_cells.wire_decoder(self.genotype, adapted, block)
        ends = [blocks[number] for number in aux_cells.loose(self.genotype)]
        joined = jnp.concatenate([ops.resize_half_pixel(x, _finest(ends)) for x in ends], -1)
        heads = {}
        if train or dropout_key is not None or self.is_initializing():
            for name in self.auxiliary_weights:
                x = blocks[int(name.removeprefix('block')) - 1]
                heads[name] = cell(name=f'{name}_auxiliary')(x, train) if self.auxiliary == 'cell' else x
        return ContextOutput(unit(name='concat_projection')(joined, train), heads)


def _finest(maps: list[Array]) -> Size:
    """The largest of the maps' sizes."""
    return max(x.shape[1] for x in maps), max(x.shape[2] for x in maps)
