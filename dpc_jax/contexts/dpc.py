"""A Dense Prediction Cell (arXiv:1809.04184 §3.1), by its name or from a file in the official format."""

import pathlib

import ml_collections

from dpc_jax import found_cells
from dpc_jax.base import Genotype, InputError
from dpc_jax.cell import CellSettings, DensePredictionCell, rate_multiplier
from dpc_jax.spaces import dpc


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
    if (found := found_cells.text_of(name)) is not None:
        return dpc.parse(found, f"cell '{name}'")
    if name.lstrip().startswith('['):
        return dpc.parse(name, 'context.genotype')
    path = pathlib.Path(name).expanduser()
    try:
        text = path.read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, 'strerror', None) or 'not a text file'
        named = ', '.join((*dpc.NAMED, *found_cells.names()))
        raise InputError(f"context.genotype '{name}': {why}; it must be a JSON file or one of {named}") from error
    return dpc.parse(text, str(path))
