"""Texts, names and paths as people have them: byte order marks, names that are not UTF-8, `~`, addresses."""

import io
import json
import pathlib
import sys

import pytest

from dpc_jax import cell_files, command_line, files, found_cells
from dpc_jax.base import InputError
from dpc_jax.spaces import dpc

NAME = b'caf\xe9.png'.decode('utf-8', 'surrogateescape')  # what Python makes of a name in Latin-1


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-16-le'])
def test_text_of_any_editor(encoding):
    mark = '\ufeff' if encoding == 'utf-16-le' else ''
    assert files.text((mark + 'ä\n').encode(encoding)) == 'ä\n'


def test_a_name_that_is_no_utf8_is_written_so_that_json_reads_it_back(tmp_path):
    path = files.write(tmp_path / 'a.json', json.dumps({'name': NAME}, ensure_ascii=False))
    assert json.loads(path.read_text())['name'] == NAME
    files.write(tmp_path / 'a.csv', f'{NAME},1\n')
    assert (tmp_path / 'a.csv').read_bytes() == b'caf\\udce9.png,1\n'


def test_a_name_that_is_no_utf8_can_be_printed(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, 'stdout', io.TextIOWrapper(written, encoding='ascii'))
    with pytest.raises(UnicodeEncodeError):
        print(NAME, flush=True)
    command_line.print_anything()
    print(NAME, 'ä', flush=True)
    sys.stdout.detach()
    assert written.getvalue().endswith(b'caf\\udce9.png \\xe4\n')


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    assert files.local('~/runs', 'workdir') == tmp_path / 'runs'
    assert files.local(pathlib.Path('a/~b'), 'workdir') == pathlib.Path('a/~b')
    with pytest.raises(InputError, match=r"^workdir '~nobody-has-this-name/a': Could not determine home directory$"):
        files.local('~nobody-has-this-name/a', 'workdir')


@pytest.mark.parametrize('address', ['gs://bucket/run', 's3://bucket/run', 'hdfs://host/run', 'file:///tmp/run'])
def test_an_address_is_no_folder(tmp_path, monkeypatch, fault, address):
    scheme = address.partition(':')[0]
    said = f"': {scheme}:// is not supported; allowed: a folder or file of this machine"
    assert fault(lambda: files.local(address, 'workdir')) == f"workdir '{address}{said}"
    monkeypatch.chdir(tmp_path)
    assert fault(lambda: files.make_folder(pathlib.Path(address), 'workdir')).endswith(said)
    assert not list(tmp_path.iterdir())


def test_cells_with_a_byte_order_mark_and_keys_of_other_tools(shared, tmp_path):
    path = shared('data/fixtures/reports/cell_with_bom.json')
    space = dpc.Space(5)
    text, _ = found_cells.read(str(path), 'context.genotype', ())
    expected = space.canonical_key(space.from_json(path.read_text(encoding='utf-8-sig')))
    assert space.canonical_key(space.from_json(text)) == expected
    for name in ('a.json', '._a.json'):
        (tmp_path / name).write_bytes(path.read_bytes() if name == 'a.json' else b'\0\5\x16\7')
    (cell,) = cell_files.read_cells([str(tmp_path)], space)
    assert (cell.name, space.canonical_key(cell.genotype)) == ('a', expected)
    entries = [{**entry, 'name': f'branch {n}', 'filters': 256} for n, entry in enumerate(json.loads(text))]
    assert space.canonical_key(space.from_json(json.dumps(entries))) == expected


def test_a_key_that_an_operator_needs_may_not_be_misspelt(fault):
    text = json.dumps([{'op': 'conv', 'kernel': 3, 'rates': [1, 6], 'input': -1}])
    assert "key 'rate' is missing" in fault(lambda: dpc.Space(1).from_json(text))
