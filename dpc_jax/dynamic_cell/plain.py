"""The parts of a cell in the operations of JAX, for every device: shifted reads, sums, matrix products.

What no candidate of a population needs is left out by conditions that are the same for all of them, so that a
condition stays one under `vmap`. What each candidate needs or not is in its numbers: a kernel of 1 at the centre, a
table that changes nothing, the identity for a matrix. So a result does not depend on the neighbours, bit for bit.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from dpc_jax import fused, ops
from dpc_jax.base import FEATURES
from dpc_jax.dynamic_cell.facts import Branch, Facts, Matrices, with_sums
from dpc_jax.dynamic_cell.params import Unit
from dpc_jax.dynamic_cell.passes import Frame, Kept, Mixed, Rows, Sources
from dpc_jax.ops import Moments


class Map(NamedTuple):
    """What a branch reads: the D channels that every branch does, and the R = C - D others of the features.

    The first branch always reads the features, so all their channels are its main ones.
    """

    main: Float[Array, 'B h w D']
    rest: Float[Array, 'B h w R']


class Features(NamedTuple):
    """The features, whole and in the parts that later branches read."""

    whole: Float[Array, 'B h w M']
    parts: Map


@dataclasses.dataclass(frozen=True)
class Plain:
    """See `passes.Parts`."""

    frame: Frame

    def prepare(self, features: Float[Array, 'B h w C']) -> Features:
        """Channels that are missing to D are 0."""
        missing = max(0, self.frame.filters - features.shape[-1])
        whole = jnp.pad(features, ((0, 0), (0, 0), (0, 0), (0, missing)))
        return Features(whole, Map(*jnp.split(whole, [self.frame.filters], -1)))

    # ---- forward ----

    def spread(self, branch: Branch, sources: Sources) -> tuple[Map, Moments]:
        """The depthwise convolution; pooling comes behind the product, where there are fewer channels."""
        x, outputs = _readable(sources), sources.outputs
        kernels = _split(branch.kernel, x)

        def part(kernel: Array, read: Callable[[], Array]) -> tuple[Array, Moments]:
            def convolved() -> tuple[Array, Moments]:
                x = read()
                y = ops.weighted_reads(x, kernel.reshape(3, 3, -1).astype(x.dtype), _rate(branch))
                return y, _moments(y)

            def unchanged() -> tuple[Array, Moments]:
                return read(), Moments(jnp.zeros_like(kernel[0]), jnp.ones_like(kernel[0]))

            return lax.cond(branch.used.separable, convolved, unchanged)

        main, moments = part(kernels.main, lambda: _picked(x.main, branch, outputs))
        if not x.rest.shape[-1]:
            return Map(main, x.rest), moments
        rest, others = lax.cond(
            branch.used.features,
            lambda: part(kernels.rest, lambda: x.rest),
            lambda: (x.rest, Moments(jnp.zeros_like(kernels.rest[0]), jnp.ones_like(kernels.rest[0]))),
        )
        return Map(main, rest), jax.tree.map(lambda *leaves: jnp.concatenate(leaves, -1), moments, others)

    def product(self, branch: Branch, x: Map, table: Array) -> tuple[Rows, Moments, Map]:
        """Keeps what entered the product."""
        tables, kernels = _split(table, x), _split(branch.pointwise.kernel.astype(x.main.dtype), x, axis=0)

        def entered(x: Array, table: Array) -> Array:
            return lax.cond(branch.used.separable, _activated, lambda x, table: x, x, table)

        main, rest = entered(x.main, tables.main), x.rest

        def narrow(main: Array, rest: Array) -> Array:
            return _times(main, kernels.main)

        def wide(main: Array, rest: Array) -> Array:
            return _times(main, kernels.main) + _times(rest, kernels.rest)

        times = narrow
        if rest.shape[-1]:
            rest = lax.cond(branch.used.features, entered, lambda x, table: x, rest, tables.rest)

            def times(main: Array, rest: Array) -> Array:
                return lax.cond(branch.used.features, wide, narrow, main, rest)

        y = self._perhaps_pooled(branch, times, branch.down, main, rest)
        return y, _moments(y, self._inside(branch)), Map(main, rest)

    def settle(self, branch: Branch, y: Rows, table: Array) -> Rows:
        """See `passes.Parts`."""
        return self._perhaps_pooled(branch, _activated, branch.up, y, table)

    def project(self, facts: Facts, mixed: Mixed) -> tuple[Rows, Moments, Array]:
        """Keeps the outputs side by side, after dropout."""
        x = jnp.concatenate(mixed.outputs, -1)
        if mixed.keep is not None:
            x = ops.dropped(x, mixed.keep, self.frame.dropout_rate)
        y = _times(x, mixed.kernel.astype(x.dtype))
        return y, _moments(y), x

    def finish(self, facts: Facts, y: Rows, table: Array, logits: Array | None) -> Float[Array, 'B h w _']:
        """Logits are float32 or wider."""
        x = _activated(y, table)
        return x if logits is None else _times(x.astype(_wide(x)), logits)

    # ---- backward ----

    def finish_backward(
        self, facts: Facts, grad: Array, y: Rows, table: Array, logits: Array | None
    ) -> tuple[Rows, Array, Array | None]:
        """See `passes.Parts`."""
        logits_grad = None
        if logits is not None:
            x = _activated(y, table)
            logits_grad = _gradient(x.astype(_wide(x)), grad)
            grad = _times(grad, logits.T).astype(y.dtype)
        return *_gated(grad, y, table), logits_grad

    def project_backward(
        self, facts: Facts, after: Kept, grad: Rows, mixed: Mixed, kept: Array
    ) -> tuple[list[Rows], Array]:
        """See `passes.Parts`."""
        grad = _before_norm(grad, after.x, after.table)
        entering = _times(grad, mixed.kernel.T.astype(grad.dtype))
        if mixed.keep is not None:
            entering = ops.dropped(entering, mixed.keep, self.frame.dropout_rate)
        return jnp.split(entering, len(mixed.outputs), -1), _gradient(kept, grad)

    def collect(
        self, branch: Branch, y: Rows, table: Array, grad: Rows, read: list[tuple[Array, Map]]
    ) -> tuple[Rows, Array]:
        """See `passes.Parts`."""

        def total(grad: Array, *found: Array) -> Array:
            for (source, _), other in zip(read, found, strict=True):
                grad = grad + jnp.where(source == branch.ints[fused.BRANCH], other, 0)
            return grad

        found = [other.main for _, other in read]
        grad = self._perhaps_pooled(branch, total, _transposed(branch.up), grad, *found)
        return _gated(grad, y, table, self._inside(branch))

    def enter_backward(
        self, branch: Branch, after: Kept, grad: Rows, before: Kept, sources: Sources, kept: Map
    ) -> tuple[Map | None, Array, Unit]:
        """See `passes.Parts`."""
        source, outputs = _readable(sources), sources.outputs
        behind = functools.partial(_before_norm, inside=self._inside(branch))
        grad = self._perhaps_pooled(branch, behind, _transposed(branch.down), grad, after.x, after.table)
        fixed, dtype = self.frame.features_fixed, grad.dtype
        tables, taps = _split(before.table, kept), _split(branch.kernel, kept)
        kernels = _split(branch.pointwise.kernel.astype(dtype), kept, axis=0)

        def part(
            grad: Array, x: Array, taps: Array, table: Array, kernel: Array, kept: Array, *, main: bool
        ) -> tuple[Array, ...]:
            wanted = not fixed or (main and bool(outputs))

            def convolved(grad: Array, x: Array) -> tuple[Array, ...]:
                gated, sums = _gated(_times(grad, kernel.T), x, table)
                whole, norm = with_sums(table, before.values, sums, branch.separable)
                grad = lax.optimization_barrier(_before_norm(gated, x, whole))
                read = _picked(source.main, branch, outputs) if main else source.rest
                found = jnp.where(branch.separable, ops.kernel_gradient(read, grad, _rate(branch)), 0)
                flipped = taps[::-1].reshape(3, 3, -1).astype(dtype)
                return *([ops.weighted_reads(grad, flipped, _rate(branch))] if wanted else []), found, *norm

            def unchanged(grad: Array, x: Array) -> tuple[Array, ...]:
                zeros = jnp.zeros_like(table[0])
                nothing = jnp.zeros_like(taps).reshape(3, 3, -1)
                return *([_times(grad, kernel.T)] if wanted else []), nothing, zeros, zeros

            found: tuple[Array, ...] = lax.cond(branch.used.separable, convolved, unchanged, grad, x)
            return *found, _gradient(kept, grad)

        mine = grad, before.x.main, taps.main, tables.main, kernels.main, kept.main
        *x_grad, taps_grad, scale, bias, kernel = part(*mine, main=True)
        if not kept.rest.shape[-1]:
            return Map(x_grad[0], kept.rest) if x_grad else None, kernel, Unit(taps_grad, scale, bias)
        mine = grad, before.x.rest, taps.rest, tables.rest, kernels.rest, kept.rest
        rest_part = functools.partial(part, main=False)
        empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(rest_part, *mine))
        *rest, others, more_scale, more_bias, more = lax.cond(branch.used.features, rest_part, lambda *_: empty, *mine)
        kernel = jnp.concatenate([kernel, jnp.where(branch.reads_features, more, 0)])
        unit = Unit(
            *(jnp.concatenate(pair, -1) for pair in ((taps_grad, others), (scale, more_scale), (bias, more_bias)))
        )
        return Map(x_grad[0], rest[0] if rest else grad[..., :0]), kernel, unit

    def features_grad(self, facts: Facts, read: list[Map]) -> Float[Array, 'B h w C']:
        """See `passes.Parts`."""
        whole = [jnp.concatenate(grad, -1) for grad in read]
        sources = facts.branches[:, fused.SOURCE]
        mine = [jnp.where(source == FEATURES, grad, 0) for source, grad in zip(sources, whole, strict=True)]
        return functools.reduce(jnp.add, mine)[..., : self.frame.channels]

    # ---- parts of parts ----

    def _perhaps_pooled(
        self, branch: Branch, make: Callable[..., Array], matrices: Matrices, *args: Array
    ) -> Float[Array, 'B h w D']:
        """`make(*args)` and then, where a candidate pools, a matrix along each axis.

        What is made is made within the condition: handing it through one would copy it.
        """
        pooled: Array = lax.cond(branch.used.pooling, lambda *args: ops.along_axes(make(*args), *matrices), make, *args)
        return pooled

    def _inside(self, branch: Branch) -> Bool[Array, '1 h w 1']:
        extent = branch.ints[fused.EXTENT_HEIGHT], branch.ints[fused.EXTENT_WIDTH]
        return ops.extent_mask(self.frame.size, extent)[None, :, :, None]


def _readable(sources: Sources) -> Map:
    """The features as a branch finds them."""
    whole: Array = sources.features.whole
    parts: Map = sources.features.parts
    return parts if sources.outputs else Map(whole, whole[..., :0])


def _picked(features: Array, branch: Branch, outputs: list[Rows]) -> Rows:
    """The map that a branch reads: the features or an earlier output, by index."""
    x, source = features, branch.ints[fused.SOURCE]
    for index, output in enumerate(outputs):
        x = jnp.where(source == index, output, x)
    return x


def _split(x: Array, of: Map, axis: int = -1) -> Map:
    """The parts of an array of channels as a map has them."""
    return Map(*jnp.split(x, [of.main.shape[-1]], axis))


def _transposed(matrices: tuple[Array, Array]) -> tuple[Array, Array]:
    return matrices[0].T, matrices[1].T


def _rate(branch: Branch) -> Array:
    return jnp.stack([branch.ints[fused.RATE_HEIGHT], branch.ints[fused.RATE_WIDTH]])


def _wide(x: Array) -> np.dtype:
    return np.promote_types(x.dtype, np.float32)


def _times(x: Float[Array, 'B h w C'], kernel: Float[Array, 'C D']) -> Float[Array, 'B h w D']:
    return jnp.einsum('bhwc,cd->bhwd', x, kernel)


def _gradient(x: Float[Array, 'B h w C'], grad: Float[Array, 'B h w D']) -> Float[Array, 'C D']:
    # One factor has to be transposed before a CPU can multiply: the narrower one, and after it has been written, or
    # all that it is made of is computed column by column (13 ms instead of 2 on two cores).
    across = lax.optimization_barrier(grad.reshape(-1, grad.shape[-1])).T
    return jnp.matmul(across, x.reshape(-1, x.shape[-1]), preferred_element_type=_wide(x)).T


def _moments(x: Array, inside: Array | None = None) -> Moments:
    """Mean and biased variance of the cells inside, in the wide type."""
    y = x.astype(_wide(x))
    if inside is None:
        count: Array | int = x.shape[0] * x.shape[1] * x.shape[2]
        mean = y.mean((0, 1, 2))
        return Moments(mean, jnp.square(y - mean[None, None, None]).sum((0, 1, 2)) / count)
    # Not divided by their number: XLA makes a product of that or not, and for one device not as for several.
    share = 1 / (x.shape[0] * inside.sum()).astype(y.dtype)
    mean = jnp.where(inside, y, 0).sum((0, 1, 2)) * share
    return Moments(mean, jnp.square(jnp.where(inside, y - mean[None, None, None], 0)).sum((0, 1, 2)) * share)


def _row(table: Array, row: int) -> Float[Array, '1 1 1 C']:
    return table[row][None, None, None]


def _before_activation(x: Array, table: Array) -> Array:
    return (x.astype(_wide(x)) - _row(table, fused.MEAN)) * _row(table, fused.GAIN) + _row(table, fused.BIAS)


def _activated(x: Array, table: Array) -> Array:
    return jnp.maximum(_before_activation(x, table), _row(table, fused.FLOOR)).astype(x.dtype)


def _normalised(x: Array, table: Array) -> Array:
    return (x.astype(_wide(x)) - _row(table, fused.MEAN)) * _row(table, fused.RSTD)


def _gated(grad: Array, x: Array, table: Array, inside: Array | None = None) -> tuple[Array, Float[Array, '2 C']]:
    """The gradient before the activation, and its sums alone and times the normalised input `x`."""
    passes = _before_activation(x, table) > _row(table, fused.FLOOR)
    if inside is not None:
        passes = passes & inside
    gated = jnp.where(passes, grad, 0)
    wide = gated.astype(_wide(x))
    return gated, jnp.stack([wide.sum((0, 1, 2)), (wide * _normalised(x, table)).sum((0, 1, 2))])


def _before_norm(grad: Array, x: Array, table: Array, inside: Array | None = None) -> Array:
    """The gradient of a norm's input `x` from the gated one of its output."""
    shift = _normalised(x, table) * _row(table, fused.MEAN_PRODUCT)
    found = _row(table, fused.GAIN) * (grad.astype(_wide(x)) - _row(table, fused.MEAN_GRAD) - shift)
    return (found if inside is None else jnp.where(inside, found, 0)).astype(x.dtype)
