"""A data set packed into few large files: a TensorFlow Datasets data set of `array_record`, read without TensorFlow.

For storage that many hosts share, where opening a file for each image is slow. Image files are kept byte by byte,
labels as gray PNGs of classes and 255, distances as compressed float32, people as JSON; so an example is the same as
that of the folder it was packed from. An image of people is there once for each of them. `datasets.load` opens a root
that is a pack as what it was packed from.
"""

import contextlib
import dataclasses
import io
import json
import logging
import os
import pathlib
import re
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import cv2
import ml_collections
import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float32, UInt8

from dpc_jax import datasets, files, image_files
from dpc_jax.base import DepthExample, InputError, Person, PoseExample, SegmentationExample
from dpc_jax.datasets import PACK_INFO, Dataset, Skeleton

VERSION = '1.0.0'
CLASS_FIELDS = ('name', 'classes', 'palette', 'splits', 'published', 'export_ids', 'meaning')
LATER = {'targets': ('label',), 'skeleton': None}  # facts that older packs lack, with what they stand for

Track = Callable[[Iterable[int], str, int], Iterator[int]]


@dataclasses.dataclass(frozen=True, repr=False)
class Packed(Dataset):
    """One split of a pack. `load` makes a subclass of it with the classes of the data set that was packed."""

    root: pathlib.Path
    source: Any  # the data source of tfds: bytes by feature
    names: tuple[str, ...]
    digest: str
    held: Any = None  # `truth` of what was packed
    read_by: Any = None  # its `reading`

    def __repr__(self) -> str:
        return f'Packed({self.name}, {self.split}, {self.root})'

    def __reduce__(self) -> tuple[Any, ...]:
        return load, (self.name, self.root, self.split)  # a worker opens the files itself

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Any:
        stored, name = self._stored(index), self.names[index]
        parts = {}
        for target in ('image', *self.targets):
            try:
                parts[target] = READERS[target](stored[target], f'{name} in {self.root}', 'joints' not in self.targets)
            except (ValueError, KeyError, TypeError, EOFError) as error:
                raise InputError(f'{self.root}: example {index} of {self.split} is damaged: {_line(error)}') from None
        if 'joints' in parts:
            return PoseExample(parts['image'], parts['joints'], name)
        if 'depth' in parts:
            return DepthExample(parts['image'], parts['label'], parts['depth'], name)
        return SegmentationExample(parts['image'], parts['label'], name)

    def truth(self) -> Any:
        """That of the folder it was packed from."""
        return self.held

    def reading(self) -> dict[str, Any]:
        """That of the folder it was packed from."""
        return dict(self.read_by or {})

    def example_name(self, index: int) -> str:
        """The path of the image in the folder it was packed from."""
        return self.names[index]

    def image_bytes(self, index: int) -> bytes:
        """The file as it was packed."""
        image: bytes = self._stored(index)['image']
        return image

    def fingerprint(self) -> str:
        """That of the folder it was packed from, so that scores of both count as scores of the same data."""
        return self.digest

    def _stored(self, index: int) -> Mapping[str, bytes]:
        if not 0 <= index < len(self):
            raise IndexError(f'example {index} of {len(self)}')
        try:
            stored: Mapping[str, bytes] = self.source[index]
        except (OSError, ValueError, RuntimeError, KeyError) as error:  # array_record has checksums
            raise InputError(f'{self.root}: example {index} of {self.split} is damaged: {_line(error)}') from None
        return stored


def _read_depth(content: bytes, place: str, upright: bool) -> Float32[np.ndarray, 'H W']:
    return np.load(io.BytesIO(zlib.decompress(content)))


def _read_person(content: bytes, place: str, upright: bool) -> Person:
    held = json.loads(content)
    joints, visible = np.array(held['joints'], np.float32).reshape(-1, 2), np.array(held['visible'], np.uint8)
    return Person(**{**held, 'joints': joints, 'visible': visible, **{x: tuple(held[x]) for x in ('centre', 'size')}})


READERS: Mapping[str, Callable[[bytes, str, bool], Any]] = {
    'image': lambda content, place, upright: image_files.decode_bytes(content, 'RGB', place, upright=upright),
    'label': lambda content, place, upright: image_files.decode_bytes(content, None, place),
    'depth': _read_depth,
    'joints': _read_person,
}
"""Target -> what its bytes stand for; people are annotated in pixels as they are stored."""


