"""A PostgreSQL server of the test session's own: a fresh data folder, a free port of this machine, no password.

It needs the programs of a server (Debian: `apt install postgresql`) and the driver (`pip install -e '.[postgresql]'`).
PostgreSQL refuses to run as root; where the tests run as root, it runs as the user `postgres` or `nobody`.
"""

import contextlib
import importlib.util
import itertools
import os
import pathlib
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator

import sqlalchemy


class MissingError(Exception):
    """What a server needs and this machine lacks."""


def programs() -> pathlib.Path:
    """The folder of initdb and pg_ctl: on the path, or where Debian keeps them, the newest version first."""
    found = shutil.which('pg_ctl')
    folders = [pathlib.Path(found).resolve().parent] if found else []
    folders += sorted(pathlib.Path('/usr/lib/postgresql').glob('*/bin'), reverse=True)
    for folder in folders:
        if (folder / 'initdb').exists() and (folder / 'pg_ctl').exists():
            return folder
    raise MissingError('there is no PostgreSQL server here (initdb, pg_ctl)')


def account() -> dict[str, int]:
    """Whom the server runs as, in the words of `subprocess`: nobody else unless this is root."""
    if os.getuid() != 0:
        return {}
    for name in ('postgres', 'nobody'):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return {'user': entry.pw_uid, 'group': entry.pw_gid}
    raise MissingError('PostgreSQL does not run as root, and there is no user postgres or nobody')


class Server:
    """A server that can be stopped and started, each time on the same port."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._programs, self._account = programs(), account()
        if importlib.util.find_spec('psycopg') is None:
            raise MissingError("there is no driver for PostgreSQL here; pip install -e '.[postgresql]'")
        self._data, self._numbers = folder / 'data', itertools.count()
        if self._account:
            os.chown(folder, self._account['user'], self._account['group'])
        self._run('initdb', '--auth=trust', '--username=tests', '--encoding=UTF8', '--locale=C', '--no-sync')
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            self._port = free.getsockname()[1]

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), '-D', str(self._data), *arguments]
        quiet = subprocess.DEVNULL  # a pipe would stay open as long as the server runs
        extra = {'extra_groups': []} if self._account else {}
        subprocess.run(command, check=True, cwd=self._data.parent, stdout=quiet, stderr=quiet, **self._account, **extra)

    def start(self) -> None:
        """Returns when it takes connections."""
        options = f'-F -p {self._port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='
        self._run('pg_ctl', '-w', '-o', options, '-l', str(self._data.parent / 'log'), 'start')

    def stop(self) -> None:
        """At once: connections are dropped, as when the machine fails."""
        self._run('pg_ctl', '-w', '-m', 'immediate', 'stop')

    def database(self) -> str:
        """The Optuna URL of a new, empty database."""
        name = f'study{next(self._numbers)}'
        self.execute(f'CREATE DATABASE {name}')
        return self._url(name)

    def drop_connections(self) -> int:
        """Ends all connections but its own; how many there were."""
        others = "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
        return len(self.execute(f'SELECT pg_terminate_backend(pid) FROM ({others}) AS others'))

    def execute(self, statement: str) -> list[tuple[object, ...]]:
        engine = sqlalchemy.create_engine(self._url('postgres'), isolation_level='AUTOCOMMIT')
        with engine.connect() as connection:
            result = connection.execute(sqlalchemy.text(statement))
            rows = [tuple(row) for row in result] if result.returns_rows else []
        engine.dispose()
        return rows

    def _url(self, database: str) -> str:
        return f'postgresql+psycopg://tests:secret@127.0.0.1:{self._port}/{database}'


@contextlib.contextmanager
def running() -> Iterator[Server]:
    """A server that runs until the end of the block."""
    with tempfile.TemporaryDirectory() as folder:  # not pytest's: other users may not enter that
        server = Server(pathlib.Path(folder))
        server.start()
        try:
            yield server
        finally:
            with contextlib.suppress(subprocess.CalledProcessError):  # a test stopped it
                server.stop()
