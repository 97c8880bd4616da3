"""Weights on disk: a network's variables as an Orbax checkpoint, a backbone's as `.npz` under the official names."""

import contextlib
import errno
import functools
import logging
import os
import pathlib
import re
import shutil
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util

from dpc_jax import files
from dpc_jax.backbones import mobilenet_v2
from dpc_jax.base import InputError, PyTree
from dpc_jax.weights import foreign, tf_import
from dpc_jax.weights.tf_import import LoadReport, Scopes

BACKBONE = 'backbone'
SUMS = 'SHA256SUMS'  # of all other files of a checkpoint, in the format of `sha256sum`
READ = ('.json', '.ocdbt')  # endings of files that Orbax or this project may read

NO_SPACE = ('No space left', 'RESOURCE_EXHAUSTED', 'Disk quota exceeded')
"""Words of Python, and of the libraries below Orbax, in errors of a full disk."""

Path = str | os.PathLike[str]
Leaves = dict[str, Any]
"""The leaves of a tree by their path, joined by `/`."""


# ---- whole networks -------------------------------------------------------------------------------------------------


def save(path: Path, variables: PyTree, *, beside: Mapping[str, str] | None = None, replace: bool = False) -> None:
    """Writes `params` and `batch_stats` into the folder `path` as an Orbax checkpoint, whole or not at all.

    `beside` are text files that belong to it, by name: what `described.files` says of the network.

    Values go as NumPy arrays, so they can be restored on any number of devices; checksums go beside them, because
    Orbax has none of the values.

    Raises:
      InputError: there is something at `path` already, other than an empty folder or with `replace` a checkpoint,
        or it cannot be written.
    """
    path = files.local(path, 'checkpoint').absolute()
    old = path.with_name(f'.{path.name}.{os.getpid()}.old')
    try:
        if not (replace and (path / SUMS).is_file()):
            check_target(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        check_space(path.parent, variables)
        with files.whole(path) as draft:
            with quiet(), _of_this_process() as checkpointer:
                checkpointer.save(draft, jax.tree.map(np.asarray, variables))
            for name, text in (beside or {}).items():
                (draft / name).write_text(text, encoding='utf-8')
            write_sums(draft)
            if (path / SUMS).is_file():
                path.replace(old)
    except (OSError, ValueError, RuntimeError) as error:
        if full := full_disk(error):
            raise InputError(f"checkpoint '{path}': {full}") from error
        if not isinstance(error, OSError):
            raise
        raise InputError(f"checkpoint '{path}': {error.strerror or error}") from error
    finally:
        files.remove(old)


def full_disk(error: Exception) -> str:
    """Words for the user if `error` says that a disk is full; empty if it says something else."""
    if not any(word in str(error) for word in NO_SPACE):
        return ''
    room = re.search(r' \([^()]* needed, [^()]* free\)', str(error))
    return f'no space is left on the disk{room[0] if room else ""}'


def check_target(path: Path) -> None:
    """InputError if there is something at `path` already, other than an empty folder."""
    path = files.local(path, 'checkpoint')
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"checkpoint '{path}' exists already; give a folder that is new or empty")


def restore(path: Path, shapes: PyTree) -> PyTree:
    """What `save` wrote, if it is of the tree, shapes and types of `shapes` (of `jax.eval_shape`).

    Raises:
      InputError: no such folder, no checkpoint, damaged files, another tree, other shapes or types.
    """
    held = read(path)
    _compare(_flat(held), _flat(shapes), pathlib.Path(path))
    return jax.tree.map(jnp.asarray, held)


def read(path: Path) -> PyTree:
    """What `save` wrote, as NumPy arrays; InputError: no such folder, no checkpoint of weights, damaged files."""
    path = foreign.checkpoint_at(path, 'checkpoint')
    verify(path)
    with quiet(), ocp.PyTreeCheckpointer() as checkpointer:
        held = getattr(checkpointer.metadata(path).item_metadata, 'tree', None)
        if held is None:
            raise InputError(
                f"checkpoint '{path}' has no weights alone; a training writes them into weights/ and best/"
            )
        args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), held)
        return checkpointer.restore(path, restore_args=args)


def _of_this_process() -> ocp.Checkpointer:
    """A checkpointer that waits for no other process: of several, only the first writes weights."""
    here = jax.process_index()
    options = ocp.options.MultiprocessingOptions(
        primary_host=here, active_processes={here}, barrier_sync_key_prefix=f'process{here}'
    )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=options)
    return ocp.Checkpointer(handler, multiprocessing_options=options)


def load_network(
    variables: PyTree, path: Path, scopes: Scopes, *, only: Collection[str] | None = None
) -> tuple[PyTree, LoadReport]:
    """`variables` with what fits of a checkpoint: one that `save` wrote, or whatever `tf_import.read` reads.

    What is not stored stays as it is, as do logits of another number of classes (official initialize_last_layer);
    `only` names the parts that are loaded.

    Raises:
      InputError: no such checkpoint, damaged, nothing in it fits, or another shape than that of the network.
    """
    path = files.local(path, 'checkpoint')
    if (path / SUMS).is_file():
        parts = {
            collection: {part: tree for part, tree in held.items() if part in scopes}
            for collection, held in read(path).items()
        }
        stored: tf_import.Stored = tf_import.to_official(parts, scopes)
    else:
        stored = tf_import.read(path)
    source = f"checkpoint '{path}'"
    return tf_import.assign(variables, stored, scopes, source=source, only=only, allow_missing=True, drop_logits=True)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within it Orbax does not log; else it writes thirty lines per checkpoint, and hundreds per failure."""
    logger, hook = logging.getLogger('absl'), sys.unraisablehook
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    logging.getLogger('asyncio').addFilter(
        _is_waited_for
    )  # stays: asyncio logs a failed write when it is collected as garbage
    sys.unraisablehook = functools.partial(_unraisable, hook)
    try:
        yield
    finally:
        sys.unraisablehook = hook
        logger.setLevel(level)


def _is_waited_for(record: logging.LogRecord) -> bool:
    return 'exception was never retrieved' not in record.getMessage()


def _unraisable(hook: Callable[[Any], object], found: Any) -> None:
    """Hides what TensorStore's writes raise that end after the first of them failed: nobody waits for them any more."""
    if str(found.exc_value) != 'Event loop is closed':
        hook(found)


