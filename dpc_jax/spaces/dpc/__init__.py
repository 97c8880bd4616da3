"""The search space of the Dense Prediction Cell (Chen et al., NeurIPS 2018, arXiv:1809.04184, §3.1).

A cell is K branches in order. Branch i (0-based) reads the backbone's features or the output of one of the
branches 0..i-1 and applies one of 81 operators; the cell's output is the concatenation of all branches. That
makes K! * 81^K genotypes: 418 414 128 120 for the paper's K = 5.
"""

from dpc_jax.spaces.dpc.cost import Counts, count
from dpc_jax.spaces.dpc.genotype import Genotype, make_genotype
from dpc_jax.spaces.dpc.official_json import parse
from dpc_jax.spaces.dpc.operators import (
    CONV1X1,
    GRID_INDEX_OF_OP,
    GRIDS,
    INDEX,
    KIND_OF_OP,
    KINDS,
    OP_NAMES,
    OPS,
    POOLING,
    RATE_OF_OP,
    RATES,
    SEPARABLE,
    Op,
    op_name,
)
from dpc_jax.spaces.dpc.space import NAMED, Space

__all__ = [
    'CONV1X1',
    'GRIDS',
    'GRID_INDEX_OF_OP',
    'INDEX',
    'KINDS',
    'KIND_OF_OP',
    'NAMED',
    'OPS',
    'OP_NAMES',
    'POOLING',
    'RATES',
    'RATE_OF_OP',
    'SEPARABLE',
    'Counts',
    'Genotype',
    'Op',
    'Space',
    'count',
    'make_genotype',
    'op_name',
    'parse',
]
