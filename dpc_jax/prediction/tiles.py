"""Very large images, tile by tile: where tiles lie, how much each counts, and their blend row by row.

The probabilities of a pixel are the mean over the tiles that show it, weighted by its distance from their edges, so
that no seam is seen. Of the blend only as many rows are held as a tile has.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Num

from dpc_jax.base import Size


class Band(NamedTuple):
    """Rows of an image that no further tile shows."""

    top: int
    probabilities: Float32[np.ndarray, 'h W L']


def starts(side: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin along an axis: as few as overlap by at least `overlap` pixels, evenly spaced."""
    if side <= tile:
        return [0]
    count = -(-(side - tile) // (tile - overlap)) + 1
    return [int(start) for start in np.round(np.linspace(0, side - tile, count)).astype(int)]


def weights(size: Size, overlap: int) -> Float32[np.ndarray, 'h w']:
    """How much each pixel of a tile counts: from its edges it rises over `overlap` pixels, never from 0."""

    def along(side: int) -> Float32[np.ndarray, ' n']:
        places = np.arange(side)
        return (np.minimum(np.minimum(places, side - 1 - places), overlap) + 1).astype(np.float32)

    return along(size[0])[:, None] * along(size[1])[None, :] / np.float32((overlap + 1) ** 2)


def bands(
    image: Num[np.ndarray, 'H W 3'],
    probabilities: Callable[[list[Num[np.ndarray, 'h w 3']]], list[Float32[np.ndarray, 'h w L']]],
    *,
    tile: Size,
    overlap: int,
) -> Iterator[Band]:
    """The blended probabilities of an image, from top to bottom.

    Args:
      probabilities: those of the tiles of a row, each as large as it is.
      tile: the largest size of one.
      overlap: pixels that neighbours share, at least.
    """
    height, width = image.shape[:2]
    rows, columns = (starts(side, most, overlap) for side, most in zip((height, width), tile, strict=True))
    high, wide = min(height, tile[0]), min(width, tile[1])
    weight = weights((high, wide), overlap)[..., None]
    total: np.ndarray | None = None
    for place, top in enumerate(rows):
        found = probabilities([image[top : top + high, left : left + wide] for left in columns])
        if total is None:
            total = np.zeros((high, width, found[0].shape[-1] + 1), np.float32)  # the last one adds up weights
        for left, one in zip(columns, found, strict=True):
            total[:, left : left + wide, :-1] += weight * one
            total[:, left : left + wide, -1:] += weight
        following = rows[place + 1] if place + 1 < len(rows) else height
        ready = total[: following - top]
        yield Band(top, ready[..., :-1] / ready[..., -1:])
        total = np.concatenate([total[len(ready) :], np.zeros_like(ready)])
