"""Atrous spatial pyramid pooling (arXiv:1706.05587 §3.3): the baseline of the paper."""

from collections.abc import Sequence
from typing import Any

import ml_collections

from dpc_jax.aspp import ASPP, scaled_rate
from dpc_jax.base import InputError

FIELDS = ('rates', 'image_pooling', 'separable')

SCALED_STRIDE, SCALED_RATES = 8, (12, 24, 36)
"""What the official code tells its users to pass at that output stride (deeplab/g3doc/faq.md, Q5; train.py)."""


def make(config: ml_collections.ConfigDict, *, decay: float) -> ASPP:
    """As `config.context` says: rates, image-level feature, kind of the convolutions."""
    context, output_stride = config.context, config.backbone.output_stride
    return ASPP(
        context.filters,
        _rates(context.rates, output_stride),
        output_stride,
        image_pooling=context.image_pooling,
        separable=context.separable,
        dropout_rate=context.dropout_rate,
        decay=decay,
    )


def remarks(config: ml_collections.ConfigDict) -> tuple[str, str]:
    """The rates in force, and a warning if those of the config look scaled already ('' if they do not)."""
    stride = config.backbone.output_stride
    rates = _rates(config.context.rates, stride)
    shown = ', '.join(str(scaled_rate(rate, stride)) for rate in rates)
    line = f'ASPP at output stride {stride}: atrous rates {shown or "none"}'
    if stride != SCALED_STRIDE or min(rates, default=0) != SCALED_RATES[0]:
        return line, ''
    return line, (
        f'context.rates is {rates}, which looks scaled to output stride {stride} already (the official flags are'
        f' {SCALED_RATES} there); here they are those of output stride 16, such as (6, 12, 18), and are scaled by the'
        ' program'
    )


def _rates(rates: Sequence[Any], output_stride: int) -> tuple[int, ...]:
    if any(type(rate) is not int for rate in rates):
        raise InputError(f'context.rates is {rates}; it must be whole numbers')
    for rate in rates:
        scaled_rate(rate, output_stride)
    return tuple(rates)
