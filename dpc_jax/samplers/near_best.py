"""The paper's strategy (§3.2): some cells are drawn uniformly from the space, others near the best ones observed.

The paper gives neither the mix nor what near means. Here: with probability `exploit` one of the best `incumbents`
candidates is taken, one of its genes, and one of that gene's other values, each uniformly; else the whole cell is
drawn uniformly, as are all cells before the first scores. References are not incumbents.
"""

import functools
from collections.abc import Iterator

import numpy as np
import optuna
from optuna.trial import TrialState

from dpc_jax.base import Genotype, InputError
from dpc_jax.samplers import SpaceSampler, candidate_key, losses, one_gene_away, uniform_draws
from dpc_jax.spaces import SearchSpace


def make(
    space: SearchSpace,
    *,
    seed: int,
    exploit: float = 0.5,
    incumbents: int = 10,
    neighbourhood: str = 'adjacent',
) -> optuna.samplers.BaseSampler:
    """A sampler of uniform cells and neighbours of the best.

    `neighbourhood` says which values of a rate or grid are near: the 'adjacent' ones or 'any'.
    """
    if not 0 <= exploit <= 1:
        raise InputError(f'exploit is {exploit}; it is a probability, 0..1')
    if incumbents < 1:
        raise InputError(f'incumbents is {incumbents}; allowed: 1 or more')
    if neighbourhood not in ('adjacent', 'any'):
        raise InputError(f"neighbourhood '{neighbourhood}' is not known; allowed: adjacent, any")

    def draws(random: np.random.Generator, study: optuna.Study) -> Iterator[Genotype]:
        best = _best(space, study, incumbents)
        if not best or random.random() >= exploit:
            return uniform_draws(space, random)
        return _near(space, random, best, neighbourhood)

    return SpaceSampler(space, seed, draws)


def _best(space: SearchSpace, study: optuna.Study, count: int) -> list[Genotype]:
    """The best candidates of the study, at most `count`, best first; equal scores by key."""
    complete = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    scored = [(losses(study, trial), candidate_key(space, trial), trial) for trial in complete]
    best: dict[str, Genotype] = {}
    for _, key, trial in sorted(scored, key=lambda row: row[:2]):
        if key and key not in best and len(best) < count:
            best[key] = space.from_params(trial.params)
    return list(best.values())


def _near(
    space: SearchSpace, random: np.random.Generator, best: list[Genotype], neighbourhood: str
) -> Iterator[Genotype]:
    @functools.cache
    def genes(incumbent: int) -> list[list[Genotype]]:
        return list(space.neighbours_by_gene(best[incumbent], neighbourhood).values())

    while True:
        yield one_gene_away(random, genes(int(random.integers(len(best)))))
