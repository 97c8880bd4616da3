"""The reader of TensorFlow's checkpoints, against files that TensorFlow wrote and against files made and broken here.

The writer below is written from the formats' descriptions and shares no code with the reader, its checksum included.
"""

import json
import pathlib
import struct
import zlib
from collections.abc import Callable, Iterable

import ml_dtypes
import numpy as np
import pytest

from dpc_jax.base import InputError
from dpc_jax.weights import tf_bundle
from tests.scripts import module_at

Find = Callable[[str], pathlib.Path]
Pairs = list[tuple[bytes, bytes]]

GOLDEN = 'golden/ckpt_mnv2_dpc'
NUMBERS = {
    **{'float32': 1, 'float64': 2, 'float16': 19, 'bfloat16': 14, 'bool': 10},
    **{'int8': 6, 'int16': 5, 'int32': 3, 'int64': 9, 'uint8': 4, 'uint16': 17, 'uint32': 22, 'uint64': 23},
}


# ---- a writer -------------------------------------------------------------------------------------------------------


def remainders() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


TABLE = remainders()


def bytewise(message: bytes) -> int:
    """CRC-32C as it is defined: byte by byte."""
    register = 0xFFFFFFFF
    for byte in message:
        register = TABLE[(register ^ byte) & 0xFF] ^ register >> 8
    return register ^ 0xFFFFFFFF


def masked(message: bytes) -> bytes:
    checksum = bytewise(message)
    return struct.pack('<I', ((checksum >> 15 | checksum << 17) + 0xA282EAD8) % 2**32)


def varint(number: int) -> bytes:
    return bytes([number]) if number < 128 else bytes([number % 128 + 128]) + varint(number // 128)


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value) if value else b''


def text(field: int, content: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(content)) + content


def entry(kind: int, shape: tuple[int, ...], content: bytes, *, shard: int = 0, offset: int = 0) -> bytes:
    """A BundleEntryProto."""
    dimensions = b''.join(text(2, number(1, size)) for size in shape)
    place = number(3, shard) + number(4, offset) + number(5, len(content))
    return number(1, kind) + text(2, dimensions) + place + varint(6 << 3 | 5) + masked(content)


def header(num_shards: int = 1, endianness: int = 0) -> tuple[bytes, bytes]:
    return b'', number(1, num_shards) + number(2, endianness) + text(3, number(1, 1))


def block(pairs: Pairs, interval: int = 3) -> bytes:
    """Keys with what they share with the one before left out, but for every third."""
    content, restarts, last = b'', [], b''
    for index, (key, value) in enumerate(pairs):
        shared = 0
        if index % interval == 0:
            restarts.append(len(content))
        else:
            while key[: shared + 1] == last[: shared + 1] and shared < len(key):
                shared += 1
        content += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    restarts = restarts or [0]
    return content + struct.pack(f'<{len(restarts) + 1}I', *restarts, len(restarts))


def table(blocks: Iterable[bytes], *, kind: int = 0) -> bytes:
    """A LevelDB table of these data blocks; keys of the index block are of no matter for reading all."""
    file, handles = b'', []
    for content in blocks:
        handles.append(varint(len(file)) + varint(len(content)))
        file += content + bytes([kind]) + masked(content + bytes([kind]))
    ends = []
    for content in (block([]), block([(b'%04d' % i, handle) for i, handle in enumerate(handles)])):
        ends.append(varint(len(file)) + varint(len(content)))
        file += content + b'\0' + masked(content + b'\0')
    return file + b''.join(ends).ljust(40, b'\0') + struct.pack('<Q', 0xDB4775248B80FB57)


