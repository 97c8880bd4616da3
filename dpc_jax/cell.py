"""The Dense Prediction Cell in two views that are the same function (tests/test_equivalence.py).

`DensePredictionCell` is one genotype as a Flax module, built like the official one: trained, imported, exported.
`apply` is every genotype at once: the genotype is data, so one compiled program runs any cell, and `jax.vmap` over
genotype and parameters runs a population (`dynamic_cell`). Its parameters have one shape for all cells;
`cell_transfer` carries them from one view to the other.

Official file: tensorflow/models research/deeplab/core/dense_prediction_cell.py; §3.1 of the paper.
"""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpc_jax import ops
from dpc_jax.base import FEATURES, Size
from dpc_jax.context import Context
from dpc_jax.convolution import ConvUnit, separable
from dpc_jax.dynamic_cell import DROPOUT_RATE as DROPOUT_RATE
from dpc_jax.dynamic_cell import CellParams as CellParams
from dpc_jax.dynamic_cell import CellSettings as CellSettings
from dpc_jax.dynamic_cell import CellStats as CellStats
from dpc_jax.dynamic_cell import Unit as Unit
from dpc_jax.dynamic_cell import Uses as Uses
from dpc_jax.dynamic_cell import apply as apply
from dpc_jax.dynamic_cell import init as init
from dpc_jax.dynamic_cell import rate_multiplier as rate_multiplier
from dpc_jax.dynamic_cell import uses as uses
from dpc_jax.spaces import dpc
from dpc_jax.spaces.dpc import Genotype


class DensePredictionCell(Context):
    """One cell. In [B, h, w, C], out [B, h, w, D]; `dropout_key` draws the dropout mask when training.

    The names of its parts are the official scopes: branch{i}_depthwise, branch{i}_pointwise, branch{i},
    concat_projection. `branches` are pairs (input, operator index) as in a genotype.
    """

    branches: tuple[tuple[int, int], ...]
    settings: CellSettings = CellSettings()

    official_scope: ClassVar[str] = 'meta_architecture'

    @classmethod
    def of(cls, genotype: Genotype, settings: CellSettings) -> 'DensePredictionCell':
        """The cell of an unbatched genotype."""
        pairs = zip(genotype.inputs, genotype.ops, strict=True)
        return cls(tuple((int(source), int(op)) for source, op in pairs), settings)

    @nn.compact
    def __call__(
        self,
        features: Float[Array, 'B h w C'],
        train: bool = False,
        dropout_key: jax.Array | None = None,
        pooled_size: Size | None = None,
    ) -> Float[Array, 'B h w D']:
        """`pooled_size` (in cells) is that of `ops.pool`; by default each map is pooled by its own size."""
        outputs: list[jax.Array] = []
        for branch, (source, op) in enumerate(self.branches):
            x = features if source == FEATURES else outputs[source]
            outputs.append(self._branch(x, dpc.OPS[op], f'branch{branch}', train, pooled_size))
        x = jnp.concatenate(outputs, -1)
        if train or dropout_key is not None:
            x = ops.dropout(dropout_key, x, self.settings.dropout_rate)
        return self._unit(ops.xavier_init, 'concat_projection')(x, train)

    def _branch(
        self, x: Float[Array, 'B h w C'], op: dpc.Op, name: str, train: bool, pooled_size: Size | None
    ) -> Float[Array, 'B h w D']:
        if op.rate is not None:
            times = rate_multiplier(self.settings.output_stride)
            rate = (op.rate[0] * times, op.rate[1] * times)
            return separable(x, train, self.settings.filters, name=name, rate=rate, decay=self.settings.decay)
        unit = self._unit(ops.xavier_init, name)
        if op.grid is None:
            return unit(x, train)
        pooled = ops.pool(x, op.grid, self.settings.pooling, pooled_size)
        return ops.resize_bilinear(unit(pooled, train), (x.shape[1], x.shape[2]))

    def _unit(self, init: ops.Initializer, name: str) -> ConvUnit:
        return ConvUnit(self.settings.filters, init, decay=self.settings.decay, name=name)
