"""PASCAL-Person-Part: people in six parts and the background, files in a folder of the user's (Chen et al. 2014, CVPR,
"Detect What You Can"; parts merged by Chen et al. 2016, "Attention to Scale", arXiv:1511.03339).

The images are those of PASCAL VOC 2010 (all of them are in VOC 2012, too), the labels PNGs with 0..6, and 255 where
nothing is known. Of each row the first that is there is read, so the root may be VOC2010 with the zip file of labels
unpacked in it, or a folder with both side by side, or what repositories of human parsing call `data/datasets/pascal`:

    images   JPEGImages, VOCdevkit/VOC2010/JPEGImages, VOC2010/JPEGImages, VOCdevkit/VOC2012/..., VOC2012/...
    labels   pascal_person_part/pascal_person_part_gt, pascal_person_part_gt, SegmentationPart
    lists    pascal_person_part/pascal_person_part_trainval_list/{train,val,trainval}.txt, the same without the first
             folder, ImageSets/Person/..., list/..., and in the root itself; each also as {train,val,trainval}_id.txt

A line of a list is an id, or a path of an image (`/JPEGImages/<id>.jpg`) and anything after it.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import ClassVar

import ml_collections
import numpy as np
from jaxtyping import UInt8

from dpc_jax import datasets
from dpc_jax.base import InputError
from dpc_jax.datasets import FilePairs, Pair

CLASSES = ('background', 'head', 'torso', 'upper arms', 'lower arms', 'upper legs', 'lower legs')

PARENT = 'pascal_person_part'
IMAGES = (
    'JPEGImages',
    *(f'{parent}{year}/JPEGImages' for year in ('VOC2010', 'VOC2012') for parent in ('VOCdevkit/', '')),
)
LABELS = (f'{PARENT}/pascal_person_part_gt', 'pascal_person_part_gt', 'SegmentationPart')
LISTS = (
    f'{PARENT}/pascal_person_part_trainval_list',
    'pascal_person_part_trainval_list',
    'ImageSets/Person',
    'list',
    '.',
)


@dataclasses.dataclass(frozen=True)
class PersonPart(FilePairs):
    """Images in the order of the list."""

    name: ClassVar[str] = 'person_part'
    classes: ClassVar[tuple[str, ...]] = CLASSES
    palette: ClassVar[UInt8[np.ndarray, 'L 3']] = datasets.voc_palette(len(CLASSES))
    splits: ClassVar[tuple[str, ...]] = ('train', 'val', 'trainval')
    published: ClassVar[Mapping[str, int]] = {'train': 1716, 'val': 1817, 'trainval': 3533}  # arXiv:1511.03339

    def read_label(self, path: pathlib.Path) -> UInt8[np.ndarray, 'H W']:
        """Indices, not colours."""
        label = datasets.decode_label(path)
        datasets.check_values(path, label, len(CLASSES))
        return label


def load(config: ml_collections.ConfigDict, split: str) -> PersonPart:
    """The images of a list; `trainval` is train and val where it has no list. config: `root` (str), the folder."""
    root = datasets.open_root(config.root, 'person_part')
    images, labels = datasets.first_folder(root, IMAGES), datasets.first_folder(root, LABELS)
    parts = ('train', 'val') if split == 'trainval' and _list(root, split) is None else (split,)
    return PersonPart(split, tuple(pair for part in parts for pair in _pairs(root, part, images, labels)))


def _pairs(root: pathlib.Path, split: str, images: pathlib.Path, labels: pathlib.Path) -> tuple[Pair, ...]:
    path = _list(root, split)
    if path is None:
        places = ', '.join(LISTS[1:-1])
        message = f'there is no list {root / LISTS[0] / split}.txt (or {split}_id.txt, or in {places} or the root)'
        raise InputError(message)
    return datasets.pairs_of_list(path, images, (labels,))


def _list(root: pathlib.Path, split: str) -> pathlib.Path | None:
    paths = (root / folder / name for folder in LISTS for name in (f'{split}.txt', f'{split}_id.txt'))
    return next((path for path in paths if path.is_file()), None)
