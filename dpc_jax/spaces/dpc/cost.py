"""What a Dense Prediction Cell costs in inference, for one image: arithmetic on its integers.

The conventions of the paper's Table 1 (arXiv:1809.04184): one multiply-add is one multiplication with its addition, and
convolutions alone have any. `counting.operations` finds the same numbers in the built module (tests/test_counting.py).
"""

from typing import NamedTuple

from dpc_jax.base import FEATURES, Size
from dpc_jax.spaces.dpc.genotype import Genotype
from dpc_jax.spaces.dpc.operators import OPS


class Counts(NamedTuple):
    """Convolution weights and multiply-adds of a cell for one image; no batch norm, no bias (there is none)."""

    branch_params: int  # what Table 1 of the paper calls Params
    branch_macs: int  # and MAdds, within 0.5 %
    projection_params: int
    projection_macs: int


def count(genotype: Genotype, *, size: Size, channels: int, filters: int, pooling: str) -> Counts:
    """Counts an unbatched genotype on features of `size` (h, w) with C `channels`; `pooling` is that of `ops.Pooling`.

    A pooled branch multiplies at the positions of its pooled map. Table 1 prints the branches without the projection.
    """
    positions = size[0] * size[1]
    params = macs = 0
    for source, index in zip(genotype.inputs, genotype.ops, strict=True):
        op, entering = OPS[index], channels if source == FEATURES else filters
        weights = entering * filters + (9 * entering if op.rate is not None else 0)
        params += weights
        if op.grid is None:
            macs += weights * positions
        else:
            rows, columns = (pooled_cells(n, grid, pooling) for n, grid in zip(size, op.grid, strict=True))
            macs += weights * rows * columns
    projection = len(genotype.ops) * filters * filters
    return Counts(params, macs, projection, projection * positions)


def pooled_cells(size: int, grid: int, pooling: str) -> int:
    """Cells of a pooled axis: the places of a sliding window of (size - 1) // grid + 1 cells, or the bins."""
    return size - (size - 1) // grid if pooling == 'sliding' else min(grid, size)
