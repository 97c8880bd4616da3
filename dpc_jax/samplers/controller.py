"""A recurrent controller that learns from rewards (arXiv:1810.10804 §3.3): PPO or REINFORCE on the genes of any space.

The controller before a proposal has learned from the finished candidates in the order of their numbers, up to the first
that is not finished; a candidate's log-probability when it was drawn is kept with it. So the weights are a function of
the study, a search that is killed and resumed is the same search, and each of several workers learns from what all of
them have finished. The reward is the score; of a candidate that failed it is 0.

* References and cells that were not drawn by a controller teach it nothing.
* A cell that is known is drawn again, as long as a new one is found (the release trains known ones anew).
* With each proposal the study keeps what the controller was before it: `learned` (how many candidates it had learned
  from), the entropy of the policy in nats, the baseline, and the mean reward of the last `buffer` candidates.
* Every `checkpoint` candidates the controller itself is kept with the study, and a resume goes on from there.
"""

import base64
import hashlib
import itertools
import json
import math
import zlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from dpc_jax import controller
from dpc_jax.base import InputError
from dpc_jax.controller import Controller, Settings
from dpc_jax.samplers import TRIES, GenotypeSampler, generator
from dpc_jax.spaces import SearchSpace
from dpc_jax.study import LEARNED, SHOWN, history

LOG_PROB = 'controller:log_prob'
CHECKPOINT = 'controller:{slot}:{part}'
PART = 40_000  # characters of a part of a checkpoint: databases limit a text
DRAWS = 16  # candidates that are drawn at once


def make(
    space: SearchSpace,
    *,
    seed: int,
    policy: str = 'factorised',
    rule: str = 'ppo',
    hidden: int = 100,
    warm_up: int = 4,
    learning_rate: float = 1e-4,
    entropy_weight: float = 0.0,
    buffer: int = 100,
    checkpoint: int = 500,
) -> optuna.samplers.BaseSampler:
    """A sampler of the controller's candidates; defaults are the release's (`controller.Settings`)."""
    if checkpoint < 1:
        raise InputError(f'checkpoint is {checkpoint}; allowed: 1 or more')
    choices = space.choices()
    settings = Settings(
        choices=tuple(map(len, choices.values())),
        heads=heads_of(choices),
        policy=policy,
        rule=rule,
        hidden=hidden,
        warm_up=warm_up,
        learning_rate=learning_rate,
        entropy_weight=entropy_weight,
        buffer=buffer,
    )
    return ControllerSampler(space, seed, settings, checkpoint)


def heads_of(choices: Any) -> tuple[int, ...]:
    """The number of each gene's head: genes whose values are the same words share one, as operators do."""
    heads: dict[Any, int] = {}
    found = []
    for name, values in choices.items():
        words = isinstance(values[0], str)
        found.append(heads.setdefault(tuple(values) if words else name, len(heads)))
    return tuple(found)


