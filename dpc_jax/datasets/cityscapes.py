"""Cityscapes street scenes: 19 classes, files in a folder of the user's (Cordts et al. 2016, arXiv:1604.01685).

The root holds, as the zip files of the data set leave it,

    leftImg8bit/{train,val,test}/<city>/<frame>_leftImg8bit.png
    gtFine/{train,val,test}/<city>/<frame>_gtFine_labelIds.png

Label images hold ids 0..33, of which 19 are classes and the others become the ignore label. Where there is no file
with ids, `<frame>_gtFine_labelTrainIds.png` is read: 0..18, and 255. The labels of `test` are not public: the files
that come for it hold no class, and may be absent.
"""

import dataclasses
import pathlib
from typing import ClassVar, NamedTuple

import ml_collections
import numpy as np
from jaxtyping import UInt8

from dpc_jax import datasets
from dpc_jax.base import IGNORE_LABEL, InputError
from dpc_jax.datasets import FilePairs


class Class(NamedTuple):
    """One of the classes that are scored."""

    name: str
    id: int  # in label files, and in what the evaluation server takes
    colour: tuple[int, int, int]  # RGB


# Ids, names, colours and the order of the train ids: cityscapesScripts, helpers/labels.py.
CLASSES = (
    Class('road', 7, (128, 64, 128)),
    Class('sidewalk', 8, (244, 35, 232)),
    Class('building', 11, (70, 70, 70)),
    Class('wall', 12, (102, 102, 156)),
    Class('fence', 13, (190, 153, 153)),
    Class('pole', 17, (153, 153, 153)),
    Class('traffic light', 19, (250, 170, 30)),
    Class('traffic sign', 20, (220, 220, 0)),
    Class('vegetation', 21, (107, 142, 35)),
    Class('terrain', 22, (152, 251, 152)),
    Class('sky', 23, (70, 130, 180)),
    Class('person', 24, (220, 20, 60)),
    Class('rider', 25, (255, 0, 0)),
    Class('car', 26, (0, 0, 142)),
    Class('truck', 27, (0, 0, 70)),
    Class('bus', 28, (0, 60, 100)),
    Class('train', 31, (0, 80, 100)),
    Class('motorcycle', 32, (0, 0, 230)),
    Class('bicycle', 33, (119, 11, 32)),
)
NUM_IDS = 34  # 0..33

IMAGE, IDS, TRAIN_IDS = '_leftImg8bit.png', '_gtFine_labelIds.png', '_gtFine_labelTrainIds.png'


def _table(labels: dict[int, int]) -> UInt8[np.ndarray, ' 256']:
    table = np.full(256, IGNORE_LABEL, np.uint8)
    table[list(labels)] = list(labels.values())
    return table


LABEL_OF_ID = _table({kind.id: label for label, kind in enumerate(CLASSES)})
"""Label by the value in a file of ids."""


@dataclasses.dataclass(frozen=True)
class Cityscapes(FilePairs):
    """Frames, sorted by city and number."""

    name: ClassVar[str] = 'cityscapes'
    classes: ClassVar[tuple[str, ...]] = tuple(kind.name for kind in CLASSES)
    palette: ClassVar[UInt8[np.ndarray, 'L 3']] = np.array([kind.colour for kind in CLASSES], np.uint8)
    splits: ClassVar[tuple[str, ...]] = ('train', 'val', 'test')
    export_ids: ClassVar[tuple[int, ...] | None] = tuple(kind.id for kind in CLASSES)

    def read_label(self, path: pathlib.Path) -> UInt8[np.ndarray, 'H W']:
        """Of a file of ids or of train ids, as its name says."""
        label = datasets.decode_label(path)
        if path.name.endswith(TRAIN_IDS):
            wrong = label[(label >= len(CLASSES)) & (label != IGNORE_LABEL)]
            allowed = f'0..{len(CLASSES) - 1}, and {IGNORE_LABEL} for unknown'
        else:
            wrong, allowed = label[label >= NUM_IDS], f'0..{NUM_IDS - 1}'
        if wrong.size:
            raise InputError(f'{path}: label value {wrong[0]} is out of range; allowed: {allowed}')
        return label if path.name.endswith(TRAIN_IDS) else LABEL_OF_ID[label]


def load(config: ml_collections.ConfigDict, split: str) -> Cityscapes:
    """The frames of all cities of a split; all labels but those of test must be there. config: `root` (str)."""
    root = datasets.open_root(config.root, 'Cityscapes')
    folder = root / 'leftImg8bit' / split
    images = sorted(folder.glob(f'*/*{IMAGE}'))
    if not images:
        raise InputError(f'there is no image {folder}/<city>/<frame>{IMAGE}')
    return Cityscapes(split, tuple((image, _label_of(image, root, split)) for image in images))


def _label_of(image: pathlib.Path, root: pathlib.Path, split: str) -> pathlib.Path | None:
    frame = image.name.removesuffix(IMAGE)
    paths = [root / 'gtFine' / split / image.parent.name / f'{frame}{ending}' for ending in (IDS, TRAIN_IDS)]
    path = next((path for path in paths if path.is_file()), None)
    if path is None and split != 'test':
        raise InputError(f'the image {image} has no label, there is no {paths[0]}')
    return path
