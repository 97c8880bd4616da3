"""The door of poses: where a person's crop lies, heat maps of joints, how joints are measured and shown."""

from dpc_jax.pose import report
from dpc_jax.pose.geometry import affine, crop, fitted_size, inverse, moved
from dpc_jax.pose.heat_maps import drawn, joints_of
from dpc_jax.pose.oks import NAMES, average_precision, kept_by_similarity, score_of
from dpc_jax.pose.pck import pckh
from dpc_jax.pose.pictures import Found, draw, panels

__all__ = [
    'NAMES',
    'Found',
    'affine',
    'average_precision',
    'crop',
    'draw',
    'drawn',
    'fitted_size',
    'inverse',
    'joints_of',
    'kept_by_similarity',
    'moved',
    'panels',
    'pckh',
    'report',
    'score_of',
]