def write_bundle(prefix: pathlib.Path, tensors: dict[str, np.ndarray], num_shards: int = 1) -> None:
    """Tensors go to the data files in turn, five to an index block."""
    shards, pairs = [b''] * num_shards, [header(num_shards)]
    for index, (name, value) in enumerate(sorted(tensors.items())):
        content, shard = value.tobytes(), index % num_shards
        place = {'shard': shard, 'offset': len(shards[shard])}
        pairs.append((name.encode(), entry(NUMBERS[str(value.dtype)], value.shape, content, **place)))
        shards[shard] += content
    blocks = [block(pairs[first : first + 5]) for first in range(0, len(pairs), 5)]
    pathlib.Path(f'{prefix}.index').write_bytes(table(blocks))
    for shard, content in enumerate(shards):
        pathlib.Path(f'{prefix}.data-{shard:05d}-of-{num_shards:05d}').write_bytes(content)


def write_index(prefix: pathlib.Path, pairs: Pairs, **options: int) -> None:
    pathlib.Path(f'{prefix}.index').write_bytes(table([block(pairs)], **options))
    pathlib.Path(f'{prefix}.data-00000-of-00001').write_bytes(b'\0\0\x80\x3f' * 4)


ONES = np.ones(2, np.float32)
TENSORS = {
    **{f'conv_{i}/weights': np.arange(i, 3.0 * i + 1, dtype=np.float32).reshape(1, -1) for i in range(7)},
    **{f'conv_{i}/BatchNorm/gamma': np.full(i, 0.5, np.float32) for i in range(7)},
    'global_step': np.array(90_000, np.int64),
}


@pytest.fixture
def prefix(tmp_path: pathlib.Path) -> pathlib.Path:
    """A checkpoint of 15 variables in two data files."""
    write_bundle(tmp_path / 'model.ckpt-1', TENSORS, num_shards=2)
    return tmp_path / 'model.ckpt-1'


def refusal(prefix: pathlib.Path, name: str | None = None) -> str:
    """The message of opening, or of reading the variable `name`; it is one line that names the checkpoint."""
    bundle = tf_bundle.open_bundle(prefix) if name is not None else None
    with pytest.raises(InputError) as caught:
        bundle.tensor(name) if bundle is not None else tf_bundle.open_bundle(prefix)
    message = str(caught.value)
    assert '\n' not in message
    assert message.startswith(f"checkpoint '{prefix}")
    return message