def _packed_depth(example: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, example.depth)
    return zlib.compress(buffer.getvalue(), 1)


def _packed_person(example: Any) -> bytes:
    person = example.person
    return json.dumps(
        {**person._asdict(), 'joints': person.joints.tolist(), 'visible': person.visible.tolist()}
    ).encode()


WRITERS: Mapping[str, Callable[[Any], bytes]] = {
    'label': lambda example: _png(example.label),
    'depth': _packed_depth,
    'joints': _packed_person,
}


class About(NamedTuple):
    """What the pack says of itself."""

    fingerprints: Mapping[str, str]  # by split
    names: Mapping[str, list[str]]  # by split: paths of the images in the folder that was packed
    facts: Mapping[str, Any] | None  # of the data set, by the names in CLASS_FIELDS; None in older packs
    truths: Mapping[str, Any]  # by split: what scores need besides examples
    readings: Mapping[str, Any]  # by split: fields by which files were read


def kind(name: str, config: ml_collections.ConfigDict) -> type[Dataset]:
    """The class of the pack in `config.root`, with the facts of what was packed; InputError as of `load`.

    Also where the config names other classes than those of the pack.
    """
    folder = files.local(config.root, 'dataset.root')
    made = _class_of(name, _about(name, folder))
    wanted = tuple(config.get('classes', None) or made.classes)
    if wanted != made.classes:
        raise InputError(
            f"the pack '{folder}' has the classes {', '.join(made.classes)}; dataset.classes is {', '.join(wanted)}"
        )
    return made


def load(name: str, root: str | pathlib.Path, split: str) -> Packed:
    """A split of the pack in the folder `root`, which must be of the data set `name`.

    Raises:
      InputError: the pack is of another data set, does not have the split, or is damaged.
    """
    folder = files.local(root, 'dataset.root')
    about = _about(name, folder)
    digests, names = about.fingerprints, about.names
    if split not in digests:
        raise InputError(f"the pack '{folder}' has no split {split!r}; there are: {', '.join(digests)}")
    try:
        kind = _class_of(name, about)
        skipped = {part: tfds.decode.SkipDecoding() for part in ('image', 'label') if part in ('image', *kind.targets)}
        with _quiet():
            builder = tfds.builder_from_directory(folder)
            source = builder.as_data_source(split=split, decoders=skipped)
    except Exception as error:  # whatever the parsers of JSON, protocol buffers and features make of a damaged file
        raise InputError(f"the pack '{folder}' is damaged: {_line(error)}") from error
    if len(source) != len(names[split]):
        raise InputError(
            f"the pack '{folder}' is damaged: {split} has {len(source)} of its {len(names[split])} examples"
        )
    return kind(
        split, folder, source, tuple(names[split]), digests[split], about.truths.get(split), about.readings.get(split)
    )


def _about(name: str, folder: pathlib.Path) -> About:
    try:
        about = json.loads((folder / PACK_INFO).read_text(encoding='utf-8'))
        found = About(
            about['fingerprints'],
            about['names'],
            _read_facts(about),
            about.get('truths') or {},
            about.get('readings') or {},
        )
        held = about['source']
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f'{folder / PACK_INFO} cannot be read: {_line(error)}') from None
    if held != name:
        raise InputError(f"dataset.root '{folder}' is a pack of {held}, not of {name}")
    return found


def _class_of(name: str, about: About) -> type[Packed]:
    if about.facts is None:
        kind = datasets.kind(ml_collections.ConfigDict({'name': name}))
        facts = {field: getattr(kind, field) for field in (*CLASS_FIELDS, *LATER)}
    else:
        facts = dict(about.facts)
    made: type[Packed] = type(f'Packed_{name}', (Packed,), facts)
    return made


