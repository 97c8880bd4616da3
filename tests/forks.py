"""Scripts as processes of their own, without the seconds that their imports take.

A server has imported what all scripts import. For each command it forks a child, which runs the script's file as
`__main__` in the folder that is asked for; nothing of one command is left for the next. Tests that kill a process, or
that begin several, start real ones.
"""

import atexit
import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent

SERVER = """
import atexit, json, os, runpy, sys, threading, traceback, warnings

import clu.parameter_overview, flax.linen, grain.python, jax, matplotlib.pyplot, optax, optuna, orbax.checkpoint
import scipy.stats, dpc_jax.api
from dpc_jax.journeys import evaluate, predict, search, train

def child(command):
    os.chdir(command['cwd'])
    for number, name in ((0, os.devnull), (1, command['out']), (2, command['err'])):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT, 0o600), number)
    sys.argv = command['argv']
    sys.path.insert(0, os.path.dirname(os.path.abspath(sys.argv[0])))
    try:
        runpy.run_path(sys.argv[0], run_name='__main__')
        code = 0
    except SystemExit as stopped:
        if isinstance(stopped.code, str):
            print(stopped.code, file=sys.stderr)
        code = stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

for line in sys.stdin:
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='.*fork')  # no thread of the server's matters to a child
        number = os.fork()
    if not number:
        child(json.loads(line))
    print(os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]), flush=True)
"""


def run(*argv: object, cwd: pathlib.Path = ROOT) -> subprocess.CompletedProcess[str]:
    """What `python *argv` did in that folder, with the environment of this module's tests."""
    server = _server(os.environ.get('JAX_DISABLE_MOST_OPTIMIZATIONS', ''))
    words = [str(ROOT / str(argv[0])), *map(str, argv[1:])]
    with tempfile.TemporaryDirectory() as folder:
        out, err = (pathlib.Path(folder, name) for name in ('out', 'err'))
        print(
            json.dumps({'argv': words, 'cwd': str(cwd), 'out': str(out), 'err': str(err)}),
            file=server.stdin,
            flush=True,
        )
        code = server.stdout.readline()
        if not code:
            raise AssertionError(f'the server of scripts has ended with code {server.wait()}')
        return subprocess.CompletedProcess(words, int(code), out.read_text(), err.read_text())


@functools.cache
def _server(quick: str) -> subprocess.Popen[str]:
    """The server whose programs are compiled as this module's are."""
    path = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
    env = {**os.environ, 'PYTHONPATH': path, 'JAX_DISABLE_MOST_OPTIMIZATIONS': quick or '0'}
    server = subprocess.Popen(
        [sys.executable, '-c', SERVER], cwd=ROOT, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    atexit.register(_end, server)
    return server


def _end(server: subprocess.Popen[str]) -> None:
    with server:  # closes the pipes and waits
        server.kill()
