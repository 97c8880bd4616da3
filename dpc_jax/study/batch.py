"""How a batch of proposals is made: what it may see, and what it is filled with.

A batch sees the storage as it was when it was begun, with its own members shown as running and without results.
Samplers and pruners work on that view, so what they decide for a candidate depends on earlier batches alone, and
not on how far its own batch had come when the worker was killed. A proposal is drawn in the view and then written
to the storage in one step: a trial there is whole.

User attributes of a trial: `key` (canonical), `reference` ('' for candidates), `drawn` (at random, to compare the best
with), `batch`, `owner` (the worker that evaluates it), `outcome` (all that was found out), and where they apply
`duplicate_of` and `copy_of` (trial numbers).
"""

import dataclasses
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, NamedTuple

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from dpc_jax.base import Genotype, InputError
from dpc_jax.spaces import SearchSpace
from dpc_jax.study.gate import GATE
from dpc_jax.study.index import History, Index
from dpc_jax.study.index import members as members
from dpc_jax.study.workers import Worker

REDRAWS = 20
"""So many known cells in a row end a batch early: the sampler has nothing new to offer."""

REDRAW = 'dpc_jax:redraw'
"""System attribute of a trial that is drawn again because its first cells were known: how many there were.

A sampler whose draws depend on seed and trial number takes it into account (`samplers.generator` does)."""

SHOWN = 'dpc_jax:shown'
"""System attribute of a trial: numbers that the sampler has to show, by name, as they were before it drew the trial.

They need `LEARNED` among them. A sampler that has nothing to show leaves the attribute out (`study.progress`)."""

LEARNED = 'learned'
"""Among the numbers that a sampler shows: how many finished candidates it had learned from. The others are a function
of these candidates, so trials that were drawn from the same knowledge show the same."""

DRAFT = -1
"""Trial id of a proposal that is being drawn and is not in the storage yet."""


def distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    """The space as Optuna knows it."""
    return {name: CategoricalDistribution(values) for name, values in space.choices().items()}


def make_pruner(name: str, settings: Mapping[str, Any]) -> optuna.pruners.BasePruner:
    """A pruner of Optuna by its name, e.g. `optuna.MedianPruner`, with its settings; '' never prunes."""
    if not name:
        return optuna.pruners.NopPruner()
    allowed = [f'optuna.{kind}' for kind in optuna.pruners.__all__ if kind != 'BasePruner']
    if name not in allowed:
        raise InputError(f"pruner '{name}' is not known; allowed: '', {GATE}, {', '.join(allowed)}")
    try:
        return getattr(optuna.pruners, name.removeprefix('optuna.'))(**settings)
    except (TypeError, ValueError) as error:
        raise InputError(f'pruner {name} does not take {dict(settings)}: {error}') from error


class Given(NamedTuple):
    """A cell that is evaluated before anything is sampled."""

    genotype: Genotype  # [K]
    drawn: bool  # at random, so that the best can be compared with it


class Batch:
    """A batch of proposals while it is made: `trials` are all of the study now, and `index` has seen them."""

    def __init__(
        self,
        study: optuna.Study,
        trials: Sequence[FrozenTrial],
        index: Index,
        *,
        space: SearchSpace,
        name: str,
        me: Worker,
    ) -> None:
        self._study, self._storage, self._index = study, study._storage, index
        self._space, self._me, self._name = space, me, name
        mine = index.batch(name)
        self._view = _View(self._storage, trials, mine, index)
        self._here = sum(index.is_member(trial) for trial in mine)

    def seen(self) -> optuna.Study:
        """The study as the batch sees it (a new object, since each remembers the trials it has read)."""
        return optuna.Study(self._study.study_name, self._view, self._study.sampler, self._study.pruner)

    def fill(
        self,
        count: int,
        budget: int | None,
        references: Mapping[str, Genotype],
        given: Mapping[str, Given],
        *,
        sampled: bool = True,
    ) -> list[FrozenTrial]:
        """Writes what the batch of `count` lacks: references, given cells, sampled ones (see `Study.ask`)."""
        made: list[FrozenTrial] = []
        cells = (cell for key, cell in given.items() if not self._index.has_candidate(key))
        for _ in range(count - self._here):
            name = next((name for name in references if name not in self._index.references()), '')
            if name:
                made.append(self._write(self._fixed(references[name]), name))
                continue
            if budget is not None and self._index.num_candidates() >= budget:
                break
            cell = next(cells, None)
            if cell is None and not sampled:
                break
            draft = self._draw() if cell is None else self._fixed(cell.genotype)
            if draft is None:
                break
            made.append(self._write(draft, drawn=cell is not None and cell.drawn))
        return made

    def _fixed(self, genotype: Genotype) -> FrozenTrial:
        params = dict(self._space.to_params(genotype))
        return create_trial(state=TrialState.RUNNING, params=params, distributions=distributions(self._space))

    def _draw(self) -> FrozenTrial | None:
        if self._index.num_candidates() == self._space.size:
            return None
        for redraw in range(REDRAWS):
            draft = self._view.begin({REDRAW: redraw} if redraw else {})
            trial = optuna.trial.Trial(self.seen(), DRAFT)
            for name, choices in self._space.choices().items():
                trial.suggest_categorical(name, choices)
            self._view.end()
            if not self._index.has_candidate(self._key(draft)):
                return draft
        return None

    def _write(self, draft: FrozenTrial, reference: str = '', *, drawn: bool = False) -> FrozenTrial:
        key = self._key(draft)
        attributes: dict[str, Any] = {
            'key': key,
            'reference': reference,
            'drawn': drawn,
            'batch': self._name,
            'owner': dataclasses.asdict(self._me),
        }
        originals = [trial.number for trial in self._index.references().values() if trial.user_attrs['key'] == key]
        if originals and not reference:
            attributes['copy_of'] = originals[0]
        template = create_trial(
            state=TrialState.RUNNING,
            params=draft.params,
            distributions=draft.distributions,
            system_attrs=draft.system_attrs,
            user_attrs=attributes,
        )
        trial = self._storage.get_trial(self._storage.create_new_trial(self._study._study_id, template))
        self._view.add(trial)
        self._index.add(trial)
        return trial

    def _key(self, trial: FrozenTrial) -> str:
        return self._space.canonical_key(self._space.from_params(trial.params))


