"""The menu of backbones: `make('xception_65', output_stride=16)`; and what all of them share.

Each file of the folder exposes `Model`, a Flax module that takes images in 0..255 and gives a dict of named endpoints,
and `NAMES`: its variants by name, each with the settings that make it. A model's `official_scope` is what the
names of its official variables start with, its `low_level` the endpoint at stride 4 that the decoder of DeepLabv3+
reads. Its `by_stride` names an endpoint for each stride, `{4: ..., 8: ..., 16: 'features'}`: from 4 to the output
stride, where it is always the features; before that it is the last map that is computed at the stride
(`last_of_each_stride`).
"""

import importlib
import math
import pkgutil
from collections.abc import Iterable, Mapping
from typing import Any

import flax.linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dpc_jax import checks
from dpc_jax.base import InputError

OUTPUT_STRIDES = (8, 16, 32)

INIT_STDDEV = 0.09  # slim's mobilenet.training_scope and xception_arg_scope; JAX and TF cut the normal at two sigma
BN_EPSILON = 1e-3  # default of slim.batch_norm, which every official backbone keeps


def names() -> tuple[str, ...]:
    """What `make` accepts."""
    return tuple(sorted(_makers()))


def make(name: str, *, output_stride: int, **settings: Any) -> nn.Module:
    """The backbone `name`, with settings as its `Model` takes them (`width`, `bn_decay`, `dtype`).

    InputError names what is not allowed.
    """
    makers = _makers()
    checks.one_of('backbone.name', name, sorted(makers))
    file, variant = makers[name]
    module = importlib.import_module(f'{__name__}.{file}')
    model: nn.Module = module.Model(output_stride=output_stride, **variant, **settings)
    return model


def _makers() -> dict[str, tuple[str, Mapping[str, Any]]]:
    files = [module.name for module in pkgutil.iter_modules(__path__)]
    menus = {file: importlib.import_module(f'{__name__}.{file}').NAMES for file in files}
    return {name: (file, variant) for file, menu in menus.items() for name, variant in menu.items()}


def check(name: str, output_stride: int, width: float) -> None:
    """InputError unless a backbone can be built with this output stride and width."""
    if output_stride not in OUTPUT_STRIDES:
        allowed = ', '.join(map(str, OUTPUT_STRIDES))
        raise InputError(f'output stride {output_stride} of {name}: it must be one of {allowed}')
    if not 0 < width < math.inf:
        raise InputError(f'width {width} of {name}: it must be a number greater than 0')


def scaled(images: Float[Array, 'B H W 3'], dtype: DTypeLike | None) -> Float[Array, 'B H W 3']:
    """Images in 0..255 as -1..1, in `dtype` if there is one (official feature_extractor, of every backbone here)."""
    x = images * (2.0 / 255.0) - 1.0
    return x if dtype is None else x.astype(dtype)


def make_divisible(depth: float, divisor: int = 8, min_value: int = 8) -> int:
    """The multiple of `divisor` nearest to `depth`, but never below `min_value` nor below 90 % of `depth`.

    The rule of slim's mobilenet.py for a width other than 1.
    """
    rounded = max(min_value, int(depth + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * depth else rounded + divisor


def last_of_each_stride(blocks: Iterable[tuple[int, str]]) -> dict[int, str]:
    """Stride -> endpoint, from stride 4 to the output stride, of the blocks that follow a stem of stride 2.

    `blocks` are pairs: the stride of a block, and the last endpoint before the map shrinks in it.
    """
    last, reached_stride = {}, 2
    for stride, endpoint in blocks:
        if stride > 1:
            last[reached_stride] = endpoint
            reached_stride *= stride
    return {stride: endpoint for stride, endpoint in last.items() if stride >= 4} | {reached_stride: 'features'}


def atrous(nominal_strides: Iterable[int], output_stride: int, reached_stride: int) -> list[tuple[int, int]]:
    """(stride, rate) of each block that follows a stem which has reached `reached_stride`.

    When the output stride is reached, a block that would stride runs at stride 1 and the current rate, and the blocks
    after it run at the rate times its nominal stride (mobilenet.mobilenet_base, xception.stack_blocks_dense).
    """
    blocks, rate = [], 1
    for nominal_stride in nominal_strides:
        dense = reached_stride == output_stride
        blocks.append((1 if dense else nominal_stride, rate))
        if dense:
            rate *= nominal_stride
        else:
            reached_stride *= nominal_stride
    return blocks
