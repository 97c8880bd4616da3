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
# The first is of the release of arXiv:1810.10804; its images are other ones, for PyTorch draws them.
HELD_OUT_SEED, DRAW_SEED = 9314, 9315

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
    `held_out` (int, may be absent; 0: none) images are drawn from that list, too: they are val then, and no split has
    them to train on.
    """
    root = datasets.first_folder(datasets.open_root(config.root, 'pascal_voc'), ROOTS)
    to_search_on = config.get('train_list', '') or 'train'
    checks.one_of('dataset.train_list', to_search_on, TO_TRAIN_ON)
    held_out = config.get('held_out', 0)
    named = to_search_on if split == 'train' or (split == 'val' and held_out) else split
    pairs = _listed(root, named)
    if held_out:
        every = _listed(root, to_search_on)
        apart = _drawn(every, held_out, 'held_out', HELD_OUT_SEED, most=len(every) - 1)
        there = {image for image, _ in apart}
        pairs = apart if split == 'val' else tuple(pair for pair in pairs if pair[0] not in there)
    if split == 'train' and config.get('train_images', 0):
        pairs = _drawn(pairs, config.train_images, 'train_images', DRAW_SEED, most=len(pairs))
    dataset = PascalVOC('val' if split == 'val' else named, pairs)
    if not config.get('duplicate_hard', False) or split in ('val', 'test'):
        return dataset
    return dataclasses.replace(dataset, files=tuple(pair for pair in pairs for _ in range(1 + _is_hard(dataset, pair))))


def _listed(root: pathlib.Path, split: str) -> tuple[Pair, ...]:
    """The images of a list of the challenge, or of the augmented set."""
    images = datasets.first_folder(root, (IMAGES,))
    if split == 'train_aug':
        datasets.first_folder(root, (LABELS_AUG,))
        return datasets.pairs_of_list(_list_aug(root), images, (root / LABELS_AUG, root / LABELS))
    labels = () if split == 'test' else (root / LABELS,)
    return datasets.pairs_of_list(root / LISTS / f'{split}.txt', images, labels)


def _list_aug(root: pathlib.Path) -> pathlib.Path:
    found = next((root / name for name in LISTS_AUG if (root / name).is_file()), None)
    if found is None:
        others = ' or '.join(LISTS_AUG[1:])
        raise InputError(f'there is no list of the augmented set, {root / LISTS_AUG[0]} or {others}; see {SOURCE_AUG}')
    return found


def _drawn(pairs: tuple[Pair, ...], count: int, field: str, seed: int, most: int) -> tuple[Pair, ...]:
    """So many of them, in their order."""
    if not 1 <= count <= most:
        raise InputError(f'dataset.{field} is {count}; allowed: 0, or 1 to {most} of the {len(pairs)} images')
    chosen = np.random.default_rng(seed).permutation(len(pairs))[:count]
    return tuple(pairs[index] for index in np.sort(chosen))


def _is_hard(dataset: PascalVOC, pair: Pair) -> bool:
    label = pair[1]
    return label is not None and bool(
        np.isin(dataset.read_label(label), [VOC_CLASSES.index(name) for name in HARD]).any()
    )
