"""What occurs in the labels of a split, said before any work: classes, the share that is unknown, and what is odd.

A training on labels that mean something else than was thought looks well: with one class left it scores 100 %. A sample
of the images is enough to see that, since they all come from the same tool.
"""

import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from dpc_jax.base import IGNORE_LABEL, InputError
from dpc_jax.datasets import Dataset

SAMPLE = 24
"""Images that are looked at, evenly spaced over the split."""

NAMED = 5  # of the classes that are absent
MOST_UNKNOWN = 0.5
"""Share of the pixels above which it is warned: in the data sets of the menu it is below a fifth."""


class LabelCounts(NamedTuple):
    """What was found in some images."""

    images: int
    pixels: Int[np.ndarray, ' 256']  # by label, IGNORE_LABEL included


def announce(dataset: Dataset) -> None:
    """Prints what occurs in the labels of a split, and warns of what is odd.

    Raises:
      InputError: all labels hold class 0 and unknown alone, as masks of two classes do that are saved with 0 and 255.
    """
    chosen = sample(len(dataset))
    found = count(dataset, chosen)
    if _is_two_valued(found):
        others = (count(dataset, [index]) for index in range(len(dataset)) if index not in chosen)
        if not any(other.pixels[1:IGNORE_LABEL].any() for other in others):
            raise InputError(
                f'the labels of {dataset.split} hold {dataset.classes[0]} (0) and unknown ({IGNORE_LABEL}) alone, so'
                ' there is nothing to tell apart; masks of two classes are to hold 0 and 1 (dataset.name folders takes'
                f' 0 and {IGNORE_LABEL}, too)'
            )
    print(line(found, dataset.classes, dataset.split, len(dataset)))
    for warning in oddities(found, dataset.classes, dataset.split, len(dataset)):
        print(f'warning: {warning}')  # beside the line before it, and by one process of several


def sample(length: int, most: int = SAMPLE) -> list[int]:
    """At most so many indices, evenly spaced, the first and the last included."""
    return sorted({int(index) for index in np.linspace(0, length - 1, min(length, most))})


def count(dataset: Dataset, indices: Iterable[int]) -> LabelCounts:
    """The pixels of these examples by label; faulty ones are left out, since others say what is wrong with them."""
    images, pixels = 0, np.zeros(IGNORE_LABEL + 1, np.int64)
    for label in _labels(dataset, indices):
        images += 1
        pixels += np.bincount(label.reshape(-1), minlength=IGNORE_LABEL + 1)
    return LabelCounts(images, pixels)


def _labels(dataset: Dataset, indices: Iterable[int]) -> Iterator[np.ndarray]:
    for index in indices:
        try:
            yield dataset[index].label
        except InputError:
            continue


def _is_two_valued(found: LabelCounts) -> bool:
    return set(np.flatnonzero(found.pixels).tolist()) == {0, IGNORE_LABEL}


def line(found: LabelCounts, classes: tuple[str, ...], split: str, length: int) -> str:
    """One line: `labels of train (24 of 367 images): 10 of 11 classes, 3.2 % unknown; not seen: bicyclist`."""
    absent = _absent(found, classes)
    seen = f'{len(classes) - len(absent)} of {len(classes)} classes, {100 * _unknown(found):.1f} % unknown'
    return f'labels of {split} ({found.images} of {length} images): {seen}' + _listed('; not seen: ', absent)


def oddities(found: LabelCounts, classes: tuple[str, ...], split: str, length: int) -> list[str]:
    """What is odd, a sentence each. A class that a sample lacks is not: only where all images were looked at."""
    absent, unknown = _absent(found, classes), _unknown(found)
    odd = []
    if found.images and len(absent) == len(classes):
        return [f'the labels of {split} hold no class at all']
    if len(absent) == len(classes) - 1:
        (only,) = (name for name in classes if name not in absent)
        odd.append(f'the labels of {split} hold one class alone, {only}')
    if unknown > MOST_UNKNOWN:
        odd.append(f'{100 * unknown:.1f} % of the pixels of {split} are unknown: they take no part in loss and score')
    if 0 < len(absent) < len(classes) - 1 and found.images == length:
        odd.append(f'no label of {split} has the classes' + _listed(' ', absent))
    return odd


def _absent(found: LabelCounts, classes: tuple[str, ...]) -> list[str]:
    return [name for name, pixels in zip(classes, found.pixels.tolist(), strict=False) if not pixels]


def _unknown(found: LabelCounts) -> float:
    return float(found.pixels[IGNORE_LABEL] / max(found.pixels.sum(), 1))


def _listed(before: str, names: list[str]) -> str:
    more = f' and {len(names) - NAMED} more' if len(names) > NAMED else ''
    return before + ', '.join(itertools.islice(names, NAMED)) + more if names else ''
