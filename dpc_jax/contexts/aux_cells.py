"""A decoder of auxiliary cells (arXiv:1810.10804 §3), by its name or from a file: nested lists or flat ones.

It stands on an encoder of output stride 32 and has its own logits, so `decoder.output_stride` is 0. Fields of
`config.context` that only it reads have `DEFAULTS`.
"""

import ml_collections

from dpc_jax import backbones, checks, found_cells
from dpc_jax.aux_decoder import AUXILIARIES, AUXILIARY_WEIGHT, Decoder
from dpc_jax.aux_decoder import BN_DECAY as BN_DECAY
from dpc_jax.base import Genotype, InputError
from dpc_jax.spaces import aux_cells

DEFAULTS = {'repeats': 2, 'auxiliary': 'cell', 'auxiliary_inner': False, 'auxiliary_weight': AUXILIARY_WEIGHT}
FIELDS = ('genotype', *DEFAULTS)


def make(config: ml_collections.ConfigDict, *, decay: float) -> Decoder:
    """The decoder `config.context.genotype`.

    Raises:
      InputError: no such decoder, a word that is none of the auxiliary heads, an encoder without one of the strides.
    """
    context = config.context
    given = {field: context.get(field, default) for field, default in DEFAULTS.items()}
    checks.one_of('context.auxiliary', given['auxiliary'], AUXILIARIES)
    checks.at_least(1, context__repeats=given['repeats'])
    checks.at_least(0, context__auxiliary_weight=given['auxiliary_weight'])
    check_encoder(config)
    if config.decoder.output_stride:
        raise InputError(
            f'decoder.output_stride is {config.decoder.output_stride}; the context aux_cells is a decoder itself: 0'
        )
    return Decoder.of(
        read_genotype(context.genotype),
        filters=context.filters,
        repeats=given['repeats'],
        auxiliary=given['auxiliary'],
        inner=given['auxiliary_inner'],
        weight=given['auxiliary_weight'],
        decay=decay,
    )


def read_genotype(name: str) -> Genotype:
    """The decoder known or found by that name, in that file, or the text of one: `[[8, ...` or `[8, ...`."""
    space = aux_cells.Space()
    if name in space.names:
        return space.named(name)
    text, source = found_cells.read(name, 'context.genotype', space.names)
    return space.from_json(text, source)


def check_encoder(config: ml_collections.ConfigDict) -> None:
    """InputError unless the backbone has a map at each stride that the space reads."""
    backbone = config.backbone
    model = backbones.make(backbone.name, output_stride=backbone.output_stride, width=backbone.width)
    missing = [stride for stride in aux_cells.STRIDES if stride not in model.by_stride]
    if missing:
        raise InputError(
            f'backbone.output_stride is {backbone.output_stride}; auxiliary cells read maps at strides 4, 8, 16 and 32,'
            f' and {backbone.name} then has none at {missing[0]}: it must be 32'
        )
