"""Which images are to be predicted: a folder, a file, a pattern or a list, as the user has them."""

import collections
import glob
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from dpc_jax import files, image_files, list_files
from dpc_jax.base import InputError

LISTS = ('.txt', '.lst', '.csv')


class Listed(NamedTuple):
    """An image, and what the files that are written of it are called."""

    path: pathlib.Path
    name: str  # with `/` where it lay in a folder, without suffix


def listed(images: str, outside: pathlib.Path) -> list[Listed]:
    """The images that `predict.images` stands for, in order of their paths; none that lies in the folder `outside`.

    A folder stands for all images in it and below; a pattern (`*`, `?`, `**`) for those that it matches; a text file
    has a path on each line, relative to its own folder. Hidden files, as file managers leave them, are passed over.

    Raises:
      InputError: nothing is there, or no image among what is.
    """
    if not images:
        raise InputError('predict.images is empty; give a folder, an image, a pattern or a list of paths')
    path = files.local(images, 'predict.images')
    found: Iterable[pathlib.Path]
    if path.is_dir():
        found, root = (path / name for name in list_files.walk(path)), path
    elif path.is_file() and path.suffix.lower() in LISTS:
        found = _of_list(path)
        root = path.parent
    elif path.is_file():
        found, root = [path], path.parent
    elif glob.has_magic(images):
        matched = map(pathlib.Path, glob.glob(str(path), recursive=True))
        found, root = (file for file in matched if list_files.is_image(file.name)), _folder_of_pattern(path)
    else:
        raise InputError(f"predict.images is '{images}': there is no such file, folder or pattern")
    written = outside.resolve()
    every = {pathlib.Path(os.path.abspath(file)) for file in found}
    chosen = sorted(file for file in every if file.is_file() and written not in file.resolve().parents)
    if not chosen:
        endings = ', '.join(image_files.SUFFIXES)
        why = f'where there are only predictions of {outside}' if every else f'where no image is; known: {endings}'
        raise InputError(f"predict.images is '{images}', {why}")
    return _named(chosen, pathlib.Path(os.path.abspath(root)))


def _of_list(path: pathlib.Path) -> list[pathlib.Path]:
    lines = list_files.read_lines(path, 'the path of an image')
    found = [path.parent / pathlib.Path(line).expanduser() for _, line in lines]
    missing = [file for file in found if not file.is_file()]
    if missing:
        raise InputError(
            f"predict.images: the list '{path}' names {missing[0]}, which is not there ({len(missing)} such)"
        )
    return found


def _folder_of_pattern(pattern: pathlib.Path) -> pathlib.Path:
    """The part of a pattern before the first wild card."""
    parts = pattern.parts
    first = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    return pathlib.Path(*parts[:first]) if first else pathlib.Path()


def _named(paths: Sequence[pathlib.Path], root: pathlib.Path) -> list[Listed]:
    """Names relative to `root`, or to the folder that all have in common; those that would be equal keep suffixes.

    Equal is what differs by case alone, too, for some file systems make one file of these.
    """
    if not all(path.is_relative_to(root) for path in paths):
        root = pathlib.Path(os.path.commonpath([path.parent for path in paths]))
    whole = [path.relative_to(root).as_posix() for path in paths]
    names = [str(pathlib.PurePosixPath(name).with_suffix('')) for name in whole]
    for further in (whole, [f'{name}~{place}' for place, name in enumerate(whole)]):
        while equal := _equal(names) - {place for place, name in enumerate(names) if name == further[place]}:
            names = [further[place] if place in equal else name for place, name in enumerate(names)]
    return [Listed(path, name) for path, name in zip(paths, names, strict=True)]


def _equal(names: Sequence[str]) -> set[int]:
    """Places of the names that are there twice."""
    times = collections.Counter(name.casefold() for name in names)
    return {place for place, name in enumerate(names) if times[name.casefold()] > 1}
