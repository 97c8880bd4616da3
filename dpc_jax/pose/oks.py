"""COCO's measure of poses: average precision over object keypoint similarity, by pycocotools from a list of detections.

What is done before it is that of the release of arXiv:1804.06208: the score of a person is that of its box times the
mean height of the joints above 0.2, and of people in an image whose similarity is above 0.9 the best one is kept.
"""

import contextlib
import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

SURE = 0.2  # height above which a joint counts for the score of its person
SIMILAR = 0.9

NAMES = ('ap', 'ap_50', 'ap_75', 'ap_medium', 'ap_large', 'ar', 'ar_50', 'ar_75', 'ar_medium', 'ar_large')
"""What pycocotools gives, in its order."""


def score_of(joints: Float[np.ndarray, 'J 3'], box_score: float) -> float:
    """The score of a person: of the box, times the mean height of the joints that are sure (0 if none is)."""
    heights = joints[:, 2]
    sure = heights[heights > SURE]
    return float(box_score * sure.mean()) if sure.size else 0.0


def similarity(
    one: Float[np.ndarray, 'J 3'],
    others: Float[np.ndarray, 'N J 3'],
    areas: Float[np.ndarray, ' N'],
    area: float,
    sigmas: Sequence[float],
) -> Float[np.ndarray, ' N']:
    """Object keypoint similarity of a person with others, by the mean of their areas (as the release's OKS-NMS)."""
    squared = ((others[:, :, :2] - one[None, :, :2]) ** 2).sum(-1)
    variance = (2 * np.asarray(sigmas)) ** 2
    shared = ((areas + area) / 2 + np.spacing(1.0))[:, None]
    return np.exp(-squared / (2 * variance[None] * shared)).mean(-1)


def kept_by_similarity(
    people: Float[np.ndarray, 'N J 3'],
    scores: Float[np.ndarray, ' N'],
    areas: Float[np.ndarray, ' N'],
    sigmas: Sequence[float],
) -> list[int]:
    """Indices of the people of one image that are kept, best first: none is similar to a better one."""
    order, kept = np.argsort(-scores, kind='stable').tolist(), []
    while order:
        best, *order = order
        kept.append(best)
        near = similarity(people[best], people[order], areas[order], float(areas[best]), sigmas)
        order = [index for index, value in zip(order, near.tolist(), strict=True) if value <= SIMILAR]
    return kept


def average_precision(
    truth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]], sigmas: Sequence[float]
) -> dict[str, float]:
    """The ten numbers of pycocotools, by the names in `NAMES`; -1, which stands for none, becomes NaN.

    Args:
      truth: `images`, `annotations` and `categories` as in COCO's files.
      detections: `image_id`, `category_id`, `keypoints` (x, y, height; ...) and `score` of each person.
    """
    from pycocotools.coco import COCO  # takes a second, and asks matplotlib for a window
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        gold = COCO()
        gold.dataset = {name: list(truth[name]) for name in ('images', 'annotations', 'categories')}
        gold.createIndex()
        if not detections:
            return dict.fromkeys(NAMES, 0.0)
        evaluation = COCOeval(gold, gold.loadRes([dict(row) for row in detections]), 'keypoints')
        evaluation.params.kpt_oks_sigmas = np.asarray(sigmas, np.float64)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    found = (float(value) for value in evaluation.stats)
    return {name: float('nan') if value < 0 else value for name, value in zip(NAMES, found, strict=True)}
