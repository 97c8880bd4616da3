"""COCO keypoints (Lin et al. 2014, arXiv:1405.0312): 17 joints of people; files in a folder of the user's.

The root holds, as the zip files leave it,

    annotations/person_keypoints_{train,val}2017.json     train2017/*.jpg, val2017/*.jpg (or in images/)

An example is a person that is no crowd, has a box and a labelled joint, as in the release of Simple Baselines
(arXiv:1804.06208). With `detections`, a JSON list of boxes as COCO's results have them (`image_id`, `category_id`,
`bbox`, `score`), the examples of val are those boxes of people, as the published numbers are measured. Either way
average precision is counted against all annotated people of val.
"""

import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import ml_collections
import numpy as np
from jaxtyping import UInt8

from dpc_jax import box_files, datasets, files, people
from dpc_jax.base import InputError, Person
from dpc_jax.datasets import Dataset, Skeleton
from dpc_jax.people import People

JOINTS = (
    *('nose', 'left eye', 'right eye', 'left ear', 'right ear', 'left shoulder', 'right shoulder', 'left elbow'),
    *('right elbow', 'left wrist', 'right wrist', 'left hip', 'right hip', 'left knee', 'right knee', 'left ankle'),
    'right ankle',
)
LIMBS = (
    *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10)),
    *((1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
)
# Deviations by which annotators differ / size of a person (COCO's evaluation of keypoints).
SIGMAS = (
    *(0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062),
    *(0.107, 0.107, 0.087, 0.087, 0.089, 0.089),
)
KEPT = ('id', 'image_id', 'category_id', 'iscrowd', 'area', 'bbox', 'keypoints', 'num_keypoints')
"""Fields of an annotation that pycocotools reads."""

Row = tuple[pathlib.Path, Person]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class CocoKeypoints(People, Dataset):
    """People of COCO."""

    name: ClassVar[str] = 'coco_keypoints'
    classes: ClassVar[tuple[str, ...]] = JOINTS
    palette: ClassVar[UInt8[np.ndarray, 'L 3']] = datasets.voc_palette(len(JOINTS) + 1)[1:]
    targets: ClassVar[tuple[str, ...]] = ('joints',)
    skeleton: ClassVar[Skeleton] = Skeleton(
        JOINTS, tuple((left, left + 1) for left in range(1, len(JOINTS), 2)), LIMBS, SIGMAS
    )


def load(config: ml_collections.ConfigDict, split: str) -> CocoKeypoints:
    """The people of a split. config: `root` (str); it may have `detections` (str)."""
    root = datasets.open_root(config.root, CocoKeypoints.name)
    path = root / f'annotations/person_keypoints_{split}2017.json'
    folder = datasets.first_folder(root, (f'{split}2017', f'images/{split}2017'))
    held = _read(path)
    images = {int(image['id']): image for image in held['images']}
    annotated = list(_annotated(held['annotations'], images, folder, str(path)))
    rows, detections = annotated, config.get('detections', '')
    if detections and split == 'val':
        rows = list(_detected(detections, images, folder))
    if not rows:
        raise InputError(f'{path}: no person has a labelled joint')
    truth = {
        'images': [{'id': number} for number in images],
        'annotations': [{name: entry[name] for name in KEPT if name in entry} for entry in held['annotations']],
        'categories': [{'id': 1, 'name': 'person', 'keypoints': list(JOINTS), 'skeleton': []}],
    }
    return CocoKeypoints(split, people.table(rows, len(JOINTS)), truth)


def _read(path: pathlib.Path) -> Mapping[str, Any]:
    try:
        held = json.loads(files.text(path.read_bytes()))
        if not all(isinstance(held[name], list) for name in ('images', 'annotations')):
            raise TypeError('images and annotations are lists')
    except FileNotFoundError:
        raise InputError(f'there is no {path}') from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f'{path} is no file of COCO keypoints: {type(error).__name__} {error}') from None
    found: Mapping[str, Any] = held
    return found


def _annotated(
    annotations: Sequence[Mapping[str, Any]], images: Mapping[int, Any], folder: pathlib.Path, path: str
) -> Iterator[Row]:
    """The people with a labelled joint and a box that has an area."""
    for entry in annotations:
        place = f'{path}, annotation {entry.get("id")}'
        image = images.get(entry.get('image_id', -1))
        if image is None:
            raise InputError(f'{place} is of the image {entry.get("image_id")}, which is not there')
        if entry.get('iscrowd', 0):
            continue
        values = entry.get('keypoints')
        if not isinstance(values, list) or len(values) % 3:
            raise InputError(f'{place}: its keypoints are not (x, y, visibility) of each joint')
        points = people.joints_of(np.array(values, np.float32).reshape(-1, 3)[:, :2].tolist(), len(JOINTS), place)
        visible = np.array(values[2::3], np.uint8)
        if not visible.any() or not entry.get('area', 0) > 0:
            continue
        box = box_files.inside(entry.get('bbox'), (image['height'], image['width']), place)
        number, of_image = int(entry['id']), int(entry['image_id'])
        yield _file(folder, image), _person(points, visible, box, 1.0, number, of_image)


def _detected(detections: str, images: Mapping[int, Any], folder: pathlib.Path) -> Iterator[Row]:
    """The boxes of a detector."""
    nowhere, nothing = np.zeros((len(JOINTS), 2), np.float32), np.zeros(len(JOINTS), np.uint8)
    for number, entry in enumerate(box_files.read(detections)):
        place = f'{detections}, box {number}'
        image = images.get(entry.image)
        if image is None:
            raise InputError(f'{place} is of the image {entry.image}, which is not there')
        box = box_files.inside(entry.box, (image['height'], image['width']), place)
        yield _file(folder, image), _person(nowhere, nothing, box, entry.score, number, entry.image)


def _person(
    points: np.ndarray, visible: np.ndarray, box: box_files.Corners, score: float, number: int, image: int
) -> Person:
    x, y, width, height = box
    centre, size = (x + width / 2, y + height / 2), (height, width)
    return Person(points, visible, centre, size, 0.0, score, number, image)


def _file(folder: pathlib.Path, image: Mapping[str, Any]) -> pathlib.Path:
    return folder / str(image['file_name'])
