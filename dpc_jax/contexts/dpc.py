"""A Dense Prediction Cell (arXiv:1809.04184 §3.1), by its name or from a file in the official format."""

import ml_collections

from dpc_jax import found_cells
from dpc_jax.base import Genotype
from dpc_jax.cell import CellSettings, DensePredictionCell, rate_multiplier
from dpc_jax.spaces import dpc

FIELDS = ('genotype',)


def make(config: ml_collections.ConfigDict, *, decay: float) -> DensePredictionCell:
    """The cell `config.context.genotype`."""
    context, output_stride = config.context, config.backbone.output_stride
    rate_multiplier(output_stride)
    settings = CellSettings(context.filters, output_stride, context.pooling, context.dropout_rate, decay)
    return DensePredictionCell.of(read_genotype(context.genotype), settings)


def read_genotype(name: str) -> Genotype:
    """The cell known or found by that name, in that JSON file of the official format, or its text: `[{"op": ...`."""
    if name in dpc.NAMED:
        return dpc.Space(5).named(name)
    text, source = found_cells.read(name, 'context.genotype', dpc.NAMED)
    return dpc.parse(text, source)
