"""Weights on disk: a backbone's variables as `.npz` under the official TensorFlow names, in the official layouts.

The rule between the two trees, for any network whose Flax modules are nested like the official scopes:

    params       .../kernel            <->  .../weights [kh,kw,in,out], or .../depthwise_weights [kh,kw,C,1]
                                            where the scope ends in `depthwise` (Flax: [kh,kw,1,C])
    params       .../BatchNorm/scale   <->  .../BatchNorm/gamma           bias <-> beta
    batch_stats  .../BatchNorm/mean    <->  .../BatchNorm/moving_mean     var  <-> moving_variance
    params       .../bias              <->  .../biases  (logits only)
"""

import dataclasses
import hashlib
import os
import pathlib
import zipfile
import zlib

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from dpc_jax.backbones import mobilenet_v2
from dpc_jax.base import InputError, PyTree

BATCH_NORM_LEAVES = {'scale': 'gamma', 'bias': 'beta', 'mean': 'moving_mean', 'var': 'moving_variance'}
LEAVES = {'kernel': 'weights', 'bias': 'biases'}
SHOWN_NAMES = 3  # how many variables a message names before it only counts them

Names = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """The difference between a file and the variables it was loaded into, as official names."""

    loaded: Names
    missing: Names  # variables of the network that the file does not hold; they kept their values
    unused: Names  # variables of the file that the network does not have, such as the classifier

    def lines(self) -> list[str]:
        """One line each for loaded, missing and unused: the count and the first names."""
        rows = ((field.name, getattr(self, field.name)) for field in dataclasses.fields(self))
        return [f'{word:<7} {len(names):>4}' + (f'  {_some(names)}' if names else '') for word, names in rows]

    def __str__(self) -> str:
        """The lines of `lines()`."""
        return '\n'.join(self.lines())


def tf_name(path: tuple[str, ...], scope: str) -> str:
    """Official name of the Flax variable at `path`, which starts with its collection, under the official `scope`."""
    *modules, leaf = path[1:]
    prefix = '/'.join((scope, *modules))
    if modules[-1] == 'BatchNorm':
        return f'{prefix}/{BATCH_NORM_LEAVES[leaf]}'
    return f'{prefix}/depthwise_weights' if _is_depthwise(path) else f'{prefix}/{LEAVES[leaf]}'


def load_backbone(
    variables: PyTree,
    path: str | os.PathLike[str],
    *,
    scope: str = mobilenet_v2.SCOPE,
    allow_missing: bool = False,
) -> tuple[PyTree, LoadReport]:
    """The variables (`params`, `batch_stats`) with the values of the file; `variables` itself is not changed.

    Every variable of the network must be in the file, unless `allow_missing`; what the file holds beyond is reported
    and ignored. Only shapes and types of `variables` matter for what the file holds, so `jax.eval_shape` of the
    network's `init` will do.

    Raises:
      InputError: no such file; not an .npz, or cut short, or corrupt; no variable that fits; a variable missing, of
        another shape, not floating-point or not finite.
    """
    leaves = traverse_util.flatten_dict(variables)
    names = {tf_name(key, scope): key for key in leaves}
    stored, held = _read(path, wanted=frozenset(names))
    report = LoadReport(
        loaded=tuple(stored),
        missing=tuple(name for name in names if name not in stored),
        unused=tuple(name for name in held if name not in names),
    )
    if not stored:
        raise InputError(
            f"weights file '{path}' has no variable of this network:"
            f' it holds {_some(held) or "nothing"}; needed are {_some(tuple(names))}'
        )
    if report.missing and not allow_missing:
        raise InputError(f"weights file '{path}' lacks {len(report.missing)} variables: {_some(report.missing)}")
    loaded = {}
    for name in report.loaded:
        key = names[name]
        _check(name, stored[name], shape=_tf_shape(key, leaves[key].shape), path=path)
        loaded[key] = jnp.asarray(_swap_depthwise(key, stored[name]), leaves[key].dtype)
    return traverse_util.unflatten_dict(leaves | loaded), report


def save_backbone(variables: PyTree, path: str | os.PathLike[str], *, scope: str = mobilenet_v2.SCOPE) -> None:
    """Writes what `load_backbone` reads, whole or not at all; equal variables give equal bytes."""
    leaves = traverse_util.flatten_dict(variables)
    arrays = {tf_name(key, scope): _swap_depthwise(key, np.asarray(leaf)) for key, leaf in leaves.items()}
    target = pathlib.Path(path)
    unfinished = target.with_name(f'{target.name}.{os.getpid()}.unfinished')
    try:
        with unfinished.open('wb') as file:  # a file object: np.savez would append .npz to a name without it
            np.savez(file, allow_pickle=False, **arrays)
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)


def fingerprint(path: str | os.PathLike[str]) -> str:
    """SHA-256 of the file's bytes, in hexadecimal; InputError if it cannot be read."""
    try:
        with open(path, 'rb') as file:
            return hashlib.file_digest(file, 'sha256').hexdigest()
    except OSError as error:
        raise InputError(f"weights file '{path}': {error.strerror}") from error


def _read(path: str | os.PathLike[str], *, wanted: frozenset[str]) -> tuple[dict[str, np.ndarray], Names]:
    """The arrays of the file that are wanted, and the names of all that it holds."""
    try:
        # np.load would also take a bare .npy or a pickle for what it is; here it is one archive or a fault.
        with open(path, 'rb') as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files if name in wanted}, tuple(archive.files)
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, RuntimeError) as error:
        raise InputError(f"weights file '{path}' is not an .npz archive, or is cut short or corrupt") from error
    except OSError as error:
        raise InputError(f"weights file '{path}': {error.strerror or error}") from error


def _check(name: str, value: np.ndarray, *, shape: tuple[int, ...], path: str | os.PathLike[str]) -> None:
    if value.shape != shape:
        raise InputError(f"weights file '{path}': {name} has shape {value.shape}, the network needs {shape}")
    if not np.issubdtype(value.dtype, np.floating):
        raise InputError(f"weights file '{path}': {name} has type {value.dtype}, it must be floating-point")
    if not np.isfinite(value).all():
        raise InputError(f"weights file '{path}': {name} has values that are not finite")


def _is_depthwise(path: tuple[str, ...]) -> bool:
    return path[-1] == 'kernel' and path[-2].endswith('depthwise')


def _swap_depthwise(path: tuple[str, ...], value: np.ndarray) -> np.ndarray:
    """[kh,kw,C,1] <-> [kh,kw,1,C] of a depthwise kernel; anything else as it is."""
    return value.swapaxes(2, 3) if _is_depthwise(path) else value


def _tf_shape(path: tuple[str, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[:2], shape[3], shape[2]) if _is_depthwise(path) else shape


def _some(names: Names) -> str:
    """`a, b, c and 7 more`."""
    more = len(names) - SHOWN_NAMES
    return ', '.join(names[:SHOWN_NAMES]) + (f' and {more} more' if more > 0 else '')
