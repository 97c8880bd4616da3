"""How the experiment scripts end; not in `common`, because this file imports almost nothing."""

import functools
import sys
from collections.abc import Callable, Sequence

from dpc_jax import command_line
from dpc_jax.base import InputError

Main = Callable[[Sequence[str]], None]


def one_line_errors(main: Main) -> Main:
    """Bad input is one line and exit code 2, Ctrl-C is exit code 130; neither is a traceback."""

    @functools.wraps(main)
    def wrapped(argv: Sequence[str]) -> None:
        try:
            main(argv)
        except InputError as error:
            command_line.fail(error)
        except KeyboardInterrupt:
            print('\nstopped; what was finished is kept')
            sys.exit(130)

    return wrapped
