"""The menu of data sets: `load('camvid', config.dataset, 'train')` opens `dpc_jax/datasets/camvid.py`.

Each file of the folder exposes `load(config, split) -> Dataset`; its docstring lists the config's fields.
"""

import abc
import dataclasses
import importlib
import pkgutil
from collections.abc import Iterator
from typing import ClassVar

import ml_collections
import numpy as np
from jaxtyping import UInt8

from dpc_jax.base import InputError, SegmentationExample

SPLITS = ('train', 'val')


@dataclasses.dataclass(frozen=True)
class Dataset(abc.ABC):
    """One split of a data set: a sequence of examples, decoded or drawn when asked for, the same on every call."""

    name: ClassVar[str]
    classes: ClassVar[tuple[str, ...]]
    palette: ClassVar[UInt8[np.ndarray, 'L 3']]  # RGB, for pictures of labels

    split: str  # one of SPLITS

    @property
    def num_classes(self) -> int:
        """L."""
        return len(self.classes)

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def __getitem__(self, index: int) -> SegmentationExample:
        """Example `index` of 0..len-1 (IndexError beyond); InputError if its files are faulty."""

    def __iter__(self) -> Iterator[SegmentationExample]:
        return (self[index] for index in range(len(self)))

    @abc.abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 (hex) of everything that determines the content; equal for equal content on every machine."""


def names() -> tuple[str, ...]:
    """What `load` accepts: the files of this folder."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def load(name: str, config: ml_collections.ConfigDict, split: str) -> Dataset:
    """The split `split` of the data set `name`, described by its `config`; InputError names what is wrong."""
    if name not in names():
        raise InputError(f'unknown data set {name!r}; there are: {", ".join(names())}')
    if split not in SPLITS:
        raise InputError(f'unknown split {split!r}; there are: {", ".join(SPLITS)}')
    return importlib.import_module(f'{__name__}.{name}').load(config, split)


def classes(name: str) -> tuple[str, ...]:
    """Names of the classes of the data set `name`, whose files need not be there; InputError if there is none such."""
    if name not in names():
        raise InputError(f'unknown data set {name!r}; there are: {", ".join(names())}')
    module = importlib.import_module(f'{__name__}.{name}')
    kinds = (kind for kind in vars(module).values() if isinstance(kind, type) and issubclass(kind, Dataset))
    return next(kind for kind in kinds if kind is not Dataset).classes


def check(dataset: Dataset) -> None:
    """Decode every example once, so that a fault shows now (InputError) and not in the middle of a search."""
    for _ in dataset:
        pass
