"""Image files as arrays, whatever wrote them: turned by cameras, of 16 bits, very large, of any name.

What a file says beyond its pixels is done as the trusted readers do it: the EXIF orientation is applied (as detectron2
and OpenCV do), to label files as to images, so that their sizes agree; of 16 bits of a gray image the upper 8 are
taken (as OpenCV and libpng do), where Pillow's own conversion makes all above 255 white.
"""

import hashlib
import io
import os
import pathlib
import struct

import numpy as np
from PIL import Image

from dpc_jax.base import InputError, Size

SUFFIXES = ('.bmp', '.gif', '.jpeg', '.jpg', '.pgm', '.png', '.ppm', '.tif', '.tiff', '.webp')
"""Endings of image files, in lower case."""

ORIENTATION = 0x0112  # EXIF tag
TURNS = {  # what makes an image upright, by the value of that tag (CIPA DC-008, 4.6.4)
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
LYING = (5, 6, 7, 8)
"""Values of the tag whose rows are columns."""

WIDE = ('I;16', 'I;16L', 'I;16B', 'I;16N', 'I')
"""Modes of Pillow for gray images of 16 bits; `I` of old versions, and of files of 32 bits."""

OF_16_BITS = ('PNG', 'PPM')
"""Formats whose mode `I` is of 16 bits at most."""

MOST_PIXELS = 'DPC_MAX_PIXELS'
"""Environment variable: so many pixels an image may have. Without it the limit is Pillow's, 178 956 970. It is no field
of the config, because Pillow keeps the limit for a whole process, and worker processes inherit the environment."""

EXIF_MARKS = (b'Exif\0\0', b'eXIf')  # in a JPEG, in a PNG
PNG, TIFF = b'\x89PNG\r\n\x1a\n', (b'II*\0', b'MM\0*')
PNG_DEPTH = 24  # place of the byte that has the bits of a sample

FAULTS = (OSError, SyntaxError, ValueError, TypeError, KeyError, struct.error)
"""What Pillow raises for damaged files, and for damaged EXIF data."""


def decode(path: pathlib.Path, mode: str | None, *, upright: bool = True) -> np.ndarray:
    """The pixels of a file, upright unless they are wanted as stored, converted to `mode` (of Pillow) if there is one.

    Raises:
      InputError: the file cannot be read or is faulty; it has more pixels than Pillow lets pass; a gray image of
        more than 16 bits should be converted.
    """
    allow_pixels()
    try:
        with Image.open(path) as image:
            return pixels(image, mode, upright=upright)
    except Image.DecompressionBombError as error:
        raise too_large(str(path), path.read_bytes()[:PNG_DEPTH], error) from None
    except FAULTS as error:
        raise InputError(f'cannot decode {path}: {error}') from None


def decode_bytes(content: bytes, mode: str | None, name: str, *, upright: bool = True) -> np.ndarray:
    """The same of a file's content; `name` is what errors call it."""
    allow_pixels()
    try:
        with Image.open(io.BytesIO(content)) as image:
            return pixels(image, mode, upright=upright)
    except Image.DecompressionBombError as error:
        raise too_large(name, content[:PNG_DEPTH], error) from None
    except FAULTS as error:
        raise InputError(f'cannot decode {name}: {error}') from None


def pixels(image: Image.Image, mode: str | None, *, upright: bool = True) -> np.ndarray:
    """The pixels of an open file, upright or as stored, converted to `mode` if there is one; else ValueError."""
    image.load()  # a fault of the pixels shows here, and is not taken for one of the EXIF data
    turn = TURNS.get(orientation_of(image)) if upright else None
    turned = image if turn is None else image.transpose(turn)
    if mode is None:
        return np.array(turned)
    if turned.mode == 'F' or (turned.mode == 'I' and image.format not in OF_16_BITS):
        raise ValueError('gray values of 32 bits have no known range; save it with 8 or 16 bits')
    if turned.mode in WIDE:
        turned = Image.fromarray(upper_bits(np.array(turned)))
    return np.array(turned.convert(mode))


def upper_bits(gray: np.ndarray) -> np.ndarray:
    """uint8 [H, W], the upper 8 of 16 bits; ValueError where values do not fit in 16."""
    if gray.min(initial=0) < 0 or gray.max(initial=0) > 0xFFFF:
        raise ValueError(f'gray values of {gray.min()} to {gray.max()} do not fit in 16 bits; save it with 8 bits')
    return (gray >> 8).astype(np.uint8)


def size_of(path: pathlib.Path) -> Size:
    """(height, width) of what `decode` gives, from the head of the file; InputError if it cannot be read."""
    allow_pixels()
    try:
        with Image.open(path) as image:
            width, height = image.size
            return (width, height) if orientation_of(image) in LYING else (height, width)
    except Image.DecompressionBombError as error:
        raise too_large(f'cannot decode {path}:', b'', error) from None
    except FAULTS as error:
        raise InputError(f'cannot decode {path}: {error}') from None


def orientation_of(image: Image.Image) -> int:
    """The value of the EXIF tag; 1, upright, where there is none or it cannot be read."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except FAULTS:
        return 1


def read_bytes(path: pathlib.Path) -> bytes:
    """The content of a file; InputError if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f'cannot read {path}: {error.strerror}') from None


def content_of(path: pathlib.Path) -> bytes:
    """Name and digest of a file, and how its pixels are read where that is unusual; a part of a fingerprint."""
    content = read_bytes(path)
    # Names that are not UTF-8 are kept by half characters, which only `os.fsencode` knows.
    return os.fsencode(path.name) + b'\0' + hashlib.sha256(content).digest() + reading(content)


def reading(content: bytes) -> bytes:
    """What `decode` does beyond reading the pixels, as a part of a fingerprint; empty for most files.

    A file that is read in another way than by an earlier version has other content to whoever compares fingerprints.
    """
    if content.startswith(PNG) and content[PNG_DEPTH : PNG_DEPTH + 1] == b'\x10':
        return b'upper 8 of 16 bits'
    if not content.startswith(TIFF) and not any(mark in content for mark in EXIF_MARKS):
        return b''
    try:
        with Image.open(io.BytesIO(content)) as image:
            turned, wide = orientation_of(image) in TURNS, image.mode in WIDE
            return f'orientation {orientation_of(image)}'.encode() * turned + b'upper 8 of 16 bits' * wide
    except (*FAULTS, Image.DecompressionBombError):
        return b''  # what is wrong is said where it is decoded


def allow_pixels() -> None:
    """Raises Pillow's limit to what the environment allows; InputError where that is no whole number above 0."""
    allowed = os.environ.get(MOST_PIXELS, '')
    if not allowed:
        return
    if not (allowed.isascii() and allowed.isdecimal() and int(allowed) > 0):
        raise InputError(f'the environment variable {MOST_PIXELS} is {allowed!r}; it must be a whole number above 0')
    if Image.MAX_IMAGE_PIXELS is not None:  # Pillow warns above its limit and raises above twice that
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, int(allowed))


def too_large(name: str, head: bytes, error: Exception) -> InputError:
    """Says how large the image is, and what allows it."""
    size = ''
    if head.startswith(PNG):
        width, height = struct.unpack('>II', head[16:24])
        size = f' has {height}x{width} pixels (height x width):'
    return InputError(
        f'{name}{size} {str(error).partition(",")[0]}; the environment variable {MOST_PIXELS}=NUMBER allows so many,'
        ' or cut it into tiles'
    )