def _read_facts(about: Mapping[str, Any]) -> Mapping[str, Any] | None:
    if 'facts' not in about:
        return None
    facts = {field: about['facts'][field] for field in CLASS_FIELDS}
    listed = {field: tuple(facts[field] or ()) for field in ('classes', 'splits', 'export_ids')}
    palette = np.array(facts['palette'], np.uint8).reshape(len(listed['classes']), 3)
    held = about['facts'].get('skeleton')
    skeleton = None if held is None else Skeleton(**{name: _tuples(value) for name, value in held.items()})
    later = {'targets': tuple(about['facts'].get('targets') or ('label',)), 'skeleton': skeleton}
    return {**facts, **listed, **later, 'export_ids': listed['export_ids'] or None, 'palette': palette}


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _facts(dataset: Dataset) -> dict[str, Any]:
    facts = {field: getattr(dataset, field) for field in CLASS_FIELDS}
    skeleton = None if dataset.skeleton is None else dataset.skeleton._asdict()
    later = {'targets': list(dataset.targets), 'skeleton': skeleton}
    return {**facts, **later, 'palette': dataset.palette.tolist(), 'published': dict(dataset.published)}


def write(sets: Mapping[str, Dataset], root: pathlib.Path, folder: pathlib.Path, *, track: Track) -> dict[str, int]:
    """Packs the splits `sets` of a data set in the folder `root` into the new folder `folder`; gives the bytes of each.

    The pack is written whole or not at all. `track` must not print to standard output, which is redirected meanwhile
    because TensorFlow Datasets prints. All examples are decoded; InputError names the first that is faulty.
    """
    if folder.exists():
        raise InputError(f"'{folder}' exists already; give a folder that is not there")
    unfinished = folder.with_name(f'{folder.name}.{os.getpid()}.unfinished')
    try:
        with _quiet():
            builder = _Builder(sets, root, track, data_dir=unfinished, file_format='array_record')
            builder.download_and_prepare()
        builder.data_path.rename(folder)
    except (OSError, RuntimeError) as error:  # array_record says RuntimeError where a disk is full
        raise InputError(f"'{folder}' cannot be written: {_line(error)}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return {split: sum(path.stat().st_size for path in folder.glob(f'*-{split}.array_record*')) for split in sets}


class _Builder(tfds.core.GeneratorBasedBuilder):
    """Encoded bytes go in as they are: to encode arrays TensorFlow Datasets would need TensorFlow."""

    VERSION = tfds.core.Version(VERSION)
    name = 'packed'

    def __init__(self, sets: Mapping[str, Dataset], root: pathlib.Path, track: Track, **options: Any) -> None:
        self._sets, self._root, self._track = sets, root, track
        super().__init__(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        first = next(iter(self._sets.values()))
        features: dict[str, Any] = {'image': tfds.features.Image(shape=(None, None, 3))}
        for target in first.targets:
            as_image = tfds.features.Image(shape=(None, None, 1), encoding_format='png')
            features[target] = as_image if target == 'label' else tfds.features.Text()
        about = {
            'source': first.name,
            'facts': _facts(first),
            'fingerprints': {split: dataset.fingerprint() for split, dataset in self._sets.items()},
            'readings': {split: dataset.reading() for split, dataset in self._sets.items()},
            'truths': {split: dataset.truth() for split, dataset in self._sets.items()},
            'names': {split: self._names(dataset) for split, dataset in self._sets.items()},
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=f'{first.name}: image files as they were, labels as gray PNGs of 0..L-1 and 255.',
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(about),
            disable_shuffling=True,
        )

    def _names(self, dataset: Dataset) -> list[str]:
        paths = [pathlib.Path(dataset.example_name(index)) for index in range(len(dataset))]
        inside = (path.relative_to(self._root) if path.is_relative_to(self._root) else path for path in paths)
        return [path.as_posix() for path in inside]

    def _split_generators(self, manager: Any) -> dict[str, Any]:
        return {split: self._examples(dataset) for split, dataset in self._sets.items()}

    def _generate_examples(self) -> None:
        raise NotImplementedError('each split has a generator of its own')

    def _examples(self, dataset: Dataset) -> Iterator[tuple[int, dict[str, bytes]]]:
        for index in self._track(range(len(dataset)), f'packing {dataset.split}', len(dataset)):
            example = dataset[index]
            targets = {target: WRITERS[target](example) for target in dataset.targets}
            yield index, {'image': dataset.image_bytes(index), **targets}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Within it TensorFlow Datasets prints neither its progress nor lines about downloads, of which there are none."""
    tfds.disable_progress_bar()
    logger = logging.getLogger('absl')
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def _png(label: UInt8[np.ndarray, 'H W']) -> bytes:
    return cv2.imencode('.png', label)[1].tobytes()


def _line(error: Exception) -> str:
    return re.sub(r'\s+', ' ', str(error)).strip()[:200] or type(error).__name__
