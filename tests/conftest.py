"""The strict session: what is usually let pass here fails.

Data types promote strictly, ranks do not promote, warnings are errors (pyproject.toml), four devices are forced so
that sharding is real, and every shape and type that `dpc_jax` writes in a signature is checked at each call.
`test_session.py` proves that all of this is on.
"""

import contextlib
import gc
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.postgres import Server

ROOT = pathlib.Path(__file__).resolve().parent.parent

TOY = '--config=configs/scenes_search.py:toy'
TOY_SEARCH = ('--config.search.num_candidates=6', '--config.search.references=("conv1x1",)')

# JAX reads these when it is imported, so they come before anything that imports it.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('MPLBACKEND', 'Agg')
# Most of a test's time is compilation, so programs are optimised little: a seventh less time in all.
XLA_FLAGS = (
    '--xla_force_host_platform_device_count=4',
    '--xla_backend_optimization_level=1',
    '--xla_llvm_disable_expensive_passes=true',
)
os.environ['XLA_FLAGS'] = ' '.join([*os.environ.get('XLA_FLAGS', '').split(), *XLA_FLAGS])

# Compiled programs are kept between sessions, and shared with the processes that tests start.
# `JAX_ENABLE_COMPILATION_CACHE=0` turns it off, `make clean` empties it.
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(ROOT / '.jax_cache'))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES', '-1')

import jax
from absl import flags
from jaxtyping import install_import_hook

jax.config.update('jax_numpy_dtype_promotion', 'strict')
jax.config.update('jax_numpy_rank_promotion', 'raise')

install_import_hook('dpc_jax', 'beartype.beartype')  # before the first import of dpc_jax, for the whole session

flags.FLAGS.mark_as_parsed()  # grain reads flags, and nobody parses them under pytest

# Tracing makes objects by the million, and hardly any of them in cycles: collections that find nothing took a tenth.
gc.set_threshold(50_000, 20, 100)


LONGEST = (
    *(
        'train',
        'task_journeys',
        'task_toys',
        'experiments',
        'run',
        'aux_decoder',
        'search',
        'ladder',
        'population',
        'equivalence',
        'aux_machine',
    ),
    *('study', 'aux_search', 'backbones', 'evaluate_cells', 'evaluate', 'contexts', 'controller', 'public_api', 'docs'),
)
"""Files of tests that take minutes, the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first, so that of several processes none is left with one of them at the end."""
    places = {f'test_{name}.py': place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONGEST)))  # stable: the others as they were


@pytest.fixture(autouse=True, scope='module')
def _forget_programs() -> Iterator[None]:
    """Drops what JAX keeps of a module's programs: thousands of them fill gigabytes and slow every collection."""
    yield
    jax.clear_caches()
    gc.unfreeze()
    gc.collect()
    gc.freeze()  # what is left is half a million objects of libraries, which no collection has to look through


@pytest.fixture(scope='module')
def quick_compilation() -> Iterator[None]:
    """For modules most of whose time is compilation: leaves out LLVM's passes and none of XLA's.

    It holds for the processes that their tests start, too.
    """
    jax.config.update('jax_disable_most_optimizations', True)
    os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS'] = '1'
    yield
    del os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS']
    jax.config.update('jax_disable_most_optimizations', False)


@pytest.fixture(scope='session')
def shared() -> Callable[[str], pathlib.Path]:
    """`shared('data/camvid')`: the path of that file or folder under DPC_SHARED, or a skip that says what is absent.

    DPC_SHARED holds what is too large or not free to be in the repository (golden values, real images, weights);
    a relative path counts from the root of the repository, and the default is `../shared`.
    """
    folder = ROOT / os.environ.get('DPC_SHARED', '../shared')

    def find(name: str) -> pathlib.Path:
        path = folder / name
        if not path.exists():
            pytest.skip(f"'{name}' is not in the folder of shared files (environment variable DPC_SHARED)")
        return path

    return find


@pytest.fixture(scope='session')
def fault() -> Callable[[Callable[[], object]], str]:
    """`fault(read)`: the one line of the InputError that `read` raises."""
    from dpc_jax.base import InputError

    def line_of(read: Callable[[], object]) -> str:
        with pytest.raises(InputError) as caught:
            read()
        (line,) = str(caught.value).splitlines()
        return line

    return line_of


@pytest.fixture(scope='session')
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], pathlib.Path]:
    """`drawn('camvid')`: the root of a data set of two drawn images for each part, which nobody may change."""
    from dpc_jax import drawn_data

    folder = tmp_path_factory.mktemp('drawn')

    def root_of(name: str) -> pathlib.Path:
        if not (folder / name).exists():
            drawn_data.write(name, folder / name, 2)
        return folder / name

    return root_of


@pytest.fixture(scope='session')
def postgres() -> Iterator['Server']:
    """A PostgreSQL server of this session, or a skip that says what it needs."""
    from tests.postgres import MissingError, running

    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(running())
        except MissingError as missing:
            pytest.skip(str(missing))
        yield server


@pytest.fixture(scope='session')
def toy_search(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, str]:
    """A search by run.py that nobody disturbed: its folder, which nobody may change, and what it printed."""
    workdir = tmp_path_factory.mktemp('toy_search')
    command = [sys.executable, 'run.py', TOY, f'--workdir={workdir}', *TOY_SEARCH]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, '')
    return workdir, done.stdout
