"""The study: proposals that are made once, results that are kept, workers that die, faults that are named."""

import collections
import dataclasses
import hashlib
import json
import logging
import math
import os
import pathlib
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from types import MappingProxyType

import jax
import numpy as np
import optuna
import pytest
import sqlalchemy
from optuna.trial import TrialState

from dpc_jax import samplers
from dpc_jax.base import InputError
from dpc_jax.provenance import settings_hash
from dpc_jax.spaces.dpc import Genotype, Space
from dpc_jax.study import Candidate, Proposal, RunInfo, Study, make_pruner, ranking
from dpc_jax.study import study as study_module
from dpc_jax.study import workers as study_workers
from dpc_jax.study.batch import members
from dpc_jax.study.storage import open_storage
from dpc_jax.study.workers import Worker

RUN = RunInfo(seed=7, config_hash='abc', commit='def', device='cpu')
SPACE = Space(3)


def opened(storage: pathlib.Path | str, *, space=SPACE, sampler='uniform', settings=None, **options) -> Study:
    url = f'sqlite:///{storage / "study.db"}' if isinstance(storage, pathlib.Path) else storage
    strategy = (
        samplers.make(sampler, space, seed=1, **SETTINGS.get(sampler, {})) if isinstance(sampler, str) else sampler
    )
    return Study.open(url, 'search', space=space, sampler=strategy, settings=settings or {}, run=RUN, **options)


def value(key: str) -> float:
    """The score of a cell: any function of its key."""
    return int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) / 2**32


def evaluate(study: Study, proposals: list[Proposal], evaluated: collections.Counter[str]) -> None:
    """A proxy that is over at once: three points per curve, every fifth cell fails, the pruner is obeyed."""
    going = list(proposals)
    for evaluation in range(3):
        for proposal in list(going):
            study.report(proposal.number, evaluation, value(proposal.key) + 0.01 * evaluation)
            if study.should_prune(proposal.number):
                going.remove(proposal)
    for proposal in proposals:
        evaluated[proposal.key] += 1
        score = math.nan if value(proposal.key) % 0.1 < 0.02 else value(proposal.key)
        tell(study, proposal, score, pruned=proposal not in going)


def tell(study: Study, proposal: Proposal, score: float, **more) -> None:
    study.tell(proposal.number, score=score, curve=[score], losses=[1.0], steps=3, seconds=0.5, **more)


def finish(study: Study, budget: int, population: int = 4, evaluated: collections.Counter[str] | None = None) -> None:
    evaluated = collections.Counter() if evaluated is None else evaluated
    while proposals := study.ask(population, budget):
        evaluate(study, proposals, evaluated)


def outcome(study: Study) -> list[tuple[str, str, str, float]]:
    """What a user gets to see, in the order of the ranking."""
    found = ranking(study.candidates())
    return [(c.key, c.reference, c.state, c.score if c.state != 'failed' else -1.0) for c in found]


# ---- the law: killed at any moment, the same search ---------------------------------------------------------------


class Killed(BaseException):
    """The power fails."""


class MortalStorage(optuna.storages.InMemoryStorage):
    """A storage whose worker dies before one of its writes."""

    def __init__(self, writes_left: float = math.inf) -> None:
        super().__init__()
        self.writes_left, self.writes = writes_left, 0


def mortal(name: str) -> Callable[..., object]:
    def write(self: MortalStorage, *args, **kwargs):
        if self.writes_left <= 0:
            raise Killed
        self.writes_left, self.writes = self.writes_left - 1, self.writes + 1
        return getattr(optuna.storages.InMemoryStorage, name)(self, *args, **kwargs)

    return write


for _name in ('create_new_trial', 'create_new_study', 'set_study_user_attr', 'set_study_system_attr'):
    setattr(MortalStorage, _name, mortal(_name))
for _name in ('state_values', 'intermediate_value', 'user_attr', 'system_attr'):
    setattr(MortalStorage, f'set_trial_{_name}', mortal(f'set_trial_{_name}'))


def cost(genotype: Genotype) -> int:
    """Any number will do."""
    return int(genotype.ops.sum())


