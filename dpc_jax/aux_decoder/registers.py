"""What the machine works on: weights of all units, the memory, and how an instruction reads and writes them.

A write must come after every read of the memory in the flow of data, or XLA copies the whole memory: `write` takes all
that was computed from it.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from dpc_jax import ops
from dpc_jax.aux_decoder import kernels
from dpc_jax.aux_decoder.kernels import Maps, Norm, Weights
from dpc_jax.aux_decoder.tape import FIELDS
from dpc_jax.base import Size

Memory = Float[Array, 'M A']

State = dict[str, Array]
"""`memory`; `mean`, `inv`, `var` of the norms by slot; `logits` by head; backward, `grad_...` of each weight."""


class Params(NamedTuple):
    """Weights of all units, used or not: one shape for every genotype."""

    adapters: tuple[Float[Array, '_ A'], ...]  # by level, [C, A]
    pointwise: Float[Array, 'U A A']
    dense: Float[Array, 'U 3 3 A A']
    depthwise: Float[Array, 'U 5 5 A']  # a kernel of three is in the middle
    projection: Float[Array, '3 A A']  # by place in the concatenation
    scale: Float[Array, 'V A']  # of batch norms, by slot
    bias: Float[Array, 'V A']
    heads: Float[Array, '4 3 3 A L']  # the last is the main one
    head_bias: Float[Array, '4 L']


class Stats(NamedTuple):
    """Moving averages, by slot."""

    mean: Float[Array, 'V A']
    var: Float[Array, 'V A']


@dataclasses.dataclass(frozen=True)
class Shape:
    """What the program is compiled for."""

    batch: int
    sizes: tuple[Size, ...]  # (h, w) by level
    filters: int
    classes: int

    @property
    def rows(self) -> tuple[int, ...]:
        """Of a map, by level."""
        return tuple(self.batch * height * width for height, width in self.sizes)

    def maps(self, level: int) -> tuple[int, int, int, int]:
        """The shape of maps at a level."""
        return (self.batch, *self.sizes[level], self.filters)


def get(instruction: Array, name: str) -> Array:
    """A field of an instruction."""
    return instruction[FIELDS.index(name)]


def raw(memory: Memory, row: Array, shape: Shape, level: int) -> Maps:
    """What is stored from that row on."""
    found = lax.dynamic_slice(memory, (row, jnp.zeros_like(row)), (shape.rows[level], shape.filters))
    return found.reshape(shape.maps(level))


def write(memory: Memory, row: Array, maps: Maps, *others: Array) -> Memory:
    """Writes maps; `others` are all else that was computed from the memory (see the head of the file)."""
    row = _after(row, maps, *others)
    return lax.dynamic_update_slice(memory, maps.reshape(-1, maps.shape[-1]), (row, jnp.zeros_like(row)))


def _after(row: Array, *values: Array) -> Array:
    """The row, by way of all values: XLA drops barriers before it decides what to copy, and no row is below 0."""
    number = functools.reduce(jnp.add, (value.ravel()[0] for value in values))
    return jnp.where(jnp.isnan(number) & (row < 0), jnp.zeros_like(row), row)


def put(table: Array, index: Array, value: Array) -> Array:
    """The table with another entry."""
    return lax.dynamic_update_index_in_dim(table, value, index, 0)


def pick(table: Array, index: Array) -> Array:
    """An entry of the table."""
    return lax.dynamic_index_in_dim(table, index, 0, keepdims=False)


class Access:
    """How instructions read: maps through their norms, weights by their number."""

    def __init__(self, params: Params, shape: Shape) -> None:
        identity = jnp.ones((1, shape.filters), params.scale.dtype)
        self.params, self.shape = params, shape
        self.scale = jnp.concatenate([params.scale, identity])
        self.bias = jnp.concatenate([params.bias, 0 * identity])

    def norm(self, state: State, slot: Array) -> Norm:
        """The norm of a slot."""
        return Norm(*(pick(table, slot) for table in (state['mean'], state['inv'], self.scale, self.bias)))

    def map(self, state: State, instruction: Array, name: str, level: int) -> Maps:
        """What a stored map means: through its norm."""
        z = raw(state['memory'], get(instruction, name), self.shape, level)
        return kernels.normalised(z, self.norm(state, get(instruction, f'{name}_slot')))

    def raw(self, state: State, instruction: Array, name: str, level: int) -> Maps:
        """What is stored there."""
        return raw(state['memory'], get(instruction, name), self.shape, level)

    def weights(self, number: Array) -> Weights:
        """Those of a unit."""
        return Weights(*(pick(getattr(self.params, name), number) for name in Weights._fields))

    def up(self, x: Float[Array, 'B _ _ D'], level: int) -> Float[Array, 'B _ _ D']:
        """A map enlarged to a level."""
        return ops.resize_half_pixel(x, self.shape.sizes[level])

    def up_back(self, grad: Float[Array, 'B _ _ D'], small: int) -> Float[Array, 'B _ _ D']:
        """The gradient of what was enlarged from level `small`."""
        size = (grad.shape[1], grad.shape[2])
        if size == self.shape.sizes[small]:
            return grad
        pairs = zip(self.shape.sizes[small], size, strict=True)
        rows, columns = (jnp.asarray(ops.half_pixel_matrix(*pair).T, grad.dtype) for pair in pairs)
        return ops.along_axes(grad, rows, columns)
