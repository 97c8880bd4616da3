"""The menu of contexts: `make(config)` gives what stands on the backbone's maps, by `config.context.name`.

Each file of the folder exposes `make(config, *, decay)`: a `dpc_jax.context.Context` made from the whole config,
whose batch norms have that decay, or None for no context at all. InputError names what is wrong in the config.
"""

import importlib
import pkgutil

import ml_collections

from dpc_jax import checks, ops
from dpc_jax.base import InputError
from dpc_jax.context import Context


def names() -> tuple[str, ...]:
    """What `config.context.name` may be."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def make(config: ml_collections.ConfigDict, *, decay: float = ops.BN_DECAY) -> Context | None:
    """What stands on the backbone's maps; None leaves the features as they are."""
    context = config.context
    checks.one_of('context.name', context.name, names())
    checks.at_least(1, context__filters=context.filters)
    if not 0 <= context.dropout_rate < 1:
        raise InputError(f'context.dropout_rate is {context.dropout_rate}; it must be at least 0 and below 1')
    checks.one_of('context.pooling', context.pooling, ops.POOLINGS)
    made: Context | None = importlib.import_module(f'{__name__}.{context.name}').make(config, decay=decay)
    return made
