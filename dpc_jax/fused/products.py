"""Kernels of matrix products over all cells of all images, one block for some rows.

What stands before a product (norm, activation, dropout) is done to the block that it reads, and what the norm behind
it needs (moments, sums) is found in the block that it writes, so no map is written that only the next product reads.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float, Int, UInt8

from dpc_jax.base import Size
from dpc_jax.fused import tiles
from dpc_jax.fused.tiles import EXTENT_HEIGHT, EXTENT_WIDTH, Launch, Ref, Table, span, wide

ROWS, INNER = 128, 64  # rows of a block of a product, and columns that it reads at a time, of 16 bits each
SPLITS = 8  # blocks that share the rows of a weight's gradient; fewer where there are many columns


def _block(dtype: Any) -> tuple[int, int]:
    """Rows and columns of a block: of wider entries fewer, as registers and shared memory hold."""
    times = max(1, np.dtype(dtype).itemsize // 2)
    return ROWS // times, INNER // times


def _load(ref: Ref, rows: Array, columns: Array, kept: Array) -> Array:
    return triton.load(ref.at[rows[:, None], columns[None, :]], mask=kept, other=0)


def _inside(facts: Ref, rows: Array, count: int, size: Size) -> Array:
    cells = rows % (size[0] * size[1])
    return (rows < count) & (cells // size[1] < facts[EXTENT_HEIGHT]) & (cells % size[1] < facts[EXTENT_WIDTH])


def _entering(
    x: Ref, table: Ref | None, keep: Ref | None, first: int, rows: Array, columns: Array, *, kept: tuple[Array, Array]
) -> Array:
    """A block of what enters a product: norm and activation of `x`, or `x` after dropout, whose mask starts at `first`.

    Where there is no row or column the values are arbitrary and finite.
    """
    both = kept[0][:, None] & kept[1][None, :]
    value = _load(x, rows, columns, both)
    if table is not None:
        value = Table(table, columns, kept[1], tiles.FORWARD).activated(value.astype(wide(x.dtype))).astype(x.dtype)
    if keep is not None:
        value = jnp.where(_load(keep, rows, first + columns, both) > 0, value, jnp.zeros((), x.dtype))
    return value


def _product(
    *refs: Ref, tile: Size, size: Size, sources: int, tables: bool, dropout: bool, width: int, scale: float
) -> None:
    facts, weights, *rest = refs
    maps, rest = rest[:sources], rest[sources:]
    table = rest.pop(0) if tables else None
    keep = rest.pop(0) if dropout else None
    result, moments = rest
    count, filters = result.shape
    block = pl.program_id(0)
    rows = span(block * tile[0], tile[0])
    there, columns = rows < count, span(0, width)
    there_too = columns < filters
    total = jnp.zeros((tile[0], width), wide(result.dtype))
    for index, x in enumerate(maps):
        channels, first = x.shape[-1], index * x.shape[-1]
        inner = tiles.power_of_two(channels, tile[1])

        def step(at: Array, total: Array) -> Array:
            here = span(at * inner, inner)  # noqa: B023
            kept = here < channels  # noqa: B023
            entered = _entering(x, table, keep, first, rows, here, kept=(there, kept))  # noqa: B023
            weight = _load(weights, first + here, columns, kept[:, None] & there_too[None, :])  # noqa: B023
            return total + tiles.dot(entered, weight)

        total = lax.fori_loop(0, pl.cdiv(channels, inner), step, total)
    total = total * scale
    triton.store(
        result.at[rows[:, None], columns[None, :]],
        total.astype(result.dtype),
        mask=there[:, None] & there_too[None, :],
    )
    inside = _inside(facts, rows, count, size)
    number, mean, squares = tiles.block_moments(total, inside)
    for row, values in enumerate((jnp.zeros(width, total.dtype) + number, mean, squares)):
        triton.store(moments.at[block, row, columns], values, mask=there_too)


def product(
    launch: Launch,
    facts: Int[Array, ' 7'],
    maps: Sequence[Float[Array, 'n C']],
    weights: Float[Array, 'm D'],
    *,
    size: Size,
    table: Float[Array, '7 C'] | None = None,
    keep: UInt8[Array, 'n m'] | None = None,
    scale: float = 1.0,
    wide_result: bool = False,
) -> tuple[Float[Array, 'n D'], Float[Array, 'T 3 D']]:
    """Maps side by side times weights, and moments within the extent by block.

    With a `table` the one map is normed and activated first; with `keep` entries where it is 0 are left out, and the
    product is multiplied by `scale`.
    """
    count, filters = maps[0].shape[0], weights.shape[-1]
    tile = _block(maps[0].dtype)
    blocks, width = pl.cdiv(count, tile[0]), tiles.power_of_two(filters, 1024)
    inputs = [facts, weights, *maps, *(extra for extra in (table, keep) if extra is not None)]
    dtype = maps[0].dtype
    shapes = [
        tiles.shape(count, filters, dtype=wide(dtype) if wide_result else dtype),
        tiles.shape(blocks, 3, filters, dtype=wide(dtype)),
    ]
    static: dict[str, Any] = {
        'tables': table is not None,
        'dropout': keep is not None,
        'sources': len(maps),
        'scale': scale,
    }
    y, moments = launch(_product, (blocks,), inputs, shapes, warps=8, tile=tile, size=size, width=width, **static)
    return y, moments


def _product_backward(
    *refs: Ref, tile: Size, size: Size, sources: int, tables: bool, dropout: bool, width: int, scale: float
) -> None:
    facts, weights, table, grad, y, *rest = refs
    x, x_table = (rest.pop(0), rest.pop(0)) if tables else (None, None)
    keep = rest.pop(0) if dropout else None
    y_grad, rest = rest[0], rest[1:]
    map_grads, rest = rest[:sources], rest[sources:]
    count, filters = y.shape
    dtype = wide(y.dtype)
    block = pl.program_id(0)
    rows, columns = span(block * tile[0], tile[0]), span(0, width)
    there, there_too = rows < count, columns < filters
    both = there[:, None] & there_too[None, :]
    norm = Table(table, columns, there_too, tiles.ALL)
    value = _load(y, rows, columns, both).astype(dtype)
    value = norm.backward(norm.gated(_load(grad, rows, columns, both).astype(dtype), value), value)
    inside = _inside(facts, rows, count, size)
    value = jnp.where(inside[:, None] & there_too[None, :], value * scale, 0).astype(y.dtype)
    triton.store(y_grad.at[rows[:, None], columns[None, :]], value, mask=both)
    for index, map_grad in enumerate(map_grads):
        channels, first = map_grad.shape[-1], index * map_grad.shape[-1]
        inner = tiles.power_of_two(channels, tile[1])

        def step(at: Array, _: None) -> None:
            here = span(at * inner, inner)  # noqa: B023
            kept = here < channels  # noqa: B023
            weight = triton.load(
                weights.at[(first + here)[None, :], columns[:, None]],  # noqa: B023
                mask=kept[None, :] & there_too[:, None],
                other=0,
            )
            found = tiles.dot(value, weight)
            together = there[:, None] & kept[None, :]
            if keep is not None:
                found = jnp.where(_load(keep, rows, first + here, together) > 0, found, 0)  # noqa: B023
            triton.store(map_grad.at[rows[:, None], here[None, :]], found.astype(y.dtype), mask=together)  # noqa: B023
            if x is not None:
                before = Table(x_table, here, kept, (*tiles.FORWARD, tiles.RSTD))
                entered = _load(x, rows, here, together).astype(dtype)
                gated = jnp.where(together, before.gated(found, entered), 0)
                sums = gated.sum(0), (gated * before.normalised(entered)).sum(0)
                for row, values in enumerate(sums):
                    triton.store(rest[0].at[block, row, here], values, mask=kept)

        lax.fori_loop(0, pl.cdiv(channels, inner), step, None)


def product_backward(
    launch: Launch,
    facts: Int[Array, ' 7'],
    weights: Float[Array, 'm D'],
    table: Float[Array, '7 D'],
    grad: Float[Array, 'n D'],
    y: Float[Array, 'n D'],
    *,
    size: Size,
    widths: Sequence[int],
    before: tuple[Float[Array, 'n C'], Float[Array, '7 C']] | None = None,
    keep: UInt8[Array, 'n m'] | None = None,
    scale: float = 1.0,
) -> tuple[Float[Array, 'n D'], list[Float[Array, 'n C']], Any]:
    """Gradients of a product `y` and of the maps that entered it, from that of the activation behind it.

    `before` is (map, table) of the norm before the product; with it the sums of its gradient by block are given too.
    The gradient of `y` has `scale` in it.
    """
    count, filters = y.shape
    tile = _block(y.dtype)
    blocks, width = pl.cdiv(count, tile[0]), tiles.power_of_two(filters, 1024)
    inputs = [facts, weights, table, grad, y, *(before or ()), *([] if keep is None else [keep])]
    shapes = [tiles.shape(count, filters, dtype=y.dtype), *(tiles.shape(count, w, dtype=y.dtype) for w in widths)]
    if before is not None:
        shapes.append(tiles.shape(blocks, 2, widths[0], dtype=wide(y.dtype)))
    static: dict[str, Any] = {
        'tables': before is not None,
        'dropout': keep is not None,
        'sources': len(widths),
        'scale': scale,
    }
    found = launch(_product_backward, (blocks,), inputs, shapes, warps=8, tile=tile, size=size, width=width, **static)
    y_grad, *rest = found
    return y_grad, rest[: len(widths)], rest[-1] if before is not None else None


def _weight_gradient(
    *refs: Ref, sources: int, tables: bool, dropout: bool, width: int, tile: Size, per_map: int, splits: int
) -> None:
    grad, *rest = refs
    maps, rest = rest[:sources], rest[sources:]
    table = rest.pop(0) if tables else None
    keep = rest.pop(0) if dropout else None
    (result,) = rest
    count, filters = grad.shape
    channels = maps[0].shape[-1]
    split, block = pl.program_id(0), pl.program_id(1)
    columns, slices = span(0, width), tiles.power_of_two(channels, tile[0])
    there_too = columns < filters
    here = span((block % per_map) * slices, slices)
    kept, inner = here < channels, tile[1]
    each = pl.cdiv(pl.cdiv(count, inner), splits)

    for index, x in enumerate(maps):

        @pl.when(block // per_map == index)
        def _() -> None:
            first = index * channels  # noqa: B023

            def step(at: Array, total: Array) -> Array:
                rows = span((split * each + at) * inner, inner)
                there = rows < count
                entered = _entering(x, table, keep, first, rows, here, kept=(there, kept))  # noqa: B023
                value = _load(grad, rows, columns, there[:, None] & there_too[None, :])
                return total + tiles.dot(entered.T, value)

            total = lax.fori_loop(0, each, step, jnp.zeros((slices, width), wide(grad.dtype)))
            at = result.at[split, (first + here)[:, None], columns[None, :]]
            triton.store(at, total, mask=kept[:, None] & there_too[None, :])


def weight_gradient(
    launch: Launch,
    maps: Sequence[Float[Array, 'n C']],
    grad: Float[Array, 'n D'],
    *,
    table: Float[Array, '7 C'] | None = None,
    keep: UInt8[Array, 'n m'] | None = None,
) -> Float[Array, 'm D']:
    """The gradient of the weights of `product`, from that of its result; added up in the wide type."""
    channels, filters = maps[0].shape[-1], grad.shape[-1]
    tile = _block(grad.dtype)
    per_map = pl.cdiv(channels, tiles.power_of_two(channels, tile[0]))
    splits = SPLITS if len(maps) == 1 else SPLITS // 2
    width = tiles.power_of_two(filters, 1024)
    inputs = [grad, *maps, *(extra for extra in (table, keep) if extra is not None)]
    shapes = [tiles.shape(splits, len(maps) * channels, filters, dtype=wide(grad.dtype))]
    static: dict[str, Any] = {
        'tables': table is not None,
        'dropout': keep is not None,
        'sources': len(maps),
        'per_map': per_map,
        'splits': splits,
    }
    grid = (splits, len(maps) * per_map)
    (parts,) = launch(_weight_gradient, grid, inputs, shapes, warps=8, tile=tile, width=width, **static)
    total: jax.Array = parts.sum(0)
    return total
