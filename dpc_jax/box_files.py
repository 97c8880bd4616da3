"""Boxes of people that a detector found, as COCO's results have them: a JSON list with one entry for each."""

import json
import pathlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from dpc_jax import files
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
    try:
        held = json.loads(files.text(place.read_bytes()))
    except FileNotFoundError:
        raise InputError(f'there is no file of boxes {place}') from None
    except (OSError, ValueError) as error:
        raise InputError(f'{place} cannot be read: {error}') from None
    if not isinstance(held, list):
        raise InputError(f"{place} is no list of boxes, as COCO's results are")
    for number, entry in enumerate(held):
        try:
            if int(entry.get('category_id', PERSON)) != PERSON:
                continue
            x, y, width, height = map(float, entry['bbox'])
            image = entry['image_id'] if 'image_id' in entry else entry['file_name']
            box = Box(image, (x, y, width, height), float(entry.get('score', 1.0)))
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
    left, top = max(0.0, x), max(0.0, y)
    right, bottom = min(size[1] - 1.0, left + max(0.0, width - 1)), min(size[0] - 1.0, top + max(0.0, height - 1))
    if not (right >= left and bottom >= top and x + width > 0 and y + height > 0):
        raise InputError(
            f'{place}: its box ({x:g}, {y:g}, {width:g}, {height:g}) lies outside of its image of'
            f' {size[1]}x{size[0]} (width x height)'
        )
    return left, top, max(right - left, 1.0), max(bottom - top, 1.0)


def by_image(path: str, images: Sequence[pathlib.Path]) -> Mapping[str, list[tuple[float, ...]]]:
    """(x, y, width, height, score) of the boxes of each image, by its path; {} where no file is given.

    An entry names its image by path, by file name, or by the number that the file name ends with (as COCO's do).
    InputError where none of the boxes is of one of the images.
    """
    if not path:
        return {}
    known: dict[str, str] = {}
    for image in images:
        digits = image.stem.rsplit('_', 1)[-1]
        for name in (str(image), image.name, image.stem, str(int(digits)) if digits.isdecimal() else image.stem):
            known.setdefault(name, str(image))
    found: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    for box in read(path):
        place = known.get(str(box.image))
        if place is not None:
            found[place].append((*box.box, box.score))
    if not found:
        raise InputError(f"predict.boxes is '{path}', of whose boxes none is of one of the images")
    return dict(found)