def _delegated(name: str) -> Callable[..., Any]:
    def call(self: '_View', *args: Any, **kwargs: Any) -> Any:
        return getattr(self._storage, name)(*args, **kwargs)

    return call


class _View(optuna.storages.BaseStorage):
    """The storage as a batch sees it. The base class describes the methods.

    Trials are read from the list it was made with. All else, such as what a sampler stores in the study's attributes,
    goes to the real storage. `history` has the same for strategies; it is that of the batch that is being filled.
    """

    def __init__(
        self,
        storage: optuna.storages.BaseStorage,
        trials: Sequence[FrozenTrial],
        batch: Sequence[FrozenTrial],
        index: Index,
    ) -> None:
        self._storage, self._trials = storage, list(trials)
        for trial in batch:
            self._trials[trial.number] = _as_running(trial)
        self.history = History(index, {trial.number for trial in batch})
        self._finished: dict[tuple[TrialState, ...], list[FrozenTrial]] = {}
        self._draft: FrozenTrial | None = None

    def begin(self, system_attrs: dict[str, Any]) -> FrozenTrial:
        """Begins to draw what will be the next trial, in a draft that it returns."""
        self._draft = create_trial(state=TrialState.RUNNING, system_attrs=system_attrs)
        self._draft.number = self._trials[-1].number + 1 if self._trials else 0
        return self._draft

    def end(self) -> None:
        """Ends the draft: it is drawn."""
        self._draft = None

    def add(self, trial: FrozenTrial) -> None:
        """Shows a trial that the storage has from now on."""
        self._trials.append(trial)

    create_new_study = _delegated('create_new_study')
    delete_study = _delegated('delete_study')
    set_study_user_attr = _delegated('set_study_user_attr')
    set_study_system_attr = _delegated('set_study_system_attr')
    get_study_id_from_name = _delegated('get_study_id_from_name')
    get_study_name_from_id = _delegated('get_study_name_from_id')
    get_study_directions = _delegated('get_study_directions')
    get_study_user_attrs = _delegated('get_study_user_attrs')
    get_study_system_attrs = _delegated('get_study_system_attrs')
    get_all_studies = _delegated('get_all_studies')
    create_new_trial = _delegated('create_new_trial')
    set_trial_state_values = _delegated('set_trial_state_values')
    set_trial_intermediate_value = _delegated('set_trial_intermediate_value')
    set_trial_user_attr = _delegated('set_trial_user_attr')

    def get_trial(self, trial_id: int) -> FrozenTrial:
        if trial_id == DRAFT and self._draft is not None:
            return self._draft
        return self._storage.get_trial(trial_id)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        trials = self._trials if self._draft is None else [*self._trials, self._draft]
        if states is None:
            return list(trials)
        wanted = tuple(state for state in TrialState if state in states)
        if TrialState.RUNNING in wanted:
            return [trial for trial in trials if trial.state in wanted]
        if wanted not in self._finished:  # which stay the same as long as the batch is filled
            self._finished[wanted] = [trial for trial in self._trials if trial.state in wanted]
        return list(self._finished[wanted])

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float | int, distribution: BaseDistribution
    ) -> None:
        draft = self.get_trial(trial_id)
        draft.params = {**draft.params, param_name: distribution.to_external_repr(param_value_internal)}
        draft.distributions = {**draft.distributions, param_name: distribution}

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        if trial_id == DRAFT:
            draft = self.get_trial(trial_id)
            draft.system_attrs = {**draft.system_attrs, key: value}
        else:
            self._storage.set_trial_system_attr(trial_id, key, value)


def _as_running(trial: FrozenTrial) -> FrozenTrial:
    shown = create_trial(
        state=TrialState.RUNNING,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs=trial.user_attrs,
    )
    shown.number, shown._trial_id = trial.number, trial._trial_id
    return shown
