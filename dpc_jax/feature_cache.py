"""The frozen backbone, run once over train and val: what every candidate of a search is trained and scored on.

Train images are stored as a fixed number of augmented views each (scale, crop, flip drawn by seed), val images whole;
the paper leaves open how augmentation and caching go together (§3.2). Features are bfloat16, one array per output
stride, so that a second stride is one more entry and not another cache.

A cache is a folder of memory-mapped arrays and `meta.json`, which holds the description of all that made it and the
size and SHA-256 of every file. If one byte does not agree with that, the cache is refused with a
warning and built anew. A cache appears under its name when it is whole; of several processes that want it, one builds
and the others wait.
"""

import contextlib
import dataclasses
import fcntl
import functools
import json
import logging
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jaxtyping import Array, Float, UInt8

from dpc_jax import checks, files, padding, preprocess
from dpc_jax.base import InputError, Size, Track
from dpc_jax.datasets import Dataset
from dpc_jax.heads import TEACHER
from dpc_jax.padding import Padding

FORMAT = 1  # of the folder; after a change older caches are not used

Backbone = Callable[[Float[Array, 'B H W 3']], Mapping[int, Float[Array, 'B _ _ _']]]
"""Images in 0..255 -> features by output stride; a jitted function with its weights inside."""


Logits = Callable[[Float[Array, 'B H W 3']], Float[Array, 'B _ _ L']]
"""Images in 0..255 -> a teacher's logits; jitted, too."""

TAUGHT = 'teacher'  # name of the array of its logits


@dataclasses.dataclass(frozen=True)
class CacheSettings:
    """What is drawn from the data; with data and backbone it determines a cache."""

    crop_size: Size  # of a train view: output stride * k + 1
    views: int = 4  # per train image
    scales: tuple[float, ...] = preprocess.SCALES
    flip_probability: float = 0.5
    seed: int = 0
    batch_size: int = 8  # of the backbone's pass; not part of the key

    def __post_init__(self) -> None:
        checks.fields_at_least(1, self, ('views', 'batch_size'), 'cache')
        if min(self.crop_size) < 1:
            raise InputError(f'cache.crop_size is {self.crop_size}; both sides must be at least 1')
        if not self.scales or not all(scale > 0 for scale in self.scales):
            raise InputError(f'cache.scales is {self.scales}; it must be one or more numbers above 0')
        if not 0 <= self.flip_probability <= 1:
            raise InputError(f'cache.flip_probability is {self.flip_probability}; it must be in 0..1')
        checks.at_least(0, seed=self.seed)


@dataclasses.dataclass(frozen=True)
class Split:
    """Cached images of one split; arrays are memory-mapped, read-only."""

    features: Mapping[int, Float[np.ndarray, 'N _ _ _']]  # output stride -> bfloat16; `TEACHER` -> float16
    labels: UInt8[np.ndarray, 'N H W']


@dataclasses.dataclass(frozen=True)
class FeatureCache:
    """Both splits, and the key that stands for all that made them."""

    train: Split
    val: Split
    key: str


def load_or_build(
    directory: pathlib.Path,
    datasets: tuple[Dataset, Dataset],
    backbone: Backbone,
    description: Mapping[str, Any],
    settings: CacheSettings,
    *,
    output_strides: tuple[int, ...],
    teacher: tuple[Logits, Mapping[str, Any]] | None = None,
    track: Track = lambda items, _, __: items,
) -> FeatureCache:
    """Opens the cache of exactly this train and val set, backbone and settings below `directory`, or builds it.

    `description` says which backbone it is (name, width, hash of the weights): JSON values. Of a `teacher`, which has
    a description, too, the logits of train are kept in float16, as the features of `TEACHER`.

    Raises:
      InputError: a crop that is not output stride * k + 1; a directory that cannot be written or is full; whatever
        the data set finds wrong with its files.
    """
    check_crop(settings.crop_size, output_strides)
    full = _describe(datasets, description, settings, output_strides)
    logits = None
    if teacher is not None:
        logits, full['teacher'] = teacher[0], dict(teacher[1])
    key = files.digest([json.dumps(full, sort_keys=True).encode()])
    folder = directory / f'features-{key[:16]}'
    if find_fault(folder, full) is not None:
        with _lock(folder):
            fault = find_fault(folder, full)  # None if another process has built it meanwhile
            if fault is not None and folder.exists():
                logging.warning('feature cache %s is not used: %s; building it anew', folder, fault)
            if fault is not None:
                _build(folder, full, datasets, backbone, settings, logits, track=track)
    return _open(folder, key, output_strides, taught=logits is not None)


