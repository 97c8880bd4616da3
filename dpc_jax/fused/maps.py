"""Kernels on maps, one block for each image and slice of channels.

Everything that happens within a channel: the depthwise convolution or the pooling of a branch, its way back to the
size of the map, their gradients. A slice of an image is small (49x49 cells of 32 channels: 154 KB in bfloat16), so what
nine taps or the matrices of two axes read again comes from a cache, and memory sees each map once.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float, Int

from dpc_jax.base import Size
from dpc_jax.fused import tiles
from dpc_jax.fused.blocks import ROWS, Block, Read, along_axes, block_of, taps_of
from dpc_jax.fused.tiles import (
    BRANCH,
    EXTENT_HEIGHT,
    EXTENT_WIDTH,
    POOLING,
    RATE_HEIGHT,
    RATE_WIDTH,
    SOURCE,
    Launch,
    Ref,
    Table,
    wide,
)

SLICE = 32  # channels of a block; 16 where two maps are read at nine taps each

# ---- forward --------------------------------------------------------------------------------------------------------


def _picked(block: Block, source: Array, features: Ref, outputs: Sequence[Ref]) -> Read:
    """Reads the map that a branch reads: the features or an earlier output. Maps that it does not read cost nothing."""

    def read(cells: Array, which: Array) -> Array:
        total = block.load(features, cells, which & (source < 0))
        for index, ref in enumerate(outputs):
            total += block.load(ref, cells, which & (source == index), block.columns < ref.shape[-1])
        return total

    return read


def _spread(*refs: Ref, launch: Launch, size: Size, width: int) -> None:
    facts, kernel, rows, cols, features, *outputs, result, moments = refs
    channels = features.shape[-1]
    block = block_of(channels, width, size)
    read = _picked(block, facts[SOURCE], features, outputs)
    pooling = facts[POOLING] > 0

    @pl.when(pooling)
    def _() -> None:
        along_axes(launch, block, read, (rows, cols), result, transposed=False)

    @pl.when(jnp.logical_not(pooling))
    def _() -> None:
        dtype = wide(features.dtype)
        taps = [triton.load(kernel.at[tap, block.columns], mask=block.inside, other=0) for tap in range(9)]

        def step(cells: Array, which: Array, found: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            total = jnp.zeros((cells.shape[0], width), dtype)
            reads = taps_of(size, (facts[RATE_HEIGHT], facts[RATE_WIDTH]), cells, which, 1)
            for weight, (at, on_map) in zip(taps, reads, strict=True):
                total += read(at, on_map) * weight[None, :]
            block.store(result, cells, which, total)
            return tiles.updated(found, total, which)

        rows_at_once = tiles.power_of_two(block.cells, ROWS)
        zeros = jnp.zeros((rows_at_once, width), dtype)
        count, mean, squares = tiles.gathered(block.each((jnp.zeros(rows_at_once, dtype), zeros, zeros), step))
        for row, values in enumerate((jnp.zeros(width, dtype) + count, mean, squares)):
            triton.store(moments.at[block.image, row, block.columns], values, mask=block.inside)


def spread(
    launch: Launch,
    facts: Int[Array, ' 7'],
    kernel: Float[Array, '9 C'],
    matrices: tuple[Float[Array, 'h h'], Float[Array, 'w w']],
    features: Float[Array, 'B n C'],
    outputs: Sequence[Float[Array, 'B n D']],
    *,
    size: Size,
) -> tuple[Float[Array, 'B n C'], Float[Array, 'B 3 C']]:
    """What the product of a branch is made of: the depthwise convolution, or the mean over windows.

    A 1x1 branch has a kernel of 1 at the centre and a rate that leaves the map. Moments (count, mean, sum of squared
    deviations) are of each image; of a pooling branch they are whatever was there.
    """
    inputs = [facts, kernel, *matrices, features, *outputs]
    shapes = [_like(features), _found(features, 3)]
    result, moments = _on_slices(launch, _spread, features, inputs, shapes, size=size)
    return result, moments


def _settle(
    facts: Ref, table: Ref, rows: Ref, cols: Ref, x: Ref, result: Ref, *, launch: Launch, size: Size, width: int
) -> None:
    block = block_of(x.shape[-1], width, size)
    norm = Table(table, block.columns, block.inside, tiles.FORWARD)

    def read(cells: Array, which: Array) -> Array:
        return norm.activated(block.load(x, cells, which))

    pooling = facts[POOLING] > 0

    @pl.when(pooling)
    def _() -> None:
        # Cells outside the extent hold no sums of the map, but the matrices multiply them by 0.
        along_axes(launch, block, read, (rows, cols), result, transposed=False)

    @pl.when(jnp.logical_not(pooling))
    def _() -> None:
        block.each(None, lambda cells, which, _: block.store(result, cells, which, read(cells, which)))


def settle(
    launch: Launch,
    facts: Int[Array, ' 7'],
    table: Float[Array, '7 D'],
    matrices: tuple[Float[Array, 'h h'], Float[Array, 'w w']],
    x: Float[Array, 'B n D'],
    *,
    size: Size,
) -> Float[Array, 'B n D']:
    """Norm and activation of a branch's product; a pooling branch is resized to the map."""
    return _on_slices(launch, _settle, x, [facts, table, *matrices, x], [_like(x)], size=size)[0]


