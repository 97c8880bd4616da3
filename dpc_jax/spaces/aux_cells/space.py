"""The search space of auxiliary-cell decoders: 7 operators, 6 positions, 3 pairs of maps."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from dpc_jax.base import FEATURES, InputError, Size
from dpc_jax.spaces import Graph, Node, OperatorGroup
from dpc_jax.spaces.aux_cells import formats
from dpc_jax.spaces.aux_cells.cost import count
from dpc_jax.spaces.aux_cells.genotype import (
    BLOCKS,
    GENES,
    LAYERS,
    MAPS,
    Genotype,
    check,
    collected,
    flat,
    loose,
    make_genotype,
    pairs,
    slots,
)
from dpc_jax.spaces.aux_cells.operators import COLOURS, KINDS, OP_NAMES, OPS, SKIP, box_lines

REACHES = ('adjacent', 'any')
"""Operators have no order here, so both mean any other value of a gene."""

STRIDES = (4, 8, 16, 32)

# Found by the authors' search on PASCAL VOC (the release, notebooks and tests alike; arch0 is the paper's Fig. 3).
_NAMED = {
    'arch0': (8, 0, 0, 5, 2, 0, 2, 8, 8, 0, 5, 1, 4, 3, 3, 3, 2, 3, 0),
    'arch1': (2, 1, 0, 3, 6, 0, 1, 2, 8, 2, 0, 6, 1, 2, 3, 3, 1, 4, 4),
    'arch2': (5, 0, 0, 4, 1, 3, 2, 0, 1, 5, 6, 5, 0, 1, 3, 4, 3, 2, 2),
}

HOW_TO_READ = (
    'How to read a decoder: `s5d6|0c3d3+0s3|2s5d6+…|…@33,32,30` is the first operator of the cell, its three layers '
    '(what each operator reads, and the operator), and the two maps of each block. `c3d12` is a 3×3 convolution at '
    'rate 12, `s5` a separable one of 5×5, `gap` the mean over the map. Of the cell, 0 is its input, 1 the first '
    'operator, then come the two operators and the sum of each layer; maps 0 to 3 are those of the encoder at strides '
    '4, 8, 16, 32, then come the blocks.'
)


@dataclasses.dataclass(frozen=True)
class Space:
    """All decoders of auxiliary cells (Nekrasov et al. 2019, arXiv:1810.10804 §3).

    >>> space = Space()
    >>> decoders = space.sample(jax.random.key(0), 64)
    >>> text = space.to_json(space.named('arch0'))
    """

    @classmethod
    def of(cls, genotype: Genotype) -> 'Space':
        """The space of a genotype (unbatched)."""
        if np.ndim(genotype.ops) != 1:
            raise InputError(
                f'the genotype has ops of shape {np.shape(genotype.ops)}; give one, [7], and no population'
            )
        return cls()

    @property
    def size(self) -> int:
        """Number of genotypes, exact: 11^7 * (2 * 5 * 8)^2 * (4 * 5 * 6)^2."""
        return math.prod(gene.choices for gene in GENES)

    def sample(self, key: jax.Array, count: int | None = None) -> Genotype:
        """Draws genotypes uniformly over the space: one, or where a count is given a population (int32, NumPy)."""
        shape = () if count is None else (count,)
        limits = np.array([gene.choices for gene in GENES], np.int32)
        drawn = np.asarray(
            jax.random.randint(key, (*shape, len(GENES)), 0, np.broadcast_to(limits, (*shape, len(GENES))))
        )
        fields: dict[str, dict[int, np.ndarray]] = {name: {} for name in Genotype._fields}
        for place, gene in enumerate(GENES):
            fields[gene.field][gene.place] = drawn[..., place]
        stacked = {name: np.stack([column[i] for i in sorted(column)], -1) for name, column in fields.items()}
        return Genotype(**{name: values.astype(np.int32) for name, values in stacked.items()})

    def neighbours_by_gene(self, genotype: Genotype, reach: str = 'adjacent') -> dict[str, list[Genotype]]:
        """Gene -> the genotypes that differ from `genotype` in that gene alone, whatever the `reach`."""
        if reach not in REACHES:
            raise InputError(f"neighbourhood '{reach}' is not known; allowed: {', '.join(REACHES)}")
        self.validate(genotype)
        values, groups = flat(genotype), {}
        for place, gene in enumerate(GENES):
            others = [other for other in range(gene.choices) if other != values[place]]
            groups[gene.name] = [make_genotype([*values[:place], other, *values[place + 1 :]]) for other in others]
        return groups

    def validate(self, genotype: Genotype) -> None:
        """InputError, which names the gene and the allowed values, unless the genotype (unbatched) is of this space."""
        for name, length in (('ops', 1 + 2 * LAYERS), ('positions', 2 * LAYERS), ('connections', 2 * BLOCKS)):
            array = np.asarray(getattr(genotype, name))
            if array.shape != (length,):
                raise InputError(f'genotype.{name} has shape {array.shape}; allowed: ({length},)')
            if array.dtype != np.int32:
                raise InputError(f'genotype.{name} has dtype {array.dtype}; allowed: int32')
        check(flat(genotype))

    def canonical_key(self, genotype: Genotype) -> str:
        """A text that is equal for genotypes that differ in the order of what is added up, and different for others.

        Such are the two operators of a layer (whoever reads them reads the other one then), the two maps of a block,
        and the first two blocks if the second does not read the first. It reads like the cell; see `HOW_TO_READ`.
        """
        return _key(_canonical(tuple(flat(genotype))))

    def at_size(self, genotype: Genotype, sizes: Mapping[int, Size]) -> Genotype:
        """Where the first operator is a skip, its value (1) is the cell's input (0), and one number stands for both.

        It is 1, if any operator reads that: read by nobody, it would be added to the output. Sizes do not matter, for
        a dilated convolution has other weights than a 1x1 even where it reads its centre alone.
        """
        positions = np.array(genotype.positions, np.int32)
        if int(genotype.ops[0]) == SKIP and (positions == 1).any():
            positions[positions == 0] = 1
        return genotype._replace(positions=positions)

    # ---- names and files ------------------------------------------------------------------------------------

    @property
    def names(self) -> tuple[str, ...]:
        """What `named` knows: the three decoders of the paper."""
        return tuple(_NAMED)

    def named(self, name: str) -> Genotype:
        """A decoder of the paper; InputError lists the names."""
        if name not in _NAMED:
            raise InputError(f"no decoder is named '{name}'; allowed: {', '.join(_NAMED)}")
        return make_genotype(_NAMED[name])

    def to_json(self, genotype: Genotype) -> str:
        """Nested lists as the authors print them."""
        self.validate(genotype)
        return formats.to_json(genotype)

    def from_json(self, text: str, source: str = 'genotype') -> Genotype:
        """Nested lists, or flat ones of 19 or 20 numbers; InputError, prefixed by `source`, for anything else."""
        return formats.parse(text, source)

    # ---- named choices: what a study's dashboard shows --------------------------------------------------------

    def choices(self) -> dict[str, tuple[int, ...] | tuple[str, ...]]:
        """Gene -> allowed values: operators by name, positions and maps by number."""
        return {gene.name: OP_NAMES if gene.field == 'ops' else tuple(range(gene.choices)) for gene in GENES}

    def to_params(self, genotype: Genotype) -> dict[str, int | str]:
        """The genotype as one of the `choices`."""
        values = zip(GENES, flat(genotype), strict=True)
        return {gene.name: OP_NAMES[value] if gene.field == 'ops' else value for gene, value in values}

    def from_params(self, params: dict[str, Any]) -> Genotype:
        """Inverse of `to_params`; parameters with other names are passed over."""
        values = ((gene, params[gene.name]) for gene in GENES)
        return make_genotype([OP_NAMES.index(value) if gene.field == 'ops' else int(value) for gene, value in values])

    # ---- what is shown -----------------------------------------------------------------------------------------

    def graph(self, genotype: Genotype) -> Graph:
        """The cell: operators and sums as boxes; the output is a sum, too."""
        return _cell_graph(genotype)

    def further_graphs(self, genotype: Genotype) -> dict[str, Graph]:
        """The decoder that is made of the cell: the encoder's maps, three blocks, and what is concatenated."""
        return {'decoder': _decoder_graph(genotype)}

    def operator_groups(self) -> tuple[OperatorGroup, ...]:
        """The operators by kind."""
        names = ('dense convolution', 'separable', 'global mean', 'skip', 'none')
        of_kind = {kind: tuple(index for index, op in enumerate(OPS) if op.kind == kind) for kind in KINDS}
        return tuple(OperatorGroup(name, COLOURS[kind], of_kind[kind]) for name, kind in zip(names, KINDS, strict=True))

    def operators_of(self, genotype: Genotype) -> frozenset[int]:
        """Indices into the table of operators."""
        return frozenset(int(op) for op in genotype.ops)

    def cost(self, genotype: Genotype, settings: Mapping[str, Any]) -> dict[str, int]:
        """'params' and 'macs' of the decoder with adapters and classifier and without auxiliary heads, of one image."""
        maps, cell = settings.get('maps') or {}, settings.get('cell', {})
        if not {*map(str, STRIDES)} <= maps.keys() or 'filters' not in cell or 'classes' not in settings:
            return {}
        shapes = [tuple(map(int, maps[str(stride)])) for stride in STRIDES]
        counts = count(
            genotype,
            sizes=tuple((height, width) for height, width, _ in shapes),
            channels=tuple(channels for *_, channels in shapes),
            filters=cell['filters'],
            classes=settings['classes'],
            repeats=cell.get('repeats', 1),
        )
        return {'params': counts.params, 'macs': counts.macs}

    def how_to_read(self, costs: Mapping[str, int]) -> str:
        """What is counted, where it is known, and the parts of keys."""
        counted = 'Counted are adapters, cells, blocks and classifier, without encoder and auxiliary heads.'
        return f'{counted}\n\n{HOW_TO_READ}' if costs else HOW_TO_READ