def search(
    storage: MortalStorage,
    monkeypatch: pytest.MonkeyPatch,
    sampler: str,
    evaluated: collections.Counter[str],
    costs=MappingProxyType({}),
) -> list[tuple[str, str, str, float]] | None:
    """One run of the command; None if it was killed, and then its worker is dead."""
    monkeypatch.setattr(study_module, 'open_storage', lambda url: storage)
    open_before = set(study_workers._OPEN)
    try:
        with Study.open(
            'memory',
            'search',
            space=SPACE,
            sampler=samplers.make(sampler, SPACE, seed=1, **SETTINGS[sampler]),
            settings={'steps': 3},
            run=RUN,
            pruner=None if costs else make_pruner('optuna.MedianPruner', {'n_startup_trials': 3}),
            costs=costs,
        ) as study:
            study.enqueue_reference('none', SPACE.named('conv1x1'))
            study.close = lambda: None  # the dead say no goodbye
            finish(study, budget=11, evaluated=evaluated)
            return outcome(study)
    except Killed:
        return None
    finally:
        study_workers._OPEN &= open_before


SETTINGS = {
    'uniform': {},
    'near_best': {'incumbents': 2},
    'evolution': {'population': 3, 'sample': 2},
    'optuna.TPESampler': {'n_startup_trials': 4},
    'optuna.NSGAIISampler': {'population_size': 3},
}


def test_ctrl_c_in_the_midst_of_a_transaction_waits_for_its_end(tmp_path):
    with opened(tmp_path) as study:
        first, second = study.ask(2)
        engine = study._storage._backend.engine
        sent = []

        def interrupt(*_):
            if not sent:
                sent.append(signal.raise_signal(signal.SIGINT))

        sqlalchemy.event.listen(engine, 'before_cursor_execute', interrupt)
        with pytest.raises(KeyboardInterrupt):
            tell(study, first, 0.5)
        assert sent
        assert [c.number for c in study.candidates()] == [first.number]
        tell(study, second, 0.25)  # nothing is locked
        assert len(study.candidates()) == 2


@pytest.mark.parametrize(
    ('sampler', 'costs'),
    [*((name, {}) for name in SETTINGS), *((name, {'ops': cost}) for name in ('optuna.NSGAIISampler', 'evolution'))],
    ids=[*SETTINGS, 'NSGA-II, two objectives', 'evolution, two objectives'],
)
def test_killed_before_any_write_it_finds_what_it_would_have_found(sampler, costs, monkeypatch):
    whole = MortalStorage()
    expected = search(whole, monkeypatch, sampler, collections.Counter(), costs)
    states = {'complete', 'failed'} if costs else {'complete', 'pruned', 'failed'}
    assert {state for _, _, state, _ in expected} == states, 'the case is too simple'
    assert len(expected) == 12
    numbers = [trial.number for trial in whole.get_all_trials(0)]
    assert numbers == list(range(12)), 'no trial is wasted'

    chance = random.Random(0)
    for last in range(0, whole.writes, 1 if sampler == 'near_best' else 7):
        storage, evaluated = MortalStorage(last), collections.Counter()
        assert search(storage, monkeypatch, sampler, evaluated, costs) is None
        for trial in storage.get_all_trials(0) if storage.get_all_studies() else []:
            assert trial.params.keys() == SPACE.choices().keys(), 'a trial is written whole'
        storage.writes_left = chance.randrange(whole.writes)  # and perhaps once more
        found = search(storage, monkeypatch, sampler, evaluated, costs)
        if found is None:
            storage.writes_left = math.inf
            found = search(storage, monkeypatch, sampler, evaluated, costs)
        assert found == expected, f'killed before write {last}'
        assert max(evaluated.values()) <= 3
        assert sum(evaluated.values()) <= 12 + 2 * 4, 'at most a batch is lost with each kill'


SCRIPT = """
    import hashlib, sys, time
    from dpc_jax import samplers
    from dpc_jax.spaces.dpc import Space
    from dpc_jax.study import RunInfo, Study, ranking

    url, log, budget, wait = sys.argv[1], open(sys.argv[2], 'a', buffering=1), int(sys.argv[3]), float(sys.argv[4])
    space = Space(2)
    sampler = samplers.make('optuna.RandomSampler', space, seed=3)
    run = RunInfo(seed=0, config_hash='', commit='', device='cpu')
    with Study.open(url, 'search', space=space, sampler=sampler, settings={'a': 1}, run=run) as study:
        study.enqueue_reference('none', space.named('conv1x1'))
        print('ready', flush=True)
        while proposals := study.ask(4, budget):
            for proposal in proposals:
                time.sleep(wait)
                log.write(f'evaluated {proposal.key}\\n')
                score = int(hashlib.sha256(proposal.key.encode()).hexdigest()[:8], 16) / 2**32
                study.tell(proposal.number, score=score, curve=[score], losses=[1], steps=1, seconds=wait)
                log.write(f'told {proposal.key}\\n')
"""


