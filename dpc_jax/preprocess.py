"""Joint transforms of an image and its label, in NumPy on the host: the augmentation of the official input pipeline.

Order and numbers are those of tensorflow/models research/deeplab (`input_preprocess.py`, `core/preprocess_utils.py`):
random scale, pad at bottom and right, random crop, random flip. All resizing is align-corners: output sample i of m
reads source position i * (n - 1) / (m - 1) of n. Bilinear for images; labels take the nearest source sample, halves
rounded up. Every function is pure: the same key gives the same crop.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int, Num, UInt8

from dpc_jax.base import IGNORE_LABEL, DepthExample, InputError, SegmentationExample, Size

MEAN_PIXEL = 127.5
"""Value of padded pixels: 0 after the scaling x * 2 / 255 - 1 of MobileNet-v2 and Xception."""

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
"""The official scale factors, drawn with equal probability."""


class Crop(NamedTuple):
    """What a network sees of one example."""

    image: Float32[np.ndarray, 'H W 3']  # 0..255, RGB
    label: UInt8[np.ndarray, 'H W']  # 0..L-1 or IGNORE_LABEL

    def as_float(self) -> 'Crop':
        """The crop with its image, which is still in bytes, as float32."""
        return self._replace(image=self.image.astype(np.float32))


class View(NamedTuple):
    """Which window of an image is seen, at which scale."""

    factor: float  # scaled side / side
    size: Size  # of the whole image, scaled
    corner: Size  # (top, left) of the window in it
    window: Size  # which may reach beyond the image
    mirrored: bool


def augment(
    key: np.random.SeedSequence,
    example: SegmentationExample,
    *,
    crop_size: Size,
    scales: Sequence[float] = SCALES,
    flip_probability: float = 0.5,
) -> Crop:
    """One random view of `example`: scaled, padded up to the crop, cropped, perhaps mirrored; `[*crop_size]`.

    The key is a NumPy seed sequence, e.g. `np.random.SeedSequence(seed, spawn_key=(image, view))`; it isn't changed.
    """
    view = draw_view(key, example.label.shape, crop_size, scales=scales, flip_probability=flip_probability)
    return see(view, example)


def draw_view(
    key: np.random.SeedSequence,
    size: tuple[int, ...],
    crop_size: Size,
    *,
    scales: Sequence[float] = SCALES,
    flip_probability: float = 0.5,
) -> View:
    """A random view of an image of that size: the official scales, a window anywhere in what is scaled."""
    rng = np.random.default_rng(key)
    factor = float(rng.choice(scales))
    scaled = scaled_size(size, factor)
    top, left = (
        int(rng.integers(max(side, wanted) - wanted + 1)) for side, wanted in zip(scaled, crop_size, strict=True)
    )
    return View(factor, scaled, (top, left), crop_size, bool(rng.random() < flip_probability))


def see(view: View, example: SegmentationExample | DepthExample) -> Crop:
    """Image and label as the view shows them; what lies outside is the mean pixel, and has no label."""
    crop = pad(resized_window(example, view.size, view.corner, view.window), view.window)
    return flip(crop) if view.mirrored else crop


def see_map(view: View, values: Num[np.ndarray, 'H W'], outside: float) -> Num[np.ndarray, 'H2 W2']:
    """A map of values as the view shows it: each pixel takes the nearest value, as labels do; [*window]."""
    ranges = (
        np.arange(start, min(start + wanted, side))
        for start, wanted, side in zip(view.corner, view.window, view.size, strict=True)
    )
    rows, columns = (_nearest(n, m, at) for n, m, at in zip(values.shape, view.size, ranges, strict=True))
    seen = np.full(view.window, outside, values.dtype)
    seen[: len(rows), : len(columns)] = values[rows[:, None], columns[None, :]]
    return seen[:, ::-1] if view.mirrored else seen


def pad_map(values: Num[np.ndarray, 'H W'], size: Size, outside: float) -> Num[np.ndarray, 'H2 W2']:
    """The map at the top left of one of `size`, which holds it; what is added has the value `outside`."""
    padded = np.full(size, outside, values.dtype)
    padded[: values.shape[0], : values.shape[1]] = values
    return padded


def pad_to(example: SegmentationExample | DepthExample, size: Size) -> Crop:
    """The whole example, padded to `size` for evaluation; InputError if it doesn't fit."""
    height, width = example.label.shape
    if height > size[0] or width > size[1]:
        raise InputError(f'{example.name}: {height}x{width} pixels do not fit into a crop of {size[0]}x{size[1]}')
    return pad(as_crop(example), size)


