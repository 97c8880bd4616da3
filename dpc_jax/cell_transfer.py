"""Variables of a cell from its dynamic view to its static one and back: what is searched becomes what is trained."""

import jax
import jax.numpy as jnp
import numpy as np

from dpc_jax.base import FEATURES, PyTree
from dpc_jax.cell import CellParams, CellStats, Unit, init
from dpc_jax.ops import Moments
from dpc_jax.spaces import dpc
from dpc_jax.spaces.dpc import Genotype


def to_static(params: CellParams, stats: CellStats, genotype: Genotype, channels: int) -> PyTree:
    """Variables of `DensePredictionCell.of(genotype)` from those of the dynamic view (unbatched)."""
    variables: PyTree = {'params': {}, 'batch_stats': {}}

    def put(name: str, kernel: jax.Array, unit: Unit, moving: Moments, count: int) -> None:
        norm = {'scale': unit.scale[:count], 'bias': unit.bias[:count]}
        variables['params'][name] = {'kernel': kernel, 'BatchNorm': norm}
        variables['batch_stats'][name] = {'BatchNorm': {'mean': moving.mean[:count], 'var': moving.var[:count]}}

    filters = params.pointwise.kernel.shape[-1]
    for branch, (source, op) in enumerate(zip(genotype.inputs, genotype.ops, strict=True)):
        entering = channels if source == FEATURES else filters
        units, moving = jax.tree.map(lambda leaf: leaf[branch], (params[:2], stats[:2]))  # noqa: B023
        name = f'branch{branch}'
        if dpc.OPS[op].kind == 'separable':
            kernel = units[0].kernel[:, :, None, :entering]
            put(f'{name}_depthwise', kernel, units[0], moving[0], entering)
            name = f'{name}_pointwise'
        put(name, units[1].kernel[None, None, :entering], units[1], moving[1], filters)
    put('concat_projection', params.projection.kernel[None, None], params.projection, stats.projection, filters)
    return variables


def from_static(variables: PyTree, genotype: Genotype, channels: int, filters: int) -> tuple[CellParams, CellStats]:
    """Inverse of `to_static`; entries that the genotype does not use are zero kernels and fresh norms."""
    shapes = jax.eval_shape(lambda: init(jax.random.key(0), genotype, channels, filters))
    params, stats = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    for unit, moving in zip(params, stats, strict=True):
        unit.scale[:], moving.var[:] = 1, 1

    def fill(name: str, unit: Unit, moving: Moments, index: tuple[int | slice, ...]) -> None:
        part, stored = variables['params'][name], variables['batch_stats'][name]['BatchNorm']
        kernel = np.asarray(part['kernel'])
        kernel = kernel[0, 0] if kernel.shape[:2] == (1, 1) else kernel[:, :, 0]
        corner = tuple(slice(side) for side in kernel.shape)
        unit.kernel[(*index, *corner)] = kernel
        at = (*index, slice(kernel.shape[-1]))
        unit.scale[at], unit.bias[at] = part['BatchNorm']['scale'], part['BatchNorm']['bias']
        moving.mean[at], moving.var[at] = stored['mean'], stored['var']

    for branch in range(len(genotype.ops)):
        name = f'branch{branch}'
        if f'{name}_depthwise' in variables['params']:
            fill(f'{name}_depthwise', params.depthwise, stats.depthwise, (branch,))
            name = f'{name}_pointwise'
        fill(name, params.pointwise, stats.pointwise, (branch,))
    fill('concat_projection', params.projection, stats.projection, ())
    return jax.tree.map(jnp.asarray, (params, stats))
