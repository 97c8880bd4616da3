"""The menu of journeys: what `config.journey` names is run from the first file read to the last one written.

Each file exposes `run(config, workdir)`, one function to be read from top to bottom; `STOPPED`, what is printed
after a stop; and `SEVERAL_PROCESSES`, why several processes cannot run it together ('' if they can).
"""

import importlib
import pkgutil
import types

from dpc_jax import checks


def names() -> tuple[str, ...]:
    """What `config.journey` may be."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def find(name: object) -> types.ModuleType:
    """The journey of that name; InputError lists them."""
    checks.one_of('journey', name, names())
    return importlib.import_module(f'{__name__}.{name}')
