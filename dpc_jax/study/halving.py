"""Successive halving as a pruner of Optuna: at each of some points of a curve the best share goes on.

A candidate is compared when it gets there (as in ASHA, Li et al. 2020): it goes on if it would be among the best share
of all finished candidates of the study that got as far, itself included. So no candidate waits for others, the first
batch is trained to the end, and what is decided depends on earlier batches alone (see `study.batch`), which makes a
search that was killed the same as one that was not.
"""

import bisect
import math
from collections.abc import Mapping

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial


class Halving(optuna.pruners.BasePruner):
    """`shares` says of which points of the curve (indices of evaluations) what share of the candidates goes on."""

    def __init__(self, shares: Mapping[int, float]) -> None:
        self._shares = dict(shares)
        self._sign = 1.0
        # Finished trials do not change, so each is looked at once. What a study shows differs from batch to batch in
        # trials that run, so those wait.
        self._seen: set[int] = set()
        self._scores: dict[int, list[float]] = {point: [] for point in self._shares}  # ascending

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether a trial stops at the point that it reported last."""
        point = trial.last_step
        if point not in self._shares or _is_reference(trial):
            return False
        self._sign = 1.0 if study.directions[0] == StudyDirection.MAXIMIZE else -1.0
        self._look(study, trial.number)
        scores = self._scores[point]
        better = len(scores) - bisect.bisect_right(scores, self._sign * trial.intermediate_values[point])
        return better >= math.ceil(self._shares[point] * (len(scores) + 1))

    def _look(self, study: optuna.Study, mine: int) -> None:
        for other in study.get_trials(deepcopy=False):
            if other.number in self._seen or other.number == mine or not other.state.is_finished():
                continue
            self._seen.add(other.number)
            for point in self._shares if not _is_reference(other) else ():
                if point in other.intermediate_values:
                    bisect.insort(self._scores[point], self._sign * other.intermediate_values[point])


def _is_reference(trial: FrozenTrial) -> bool:
    return bool(trial.user_attrs.get('reference'))
