"""The gate of arXiv:1810.10804 between two stages, as a pruner of Optuna: a running mean of rewards, which is soft.

A candidate whose score r at the point is above the running mean m goes on. Another does by chance, the more likely the
nearer it is to the mean: u is drawn from [0, δ) and it goes on if r > m (1 - u), which has the probability
max(0, 1 - (1 - r/m) / δ). With each candidate m becomes 0.99 m + 0.01 r, beginning at 0.01, before it is compared; δ
begins at 0.9 and is multiplied by 0.9, 0.8, 0.7 and 0.6 when 100, 200, 300 and 400 candidates have passed.

The release counts a candidate that is above the mean twice, so that it may miss these numbers; here each counts once.
The mean is over the candidates with smaller numbers that earlier batches have finished (`study.batch`) and the
candidate itself, so a search that was killed decides as one that was not. Candidates that failed have no score there.
"""

import bisect
import math

import numpy as np
import optuna
from optuna.trial import FrozenTrial

GATE = 'running_mean'
"""What a config calls this pruner."""

FIRST_MEAN, DECAY = 0.01, 0.99
FIRST_WIDTH = 0.9
NARROWER = {100: 0.9, 200: 0.8, 300: 0.7, 400: 0.6}


def width(passed: int) -> float:
    """δ for a candidate before which so many have passed."""
    return FIRST_WIDTH * math.prod(factor for count, factor in NARROWER.items() if count <= passed)


def chance(score: float, mean: float, width: float) -> float:
    """The probability that a candidate goes on; `mean` has its own score in it."""
    if score > mean:
        return 1.0
    return max(0.0, 1 - (1 - score / mean) / width)


class RunningMean(optuna.pruners.BasePruner):
    """See above.

    Attributes:
      point: of the curve, at which it stands (index of an evaluation).
      seed: of the draws, each of which belongs to the number of its candidate.
    """

    def __init__(self, point: int, seed: int) -> None:
        self._point, self._seed = point, seed
        self._seen: set[int] = set()
        self._numbers: list[int] = []  # ascending, of those that have a score at the point
        self._scores: list[float] = []

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether a trial stops at the point that it reported last."""
        if trial.last_step != self._point or trial.user_attrs.get('reference'):
            return False
        self._look(study, trial.number)
        passed = bisect.bisect_left(self._numbers, trial.number)
        score = trial.intermediate_values[self._point]
        mean = running_mean([*self._scores[:passed], score])
        drawn = np.random.default_rng((self._seed, trial.number)).uniform()
        return bool(drawn >= chance(score, mean, width(passed)))

    def _look(self, study: optuna.Study, mine: int) -> None:
        for other in study.get_trials(deepcopy=False):
            if other.number in self._seen or other.number == mine or not other.state.is_finished():
                continue
            self._seen.add(other.number)
            if self._point in other.intermediate_values and not other.user_attrs.get('reference'):
                place = bisect.bisect_left(self._numbers, other.number)
                self._numbers.insert(place, other.number)
                self._scores.insert(place, other.intermediate_values[self._point])


def running_mean(scores: list[float]) -> float:
    """m after these scores, in this order."""
    weights = DECAY ** np.arange(len(scores) - 1, -1, -1)
    return float(FIRST_MEAN * DECAY ** len(scores) + (1 - DECAY) * (weights * np.array(scores)).sum())
