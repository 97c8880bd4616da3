"""A pack is the data set that it was packed from, example by example; whatever is wrong with it is one line."""

import json
import pathlib
import pickle
import subprocess
import sys

import ml_collections
import numpy as np
import pytest

from dpc_jax import datasets, drawn_data, progress
from dpc_jax.base import InputError
from dpc_jax.datasets import _packed

ROOT = pathlib.Path(__file__).resolve().parent.parent


def load(root, split, name='camvid', **fields):
    return datasets.load(name, ml_collections.ConfigDict({'root': str(root), **fields}), split)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp('packed') / 'folder'
    drawn_data.write('camvid', root, 5)
    return root


@pytest.fixture(scope='module')
def pack(folder):
    target = folder.parent / 'pack'
    sizes = _packed.write(
        {s: load(folder, s) for s in ('train', 'val')}, folder, target, track=lambda items, *_: iter(items)
    )
    assert all(size > 1000 for size in sizes.values())
    return target


def equal(one, other):
    assert (len(one), one.classes, one.export_ids) == (len(other), other.classes, other.export_ids)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.label, b.label)
        assert (a.image.dtype, a.label.dtype) == (b.image.dtype, b.label.dtype)


@pytest.mark.parametrize('split', ['train', 'val'])
def test_a_pack_is_what_it_was_packed_from(folder, pack, split):
    ours, theirs = load(pack, split), load(folder, split)
    equal(ours, theirs)
    assert ours.fingerprint() == theirs.fingerprint()
    for index in range(5):
        assert folder / ours.example_name(index) == pathlib.Path(theirs.example_name(index))
        assert ours.image_bytes(index) == theirs.image_bytes(index)
        assert ours[index].name == ours.example_name(index)
    np.testing.assert_array_equal(ours.palette, theirs.palette)
    with pytest.raises(IndexError):
        ours[5]


@pytest.mark.parametrize('name', ['cityscapes', 'pascal_voc', 'coco', 'person_part'])
def test_every_data_set_can_be_packed(name, tmp_path):
    drawn_data.write(name, tmp_path / 'folder', 2)
    dataset = load(tmp_path / 'folder', 'val', name)
    _packed.write({'val': dataset}, tmp_path / 'folder', tmp_path / 'pack', track=lambda items, *_: iter(items))
    equal(load(tmp_path / 'pack', 'val', name), dataset)


def test_a_worker_opens_the_pack_itself(pack):
    dataset = load(pack, 'train')
    held = pickle.dumps(dataset)
    assert len(held) < 500
    equal(pickle.loads(held), dataset)
    assert repr(dataset) == f'Packed(camvid, train, {pack})'


@pytest.mark.parametrize(
    ('split', 'name', 'fields', 'said'),
    [
        ('val', 'cityscapes', {}, 'is a pack of camvid, not of cityscapes'),
        ('test', 'camvid', {}, "has no split 'test'; there are: train, val"),
        ('val', 'pascal_voc', {'duplicate_hard': True}, 'dataset.duplicate_hard is True; a pack has every image once'),
    ],
)
def test_what_a_pack_does_not_have_is_refused(pack, split, name, fields, said):
    with pytest.raises(InputError, match=said):
        load(pack, split, name, **fields)


def test_damage_is_found(pack, tmp_path):
    for path in pack.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (path,) = tmp_path.glob('*-val.array_record*')
    content = path.read_bytes()
    for at in (content.index(b'IDAT') + 20, content.rindex(b'IDAT') + 20):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(InputError, match=r'example \d of val is damaged|is damaged: '):
            list(load(tmp_path, 'val'))
    path.unlink()
    with pytest.raises(InputError, match='is damaged'):
        list(load(tmp_path, 'val'))
    (tmp_path / 'metadata.json').write_text('{')
    with pytest.raises(InputError, match='cannot be read'):
        load(tmp_path, 'val')


@pytest.mark.parametrize('content', ['', '{', '[]', '{}', 'null'])
@pytest.mark.parametrize('file', ['metadata.json', 'features.json', 'dataset_info.json'])
def test_a_damaged_description_is_one_line(pack, tmp_path, file, content):
    for path in pack.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / file).write_text(content)
    with pytest.raises(InputError, match=r'^.*(is damaged|cannot be read): .*$'):
        load(tmp_path, 'val')


def test_a_description_without_names_is_refused(pack, tmp_path):
    about = json.loads((pack / 'metadata.json').read_text())
    del about['names']
    (tmp_path / 'metadata.json').write_text(json.dumps(about))
    with pytest.raises(InputError, match="cannot be read: 'names'"):
        load(tmp_path, 'val')


def test_a_full_disk_is_one_line(folder, tmp_path):
    def full(*_):
        raise RuntimeError('write() failed: No space left on device; at byte 4096')

    with pytest.raises(InputError, match=r'pack\' cannot be written: .*No space left on device'):
        _packed.write({'val': load(folder, 'val')}, folder, tmp_path / 'pack', track=full)
    assert list(tmp_path.iterdir()) == []


def test_a_shorter_pack_than_it_says_is_refused(pack, tmp_path):
    for path in pack.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    about = json.loads((tmp_path / 'metadata.json').read_text())
    about['names']['val'].append('one more')
    (tmp_path / 'metadata.json').write_text(json.dumps(about))
    with pytest.raises(InputError, match='is damaged: val has 5 of its '):
        load(tmp_path, 'val')


def test_an_image_that_is_none_is_named(folder, tmp_path, monkeypatch):
    dataset = load(folder, 'val')
    monkeypatch.setattr(type(dataset), 'image_bytes', lambda self, index: b'no image')
    _packed.write({'val': dataset}, folder, tmp_path / 'pack', track=lambda items, *_: iter(items))
    with pytest.raises(InputError, match=r'cannot decode .*\.png in '):
        load(tmp_path / 'pack', 'val')[0]


def test_a_pack_is_written_whole_or_not_at_all(folder, pack, tmp_path):
    with pytest.raises(InputError, match='exists already'):
        _packed.write({}, folder, pack, track=progress.track)
    root = tmp_path / 'folder'
    drawn_data.write('camvid', root, 3)
    dataset = load(root, 'val')
    dataset.files[1][1].write_bytes(b'')
    with pytest.raises(InputError, match='cannot decode'):
        _packed.write({'val': dataset}, root, tmp_path / 'pack', track=lambda items, *_: iter(items))
    assert [path.name for path in tmp_path.iterdir()] == ['folder']
    (tmp_path / 'file').write_text('')
    with pytest.raises(InputError, match='cannot be written'):
        _packed.write({'val': load(folder, 'val')}, folder, tmp_path / 'file/pack', track=lambda items, *_: iter(items))


def test_the_script_packs_what_there_is_without_tensorflow(folder, tmp_path):
    script = f"""
import sys
sys.argv = ['pack', '--dataset=camvid', '--root={folder}', '--out={tmp_path / 'pack'}']
import runpy
try:
    runpy.run_path('experiments/pack_data.py', run_name='__main__')
finally:
    assert 'tensorflow' not in sys.modules
"""
    done = subprocess.run([sys.executable, '-c', script], cwd=ROOT, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, '')
    assert 'train: 5 images' in done.stdout
    equal(load(tmp_path / 'pack', 'train'), load(folder, 'train'))
