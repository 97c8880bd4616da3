"""The whole network that a config names: backbone, context module, decoder, logits."""

import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from dpc_jax import backbones, ops
from dpc_jax.aspp import ASPP, scaled_rate
from dpc_jax.base import Genotype, InputError, PyTree
from dpc_jax.cell import CellSettings, DensePredictionCell, rate_multiplier
from dpc_jax.decoder import Decoder
from dpc_jax.segmenter import Segmenter
from dpc_jax.spaces import dpc

CONTEXTS = ('dpc', 'aspp', 'image_level', 'none')
"""'image_level' is the head of the released MobileNet-v2 models: an image-level feature and a 1x1 convolution."""


def make(config: ml_collections.ConfigDict, num_classes: int, *, bn_decay: float | None = None) -> Segmenter:
    """The network; InputError for whatever in `config.backbone`, `.context` or `.decoder` makes none.

    `bn_decay` of all its moving averages is the official one of each part unless given.
    """
    backbone, decay = config.backbone, {} if bn_decay is None else {'bn_decay': bn_decay}
    model = backbones.make(backbone.name, output_stride=backbone.output_stride, width=backbone.width, **decay)
    if num_classes < 2:
        raise InputError(f'num_classes is {num_classes}; it must be at least 2')
    others = ops.BN_DECAY if bn_decay is None else bn_decay
    return Segmenter(model, make_context(config, others), num_classes, make_decoder(config, others))


def make_context(config: ml_collections.ConfigDict, decay: float = ops.BN_DECAY) -> ASPP | DensePredictionCell | None:
    """What stands on the backbone's features; `decay` is of its batch norms."""
    context, output_stride = config.context, config.backbone.output_stride
    if context.name not in CONTEXTS:
        raise InputError(f"context.name is '{context.name}'; allowed: {', '.join(CONTEXTS)}")
    if context.filters < 1:
        raise InputError(f'context.filters is {context.filters}; it must be at least 1')
    if not 0 <= context.dropout_rate < 1:
        raise InputError(f'context.dropout_rate is {context.dropout_rate}; it must be at least 0 and below 1')
    if context.pooling not in ops.POOLINGS:
        raise InputError(f"context.pooling is '{context.pooling}'; allowed: {', '.join(ops.POOLINGS)}")
    if context.name == 'none':
        return None
    if context.name == 'dpc':
        rate_multiplier(output_stride)
        settings = CellSettings(context.filters, output_stride, context.pooling, context.dropout_rate, decay)
        return DensePredictionCell.of(read_genotype(context.genotype), settings)
    return ASPP(
        context.filters,
        _rates(context.rates, output_stride) if context.name == 'aspp' else (),
        output_stride,
        image_pooling=context.image_pooling or context.name == 'image_level',
        separable=context.separable,
        dropout_rate=context.dropout_rate,
        decay=decay,
    )


def make_decoder(config: ml_collections.ConfigDict, decay: float = ops.BN_DECAY) -> Decoder | None:
    """The decoder, or None where `config.decoder.output_stride` is 0."""
    decoder = config.decoder
    if decoder.output_stride not in (0, 4):
        raise InputError(f'decoder.output_stride is {decoder.output_stride}; allowed: 4, or 0 for no decoder')
    for field in ('filters', 'low_level_filters'):
        if decoder[field] < 1:
            raise InputError(f'decoder.{field} is {decoder[field]}; it must be at least 1')
    return Decoder(decoder.filters, decoder.low_level_filters, 4, decay) if decoder.output_stride else None


def read_genotype(name: str) -> Genotype:
    """The cell known by that name, or in that JSON file of the official format."""
    if name in dpc.NAMED:
        return dpc.Space(5).named(name)
    path = pathlib.Path(name).expanduser()
    try:
        text = path.read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, 'strerror', None) or 'not a text'
        named = ', '.join(dpc.NAMED)
        raise InputError(f"context.genotype '{name}': {why}; it must be a JSON file or one of {named}") from error
    return dpc.parse(text, str(path))


def variable_shapes(network: Segmenter) -> PyTree:
    """Shapes and types of `params` and `batch_stats`; they do not depend on the size of images."""
    side = 2 * network.output_stride + 1
    return jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, side, side, 3))))


def init_variables(key: jax.Array, network: Segmenter) -> PyTree:
    """Fresh `params` and `batch_stats`, by the official initialisers."""
    side = 2 * network.output_stride + 1
    variables: PyTree = jax.jit(lambda key: network.init(key, jnp.zeros((1, side, side, 3))))(key)
    return variables


def _rates(rates: Sequence[Any], output_stride: int) -> tuple[int, ...]:
    if any(type(rate) is not int for rate in rates):
        raise InputError(f'context.rates is {rates}; it must be whole numbers')
    for rate in rates:
        scaled_rate(rate, output_stride)
    return tuple(rates)
