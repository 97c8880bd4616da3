"""Atrous spatial pyramid pooling (arXiv:1706.05587 §3.3): the baseline of the paper."""

from collections.abc import Sequence
from typing import Any

import ml_collections

from dpc_jax.aspp import ASPP, scaled_rate
from dpc_jax.base import InputError

FIELDS = ('rates', 'image_pooling', 'separable')


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


def _rates(rates: Sequence[Any], output_stride: int) -> tuple[int, ...]:
    if any(type(rate) is not int for rate in rates):
        raise InputError(f'context.rates is {rates}; it must be whole numbers')
    for rate in rates:
        scaled_rate(rate, output_stride)
    return tuple(rates)
