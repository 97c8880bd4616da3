"""Batch norms folded into the convolutions that they follow: the same function in inference, with less to compute.

    (x * K - mean) * gain + bias = x * (K * gain) + (bias - mean * gain),   gain = scale / sqrt(var + epsilon)

`fold` makes new variables of a trained network, `apply` runs the same network with them: nothing is built anew. It
serves every module whose batch norms all stand in a `ConvUnit`, as those of this project do.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax import traverse_util
from flax.linen.module import InterceptorContext
from jax import lax
from jaxtyping import Array, Float

from dpc_jax.base import PyTree
from dpc_jax.convolution import ConvUnit
from dpc_jax.norms import Moments

NORM = 'BatchNorm'  # its name in a `ConvUnit`

Path = tuple[str, ...]


def fold_unit(
    kernel: Float[Array, 'i j _ D'],
    scale: Float[Array, ' D'],
    bias: Float[Array, ' D'],
    moving: Moments,
    *,
    epsilon: float,
) -> tuple[Float[Array, 'i j _ D'], Float[Array, ' D']]:
    """Kernel and bias of the convolution that does what a convolution and its batch norm did; unbatched."""
    gain = scale * lax.rsqrt(moving.var + epsilon)
    return kernel * gain[None, None, None, :], bias - moving.mean * gain


def read_in_inference(module: nn.Module, variables: PyTree, *inputs: Any, **settings: Any) -> PyTree:
    """Those of the variables that `module.apply(variables, *inputs, **settings)` reads: no auxiliary heads, for one.

    `variables` and `inputs` are arrays or shapes, `settings` are not arrays; nothing is computed.
    """
    called, flat = _called(module, variables, *inputs, **settings), traverse_util.flatten_dict(variables)
    kept: PyTree = traverse_util.unflatten_dict({name: value for name, value in flat.items() if name[1:-1] in called})
    return kept


def fold(module: nn.Module, variables: PyTree, *inputs: Any, **settings: Any) -> PyTree:
    """The variables with which `apply` does what `module.apply(variables, *inputs, **settings)` does, without norms.

    `inputs` (arrays or shapes, of any size that the module takes) say what is called; the rest stays as it is.
    """
    flat = traverse_util.flatten_dict(variables)  # (collection, *path of the module, name) -> value
    for path, epsilon in _called(module, variables, *inputs, **settings).items():
        if epsilon is None:
            continue
        scale, shift = (flat.pop(('params', *path, NORM, name)) for name in ('scale', 'bias'))
        moving = Moments(*(flat.pop(('batch_stats', *path, NORM, name)) for name in Moments._fields))
        kernel = flat['params', *path, 'kernel']
        folded = fold_unit(kernel, scale, shift, moving, epsilon=epsilon)
        flat['params', *path, 'kernel'], flat['params', *path, 'bias'] = folded
    tree: PyTree = traverse_util.unflatten_dict(flat)
    return tree


def apply(module: nn.Module, folded: PyTree, *inputs: Any, **settings: Any) -> Any:
    """`module.apply` in inference, with what `fold` gave; ValueError if the call is one of training."""
    with nn.intercept_methods(_run_folded):
        return module.apply(folded, *inputs, **settings)


def _called(module: nn.Module, variables: PyTree, *inputs: Any, **settings: Any) -> dict[Path, float | None]:
    """Path of each module that a call of inference runs -> epsilon of the batch norm in a unit, None of the others."""
    found: dict[Path, float | None] = {}

    def note(call: Callable[..., Any], args: Any, kwargs: Any, context: InterceptorContext) -> Any:
        unit = context.module
        found[unit.path] = unit.epsilon if isinstance(unit, ConvUnit) and unit.normalize else None
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        jax.eval_shape(functools.partial(module.apply, **settings), variables, *inputs)
    return found


def _run_folded(call: Callable[..., Any], args: Any, kwargs: Any, context: InterceptorContext) -> Any:
    unit = context.module
    if isinstance(unit, ConvUnit) and unit.normalize and context.method_name == '__call__':
        return _unit(unit, *args, **kwargs)
    return call(*args, **kwargs)


def _unit(unit: ConvUnit, x: Float[Array, 'B h w C'], train: bool) -> Float[Array, 'B _ _ D']:
    """What the unit does in inference, with a bias in place of its batch norm; added up in float32 or wider."""
    if train:
        raise ValueError('a network whose batch norms are folded runs in inference alone')
    bias: Array = unit.get_variable('params', 'bias')
    y = unit.convolve(x, unit.get_variable('params', 'kernel'))
    wide = y.astype(np.promote_types(x.dtype, np.float32)) + bias[None, None, None, :]
    return unit.activate(wide.astype(x.dtype))
