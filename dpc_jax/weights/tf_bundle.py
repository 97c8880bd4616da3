"""TensorFlow's checkpoint format, the tensor bundle (Saver V2), read without TensorFlow.

`PREFIX.index` is a sorted table of LevelDB's format: data blocks, a metaindex block, an index block that names the data
blocks, a footer that names the other two. Its keys are names of variables, its values protocol buffers that say where
in the files `PREFIX.data-00000-of-00001`, ... the bytes of each are (tensorflow/core/protobuf/tensor_bundle.proto).
Every block and every tensor has a checksum, and each is verified when it is read.
"""

import contextlib
import dataclasses
import errno
import math
import os
import pathlib
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import google_crc32c
import ml_dtypes
import numpy as np

from dpc_jax.base import InputError

MAGIC = 0xDB4775248B80FB57  # leveldb/table/format.h
FOOTER_BYTES = 48
TRAILER_BYTES = 5  # of a block: type, checksum

DTYPES: Mapping[int, np.dtype] = {  # tensorflow/core/framework/types.proto
    number: np.dtype(kind)
    for number, kind in (
        *((1, np.float32), (2, np.float64), (19, np.float16), (14, ml_dtypes.bfloat16)),
        *((6, np.int8), (5, np.int16), (3, np.int32), (9, np.int64)),
        *((4, np.uint8), (17, np.uint16), (22, np.uint32), (23, np.uint64), (10, np.bool_)),
    )
}
OTHER_DTYPES = {7: 'string', 8: 'complex64', 18: 'complex128', 20: 'resource', 21: 'variant'}

Source = pathlib.Path | bytes
"""A file, or its content."""


@dataclasses.dataclass(frozen=True)
class BundleEntry:
    """Where a variable is (BundleEntryProto)."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int  # bytes
    size: int  # bytes
    checksum: int  # masked crc32c of the bytes
    is_partitioned: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Bundle(Mapping[str, Any]):  # values are arrays; a type checker that knew the type would read one
    """The variables of a checkpoint, sorted by name; each is read from its file when it is asked for."""

    prefix: str
    entries: Mapping[str, BundleEntry]
    shards: tuple[Source, ...]

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of the variable `name`."""
        return self.entries[name].shape

    def dtype(self, name: str) -> np.dtype:
        """Type of the variable `name`; InputError if NumPy has none for it, as for strings."""
        number = self.entries[name].dtype
        if number not in DTYPES:
            kind = OTHER_DTYPES.get(number, f'number {number}')
            raise InputError(f"checkpoint '{self.prefix}': {name} is of type {kind}, which cannot be read")
        return DTYPES[number]

    def tensor(self, name: str) -> np.ndarray:
        """Value of the variable `name`, not writable; InputError if its bytes are damaged or it is in slices."""
        entry, dtype = self.entries[name], self.dtype(name)
        if entry.is_partitioned:
            raise InputError(f"checkpoint '{self.prefix}': {name} is partitioned into slices, which are not read")
        if entry.size != math.prod(entry.shape) * dtype.itemsize:
            raise InputError(
                f"checkpoint '{self.prefix}': {name} has {entry.size} bytes, which is not {dtype} {entry.shape}"
            )
        with _faults_of(shard_name(self.prefix, entry.shard, len(self.shards))):
            content = _slice(self.shards[entry.shard], entry.offset, entry.size)
            if checksum(content) != entry.checksum:
                raise ValueError(f'is damaged: wrong checksum of {name}')
        return np.frombuffer(content, dtype).reshape(entry.shape)

    def __getitem__(self, name: str) -> np.ndarray:
        """`tensor(name)`."""
        return self.tensor(name)

    def __iter__(self) -> Iterator[str]:
        """Names of all variables, optimizer slots and counters included."""
        return iter(self.entries)

    def __contains__(self, name: object) -> bool:
        """Whether there is such a variable; reads none."""
        return name in self.entries

    def __len__(self) -> int:
        """How many variables there are."""
        return len(self.entries)


def open_bundle(prefix: str | os.PathLike[str], files: Mapping[str, bytes] | None = None) -> Bundle:
    """The checkpoint `prefix`, without the endings `.index` and `.data-...`; reads the index alone.

    `files` has the contents of files by path, where they are not on disk (the members of a tarball).

    Raises:
      InputError: no index, or one that is not a table, or is cut short, damaged, compressed or big-endian; a data file
        that is absent or too short for what the index says.
    """
    prefix = os.fspath(prefix)
    index = f'{prefix}.index'
    with _faults_of(index):
        source = _source(index, files)
        entries, num_shards = _parse(source if isinstance(source, bytes) else source.read_bytes())
    shards = []
    for shard in range(num_shards):
        name = shard_name(prefix, shard, num_shards)
        needed = max((entry.offset + entry.size for entry in entries.values() if entry.shard == shard), default=0)
        with _faults_of(name):
            source = _source(name, files)
            size = len(source) if isinstance(source, bytes) else source.stat().st_size
            if size < needed:
                raise ValueError(f'is cut short: it has {size} bytes of {needed}')
        shards.append(source)
    return Bundle(prefix, entries, tuple(shards))


def shard_name(prefix: str, shard: int, num_shards: int) -> str:
    """Path of a data file."""
    return f'{prefix}.data-{shard:05d}-of-{num_shards:05d}'


# ---- index file: table, blocks, protocol buffers; what is wrong is a ValueError -------------------------------------


