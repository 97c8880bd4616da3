"""The proxy task: train a small head on cached features and score it on val (paper §3.2).

`heads` says what a head is. Everything here is one candidate, unbatched; `population` batches it.

All candidates see the same minibatches and draw the same initial values and dropout masks, so a minibatch is gathered
once for a chunk and a score is a function of genotype, seed and settings alone.
"""

import functools
import itertools
from collections.abc import Generator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt8

from dpc_jax import fused, heads, losses, metrics, ops
from dpc_jax.base import IGNORE_LABEL, Genotype, PyTree
from dpc_jax.heads import TEACHER, Features, HeadOutputs, More
from dpc_jax.proxy_settings import ProxySettings as ProxySettings


class Images(NamedTuple):
    """Cached images: features by output stride, and labels. A program gets those that are on the device."""

    features: Mapping[int, Float[Array | np.ndarray, 'N _ _ _']]
    labels: UInt8[Array | np.ndarray, 'N H W']


class CandidateState(NamedTuple):
    """One candidate in training."""

    params: PyTree  # of the head
    stats: PyTree  # its moving averages
    opt_state: optax.OptState
    average: PyTree  # of the parameters, or () where none is kept
    finite: Bool[Array, '']  # False from the first non-finite loss, or parameters that are not, on


class Plan(NamedTuple):
    """All that is drawn before a run, from the seed alone; the same for every candidate."""

    key_init: jax.Array  # initial values
    key_dropout: jax.Array  # masks, folded with the step
    order: Int[Array | np.ndarray, 'T B']  # which images each step reads, from the step `first` on
    first: Int[Array, ''] | np.int32 = np.int32(0)


class Block(NamedTuple):
    """What the training program reads in one call."""

    images: Images
    plan: Plan  # whose order is that of `images`
    span: Int[np.ndarray, ' 2']  # from this step to that


@runtime_checkable
class Source(Protocol):
    """Where the images of a proxy come from. Whoever trains or scores on them does not know where they lie."""

    @property
    def train_features(self) -> Mapping[int, Any]:
        """Of all images, at least with their shapes."""

    @property
    def train_labels(self) -> Any:
        """At the loss stride."""

    @property
    def val_features(self) -> Mapping[int, Any]:
        """Of all images, at least with their shapes."""

    def blocks(self, plan: Plan, edges: Sequence[int], steps_per_call: int) -> Generator[Block]:
        """The blocks of the spans between these steps, none of which is longer than `steps_per_call`."""

    def val_blocks(self, settings: ProxySettings, steps_per_call: int) -> Generator[tuple[Images, Int[np.ndarray, '']]]:
        """All of val, in order, in blocks of whole batches; with each, how many images of it count."""


class ProxyData(NamedTuple):
    """The source that is whole on every device. Labels of train are at the loss stride, those of val whole."""

    train_features: Mapping[int, Float[Array, 'N _ _ _']]
    train_labels: UInt8[Array, 'N H W']
    val_features: Mapping[int, Float[Array, 'V _ _ _']]
    val_labels: UInt8[Array, 'V I J']

    @property
    def train(self) -> Images:
        """What is trained on."""
        return Images(self.train_features, self.train_labels)

    @property
    def val(self) -> Images:
        """What is scored on."""
        return Images(self.val_features, self.val_labels)

    def blocks(self, plan: Plan, edges: Sequence[int], steps_per_call: int) -> Generator[Block]:
        """See `Source`."""
        del steps_per_call
        for start, stop in itertools.pairwise(edges):
            yield Block(self.train, plan, np.array([start, stop], np.int32))

    def val_blocks(self, settings: ProxySettings, steps_per_call: int) -> Generator[tuple[Images, Int[np.ndarray, '']]]:
        """See `Source`."""
        del settings, steps_per_call
        yield self.val, np.array(len(self.val_labels), np.int32)


# ---- one candidate --------------------------------------------------------------------------------------------------


def init(key: jax.Array, genotype: Genotype, channels: Mapping[int, int], settings: ProxySettings) -> CandidateState:
    """A fresh candidate (unbatched); `channels` are C by output stride."""
    params, stats = settings.head.init(key, genotype, channels)
    average = params if settings.polyak else ()
    return CandidateState(params, stats, settings.rule().init(params), average, jnp.array(True))


def train_step(
    key: jax.Array,
    candidate: CandidateState,
    code: PyTree,
    features: Features,
    labels: Int[Array, 'B H W'],
    scratch: PyTree,
    *,
    settings: ProxySettings,
    used: PyTree = None,
) -> tuple[CandidateState, Float[Array, ''], PyTree]:
    """One step on one minibatch (unbatched); gives the loss too, auxiliary outputs included, and the scratch."""
    head = settings.head
    loss_at_labels = functools.partial(resized_cross_entropy, labels=labels, kernels=settings.kernels)

    def loss_of(outputs: HeadOutputs) -> Float[Array, '']:
        loss = loss_at_labels(outputs.logits)
        for name, weight in head.auxiliary_weights.items():
            loss = loss + weight * loss_at_labels(outputs.auxiliary[name])
        if settings.distillation:
            loss = loss + settings.distillation * difference(outputs.logits, features[TEACHER])
        return loss

    more: More = {'dropout_key': key, 'used': used, 'kernels': settings.kernels}
    with jax.default_matmul_precision(settings.precision):
        found = head.learn(candidate.params, candidate.stats, code, features, loss_of, scratch, **more)
    grads = jax.tree.map(lambda factor, grad: factor * grad, head.multipliers(candidate.params), found.grads)
    with jax.numpy_dtype_promotion('standard'):  # optax's Adam raises a float to an integer count
        updates, opt_state = settings.rule().update(grads, candidate.opt_state, candidate.params)
    params = optax.apply_updates(candidate.params, updates)
    finite = candidate.finite & jnp.isfinite(found.loss)
    moved = CandidateState(params, found.stats, opt_state, candidate.average, finite)
    return moved, found.loss, found.scratch


