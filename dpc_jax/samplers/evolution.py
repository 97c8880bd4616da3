"""Regularized evolution (Real et al. 2019, arXiv:1802.01548, Algorithm 1): a population in which age kills, not score.

The population are the youngest `population` candidates that are finished. Each child comes from a tournament: `sample`
of them are drawn, the best of these is the parent, and one of its genes gets one of its other values, each uniformly.
As a child is the youngest once it is finished, the oldest dies then, however good it is. Until `population` candidates
have a score, cells are drawn uniformly.

What differs from the paper, or is not in it:

* A tournament is drawn without replacement, so that `sample = population` always takes the best that is alive. The
  paper draws with replacement ("the element stays in the population").
* Age is the order of trial numbers, and the population is that of the finished trials which a batch sees: the children
  of one batch have the same population to choose from. A search that is stopped and resumed is the same search.
* Pruned and failed candidates age and die like others; in a tournament they rank last, failed ones after pruned ones.
  References take no part.
* No cell is trained twice. Where the tournaments give nothing new in half of the tries of a proposal (in small spaces
  all cells around the parents are known at some time), the cell is drawn uniformly.
"""

import functools
import itertools
from collections.abc import Iterator

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from dpc_jax.base import Genotype, InputError
from dpc_jax.samplers import TRIES, SpaceSampler, one_gene_away, uniform_draws
from dpc_jax.spaces import SearchSpace
from dpc_jax.study import history, losses

RANKED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
"""The states of a finished trial, as a tournament orders them."""


def make(space: SearchSpace, *, seed: int, population: int = 100, sample: int = 25) -> optuna.samplers.BaseSampler:
    """A sampler of children of the best of `sample` among the youngest `population` (the paper's: 25 and 100)."""
    if population < 1:
        raise InputError(f'population is {population}; allowed: 1 or more')
    if not 1 <= sample <= population:
        raise InputError(f'sample is {sample}; allowed: 1 to {population}, the population')

    def draws(random: np.random.Generator, study: optuna.Study) -> Iterator[Genotype]:
        there = history(study, space)
        if there.num_complete() < population:
            return uniform_draws(space, random)
        children = _children(space, random, study, there.youngest(population), sample)
        return itertools.chain(itertools.islice(children, TRIES // 2), uniform_draws(space, random))

    return SpaceSampler(space, seed, draws)


def _children(
    space: SearchSpace, random: np.random.Generator, study: optuna.Study, living: list[FrozenTrial], sample: int
) -> Iterator[Genotype]:
    @functools.cache
    def genes(place: int) -> list[list[Genotype]]:
        return list(space.neighbours_by_gene(space.from_params(living[place].params), 'any').values())

    @functools.cache
    def rank(place: int) -> tuple[float, ...]:
        trial = living[place]
        return float(RANKED.index(trial.state)), *(losses(study, trial) if trial.state == TrialState.COMPLETE else ())

    while True:
        tournament = random.choice(len(living), sample, replace=False).tolist()  # of equal ones the first drawn wins
        yield one_gene_away(random, genes(min(tournament, key=rank)))
