"""Files and folders that are whole or not there, and digests of what is in them.

Whoever writes a file that others may look at, now or after a kill, writes it through `whole`: there is never a half of
one under its name.
"""

import codecs
import contextlib
import hashlib
import json
import os
import pathlib
import re
import shutil
from collections.abc import Iterable, Iterator
from typing import Any

from dpc_jax.base import InputError

Path = str | os.PathLike[str]

CONTAINER = pathlib.Path('/sys/fs/cgroup')


def digest(parts: Iterable[bytes]) -> str:
    """SHA-256 of all parts together, hexadecimal."""
    total = hashlib.sha256()
    for part in parts:
        total.update(part)
    return total.hexdigest()


def sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal; OSError where it cannot be read."""
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


@contextlib.contextmanager
def whole(path: Path, *, draft: pathlib.Path | None = None) -> Iterator[pathlib.Path]:
    """Gives a place beside `path` for a file or a folder, which gets the name `path` when the block ends without error.

    An older file of that name is replaced in one step; of folders only an empty one. What an error leaves is removed.
    `draft` is that place where it must have a known name; by default no two processes share one, and it is hidden.
    """
    path = pathlib.Path(path)
    draft = draft or path.with_name(f'.{path.name}.{os.getpid()}.unfinished')
    try:
        yield draft
        draft.replace(path)
    finally:
        remove(draft)


def write(path: Path, content: str | bytes) -> pathlib.Path:
    """Writes a file that others see either as it was or whole (text as UTF-8); gives its path.

    A name of a file that is not UTF-8 is in Python's texts by half characters, which are written as JSON and Python
    write them: `\\udcff`.
    """
    path = pathlib.Path(path)
    with whole(path) as draft:
        draft.write_bytes(content.encode(errors='backslashreplace') if isinstance(content, str) else content)
    return path


def text(content: bytes) -> str:
    """Text of UTF-8, with or without a byte order mark, or of UTF-16 with one; UnicodeDecodeError where it is neither.

    Windows' editors write both marks.
    """
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode('utf-16' if wide else 'utf-8-sig')


def read_json(path: pathlib.Path) -> Any:
    """What a JSON file holds, whatever UTF encoding it has; InputError where it is missing or no JSON."""
    try:
        return json.loads(text(path.read_bytes()))
    except FileNotFoundError:
        raise InputError(f'there is no file {path}') from None
    except (OSError, ValueError) as error:
        raise InputError(f'{path} cannot be read: {error}') from None


def local(path: Path, what: str) -> pathlib.Path:
    """The path with the home folder in place of `~`; InputError, which calls it `what`, where that cannot be.

    So it is for an address such as gs://bucket/run, of which pathlib would make a folder `gs:` here: object stores are
    not supported, a folder where one is mounted is.
    """
    shown = os.fspath(path)
    if scheme := re.match(r'[A-Za-z][A-Za-z0-9+.-]+:(?=/)', shown):  # pathlib makes one slash of two
        raise InputError(f"{what} '{shown}': {scheme[0]}// is not supported; allowed: a folder or file of this machine")
    try:
        return pathlib.Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(f"{what} '{shown}': {str(error).rstrip('.')}") from error


def remove(path: pathlib.Path) -> None:
    """Removes a file, or a folder with all that is in it; nothing where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()


def make_folder(folder: pathlib.Path, what: str) -> None:
    """Makes it if it is missing; InputError, which calls it `what`, where that cannot be or nothing may be written."""
    folder = local(folder, what)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{what} '{folder}' cannot be made: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{what} '{folder}' is not writable")


def available_memory() -> int | None:
    """Bytes of the host's memory that may still be taken, by Linux and by the container; None where neither says."""
    found = []
    with contextlib.suppress(OSError, ValueError, KeyError):
        lines = pathlib.Path('/proc/meminfo').read_text().splitlines()
        found.append(1024 * int(dict(line.split(':') for line in lines)['MemAvailable'].split()[0]))
    with contextlib.suppress(OSError, ValueError, KeyError):  # a container without a limit has the word 'max'
        limit, used = (int((CONTAINER / name).read_text()) for name in ('memory.max', 'memory.current'))
        lines = (CONTAINER / 'memory.stat').read_text().splitlines()
        found.append(limit - used + int(dict(line.split() for line in lines)['inactive_file']))
    return min(found, default=None)
