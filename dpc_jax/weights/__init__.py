"""The door of weights on disk: checkpoints of this project, official TensorFlow checkpoints and `.npz` files."""

from dpc_jax.weights.checkpoint import (
    SUMS,
    check_space,
    check_target,
    fingerprint,
    full_disk,
    load_backbone,
    load_network,
    quiet,
    read,
    restore,
    save,
    save_backbone,
    verify,
    write_sums,
)
from dpc_jax.weights.foreign import checkpoint_at
from dpc_jax.weights.tf_import import LoadReport, Scopes, official_name, save_npz, to_official
from dpc_jax.weights.tf_import import assign as assign_official
from dpc_jax.weights.tf_import import read as read_official

__all__ = [
    'SUMS',
    'LoadReport',
    'Scopes',
    'assign_official',
    'check_space',
    'check_target',
    'checkpoint_at',
    'fingerprint',
    'full_disk',
    'load_backbone',
    'load_network',
    'official_name',
    'quiet',
    'read',
    'read_official',
    'restore',
    'save',
    'save_backbone',
    'save_npz',
    'to_official',
    'verify',
    'write_sums',
]