# ---- keys -----------------------------------------------------------------------------------------------------------

Flat = tuple[int, ...]


def _canonical(values: Flat) -> Flat:
    """The smallest of all genotypes that differ in the order of what is added up."""
    cells, maps = {values}, {values}
    for layer in range(LAYERS):
        cells |= {_swap_layer(layer, genes) for genes in cells}
    maps |= {_swap_blocks(genes) for genes in maps if _apart(genes)}
    for block in range(BLOCKS):
        maps |= {_swap_maps(block, genes) for genes in maps}
    return (*min(cells)[:FIRST_MAP], *min(maps, key=lambda genes: genes[FIRST_MAP:])[FIRST_MAP:])


def _swap_layer(layer: int, genes: Flat) -> Flat:
    """Exchanges the two operators of a layer, and renames them where later layers read them."""
    start, one, other = 1 + 4 * layer, 2 + 3 * layer, 3 + 3 * layer
    renamed, new = {one: other, other: one}, list(genes)
    new[start : start + 4] = genes[start + 1], genes[start], genes[start + 3], genes[start + 2]
    for later in range(layer + 1, LAYERS):
        for place in (1 + 4 * later, 2 + 4 * later):
            new[place] = renamed.get(genes[place], genes[place])
    return tuple(new)


FIRST_MAP = 1 + 4 * LAYERS


