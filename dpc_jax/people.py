"""People in images, as the data sets of poses give them: one example for each person, held in arrays."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from dpc_jax import image_files
from dpc_jax.base import InputError, Person, PoseExample, Size


class Table(NamedTuple):
    """N people; points are (x, y) in pixels from the centre of the first one, sizes (height, width)."""

    files: tuple[pathlib.Path, ...]  # [N] of their images
    joints: Float32[np.ndarray, 'N J 2']
    visible: UInt8[np.ndarray, 'N J']
    centres: Float32[np.ndarray, 'N 2']
    sizes: Float32[np.ndarray, 'N 2']
    heads: Float32[np.ndarray, ' N']
    scores: Float32[np.ndarray, ' N']
    numbers: Int64[np.ndarray, ' N']
    image_numbers: Int64[np.ndarray, ' N']
    image_sizes: Int64[np.ndarray, 'N 2']  # as annotated; (0, 0) where the files do not say it


def table(
    rows: Sequence[tuple[pathlib.Path, Person]], joints: int, image_sizes: Mapping[int, Size] | None = None
) -> Table:
    """The table of people and the files of their images, whose annotated sizes are given by their numbers."""
    people = [person for _, person in rows]

    def of(name: str, kind: type, *shape: int) -> np.ndarray:
        return np.array([getattr(person, name) for person in people], kind).reshape(len(people), *shape)

    return Table(
        tuple(path for path, _ in rows),
        *(of('joints', np.float32, joints, 2), of('visible', np.uint8, joints)),
        *(of('centre', np.float32, 2), of('size', np.float32, 2)),
        *(of('head', np.float32), of('score', np.float32), of('number', np.int64), of('image_number', np.int64)),
        np.array([(image_sizes or {}).get(person.image_number, (0, 0)) for person in people]).reshape(-1, 2),
    )


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class People:
    """What data sets of poses have in common, beside `Dataset`; an image is decoded for each person in it."""

    split: str
    people: Table
    annotations: Mapping[str, Any] | None = None  # what `truth` gives

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.split}, {len(self)} people)'  # Grain asks for it

    def __len__(self) -> int:
        return len(self.people.files)

    def __getitem__(self, index: int) -> PoseExample:
        path, person = self.people.files[index], self.person(index)
        image = image_files.decode(path, 'RGB', upright=False)  # joints are annotated in pixels as they are stored
        annotated = tuple(self.people.image_sizes[index].tolist())
        if annotated != (0, 0) and annotated != image.shape[:2]:
            raise InputError(
                f'{path} has {image.shape[0]}x{image.shape[1]} pixels (height x width), and is annotated as'
                f' {annotated[0]}x{annotated[1]}'
            )
        (x, y), (height, width) = person.centre, person.size
        if x + width / 2 < 0 or y + height / 2 < 0 or x - width / 2 > image.shape[1] or y - height / 2 > image.shape[0]:
            raise InputError(
                f'{path}: the box of person {person.number}, {width:.0f}x{height:.0f} around ({x:.0f}, {y:.0f}), lies'
                f' outside of its image of {image.shape[1]}x{image.shape[0]} (width x height)'
            )
        return PoseExample(image, person, str(path))

    def person(self, index: int) -> Person:
        """The person of an example, without its image."""
        held = self.people
        (x, y), (height, width) = held.centres[index].tolist(), held.sizes[index].tolist()
        return Person(
            *(held.joints[index], held.visible[index], (x, y), (height, width)),
            *(float(held.heads[index]), float(held.scores[index])),
            *(int(held.numbers[index]), int(held.image_numbers[index])),
        )

    def truth(self) -> Mapping[str, Any] | None:
        """The annotations, where the measure is taken from those."""
        return self.annotations

    def example_name(self, index: int) -> str:
        """The path of the image."""
        return str(self.people.files[index])

    def image_bytes(self, index: int) -> bytes:
        """The content of the image file."""
        return image_files.read_bytes(self.people.files[index])

    def fingerprint(self) -> str:
        """SHA-256 of the names and the bytes of all images, and of what is known of the people."""
        digest = hashlib.sha256()
        for path in dict.fromkeys(self.people.files):
            digest.update(image_files.content_of(path))
        for values in self.people[1:]:
            digest.update(values.tobytes())
        return digest.hexdigest()


def visible_of(values: Any, count: int, place: str) -> UInt8[np.ndarray, ' J']:
    """The visibility of joints; InputError where it is missing, or of another length."""
    if values is None:
        raise InputError(f'{place} has no visibility of its joints')
    try:
        found = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise InputError(f'{place}: the visibility of its joints is no list of numbers') from None
    if found.shape != (count,):
        raise InputError(f'{place} says the visibility of {found.size} joints; there are {count}')
    return (found > 0).astype(np.uint8)


def joints_of(values: Any, count: int, place: str) -> Float32[np.ndarray, 'J 2']:
    """Points (x, y) of joints; InputError where there are not as many as the data set has."""
    try:
        found = np.asarray(values, np.float32)
    except (TypeError, ValueError):
        raise InputError(f'{place}: its joints are no list of {count} points (x, y)') from None
    if found.shape != (count, 2):
        points = len(values) if isinstance(values, Sequence) else 0
        raise InputError(f'{place} has {points} joints (shape {found.shape}); there are {count}, each (x, y)')
    if not np.isfinite(found).all():
        raise InputError(f'{place} has a joint that is not finite')
    return found
