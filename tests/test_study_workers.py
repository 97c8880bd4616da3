"""Several workers on one study, and a server that fails: nothing is lost, and nothing is done twice."""

import collections
import pathlib
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
import sqlalchemy
from optuna.trial import TrialState

from dpc_jax.study import patience, ranking
from tests.test_study import SPACE, finish, opened, tell, value

WORKERS, BATCH, BUDGET = 3, 4, 32

WORKER = """
    import hashlib, sys, time
    import numpy as np
    from rich.console import Console
    from dpc_jax import climbing, samplers
    from dpc_jax.base import ProxyResult, Rung, unstack
    from dpc_jax.spaces.dpc import Space
    from dpc_jax.study import Progress, RunInfo, Study

    url, path, batch, budget, seconds = *sys.argv[1:3], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5])
    space = Space(3)
    climbing.WAIT_SECONDS = 0.1

    def evaluate(genotypes, keep_going):
        keys = [space.canonical_key(genotype) for genotype in unstack(genotypes)]
        with open(path, 'a') as log:
            log.writelines(f'{key}\\n' for key in keys)
        time.sleep(seconds)
        scores = np.array([int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) / 2**32 for key in keys])
        none, column = np.zeros(len(keys), bool), scores[:, None]
        confusions = np.ones((len(keys), 1, 2, 2), np.int64)
        return ProxyResult(scores, column, column, ~none, none, np.full(len(keys), 9), seconds, confusions, {})

    sampler = samplers.make('near_best', space, seed=1)  # the same seed, so the same wishes
    run = RunInfo(seed=0, config_hash='', commit='', device='')
    with Study.open(url, 'search', space=space, sampler=sampler, settings={}, run=run) as study:
        study.enqueue_reference('none', space.named('conv1x1'))
        with Progress(budget, console=Console(quiet=True)) as progress:
            climbing.climb(study, Rung('proxy', evaluate, budget, batch), progress, generation=batch)
"""


def worker(url: str, log: pathlib.Path, seconds: float) -> subprocess.Popen[str]:
    root = pathlib.Path(__file__).resolve().parent.parent
    arguments = [url, str(log), str(BATCH), str(BUDGET), str(seconds)]
    command = [sys.executable, '-W', 'error', '-c', textwrap.dedent(WORKER), *arguments]
    return subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True)


def begun(log: pathlib.Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


@pytest.fixture(params=['postgresql', 'journal'])
def url(request, tmp_path) -> str:
    if request.param == 'journal':
        return f'journal:{tmp_path}/study.log'
    return request.getfixturevalue('postgres').database()


@pytest.mark.slow
def test_of_several_workers_one_is_killed_and_the_others_do_its_part(url, tmp_path):
    logs = [tmp_path / f'{number}.txt' for number in range(WORKERS + 1)]
    doomed, *others = [worker(url, log, 1e6 if log == logs[0] else 0.02) for log in logs]  # all make the new tables
    while len(begun(logs[0])) < BATCH:
        assert doomed.poll() is None, doomed.stderr.read()
        time.sleep(0.02)
    doomed.send_signal(signal.SIGKILL)
    doomed.communicate()
    for other in others:
        assert (other.communicate()[1], other.returncode) == ('', 0)

    lost, evaluated = begun(logs[0]), collections.Counter(key for log in logs[1:] for key in begun(log))
    assert set(evaluated.values()) == {1}, 'no two evaluate the same'
    assert set(lost) <= set(evaluated), 'what the killed one had begun is evaluated by others'
    with opened(url) as study:
        found = study.candidates()
        assert study.ask(1, BUDGET) == []
        assert not [trial for trial in study._trials() if trial.state == TrialState.RUNNING]
    assert len(found) == len(evaluated), 'and all that was evaluated is kept'
    assert [c.key for c in found if c.reference] == [SPACE.canonical_key(SPACE.named('conv1x1'))]
    keys = {c.key for c in found if not c.reference}
    assert len(keys) == sum(not c.reference for c in found)
    assert BUDGET <= len(keys) <= BUDGET + (WORKERS - 1) * BATCH, 'all may begin their last batch at once'
    assert all(c.score == value(c.key) for c in found)
    ranked = [c.key for c in ranking(found) if not c.reference]
    assert ranked == sorted(keys, key=lambda key: (-value(key), key)), 'scores are a function of the cell'


# ---- a server that fails -----------------------------------------------------------------------------------------


def test_connections_that_the_server_drops_between_two_calls_are_made_anew(postgres, caplog):
    with opened(postgres.database()) as study:
        (one, two) = study.ask(2)
        assert postgres.drop_connections() >= 1
        tell(study, one, 0.5)
        assert postgres.drop_connections() >= 1
        assert study.count() == 1
        tell(study, two, 0.25)
        assert [c.score for c in study.candidates()] == [0.5, 0.25]
    assert not caplog.records, 'that is not even worth a warning'


@pytest.mark.parametrize('statement', ['INSERT INTO trials', 'INSERT INTO trial_user_attributes', 'UPDATE trials'])
def test_a_connection_that_is_dropped_in_the_midst_of_a_transaction(statement, postgres):
    with opened(postgres.database()) as study:
        dropped = []

        def drop(connection, cursor, text, *_):
            if text.startswith(statement) and not dropped:
                dropped.append(postgres.drop_connections())

        sqlalchemy.event.listen(study._storage._backend.engine, 'before_cursor_execute', drop)
        finish(study, budget=5)
        assert dropped
        assert study.count() == len(study.candidates()) == 5
        assert [trial.number for trial in study._trials()] == list(range(5)), 'no trial is wasted'


def test_a_server_that_restarts_is_waited_for(postgres):
    with opened(postgres.database()) as study:
        (one, two) = study.ask(2)
        tell(study, one, 0.5)
        postgres.stop()
        starter = threading.Timer(1.0, postgres.start)
        starter.start()
        tell(study, two, 0.25)
        starter.join()
        assert [c.score for c in study.candidates()] == [0.5, 0.25]
        assert len(study.ask(2)) == 2


def test_a_server_that_stays_away_is_one_line(postgres, fault, monkeypatch):
    study = opened(postgres.database())
    one, two = study.ask(2)
    tell(study, one, 0.5)
    postgres.stop()
    monkeypatch.setattr(patience, 'PATIENCE_SECONDS', 1.0)
    try:
        line = fault(lambda: tell(study, two, 0.25))
        assert line.startswith("storage 'postgresql+psycopg://tests:***@127.0.0.1:")
        assert 'failed for 1 s: ' in line
        assert line.endswith('what was finished before is kept, and the same command goes on from there')
        fault(study.close)
        url = study._storage._backend.url
        assert 'Connection refused' in fault(lambda: opened(url))
    finally:
        postgres.start()
    with opened(url) as again:
        assert [c.score for c in again.candidates()] == [0.5]
        assert [p.key for p in again.ask(1)] == [two.key]
