"""Runs the journey that a config names, in a work folder: a search, or the evaluation of a whole network.

  python run.py --config=configs/scenes_search.py --workdir=runs/scenes
  python run.py --config=configs/cityscapes.py --workdir=runs/cityscapes \\
    --config.dataset.root=/data/cityscapes --config.checkpoint=runs/imported

A search goes on where it was stopped, an evaluation begins anew. Any field of the config can be set on the
command line, e.g. --config.search.num_candidates=100 or --config.proxy.steps=500; configs/common.py lists the fields.
A config may take an argument after a colon: --config=configs/scenes_search.py:toy runs in seconds.

Exit code: 0 done, 2 bad input (one line says which), 130 stopped by Ctrl-C (everything finished is kept).
"""

import logging
import pathlib
import signal
import sys
from collections.abc import Sequence

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from dpc_jax import command_line, evaluate, search
from dpc_jax.base import InputError

JOURNEYS = {'search': search.run, 'evaluate': evaluate.run}
STOPPED = {
    'search': 'everything finished is kept in {workdir}. The same command goes on from here.',
    'evaluate': 'there are no scores yet. The same command begins anew.',
}

CONFIG = config_flags.DEFINE_config_file('config', None, 'What to run: a file in configs/, perhaps with :argument.')
WORKDIR = flags.DEFINE_string('workdir', None, 'Folder for everything that is written; made if it is missing.')


def main(argv: Sequence[str]) -> None:
    """Runs the journey."""
    del argv
    absl_logging.get_absl_handler().setFormatter(logging.Formatter('%(message)s'))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    config, workdir = CONFIG.value, pathlib.Path(WORKDIR.value or '').expanduser()
    try:
        if config is None or not WORKDIR.value:
            raise InputError('both --config and --workdir are needed; --help explains them')
        if config.get('journey') not in JOURNEYS:
            raise InputError(f"journey is '{config.get('journey')}'; allowed: {', '.join(JOURNEYS)}")
        if config.journey not in config:
            raise InputError(f"journey is '{config.journey}', but the config has no fields config.{config.journey}.*")
        JOURNEYS[config.journey](config, workdir)
    except InputError as error:
        command_line.fail(error)
    except KeyboardInterrupt:
        print(f'\nstopped; {STOPPED[config.journey].format(workdir=workdir)}')
        sys.exit(130)


if __name__ == '__main__':
    app.run(main, flags_parser=command_line.parse_flags)