def check_crop(crop_size: Size, output_strides: tuple[int, ...]) -> None:
    """InputError unless the crop is output stride * k + 1 for each stride."""
    for stride in output_strides:
        fitting = preprocess.next_crop(crop_size, stride)
        if fitting != tuple(crop_size):
            raise InputError(f'crop size {tuple(crop_size)} is not {stride} * k + 1; the next that is: {fitting}')


def find_fault(folder: pathlib.Path, description: Mapping[str, Any]) -> str | None:
    """What is wrong with a cache that should be of `description`, in words; None if every byte is as it was written."""
    try:
        meta = json.loads((folder / 'meta.json').read_text())
        found = meta['description']
        listed = {name: (int(of['bytes']), of['sha256']) for name, of in meta['files'].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f'meta.json cannot be read ({type(error).__name__})'
    if found != description:
        return f'it was made of something else ({_difference(found, description)})'
    arrays = _arrays(description['backbone']['output_strides'], taught='teacher' in description)
    names = {f'{name}.npy' for name in arrays}
    if set(listed) != names:
        return f'meta.json lists {", ".join(sorted(listed)) or "no file"} instead of {", ".join(sorted(names))}'
    for name, (size, checksum) in listed.items():
        try:
            found_size = (folder / name).stat().st_size
            if found_size != size:
                return f'{name} has {found_size} bytes, not {size}'
            if files.sha256(folder / name) != checksum:
                return f'{name} is corrupt (its checksum differs)'
        except OSError as error:
            return f'{name} cannot be read ({type(error).__name__})'
    return None


def _arrays(output_strides: Iterable[int], *, taught: bool) -> list[str]:
    parts = [*(f'features_{stride}' for stride in output_strides), 'labels']
    return [*(f'{split}_{part}' for split in ('train', 'val') for part in parts), *[f'train_{TAUGHT}'] * taught]


def _describe(
    datasets: tuple[Dataset, Dataset],
    backbone: Mapping[str, Any],
    settings: CacheSettings,
    output_strides: tuple[int, ...],
) -> dict[str, Any]:
    train, val = datasets
    drawn = {k: v for k, v in dataclasses.asdict(settings).items() if k != 'batch_size'}
    description = {
        'format': FORMAT,
        'dataset': {'name': train.name, 'train': train.fingerprint(), 'val': val.fingerprint()},
        'backbone': {**backbone, 'output_strides': output_strides},
        'views': drawn,
    }
    return json.loads(json.dumps(description))  # tuples become the lists that meta.json gives back


def _difference(found: Any, wanted: Any) -> str:
    if not (isinstance(found, dict) and isinstance(wanted, dict)):
        return f'{found} instead of {wanted}'
    for name in sorted({*found, *wanted}):
        if found.get(name) != wanted.get(name):
            return f'{name}: {_difference(found.get(name), wanted.get(name))}'
    return 'nothing'


@contextlib.contextmanager
def _lock(folder: pathlib.Path) -> Iterator[None]:
    """Lets one process at a time build a cache; the lock of a killed process is free."""
    with contextlib.ExitStack() as stack:
        with _writing(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(open(folder.with_name(f'{folder.name}.lock'), 'w'))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logging.warning('feature cache %s is being built by another process; waiting for it', folder)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:  # the file system has none, as some network drives
            logging.warning('%s: %s; start no second process that builds this feature cache', folder, error.strerror)
        yield


@contextlib.contextmanager
def _writing(folder: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f'feature cache {folder} cannot be written: {error.strerror or error}') from error


def _build(
    folder: pathlib.Path,
    description: Mapping[str, Any],
    datasets: tuple[Dataset, Dataset],
    backbone: Backbone,
    settings: CacheSettings,
    logits: Logits | None,
    *,
    track: Track,
) -> None:
    draft = folder.with_name(f'{folder.name}.unfinished')
    with _writing(folder):
        for old in (folder, draft):  # a cache that is not used, and what a killed process left
            files.remove(old)
        draft.mkdir()
    train, val = datasets
    strides = tuple(description['backbone']['output_strides'])
    count, plan = len(train) * settings.views, _padding(val, backbone, strides, settings.batch_size)
    run, run_val = (functools.partial(_run, backbone, strides, size) for size in (settings.batch_size, plan.batch_size))
    views = track(_train_views(train, settings), 'features of train', count)
    _write(draft, 'train', _batches(views, settings.batch_size), functools.partial(run, logits=logits), count)
    whole = track((preprocess.pad_to(example, plan.size) for example in val), 'features of val', len(val))
    _write(draft, 'val', _batches(whole, plan.batch_size), run_val, len(val))
    with _writing(folder):
        listed = {
            path.name: {'bytes': path.stat().st_size, 'sha256': files.sha256(path)} for path in sorted(draft.iterdir())
        }
        (draft / 'meta.json').write_text(json.dumps({'description': description, 'files': listed}, indent=1))
        draft.replace(folder)


def _train_views(dataset: Dataset, settings: CacheSettings) -> Iterator[preprocess.Crop]:
    """All views of image 0, then of image 1, ...: an image is decoded once."""
    for index, example in enumerate(dataset):
        for view in range(settings.views):
            yield preprocess.augment(
                np.random.SeedSequence(settings.seed, spawn_key=(index, view)),
                example,
                crop_size=settings.crop_size,
                scales=settings.scales,
                flip_probability=settings.flip_probability,
            )


def _padding(dataset: Dataset, backbone: Backbone, output_strides: tuple[int, ...], batch_size: int) -> Padding:
    """How the whole images go through the backbone; warns of one that is far larger than the others."""
    sizes = [(int(height), int(width)) for height, width in (example.label.shape for example in dataset)]
    plan = padding.plan(sizes, max(output_strides), batch_size)
    if plan.is_outlier:
        maps = jax.eval_shape(backbone, jax.ShapeDtypeStruct((1, *plan.size, 3), jnp.float32))
        stored = sum(2 * maps[stride].size for stride in output_strides) + plan.size[0] * plan.size[1]
        logging.warning('features of val: %s', padding.warning(sizes, plan, dataset.example_name, stored))
    return plan


def _write(
    folder: pathlib.Path,
    split: str,
    batches: Iterable[tuple[int, list[preprocess.Crop]]],
    run: Callable[[list[preprocess.Crop]], dict[str, np.ndarray]],
    count: int,
) -> None:
    """Fills the arrays of a split batch by batch; memory holds one batch."""
    arrays: dict[str, np.memmap] = {}
    for start, batch in batches:
        for name, values in run(batch).items():
            if name not in arrays:
                arrays[name] = _allocate(folder / f'{split}_{name}.npy', values.dtype, (count, *values.shape[1:]))
            arrays[name][start : start + len(batch)] = values
    with _writing(folder):
        for array in arrays.values():
            array.flush()


def _allocate(path: pathlib.Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.memmap:
    """A new .npy file with all its blocks: on a full disk a mapped file without them ends the process (SIGBUS)."""
    with _writing(path.parent):
        array = np.lib.format.open_memmap(path, 'w+', dtype, shape)
        with open(path, 'r+b') as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _run(
    backbone: Backbone,
    output_strides: tuple[int, ...],
    batch_size: int,
    batch: list[preprocess.Crop],
    logits: Logits | None = None,
) -> dict[str, np.ndarray]:
    """Everything that is stored of a batch, by name; bfloat16 as the bits that .npy knows (uint16)."""
    # The last batch is filled up, so that the backbone is compiled once for a split.
    images = np.stack([crop.image for crop in batch] + [batch[0].image] * (batch_size - len(batch)))
    features = backbone(jnp.asarray(images))
    stored = {s: np.asarray(features[s], ml_dtypes.bfloat16)[: len(batch)].view(np.uint16) for s in output_strides}
    found = {
        **{f'features_{s}': bits for s, bits in stored.items()},
        'labels': np.stack([crop.label for crop in batch]),
    }
    if logits is not None:
        taught = np.asarray(logits(jnp.asarray(images)))[: len(batch)]
        if not np.abs(taught).max() <= np.finfo(np.float16).max:  # else every candidate would seem to diverge
            raise InputError(
                f"the teacher's logits reach {np.abs(taught).max()}; float16 holds {np.finfo(np.float16).max}"
            )
        found[TAUGHT] = taught.astype(np.float16)
    return found


def _batches(items: Iterable[preprocess.Crop], size: int) -> Iterator[tuple[int, list[preprocess.Crop]]]:
    start, batch = 0, []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield start, batch
            start, batch = start + size, []
    if batch:
        yield start, batch


def _open(folder: pathlib.Path, key: str, output_strides: tuple[int, ...], *, taught: bool) -> FeatureCache:
    def read(name: str) -> np.ndarray:
        return np.load(folder / f'{name}.npy', mmap_mode='r')

    def split(name: str) -> Split:
        features = {s: read(f'{name}_features_{s}').view(ml_dtypes.bfloat16) for s in output_strides}
        return Split(features, read(f'{name}_labels'))

    train = split('train')
    if taught:
        train = dataclasses.replace(train, features={**train.features, TEACHER: read(f'train_{TAUGHT}')})
    return FeatureCache(train, split('val'), key)
