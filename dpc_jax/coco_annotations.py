"""One annotation of a file of COCO instances, checked and completed; what is wrong is said in words of the format.

Files that other tools write leave out what is implied: without `iscrowd` an annotation is a single object (as in
detectron2), and without `area` its size is that of its outline (as in pycocotools). Of an annotation with no outline
at all what is in its box is not known (detectron2 leaves such objects out and warns; as labels they would be
background).
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Id = int | str
Number = int | float
LEAST_NUMBERS = 6  # of a polygon: three corners


class Annotation(NamedTuple):
    """What `read` makes of an annotation: polygons, or runs, or neither and a box."""

    image: Id
    category: Id
    crowd: bool
    polygons: list[list[Number]]  # x, y, x, y, ...; each of three corners or more
    runs: Mapping[str, Any] | None  # {'size': [height, width], 'counts': ...}
    box: list[Number]  # x, y, width, height; [] if there is none
    area: Number | None  # pixels, as the file says


def is_annotation(item: Mapping[str, Any]) -> bool:
    """Whether an object of the file is an annotation of an object, with an outline or without."""
    return 'segmentation' in item or ('image_id' in item and 'category_id' in item)


def read(item: Mapping[str, Any]) -> Annotation:
    """The annotation; ValueError, in words of the format, where it is none."""
    what = f'annotation {item.get("id")}'
    image, category = (id_of(field(item, name, what), f'{name} of {what}') for name in ('image_id', 'category_id'))
    crowd, area = item.get('iscrowd'), item.get('area')
    if crowd not in (None, 0, 1):
        raise ValueError(f'iscrowd of {what} is {crowd!r}; allowed: 0 and 1')
    if not (area is None or _is_number(area)):
        raise ValueError(f'area of {what} is {area!r}, which is no number')
    outline = item.get('segmentation') or []
    if isinstance(outline, Mapping):
        return Annotation(image, category, bool(crowd), [], outline, [], area)
    if not isinstance(outline, list):
        raise ValueError(f'segmentation of {what} is {str(outline)[:40]!r}; it must be polygons, or size and counts')
    polygons = [outline] if _is_number(outline[0] if outline else None) else outline  # a single one, not in a list
    if any(not isinstance(polygon, list) or len(polygon) % 2 for polygon in polygons):
        wrong = next(polygon for polygon in polygons if not isinstance(polygon, list) or len(polygon) % 2)
        raise ValueError(f'a polygon of {_length(wrong)}, {what}')
    kept = [polygon for polygon in polygons if len(polygon) >= LEAST_NUMBERS]  # others enclose nothing
    return Annotation(image, category, bool(crowd), kept, None, [] if kept else _box(item.get('bbox'), what), area)


def field(item: Any, name: str, what: str) -> Any:
    """`item[name]`; ValueError, which calls the item `what`, where it has none or null."""
    if not isinstance(item, Mapping) or item.get(name) is None:
        raise ValueError(f'{what} has no {name}')
    return item[name]


def id_of(value: Any, what: str) -> Id:
    """A whole number or a text; ValueError for anything else."""
    if type(value) is not int and not isinstance(value, str):
        raise ValueError(f'{what} is {value!r}; it must be a whole number or a text')
    return value


def box_polygon(box: Sequence[Number]) -> list[Number]:
    """The corners of a box (x, y, width, height)."""
    x, y, width, height = box
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def polygon_area(polygon: Sequence[Number]) -> float:
    """Pixels that a polygon x, y, x, y, ... encloses (the shoelace formula)."""
    x, y = np.array(polygon, np.float64).reshape(-1, 2).T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def _box(box: Any, what: str) -> list[Number]:
    if box in (None, []):
        return []
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        raise ValueError(f'bbox of {what} is {str(box)[:40]}; it must be x, y, width, height')
    return box


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _length(polygon: Any) -> str:
    return f'{len(polygon)} numbers' if isinstance(polygon, list) else f'{str(polygon)[:40]!r}, which is no list'
