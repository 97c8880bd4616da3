"""MPII Human Pose (Andriluka et al. 2014): 16 joints of people in pictures of activities; files in the user's folder.

The root holds `images/` and annotations in one of two forms. The JSON files that Simple Baselines (arXiv:1804.06208)
made of the official ones, in which train is 22 246 people and val 2 958:

    annot/train.json, annot/valid.json       or annotations/mpii_train.json, mpii_val.json; or `train_annotations`, ...
    annot/gt_valid.mat                       boxes of heads (or annotations/mpii_gt_val.mat), by which PCKh is measured

Or the authors' own `mpii_human_pose_v1_u12_1.mat`, which knows no val: the images whose names stand in `val_images.txt`
are val or, without that file, a share `val_share` of the images. It has boxes of heads for all. Where there are none,
`heads='joints'` takes the distance from the upper neck to the top of the head for the size of a head, which is not what
PCKh was published with; without it such people take no part.

In the files pixels are counted from 1. The box of a person is a square of 200 pixels times its `scale`, whose centre is
moved down by 15 of them, as the release of Simple Baselines does.
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import ml_collections
import numpy as np
from jaxtyping import Float, UInt8

from dpc_jax import checks, datasets, files, list_files, matlab_files, people
from dpc_jax.base import InputError, Person
from dpc_jax.datasets import Dataset, Skeleton
from dpc_jax.people import People

JOINTS = (
    *(
        'right ankle',
        'right knee',
        'right hip',
        'left hip',
        'left knee',
        'left ankle',
        'pelvis',
        'thorax',
        'upper neck',
    ),
    *('top of head', 'right wrist', 'right elbow', 'right shoulder', 'left shoulder', 'left elbow', 'left wrist'),
)
LIMBS = (
    *((0, 1), (1, 2), (2, 6), (3, 6), (3, 4), (4, 5), (6, 7), (7, 8), (8, 9)),
    *((10, 11), (11, 12), (12, 7), (13, 7), (13, 14), (14, 15)),
)
NECK, TOP = JOINTS.index('upper neck'), JOINTS.index('top of head')
PIXELS = 200  # of a person of scale 1 (the authors' documentation)
DOWN = 15  # of these, by which the centre is moved (release of Simple Baselines)
HEAD = 0.6  # size of a head / diagonal of its box (SC_BIAS of the official evaluation)

OFFICIAL, VAL_LIST = 'mpii_human_pose_v1_u12_1.mat', 'val_images.txt'
JSON = {
    'train': ('annot/train.json', 'annotations/mpii_train.json'),
    'val': ('annot/valid.json', 'annotations/mpii_val.json'),
}
HEAD_BOXES = ('gt_valid.mat', 'mpii_gt_val.mat')  # beside the JSON of val
HEADS = ('boxes', 'joints')

Row = tuple[pathlib.Path, Person]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Mpii(People, Dataset):
    """People of MPII."""

    name: ClassVar[str] = 'mpii'
    classes: ClassVar[tuple[str, ...]] = JOINTS
    palette: ClassVar[UInt8[np.ndarray, 'L 3']] = datasets.voc_palette(len(JOINTS) + 1)[1:]
    published: ClassVar[Mapping[str, int]] = {'train': 22_246, 'val': 2_958}  # release of Simple Baselines
    targets: ClassVar[tuple[str, ...]] = ('joints',)
    skeleton: ClassVar[Skeleton] = Skeleton(
        JOINTS,
        ((0, 5), (1, 4), (2, 3), (10, 15), (11, 14), (12, 13)),
        LIMBS,
        not_scored=(JOINTS.index('pelvis'), JOINTS.index('thorax')),
    )

    read_by: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def reading(self) -> dict[str, Any]:
        """How heads are measured, and how much of the official file is val."""
        return dict(self.read_by)


def load(config: ml_collections.ConfigDict, split: str) -> Mpii:
    """The people of a split.

    config: `root` (str); it may have `train_annotations` and `val_annotations` (str, '' finds them), `heads` (str), and
    `val_share` (float) of the official file.
    """
    root = datasets.open_root(config.root, Mpii.name)
    heads = config.get('heads', HEADS[0])
    checks.one_of('dataset.heads', heads, HEADS)
    given = config.get(f'{split}_annotations', '')
    found = [given] if given else [name for name in JSON[split] if (root / name).is_file()]
    if found:
        rows = list(_of_json(root, root / found[0]))
    elif (root / OFFICIAL).is_file():
        rows = list(_of_official(root, split, config.get('val_share', 0.0)))
    else:
        raise InputError(f'there is no {root / JSON[split][0]}, nor {JSON[split][1]}, nor {OFFICIAL}')
    if not rows:
        raise InputError(f'{root}: {split} has no people')
    if heads == 'joints':
        rows = [(path, _with_head(person)) for path, person in rows]
    read_by: dict[str, Any] = {'heads': heads}
    if not found and not (root / VAL_LIST).is_file():
        read_by['val_share'] = config.get('val_share', 0.0)
    return Mpii(split, people.table(rows, len(JOINTS)), None, read_by)


def _with_head(person: Person) -> Person:
    if person.head > 0 or not (person.visible[NECK] and person.visible[TOP]):
        return person
    return person._replace(head=float(np.linalg.norm(person.joints[TOP] - person.joints[NECK])))


def _of_json(root: pathlib.Path, path: pathlib.Path) -> Iterator[Row]:
    held = files.read_json(path)
    if not isinstance(held, list) or not all(isinstance(entry, dict) for entry in held):
        raise InputError(f'{path} is not a list of people, as Simple Baselines keeps MPII')
    heads = _heads(path, len(held))
    for number, (entry, head) in enumerate(zip(held, heads, strict=True)):
        place = f'{path}, person {number}'
        missing = [name for name in ('image', 'center', 'scale', 'joints') if name not in entry]
        if missing:
            raise InputError(f"{place} has no '{missing[0]}'")
        joints = people.joints_of(entry['joints'], len(JOINTS), place)
        visible = people.visible_of(entry.get('joints_vis'), len(JOINTS), place)
        image = root / 'images' / str(entry['image'])
        if not image.is_file():
            raise InputError(f'{place}: there is no image {image}')
        try:
            person = _person(joints, visible, entry['center'], entry['scale'], head=head, number=number)
        except (TypeError, ValueError) as error:
            raise InputError(f'{place} has no center (x, y) or no scale: {error}') from None
        yield image, person


def _person(
    joints: Float[np.ndarray, 'J 2'],
    visible: UInt8[np.ndarray, ' J'],
    centre: Any,
    scale: Any,
    *,
    head: float,
    number: int,
) -> Person:
    """A person as the files have one, whose pixels are counted from 1; one with a centre of -1 has none."""
    x, y = (float(value) for value in centre)
    side = float(scale)
    if not (np.isfinite([x, y, side]).all() and side > 0):
        raise InputError(f'person {number} of MPII has the centre ({x}, {y}) and the scale {side}')
    centre_of_box = (x - 1, y + DOWN * side - 1) if x != -1 else (x, y)
    size = (PIXELS * side, PIXELS * side)
    return Person((joints - 1).astype(np.float32), visible, centre_of_box, size, head, 1.0, number, number)


def _heads(path: pathlib.Path, count: int) -> list[float]:
    """Sizes of heads by the boxes beside the JSON of val; 0 where there are none."""
    found = [path.with_name(name) for name in HEAD_BOXES if path.with_name(name).is_file()]
    if not found or 'train' in path.name:
        return [0.0] * count
    boxes = np.asarray(matlab_files.read(found[0], 'headboxes_src'))  # [2, 2, N]
    if boxes.shape != (2, 2, count) or boxes.dtype.kind not in 'iuf':
        raise InputError(f'{found[0]} has boxes {boxes.shape}; {path.name} has {count} people: (2, 2, {count})')
    return [float(size) for size in HEAD * np.linalg.norm(boxes[1] - boxes[0], axis=0)]


# ---- the authors' file ----------------------------------------------------------------------------------------------


def _of_official(root: pathlib.Path, split: str, val_share: float) -> Iterator[Row]:
    path = root / OFFICIAL
    release = matlab_files.read(path, 'RELEASE', squeeze_me=True, struct_as_record=False)
    try:
        images, is_train = np.atleast_1d(release.annolist), np.atleast_1d(release.img_train)
    except AttributeError as error:
        raise InputError(f'{path} is not the annotation of MPII: {error}') from None
    if len(images) != len(is_train) or not all(hasattr(image, 'image') for image in images):
        raise InputError(f'{path}: annolist has {len(images)} images and img_train {len(is_train)} entries')
    names = [str(image.image.name) for image in images]
    val = _val_images(root, [name for name, train in zip(names, is_train, strict=True) if train], val_share)
    of_split = [
        (name, rect)
        for name, image, train in zip(names, images, is_train, strict=True)
        if train and (name in val) == (split == 'val')
        for rect in np.atleast_1d(getattr(image, 'annorect', np.zeros(0)))
    ]
    people_of_split = ((name, person) for name, rect in of_split if (person := _of_rect(rect)) is not None)
    for number, (name, person) in enumerate(people_of_split):
        place = root / 'images' / name
        if not place.is_file():
            raise InputError(f'{path}: there is no image {place}')
        yield place, person._replace(number=number, image_number=number)


def _val_images(root: pathlib.Path, names: Sequence[str], share: float) -> set[str]:
    if (root / VAL_LIST).is_file():
        return {line for _, line in list_files.read_lines(root / VAL_LIST, 'the name of an image')}
    if not 0 < share < 1:
        raise InputError(
            f'dataset.val_share is {share}, and {OFFICIAL} has no val: give a share above 0 and below 1, or {VAL_LIST}'
        )
    ordered = sorted(names, key=lambda name: files.digest([name.encode()]))
    return set(ordered[: max(1, round(share * len(ordered)))])


def _of_rect(rect: Any) -> Person | None:
    """A person of the authors' file; None where it has no place, no scale or no joints."""
    points: Any = getattr(getattr(rect, 'annopoints', None), 'point', None)
    position: Any = getattr(rect, 'objpos', None)
    scale: Any = getattr(rect, 'scale', ())
    if points is None or not hasattr(position, 'x') or not np.size(scale):
        return None
    joints, visible = np.ones((len(JOINTS), 2), np.float32), np.zeros(len(JOINTS), np.uint8)
    for point in np.atleast_1d(points):
        if not 0 <= int(point.id) < len(JOINTS):
            raise InputError(f'{OFFICIAL}: a joint has the id {int(point.id)}; there are {len(JOINTS)}')
        joints[int(point.id)] = float(point.x), float(point.y)
        visible[int(point.id)] = 1  # what is listed is annotated; `is_visible` says whether it is covered
    head = HEAD * float(np.hypot(rect.x2 - rect.x1, rect.y2 - rect.y1)) if np.size(getattr(rect, 'x1', ())) else 0.0
    return _person(joints, visible, (position.x, position.y), float(scale), head=head, number=0)
