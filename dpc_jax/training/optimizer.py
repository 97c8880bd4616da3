"""How parameters move: momentum, the poly learning rate, which tensors decay, whose gradients are multiplied.

Source of every rule: tensorflow/models research/deeplab, train.py and utils/train_utils.py (and slim's arg scopes for
what is regularised). What a tensor is, its official name says.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import optax
from flax import traverse_util
from jaxtyping import Array, Float, Int

from dpc_jax import weights
from dpc_jax.base import InputError, PyTree
from dpc_jax.weights import Scopes

BIAS_GRADIENT_MULTIPLIER = 2.0  # get_model_gradient_multipliers: of every variable that is called biases
BACKBONE = 'backbone'  # the part of a network that is no last layer (model.get_extra_layer_scopes)


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """Momentum without Nesterov, poly learning rate that ends at 0; defaults are those of Cityscapes.

    Raises:
      InputError: a number outside of its range.
    """

    steps: int = 90_000
    learning_rate: float = 0.01
    power: float = 0.9
    slow_start_steps: int = 0
    slow_start_learning_rate: float = 1e-4
    momentum: float = 0.9
    weight_decay: float = 4e-5
    last_layer_gradient_multiplier: float = 1.0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f'train.steps is {self.steps}; it must be at least 1')
        for name in ('learning_rate', 'slow_start_learning_rate', 'last_layer_gradient_multiplier'):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f'train.{name} is {getattr(self, name)}; it must be a number above 0')
        for name in ('power', 'weight_decay'):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f'train.{name} is {getattr(self, name)}; it must be a number of at least 0')
        if not 0 <= self.momentum < 1:
            raise InputError(f'train.momentum is {self.momentum}; it must be at least 0 and below 1')
        if not 0 <= self.slow_start_steps < self.steps:
            raise InputError(
                f'train.slow_start_steps is {self.slow_start_steps}; it must be at least 0 and below train.steps'
                f' ({self.steps})'
            )


def learning_rate(step: Int[Array, ''], settings: OptimizerSettings) -> Float[Array, '']:
    """Of the step that begins after `step` steps (get_model_learning_rate)."""
    slow, steps = settings.slow_start_steps, settings.steps
    parts = [
        optax.constant_schedule(settings.slow_start_learning_rate),
        optax.polynomial_schedule(settings.learning_rate, 0.0, settings.power, transition_steps=steps - slow),
        # Compiled, the polynomial may be NaN where it ends: XLA multiplies by 1 / steps, which makes the rest of the
        # way a little less than 0, and a power of that is no number.
        optax.constant_schedule(0.0),
    ]
    return optax.join_schedules(parts, [slow, steps])(step)


def make(params: PyTree, scopes: Scopes, settings: OptimizerSettings) -> optax.GradientTransformation:
    """Momentum SGD for `params` (arrays or shapes) of a network with these official scopes.

    The decay is part of the gradient, as the official regulariser is part of the loss: it is multiplied and gathers
    momentum like the rest.
    """
    factors = gradient_multipliers(params, scopes, settings.last_layer_gradient_multiplier)

    def multiply(gradients: PyTree, _: PyTree) -> PyTree:
        return jax.tree.map(lambda gradient, factor: gradient * factor, gradients, factors)

    return optax.chain(
        optax.add_decayed_weights(settings.weight_decay, mask=decayed(params, scopes)),
        optax.stateless(multiply),
        optax.sgd(lambda step: learning_rate(step, settings), momentum=settings.momentum),
    )


def decayed(params: PyTree, scopes: Scopes) -> PyTree:
    """Which tensors decay: full and pointwise kernels and those of the logits; no depthwise ones, no norm, no bias."""
    return _by_official_name(params, scopes, lambda name, _: name.endswith('/weights'))


def gradient_multipliers(params: PyTree, scopes: Scopes, last_layer: float) -> PyTree:
    """The factor on the gradient of each tensor: twice for biases, `last_layer` for all behind the backbone."""

    def factor(name: str, part: str) -> float:
        bias = BIAS_GRADIENT_MULTIPLIER if name.endswith('/biases') else 1.0
        return bias * (1.0 if part == BACKBONE else last_layer)

    return _by_official_name(params, scopes, factor)


def _by_official_name(params: PyTree, scopes: Scopes, rule: Callable[[str, str], bool | float]) -> PyTree:
    paths = traverse_util.flatten_dict(params)
    found = {path: rule(weights.official_name(('params', *path), scopes), path[0]) for path in paths}
    return traverse_util.unflatten_dict(found)
