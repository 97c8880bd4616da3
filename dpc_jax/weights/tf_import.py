"""Official TensorFlow variables <-> ours: names, layouts, the files they come in, what was loaded and what not.

The rule between the two trees, whose modules are nested alike; `scopes` gives the official scope of each part of the
network, the first name below its collection:

    params       .../kernel            <->  .../weights [kh,kw,in,out], or .../depthwise_weights [kh,kw,C,1]
                                            where the scope ends in `depthwise` (Flax: [kh,kw,1,C])
    params       .../BatchNorm/scale   <->  .../BatchNorm/gamma           bias <-> beta
    batch_stats  .../BatchNorm/mean    <->  .../BatchNorm/moving_mean     var  <-> moving_variance
    params       .../bias              <->  .../biases  (logits only)

The epsilon of a batch norm is not a variable: it is set in the module, 1e-3 in backbones and 1e-5 elsewhere.
"""

import dataclasses
import lzma
import os
import pathlib
import re
import tarfile
import zipfile
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from dpc_jax import files
from dpc_jax.base import InputError, PyTree
from dpc_jax.weights import foreign, tf_bundle
from dpc_jax.weights.foreign import STATE_FILE

BATCH_NORM_LEAVES = {'scale': 'gamma', 'bias': 'beta', 'mean': 'moving_mean', 'var': 'moving_variance'}
LEAVES = {'kernel': 'weights', 'bias': 'biases'}
LOGITS = 'logits'  # the part whose last axis are the classes
CONTEXTS = (('meta_architecture', 'a cell'), ('aspp0', 'ASPP'))  # what tells one context module from another

IGNORED = re.compile(
    r'(^|/)(global_step|beta[12]_power|Momentum|Adam(_1)?|RMSProp(_\d)?|Adagrad|ExponentialMovingAverage)$'
)
"""Counters, slots of tf.train's optimizers, shadows of moving averages: what training kept for itself."""

SHOWN_NAMES = 3  # how many variables a message names before it only counts them

PART_OF_BUNDLE = re.compile(r'\.(index|data-\d{5}-of-\d{5})$')
TARBALL = re.compile(r'\.(tar(\.[a-z]\w*)?|tgz)(\.\d+)?$')  # .tar.gz.1: fetched a second time

Path = str | os.PathLike[str]
Names = tuple[str, ...]
Scopes = Mapping[str, str]
Stored = Mapping[str, Any]
"""Arrays by official name, perhaps read when they are asked for (a type checker that knew the type would read one)."""


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """The difference between what is stored and the variables it was loaded into, as official names."""

    loaded: Names
    missing: Names  # variables of the network that are not stored; they kept their values
    unused: Names  # stored variables that the network does not have, such as another classifier
    ignored: Names = ()  # stored by training for itself: optimizer slots, counters
    dropped: Names = ()  # stored logits of another number of classes; the network's kept their values

    def lines(self) -> list[str]:
        """One line each for loaded, missing, unused, and the others if there are any: the count and the first names."""
        rows = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        rows = {word: names for word, names in rows.items() if names or word not in ('ignored', 'dropped')}
        return [f'{word:<7} {len(names):>4}' + (f'  {_some(names)}' if names else '') for word, names in rows.items()]

    def __str__(self) -> str:
        """The lines of `lines()`."""
        return '\n'.join(self.lines())


# ---- names and layouts ----------------------------------------------------------------------------------------------


def official_name(path: tuple[str, ...], scopes: Scopes) -> str:
    """Official name of the Flax variable at `path`: its collection, its part of the network, and so on to the leaf."""
    _, part, *modules, leaf = path
    leaf = BATCH_NORM_LEAVES[leaf] if path[-2] == 'BatchNorm' else LEAVES[leaf]
    return '/'.join(filter(None, (scopes[part], *modules, f'depthwise_{leaf}' if _is_depthwise(path) else leaf)))


def to_official(variables: PyTree, scopes: Scopes) -> dict[str, np.ndarray]:
    """Every variable under its official name and in its official layout; bfloat16, foreign to NumPy, as float32."""
    arrays = {}
    for path, leaf in traverse_util.flatten_dict(variables).items():
        value = _swap_depthwise(path, np.asarray(leaf))
        arrays[official_name(path, scopes)] = value.astype(np.float32) if value.dtype == jnp.bfloat16 else value
    return arrays


def _is_depthwise(path: tuple[str, ...]) -> bool:
    return path[-1] == 'kernel' and path[-2].endswith('depthwise')


def _swap_depthwise(path: tuple[str, ...], value: np.ndarray) -> np.ndarray:
    """[kh,kw,C,1] <-> [kh,kw,1,C] of a depthwise kernel; anything else as it is."""
    return value.swapaxes(2, 3) if _is_depthwise(path) else value


