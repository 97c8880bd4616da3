"""Candidates and their scores in an Optuna storage: ask, evaluate, tell; stop at any moment and go on.

A trial of a study is a *reference* (a known cell that candidates are compared with) or a *candidate*, given or
sampled; no two candidates have the same canonical key. The laws:

* A proposal is a function of the sampler, its trial number and the trials of earlier batches (`batch`).
  What a killed worker left unfinished is asked for first, then the rest of its batch. So one worker that is killed
  at any moment and started again makes the same candidates with the same scores as one that is left alone, and
  what has a result is not evaluated again.
* Workers on one storage get disjoint candidates: each writes its proposals and then reads those of the others, and
  of two with the same key the lower trial number stays.
* What was found out about a trial is written before its state, so a finished trial is whole.
* Ctrl-C waits until the storage is not in use: in the middle of a transaction it would leave it locked.

To Optuna's dashboard, samplers and pruners this is a study like any other, with direction 'maximize'. Where cells have
costs that are objectives too, these follow the score, each with direction 'minimize'. The ranking is by score.
"""

import logging
import math
import random
import time
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, SupportsFloat, SupportsInt, TypeVar

import numpy as np
import optuna
from jaxtyping import Int
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from dpc_jax.base import Genotype
from dpc_jax.spaces import SearchSpace
from dpc_jax.stopping import defer_signals
from dpc_jax.study.batch import Batch, Given
from dpc_jax.study.index import Index, is_done, is_running
from dpc_jax.study.rows import STATES, Candidate, Costs, Proposal, RunInfo, candidate_of, outcome_of, proposal_of
from dpc_jax.study.storage import IN_USE, check_settings, check_space, close_storage, open_storage, storage_faults
from dpc_jax.study.workers import ROUNDS, Worker, owner, take_over

log = logging.getLogger(__name__)

T = TypeVar('T')


