"""A study read from its storage alone: it needs no config and no data, and changes nothing."""

import pathlib
import re
from typing import Any

import optuna
import sqlalchemy

from dpc_jax import provenance, spaces
from dpc_jax.base import InputError
from dpc_jax.study.rows import Candidate, candidate_of, finished
from dpc_jax.study.storage import JOURNAL, at_home, close_storage, open_storage, storage_faults

FIRST = '-proxy'
"""Ending of the name of the study of the first rung."""


def read(url: str, name: str) -> tuple[list[Candidate], dict[str, Any]]:
    """All finished candidates and references of the study `name` in the storage at `url`, and its settings, nested.

    Raises InputError for a storage that is not there or cannot be read, and for a study that it does not hold.
    """
    _check_exists(url)
    storage = open_storage(url)
    try:
        with storage_faults(url):
            names = [study.study_name for study in storage.get_all_studies()]
            if name not in names:
                raise InputError(f"no study '{name}' in this storage; there are: {', '.join(sorted(names)) or 'none'}")
            study = optuna.load_study(study_name=name, storage=storage)
            if 'settings' not in study.user_attrs:
                raise InputError(f"study '{name}' was not made by this program: it has no settings")
            settings = provenance.nested(study.user_attrs['settings'])
            space = spaces.make(settings['space'])
            return [candidate_of(trial, space) for trial in finished(study.get_trials(deepcopy=False))], settings
    finally:
        close_storage(storage)


def first(url: str) -> str:
    """The name of the only search in the storage at `url`, that of its first rung; InputError where it has several."""
    names = _names(url)
    searches = [name for name in names if name.endswith(FIRST)]
    if len(searches) != 1:
        raise InputError(f'name one of the studies of this storage: {", ".join(sorted(searches or names)) or "none"}')
    return searches[0]


def rungs(url: str, name: str) -> list[str]:
    """Names of the studies of one ladder in the storage at `url`, from the first rung to the last.

    `name` is that of the first rung (it ends in `-proxy`), or of any other study, which then is alone.
    """
    names = _names(url)
    search = re.escape(name.removesuffix(FIRST))
    later = [re.fullmatch(rf'{search}-(?:rung(\d+)-\d+|full(?:-seed(\d+))?)', other) for other in names]
    found = sorted((not m[1], int(m[1] or m[2] or -1), m[0]) for m in later if m and name.endswith(FIRST))
    return [name, *(other for _, _, other in found)]


def _names(url: str) -> list[str]:
    _check_exists(url)
    storage = open_storage(url)
    try:
        with storage_faults(url):
            return [study.study_name for study in storage.get_all_studies()]
    finally:
        close_storage(storage)


def _check_exists(url: str) -> None:
    """InputError where the file is absent: to open it would make an empty database."""
    url = at_home(url)
    if url.startswith(JOURNAL):
        path = url.removeprefix(JOURNAL)
    elif url.startswith('sqlite'):
        with storage_faults(url):
            path = sqlalchemy.engine.make_url(url).database or ''
    else:
        return
    if not pathlib.Path(path).is_file():
        raise InputError(f"there is no storage '{path}'")
