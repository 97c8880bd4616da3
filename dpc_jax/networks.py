"""The whole network that a config names: backbone, context, decoder, logits."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from dpc_jax import backbones, checks, contexts, initial, ops
from dpc_jax.base import InputError, PyTree, Size
from dpc_jax.decoder import Decoder
from dpc_jax.segmenter import Segmenter


def make(config: ml_collections.ConfigDict, num_classes: int, *, bn_decay: float | None = None) -> Segmenter:
    """The network; InputError names what is wrong in `config.backbone`, `.context` or `.decoder`.

    `num_classes` are the channels of its last layer (`Task.channels`). `bn_decay` is that of all moving
    averages; by default each part has its official one.
    """
    backbone, decay = config.backbone, {} if bn_decay is None else {'bn_decay': bn_decay}
    model = backbones.make(backbone.name, output_stride=backbone.output_stride, width=backbone.width, **decay)
    checks.at_least(1, num_classes=num_classes)
    others = ops.BN_DECAY if bn_decay is None else bn_decay
    return Segmenter(model, contexts.make(config, decay=bn_decay), num_classes, make_decoder(config, others))


def make_decoder(config: ml_collections.ConfigDict, decay: float = ops.BN_DECAY) -> Decoder | None:
    """The decoder, or None where `config.decoder.output_stride` is 0."""
    decoder = config.decoder
    if decoder.output_stride not in (0, 4):
        raise InputError(f'decoder.output_stride is {decoder.output_stride}; allowed: 4, or 0 for no decoder')
    if not decoder.output_stride:
        return None
    for field in ('filters', 'low_level_filters'):
        checks.at_least(1, **{f'decoder.{field}': decoder[field]})
    return Decoder(decoder.filters, decoder.low_level_filters, 4, decay)


def variable_shapes(network: Segmenter) -> PyTree:
    """Shapes and types of `params` and `batch_stats`; they do not depend on the size of images."""
    side = 2 * network.output_stride + 1
    return jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, side, side, 3))))


def init_variables(key: jax.Array, network: Segmenter) -> PyTree:
    """Fresh `params` and `batch_stats`, by the official initialisers."""
    side = 2 * network.output_stride + 1
    return initial.variables(lambda key: network.init(key, jnp.zeros((1, side, side, 3))), key)


def fewest_values(network: Segmenter, batch_size: int, crop_size: Size) -> tuple[int, str]:
    """How many values per channel a batch norm of the network has in training, at least, and which batch norm that is.

    Of images [batch_size, *crop_size, 3]; the network is traced, nothing is computed. With fewer than two a batch norm
    gives its bias, whatever comes in.
    """
    found: list[tuple[int, str]] = []

    def note(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        if isinstance(context.module, ops.BatchNorm) and context.method_name == '__call__':
            found.append((math.prod(args[0].shape[:-1]), '/'.join(context.module.path)))
        return call(*args, **kwargs)

    def trained(key: jax.Array) -> PyTree:
        return network.init(key, jnp.zeros((batch_size, *crop_size, 3)), True, key, method='outputs')

    with nn.intercept_methods(note):
        jax.eval_shape(trained, jax.random.key(0))
    return min(found)
