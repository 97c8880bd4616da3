"""A block of a kernel on maps: one image and a slice of channels; how it is read, written and multiplied along axes."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Int

from dpc_jax.base import Size
from dpc_jax.fused import tiles
from dpc_jax.fused.tiles import Launch, Ref, span, wide

ROWS = 32  # cells of a map that a block takes at a time

Read = Callable[[Array, Array], Array]
"""(cells [R], which of them to read [R]) -> their values [R, c], wide; 0 where none is read."""


class Block(NamedTuple):
    """Where a block is: its image, its channels, and the size of the map."""

    image: Any
    columns: Int[Array, ' c']
    inside: Array  # which of the columns there are
    size: Size

    @property
    def cells(self) -> int:
        return self.size[0] * self.size[1]

    def load(self, ref: Ref, cells: Array, which: Array, inside: Array | None = None) -> Array:
        kept = self.inside if inside is None else inside
        value = triton.load(
            ref.at[self.image, cells[:, None], self.columns[None, :]], mask=which[:, None] & kept[None, :], other=0
        )
        return value.astype(wide(value.dtype))

    def store(self, ref: Ref, cells: Array, which: Array, value: Array) -> None:
        at = ref.at[self.image, cells[:, None], self.columns[None, :]]
        triton.store(at, value.astype(ref.dtype), mask=which[:, None] & self.inside[None, :])

    def each(self, carry: Any, run: Callable[[Array, Array, Any], Any]) -> Any:
        """`run(cells, which of them there are, carry)` over the cells of the map, some at a time."""
        rows = tiles.power_of_two(self.cells, ROWS)

        def step(index: Array, carry: Any) -> Any:
            cells = span(index * rows, rows)
            return run(cells, cells < self.cells, carry)

        return lax.fori_loop(0, pl.cdiv(self.cells, rows), step, carry)


def block_of(channels: int, width: int, size: Size) -> Block:
    """This point of the grid (images, slices of `width` channels)."""
    columns = span(pl.program_id(1) * width, width)
    return Block(pl.program_id(0), columns, columns < channels, size)


def taps_of(size: Size, rate: tuple[Array, Array], cells: Array, which: Array, sign: int) -> list[tuple[Array, Array]]:
    """For each of the nine taps the cells that it reads from `cells`, and which of them are on the map."""
    (height, width), found = size, []
    row, col = cells // width, cells % width
    for i in (-1, 0, 1):
        for j in (-1, 0, 1):
            at = row + sign * i * rate[0], col + sign * j * rate[1]
            on_map = which & (at[0] >= 0) & (at[0] < height) & (at[1] >= 0) & (at[1] < width)
            found.append((at[0] * width + at[1], on_map))
    return found


def along_axes(
    launch: Launch, block: Block, read: Read, matrices: tuple[Ref, Ref], result: Ref, *, transposed: bool
) -> None:
    """Writes the map times a matrix along each axis to `result`, which holds the map between the two as well."""
    dtype = result.dtype

    def matrix(ref: Ref, side: int) -> tuple[Array, int]:
        length = tiles.power_of_two(side, 1024)
        i, j = span(0, length), span(0, length)
        at = ref.at[j[None, :], i[:, None]] if transposed else ref.at[i[:, None], j[None, :]]
        kept = (i < side)[:, None] & (j < side)[None, :]
        return triton.load(at, mask=kept, other=0).astype(dtype), length

    def along(side: int, others: int, ref: Ref, read: Read, cell: Callable[[Array, Array], Array]) -> None:
        values, length = matrix(ref, side)
        places = span(0, length)

        def line(index: Array, _: None) -> None:
            cells, which = cell(places, index), places < side
            block.store(result, cells, which, tiles.dot(values, read(cells, which).astype(dtype)))

        lax.fori_loop(0, others, line, None)

    (height, width), (rows, cols) = block.size, matrices
    along(height, width, rows, read, lambda row, col: row * width + col)
    launch.barrier()
    again: Read = lambda cells, which: block.load(result, cells, which)  # noqa: E731
    along(width, height, cols, again, lambda col, row: row * width + col)
    launch.barrier()
