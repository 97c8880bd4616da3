"""A small space of another kind than the Dense Prediction Cell's: sums of operators, of which some are loose ends."""

import itertools
import json
from typing import NamedTuple

import jax
import numpy as np

from dpc_jax.base import FEATURES, InputError, stack
from dpc_jax.spaces import Graph, Node, OperatorGroup

OPERATORS = ('skip', 'sep 3x3', 'global pool')
COLOURS = ('grey', 'pink', 'amber')
BLOCKS = 2


class SummingGenotype(NamedTuple):
    """Each block sums two operators of two values: -1 the features, then the sums of earlier blocks."""

    pairs: np.ndarray  # int32 [BLOCKS, 2]
    kinds: np.ndarray  # int32 [BLOCKS, 2]


class SummingSpace:
    """All that `spaces.Space` asks for; `mapped` gives an operator group with values over height and width."""

    def __init__(self, mapped=False):
        self.mapped = mapped

    @property
    def size(self) -> int:
        return len(self.all())

    @property
    def names(self) -> tuple[str, ...]:
        return ('nothing',)

    def all(self) -> list[SummingGenotype]:
        kinds = itertools.product(range(len(OPERATORS)), repeat=2 * BLOCKS)
        pairs = itertools.product((-1,), (-1,), (-1, 0), (-1, 0))
        return [
            SummingGenotype(*(np.array(genes, np.int32).reshape(BLOCKS, 2) for genes in both))
            for both in itertools.product(pairs, kinds)
        ]

    def named(self, name):
        if name not in self.names:
            raise InputError(f"no cell is named '{name}'; allowed: {self.names[0]}")
        return self.all()[0]

    def validate(self, genotype):
        assert genotype.pairs.shape == genotype.kinds.shape == (BLOCKS, 2)

    def choices(self):
        return {'number': tuple(range(self.size))}

    def to_params(self, genotype):
        return {'number': [self.canonical_key(other) for other in self.all()].index(self.canonical_key(genotype))}

    def from_params(self, params):
        return self.all()[params['number']]

    def canonical_key(self, genotype) -> str:
        terms = zip(genotype.pairs.ravel(), genotype.kinds.ravel(), strict=True)
        return '+'.join(f'{OPERATORS[kind]}({source})' for source, kind in terms)

    def sample(self, key, count=None):
        drawn = [self.all()[i] for i in jax.random.randint(key, (count or 1,), 0, self.size).tolist()]
        return stack(drawn) if count else drawn[0]

    def neighbours_by_gene(self, genotype, reach='adjacent'):
        del reach
        groups = {}
        for other in self.all():
            genes = [
                (field, *where)
                for field, there in other._asdict().items()
                for where in np.argwhere(there != getattr(genotype, field))
            ]
            if len(genes) == 1:
                groups.setdefault(str(genes[0]), []).append(other)
        return groups

    def at_size(self, genotype, sizes):
        return genotype

    def to_json(self, genotype) -> str:
        return json.dumps({field: genes.tolist() for field, genes in genotype._asdict().items()}, indent=1)

    def from_json(self, text, source='genotype'):
        return SummingGenotype(**{field: np.array(genes, np.int32) for field, genes in json.loads(text).items()})

    def graph(self, genotype) -> Graph:
        nodes: list[Node] = []
        for pair, kinds in zip(genotype.pairs.tolist(), genotype.kinds.tolist(), strict=True):
            here = len(nodes)
            for source, kind in zip(pair, kinds, strict=True):
                reads = FEATURES if source == FEATURES else 3 * source + 2
                nodes.append(Node((OPERATORS[kind],), COLOURS[kind], (reads,)))
            nodes.append(Node(('sum',), 'green', (here, here + 1)))
        read = {source for node in nodes for source in node.reads}
        return Graph(tuple(nodes), tuple(i for i in range(len(nodes)) if i not in read), 'stride 4', 'sum')

    def further_graphs(self, genotype):
        return {}

    def operator_groups(self):
        if self.mapped:
            some = OperatorGroup('a few', 'amber', (0,))
            return (some, OperatorGroup('others', 'pink', (4, 1, 2, 3), (1, 2), 'step', 'Others, by step'))
        return tuple(
            OperatorGroup(name, colour, (i,)) for i, (name, colour) in enumerate(zip(OPERATORS, COLOURS, strict=True))
        )

    def operators_of(self, genotype):
        return frozenset(genotype.kinds.ravel().tolist())

    def cost(self, genotype, settings):
        if 'width' not in settings:
            return {}
        wide = int((genotype.kinds == 1).sum()) * settings['width']
        return {'params': 9 * wide, 'macs': 900 * wide, 'sums': BLOCKS}

    def how_to_read(self, costs):
        return f'A cell is {BLOCKS} sums' + (f', each of them of {costs["sums"]} operators.' if costs else '.')
