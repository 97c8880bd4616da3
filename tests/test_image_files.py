"""Image files as arrays: what cameras, scanners and archives make of them, on tiny files whose pixels are known."""

import io
import pathlib
import shutil
import warnings

import ml_collections
import numpy as np
import pytest
from PIL import Image

from dpc_jax import datasets, image_files

# An image of 2x3 pixels as a viewer shows it, and how it is stored under each EXIF orientation. The comments say what
# row 0 and column 0 of the stored image are of the shown one, in the words of the standard (CIPA DC-008, 4.6.4).
UPRIGHT = np.array([[10, 20, 30], [40, 50, 60]], np.uint8)
STORED = {
    1: UPRIGHT,  # top, left
    2: UPRIGHT[:, ::-1],  # top, right
    3: UPRIGHT[::-1, ::-1],  # bottom, right
    4: UPRIGHT[::-1],  # bottom, left
    5: UPRIGHT.T,  # left, top
    6: np.array([[30, 60], [20, 50], [10, 40]], np.uint8),  # right, top
    7: np.array([[60, 30], [50, 20], [40, 10]], np.uint8),  # right, bottom
    8: np.array([[40, 10], [50, 20], [60, 30]], np.uint8),  # left, bottom
}


def save(path: pathlib.Path, stored: np.ndarray, orientation: int | None = None) -> pathlib.Path:
    exif = Image.Exif()
    if orientation is not None:
        exif[image_files.ORIENTATION] = orientation
    Image.fromarray(stored).save(path, exif=exif)
    return path


@pytest.mark.parametrize('orientation', STORED)
def test_an_image_is_read_as_a_viewer_shows_it(orientation, tmp_path):
    path = save(tmp_path / 'a.png', STORED[orientation], orientation)
    np.testing.assert_array_equal(image_files.decode(path, 'RGB'), np.dstack([UPRIGHT] * 3))
    np.testing.assert_array_equal(image_files.decode(path, None), UPRIGHT)  # a label file, too
    np.testing.assert_array_equal(image_files.decode_bytes(path.read_bytes(), None, 'a'), UPRIGHT)


def test_a_turned_photo_fits_its_upright_label(tmp_path):
    """Tag 6: a portrait of 64x32 pixels that the camera stored as 32x64."""
    for folder in ('train', 'annot'):
        (tmp_path / folder).mkdir()
    shown = np.zeros((64, 32, 3), np.uint8)
    shown[:32] = 200  # the upper half is bright, and is class 3
    save(tmp_path / 'train/a.jpg', np.rot90(shown), 6)
    Image.fromarray(np.where(shown[..., 0] > 0, 3, 4).astype(np.uint8)).save(tmp_path / 'annot/a.png')
    (tmp_path / 'train.txt').write_text('train/a.jpg annot/a.png')
    image, label, _ = datasets.load('camvid', ml_collections.ConfigDict({'root': str(tmp_path)}), 'train')[0]
    assert image.shape == (64, 32, 3)
    np.testing.assert_array_equal(image[..., 0] > 100, label == 3)


def test_a_fingerprint_tells_files_that_are_read_otherwise_than_before(tmp_path):
    upright, plain = save(tmp_path / 'a.jpg', UPRIGHT, 1), save(tmp_path / 'b.jpg', UPRIGHT)
    turned = save(tmp_path / 'c.jpg', UPRIGHT, 6)
    wide = save(tmp_path / 'd.png', UPRIGHT.astype(np.uint16))
    readings = [image_files.reading(path.read_bytes()) for path in (upright, plain, turned, wide)]
    assert readings == [b'', b'', b'orientation 6', b'upper 8 of 16 bits']
    assert image_files.reading(turned.read_bytes()[:60]) == b''  # cut short: said where it is decoded


def test_damaged_exif_data_do_not_matter(tmp_path):
    path = save(tmp_path / 'a.jpg', np.full((8, 8), 90, np.uint8), 6)
    content = path.read_bytes()
    at = content.index(b'Exif\0\0') + 6
    path.write_bytes(content[:at] + b'\xff' * 8 + content[at + 8 :])
    assert image_files.decode(path, 'RGB').shape == (8, 8, 3)


def test_the_upper_8_of_16_bits_are_taken(tmp_path):
    """As OpenCV (imread with IMREAD_COLOR) and libpng (strip 16) take them."""
    gray = np.array([[0, 255, 256], [32768, 65279, 65535]], np.uint16)
    path = save(tmp_path / 'a.png', gray)
    expected = np.array([[0, 0, 1], [128, 254, 255]], np.uint8)
    np.testing.assert_array_equal(image_files.decode(path, 'RGB'), np.dstack([expected] * 3))
    assert image_files.decode(path, None).dtype == np.uint16  # what a label says is not changed
    np.testing.assert_array_equal(image_files.upper_bits(gray.astype(np.int32)), expected)


@pytest.mark.parametrize(
    'values', [np.array([[0, 70000]], np.int32), np.array([[0, 220]], np.int32), np.ones((2, 2), np.float32)]
)
def test_gray_values_of_32_bits_are_refused(tmp_path, fault, values):
    """What stands for white is not known: 1, 255, 65535 or the largest."""
    path = save(tmp_path / 'a.tif', values)
    said = fault(lambda: image_files.decode(path, 'RGB'))
    assert said == f'cannot decode {path}: gray values of 32 bits have no known range; save it with 8 or 16 bits'


def test_an_image_over_the_limit_is_named_with_its_size_and_the_way_to_allow_it(shared, tmp_path, fault, monkeypatch):
    path = shutil.copy(shared('data/fixtures/reports/png_14000x13000_header.jpg'), tmp_path / 'huge.jpg')
    for read in (
        lambda: image_files.decode(path, 'RGB'),
        lambda: image_files.decode_bytes(path.read_bytes(), 'RGB', str(path)),
    ):
        said = fault(read)
        assert said.startswith(f'{path} has 13000x14000 pixels (height x width): Image size (182000000 pixels)')
        assert said.endswith('the environment variable DPC_MAX_PIXELS=NUMBER allows so many, or cut it into tiles')
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', Image.MAX_IMAGE_PIXELS)  # put back after the test
    monkeypatch.setenv('DPC_MAX_PIXELS', '182000000')
    image_files.allow_pixels()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        Image.open(io.BytesIO(path.read_bytes())).close()  # its pixels are not there, so it is not decoded
    monkeypatch.setenv('DPC_MAX_PIXELS', 'many')
    said = fault(image_files.allow_pixels)
    assert said == "the environment variable DPC_MAX_PIXELS is 'many'; it must be a whole number above 0"


def test_a_file_that_is_cut_short_is_no_image(tmp_path, fault):
    path = save(tmp_path / 'a.png', np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8), 6)
    path.write_bytes(path.read_bytes()[:-2000])
    assert fault(lambda: image_files.decode(path, 'RGB')).startswith(f'cannot decode {path}: ')
