"""Storages that fail: what passes is waited for, what does not is one line, and the study is whole in any case."""

import contextlib
import errno
import json
import os
import pathlib
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
import types

import optuna
import pytest
import sqlalchemy
from optuna.trial import TrialState

from dpc_jax import samplers
from dpc_jax.base import InputError
from dpc_jax.study import Study, distributions, journal, patience, storage
from dpc_jax.study.patience import Patient, may_pass, patiently
from tests.test_study import RUN, SPACE, opened, tell


@pytest.fixture
def hurried(monkeypatch):
    """Patience of a second, so that a test sees its end."""
    monkeypatch.setattr(patience, 'PATIENCE_SECONDS', 1.0)
    monkeypatch.setattr(storage, 'LOCK_SECONDS', 0.05)


def operational(words: str) -> sqlalchemy.exc.OperationalError:
    return sqlalchemy.exc.OperationalError('SELECT', {}, sqlite3.OperationalError(words))


# ---- patience ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('error', 'passes'),
    [
        (operational('database is locked'), True),
        (operational('database or disk is full'), True),
        (operational('attempt to write a readonly database'), False),
        (OSError(errno.ENOSPC, 'No space left on device'), True),
        (OSError(errno.ESTALE, 'Stale file handle'), True),
        (PermissionError(errno.EACCES, 'Permission denied'), False),
        (KeyError('Record does not exist.'), False),
        (optuna.exceptions.UpdateFinishedTrialError(), False),
    ],
)
def test_faults_that_pass_are_told_from_those_that_do_not(error, passes):
    assert may_pass(error) == passes
    wrapped = optuna.exceptions.StorageInternalError('advice')
    wrapped.__cause__ = error
    assert may_pass(wrapped) == passes


class Failing:
    """Fails the first calls."""

    def __init__(self, times: float, error: Exception) -> None:
        self.times, self.error, self.calls = times, error, 0

    def __call__(self, *args, **kwargs) -> str:
        self.calls += 1
        if self.calls <= self.times:
            raise self.error
        return 'answer'


def test_a_call_is_tried_until_it_succeeds_with_pauses_that_grow_to_a_bound(monkeypatch, caplog):
    now, pauses = [0.0], []

    def sleep(seconds):
        pauses.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(time, 'monotonic', lambda: now[0])
    monkeypatch.setattr(time, 'sleep', sleep)
    assert patiently(Failing(9, operational('locked'))) == 'answer'
    for place, pause in enumerate(pauses):
        bound = min(patience.FIRST_PAUSE_SECONDS * 2**place, patience.LONGEST_PAUSE_SECONDS)
        assert bound / 2 <= pause <= bound
    assert [record.getMessage() for record in caplog.records] == [
        'the storage fails and is tried again for 60 s: (sqlite3.OperationalError) locked'
    ], 'it is said once'
    now[0], failing = 0.0, Failing(10**9, operational('locked'))
    with pytest.raises(sqlalchemy.exc.OperationalError):
        patiently(failing)
    assert patience.PATIENCE_SECONDS - patience.LONGEST_PAUSE_SECONDS <= now[0] <= patience.PATIENCE_SECONDS


def test_what_does_not_pass_is_not_tried_again():
    failing = Failing(1, KeyError('no such trial'))
    with pytest.raises(KeyError):
        patiently(failing)
    assert failing.calls == 1


def test_ctrl_c_ends_the_waiting(tmp_path, monkeypatch):
    with opened(tmp_path) as study:
        monkeypatch.setattr(study._storage.storage, 'get_all_trials', Failing(10**9, operational('locked')))
        threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGINT]).start()
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            study.ask(1)
        assert time.monotonic() - started < patience.PATIENCE_SECONDS / 2


