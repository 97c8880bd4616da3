"""Kernels for NVIDIA GPUs in Pallas (Triton), each of which reads and writes a map once, in one door.

`either` chooses between them and a plain program, where they `suit`. They know no genotype: what a branch is, integers
and tables say.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp
from jax import lax

from dpc_jax.base import InputError, Size
from dpc_jax.fused.loss import cross_entropy as cross_entropy
from dpc_jax.fused.maps import collect as collect
from dpc_jax.fused.maps import settle as settle
from dpc_jax.fused.maps import spread as spread
from dpc_jax.fused.maps import spread_backward as spread_backward
from dpc_jax.fused.products import product as product
from dpc_jax.fused.products import product_backward as product_backward
from dpc_jax.fused.products import weight_gradient as weight_gradient
from dpc_jax.fused.tiles import BIAS as BIAS
from dpc_jax.fused.tiles import BRANCH as BRANCH
from dpc_jax.fused.tiles import EXTENT_HEIGHT as EXTENT_HEIGHT
from dpc_jax.fused.tiles import EXTENT_WIDTH as EXTENT_WIDTH
from dpc_jax.fused.tiles import FLOOR as FLOOR
from dpc_jax.fused.tiles import GAIN as GAIN
from dpc_jax.fused.tiles import MEAN as MEAN
from dpc_jax.fused.tiles import MEAN_GRAD as MEAN_GRAD
from dpc_jax.fused.tiles import MEAN_PRODUCT as MEAN_PRODUCT
from dpc_jax.fused.tiles import RATE_HEIGHT as RATE_HEIGHT
from dpc_jax.fused.tiles import RATE_WIDTH as RATE_WIDTH
from dpc_jax.fused.tiles import RSTD as RSTD
from dpc_jax.fused.tiles import SOURCE as SOURCE
from dpc_jax.fused.tiles import Launch as Launch
from dpc_jax.fused.tiles import total_moments as total_moments

Kernels = Literal['auto', 'plain', 'fused', 'interpret']
"""'auto': the kernels on an NVIDIA GPU where they `suit`, else the plain program; 'plain' and 'fused': that one;
'interpret': the kernels step by step on any device, which is slow and for tests."""

KERNELS: tuple[Kernels, ...] = ('auto', 'plain', 'fused', 'interpret')


WIDEST = 1024
"""Filters, classes and cells along an axis that a block can cover."""

CAPABILITIES = ('8.0', '9.0')
"""Compute capabilities that the kernels were compiled for and whose shared memory holds them: A100, H100, H200."""


def suit(kernels: Kernels, *, dtype: Any, size: Size, filters: int, classes: int = 1) -> Kernels:
    """`kernels`, or 'plain' for 'auto' where the blocks would not fit the memory of a multiprocessor.

    What fits was found by compiling for an H100 and an A100. Raises InputError where no block covers what is asked for.
    """
    if kernels in ('fused', 'interpret') and max(*size, filters, classes) > WIDEST:
        shape = f'{size[0]}x{size[1]} cells, {filters} filters and {classes} classes'
        raise InputError(f"proxy.kernels is '{kernels}'; {shape} may each be at most {WIDEST}: auto or plain")
    side = 256 if jnp.dtype(dtype) == jnp.bfloat16 else 64
    fits = max(size) <= side and max(filters, classes) <= 256
    return 'plain' if kernels == 'auto' and not fits else kernels


def for_device(kernels: Kernels, device: Any) -> Kernels:
    """`kernels` on a `jax.Device`: 'plain' for 'auto' on one that cannot run them. InputError for 'fused' off a GPU."""
    on_gpu = device.platform in ('gpu', 'cuda')
    if kernels == 'fused' and not on_gpu:
        raise InputError("proxy.kernels is 'fused', which needs an NVIDIA GPU; allowed here: auto, plain, interpret")
    able = on_gpu and str(getattr(device, 'compute_capability', '')) in CAPABILITIES
    return 'plain' if kernels == 'auto' and not able else kernels


def either(kernels: Kernels, fast: Callable[..., Any], plain: Callable[..., Any], *args: Any) -> Any:
    """`fast(launch, *args)` or `plain(*args)`; with 'auto' the platform that is compiled for decides."""
    if kernels == 'plain':
        return plain(*args)
    if kernels == 'auto':
        return lax.platform_dependent(*args, cuda=functools.partial(fast, Launch()), default=plain)
    return fast(Launch(interpret=kernels == 'interpret'), *args)
