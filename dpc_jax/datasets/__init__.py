"""The menu of data sets: `load('camvid', config.dataset, 'train')` opens `dpc_jax/datasets/camvid.py`.

Each file of the folder exposes `load(config, split) -> Dataset`; its docstring lists the config's fields. What is known
of a data set without its images (classes, colours, splits, ...) stands in its class. Where that depends on the config,
the file exposes `kind(config) -> type[Dataset]` as well, which makes such a class.
"""

import abc
import dataclasses
import hashlib
import importlib
import pathlib
import pkgutil
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import ml_collections
import numpy as np
from jaxtyping import UInt8

from dpc_jax import files, image_files, list_files
from dpc_jax.base import IGNORE_LABEL, InputError, SegmentationExample, Size
from dpc_jax.image_files import content_of as content_of
from dpc_jax.image_files import read_bytes as read_bytes

SPLITS = ('train', 'val')
"""What every data set has; one may have more."""

VOC_CLASSES = (
    *('background', 'aeroplane', 'bicycle', 'bird', 'boat', 'bottle', 'bus', 'car', 'cat', 'chair', 'cow'),
    *('diningtable', 'dog', 'horse', 'motorbike', 'person', 'pottedplant', 'sheep', 'sofa', 'train', 'tvmonitor'),
)
"""In the order of their values in label files (PASCAL VOC development kit); `coco` uses them too."""

PACKED = '_packed'
PACK_INFO = 'metadata.json'  # in a folder that is a pack

Pair = tuple[pathlib.Path, pathlib.Path | None]
"""Files of an image and of its label, if there is one."""


class Skeleton(NamedTuple):
    """The joints of a person, as a data set annotates them."""

    joints: tuple[str, ...]  # J names
    pairs: tuple[tuple[int, int], ...]  # joints that change places in a mirror
    limbs: tuple[tuple[int, int], ...]  # joints between which a line is drawn
    sigmas: tuple[float, ...] = ()  # of object keypoint similarity, by joint; () where PCKh is the measure
    not_scored: tuple[int, ...] = ()  # joints that the mean of PCKh leaves out


class Facts(NamedTuple):
    """What is known of a data set without its images, in plain values."""

    name: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]  # RGB, 0..255
    export_ids: tuple[int, ...] | None = None
    targets: tuple[str, ...] = ('label',)
    skeleton: Skeleton | None = None


