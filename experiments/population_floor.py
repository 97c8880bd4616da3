"""What a candidate-step must cost at least, and what its parts take.

For `bench_population.py`. The floor counts maps: every map of a branch is too large to stay in a cache beside all
others, so each part reads and writes its maps once, and the products multiply at the rate that the device reaches on
the largest of them.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dpc_jax import cell, fused, ops, proxy
from dpc_jax.base import FEATURES, PyTree, Size
from dpc_jax.dynamic_cell import (
    Fast,
    Frame,
    Kept,
    Mixed,
    Parts,
    Plain,
    Sources,
    Weights,
    branch_of,
    facts_of,
    table_of,
)
from dpc_jax.spaces.dpc import Genotype


@dataclasses.dataclass(frozen=True)
class Shape:
    """The shape of a step: B images of h x w cells, C channels, D filters, L classes, labels H x W."""

    images: int
    size: Size
    channels: int
    filters: int
    classes: int
    labels: Size
    dtype: str

    @property
    def cells(self) -> int:
        """Cells of all images."""
        return self.images * self.size[0] * self.size[1]


@dataclasses.dataclass(frozen=True)
class Work:
    """Bytes that go through memory, and multiply-adds (times 2) of matrix products."""

    bytes: float
    flops: float

    def seconds(self, ceilings: 'Ceilings') -> float:
        """At least this long, if reading and multiplying hide each other."""
        return max(self.bytes / ceilings.bytes_per_second, self.flops / ceilings.flops_per_second)


@dataclasses.dataclass(frozen=True)
class Ceilings:
    """What the device does in one second."""

    bytes_per_second: float
    flops_per_second: float


# Maps that the parts of a branch read and write: of those with the channels that enter it, and of those with D.
#   forward: spread 2, product 1 + 1, settle 2 D, projection 1 D
#   backward: projection 1 + 1 D, collect 3 D, product 2 + 3 D, its weights 1 + 1 D, spread 3 + 1 D
ENTERING_PASSES, FILTER_PASSES = 2 + 1 + 2 + 1 + 3, 1 + 2 + 1 + 2 + 3 + 3 + 1 + 1
# The projection's own map: written, read for the logits; read for their gradient and their weights', the gradient of
# the activation written; both read, the gradient of the product written and read.
HEAD_PASSES = 1 + 1 + 1 + 1 + 1 + 2 + 1 + 1


def floor(shape: Shape, genotypes: Genotype) -> Work:
    """The mean over genotypes [P, K] of what a training step of one of them must move and multiply."""
    reads = jnp.asarray(genotypes.inputs) == FEATURES
    entering = float(jnp.where(reads, shape.channels, shape.filters).mean(0).sum())  # over the branches, channels
    branches = reads.shape[-1]
    item = jnp.dtype(shape.dtype).itemsize
    channels = ENTERING_PASSES * entering + (FILTER_PASSES * branches + HEAD_PASSES) * shape.filters
    products = entering * shape.filters + branches * shape.filters**2 + shape.filters * shape.classes
    logits = 4 * 4 * shape.classes * shape.images * shape.labels[1] * shape.size[0]  # float32, resized along the width
    weights = 4 * 6 * products  # parameters and momentum read and written, gradients written and read
    return Work(item * shape.cells * channels + logits + weights, 3 * 2 * shape.cells * products)


def ceilings(shape: Shape) -> Ceilings:
    """Measured here: a pass over maps that no cache holds, and the product of the projection."""
    width = 5 * shape.filters
    x = jnp.ones((max(shape.cells, 2**26 // width), width), shape.dtype)
    kernel = jnp.ones((width, shape.filters), shape.dtype)
    rows = jnp.ones((shape.cells, width), shape.dtype)
    add, times = jax.jit(lambda x: x + jnp.ones((), x.dtype)), jax.jit(jnp.matmul)
    moved = 2 * x.size * x.dtype.itemsize
    flops = 2 * shape.cells * width * shape.filters
    return Ceilings(moved / fastest(lambda: add(x)), flops / fastest(lambda: times(rows, kernel)))


def fastest(run: Callable[[], PyTree], repetitions: int = 7) -> float:
    """Seconds of the least disturbed run; the first, which compiles, does not count."""
    jax.block_until_ready(run())
    seconds = []
    for _ in range(repetitions):
        started = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - started)
    return min(seconds)


# ---- parts ----------------------------------------------------------------------------------------------------------


def profile(shape: Shape, genotype: Genotype, settings: proxy.ProxySettings) -> Mapping[str, float]:
    """Seconds of each part of a step of one genotype [K], each a program of its own on maps of noise.

    Their sum is not the step: apart, nothing of one is done within another, and each starts with cold caches.
    """
    frame = Frame(shape.images, shape.size, shape.channels, shape.filters, 0.1, features_fixed=True)
    suited = fused.suit(
        settings.kernels, dtype=shape.dtype, size=shape.size, filters=shape.filters, classes=shape.classes
    )
    kernels = fused.for_device(suited, jax.devices()[0])
    parts: Parts = Plain(frame) if kernels == 'plain' else Fast(frame, fused.Launch(kernels == 'interpret'))
    head: Any = settings.head
    key = jax.random.key(0)
    params, _ = cell.init(key, genotype, shape.channels, shape.filters)
    facts = facts_of(genotype, cell.uses(genotype), shape.size, shape.dtype, head.cell)
    noise = functools.partial(_noise, dtype=shape.dtype)
    maps = (shape.images, *shape.size)
    features, logits = noise(*maps, shape.channels), jnp.ones((shape.filters, shape.classes))
    seconds: dict[str, float] = {}

    def timed(name: str, run: Callable[..., PyTree], *args: Any) -> PyTree:
        program = jax.jit(run)
        seconds[name] = seconds.get(name, 0.0) + fastest(lambda: program(*args), 3)
        return program(*args)

    mixed_shape = (*maps, len(genotype.ops) * shape.filters)
    keep = timed('draw dropout', lambda key: ops.dropout_mask(key, mixed_shape, 0.1), key)
    prepared = jax.jit(parts.prepare)(features)
    outputs: list[Any] = []
    kept = []
    for k in range(len(genotype.ops)):
        branch = branch_of(params, facts, k)
        x, moments = timed('within channels', lambda b, *s: parts.spread(b, Sources(*s)), branch, prepared, outputs)
        before = Kept(x, table_of(moments, branch.depthwise, branch.separable), jnp.float32(shape.cells))
        y, moments, again = timed('products of branches', parts.product, branch, x, before.table)
        after = Kept(y, table_of(moments, branch.pointwise), jnp.float32(shape.cells))
        kept.append((before, after, again))
        outputs = [*outputs, timed('norms behind them', parts.settle, branch, y, after.table)]
    mixed = Mixed(outputs, keep, params.projection.kernel)
    y, moments, again = timed('projection', lambda f, *m: parts.project(f, Mixed(*m)), facts, *mixed)
    last = Kept(y, table_of(moments, params.projection), jnp.float32(shape.cells))
    scores = timed('logits', parts.finish, facts, y, last.table, logits)
    labels = jnp.zeros((shape.images, *shape.labels), jnp.int32)
    loss = functools.partial(proxy.resized_cross_entropy, kernels=kernels)
    grad = timed('loss', jax.grad(lambda scores: loss(scores.transpose(0, 3, 1, 2), labels)), scores)
    grad, _, _ = timed('logits back', parts.finish_backward, facts, grad, y, last.table, logits)
    run = lambda f, a, g, m, k: parts.project_backward(f, a, g, Mixed(*m), k)  # noqa: E731
    entering, _ = timed('projection back', run, facts, last, grad, tuple(mixed), again)
    read: list[Any] = []
    for k in reversed(range(len(genotype.ops))):
        branch, (before, after, again) = branch_of(params, facts, k), kept[k]
        grad, _ = timed('norms back', parts.collect, branch, after.x, after.table, entering[k], read[::-1])
        sources = (prepared, outputs[:k])
        back = lambda b, a, g, x, s, k: parts.enter_backward(b, a, g, x, Sources(*s), k)  # noqa: E731
        x_grad, _, _ = timed('branches back', back, branch, after, grad, before, sources, again)
        read.append((branch.ints[fused.SOURCE], x_grad))
    optimizer, weights = optax.sgd(0.1, momentum=0.9), Weights(params, logits)
    timed('optimizer', lambda w, s: optimizer.update(w, s, w), weights, optimizer.init(weights))
    return seconds


def _noise(*shape: int, dtype: str) -> jax.Array:
    return jax.random.normal(jax.random.key(1), shape).astype(dtype)