class ControllerSampler(GenotypeSampler):
    """See the head of the file."""

    def __init__(self, space: SearchSpace, seed: int, settings: Settings, checkpoint: int) -> None:
        super().__init__(space, seed)
        self._settings, self._every = settings, checkpoint
        self._choices = {name: tuple(values) for name, values in space.choices().items()}
        self._study = ''  # whose controller is held
        self._held = self._fresh()
        self._next = 0  # number of the first trial that it has not learned from

    def _fresh(self) -> Controller:
        return controller.init(jax.random.key(self._seed), self._settings)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """One genotype as parameters; its log-probability is kept with the trial."""
        state = self._learned(study, trial.number)
        known = history(study, self._space, trial.number)
        for drawn in itertools.islice(self._drawn(state, trial), TRIES):
            if self._space.canonical_key(self._space.from_params(drawn[0])) not in known:
                break
        params, log_prob, entropy = drawn
        for name, value in ((LOG_PROB, log_prob), (SHOWN, {**shown_of(state), 'entropy': entropy})):
            study._storage.set_trial_system_attr(trial._trial_id, name, value)
        return params

    def _drawn(self, state: Controller, trial: FrozenTrial) -> Iterator[tuple[dict[str, Any], float, float]]:
        """Candidates without end: parameters, log-probability, entropy of the policy."""
        random = generator(self._seed, trial)
        while True:
            key = jax.random.key(int(random.integers(2**31)))
            drawn = controller.draw(key, state.policy, settings=self._settings, count=DRAWS)
            for tokens, log_prob, entropy in zip(*map(np.asarray, drawn), strict=True):
                chosen = zip(self._choices.items(), tokens, strict=True)
                yield {name: values[token] for (name, values), token in chosen}, float(log_prob), float(entropy)

    # ---- learning --------------------------------------------------------------------------------------------------

    def _learned(self, study: optuna.Study, before: int) -> Controller:
        """The controller that has learned from all candidates up to the first that is not finished."""
        if study.study_name != self._study:
            self._study = study.study_name
            self._held, self._next = self._restored(study) or (self._fresh(), 0)
        for trial in history(study, self._space, before).settled(self._next):
            if LOG_PROB in trial.system_attrs:
                self._held = controller.learn(
                    self._held,
                    jnp.asarray(
                        [values.index(trial.params[name]) for name, values in self._choices.items()], jnp.int32
                    ),
                    jnp.float32(trial.system_attrs[LOG_PROB]),
                    jnp.float32(reward_of(trial)),
                    settings=self._settings,
                )
                if int(self._held.learned) % self._every == 0:
                    self._keep(study, trial.number + 1)
            self._next = trial.number + 1
        return self._held

    def _keep(self, study: optuna.Study, following: int) -> None:
        """Writes the controller beside the study, in one of two slots; what says that it is whole comes last."""
        data = base64.b85encode(zlib.compress(controller.to_bytes(self._held), 1)).decode()
        parts = [data[start : start + PART] for start in range(0, len(data), PART)]
        slot = (int(self._held.learned) // self._every) % 2
        storage, number = study._storage, study._study_id
        for place, part in enumerate(parts):
            storage.set_study_system_attr(number, CHECKPOINT.format(slot=slot, part=place), part)
        head = {'next': following, 'parts': len(parts), 'digest': _digest(data), 'settings': self._described()}
        storage.set_study_system_attr(number, CHECKPOINT.format(slot=slot, part='head'), json.dumps(head))

    def _described(self) -> str:
        return f'{self._seed} {self._settings}'

    def _restored(self, study: optuna.Study) -> tuple[Controller, int] | None:
        """The newest whole checkpoint of these settings."""
        attributes = study._storage.get_study_system_attrs(study._study_id)
        found: list[tuple[int, str]] = []
        for slot in (0, 1):
            head = json.loads(attributes.get(CHECKPOINT.format(slot=slot, part='head'), '{}'))
            if head.get('settings') != self._described():
                continue
            names = (CHECKPOINT.format(slot=slot, part=part) for part in range(head['parts']))
            data = ''.join(attributes.get(name, '') for name in names)
            if _digest(data) == head['digest']:
                found.append((head['next'], data))
        if not found:
            return None
        following, data = max(found)
        state = controller.from_bytes(zlib.decompress(base64.b85decode(data)), self._settings)
        return state, following


def shown_of(state: Controller) -> dict[str, float]:
    """Baseline and mean reward of the last candidates (those of the ring), as soon as it has learned from any."""
    learned = int(state.learned)
    if not learned:
        return {LEARNED: 0.0}
    rewards = np.asarray(state.rewards)[:learned]
    return {LEARNED: float(learned), 'baseline': float(state.baseline), 'reward': float(rewards.mean())}


def reward_of(trial: FrozenTrial) -> float:
    """The score of a finished candidate, that of its last evaluation if it was pruned; 0 if it failed."""
    if trial.state == TrialState.COMPLETE:
        value = trial.values[0]
    else:
        value = trial.intermediate_values[max(trial.intermediate_values)] if trial.intermediate_values else 0.0
        value = value if trial.state == TrialState.PRUNED else 0.0
    return value if math.isfinite(value) else 0.0


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