def averaged(candidate: CandidateState, step: Int[Array, ''], settings: ProxySettings) -> CandidateState:
    """After a step: the average moves, and every so often the parameters become it (release; Polyak)."""
    if not settings.polyak:
        return candidate
    mix = functools.partial(jax.tree.map, lambda old, new: settings.polyak * old + (1 - settings.polyak) * new)
    average = mix(candidate.average, candidate.params)
    due = (step + 1) % settings.polyak_every == 0
    params = jax.tree.map(lambda new, old: jnp.where(due, new, old), average, candidate.params)
    return candidate._replace(params=params, average=average)


def resized_cross_entropy(
    logits: Float[Array, 'B L _ _'], labels: Int[Array, 'B H W'], kernels: fused.Kernels = 'plain'
) -> Float[Array, '']:
    """Mean cross-entropy of logits resized to their labels (DeepLabv3 §4.1)."""

    def plain(logits: Array, labels: Array) -> Array:
        size = (labels.shape[1], labels.shape[2])
        return losses.cross_entropy(ops.upsample_logits(logits, size, axes='blhw'), labels)

    kernels = fused.suit(kernels, dtype=logits.dtype, size=(1, 1), filters=1, classes=logits.shape[1])
    loss: Array = fused.either(kernels, fused.cross_entropy, plain, logits, labels)
    return loss


def difference(logits: Float[Array, 'B L _ _'], teacher: Float[Array, 'B h w L']) -> Float[Array, '']:
    """Mean squared difference to a teacher's logits, at their size (release of arXiv:1810.10804)."""
    resized = ops.upsample_logits(logits, (teacher.shape[1], teacher.shape[2]), axes='blhw')
    return jnp.square(resized - teacher.transpose(0, 3, 1, 2)).mean()


def train(
    candidate: CandidateState,
    code: PyTree,
    used: PyTree,
    images: Images,
    plan: Plan,
    span: Int[Array, ' 2'],
    *,
    settings: ProxySettings,
) -> tuple[CandidateState, Float[Array, '']]:
    """Steps `span[0]` to `span[1]` (unbatched); gives their mean loss. The span is data, so one program serves all."""
    Carry = tuple[CandidateState, jax.Array, PyTree]

    def step(index: Int[Array, ''], carry: Carry) -> Carry:
        candidate, total, scratch = carry
        features, labels = read(images, plan.order[index - plan.first], settings.dtype)
        key_step = jax.random.fold_in(plan.key_dropout, index)
        candidate, loss, scratch = train_step(
            key_step, candidate, code, features, labels, scratch, settings=settings, used=used
        )
        return averaged(candidate, index, settings), total + loss, scratch

    scratch = settings.head.scratch(heads.shapes_of(images.features, plan.order.shape[1]))
    candidate, total, _ = lax.fori_loop(span[0], span[1], step, (candidate, jnp.float32(0), scratch))
    # The last step's loss does not show whether its update left the parameters finite.
    leaves = jax.tree.leaves((candidate.params, candidate.stats))
    sound = jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()
    candidate = candidate._replace(finite=candidate.finite & sound)
    return candidate, total / (span[1] - span[0]).astype(jnp.float32)


def confusion(
    candidate: CandidateState,
    code: PyTree,
    used: PyTree,
    images: Images,
    count: Int[Array, ''],
    *,
    settings: ProxySettings,
) -> Int[Array, 'L L']:
    """Confusion matrix over the first `count` images at full label resolution (unbatched). The count is data."""
    batch, num_classes = settings.eval_batch_size, settings.head.num_classes
    size = (images.labels.shape[1], images.labels.shape[2])

    def add(index: Int[Array, ''], total: Int[Array, 'L L']) -> Int[Array, 'L L']:
        # The last batch is filled up with the last image, whose label is then ignored.
        wanted = index * batch + jnp.arange(batch)
        features, labels = read(images, jnp.minimum(wanted, count - 1), settings.dtype)
        labels = jnp.where((wanted < count)[:, None, None], labels, IGNORE_LABEL)
        with jax.default_matmul_precision(settings.precision):
            outputs, _ = settings.head.apply(candidate.params, candidate.stats, code, features, train=False, used=used)
            logits = ops.upsample_logits(outputs.logits, size, axes='blhw')
        return total + metrics.confusion_matrix(metrics.predict(logits), labels, num_classes)

    return lax.fori_loop(0, -(-count // batch), add, jnp.zeros((num_classes, num_classes), jnp.int32))


def read(images: Images, chosen: Int[Array, ' B'], dtype: str) -> tuple[Features, Int[Array, 'B H W']]:
    """Features of these images at every stride, in `dtype`, and their labels.

    What follows is compiled apart from this, so that it has the same bits wherever the images lie.
    """
    features = {stride: array[chosen].astype(jnp.dtype(dtype)) for stride, array in images.features.items()}
    labels = images.labels[chosen].astype(jnp.int32)
    found: tuple[Features, Array] = lax.optimization_barrier((features, labels))
    return found


def image_order(key: jax.Array, count: int, settings: ProxySettings) -> Int[np.ndarray, 'T B']:
    """Which of `count` cached images each step reads: one shuffled pass over all of them after the other."""
    needed = settings.steps * settings.batch_size
    keys = jax.random.split(key, -(-needed // count))
    passes = jax.vmap(lambda key_pass: jax.random.permutation(key_pass, count))(keys)
    return np.asarray(passes).reshape(-1)[:needed].reshape(settings.steps, settings.batch_size).astype(np.int32)
