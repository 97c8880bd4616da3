"""The teacher of a search: a network whose logits are cached beside the features, for candidates to imitate.

Any checkpoint of this project serves, an imported one included; `config.teacher` says which network it is of. Logits
are kept at stride 4 in float16, of train alone.
"""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import Array, Float

from dpc_jax import described, files, networks, ops, weights
from dpc_jax.base import InputError, PyTree
from dpc_jax.datasets import Dataset
from dpc_jax.heads import TEACHER_STRIDE
from dpc_jax.segmenter import Segmenter

Logits = Callable[[Float[Array, 'B H W 3']], Float[Array, 'B h w L']]
"""Images in 0..255 -> logits at stride 4."""


class Teacher(NamedTuple):
    """What the cache needs of it."""

    logits: Logits  # jitted, with its weights inside
    description: Mapping[str, Any]  # which network it is, and the digest of its weights


def is_given(config: ml_collections.ConfigDict) -> bool:
    """Whether the config names one."""
    return 'teacher' in config and bool(config.teacher.checkpoint)


def weight(config: ml_collections.ConfigDict) -> float:
    """Of its term in the loss: 0 where there is none."""
    given: float = config.proxy.distillation
    return given if is_given(config) else 0.0


def fingerprint(config: ml_collections.ConfigDict) -> str:
    """The digest of its weights; '' where there is none."""
    return _digest(weights.read(_folder(config))) if is_given(config) else ''


def _folder(config: ml_collections.ConfigDict) -> pathlib.Path:
    return files.local(config.teacher.checkpoint, 'teacher.checkpoint')


def _digest(variables: PyTree) -> str:
    return files.digest(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(variables))


def check(config: ml_collections.ConfigDict, data: Dataset) -> None:
    """Refuses a teacher before any work; InputError as `make`."""
    if is_given(config):
        _read(config, data)


def _read(config: ml_collections.ConfigDict, data: Dataset) -> tuple[Segmenter, PyTree]:
    network = networks.make(config.teacher, data.num_classes)
    try:
        described.check(config.teacher, _folder(config), data)
        return network, weights.restore(_folder(config), networks.variable_shapes(network))
    except InputError as fault:
        raise InputError(f'teacher of {data.num_classes} classes as config.teacher says: {fault}') from fault


def make(config: ml_collections.ConfigDict, data: Dataset) -> Teacher | None:
    """The teacher of a config, or None, which is said where its term has a weight.

    Raises:
      InputError: no such checkpoint; it is of another network, or of other classes.
    """
    if not is_given(config):
        if config.proxy.distillation:
            print('teacher.checkpoint is empty: candidates are trained without a teacher')
        return None
    network, variables = _read(config, data)

    @jax.jit
    def logits(images: Float[Array, 'B H W 3']) -> Float[Array, 'B h w L']:
        found: Any = network.apply(variables, images)
        size = (-(-images.shape[1] // TEACHER_STRIDE), -(-images.shape[2] // TEACHER_STRIDE))
        return ops.resize_bilinear(found.astype(jnp.float32), size)

    return Teacher(logits, {'weights': _digest(variables), 'stride': TEACHER_STRIDE})
