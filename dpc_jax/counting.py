"""What a cell or a network costs in inference, for one image: convolution weights and multiply-adds.

`operations` finds the convolutions of any Flax module that is built of `ConvUnit` and `Logits`. A space has arithmetic
for the same numbers (`Space.cost`), fast enough for every candidate of a search.

The conventions of the paper's Table 1 (arXiv:1809.04184): one multiply-add is one multiplication with its addition, and
convolutions alone have any. Batch norms, means and resizes have none, and zeros that pad a map are multiplied too.
"""

import functools
import math
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from flax.linen.module import InterceptorContext

from dpc_jax.base import PyTree, Size
from dpc_jax.convolution import ConvUnit
from dpc_jax.decoder import Logits

PROJECTION = 'concat_projection'  # official name, in the cell and in ASPP

# ---- any module -----------------------------------------------------------------------------------------------------


class Operation(NamedTuple):
    """One convolution, at the place and size where it runs."""

    path: tuple[str, ...]  # of its module; () if that is the counted module itself
    kind: str  # 'depthwise 3x3', 'conv 1x1', ...
    kernel: tuple[int, ...]  # [kh, kw, C, D], depthwise [kh, kw, 1, C]
    rate: Size
    size: Size  # of its output

    @property
    def weights(self) -> int:
        """Entries of the kernel; each is multiplied once per cell of the output."""
        return math.prod(self.kernel)

    @property
    def macs(self) -> int:
        """Multiply-adds of one image."""
        return self.weights * self.size[0] * self.size[1]


class Cost(NamedTuple):
    """Sums over operations."""

    weights: int
    macs: int


def operations(module: nn.Module, *inputs: Any, **settings: Any) -> tuple[Operation, ...]:
    """The convolutions of a call `module(*inputs, **settings)`, in the order in which they run; nothing is computed.

    `inputs` are arrays or `jax.ShapeDtypeStruct`, [B, ...] with any B; `settings` are not arrays. Without
    `train=True` among them the call is inference, in which auxiliary heads are not computed.
    """
    found: list[Operation] = []

    def note(call: Callable[..., Any], args: Any, kwargs: Any, context: InterceptorContext) -> Any:
        y = call(*args, **kwargs)
        if context.method_name == '__call__' and isinstance(context.module, ConvUnit | Logits):
            found.append(_operation(context.module, (y.shape[1], y.shape[2])))
        return y

    # Not by `init`, which computes all that has weights, auxiliary heads too; a mutable call makes what it needs.
    call = functools.partial(module.apply, {}, mutable=True, rngs={'params': jax.random.key(0)}, **settings)
    with nn.intercept_methods(note):
        jax.eval_shape(call, *inputs)
    return tuple(found)


def _operation(unit: ConvUnit | Logits, size: Size) -> Operation:
    kernel: tuple[int, ...] = unit.get_variable('params', 'kernel').shape
    depthwise = isinstance(unit, ConvUnit) and unit.filters is None
    kind = f'{"depthwise" if depthwise else "conv"} {kernel[0]}x{kernel[1]}'
    return Operation(unit.path, kind, kernel, unit.rate if isinstance(unit, ConvUnit) else (1, 1), size)


def total(operations: Iterable[Operation]) -> Cost:
    """Cost of all operations together."""
    found = tuple(operations)
    return Cost(sum(operation.weights for operation in found), sum(operation.macs for operation in found))


def totals(operations: Iterable[Operation], group: Callable[[Operation], str]) -> dict[str, Cost]:
    """Cost of each group, in order of appearance."""
    groups: dict[str, list[Operation]] = {}
    for operation in operations:
        groups.setdefault(group(operation), []).append(operation)
    return {name: total(members) for name, members in groups.items()}


# ---- Table 1 of the paper -------------------------------------------------------------------------------------------


def without_projection(operations: Iterable[Operation]) -> tuple[Operation, ...]:
    """What Table 1 counts of a context module: all but the projection after the concatenation."""
    return tuple(operation for operation in operations if PROJECTION not in operation.path)


def as_published(operations: Iterable[Operation]) -> Cost:
    """Params and MAdds of a context module by the rule that gives the printed figures of Table 1.

    For ASPP's atrous convolutions (`aspp1`, `aspp2`, ...) the weights of one are counted, and the multiply-adds of all:
    the printed Params (0.25M, 1.59M) are those of one, the printed MAdds those of three. The paper does not say so; no
    other number of pointwise and depthwise kernels fits both backbones. In a cell everything is counted.
    """
    counted = without_projection(operations)
    return Cost(total(o for o in counted if not _is_repeated(o)).weights, total(counted).macs)


def _is_repeated(operation: Operation) -> bool:
    return any(re.match(r'aspp([2-9]|\d\d)', name) for name in operation.path)


# ---- variables ------------------------------------------------------------------------------------------------------


class Variables(NamedTuple):
    """How many numbers a network holds."""

    trainable: int  # kernels, scale and bias of batch norms, bias of the logits
    all: int  # and the moving averages
    tensors: int


def count_variables(variables: PyTree) -> Variables:
    """Counts `params` and `batch_stats`, given as arrays or shapes (`networks.variable_shapes`)."""
    leaves = jax.tree.leaves(variables)
    trainable = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables['params']))
    return Variables(trainable, sum(math.prod(leaf.shape) for leaf in leaves), len(leaves))