class Study:
    """The candidates of one search. Made by `open`, used in a `with`."""

    def __init__(
        self,
        study: optuna.Study,
        storage: optuna.storages.BaseStorage,
        *,
        space: SearchSpace,
        run: RunInfo,
        grace_seconds: float,
        costs: Costs = MappingProxyType({}),
    ) -> None:
        self._study, self._storage, self._space, self._run = study, storage, space, run
        self._id = study._study_id
        self._index = Index(space, directions=study.directions)
        self._grace_seconds, self._costs = grace_seconds, costs
        self._references, self._given = dict[str, Genotype](), dict[str, Given]()
        self._seen: dict[int, optuna.Study] = {}  # the study as the batch of each trial asked for here sees it
        self._me = Worker.here()
        self._last_beat = -math.inf
        self.beat()

    @classmethod
    @defer_signals()
    def open(
        cls,
        url: str,
        name: str,
        *,
        space: SearchSpace,
        sampler: optuna.samplers.BaseSampler,
        settings: Mapping[str, Any],
        run: RunInfo,
        added: Mapping[str, Any] = MappingProxyType({}),
        pruner: optuna.pruners.BasePruner | None = None,
        grace_seconds: float = 600.0,
        costs: Costs = MappingProxyType({}),
        one_space: bool = False,
    ) -> 'Study':
        """Opens or makes the study `name` in the storage at `url` (see `storage.open_storage`).

        `settings` are all that a score depends on, flat or nested. They are kept with the study, and an InputError says
        which fields differ from those that it was made with; `added` are the values of fields that older studies lack.
        A worker on another machine counts as dead after `grace_seconds` without `ask`, `report`, `should_prune`, `tell`
        or `beat`. `costs` are further objectives after the score, by name, which are to be small; no pruner works with
        them. `one_space` refuses a storage that has a study of another space.
        """
        storage = open_storage(url)
        with storage_faults(url):
            check_space(storage, settings if one_space else {})
            study = optuna.create_study(
                storage=storage,
                study_name=name,
                directions=[StudyDirection.MAXIMIZE, *[StudyDirection.MINIMIZE] * len(costs)],
                sampler=sampler,
                pruner=pruner or optuna.pruners.NopPruner(),
                load_if_exists=True,
            )
            check_settings(study, settings, added)
            return cls(study, storage, space=space, run=run, grace_seconds=grace_seconds, costs=costs)

    def __enter__(self) -> 'Study':
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @defer_signals()
    def close(self) -> None:
        """Signs off: proposals of this worker that have no result yet are free for others at once."""
        self._me.leave()
        try:
            self._storage.set_study_user_attr(self._id, self._me.beat_name, None)
        finally:
            close_storage(self._storage)

    @defer_signals()
    def keep_settings(self) -> None:
        """From now on the study keeps the settings that it was opened with, even while it has no trials."""
        self._storage.set_study_user_attr(self._id, IN_USE, True)

    @defer_signals()
    def beat(self) -> None:
        """Gives a sign of life to other machines (at most ten in a grace time are written)."""
        if time.monotonic() - self._last_beat > self._grace_seconds / 10:
            self._last_beat = time.monotonic()
            self._storage.set_study_user_attr(self._id, self._me.beat_name, time.time())

    # ---- asking ----------------------------------------------------------------------------------------------

    def enqueue_reference(self, name: str, genotype: Genotype) -> None:
        """Has `genotype` `[K]` evaluated before all candidates, once in the study, as the reference `name`."""
        self._references[name] = genotype

    def enqueue(self, genotype: Genotype, *, drawn: bool = False) -> None:
        """Has `genotype` `[K]` evaluated before anything is sampled; `drawn`: at random, to compare the best with."""
        self._given[self._space.canonical_key(genotype)] = Given(genotype, drawn)

    @defer_signals()
    def ask(self, count: int, budget: int | None = None, *, sampled: bool = True) -> list[Proposal]:
        """The next batch: at most `count` proposals, in order of their numbers.

        First what dead workers left, with the rest of that batch; else references, given cells and (if `sampled`)
        sampled ones, as long as the study has fewer than `budget` candidates (running ones included). A candidate that
        equals a reference gets the reference's score and is not proposed. Fewer proposals or none mean that a batch
        was resumed, that the budget is used up, or that there is nothing new.
        """
        self.beat()
        self._look()
        self._settle_copies()
        name = self._resume(count)
        for _ in range(ROUNDS):
            trials = self._look()
            name = name or f'{len(trials)}.{self._me.token}'
            self._give_way(name)
            batch = Batch(self._study, trials, self._index, space=self._space, name=name, me=self._me)
            if not batch.fill(count, budget, self._references, self._given, sampled=sampled):
                break  # so all of them have been compared with what other workers wrote
        self._settle_copies()
        mine = [trial for trial in self._not_given_out(name) if is_running(trial)]
        self._seen |= {trial.number: batch.seen() for trial in mine}
        return [proposal_of(trial, self._space) for trial in mine]

    @defer_signals()
    def running_elsewhere(self) -> int:
        """How many trials other workers evaluate now."""
        self._look()
        beats = self._storage.get_study_user_attrs(self._id)
        others = [owner(trial) for trial in self._index.open() if is_running(trial) and owner(trial) != self._me]
        return sum(worker.is_alive(beats, self._grace_seconds) for worker in others)

    def _look(self) -> list[FrozenTrial]:
        """All trials as they are now; the index knows what is new among them."""
        trials = self._trials()
        self._index.update(trials)
        return trials

    def _trials(self) -> list[FrozenTrial]:
        return self._storage.get_all_trials(self._id, deepcopy=False)

    def _resume(self, count: int) -> str:
        """Takes over at most `count` trials that a dead worker left of one batch; the batch's name, '' if none did."""
        for _ in range(ROUNDS):
            beats = self._storage.get_study_user_attrs(self._id)
            running = [trial for trial in self._index.open() if is_running(trial)]
            orphans = [trial for trial in running if not owner(trial).is_alive(beats, self._grace_seconds)]
            if not orphans:
                break
            name: str = orphans[0].user_attrs['batch']
            orphans = [trial for trial in orphans if trial.user_attrs['batch'] == name][:count]
            grace = self._grace_seconds
            taken = [t for t in orphans if take_over(self._storage, t, self._me, beats=beats, grace_seconds=grace)]
            left = [trial for trial in taken if not self._was_decided(trial)]
            if left:
                return name
            if not taken:
                time.sleep(random.uniform(0.01, 0.1))  # another worker wants them too
            self._look()
        return ''

    def _was_decided(self, trial: FrozenTrial) -> bool:
        """Finishes a trial whose worker was killed between writing what it found and the state."""
        if 'duplicate_of' in trial.user_attrs:
            self._study.tell(trial.number, state=TrialState.FAIL)
        elif 'outcome' in trial.user_attrs:
            self._finish(trial, trial.user_attrs['outcome'])
        return 'duplicate_of' in trial.user_attrs or 'outcome' in trial.user_attrs

    def _not_given_out(self, name: str) -> list[FrozenTrial]:
        """What this worker has to do of a batch and was not asked for yet, in order.

        All of it is found in the storage, so it includes what was written though the writing seemed to fail.
        """
        ours = [t for t in self._index.batch(name) if t.state == TrialState.RUNNING and owner(t) == self._me]
        return [trial for trial in ours if trial.number not in self._seen]

    def _give_way(self, name: str) -> None:
        """Ends the trials of a batch whose cell another worker proposed first."""
        for trial in self._not_given_out(name):
            first = self._index.first(trial)
            if first != trial.number:
                log.info('trial %d has the cell of trial %d', trial.number, first)
                self._storage.set_trial_user_attr(trial._trial_id, 'duplicate_of', first)
                self._study.tell(trial.number, state=TrialState.FAIL)
                self._index.add(self._storage.get_trial(trial._trial_id))

    def _settle_copies(self) -> None:
        """Gives candidates that equal a reference the reference's outcome, once there is one."""
        for trial in self._index.open():
            if trial.state == TrialState.RUNNING and 'copy_of' in trial.user_attrs:
                original = self._index.trial(trial.user_attrs['copy_of'])
                if is_done(original):
                    self._finish(trial, original.user_attrs['outcome'])

    # ---- telling -----------------------------------------------------------------------------------------------

    @defer_signals()
    def report(self, number: int, evaluation: int, score: SupportsFloat) -> None:
        """Stores one point of the curve of a running trial, for dashboards and pruners."""
        self.beat()
        self._storage.set_trial_intermediate_value(self._trial_id(number), evaluation, float(score))

    @defer_signals()
    def should_prune(self, number: int) -> bool:
        """Whether the pruner stops a trial asked for here, by what it and the trials of other batches reported."""
        if isinstance(self._study.pruner, optuna.pruners.NopPruner):
            return False
        self.beat()
        trial = self._storage.get_trial(self._trial_id(number))
        return bool(self._study.pruner.prune(self._seen[number], trial))

    @defer_signals()
    def tell(
        self,
        number: int,
        *,
        score: SupportsFloat,
        curve: Iterable[SupportsFloat],
        losses: Iterable[SupportsFloat],
        steps: SupportsInt,
        seconds: SupportsFloat,
        pruned: bool = False,
        failure: str = '',
        confusions: Iterable[Int[np.ndarray, 'L L']] = (),
        extras: Mapping[str, SupportsFloat] = MappingProxyType({}),
    ) -> None:
        """Finishes a trial: 'failed' if `failure` says why or the score is not finite, else 'pruned' or 'complete'.

        A trial that another worker has finished in the meantime (this one seemed dead) stays as it is.
        """
        self.beat()
        fields: dict[str, Any] = {'score': score, 'curve': curve, 'losses': losses, 'steps': steps, 'seconds': seconds}
        fields |= {'pruned': pruned, 'failure': failure, 'confusions': confusions, 'extras': extras}
        outcome = outcome_of(self._run, **fields)
        self._finish(self._storage.get_trial(self._trial_id(number)), outcome)

    @defer_signals()
    def tell_same(self, number: int, other: int) -> None:
        """Finishes a trial with all that was found out about the finished trial `other`: they are the same function."""
        self.beat()
        outcome = dict(self._storage.get_trial(self._trial_id(other)).user_attrs['outcome'])
        for evaluation, score in enumerate(outcome['curve']):
            if score is not None:
                self._storage.set_trial_intermediate_value(self._trial_id(number), evaluation, score)
        outcome |= {'seconds': 0.0, 'same_as': outcome.get('same_as', other)}
        self._finish(self._storage.get_trial(self._trial_id(number)), outcome)

    def _trial_id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._id, number)

    def _finish(self, trial: FrozenTrial, outcome: dict[str, Any]) -> None:
        self._seen.pop(trial.number, None)
        values: list[float] | None = None
        if outcome['state'] == 'complete':
            genotype = self._space.from_params(trial.params)
            values = [outcome['score'], *(float(cost(genotype)) for cost in self._costs.values())]
        try:
            self._storage.set_trial_user_attr(trial._trial_id, 'outcome', outcome)
            self._study.tell(trial.number, values, STATES[outcome['state']])
        except (optuna.exceptions.UpdateFinishedTrialError, ValueError):
            log.warning('trial %d was finished by another worker', trial.number)

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What is stored with the study under `name` (JSON); made and stored if there is nothing yet.

        If several workers make it at the same moment, the last one's stays, and all later starts read it.
        """
        if self._attributes().get(name) is None:
            made = make()
            with defer_signals():
                self._storage.set_study_user_attr(self._id, name, made)
        value: T = self._attributes()[name]
        return value

    @defer_signals()
    def keep(self, name: str, value: Any) -> None:
        """Stores `value` (JSON) under `name`, in place of what `once` has made."""
        self._storage.set_study_user_attr(self._id, name, value)

    @defer_signals()
    def _attributes(self) -> dict[str, Any]:
        return self._storage.get_study_user_attrs(self._id)

    # ---- reading -----------------------------------------------------------------------------------------------

    @defer_signals()
    def candidates(self, numbers: Iterable[int] | None = None) -> list[Candidate]:
        """All that is finished, references and candidates, by number; or those with these numbers alone."""
        self._look()
        trials = self._index.done() if numbers is None else self._index.done_among(numbers)
        return [candidate_of(trial, self._space) for trial in trials]

    @defer_signals()
    def count(self) -> int:
        """How many candidates are finished."""
        self._look()
        return sum(not trial.user_attrs['reference'] for trial in self._index.done())

    @defer_signals()
    def finished(self, keys: Iterable[str]) -> bool:
        """Whether all candidates with these canonical keys are finished."""
        self._look()
        return all(map(self._index.is_done, keys))
