"""The size that whole images are padded to, so that one program serves all, and what a single large one costs then."""

import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

from dpc_jax import preprocess
from dpc_jax.base import Size, with_unit

OUTLIER = 4
"""So many times the pixels of the median image make a padded one an exception."""


class Padding(NamedTuple):
    """How whole images go through a network."""

    size: Size  # output stride * k + 1, and holds every image
    batch_size: int  # images at a time: fewer where most of each is padding, so that memory is that of common images
    largest: int  # index of the image that has the most pixels
    is_outlier: bool  # most images have far fewer


def plan(sizes: Sequence[Size], output_stride: int, batch_size: int) -> Padding:
    """For images of these sizes. What a network gives does not depend on the batch size."""
    height, width = (max(sides) for sides in zip(*sizes, strict=True))
    size = preprocess.next_crop((height, width), output_stride)
    areas = [height * width for height, width in sizes]
    common, padded = statistics.median(areas), size[0] * size[1]
    is_outlier = padded > OUTLIER * common
    fitting = max(1, int(batch_size * common / padded)) if is_outlier else batch_size
    return Padding(size, fitting, areas.index(max(areas)), is_outlier)


def warning(sizes: Sequence[Size], padding: Padding, name_of: Callable[[int], str], bytes_each: int) -> str:
    """What is said before the work on images of which one is far larger: which, and the bytes that all take padded."""
    (height, width), (high, wide) = sizes[padding.largest], padding.size
    median = sorted(sizes, key=lambda size: size[0] * size[1])[len(sizes) // 2]
    return (
        f'{name_of(padding.largest)} has {height}x{width} pixels, where {median[0]}x{median[1]} are common: all'
        f' {len(sizes)} images are padded to {high}x{wide} and take {with_unit(len(sizes) * bytes_each)}B'
        f' ({with_unit(bytes_each)}B each), {padding.batch_size} at a time; leave it out, or make it smaller'
    )
