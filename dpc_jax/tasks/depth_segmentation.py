"""Depth and segmentation from one decoder with two heads, as in the authors' multi-task follow-up of arXiv:1810.10804.

The network's last layer has L + 1 channels: L logits and one distance. As each channel has weights of its own, that is
two heads on the same map. The loss is that of segmentation and, times `depth_weight`, that of depth.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8
from matplotlib.figure import Figure

from dpc_jax import checks, label_counts, metrics, ops, preprocess, tasks
from dpc_jax.base import IGNORE_LABEL, DepthExample, InputError, MainScore, Shown, Size
from dpc_jax.datasets import Dataset, Facts
from dpc_jax.depth import stacked
from dpc_jax.task import Counts, Seen, Target, Task, Views, Written
from dpc_jax.tasks import field

LABEL, DEPTH = 'label', 'depth'


@dataclasses.dataclass(frozen=True)
class DepthSegmentation(Task):
    """L logits and a distance at each pixel; targets are {'label': ..., 'depth': ...} of the two tasks."""

    segmentation: Task
    depth: Any  # the task of that name
    depth_weight: float = 1.0

    name: ClassVar[str] = 'depth_segmentation'
    needs: ClassVar[tuple[str, ...]] = ('label', 'depth')
    main: ClassVar[MainScore] = metrics.MIOU
    logged: ClassVar[tuple[str, ...]] = (
        'miou',
        'pixel_accuracy',
        'class_accuracy',
        'rmse',
        'absolute_relative',
        'delta1',
    )

    def __post_init__(self) -> None:
        checks.at_least(0, task__depth_weight=self.depth_weight)

    @property
    def names(self) -> tuple[str, ...]:
        """The classes, then the distance."""
        return (*self.segmentation.names, *self.depth.names)

    @property
    def palette(self) -> UInt8[np.ndarray, 'L 3']:
        """Of both."""
        return np.concatenate([self.segmentation.palette, self.depth.palette])

    def fields(self) -> dict[str, Any]:
        """Those of depth, and the weight."""
        return {**self.depth.fields(), 'name': self.name, 'depth_weight': self.depth_weight}

    def check_training(self, train: ml_collections.ConfigDict) -> None:
        """Class weights and hard pixels are those of segmentation."""

    def for_training(self, train: ml_collections.ConfigDict) -> 'DepthSegmentation':
        """With the loss of segmentation by `train`."""
        return dataclasses.replace(self, segmentation=self.segmentation.for_training(train))

    def announce(self, dataset: Dataset) -> None:
        """Both; InputError where no pixel of a sample has a label, as of the authors' file without its mapping."""
        chosen = label_counts.sample(len(dataset))
        if not label_counts.count(dataset, chosen).pixels[:IGNORE_LABEL].any():
            raise InputError(f'the labels of {dataset.split} hold no class at all; the task depth needs none')
        self.segmentation.announce(dataset)
        self.depth.announce(dataset)

    # ---- what a network sees ----------------------------------------------------------------------------------------

    def augment(self, key: np.random.SeedSequence, example: DepthExample, views: Views) -> Seen:
        """One view for both."""
        view = preprocess.draw_view(
            key, example.label.shape, views.crop_size, scales=views.scales, flip_probability=views.flip_probability
        )
        crop = preprocess.see(view, example)
        return Seen(crop.image, {LABEL: crop.label, DEPTH: self.depth.seen(view, example)})

    def whole(self, example: DepthExample, size: Size) -> Seen:
        """Padded."""
        crop = preprocess.pad_to(example, size)
        return Seen(crop.image, {LABEL: crop.label, DEPTH: self.depth.judged_depth(example, size)})

    def nothing(self, size: Size) -> Target:
        """Neither labels nor distances."""
        return {LABEL: self.segmentation.nothing(size), DEPTH: self.depth.nothing(size)}

    def size_of(self, example: DepthExample) -> Size:
        """Of the image."""
        return self.depth.size_of(example)

    # ---- training ---------------------------------------------------------------------------------------------------

    def counted(self, target: Target) -> Int[Array, ' 2']:
        """Labelled pixels, and pixels that have a distance."""
        return jnp.stack([self.segmentation.counted(target[LABEL]), self.depth.counted(target[DEPTH])])

    def loss(
        self,
        fitted: Float[Array, 'B L H W'],
        target: Target,
        *,
        counted: Float[Array, ' 2'],
        step: Int[Array, ''],
        parts: int,
    ) -> Float[Array, '']:
        """The sum of both."""
        common: dict[str, Any] = {'step': step, 'parts': parts}
        of_labels = self.segmentation.loss(fitted[:, :-1], target[LABEL], counted=counted[0], **common)
        of_depth = self.depth.loss(fitted[:, -1:], target[DEPTH], counted=counted[1], **common)
        return of_labels + self.depth_weight * of_depth

    def hits(self, fitted: Float[Array, 'B L H W'], target: Target) -> Int[Array, '']:
        """Of the labels."""
        return self.segmentation.hits(fitted[:, :-1], target[LABEL])

    def judged(self, target: Target) -> Int[Array, '']:
        """Of the labels."""
        return self.segmentation.judged(target[LABEL])

    # ---- inference --------------------------------------------------------------------------------------------------

    def of_pass(
        self, logits: Float[Array, 'B H W L'], mirrored: bool | Bool[Array, ''], *, scale: float, alone: bool
    ) -> Float[Array, 'B H W L']:
        """Both."""
        of_labels = self.segmentation.of_pass(logits[..., :-1], mirrored, scale=scale, alone=alone)
        of_depth = self.depth.of_pass(logits[..., -1:], mirrored, scale=scale, alone=alone)
        return jnp.concatenate([of_labels, of_depth], -1)

    def blended(self, mean: Float[Array, 'B H W L'], *, alone: bool) -> Float[Array, 'B H W L']:
        """Probabilities and metres."""
        return jnp.concatenate([self.segmentation.blended(mean[..., :-1], alone=alone), mean[..., -1:]], -1)

    def found(self, mean: Float[Array, 'B H W L']) -> dict[str, Array]:
        """Classes and metres."""
        return {LABEL: self.segmentation.found(mean[..., :-1]), DEPTH: self.depth.found(mean[..., -1:])}

    def measure(self, found: dict[str, Array], target: Target) -> dict[str, Array]:
        """Both."""
        of_labels = self.segmentation.measure(found[LABEL], target[LABEL])
        return of_labels | self.depth.measure(found[DEPTH], target[DEPTH])

    # ---- scores -----------------------------------------------------------------------------------------------------

    def empty(self) -> dict[str, np.ndarray]:
        """No images."""
        return self.segmentation.empty() | self.depth.empty()

    def merge(self, one: Counts, other: Counts) -> dict[str, np.ndarray]:
        """Both."""
        names = self.segmentation.empty()
        of_labels = self.segmentation.merge({name: one[name] for name in names}, other)
        return of_labels | self.depth.merge(one, other)

    def compute(self, counts: Counts, rows: Sequence[Any] = (), truth: Any = None) -> dict[str, Any]:
        """Both."""
        return self.segmentation.compute(counts) | self.depth.compute(counts)

    # ---- one image --------------------------------------------------------------------------------------------------

    def of_example(self, found: Mapping[str, np.ndarray], example: DepthExample) -> dict[str, np.ndarray]:
        """Without what was padded."""
        return {
            LABEL: found[LABEL][: example.label.shape[0], : example.label.shape[1]],
            DEPTH: self.depth.of_example(found[DEPTH], example),
        }

    def overlay(self, image: UInt8[np.ndarray, 'H W 3'], found: Mapping[str, np.ndarray]) -> UInt8[np.ndarray, '_ _ 3']:
        """Classes over the image, and to their right the distances."""
        labels = self.segmentation.overlay(image, found[LABEL])
        distances = self.depth.overlay(image, found[DEPTH])
        below = np.full((distances.shape[0] - labels.shape[0], labels.shape[1], 3), 255, np.uint8)
        return np.concatenate([np.concatenate([labels, below]), distances], axis=1)

    def files_of(self, found: Mapping[str, np.ndarray], *, exported: bool) -> Mapping[str, Written]:
        """Both."""
        of_labels = self.segmentation.files_of(found[LABEL], exported=exported)
        return {**of_labels, **self.depth.files_of(found[DEPTH], exported=exported)}

    def summary(self, found: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Both."""
        classes = found[LABEL]
        counts = np.bincount(classes.ravel(), minlength=self.channels - 1)[: self.channels - 1] / classes.size
        shares = {name: round(float(share), 6) for name, share in zip(self.segmentation.names, counts, strict=True)}
        return shares | self.depth.summary(found[DEPTH])

    def caption(self, summary: Mapping[str, Any]) -> str:
        """Both."""
        shares = {name: summary[name] for name in self.segmentation.names}
        metres = {name: value for name, value in summary.items() if name not in shares}
        return f'{self.segmentation.caption(shares)}; {self.depth.caption(metres)}'

    # ---- text and pictures ------------------------------------------------------------------------------------------

    def headline(self, row: Mapping[str, Any]) -> str:
        """Both."""
        return f'{self.segmentation.headline(row)}; {self.depth.headline(row)}'

    def definition(self, row: Mapping[str, Any]) -> str:
        """Of segmentation."""
        return self.segmentation.definition(row)

    def is_defined_otherwise(self, row: Mapping[str, Any]) -> bool:
        """Of segmentation."""
        return self.segmentation.is_defined_otherwise(row)

    def tables(self, counts: Counts, row: Mapping[str, Any]) -> list[str]:
        """Both."""
        return [*self.segmentation.tables(counts, row), *self.depth.tables(counts, row)]

    @property
    def tabled(self) -> tuple[str, ...]:
        """Of both."""
        return (*self.segmentation.tabled, *self.depth.tabled)

    def attachments(self, counts: Counts, rows: Sequence[Any]) -> Mapping[str, str]:
        """The confusion matrix."""
        return self.segmentation.attachments(counts, rows)

    def panels(self, shown: Sequence[Shown]) -> Figure:
        """Those of segmentation above those of depth."""
        of_labels = self.segmentation.panels([(example, found[LABEL]) for example, found in shown])
        of_depth = self.depth.panels([(example, found[DEPTH]) for example, found in shown])
        return stacked(of_labels, of_depth)

    def program(self, logits: Float[Array, 'B _ _ L'], size: Size) -> dict[str, Array]:
        """Those of both: 'logits', 'classes', 'depth'."""
        full = ops.resize_bilinear(logits, size)
        metres = self.depth.of_pass(full[..., -1:], False, scale=1.0, alone=True)
        of_labels = self.segmentation.program(full[..., :-1], size)
        return {**of_labels, 'depth': self.depth.found(metres)}


def make(fields: Mapping[str, Any], facts: Facts) -> DepthSegmentation:
    """The task of the fields of depth, and of `depth_weight`."""
    weight = field(fields, DepthSegmentation.name, 'depth_weight')
    of_labels, of_depth = (tasks.of({**fields, 'name': name}, facts) for name in ('segmentation', 'depth'))
    return DepthSegmentation(facts, of_labels, of_depth, float(weight))
