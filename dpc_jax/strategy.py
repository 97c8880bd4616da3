"""What a config says of a search's strategy and objectives, made or refused: sampler, pruner, costs."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections
import optuna

from dpc_jax import samplers
from dpc_jax.base import Genotype, InputError
from dpc_jax.ladder import Halve
from dpc_jax.spaces import Space
from dpc_jax.study import GATE, Halving, RunningMean
from dpc_jax.study import make_pruner as pruner_of

SCORE, COSTS = 'miou', ('macs', 'params')
"""The objectives of a search: what every study maximises, and what it may minimise besides."""


def check(config: ml_collections.ConfigDict, space: Space, halvings: Sequence[Halve] = ()) -> None:
    """InputError for a strategy or objectives that there are not, or that do not go together."""
    sampler, pruner, names = make_sampler(config, space), config.search.pruner, tuple(config.search.objectives)
    make_pruner(config)
    if halvings and pruner:
        raise InputError(f"search.pruner is '{pruner}', but search.ladder halves; give one of them")
    if halvings and len(names) > 1:
        raise InputError(f'search.objectives is {names}; search.ladder halves by one alone')
    if names[:1] != (SCORE,) or len(set(names)) < len(names) or not set(names[1:]) <= set(COSTS):
        raise InputError(f'search.objectives is {names}; it is {SCORE}, perhaps followed by {" and ".join(COSTS)}')
    if len(names) > 1:
        if pruner:
            raise InputError(f"search.pruner is '{pruner}'; pruners work with one objective")
        samplers.check_objectives(sampler, space, len(names))


def make_sampler(config: ml_collections.ConfigDict, space: Space) -> optuna.samplers.BaseSampler:
    """The sampler with its settings."""
    name = config.search.sampler
    return samplers.make(name, space, seed=config.seed, **sampler_settings(config, name))


def make_pruner(
    config: ml_collections.ConfigDict, halvings: Sequence[Halve] = (), stops: Sequence[int] = ()
) -> optuna.pruners.BasePruner:
    """The pruner with its settings; where the ladder halves, that is what stops candidates.

    `stops` are the steps at which scores are taken.
    """
    if halvings:
        return Halving({stops.index(halving.step): halving.share for halving in halvings})
    if config.search.pruner == GATE:
        return RunningMean(len(stops) - 1, config.seed)
    return pruner_of(config.search.pruner, config.search.pruner_settings.to_dict())


def sampler_settings(config: ml_collections.ConfigDict, name: str) -> dict[str, Any]:
    """Those of `search.sampler_settings` that stand under a sampler's name (`TPESampler` for `optuna.TPESampler`)."""
    settings: dict[str, Any] = config.search.sampler_settings.to_dict().get(name.rpartition('.')[2], {})
    return settings


def idle_settings(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The settings of the samplers that the config does not use: a study may lack them, if these came later."""
    used = config.search.sampler.rpartition('.')[2]
    every: dict[str, Any] = config.search.sampler_settings.to_dict()
    return {f'search.sampler_settings.{name}': settings for name, settings in every.items() if name != used}


def costs(
    config: ml_collections.ConfigDict, space: Space, settings: Mapping[str, Any]
) -> dict[str, Callable[[Genotype], int]]:
    """The objectives after the score, as functions of an unbatched genotype, under a study's settings."""

    def cost(name: str, genotype: Genotype) -> int:
        return space.cost(genotype, settings)[name]

    return {name: functools.partial(cost, name) for name in config.search.objectives[1:]}
