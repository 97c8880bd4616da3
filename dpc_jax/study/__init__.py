"""The door of the study: candidates and their scores in an Optuna storage (`study.study` says what it promises)."""

from dpc_jax.study.archive import first, read, rungs
from dpc_jax.study.batch import LEARNED, REDRAW, SHOWN, distributions, make_pruner
from dpc_jax.study.gate import GATE, RunningMean
from dpc_jax.study.halving import Halving
from dpc_jax.study.index import History, candidate_key, history, losses
from dpc_jax.study.progress import Progress
from dpc_jax.study.rows import Candidate, Proposal, RunInfo, ranking
from dpc_jax.study.study import Study

__all__ = [
    'GATE',
    'LEARNED',
    'REDRAW',
    'SHOWN',
    'Candidate',
    'Halving',
    'History',
    'Progress',
    'Proposal',
    'RunInfo',
    'RunningMean',
    'Study',
    'candidate_key',
    'distributions',
    'first',
    'history',
    'losses',
    'make_pruner',
    'ranking',
    'read',
    'rungs',
]
