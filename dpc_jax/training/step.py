"""One step of training a whole network, over the devices of a mesh: the state, and the one compiled function.

    images, targets -> [forward, loss, gradients] per part of the batch, added up -> optimizer -> moving averages

The batch is split over the axis "data" of the mesh, everything else is on every device. What a step computes is said
without devices (`train_step`), so the same run on more of them differs by rounding only; the one thing that may
depend on their number is whose statistics normalise (`batch_norm`).
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import optax
from clu import metrics as clu_metrics
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from dpc_jax import checks, networks, sharding
from dpc_jax.base import PyTree
from dpc_jax.segmenter import Segmenter
from dpc_jax.task import Target, Task
from dpc_jax.training import optimizer
from dpc_jax.training.optimizer import OptimizerSettings

BATCH_NORMS = ('synced', 'per_device', 'frozen')


@dataclasses.dataclass(frozen=True)
class StepSettings:
    """What a step computes.

    Attributes:
      task: what the outputs mean, and the loss.
      batch_norm: 'synced': statistics of the whole batch (of each part, where it goes through in parts).
        'per_device': statistics of the images of each device, whose moving averages are averaged (the official code
        takes those of the first device). 'frozen': the moving averages normalise and stay; scales and biases
        are trained all the same (official fine_tune_batch_norm=False).
      ema_decay: of the moving average of the weights; 0 for none.

    Raises:
      InputError: another word, a decay outside 0..1.
    """

    task: Task
    optimizer: OptimizerSettings = dataclasses.field(default_factory=OptimizerSettings)
    batch_norm: str = 'synced'
    ema_decay: float = 0.0

    def __post_init__(self) -> None:
        checks.one_of('train.batch_norm', self.batch_norm, BATCH_NORMS)
        checks.below_one('train.ema_decay', self.ema_decay)


@flax.struct.dataclass
class Means(clu_metrics.Collection):
    """What is averaged over the steps between two lines of the log; a part of the state, so a stop loses none of it."""

    loss: clu_metrics.Average.from_output('loss')  # type: ignore[valid-type]
    accuracy: clu_metrics.Average.from_output('accuracy')  # type: ignore[valid-type]
    gradient_norm: clu_metrics.Average.from_output('gradient_norm')  # type: ignore[valid-type]

    def values(self) -> dict[str, float]:
        """The means; NaN where no step was taken."""
        with jax.numpy_dtype_promotion('standard'):  # clu divides by an integer
            return {name: float(value) for name, value in self.compute().items()}


class TrainState(NamedTuple):
    """Everything that a step changes, and all that a run needs to go on: the PRNG and the data follow the step."""

    step: Int[Array, '']  # steps taken
    params: PyTree
    batch_stats: PyTree
    opt_state: optax.OptState
    ema: PyTree  # moving average of {'params', 'batch_stats'}; {} where there is none
    means: Means

    @property
    def variables(self) -> PyTree:
        """What is evaluated and exported: the moving average where there is one."""
        return self.ema or {'params': self.params, 'batch_stats': self.batch_stats}


class StepReport(NamedTuple):
    """What a step reports."""

    loss: Float[Array, '']
    gradient_norm: Float[Array, '']


Step = Callable[[jax.Array, TrainState, Float[Array, 'A B H W 3'], Target], tuple[TrainState, StepReport]]
"""`(key of the run, state, images, targets [A, B, ...]) -> state, StepReport`; the state that goes in is gone."""


def init_state(variables: PyTree, network: Segmenter, settings: StepSettings) -> TrainState:
    """The state before the first step."""
    params, stats = variables['params'], variables['batch_stats']
    averaged = {'params': params, 'batch_stats': stats} if settings.ema_decay else {}
    transform = optimizer.make(params, network.scopes, settings.optimizer)
    return TrainState(jnp.int32(0), params, stats, transform.init(params), averaged, Means.empty())


def state_shapes(network: Segmenter, settings: StepSettings) -> TrainState:
    """Shapes and types of the state."""
    state: TrainState = jax.eval_shape(
        lambda: init_state(networks.init_variables(jax.random.key(0), network), network, settings)
    )
    return state


def make_step(network: Segmenter, settings: StepSettings, mesh: Mesh) -> Step:
    """The compiled step on the devices of `mesh`, whose number must divide B."""
    groups = mesh.shape[sharding.DATA] if settings.batch_norm == 'per_device' else 1
    step = functools.partial(train_step, network=network, settings=settings, groups=groups)
    everywhere, split = sharding.replicated(mesh), NamedSharding(mesh, PartitionSpec(None, sharding.DATA))
    return jax.jit(
        step, in_shardings=(everywhere, everywhere, split, split), out_shardings=everywhere, donate_argnums=1
    )


def train_step(
    key: jax.Array,
    state: TrainState,
    images: Float[Array, 'A B H W 3'],
    target: Target,
    *,
    network: Segmenter,
    settings: StepSettings,
    groups: int = 1,
) -> tuple[TrainState, StepReport]:
    """One step on A parts of B images each, whose gradients are added up; each of `groups` is normalised apart.

    Without hard pixels and with frozen batch norms the number of parts changes nothing but rounding: the loss is
    divided by what is counted in all parts, such as labelled pixels.
    """
    parts, task = images.shape[0], settings.task
    target = jax.tree.map(_wide, target)
    counted = jnp.maximum(_of_groups(task.counted, target, groups).sum(0), 1).astype(jnp.float32)
    judged = jnp.maximum(_of_groups(task.judged, target, groups).sum(0), 1).astype(jnp.float32)
    part_keys = jax.random.split(jax.random.fold_in(key, state.step), parts)
    loss_of = functools.partial(
        part_loss, network=network, settings=settings, step=state.step, counted=counted, parts=parts
    )

    def add(carry: Any, part: Any) -> tuple[Any, None]:
        gradients, stats, sums = carry
        of_params = jax.value_and_grad(loss_of, argnums=1, has_aux=True)
        (loss, (stats, hits)), new = of_params(part[0], state.params, stats, *part[1:])
        return (jax.tree.map(jnp.add, gradients, new), stats, (sums[0] + loss, sums[1] + hits)), None

    zeros = jax.tree.map(jnp.zeros_like, state.params)
    carry, batch = (zeros, state.batch_stats, (jnp.float32(0), jnp.int32(0))), (part_keys, images, target)
    if parts == 1:  # XLA on a CPU is slow at convolutions in loops
        carry, _ = add(carry, jax.tree.map(lambda x: x[0], batch))
    else:
        carry, _ = lax.scan(add, carry, batch)
    gradients, stats, (loss, hits) = carry

    transform = optimizer.make(state.params, network.scopes, settings.optimizer)
    updates, opt_state = transform.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    report = StepReport(loss, optax.tree.norm(gradients))
    accuracy = hits.astype(jnp.float32) / judged.sum()
    means = state.means.merge(Means.single_from_model_output(**report._asdict(), accuracy=accuracy))
    ema = moved(state.ema, {'params': params, 'batch_stats': stats}, state.step, settings.ema_decay)
    return TrainState(state.step + 1, params, stats, opt_state, ema, means), report


def part_loss(
    key: jax.Array,
    params: PyTree,
    stats: PyTree,
    images: Float[Array, 'B H W 3'],
    target: Target,
    *,
    network: Segmenter,
    settings: StepSettings,
    step: Int[Array, ''],
    counted: Float[Array, 'G ...'],
    parts: int,
) -> tuple[Float[Array, ''], tuple[PyTree, Int[Array, '']]]:
    """What a part of the batch adds to the loss; and the moving averages after it, and how many values are right.

    The loss is that of the logits and, each times its weight, those of the auxiliary ones; values are right by the
    logits alone.
    """
    groups, task = counted.shape[0], settings.task

    def one(
        key: jax.Array, images: Float[Array, 'b H W 3'], target: Target, counted: Float[Array, '...']
    ) -> tuple[Any, Any, Any]:
        variables, train = {'params': params, 'batch_stats': stats}, settings.batch_norm != 'frozen'
        outputs, mutated = network.apply(variables, images, train, key, mutable=['batch_stats'], method='outputs')
        fitted = functools.partial(task.fitted, size=(images.shape[1], images.shape[2]))
        loss_of = functools.partial(task.loss, target=target, counted=counted, step=step, parts=parts)
        logits = fitted(outputs.logits)
        loss = loss_of(logits)
        for name, weight in network.auxiliary_weights.items():
            loss = loss + weight * loss_of(fitted(outputs.auxiliary[name]))
        hits = task.hits(lax.stop_gradient(logits), target)
        return loss, mutated['batch_stats'], hits

    if groups == 1:
        loss, moved_stats, hits = one(key, images, target, counted[0])
        return loss, (moved_stats, hits)
    images, target = jax.tree.map(lambda x: x.reshape(groups, -1, *x.shape[1:]), (images, target))
    loss, moved_stats, hits = jax.vmap(one)(jax.random.split(key, groups), images, target, counted)
    return loss.mean(), (jax.tree.map(lambda x: x.mean(0), moved_stats), hits.sum())


def _wide(x: jax.Array) -> jax.Array:
    """Small integers, as labels come from the host, in the type that sums are taken in."""
    return x.astype(jnp.int32) if jnp.issubdtype(x.dtype, jnp.integer) else x


def _of_groups(count: Callable[[Target], Array], target: Target, groups: int) -> Int[Array, 'A G ...']:
    """What is counted in each group of each part."""
    grouped = jax.tree.map(lambda x: x.reshape(x.shape[0], groups, -1, *x.shape[2:]), target)
    return jax.vmap(jax.vmap(count))(grouped)


def moved(average: PyTree, new: PyTree, step: Int[Array, ''], decay: float) -> PyTree:
    """The moving average after a step; it keeps up at first (tf.train.ExponentialMovingAverage with num_updates)."""
    if not average:
        return average
    done = step.astype(jnp.float32)
    kept = jnp.minimum(decay, (1 + done) / (10 + done))
    return optax.incremental_update(new, average, step_size=1 - kept)
