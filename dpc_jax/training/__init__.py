"""The door of trainings: settings, the compiled step, checkpoints to go on from, records, curves."""

from dpc_jax.training.checkpoint import Checkpoints
from dpc_jax.training.config import CHECKPOINTS, FREE_FIELDS, check, claim, images_together, make_network, step_settings
from dpc_jax.training.log import METRICS, Record, TrainLog, read_records
from dpc_jax.training.optimizer import learning_rate
from dpc_jax.training.pictures import comparison, curves
from dpc_jax.training.step import (
    Means,
    Step,
    StepReport,
    StepSettings,
    TrainState,
    init_state,
    make_step,
    state_shapes,
    train_step,
)

__all__ = [
    'CHECKPOINTS',
    'FREE_FIELDS',
    'METRICS',
    'Checkpoints',
    'Means',
    'Record',
    'Step',
    'StepReport',
    'StepSettings',
    'TrainLog',
    'TrainState',
    'check',
    'claim',
    'comparison',
    'curves',
    'images_together',
    'init_state',
    'learning_rate',
    'make_network',
    'make_step',
    'read_records',
    'state_shapes',
    'step_settings',
    'train_step',
]
