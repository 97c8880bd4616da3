"""What the score of a proxy depends on, and the rule by which its parameters move."""

import dataclasses
from collections.abc import Callable

import optax

from dpc_jax import checks, fused
from dpc_jax.base import InputError, PyTree
from dpc_jax.heads import Head

DTYPES = ('float32', 'bfloat16')
OPTIMIZERS = ('sgd', 'adam')
PRECISIONS = ('float32', 'tensorfloat32', 'bfloat16')
"""What the factors of a float32 product may be rounded to, as `jax.default_matmul_precision` calls it.

'float32' is the static cell's: nothing is rounded, so both views stay the same function on a GPU or TPU too. On a CPU
and with `dtype` bfloat16 it makes no difference.
"""


@dataclasses.dataclass(frozen=True)
class ProxySettings:
    """What a score depends on besides genotype, seed and features.

    Defaults are the paper's (§4.1): 30K steps of batch 8, poly learning rate 0.01, momentum 0.9, weight decay 4e-5,
    BN decay 0.9997. A shorter proxy needs a faster decay, or the moving averages do not reach the statistics.
    Auxiliary cells (arXiv:1810.10804) are trained by Adam with gradients of a norm of at most `clip_norm`, and every
    `polyak_every` steps the parameters become their average of decay `polyak`.
    """

    head: Head
    steps: int = 30_000
    batch_size: int = 8
    learning_rate: float = 0.01
    power: float = 0.9
    momentum: float = 0.9
    optimizer: str = 'sgd'
    clip_norm: float = 0.0  # 0: none
    weight_decay: float = 4e-5
    polyak: float = 0.0  # 0: none
    polyak_every: int = 1
    distillation: float = 0.0  # weight of the squared difference to the teacher's logits
    evaluations: int = 1  # scores on val during a run, evenly spread; the last is the score
    stops_at: tuple[int, ...] = ()  # further steps after which a score is taken
    eval_batch_size: int = 4
    dtype: str = 'float32'
    precision: str = 'float32'  # of matrix products, see `PRECISIONS`
    kernels: fused.Kernels = 'auto'  # who does the work of a training step

    def __post_init__(self) -> None:
        counts = ('steps', 'batch_size', 'evaluations', 'eval_batch_size', 'polyak_every')
        checks.fields_at_least(1, self, counts, 'proxy')
        if self.evaluations > self.steps:
            raise InputError(f'proxy.evaluations is {self.evaluations}; it may be at most proxy.steps ({self.steps})')
        if not all(0 < step < self.steps for step in self.stops_at):
            raise InputError(
                f'proxy.stops_at is {self.stops_at}; each of its steps must be from 1 to {self.steps - 1}, below'
                ' proxy.steps'
            )
        checks.below_one('proxy.momentum', self.momentum)
        checks.below_one('proxy.polyak', self.polyak)
        checks.fields_at_least(0, self, ('power', 'weight_decay', 'clip_norm', 'distillation'), 'proxy')
        checks.one_of('proxy.optimizer', self.optimizer, OPTIMIZERS)
        if not self.learning_rate > 0:
            raise InputError(f'proxy.learning_rate is {self.learning_rate}; it must be greater than 0')
        checks.one_of('proxy.dtype', self.dtype, DTYPES)
        checks.one_of('proxy.precision', self.precision, PRECISIONS)

    def stops(self) -> list[int]:
        """The step after which each evaluation takes place, ascending; the last is `steps`."""
        even = {self.steps * (i + 1) // self.evaluations for i in range(self.evaluations)}
        return sorted(even | set(self.stops_at))

    def rule(self) -> optax.GradientTransformation:
        """Weight decay on the tensors that the head names, poly learning rate, momentum (official train_utils).

        Adam has its decay added to the gradient, too, as PyTorch's has: after the clipping.
        """
        schedule = optax.polynomial_schedule(self.learning_rate, 0.0, self.power, self.steps)
        steps = optax.adam(schedule) if self.optimizer == 'adam' else optax.sgd(schedule, momentum=self.momentum)
        return self.chain(self.head.decayed, steps)

    def chain(
        self, decayed: Callable[[PyTree], PyTree], steps: optax.GradientTransformation
    ) -> optax.GradientTransformation:
        """Clipping, weight decay of what is `decayed`, steps."""
        clip = [optax.clip_by_global_norm(self.clip_norm)] if self.clip_norm else []
        return optax.chain(*clip, optax.add_decayed_weights(self.weight_decay, mask=decayed), steps)
