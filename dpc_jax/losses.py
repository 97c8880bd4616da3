"""Per-pixel losses with ignore label: the mean over labelled pixels, or over the hardest (official train_utils.py)."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dpc_jax.base import IGNORE_LABEL, InputError


@dataclasses.dataclass(frozen=True)
class LossSettings:
    """How the loss is made from the cross-entropies of the pixels.

    Attributes:
      class_weights: one factor for each class, or () for 1; the mean does not divide by them.
      hard_pixels: share of all pixels, ignored ones included, whose losses are kept: the largest.
      hard_pixels_step: steps over which the share shrinks from 1 to `hard_pixels`; 0 for at once.

    Raises:
      InputError: a weight below 0 or not finite, all weights 0, a share outside 0..1 or 0, a negative number of steps.
    """

    class_weights: tuple[float, ...] = ()
    hard_pixels: float = 1.0
    hard_pixels_step: int = 0

    def __post_init__(self) -> None:
        weights = self.class_weights
        if not all(0 <= weight < math.inf for weight in weights) or (weights and not any(weights)):
            raise InputError(f'train.class_weights is {weights}; it must be numbers of at least 0, not all of them 0')
        if not 0 < self.hard_pixels <= 1:
            raise InputError(f'train.hard_pixels is {self.hard_pixels}; it must be above 0 and at most 1')
        if self.hard_pixels_step < 0:
            raise InputError(f'train.hard_pixels_step is {self.hard_pixels_step}; it must be at least 0')


def cross_entropy(
    logits: Float[Array, 'B L H W'], labels: Int[Array, 'B H W'], ignore_label: int = IGNORE_LABEL
) -> Float[Array, '']:
    """Mean softmax cross-entropy over the pixels that have a label; 0 where none has (official train_utils.py)."""
    total = pixel_losses(logits, labels, ignore_label=ignore_label).sum()
    return total / jnp.maximum((labels != ignore_label).sum(), 1).astype(jnp.float32)


def pixel_losses(
    logits: Float[Array, 'B L H W'],
    labels: Int[Array, 'B H W'],
    class_weights: tuple[float, ...] = (),
    *,
    ignore_label: int = IGNORE_LABEL,
) -> Float[Array, 'B H W']:
    """Softmax cross-entropy of each pixel times the weight of its class; 0 where there is no label.

    Classes come second, so that the sums over them run along memory that is read in order.
    """
    kept = labels != ignore_label
    target = jnp.where(kept, labels, 0).astype(jnp.int32)
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=1)
    if class_weights:
        log_p = log_p * jnp.asarray(class_weights, jnp.float32)[None, :, None, None]
    classes = jnp.arange(logits.shape[1], dtype=jnp.int32)
    chosen = classes[None, :, None, None] == target[:, None]
    return jnp.where(kept, -jnp.where(chosen, log_p, 0).sum(1), 0)


def hard_mean(losses: Float[Array, '*n'], share: Float[Array, '']) -> Float[Array, '']:
    """Mean of the largest int(share * n) losses over those of them that are not 0; 0 where all are.

    `n` counts ignored pixels too (official add_softmax_cross_entropy_loss_for_each_scale, top_k_percent_pixels).
    """
    hardest = jnp.sort(losses.reshape(-1), descending=True)
    wanted = jnp.floor(share * hardest.size).astype(jnp.int32)
    kept = jnp.where(jnp.arange(hardest.size, dtype=jnp.int32) < wanted, hardest, 0)
    return kept.sum() / jnp.maximum((kept != 0).sum(), 1).astype(jnp.float32)


def hard_share(step: Int[Array, ''], settings: LossSettings) -> Float[Array, '']:
    """The share of pixels that is kept at a step."""
    done = jnp.float32(1)
    if settings.hard_pixels_step:
        done = jnp.minimum(step.astype(jnp.float32) / settings.hard_pixels_step, 1)
    return done * settings.hard_pixels + (1 - done)
