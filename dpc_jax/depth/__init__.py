"""The door of depth: what is learned of distances, how it is measured, how it is shown."""

from dpc_jax.depth.losses import LOSSES, total_loss
from dpc_jax.depth.metrics import CROPS, EIGEN, NO_CROP, SUMS, compute, crop_mask, measure
from dpc_jax.depth.pictures import coloured, panels, stacked, with_bar

__all__ = [
    'CROPS',
    'EIGEN',
    'LOSSES',
    'NO_CROP',
    'SUMS',
    'coloured',
    'compute',
    'crop_mask',
    'measure',
    'panels',
    'stacked',
    'total_loss',
    'with_bar',
]