def start(url: str, log: pathlib.Path, budget: int, wait: float = 0.01) -> subprocess.Popen[str]:
    root = pathlib.Path(__file__).resolve().parent.parent
    command = [sys.executable, '-W', 'error', '-c', textwrap.dedent(SCRIPT), url, str(log), str(budget), str(wait)]
    return subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True)


def ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout.readline() == 'ready\n'


def result(url: str, log: pathlib.Path) -> tuple[list[tuple[str, str, str, float]], list[str]]:
    with opened(url, space=Space(2), settings={'a': 1}) as study:
        return outcome(study), log.read_text().splitlines()


@pytest.mark.parametrize('storage', ['sqlite:///', pytest.param('journal:', marks=pytest.mark.slow)])
def test_sigkill_loses_nothing_that_was_told(tmp_path, storage):
    budget, chance = 24, random.Random(storage)
    logs = tmp_path / 'whole.txt', tmp_path / 'killed.txt'
    whole, url = f'sqlite:///{tmp_path}/whole.db', f'{storage}{tmp_path}/killed'
    uninterrupted = start(whole, logs[0], budget, wait=0)

    for _ in range(2):
        with start(url, logs[1], budget) as process:
            ready(process)
            time.sleep(chance.uniform(0.02, 0.4))
            process.send_signal(signal.SIGKILL)
    with start(url, logs[1], budget) as process:
        ready(process)
    with uninterrupted:
        ready(uninterrupted)
    assert process.returncode == uninterrupted.returncode == 0

    found, lines = result(url, logs[1])
    assert len(found) == budget + 1
    assert found == result(whole, logs[0])[0]
    for place, line in enumerate(lines):
        kind, key = line.split(' ')
        assert kind == 'evaluated' or f'evaluated {key}' not in lines[place:], 'evaluated again after it was told'


def test_two_workers_share_the_work(tmp_path):
    url, logs = f'sqlite:///{tmp_path}/study.db', [tmp_path / f'{i}.txt' for i in range(2)]
    with start(url, logs[0], 32) as one, start(url, logs[1], 32) as two:  # the same seed, so the same wishes
        ready(one)
        ready(two)
    assert one.returncode == two.returncode == 0
    evaluated = [{k for k in log.read_text().splitlines() if k.startswith('evaluated')} for log in logs]
    assert evaluated[0]
    assert evaluated[1]
    assert not evaluated[0] & evaluated[1]
    found, lines = result(url, logs[0])
    assert len(lines) == 2 * len(evaluated[0])
    assert len(found) == len(evaluated[0] | evaluated[1])
    assert 33 <= len(found) <= 33 + 4  # both may begin their last batch at once


def test_a_candidate_knows_whether_it_was_given_at_random(tmp_path):
    random, chosen = (SPACE.sample(jax.random.key(seed)) for seed in (1, 2))
    with opened(tmp_path) as study:
        study.enqueue(random, drawn=True)
        study.enqueue(chosen)
        for proposal in study.ask(3):
            tell(study, proposal, 0.5)
        drawn = {candidate.key: candidate.drawn for candidate in study.candidates()}
    assert len(drawn) == 3
    assert [key for key, given in drawn.items() if given] == [SPACE.canonical_key(random)]


# ---- several objectives ------------------------------------------------------------------------------------------


def test_costs_are_objectives_after_the_score(tmp_path):
    space = Space(2)
    given = [Genotype(np.array([-1, 0], np.int32), np.array(ops, np.int32)) for ops in ((3, 4), (5, 6), (0, 0))]
    with opened(tmp_path, space=space, costs={'ops': cost, 'twice': lambda genotype: 2 * cost(genotype)}) as study:
        study.enqueue_reference('first', given[0])
        for genotype in given:
            study.enqueue(genotype)
        proposals = study.ask(4, 3)
        for proposal, score in zip(proposals, (0.5, math.nan, 0.25), strict=True):
            tell(study, proposal, score)
        assert study.ask(4, 3) == []
    stored = optuna.load_study(study_name='search', storage=f'sqlite:///{tmp_path / "study.db"}')
    assert [direction.name for direction in stored.directions] == ['MAXIMIZE', 'MINIMIZE', 'MINIMIZE']
    values = {trial.number: trial.values for trial in stored.trials}
    assert values == {0: [0.5, 7.0, 14.0], 1: [0.5, 7.0, 14.0], 2: None, 3: [0.25, 0.0, 0.0]}
    assert [trial.number for trial in stored.best_trials] == [0, 1, 3]


