"""The first values of a network's variables, at the price of its draws alone.

Every draw is one of a vector that is brought into shape: the bits are those of a draw in that shape, and XLA compiles
it for a CPU several times faster. Each initialiser is one program of a shape, whatever its scale.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core
from jax.typing import DTypeLike

from dpc_jax.base import PyTree

Shape = tuple[int, ...]
Scale = float | jax.Array
Initializer = Callable[..., jax.Array]
"""(key, shape, dtype) -> the values."""


@functools.partial(jax.jit, static_argnames=('shape', 'dtype'))
def uniform(key: jax.Array, shape: Shape, bound: Scale = 1.0, dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Uniform in ± bound."""
    return jax.random.uniform(key, (math.prod(shape),), dtype, -bound, bound).reshape(shape)


def truncated_normal(stddev: float) -> Initializer:
    """Normal, cut at twice its standard deviation, which is `stddev` before the cut (as in TensorFlow)."""

    def values(key: jax.Array, shape: Shape, dtype: DTypeLike = jnp.float32) -> jax.Array:
        return _truncated_normal(key, shape, stddev, dtype)

    return values


@functools.partial(jax.jit, static_argnames=('shape', 'dtype'))
def _truncated_normal(key: jax.Array, shape: Shape, stddev: Scale, dtype: DTypeLike) -> jax.Array:
    drawn = jax.random.truncated_normal(key, -2, 2, (math.prod(shape),), dtype)
    return drawn.reshape(shape) * jnp.asarray(stddev, dtype)


@functools.partial(jax.jit, static_argnames=('shape', 'dtype'))
def xavier_uniform(key: jax.Array, shape: Shape, dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Glorot and Bengio's of a kernel [..., C, D]: uniform in ± sqrt(6 / (fan in + fan out))."""
    fans = math.prod(shape[:-2]) * (shape[-2] + shape[-1])
    return uniform(key, shape, 1.0, dtype) * jnp.sqrt(3 * jnp.asarray(2 / fans, dtype))


def variables(init: Callable[..., PyTree], *args: Any) -> PyTree:
    """What `init(*args)` gives (as a rule the `init` of a Flax module), to the bit, without running the whole of it.

    The function is traced, and of its operations only those run that the result needs, one by one: the draws, and not
    the layers between them. As one program they would be compiled one by one too, and each takes XLA seconds on a CPU;
    here layers of one shape share theirs.
    """
    traced, shape = jax.make_jaxpr(init, return_shape=True)(*args)
    needed = _variables(traced.jaxpr.outvars)
    kept: list[core.JaxprEqn] = []
    for equation in reversed(traced.jaxpr.eqns):
        if needed.intersection(equation.outvars):
            kept.append(equation)
            needed |= _variables(equation.invars)
    jaxpr = traced.jaxpr.replace(eqns=kept[::-1])
    leaves = core.jaxpr_as_fun(core.ClosedJaxpr(jaxpr, traced.consts))(*jax.tree.leaves(args))
    return jax.tree.unflatten(jax.tree.structure(shape), leaves)


def _variables(atoms: list[Any]) -> set[core.Var]:
    """Those that are no constants."""
    return {atom for atom in atoms if not isinstance(atom, core.Literal)}
