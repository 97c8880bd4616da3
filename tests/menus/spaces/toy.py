"""A space of three cells: which of two strides are read."""

import dataclasses
import json
from typing import NamedTuple

import jax
import numpy as np

from dpc_jax.base import FEATURES, InputError
from dpc_jax.spaces import Graph, Node, OperatorGroup

CELLS = ('fine', 'coarse', 'both')


class Genotype(NamedTuple):
    """One gene; unbatched `[1]`."""

    reads: np.ndarray  # int32, index into CELLS


def genotype(index):
    return Genotype(np.array([index], np.int32))


@dataclasses.dataclass(frozen=True)
class Space:
    """See `dpc_jax.spaces.Space`."""

    names = CELLS
    size = len(CELLS)

    @classmethod
    def of(cls, genotype):
        return cls()

    def named(self, name):
        if name not in CELLS:
            raise InputError(f"no cell is named '{name}'; allowed: {', '.join(CELLS)}")
        return genotype(CELLS.index(name))

    def validate(self, genotype):
        if np.shape(genotype.reads) != (1,) or not 0 <= int(genotype.reads[0]) < len(CELLS):
            raise InputError(f'reads {genotype.reads}; allowed: [0], [1], [2]')

    def sample(self, key, count=None):
        shape = (1,) if count is None else (count, 1)
        return Genotype(np.asarray(jax.random.randint(key, shape, 0, len(CELLS)), np.int32))

    def neighbours_by_gene(self, genotype_, reach='adjacent'):
        return {'reads': [genotype(other) for other in range(len(CELLS)) if other != int(genotype_.reads[0])]}

    def at_size(self, genotype, sizes):
        return genotype

    def canonical_key(self, genotype):
        return CELLS[int(genotype.reads[0])]

    def choices(self):
        return {'reads': CELLS}

    def to_params(self, genotype):
        return {'reads': self.canonical_key(genotype)}

    def from_params(self, params):
        return self.named(params['reads'])

    def to_json(self, genotype):
        return json.dumps(self.canonical_key(genotype))

    def from_json(self, text, source='genotype'):
        return self.named(json.loads(text))

    def graph(self, genotype):
        strides = {'fine': (8,), 'coarse': (16,), 'both': (8, 16)}[self.canonical_key(genotype)]
        nodes = tuple(Node((f'stride {stride}',), 'blue', (FEATURES,)) for stride in strides)
        return Graph(nodes, tuple(range(len(nodes))), sink='sum')

    def further_graphs(self, genotype):
        return {}

    def operator_groups(self):
        return (OperatorGroup('fine', 'blue', (0,)), OperatorGroup('coarse', 'green', (1,)))

    def operators_of(self, genotype):
        return {'fine': frozenset({0}), 'coarse': frozenset({1}), 'both': frozenset({0, 1})}[
            self.canonical_key(genotype)
        ]

    def cost(self, genotype, settings):
        filters = settings['cell']['filters']
        parts = len(self.operators_of(genotype))
        return {'params': parts * filters, 'macs': 10 * parts * filters}

    def how_to_read(self, costs):
        return 'A cell is called by what it reads.'
