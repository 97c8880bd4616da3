"""Files of images and labels below a folder, matched by name; and lists of pairs."""

import dataclasses
import pathlib
import re
from collections.abc import Mapping

from dpc_jax import list_files
from dpc_jax.base import InputError
from dpc_jax.datasets import Pair

SHOWN = 3  # names in a message


def stem(path: str, suffix: str) -> str | None:
    """The path without its ending, `suffix` or any ending of an image; None if it ends otherwise. Case is one."""
    if suffix:
        return path[: -len(suffix)] if path.lower().endswith(suffix.lower()) else None
    return path[: path.rindex('.')] if list_files.is_image(path.rpartition('/')[2]) else None


@dataclasses.dataclass(frozen=True)
class Tree:
    """The images, or the labels, below a folder."""

    folder: pathlib.Path
    suffix: str
    paths: Mapping[str, str]  # from the folder, by what stands before the suffix

    def of(self, name: str) -> pathlib.Path | None:
        """The file of exactly that name, without the suffix; None if there is none."""
        return self.folder / self.paths[name] if name in self.paths else None

    def find(self, name: str) -> pathlib.Path | None:
        """The file of that name, which may have its suffix; None if there is none."""
        path = self.paths.get(name) or self.paths.get(stem(name, self.suffix) or '')
        return None if path is None else self.folder / path


def grow(folder: pathlib.Path, suffix: str, *, what: str, other: tuple[pathlib.Path, str]) -> Tree:
    """The tree of a folder; `other` is folder and suffix of the other tree, whose files are none of this.

    InputError if there is no folder, or if two files of it have one name.
    """
    other_folder, other_suffix = other
    if not folder.is_dir():
        raise InputError(f'there is no folder {folder}')
    shared = folder == other_folder
    if shared and not (suffix or other_suffix):
        raise InputError(f'images and labels are both in {folder}; dataset.label_suffix must tell them apart')
    paths: dict[str, str] = {}
    for path in list_files.walk(folder, () if shared else (other_folder,)):
        name = stem(path, suffix)
        # Of two suffixes that fit, the longer says more: in one folder x_mask.png is no image.
        is_others = shared and len(other_suffix) > len(suffix) and stem(path, other_suffix) is not None
        if name is None or is_others:
            continue
        if name in paths:
            raise InputError(f'there are two {what}s of one name in {folder}: {paths[name]} and {path}')
        paths[name] = path
    return Tree(folder, suffix, paths)


def matched(images: Tree, labels: Tree, *, needed: bool) -> tuple[Pair, ...]:
    """Each image with the label of its name; InputError lists images that have none, if one is `needed`."""
    if not images.paths:
        raise InputError(f'there is no image *{images.suffix} in {images.folder}')
    pairs = tuple((images.folder / images.paths[name], labels.of(name)) for name in sorted(images.paths))
    missing = [image for image, label in pairs if label is None]
    if missing and needed:
        named = ', '.join(str(image.relative_to(images.folder)) for image in missing[:SHOWN])
        more = f' and {len(missing) - SHOWN} more' if len(missing) > SHOWN else ''
        count, first = len(labels.paths), min(labels.paths.values(), default='')
        raise InputError(
            f'{len(missing)} of {len(pairs)} images in {images.folder} have no label: {named}{more};'
            f' {labels.folder} has {f"{count} labels, such as {first}" if count else "no label"}'
        )
    return pairs


# ---- lists ----------------------------------------------------------------------------------------------------------


def listed(path: pathlib.Path, root: pathlib.Path, images: Tree, labels: Tree, *, needed: bool) -> tuple[Pair, ...]:
    """The pairs of a list file. A line is an image, or an image and a label, which a space, tab or comma separates.

    Each is a path from the root or from its folder, or a name of the folder's without the suffix. Of a path that begins
    with a slash and is not there, the end is taken: `/SegNet/CamVid/train/1.png` is `train/1.png`.
    """
    seekers = tuple(Seeker(root, tree) for tree in (images, labels))
    pairs: dict[pathlib.Path, pathlib.Path | None] = {}
    for number, line in list_files.read_lines(path, 'an image, or an image and its label'):
        image, label = _pair(line, *seekers) or (None, None)
        if image is None:
            raise InputError(f'{path}, line {number}: there is no image {line!r} in {images.folder} or {root}')
        if label is None and needed:
            raise InputError(
                f'{path}, line {number}: the image {image.name} has no label in {labels.folder} ({line!r})'
            )
        if image in pairs:
            raise InputError(f'{path}, line {number}: the image {image.name} is listed twice')
        pairs[image] = label
    return tuple(pairs.items())


@dataclasses.dataclass(frozen=True)
class Seeker:
    """Finds what a list calls a file of a tree."""

    root: pathlib.Path
    tree: Tree

    def find(self, text: str) -> pathlib.Path | None:
        """The file of that name or path, or None if there is none."""
        place = self.root / text
        return self.tree.find(text) or (place if list_files.is_image(place.name) and place.is_file() else None)

    def find_end(self, text: str) -> pathlib.Path | None:
        """As `find`; of a path with a slash before it that is not there, the longest end that is, two names or more."""
        parts = text.split('/')
        ends = ('/'.join(parts[at:]) for at in range(1, len(parts) - 1) if text.startswith('/'))
        return next((place for place in map(self.find, (text, *ends)) if place is not None), None)

    def label_of(self, image: pathlib.Path, tree: Tree, text: str) -> pathlib.Path | None:
        """The label in this tree of an image that a list of `tree` calls so."""
        if image.is_relative_to(tree.folder):
            text = image.relative_to(tree.folder).as_posix()
        name = stem(text, tree.suffix) or text
        return self.tree.find(name)


def _pair(line: str, images: Seeker, labels: Seeker) -> Pair | None:
    """The line as one name, else cut where a separator is, so that both parts are there, for names may have spaces.

    The label is None where none is there.
    """
    image = images.find(line)
    if image is None:
        without = None
        for cut in re.finditer(r'\s*[,;\t]\s*|\s+', line):
            image, label = images.find_end(line[: cut.start()]), labels.find_end(line[cut.end() :])
            if image is not None and label is not None:
                return image, label
            rest = line[cut.end() :]
            without = without or (image if '/' in rest or list_files.is_image(rest) else None)
        if without is not None:  # the line names a label, so that of the image's name is not meant
            return without, None
        image = images.find_end(line)
    return None if image is None else (image, labels.label_of(image, images.tree, line))