def next_crop(size: Size, output_stride: int) -> Size:
    """The smallest `output_stride * k + 1` that holds `size`, per axis."""
    height, width = (-(-(side - 1) // output_stride) * output_stride + 1 for side in size)
    return height, width


def as_crop(example: SegmentationExample | DepthExample) -> Crop:
    """The example as it is, in the types of a crop."""
    return Crop(example.image.astype(np.float32), example.label)


def scale(crop: Crop, factor: float) -> Crop:
    """Image and label resized to int(side * factor), the official truncation."""
    size = scaled_size(crop.label.shape, factor)
    return Crop(resize_bilinear(crop.image, size), resize_nearest(crop.label, size))


def scaled_size(size: tuple[int, ...], factor: float) -> Size:
    """int(side * factor) of both sides."""
    height, width = (int(side * factor) for side in size)
    return height, width


def resized_window(example: SegmentationExample | DepthExample, size: Size, corner: Size, window: Size) -> Crop:
    """The example resized to `size`, of which only the window from `corner` on is made, as far as the image reaches.

    Bit for bit what resizing the whole and cutting gives: each output sample is a mix of four source samples. Crops of
    769x769 out of frames of Cityscapes took 10 ms so instead of 137, on average over the official scales.
    """
    image, label = example.image, example.label
    if label.shape == size:
        return cut(Crop(image, label), corner, window).as_float()
    rows, columns = (
        np.arange(start, min(start + wanted, side)) for start, wanted, side in zip(corner, window, size, strict=True)
    )
    near = [_nearest(n, m, at) for n, m, at in zip(label.shape, size, (rows, columns), strict=True)]
    return Crop(_bilinear(image, size, rows, columns), label[near[0][:, None], near[1][None, :]])


def pad(crop: Crop, size: Size) -> Crop:
    """At least `size`: mean pixels and ignored labels added at the bottom and at the right, nothing cut."""
    height, width = crop.label.shape
    margin = ((0, max(0, size[0] - height)), (0, max(0, size[1] - width)))
    return Crop(
        np.pad(crop.image, (*margin, (0, 0)), constant_values=MEAN_PIXEL),
        np.pad(crop.label, margin, constant_values=IGNORE_LABEL),
    )


def cut(crop: Crop, corner: Size, size: Size) -> Crop:
    """The window of `size` whose first pixel is `corner` = (top, left)."""
    window = tuple(slice(start, start + side) for start, side in zip(corner, size, strict=True))
    return Crop(crop.image[window], crop.label[window])


def flip(crop: Crop) -> Crop:
    """Left and right exchanged."""
    return Crop(crop.image[:, ::-1], crop.label[:, ::-1])


def resize_bilinear(image: Float32[np.ndarray, 'H W C'], size: Size) -> Float32[np.ndarray, 'H2 W2 C']:
    """Align-corners bilinear, rows first; gathers, because OpenCV knows only half-pixel centres."""
    if image.shape[:2] == size:
        return image
    return _bilinear(image, size, *map(np.arange, size))


def resize_nearest(label: UInt8[np.ndarray, 'H W'], size: Size) -> UInt8[np.ndarray, 'H2 W2']:
    """Align-corners nearest neighbour: source index floor(i * (n - 1) / (m - 1) + 1/2), in exact integers."""
    rows, columns = (_nearest(n, m, np.arange(m)) for n, m in zip(label.shape, size, strict=True))
    return label[rows[:, None], columns[None, :]]


def _bilinear(
    image: Float32[np.ndarray, 'H W C'] | UInt8[np.ndarray, 'H W C'],
    size: Size,
    rows: Int[np.ndarray, ' M'],
    columns: Int[np.ndarray, ' N'],
) -> Float32[np.ndarray, 'M N C']:
    """These rows and columns of the image resized to `size`."""
    if not len(rows) or not len(columns):
        return np.zeros((len(rows), len(columns), image.shape[2]), np.float32)
    low, high, weight = _samples(image.shape[1], size[1], columns)
    needed = image[:, low[0] : high[-1] + 1]
    mixed = _mix(needed, 0, *_samples(image.shape[0], size[0], rows))
    return _mix(mixed, 1, low - low[0], high - low[0], weight)


def _samples(
    source: int, side: int, at: Int[np.ndarray, ' M']
) -> tuple[Int[np.ndarray, ' M'], Int[np.ndarray, ' M'], Float32[np.ndarray, ' M']]:
    """Lower and upper source index of output samples, and the weight of the upper one."""
    low, rest = np.divmod(at * (source - 1), max(1, side - 1))
    return low, np.minimum(low + 1, source - 1), (rest / max(1, side - 1)).astype(np.float32)


def _mix(
    image: Float32[np.ndarray, 'H W C'] | UInt8[np.ndarray, 'H W C'],
    axis: int,
    low: Int[np.ndarray, ' M'],
    high: Int[np.ndarray, ' M'],
    weight: Float32[np.ndarray, ' M'],
) -> Float32[np.ndarray, 'H2 W2 C']:
    shape = [1, 1, 1]
    shape[axis] = -1
    first = image.take(low, axis=axis).astype(np.float32, copy=False)
    second = image.take(high, axis=axis).astype(np.float32, copy=False)
    second -= first
    second *= weight.reshape(shape)
    second += first
    return second


def _nearest(source: int, side: int, at: Int[np.ndarray, ' M']) -> Int[np.ndarray, ' M']:
    steps = max(1, side - 1)
    return (2 * at * (source - 1) + steps) // (2 * steps)
