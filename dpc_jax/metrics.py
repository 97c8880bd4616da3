"""Confusion matrix, intersection over union, rank correlation.

Pixels are counted in integers and divided once: float32 stops counting at 16.8 million, and Cityscapes val has
1.05 thousand million pixels (int32 holds twice that).
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from dpc_jax.base import IGNORE_LABEL, MainScore

MIOU = MainScore('miou', 'mIoU', '%', 100.0, highest=True)

Score = Callable[[Int[np.ndarray, '*P L L']], Float[np.ndarray, '*P']]
"""A score in 0..1 of a confusion matrix, or one for each of many."""


def predict(logits: Float[Array, 'B L H W']) -> Int[Array, 'B H W']:
    """The class of the largest logit, the lower class on a tie.

    A running maximum over the classes: each is one pass over the map, where an argmax over a strided axis is not.
    """
    best, winner = logits[:, 0], jnp.zeros(logits[:, 0].shape, jnp.int32)
    for label in range(1, logits.shape[1]):
        higher = logits[:, label] > best
        winner = jnp.where(higher, label, winner)
        best = jnp.where(higher, logits[:, label], best)
    return winner


def confusion_matrix(
    predictions: Int[Array, 'B H W'], labels: Int[Array, 'B H W'], num_classes: int, ignore_label: int = IGNORE_LABEL
) -> Int[Array, 'L L']:
    """Counts of pixels by (label, prediction); pixels with the ignore label are not counted."""
    kept = labels != ignore_label
    cell = jnp.where(kept, labels.astype(jnp.int32) * num_classes + predictions, num_classes**2)
    counts = jnp.zeros(num_classes**2 + 1, jnp.int32).at[cell.reshape(-1)].add(1)
    return counts[:-1].reshape(num_classes, num_classes)


def class_iou(confusion: Int[np.ndarray, '*P L L']) -> Float[np.ndarray, '*P L']:
    """Intersection over union per class; NaN for a class that no label has (official eval.py)."""
    confusion = np.asarray(confusion, np.int64)
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    labelled, predicted = confusion.sum(-1), confusion.sum(-2)
    union = np.maximum(labelled + predicted - hits, 1)
    return np.where(labelled > 0, hits / union, np.nan)


def mean_iou(confusion: Int[np.ndarray, '*P L L']) -> Float[np.ndarray, '*P']:
    """Mean over the classes that the labels have; NaN where they have none."""
    return _mean_present(class_iou(confusion))


def mean_iou_with_unlabelled(confusion: Int[np.ndarray, '*P L L']) -> Float[np.ndarray, '*P']:
    """Mean over the classes that labels or predictions have: one that is predicted and has no label counts as 0.

    It is what TensorFlow's `tf.metrics.mean_iou` gives. NaN where no pixel is labelled.
    """
    confusion = np.asarray(confusion, np.int64)
    there = confusion.sum(-1) + confusion.sum(-2) > 0
    total = np.nan_to_num(class_iou(confusion)).sum(-1)
    return np.where(there.any(-1), total / np.maximum(there.sum(-1), 1), np.nan)


def _mean_present(values: Float[np.ndarray, '*P L']) -> Float[np.ndarray, '*P']:
    present = ~np.isnan(values)
    total = np.where(present, values, 0).sum(-1)
    return np.where(present.any(-1), total / np.maximum(present.sum(-1), 1), np.nan)


def pixel_accuracy(confusion: Int[np.ndarray, '*P L L']) -> Float[np.ndarray, '*P']:
    """Share of the labelled pixels that are right; NaN where there are none."""
    confusion = np.asarray(confusion, np.int64)
    hits, labelled = np.trace(confusion, axis1=-2, axis2=-1), confusion.sum((-2, -1))
    return np.where(labelled > 0, hits / np.maximum(labelled, 1), np.nan)


def class_accuracy(confusion: Int[np.ndarray, '*P L L']) -> Float[np.ndarray, '*P L']:
    """Share of the labelled pixels of each class that are predicted as it; NaN for a class that no label has."""
    confusion = np.asarray(confusion, np.int64)
    labelled = confusion.sum(-1)
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    return np.where(labelled > 0, hits / np.maximum(labelled, 1), np.nan)


def mean_accuracy(confusion: Int[np.ndarray, '*P L L']) -> Float[np.ndarray, '*P']:
    """Mean of `class_accuracy` over the classes that the labels have; NaN where they have none."""
    return _mean_present(class_accuracy(confusion))


def weighted_iou(confusion: Int[np.ndarray, '*P L L']) -> Float[np.ndarray, '*P']:
    """Intersection over union weighted by the labelled pixels of each class; NaN where there are none."""
    confusion = np.asarray(confusion, np.int64)
    labelled = confusion.sum(-1)
    total = np.nansum(class_iou(confusion) * labelled, -1)
    return np.where(labelled.any(-1), total / np.maximum(labelled.sum(-1), 1), np.nan)


def geometric_mean(confusion: Int[np.ndarray, '*P L L'], *, background: bool = True) -> Float[np.ndarray, '*P']:
    """The reward of arXiv:1810.10804 (release): geometric mean of mean IoU, mean accuracy and weighted IoU.

    Classes that neither labels nor predictions have are left out; one that is predicted and has no label counts as 0.
    Without `background` class 0 is left out of the means, though its pixels still are false positives of others. NaN
    where no class is left.
    """
    confusion = np.asarray(confusion, np.int64)
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    labelled = confusion.sum(-1)
    union = labelled + confusion.sum(-2) - hits
    kept = union > 0
    if not background:
        kept[..., 0] = False
    iou, accuracy = (hits / np.maximum(below, 1) for below in (union, labelled))
    weight = np.where(kept, labelled, 0)
    means = [np.where(kept, values, 0).sum(-1) / np.maximum(kept.sum(-1), 1) for values in (iou, accuracy)]
    weighted = (iou * weight).sum(-1) / np.maximum(weight.sum(-1), 1)
    return np.where(kept.any(-1), np.cbrt(means[0] * means[1] * weighted), np.nan)


SCORES: Mapping[str, Score] = {
    'miou': mean_iou,
    'geometric_mean': geometric_mean,
    'geometric_mean_without_background': functools.partial(geometric_mean, background=False),
}
"""What a search may rank by."""

LABELS: Mapping[str, str] = {
    'miou': 'mIoU',
    'geometric_mean': 'geometric mean',
    'geometric_mean_without_background': 'geometric mean without background',
}
"""What the scores are called where people read them."""


def label_of(settings: Mapping[str, Any]) -> str:
    """What the scores of a study are called, by its (nested) settings; older ones rank by mIoU."""
    return LABELS[settings.get('search', {}).get('score', 'miou')]


EXTRAS: Mapping[str, Score] = {
    'pixel_accuracy': pixel_accuracy,
    'mean_accuracy': mean_accuracy,
    'weighted_iou': weighted_iou,
}
"""Further scores that are kept with every score."""


def spearman(a: Float[np.ndarray, ' n'], b: Float[np.ndarray, ' n']) -> float:
    """Spearman's rank correlation, ties sharing their mean rank (the paper's measure of a proxy, §4.2).

    NaN where either has fewer than two different values, or a NaN.
    """
    from scipy import stats  # takes 1 to 2 s, and few that import this file ask for a correlation

    if min(len(np.unique(a)), len(np.unique(b))) < 2:  # SciPy warns of these
        return float('nan')
    return float(stats.spearmanr(a, b).statistic)
