"""The proxy task: train a small head on cached features and score it on val (paper §3.2).

A head is a cell and its logits. Everything here is one candidate, unbatched; `population` batches it.

All candidates see the same minibatches and draw the same initial noise and dropout masks, so a minibatch is gathered
once for a chunk and a score is a function of genotype, seed and settings alone.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt8

from dpc_jax import cell, checks, losses, metrics, ops
from dpc_jax.base import IGNORE_LABEL, Genotype, InputError, PyTree, Size
from dpc_jax.cell import CellParams, CellSettings, CellStats

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
        checks.fields_at_least(1, self, ('steps', 'batch_size', 'evaluations', 'eval_batch_size'), 'proxy')
        if self.evaluations > self.steps:
            raise InputError(f'proxy.evaluations is {self.evaluations}; it may be at most proxy.steps ({self.steps})')
        for name, value in (('momentum', self.momentum), ('bn_decay', self.cell.decay)):
            if not 0 <= value < 1:
                raise InputError(f'proxy.{name} is {value}; it must be at least 0 and below 1')
        checks.fields_at_least(0, self, ('power', 'weight_decay'), 'proxy')
        if not self.learning_rate > 0:
            raise InputError(f'proxy.learning_rate is {self.learning_rate}; it must be greater than 0')
        checks.one_of('proxy.dtype', self.dtype, ('float32', 'bfloat16'))

    def stops(self) -> list[int]:
        """The step at which each evaluation takes place; the last is `steps`."""
        return [self.steps * (i + 1) // self.evaluations for i in range(self.evaluations)]


class ProxyData(NamedTuple):
    """Cached features and labels, on the device. Labels of train are at the loss stride, those of val whole."""

    train_features: Float[Array, 'N h w C']
    train_labels: UInt8[Array, 'N H W']
    val_features: Float[Array, 'V i j C']
    val_labels: UInt8[Array, 'V I J']


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
    finite: Bool[Array, '']  # False from the first non-finite loss, or parameters that are not, on


class Plan(NamedTuple):
    """All that is drawn before a run, from the seed alone; the same for every candidate."""

    key_init: jax.Array  # initial noise
    key_dropout: jax.Array  # masks, folded with the step
    order: Int[Array, 'T B']  # which cached images each step reads


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
    dropout_key: jax.Array | None = None,
    used: cell.Uses | None = None,
) -> tuple[Float[Array, 'B L H W'], CellStats]:
    """Class scores at `size` (bilinear, align-corners), classes second; and the new moving averages (unbatched)."""
    x, moved = cell.apply(
        head.cell, stats, genotype, features, settings=settings.cell, train=train, dropout_key=dropout_key, used=used
    )
    return upsample(x, head.logits_kernel, size, head.logits_bias), moved


def upsample(
    x: Float[Array, 'B h w D'], kernel: Float[Array, 'D L'], size: Size, bias: Float[Array, ' L'] | None = None
) -> Float[Array, 'B L H W']:
    """Logits in float32, resized as `ops.upsample_logits` does."""
    y = jnp.einsum('bhwd,dl->blhw', x.astype(jnp.float32), kernel)
    if bias is not None:
        y = y + bias[None, :, None, None]
    return ops.upsample_logits(y, size, axes='blhw')


def train_step(
    key: jax.Array,
    candidate: Candidate,
    genotype: Genotype,
    features: Float[Array, 'B h w C'],
    labels: Int[Array, 'B H W'],
    *,
    settings: ProxySettings,
    used: cell.Uses | None = None,
) -> tuple[Candidate, Float[Array, '']]:
    """One step on one minibatch (unbatched); gives the loss too."""

    def loss_of(head: Head) -> tuple[jax.Array, CellStats]:
        size = (labels.shape[1], labels.shape[2])
        y, moved = logits(
            head, candidate.stats, genotype, features, size, settings=settings, train=True, dropout_key=key, used=used
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
    plan: Plan,
    span: Int[Array, ' 2'],
    *,
    settings: ProxySettings,
) -> tuple[Candidate, Float[Array, '']]:
    """Steps `span[0]` to `span[1]` (unbatched); gives their mean loss. The span is data: no program per budget."""
    dtype = jnp.dtype(settings.dtype)

    def step(index: Int[Array, ''], carry: tuple[Candidate, jax.Array]) -> tuple[Candidate, jax.Array]:
        candidate, total = carry
        batch = plan.order[index]
        features, labels = data.train_features[batch].astype(dtype), data.train_labels[batch].astype(jnp.int32)
        key_step = jax.random.fold_in(plan.key_dropout, index)
        candidate, loss = train_step(key_step, candidate, genotype, features, labels, settings=settings, used=used)
        return candidate, total + loss

    candidate, total = lax.fori_loop(span[0], span[1], step, (candidate, jnp.float32(0)))
    # The last step's loss says nothing of what its update made of the parameters.
    leaves = jax.tree.leaves((candidate.head, candidate.stats))
    sound = jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()
    candidate = candidate._replace(finite=candidate.finite & sound)
    return candidate, total / (span[1] - span[0]).astype(jnp.float32)


def confusion(
    candidate: Candidate, genotype: Genotype, used: cell.Uses, data: ProxyData, *, settings: ProxySettings
) -> Int[Array, 'L L']:
    """Confusion matrix over all of val at full label resolution (unbatched)."""
    count, batch = data.val_labels.shape[0], settings.eval_batch_size
    size = (data.val_labels.shape[1], data.val_labels.shape[2])

    def add(index: Int[Array, ''], total: Int[Array, 'L L']) -> Int[Array, 'L L']:
        # The last batch is filled up with the last image, whose label is then passed over.
        wanted = index * batch + jnp.arange(batch)
        chosen = jnp.minimum(wanted, count - 1)
        features = data.val_features[chosen].astype(jnp.dtype(settings.dtype))
        labels = data.val_labels[chosen].astype(jnp.int32)
        labels = jnp.where((wanted < count)[:, None, None], labels, IGNORE_LABEL)
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
    passes = jax.vmap(lambda key_pass: jax.random.permutation(key_pass, count))(keys)
    return np.asarray(passes).reshape(-1)[:needed].reshape(settings.steps, settings.batch_size).astype(np.int32)
