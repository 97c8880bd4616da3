"""How `run.py` and the experiment scripts read their command lines: what is wrong is one line, never a traceback."""

import io
import logging
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

from absl import flags

from dpc_jax.base import InputError

FAULTS = (
    *(flags.Error, InputError, AttributeError, KeyError, TypeError, ValueError),
    *(OSError, ImportError, SyntaxError),  # of the config's file
)


def print_anything() -> None:
    """Lets whatever is printed come out: what the terminal's encoding lacks as an escape, such as a name of a file that
    is not UTF-8 (`caf\\udce9.png`)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors='backslashreplace')


def parse_flags(argv: Sequence[str]) -> list[str]:
    """The `flags_parser` of `absl.app.run`; whatever is wrong with the flags is one line and exit code 2."""
    print_anything()
    # absl shows lines of level INFO, and JAX writes one for every kind of device that this machine lacks.
    logging.getLogger('jax._src.xla_bridge').setLevel(logging.WARNING)
    try:
        rest = flags.FLAGS(list(argv))
        if len(rest) > 1:
            raise InputError(f"'{rest[1]}' is not a flag; --help explains the flags")
        if 'config' in flags.FLAGS and flags.FLAGS.config is not None:
            flags.FLAGS.config.get('journey')  # only now ml_collections raises if there is no such file
    except SystemExit:  # after --help, for which absl exits with code 1
        sys.exit(0)
    except FAULTS as error:
        fail(explained(error, argv))
    return rest


def fail(error: Exception | str) -> NoReturn:
    """One line to standard error, exit code 2."""
    print(f'error: {" ".join(str(error).split())}', file=sys.stderr)
    sys.exit(2)


def explained(error: Exception, argv: Sequence[str]) -> str:
    """What ml_collections and absl mean, without the traceback or the advice around it."""
    text = str(error.args[0] if error.args else error).strip()
    if 'string indices must be' in text or text.startswith('Attribute'):  # a field of a value that has none
        deep = (arg.split('=')[0] for arg in argv if arg.split('=')[0].count('.') > 1)
        return f'{" or ".join(deep)}: the config has no such field; configs/ lists the fields'
    if isinstance(error, AttributeError | KeyError):  # of a ConfigDict: 'name', perhaps with a second line of advice
        name = re.sub(r'[\W]*(\w+).*', r'\1', text, flags=re.DOTALL)
        given = (arg.split('=')[0] for arg in argv if name in re.split(r'[.=]', arg))
        advice = re.findall(r'Did you mean "(\w+)"', text)
        hint = f"did you mean '{advice[0]}'?" if advice else 'configs/ lists the fields'
        return f"{next(given, name)}: the config has no field '{name}'; {hint}"
    if isinstance(error, SyntaxError):
        return f'the config cannot be read: {error}'
    return (text if isinstance(error, flags.Error) and 'Traceback' not in text else str(error)).splitlines()[-1].strip()
