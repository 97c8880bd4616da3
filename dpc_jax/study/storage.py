"""How a study's Optuna storage is opened, and what is kept there about the settings that it was made with."""

import contextlib
import pathlib
import random
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

import optuna
import sqlalchemy
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from dpc_jax import provenance
from dpc_jax.base import InputError

JOURNAL = 'journal:'
"""Prefix of a storage that is one append-only file, for file systems on which SQLite's locks do not work."""

IN_USE = 'in use'
"""User attribute of a study whose settings others depend on, though it has no trials."""

LOCK_SECONDS = 60.0
"""How long a worker waits for the others' writes to an SQLite file (SQLite's own default is 5 s)."""

DRIVERS = {
    'psycopg': 'dpc_jax[postgresql]',
    'psycopg2': 'psycopg2-binary',
    'pymysql': 'PyMySQL',
    'MySQLdb': 'mysqlclient',
}
"""Module that a database URL needs -> what to install for it, where that has another name."""

STALE_LOCK_SECONDS = 5
"""After so long the lock of a journal counts as left by a killed worker; a write takes milliseconds."""


def open_storage(url: str) -> optuna.storages.BaseStorage:
    """The Optuna storage at `url`: any RDB URL (`sqlite:///study.db`, ...) or `journal:study.log`.

    Raises InputError, one line, where the URL is not understood, its driver is not installed, or the file or server
    cannot be opened or holds something else.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # no line per study and trial
    optuna.logging.disable_default_handler()
    optuna.logging.enable_propagation()
    with storage_faults(url):
        if url.startswith(JOURNAL):
            return _open_journal(pathlib.Path(url.removeprefix(JOURNAL)))
        return optuna.storages.get_storage(_open_database(url))


def _open_database(url: str) -> optuna.storages.RDBStorage:
    options = {'connect_args': {'timeout': LOCK_SECONDS}} if url.startswith('sqlite') else {}
    for pause in (0.1, 0.2, 0.4, 0.8, 1.6):
        try:
            return optuna.storages.RDBStorage(url, engine_kwargs=options)
        except sqlalchemy.exc.DatabaseError as error:
            if 'already exists' not in str(error) and not isinstance(error, sqlalchemy.exc.IntegrityError):
                raise
            time.sleep(random.uniform(pause / 2, pause))  # several workers make the tables of a new database
    return optuna.storages.RDBStorage(url, engine_kwargs=options)


def _open_journal(path: pathlib.Path) -> optuna.storages.BaseStorage:
    if path.exists() and path.stat().st_size > 0:  # Optuna would append to a file that is something else
        with path.open('rb') as file:
            if not file.readline().startswith(b'{"op_code":'):
                raise ValueError('the file is not a journal of Optuna')
    lock = JournalFileSymlinkLock(str(path), grace_period=STALE_LOCK_SECONDS)
    return optuna.storages.JournalStorage(JournalFileBackend(str(path), lock))


def close_storage(storage: optuna.storages.BaseStorage) -> None:
    """Gives back connections and files (Optuna itself leaves that to the end of the process)."""
    rdb = getattr(storage, '_backend', None)
    if isinstance(rdb, optuna.storages.RDBStorage):
        rdb.remove_session()
        rdb.engine.dispose()


@contextlib.contextmanager
def storage_faults(url: str) -> Iterator[None]:
    """Turns what the libraries raise about a storage into an InputError that names it (without its password)."""
    faults = (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.OptunaError, OSError, ImportError)
    try:
        yield
    except (*faults, ValueError, RuntimeError) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__  # Optuna wraps the database's own words in advice of several lines
        why = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        shown = re.sub(r'(://[^:/@]*):[^@]*@', r'\1:***@', url)
        if isinstance(cause, ModuleNotFoundError):
            needed = DRIVERS.get(cause.name or '', cause.name)
            raise InputError(f"storage '{shown}' needs a driver: {why}; pip install '{needed}'") from error
        raise InputError(
            f"storage '{shown}' cannot be used: {why}; expected sqlite:///FILE, another database URL, or {JOURNAL}FILE"
        ) from error


# ---- settings ----------------------------------------------------------------------------------------------------


def check_settings(study: optuna.Study, settings: Mapping[str, Any], added: Mapping[str, Any]) -> None:
    """Stores the settings with a study that has no trials yet; raises InputError if its trials were made with others.

    `added` are the values of fields that an older study lacks because they came later.
    """
    trials = study.get_trials(
        deepcopy=False
    )  # read first: another worker may be making the study now, and writes its settings first
    if 'settings' not in study.user_attrs and trials:
        raise InputError(f"study '{study.study_name}' was not made by this program: it has trials but no settings")
    if not trials and not study.user_attrs.get(IN_USE):
        if study.user_attrs.get('settings', provenance.flat(settings)) != provenance.flat(settings):
            study.set_user_attr('features', None)  # those of a start that came to nothing
        study.set_user_attr('settings', provenance.flat(settings))
    found = provenance.differences(provenance.flat(added) | study.user_attrs['settings'], provenance.flat(settings))
    if found:
        shown = '; '.join(f'{name}: study has {there}, config has {here}' for name, there, here in found[:3])
        more = f'; and {len(found) - 3} more' if len(found) > 3 else ''
        raise InputError(f"study '{study.study_name}' was made with another config: {shown}{more}")
