"""Uniform random search: every cell of the space that the study does not have yet is equally likely."""

import optuna

from dpc_jax.samplers import SpaceSampler, uniform_draws
from dpc_jax.spaces import SearchSpace


def make(space: SearchSpace, *, seed: int) -> optuna.samplers.BaseSampler:
    """A sampler that draws uniformly from `space`."""
    return SpaceSampler(space, seed, lambda random, study: uniform_draws(space, random))