@dataclasses.dataclass(frozen=True)
class Dataset(abc.ABC):
    """One split of a data set: a sequence of examples, decoded or drawn when asked for, the same on every call."""

    name: ClassVar[str]
    classes: ClassVar[tuple[str, ...]]
    palette: ClassVar[UInt8[np.ndarray, 'L 3']]  # RGB, for pictures of labels
    splits: ClassVar[tuple[str, ...]] = SPLITS
    published: ClassVar[Mapping[str, int]] = {}  # images of each split, as its authors count them
    export_ids: ClassVar[tuple[int, ...] | None] = None  # value of each class in exported labels; None: its index
    meaning: ClassVar[str] = ''  # what the labels in the files stand for, where neither code nor config says it all
    targets: ClassVar[tuple[str, ...]] = ('label',)  # what examples have beside the image: label, depth, joints
    skeleton: ClassVar[Skeleton | None] = None  # of joints

    split: str  # one of `splits`

    @property
    def num_classes(self) -> int:
        """L."""
        return len(self.classes)

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def __getitem__(self, index: int) -> Any:
        """Example `index` of 0..len-1 (IndexError beyond); InputError if its files are faulty."""

    @abc.abstractmethod
    def example_name(self, index: int) -> str:
        """The `name` of example `index`, without reading it."""

    @abc.abstractmethod
    def image_bytes(self, index: int) -> bytes:
        """The encoded image (JPEG or PNG) of example `index`, as it is on disk; InputError if it cannot be read."""

    def __iter__(self) -> Iterator[Any]:
        return (self[index] for index in range(len(self)))

    def reading(self) -> dict[str, Any]:
        """The fields of the config by which files are read in one way or another; a pack keeps to them."""
        return {}

    def truth(self) -> Any:
        """What scores need besides examples, in plain values: annotations that no example has; None if nothing."""
        return None

    @abc.abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 (hex) of everything that determines the content; the same for the same content on every machine."""


@dataclasses.dataclass(frozen=True)
class FilePairs(Dataset):
    """A data set of pairs of files, image and label; an image without a label is all `IGNORE_LABEL`."""

    files: tuple[Pair, ...]

    @abc.abstractmethod
    def read_label(self, path: pathlib.Path) -> UInt8[np.ndarray, 'H W']:
        """The labels in a file, 0..L-1 or IGNORE_LABEL; InputError if it is faulty."""

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> SegmentationExample:
        image_path, label_path = self.files[index]
        image = decode(image_path, 'RGB')
        if label_path is None:
            return SegmentationExample(image, np.full(image.shape[:2], IGNORE_LABEL, np.uint8), str(image_path))
        label = self.read_label(label_path)
        check_sizes(image_path, image.shape[:2], label_path, label.shape)
        return SegmentationExample(image, label, str(image_path))

    def example_name(self, index: int) -> str:
        """The path of the image."""
        return str(self.files[index][0])

    def image_bytes(self, index: int) -> bytes:
        """The content of the image file."""
        return read_bytes(self.files[index][0])

    def fingerprint(self) -> str:
        """SHA-256 of the names and the bytes of all files."""
        digest = hashlib.sha256()
        for path in (path for pair in self.files for path in pair if path is not None):
            digest.update(content_of(path))
        return digest.hexdigest()


def open_root(root: str, name: str) -> pathlib.Path:
    """The folder `root` (`dataset.root` of the config) of the data set `name`; InputError if it is absent or empty."""
    if not root:
        example = f'--config.dataset.root=/data/{name.lower()}'
        raise InputError(f'dataset.root is empty; give the {name} folder, e.g. {example}')
    path = files.local(root, 'dataset.root')
    if not path.is_dir():
        raise InputError(f'dataset.root: there is no folder {path}')
    if not any(path.iterdir()):
        raise InputError(f'dataset.root: the folder {path} is empty')
    return path


def first_folder(root: pathlib.Path, names: Sequence[str]) -> pathlib.Path:
    """The first of the folders `names` that is in `root` ('.' is the root itself); InputError if none is."""
    found = next((root / name for name in names if (root / name).is_dir()), None)
    if found is None:
        raise InputError(f'there is no folder {root / names[0]}' + ''.join(f', nor {name}' for name in names[1:]))
    return found


def pairs_of_list(path: pathlib.Path, images: pathlib.Path, labels: Sequence[pathlib.Path]) -> tuple[Pair, ...]:
    """Image `<id>` of the folder `images`, and label `<id>` of the first folder of `labels` that has it, for each line
    of a list of VOC. They end as `list_files` says: .jpg, .jpeg or .png, and .png.

    A line is an id, or a path whose last part is one, and what may follow it (`list_files.ids`). With `labels` empty,
    no label is needed.
    """
    pairs = []
    for number, line in list_files.read_lines(path, 'an id'):
        names = tuple(list_files.ids(line))
        found = ((name, list_files.with_suffix(images, name, list_files.IMAGE_SUFFIXES)) for name in names)
        name, image = next(((name, place) for name, place in found if place is not None), (names[0], None))
        at = (list_files.with_suffix(folder, name, list_files.LABEL_SUFFIXES) for folder in labels)
        label = next((place for place in at if place is not None), labels[0] / f'{name}.png') if labels else None
        pairs.append((image or images / f'{names[0]}.jpg', label))
        check_pair(pairs[-1], f'{path}, line {number}')
    return tuple(pairs)


def check_pair(pair: Pair, place: str) -> None:
    """InputError unless both files are there; `place` says which list asks for them."""
    image, label = pair
    if not image.is_file():
        raise InputError(f'{place}: there is no image {image}')
    if label is not None and not label.is_file():
        raise InputError(f'{place}: the image {image.name} has no label, there is no {label}')


def check_sizes(image: pathlib.Path, image_size: Size, label: pathlib.Path, label_size: Size) -> None:
    """InputError unless image and label, read from these files, are of one size."""
    if image_size != label_size:
        sizes = ' and '.join(f'{height}x{width}' for height, width in (image_size, label_size))
        raise InputError(f'sizes differ: {image} and {label} have {sizes} pixels (height x width)')


def check_values(
    path: pathlib.Path, label: UInt8[np.ndarray, 'H W'], count: int, unknown: tuple[int, ...] = (IGNORE_LABEL,)
) -> None:
    """InputError unless all values of the label of a file are 0..count-1, or of those that stand for unknown."""
    wrong = label[(label >= count) & ~np.isin(label, unknown)]
    if wrong.size:
        allowed = f'0..{count - 1}' + (f', and {" or ".join(map(str, unknown))} for unknown' if unknown else '')
        raise InputError(f'{path}: label value {wrong[0]} is out of range; allowed: {allowed}')


def voc_palette(count: int) -> UInt8[np.ndarray, 'L 3']:
    """The first colours of the PASCAL VOC development kit: bits 0, 1, 2 of the index, then 3, 4, 5, ... from above."""
    places = np.arange(3)
    bits = np.arange(count)[:, None, None] >> (places[:, None] + 3 * places) & 1  # [L, channel, place]
    return (bits << 7 - places).sum(axis=2).astype(np.uint8)


def decode_label(path: pathlib.Path) -> UInt8[np.ndarray, 'H W']:
    """The values in a label file of one 8-bit channel; InputError if it is not such a file."""
    label = decode(path, None)
    if label.ndim != 2 or label.dtype != np.uint8:
        raise InputError(f'{path}: {label.dtype} {label.shape} is not a label image of one 8-bit channel')
    return label


def decode(path: pathlib.Path, mode: str | None) -> np.ndarray:
    """The pixels of an image file, upright, in `mode` (of PIL) if one is given; InputError if it is faulty."""
    # PIL reads images too: OpenCV 4.10 fills up a truncated JPEG without a warning, and it expands palettes. The
    # pixels are the same bit for bit; PIL takes 1.4 ms instead of 0.8 ms per image of CamVid.
    return image_files.decode(path, mode)


def names() -> tuple[str, ...]:
    """What `load` accepts: the files of this folder, except `_packed`."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != PACKED))


