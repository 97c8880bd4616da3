"""How a study's Optuna storage is opened, and what is kept there about the settings that it was made with."""

import contextlib
import functools
import json
import os
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import optuna
import optuna.storages.journal._storage
import sqlalchemy

from dpc_jax import files, provenance
from dpc_jax.base import InputError
from dpc_jax.study import patience
from dpc_jax.study.journal import Journal
from dpc_jax.study.patience import Patient, causes, one_line, patiently

JOURNAL = 'journal:'
"""Prefix of a storage that is one append-only file, for file systems on which SQLite's locks do not work."""

SQLITE = 'sqlite:///'

IN_USE = 'in use'
"""User attribute of a study whose settings others depend on, though it has no trials."""

LOCK_SECONDS = 10.0
"""How long one try waits for the others' writes to an SQLite file (SQLite's own default is 5 s)."""

DRIVERS = {
    'psycopg': 'dpc_jax[postgresql]',
    'psycopg2': 'psycopg2-binary',
    'pymysql': 'PyMySQL',
    'MySQLdb': 'mysqlclient',
}
"""Module that a database URL needs -> what to install for it, where that has another name."""

LIBPQ_DRIVERS = ('psycopg', 'psycopg2')
LIBPQ = {
    'connect_timeout': 10,  # s
    'keepalives_idle': 30,  # s
    'keepalives_interval': 10,  # s
    'keepalives_count': 3,
    'tcp_user_timeout': 30_000,  # ms
}
"""After about half a minute a connection to PostgreSQL over which nothing comes any more is a fault, and not after the
hours of the system's defaults. What the URL says goes before."""

OPENING = 180_904_184
"""Number of the lock under which a PostgreSQL database is opened: any that nobody else uses."""

BUSY = ('already exists', 'locked', 'starting up', 'too many clients', 'remaining connection slots')
"""Words of faults of a new connection that pass: several workers make the tables of a new database, a server starts."""


def open_storage(url: str) -> optuna.storages.BaseStorage:
    """The Optuna storage at `url`: any RDB URL (`sqlite:///study.db`, ...) or `journal:study.log`.

    Raises InputError, one line, where the URL is not understood, its driver is not installed, or the file or server
    cannot be opened or holds something else.
    """
    url = at_home(url)
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # no line per study and trial
    optuna.logging.disable_default_handler()
    optuna.logging.enable_propagation()
    _share_distributions()
    with storage_faults(url):
        if url.startswith(JOURNAL):
            backend = Journal(pathlib.Path(url.removeprefix(JOURNAL)))
            storage: optuna.storages.BaseStorage = optuna.storages.JournalStorage(backend)
        else:
            storage = optuna.storages.get_storage(patiently(lambda: _open_database(url), is_busy))
    return Patient(storage, functools.partial(_lost, url))


def at_home(url: str) -> str:
    """The URL with the home folder in place of a `~` at the beginning of its file; InputError for a journal that is in
    an object store."""
    if url.startswith(JOURNAL):
        return JOURNAL + os.fspath(files.local(url.removeprefix(JOURNAL), 'search.storage'))
    if url.startswith(f'{SQLITE}~'):
        return SQLITE + os.fspath(files.local(url.removeprefix(SQLITE), 'search.storage'))
    return url


def _share_distributions() -> None:
    """Lets Optuna make each distribution once from its text, and not twice for each parameter of each trial.

    A trial of this project has ten parameters, most with 81 choices. Of 28,000 trials all that is most of the time and
    of the memory that reading them takes. A distribution never changes once it is made.
    """
    for module in (optuna.distributions, optuna.storages.journal._storage):
        make = module.json_to_distribution
        if not hasattr(make, 'cache_info'):
            vars(module)['json_to_distribution'] = functools.lru_cache(maxsize=4096)(make)


def _open_database(url: str) -> optuna.storages.RDBStorage:
    made = sqlalchemy.engine.make_url(url)
    if made.get_backend_name() == 'sqlite':
        options: dict[str, Any] = {'connect_args': {'timeout': LOCK_SECONDS}}
    else:
        libpq = LIBPQ if made.get_driver_name() in LIBPQ_DRIVERS else {}
        asked = {name: value for name, value in libpq.items() if name not in made.query}
        # A connection may have been dropped while a candidate was trained: it is tried before it is used.
        options = {'connect_args': asked, 'pool_pre_ping': True}
    with _one_at_a_time(made, options['connect_args']):
        storage = optuna.storages.RDBStorage(url, engine_kwargs=options)
    # Optuna ends a session with its commit. Until then all that was read would be marked as old, object by object: of
    # 28,000 trials a fifth of the time.
    storage.remove_session()
    storage.scoped_session.configure(expire_on_commit=False)
    return storage


@contextlib.contextmanager
def _one_at_a_time(url: sqlalchemy.URL, connect_args: Mapping[str, Any]) -> Iterator[None]:
    """Lets workers that start at the same moment open a PostgreSQL database in turn: the first one makes its tables.

    Else they would race for them, and the connections of those that lose would be left open.
    """
    if url.get_backend_name() != 'postgresql':
        yield
        return
    engine = sqlalchemy.create_engine(url, connect_args=dict(connect_args), poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:  # whose end, a kill included, ends the lock
        connection.execute(sqlalchemy.text(f'SELECT pg_advisory_lock({OPENING})'))
        yield


def is_busy(error: BaseException) -> bool:
    """Whether a database that cannot be opened now may be opened a little later."""
    return any(
        isinstance(cause, sqlalchemy.exc.IntegrityError)  # another worker made the same table
        or (isinstance(cause, sqlalchemy.exc.DatabaseError) and any(words in str(cause.orig) for words in BUSY))
        for cause in causes(error)
    )


def _lost(url: str, error: BaseException) -> InputError:
    seconds = f'{patience.PATIENCE_SECONDS:.0f} s'
    return InputError(
        f"storage '{_shown(url)}' failed for {seconds}: {one_line(error)}; what was finished before is kept,"
        ' and the same command goes on from there'
    )


def _shown(url: str) -> str:
    """Without the password."""
    return re.sub(r'(://[^:/@]*):[^@]*@', r'\1:***@', url)


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
        *_, cause = causes(error)
        why, shown = one_line(error), _shown(url)
        if isinstance(cause, ModuleNotFoundError):
            needed = DRIVERS.get(cause.name or '', cause.name)
            raise InputError(f"storage '{shown}' needs a driver: {why}; pip install '{needed}'") from error
        raise InputError(
            f"storage '{shown}' cannot be used: {why}; expected sqlite:///FILE, another database URL, or {JOURNAL}FILE"
        ) from error


# ---- settings ----------------------------------------------------------------------------------------------------


def check_space(storage: optuna.storages.BaseStorage, settings: Mapping[str, Any]) -> None:
    """InputError where the storage has a study of another space than `settings` name; without one they allow any.

    In one work folder the report of one search would overwrite that of the other.
    """
    here = provenance.flat(settings).get('space.name')
    for study in storage.get_all_studies():
        there = study.user_attrs.get('settings', {}).get('space.name')
        if here and there and here != there:
            raise InputError(
                f"the work folder has study '{study.study_name}' of space {json.loads(there)}, and this is a search of"
                f' {json.loads(here)}; give another workdir'
            )


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
        found.sort(key=lambda difference: difference[0] != 'space.name')  # of another space, it says most
        shown = '; '.join(f'{name}: study has {there}, config has {here}' for name, there, here in found[:3])
        more = f'; and {len(found) - 3} more' if len(found) > 3 else ''
        raise InputError(f"study '{study.study_name}' was made with another config: {shown}{more}")
