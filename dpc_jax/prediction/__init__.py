"""The door of predictions: which images, a network over them whole or in tiles, and what is written of each."""

from dpc_jax.prediction.images import Listed, listed
from dpc_jax.prediction.page import write_page
from dpc_jax.prediction.predictor import Found, Predictor, PredictSettings, batches, of
from dpc_jax.prediction.results import Kept, Row

__all__ = [
    'Found',
    'Kept',
    'Listed',
    'PredictSettings',
    'Predictor',
    'Row',
    'batches',
    'listed',
    'of',
    'write_page',
]
