"""The menu of contexts: `make(config)` gives what stands on the backbone's maps, by `config.context.name`.

Each file of the folder exposes `make(config, *, decay)`: a `dpc_jax.context.Context` made from the whole config,
whose batch norms have that decay, or None for no context at all. InputError names what is wrong in the config.
"""

import importlib
import pkgutil

import ml_collections

from dpc_jax import checks, ops
from dpc_jax.context import Context


def names() -> tuple[str, ...]:
    """What `config.context.name` may be."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def make(config: ml_collections.ConfigDict, *, decay: float = ops.BN_DECAY) -> Context | None:
    """What stands on the backbone's maps; None leaves the features as they are."""
    context = config.context
    checks.one_of('context.name', context.name, names())
    checks.at_least(1, context__filters=context.filters)
    checks.below_one('context.dropout_rate', context.dropout_rate)
    checks.one_of('context.pooling', context.pooling, ops.POOLINGS)
    made: Context | None = importlib.import_module(f'{__name__}.{context.name}').make(config, decay=decay)
    return made
