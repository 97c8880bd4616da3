"""Runs the journey that a config names, in a work folder; the same command goes on where it was stopped.

  python run.py --config=configs/scenes_search.py --workdir=runs/scenes

Any field of the config can be set on the command line, e.g. --config.search.num_candidates=100 or
--config.proxy.steps=500; configs/common.py lists the fields. A config may take an argument after a colon:
--config=configs/scenes_search.py:toy runs in seconds.

Exit code: 0 done, 2 bad input (one line says which), 130 stopped by Ctrl-C (everything finished is kept).
"""

import logging
import pathlib
import signal
import sys
from collections.abc import Sequence

from absl import app, flags
from ml_collections import config_flags

from dpc_jax import search
from dpc_jax.base import InputError

JOURNEYS = {'search': search.run}

CONFIG = config_flags.DEFINE_config_file('config', None, 'What to run: a file in configs/, perhaps with :argument.')
WORKDIR = flags.DEFINE_string('workdir', None, 'Folder for everything that is written; made if it is missing.')


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Parses the command line; whatever is wrong with it is one line and exit code 2."""
    try:
        rest = flags.FLAGS(list(argv))
        if CONFIG.value is None or not WORKDIR.value:
            raise InputError('both --config and --workdir are needed; --help explains them')
        if len(rest) > 1:
            raise InputError(f"'{rest[1]}' is not a flag; --help explains the flags")
    except (flags.Error, InputError, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        fail(error)
    return rest


def main(argv: Sequence[str]) -> None:
    """Runs the journey."""
    del argv
    logging.basicConfig(format='%(message)s', level=logging.WARNING)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    config, workdir = CONFIG.value, pathlib.Path(WORKDIR.value or '').expanduser()
    try:
        if config.journey not in JOURNEYS:
            raise InputError(f"journey is '{config.journey}'; allowed: {', '.join(JOURNEYS)}")
        JOURNEYS[config.journey](config, workdir)
    except InputError as error:
        fail(error)
    except KeyboardInterrupt:
        print(f'\nstopped; everything finished is kept in {workdir}. The same command goes on from here.')
        sys.exit(130)


def fail(error: Exception) -> None:
    """One line to standard error, exit code 2."""
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    print(f'error: {" ".join(str(text).split())}', file=sys.stderr)
    sys.exit(2)


if __name__ == '__main__':
    app.run(main, flags_parser=parse_flags)
