"""PASCAL VOC 2012 segmentation: 21 classes, files in a folder of the user's (Everingham et al. 2015).

The root is the folder VOC2012, or one that holds `VOCdevkit/VOC2012` or `VOC2012`, as the tar file of the challenge
leaves it:

    JPEGImages/<id>.jpg
    SegmentationClass/<id>.png                             indices of a palette, 255 at the borders
    ImageSets/Segmentation/{train,val,trainval,test}.txt   an id on each line

`train_aug` are the 10 582 images of train and of the Semantic Boundaries Dataset (Hariharan et al. 2011) that are not
in val. Its list is one of `LISTS_AUG`, and labels (gray or with a palette) are read from `SegmentationClassAug`, then
from `SegmentationClass`. The labels of test are not public.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import ClassVar

import ml_collections
import numpy as np
from jaxtyping import UInt8

from dpc_jax import checks, datasets
from dpc_jax.base import InputError
from dpc_jax.datasets import VOC_CLASSES, FilePairs, Pair

ROOTS = ('VOCdevkit/VOC2012', 'VOC2012', '.')
IMAGES, LABELS, LABELS_AUG = 'JPEGImages', 'SegmentationClass', 'SegmentationClassAug'
LISTS = 'ImageSets/Segmentation'
LISTS_AUG = tuple(f'ImageSets/{name}.txt' for name in ('Segmentation/trainaug', 'Segmentation/train_aug'))
LISTS_AUG += ('ImageSets/SegmentationAug/train_aug.txt',)
SOURCE_AUG = 'https://github.com/DrSleep/tensorflow-deeplab-resnet (SegmentationClassAug.zip, dataset/train.txt)'

TO_TRAIN_ON = ('train', 'train_aug', 'trainval')
DRAW_SEED = 9314  # of the release of arXiv:1810.10804; its images are other ones, for PyTorch draws them

HARD = ('bicycle', 'chair', 'diningtable', 'pottedplant', 'sofa')
"""Classes whose images count twice for the test submission (DeepLabv3, arXiv:1706.05587)."""


@dataclasses.dataclass(frozen=True)
class PascalVOC(FilePairs):
    """Images in the order of the list."""

    name: ClassVar[str] = 'pascal_voc'
    classes: ClassVar[tuple[str, ...]] = VOC_CLASSES
    palette: ClassVar[UInt8[np.ndarray, 'L 3']] = datasets.voc_palette(len(VOC_CLASSES))
    splits: ClassVar[tuple[str, ...]] = ('train', 'val', 'trainval', 'train_aug', 'test')
    published: ClassVar[Mapping[str, int]] = {  # deeplab/datasets/data_generator.py; test: the challenge's page
        **{'train': 1464, 'val': 1449, 'trainval': 2913, 'train_aug': 10582, 'test': 1456},
    }

    def read_label(self, path: pathlib.Path) -> UInt8[np.ndarray, 'H W']:
        """Indices, not colours."""
        label = datasets.decode_label(path)
        datasets.check_values(path, label, len(VOC_CLASSES))
        return label


def load(config: ml_collections.ConfigDict, split: str) -> PascalVOC:
    """The images of a list; all labels but those of test must be there.

    config: `root` (str), the folder. `duplicate_hard` (bool, may be absent): images that show a class of `HARD` come
    twice in a split to train on, in succession; it reads all labels of the split once (2 ms each). val and test stay.
    What a search calls train may be another list, `train_list` (str, may be absent), and of that so many images as
    `train_images` says (int, may be absent; 0: all): drawn at random, the same on every call, in the order of the list.
    """
    count = config.get('train_images', 0) if split == 'train' else 0
    if split == 'train':
        split = config.get('train_list', '') or split
        checks.one_of('dataset.train_list', split, TO_TRAIN_ON)
    root = datasets.first_folder(datasets.open_root(config.root, 'pascal_voc'), ROOTS)
    images = datasets.first_folder(root, (IMAGES,))
    if split == 'train_aug':
        datasets.first_folder(root, (LABELS_AUG,))
        pairs = datasets.pairs_of_list(_list_aug(root), images, (root / LABELS_AUG, root / LABELS))
    else:
        labels = () if split == 'test' else (root / LABELS,)
        pairs = datasets.pairs_of_list(root / LISTS / f'{split}.txt', images, labels)
    pairs = _drawn(pairs, count)
    dataset = PascalVOC(split, pairs)
    if not config.get('duplicate_hard', False) or split in ('val', 'test'):
        return dataset
    return dataclasses.replace(dataset, files=tuple(pair for pair in pairs for _ in range(1 + _is_hard(dataset, pair))))


def _list_aug(root: pathlib.Path) -> pathlib.Path:
    found = next((root / name for name in LISTS_AUG if (root / name).is_file()), None)
    if found is None:
        others = ' or '.join(LISTS_AUG[1:])
        raise InputError(f'there is no list of the augmented set, {root / LISTS_AUG[0]} or {others}; see {SOURCE_AUG}')
    return found


def _drawn(pairs: tuple[Pair, ...], count: int) -> tuple[Pair, ...]:
    """So many of them, all if 0."""
    if not 0 <= count <= len(pairs):
        raise InputError(f'dataset.train_images is {count}; the list has {len(pairs)}, and 0 takes all')
    chosen = np.random.default_rng(DRAW_SEED).permutation(len(pairs))[:count]
    return tuple(pairs[index] for index in np.sort(chosen)) if count else pairs


def _is_hard(dataset: PascalVOC, pair: Pair) -> bool:
    label = pair[1]
    return label is not None and bool(
        np.isin(dataset.read_label(label), [VOC_CLASSES.index(name) for name in HARD]).any()
    )