# ---- proposals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('sampler', ['uniform', 'near_best', 'evolution', 'optuna.BruteForceSampler'])
def test_all_81_cells_of_one_branch_are_evaluated_once(sampler, monkeypatch):
    monkeypatch.setattr(study_module, 'open_storage', lambda url: MortalStorage())
    evaluated = collections.Counter()
    with opened('memory', space=Space(1), sampler=sampler) as study:
        finish(study, budget=1000, population=8, evaluated=evaluated)
        assert len(evaluated) == study.count() == 81
        assert set(evaluated.values()) == {1}
        assert study.ask(8) == []


def test_a_sampled_cell_that_is_a_reference_has_its_score_without_an_evaluation(monkeypatch):
    monkeypatch.setattr(study_module, 'open_storage', lambda url: MortalStorage())
    evaluated, space = collections.Counter(), Space(1)
    with opened('memory', space=space) as study:
        study.enqueue_reference('none', space.named('conv1x1'))
        finish(study, budget=1000, population=8, evaluated=evaluated)
        assert evaluated.total() == len(evaluated) == 81
        assert study.count() == 81
        reference, copy = sorted((c for c in study.candidates() if c.key == 'F[c1x1]'), key=lambda c: c.number)
        assert (reference.reference, copy.reference) == ('none', '')
        assert (copy.state, copy.score, copy.curve) == (reference.state, reference.score, reference.curve)


def test_a_copy_waits_for_the_reference_that_is_still_running(tmp_path):
    space = Space(1)
    with opened(tmp_path, space=space) as study:
        study.enqueue_reference('none', space.named('conv1x1'))
        study.enqueue(space.named('conv1x1'))
        (reference,) = study.ask(2, budget=1)
        assert reference.reference == 'none'
        assert study.ask(2, budget=1) == []
        assert study.count() == 0
        tell(study, reference, 0.5)
        assert study.ask(2, budget=1) == []
        assert study.count() == 1
        assert [c.score for c in study.candidates()] == [0.5, 0.5]


def test_references_come_first_and_once_and_do_not_count(tmp_path):
    space = Space(5)
    for run in range(2):
        with opened(tmp_path, space=space) as study:
            for name in ('aspp', 'dpc_top1'):
                study.enqueue_reference(name, space.named(name))
                study.enqueue_reference(name, space.named(name))
            proposals = study.ask(4, budget=9)
            assert [p.reference for p in proposals] == (['aspp', 'dpc_top1', '', ''] if run == 0 else [''] * 4)
            for proposal in proposals:
                tell(study, proposal, 0.5)
            assert study.count() == (2 if run == 0 else 6)
            assert len(study.candidates()) == study.count() + 2


def test_given_cells_come_before_sampled_ones_and_count(tmp_path):
    cells = SPACE.sample(jax.random.key(5), 3)
    given = [Genotype(*row) for row in zip(cells.inputs, cells.ops, strict=True)]
    with opened(tmp_path) as study:
        for genotype in [*given, given[0]]:
            study.enqueue(genotype)
        proposals = study.ask(5)
        assert [p.key for p in proposals[:3]] == [SPACE.canonical_key(genotype) for genotype in given]
        assert len({p.key for p in proposals}) == 5
        assert all(SPACE.canonical_key(p.genotype) == p.key for p in proposals)
        for proposal in proposals[:3]:
            tell(study, proposal, 0.1)
        assert study.count() == 3


def test_the_budget_counts_what_is_running(tmp_path):
    with opened(tmp_path) as study:
        assert len(study.ask(4, budget=6)) == 4
        assert len(study.ask(4, budget=6)) == 2
        assert study.ask(4, budget=6) == []
        assert len(study.ask(4, budget=7)) == 1
        assert study.count() == 0