# ---- checksum -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('message', 'checksum'),
    [
        (b'', 0),
        (b'123456789', 0xE3069283),
        (bytes(32), 0x8A9136AA),  # these four: RFC 3720, B.4
        (b'\xff' * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_published_checksums(message: bytes, checksum: int) -> None:
    assert bytewise(message) == checksum
    assert tf_bundle.checksum(message) == int.from_bytes(masked(message), 'little')


# ---- what TensorFlow wrote ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('prefix', 'manifest', 'count'),
    [
        ('model.ckpt-90000', 'manifest.json', 501),
        ('tiny/single.ckpt', 'tiny/manifest.json', 507),
        ('tiny/sharded.ckpt', 'tiny/manifest_sharded.json', 40),
    ],
)
def test_every_tensor_of_tensorflow_has_its_shape_type_and_bytes(
    shared: Find, prefix: str, manifest: str, count: int
) -> None:
    bundle = tf_bundle.open_bundle(shared(GOLDEN) / prefix)
    expected = json.loads((shared(GOLDEN) / manifest).read_text())['tensors']
    assert len(bundle) == len(expected) == count
    assert list(bundle) == [name for name, *_ in expected]
    for name, shape, dtype, checksum in expected:
        value = bundle[name]
        assert (value.shape, value.dtype) == (bundle.shape(name), bundle.dtype(name)) == (tuple(shape), dtype), name
        assert zlib.crc32(value.tobytes()) == checksum, name


def test_values_of_the_whole_network_are_those_of_the_rule(shared: Find) -> None:
    rule = module_at(shared('golden/models/weights_rule.py'))
    bundle = tf_bundle.open_bundle(shared(GOLDEN) / 'model.ckpt-90000')
    assert bundle['global_step'] == 90_000
    for name in set(bundle) - {'global_step'}:
        np.testing.assert_array_equal(bundle[name], rule.variable(name, bundle.shape(name)), err_msg=name, strict=True)


def copied(source: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
    """A copy of all files of the checkpoint `source` that may be written to."""
    for file in source.parent.glob(f'{source.name}.*'):
        (target / file.name).write_bytes(file.read_bytes())
    return target / source.name


@pytest.fixture(params=['ours', 'golden'])
def sharded(request: pytest.FixtureRequest, prefix: pathlib.Path, shared: Find) -> pathlib.Path:
    """Small checkpoints in two data files: the one above, and one of TensorFlow."""
    if request.param == 'ours':
        return prefix
    return copied(shared(GOLDEN) / 'tiny/sharded.ckpt', prefix.parent)


def test_an_index_cut_anywhere_is_refused(sharded: pathlib.Path) -> None:
    index = pathlib.Path(f'{sharded}.index')
    content = index.read_bytes()
    for length in range(len(content)):
        index.write_bytes(content[:length])
        assert 'not a tensor bundle of TensorFlow, or is cut short' in refusal(sharded)


def test_an_index_with_any_byte_changed_is_refused(sharded: pathlib.Path) -> None:
    index = pathlib.Path(f'{sharded}.index')
    content = index.read_bytes()
    for position in range(len(content)):
        index.write_bytes(with_flip(content, position, 1 << position % 8))
        assert 'damaged' in refusal(sharded) or position >= len(content) - 8


def with_flip(content: bytes, position: int, bits: int) -> bytes:
    return content[:position] + bytes([content[position] ^ bits]) + content[position + 1 :]


def test_any_byte_changed_in_the_data_spoils_one_variable_and_no_other(sharded: pathlib.Path) -> None:
    bundle = tf_bundle.open_bundle(sharded)
    values = {name: bundle[name] for name in bundle}
    for shard in range(2):
        file = pathlib.Path(tf_bundle.shard_name(str(sharded), shard, 2))
        content = file.read_bytes()
        for position in range(len(content)):
            file.write_bytes(with_flip(content, position, 1 << position % 8))
            spoiled = [
                name
                for name, entry in bundle.entries.items()
                if entry.shard == shard and entry.offset <= position < entry.offset + entry.size
            ]
            assert len(spoiled) == 1
            assert refusal(sharded, spoiled[0]) == f"checkpoint '{file}' is damaged: wrong checksum of {spoiled[0]}"
        other = next(name for name in bundle if name != spoiled[0])
        np.testing.assert_array_equal(tf_bundle.open_bundle(sharded)[other], values[other])
        file.write_bytes(content)


def test_data_cut_anywhere_are_refused_before_anything_is_read(sharded: pathlib.Path) -> None:
    for shard in range(2):
        file = pathlib.Path(tf_bundle.shard_name(str(sharded), shard, 2))
        content = file.read_bytes()
        for length in range(len(content)):
            file.write_bytes(content[:length])
            assert refusal(sharded) == (f"checkpoint '{file}' is cut short: it has {length} bytes of {len(content)}")
        file.write_bytes(content)


def test_damage_anywhere_in_the_large_checkpoint_is_found(shared: Find, tmp_path: pathlib.Path) -> None:
    prefix = copied(shared(GOLDEN) / 'model.ckpt-90000', tmp_path)
    bundle = tf_bundle.open_bundle(prefix)
    data = pathlib.Path(tf_bundle.shard_name(str(prefix), 0, 1))
    size = data.stat().st_size
    with data.open('r+b', buffering=0) as file:
        for position in range(13, size, size // 50):
            name = next(n for n, e in bundle.entries.items() if e.offset <= position < e.offset + e.size)
            file.seek(position)
            byte = file.read(1)[0]
            file.seek(position)
            file.write(bytes([byte ^ 1 << position % 8]))
            assert f'wrong checksum of {name}' in refusal(prefix, name)
            file.seek(position)
            file.write(bytes([byte]))
    index = pathlib.Path(f'{prefix}.index')
    content = index.read_bytes()
    for position in range(0, len(content), 397):
        index.write_bytes(with_flip(content, position, 0x40))
        refusal(prefix)
        index.write_bytes(content[:position])
        refusal(prefix)


# ---- what is read ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('num_shards', [1, 2, 3])
def test_tensors_come_back_from_any_number_of_data_files(tmp_path: pathlib.Path, num_shards: int) -> None:
    write_bundle(tmp_path / 'model.ckpt', TENSORS, num_shards)
    bundle = tf_bundle.open_bundle(tmp_path / 'model.ckpt')
    assert list(bundle) == sorted(TENSORS)
    for name, value in TENSORS.items():
        np.testing.assert_array_equal(bundle[name], value, strict=True)


@pytest.mark.parametrize('dtype', NUMBERS)
def test_every_type_comes_back(tmp_path: pathlib.Path, dtype: str) -> None:
    kind = np.dtype(ml_dtypes.bfloat16 if dtype == 'bfloat16' else dtype)
    values = {
        'some': np.array([[0, 1, 1], [1, 0, 1]]).astype(kind),
        'none': np.zeros((0, 4), kind),
        'scalar': np.ones((), kind),
    }
    write_bundle(tmp_path / 'model.ckpt', values)
    bundle = tf_bundle.open_bundle(tmp_path / 'model.ckpt')
    for name, value in values.items():
        assert bundle.dtype(name) == kind
        np.testing.assert_array_equal(bundle[name], value, strict=True)


def test_a_checkpoint_is_read_from_memory_as_from_disk(prefix: pathlib.Path) -> None:
    files = {f'a.tar/{file.name}': file.read_bytes() for file in prefix.parent.iterdir()}
    bundle = tf_bundle.open_bundle('a.tar/model.ckpt-1', files)
    for name, value in TENSORS.items():
        np.testing.assert_array_equal(bundle[name], value, strict=True)
    with pytest.raises(InputError, match=r"^checkpoint 'a.tar/model.ckpt-2.index': No such file or directory$"):
        tf_bundle.open_bundle('a.tar/model.ckpt-2', files)
    del files['a.tar/model.ckpt-1.data-00001-of-00002']
    with pytest.raises(InputError, match=r"^checkpoint 'a.tar/\S+.data-00001-of-00002': No such file or directory$"):
        tf_bundle.open_bundle('a.tar/model.ckpt-1', files)


def test_slices_of_partitioned_variables_are_no_variables(tmp_path: pathlib.Path) -> None:
    whole = entry(1, (2,), ONES.tobytes())
    pairs = [header(), (b'\0\x01embedding\0', whole), (b'embedding', whole + text(7, b'')), (b'weights', whole)]
    write_index(tmp_path / 'model', pairs)
    bundle = tf_bundle.open_bundle(tmp_path / 'model')
    assert list(bundle) == ['embedding', 'weights']
    np.testing.assert_array_equal(bundle['weights'], ONES)
    assert 'embedding is partitioned into slices' in refusal(tmp_path / 'model', 'embedding')


# ---- faults ---------------------------------------------------------------------------------------------------------


def test_absent_files(prefix: pathlib.Path) -> None:
    for ending in ('.data-00001-of-00002', '.index'):
        pathlib.Path(f'{prefix}{ending}').unlink()
        assert refusal(prefix) == f"checkpoint '{prefix}{ending}': No such file or directory"


def test_data_that_vanish_after_opening(prefix: pathlib.Path) -> None:
    bundle = tf_bundle.open_bundle(prefix)
    pathlib.Path(f'{prefix}.data-00000-of-00002').unlink()
    assert 'conv_0/BatchNorm/gamma' in bundle
    assert 'conv_9/BatchNorm/gamma' not in bundle
    with pytest.raises(InputError, match=r'\.data-00000-of-00002.: No such file'):
        bundle.tensor('conv_0/BatchNorm/gamma')


def test_a_file_that_is_no_table(prefix: pathlib.Path) -> None:
    for content in (b'', b'text', bytes(200)):
        pathlib.Path(f'{prefix}.index').write_bytes(content)
        assert refusal(prefix).endswith('is not a tensor bundle of TensorFlow, or is cut short')


@pytest.mark.parametrize(
    ('pairs', 'options', 'words'),
    [
        ([(b'key', b'value')], {}, 'is a table, but not one of a tensor bundle: it has no header'),
        ([header()], {'kind': 1}, 'is compressed (Snappy), which is not supported'),
        ([header()], {'kind': 9}, 'is compressed (method 9), which is not supported'),
        ([header(endianness=1)], {}, 'was written on a big-endian machine'),
        ([header(), (b'x', entry(1, (2,), b'', shard=1))], {}, 'it has 1 data files, and names another'),
        ([header(), (b'x', entry(1, (2,), b'', offset=2**40))], {}, 'is cut short: it has 16 bytes of 1099511627776'),
        ([header(), (b'x', number(2, 7))], {}, 'the shape of a variable is a number'),
        ([header(), (b'x', text(1, b'x'))], {}, 'it has a text where a number is expected'),
        ([header(), (b'x', text(2, b'xyz')[:-1])], {}, 'a field exceeds its message'),
        ([header(), (b'x', b'\x0b')], {}, 'a field exceeds its message'),  # groups are no longer written
        ([header(), (b'x', b'\x08' + b'\xff' * 12)], {}, 'a number does not end'),
    ],
)
def test_an_intact_index_that_says_what_cannot_be(
    tmp_path: pathlib.Path, pairs: Pairs, options: dict[str, int], words: str
) -> None:
    write_index(tmp_path / 'model', pairs, **options)
    assert words in refusal(tmp_path / 'model')


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        (b'', 'a block does not end with its entries'),
        (struct.pack('<2I', 0, 99), 'a block does not end with its entries'),
        (b'\0\x09\0key' + struct.pack('<2I', 0, 1), 'an entry exceeds its block'),
        (b'\x01\x03\0key' + struct.pack('<2I', 0, 1), 'an entry exceeds its block'),
        (b'\0\x03\x7fkey' + struct.pack('<2I', 0, 1), 'an entry exceeds its block'),
    ],
)
def test_an_intact_block_that_is_none(tmp_path: pathlib.Path, content: bytes, words: str) -> None:
    (tmp_path / 'model.index').write_bytes(table([content]))
    assert f'is damaged: {words}' in refusal(tmp_path / 'model')


@pytest.mark.parametrize(
    ('kind', 'words'),
    [(7, 'x is of type string, which cannot be read'), (99, 'x is of type number 99, which cannot be read')],
)
def test_a_type_without_counterpart_is_refused_when_it_is_asked_for(
    tmp_path: pathlib.Path, kind: int, words: str
) -> None:
    content = ONES.tobytes()
    write_index(tmp_path / 'model', [header(), (b'w', entry(1, (2,), content)), (b'x', entry(kind, (2,), content))])
    bundle = tf_bundle.open_bundle(tmp_path / 'model')
    np.testing.assert_array_equal(bundle['w'], ONES)
    assert bundle.shape('x') == (2,)
    assert words in refusal(tmp_path / 'model', 'x')


def test_bytes_that_do_not_make_the_shape(tmp_path: pathlib.Path) -> None:
    write_index(tmp_path / 'model', [header(), (b'x', entry(1, (3,), ONES.tobytes()))])
    assert 'x has 8 bytes, which is not float32 (3,)' in refusal(tmp_path / 'model', 'x')
