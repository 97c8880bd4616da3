"""Per-pixel losses with ignore label."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dpc_jax.base import IGNORE_LABEL


def cross_entropy(
    logits: Float[Array, 'B L H W'], labels: Int[Array, 'B H W'], ignore_label: int = IGNORE_LABEL
) -> Float[Array, '']:
    """Mean softmax cross-entropy over the pixels that have a label; 0 where none has (official utils/train_utils.py).

    Classes come second, so that the sums over them run along memory that is read in order.
    """
    kept = labels != ignore_label
    target = jnp.where(kept, labels, 0).astype(jnp.int32)
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=1)
    classes = jnp.arange(logits.shape[1], dtype=jnp.int32)
    chosen = classes[None, :, None, None] == target[:, None]
    loss = -jnp.where(chosen, log_p, 0).sum(1)
    return jnp.where(kept, loss, 0).sum() / jnp.maximum(kept.sum(), 1).astype(jnp.float32)
