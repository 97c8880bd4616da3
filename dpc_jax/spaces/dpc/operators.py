"""The 81 operators of the Dense Prediction Cell, as words and as arrays (arXiv:1809.04184, §3.1)."""

import functools
import itertools
from typing import NamedTuple

import numpy as np

from dpc_jax.base import Size

KINDS = ('conv1x1', 'separable', 'pooling')
CONV1X1, SEPARABLE, POOLING = range(3)

RATES = (1, 3, 6, 9, 12, 15, 18, 21)
"""Atrous rates at output stride 16, for height and width alike (paper §3.1)."""

GRIDS = (1, 2, 4, 8)
"""Grids of average spatial pyramid pooling, for height and width alike (paper §3.1)."""

REACHES = ('adjacent', 'any')
"""What a rate or grid of a neighbour may be: the next smaller or larger value, or any other."""


class Op(NamedTuple):
    """One operator: its kind, and the rate or grid that the kind has (None where it has none)."""

    kind: str
    rate: Size | None = None
    grid: Size | None = None


OPS: tuple[Op, ...] = (
    Op('conv1x1'),
    *(Op('separable', rate=rate) for rate in itertools.product(RATES, RATES)),
    *(Op('pooling', grid=grid) for grid in itertools.product(GRIDS, GRIDS)),
)
"""The 81 operators; a genotype's `ops` are indices into this table."""

INDEX = {op: index for index, op in enumerate(OPS)}

# The same table as arrays, for programs in which the operator is data. Where an operator has no rate or grid the
# entry is one that keeps every index computed from it in range.
KIND_OF_OP = np.array([KINDS.index(op.kind) for op in OPS], np.int32)  # [81]
RATE_OF_OP = np.array([op.rate or (1, 1) for op in OPS], np.int32)  # [81, 2]
GRID_INDEX_OF_OP = np.array([[GRIDS.index(g) for g in op.grid or (1, 1)] for op in OPS], np.int32)  # [81, 2]


def op_name(index: int) -> str:
    """A short readable name: `conv1x1`, `sep 6x12`, `pool 2x4` (height first)."""
    op = OPS[index]
    if op.rate is not None:
        return f'sep {op.rate[0]}x{op.rate[1]}'
    return f'pool {op.grid[0]}x{op.grid[1]}' if op.grid is not None else op.kind


OP_NAMES = tuple(op_name(index) for index in range(len(OPS)))


@functools.cache
def op_neighbours(index: int, reach: str) -> dict[str, tuple[int, ...]]:
    """Gene -> the operators that differ from operator `index` in that gene alone."""
    op = OPS[index]
    groups = {'kind': tuple(other for other, candidate in enumerate(OPS) if candidate.kind != op.kind)}
    if op.rate is not None:
        for axis, sizes in _changed(op.rate, RATES, reach).items():
            groups[f'rate_{axis}'] = tuple(INDEX[op._replace(rate=size)] for size in sizes)
    if op.grid is not None:
        for axis, sizes in _changed(op.grid, GRIDS, reach).items():
            groups[f'grid_{axis}'] = tuple(INDEX[op._replace(grid=size)] for size in sizes)
    return groups


def _changed(size: Size, values: tuple[int, ...], reach: str) -> dict[str, list[Size]]:
    height, width = size
    return {
        'height': [(other, width) for other in _others(height, values, reach)],
        'width': [(height, other) for other in _others(width, values, reach)],
    }


def _others(now: int, values: tuple[int, ...], reach: str) -> list[int]:
    here = values.index(now)
    return [value for at, value in enumerate(values) if at != here and (reach == 'any' or abs(at - here) == 1)]


COLOURS = dict(zip(KINDS, ('green', 'blue', 'orange'), strict=True))
"""Of each kind in drawings, by name (`palette.PAIRS`)."""


def at_size(index: int, size: Size, times: float) -> int:
    """The operator that stands for all that are the same on maps of at most `size`; rates are meant `times` larger."""
    rate = OPS[index].rate
    if rate is None:
        return index
    height, width = (next((least for least in RATES if least * times >= n), RATES[-1]) for n in size)
    return INDEX[Op('separable', rate=(min(rate[0], height), min(rate[1], width)))]


def box_lines(op: Op) -> tuple[str, ...]:
    """What stands in the box of an operator: its name, and its rate or grid (height × width)."""
    if op.rate is not None:
        return '3×3 sep', f'rate {op.rate[0]}×{op.rate[1]}'
    if op.grid is not None:
        return 'pool', f'grid {op.grid[0]}×{op.grid[1]}'
    return ('1×1',)
