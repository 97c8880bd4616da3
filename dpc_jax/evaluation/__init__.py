"""The door of evaluations: what a config asks for, a network over all images of a split, what it found on disk."""

from dpc_jax.evaluation.config import (
    DTYPES,
    check,
    export_names,
    inference_settings,
    make_network,
    make_scorer,
    with_size,
)
from dpc_jax.evaluation.results import Evaluation, cause, export, write
from dpc_jax.evaluation.scorer import Counted, Scorer

__all__ = [
    'DTYPES',
    'Counted',
    'Evaluation',
    'Scorer',
    'cause',
    'check',
    'export',
    'export_names',
    'inference_settings',
    'make_network',
    'make_scorer',
    'with_size',
    'write',
]
