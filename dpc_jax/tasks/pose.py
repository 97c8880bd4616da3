"""Poses: the joints of one person at a time, top down, as Simple Baselines (Xiao et al., arXiv:1804.06208) finds them.

The network sees a crop around the box of a person and gives a heat map for each joint. Augmentation, heat maps, loss,
refinement by a quarter of a cell and flip test are those of the recipe; its crops of 256x256 and 256x192 are 257x257
and 257x193 here, so that the cells of a map of stride 4 lie on pixels. Heat maps of a decoder of another stride are
resized to `stride`. What is measured follows the data set: PCKh, or COCO's average precision.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8
from matplotlib.figure import Figure

from dpc_jax import checks, ops, pose
from dpc_jax.base import InputError, MainScore, PoseExample, Shown, Size
from dpc_jax.datasets import Dataset, Facts, Skeleton
from dpc_jax.pose import Found
from dpc_jax.task import Counts, Piece, Row, Seen, Target, Task, Views, Written, no_classes
from dpc_jax.tasks import field

MARGIN = 1.25  # of a box (released code)
HIT = 0.5  # of a tenth of the crop's height: the accuracy that the released code prints in training
PCKH = MainScore('pckh_0.5', 'PCKh@0.5', '%', 100.0, highest=True)
AP = MainScore('ap', 'AP', '%', 100.0, highest=True)


@dataclasses.dataclass(frozen=True)
class Pose(Task):
    """A heat map for each of J joints; targets are {'joints': [J, 2] pixels of the crop, 'visible': [J]}.

    Attributes:
      stride: pixels of the crop between cells of a heat map.
      sigma: deviation of a joint's Gaussian, in cells.
      zoom: deviation of the random zoom of a crop, which is cut off at 1 - zoom and 1 + zoom.
      turn: deviation of the random turn in degrees, which is cut off at twice that.
      turned: probability of a turn.
      size: of the crops that are predicted (height, width); (0, 0) where it is not known.
    """

    stride: int = 4
    sigma: float = 2.0
    zoom: float = 0.25
    turn: float = 30.0
    turned: float = 0.6
    size: Size = (0, 0)

    name: ClassVar[str] = 'pose'
    needs: ClassVar[tuple[str, ...]] = ('joints',)
    of_crops: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checks.at_least(1, task__stride=self.stride)
        if not self.sigma > 0:
            raise InputError(f'task.sigma is {self.sigma}; it must be above 0')
        checks.below_one('task.zoom', self.zoom)
        checks.at_least(0, task__turn=self.turn)
        if not 0 <= self.turned <= 1:
            raise InputError(f'task.turned is {self.turned}; it must be a probability')

    @property
    def skeleton(self) -> Skeleton:
        """Of the data set."""
        assert self.facts.skeleton is not None  # `tasks.of` asks for joints
        return self.facts.skeleton

    @property
    def main(self) -> MainScore:  # type: ignore[override]  # here it follows the data set
        """PCKh@0.5, or average precision where the data set has sigmas."""
        return AP if self.skeleton.sigmas else PCKH

    @property
    def logged(self) -> tuple[str, ...]:  # type: ignore[override]
        """The main score and another one."""
        return ('ap', 'ar') if self.skeleton.sigmas else ('pckh_0.5', 'pckh_0.1')

    @property
    def names(self) -> tuple[str, ...]:
        """The joints."""
        return self.skeleton.joints

    @property
    def palette(self) -> UInt8[np.ndarray, 'L 3']:
        """Of the data set."""
        return np.array(self.facts.palette, np.uint8)

    def fields(self) -> dict[str, Any]:
        """All of them."""
        kept = ('stride', 'sigma', 'zoom', 'turn', 'turned', 'size')
        return {'name': self.name, **{name: getattr(self, name) for name in kept}}

    def check_training(self, train: ml_collections.ConfigDict) -> None:
        """Scales are drawn by `zoom`, and there are no classes."""
        if tuple(train.scales) != (1.0,):
            raise InputError(f"train.scales is {tuple(train.scales)}; the task 'pose' zooms by task.zoom: (1.0,)")
        no_classes(train, self.name)

    def check_size(self, field: str, size: Size) -> None:
        """The cells of a heat map lie on pixels, the last ones on the last."""
        if any((side - 1) % self.stride for side in size):
            raise InputError(f'{field} is {size} and task.stride {self.stride}, which must divide both sides less 1')

    def announce(self, dataset: Dataset) -> None:
        """Prints how many joints are labelled in a sample of the people, and warns where heads have no size."""
        pose.announce(dataset, self.skeleton)

    # ---- what a network sees ----------------------------------------------------------------------------------------

    def augment(self, key: np.random.SeedSequence, example: PoseExample, views: Views) -> Seen:
        """Zoomed, turned and perhaps mirrored, by the recipe; in a mirror left and right joints change places."""
        rng = np.random.default_rng(key)
        zoom = float(np.clip(1 + self.zoom * rng.standard_normal(), 1 - self.zoom, 1 + self.zoom))
        turn = float(np.clip(self.turn * rng.standard_normal(), -2 * self.turn, 2 * self.turn))
        turn = turn if rng.random() < self.turned else 0.0
        mirrored = bool(rng.random() < views.flip_probability)
        return self._seen(example, views.crop_size, zoom=zoom, turn=turn, mirrored=mirrored)

    def whole(self, example: PoseExample, size: Size) -> Seen:
        """The crop of the box."""
        return self._seen(example, size)

    def _seen(
        self, example: PoseExample, size: Size, *, zoom: float = 1.0, turn: float = 0.0, mirrored: bool = False
    ) -> Seen:
        person = example.person
        matrix = pose.affine(
            person.centre, pose.fitted_size(person.size, size, MARGIN * zoom), size, turn=turn, mirrored=mirrored
        )
        order = self._mirror if mirrored else slice(None)
        joints = pose.moved(person.joints, matrix)[order].astype(np.float32)
        visible = (person.visible > 0)[order].astype(np.float32)
        return Seen(pose.crop(example.image, matrix, size), {'joints': joints, 'visible': visible})

    @property
    def _mirror(self) -> list[int]:
        """The joints in the order that they have in a mirror."""
        order = list(range(self.channels))
        for one, other in self.skeleton.pairs:
            order[one], order[other] = other, one
        return order

    def nothing(self, size: Size) -> Target:
        """No joint is labelled."""
        return {'joints': np.zeros((self.channels, 2), np.float32), 'visible': np.zeros(self.channels, np.float32)}

    def size_of(self, example: PoseExample) -> Size:
        """Crops have one size."""
        return (0, 0)

    # ---- training ---------------------------------------------------------------------------------------------------

    def fitted(self, logits: Float[Array, 'B _ _ L'], size: Size) -> Float[Array, 'B L _ _']:
        """The heat maps at `stride`."""
        return super().fitted(logits, self.output_size(size)).astype(jnp.float32)

    def counted(self, target: Target) -> Int[Array, '']:
        """All joints, labelled or not: the released loss is the mean over all heat maps."""
        return jnp.int32(target['visible'].size)

    def loss(
        self,
        fitted: Float[Array, 'B L _ _'],
        target: Target,
        *,
        counted: Float[Array, ''],
        step: Int[Array, ''],
        parts: int,
    ) -> Float[Array, '']:
        """Half of the mean squared difference of the heat maps, those of joints that are not labelled left out."""
        size = (fitted.shape[2], fitted.shape[3])
        maps, inside = pose.drawn(target['joints'], size, stride=self.stride, sigma=self.sigma)
        weight = jnp.where(inside, target['visible'], 0)[..., None, None]
        return 0.5 * (weight * (fitted - maps) ** 2).mean((2, 3)).sum() / counted

    def hits(self, fitted: Float[Array, 'B L _ _'], target: Target) -> Int[Array, '']:
        """Labelled joints that lie within half a tenth of the crop's height of the truth."""
        found = pose.joints_of(fitted, stride=self.stride)
        near = HIT * self.stride * fitted.shape[2] / 10
        distance = jnp.sqrt(((found[..., :2] - target['joints']) ** 2).sum(-1))
        return ((distance < near) & (target['visible'] > 0)).sum()

    def judged(self, target: Target) -> Int[Array, '']:
        """Labelled joints."""
        return (target['visible'] > 0).sum()

    # ---- inference --------------------------------------------------------------------------------------------------

    def output_size(self, size: Size) -> Size:
        """A cell at every `stride`-th pixel."""
        return -(-size[0] // self.stride), -(-size[1] // self.stride)

    def of_pass(
        self, logits: Float[Array, 'B H W L'], mirrored: bool | Bool[Array, ''], *, scale: float, alone: bool
    ) -> Float[Array, 'B H W L']:
        """Heat maps; of a mirrored crop those of left and right change places."""
        return jnp.where(mirrored, logits[..., np.array(self._mirror)], logits)

    def found(self, mean: Float[Array, 'B H W L']) -> Float[Array, 'B L 3']:
        """(x, y, height) of each joint, in pixels of the crop."""
        return pose.joints_of(jnp.moveaxis(mean, -1, 1), stride=self.stride)

    def measure(self, found: Float[Array, 'B L 3'], target: Target) -> dict[str, Array]:
        """Nothing adds up: see `rows`."""
        return {}

    # ---- scores -----------------------------------------------------------------------------------------------------

    def empty(self) -> dict[str, np.ndarray]:
        """Nothing."""
        return {}

    def rows(self, example: PoseExample, found: Float[np.ndarray, 'L 3']) -> list[Row]:
        """The joints that were found and, for PCKh, those that are annotated."""
        person = example.person
        height, width = pose.fitted_size(person.size, self.size, MARGIN)
        row: Row = {
            'number': person.number,
            'image': person.image_number,
            'name': example.name,
            'found': np.round(found, 3).tolist(),
            'score': pose.score_of(found, person.score),
            'area': height * width,
        }
        if not self.skeleton.sigmas:
            truth = {'joints': person.joints.tolist(), 'visible': person.visible.tolist(), 'head': person.head}
            row |= truth
        return [row]

    def compute(self, counts: Counts, rows: Sequence[Row] = (), truth: Any = None) -> dict[str, Any]:
        """PCKh by the rows, or COCO's measures by pycocotools from the detections file and the data set's truth."""
        if self.skeleton.sigmas:
            detections = pose.detections(rows, self.skeleton)
            images = {image['id'] for image in truth['images']}
            beyond = next((row for row in detections if row['image_id'] not in images), None)
            if beyond is not None:
                raise InputError(f'a detection names the image {beyond["image_id"]}, which the annotations do not have')
            found = pose.average_precision(truth, detections, self.skeleton.sigmas)
            return {**found, 'people': len(rows), 'kept': len(detections)}
        shapes = {'found': (self.channels, 3), 'joints': (self.channels, 2), 'visible': (self.channels,), 'head': ()}
        held = [
            np.array([row[name] for row in rows], np.float64).reshape(len(rows), *shape)
            for name, shape in shapes.items()
        ]
        return pose.pckh(held[0][..., :2], *held[1:], names=self.names, not_scored=self.skeleton.not_scored)

    # ---- one image --------------------------------------------------------------------------------------------------

    def of_example(self, found: Float[np.ndarray, 'L 3'], example: PoseExample) -> Float[np.ndarray, 'L 3']:
        """In pixels of the image; the crop is that of `whole`, whose size is `size`."""
        person = example.person
        matrix = pose.affine(person.centre, pose.fitted_size(person.size, self.size, MARGIN), self.size)
        return self._in_image(found, matrix)

    def _in_image(self, found: np.ndarray, matrix: np.ndarray) -> np.ndarray:
        points = pose.moved(found[:, :2], pose.inverse(matrix))
        return np.concatenate([points, np.asarray(found[:, 2:], np.float64)], axis=1)

    def pieces(self, image: np.ndarray, size: Size, boxes: Any = None) -> list[Piece]:
        """A crop for each box (x, y, width, height, score); without boxes the whole image is that of one person."""
        height, width = image.shape[:2]
        found = [(0.0, 0.0, float(width), float(height), 1.0)] if boxes is None else boxes
        less, margin = (
            (1.0, 1.0) if boxes is None else (0.0, MARGIN)
        )  # corners on corners, where it is the image itself
        pieces = []
        for x, y, wide, high, score in found:
            centre = (x + (wide - less) / 2, y + (high - less) / 2)
            matrix = pose.affine(
                centre, pose.fitted_size((max(high - less, 1), max(wide - less, 1)), size, margin), size
            )
            crop = pose.crop(np.asarray(image, np.uint8), matrix, size)
            pieces.append(Piece(crop, (matrix, (x, y, wide, high), score)))
        return pieces

    def joined(self, image: np.ndarray, pieces: Sequence[Piece], found: Sequence[np.ndarray]) -> Found:
        """All people of the image, in its pixels; of those that are almost equal the best is kept."""
        if not pieces:
            return Found(np.zeros((0, self.channels, 3)), np.zeros(0), np.zeros((0, 4)))
        joints = np.stack([self._in_image(one, piece.place[0]) for one, piece in zip(found, pieces, strict=True)])
        boxes = np.array([piece.place[1] for piece in pieces])
        scores = np.array([pose.score_of(one, piece.place[2]) for one, piece in zip(joints, pieces, strict=True)])
        if self.skeleton.sigmas:
            kept = pose.kept_by_similarity(joints, scores, MARGIN**2 * boxes[:, 2] * boxes[:, 3], self.skeleton.sigmas)
            joints, scores, boxes = joints[kept], scores[kept], boxes[kept]
        return Found(joints, scores, boxes)

    def overlay(self, image: UInt8[np.ndarray, 'H W 3'], found: Found) -> UInt8[np.ndarray, '_ _ 3']:
        """Skeletons over the image."""
        return pose.draw(image, found.joints, self.skeleton, self.palette)

    def files_of(self, found: Any, *, exported: bool) -> Mapping[str, Written]:
        """None: joints are written once for all images (`collected`)."""
        return {}

    def summary(self, found: Found) -> dict[str, Any]:
        """The people."""
        return {
            'people': len(found.joints),
            'keypoints': [np.round(joints, 3).ravel().tolist() for joints in found.joints],
            'scores': [round(float(score), 6) for score in found.scores],
            'boxes': np.round(found.boxes, 3).tolist(),
        }

    def collected(self, rows: Sequence[tuple[str, str, Mapping[str, Any]]]) -> Mapping[str, str]:
        """One COCO JSON: images, people with their joints, and the names of the joints."""
        return {pose.FILE: pose.coco_json(rows, self.skeleton)}

    # ---- text and pictures ------------------------------------------------------------------------------------------

    def headline(self, row: Mapping[str, Any]) -> str:
        """The main score and others."""
        return pose.headline(row, self.skeleton)

    def definition(self, row: Mapping[str, Any]) -> str:
        """Which thresholds, or by whom."""
        return pose.definition(row, self.skeleton)

    def tables(self, counts: Counts, row: Mapping[str, Any]) -> list[str]:
        """PCKh of each joint, or all measures of COCO."""
        return [pose.table(row, self.skeleton), self.definition(row)]

    @property
    def tabled(self) -> tuple[str, ...]:
        """What the table says."""
        return pose.NAMES if self.skeleton.sigmas else ('pckh_0.5', 'pckh_0.1', 'pckh_0.11', 'joints')

    def attachments(self, counts: Counts, rows: Sequence[Row]) -> Mapping[str, str]:
        """The detections, in the format of COCO's results."""
        return {pose.FILE: json.dumps(pose.detections(rows, self.skeleton)) + '\n'}

    def panels(self, shown: Sequence[Shown]) -> Figure:
        """Annotated, found, distances."""
        return pose.panels(shown, self.skeleton)

    def program(self, logits: Float[Array, 'B _ _ L'], size: Size) -> dict[str, Array]:
        """'heat_maps' at `stride`, and 'joints': (x, y, height) in pixels of the crop."""
        maps = ops.resize_bilinear(logits, self.output_size(size))
        return {'heat_maps': maps, 'joints': self.found(maps)}


def make(fields: Mapping[str, Any], facts: Facts) -> Pose:
    """The task of `stride`, `sigma`, `zoom`, `turn`, `turned`; `size` is that of the crops it is evaluated on."""
    given = {name: field(fields, Pose.name, name) for name in ('stride', 'sigma', 'zoom', 'turn', 'turned')}
    height, width = fields.get('size', (0, 0))
    return Pose(facts, **given, size=(height, width))
