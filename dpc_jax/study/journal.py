"""A journal whose lines are whole: what a worker that was killed in the midst of a write left is cut off.

Optuna's own file backend appends behind half a line, which makes both unreadable, and so the whole study. What is cut
off is kept beside the journal. Where a file system has no symbolic links, Optuna's other lock is taken.
"""

import contextlib
import io
import json
import logging
import os
import pathlib
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalFileSymlinkLock

log = logging.getLogger(__name__)

STALE_LOCK_SECONDS = 5
"""After so long the lock of a journal counts as left by a killed worker; a write takes milliseconds."""

BEGINNING = b'{"op_code":'
"""Of every line that Optuna writes."""

BLOCK_BYTES = 1 << 16


class Journal(JournalFileBackend):
    """Optuna's journal in a file; ValueError where the file is something else."""

    def __init__(self, path: pathlib.Path) -> None:
        if path.exists():  # Optuna would append to whatever it is
            with path.open('rb') as file:
                first = file.readline()
            if not first.startswith(BEGINNING) and not BEGINNING.startswith(first):  # half a line is one, too
                raise ValueError('the file is not a journal of Optuna')
        kind = JournalFileSymlinkLock if has_links(path.parent) else JournalFileOpenLock
        super().__init__(str(path), kind(str(path), grace_period=STALE_LOCK_SECONDS))

    def append_logs(self, logs: Sequence[Mapping[str, Any]]) -> None:
        """Appends a line for each log: all of them, or an OSError and none."""
        lines = ''.join(json.dumps(log, separators=(',', ':')) + '\n' for log in logs).encode()
        self._lock.acquire()
        try:
            with open(self._file_path, 'r+b', buffering=0, opener=_appending) as file:
                append(file, lines)
        finally:
            with contextlib.suppress(RuntimeError):  # another worker took the lock for stale: the write is whole
                self._lock.release()


def _appending(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_APPEND)


def has_links(folder: pathlib.Path) -> bool:
    """Whether symbolic links can be made in a folder: not on FAT, nor on some network drives."""
    probe = folder / f'.{uuid.uuid4()}.link'
    try:
        probe.symlink_to('nothing')
    except OSError:
        return False
    probe.unlink()
    return True


def append(file: io.FileIO, lines: bytes) -> None:
    """Writes whole lines at the end of a file, unbuffered and open for appending, and waits until they are on the disk.

    What stands there behind the last whole line is cut off and kept in a file beside it, and what was written when the
    disk became full is cut off, too.
    """
    size = file.seek(0, os.SEEK_END)
    whole = end_of_logs(file, size)
    if whole < size:
        file.seek(whole)
        kept = keep(f'{os.fsdecode(file.name)}.torn-at-{whole}', file.read(size - whole))
        log.warning('the last %d bytes of the journal are half a line, which is cut off%s', size - whole, kept)
        file.truncate(whole)
    left = memoryview(lines)
    try:
        while left:
            left = left[file.write(left) :]
    except OSError:
        written = len(lines) - len(left)
        if os.fstat(file.fileno()).st_size == whole + written:  # unless another worker took the lock for stale
            file.truncate(whole)
        raise
    os.fsync(file.fileno())


def keep(path: str, torn: bytes) -> str:
    """Writes what is cut off to a file of its own, and says so; '' where that cannot be, as on a full disk."""
    try:
        pathlib.Path(path).write_bytes(torn)
    except OSError:
        return ''
    return f' and kept in {path}'


def end_of_logs(file: io.FileIO, size: int) -> int:
    """Bytes up to the end of the last whole line that is a log: after a power cut a line may end and yet be torn."""
    end = end_of_lines(file, size)
    while end > 0:
        start = end_of_lines(file, end - 1)
        file.seek(start)
        try:
            json.loads(file.read(end - start))
            break
        except ValueError:
            end = start
    return end


def end_of_lines(file: io.FileIO, size: int) -> int:
    """Bytes up to the end of the last whole line."""
    end = size
    while end > 0:
        start = max(0, end - BLOCK_BYTES)
        file.seek(start)
        place = file.read(end - start).rfind(b'\n')
        if place >= 0:
            return start + place + 1
        end = start
    return 0
