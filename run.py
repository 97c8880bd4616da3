"""Runs the journey that a config names, in a work folder: a search, a training, an evaluation, predictions.

  python run.py --config=configs/scenes_search.py --workdir=runs/scenes
  python run.py --config=configs/cityscapes.py --workdir=runs/cityscapes --config.dataset.root=/data/cityscapes
  python run.py --config=configs/cityscapes.py --workdir=runs/cityscapes_test --config.journey=evaluate \\
    --config.dataset.root=/data/cityscapes --config.checkpoint=runs/cityscapes/weights
  python run.py --config=configs/from_checkpoint.py --workdir=runs/photos --config.checkpoint=runs/cityscapes/weights \\
    --config.predict.images=photos

Searches, trainings and predictions go on where they were stopped, an evaluation begins anew. Any field of the config
can be set on the command line, e.g. --config.search.num_candidates=100 or --config.proxy.steps=500; configs/common.py
lists the fields. A config may take an argument after a colon: --config=configs/scenes_search.py:toy runs in seconds.

A training on several hosts: the same command on each, with --coordinator (docs/training.md, "Several hosts").

Exit code: 0 done, 2 bad input (one line says which), 130 stopped by Ctrl-C or SIGTERM (everything finished is kept).
"""

import contextlib
import io
import logging
import pathlib
import signal
import sys
from collections.abc import Iterator, Sequence

import jax
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from dpc_jax import command_line, files, journeys, sharding
from dpc_jax.base import InputError

CONFIG = config_flags.DEFINE_config_file('config', None, 'What to run: a file in configs/, perhaps with :argument.')
WORKDIR = flags.DEFINE_string('workdir', None, 'Folder for everything that is written; made if it is missing.')
COORDINATOR = flags.DEFINE_string(
    'coordinator', '', "Several processes: host:port of process 0, or 'auto' (SLURM, ...)."
)
NUM_PROCESSES = flags.DEFINE_integer('num_processes', -1, 'How many there are; found with auto.')
PROCESS_ID = flags.DEFINE_integer('process_id', -1, 'Which of them this is, from 0; found with auto.')


def main(argv: Sequence[str]) -> None:
    """Runs the journey."""
    del argv
    absl_logging.get_absl_handler().setFormatter(logging.Formatter('%(message)s'))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    config, workdir = CONFIG.value, pathlib.Path()
    try:
        if config is None or not WORKDIR.value:
            raise InputError('both --config and --workdir are needed; --help explains them')
        workdir = files.local(WORKDIR.value, 'workdir')
        journey = journeys.find(config.get('journey'))
        if config.journey not in config:
            raise InputError(f"journey is '{config.journey}', but the config has no fields config.{config.journey}.*")
        if not COORDINATOR.value and max(NUM_PROCESSES.value, PROCESS_ID.value) >= 0:
            raise InputError('--num_processes and --process_id need a --coordinator: host:port of process 0')
        if COORDINATOR.value:  # after the line on SIGTERM, which JAX now hears itself
            if journey.SEVERAL_PROCESSES:
                raise InputError(journey.SEVERAL_PROCESSES)
            sharding.start_distributed(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
        with quiet_unless_first():
            journey.run(config, workdir)
    except InputError as error:
        command_line.fail(error)
    except KeyboardInterrupt:
        with quiet_unless_first():
            print(f'\nstopped; {journey.STOPPED.format(workdir=workdir)}')
        sys.exit(130)


@contextlib.contextmanager
def quiet_unless_first() -> Iterator[None]:
    """Of several processes the first speaks; errors are everybody's."""
    if not COORDINATOR.value or jax.process_index() == 0:
        yield
        return
    with contextlib.redirect_stdout(io.StringIO()):
        yield


if __name__ == '__main__':
    app.run(main, flags_parser=command_line.parse_flags)
