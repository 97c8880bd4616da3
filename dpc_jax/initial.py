"""The first values of a network's variables, at the price of its draws alone."""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core

from dpc_jax.base import PyTree


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
