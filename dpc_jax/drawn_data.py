"""Small drawn data sets in the folders of the real ones, so that any config can be tried without the real data.

An image is a ground and four shapes in the colours of their classes, with noise; the rims of shapes are ignored, as in
PASCAL VOC. The ground is class 0 where that is the background, and else a class like the others.
"""

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import ml_collections
import numpy as np
from jaxtyping import Bool, Float64, UInt, UInt8
from PIL import Image

from dpc_jax import checks, datasets, drawn_people, files
from dpc_jax.base import IGNORE_LABEL, InputError, Size
from dpc_jax.canvas import Canvas, Colour, Point
from dpc_jax.datasets import camvid, coco, folders

SHAPES = 4  # in an image
NOISE = 8.0  # gray levels
INSIDE = 0.85  # share of a shape that has its label; the rest is its rim

CITIES = {'train': 'aachen', 'val': 'frankfurt', 'test': 'berlin', 'train_extra': 'troisdorf'}
COCO_IDS = (5, 2, 16, 9, 44, 6, 3, 17, 62, 21, 67, 18, 19, 4, 1, 64, 20, 63, 7, 72)  # of VOC's classes, as in its files
CROWD = 'person'
METRE = 5000  # value of drawn distances


class Shape(NamedTuple):
    """What is drawn on the ground."""

    label: int
    points: Float64[np.ndarray, 'K 2']  # (x, y), pixels


class Drawing(NamedTuple):
    """An example before it is in files."""

    image: UInt8[np.ndarray, 'H W 3']
    label: UInt8[np.ndarray, 'H W']
    shapes: tuple[Shape, ...]  # from below to above


Drawings = Mapping[str, Sequence[Drawing]]
"""Drawings by the part of the data set that they are for."""

Kind = type[datasets.Dataset]


def names() -> tuple[str, ...]:
    """The data sets that `write` can draw."""
    return tuple(sorted(LAYOUTS))


def write(
    name: str,
    root: pathlib.Path,
    count: int,
    *,
    config: ml_collections.ConfigDict | None = None,
    size: Size = (72, 96),
    seed: int = 0,
) -> None:
    """Draws the data set `name` into the folder `root`, which is made: `count` images for each of its parts.

    The parts of a name are in LAYOUTS; its other splits are made of them, as in the real one (`trainval` has twice
    `count`, and so has `train_aug`). `config` is that of a data set whose facts depend on it; without one, an example
    is drawn. Equal arguments give equal pixels. InputError if it cannot be drawn.
    """
    if name not in LAYOUTS:
        raise InputError(f'the data set {name!r} cannot be drawn; there are: {", ".join(names())}')
    checks.at_least(1, dataset__generated=count)
    parts, lay_out, draw_one = LAYOUTS[name]
    kind = datasets.kind(config or ml_collections.ConfigDict({'name': name, 'generated': count}))
    parts = parts or kind.splits
    drawings = {
        part: [draw_one(np.random.default_rng((seed, place, number)), kind, size, number) for number in range(count)]
        for place, part in enumerate(parts)
    }
    root.mkdir(parents=True, exist_ok=True)
    lay_out(root, drawings, kind)


