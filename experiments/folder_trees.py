"""Where a folder has its images, its labels and its splits: a guess from names, and from what a few files look like."""

import collections
import itertools
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dpc_jax import datasets, image_files, list_files
from dpc_jax.base import InputError
from dpc_jax.datasets import folders
from dpc_jax.datasets.folders import trees
from dpc_jax.datasets.folders.description import SPLIT

WORDS = {'training': 'train', 'train': 'train', 'validation': 'val', 'valid': 'val', 'val': 'val', 'dev': 'val'}
WORDS |= {'testing': 'test', 'test': 'test'}
IN_A_NAME = re.compile(rf'^(.*[_-])?({"|".join(WORDS)})(annot|[_-].*)?$', re.IGNORECASE)
LISTS = ('.txt', '.lst', '.csv')
SHARES = {'train': 0.8, 'val': 0.2}
MOST_FOLDERS = 12  # that are compared with each other, those with the most images
MOST_SUFFIXES = 3  # that are tried
SAMPLE = 3  # files of a folder that are opened to see whether they are photos or labels
FEW = 300  # distinct colours or values: a label has fewer, a photo has more


class File(NamedTuple):
    """An image file below a folder of images or labels."""

    path: str  # from the root
    rest: str  # from the folder
    word: str  # what stands for {split}


class Found(NamedTuple):
    """Two trees that fit each other."""

    fields: Mapping[str, str]  # images, labels, their suffixes
    pairs: tuple[tuple[str, str], ...]  # from the root
    splits: Mapping[str, str]  # by the name of the split, what stands for {split}


def find(root: pathlib.Path) -> Found:
    """The two trees of most pairs that look like photos and labels; InputError if no two files fit."""
    places: dict[str, list[File]] = collections.defaultdict(list)
    count = 0
    for path in list_files.walk(root):
        count += 1
        for place, file in _places(path):
            places[place].append(file)
    if not count:
        raise InputError(f'there is no image in {root}')
    largest = sorted(places, key=lambda place: (-len(places[place]), place))[:MOST_FOLDERS]
    best, best_score = None, 0.0
    for one, other in itertools.product(largest, repeat=2):
        for found in _matches(one, other, places):
            score = len(found.pairs) * _likeness(root, found)
            if score > best_score:
                best, best_score = found, score
    if best is None:
        raise InputError(f'of {count} images in {root}, no two have names that belong together, image and label')
    return best


def _places(path: str) -> Iterator[tuple[str, File]]:
    """The folders that the file may be counted to: up to the name of a split, else each above it."""
    parts = path.split('/')[:-1]
    for at in reversed(range(len(parts))):
        if match := IN_A_NAME.match(parts[at]):
            before, word, after = match.group(1) or '', match.group(2), match.group(3) or ''
            place = '/'.join([*parts[:at], f'{before}{SPLIT}{after}'])
            yield place, File(path, '/'.join(path.split('/')[at + 1 :]), word)
            return
    for at in range(len(parts) + 1):
        yield '/'.join(parts[:at]) or '.', File(path, '/'.join(path.split('/')[at:]), '')


def _matches(one: str, other: str, places: Mapping[str, Sequence[File]]) -> Iterator[Found]:
    if (SPLIT in one) != (SPLIT in other):
        return
    inside = {file.path for file in places[other]} if one != other else set()
    images = [file for file in places[one] if file.path not in inside]
    suffixes = _common_suffixes([file.rest for file in images])
    if one == other:  # x.jpg and x.png
        suffixes += sorted({pathlib.PurePosixPath(file.path).suffix for file in images})
    for image_suffix in dict.fromkeys(suffixes):
        stems = {(file.word, name): file for file in images if (name := trees.stem(file.rest, image_suffix))}
        found: dict[str, list[tuple[File, File]]] = collections.defaultdict(list)
        for label in places[other]:
            match = _image_of(label, stems)
            if match is not None:
                found[match[1]].append((match[0], label))
        if one != other:
            endings = [ending for ending in found if ending.lower() in image_files.SUFFIXES]
            if len(endings) > 1:
                found = {**found, '': list(itertools.chain.from_iterable(found[ending] for ending in endings))}
        for label_suffix, pairs in found.items():
            words = [word for word in dict.fromkeys(image.word for image, _ in pairs) if word]
            one_split = len(words) == 1  # of which train and val may be made
            images_at, labels_at = (text.replace(SPLIT, words[0]) if one_split else text for text in (one, other))
            fields = {'images': images_at, 'labels': labels_at}
            fields |= {'image_suffix': image_suffix, 'label_suffix': label_suffix}
            splits = {} if one_split else {WORDS[word.lower()]: word for word in words}
            yield Found(fields, tuple((image.path, label.path) for image, label in pairs), splits)


