"""The way forward and back through a cell whose genotype is data: which part after which, whoever does the parts.

A part is done by one of two sets: `plain` in the operations of JAX, `fast` in kernels for NVIDIA GPUs. The gradient is
written out, so both decide what is kept, read and written; what JAX would derive reads each map several times more.
"""

import functools
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from dpc_jax import fused
from dpc_jax.base import Size
from dpc_jax.dynamic_cell.facts import Branch, Facts, branch_of, counts_of, table_of, with_sums
from dpc_jax.dynamic_cell.params import CellParams, CellStats, Unit
from dpc_jax.ops import Moments

Map = Any
"""The channels that a branch reads, as a set of parts keeps them."""

Rows = Float[Array, 'B h w D']


class Kept(NamedTuple):
    """What the way back needs of one norm: its input, its table without sums, how many values are behind a mean."""

    x: Map
    table: Float[Array, '7 C']
    values: ArrayLike


class Mixed(NamedTuple):
    """What the projection is made of."""

    outputs: list[Rows]
    keep: Bool[Array, 'B h w m'] | None  # what dropout keeps
    kernel: Float[Array, 'm D']


class Sources(NamedTuple):
    """What a branch may read."""

    features: Map
    outputs: list[Rows]


class Frame(NamedTuple):
    """Shapes and what else is compiled in."""

    batch: int
    size: Size
    channels: int  # of the features
    filters: int
    dropout_rate: float
    features_fixed: bool  # no gradient of the features is wanted

    @property
    def scale(self) -> float:
        """What dropout multiplies the entries by that it keeps."""
        return 1 / (1 - self.dropout_rate)


@runtime_checkable  # for the tests, which check every argument
class Parts(Protocol):
    """One way to do the parts of a cell. Maps of filters are [B, h, w, D]; sums are [2, C] as in `facts.with_sums`.

    `table` is always that of the norm named before it; gradients are those of what is named.
    """

    @property
    def frame(self) -> Frame:
        """The shapes."""

    def prepare(self, features: Float[Array, 'B h w C']) -> Map:
        """The features as this set of parts keeps them."""

    def spread(self, branch: Branch, sources: Sources) -> tuple[Map, Moments]:
        """What happens within channels before the product; and its moments, where the branch is separable."""

    def product(self, branch: Branch, x: Map, table: Array) -> tuple[Rows, Moments, Any]:
        """Norm, activation, product; moments within the extent; what `enter_backward` wants to find again."""

    def settle(self, branch: Branch, y: Rows, table: Array) -> Rows:
        """Norm and activation behind the product, at the size of the map."""

    def project(self, facts: Facts, mixed: Mixed) -> tuple[Rows, Moments, Any]:
        """All outputs after dropout times the projection's kernel [K D, D]."""

    def finish(self, facts: Facts, y: Rows, table: Array, logits: Array | None) -> Float[Array, 'B h w _']:
        """Norm and activation of the projection; or those times the weights of the logits [D, L]."""

    def finish_backward(
        self, facts: Facts, grad: Array, y: Rows, table: Array, logits: Array | None
    ) -> tuple[Rows, Array, Array | None]:
        """Gradient of the activation, sums of the norm, gradient of the weights of the logits."""

    def project_backward(
        self, facts: Facts, after: Kept, grad: Rows, mixed: Mixed, kept: Any
    ) -> tuple[list[Rows], Array]:
        """Gradients of all outputs and of the kernel, from that of the activation behind it."""

    def collect(self, branch: Branch, y: Rows, table: Array, grad: Rows, read: list[tuple[Array, Map]]) -> Any:
        """Gradient of the activation, and sums of the norm.

        That of the output is `grad` and what the later branches that read it (pairs: what one reads, the gradient
        of that) add.
        """

    def enter_backward(
        self, branch: Branch, after: Kept, grad: Rows, before: Kept, sources: Sources, kept: Any
    ) -> tuple[Map | None, Array, Unit]:
        """From the gradient of the activation behind the product: those of the map that the branch reads, of the
        product's kernel [M, D], of the convolution and its norm (0 if the branch is not separable).

        That of features which are fixed may be left out; None where nothing is left.
        """

    def features_grad(self, facts: Facts, read: list[Map]) -> Array:
        """The gradient of the features."""


class Weights(NamedTuple):
    """What is trained."""

    cell: CellParams
    logits: Float[Array, 'D L'] | None


