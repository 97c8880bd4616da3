"""The door of evaluations: what a config asks for, a network over all images of a split, what it found on disk."""

from dpc_jax.evaluation.config import DTYPES, check, export_name, inference_settings, make_network, make_scorer
from dpc_jax.evaluation.report import panels, scores
from dpc_jax.evaluation.results import Evaluation, cause, write, write_label
from dpc_jax.evaluation.scorer import Counted, Scorer

__all__ = [
    'DTYPES',
    'Counted',
    'Evaluation',
    'Scorer',
    'cause',
    'check',
    'export_name',
    'inference_settings',
    'make_network',
    'make_scorer',
    'panels',
    'scores',
    'write',
    'write_label',
]
