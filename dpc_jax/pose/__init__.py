"""The door of poses: where a person's crop lies, heat maps of joints, how joints are measured and shown."""

from dpc_jax.pose.geometry import affine, crop, fitted_size, inverse, moved
from dpc_jax.pose.heat_maps import drawn, joints_of
from dpc_jax.pose.oks import NAMES, average_precision, kept_by_similarity, score_of
from dpc_jax.pose.pck import pckh
from dpc_jax.pose.pictures import Found, draw, panels
from dpc_jax.pose.report import FILE, announce, coco_json, definition, detections, headline, table

__all__ = [
    'FILE',
    'NAMES',
    'Found',
    'affine',
    'announce',
    'average_precision',
    'coco_json',
    'crop',
    'definition',
    'detections',
    'draw',
    'drawn',
    'fitted_size',
    'headline',
    'inverse',
    'joints_of',
    'kept_by_similarity',
    'moved',
    'panels',
    'pckh',
    'score_of',
    'table',
]