def _common_suffixes(names: Sequence[str]) -> list[str]:
    """Endings of all names from a separator on, such as `_leftImg8bit.png`, the shortest first; '' is any ending."""
    first = names[0].rpartition('/')[2] if names else ''
    endings = [first[match.start() :] for match in reversed(list(re.finditer('[_-]', first)))][:MOST_SUFFIXES]
    return ['', *(ending for ending in endings if all(name.endswith(ending) for name in names))]


def _image_of(label: File, stems: Mapping[tuple[str, str], File]) -> tuple[File, str] | None:
    """The image whose stem the label's name begins with, the longest, and what follows in small letters."""
    for match in reversed(list(re.finditer(r'[._ -]', label.rest))):
        image = stems.get((label.word, label.rest[: match.start()]))
        if image is not None and image.path != label.path:
            ending = label.rest[match.start() :]
            return image, ending.lower() if ending.lower() in image_files.SUFFIXES else ending
    return None


def _likeness(root: pathlib.Path, found: Found) -> float:
    """How far the first files are photos and the others labels; of labels those that need no map come first."""
    some = [found.pairs[at] for at in np.linspace(0, len(found.pairs) - 1, SAMPLE).astype(int)]
    photos = [_distinct(root / image) for image, _ in some]
    labels = [_distinct(root / label) for _, label in some]
    likeness = np.mean([1.0 if kinds > FEW else 0.2 for kinds, _ in photos])
    likeness *= np.mean([weight if kinds <= FEW else 0.05 for kinds, weight in labels])
    return float(likeness * (1.1 if 'trainids' in found.fields['label_suffix'].lower() else 1))


def _distinct(path: pathlib.Path) -> tuple[int, float]:
    """Distinct values or colours, and how readily such a label is read."""
    try:
        pixels = datasets.decode(path, None)
    except InputError:
        return 0, 0.0
    if pixels.ndim == 3:
        return len(np.unique(pixels[::2, ::2].reshape(-1, pixels.shape[2]), axis=0)), 0.9
    return len(np.unique(pixels)), 1.0 if pixels.dtype.itemsize == 1 else 0.8


# ---- splits ---------------------------------------------------------------------------------------------------------


def splits_of(root: pathlib.Path, found: Found) -> tuple[dict[str, str | float], str]:
    """What `splits` may be, and in words where it is from: folders, list files, else shares."""
    if found.splits:
        splits = dict(found.splits)
        if 'val' not in splits and 'test' in splits:
            splits['val'] = splits.pop('test')
        return dict(sorted(splits.items(), key=lambda item: item[0] != 'train')), 'folders'
    lists: dict[str, tuple[int, str]] = {}
    for path in sorted(_list_files(root)):
        words = [WORDS[word] for word in re.split(r'[_\W]+', path.stem.lower()) if word in WORDS]
        name = path.relative_to(root).as_posix()
        if len(words) == 1 and (count := _listed(root, found, words[0], name)) > lists.get(words[0], (0, ''))[0]:
            lists[words[0]] = count, name
    if {'train', 'val'} <= set(lists):
        return {split: lists[split][1] for split in ('train', 'val', 'test') if split in lists}, 'list files'
    return dict(SHARES), 'shares, for no folder and no list file says which image is train and which val'


def _list_files(root: pathlib.Path) -> Iterator[pathlib.Path]:
    for place, inner, names in os.walk(root):
        inner[:] = [name for name in inner if not name.startswith('.')]
        yield from (pathlib.Path(place, name) for name in names if name.lower().endswith(LISTS))


def _listed(root: pathlib.Path, found: Found, split: str, name: str) -> int:
    """Pairs that the list file names; 0 if it is no list of these images."""
    try:
        fields: dict[str, Any] = {**found.fields, 'splits': ((split, name),), 'overlap': 'allow'}
        facts = folders.Description(('any',), **fields)
        return len(folders.described(facts, root, split))
    except InputError:
        return 0


def without_label(root: pathlib.Path, found: Found, words: Iterable[str]) -> list[str]:
    """Images of the tree that have no label, from the root."""
    paired = {image for image, _ in found.pairs} | {label for _, label in found.pairs}
    images = [root / found.fields['images'].replace(SPLIT, word) for word in (list(words) or [''])]
    labels = [root / found.fields['labels'].replace(SPLIT, word) for word in (list(words) or [''])]
    missing = []
    for one, other in zip(images, labels, strict=True):
        for path in list_files.walk(one, () if one == other else (other,)):
            name = (one / path).relative_to(root).as_posix()
            if name not in paired and trees.stem(path, found.fields['image_suffix']) is not None and one != other:
                missing.append(name)
    return missing