def _swap_maps(block: int, genes: Flat) -> Flat:
    place = FIRST_MAP + 2 * block
    return (*genes[:place], genes[place + 1], genes[place], *genes[place + 2 :])


def _apart(genes: Flat) -> bool:
    """Whether the second block reads no block, so that the first two may change places."""
    return MAPS not in genes[FIRST_MAP + 2 : FIRST_MAP + 4]


def _swap_blocks(genes: Flat) -> Flat:
    one, other, last = (genes[FIRST_MAP + 2 * block : FIRST_MAP + 2 * block + 2] for block in range(BLOCKS))
    renamed = {MAPS: MAPS + 1, MAPS + 1: MAPS}
    return (*genes[:FIRST_MAP], *other, *one, *(renamed.get(place, place) for place in last))


def _key(values: Flat) -> str:
    shorts = [op.short for op in OPS]
    layers = [values[1 + 4 * layer : 5 + 4 * layer] for layer in range(LAYERS)]
    cell = [shorts[values[0]], *(f'{p1}{shorts[o1]}+{p2}{shorts[o2]}' for p1, p2, o1, o2 in layers)]
    maps = (f'{values[place]}{values[place + 1]}' for place in range(FIRST_MAP, len(values), 2))
    return '|'.join(cell) + '@' + ','.join(maps)


# ---- drawings -------------------------------------------------------------------------------------------------------


def _cell_graph(genotype: Genotype) -> Graph:
    nodes: list[Node] = []
    first, *rest = slots(genotype)
    place = {0: FEATURES}  # value of the cell -> node

    def append(value: int, node: Node) -> None:
        place[value] = len(nodes)
        nodes.append(node)

    append(1, Node(box_lines(OPS[first.op]), COLOURS[OPS[first.op].kind], (FEATURES,)))
    for layer in range(LAYERS):
        value = 2 + 3 * layer
        for side in (0, 1):
            slot = rest[2 * layer + side]
            append(value + side, Node(box_lines(OPS[slot.op]), COLOURS[OPS[slot.op].kind], (place[slot.reads],)))
        append(value + 2, Node(('sum',), 'pink', (place[value], place[value + 1])))
    return Graph(tuple(nodes), tuple(place[value] for value in collected(genotype)), source='input', sink='sum')


def _decoder_graph(genotype: Genotype) -> Graph:
    nodes = [Node((f'encoder, stride {stride}',), 'orange', (FEATURES,)) for stride in STRIDES]
    for block, pair in enumerate(pairs(genotype)):
        nodes.append(Node((f'block {block + 1}', 'cell + cell'), 'blue', pair))
    return Graph(tuple(nodes), tuple(MAPS + block for block in loose(genotype)), source='image', sink='concat')
