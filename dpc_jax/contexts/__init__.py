"""The menu of contexts: `make(config)` gives what stands on the backbone's maps, by `config.context.name`.

Each file of the folder exposes `make(config, *, decay)`: a `dpc_jax.context.Context` made from the whole config,
whose batch norms have that decay, or None for no context at all; `BN_DECAY`, where its own is not DeepLab's; and
`remarks(config)`, where it has something to say before a training or an evaluation: a line, and a warning or ''.
InputError names what is wrong in the config.
"""

import importlib
import logging
import pkgutil

import ml_collections

from dpc_jax import checks, ops
from dpc_jax.context import Context


def names() -> tuple[str, ...]:
    """What `config.context.name` may be."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def make(config: ml_collections.ConfigDict, *, decay: float | None = None) -> Context | None:
    """What stands on the backbone's maps; None leaves the features as they are.

    `decay` is that of moving averages; by default the file's `BN_DECAY`, or the one of the official DeepLab.
    """
    context = config.context
    checks.one_of('context.name', context.name, names())
    checks.at_least(1, context__filters=context.filters)
    checks.below_one('context.dropout_rate', context.dropout_rate)
    checks.one_of('context.pooling', context.pooling, ops.POOLINGS)
    module = importlib.import_module(f'{__name__}.{context.name}')
    if decay is None:
        decay = getattr(module, 'BN_DECAY', ops.BN_DECAY)
    made: Context | None = module.make(config, decay=decay)
    return made


def announce(config: ml_collections.ConfigDict) -> None:
    """Prints what the context has to say of its settings before it is trained or evaluated, and warns of odd ones."""
    module = importlib.import_module(f'{__name__}.{config.context.name}')
    if hasattr(module, 'remarks'):
        line, warning = module.remarks(config)
        print(line)
        if warning:
            logging.warning('%s', warning)
