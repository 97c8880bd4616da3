"""Cityscapes street scenes: 19 classes, files in a folder of the user's (Cordts et al. 2016, arXiv:1604.01685).

The root holds, as the zip files of the data set leave it,

    leftImg8bit/{train,val,test,train_extra}/<city>/<frame>_leftImg8bit.png
    gtFine/{train,val,test}/<city>/<frame>_gtFine_labelIds.png
    gtCoarse/{train,val,train_extra}/<city>/<frame>_gtCoarse_labelIds.png

Label images hold ids 0..33, of which 19 are classes and the others become the ignore label. Where there is no file
with ids, `..._labelTrainIds.png` is read: 0..18, and 255. The labels of `test` are not public: the files that come for
it hold no class, and may be absent. The labels of `train`, `val`, `test` and `trainval` are fine, those of
`train_extra`, `train_coarse` and `trainval_coarse` are coarse, as the official code counts them
(deeplab/datasets/data_generator.py). One image of `train_extra`, troisdorf_000000_000073, is black in its zip file (a
note of the download page, as others quote it); it is read and counted like the rest.
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping
from typing import ClassVar, NamedTuple

import ml_collections
import numpy as np
from jaxtyping import UInt8

from dpc_jax import datasets, list_files
from dpc_jax.base import IGNORE_LABEL, InputError
from dpc_jax.datasets import FilePairs, Pair


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

IMAGE, IDS, TRAIN_IDS = '_leftImg8bit.png', '_labelIds.png', '_labelTrainIds.png'

FINE, COARSE = 'gtFine', 'gtCoarse'
PARTS = {  # of each split: kind of label, folders
    'train': (FINE, ('train',)),
    'val': (FINE, ('val',)),
    'test': (FINE, ('test',)),
    'trainval': (FINE, ('train', 'val')),
    'train_extra': (COARSE, ('train_extra',)),
    'train_coarse': (COARSE, ('train', 'train_extra')),
    'trainval_coarse': (COARSE, ('train', 'val', 'train_extra')),
}


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
    splits: ClassVar[tuple[str, ...]] = tuple(PARTS)
    published: ClassVar[Mapping[str, int]] = {  # data_generator.py, where 22973 = 2975 + 19998
        **{'train': 2975, 'val': 500, 'test': 1525, 'trainval': 3475},
        **{'train_extra': 19998, 'train_coarse': 22973, 'trainval_coarse': 23473},
    }
    export_ids: ClassVar[tuple[int, ...] | None] = tuple(kind.id for kind in CLASSES)

    def read_label(self, path: pathlib.Path) -> UInt8[np.ndarray, 'H W']:
        """The labels of a file of ids or of train ids, as its name says."""
        label = datasets.decode_label(path)
        if path.name.lower().endswith(TRAIN_IDS.lower()):
            datasets.check_values(path, label, len(CLASSES))
            return label
        datasets.check_values(path, label, NUM_IDS, ())
        return LABEL_OF_ID[label]


def load(config: ml_collections.ConfigDict, split: str) -> Cityscapes:
    """The frames of all cities of a split; all labels but those of test must be there. config: `root` (str)."""
    root = datasets.open_root(config.root, 'Cityscapes')
    kind, folders = PARTS[split]
    return Cityscapes(split, tuple(pair for folder in folders for pair in _pairs(root, kind, folder)))


def _pairs(root: pathlib.Path, kind: str, folder: str) -> Iterator[Pair]:
    """The frames of a folder; names may end in .PNG, too."""
    found = (root / 'leftImg8bit' / folder).glob('*/*')
    images = sorted(
        path for path in found if path.name.lower().endswith(IMAGE.lower()) and not list_files.is_hidden(path)
    )
    if not images:
        raise InputError(f'there is no image {root / "leftImg8bit" / folder}/<city>/<frame>{IMAGE}')
    for image in images:
        frame = f'{image.name[: -len(IMAGE)]}_{kind}'
        place = root / kind / folder / image.parent.name
        stems = (frame + ending.removesuffix('.png') for ending in (IDS, TRAIN_IDS))
        labels = (list_files.with_suffix(place, stem, list_files.LABEL_SUFFIXES) for stem in stems)
        label = next((path for path in labels if path is not None), None)
        if label is None and folder != 'test':
            raise InputError(f'the image {image} has no label, there is no {place / frame}{IDS}')
        yield image, label
