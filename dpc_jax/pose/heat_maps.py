"""Heat maps of joints: what a network learns, and where it says the joints are (arXiv:1804.06208 and its release).

A map has a cell at every `stride`-th pixel of the crop, the first on the first pixel. A joint is a Gaussian of height 1
around the nearest cell, cut off at three deviations; a joint whose Gaussian lies outside teaches nothing.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dpc_jax.base import Size

REACH = 3.0  # deviations, beyond which a Gaussian is 0
QUARTER = 0.25  # of a cell, towards the higher neighbour


def drawn(
    joints: Float[Array, 'B J 2'], size: Size, *, stride: int, sigma: float
) -> tuple[Float[Array, 'B J h w'], Bool[Array, 'B J']]:
    """The maps of joints in pixels (x, y) of the crop, and which of them have any of their Gaussian in the map.

    `sigma` is in cells; `size` is that of the maps.
    """
    cells = jnp.floor(joints / stride + 0.5)
    x, y = cells[..., 0], cells[..., 1]
    across = jnp.arange(size[1], dtype=jnp.float32)[None, None, :] - x[..., None]
    down = jnp.arange(size[0], dtype=jnp.float32)[None, None, :] - y[..., None]
    reach = REACH * sigma
    of_columns, of_rows = (
        jnp.where(jnp.abs(far) <= reach, jnp.exp(-(far**2) / (2 * sigma**2)), 0) for far in (across, down)
    )
    inside = (x + reach >= 0) & (x - reach < size[1]) & (y + reach >= 0) & (y - reach < size[0])
    return of_rows[..., :, None] * of_columns[..., None, :], inside


def joints_of(maps: Float[Array, 'B J h w'], *, stride: int) -> Float[Array, 'B J 3']:
    """(x, y, height) of the highest cell of each map, in pixels of the crop.

    It is moved by a quarter of a cell towards the higher neighbour along each axis, if it is no cell of the rim.
    """
    batch, count, height, width = maps.shape
    flat = maps.reshape(batch, count, height * width)
    best = jnp.argmax(flat, -1).astype(jnp.int32)
    row, column = best // width, best % width

    def at(rows: Int[Array, 'B J'], columns: Int[Array, 'B J']) -> Float[Array, 'B J']:
        index = jnp.clip(rows, 0, height - 1) * width + jnp.clip(columns, 0, width - 1)
        return jnp.take_along_axis(flat, index[..., None], -1)[..., 0]

    inner = (row > 0) & (row < height - 1) & (column > 0) & (column < width - 1)
    across = jnp.sign(at(row, column + 1) - at(row, column - 1))
    down = jnp.sign(at(row + 1, column) - at(row - 1, column))
    x = column.astype(jnp.float32) + jnp.where(inner, QUARTER * across, 0)
    y = row.astype(jnp.float32) + jnp.where(inner, QUARTER * down, 0)
    return jnp.stack([stride * x, stride * y, at(row, column)], -1)
