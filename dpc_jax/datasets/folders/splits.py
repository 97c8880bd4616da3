"""Which images a split has: those of its folder, of its list, or its share; and that no two splits have the same."""

import contextlib
import functools
import hashlib
import itertools
import os
import pathlib
from collections.abc import Hashable, Mapping, Sequence

from dpc_jax import files
from dpc_jax.base import InputError
from dpc_jax.datasets import Pair
from dpc_jax.datasets.folders import trees
from dpc_jax.datasets.folders.description import SPLIT, Description

WITHOUT_LABELS = 'test'  # the split whose images may lack labels, as in challenges
HEAD = 2**16  # bytes: files of one size that begin alike are compared as a whole


def pairs_of(description: Description, root: pathlib.Path, split: str) -> tuple[Pair, ...]:
    """The files of a split; InputError names what is wrong, also if it shares images with another split."""
    found = _pairs(description, root, split)
    if description.overlap == 'refuse':
        every = {}
        for other, _ in description.splits:
            with contextlib.suppress(InputError):  # it is not there, or it is faulty and nobody has asked for it
                every[other] = found if other == split else _pairs(description, root, other)
        _check_names(every)
        _check_content(tuple((other, _stamps(pairs)) for other, pairs in every.items()))
    return found


def _pairs(description: Description, root: pathlib.Path, split: str) -> tuple[Pair, ...]:
    source, needed = dict(description.splits)[split], split != WITHOUT_LABELS
    in_folder = SPLIT in description.images
    images, labels = _trees(description, root, str(source) if in_folder else '')
    if in_folder:
        return trees.matched(images, labels, needed=needed)
    if isinstance(source, str):
        return trees.listed(root / source, root, images, labels, needed=needed)
    return _share(trees.matched(images, labels, needed=True), description, images.folder, split)


def _trees(description: Description, root: pathlib.Path, place: str) -> tuple[trees.Tree, trees.Tree]:
    if not description.images and not description.labels:  # then lists name both
        return trees.Tree(root, '', {}), trees.Tree(root, '', {})
    suffixes = description.image_suffix, description.label_suffix
    texts = description.images, description.labels
    folders = [root / pathlib.PurePosixPath(text.replace(SPLIT, place)) for text in texts]
    one, other = zip(folders, suffixes, strict=True)
    return trees.grow(*one, what='image', other=other), trees.grow(*other, what='label', other=one)


def _share(pairs: Sequence[Pair], description: Description, folder: pathlib.Path, split: str) -> tuple[Pair, ...]:
    """A share of the pairs, in their order: by a digest of seed and name, so that few images move when some are added.

    The splits come one after the other in that order, each with its share.
    """
    names = [image.relative_to(folder).as_posix() for image, _ in pairs]
    ranks = [
        hashlib.sha256(f'{description.split_seed}/{name}'.encode('utf-8', 'surrogateescape')).digest() for name in names
    ]
    order = sorted(range(len(pairs)), key=ranks.__getitem__)
    ends = [
        round(len(pairs) * share) for share in itertools.accumulate(float(share) for _, share in description.splits)
    ]
    at = [name for name, _ in description.splits].index(split)
    chosen = sorted(order[ends[at - 1] if at else 0 : ends[at]])
    if not chosen:
        share = dict(description.splits)[split]
        raise InputError(f'dataset.splits.{split} is {share}, of {len(pairs)} images that is none')
    return tuple(pairs[index] for index in chosen)


# ---- what two splits share ------------------------------------------------------------------------------------------


def _check_names(splits: Mapping[str, tuple[Pair, ...]]) -> None:
    for (one, first), (other, second) in itertools.combinations(splits.items(), 2):
        theirs = {image for image, _ in second}
        both = [image for image, _ in first if image in theirs]
        if both:
            raise InputError(f'{len(both)} images are in {one} and in {other}, such as {both[0]}; {_allow()}')


Stamp = tuple[pathlib.Path, int, int]
"""A file, its size in bytes, and when it was written."""


def _stamps(pairs: tuple[Pair, ...]) -> tuple[Stamp, ...]:
    stamps = []
    for image, _ in pairs:
        with contextlib.suppress(OSError):  # who reads the image says what is wrong with it
            status = os.stat(image)
            stamps.append((image, status.st_size, status.st_mtime_ns))
    return tuple(stamps)


@functools.lru_cache(maxsize=8)
def _check_content(splits: tuple[tuple[str, tuple[Stamp, ...]], ...]) -> None:
    """InputError if images of two splits are equal files; only files of one size and one beginning are read whole."""
    for key in (_size, _head, _whole):
        splits_of: dict[Hashable, set[str]] = {}
        for split, stamps in splits:
            for stamp in stamps:
                splits_of.setdefault(key(stamp), set()).add(split)
        splits = tuple((split, tuple(s for s in stamps if len(splits_of[key(s)]) > 1)) for split, stamps in splits)
    for (one, first), (other, second) in itertools.combinations(splits, 2):
        theirs = {_whole(stamp): stamp[0] for stamp in second}
        both = [(stamp[0], theirs[_whole(stamp)]) for stamp in first if _whole(stamp) in theirs]
        if both:
            raise InputError(
                f'{len(both)} images of {one} are in {other}, too: {both[0][0]} and {both[0][1]} are equal; {_allow()}'
            )


def _size(stamp: Stamp) -> int:
    return stamp[1]


@functools.lru_cache(maxsize=4096)
def _head(stamp: Stamp) -> tuple[int, bytes]:
    try:
        with stamp[0].open('rb') as file:
            return stamp[1], hashlib.sha256(file.read(HEAD)).digest()
    except OSError as error:
        raise InputError(f'cannot read {stamp[0]}: {error.strerror}') from None


@functools.lru_cache(maxsize=4096)
def _whole(stamp: Stamp) -> str:
    return files.sha256(stamp[0])


def _allow() -> str:
    return "scores would count what was trained on (dataset.overlap 'allow' takes them)"
