"""NYU Depth v2 (Silberman et al. 2012): indoor scenes with distances and, for 40 classes, labels; the user's files.

The root holds either what the authors publish,

    nyu_depth_v2_labeled.mat     1449 images of 480x640, distances in metres, labels of 894 kinds (HDF5)
    splits.mat                   the official split, 795 and 654 images
    classMapping40.mat           which of the 40 classes a kind is (Gupta et al. 2013); without it nothing is labelled

or images, distances and labels as PNG files, with `train.txt` and `val.txt` beside them whose lines are the paths of an
image, of its distances and, where there are labels, of those, relative to the root. Distances are gray PNGs of 16 bits:
0 is missing, and `depth_scale` stands for a metre. Labels are gray PNGs of 0..39 and 255; with `reduce_zero_label`
of 0, which is unknown, and 1..40. `val` is what the authors call test.
"""

import dataclasses
import functools
import hashlib
import io
import os
import pathlib
from collections.abc import Mapping
from typing import Any, ClassVar

import h5py
import ml_collections
import numpy as np
from jaxtyping import Float32, Int64, UInt8
from PIL import Image

from dpc_jax import datasets, list_files, matlab_files
from dpc_jax.base import IGNORE_LABEL, DepthExample, InputError
from dpc_jax.datasets import Dataset

CLASSES = (
    *('wall', 'floor', 'cabinet', 'bed', 'chair', 'sofa', 'table', 'door', 'window', 'bookshelf', 'picture', 'counter'),
    *(
        'blinds',
        'desk',
        'shelves',
        'curtain',
        'dresser',
        'pillow',
        'mirror',
        'floor mat',
        'clothes',
        'ceiling',
        'books',
    ),
    *('refrigerator', 'television', 'paper', 'towel', 'shower curtain', 'box', 'whiteboard', 'person', 'night stand'),
    *('toilet', 'sink', 'lamp', 'bathtub', 'bag', 'other structure', 'other furniture', 'other prop'),
)
LABELED, SPLITS, MAPPING = 'nyu_depth_v2_labeled.mat', 'splits.mat', 'classMapping40.mat'
INDICES = {'train': 'trainNdxs', 'val': 'testNdxs'}  # in splits.mat, counted from 1
FORM = 'image, distances and perhaps labels'


class Nyudv2(Dataset):
    """What both forms have in common."""

    name: ClassVar[str] = 'nyudv2'
    classes: ClassVar[tuple[str, ...]] = CLASSES
    palette: ClassVar[UInt8[np.ndarray, 'L 3']] = datasets.voc_palette(len(CLASSES) + 1)[1:]
    published: ClassVar[Mapping[str, int]] = {'train': 795, 'val': 654}
    targets: ClassVar[tuple[str, ...]] = ('label', 'depth')


Files = tuple[pathlib.Path, pathlib.Path, pathlib.Path | None]


@dataclasses.dataclass(frozen=True)
class Folder(Nyudv2):
    """Files of images, distances and labels, which may be missing."""

    files: tuple[Files, ...]
    depth_scale: float
    reduce_zero_label: bool

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> DepthExample:
        image_path, depth_path, label_path = self.files[index]
        image = datasets.decode(image_path, 'RGB')
        depth = read_depth(depth_path, self.depth_scale)
        datasets.check_sizes(image_path, image.shape[:2], depth_path, depth.shape[:2])
        label: np.ndarray = np.full(depth.shape, IGNORE_LABEL, np.uint8)
        if label_path is not None:
            label = self._read_label(label_path)
            datasets.check_sizes(image_path, image.shape[:2], label_path, label.shape[:2])
        return DepthExample(image, label, depth, str(image_path))

    def _read_label(self, path: pathlib.Path) -> UInt8[np.ndarray, 'H W']:
        label = datasets.decode_label(path)
        if self.reduce_zero_label:
            label = label - np.uint8(1)  # 0 becomes 255
            label[label == IGNORE_LABEL - 1] = IGNORE_LABEL  # what was 255
        datasets.check_values(path, label, len(CLASSES))
        return label

    def reading(self) -> dict[str, Any]:
        """What stands for a metre, and what 0 means among labels."""
        return {'depth_scale': self.depth_scale, 'reduce_zero_label': self.reduce_zero_label}

    def example_name(self, index: int) -> str:
        """The path of the image."""
        return str(self.files[index][0])

    def image_bytes(self, index: int) -> bytes:
        """The content of the image file."""
        return datasets.read_bytes(self.files[index][0])

    def fingerprint(self) -> str:
        """SHA-256 of the names and the bytes of all files, and of how they are read."""
        digest = hashlib.sha256(f'{self.depth_scale} {self.reduce_zero_label}'.encode())
        for path in (path for row in self.files for path in row if path is not None):
            digest.update(datasets.content_of(path))
        return digest.hexdigest()


