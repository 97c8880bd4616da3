"""Joint transforms of image and label: the official resizing by golden values, and laws of pad, crop and flip."""

import json
import math

import numpy as np
import pytest

from dpc_jax import preprocess
from dpc_jax.base import IGNORE_LABEL, InputError, SegmentationExample
from dpc_jax.preprocess import MEAN_PIXEL, SCALES, Crop


def example_of(height: int, width: int, seed: int = 0) -> SegmentationExample:
    """Every pixel of the image shows its own label in all channels; labels are below 200, so no padding among them."""
    label = np.random.default_rng(seed).integers(0, 200, (height, width), np.uint8)
    return SegmentationExample(np.repeat(label[..., None], 3, axis=2), label, 'example')


def key_of(*numbers: int) -> np.random.SeedSequence:
    return np.random.SeedSequence(7, spawn_key=numbers)


def equal(one: Crop, other: Crop) -> bool:
    return np.array_equal(one.image, other.image) and np.array_equal(one.label, other.label)


def test_scaling_equals_the_official_code(shared):
    golden = json.loads((shared('golden/cell') / 'dpc_golden.json').read_text())['random_scale_5x7']
    label = np.arange(35, dtype=np.uint8).reshape(5, 7)
    image = np.repeat(label[..., None] * np.float32(3), 3, axis=2)
    assert set(golden) == {str(factor) for factor in SCALES if factor != 1}
    for factor, expected in golden.items():
        scaled = preprocess.scale(Crop(image, label), float(factor))
        assert list(scaled.label.shape) == expected['size']
        np.testing.assert_array_equal(scaled.label, expected['label'])
        np.testing.assert_allclose(scaled.image[..., 0], expected['image_ch0'], rtol=0, atol=1e-5)
        np.testing.assert_array_equal(scaled.image[..., 0], scaled.image[..., 2])


@pytest.mark.parametrize('size', [(1, 1), (1, 9), (4, 3), (11, 20), (7, 6)])
def test_resizing_equals_loops_over_the_definition(size):
    rng = np.random.default_rng(1)
    image, label = rng.random((7, 6, 2), np.float32) * 255, rng.integers(0, 9, (7, 6), np.uint8)
    bilinear, nearest = preprocess.resize_bilinear(image, size), preprocess.resize_nearest(label, size)
    for i, j in np.ndindex(*size):
        y, x = (0 if m == 1 else k * (n - 1) / (m - 1) for k, n, m in zip((i, j), (7, 6), size, strict=True))
        top, left = min(math.floor(y), 5), min(math.floor(x), 4)
        v, u = y - top, x - left
        upper = image[top, left] * (1 - u) + image[top, left + 1] * u
        lower = image[top + 1, left] * (1 - u) + image[top + 1, left + 1] * u
        np.testing.assert_allclose(bilinear[i, j], upper * (1 - v) + lower * v, rtol=0, atol=1e-4)
        assert nearest[i, j] == label[math.floor(y + 0.5 + 1e-9), math.floor(x + 0.5 + 1e-9)]


def test_halves_are_rounded_up():
    # 5 -> 9 samples: positions 0, 1/2, 1, ..., 4; half to even would give 0 0 1 2 2 2 3 4 4.
    label = np.arange(5, dtype=np.uint8)[None]
    assert preprocess.resize_nearest(label, (1, 9)).tolist() == [[0, 1, 1, 2, 2, 3, 3, 4, 4]]


@pytest.mark.parametrize('factor', SCALES)
def test_corners_stay_on_corners_and_sides_are_truncated(factor):
    crop = preprocess.as_crop(example_of(13, 18))
    scaled = preprocess.scale(crop, factor)
    assert scaled.label.shape == scaled.image.shape[:2] == (int(13 * factor), int(18 * factor))
    corners = np.ix_([0, -1], [0, -1])
    np.testing.assert_array_equal(scaled.label[corners], crop.label[corners])
    np.testing.assert_array_equal(scaled.image[corners], crop.image[corners])


def test_a_scale_of_one_changes_nothing():
    crop = preprocess.as_crop(example_of(9, 12))
    assert equal(preprocess.scale(crop, 1.0), crop)


def test_two_flips_are_none():
    crop = preprocess.as_crop(example_of(6, 9))
    once = preprocess.flip(crop)
    assert equal(preprocess.flip(once), crop)
    np.testing.assert_array_equal(once.image[:, 0], crop.image[:, -1])
    np.testing.assert_array_equal(once.label[:, 0], crop.label[:, -1])


def test_padding_is_at_the_bottom_and_at_the_right():
    crop = preprocess.as_crop(example_of(5, 8))
    padded = preprocess.pad(crop, (9, 6))  # higher, and not as wide: the width stays
    assert padded.label.shape == (9, 8)
    assert equal(Crop(padded.image[:5], padded.label[:5]), crop)
    assert np.all(padded.image[5:] == MEAN_PIXEL)
    assert np.all(padded.label[5:] == IGNORE_LABEL)


def test_cut_is_the_window():
    crop = preprocess.as_crop(example_of(9, 12))
    window = preprocess.cut(crop, (2, 5), (3, 4))
    np.testing.assert_array_equal(window.image, crop.image[2:5, 5:9])
    np.testing.assert_array_equal(window.label, crop.label[2:5, 5:9])


def test_pad_to_keeps_the_whole_image_in_its_corner():
    example = example_of(10, 14)
    crop = preprocess.pad_to(example, (17, 17))
    assert crop.label.shape == (17, 17)
    assert crop.image.dtype == np.float32
    np.testing.assert_array_equal(crop.image[:10, :14], example.image)
    np.testing.assert_array_equal(crop.label == IGNORE_LABEL, ~np.pad(np.ones((10, 14), bool), ((0, 7), (0, 3))))


