"""Drawn people in the files of MPII and COCO keypoints: stick figures whose joints have colours of their own."""

import io
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import scipy.io
from jaxtyping import Float64, UInt8
from PIL import Image

from dpc_jax import datasets
from dpc_jax.base import Size

NOISE = 8.0  # gray levels
GROUND = 150
JITTER = 0.03  # of the height of a person, by which each joint moves
HEIGHT = 0.8  # of the image, that a person has
MATLAB, HEADER = b'MATLAB 5.0 MAT-file', 116  # text at the head of such a file, which otherwise has a date
MISSING = 6  # every so many joints one is not labelled

PLACES: Mapping[str, tuple[float, float]] = {  # (x, y) as shares of a person's height, from the middle of its feet up
    **{'nose': (0.0, 0.92), 'left eye': (0.02, 0.94), 'right eye': (-0.02, 0.94), 'left ear': (0.05, 0.93)},
    **{'right ear': (-0.05, 0.93), 'top of head': (0.0, 1.0), 'upper neck': (0.0, 0.86), 'thorax': (0.0, 0.8)},
    **{'left shoulder': (0.12, 0.8), 'right shoulder': (-0.12, 0.8), 'left elbow': (0.2, 0.65)},
    **{'right elbow': (-0.2, 0.65), 'left wrist': (0.24, 0.5), 'right wrist': (-0.24, 0.5), 'pelvis': (0.0, 0.5)},
    **{'left hip': (0.08, 0.5), 'right hip': (-0.08, 0.5), 'left knee': (0.1, 0.26), 'right knee': (-0.1, 0.26)},
    **{'left ankle': (0.11, 0.0), 'right ankle': (-0.11, 0.0)},
}


class Figure(NamedTuple):
    """A person in a picture, in pixels from 0 on."""

    joints: Float64[np.ndarray, 'J 2']
    visible: UInt8[np.ndarray, ' J']
    box: tuple[float, float, float, float]  # x, y, width, height
    head: tuple[float, float, float, float]  # x1, y1, x2, y2


class Picture(NamedTuple):
    """An example before it is in files."""

    image: UInt8[np.ndarray, 'H W 3']
    people: tuple[Figure, ...]


def draw(random: np.random.Generator, kind: type[datasets.Dataset], size: Size, number: int) -> Picture:
    """A picture of one or two people, as in every other picture."""
    skeleton = kind.skeleton
    assert skeleton is not None
    image = np.full((*size, 3), GROUND, np.uint8)
    count = 1 + number % 2
    people = []
    for place in range(count):
        tall = HEIGHT * size[0] * random.uniform(0.85, 1.0)
        foot = np.array(
            [(place + random.uniform(0.45, 0.55)) * size[1] / count, 0.5 * (size[0] + tall) * random.uniform(0.98, 1.0)]
        )
        relative = np.array([PLACES[name] for name in skeleton.joints]) * (1, -1)
        joints = foot + tall * (relative + JITTER * random.uniform(-1, 1, relative.shape))
        joints = np.clip(joints, 1, np.array(size[::-1]) - 2)
        for one, other in skeleton.limbs:
            ends = np.rint(joints[[one, other]]).astype(int).tolist()
            cv2.line(image, ends[0], ends[1], kind.palette[other].tolist(), max(1, round(tall / 30)), cv2.LINE_AA)
        for point, colour in zip(np.rint(joints).astype(int).tolist(), kind.palette.tolist(), strict=True):
            cv2.circle(image, point, max(1, round(tall / 25)), colour, -1, cv2.LINE_AA)
        visible = np.ones(len(joints), np.uint8)
        visible[number % MISSING :: MISSING * 2] = 0
        low, high = joints.min(0), joints.max(0)
        box = (float(low[0]), float(low[1]), float(high[0] - low[0]), float(high[1] - low[1]))
        head = (float(foot[0] - 0.06 * tall), float(low[1]), float(foot[0] + 0.06 * tall), float(low[1] + 0.14 * tall))
        people.append(Figure(joints.round(2), visible, box, head))
    light = random.uniform(0.9, 1.1) * image + random.normal(0, NOISE, image.shape)
    return Picture(np.rint(np.clip(light, 0, 255)).astype(np.uint8), tuple(people))


def lay_out_mpii(root: pathlib.Path, drawings: Mapping[str, Sequence[Picture]], kind: type[datasets.Dataset]) -> None:
    """The JSON files of Simple Baselines, and the boxes of heads of val; pixels are counted from 1."""
    for part, pictures in drawings.items():
        people: list[dict[str, Any]] = []
        heads = []
        for number, picture in enumerate(pictures):
            name = f'{part}_{number:05}.jpg'
            _save(root / 'images' / name, picture.image)
            for figure in picture.people:
                scale = max(figure.box[2:]) / 200
                x, y = figure.box[0] + figure.box[2] / 2, figure.box[1] + figure.box[3] / 2
                person = {'image': name, 'center': [x + 1, y + 1 - 15 * scale], 'scale': scale}
                points = {'joints': (figure.joints + 1).tolist(), 'joints_vis': figure.visible.tolist()}
                people.append({**person, **points})
                heads.append(figure.head)
        place = root / 'annot' / f'{"valid" if part == "val" else part}.json'
        place.parent.mkdir(exist_ok=True)
        place.write_text(json.dumps(people), encoding='utf-8')
        if part == 'val':
            boxes = np.array(heads).reshape(-1, 2, 2).transpose(1, 2, 0)
            buffer = io.BytesIO()
            scipy.io.savemat(buffer, {'headboxes_src': boxes})
            undated = MATLAB.ljust(HEADER) + buffer.getvalue()[HEADER:]
            (root / 'annot' / 'gt_valid.mat').write_bytes(undated)


def lay_out_coco(root: pathlib.Path, drawings: Mapping[str, Sequence[Picture]], kind: type[datasets.Dataset]) -> None:
    """As COCO's zip files of 2017."""
    for part, pictures in drawings.items():
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number, picture in enumerate(pictures, start=1):
            height, width = picture.image.shape[:2]
            images.append({'id': number, 'file_name': f'{number:012}.jpg', 'height': height, 'width': width})
            _save(root / f'{part}2017' / f'{number:012}.jpg', picture.image)
            for figure in picture.people:
                seen = 2 * figure.visible
                points = np.concatenate([figure.joints * figure.visible[:, None], seen[:, None]], 1)
                annotation = {'id': len(annotations) + 1, 'image_id': number, 'category_id': 1, 'iscrowd': 0}
                area = 0.5 * figure.box[2] * figure.box[3]
                of_box = {'bbox': [round(value, 2) for value in figure.box], 'area': area}
                counted = {'keypoints': points.ravel().tolist(), 'num_keypoints': int(figure.visible.sum())}
                annotations.append({**annotation, **of_box, **counted})
        category = {'id': 1, 'name': 'person', 'keypoints': list(kind.classes), 'skeleton': []}
        content = {'images': images, 'annotations': annotations, 'categories': [category]}
        path = root / 'annotations' / f'person_keypoints_{part}2017.json'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), encoding='utf-8')


def _save(path: pathlib.Path, pixels: UInt8[np.ndarray, 'H W 3']) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=95)