def _official_shape(path: tuple[str, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[:2], shape[3], shape[2]) if _is_depthwise(path) else shape


# ---- files ----------------------------------------------------------------------------------------------------------


def read(path: Path) -> Stored:
    """The variables stored at `path`, by their official names.

    `path` is a checkpoint of TensorFlow (`model.ckpt-90000`, or one of its files), a folder with one (or with a file
    `checkpoint` that says which), a tarball of such a folder as the model zoo has them, or an `.npz`. A checkpoint's
    variables are read when they are asked for.

    Raises:
      InputError: nothing of that kind there (a file of another kind is called what it is), cut short or damaged.
    """
    path = files.local(path, 'weights file')
    foreign.refuse(path)
    prefix = _prefix_of(path)
    if prefix is not None:
        return tf_bundle.open_bundle(prefix)
    return _read_tarball(path) if TARBALL.search(path.name) else _read_npz(path)


def files_of(path: Path) -> list[pathlib.Path]:
    """The files that `read` reads at `path`, sorted; InputError where they are of another kind."""
    path = files.local(path, 'weights file')
    foreign.refuse(path)
    prefix = _prefix_of(path)
    beside = [] if prefix is None else pathlib.Path(prefix).parent.glob('*')
    parts = [file for file in beside if str(file) != prefix == PART_OF_BUNDLE.sub('', str(file))]
    return sorted(parts) or [path]


def save_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes what `read` reads, whole or not at all; equal arrays give equal bytes. InputError if it cannot."""
    try:
        with files.whole(path) as draft, draft.open('wb') as file:  # to a name np.savez would append .npz
            np.savez(file, allow_pickle=False, **{name: arrays[name] for name in sorted(arrays)})
    except OSError as error:
        raise InputError(f"weights file '{path}': {error.strerror or error}") from error


def _read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        # np.load would also take a bare .npy or a pickle for what it is; here it is one archive or a fault.
        with path.open('rb') as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as archive:
            return dict(archive)
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, RuntimeError) as error:
        raise InputError(f"weights file '{path}' is not an .npz archive, or is cut short or corrupt") from error
    except OSError as error:
        raise InputError(f"weights file '{path}': {error.strerror or error}") from error


def _read_tarball(path: pathlib.Path) -> Stored:
    """Members are read where they are: nothing is extracted, so their paths cannot do harm."""
    try:
        with tarfile.open(path) as archive:  # in one pass: going back would unpack everything again
            regular = (member for member in archive if member.isfile() and _is_of_bundle(member.name))
            files = {f'{path}/{member.name}': _content(archive, member) for member in regular}
    except (tarfile.TarError, zlib.error, lzma.LZMAError, EOFError) as error:
        raise InputError(f"weights file '{path}' is not a tarball, or is cut short or corrupt") from error
    except OSError as error:
        why = error.strerror or 'is not a tarball, or is cut short or corrupt'
        raise InputError(f"weights file '{path}': {why}") from error
    state = next((files[name].decode(errors='replace') for name in files if name.endswith(f'/{STATE_FILE}')), '')
    return tf_bundle.open_bundle(_one_of(files, state, path), files)


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    return file.read() if file is not None else b''  # None: no regular file


def _is_of_bundle(name: str) -> bool:
    """Whether a member of a tarball is part of a bundle; those that macOS adds begin with `._`."""
    base = name.rpartition('/')[2]
    return not base.startswith('._') and (base == STATE_FILE or bool(PART_OF_BUNDLE.search(base)))


def _prefix_of(path: pathlib.Path) -> str | None:
    """The checkpoint of TensorFlow that `path` stands for; None where it is a single file."""
    if path.is_dir():
        return _bundle_in(path)
    is_part = PART_OF_BUNDLE.search(path.name)
    if path.suffix == '.npz' or TARBALL.search(path.name) or (path.is_file() and not is_part):
        return None
    return PART_OF_BUNDLE.sub('', str(path))


def _bundle_in(folder: pathlib.Path) -> str:
    state = folder / STATE_FILE
    try:
        text = state.read_text(errors='replace') if state.is_file() else ''
        return _one_of(map(str, folder.iterdir()), text, folder)
    except OSError as error:
        raise InputError(f"checkpoint '{folder}': {error.strerror or error}") from error


def _one_of(files: Iterable[str], state: str, where: pathlib.Path) -> str:
    """The prefix of the checkpoint that `state` (content of the file `checkpoint`) names, else of the only one.

    Only the last name of a path in `state` counts: it may come from the machine that trained.
    """
    indices = (name for name in files if name.endswith('.index') and _is_of_bundle(name))
    prefixes = sorted(name.removesuffix('.index') for name in indices)
    latest = re.search(r'^model_checkpoint_path: "(?:.*/)?(.+)"', state, re.MULTILINE)
    named = [prefix for prefix in prefixes if latest and prefix.rpartition('/')[2] == latest[1]] or prefixes
    if len(named) != 1:
        names = ', '.join(prefix.rpartition('/')[2] for prefix in named)
        held = f'{len(named)} checkpoints ({names}); name one' if named else 'no checkpoint (NAME.index, NAME.data-...)'
        raise InputError(f"'{where}' holds {held}")
    return named[0]


# ---- stored variables into the network's ----------------------------------------------------------------------------


def assign(
    variables: PyTree,
    stored: Stored,
    scopes: Scopes,
    *,
    source: str,
    only: Collection[str] | None = None,
    allow_missing: bool = False,
    drop_logits: bool = False,
) -> tuple[PyTree, LoadReport]:
    """`variables` (`params`, `batch_stats`) with the stored values, cast to their types; `variables` stays as it is.

    Every variable of the network must be stored, unless `allow_missing`; what is stored beyond is reported and left.
    Where all are loaded, only shapes and types of `variables` matter, so `jax.eval_shape` of the network's `init` will
    do; what is not loaded is returned as it is.

    Args:
      source: what errors begin with, such as "checkpoint 'model.ckpt'".
      only: the parts of the network that are loaded, such as `('backbone',)`; by default all.
      drop_logits: stored logits of another number of classes are left out and reported instead of an error; with
        `allow_missing` also those that read another number of channels.

    Raises:
      InputError: no variable that fits; a variable missing, of another shape, not floating-point or not finite.
    """
    leaves = traverse_util.flatten_dict(variables)
    needed = {official_name(key, scopes): key for key in leaves if only is None or key[1] in only}
    found = [name for name in stored if name in needed]
    others = [name for name in stored if name not in needed]
    report = LoadReport(
        loaded=tuple(found),
        missing=tuple(name for name in needed if name not in stored),
        unused=tuple(name for name in others if not IGNORED.search(name)),
        ignored=tuple(name for name in others if IGNORED.search(name)),
    )
    if not found or (report.missing and not allow_missing):
        raise InputError(f'{source} {_lack(report, tuple(needed))}')
    loaded = {}
    for name in found:
        key, value = needed[name], stored[name]
        shape = _official_shape(key, leaves[key].shape)
        differs = value.shape != shape and (allow_missing or value.shape[:-1] == shape[:-1])
        if not (drop_logits and key[1] == LOGITS and differs):
            _check(name, value, shape, source)
            loaded[key] = jnp.asarray(_cast(name, _swap_depthwise(key, value), leaves[key].dtype, source))
    dropped = tuple(name for name in found if needed[name] not in loaded)
    report = dataclasses.replace(report, loaded=tuple(name for name in found if name not in dropped), dropped=dropped)
    return traverse_util.unflatten_dict(leaves | loaded), report


def _check(name: str, value: np.ndarray, shape: tuple[int, ...], source: str) -> None:
    if value.shape != shape:
        raise InputError(f'{source}: {name} has shape {value.shape}, the network needs {shape}')
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise InputError(f'{source}: {name} has type {value.dtype}, it must be floating-point')


def _cast(name: str, value: np.ndarray, dtype: np.dtype, source: str) -> np.ndarray:
    with np.errstate(over='ignore'):  # what is too large for the type becomes infinite, and is refused here
        value = value.astype(dtype)
    if not np.isfinite(value).all():
        raise InputError(f'{source}: {name} has values that are not finite')
    return value


def _lack(report: LoadReport, needed: Names) -> str:
    """Why the network cannot be filled, and what is stored instead."""
    if not report.loaded:
        held = report.unused + report.ignored
        return (
            f'has no variable of this network: it holds {_some(held) or "nothing"}; the network needs {_some(needed)}'
        )
    held_scopes, needed_scopes = _scopes_of(report.loaded + report.unused), _scopes_of(needed)
    if not needed_scopes <= held_scopes:
        scopes = f'it holds {", ".join(sorted(held_scopes))}; the network needs {", ".join(sorted(needed_scopes))}'
        return f'belongs to another model: {scopes}{_hint(held_scopes, needed_scopes)}'
    others = f'; the network does not use {_some(report.unused)}' if report.unused else ''
    return f'lacks {len(report.missing)} of {len(needed)} variables: {_some(report.missing)}{others}'


def _scopes_of(names: Names) -> set[str]:
    return {name.partition('/')[0] for name in names}


def _hint(held: set[str], needed: set[str]) -> str:
    """A hint at another context; the official tools give none (tensorflow/models issue 5630)."""
    for theirs, ours in (CONTEXTS, CONTEXTS[::-1]):
        if theirs[0] in held and ours[0] in needed - held:
            return f': its context module is {theirs[1]}, that of the network {ours[1]}'
    return ''


def _some(names: Sequence[str]) -> str:
    """`a, b, c and 7 more`."""
    more = len(names) - SHOWN_NAMES
    return ', '.join(names[:SHOWN_NAMES]) + (f' and {more} more' if more > 0 else '')
