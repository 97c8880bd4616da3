"""COCO keypoints (Lin et al. 2014, arXiv:1405.0312): 17 joints of people; files in a folder of the user's.

The root holds, as the zip files leave it,

    annotations/person_keypoints_{train,val}2017.json     train2017/*.jpg, val2017/*.jpg (or in images/)

An example is a person that is no crowd, has a box and a labelled joint, as in the release of Simple Baselines
(arXiv:1804.06208). With `detections`, a JSON list of boxes as COCO's results have them (`image_id`, `category_id`,
`bbox`, `score`), the examples of val are those boxes of people, as the published numbers are measured. Either way
average precision is counted against all annotated people of val.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import ml_collections
import numpy as np
from jaxtyping import UInt8

from dpc_jax import box_files, datasets, files, people
from dpc_jax.base import InputError, Person, Size
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

    read_by: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def reading(self) -> dict[str, Any]:
        """Whose boxes the examples are."""
        return dict(self.read_by)


def load(config: ml_collections.ConfigDict, split: str) -> CocoKeypoints:
    """The people of a split. config: `root` (str); it may have `detections` (str)."""
    root = datasets.open_root(config.root, CocoKeypoints.name)
    path = root / f'annotations/person_keypoints_{split}2017.json'
    folder = datasets.first_folder(root, (f'{split}2017', f'images/{split}2017'))
    held = _read(path)
    with _one_line(str(path)):
        images = {
            int(image['id']): Image(str(image['file_name']), (int(image['height']), int(image['width'])))
            for image in held['images']
        }
    annotations = [
        _completed(entry, f'{path}, annotation {number}') for number, entry in enumerate(held['annotations'])
    ]
    rows = list(_annotated(annotations, images, folder, str(path)))
    detections = config.get('detections', '')
    if detections and split == 'val':
        rows = list(_detected(detections, images, folder))
        if not rows:
            raise InputError(f'{detections} has no boxes of people')
    if not rows:
        raise InputError(f'{path}: no person has a labelled joint')
    truth = {
        'images': [{'id': number} for number in images],
        'annotations': [
            {**{name: entry[name] for name in KEPT}, 'bbox': entry['bbox'] or [0.0] * 4} for entry in annotations
        ],
        'categories': [{'id': 1, 'name': 'person', 'keypoints': list(JOINTS), 'skeleton': []}],
    }
    sizes = {number: image.size for number, image in images.items()}
    return CocoKeypoints(split, people.table(rows, len(JOINTS), sizes), truth, {'detections': detections})


class Image(NamedTuple):
    """An image of the annotations."""

    file_name: str
    size: Size


@contextlib.contextmanager
def _one_line(place: str) -> Iterator[None]:
    """Within it what is not as COCO has it is one line."""
    try:
        yield
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise InputError(f'{place} is not as in COCO: {type(error).__name__} {error}') from None


def _completed(entry: Any, place: str) -> dict[str, Any]:
    """An annotation with all that pycocotools reads; what may be missing is worked out."""
    with _one_line(place):
        entry = dict(entry)
        values = entry['keypoints']
        if not isinstance(values, list) or len(values) % 3:
            raise InputError(f'{place}: its keypoints are not (x, y, visibility) of each joint')
        points = np.array(values, np.float64).reshape(-1, 3)
        if not np.isin(points[:, 2], (0, 1, 2)).all():
            raise InputError(f'{place}: a visibility is none of 0 (not labelled), 1 (covered) and 2 (visible)')
        box = [float(value) for value in entry.get('bbox') or ()]
        area = box[2] * box[3] if len(box) == 4 else 0.0
        known = {'iscrowd': 0, 'category_id': 1, 'area': area, 'num_keypoints': int((points[:, 2] > 0).sum())}
        known |= {name: entry[name] for name in known if entry.get(name) is not None}
        return {**entry, **known, 'id': int(entry['id']), 'bbox': box, 'area': float(known['area'])}


def _read(path: pathlib.Path) -> Mapping[str, Any]:
    held = files.read_json(path)
    if not (isinstance(held, dict) and all(isinstance(held.get(name), list) for name in ('images', 'annotations'))):
        raise InputError(f"{path} is no file of COCO keypoints: it has no lists 'images' and 'annotations'")
    found: Mapping[str, Any] = held
    return found


def _annotated(
    annotations: Sequence[Mapping[str, Any]], images: Mapping[int, Image], folder: pathlib.Path, path: str
) -> Iterator[Row]:
    """The people with a labelled joint and a box that has an area."""
    for entry in annotations:
        place = f'{path}, annotation {entry["id"]}'
        with _one_line(place):
            image = images.get(entry['image_id'])
        if image is None:
            raise InputError(f'{place} is of the image {entry["image_id"]}, which is not there')
        if entry['iscrowd']:
            continue
        values = entry['keypoints']
        points = people.joints_of(np.array(values, np.float32).reshape(-1, 3)[:, :2].tolist(), len(JOINTS), place)
        visible = np.array(values[2::3], np.uint8)
        if not visible.any() or not entry['area'] > 0:
            continue
        box = box_files.inside(entry['bbox'] or None, image.size, place)
        number, of_image = int(entry['id']), int(entry['image_id'])
        yield folder / image.file_name, _person(points, visible, box, 1.0, number, of_image)


def _detected(detections: str, images: Mapping[int, Image], folder: pathlib.Path) -> Iterator[Row]:
    """The boxes of a detector, as they are."""
    nowhere, nothing = np.zeros((len(JOINTS), 2), np.float32), np.zeros(len(JOINTS), np.uint8)
    for number, entry in enumerate(box_files.read(detections)):
        place = f'{detections}, box {number}'
        with _one_line(place):
            image = images.get(entry.image)
        if image is None:
            raise InputError(f'{place} is of the image {entry.image}, which is not there')
        box_files.check(entry.box, image.size, place)
        yield folder / image.file_name, _person(nowhere, nothing, entry.box, entry.score, number, int(entry.image))


def _person(
    points: np.ndarray, visible: np.ndarray, box: box_files.Corners, score: float, number: int, image: int
) -> Person:
    x, y, width, height = box
    centre, size = (x + width / 2, y + height / 2), (height, width)
    return Person(points, visible, centre, size, 0.0, score, number, image)
