"""What an auxiliary-cell decoder costs in inference, for one image: arithmetic on its integers.

Adapters, cells, blocks and classifier; neither the encoder nor auxiliary heads. Parameters are all that is trained,
with scales and biases of batch norms, as the paper counts them (arXiv:1810.10804 Tables 1 and 2); one multiply-add is
one multiplication of a convolution with its addition. `counting` finds the same in the built module
(tests/test_aux_decoder.py).
"""

import dataclasses
import itertools

from dpc_jax.base import Size
from dpc_jax.spaces.aux_cells.genotype import MAPS, Genotype, levels, loose, pairs, slots
from dpc_jax.spaces.aux_cells.operators import OPS


@dataclasses.dataclass(frozen=True)
class Counts:
    """Trained numbers, and multiply-adds of convolutions."""

    params: int = 0
    macs: int = 0

    def __add__(self, other: 'Counts') -> 'Counts':
        return Counts(self.params + other.params, self.macs + other.macs)


def count(
    genotype: Genotype,
    *,
    sizes: tuple[Size, ...],
    channels: tuple[int, ...],
    filters: int,
    classes: int,
    repeats: int,
) -> Counts:
    """Counts an unbatched genotype on maps of `sizes` (h, w) with C `channels`, both by level (strides 4 to 32).

    `repeats` is how often a separable operator is stacked.
    """
    cells = [rows * columns for rows, columns in sizes]
    level = levels(genotype)
    total = Counts()
    for here, entering in zip(cells, channels, strict=True):
        total += _unit(entering * filters, filters, here)
    for place in itertools.chain(*pairs(genotype)):
        here = cells[level[place]]
        total += cell(genotype, here, filters, repeats) + _unit(filters * filters, filters, here)
    ends = loose(genotype)
    finest = cells[min(level[MAPS + block] for block in ends)]
    total += _unit(len(ends) * filters * filters, filters, finest)
    return total + head(finest, filters, classes)


def cell(genotype: Genotype, size: int, filters: int, repeats: int) -> Counts:
    """One cell on a map of so many cells."""
    total = Counts()
    for slot in slots(genotype):
        op = OPS[slot.op]
        if op.kind == 'conv':
            total += _unit(op.kernel**2 * filters * filters, filters, size)
        elif op.kind == 'separable':
            for _ in range(repeats):
                total += _unit(op.kernel**2 * filters + filters * filters, filters, size)
        elif op.kind == 'pooling':
            total += _unit(filters * filters, filters, 1)
    return total


def head(size: int, filters: int, classes: int) -> Counts:
    """A 3x3 convolution with bias to the classes."""
    weights = 9 * filters * classes
    return Counts(weights + classes, weights * size)


def _unit(weights: int, filters: int, size: int) -> Counts:
    """Convolutions with so many weights, and a batch norm."""
    return Counts(weights + 2 * filters, weights * size)
