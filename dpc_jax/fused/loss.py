"""Cross-entropy of logits against labels of a finer map, without logits or gradients at the size of the labels.

The logits are resized along the width by a matrix product; the kernel resizes along the height as it goes down the
rows, and adds the gradients of a row up in the two rows of logits that it lies between.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float, Int

from dpc_jax import ops
from dpc_jax.base import IGNORE_LABEL
from dpc_jax.fused import tiles
from dpc_jax.fused.tiles import Launch, Ref, span

COLUMNS = 64  # columns of labels of a block


def _loss_of_columns(logits: Ref, labels: Ref, parts: Ref, grads: Ref, *, classes: int, columns: int) -> None:
    image, block = pl.program_id(0), pl.program_id(1)
    _, num_classes, height, width = logits.shape
    rows = labels.shape[1]
    lines, here = span(0, classes), span(block * columns, columns)
    there, kept = lines < num_classes, here < width
    both = there[:, None] & kept[None, :]
    steps, unit = max(rows - 1, 1), height - 1  # row y of the labels lies at y * unit / steps among those of the logits
    zeros = jnp.zeros((classes, columns), logits.dtype)

    def load(row: Array) -> Array:
        at = logits.at[image, lines[:, None], row, here[None, :]]
        return triton.load(at, mask=both, other=0)

    def first_row(row: Array) -> Array:
        """The first row of labels that lies at or below a row of logits."""
        first: Array = jnp.where(
            row >= height, jnp.int32(rows), lax.div(row * steps + max(unit - 1, 0), jnp.int32(max(unit, 1)))
        )
        return first

    def between(row: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        grad_above, total = carry
        above, below = load(row), load(jnp.minimum(row + 1, height - 1))

        def label_row(y: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            grad_above, grad_below, total = carry
            share = (y * unit - row * steps).astype(zeros.dtype) / steps
            scores = above * (1 - share) + below * share
            target = triton.load(labels.at[image, y, here], mask=kept, other=IGNORE_LABEL).astype(jnp.int32)
            counted = kept & (target != IGNORE_LABEL) & (target < num_classes)
            largest = jnp.where(there[:, None], scores, -jnp.inf).max(0)
            powers = jnp.where(there[:, None], jnp.exp(scores - largest[None, :]), 0)
            norm = powers.sum(0)
            chosen = lines[:, None] == target[None, :]
            score = jnp.where(chosen, scores, 0).sum(0)
            loss = jnp.where(counted, jnp.log(norm) + largest - score, 0)
            grad = jnp.where(counted[None, :], powers / norm[None, :] - chosen.astype(powers.dtype), 0)
            return grad_above + (1 - share) * grad, grad_below + share * grad, total + loss

        first, end = first_row(row), first_row(row + 1)
        grad_above, grad_below, total = lax.fori_loop(first, end, label_row, (grad_above, zeros, total))
        triton.store(grads.at[image, lines[:, None], row, here[None, :]], grad_above, mask=both)
        return grad_below, total

    carry = (zeros, jnp.zeros(columns, zeros.dtype))
    total = lax.fori_loop(jnp.int32(0), jnp.int32(height), between, carry)[1]
    triton.store(parts.at[image, here], total, mask=kept)


def cross_entropy(launch: Launch, logits: Float[Array, 'B L h w'], labels: Int[Array, 'B H W']) -> Float[Array, '']:
    """What `losses.cross_entropy` gives for the logits resized to the labels (`ops.upsample_logits`)."""
    return _cross_entropy(launch, logits, labels)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _cross_entropy(launch: Launch, logits: Array, labels: Array) -> Array:
    return _forward(launch, logits, labels)[0]


def _forward(launch: Launch, logits: Array, labels: Array) -> tuple[Array, tuple[Array, Array]]:
    columns = _columns(logits, labels)
    batch, num_classes = logits.shape[:2]
    across = jnp.einsum('blhw,Ww->blhW', logits, columns, precision=lax.Precision.HIGHEST)
    width = tiles.power_of_two(across.shape[-1], COLUMNS)
    parts, grads = launch(
        _loss_of_columns,
        (batch, pl.cdiv(across.shape[-1], width)),
        [across, labels],
        [tiles.shape(batch, across.shape[-1], dtype=logits.dtype), tiles.shape(*across.shape, dtype=logits.dtype)],
        warps=4,
        classes=tiles.power_of_two(num_classes, 1024),
        columns=width,
    )
    count = jnp.maximum((labels != IGNORE_LABEL).sum(), 1).astype(logits.dtype)
    return parts.sum() / count, (grads / count, columns)


def _backward(launch: Launch, residuals: tuple[Array, Array], grad: Array) -> tuple[Array, np.ndarray | None]:
    del launch
    grads, columns = residuals
    return grad * jnp.einsum('blhW,Ww->blhw', grads, columns, precision=lax.Precision.HIGHEST), None


_cross_entropy.defvjp(_forward, _backward)


def _columns(logits: Array, labels: Array) -> Array:
    return jnp.asarray(ops.resize_matrix(logits.shape[-1], labels.shape[-1]), logits.dtype)