class Interrupting(optuna.samplers.BaseSampler):
    """Does something else before its first draw: the moment between reading the storage and writing to it."""

    def __init__(self, sampler: optuna.samplers.BaseSampler, interruption: Callable[[], object]) -> None:
        self.sampler, self.interruptions = sampler, [interruption]

    def infer_relative_search_space(self, study, trial):
        return self.sampler.infer_relative_search_space(study, trial)

    def sample_relative(self, study, trial, search_space):
        params = self.sampler.sample_relative(study, trial, search_space)
        if self.interruptions:
            self.interruptions.pop()()
        return params

    def sample_independent(self, study, trial, param_name, param_distribution):
        return self.sampler.sample_independent(study, trial, param_name, param_distribution)


def test_of_two_workers_with_the_same_cell_the_later_gives_way(tmp_path):
    theirs: list[Proposal] = []
    with opened(tmp_path) as other:
        sampler = Interrupting(samplers.make('uniform', SPACE, seed=1), lambda: theirs.extend(other.ask(1)))
        with opened(tmp_path, sampler=sampler) as study:
            mine = study.ask(3)
            assert len(theirs) == 1
            assert len(mine) == 3, 'another cell was drawn'
            assert theirs[0].key not in {p.key for p in mine}
            trials = study._trials()
            assert trials[1].user_attrs['key'] == theirs[0].key
            assert trials[1].user_attrs['duplicate_of'] == 0
            assert trials[1].state == TrialState.FAIL
            for owner, proposals in ((study, mine), (other, theirs)):
                for proposal in proposals:
                    tell(owner, proposal, 0.3)
            assert study.count() == len(study.candidates()) == 4
            assert study.running_elsewhere() == 0


@pytest.mark.parametrize('write', [1, 2])
def test_a_worker_killed_while_it_told_is_not_asked_again_once_the_outcome_is_written(write, monkeypatch):
    storage = MortalStorage()
    monkeypatch.setattr(study_module, 'open_storage', lambda url: storage)
    with opened('memory') as study:
        one, two = study.ask(2)
        storage.writes_left = write - 1
        with pytest.raises(Killed):
            tell(study, one, 0.5)
        storage.writes_left = math.inf
    with opened('memory') as study:
        again = [p.key for p in study.ask(2)]
        assert again == ([one.key, two.key] if write == 1 else [two.key])
        assert [c.score for c in study.candidates()] == ([] if write == 1 else [0.5])


def test_a_worker_killed_while_it_gave_way_gives_way(tmp_path):
    with opened(tmp_path) as study:
        one, two = study.ask(2)
        trial = study._trials()[two.number]
        study._storage.set_trial_user_attr(trial._trial_id, 'duplicate_of', one.number)
    with opened(tmp_path) as study:
        assert [p.number for p in study.ask(2)] == [one.number, two.number + 1], 'with another in its place'
        assert study._trials()[two.number].state == TrialState.FAIL


# ---- workers -----------------------------------------------------------------------------------------------------


def test_what_a_closed_worker_left_is_asked_for_first_and_alone(tmp_path):
    with opened(tmp_path) as study:
        left = study.ask(5)
        tell(study, left[1], 0.4)
    with opened(tmp_path) as study:
        again = study.ask(5)
        assert [p.number for p in again] == [0, 2, 3, 4]
        assert [p.key for p in again] == [left[n].key for n in (0, 2, 3, 4)]
        assert [p.number for p in study.ask(2)] == [5, 6], 'the others are in work now'


def test_workers_see_each_other(tmp_path):
    with opened(tmp_path) as one, opened(tmp_path) as two:
        proposals = one.ask(3)
        assert (one.running_elsewhere(), two.running_elsewhere()) == (0, 3)
        assert not {p.key for p in proposals} & {p.key for p in two.ask(3)}
        one.close()
        assert two.running_elsewhere() == 0


def other_worker(**changes) -> Worker:
    worker = Worker.here()
    worker.leave()
    return dataclasses.replace(worker, **changes)


def test_a_process_is_looked_up_by_number_and_start():
    with subprocess.Popen(['sleep', '60']) as process:
        alive = other_worker(pid=process.pid, start=study_workers._process_start(process.pid))
        assert alive.is_alive({}, 600.0)
        assert not dataclasses.replace(alive, start='1').is_alive({}, 600.0), 'its number was used again'
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not alive.is_alive({}, 600.0), 'a zombie'
    assert not alive.is_alive({alive.beat_name: time.time()}, 600.0)
    assert study_workers._process_start(process.pid) == ''


