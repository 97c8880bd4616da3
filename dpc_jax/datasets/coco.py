"""COCO instances (Lin et al. 2014, arXiv:1405.0312) as labels of the 21 classes of PASCAL VOC, to pretrain on; files in
a folder of the user's. The root holds, as the zip files leave it, COCO of 2017 or of 2014:

    annotations/instances_{train,val}2017.json                             train2017/*.jpg, val2017/*.jpg
    annotations/instances_{train,valminusminival,minival}2014.json         train2014/*.jpg, val2014/*.jpg

(the folders of images may be in `images/`). `train` is 2017's train, 118 287 images, and that is trainval minus minival
of 2014; `val` is 2017's val, minival, 5 000. An image is kept if its annotations of VOC's classes, crowds left
out, have more than 1 000 pixels in all (a rule of DeepLabv3, arXiv:1706.05587, where about 60 000 are left).

Categories that VOC does not have are background. Pixels of two classes are ignored, as in torchvision's references
(segmentation/coco_utils.py), and so are crowds outside of single objects, whose outlines are coarse. pycocotools says
which pixels belong to a polygon. The file of annotations is read once, which takes 10 to 15 s and 1.6 GB for train
(measured on a drawn file of 533 MB, of which arrays of 390 MB are kept).

Two steps are our own. Runs become pixels here, since `pycocotools.mask.decode` (2.0.11) warns with NumPy 2 at every
call, and returns uninitialised memory where runs do not fill the image. And what is read is checked, since
pycocotools ends the process at a coordinate that is NaN or larger than its integers.
"""

import array
import dataclasses
import hashlib
import json
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import ml_collections
import numpy as np
from jaxtyping import Bool, Float64, Int32, UInt8
from pycocotools import mask as coco_mask

from dpc_jax import coco_annotations, datasets, files
from dpc_jax.base import IGNORE_LABEL, InputError, SegmentationExample, Size
from dpc_jax.datasets import VOC_CLASSES, Dataset

OTHER_NAMES = {  # of VOC's classes
    **{'airplane': 'aeroplane', 'motorcycle': 'motorbike', 'dining table': 'diningtable'},
    **{'potted plant': 'pottedplant', 'couch': 'sofa', 'tv': 'tvmonitor'},
}
MIN_PIXELS = 1000

PARTS: Mapping[
    str, Mapping[str, tuple[tuple[str, str], ...]]
] = {  # of each split, by year: names of the annotations, and of the folder of the images
    'train': {
        '2017': (('train2017', 'train2017'),),
        '2014': (('train2014', 'train2014'), ('valminusminival2014', 'val2014')),
    },
    'val': {'2017': (('val2017', 'val2017'),), '2014': (('minival2014', 'val2014'),)},
}
LARGEST = 2.0**24  # coordinate, length of a run
TEXTS = 2**62  # ids that are texts are counted from here on
POLYGON, RUNS = range(2)  # forms of a region: x, y, x, y, ...; lengths of runs down the columns, outside first


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Coco(Dataset):
    """N images, sorted by file name within a file of annotations; R regions, crowds last within an image."""

    name: ClassVar[str] = 'coco'
    classes: ClassVar[tuple[str, ...]] = VOC_CLASSES
    palette: ClassVar[UInt8[np.ndarray, 'L 3']] = datasets.voc_palette(len(VOC_CLASSES))
    # No `published`: the authors say "about 60K" and do not give their list.

    files: tuple[pathlib.Path, ...]  # [N]
    sizes: Int32[np.ndarray, 'N 2']  # as annotated
    rows: Int32[np.ndarray, ' N+1']  # regions of image i: rows[i]..rows[i + 1]
    regions: Int32[np.ndarray, 'R 4']  # first value, end, label (IGNORE_LABEL is a crowd), form
    values: Float64[np.ndarray, ' V']  # pycocotools rounds to fifths of a pixel, and float32 would move some

    def __repr__(self) -> str:
        return f'Coco({self.split}, {len(self)} images)'  # Grain asks for it; all paths would be megabytes

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> SegmentationExample:
        path = self.files[index]
        image, label = datasets.decode(path, 'RGB'), self.draw_label(index)
        datasets.check_sizes(path, image.shape[:2], pathlib.Path('its annotation'), label.shape)
        return SegmentationExample(image, label, str(path))

    def draw_label(self, index: int) -> UInt8[np.ndarray, 'H W']:
        """The label of an image; the image itself is not read."""
        height, width = self.sizes[index].tolist()
        label = np.zeros((height, width), np.uint8)
        regions = self.regions[self.rows[index] : self.rows[index + 1]]
        for value in np.unique(regions[:, 2]).tolist():  # crowds are last
            parts = regions[regions[:, 2] == value].tolist()
            shapes = [(form, self.values[first:end]) for first, end, _, form in parts]
            _paint(label, fill(shapes, (height, width)), value)
        return label

    def example_name(self, index: int) -> str:
        """The path of the image."""
        return str(self.files[index])

    def image_bytes(self, index: int) -> bytes:
        """The content of the image file."""
        return datasets.read_bytes(self.files[index])

    def fingerprint(self) -> str:
        """SHA-256 of the names and the bytes of all images, and of the annotations kept."""
        digest = hashlib.sha256()
        for path in self.files:
            digest.update(datasets.content_of(path))
        for part in (self.sizes, self.rows, self.regions, self.values):
            digest.update(part.tobytes())
        return digest.hexdigest()


