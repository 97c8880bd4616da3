"""The gate between two stages: its law in closed form, its mean, and that it decides the same after any stop."""

import numpy as np
import optuna
import pytest
from optuna.trial import create_trial

from dpc_jax.study import RunningMean
from dpc_jax.study.gate import chance, running_mean, width

POINT = 2


def trial(number, score, *, state=optuna.trial.TrialState.COMPLETE, reference=''):
    running = state == optuna.trial.TrialState.RUNNING
    found = create_trial(
        state=state,
        value=None if running or state != optuna.trial.TrialState.COMPLETE else score,
        intermediate_values={} if score is None else {POINT - 1: 0.9, POINT: score},
        user_attrs={'reference': reference},
    )
    found.number = number
    return found


class Held(optuna.Study):
    """What a pruner reads of a study."""

    def __init__(self, trials):
        self._held = trials

    def get_trials(self, deepcopy=True, states=None):
        return self._held


def test_the_mean_is_that_of_the_release():
    """m begins at 0.01 and moves by a hundredth to each score, that of the candidate itself included."""
    scores, mean = [0.3, 0.5, 0.1, 0.7], 0.01
    for score in scores:
        mean = 0.99 * mean + 0.01 * score
    np.testing.assert_allclose(running_mean(scores), mean)


@pytest.mark.parametrize(
    ('passed', 'expected'),
    [(0, 0.9), (99, 0.9), (100, 0.81), (250, 0.648), (399, 0.4536), (400, 0.27216), (9999, 0.27216)],
)
def test_the_width_narrows_by_the_schedule_of_the_release(passed, expected):
    np.testing.assert_allclose(width(passed), expected)


@pytest.mark.parametrize('score', [0.31, 0.3, 0.25, 0.1, 0.03, 0.0])
def test_the_chance_is_that_of_drawing_u_and_comparing(score):
    """u uniform in [0, δ), on if r > m (1 - u): the same by a million draws as in closed form."""
    mean, delta = 0.3, 0.9
    drawn = np.random.default_rng(0).uniform(0, delta, 1_000_000)
    expected = 1.0 if score > mean else (score > mean * (1 - drawn)).mean()
    np.testing.assert_allclose(chance(score, mean, delta), expected, atol=2e-3)


def test_as_often_as_the_law_says():
    """Of candidates with one score below the mean, after the same history."""
    history = [trial(number, 0.6) for number in range(200)]
    score = 0.3
    stopped = 0
    for seed in range(2000):
        gate = RunningMean(POINT, seed)
        stopped += gate.prune(Held(history), trial(200, score, state=optuna.trial.TrialState.RUNNING))
    mean = running_mean([0.6] * 200 + [score])
    assert score < mean
    expected = 1 - chance(score, mean, width(200))
    assert abs(stopped / 2000 - expected) < 4 * np.sqrt(expected * (1 - expected) / 2000)


def test_it_decides_the_same_whenever_it_is_asked():
    """One that has seen the study grow, and one that was made after a stop; their order is nothing."""
    random = np.random.default_rng(3)
    scores = random.uniform(0, 0.02, 300)
    old, trials, decided = RunningMean(POINT, 7), [], []
    for number, score in enumerate(scores):
        mine = trial(number, score, state=optuna.trial.TrialState.RUNNING)
        decided.append(old.prune(Held([*trials, mine]), mine))
        state = optuna.trial.TrialState.PRUNED if decided[-1] else optuna.trial.TrialState.COMPLETE
        trials.append(trial(number, score, state=state))
    assert 10 < sum(decided) < 290
    for number in (0, 57, 299):
        fresh = RunningMean(POINT, 7)
        earlier = [trials[place] for place in random.permutation(number)]
        mine = trial(number, scores[number], state=optuna.trial.TrialState.RUNNING)
        assert fresh.prune(Held([*earlier, mine]), mine) == decided[number]


def test_references_pass_and_count_for_nobody():
    gate = RunningMean(POINT, 0)
    poor = trial(1, 0.0, state=optuna.trial.TrialState.RUNNING, reference='arch0')
    history = [trial(0, 0.9), *(trial(number, 0.0, reference='arch1') for number in range(2, 500))]
    assert not gate.prune(Held(history), poor)
    gate.prune(Held(history), trial(600, 0.0, state=optuna.trial.TrialState.RUNNING))
    assert gate._scores == [0.9]


def test_it_stands_at_its_point_alone():
    gate = RunningMean(POINT + 1, 0)
    assert not gate.prune(Held([trial(0, 0.9)]), trial(1, 0.0, state=optuna.trial.TrialState.RUNNING))
