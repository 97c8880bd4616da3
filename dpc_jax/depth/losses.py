"""Losses of distances in metres; pixels whose distance is missing (0) take no part.

The reverse Huber loss, berHu, is that of Laina et al. 2016 (arXiv:1606.00373, §3.2), with c = 0.2 times the largest
error of the batch: absolute up to c, quadratic above it, once differentiable between the two.
"""

from collections.abc import Callable, Mapping

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

SHARE = 0.2  # of the largest error, above which errors count by their square (arXiv:1606.00373, §3.2)
LEAST = 1e-6  # metres: keeps c from 0 where every pixel is right


def berhu(found: Float[Array, '*n'], depth: Float[Array, '*n']) -> Float[Array, '*n']:
    """Reverse Huber: |e| up to c, (e^2 + c^2) / 2c above it, per pixel; 0 where the distance is missing.

    c is taken from the largest error of all these pixels, and no gradient goes through it.
    """
    error = _error(found, depth)
    c = lax.stop_gradient(jnp.maximum(SHARE * error.max(), LEAST))
    return jnp.where(error <= c, error, (error * error + c * c) / (2 * c))


def l1(found: Float[Array, '*n'], depth: Float[Array, '*n']) -> Float[Array, '*n']:
    """Absolute error in metres, per pixel; 0 where the distance is missing."""
    return _error(found, depth)


def log_l2(found: Float[Array, '*n'], depth: Float[Array, '*n']) -> Float[Array, '*n']:
    """Squared difference of natural logarithms, per pixel; 0 where the distance is missing. `found` is above 0."""
    there = depth > 0
    return jnp.where(there, jnp.log(found) - jnp.log(jnp.where(there, depth, 1)), 0) ** 2


def _error(found: Float[Array, '*n'], depth: Float[Array, '*n']) -> Float[Array, '*n']:
    return jnp.where(depth > 0, jnp.abs(found - depth), 0)


LOSSES: Mapping[str, Callable[[Float[Array, '*n'], Float[Array, '*n']], Float[Array, '*n']]] = {
    'berhu': berhu,
    'l1': l1,
    'log_l2': log_l2,
}
"""What `task.loss` may be."""


def total_loss(name: str, found: Float[Array, 'B H W'], depth: Float[Array, 'B H W']) -> Float[Array, '']:
    """The sum of a loss over the pixels whose distance is known; whoever asks divides by their number."""
    return LOSSES[name](found, depth).sum()