class Deaf(optuna.storages.InMemoryStorage):
    """Does what it is asked, and then the connection is lost before it answers: once for each method."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: set[str] = set()


def deaf(name: str):
    def call(self, *args, **kwargs):
        answer = getattr(optuna.storages.InMemoryStorage, name)(self, *args, **kwargs)
        if name not in self.heard:
            self.heard.add(name)
            raise operational('server closed the connection unexpectedly')
        return answer

    return call


for _name in ('create_new_trial', 'set_trial_state_values', 'set_trial_user_attr', 'get_all_trials', 'get_trial'):
    setattr(Deaf, _name, deaf(_name))


def test_answers_that_are_lost_change_nothing(monkeypatch):
    memory = Deaf()
    monkeypatch.setattr(
        'dpc_jax.study.study.open_storage', lambda url: Patient(memory, lambda error: InputError('lost'))
    )
    with opened('memory') as study:
        proposals = study.ask(3)
        assert len({p.key for p in proposals}) == 3
        assert 'create_new_trial' in memory.heard
        for proposal in proposals:
            tell(study, proposal, 0.5)
        assert 'set_trial_state_values' in memory.heard
        assert [c.key for c in study.candidates()] == [p.key for p in proposals]
        assert study.count() == 3
        states = [trial.state for trial in study._trials()]
        assert states.count(TrialState.RUNNING) == 0, 'nothing waits for an evaluation that nobody makes'
        assert states.count(TrialState.FAIL) == 1, 'the trial that was written twice'


def test_a_trial_that_another_worker_finished_is_not_taken_for_ones_own(monkeypatch):
    memory = optuna.storages.InMemoryStorage()
    patient = Patient(memory, lambda error: InputError('lost'))
    study = optuna.create_study(storage=patient)
    trial = study.ask()
    study.tell(trial, 0.5)
    failing = Failing(1, operational('locked'))

    def finish(*args):
        failing()
        return optuna.storages.InMemoryStorage.set_trial_state_values(memory, *args)

    monkeypatch.setattr(memory, 'set_trial_state_values', finish)
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        patient.set_trial_state_values(trial._trial_id, TrialState.COMPLETE, [0.7])
    failing.calls = 0
    assert patient.set_trial_state_values(trial._trial_id, TrialState.COMPLETE, [0.5])


# ---- opening -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('error', 'busy'),
    [
        (operational('database is locked'), True),
        (operational('FATAL: the database system is starting up'), True),
        (operational('FATAL: sorry, too many clients already'), True),
        (sqlalchemy.exc.ProgrammingError('', {}, sqlite3.OperationalError('relation "trials" already exists')), True),
        (sqlalchemy.exc.IntegrityError('', {}, sqlite3.IntegrityError('pg_type_typname_nsp_index')), True),
        (operational('Connection refused'), False),
        (sqlalchemy.exc.DatabaseError('', {}, sqlite3.DatabaseError('file is not a database')), False),
        (ValueError('no url'), False),
    ],
)
def test_a_database_that_is_busy_is_told_from_one_that_is_not_there(error, busy):
    assert storage.is_busy(error) == busy


@pytest.mark.parametrize(
    ('url', 'expected'),
    [
        ('sqlite:///study.db', {'timeout': storage.LOCK_SECONDS}),
        ('postgresql+psycopg://host/db', storage.LIBPQ),
        ('postgresql+psycopg2://host/db?connect_timeout=3', {**storage.LIBPQ, 'connect_timeout': None}),
        ('postgresql+pg8000://host/db', {}),
    ],
)
def test_connections_have_limits_unless_the_url_says_otherwise(url, expected, monkeypatch):
    asked = []

    class Opened(optuna.storages.InMemoryStorage):
        def __init__(self, url, engine_kwargs):
            asked.append(engine_kwargs)
            self.scoped_session = types.SimpleNamespace(configure=lambda **options: None)

    monkeypatch.setattr(storage.optuna.storages, 'RDBStorage', Opened)
    monkeypatch.setattr(storage, '_one_at_a_time', lambda *_: contextlib.nullcontext())  # there is no server
    with contextlib.suppress(Exception):  # beartype: it is no RDBStorage of Optuna's
        storage._open_database(url)
    (options,) = asked
    assert options['connect_args'] == {name: value for name, value in expected.items() if value is not None}
    assert options.get('pool_pre_ping', False) == (not url.startswith('sqlite'))


@pytest.mark.parametrize('kind', ['sqlite:///', 'journal:'])
def test_trials_share_their_distributions(kind, tmp_path):
    with opened(f'{kind}{tmp_path}/study') as study:
        study.ask(3)
    with opened(f'{kind}{tmp_path}/study') as study:
        first, *others = [trial.distributions for trial in study._trials()]
        assert first == distributions(SPACE)
        assert all(other[name] is first[name] for other in others for name in first)


# ---- SQLite ------------------------------------------------------------------------------------------------------


def hold(path: pathlib.Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute('BEGIN EXCLUSIVE')
    return connection


def release(connection: sqlite3.Connection) -> None:
    connection.execute('ROLLBACK')
    connection.close()


def test_a_locked_file_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, 'LOCK_SECONDS', 0.05)
    with opened(tmp_path) as study:
        (proposal,) = study.ask(1)
        holder = hold(tmp_path / 'study.db')
        threading.Timer(0.5, release, [holder]).start()
        tell(study, proposal, 0.5)
        holder = hold(tmp_path / 'study.db')
        threading.Timer(0.5, release, [holder]).start()
        with opened(tmp_path) as other:  # nor does opening fail
            assert [c.score for c in other.candidates()] == [0.5]


def test_a_file_that_stays_locked_is_one_line_and_the_study_whole(tmp_path, hurried, fault):
    study = opened(tmp_path)
    one, two = study.ask(2)
    tell(study, one, 0.5)
    holder = hold(tmp_path / 'study.db')
    line = fault(lambda: tell(study, two, 0.25))
    assert line == (
        f"storage 'sqlite:///{tmp_path}/study.db' failed for 1 s: database is locked; what was finished before is kept,"
        ' and the same command goes on from there'
    )
    started = time.monotonic()
    fault(study.close)
    assert time.monotonic() - started < 0.9, 'what has failed for good is not waited for again'
    release(holder)
    with opened(tmp_path) as study:
        assert [c.number for c in study.candidates()] == [one.number]
        assert [p.key for p in study.ask(2)][:1] == [two.key]


def test_a_full_disk_is_waited_for_or_one_line(tmp_path, hurried, fault, monkeypatch):
    study = opened(tmp_path)
    engine = study._storage._backend.engine
    full = []

    def limit(connection, *_):
        pages = connection.execute('PRAGMA page_count').fetchone()[0]
        connection.execute(f'PRAGMA max_page_count = {pages if full else 2**30}')

    sqlalchemy.event.listen(engine, 'checkout', limit)
    one, two, three = study.ask(3)
    tell(study, one, 0.5)
    full.append(True)
    emptied = threading.Timer(0.3, full.clear)
    emptied.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patience, 'PATIENCE_SECONDS', 30.0)
        for number in range(8):  # until a page is full
            study.report(two.number, number, 0.1)
        tell(study, two, 0.25, confusions=[])
    emptied.join()
    full.append(True)
    with pytest.raises(InputError, match='failed for 1 s: database or disk is full'):
        study._storage.set_trial_user_attr(study._trial_id(three.number), 'large', 'x' * 100_000)
    full.clear()
    study.close()
    with opened(tmp_path) as study:
        assert [c.score for c in study.candidates()] == [0.5, 0.25]
        assert [p.number for p in study.ask(1)] == [three.number]


# ---- the journal -------------------------------------------------------------------------------------------------


def lines(path: pathlib.Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_half_a_line_of_a_killed_worker_is_cut_off_wherever_it_was_torn(tmp_path):
    path = tmp_path / 'study.log'
    with opened(f'journal:{path}') as study:
        for proposal in study.ask(2):
            tell(study, proposal, 0.5)
    whole, before = path.read_bytes(), lines(path)
    last = len(whole.splitlines(keepends=True)[-1])
    for kept in (0, 1, 7, last // 2, last - 1):
        path.write_bytes(whole[: len(whole) - last + kept])
        with opened(f'journal:{path}') as study:
            assert study.count() == 2, 'it opens'
            (proposal,) = study.ask(1)
            tell(study, proposal, 0.25)
        assert lines(path)[: len(before) - 1] == before[:-1], 'nothing else is lost'
        with opened(f'journal:{path}') as study:
            assert [c.score for c in study.candidates()] == [0.5, 0.5, 0.25]


def test_a_worker_that_has_read_the_whole_lines_goes_on_after_another_was_torn(tmp_path):
    path = tmp_path / 'study.log'
    with opened(f'journal:{path}') as one, opened(f'journal:{path}') as two:
        (first,) = one.ask(1)
        assert two.running_elsewhere() == 1
        with path.open('ab') as file:
            file.write(b'{"op_code":8,"worker_id":"killed",')
        assert two.running_elsewhere() == 1
        tell(one, first, 0.5)
        assert two.count() == 1
        (second,) = two.ask(1)
        tell(two, second, 0.25)
        assert one.count() == 2


def test_a_journal_that_was_torn_in_its_first_line_is_a_new_one(tmp_path):
    path = tmp_path / 'study.log'
    for torn in (b'', b'{"op_', b'{"op_code":0,"worker'):
        path.write_bytes(torn)
        with opened(f'journal:{path}') as study:
            assert study.count() == 0
        assert lines(path)


def test_a_journal_that_a_power_cut_tore_goes_on_and_the_fragment_is_kept(shared, tmp_path, caplog):
    """The file of a report: two lines, of which the second is torn; and one whose torn line has its end."""
    torn = shared('data/fixtures/reports/journal_torn.log').read_bytes()
    whole = torn.rfind(b'\n') + 1
    assert 0 < whole < len(torn)
    for name, end in (('half', b''), ('ended', b'\0\0\n')):
        path = tmp_path / f'{name}.log'
        path.write_bytes(torn + end)
        found = storage.open_storage(f'journal:{path}')
        (study,) = found.get_all_studies()
        assert study.study_name == 'dpc-proxy'
        found.set_study_user_attr(study._study_id, 'after', 1)
        assert (tmp_path / f'{name}.log.torn-at-{whole}').read_bytes() == torn[whole:] + end
        assert f'kept in {path}.torn-at-{whole}' in caplog.text
        again = storage.open_storage(f'journal:{path}')
        assert again.get_study_user_attrs(study._study_id)['after'] == 1
        assert path.read_bytes().startswith(torn[:whole] + journal.BEGINNING)


def test_where_there_are_no_links_the_other_lock_is_taken(tmp_path, monkeypatch):
    def no_links(*_):
        raise PermissionError(errno.EPERM, 'Operation not permitted')

    assert journal.has_links(tmp_path)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(os, 'symlink', no_links)
    with opened(f'journal:{tmp_path}/log') as study:
        (proposal,) = study.ask(1)
        tell(study, proposal, 0.5)
    with opened(f'journal:{tmp_path}/log') as study:
        assert study.count() == 1


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path, monkeypatch, fault):
    monkeypatch.setenv('HOME', str(tmp_path))
    for url in ('journal:~/study.log', 'sqlite:///~/study.db'):
        storage.close_storage(storage.open_storage(url))
    assert sorted(path.name for path in tmp_path.iterdir()) == ['study.db', 'study.log']
    said = fault(lambda: storage.open_storage('journal:gs://bucket/study.log'))
    assert (
        said
        == "search.storage 'gs://bucket/study.log': gs:// is not supported; allowed: a folder or file of this machine"
    )


def test_a_work_folder_has_searches_of_one_space(tmp_path, fault):
    def found(space, name, **more):
        sampler, settings = samplers.make('uniform', SPACE, seed=1), {'space': {'name': space}}
        url = f'sqlite:///{tmp_path / "study.db"}'
        with Study.open(url, name, space=SPACE, sampler=sampler, settings=settings, run=RUN, **more) as study:
            study.keep_settings()

    found('dpc', 'dpc-proxy')
    found('dpc', 'other-proxy', one_space=True)
    line = fault(lambda: found('aux_cells', 'aux-proxy', one_space=True))
    assert line == (
        "the work folder has study 'dpc-proxy' of space dpc, and this is a search of aux_cells; give another workdir"
    )
    found('aux_cells', 'aux-proxy')  # a server may have both
    line = fault(lambda: found('dpc', 'aux-proxy'))
    assert (
        line == 'study \'aux-proxy\' was made with another config: space.name: study has "aux_cells", config has "dpc"'
    )


def test_the_end_of_the_last_line_is_found_across_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, 'BLOCK_BYTES', 4)
    for text in (b'', b'a', b'\n', b'abc\n', b'abcd\nabcdefghij', b'abcdefghijkl', b'a\nb\nc'):
        (tmp_path / 'text').write_bytes(text)
        with open(tmp_path / 'text', 'rb', buffering=0) as file:
            assert journal.end_of_lines(file, len(text)) == text.rfind(b'\n') + 1


def test_a_lock_that_was_taken_for_stale_does_not_end_the_search(tmp_path):
    with opened(f'journal:{tmp_path}/log') as study:
        backend = study._storage.storage._backend
        acquire = backend._lock.acquire

        def stolen():
            acquire()
            backend._lock.release()

        backend._lock.acquire = stolen
        (proposal,) = study.ask(1)
        tell(study, proposal, 0.5)
        assert study.count() == 1


FULL = """
    import resource, sys
    from dpc_jax.base import InputError
    from dpc_jax.study import patience
    from tests.test_study import RUN, SPACE, opened, tell

    url, path = sys.argv[1:]
    patience.PATIENCE_SECONDS = 1.0
    study = opened(url)
    one, two = study.ask(2)
    tell(study, one, 0.5)
    size = len(open(path, 'rb').read())
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, resource.RLIM_INFINITY))  # half of the next line fits
    try:
        tell(study, two, 0.25)
    except InputError as error:
        print(error)
    assert len(open(path, 'rb').read()) == size
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    tell(study, two, 0.25)
    study.close()
"""


def test_a_journal_on_a_full_disk_is_one_line_and_whole(tmp_path):
    url, path = f'journal:{tmp_path}/study.log', tmp_path / 'study.log'
    root = pathlib.Path(__file__).resolve().parent.parent
    command = [sys.executable, '-c', textwrap.dedent(FULL), url, str(path)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"storage '{url}' failed for 1 s: [Errno {errno.EFBIG}] File too large; what was")
    assert len(done.stdout.splitlines()) == 1
    with opened(url) as study:
        assert [c.score for c in study.candidates()] == [0.5, 0.25]