def read_depth(path: pathlib.Path, scale: float) -> Float32[np.ndarray, 'H W']:
    """Metres in a gray PNG of 16 bits whose value `scale` stands for one; InputError for any other file."""
    values = datasets.decode(path, None)
    if values.ndim != 2 or values.dtype not in (np.uint16, np.int32):
        raise InputError(f'{path}: {values.dtype} {values.shape} is not a gray image of 16 bits, as distances are kept')
    return (values / np.float32(scale)).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Labeled(Nyudv2):
    """The authors' file, of which an example is read when it is asked for."""

    path: pathlib.Path
    rows: tuple[int, ...]  # in the file, from 0
    mapping: tuple[int, ...]  # class of each kind of label from 1 on, or IGNORE_LABEL

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> DepthExample:
        row, file = self.rows[index], opened(self.path, os.getpid())
        name = self.example_name(index)
        try:
            image, depth, kinds = (file[part][row] for part in ('images', 'depths', 'labels'))
        except (OSError, RuntimeError) as error:
            raise InputError(f'{name} cannot be read: {error}') from None
        classes = np.array([IGNORE_LABEL, *self.mapping], np.uint8)
        kinds = np.where(kinds < len(classes), kinds, 0)
        # MATLAB keeps columns first, so the file has [3, W, H] and [W, H].
        label = classes[kinds.T] if self.mapping else np.full(depth.T.shape, IGNORE_LABEL, np.uint8)
        metres = np.where(np.isfinite(depth), depth, 0).T.astype(np.float32)
        return DepthExample(np.ascontiguousarray(image.transpose(2, 1, 0)), label, metres, name)

    def example_name(self, index: int) -> str:
        """The path of the file and the number of the image in it, from 1 on as the authors count."""
        return f'{self.path}#{self.rows[index] + 1:04}'

    def image_bytes(self, index: int) -> bytes:
        """The image as a PNG."""
        buffer = io.BytesIO()
        Image.fromarray(self[index].image).save(buffer, format='png')
        return buffer.getvalue()

    def fingerprint(self) -> str:
        """SHA-256 of images, distances and labels."""
        digest = hashlib.sha256()
        for example in self:
            for part in (example.image, example.depth, example.label):
                digest.update(part.tobytes())
        return digest.hexdigest()


@functools.lru_cache(maxsize=2)
def opened(path: pathlib.Path, process: int) -> h5py.File:
    """The open file; each process has its own. InputError where it is not the labelled set."""
    del process
    try:
        file = h5py.File(path, 'r')
    except OSError as error:
        raise InputError(f'{path} is no HDF5 file: {" ".join(str(error).split())}') from None
    missing = [part for part in ('images', 'depths', 'labels') if part not in file]
    if missing:
        raise InputError(f"{path} is not the labelled set of NYU Depth v2: it has no '{missing[0]}'")
    images, depths, labels = (tuple(getattr(file[part], 'shape', ())) for part in ('images', 'depths', 'labels'))
    alike = len(images) == 4 and images[1] == 3 and (images[0], *images[2:]) == depths == labels
    if not alike or file['images'].dtype != np.uint8:
        raise InputError(
            f'{path} is not the labelled set of NYU Depth v2: images are {images}, distances {depths}, labels {labels}'
        )
    return file


def load(config: ml_collections.ConfigDict, split: str) -> Nyudv2:
    """A split. config: `root` (str); of PNG files `depth_scale` (float) and `reduce_zero_label` (bool)."""
    root = datasets.open_root(config.root, Nyudv2.name)
    if (root / LABELED).is_file():
        return _load_labeled(root, split)
    scale = float(config.depth_scale)
    if not scale > 0:
        raise InputError(f'dataset.depth_scale is {scale}; it must be above 0: the value that stands for a metre')
    path = root / f'{split}.txt'
    rows = []
    for number, line in list_files.read_lines(path, FORM):
        words = list_files.split(line)
        if len(words) not in (2, 3):
            raise InputError(f'{path}, line {number}: {line!r} has {len(words)} paths; it must be those of {FORM}')
        image, depth, *label = (root / word for word in words)
        for place in (image, depth, *label):
            if not place.is_file():
                raise InputError(f'{path}, line {number}: there is no file {place}')
        rows.append((image, depth, label[0] if label else None))
    return Folder(split, tuple(rows), scale, bool(config.get('reduce_zero_label', False)))


def _load_labeled(root: pathlib.Path, split: str) -> Labeled:
    path = root / LABELED
    file = opened(path, os.getpid())
    indices = _matrix(root / SPLITS, INDICES[split])
    count = file['images'].shape[0]
    if not indices.size or indices.min() < 1 or indices.max() > count:
        raise InputError(
            f'{root / SPLITS}: {INDICES[split]} does not count the {count} images of {path.name} from 1 on'
        )
    mapping: Int64[np.ndarray, ' K'] = np.zeros(0, np.int64)
    if (root / MAPPING).is_file():
        mapping = _matrix(root / MAPPING, 'mapClass') - 1
        if mapping.min() < -1 or mapping.max() >= len(CLASSES):
            raise InputError(f'{root / MAPPING}: mapClass has {mapping.max() + 1}; the classes are 1 to {len(CLASSES)}')
    classes = np.where(mapping < 0, IGNORE_LABEL, mapping)
    return Labeled(split, path, tuple((indices - 1).tolist()), tuple(classes.tolist()))


def _matrix(path: pathlib.Path, name: str) -> Int64[np.ndarray, ' n']:
    try:
        found: Int64[np.ndarray, ' n'] = np.asarray(matlab_files.read(path, name)).ravel().astype(np.int64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: '{name}' is no matrix of whole numbers: {error}") from None
    return found


def kind(config: ml_collections.ConfigDict) -> type[Nyudv2]:
    """The class, whatever form the files have."""
    del config
    return Nyudv2