def forward(
    parts: Parts, weights: Weights, features: Map, facts: Facts, keep: Any, moving: CellStats | None = None
) -> tuple[tuple[Array, CellStats], Any]:
    """The output (or logits) with the moments of all norms, and what `backward` needs.

    Norms use these moments, or those of `moving`.
    """
    params, logits = weights
    outputs: list[Rows] = []
    kept: list[tuple[Kept, Kept, Any]] = []
    found: list[tuple[Moments, Moments]] = []
    counts = counts_of(facts, parts.frame.batch, parts.frame.size, params.projection.scale.dtype)
    for k in range(facts.separable.shape[0]):
        branch = branch_of(params, facts, k)
        x, first = parts.spread(branch, Sources(features, outputs))
        first = first if moving is None else jax.tree.map(lambda leaf: leaf[k], moving.depthwise)  # noqa: B023
        before = Kept(x, table_of(first, branch.depthwise, branch.separable), counts[0][k])
        y, second, again = parts.product(branch, x, before.table)
        second = second if moving is None else jax.tree.map(lambda leaf: leaf[k], moving.pointwise)  # noqa: B023
        after = Kept(y, table_of(second, branch.pointwise), counts[1][k])
        outputs.append(parts.settle(branch, y, after.table))
        kept.append((before, after, again))
        found.append((first, second))
    y, last, again = parts.project(facts, Mixed(outputs, keep, params.projection.kernel))
    last = last if moving is None else moving.projection
    projected = Kept(y, table_of(last, params.projection), counts[2])
    result = parts.finish(facts, y, projected.table, logits)
    depthwise, pointwise = jax.tree.map(lambda *leaves: jnp.stack(leaves), *found)
    return (result, CellStats(depthwise, pointwise, last)), (outputs, kept, projected, again)


def backward(
    parts: Parts, weights: Weights, features: Map, facts: Facts, keep: Any, *, residuals: Any, grad: Array
) -> tuple[Weights, Array | None]:
    """Gradients of all weights, and of the features unless they are fixed."""
    (params, logits), (outputs, kept, projected, again) = weights, residuals
    y, table, values = projected
    grad, sums, logits_grad = parts.finish_backward(facts, grad, y, table, logits)
    table, norm = with_sums(table, values, sums)
    mixed = Mixed(outputs, keep, params.projection.kernel)
    entering, kernel = parts.project_backward(facts, projected._replace(table=table), grad, mixed, again)
    projection = Unit(kernel, *norm)
    read: list[tuple[Array, Map]] = []  # what each branch reads and the gradient of that, the last branch first
    units: list[tuple[Unit, Unit]] = []
    for k in reversed(range(len(outputs))):
        branch, (before, after, again) = branch_of(params, facts, k), kept[k]
        grad, sums = parts.collect(branch, after.x, after.table, entering[k], read[::-1])
        table, norm = with_sums(after.table, after.values, sums)
        after, sources = after._replace(table=table), Sources(features, outputs[:k])
        x_grad, kernel, depthwise = parts.enter_backward(branch, after, grad, before, sources, again)
        units.append((depthwise, Unit(kernel, *norm)))
        read.append((branch.ints[fused.SOURCE], x_grad))
    depthwises, pointwises = jax.tree.map(lambda *leaves: jnp.stack(leaves), *units[::-1])
    grads = Weights(CellParams(depthwises, pointwises, projection), logits_grad)
    grads = jax.tree.map(lambda leaf, old: leaf.astype(old.dtype), grads, weights)
    fixed = parts.frame.features_fixed
    return grads, None if fixed else parts.features_grad(facts, [leaf for _, leaf in read[::-1]])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def train(
    parts: Parts, weights: Weights, features: Float[Array, 'B h w C'], facts: Facts, keep: Any
) -> tuple[Array, CellStats]:
    """The output (or logits) of a cell in training and the moments of all norms, which no gradient passes."""
    return forward(parts, weights, parts.prepare(features), facts, keep)[0]


def _train_forward(parts: Parts, weights: Weights, features: Array, facts: Facts, keep: Any) -> tuple[Any, Any]:
    prepared = parts.prepare(features)
    result, residuals = forward(parts, weights, prepared, facts, keep)
    return result, (weights, prepared, facts, keep, residuals)


def _train_backward(
    parts: Parts, kept: Any, grads: tuple[Array, CellStats]
) -> tuple[Weights, Array | None, None, None]:
    weights, features, facts, keep, residuals = kept
    weights_grad, features_grad = backward(parts, weights, features, facts, keep, residuals=residuals, grad=grads[0])
    return weights_grad, features_grad, None, None


train.defvjp(_train_forward, _train_backward)
