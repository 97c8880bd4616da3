"""Lists of image files as people have them: text of any encoding and separator, names with spaces and dots.

A line of a list names an image and perhaps its label. What separates them (spaces, a tab, a comma, a semicolon) may
also be part of a name, so whoever reads a line takes the first of the ways to read it whose files are there.
"""

import os
import pathlib
import re
from collections.abc import Iterator, Sequence

from dpc_jax import files, image_files
from dpc_jax.base import InputError

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png')  # tried in this order, each in small and in large letters
LABEL_SUFFIXES = ('.png',)

NOT_OURS = ('__macosx',)  # folders that archives of macOS leave

SEPARATOR = re.compile(r'\s*[,;\t]\s*|\s+')
HERE = re.compile(r'(?:^|(?<=[\s,;]))(?:\./)+')  # `./` before a path, as `find` writes it
FLAG = re.compile(r'\s+-1|\s{2,}[01]')  # of VOC's lists of a class, ImageSets/Main, which write it in two places


def read_lines(path: pathlib.Path, form: str) -> tuple[tuple[int, str], ...]:
    """Number (from 1) and text of each line that has any, stripped; InputError if none has.

    `form` says what a line is; a `./` before a path is left out. Text is UTF-8, or UTF-16 with a byte order mark; a
    backslash, Windows' separator of folders, becomes a slash.
    """
    try:
        text = files.text(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f'there is no list file {path} (lines: {form})') from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f'cannot read the list file {path}: {error}') from None
    lines = enumerate((HERE.sub('', line) for line in text.replace('\\', '/').splitlines()), start=1)
    found = tuple((number, line.strip()) for number, line in lines if line.strip())
    if not found:
        raise InputError(f'the list file {path} is empty')
    return found


def split(line: str) -> list[str]:
    """The words of a line, between whatever separates them."""
    return [word for word in SEPARATOR.split(line) if word]


def halves(line: str) -> list[tuple[str, str]]:
    """All ways to read a line as two names."""
    return [(line[: at.start()], line[at.end() :]) for at in SEPARATOR.finditer(line) if at.end() < len(line)]


def ids(line: str) -> Iterator[str]:
    """What a line of a list of PASCAL VOC may name, the likeliest first: an id, or a path whose last part is one.

    After it may come the path of a label, or what VOC's lists of a class say, and nothing else: a name that is cut off
    at a space would be that of another image.
    """
    ways = [(line[: at.start()], line[at.start() :]) for at in SEPARATOR.finditer(line)]
    firsts = [first for first, rest in ways if first and _may_follow(first, rest)]
    files_first = [first for first in firsts if has_suffix(first)]
    for first in (*files_first, line, *reversed(firsts)):
        name = first.rpartition('/')[2]
        yield from [name.rpartition('.')[0]] * has_suffix(name)
        yield name


def _may_follow(first: str, rest: str) -> bool:
    """Whether `rest` is no part of the name `first`: a second file after a file, a path after an id, a flag."""
    words = split(rest)
    is_file = words[-1:] != [] and has_suffix(words[-1]) and (has_suffix(first) or '/' in words[0])
    return is_file or bool(FLAG.fullmatch(rest))


def has_suffix(name: str) -> bool:
    """Whether a name ends like an image: an id with a dot in it does not."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def with_suffix(folder: pathlib.Path, name: str, suffixes: tuple[str, ...]) -> pathlib.Path | None:
    """The first of `<folder>/<name><suffix>`, of small or of large letters, that is a file."""
    places = (folder / f'{name}{form}' for suffix in suffixes for form in (suffix, suffix.upper()))
    return next((place for place in places if place.is_file()), None)


def inside(root: pathlib.Path, name: str, original: str) -> pathlib.Path:
    """The file that a list in `root` calls `name`: a path from there, from the `original` root, or absolute.

    A slash at the beginning is left out where there is no such file: many lists write `/train/0.png`.
    """
    path = root / name.removeprefix(original)
    return path if not name.startswith('/') or path.is_file() else root / name.removeprefix(original).lstrip('/')


def is_hidden(path: pathlib.Path) -> bool:
    """Whether a file is one of a file manager or of an archive of macOS (`._frame.png`), and not the user's."""
    return path.name.startswith('.')


# ---- folders ---------------------------------------------------------------------------------------------------------


def is_image(name: str) -> bool:
    """Whether a file's name is that of an image: no hidden file, such as the `._*` of macOS, and a known ending."""
    return not name.startswith('.') and name.lower().endswith(image_files.SUFFIXES)


def walk(folder: pathlib.Path, apart: Sequence[pathlib.Path] = ()) -> Iterator[str]:
    """Paths of the images below a folder, from it, with slashes; folders that are links are followed once.

    `apart`: folders that are not entered.
    """
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        here = os.path.realpath(place)
        if here in seen:
            folders.clear()
            continue
        seen.add(here)
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith('.') and name.lower() not in NOT_OURS and pathlib.Path(place, name) not in apart
        )
        inside = pathlib.Path(place).relative_to(folder)
        yield from ((inside / name).as_posix() for name in sorted(names) if is_image(name))
