"""The commit that is recorded with a score is that of this code, and of no repository around it."""

import pathlib
import shutil
import subprocess

import pytest

from dpc_jax import provenance


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """`repository(*command)` runs git in a repository whose site-packages hold a copy of provenance.py."""
    place = tmp_path / 'venv/site-packages/dpc_jax'
    place.mkdir(parents=True)
    shutil.copy(provenance.__file__, place)
    monkeypatch.setattr(provenance, '__file__', str(place / 'provenance.py'))
    for name in ('GIT_DIR', 'GIT_WORK_TREE', 'GIT_INDEX_FILE'):  # set where a hook of git runs the tests
        monkeypatch.delenv(name, raising=False)

    def git(*command: str) -> str:
        identity = ('-c', 'user.name=me', '-c', 'user.email=me@example.org', '-c', 'commit.gpgsign=false')
        done = subprocess.run(['git', *identity, *command], cwd=tmp_path, text=True, capture_output=True, check=True)
        return done.stdout.strip()

    git('init', '--quiet')
    git('commit', '--quiet', '--allow-empty', '--message=of something else')
    return git


def test_the_repository_of_something_else_gives_no_commit(repository):
    assert repository('describe', '--always')
    assert provenance.commit() == ''


def test_the_repository_of_this_code_gives_its_commit(repository):
    repository('add', '.')
    repository('commit', '--quiet', '--message=this code')
    commit = repository('rev-parse', '--short=12', 'HEAD')
    assert provenance.commit() == commit
    with pathlib.Path(provenance.__file__).open('a') as file:
        file.write('# changed\n')
    assert provenance.commit() == f'{commit}+'


def test_outside_any_repository_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, '__file__', str(tmp_path / 'provenance.py'))
    monkeypatch.setenv('GIT_CEILING_DIRECTORIES', str(tmp_path.parent))
    assert provenance.commit() == ''
    monkeypatch.setenv('PATH', '')
    assert provenance.commit() == ''
