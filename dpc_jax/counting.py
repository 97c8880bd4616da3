"""What a cell costs: convolution weights and multiply-adds, in inference, for one image (the paper's Table 1)."""

from typing import NamedTuple

from dpc_jax import ops
from dpc_jax.base import FEATURES, Genotype, Size
from dpc_jax.ops import Pooling
from dpc_jax.spaces import dpc


class Counts(NamedTuple):
    """Convolution weights and multiply-adds of a cell for one image; no batch norm, no bias (there is none)."""

    branch_params: int  # what Table 1 of the paper calls Params
    branch_macs: int  # and MAdds, within 0.5 %
    projection_params: int
    projection_macs: int


def count(genotype: Genotype, *, size: Size, channels: int, filters: int, pooling: Pooling) -> Counts:
    """Counts an unbatched genotype on features of `size` (h, w) with C `channels`.

    A pooled branch multiplies at the positions of its pooled map. Means and resizes are not counted, as in the
    paper, whose convention this is: Table 1 prints the branches without the projection.
    """
    positions = size[0] * size[1]
    params = macs = 0
    for source, index in zip(genotype.inputs, genotype.ops, strict=True):
        op, entering = dpc.OPS[index], channels if source == FEATURES else filters
        weights = entering * filters + (9 * entering if op.rate is not None else 0)
        params += weights
        if op.grid is None:
            macs += weights * positions
        else:
            extents = [ops.pool_tables(n, (g,), pooling).extent[0] for n, g in zip(size, op.grid, strict=True)]
            macs += weights * int(extents[0]) * int(extents[1])
    projection = len(genotype.ops) * filters * filters
    return Counts(params, macs, projection, projection * positions)
