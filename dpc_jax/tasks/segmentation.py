"""Semantic segmentation: a class for each pixel, or the ignore label where none is known.

What it computes is that of the official DeepLab: cross-entropy over labelled pixels, mean over the probabilities of all
passes, mean intersection over union from one confusion matrix.
"""

import csv
import dataclasses
import io
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8
from matplotlib.figure import Figure

from dpc_jax import checks, label_counts, label_pictures, losses, metrics, ops, preprocess
from dpc_jax.base import IGNORE_LABEL, InputError, MainScore, SegmentationExample, Shown, Size
from dpc_jax.datasets import Dataset, Facts
from dpc_jax.losses import LossSettings
from dpc_jax.task import Counts, Seen, Task, Views, Written

SCORES = ('miou', 'miou_with_unlabelled', 'pixel_accuracy', 'class_accuracy', 'iou', 'accuracy')
LABELS = 'labels'
CONFUSION = 'confusion'  # the one count


@dataclasses.dataclass(frozen=True)
class Segmentation(Task):
    """Logits of L classes; targets are labels [H, W] of 0..L-1 and IGNORE_LABEL."""

    loss_settings: LossSettings = dataclasses.field(default_factory=LossSettings)

    name: ClassVar[str] = 'segmentation'
    needs: ClassVar[tuple[str, ...]] = ('label',)
    main: ClassVar[MainScore] = metrics.MIOU
    logged: ClassVar[tuple[str, ...]] = ('miou', 'pixel_accuracy', 'class_accuracy')
    has_probabilities: ClassVar[bool] = True

    @property
    def names(self) -> tuple[str, ...]:
        """The classes."""
        return self.facts.classes

    @property
    def palette(self) -> UInt8[np.ndarray, 'L 3']:
        """Of the data set."""
        return np.array(self.facts.palette, np.uint8)

    def fields(self) -> dict[str, Any]:
        """The name alone."""
        return {'name': self.name}

    def for_training(self, train: ml_collections.ConfigDict) -> 'Segmentation':
        """With `train.class_weights` and `train.hard_pixels`; InputError where they make no sense."""
        weights = tuple(train.class_weights)
        count = len(self.facts.classes)
        if any(type(weight) not in (int, float) for weight in weights) or len(weights) not in (0, count):
            raise InputError(
                f'train.class_weights is {weights}; it must be a number for each of the {count} classes, or ()'
            )
        settings = LossSettings(tuple(map(float, weights)), train.hard_pixels, train.hard_pixels_step)
        return dataclasses.replace(self, loss_settings=settings)

    def announce(self, dataset: Dataset) -> None:
        """See `label_counts`."""
        label_counts.announce(dataset)

    # ---- what a network sees ----------------------------------------------------------------------------------------

    def augment(self, key: np.random.SeedSequence, example: SegmentationExample, views: Views) -> Seen:
        """The official augmentation."""
        return Seen(*preprocess.augment(key, example, **views._asdict()))

    def whole(self, example: SegmentationExample, size: Size) -> Seen:
        """Padded with the mean pixel and the ignore label."""
        return Seen(*preprocess.pad_to(example, size))

    def nothing(self, size: Size) -> UInt8[np.ndarray, 'H W']:
        """No pixel has a label."""
        return np.full(size, IGNORE_LABEL, np.uint8)

    def size_of(self, example: SegmentationExample) -> Size:
        """Of the image."""
        return example.label.shape[0], example.label.shape[1]

    # ---- training ---------------------------------------------------------------------------------------------------

    def counted(self, target: Int[Array, 'B H W']) -> Int[Array, '']:
        """Pixels that have a label."""
        return (target != IGNORE_LABEL).sum()

    def loss(
        self,
        fitted: Float[Array, 'B L H W'],
        target: Int[Array, 'B H W'],
        *,
        counted: Float[Array, ''],
        step: Int[Array, ''],
        parts: int,
    ) -> Float[Array, '']:
        """Cross-entropy: the mean over labelled pixels, or over the hardest of this part."""
        settings = self.loss_settings
        terms = losses.pixel_losses(fitted, target, settings.class_weights)
        if settings.hard_pixels < 1:
            return losses.hard_mean(terms, losses.hard_share(step, settings)) / parts
        return terms.sum() / counted

    def hits(self, fitted: Float[Array, 'B L H W'], target: Int[Array, 'B H W']) -> Int[Array, '']:
        """Pixels whose largest logit is that of their label."""
        return (metrics.predict(fitted) == target).sum()

    # ---- inference --------------------------------------------------------------------------------------------------

    def of_pass(
        self, logits: Float[Array, 'B H W L'], mirrored: bool | Bool[Array, ''], *, scale: float, alone: bool
    ) -> Float[Array, 'B H W L']:
        """Probabilities, or logits where there is one pass."""
        return logits if alone else jax.nn.softmax(logits)

    def blended(self, mean: Float[Array, 'B H W L'], *, alone: bool) -> Float[Array, 'B H W L']:
        """Probabilities."""
        return jax.nn.softmax(mean) if alone else mean

    def found(self, mean: Float[Array, 'B H W L']) -> UInt8[Array, 'B H W']:
        """The most probable class."""
        return metrics.predict(jnp.moveaxis(mean, -1, 1)).astype(jnp.uint8)

    def measure(self, found: UInt8[Array, 'B H W'], target: UInt8[Array, 'B H W']) -> dict[str, Array]:
        """Pixels by (label, class)."""
        classes, labels = found.astype(jnp.int32), target.astype(jnp.int32)
        return {CONFUSION: metrics.confusion_matrix(classes, labels, self.channels)}

    # ---- scores -----------------------------------------------------------------------------------------------------

    def empty(self) -> dict[str, np.ndarray]:
        """No pixels."""
        return {CONFUSION: np.zeros((self.channels, self.channels), np.int64)}

    def compute(self, counts: Counts, rows: Sequence[Any] = (), truth: Any = None) -> dict[str, Any]:
        """Shares in 0..1, NaN for what the labels do not have."""
        confusion, classes = counts[CONFUSION], self.facts.classes
        ious, accuracies = metrics.class_iou(confusion), metrics.class_accuracy(confusion)
        return {
            'miou': float(metrics.mean_iou(confusion)),
            'miou_with_unlabelled': float(metrics.mean_iou_with_unlabelled(confusion)),
            'pixel_accuracy': float(metrics.pixel_accuracy(confusion)),
            'class_accuracy': float(metrics.mean_accuracy(confusion)),
            'labelled_pixels': int(confusion.sum()),
            'iou': dict(zip(classes, ious.tolist(), strict=True)),
            'accuracy': dict(zip(classes, accuracies.tolist(), strict=True)),
        }

    # ---- one image --------------------------------------------------------------------------------------------------

    def of_example(self, found: UInt8[np.ndarray, 'H W'], example: SegmentationExample) -> UInt8[np.ndarray, 'H2 W2']:
        """Without what was padded."""
        return found[: example.label.shape[0], : example.label.shape[1]]

    def overlay(self, image: UInt8[np.ndarray, 'H W 3'], found: UInt8[np.ndarray, 'H W']) -> UInt8[np.ndarray, 'H W 3']:
        """The colours of the classes over the image."""
        return label_pictures.blend(image, self.palette[found])

    def files_of(self, found: UInt8[np.ndarray, 'H W'], *, exported: bool) -> Mapping[str, Written]:
        """A label image: the ids of the data set's server, or indices with the palette of the classes."""
        ids = self.facts.export_ids if exported else None

        def write(path: pathlib.Path) -> None:
            label_pictures.label_image(found, self.palette, ids).save(path, format='png')

        return {LABELS: Written('.png', write)}

    def summary(self, found: UInt8[np.ndarray, 'H W']) -> dict[str, Any]:
        """The share of each class."""
        counts = np.bincount(found.ravel(), minlength=self.channels)[: self.channels] / found.size
        return {name: round(float(share), 6) for name, share in zip(self.names, counts, strict=True)}

    def caption(self, summary: Mapping[str, Any]) -> str:
        """The largest classes."""
        most = sorted(summary.items(), key=lambda item: -item[1])[: label_pictures.NAMED]
        return ', '.join(f'{name} {100 * share:.0f} %' for name, share in most if share > 0)

    # ---- text and pictures ------------------------------------------------------------------------------------------

    def headline(self, row: Mapping[str, Any]) -> str:
        """mIoU and accuracies."""
        if not row['labelled_pixels']:
            return 'no score: the images have no labels'
        pixels, classes = _percent(row['pixel_accuracy']), _percent(row['class_accuracy'])
        others = f'pixel accuracy {pixels} %, mean class accuracy {classes} %'
        return f'mIoU {_percent(row["miou"])} % ({others})'

    def definition(self, row: Mapping[str, Any]) -> str:
        """Which mean the mIoU is, and what the other definition gives."""
        return (
            'mIoU is the mean over the classes that labels have; a class that no label has (–) takes no part in means.'
            " With classes that are predicted and have no label as 0, as TensorFlow's mean_iou counts them, it is"
            f' {_percent(row["miou_with_unlabelled"])} %.'
        )

    def is_defined_otherwise(self, row: Mapping[str, Any]) -> bool:
        """Where a class is predicted that no label has; not where either is NaN."""
        return bool(row['miou_with_unlabelled'] < row['miou'])

    def tables(self, counts: Counts, row: Mapping[str, Any]) -> list[str]:
        """A row for each class."""
        confusion, classes = counts[CONFUSION], self.facts.classes
        if not row['labelled_pixels']:
            return []
        columns = ('class', 'IoU %', 'accuracy %', 'of the labelled pixels %', 'most often taken for')
        lines = [f'| {" | ".join(columns)} |', '|:--|--:|--:|--:|:--|']
        ious, accuracies = metrics.class_iou(confusion), metrics.class_accuracy(confusion)
        labelled = confusion.sum(-1)
        for index, name in enumerate(classes):
            wrong = np.where(np.arange(len(classes)) == index, 0, confusion[index])
            other = int(wrong.argmax())
            taken = f'{classes[other]} ({_percent(wrong[other] / labelled[index])} %)' if wrong[other] else ''
            numbers = (ious[index], accuracies[index], labelled[index] / labelled.sum())
            lines.append(f'| {name} | {" | ".join(map(_percent, numbers))} | {taken} |')
        return ['\n'.join(lines), self.definition(row)]

    @property
    def tabled(self) -> tuple[str, ...]:
        """What the table and the headline say."""
        return SCORES

    def attachments(self, counts: Counts, rows: Sequence[Any]) -> Mapping[str, str]:
        """Pixels: a row per label, a column per prediction."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator='\n')
        writer.writerow(['label \\ prediction', *self.facts.classes])
        lines = zip(self.facts.classes, counts[CONFUSION].tolist(), strict=True)
        writer.writerows([name, *line] for name, line in lines)
        return {'confusion.csv': text.getvalue()}

    def panels(self, shown: Sequence[Shown]) -> Figure:
        """Image, label, prediction."""
        return label_pictures.panels(shown, self.facts.classes, self.palette)

    def program(self, logits: Float[Array, 'B _ _ L'], size: Size) -> dict[str, Array]:
        """'logits' (float32), resized to the images, and 'classes' (int32), the largest of them."""
        full = ops.resize_bilinear(logits, size)
        return {'logits': full, 'classes': jnp.argmax(full, -1).astype(jnp.int32)}


def make(fields: Mapping[str, Any], facts: Facts) -> Segmentation:
    """The task; it has no fields but its name. InputError with fewer than two classes."""
    checks.at_least(2, num_classes=len(facts.classes))
    return Segmentation(facts)


def _percent(share: float) -> str:
    return '–' if math.isnan(share) else f'{100 * share:.2f}'
