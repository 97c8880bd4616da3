"""Files of weights of other programs are called what they are, and what file managers leave is no damage."""

import pathlib
import shutil
import zipfile

import numpy as np
import pytest

from dpc_jax import weights
from dpc_jax.weights import foreign, tf_import


@pytest.mark.parametrize(
    ('name', 'kind'),
    [
        ('model.ckpt-90000.meta', 'the graph of a checkpoint of TensorFlow, without its values'),
        ('checkpoint', 'the note of TensorFlow that says which checkpoint of its folder is the latest'),
        ('frozen_inference_graph.pb', 'a graph of TensorFlow, frozen or of a SavedModel'),
        ('weights.h5', 'a file of Keras (HDF5)'),
        ('model.PTH', 'a file of PyTorch'),
        ('model_best.pth.tar', 'a file of PyTorch'),
        ('model.safetensors', 'a file of safetensors'),
    ],
)
def test_a_file_of_another_program_is_called_what_it_is(tmp_path, fault, name, kind):
    path = tmp_path / name
    path.write_bytes(b'anything')
    for read in (weights.read_official, weights.fingerprint):
        said = fault(lambda read=read: read(path))
        assert said.startswith(f"weights file '{path}' is {kind}; ")
        wanted = f"give '{tmp_path / 'model.ckpt-90000'}'" if name.endswith('.meta') else foreign.WANTED
        assert said.endswith(wanted)
    assert fault(lambda: weights.read(path)).startswith(f"checkpoint '{path}' is {kind}; wanted: a folder that")


def test_what_a_file_is_shows_in_its_content_too(tmp_path, fault):
    (tmp_path / 'a.ckpt').write_bytes(foreign.HDF5 + b'rest')
    with zipfile.ZipFile(tmp_path / 'b.ckpt', 'w') as archive:  # as torch.save writes it
        archive.writestr('archive/data.pkl', b'\x80\x02}q\x00.')
        archive.writestr('archive/data/0', b'\0' * 8)
    for name, kind in (('a.ckpt', 'a file of Keras (HDF5)'), ('b.ckpt', 'a file of PyTorch')):
        assert fault(lambda name=name: weights.read_official(tmp_path / name)).startswith(
            f"weights file '{tmp_path / name}' is {kind}; wanted: "
        )
    np.savez(tmp_path / 'c.npz', a=np.zeros(2))
    assert foreign.kind_of(tmp_path / 'c.npz') == foreign.kind_of(tmp_path / 'absent.h5') == ''


@pytest.mark.parametrize('name', ['a.tar.gz', 'a.tar.gz.1', 'a.tar.1', 'a.tgz.23', 'a.tar', 'a.tar.bz2'])
def test_a_tarball_that_was_fetched_twice_is_one(name):
    assert tf_import.TARBALL.search(name)
    assert not tf_import.TARBALL.search(f'{name}-notes')


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path, monkeypatch, fault):
    monkeypatch.setenv('HOME', str(tmp_path))
    np.savez(tmp_path / 'w.npz', a=np.arange(3))
    np.testing.assert_array_equal(weights.read_official('~/w.npz')['a'], [0, 1, 2])
    assert weights.fingerprint('~/w.npz') == weights.fingerprint(tmp_path / 'w.npz')
    weights.save('~/net', {'params': {'a': np.ones(2)}, 'batch_stats': {}})
    np.testing.assert_array_equal(weights.read('~/net')['params']['a'], [1, 1])
    said = fault(lambda: weights.read('gs://bucket/net'))
    assert said == "checkpoint 'gs://bucket/net': gs:// is not supported; allowed: a folder or file of this machine"


def test_what_file_managers_leave_is_no_damage(tmp_path, fault):
    weights.save(tmp_path / 'net', {'params': {'a': np.ones(2)}, 'batch_stats': {}})
    for name in ('Thumbs.db', 'desktop.ini', '.DS_Store', '._SHA256SUMS', 'd/Thumbs.db'):
        path = tmp_path / 'net' / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b'theirs')
    np.testing.assert_array_equal(weights.read(tmp_path / 'net')['params']['a'], [1, 1])
    moved = pathlib.Path(shutil.copytree(tmp_path / 'net', tmp_path / 'other'))
    (moved / 'notes.txt').write_text('mine')
    np.testing.assert_array_equal(weights.read(moved)['params']['a'], [1, 1])
    (moved / 'd' / 'notes.txt').write_text('mine')  # Orbax reads folders below
    assert 'd/notes.txt is not as SHA256SUMS says' in fault(lambda: weights.read(moved))
