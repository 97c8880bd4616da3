"""How good distances are: the measures of Eigen et al. 2014 (arXiv:1406.2283, §4), from sums that add up.

All of them are means over the pixels of all images together, as there; the root of the squared error is taken once, at
the end. `rmse_by_image`, the mean of the images' own root mean squared errors, is what some tools print instead.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from dpc_jax.base import Size

NO_CROP, EIGEN = 'none', 'eigen'
CROPS: Mapping[str, tuple[Sequence[float], Sequence[float]]] = {
    NO_CROP: ((0.0, 1.0), (0.0, 1.0)),
    # Rows 45..471 and columns 41..601 of 480x640, the window of Eigen et al. that has no white frame.
    EIGEN: ((45 / 480, 471 / 480), (41 / 640, 601 / 640)),
}
"""Which part of an image is judged: shares of (rows, columns), each from and to."""

THRESHOLD = 1.25
ABOVE = 1e-9  # of a share that rounding may have made a little less than a whole row

SUMS = (
    *('pixels', 'images', 'squared', 'absolute', 'squared_log', 'relative', 'log10'),
    *('delta1', 'delta2', 'delta3', 'rmse_of_images'),
)
"""What is added up over images, in this order."""


def crop_mask(size: Size, crop: str) -> Bool[np.ndarray, 'H W']:
    """Which pixels of an image of that size are judged."""
    mask = np.zeros(size, bool)
    rows, columns = (
        slice(math.floor(start * side + ABOVE), math.floor(end * side + ABOVE))
        for (start, end), side in zip(CROPS[crop], size, strict=True)
    )
    mask[rows, columns] = True
    return mask


def measure(found: Float[Array, 'B H W'], depth: Float[Array, 'B H W']) -> Float[Array, 'B 11']:
    """The sums of each image, as `SUMS` names them; pixels with a distance of 0 take no part. `found` is above 0."""
    judged = depth > 0
    truth = jnp.where(judged, depth, 1)
    guess = jnp.where(judged, found, 1)
    difference, ratio = guess - truth, jnp.maximum(guess / truth, truth / guess)
    logs = jnp.log(guess) - jnp.log(truth)
    pixels = judged.sum((1, 2)).astype(jnp.float32)
    squared = (difference**2).sum((1, 2))
    within = [((ratio < THRESHOLD**power) & judged).sum((1, 2)).astype(jnp.float32) for power in (1, 2, 3)]
    columns = [
        pixels,
        (pixels > 0).astype(jnp.float32),
        squared,
        jnp.abs(difference).sum((1, 2)),
        (logs**2).sum((1, 2)),
        (jnp.abs(difference) / truth).sum((1, 2)),
        jnp.abs(logs).sum((1, 2)) / math.log(10),
        *within,
        jnp.sqrt(squared / jnp.maximum(pixels, 1)),
    ]
    return jnp.stack(columns, -1)


def compute(sums: Float[np.ndarray, ' 11']) -> dict[str, Any]:
    """The measures of added sums (float64): metres and shares; NaN where no pixel was judged."""
    of = dict(zip(SUMS, sums.tolist(), strict=True))
    pixels, images = of['pixels'] or math.nan, of['images'] or math.nan
    return {
        'rmse': math.sqrt(of['squared'] / pixels),
        'rmse_log': math.sqrt(of['squared_log'] / pixels),
        'absolute': of['absolute'] / pixels,
        'absolute_relative': of['relative'] / pixels,
        'log10': of['log10'] / pixels,
        **{name: of[name] / pixels for name in ('delta1', 'delta2', 'delta3')},
        'rmse_by_image': of['rmse_of_images'] / images,
        'judged_pixels': int(of['pixels']),
    }
