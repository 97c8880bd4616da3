"""The index of a study: kept up to date step by step, it answers as one that looks at all trials now."""

import math
import random

import jax
import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from dpc_jax.base import unstack
from dpc_jax.spaces.dpc import Space
from dpc_jax.study import Study, candidate_key, history, rows
from dpc_jax.study import index as index_module
from dpc_jax.study.batch import distributions
from dpc_jax.study.index import Index, is_done, members
from tests.test_study import SPACE, finish, opened, tell

TINY = Space(1)
CELLS = unstack(TINY.sample(jax.random.key(0), 12))


def made(chance: random.Random, number: int) -> FrozenTrial:
    """A trial as it is written: a candidate or reference of ours, or somebody's with a cell or without."""
    genotype = chance.choice(CELLS)
    kind = chance.choice(['ours'] * 6 + ['reference', 'cell', 'empty'])
    attributes = {
        'key': TINY.canonical_key(genotype),
        'reference': chance.choice(['one', 'two']) if kind == 'reference' else '',
        'batch': str(number // 4),
        'owner': {},
    }
    trial = create_trial(
        state=TrialState.RUNNING,
        params={} if kind == 'empty' else dict(TINY.to_params(genotype)),
        distributions={} if kind == 'empty' else distributions(TINY),
        user_attrs=attributes if kind in ('ours', 'reference') else {},
    )
    trial.number = number
    return trial


def changed(chance: random.Random, trial: FrozenTrial) -> FrozenTrial:
    """A running trial later: finished in one way or the other, a duplicate that is told so, or as before."""
    state = chance.choice([TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL])
    told = {'outcome': {}} if chance.random() < 0.9 else {}
    duplicate = {'duplicate_of': 0} if state != TrialState.COMPLETE and chance.random() < 0.3 else {}
    value = chance.choice([0.1, 0.2, 0.3, chance.random()])
    new = create_trial(
        state=state,
        value=value if state == TrialState.COMPLETE else None,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs=trial.user_attrs | (told if state != TrialState.RUNNING else {}) | duplicate,
    )
    new.number = trial.number
    return new


def histories(seed: int):
    """A list of trials as it grows and changes."""
    chance, trials = random.Random(seed), []
    for _ in range(20):
        trials = [t if t.state.is_finished() or chance.random() < 0.5 else changed(chance, t) for t in trials]
        trials += [made(chance, len(trials) + more) for more in range(chance.randrange(4))]
        yield trials


def best_by_hand(trials: list[FrozenTrial], count: int) -> list[str]:
    complete = [t for t in trials if t.state == TrialState.COMPLETE and candidate_key(TINY, t)]
    ordered = sorted(complete, key=lambda t: (-t.values[0], candidate_key(TINY, t)))
    return list(dict.fromkeys(candidate_key(TINY, t) for t in ordered))[:count]


@pytest.mark.parametrize('seed', range(6))
def test_kept_up_to_date_it_answers_as_if_it_looked_at_all_trials(seed):
    index = Index(TINY)
    for trials in histories(seed):
        index.update(trials)
        ours = members(trials)
        assert [t.number for t in trials if index.is_member(t)] == sorted(t.number for t in ours)
        candidates = [t for t in ours if not t.user_attrs['reference']]
        assert index.num_candidates() == len(candidates)
        for genotype in CELLS:
            key = TINY.canonical_key(genotype)
            mine = [t for t in candidates if t.user_attrs['key'] == key]
            assert index.has_candidate(key) == bool(mine)
            assert index.is_done(key) == any(map(is_done, mine))
            assert index.has_cell(key) == any(candidate_key(TINY, t) == key for t in trials)
        assert index.done() == sorted(filter(is_done, ours), key=lambda t: t.number)
        assert index.done_among(range(0, len(trials), 2)) == [t for t in index.done() if t.number % 2 == 0]
        assert index.open() == [t for t in trials if not t.state.is_finished()]
        assert index.references().keys() == {t.user_attrs['reference'] for t in ours} - {''}
        assert index.batch('1') == [t for t in trials if t.user_attrs.get('batch') == '1']
        hidden = {t.number for t in index.batch('0')}
        shown = [t for t in trials if t.number not in hidden]
        for count in (1, 3, 99):
            assert list(map(TINY.canonical_key, index.best(count))) == best_by_hand(trials, count)
            assert list(map(TINY.canonical_key, index.best(count, hidden))) == best_by_hand(shown, count)


def test_a_duplicate_is_whatever_has_a_lower_number_with_the_same_cell():
    trials = [made(random.Random(7), number) for number in range(8)]
    ours = [t for t in trials if 'key' in t.user_attrs]
    index = Index(TINY)
    for trial in random.Random(0).sample(trials, len(trials)):  # whatever was seen first
        index.add(trial)
    for trial in ours:
        same = [t.number for t in ours if index_module.mark_of(t) == index_module.mark_of(trial)]
        assert index.first(trial) == min(same)


def test_what_is_finished_is_looked_at_once_however_often_the_study_is_asked(tmp_path, monkeypatch):
    looked_at = []
    put = Index._note

    def counted(self, trial, times):
        looked_at.append(trial.number)
        put(self, trial, times)

    with opened(tmp_path) as study:
        finish(study, budget=20)
        monkeypatch.setattr(Index, '_note', counted)
        for _ in range(3):
            study.count()
            study.candidates([0, 1])
        assert looked_at == []
        proposals = study.ask(4)
        assert len(proposals) == 4
        assert set(looked_at) == {p.number for p in proposals}


def numbers(study: Study) -> list[int]:
    return [candidate.number for candidate in study.candidates()]


def test_candidates_may_be_asked_for_by_number(tmp_path):
    with opened(tmp_path) as study:
        study.enqueue_reference('none', SPACE.named('conv1x1'))
        finish(study, budget=6)
        (running,) = study.ask(1, budget=7)
        assert numbers(study) == list(range(7))
        assert [c.number for c in study.candidates([4, 0, 2])] == [0, 2, 4]
        assert study.candidates([running.number]) == []
        assert [c.reference for c in study.candidates([0])] == ['none']


@pytest.mark.parametrize('direction', ['maximize', 'minimize'])
def test_a_study_of_optuna_alone_has_a_history_too(direction):
    study = optuna.create_study(direction=direction)
    for place, genotype in enumerate(CELLS[:4]):
        params = dict(TINY.to_params(genotype))
        study.add_trial(create_trial(value=0.1 * place, params=params, distributions=distributions(TINY)))
    study.add_trial(create_trial(value=math.inf if direction == 'maximize' else -math.inf))
    keys = list(dict.fromkeys(map(TINY.canonical_key, CELLS[:4])))
    assert len(keys) == 4
    found = history(study, TINY)
    assert list(map(TINY.canonical_key, found.best(2))) == (keys[::-1] if direction == 'maximize' else keys)[:2]
    assert all(key in found for key in keys)
    assert '' not in found
    assert keys[0] not in history(study, TINY, but=0)


def test_a_study_that_shows_a_part_has_the_history_of_that_part(tmp_path):
    pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=9)
    with opened(tmp_path, sampler='near_best', pruner=pruner) as study:
        finish(study, budget=12)
        (proposal,) = study.ask(1)
        whole = study._seen[proposal.number]
        part = optuna.pruners._filter_study(whole, study._trials()[proposal.number])
        shown = {candidate_key(SPACE, trial) for trial in part.get_trials()}
        everything = {candidate_key(SPACE, trial) for trial in whole.get_trials()}
        assert 0 < len(shown) < len(everything)
        assert {key for key in everything if key in history(part, SPACE)} == shown
        assert {key for key in everything if key in history(whole, SPACE)} == everything


def test_the_matrices_of_a_candidate_are_unpacked_when_they_are_looked_at(tmp_path, monkeypatch):
    matrices = [np.array([[1, 2], [3, 2**40]]), np.array([[5, 6], [7, 8]])]
    unpacked, calls = rows.unpacked, []
    monkeypatch.setattr(rows, 'unpacked', lambda text: calls.append(text) or unpacked(text))
    confusions = rows.Confusions([rows.packed(matrix) for matrix in matrices])
    assert len(confusions) == 2
    assert not calls
    assert confusions[-1] == ((5, 6), (7, 8))
    assert len(calls) == 1
    with opened(tmp_path) as study:
        (proposal,) = study.ask(1)
        tell(study, proposal, 0.5, confusions=matrices)
        (candidate,) = study.candidates()
    assert candidate.confusions == confusions
    assert candidate.confusions[:1] == (((1, 2), (3, 2**40)),)
    assert candidate.confusions == (((1, 2), (3, 2**40)), ((5, 6), (7, 8)))
    assert candidate.confusions != (((1, 2), (3, 2**40)),)
    assert repr(confusions) == '(((1, 2), (3, 1099511627776)), ((5, 6), (7, 8)))'
    assert hash(candidate.confusions) == hash(confusions)
