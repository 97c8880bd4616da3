"""The search space of auxiliary-cell decoders (Nekrasov et al., CVPR 2019, arXiv:1810.10804, §3).

A decoder is 19 numbers: a cell of seven operators, which the whole network shares with weights of its own in each
place, and the two maps that each of three blocks reads. That makes 11^7 * 80^2 * 120^2 = 1 795 937 679 360 000
genotypes.
"""

from dpc_jax.spaces.aux_cells.cost import Counts, count
from dpc_jax.spaces.aux_cells.formats import parse
from dpc_jax.spaces.aux_cells.genotype import (
    BLOCKS,
    GENES,
    LAYERS,
    MAPS,
    Gene,
    Genotype,
    Slot,
    collected,
    flat,
    levels,
    loose,
    make_genotype,
    pairs,
    slots,
    wire_cell,
    wire_decoder,
)
from dpc_jax.spaces.aux_cells.operators import CONV1X1, NONE, OP_NAMES, OPS, SKIP, Op
from dpc_jax.spaces.aux_cells.space import STRIDES, Space

__all__ = [
    'BLOCKS',
    'CONV1X1',
    'GENES',
    'LAYERS',
    'MAPS',
    'NONE',
    'OPS',
    'OP_NAMES',
    'SKIP',
    'STRIDES',
    'Counts',
    'Gene',
    'Genotype',
    'Op',
    'Slot',
    'Space',
    'collected',
    'count',
    'flat',
    'levels',
    'loose',
    'make_genotype',
    'pairs',
    'parse',
    'slots',
    'wire_cell',
    'wire_decoder',
]
