"""Architecture search for dense image prediction in JAX (Chen et al., NeurIPS 2018, arXiv:1809.04184).

What people use from Python, each loaded when it is first asked for:

    Space, Genotype, read_cells, draw_cell     the search space, cells as integers, files, drawings
    load_config                                a config of `configs/`, or of your own
    prepare, Bench, CellScores                 data, backbone and cached features; cells scored on them
    search, Candidate                          the whole search
    train, evaluate, Evaluation                a whole network
    load_network, Network, predict             trained weights on a picture
    InputError                                 what is raised for bad input: one line

The rooms below are for people who build on the project: `base` defines the words and shapes that all of them share.
"""

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dpc_jax.api import (
        Network,
        draw_cell,
        evaluate,
        load_config,
        load_network,
        predict,
        prepare,
        read_cells,
        search,
        train,
    )
    from dpc_jax.base import InputError
    from dpc_jax.bench import Bench
    from dpc_jax.evaluation import Evaluation
    from dpc_jax.scores import CellScores
    from dpc_jax.spaces.dpc import Genotype, Space
    from dpc_jax.study import Candidate

__all__ = [
    'Bench',
    'Candidate',
    'CellScores',
    'Evaluation',
    'Genotype',
    'InputError',
    'Network',
    'Space',
    'draw_cell',
    'evaluate',
    'load_config',
    'load_network',
    'predict',
    'prepare',
    'read_cells',
    'search',
    'train',
]

_HOMES = {
    'dpc_jax.base': ('InputError',),
    'dpc_jax.bench': ('Bench',),
    'dpc_jax.evaluation': ('Evaluation',),
    'dpc_jax.scores': ('CellScores',),
    'dpc_jax.spaces.dpc': ('Genotype', 'Space'),
    'dpc_jax.study': ('Candidate',),
}
_HOME_OF = {name: home for home, listed in _HOMES.items() for name in listed}


def __getattr__(name: str) -> Any:
    if name == '__version__':
        try:
            return importlib.metadata.version('dpc_jax')
        except importlib.metadata.PackageNotFoundError:  # a checkout that is not installed
            return '0+unknown'
    if name not in __all__:
        raise AttributeError(f"module 'dpc_jax' has no attribute '{name}'; it offers: {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOME_OF.get(name, 'dpc_jax.api')), name)


def __dir__() -> list[str]:
    return [*__all__, '__version__']