def load(config: ml_collections.ConfigDict, split: str) -> Coco:
    """The images of a split that are kept; all of these must be there. config: `root` (str), the folder."""
    root = datasets.open_root(config.root, 'coco')
    years = PARTS[split]
    places = {year: [root / f'annotations/instances_{name}.json' for name, _ in parts] for year, parts in years.items()}
    year = next((year for year, paths in places.items() if any(path.is_file() for path in paths)), None)
    if year is None:
        first, *others = (path for paths in places.values() for path in paths)
        raise InputError(f'there are no annotations {first}, nor {", ".join(path.name for path in others)} beside them')
    absent = [path for path in places[year] if not path.is_file()]
    if absent:
        raise InputError(f'there are no annotations {absent[0]}')
    collected = _Collected()
    for path, (_, folder) in zip(places[year], years[year], strict=True):
        collected.read(path, datasets.first_folder(root, (folder, f'images/{folder}')))
    dataset = collected.keep(split)
    if not dataset.files:
        raise InputError(f'{places[year][0]}: no image has more than {MIN_PIXELS} annotated pixels of the VOC classes')
    return dataset


class _Collected:
    """What is kept of the files of annotations while they are read."""

    def __init__(self) -> None:
        self.images: dict[int, tuple[pathlib.Path, int, int]] = {}  # by id: path, height, width
        self.labels: dict[int, int] = {}  # by id of the category
        self.regions = array.array('q')  # five each: end in `values`, image's id, category's, form, crowd
        self.areas: dict[tuple[int, int], float] = {}  # pixels, by image's and category's id
        self.run_sizes: set[tuple[int, int, int]] = set()  # image's id, height and width that regions of runs fill
        self.values = array.array('d')
        self.texts: dict[str, int] = {}  # numbers that stand for ids that are texts
        self.without_outline = [0, 0]  # annotations of this file with a box alone, and with nothing

    def read(self, path: pathlib.Path, folder: pathlib.Path) -> None:
        """Reads one file. Annotations are taken as they are parsed, so that not all are in memory as Python objects."""
        start, self.without_outline = len(self.regions), [0, 0]
        try:
            content = json.loads(files.text(datasets.read_bytes(path)), object_hook=self._take)
            for item in coco_annotations.field(content, 'categories', 'the file'):
                name = coco_annotations.field(item, 'name', 'a category')
                name = OTHER_NAMES.get(name, name)
                self.labels[self._number(item, 'id', f'category {name}')] = (
                    VOC_CLASSES.index(name) if name in VOC_CLASSES else 0
                )
            self._take_images(coco_annotations.field(content, 'images', 'the file'), folder)
        except (ValueError, RecursionError) as error:
            raise InputError(f'{path}: these are not COCO instances: {error}') from None
        for what, column, known in (('image_id', 1, self.images), ('category_id', 2, self.labels)):
            wrong = set(self.regions[start + column :: 5]).difference(known)
            if wrong:
                raise InputError(
                    f'{path}: {what} {self._shown(min(wrong))} of an annotation is not one of those that the file lists'
                )
        self._check_regions(path)
        if any(self.without_outline):
            logging.warning(
                '%s: %d annotations have a box and no outline, so what is in it is ignored; %d have neither, and are'
                ' background',
                *(path, *self.without_outline),
            )

    def _take_images(self, items: Any, folder: pathlib.Path) -> None:
        names = [coco_annotations.field(item, 'file_name', 'an image') for item in items]
        for name, item in sorted(zip(names, items, strict=True), key=lambda pair: pair[0]):
            size = (item.get('height'), item.get('width'))
            if any(type(side) is not int or side < 1 for side in size):
                raise ValueError(f'image {name} of height {size[0]!r} and width {size[1]!r}')
            self.images[self._number(item, 'id', f'image {name}')] = (folder / name, *size)

    def _number(self, item: Any, field: str, what: str) -> int:
        """A number for an id: itself, or for a text one that stands for it."""
        return self._number_of(coco_annotations.id_of(coco_annotations.field(item, field, what), f'{field} of {what}'))

    def _number_of(self, value: coco_annotations.Id) -> int:
        if isinstance(value, str):
            return self.texts.setdefault(value, TEXTS + len(self.texts))
        if not abs(value) < TEXTS:
            raise ValueError(f'the id {value} is too large')
        return value

    def _shown(self, number: int) -> str:
        return next((repr(text) for text, given in self.texts.items() if given == number), str(number))

    def _check_regions(self, path: pathlib.Path) -> None:
        """InputError unless runs fill their images, and all numbers are finite and not too large."""
        for image, *size in sorted(self.run_sizes):
            _, height, width = self.images[image]
            if size != [height, width]:
                raise InputError(f'{path}: runs of {size[0]}x{size[1]} in image_id {image} of {height}x{width} pixels')
        wrong = np.flatnonzero(~(np.abs(np.array(self.values)) <= LARGEST))  # a view would lock the array
        if wrong.size:
            region = np.searchsorted(np.array(self.regions[::5]), wrong[0], side='right')
            image = self.regions[5 * int(region) + 1]
            raise InputError(f'{path}: a polygon of image_id {image} has the coordinate {self.values[wrong[0]]}')

    def _take(self, item: dict[str, Any]) -> dict[str, Any] | None:
        """Called with every object of the file; what it returns takes the object's place."""
        if not coco_annotations.is_annotation(item):
            return item
        found = coco_annotations.read(item)
        image, category = self._number_of(found.image), self._number_of(found.category)
        shapes: Sequence[Sequence[coco_annotations.Number]] = found.polygons
        form, crowd, area = POLYGON, found.crowd, found.area
        if found.runs is not None:
            shapes, form = [_runs(found.runs)], RUNS
            self.run_sizes.add((image, *found.runs['size']))
        elif not shapes:  # nothing is known but a box, if that
            self.without_outline[not found.box] += 1
            shapes, crowd = [coco_annotations.box_polygon(found.box)] if found.box else [], True
        for shape in shapes:
            try:
                self.values.extend(shape)
            except TypeError as error:
                raise ValueError(f'a polygon of annotation {item.get("id")} holds what is no number: {error}') from None
            self.regions.extend((len(self.values), image, category, form, int(crowd)))
        if not crowd:
            if area is None:
                area = sum(shapes[0][1::2]) if form == RUNS else sum(map(coco_annotations.polygon_area, shapes))
            self.areas[image, category] = self.areas.get((image, category), 0.0) + area
        return None

    def keep(self, split: str) -> Coco:
        """The data set made of what was read."""
        pixels = dict.fromkeys(self.images, 0.0)
        for (image, category), area in self.areas.items():
            pixels[image] += area if self.labels[category] else 0.0
        kept = [number for number in self.images if pixels[number] > MIN_PIXELS]
        files = [self.images[number] for number in kept]
        for path, _, _ in files:
            if not path.is_file():
                raise InputError(f'there is no image {path}, which the annotations of {split} list')

        ends, images, categories, forms, crowds = np.array(self.regions, np.int64).reshape(-1, 5).T
        numbers = {number: place for place, number in enumerate(kept)}
        place = np.array([numbers.get(number, -1) for number in images.tolist()], np.int64)
        label = np.array([self.labels[number] for number in categories.tolist()], np.int64)
        wanted = (place >= 0) & (label > 0)
        order = np.lexsort((crowds, place))
        order = order[wanted[order]]
        first = np.concatenate([[0], ends])[order]
        lengths = ends[order] - first
        until = np.cumsum(lengths)
        source = np.repeat(first - (until - lengths), lengths) + np.arange(lengths.sum())
        value = np.where(crowds[order] > 0, IGNORE_LABEL, label[order])
        return Coco(
            split,
            tuple(path for path, _, _ in files),
            np.array([size for _, *size in files], np.int32).reshape(-1, 2),
            np.searchsorted(place[order], np.arange(len(files) + 1)).astype(np.int32),
            np.stack([until - lengths, until, value, forms[order]], axis=1).astype(np.int32),
            np.frombuffer(self.values)[source] if len(source) else np.zeros(0),
        )


