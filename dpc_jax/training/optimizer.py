"""How parameters move: the optimiser, the poly learning rate, which tensors decay, whose gradients are multiplied.

One rule moves all of a network, momentum SGD, unless parts of it have rules of their own (`PartSettings`).

Source of every rule: tensorflow/models research/deeplab, train.py and utils/train_utils.py (and slim's arg scopes for
what is regularised). The official name of a tensor says which kind it is.
"""

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import optax
from jaxtyping import Array, Float, Int

from dpc_jax import checks, weights
from dpc_jax.base import InputError, PyTree
from dpc_jax.weights import Scopes

BIAS_GRADIENT_MULTIPLIER = 2.0  # get_model_gradient_multipliers: of every variable that is called biases
BACKBONE = 'backbone'  # the part of a network that is not a last layer (model.get_extra_layer_scopes)
AUXILIARY = 'auxiliary'  # the part that only training has
OTHERS = 'others'  # label of all parts that have no rule of their own


@dataclasses.dataclass(frozen=True)
class PartSettings:
    """The rule of one part of a network, in place of the rule of the whole.

    Attributes:
      optimizer: one of `OPTIMIZERS`.
      learning_rate: what the poly learning rate starts from; its form is that of the whole network.
      momentum: used by 'sgd' only.
      weight_decay: added to the gradient by 'sgd' and 'adam', and kept apart from it by 'adamw'.
      clip_norm: the norm that the gradient of all parts with this same rule has at most, before the decay is added;
        0: it is not clipped.

    None means the value of the whole network.

    Raises:
      InputError: an optimiser that is not known, a number outside of its range.
    """

    optimizer: str = 'sgd'
    learning_rate: float | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    clip_norm: float = 0.0

    def __post_init__(self) -> None:
        checks.one_of('optimizer', self.optimizer, OPTIMIZERS)
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise InputError(f'learning_rate is {self.learning_rate}; it must be a number above 0')
        if self.momentum is not None:
            checks.below_one('momentum', self.momentum)
        if self.weight_decay is not None and not 0 <= self.weight_decay < math.inf:
            raise InputError(f'weight_decay is {self.weight_decay}; it must be a number of at least 0')
        if not 0 <= self.clip_norm < math.inf:
            raise InputError(f'clip_norm is {self.clip_norm}; it must be a number of at least 0 (0: not clipped)')


def read_parts(parts: Mapping[str, Any]) -> dict[str, PartSettings]:
    """`train.parts` of a config, `{part: {field: value}}`; InputError names what is wrong in it."""
    found = {}
    for part, fields in parts.items():
        name = f'train.parts.{part}'
        if not isinstance(fields, Mapping):
            raise InputError(f"{name} is {fields!r}; it must be a mapping such as {{'learning_rate': 0.001}}")
        known = PartSettings.__dataclass_fields__
        for field, value in fields.items():
            if field not in known:
                raise InputError(f"{name} has no setting '{field}'; allowed: {', '.join(known)}")
            if field != 'optimizer' and type(value) not in (int, float):
                raise InputError(f'{name}.{field} is {value!r}; it must be a number')
        try:
            numbers = {field: float(value) for field, value in fields.items() if field != 'optimizer'}
            found[part] = PartSettings(fields.get('optimizer', PartSettings.optimizer), **numbers)
        except InputError as error:
            raise InputError(f'{name}.{error}') from None
    return found