def kind(config: ml_collections.ConfigDict) -> type[Dataset]:
    """The class of the data set that `config.dataset` describes, with its facts; images need not be there.

    InputError if the name is not known, or if the facts are neither in the config nor beside the data.
    """
    return _kind(config.name, config)


def _kind(name: str, config: ml_collections.ConfigDict) -> type[Dataset]:
    if name not in names():
        raise InputError(f'unknown data set {name!r}; there are: {", ".join(names())}')
    module = importlib.import_module(f'{__name__}.{name}')
    if hasattr(module, 'kind'):
        made: type[Dataset] = _pack_module().kind(name, config) if _is_pack(config) else module.kind(config)
        return made
    kinds = (thing for thing in vars(module).values() if isinstance(thing, type) and issubclass(thing, Dataset))
    return next(thing for thing in kinds if thing.__module__ == module.__name__)


def facts(config: ml_collections.ConfigDict) -> Facts:
    """What is known of the data set of `config.dataset` without its images; InputError as of `kind`."""
    return facts_of(kind(config))


def facts_of(kind: type[Dataset] | Dataset) -> Facts:
    """The facts of a data set as plain values."""
    palette = tuple((int(red), int(green), int(blue)) for red, green, blue in np.asarray(kind.palette))
    ids = None if kind.export_ids is None else tuple(kind.export_ids)
    return Facts(kind.name, tuple(kind.classes), palette, ids, kind.targets, kind.skeleton)


def load(name: str, config: ml_collections.ConfigDict, split: str) -> Dataset:
    """The split `split` of the data set `name`, described by its `config`; InputError names what is wrong.

    Where `config.root` is a pack (experiments/pack_data.py), the data set is read from it.
    """
    _check_split(_kind(name, config), split)
    if _is_pack(config):
        for field in ('duplicate_hard', 'train_list', 'train_images', 'held_out'):
            if config.get(field, None):
                raise InputError(
                    f'dataset.{field} is {config[field]}; a pack has every image once, give the folder itself'
                )
        packed: Dataset = _pack_module().load(name, config.root, split)
        for field, value in packed.reading().items():
            if config.get(field, value) != value:
                raise InputError(
                    f'dataset.{field} is {config[field]!r}; the pack was made with {value!r}, give the folder itself'
                )
        return packed
    try:
        dataset: Dataset = importlib.import_module(f'{__name__}.{name}').load(config, split)
    except AttributeError as error:
        field = re.sub(r'\W*(\w+).*', r'\1', str(error), flags=re.DOTALL)
        if field in config or not str(error).startswith(("'", '"')):
            raise
        raise InputError(f'the data set {name} needs config.dataset.{field}, which the config does not have') from error
    return dataset


def _is_pack(config: ml_collections.ConfigDict) -> bool:
    return (files.local(config.get('root', ''), 'dataset.root') / PACK_INFO).is_file()


def _pack_module() -> types.ModuleType:
    return importlib.import_module(f'{__name__}.{PACKED}')


def check_split(config: ml_collections.ConfigDict, split: str) -> None:
    """InputError unless the data set of `config.dataset` has a split `split`; its images need not be there."""
    _check_split(kind(config), split)


def _check_split(kind: type[Dataset], split: str) -> None:
    if split not in kind.splits:
        raise InputError(f'unknown split {split!r}; there are: {", ".join(kind.splits)}')


def classes(config: ml_collections.ConfigDict) -> tuple[str, ...]:
    """Names of the classes of the data set of `config.dataset`; InputError as of `kind`, or if it has no labels."""
    made = kind(config)
    if 'label' not in made.targets:
        raise InputError(f'the data set {made.name} has no labels of classes, but {", ".join(made.targets)}')
    return made.classes


def check(dataset: Dataset) -> None:
    """Decode every example once, so that a fault shows now (InputError) and not in the middle of a search."""
    for _ in dataset:
        pass
