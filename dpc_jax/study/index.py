"""What is known of a study's trials, kept up to date by looking at those alone that may have changed.

A study of 28,000 candidates is asked for every few of them, so nothing that is done for each proposal may look at all
trials. A finished trial never changes: an index takes it in once. Trials that are not finished are few, and are taken
in again at each `update`. Whatever an index answers is a function of the trials that it has seen, and equals what
`members` and the like compute from the whole list.

Optuna numbers the trials of a study from 0 without a gap, so a trial's number is its place in the list.
"""

import bisect
import collections
import math
from collections.abc import Collection, Hashable, Iterable, Sequence
from typing import TypeVar

from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from dpc_jax.base import Genotype
from dpc_jax.spaces import SearchSpace

Place = TypeVar('Place', bound=Hashable)


def is_ours(trial: FrozenTrial) -> bool:
    """Whether the trial is a reference or candidate: no duplicate, and none that others put into the storage."""
    return 'key' in trial.user_attrs and 'duplicate_of' not in trial.user_attrs


def mark_of(trial: FrozenTrial) -> tuple[str, str]:
    """What no two references or candidates have in common: the reference's name or '', and the canonical key."""
    return trial.user_attrs['reference'], trial.user_attrs['key']


def is_running(trial: FrozenTrial) -> bool:
    """Whether a worker evaluates the trial, or did until it died (a copy waits for its reference instead)."""
    return trial.state == TrialState.RUNNING and 'owner' in trial.user_attrs and 'copy_of' not in trial.user_attrs


def is_done(trial: FrozenTrial) -> bool:
    """Whether the trial was evaluated to the end."""
    return trial.state.is_finished() and 'outcome' in trial.user_attrs


