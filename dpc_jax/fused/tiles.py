"""What all kernels share: how one is called, which entries a block covers, tables of norms, moments put together.

Kernels are written in Pallas and compiled by Triton. A block's sides are powers of 2, so what lies beyond the end of an
array is masked. Every kernel is written for one candidate; `jax.vmap` gives its grid one more axis.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float, Int

Ref = Any
"""A reference to an array in the memory of the device."""


@dataclasses.dataclass(frozen=True)
class Launch:
    """How kernels run: compiled by Triton, or interpreted (slow, on any device), which is for tests."""

    interpret: bool = False

    def __call__(
        self,
        kernel: Callable[..., None],
        grid: tuple[int, ...],
        inputs: Sequence[Array],
        outputs: Sequence[jax.ShapeDtypeStruct],
        *,
        warps: int,
        **static: Any,
    ) -> list[jax.Array]:
        """Calls `kernel(*inputs, *outputs, **static)` once for each point of the grid; refs are whole arrays."""
        whole = pl.BlockSpec(memory_space=pl.ANY)
        call = pl.pallas_call(
            functools.partial(kernel, **static),
            grid=grid,
            in_specs=[whole] * len(inputs),
            out_specs=[whole] * len(outputs),
            out_shape=list(outputs),
            interpret=self.interpret,
            compiler_params=triton.CompilerParams(num_warps=warps, num_stages=2),
            name=kernel.__name__.strip('_'),
        )
        return list(call(*inputs))

    def barrier(self) -> None:
        """Within a kernel: what each thread of a block has written, all of them see."""
        if not self.interpret:
            triton.debug_barrier()


def wide(dtype: Any) -> np.dtype:
    """The type in which values of `dtype` are added up."""
    return np.promote_types(dtype, np.float32)


def power_of_two(number: int, most: int) -> int:
    """The side of a block that covers `number` entries: 16, which a product of blocks needs, to `most`."""
    return min(most, max(16, pl.next_power_of_2(number)))


def span(start: Any, length: int) -> Int[Array, ' n']:
    """`length` indices from `start` on."""
    return start + jnp.arange(length, dtype=jnp.int32)


def precision(dtype: Any) -> jax.lax.Precision:
    """How the factors of a product are read: bfloat16 as it is, float32 rounded only if JAX is asked to.

    See `proxy_settings.PRECISIONS`; a factor that may be rounded to bfloat16 is rounded to TensorFloat-32.
    """
    rounded = jax.config.jax_default_matmul_precision in ('tensorfloat32', 'bfloat16')  # type: ignore[attr-defined]
    narrow = rounded or dtype == jnp.bfloat16
    return jax.lax.Precision.DEFAULT if narrow else jax.lax.Precision.HIGHEST


def dot(x: Array, y: Array) -> Array:
    """Product of two blocks, added up in the wide type."""
    return jnp.dot(x, y, preferred_element_type=wide(x.dtype), precision=precision(x.dtype))


# ---- what a branch is ------------------------------------------------------------------------------------------------

# Entries of the integers that say what a branch is.
SOURCE, RATE_HEIGHT, RATE_WIDTH, POOLING, EXTENT_HEIGHT, EXTENT_WIDTH, BRANCH = range(7)


# ---- tables of norms ------------------------------------------------------------------------------------------------

# Rows of a table [7, C] of a batch norm and what follows it. The first four are read forward, all of them backward.
MEAN, GAIN, BIAS, FLOOR, RSTD, MEAN_GRAD, MEAN_PRODUCT = range(7)


class Table:
    """Some columns of a norm's table, read into a block."""

    def __init__(self, ref: Ref, columns: Array, inside: Array, rows: Sequence[int]) -> None:
        self.rows = {row: triton.load(ref.at[row, columns], mask=inside, other=0) for row in rows}

    def before(self, x: Array) -> Array:
        """The norm's output before the activation."""
        return (x - self[MEAN]) * self[GAIN] + self[BIAS]

    def activated(self, x: Array) -> Array:
        """The activation's output."""
        return jnp.maximum(self.before(x), self[FLOOR])

    def gated(self, grad: Array, x: Array) -> Array:
        """The gradient of the norm's output from that of the activation's."""
        return jnp.where(self.before(x) > self[FLOOR], grad, 0)

    def normalised(self, x: Array) -> Array:
        """The norm's input less its mean, over its deviation."""
        return (x - self[MEAN]) * self[RSTD]

    def backward(self, grad: Array, x: Array) -> Array:
        """The gradient of the norm's input from that of its output."""
        return self[GAIN] * (grad - self[MEAN_GRAD] - self.normalised(x) * self[MEAN_PRODUCT])

    def __getitem__(self, row: int) -> Array:
        return self.rows[row][None, :]


FORWARD = (MEAN, GAIN, BIAS, FLOOR)
ALL = tuple(range(7))


# ---- moments --------------------------------------------------------------------------------------------------------


def block_moments(x: Array, inside: Array) -> tuple[Array, Array, Array]:
    """Count, mean and sum of squared deviations of the rows of a block that `inside` [rows] marks, by column."""
    count = inside.astype(x.dtype).sum()
    kept = inside[:, None]
    mean = jnp.where(kept, x, 0).sum(0) / jnp.maximum(count, 1)
    return count, mean, jnp.square(jnp.where(kept, x - mean[None, :], 0)).sum(0)


def updated(found: tuple[Array, Array, Array], x: Array, inside: Array) -> tuple[Array, Array, Array]:
    """Moments of each place of a block (count [rows], mean and squared deviations [rows, columns]) and one more value.

    Welford's update: nothing cancels however far the mean is from 0, and no thread waits for another until `gathered`.
    """
    count, mean, squares = found
    count = count + inside.astype(x.dtype)
    apart = jnp.where(inside[:, None], x - mean, 0)
    moved = mean + apart / jnp.maximum(count, 1)[:, None]
    return count, moved, squares + apart * jnp.where(inside[:, None], x - moved, 0)


def gathered(found: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
    """Count, mean and squared deviations by column of all places of a block (Chan, Golub and LeVeque 1979)."""
    counts, means, squares = found
    count = counts.sum()
    mean = (counts[:, None] * means).sum(0) / jnp.maximum(count, 1)
    return count, mean, (squares + counts[:, None] * jnp.square(means - mean[None, :])).sum(0)


def total_moments(parts: Float[Array, 'T 3 C']) -> tuple[Float[Array, ' C'], Float[Array, ' C']]:
    """Mean and (biased) variance from what blocks have found: rows count, mean, sum of squared deviations."""
    counts, means, squares = parts[:, 0], parts[:, 1], parts[:, 2]
    total = jnp.maximum(counts.sum(0), 1)
    mean = (counts * means).sum(0) / total
    return mean, (squares + counts * jnp.square(means - mean[None])).sum(0) / total


def shape(*sides: int, dtype: Any) -> jax.ShapeDtypeStruct:
    """The shape and type of an output."""
    return jax.ShapeDtypeStruct(sides, dtype)