def _paint(label: UInt8[np.ndarray, 'H W'], mask: Bool[np.ndarray, 'H W'], value: int) -> None:
    """Writes a class into the label: ignored where another class is, and a crowd only where nothing is yet."""
    if value == IGNORE_LABEL:
        label[mask & (label == 0)] = IGNORE_LABEL
        return
    twofold = mask & (label != 0) & (label != value)
    label[mask] = value
    label[twofold] = IGNORE_LABEL


def _runs(shape: Mapping[str, Any]) -> list[int]:
    """Lengths of the runs of a region; ValueError unless they fill its size."""
    counts, size = (coco_annotations.field(shape, name, 'a region of runs') for name in ('counts', 'size'))
    counts = decode_counts(counts) if isinstance(counts, str) else counts
    if not isinstance(size, list) or len(size) != 2 or not isinstance(counts, list) or not counts:
        raise ValueError(f'runs {str(counts)[:40]} of size {str(size)[:40]}; they are lists, of two numbers the size')
    height, width = size
    if not all(type(count) is int for count in counts):
        raise ValueError('runs that are not integers')
    if sum(counts) != height * width or min(counts) < 0:
        raise ValueError(f'runs of {sum(counts)} pixels in an image of {height}x{width}')
    return counts


def decode_counts(text: str) -> list[int]:
    """Lengths of runs from the compressed form (cocoapi, common/maskApi.c): 5 bits a character from the lowest on, bit
    5 says that more follow, the last one's bit 4 is the sign; from the fourth on they are added to the last but one.
    """
    counts: list[int] = []
    number, shift = 0, 0
    for character in text:
        bits = ord(character) - 48
        number |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        number -= (1 << shift) if bits & 16 else 0
        counts.append(number + (counts[-2] if len(counts) > 2 else 0))
        number, shift = 0, 0
    return counts


def fill(shapes: Sequence[tuple[int, Float64[np.ndarray, ' V']]], size: Size) -> Bool[np.ndarray, 'H W']:
    """Pixels of any of these regions, each (form, values)."""

    def compressed(form: int, values: Float64[np.ndarray, ' V']) -> dict[str, Any]:
        if form == POLYGON:
            (region,) = coco_mask.frPyObjects([values], *size)
        else:
            region = coco_mask.frPyObjects({'size': size, 'counts': values.astype(np.int64).tolist()}, *size)
        return region

    union = coco_mask.merge([compressed(*shape) for shape in shapes])
    return fill_runs(np.array(decode_counts(union['counts'].decode()), np.int32), size)


def fill_runs(counts: Int32[np.ndarray, ' K'], size: Size) -> Bool[np.ndarray, 'H W']:
    """Where the region is whose runs down the columns have these lengths, the first of them outside."""
    inside = np.arange(len(counts)) % 2 == 1
    return np.repeat(inside, counts).reshape(size[::-1]).T