def check_parts(parts: Mapping[str, PartSettings], there: Collection[str]) -> None:
    """InputError unless each part that has a rule is `there` in the network. `AUXILIARY` may be switched off."""
    for part in parts:
        if part not in (*there, AUXILIARY):
            raise InputError(f"train.parts names '{part}'; parts of this network: {', '.join(there)}")


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """Momentum without Nesterov, poly learning rate that ends at 0; defaults are those of Cityscapes.

    `parts` have rules of their own, by their names in the network (`Segmenter.scopes`).

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
    parts: Mapping[str, PartSettings] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        checks.at_least(1, train__steps=self.steps)
        for name in ('learning_rate', 'slow_start_learning_rate', 'last_layer_gradient_multiplier'):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f'train.{name} is {getattr(self, name)}; it must be a number above 0')
        for name in ('power', 'weight_decay'):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f'train.{name} is {getattr(self, name)}; it must be a number of at least 0')
        checks.below_one('train.momentum', self.momentum)
        if not 0 <= self.slow_start_steps < self.steps:
            raise InputError(
                f'train.slow_start_steps is {self.slow_start_steps}; it must be at least 0 and below train.steps'
                f' ({self.steps})'
            )


def learning_rate(step: Int[Array, ''], settings: OptimizerSettings) -> Float[Array, '']:
    """The learning rate of the step that begins after `step` steps (get_model_learning_rate)."""
    slow, steps = settings.slow_start_steps, settings.steps
    parts = [
        optax.constant_schedule(settings.slow_start_learning_rate),
        optax.polynomial_schedule(settings.learning_rate, 0.0, settings.power, transition_steps=steps - slow),
        # Compiled, the polynomial may be NaN where it ends: XLA multiplies by 1 / steps, which makes the rest of the
        # way a little less than 0, and a power of that is NaN.
        optax.constant_schedule(0.0),
    ]
    return optax.join_schedules(parts, [slow, steps])(step)


def make(params: PyTree, scopes: Scopes, settings: OptimizerSettings) -> optax.GradientTransformation:
    """The optimiser of `params` (arrays or shapes) of a network with these official scopes.

    Raises:
      InputError: a part has a rule and is not in the network.
    """
    check_parts(settings.parts, scopes)
    if not settings.parts:
        return _rule(params, scopes, settings, PartSettings())
    labels = {part: part if part in settings.parts else OTHERS for part in params}
    rules = {}
    for label in set(labels.values()):
        mine = {part: tree if labels[part] == label else optax.MaskedNode() for part, tree in params.items()}
        rules[label] = _rule(mine, scopes, settings, settings.parts.get(label, PartSettings()))
    moved = optax.partition(rules, labels)
    return optax.chain(_clipping(params, settings.parts), moved) if _clips(settings.parts) else moved


def _clips(parts: Mapping[str, PartSettings]) -> bool:
    return any(part.clip_norm for part in parts.values())


def _clipping(params: PyTree, parts: Mapping[str, PartSettings]) -> optax.GradientTransformation:
    """Parts with equal rules are clipped as one: encoder and decoder have a norm each (release of arXiv:1810.10804)."""
    numbers = {rule: f'rule {number}' for number, rule in enumerate(dict.fromkeys(parts.values()))}
    clips = {name: optax.clip_by_global_norm(rule.clip_norm) for rule, name in numbers.items() if rule.clip_norm}
    labels = {part: numbers[parts[part]] if part in parts and parts[part].clip_norm else OTHERS for part in params}
    return optax.partition({OTHERS: optax.identity(), **clips}, labels)


def _rule(
    params: PyTree, scopes: Scopes, settings: OptimizerSettings, part: PartSettings
) -> optax.GradientTransformation:
    """One optimiser for all of `params`."""
    fields = OptimizerSettings.__dataclass_fields__
    own = {name: value for name, value in dataclasses.asdict(part).items() if value is not None and name in fields}
    settings = dataclasses.replace(settings, **own)
    factors = gradient_multipliers(params, scopes, settings.last_layer_gradient_multiplier)

    def multiply(gradients: PyTree, _: PyTree) -> PyTree:
        return jax.tree.map(lambda gradient, factor: gradient * factor, gradients, factors)

    decay = optax.add_decayed_weights(settings.weight_decay, mask=decayed(params, scopes))
    return OPTIMIZERS[part.optimizer](settings, decay, optax.stateless(multiply))


def _sgd(
    settings: OptimizerSettings, decay: optax.GradientTransformation, multiply: optax.GradientTransformation
) -> optax.GradientTransformation:
    """The decay is part of the gradient, as the official regulariser is part of the loss: it is multiplied and gathers
    momentum like the rest."""
    return optax.chain(decay, multiply, optax.sgd(_schedule(settings), momentum=settings.momentum))


def _adam(
    settings: OptimizerSettings, decay: optax.GradientTransformation, multiply: optax.GradientTransformation
) -> optax.GradientTransformation:
    return _any_types(optax.chain(decay, multiply, optax.adam(_schedule(settings))))


def _adamw(
    settings: OptimizerSettings, decay: optax.GradientTransformation, multiply: optax.GradientTransformation
) -> optax.GradientTransformation:
    rate = optax.scale_by_learning_rate(_schedule(settings))
    return _any_types(optax.chain(multiply, optax.scale_by_adam(), decay, rate))


OPTIMIZERS = {'sgd': _sgd, 'adam': _adam, 'adamw': _adamw}
"""`(settings, decay of the weights, multiplication of the gradients) -> optimiser`. Adam divides a constant factor on a
gradient out again, except for its epsilon."""


def _schedule(settings: OptimizerSettings) -> optax.Schedule:
    return lambda step: learning_rate(step, settings)


def _any_types(transform: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same without strict promotion of types: optax's Adam raises a float to an integer count."""

    def update(gradients: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        with jax.numpy_dtype_promotion('standard'):
            moved: tuple[PyTree, PyTree] = transform.update(gradients, state, params)
        return moved

    return optax.GradientTransformation(transform.init, update)


def decayed(params: PyTree, scopes: Scopes) -> PyTree:
    """Which tensors decay: full and pointwise kernels and those of the logits; no depthwise ones, no norm, no bias."""
    return _by_official_name(params, scopes, lambda name, _: name.endswith('/weights'))


def gradient_multipliers(params: PyTree, scopes: Scopes, last_layer: float) -> PyTree:
    """The factor on the gradient of each tensor: twice for biases, `last_layer` for all after the backbone."""

    def factor(name: str, part: str) -> float:
        bias = BIAS_GRADIENT_MULTIPLIER if name.endswith('/biases') else 1.0
        return bias * (1.0 if part == BACKBONE else last_layer)

    return _by_official_name(params, scopes, factor)


def _by_official_name(params: PyTree, scopes: Scopes, rule: Callable[[str, str], bool | float]) -> PyTree:
    """`rule(official name, part)` of each tensor; what is masked stays so."""

    def of_tensor(path: tuple[Any, ...], _: Any) -> bool | float:
        names = tuple(key.key for key in path)
        return rule(weights.official_name(('params', *names), scopes), names[0])

    return jax.tree_util.tree_map_with_path(of_tensor, params)
