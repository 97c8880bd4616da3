"""The menu of contexts: `make(config)` gives what stands on the backbone's maps, by `config.context.name`.

Each file of the folder exposes `make(config, *, decay)`: a `dpc_jax.context.Context` made from the whole config,
whose batch norms have that decay, or None for no context at all; `BN_DECAY`, where its own is not DeepLab's; `FIELDS`,
those of `config.context` that it reads besides those that all have; `DEFAULTS`, of those that a config may lack;
`read_genotype(text)`, if one of them is `genotype`; and `remarks(config)`, where it has something to say before a
training or an evaluation: a line, and a warning or ''. InputError names what is wrong in the config.
"""

import importlib
import logging
import pkgutil
import types
from typing import Any

import ml_collections

from dpc_jax import checks, ops, spaces
from dpc_jax.context import Context

OF_ALL = ('name', 'filters', 'pooling', 'dropout_rate')
"""Fields of `config.context` that every context is asked for."""


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
    module = _module(context.name)
    if decay is None:
        decay = getattr(module, 'BN_DECAY', ops.BN_DECAY)
    made: Context | None = module.make(config, decay=decay)
    return made


def described(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The fields of `config.context` that say what stands there; a genotype is written out in its space's format."""
    context = config.context
    checks.one_of('context.name', context.name, names())
    module = _module(context.name)
    fields = getattr(module, 'FIELDS', tuple(context))
    held = {**getattr(module, 'DEFAULTS', {}), **context}
    found = {field: held[field] for field in dict.fromkeys((*OF_ALL, *fields)) if field in held}
    if 'genotype' in fields and hasattr(module, 'read_genotype'):
        genotype = module.read_genotype(context.genotype)
        found['genotype'] = ' '.join(spaces.find(genotype)[1].to_json(genotype).split())
    return found


def has_genotype(name: str) -> bool:
    """Whether the context of that name is one of many, which `context.genotype` says; InputError for no context."""
    checks.one_of('context.name', name, names())
    return hasattr(_module(name), 'read_genotype')


def genotype_name(name: str, text: str) -> str:
    """What the genotype that `described` wrote out is called: its name, or its key where it has none."""
    genotype = _module(name).read_genotype(text)
    _, space = spaces.find(genotype)
    key = space.canonical_key(genotype)
    return next((known for known in space.names if space.canonical_key(space.named(known)) == key), key)


def announce(config: ml_collections.ConfigDict) -> None:
    """Prints what the context has to say of its settings before it is trained or evaluated, and warns of odd ones."""
    module = _module(config.context.name)
    if hasattr(module, 'remarks'):
        line, warning = module.remarks(config)
        print(line)
        if warning:
            logging.warning('%s', warning)


def _module(name: str) -> types.ModuleType:
    return importlib.import_module(f'{__name__}.{name}')
