"""Kernels for NVIDIA GPUs in Pallas (Triton), each of which reads and writes a map once, in one door.

`either` chooses between them and a plain program. They know no genotype: what a branch is, integers and tables say.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

from jax import lax

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
"""'auto': the kernels on an NVIDIA GPU, the plain program elsewhere; 'plain' and 'fused': that one; 'interpret': the
kernels step by step on any device, which is slow and for tests."""

KERNELS: tuple[Kernels, ...] = ('auto', 'plain', 'fused', 'interpret')


def either(kernels: Kernels, fast: Callable[..., Any], plain: Callable[..., Any], *args: Any) -> Any:
    """`fast(launch, *args)` or `plain(*args)`; with 'auto' it is the platform's choice for which is compiled."""
    if kernels == 'plain':
        return plain(*args)
    if kernels == 'auto':
        return lax.platform_dependent(*args, cuda=functools.partial(fast, Launch()), default=plain)
    return fast(Launch(interpret=kernels == 'interpret'), *args)
