"""What is written of each prediction, and which images are finished: a killed prediction goes on where it was."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from dpc_jax import files
from dpc_jax.base import InputError
from dpc_jax.prediction.predictor import Found
from dpc_jax.task import Task

OVERLAYS, PROBABILITIES, THUMBNAILS = 'overlays', 'probabilities', 'thumbnails'
ROWS, CAUSE = 'predictions.jsonl', 'prediction.json'
THUMBNAIL_HEIGHT, THUMBNAIL_WIDTH = 180, 720  # the latter at most
LONGEST_OF_JPEG = 65_500
FORMATS = {'.jpg': 'jpeg', '.png': 'png'}


class Row(NamedTuple):
    """An image that is finished."""

    name: str
    path: str  # absolute
    written: tuple[int, int]  # bytes of the file, and the time of its last change in nanoseconds
    height: int
    width: int
    summary: dict[str, Any]  # what the task says of it: of segmentation the share of each class
    files: dict[str, str]  # what was written of it: suffix by folder


class Kept:
    """The folder of a prediction, and the images that are finished in it."""

    def __init__(self, folder: pathlib.Path, cause: Mapping[str, Any], task: Task, *, exported: bool = False) -> None:
        """Opens the folder, which is made if it is missing.

        Args:
          cause: what the predictions depend on; a folder holds those of one cause.
          exported: whether files hold what the data set's server takes.

        Raises:
          InputError: the folder holds predictions of another cause, or cannot be written.
        """
        self.folder = folder
        self._task, self._exported = task, exported
        files.make_folder(folder, 'workdir')
        _claim(folder / CAUSE, cause)
        self.rows = {row.name: row for row in _rows(folder / ROWS) if all(map(pathlib.Path.is_file, self.written(row)))}

    def has(self, name: str, path: pathlib.Path) -> bool:
        """Whether that image is finished, as it is now; InputError if another image has its place."""
        row = self.rows.get(name)
        if row is None:
            return False
        if row.path != str(path):
            raise InputError(
                f"workdir '{self.folder.parent}' holds the prediction of {row.path}, where that of {path} would be;"
                ' give another workdir'
            )
        return row.written == _written(path)

    def written(self, row: Row) -> list[pathlib.Path]:
        """The files of an image that is finished, the overlay first."""
        return [self.folder / kind / f'{row.name}{suffix}' for kind, suffix in row.files.items()]

    def add(self, name: str, path: pathlib.Path, image: UInt8[np.ndarray, 'H W 3'], found: Found) -> None:
        """Writes the files of an image; the row comes last, so what has a row is whole."""
        overlay = self._task.overlay(image, found.found)
        small = np.concatenate([_thumbnail(image), _thumbnail(overlay)], axis=1)
        for kind, pixels, ending in ((OVERLAYS, overlay, ending_of(*overlay.shape[:2])), (THUMBNAILS, small, '.jpg')):
            with files.whole(_place(self.folder / kind / f'{name}{ending}')) as draft:
                Image.fromarray(pixels).save(draft, format=FORMATS[ending], quality=90)
        if found.top is not None:
            with (
                files.whole(_place(self.folder / PROBABILITIES / f'{name}.npz')) as draft,
                open(draft, 'wb') as file,
            ):
                np.savez_compressed(file, classes=found.top[0], probabilities=found.top[1])
        kinds = self._task.files_of(found.found, exported=self._exported)
        for kind, one in kinds.items():
            with files.whole(_place(self.folder / kind / f'{name}{one.suffix}')) as draft:
                one.write(draft)
        height, width = image.shape[:2]
        suffixes = {OVERLAYS: ending_of(*overlay.shape[:2]), **{kind: one.suffix for kind, one in kinds.items()}}
        row = Row(name, str(path), _written(path), height, width, self._task.summary(found.found), suffixes)
        with open(self.folder / ROWS, 'a', encoding='utf-8', errors='surrogateescape') as file:
            file.write(json.dumps(row._asdict(), ensure_ascii=True) + '\n')
        self.rows[name] = row


def _thumbnail(image: UInt8[np.ndarray, 'H W 3']) -> UInt8[np.ndarray, 'h w 3']:
    """Of that height; a very wide or a very high image is squeezed."""
    width = min(max(round(image.shape[1] * THUMBNAIL_HEIGHT / image.shape[0]), THUMBNAIL_HEIGHT // 4), THUMBNAIL_WIDTH)
    return np.asarray(Image.fromarray(image).resize((width, THUMBNAIL_HEIGHT)))


def ending_of(height: int, width: int) -> str:
    """Of an overlay: JPEG has no images with longer sides."""
    return '.jpg' if max(height, width) <= LONGEST_OF_JPEG else '.png'


def _written(path: pathlib.Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _place(path: pathlib.Path) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _claim(path: pathlib.Path, cause: Mapping[str, Any]) -> None:
    wanted = json.loads(json.dumps(cause))
    if not path.is_file():
        files.write(path, json.dumps(wanted, indent=2) + '\n')
        return
    try:
        held = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise InputError(f'{path} cannot be read ({error}); give another workdir') from error
    for name in sorted({*held, *wanted}):
        if held.get(name) != wanted.get(name):
            raise InputError(
                f"workdir '{path.parent}' holds predictions of another kind: {name} was {held.get(name)} there and is"
                f' {wanted.get(name)} now; give another workdir'
            )


def _rows(path: pathlib.Path) -> Sequence[Row]:
    """The rows that are whole: the last one may have been torn by a kill."""
    if not path.is_file():
        return []
    found = []
    text = path.read_text(encoding='utf-8')
    for line in text.splitlines():
        try:
            held = json.loads(line)
            found.append(Row(**{**held, 'written': tuple(held['written'])}))
        except (ValueError, TypeError, KeyError):
            continue
    if text and not text.endswith('\n'):  # else the next row would go on in the torn line
        files.write(path, ''.join(json.dumps(row._asdict()) + '\n' for row in found))
    return found
