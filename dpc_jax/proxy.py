"""The proxy task: train many small heads at once on cached features, and score each on val (paper §3.2).

A head is a cell and its logits. Everything up to `train_step` and `confusion` is one candidate, unbatched; the
population appears at one seam, `_over_population`: devices by shard_map, chunks by lax.map, vmap within a chunk.
Genotypes, the order of images, and the number of steps are data: three programs (initialise, train, score), each
compiled once, serve a whole search.

All candidates see the same minibatches and draw the same initial noise and dropout masks, so a minibatch is gathered
once for a chunk and a score is a function of genotype, seed and settings alone.
"""

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from dpc_jax import cell, losses, metrics, ops, sharding
from dpc_jax.base import IGNORE_LABEL, Genotype, InputError, KeepGoing, ProxyResult, PyTree, Size
from dpc_jax.cell import CellParams, CellSettings, CellStats
from dpc_jax.spaces import dpc

LOGITS_STDDEV = 0.01  # official model.py, get_branch_logits
BIAS_GRADIENT_FACTOR = 2.0  # official train_utils.get_model_gradient_multipliers: biases learn twice as fast


@dataclasses.dataclass(frozen=True)
class ProxySettings:
    """What a score depends on besides genotype, seed and features.

    Defaults are the paper's (§4.1): 30K steps of batch 8, poly learning rate 0.01, momentum 0.9, weight decay 4e-5,
    BN decay 0.9997. A shorter proxy needs a faster decay, or the moving averages never arrive.
    """

    num_classes: int
    cell: CellSettings
    steps: int = 30_000
    batch_size: int = 8
    learning_rate: float = 0.01
    power: float = 0.9
    momentum: float = 0.9
    weight_decay: float = 4e-5
    evaluations: int = 1  # scores on val during a run; the last is the score
    eval_batch_size: int = 4
    dtype: str = 'float32'

    def __post_init__(self) -> None:
        for name in ('steps', 'batch_size', 'evaluations', 'eval_batch_size'):
            if getattr(self, name) < 1:
                raise InputError(f'proxy.{name} is {getattr(self, name)}; it must be at least 1')
        if self.evaluations > self.steps:
            raise InputError(f'proxy.evaluations is {self.evaluations}; it may be at most proxy.steps ({self.steps})')
        if self.dtype not in ('float32', 'bfloat16'):
            raise InputError(f"proxy.dtype is '{self.dtype}'; allowed: float32, bfloat16")

    def stops(self) -> list[int]:
        """The step at which each evaluation takes place; the last is `steps`."""
        return [self.steps * (i + 1) // self.evaluations for i in range(self.evaluations)]


class ProxyData(NamedTuple):
    """Cached features and labels, on the device. Labels of train are at the loss stride, those of val whole."""

    train_features: Float[Array, 'N h w C']
    train_labels: Int[Array, 'N H W']
    val_features: Float[Array, 'V i j C']
    val_labels: Int[Array, 'V I J']


class Head(NamedTuple):
    """Trained parameters of one candidate."""

    cell: CellParams
    logits_kernel: Float[Array, 'D L']
    logits_bias: Float[Array, ' L']


class Candidate(NamedTuple):
    """One candidate in training."""

    head: Head
    stats: CellStats
    opt_state: optax.OptState
    finite: Bool[Array, '']  # False from the first non-finite loss on


# ---- one candidate --------------------------------------------------------------------------------------------------


def optimizer(settings: ProxySettings) -> optax.GradientTransformation:
    """Momentum SGD, poly learning rate, weight decay on the 1x1 kernels and the logits only (official train_utils)."""
    schedule = optax.polynomial_schedule(settings.learning_rate, 0.0, settings.power, settings.steps)

    def decayed(head: Head) -> PyTree:
        flags = jax.tree.map(lambda _: False, head)
        kept = flags.cell._replace(
            pointwise=flags.cell.pointwise._replace(kernel=True),
            projection=flags.cell.projection._replace(kernel=True),
        )
        return flags._replace(cell=kept, logits_kernel=True)

    return optax.chain(
        optax.add_decayed_weights(settings.weight_decay, mask=decayed),
        optax.sgd(schedule, momentum=settings.momentum),
    )


def init(key: jax.Array, genotype: Genotype, channels: int, settings: ProxySettings) -> Candidate:
    """A fresh candidate (unbatched)."""
    key_cell, key_logits = jax.random.split(key)
    params, stats = cell.init(key_cell, genotype, channels, settings.cell.filters)
    shape = (settings.cell.filters, settings.num_classes)
    kernel = LOGITS_STDDEV * jax.random.truncated_normal(key_logits, -2, 2, shape)
    head = Head(params, kernel, jnp.zeros(settings.num_classes))
    return Candidate(head, stats, optimizer(settings).init(head), jnp.array(True))


def logits(
    head: Head,
    stats: CellStats,
    genotype: Genotype,
    features: Float[Array, 'B h w C'],
    size: Size,
    *,
    settings: ProxySettings,
    train: bool,
    key: jax.Array | None = None,
    used: cell.Uses | None = None,
) -> tuple[Float[Array, 'B L H W'], CellStats]:
    """Class scores at `size` (bilinear, align-corners), classes second; and the new moving averages (unbatched)."""
    x, moved = cell.apply(
        head.cell, stats, genotype, features, settings=settings.cell, train=train, key=key, used=used
    )
    y = jnp.einsum('bhwd,dl->blhw', x.astype(jnp.float32), head.logits_kernel)
    y = y + head.logits_bias[None, :, None, None]
    rows, cols = (ops.resize_matrix(*pair) for pair in zip(y.shape[2:], size, strict=True))
    y = jnp.einsum('blhw,Ww->blhW', y, cols)
    return jnp.einsum('blhW,Hh->blHW', y, rows), moved


def train_step(
    candidate: Candidate,
    genotype: Genotype,
    features: Float[Array, 'B h w C'],
    labels: Int[Array, 'B H W'],
    key: jax.Array,
    *,
    settings: ProxySettings,
    used: cell.Uses | None = None,
) -> tuple[Candidate, Float[Array, '']]:
    """One step on one minibatch (unbatched); gives the loss too."""

    def loss_of(head: Head) -> tuple[jax.Array, CellStats]:
        size = (labels.shape[1], labels.shape[2])
        y, moved = logits(
            head, candidate.stats, genotype, features, size, settings=settings, train=True, key=key, used=used
        )
        return losses.cross_entropy(y, labels), moved

    (loss, stats), grads = jax.value_and_grad(loss_of, has_aux=True)(candidate.head)
    grads = grads._replace(logits_bias=BIAS_GRADIENT_FACTOR * grads.logits_bias)
    updates, opt_state = optimizer(settings).update(grads, candidate.opt_state, candidate.head)
    head = optax.apply_updates(candidate.head, updates)
    return Candidate(head, stats, opt_state, candidate.finite & jnp.isfinite(loss)), loss


def train(
    candidate: Candidate,
    genotype: Genotype,
    used: cell.Uses,
    data: ProxyData,
    order: Int[Array, 'T B'],
    span: Int[Array, ' 2'],
    key: jax.Array,
    *,
    settings: ProxySettings,
) -> tuple[Candidate, Float[Array, '']]:
    """Steps `span[0]` to `span[1]` (unbatched); gives the mean loss over them. The span is data: no program per budget."""
    dtype = jnp.dtype(settings.dtype)

    def step(index: Int[Array, ''], carry: tuple[Candidate, jax.Array]) -> tuple[Candidate, jax.Array]:
        candidate, total = carry
        batch = order[index]
        features, labels = data.train_features[batch].astype(dtype), data.train_labels[batch]
        key_step = jax.random.fold_in(key, index)
        candidate, loss = train_step(
            candidate, genotype, features, labels, key_step, settings=settings, used=used
        )
        return candidate, total + loss

    candidate, total = lax.fori_loop(span[0], span[1], step, (candidate, jnp.float32(0)))
    return candidate, total / (span[1] - span[0]).astype(jnp.float32)


def confusion(
    candidate: Candidate, genotype: Genotype, used: cell.Uses, data: ProxyData, *, settings: ProxySettings
) -> Int[Array, 'L L']:
    """Confusion matrix over all of val at full label resolution (unbatched)."""
    count, batch = data.val_labels.shape[0], settings.eval_batch_size
    size = (data.val_labels.shape[1], data.val_labels.shape[2])

    def add(index: Int[Array, ''], total: Int[Array, 'L L']) -> Int[Array, 'L L']:
        # The last batch reaches back over images that were counted; their labels are passed over.
        wanted = index * batch + jnp.arange(batch)
        chosen = jnp.minimum(wanted, count - 1)
        features = data.val_features[chosen].astype(jnp.dtype(settings.dtype))
        labels = jnp.where((wanted < count)[:, None, None], data.val_labels[chosen], jnp.uint8(IGNORE_LABEL))
        y, _ = logits(
            candidate.head, candidate.stats, genotype, features, size, settings=settings, train=False, used=used
        )
        return total + metrics.confusion_matrix(metrics.predict(y), labels, settings.num_classes)

    zeros = jnp.zeros((settings.num_classes, settings.num_classes), jnp.int32)
    return lax.fori_loop(0, -(-count // batch), add, zeros)


def image_order(key: jax.Array, count: int, settings: ProxySettings) -> Int[np.ndarray, 'T B']:
    """Which of `count` cached images each step reads: one shuffled pass over all of them after the other."""
    needed = settings.steps * settings.batch_size
    keys = jax.random.split(key, -(-needed // count))
    passes = [np.asarray(jax.random.permutation(k, count)) for k in keys]
    return np.concatenate(passes)[:needed].reshape(settings.steps, settings.batch_size).astype(np.int32)


# ---- the population -------------------------------------------------------------------------------------------------


def _over_population(one: Callable, chunk: int, mesh: Mesh, *, candidates: int) -> Callable:
    """Batches `one(*per_candidate, used, *shared)` over a population: the one seam between a candidate and many.

    The first `candidates` arguments get a leading axis P; the genotype must be the last of them. `alive` [P] comes in
    front: a chunk with nobody alive is skipped (its results are what came in, and zeros). Each device takes an equal
    part of P, in chunks one after the other, with vmap within a chunk.
    """

    def on_chunk(alive: Bool[Array, ' c'], args: tuple, shared: tuple) -> PyTree:
        used = cell.uses(args[-1])
        if chunk == 1:  # the same without an axis of length one, which costs XLA some of its shapes
            result = one(*jax.tree.map(lambda leaf: leaf[0], args), used, *shared)
            return jax.tree.map(lambda leaf: leaf[None], result)
        axes = (0,) * candidates + (None,) * (1 + len(shared))
        return jax.vmap(one, in_axes=axes)(*args, used, *shared)

    def on_device(alive: Bool[Array, ' p'], *args: PyTree) -> PyTree:
        per_candidate, shared = args[:candidates], args[candidates:]
        shape = jax.eval_shape(on_chunk, alive[:chunk], jax.tree.map(lambda leaf: leaf[:chunk], per_candidate), shared)

        def run(inputs: tuple) -> PyTree:
            chunk_alive, chunk_args = inputs
            skipped = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shape)
            return lax.cond(
                chunk_alive.any(), lambda: on_chunk(chunk_alive, chunk_args, shared), lambda: skipped
            )

        split = jax.tree.map(lambda leaf: leaf.reshape(-1, chunk, *leaf.shape[1:]), (alive, per_candidate))
        results = lax.map(run, split)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), results)

    @functools.wraps(one)
    def call(alive: Bool[Array, ' P'], *args: PyTree) -> PyTree:
        here, everywhere = PartitionSpec(sharding.POPULATION), PartitionSpec()
        specs = (here,) * (1 + candidates) + (everywhere,) * (len(args) - candidates)
        mapped = jax.shard_map(on_device, mesh=mesh, in_specs=specs, out_specs=here, check_vma=False)
        return mapped(alive, *args)

    return jax.jit(call)


class Programs(NamedTuple):
    """The three compiled programs of a search; each takes `alive` [P] first."""

    init: Callable[..., Candidate]
    train: Callable[..., tuple[Candidate, Float[Array, ' P']]]
    confusion: Callable[..., Int[Array, 'P L L']]


def programs(channels: int, settings: ProxySettings, chunk: int, mesh: Mesh) -> Programs:
    """Programs for populations whose size is a multiple of chunk times devices."""

    def one_init(genotype: Genotype, used: cell.Uses, key: jax.Array) -> Candidate:
        del used
        return init(key, genotype, channels, settings)

    return Programs(
        _over_population(one_init, chunk, mesh, candidates=1),
        _over_population(functools.partial(train, settings=settings), chunk, mesh, candidates=2),
        _over_population(functools.partial(confusion, settings=settings), chunk, mesh, candidates=2),
    )


@dataclasses.dataclass(frozen=True)
class PopulationEvaluator:
    """An `Evaluator`: trains and scores populations of up to any size, `at_once` candidates in one call of a program."""

    settings: ProxySettings
    data: ProxyData
    seed: int
    chunk: int = 1
    at_once: int = 0  # 0: chunk times devices
    steps_per_call: int = 50  # the host hears of an interrupt, and of nothing else, this often
    mesh: Mesh = dataclasses.field(default_factory=sharding.population_mesh)

    @functools.cached_property
    def programs(self) -> Programs:
        """Compiled on first use, once."""
        channels = self.data.train_features.shape[-1]
        return programs(channels, self.settings, self.chunk, self.mesh)

    @property
    def unit(self) -> int:
        """Candidates that run together in one chunk on every device."""
        return self.chunk * self.mesh.size

    @property
    def population(self) -> int:
        """Candidates in one call of a program."""
        return max(self.at_once, self.unit)

    @functools.cached_property
    def _plan(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Key of the initial noise, key of the dropout masks, order of the images: all from the seed."""
        key_init, key_dropout, key_order = jax.random.split(jax.random.key(self.seed), 3)
        order = image_order(key_order, self.data.train_features.shape[0], self.settings)
        return key_init, key_dropout, jnp.asarray(order)

    def __call__(self, genotypes: Genotype, keep_going: KeepGoing | None = None) -> ProxyResult:
        """Trains and scores genotypes [P, K], P at most `population`. See `ProxyResult`."""
        started = time.perf_counter()
        count, stops = len(genotypes.ops), self.settings.stops()
        if not 0 < count <= self.population:
            raise ValueError(f'{count} candidates; this evaluator takes 1 to {self.population} at once')
        genotypes = jax.tree.map(lambda genes: _pad(np.asarray(genes), self.population), genotypes)
        alive = np.arange(self.population) < count
        key_init, key_dropout, order = self._plan
        candidates = self.programs.init(alive, genotypes, key_init)
        curves, losses_ = (np.full((count, len(stops)), np.nan, np.float32) for _ in range(2))
        finite, steps = np.ones(count, bool), np.zeros(count, np.int32)
        for evaluation, (start, stop) in enumerate(zip([0, *stops], stops, strict=False)):
            candidates, loss = self._train(alive, candidates, genotypes, order, (start, stop), key_dropout)
            counts = np.asarray(self.programs.confusion(alive, candidates, genotypes, self.data))
            here = np.flatnonzero(alive[:count])
            finite[here], steps[here] = np.asarray(candidates.finite)[here], stop
            losses_[here, evaluation] = loss[here]
            curves[here, evaluation] = np.where(finite[here], metrics.mean_iou(counts[here]), np.nan)
            alive[:count] &= finite
            if keep_going is not None and stop < self.settings.steps:
                alive[:count] &= keep_going(evaluation, curves[:, evaluation])
            if not alive.any():
                break
        last = curves[np.arange(count), np.searchsorted(stops, steps)]
        return ProxyResult(last, curves, losses_, finite, steps, time.perf_counter() - started)

    def _train(
        self,
        alive: Bool[np.ndarray, ' P'],
        candidates: Candidate,
        genotypes: Genotype,
        order: jax.Array,
        span: tuple[int, int],
        key: jax.Array,
    ) -> tuple[Candidate, Float[np.ndarray, ' P']]:
        """Trains over a span of steps in calls of `steps_per_call`; gives the mean loss over the span."""
        total = np.zeros(self.population, np.float32)
        edges = [*range(span[0], span[1], self.steps_per_call), span[1]]
        for start, stop in itertools.pairwise(edges):
            pair = jnp.array([start, stop], jnp.int32)
            candidates, loss = self.programs.train(alive, candidates, genotypes, self.data, order, pair, key)
            total += np.asarray(loss) * (stop - start)
        return candidates, total / (span[1] - span[0])


def _pad(genes: Int[np.ndarray, 'p K'], population: int) -> Int[np.ndarray, 'P K']:
    """Repeats the first candidate; the repetitions are not alive and cost nothing."""
    return np.concatenate([genes, np.repeat(genes[:1], population - len(genes), axis=0)]).astype(np.int32)


def fastest_chunk(
    make: Callable[[int], PopulationEvaluator], sizes: Sequence[int], *, steps: int = 4
) -> tuple[int, dict[int, float]]:
    """Measures the seconds per candidate-step of each chunk size and gives the fastest, with what was measured.

    Goes up the sizes and stops at the first that is slower than the best so far, or that memory does not hold. The
    candidates are ASPP-like: one pooling branch among separable ones.
    """
    seconds: dict[int, float] = {}
    for size in sizes:
        try:
            seconds[size] = _seconds_per_step(make(size), steps)
        except jax.errors.JaxRuntimeError as error:
            if 'RESOURCE_EXHAUSTED' not in str(error) or not seconds:
                raise
            break
        if seconds[size] > min(seconds.values()):
            break
    return min(seconds, key=lambda size: seconds[size]), seconds


def _seconds_per_step(evaluator: PopulationEvaluator, steps: int) -> float:
    genotype = dpc.Space(5).named('aspp')
    genotypes = jax.tree.map(lambda genes: np.repeat(genes[None], evaluator.population, axis=0), genotype)
    key_init, key_dropout, order = evaluator._plan
    alive = np.ones(evaluator.population, bool)
    candidates = evaluator.programs.init(alive, genotypes, key_init)
    for attempt in range(2):  # the first compiles
        started = time.perf_counter()
        candidates, _ = evaluator._train(alive, candidates, genotypes, order, (0, steps), key_dropout)
    return (time.perf_counter() - started) / (steps * evaluator.population)