def check_space(folder: pathlib.Path, tree: PyTree) -> None:
    """OSError, that of a full disk, if the disk of `folder` has less room than the arrays of `tree` take."""
    needed, free = sum(leaf.nbytes for leaf in jax.tree.leaves(tree)), shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(errno.ENOSPC, f'{NO_SPACE[0]} ({needed / 1e6:.1f} MB needed, {free / 1e6:.1f} MB free)')


def write_sums(path: pathlib.Path) -> None:
    """Writes the checksums of all files in the folder `path` beside them, whole or not at all."""
    sums = [f'{files.sha256(path / name)}  {name}\n' for name in _files(path)]
    files.write(path / SUMS, ''.join(sums))


def verify(path: pathlib.Path) -> None:
    """InputError unless every file in the folder `path` is as `write_sums` found it, and no other may be read.

    Notes of the user's beside them do no harm; whatever Orbax or this project might read must have its checksum.
    """
    try:
        text = (path / SUMS).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"checkpoint '{path}' is not of this project, or damaged: no readable {SUMS}") from error
    sums = {name: digest for digest, _, name in (line.partition('  ') for line in text.splitlines())}
    read = {name for name in _files(path) if '/' in name or name.startswith('_') or name.endswith(READ)}
    for name in sorted({*sums, *read} - {SUMS}):
        try:
            intact = files.sha256(path / name) == sums.get(name)
        except FileNotFoundError:
            raise InputError(f"checkpoint '{path}' is damaged: {name} is missing") from None
        except (OSError, ValueError):  # no such name
            intact = False
        if not intact:
            raise InputError(f"checkpoint '{path}' is damaged: {name} is not as {SUMS} says")


def _compare(held: Leaves, needed: Leaves, path: pathlib.Path) -> None:
    """InputError unless both have the same names, shapes and types."""
    for name in sorted(held.keys() | needed.keys()):
        if name not in held:
            raise InputError(f"checkpoint '{path}' belongs to another network: it lacks {name}")
        if name not in needed:
            raise InputError(f"checkpoint '{path}' belongs to another network: it has {name}, which is not needed")
    for name in sorted(needed):
        theirs, ours = ((tuple(leaf.shape), str(np.dtype(leaf.dtype))) for leaf in (held[name], needed[name]))
        if theirs != ours:
            raise InputError(
                f"checkpoint '{path}': {name} is {theirs[1]} {theirs[0]}, the network needs {ours[1]} {ours[0]}"
            )


def _flat(tree: PyTree) -> Leaves:
    leaves: Leaves = traverse_util.flatten_dict(tree, sep='/')
    return leaves


def _files(folder: pathlib.Path) -> list[str]:
    """Paths within the folder; hidden ones and those like Thumbs.db are those of file managers and network drives."""
    files = (file for file in folder.rglob('*') if file.is_file() and not foreign.is_of_file_manager(file))
    return sorted(file.relative_to(folder).as_posix() for file in files)


# ---- backbones ------------------------------------------------------------------------------------------------------


def load_backbone(
    variables: PyTree, path: Path, *, scope: str = mobilenet_v2.SCOPE, allow_missing: bool = False
) -> tuple[PyTree, LoadReport]:
    """The variables of a backbone with the values at `path`, which may be whatever `tf_import.read` reads.

    What the file holds beyond is reported and ignored; errors and shapes are those of `tf_import.assign`.
    """
    loaded, report = tf_import.assign(
        {collection: {BACKBONE: tree} for collection, tree in variables.items()},
        tf_import.read(path),
        {BACKBONE: scope},
        source=f"weights file '{path}'",
        allow_missing=allow_missing,
    )
    return {collection: parts[BACKBONE] for collection, parts in loaded.items()}, report


def save_backbone(variables: PyTree, path: Path, *, scope: str = mobilenet_v2.SCOPE) -> None:
    """Writes what `load_backbone` reads, whole or not at all; equal variables give equal bytes."""
    parts = {collection: {BACKBONE: tree} for collection, tree in variables.items()}
    tf_import.save_npz(path, tf_import.to_official(parts, {BACKBONE: scope}))


def fingerprint(path: Path) -> str:
    """SHA-256 of the weights at `path`: of a checkpoint's checksums, of one file, or of the digests of several.

    InputError where there are none.
    """
    try:
        if (sums := files.local(path, 'weights file') / SUMS).is_file():
            return files.sha256(sums)
        digests = [files.sha256(file) for file in tf_import.files_of(path)]
    except OSError as error:
        raise InputError(f"weights file '{path}': {error.strerror}") from error
    return digests[0] if len(digests) == 1 else files.digest([''.join(digests).encode()])
