"""PCKh, the measure of MPII (Andriluka et al. 2014): the share of joints that lie within a part of the head's size.

Counted as in the official evaluation and in its Python form in the release of arXiv:1804.06208: distances in pixels of
the image, over the size of the head; a joint that is not labelled takes no part; the mean weighs joints by how often
they are labelled and leaves out pelvis and thorax. That Python form prints as "Mean@0.1" the twelfth of the thresholds
0, 0.01, 0.02, ..., which is 0.11; both are given.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

THRESHOLDS = (0.5, 0.1, 0.11)
HEAD = 0.6
"""Size of a head / diagonal of its box (SC_BIAS of the official evaluation)."""


def pckh(
    found: Float[np.ndarray, 'N J 2'],
    joints: Float[np.ndarray, 'N J 2'],
    visible: Float[np.ndarray, 'N J'],
    heads: Float[np.ndarray, ' N'],
    *,
    names: Sequence[str],
    not_scored: Sequence[int] = (),
) -> dict[str, Any]:
    """Shares in 0..1: `pckh_0.5`, ... in the mean, and `joints` by name at 0.5; NaN for joints that are never labelled.

    Args:
      heads: sizes of heads in pixels; a person whose head has none is left out.
      not_scored: joints that the means leave out.
    """
    counted = (visible > 0) & (heads > 0)[:, None]
    distance = np.linalg.norm(found - joints, axis=-1) / np.where(heads > 0, heads, 1)[:, None]
    times = counted.sum(0)
    of_mean = np.setdiff1d(np.arange(len(names)), not_scored)
    scores: dict[str, Any] = {}
    for threshold in THRESHOLDS:
        right = ((distance <= threshold) & counted).sum(0)
        total = int(times[of_mean].sum())
        scores[f'pckh_{threshold}'] = float(right[of_mean].sum() / total) if total else float('nan')
        if threshold == THRESHOLDS[0]:
            shares = np.where(times > 0, right / np.maximum(times, 1), np.nan)
            scores['joints'] = dict(zip(names, shares.tolist(), strict=True))
    return {**scores, 'labelled_joints': int(times.sum()), 'people': int((heads > 0).sum())}