def test_without_proc_a_process_is_looked_up_by_number(monkeypatch):
    with subprocess.Popen(['sleep', '0']) as process:
        pass
    monkeypatch.setattr(pathlib.Path, 'exists', lambda path: False)
    assert study_workers._process_start(os.getpid()) == 'exists'
    assert study_workers._process_start(process.pid) == ''

    def not_mine(pid, number):
        raise PermissionError

    monkeypatch.setattr(os, 'kill', not_mine)
    assert study_workers._process_start(1) == 'exists'


def test_a_worker_elsewhere_is_alive_as_long_as_it_is_heard():
    worker = other_worker(machine='elsewhere')
    assert worker.is_alive({worker.beat_name: time.time() - 50}, 60.0)
    assert not worker.is_alive({worker.beat_name: time.time() - 70}, 60.0)
    assert not worker.is_alive({worker.beat_name: None}, 60.0)
    assert not worker.is_alive({}, 60.0)


def test_a_sign_of_life_is_written_ten_times_in_a_grace_time(tmp_path, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(time, 'monotonic', lambda: now)
    with opened(tmp_path, grace_seconds=100.0) as study:
        beats = []
        monkeypatch.setattr(study._storage, 'set_study_user_attr', lambda *args: beats.append(args))
        for now in np.linspace(1000, 1100, 1001):  # noqa: B007  (read by the clock above)
            study.beat()
        assert 9 <= len(beats) <= 10


def test_a_trial_that_two_want_goes_to_one(tmp_path):
    with opened(tmp_path) as dead:
        (proposal,) = dead.ask(1)
    with opened(tmp_path) as one, opened(tmp_path) as two:
        trial = one._trials()[proposal.number]
        beats = one._storage.get_study_user_attrs(one._id)

        def wants(study: Study) -> bool:
            return study_workers.take_over(study._storage, trial, study._me, beats=beats, grace_seconds=600.0)

        claim = f'claim.{two._me.token}'
        two._storage.set_trial_user_attr(trial._trial_id, claim, dataclasses.asdict(two._me))
        assert not wants(one), 'the other was first to say so'
        two._storage.set_trial_user_attr(trial._trial_id, claim, None)
        assert wants(one)
        assert not wants(two), 'it has a new owner, though `trial` was read before'
        tell(one, proposal, 0.2)
        assert not wants(two), 'it is finished'


def test_a_worker_that_seemed_dead_cannot_change_what_another_found(tmp_path, caplog):
    with opened(tmp_path) as slow:
        proposals = slow.ask(2)
        slow._me.leave()
        with opened(tmp_path) as other:
            assert [p.number for p in other.ask(2)] == [p.number for p in proposals]
            tell(other, proposals[0], 0.8)
        with caplog.at_level(logging.WARNING):
            tell(slow, proposals[0], 0.3)
        assert 'trial 0 was finished by another worker' in caplog.text
        assert [c.score for c in slow.candidates()] == [0.8]


# ---- results -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('storage', ['sqlite:///', 'journal:'])
def test_a_candidate_comes_back_with_all_that_was_told(tmp_path, storage):
    url = f'{storage}{tmp_path}/study'
    with opened(url) as study:
        one, two, three = study.ask(3)
        curve = [np.float32(0.25), math.nan, 0.5]
        study.tell(one.number, score=np.float32(0.5), curve=curve, losses=np.ones(3), steps=np.int32(9), seconds=2)
        study.report(two.number, 0, 0.125)
        study.tell(two.number, score=0.125, curve=[0.125], losses=[2.0], steps=3, seconds=1.0, pruned=True)
        study.tell(three.number, score=math.inf, curve=[], losses=[], steps=1, seconds=1.0)
    with opened(url) as study:
        best, pruned, failed = ranking(study.candidates())
    assert best == Candidate(
        number=0,
        reference='',
        genotype=best.genotype,
        key=one.key,
        state='complete',
        score=0.5,
        curve=best.curve,
        losses=(1.0, 1.0, 1.0),
        steps=9,
        seed=7,
        rung='proxy',
        config_hash='abc',
        commit='def',
        device='cpu',
        seconds=2.0,
        worker=RUN.worker,
        finished=best.finished,
        failure='',
        drawn=False,
    )
    assert SPACE.canonical_key(best.genotype) == one.key
    np.testing.assert_array_equal(best.curve, [0.25, math.nan, 0.5])
    assert best.finished[:2] == '20'
    assert best.finished[-6] in '+-'
    assert (pruned.state, pruned.score, pruned.steps) == ('pruned', 0.125, 3)
    assert (failed.state, failed.failure) == ('failed', 'non-finite loss')
    assert math.isnan(failed.score)


def test_a_failure_may_have_another_reason(tmp_path):
    with opened(tmp_path) as study:
        (proposal,) = study.ask(1)
        tell(study, proposal, 0.9, failure='did not fit into memory')
        (candidate,) = study.candidates()
        assert (candidate.state, candidate.failure) == ('failed', 'did not fit into memory')
        assert math.isnan(candidate.score)
        assert [trial.state for trial in study._trials()] == [TrialState.FAIL]


def test_the_ranking_puts_scores_before_pruned_before_failed_and_breaks_ties_by_key():
    def row(key: str, state: str, score: float) -> Candidate:
        genotype = SPACE.named('conv1x1')
        return Candidate(0, '', genotype, key, state, score, (), (), 0, 0, '', '', '', '', 0.0, '', '', '')

    rows = [
        row('b', 'complete', 0.5),
        row('a', 'complete', 0.4),
        row('c', 'complete', 0.4),
        row('e', 'pruned', 0.9),
        row('d', 'pruned', 0.1),
        row('g', 'pruned', math.nan),
        row('f', 'failed', math.nan),
        row('h', 'failed', math.nan),
    ]
    for seed in range(5):
        shuffled = random.Random(seed).sample(rows, len(rows))
        assert ''.join(c.key for c in ranking(shuffled)) == 'bacedgfh'


def test_to_optuna_it_is_an_ordinary_study(tmp_path):
    with opened(tmp_path) as study:
        finish(study, budget=8)
        best = ranking(study.candidates())[0]
    plain = optuna.load_study(study_name='search', storage=f'sqlite:///{tmp_path}/study.db')
    assert plain.best_value == best.score
    assert plain.best_params == SPACE.to_params(best.genotype)
    assert len(plain.trials[0].intermediate_values) == 3


def test_trials_that_others_added_do_not_disturb(tmp_path):
    with opened(tmp_path) as study:
        finish(study, budget=4)
        plain = optuna.load_study(study_name='search', storage=f'sqlite:///{tmp_path}/study.db')
        plain.ask()
        plain.add_trial(optuna.trial.create_trial(value=2.0))
        assert len(members(study._trials())) == 4
        finish(study, budget=6)
        assert study.count() == len(study.candidates()) == 6


# ---- settings, storages, pruners ---------------------------------------------------------------------------------


def test_another_config_is_refused_and_the_fields_are_named(tmp_path):
    settings = {'proxy': {'steps': 300, 'crop': (65, 129), 'lr': 0.1}, 'data': {'name': 'scenes'}}
    opened(tmp_path, settings={'data': {'name': 'mistyped'}}).close()  # no trials yet: nothing is bound to it
    with opened(tmp_path, settings=settings) as study:
        study.ask(1)
    opened(tmp_path, settings={'data.name': 'scenes', 'proxy': {'lr': 0.1, 'steps': 300, 'crop': [65, 129]}}).close()

    def changed(**proxy) -> dict[str, object]:
        return settings | {'proxy': settings['proxy'] | proxy}

    with pytest.raises(InputError) as raised:
        opened(tmp_path, settings=changed(steps=400))
    assert str(raised.value) == (
        "study 'search' was made with another config: proxy.steps: study has 300, config has 400"
    )
    with pytest.raises(
        InputError, match=r'config: proxy\.batch: study has none, config has 8; proxy\.steps: study has'
    ):
        opened(tmp_path, settings=changed(steps=400, batch=8))
    with pytest.raises(InputError, match=r'config has 8; and 2 more$') as raised:
        opened(tmp_path, settings=changed(a=8, b=8, c=8, d=8, e=8))
    assert '\n' not in str(raised.value)
    with pytest.raises(InputError, match=r'data\.name: study has "scenes", config has none'):
        opened(tmp_path, settings={'proxy': settings['proxy']})


def test_a_study_of_someone_else_is_refused(tmp_path):
    plain = optuna.create_study(study_name='search', storage=f'sqlite:///{tmp_path}/study.db', direction='maximize')
    plain.add_trial(optuna.trial.create_trial(value=2.0))
    with pytest.raises(InputError, match="study 'search' was not made by this program"):
        opened(tmp_path)


def test_the_hash_of_settings_is_of_values_alone():
    settings = {'a': {'b': 1, 'c': (1, 2)}, 'd': 'x'}
    assert settings_hash(settings) == settings_hash({'d': 'x', 'a.c': [1, 2], 'a': {'b': 1}})
    assert len(settings_hash(settings)) == 12
    changed = [{'a': {'b': 2, 'c': (1, 2)}, 'd': 'x'}, {'a': {'b': 1, 'c': (1, 2)}}, settings | {'e': None}]
    assert len({settings_hash(other) for other in [settings, *changed]}) == 4
    expected = json.dumps({'a.b': '1', 'a.c': '[1, 2]', 'd': '"x"'})
    assert settings_hash(settings) == hashlib.sha256(expected.encode()).hexdigest()[:12]


@pytest.fixture
def wrong_file(tmp_path) -> pathlib.Path:
    path = tmp_path / 'wrong'
    path.write_text('no database at all, but long enough for a header of one\n' * 20)
    return path


@pytest.mark.parametrize(
    ('url', 'message'),
    [
        ('study.db', r"^storage 'study\.db' cannot be used: .*expected sqlite:///FILE"),
        ('nosuch://host/db', "^storage 'nosuch://host/db' cannot be used: "),
        ('sqlite:////no/such/folder/study.db', 'unable to open database file'),
        ('sqlite:///{wrong}', 'file is not a database'),
        ('journal:{wrong}', 'the file is not a journal of Optuna'),
        ('journal:/no/such/folder/log', 'No such file'),
    ],
)
def test_a_storage_that_cannot_be_used_is_one_line(url, message, wrong_file):
    before = wrong_file.read_text()
    with pytest.raises(InputError, match=message) as raised:
        opened(url.format(wrong=wrong_file))
    assert '\n' not in str(raised.value)
    assert 'secret' not in str(raised.value)
    assert wrong_file.read_text() == before


@pytest.mark.parametrize(
    ('url', 'module', 'needed'),
    [
        ('postgresql+psycopg://me:***@host/db', 'psycopg', 'dpc_jax[postgresql]'),
        ('postgresql+psycopg2://me:***@host/db', 'psycopg2', 'psycopg2-binary'),
        ('mysql://me:***@host/db', 'MySQLdb', 'mysqlclient'),
        ('mysql+pymysql://me:***@host/db', 'pymysql', 'PyMySQL'),
        ('postgresql+pg8000://me:***@host/db', 'pg8000', 'pg8000'),
    ],
)
def test_a_storage_whose_driver_is_not_installed_says_what_to_install(url, module, needed, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    with pytest.raises(InputError) as raised:
        open_storage(url.replace('***', 'secret'))
    line = str(raised.value)
    assert line.startswith(f"storage '{url}' needs a driver: ")
    assert line.endswith(f"; pip install '{needed}'")
    assert '\n' not in line


def test_optuna_is_quiet(tmp_path, capfd):
    with opened(tmp_path) as study:
        finish(study, budget=4)
    assert capfd.readouterr() == ('', '')


def test_pruners_are_found_by_name():
    assert isinstance(make_pruner('', {}), optuna.pruners.NopPruner)
    pruner = make_pruner('optuna.PercentilePruner', {'percentile': 20.0, 'n_startup_trials': 2})
    assert isinstance(pruner, optuna.pruners.PercentilePruner)
    with pytest.raises(InputError, match=r"pruner 'MedianPruner' is not known; allowed: '', .*optuna\.MedianPruner"):
        make_pruner('MedianPruner', {})
    with pytest.raises(InputError, match=r"pruner optuna\.MedianPruner does not take {'trials': 3}"):
        make_pruner('optuna.MedianPruner', {'trials': 3})


def test_a_pruner_compares_with_other_batches_only(tmp_path):
    pruner = make_pruner('optuna.MedianPruner', {'n_startup_trials': 1})

    def stops(study: Study, proposal: Proposal, score: float) -> bool:
        study.report(proposal.number, 0, score)
        return study.should_prune(proposal.number)

    with opened(tmp_path, pruner=pruner) as study:
        good, bad = study.ask(2)
        assert not stops(study, good, 0.9)
        tell(study, good, 0.9)
        assert not stops(study, bad, 0.1), 'of its own batch nothing is known'
    with opened(tmp_path, pruner=pruner) as study:
        (bad,) = study.ask(2)
        assert not stops(study, bad, 0.1), 'nor is it after a restart'
        tell(study, bad, 0.1)
        low, high = study.ask(2)
        assert stops(study, low, 0.4)
        assert not stops(study, high, 0.6)