# ---- backward -------------------------------------------------------------------------------------------------------


def _collect(*refs: Ref, launch: Launch, size: Size, width: int) -> None:
    facts, readers, table, rows, cols, x, grad, *others, result, sums = refs
    block = block_of(x.shape[-1], width, size)
    norm = Table(table, block.columns, block.inside, (*tiles.FORWARD, tiles.RSTD))
    dtype = wide(x.dtype)

    def read(cells: Array, which: Array) -> Array:
        total = block.load(grad, cells, which)
        for index, ref in enumerate(others):
            total += block.load(ref, cells, which & (readers[index] == facts[BRANCH]))
        return total

    def settled(read: Read) -> None:
        def step(cells: Array, which: Array, found: tuple[Array, Array]) -> tuple[Array, Array]:
            inside = which & (cells // size[1] < facts[EXTENT_HEIGHT]) & (cells % size[1] < facts[EXTENT_WIDTH])
            value = block.load(x, cells, which)
            gated = jnp.where(inside[:, None], norm.gated(read(cells, which), value), 0)
            block.store(result, cells, which, gated)
            return found[0] + gated, found[1] + gated * norm.normalised(value)

        zeros = jnp.zeros((tiles.power_of_two(block.cells, ROWS), width), dtype)
        for row, values in enumerate(block.each((zeros, zeros), step)):
            triton.store(sums.at[block.image, row, block.columns], values.sum(0), mask=block.inside)

    pooling = facts[POOLING] > 0

    @pl.when(pooling)
    def _() -> None:
        along_axes(launch, block, read, (rows, cols), result, transposed=True)
        settled(lambda cells, which: block.load(result, cells, which))

    @pl.when(jnp.logical_not(pooling))
    def _() -> None:
        settled(read)


def collect(
    launch: Launch,
    facts: Int[Array, ' 7'],
    table: Float[Array, '7 D'],
    matrices: tuple[Float[Array, 'h h'], Float[Array, 'w w']],
    x: Float[Array, 'B n D'],
    *,
    grad: Float[Array, 'B n D'],
    readers: Int[Array, ' j'],
    others: Sequence[Float[Array, 'B n _']],
    size: Size,
) -> tuple[Float[Array, 'B n D'], Float[Array, 'B 2 D']]:
    """The gradient of a norm's output within its extent, and its sums (alone, and with the norm's input) by image.

    The gradient of the branch's output is `grad` and what those of the `others` hold whose branch reads this one
    (`readers` are the branches that they read). `x` is the norm's input.
    """
    inputs = [facts, readers, table, *matrices, x, grad, *others]
    result, sums = _on_slices(launch, _collect, x, inputs, [_like(x), _found(x, 2)], size=size)
    return result, sums


def _spread_backward(*refs: Ref, launch: Launch, size: Size, width: int, wanted: int) -> None:
    facts, kernel, table, rows, cols, grad, x, features, *outputs = refs[: -2 if wanted else -1]
    result, kernel_grads = refs[-2], refs[-1]  # without anything wanted there is no result, and none is written
    block = block_of(features.shape[-1], width, size)
    norm = Table(table, block.columns, block.inside, tiles.ALL)
    source = _picked(block, facts[SOURCE], features, outputs)
    pooling = facts[POOLING] > 0
    target = block._replace(inside=block.columns < wanted)

    def read(cells: Array, which: Array) -> Array:
        value = block.load(x, cells, which)
        found = norm.backward(norm.gated(block.load(grad, cells, which), value), value)
        return jnp.where(which[:, None], found, 0)  # what is outside the map is no cell of the norm

    if wanted:

        @pl.when(pooling)
        def pooled() -> None:
            along_axes(launch, target, read, (rows, cols), result, transposed=True)

    @pl.when(jnp.logical_not(pooling))
    def convolved() -> None:
        dtype = wide(features.dtype)
        taps = [triton.load(kernel.at[tap, block.columns], mask=block.inside, other=0) for tap in range(9)]

        def step(cells: Array, which: Array, found: tuple[Array, ...]) -> tuple[Array, ...]:
            total = jnp.zeros((cells.shape[0], width), dtype)
            value, sums = source(cells, which), []
            reads = taps_of(size, (facts[RATE_HEIGHT], facts[RATE_WIDTH]), cells, which, -1)
            for weight, (at, on_map), before in zip(taps, reads, found, strict=True):
                here = read(at, on_map)
                total += here * weight[None, :]
                sums.append(before + here * value)
            if wanted:
                target.store(result, cells, which, total)
            return tuple(sums)

        rows_at_once = tiles.power_of_two(block.cells, ROWS)
        zeros = jnp.zeros((rows_at_once, width), dtype)
        for tap, values in enumerate(block.each((zeros,) * 9, step)):
            triton.store(kernel_grads.at[block.image, tap, block.columns], values.sum(0), mask=block.inside)


def spread_backward(
    launch: Launch,
    facts: Int[Array, ' 7'],
    kernel: Float[Array, '9 C'],
    table: Float[Array, '7 C'],
    matrices: tuple[Float[Array, 'h h'], Float[Array, 'w w']],
    *,
    grad: Float[Array, 'B n C'],
    x: Float[Array, 'B n C'],
    features: Float[Array, 'B n C'],
    outputs: Sequence[Float[Array, 'B n D']],
    size: Size,
    wanted: int,
) -> tuple[Float[Array, 'B n _'] | None, Float[Array, 'B 9 C']]:
    """The gradient of the first `wanted` channels of the map that a branch reads, and that of its kernel by image.

    `grad` is that of the activation behind the norm whose input `x` was; of a pooling branch, the kernel's is
    whatever was there.
    """
    shapes = [_like(features, wanted)] if wanted else []
    inputs = [facts, kernel, table, *matrices, grad, x, features, *outputs]
    *result, grads = _on_slices(
        launch,
        _spread_backward,
        features,
        inputs,
        [*shapes, _found(features, 9)],
        size=size,
        most=SLICE // 2,
        wanted=wanted,
    )
    return result[0] if wanted else None, grads


# ---- calls ----------------------------------------------------------------------------------------------------------


def _on_slices(
    launch: Launch,
    kernel: Callable[..., None],
    x: Float[Array, 'B n C'],
    inputs: Sequence[Array],
    outputs: Sequence[jax.ShapeDtypeStruct],
    *,
    size: Size,
    most: int = SLICE,
    **static: Any,
) -> list[Array]:
    """One block of `kernel` for each image and slice of at most `most` channels of `x`."""
    width = tiles.power_of_two(x.shape[-1], most)
    grid = (x.shape[0], pl.cdiv(x.shape[-1], width))
    return launch(kernel, grid, inputs, outputs, warps=8, launch=launch, size=size, width=width, **static)


def _like(x: Float[Array, 'B n C'], channels: int | None = None) -> jax.ShapeDtypeStruct:
    """The shape of a map as `x` is, or of its first channels."""
    return tiles.shape(*x.shape[:-1], x.shape[-1] if channels is None else channels, dtype=x.dtype)


def _found(x: Float[Array, 'B n C'], rows: int) -> jax.ShapeDtypeStruct:
    """The shape of some values per image and channel."""
    return tiles.shape(x.shape[0], rows, x.shape[-1], dtype=wide(x.dtype))