def prepared(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> ml_collections.ConfigDict:
    """`config.dataset` with a root: where it has none and `generated` > 0, of data drawn into the workdir.

    They are drawn once, into `<workdir>/data/<name>`, which appears only when it is complete.
    """
    count = config.get('generated', 0)
    if config.get('root', None) != '' or count == 0:
        return config
    folder = workdir / 'data' / config.name
    if not folder.is_dir():
        try:
            with files.whole(folder) as draft:
                write(config.name, draft, count, config=config)
        except OSError:
            if not folder.is_dir():  # else another process was faster, with the same data
                raise
    drawn = config.copy_and_resolve_references()
    drawn.root = str(folder)
    return drawn


def draw(random: np.random.Generator, kind: Kind, size: Size, number: int) -> Drawing:
    """Image `number` of a part; the classes take turns, so that a few images hold all."""
    classes = np.arange(len(kind.classes))[kind.classes[0] == 'background' :]
    ground = 0 if kind.classes[0] == 'background' else int(classes[number % len(classes)])
    canvas = Canvas(np.empty((*size, 3), np.uint8), np.full(size, ground, np.uint8))
    canvas.image[:] = _colour(kind, ground)
    shapes = []
    for place in range(SHAPES):
        label = int(classes[(SHAPES * number + place) % len(classes)])
        centre = np.array([0.25 + 0.5 * (place % 2), 0.25 + 0.5 * (place // 2)]) + random.uniform(-0.08, 0.08, 2)
        corners = 4 if label % 2 else 12
        turns = (np.arange(corners) + 0.5) * 2 * np.pi / corners
        outline = np.stack([np.cos(turns), np.sin(turns)], axis=1) * random.uniform(0.17, 0.27, 2)
        canvas.polygons([_points(centre + outline)], _colour(kind, label), IGNORE_LABEL)
        canvas.polygons([_points(centre + INSIDE * outline)], _colour(kind, label), label)
        shapes.append(Shape(label, np.clip((centre + outline) * size[::-1], 0, size[::-1])))
    light = random.uniform(0.9, 1.1) * canvas.image + random.normal(0, NOISE, canvas.image.shape)
    return Drawing(np.rint(np.clip(light, 0, 255)).astype(np.uint8), canvas.label, tuple(shapes))


def _points(outline: Float64[np.ndarray, 'K 2']) -> list[Point]:
    return [(x, y) for x, y in outline.tolist()]


def _colour(kind: Kind, label: int) -> Colour:
    red, green, blue = (30 + 0.75 * kind.palette[label]).astype(int).tolist()
    return red, green, blue


def _save(path: pathlib.Path, pixels: UInt[np.ndarray, '...'], palette: bool = False) -> None:
    """Saves JPEG or PNG, by the name; `palette`: as indices of VOC's colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if palette:
        image = Image.frombytes('P', image.size, pixels.tobytes())
        image.putpalette(datasets.voc_palette(256).tobytes())
    image.save(path, quality=95)


def _save_list(path: pathlib.Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('\n'.join(lines) + '\n', encoding='utf-8')


def _lay_out_camvid(root: pathlib.Path, drawings: Drawings, kind: Kind) -> None:
    for part, drawn in drawings.items():
        lines = []
        for number, drawing in enumerate(drawn):
            image, label = (f'{folder}/{number:04}.png' for folder in (part, f'{part}annot'))
            _save(root / image, drawing.image)
            _save(root / label, np.where(drawing.label == IGNORE_LABEL, np.uint8(camvid.UNKNOWN), drawing.label))
            lines.append(f'{camvid.ORIGINAL_ROOT}{image} {camvid.ORIGINAL_ROOT}{label}')
        _save_list(root / f'{part}.txt', lines)


def _lay_out_cityscapes(root: pathlib.Path, drawings: Drawings, kind: Kind) -> None:
    ids = np.zeros(256, np.uint8)  # 0 is 'unlabeled'
    export_ids = kind.export_ids or ()
    ids[: len(export_ids)] = export_ids
    for part, drawn in drawings.items():
        for number, drawing in enumerate(drawn):
            frame = f'{part}/{CITIES[part]}/{CITIES[part]}_{number:06}_000019'
            unknown = drawing.label == IGNORE_LABEL
            coarse = np.where(cv2.dilate(unknown.astype(np.uint8), np.ones((5, 5))) > 0, IGNORE_LABEL, drawing.label)
            labels = {'gtFine': drawing.label, 'gtCoarse': coarse.astype(np.uint8)}
            if part == 'test':
                labels = {'gtFine': np.full_like(drawing.label, IGNORE_LABEL)}
            elif part == 'train_extra':
                del labels['gtFine']
            _save(root / 'leftImg8bit' / f'{frame}_leftImg8bit.png', drawing.image)
            for folder, label in labels.items():
                _save(root / folder / f'{frame}_{folder}_labelIds.png', ids[label])


def _lay_out_pascal_voc(root: pathlib.Path, drawings: Drawings, kind: Kind) -> None:
    root = root / 'VOCdevkit' / 'VOC2012'
    names = {
        part: [f'{2007 + place}_{number:06}' for number in range(len(drawings[part]))]
        for place, part in enumerate(drawings)
    }
    for part, drawn in drawings.items():
        for name, drawing in zip(names[part], drawn, strict=True):
            _save(root / 'JPEGImages' / f'{name}.jpg', drawing.image)
            if part in ('train', 'val'):
                _save(root / 'SegmentationClass' / f'{name}.png', drawing.label, palette=True)
            if part in ('train', 'aug'):
                _save(root / 'SegmentationClassAug' / f'{name}.png', drawing.label)
    lists = {'train': ('train',), 'val': ('val',), 'trainval': ('train', 'val'), 'test': ('test',)}
    for name, parts in {**lists, 'trainaug': ('train', 'aug')}.items():
        lines = [line for part in parts for line in names[part]]
        _save_list(root / 'ImageSets' / 'Segmentation' / f'{name}.txt', lines)


def _lay_out_person_part(root: pathlib.Path, drawings: Drawings, kind: Kind) -> None:
    folder = root / 'pascal_person_part'
    lines: dict[str, list[str]] = {'trainval': []}
    for place, (part, drawn) in enumerate(drawings.items()):
        for number, drawing in enumerate(drawn):
            name = f'{2008 + place}_{number:06}'
            _save(root / 'JPEGImages' / f'{name}.jpg', drawing.image)
            _save(folder / 'pascal_person_part_gt' / f'{name}.png', drawing.label)
            for split in (part, 'trainval'):
                line = f'/JPEGImages/{name}.jpg /pascal_person_part_gt/{name}.png'
                lines.setdefault(split, []).append(line)
    for split in lines:
        _save_list(folder / 'pascal_person_part_trainval_list' / f'{split}.txt', lines[split])


def _lay_out_coco(root: pathlib.Path, drawings: Drawings, kind: Kind) -> None:
    other = {ours: theirs for theirs, ours in coco.OTHER_NAMES.items()}
    ids = dict(zip(datasets.VOC_CLASSES[1:], COCO_IDS, strict=True))
    categories = [{'id': number, 'name': other.get(name, name)} for name, number in ids.items()]
    for part, drawn in drawings.items():
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number, drawing in enumerate(drawn, start=1):
            height, width = drawing.label.shape
            images.append({'id': number, 'file_name': f'{number:012}.jpg', 'height': height, 'width': width})
            _save(root / f'{part}2017' / f'{number:012}.jpg', drawing.image)
            crowd = np.zeros((height, width), bool)
            crowd[-height // 8 :, : width // 3] = True
            runs = {'size': [height, width], 'counts': run_lengths(crowd)}
            regions: list[tuple[int, int, Any, float]] = [(ids[CROWD], 1, runs, float(crowd.sum()))]
            regions += [(COCO_IDS[label - 1], 0, _polygon(points), _area(points)) for label, points in drawing.shapes]
            for category, is_crowd, segmentation, area in regions:
                annotation = {'id': len(annotations) + 1, 'image_id': number, 'category_id': category}
                annotations.append({**annotation, 'iscrowd': is_crowd, 'segmentation': segmentation, 'area': area})
        path = root / 'annotations' / f'instances_{part}2017.json'
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {'info': {}, 'licenses': [], 'images': images, 'annotations': annotations, 'categories': categories}
        path.write_text(json.dumps(content), encoding='utf-8')


def _polygon(points: Float64[np.ndarray, 'K 2']) -> list[list[float]]:
    return [points.round(2).ravel().tolist()]


def _area(points: Float64[np.ndarray, 'K 2']) -> float:
    (x, y), (next_x, next_y) = points.T, np.roll(points, -1, axis=0).T
    return float(abs((x * next_y - next_x * y).sum()) / 2)


def run_lengths(mask: Bool[np.ndarray, 'H W']) -> list[int]:
    """Lengths of runs down the columns, the first of them outside, as COCO writes crowds."""
    inside = np.concatenate([[False], mask.T.ravel()])
    ends = [*np.flatnonzero(inside[1:] != inside[:-1]).tolist(), mask.size]
    return np.diff([0, *ends]).tolist()


def _lay_out_folders(root: pathlib.Path, drawings: Drawings, kind: Kind) -> None:
    assert issubclass(kind, folders.Folders)
    facts = kind.description
    endings = facts.image_suffix or '.jpg', facts.label_suffix or '.png'
    for part, source in facts.splits:
        names = [f'{part}_{number:04}' for number in range(len(drawings[part]))]
        places = [root / text.replace(folders.SPLIT, str(source)) for text in (facts.images, facts.labels)]
        lines = []
        for name, drawing in zip(names, drawings[part], strict=True):
            image, label = (place / f'{name}{ending}' for place, ending in zip(places, endings, strict=True))
            _save(image, drawing.image)
            _save(label, folders.encode(drawing.label, facts))
            lines.append(name if facts.images else f'{image.name} {label.name}')
        if isinstance(source, str) and folders.SPLIT not in facts.images:
            _save_list(root / source, lines)
    (root / folders.FILE).write_text(facts.to_json(), encoding='utf-8')


def _lay_out_nyudv2(root: pathlib.Path, drawings: Drawings, kind: Kind) -> None:
    """PNG files and lists; each class has a distance of its own, the ground slopes, and rims are missing."""
    for part, drawn in drawings.items():
        lines = []
        for number, drawing in enumerate(drawn):
            rows = np.linspace(6.0, 2.0, drawing.label.shape[0])[:, None]
            metres = np.where(drawing.label == drawing.label[0, 0], rows, 1 + 0.1 * drawing.label)
            depth = np.rint(np.where(drawing.label == IGNORE_LABEL, 0, metres) * METRE).astype(np.uint16)
            names = [f'{folder}/{part}_{number:04}.png' for folder in ('images', 'depth', 'masks40')]
            for name, pixels in zip(names, (drawing.image, depth, drawing.label), strict=True):
                _save(root / name, pixels)
            lines.append('\t'.join(names))
        _save_list(root / f'{part}.txt', lines)


class Layout(NamedTuple):
    """How a data set is drawn."""

    parts: tuple[str, ...]  # none named: each split
    lay_out: Callable[[pathlib.Path, Any, Kind], None]  # makes files of what is drawn
    draw: Callable[[np.random.Generator, Kind, Size, int], Any] = draw


LAYOUTS: Mapping[str, Layout] = {
    'camvid': Layout(('train', 'val', 'test'), _lay_out_camvid),
    'cityscapes': Layout(('train', 'val', 'test', 'train_extra'), _lay_out_cityscapes),
    'pascal_voc': Layout(('train', 'val', 'test', 'aug'), _lay_out_pascal_voc),
    'person_part': Layout(('train', 'val'), _lay_out_person_part),
    'coco': Layout(('train', 'val'), _lay_out_coco),
    'coco_keypoints': Layout((), drawn_people.lay_out_coco, drawn_people.draw),
    'folders': Layout((), _lay_out_folders),
    'mpii': Layout((), drawn_people.lay_out_mpii, drawn_people.draw),
    'nyudv2': Layout((), _lay_out_nyudv2),
}
