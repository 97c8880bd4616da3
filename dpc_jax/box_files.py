"""Boxes of people that a detector found, as COCO's results have them: a JSON list with one entry for each."""

import contextlib
import math
import pathlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from dpc_jax import files, image_files
from dpc_jax.base import InputError, Size

PERSON = 1  # COCO's category

Corners = tuple[float, float, float, float]
"""x, y of the top left corner, width, height; in pixels."""


class Box(NamedTuple):
    """One entry."""

    image: Any  # `image_id`: a number, or the name of a file
    box: Corners
    score: float


def read(path: str | pathlib.Path) -> Iterator[Box]:
    """The boxes of people in a file; those of other categories are left out.

    Raises:
      InputError: it cannot be read, or an entry has no image or no box.
    """
    place = files.local(path, 'the boxes')
    held = files.read_json(place)
    if not isinstance(held, list):
        raise InputError(f"{place} is no list of boxes, as COCO's results are")
    for number, entry in enumerate(held):
        try:
            if int(entry.get('category_id', PERSON)) != PERSON:
                continue
            x, y, width, height = map(float, entry['bbox'])
            image = entry['image_id'] if 'image_id' in entry else entry['file_name']
            box = Box(image, (x, y, width, height), float(entry.get('score', 1.0)))
            if not all(map(math.isfinite, (*box.box, box.score))) or not isinstance(image, int | str):
                raise ValueError(f'{entry}')
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f'{place}, box {number}: {type(error).__name__} {error}; it must have image_id (or file_name), bbox of'
                ' four numbers, and may have score'
            ) from None
        yield box


def inside(box: Any, size: Size, place: str) -> Corners:
    """The part of a box within its image of `size`; InputError where it has none, or is no box.

    The last pixel of a box is one less than its end, as in the release of Simple Baselines.
    """
    try:
        x, y, width, height = map(float, box)
    except (TypeError, ValueError):
        raise InputError(f'{place} has no box (x, y, width, height): {box}') from None
    check((x, y, width, height), size, place)
    left, top = max(0.0, x), max(0.0, y)
    right, bottom = min(size[1] - 1.0, left + max(0.0, width - 1)), min(size[0] - 1.0, top + max(0.0, height - 1))
    return left, top, max(right - left, 1.0), max(bottom - top, 1.0)


def check(box: Corners, size: Size, place: str) -> None:
    """InputError for a box without an area, or one that has nothing in common with its image of `size`."""
    x, y, width, height = box
    if not (width > 0 and height > 0):
        raise InputError(f'{place}: its box ({x:g}, {y:g}, {width:g}, {height:g}) has no area')
    if x >= size[1] or y >= size[0] or x + width <= 0 or y + height <= 0:
        raise InputError(
            f'{place}: its box ({x:g}, {y:g}, {width:g}, {height:g}) lies outside of its image of'
            f' {size[1]}x{size[0]} (width x height)'
        )


def by_image(path: str, images: Sequence[pathlib.Path]) -> Mapping[str, list[tuple[float, ...]]]:
    """(x, y, width, height, score) of the boxes of each image, by its path; {} where no file is given.

    An entry names its image by its path or the end of it, by file name with or without suffix, or by the number that
    the file name ends with (as COCO's do). How many boxes are of other images is printed.

    Raises:
      InputError: a name fits several images, a box lies outside of its image, or none is of one of the images.
    """
    if not path:
        return {}
    known: dict[str, set[str]] = defaultdict(set)
    for image in images:
        for name in _names(image):
            known[name].add(str(image))
    found: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    others = 0
    for number, box in enumerate(read(path)):
        places = known.get(str(box.image), set())
        if len(places) > 1:
            raise InputError(
                f"predict.boxes '{path}', box {number}: '{box.image}' may be {' or '.join(sorted(places)[:2])};"
                ' give more of its path'
            )
        if not places:
            others += 1
            continue
        (place,) = places
        with contextlib.suppress(OSError):
            check(box.box, image_files.size_of(pathlib.Path(place)), f"predict.boxes '{path}', box {number}")
        found[place].append((*box.box, box.score))
    if not found:
        raise InputError(f"predict.boxes is '{path}', of whose boxes none is of one of the images")
    if others:
        print(f'{others} boxes of {path} are of images that are not predicted')
    return dict(found)


def _names(image: pathlib.Path) -> Iterator[str]:
    """What an entry may call an image."""
    parts = image.parts
    yield from ('/'.join(parts[start:]) for start in range(1, len(parts)))
    yield str(image)
    yield image.stem
    digits = image.stem.rsplit('_', 1)[-1]
    if digits.isdecimal():
        yield str(int(digits))
