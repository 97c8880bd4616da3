"""Batch normalisation as the official code does it, with its gradient written out."""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

BN_EPSILON = 1e-5  # every batch norm after the backbone (official model.py and dense_prediction_cell.py)
BN_DECAY = 0.9997  # the same (paper §4.1 by way of DeepLabv3 §4)


class Moments(NamedTuple):
    """Mean and variance per channel: of a batch, or the moving averages."""

    mean: Float[Array, '*K C']
    var: Float[Array, '*K C']


def batch_norm(
    x: Float[Array, 'B h w C'],
    scale: Float[Array, ' C'],
    bias: Float[Array, ' C'],
    moving: Moments,
    *,
    train: bool,
    decay: float,
    epsilon: float,
) -> tuple[Float[Array, 'B h w C'], Moments]:
    """x normalised over batch and space in float32 or wider, and the new moving averages (the old ones unless `train`).

    The moving variance takes the unbiased batch variance, as TensorFlow's fused operator does (flax.linen's takes
    the biased one, which the official training-mode numbers exclude).
    """
    if not train:
        return _normalised(x, moving, scale, bias, epsilon), moving
    y, moments = _by_batch(x, scale, bias, epsilon)
    count = x.shape[0] * x.shape[1] * x.shape[2]
    unbiased = moments._replace(var=moments.var * (count / max(count - 1, 1)))
    moved: Moments = jax.tree.map(lambda old, new: decay * old + (1 - decay) * lax.stop_gradient(new), moving, unbiased)
    return y, moved


def _normalised(
    x: Float[Array, 'B h w C'], moments: Moments, scale: Float[Array, ' C'], bias: Float[Array, ' C'], epsilon: float
) -> Float[Array, 'B h w C']:
    gain = scale * lax.rsqrt(moments.var + epsilon)
    y = (x.astype(np.promote_types(x.dtype, np.float32)) - _along(moments.mean)) * _along(gain) + _along(bias)
    return y.astype(x.dtype)


def _along(values: Float[Array, ' C']) -> Float[Array, '1 1 1 C']:
    return values[None, None, None, :]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _by_batch(
    x: Float[Array, 'B h w C'], scale: Float[Array, ' C'], bias: Float[Array, ' C'], epsilon: float
) -> tuple[Float[Array, 'B h w C'], Moments]:
    """x normalised by its own moments, and these, which are no path of gradients.

    The gradient is written out: two sums over the map and one pass, where what JAX derives takes five sums.
    """
    y = x.astype(np.promote_types(x.dtype, np.float32))
    mean = y.mean((0, 1, 2))
    moments = Moments(mean, jnp.square(y - _along(mean)).mean((0, 1, 2)))
    return _normalised(x, moments, scale, bias, epsilon), moments


def _by_batch_forward(x: Array, scale: Array, bias: Array, epsilon: float) -> tuple[Any, tuple[Array, Array, Moments]]:
    y, moments = _by_batch(x, scale, bias, epsilon)
    return (y, moments), (x, scale, moments)


def _by_batch_backward(
    epsilon: float, kept: tuple[Array, Array, Moments], grads: tuple[Array, Moments]
) -> tuple[Array, Array, Array]:
    x, scale, moments = kept
    wide = np.promote_types(x.dtype, np.float32)
    grad, rstd = grads[0].astype(wide), lax.rsqrt(moments.var + epsilon)
    centred = (x.astype(wide) - _along(moments.mean)) * _along(rstd)
    bias_grad, scale_grad = grad.sum((0, 1, 2)), (grad * centred).sum((0, 1, 2))
    count = x.shape[0] * x.shape[1] * x.shape[2]
    shift = _along(bias_grad / count) + centred * _along(scale_grad / count)
    x_grad = _along(scale * rstd) * (grad - shift)
    return x_grad.astype(x.dtype), scale_grad.astype(scale.dtype), bias_grad.astype(scale.dtype)


_by_batch.defvjp(_by_batch_forward, _by_batch_backward)


class BatchNorm(nn.Module):
    """`batch_norm` as a module: parameters `scale`, `bias`; batch statistics `mean`, `var` (all float32 [C])."""

    momentum: float = BN_DECAY
    epsilon: float = BN_EPSILON

    @nn.compact
    def __call__(self, x: Float[Array, 'B h w C'], use_running_average: bool) -> Float[Array, 'B h w C']:
        channels = (x.shape[-1],)
        scale = self.param('scale', nn.initializers.ones, channels)
        bias = self.param('bias', nn.initializers.zeros, channels)
        mean = self.variable('batch_stats', 'mean', jnp.zeros, channels, jnp.float32)
        var = self.variable('batch_stats', 'var', jnp.ones, channels, jnp.float32)
        moving = Moments(mean.value, var.value)
        train = not use_running_average
        y, moved = batch_norm(x, scale, bias, moving, train=train, decay=self.momentum, epsilon=self.epsilon)
        if train and not self.is_initializing():
            mean.value, var.value = moved
        return y