@pytest.mark.parametrize('size', [(9, 17), (17, 13)])
def test_pad_to_refuses_an_image_that_does_not_fit(size):
    with pytest.raises(InputError, match=f'example: 10x14 pixels do not fit into a crop of {size[0]}x{size[1]}'):
        preprocess.pad_to(example_of(10, 14), size)


@pytest.mark.parametrize(
    ('size', 'output_stride', 'expected'),
    [
        ((360, 480), 16, (369, 481)),
        ((1024, 2048), 16, (1025, 2049)),  # the official evaluation crop of Cityscapes
        ((500, 375), 16, (513, 385)),
        ((513, 513), 16, (513, 513)),
        ((514, 1), 8, (521, 1)),
    ],
)
def test_next_crop(size, output_stride, expected):
    assert preprocess.next_crop(size, output_stride) == expected


@pytest.mark.parametrize('size', [(17, 33), (33, 17), (49, 65)])
def test_a_view_keeps_image_and_label_together(size):
    for view in range(20):
        crop = preprocess.augment(key_of(view), example_of(30, 40), crop_size=size, scales=(1.0,))
        assert crop.image.shape == (*size, 3)
        assert crop.image.dtype == np.float32
        expected = np.where(crop.label == IGNORE_LABEL, np.float32(MEAN_PIXEL), crop.label)
        np.testing.assert_array_equal(crop.image, np.repeat(expected[..., None], 3, axis=2))


def test_a_view_is_a_window_of_the_scaled_image_perhaps_mirrored():
    example, size = example_of(12, 15), (9, 9)
    for view in range(20):
        crop = preprocess.augment(key_of(view), example, crop_size=size)
        windows = [
            preprocess.cut(scaled, (top, left), size)
            for scaled in (preprocess.pad(preprocess.scale(preprocess.as_crop(example), s), size) for s in SCALES)
            for top in range(scaled.label.shape[0] - 8)
            for left in range(scaled.label.shape[1] - 8)
        ]
        assert sum(equal(crop, window) or equal(crop, preprocess.flip(window)) for window in windows) == 1


def test_every_scale_corner_and_direction_occurs_about_equally_often():
    label = np.arange(12, dtype=np.uint8).reshape(3, 4) + 1
    example = SegmentationExample(np.repeat(label[..., None], 3, axis=2), label, 'example')
    count = 2000
    views = [preprocess.augment(key_of(v), example, crop_size=(2, 3), scales=(1.0,)).label for v in range(count)]
    kinds, counts = np.unique([view.tobytes() for view in views], return_counts=True)
    assert len(kinds) == 8  # 2 x 2 corners, mirrored or not
    np.testing.assert_allclose(counts, count / 8, atol=5 * math.sqrt(count / 8))

    extents = [
        (preprocess.augment(key_of(v), example, crop_size=(8, 8)).label != IGNORE_LABEL).sum() for v in range(count)
    ]
    sizes, counts = np.unique(extents, return_counts=True)
    assert sizes.tolist() == sorted(int(3 * factor) * int(4 * factor) for factor in SCALES)
    np.testing.assert_allclose(counts, count / 7, atol=5 * math.sqrt(count / 7))


def test_a_view_is_a_function_of_its_key():
    key, example = key_of(3), example_of(30, 40)
    before = example.image.copy(), example.label.copy()
    first = preprocess.augment(key, example, crop_size=(33, 33))
    assert equal(first, preprocess.augment(key, example, crop_size=(33, 33)))
    assert equal(first, preprocess.augment(key_of(3), example, crop_size=(33, 33)))
    assert not equal(first, preprocess.augment(key_of(4), example, crop_size=(33, 33)))
    np.testing.assert_array_equal(example.image, before[0])
    np.testing.assert_array_equal(example.label, before[1])


@pytest.mark.parametrize(('probability', 'mirrored'), [(0.0, False), (1.0, True)])
def test_the_probability_of_a_flip(probability, mirrored):
    example = example_of(9, 9)
    plain = preprocess.as_crop(example)
    for view in range(5):
        crop = preprocess.augment(key_of(view), example, crop_size=(9, 9), scales=(1.0,), flip_probability=probability)
        assert equal(crop, preprocess.flip(plain) if mirrored else plain)


@pytest.mark.parametrize('size', [(40, 57), (20, 90), (64, 64), (31, 33), (1, 9)])
@pytest.mark.parametrize('crop_size', [(33, 33), (17, 97), (1, 1)])
def test_a_view_is_the_whole_image_scaled_padded_cut_and_mirrored(size, crop_size):
    draw = np.random.default_rng(0)
    image, label = draw.integers(0, 256, (*size, 3), np.uint8), draw.integers(0, 20, size, np.uint8)
    example = SegmentationExample(image, label, 'drawn')
    for number in range(25):
        key = np.random.SeedSequence(number)
        rng = np.random.default_rng(key)
        whole = preprocess.pad(
            preprocess.scale(preprocess.as_crop(example), float(rng.choice(preprocess.SCALES))), crop_size
        )
        corner = tuple(int(rng.integers(n - m + 1)) for n, m in zip(whole.label.shape, crop_size, strict=True))
        expected = preprocess.cut(whole, corner, crop_size)
        expected = preprocess.flip(expected) if rng.random() < 0.5 else expected
        found = preprocess.augment(key, example, crop_size=crop_size)
        np.testing.assert_array_equal(found.image, expected.image)
        np.testing.assert_array_equal(found.label, expected.label)
        assert found.image.dtype == np.float32
