"""Own data: images and labels in a folder of the user's, described by its `dataset.json` or by the config.

A `dataset.json` in the root, such as `experiments/propose_dataset.py --root=FOLDER` proposes:

    {
      "classes": ["background", "leaf", "flower"],
      "images": "photos",
      "labels": "masks",
      "label_suffix": "_mask.png",
      "splits": {"train": 0.8, "val": 0.2},
      "unknown": [255]
    }

Each field may be set in `config.dataset` instead, and counts there if it is set (not '', (), {} or None). Without
a root, `generated` images of an example are drawn.

  classes            names, in the order of the indices 0..L-1; 2 to 255 of them
  images, labels     folders, from the root; they may be the same. `{split}` stands for what `splits` has for the split
  image_suffix       how names end; what stands before it, with the folders below, is what an image and its label share:
  label_suffix       `_leftImg8bit.png`, `_gtFine_labelIds.png`. '' is any ending of an image. Case does not count
  splits             of each split: with `{split}` in `images` the text for it ({"train": "training"}); else a list file
                     from the root, a line for each image or pair; or a share of all images ({"train": 0.8, "val": 0.2})
  split_seed         of shares; another seed gives other ones
  label_kind         `index`: values are class indices, gray or of a palette; `id`: other values, of 8 or 16 bits;
                     `colour`: RGB
  ids                of `id`: the value of each class, or a list of values
  colours            RGB of each class, for pictures, and for labels of the kind `colour`
  unknown            values (or colours) that become the ignore label; ["others"]: all that are of no class
  reduce_zero_label  of `index`: 0 is unknown and class k has the value k + 1, as in ADE20K
  overlap            `refuse` splits that share images, by name or with equal files; or `allow`
  published          images of each split, as the authors count them

Masks of 0 and 255 are of two classes with `"label_kind": "id", "ids": [0, 255]`. A value that is of no class and not
in `unknown` is a fault; 255 is no exception. Images of `test` may lack labels, unless splits are shares. Hidden files
(`._*` of macOS) and what is no image are passed over.
"""

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any, ClassVar

import ml_collections
import numpy as np
from jaxtyping import UInt8

from dpc_jax import datasets
from dpc_jax.datasets import FilePairs, Pair
from dpc_jax.datasets.folders import description as descriptions
from dpc_jax.datasets.folders import labels, splits
from dpc_jax.datasets.folders.description import FILE as FILE
from dpc_jax.datasets.folders.description import SPLIT as SPLIT
from dpc_jax.datasets.folders.description import Description as Description
from dpc_jax.datasets.folders.labels import encode as encode


@dataclasses.dataclass(frozen=True, repr=False)
class Folders(FilePairs):
    """A split of own data. `kind` makes a subclass of it with the classes of the data."""

    name: ClassVar[str] = 'folders'
    description: ClassVar[Description]

    def __repr__(self) -> str:
        return f'Folders({self.split}, {len(self)} images)'

    def __reduce__(self) -> tuple[Any, ...]:
        return _remade, (self.description, self.split, self.files)  # a worker makes the subclass itself

    def read_label(self, path: pathlib.Path) -> UInt8[np.ndarray, 'H W']:
        """The classes that the values or colours of the file stand for."""
        return labels.read(path, self.description)

    def fingerprint(self) -> str:
        """Of the files, and of what their values stand for: the same files read in another way are other data."""
        return hashlib.sha256(f'{super().fingerprint()} {self.meaning}'.encode()).hexdigest()


def kind(config: ml_collections.ConfigDict) -> type[Folders]:
    """The class of the data that the config and the `dataset.json` in its root describe; InputError if they do not."""
    return _class_of(descriptions.read(config))


def load(config: ml_collections.ConfigDict, split: str) -> Folders:
    """The files of a split; all labels but those of test must be there. config: `root` (str), and the fields above."""
    return described(kind(config).description, datasets.open_root(config.root, 'folders'), split)


def described(description: Description, root: pathlib.Path, split: str) -> Folders:
    """The files of a split of the folder `root`, which need not have a `dataset.json`; InputError as of `load`."""
    return _class_of(description)(split, splits.pairs_of(description, root, split))


@functools.lru_cache(maxsize=16)
def _class_of(description: Description) -> type[Folders]:
    facts: Mapping[str, Any] = {
        'description': description,
        'classes': description.classes,
        'palette': _palette(description),
        'splits': tuple(split for split, _ in description.splits),
        'published': dict(description.published),
        'export_ids': description.export_ids,
        'meaning': description.meaning,
    }
    made: type[Folders] = type('Folders', (Folders,), dict(facts))
    return made


def _remade(description: Description, split: str, files: tuple[Pair, ...]) -> Folders:
    return _class_of(description)(split, files)


def _palette(description: Description) -> UInt8[np.ndarray, 'L 3']:
    """The colours that are given, else VOC's; black, their first, is for the background alone."""
    if description.colours:
        return np.array(description.colours, np.uint8)
    skipped = int(description.classes[0].lower() != 'background')
    return datasets.voc_palette(len(description.classes) + skipped)[skipped:]