def members(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """References and candidates, without duplicates and without trials that others put into the storage."""
    first: dict[tuple[str, str], FrozenTrial] = {}
    for trial in filter(is_ours, trials):
        first.setdefault(mark_of(trial), trial)
    return list(first.values())


def candidate_key(space: SearchSpace, trial: FrozenTrial) -> str:
    """The canonical key of a candidate; '' for references, for duplicates that another worker proposed at the same
    moment, and for trials without a cell of this space."""
    attributes = trial.user_attrs
    if 'key' in attributes:
        return '' if attributes['reference'] or 'duplicate_of' in attributes else attributes['key']
    if trial.params.keys() >= space.choices().keys():
        return space.canonical_key(space.from_params(trial.params))
    return ''


def losses(study: Study, trial: FrozenTrial) -> tuple[float, ...]:
    """What a complete trial found, smaller is better: the score first, further objectives decide between equals."""
    return _signed(trial, study.directions)


def _signed(trial: FrozenTrial, directions: Sequence[StudyDirection]) -> tuple[float, ...]:
    signs = (-1 if direction == StudyDirection.MAXIMIZE else 1 for direction in directions)
    return tuple(sign * value for sign, value in zip(signs, trial.values, strict=True))


class Index:
    """The trials of one study; `update` and `add` take them in. `directions` say which values are good."""

    def __init__(
        self, space: SearchSpace, *, directions: Sequence[StudyDirection] = (StudyDirection.MAXIMIZE,)
    ) -> None:
        self._space, self._directions = space, directions
        self._trials: dict[int, FrozenTrial] = {}
        self._seen = 0  # `update` has seen all trials below this number
        self._open: set[int] = set()  # those that were not finished when they were seen
        # Mark -> numbers of ours, in order: the first stays, others are duplicates that are not told so yet.
        self._numbers: dict[tuple[str, str], list[int]] = {}
        self._named: set[tuple[str, str]] = set()  # the marks of references among them
        self._batches: dict[str, list[int]] = {}  # name -> numbers of all trials that were made in the batch
        # For strategies, of all trials, whoever put them there:
        self._cells: collections.Counter[str] = collections.Counter()
        self._ranked: list[tuple[tuple[float, ...], str, int]] = []  # complete, best first: losses, key, number
        self._complete: set[int] = set()  # the numbers of those
        self._aged: list[int] = []  # numbers of finished candidates, in order

    # ---- taking in -------------------------------------------------------------------------------------------------

    def update(self, trials: Sequence[FrozenTrial]) -> None:
        """Takes in all trials of the study, in order of their numbers: those that are new or were not finished."""
        for number in sorted({*self._open, *range(self._seen, len(trials))}):
            self.add(trials[number])
        self._seen = len(trials)

    def add(self, trial: FrozenTrial) -> None:
        """Takes in one trial, e.g. one that this worker has just written."""
        before = self._trials.get(trial.number)
        if before is not None:
            if before.state.is_finished():
                return
            self._note(before, -1)
        self._trials[trial.number] = trial
        self._note(trial, +1)
        if not trial.state.is_finished():
            self._open.add(trial.number)
            return
        self._open.discard(trial.number)
        key = candidate_key(self._space, trial)
        if key:
            bisect.insort(self._aged, trial.number)
        if trial.state == TrialState.COMPLETE and key and not math.isnan(trial.values[0]):
            bisect.insort(self._ranked, (_signed(trial, self._directions), key, trial.number))
            self._complete.add(trial.number)

    def _note(self, trial: FrozenTrial, times: int) -> None:
        """Notes the trial wherever it is looked up; with -1 instead of +1 takes that back."""
        if is_ours(trial):
            mark = mark_of(trial)
            _put(self._numbers, mark, trial.number, times)
            if mark[0]:
                (self._named.add if mark in self._numbers else self._named.discard)(mark)
        if 'batch' in trial.user_attrs:
            _put(self._batches, trial.user_attrs['batch'], trial.number, times)
        cell = candidate_key(self._space, trial)
        if cell:
            self._cells[cell] += times

    # ---- for the study ---------------------------------------------------------------------------------------------

    def trial(self, number: int) -> FrozenTrial:
        """The trial as it was last seen."""
        return self._trials[number]

    def open(self) -> list[FrozenTrial]:
        """The trials that were not finished, in order."""
        return [self._trials[number] for number in sorted(self._open)]

    def batch(self, name: str) -> list[FrozenTrial]:
        """All that was made in the batch, duplicates included, in order."""
        return [self._trials[number] for number in self._batches.get(name, ())]

    def first(self, trial: FrozenTrial) -> int:
        """The number of the trial that has this cell and was proposed first, which is its own unless it is too late."""
        return self._numbers[mark_of(trial)][0]

    def is_member(self, trial: FrozenTrial) -> bool:
        """Whether the trial is among the `members`."""
        return is_ours(trial) and self.first(trial) == trial.number

    def references(self) -> dict[str, FrozenTrial]:
        """Name -> trial of each reference."""
        numbers = sorted(self._numbers[mark][0] for mark in self._named)
        return {self._trials[number].user_attrs['reference']: self._trials[number] for number in numbers}

    def has_candidate(self, key: str) -> bool:
        """Whether there is a candidate with this key, finished or not."""
        return ('', key) in self._numbers

    def num_candidates(self) -> int:
        """How many candidates there are, finished or not."""
        return len(self._numbers) - len(self._named)

    def is_done(self, key: str) -> bool:
        """Whether there is a finished candidate with this key."""
        return self.has_candidate(key) and is_done(self._trials[self._numbers['', key][0]])

    def done(self) -> list[FrozenTrial]:
        """The finished members, in order."""
        firsts = sorted(numbers[0] for numbers in self._numbers.values())
        return [self._trials[number] for number in firsts if is_done(self._trials[number])]

    def done_among(self, numbers: Iterable[int]) -> list[FrozenTrial]:
        """Those of the trials with these numbers that are finished members, in order."""
        trials = [self._trials[number] for number in sorted(numbers)]
        return [trial for trial in trials if self.is_member(trial) and is_done(trial)]

    # ---- for strategies --------------------------------------------------------------------------------------------

    def has_cell(self, key: str) -> bool:
        """Whether any trial but a reference has this cell, whoever made it."""
        return self._cells[key] > 0

    def best(self, count: int, hidden: Collection[int] = ()) -> list[Genotype]:
        """The best complete candidates, at most `count`, best first, each cell once; equal scores by key.

        Those whose numbers are `hidden` take no part.
        """
        best: dict[str, Genotype] = {}
        for _, key, number in self._ranked:
            if len(best) == count:
                break
            if key not in best and number not in hidden:
                best[key] = self._space.from_params(self._trials[number].params)
        return list(best.values())

    def youngest(self, count: int, hidden: Collection[int] = ()) -> list[FrozenTrial]:
        """The finished candidates with the highest numbers, at most `count`, in order of number."""
        found: list[FrozenTrial] = []
        for number in reversed(self._aged):
            if len(found) == count:
                break
            if number not in hidden:
                found.append(self._trials[number])
        return found[::-1]

    def settled(self, start: int, hidden: Collection[int] = ()) -> list[FrozenTrial]:
        """The finished candidates from number `start` on, in order, up to the first trial that is not finished."""
        end = min((number for number in self._open if number not in hidden), default=self._seen_to())
        places = self._aged[bisect.bisect_left(self._aged, start) : bisect.bisect_left(self._aged, end)]
        return [self._trials[number] for number in places if number not in hidden]

    def _seen_to(self) -> int:
        return max(self._trials, default=-1) + 1

    def num_complete(self, hidden: Collection[int] = ()) -> int:
        """How many candidates have a score."""
        return len(self._ranked) - sum(number in self._complete for number in hidden)


class History:
    """What a strategy asks of the trials that a study shows it, answered without looking at all of them."""

    def __init__(self, index: Index, hidden: Collection[int] = ()) -> None:
        self._index, self._hidden = index, hidden

    def __contains__(self, key: str) -> bool:
        """Whether the study has a candidate with this canonical key, finished or not."""
        return self._index.has_cell(key)

    def best(self, count: int) -> list[Genotype]:
        """The best complete candidates, at most `count`, best first; equal scores by key. References take no part."""
        return self._index.best(count, self._hidden)

    def youngest(self, count: int) -> list[FrozenTrial]:
        """The finished candidates with the highest numbers, at most `count`, in order of number."""
        return self._index.youngest(count, self._hidden)

    def settled(self, start: int) -> list[FrozenTrial]:
        """The finished candidates from number `start` on, in order, up to the first trial that is not finished."""
        return self._index.settled(start, self._hidden)

    def num_complete(self) -> int:
        """How many candidates have a score."""
        return self._index.num_complete(self._hidden)


def history(study: Study, space: SearchSpace, but: int | None = None) -> History:
    """The history of what `study` shows, without the trial `but`, which is being drawn.

    A study of this project keeps one. Of any other, which may come from Optuna alone or show a part (a bracket of
    `optuna.HyperbandPruner`), all trials are read.
    """
    kept = getattr(study._storage, 'history', None)
    if type(study) is Study and isinstance(kept, History):
        return kept
    index = Index(space, directions=study.directions)
    for trial in study.get_trials(deepcopy=False):
        if trial.number != but:
            index.add(trial)
    return History(index)


def _put(places: dict[Place, list[int]], place: Place, number: int, times: int) -> None:
    """Puts a number in order into a list, or takes it out (-1); empty lists are not kept."""
    if times > 0:
        bisect.insort(places.setdefault(place, []), number)
        return
    places[place].remove(number)
    if not places[place]:
        del places[place]