def _parse(index: bytes) -> tuple[dict[str, BundleEntry], int]:
    """Entries by name, and the number of data files."""
    table = dict(_table(index))
    if b'' not in table:
        raise ValueError('is a table, but not one of a tensor bundle: it has no header')
    header = dict(_fields(table.pop(b'')))  # BundleHeaderProto
    num_shards = _integer(header.get(1, 0))
    if header.get(2, 0) != 0:
        raise ValueError('was written on a big-endian machine, which is not supported')
    # Keys that begin with 0 name slices of partitioned variables.
    entries = {key.decode(errors='replace'): _entry(value) for key, value in table.items() if not key.startswith(b'\0')}
    if any(entry.shard >= num_shards for entry in entries.values()):
        raise ValueError(f'is damaged: it has {num_shards} data files, and names another')
    return entries, num_shards


def _table(index: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a LevelDB table."""
    footer = index[-FOOTER_BYTES:]
    if len(footer) < FOOTER_BYTES or footer[-8:] != struct.pack('<Q', MAGIC):
        raise ValueError('is not a tensor bundle of TensorFlow, or is cut short')
    metaindex, at = _handle(footer, 0)
    blocks, at = _handle(footer, at)
    if any(footer[at:-8]):
        raise ValueError('is damaged: its footer is not padded with zeros')
    _block(index, metaindex)  # empty; read for its checksum
    for _, handle in _pairs(_block(index, blocks)):
        yield from _pairs(_block(index, _handle(handle, 0)[0]))


def _block(index: bytes, handle: tuple[int, int]) -> bytes:
    offset, size = handle
    content, trailer = index[offset : offset + size], index[offset + size : offset + size + TRAILER_BYTES]
    if len(trailer) < TRAILER_BYTES or struct.unpack('<I', trailer[1:])[0] != checksum(content + trailer[:1]):
        raise ValueError(f'is damaged: wrong checksum of the block at byte {offset}')
    if trailer[0]:
        kind = 'Snappy' if trailer[0] == 1 else f'method {trailer[0]}'
        raise ValueError(f'is compressed ({kind}), which is not supported; TensorFlow writes it uncompressed')
    return content


def checksum(content: bytes) -> int:
    """CRC-32C as it is stored, masked: turned by 15 bits, plus a constant (leveldb/util/crc32c.h)."""
    value = google_crc32c.value(content)
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _pairs(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a block: each key is the beginning of the one before and what differs."""
    restarts = struct.unpack('<I', block[-4:].rjust(4, b'\xff'))[0]
    end = len(block) - 4 - 4 * restarts
    at, key = 0, b''
    while at < end:
        shared, at = _varint(block, at)
        added, at = _varint(block, at)
        size, at = _varint(block, at)
        if shared > len(key) or at + added + size > end:
            raise ValueError('is damaged: an entry exceeds its block')
        key = key[:shared] + block[at : at + added]
        yield key, block[at + added : at + added + size]
        at += added + size
    if at != end:
        raise ValueError('is damaged: a block does not end with its entries')


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    """(offset, size) of a block in the index file, and where this ends in `data`."""
    offset, at = _varint(data, at)
    size, at = _varint(data, at)
    return (offset, size), at


def _entry(message: bytes) -> BundleEntry:
    fields = tuple(_fields(message))  # BundleEntryProto; what is 0 is left out
    single = dict(fields)
    shape = single.get(2, b'')
    if not isinstance(shape, bytes):
        raise ValueError('is damaged: the shape of a variable is a number')
    return BundleEntry(
        dtype=_integer(single.get(1, 0)),
        shape=tuple(_dimensions(_fields(shape))),
        shard=_integer(single.get(3, 0)),
        offset=_integer(single.get(4, 0)),
        size=_integer(single.get(5, 0)),
        checksum=_integer(single.get(6, 0)),
        is_partitioned=7 in single,
    )


def _dimensions(fields: Iterable[tuple[int, int | bytes]]) -> Iterator[int]:
    """The dimensions of a TensorShapeProto."""
    for number, dimension in fields:
        if number == 2 and isinstance(dimension, bytes):
            yield _integer(dict(_fields(dimension)).get(1, 0))


def _integer(value: int | bytes) -> int:
    if isinstance(value, bytes):
        raise ValueError('is damaged: it has a text where a number is expected')
    return value


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Numbers and values of a protocol buffer's fields (protobuf.dev, "Encoding")."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield tag >> 3, value
            continue
        size, at = _varint(message, at) if kind == 2 else ({1: 8, 5: 4}.get(kind, len(message)), at)
        content, at = message[at : at + size], at + size
        if at > len(message):
            raise ValueError('is damaged: a field exceeds its message')
        yield tag >> 3, content if kind == 2 else int.from_bytes(content, 'little')


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number in groups of seven bits, the lowest first, and where it ends."""
    value = 0
    for length, byte in enumerate(data[at : at + 10], 1):  # 64 bits
        value |= (byte & 0x7F) << 7 * (length - 1)
        if byte < 0x80:
            return value, at + length
    raise ValueError('is damaged: a number does not end')


# ---- bytes, of files or of members of a tarball ---------------------------------------------------------------------


def _source(name: str, files: Mapping[str, bytes] | None) -> Source:
    if files is not None and name not in files:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    return pathlib.Path(name) if files is None else files[name]


def _slice(source: Source, offset: int, size: int) -> bytes:
    if isinstance(source, bytes):
        return source[offset : offset + size]
    with source.open('rb') as file:
        file.seek(offset)
        return file.read(size)


@contextlib.contextmanager
def _faults_of(name: str) -> Iterator[None]:
    """What is wrong with the file `name`, as an InputError."""
    try:
        yield
    except OSError as error:
        raise InputError(f"checkpoint '{name}': {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"checkpoint '{name}' {error}") from error
