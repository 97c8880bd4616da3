"""Search strategies, one a file, each an ordinary sampler of Optuna.

A file exposes `make(space, *, seed, **settings) -> optuna.samplers.BaseSampler`. Its draws are a function of the
seed, the trial's number and the finished trials that the study shows, and of nothing else: so a search can be
killed and resumed. One that has numbers to show, for TensorBoard, keeps them with the trial that it draws, as a
system attribute `study.SHOWN`. `make` below picks a file by name, or any sampler of Optuna (`optuna.TPESampler`).
"""

import importlib
import inspect
import itertools
import pkgutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from dpc_jax.base import Genotype, InputError
from dpc_jax.spaces import SearchSpace
from dpc_jax.study import REDRAW, distributions, history
from dpc_jax.study import candidate_key as candidate_key

TRIES = 256
"""How many cells a strategy of this project draws for one proposal before it accepts a known one."""

CHUNK = 64
"""How many genotypes are drawn at once; the first is almost always taken."""

PLANNERS = ('GridSampler', 'QMCSampler')
"""Samplers of Optuna whose seed fixes all trials together, so it has to be the same for each trial."""


def make(name: str, space: SearchSpace, *, seed: int, **settings: Any) -> optuna.samplers.BaseSampler:
    """The strategy `name` with its settings: a file of this folder, or `optuna.CLASS`."""
    files = sorted(module.name for module in pkgutil.iter_modules(__path__))
    classes = sorted(f'optuna.{kind}' for kind in optuna.samplers.__all__ if _is_sampler(kind))
    if name in classes:
        return OptunaSampler(getattr(optuna.samplers, name.removeprefix('optuna.')), seed, settings)
    if name not in files:
        raise InputError(f"sampler '{name}' is not known; allowed: {', '.join(files + classes)}")
    module = importlib.import_module(f'{__name__}.{name}')
    allowed = [p for p in inspect.signature(module.make).parameters if p not in ('space', 'seed')]
    for setting in settings:
        if setting not in allowed:
            raise InputError(f"sampler {name} has no setting '{setting}'; allowed: {', '.join(allowed) or 'none'}")
    return module.make(space, seed=seed, **settings)


def _is_sampler(kind: str) -> bool:
    item = getattr(optuna.samplers, kind)
    return inspect.isclass(item) and issubclass(item, optuna.samplers.BaseSampler) and not inspect.isabstract(item)


def generator(seed: int, trial: FrozenTrial) -> np.random.Generator:
    """The random numbers of one proposal."""
    return np.random.default_rng((seed, trial.number, trial.system_attrs.get(REDRAW, 0)))


Draws = Callable[[np.random.Generator, optuna.Study], Iterator[Genotype]]


class GenotypeSampler(optuna.samplers.BaseSampler):
    """What samplers of whole genotypes share; a strategy defines `sample_relative`."""

    def __init__(self, space: SearchSpace, seed: int) -> None:
        self._space, self._seed = space, seed
        self._distributions = distributions(space)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The space, whatever was tried before."""
        return self._distributions

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A uniform value for a parameter that is not of the space."""
        seed = int(generator(self._seed, trial).integers(2**31))
        sampler = optuna.samplers.RandomSampler(seed=seed)
        return sampler.sample_independent(study, trial, param_name, param_distribution)


class SpaceSampler(GenotypeSampler):
    """A sampler that draws whole genotypes, each new to the study as long as a new one is found in `TRIES` draws.

    `draws(random, study)` yields genotypes `[K]` without end.
    """

    def __init__(self, space: SearchSpace, seed: int, draws: Draws) -> None:
        super().__init__(space, seed)
        self._draws = draws

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """One genotype as parameters."""
        known = history(study, self._space, trial.number)
        for genotype in itertools.islice(self._draws(generator(self._seed, trial), study), TRIES):
            if self._space.canonical_key(genotype) not in known:
                break
        return dict(self._space.to_params(genotype))


def check_objectives(sampler: optuna.samplers.BaseSampler, space: SearchSpace, count: int) -> None:
    """InputError unless the sampler proposes something in a study of so many objectives."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # no line for the study that is made here
    study = optuna.create_study(
        directions=[StudyDirection.MAXIMIZE, *[StudyDirection.MINIMIZE] * (count - 1)], sampler=sampler
    )
    try:
        study.ask(distributions(space))
    except ValueError as error:
        raise InputError(f'search.sampler does not take {count} objectives: {error}') from error


def uniform_draws(space: SearchSpace, random: np.random.Generator) -> Iterator[Genotype]:
    """Uniform genotypes `[K]` without end."""
    while True:  # a chunk costs as much as one genotype
        chunk = space.sample(jax.random.key(int(random.integers(2**31))), CHUNK)
        for place in range(CHUNK):
            yield jax.tree.map(lambda genes: np.asarray(genes)[place], chunk)  # noqa: B023


def one_gene_away(random: np.random.Generator, groups: Sequence[Sequence[Genotype]]) -> Genotype:
    """One of the neighbours by gene: the gene, then its value, each uniformly."""
    values = groups[int(random.integers(len(groups)))]
    return values[int(random.integers(len(values)))]


class OptunaSampler(optuna.samplers.BaseSampler):
    """A sampler of Optuna, made anew for each trial with a seed that follows from `seed` and the trial.

    With one generator for the whole process, a resumed search would differ from an uninterrupted one.
    """

    def __init__(self, kind: type[optuna.samplers.BaseSampler], seed: int, settings: dict[str, Any]) -> None:
        self._kind, self._seed, self._settings = kind, seed, settings
        self._now: tuple[int, int] = (-1, 0)  # number and redraw of the trial that `_sampler` was made for
        try:
            self._sampler = self._make(seed)
        except (TypeError, ValueError, ImportError) as error:
            raise InputError(f'sampler optuna.{kind.__name__} cannot be made with {settings}: {error}') from error

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Asks the sampler of this trial."""
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Asks the sampler of this trial."""
        sampler = self._of(trial)
        if isinstance(sampler, optuna.samplers.BaseGASampler):
            # Whoever is the first of a generation chooses its parents and keeps them with the study. Reading them puts
            # them in another order, so all read them, also the first, who may be killed and draw again.
            sampler.get_parent_population(study, sampler.get_trial_generation(study, trial))
        return sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Asks the sampler of this trial."""
        return self._of(trial).sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Calls the sampler of this trial."""
        self._of(trial).before_trial(study, trial)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Calls the sampler of this trial.

        One that has tried all (BruteForceSampler) wants to stop `Study.optimize`, which does not run here: the search
        ends by itself when nothing new is drawn.
        """
        try:
            self._of(trial).after_trial(study, trial, state, values)
        except RuntimeError as error:
            if 'Study.stop' not in str(error):
                raise

    def _of(self, trial: FrozenTrial) -> optuna.samplers.BaseSampler:
        now = trial.number, trial.system_attrs.get(REDRAW, 0)
        if now != self._now and self._kind.__name__ not in PLANNERS:
            self._now, self._sampler = now, self._make(int(generator(self._seed, trial).integers(2**31)))
        return self._sampler

    def _make(self, seed: int) -> optuna.samplers.BaseSampler:
        seeded = {'seed': seed} if 'seed' in inspect.signature(self._kind).parameters else {}
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', optuna.exceptions.ExperimentalWarning)
            return self._kind(**seeded, **self._settings)
