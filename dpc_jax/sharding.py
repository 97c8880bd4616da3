"""One mesh for the whole project: axis "data" for images of a batch, axis "population" for candidates."""

import logging
import re
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Num

from dpc_jax.base import InputError, PyTree

DATA = 'data'
POPULATION = 'population'

CUDA = "pip install 'dpc_jax[cuda12]'"
"""How this package is installed for NVIDIA GPUs."""


def check_devices() -> None:
    """InputError unless JAX has the devices that JAX_PLATFORMS names; every journey begins with it.

    Where JAX_PLATFORMS is not set and a GPU stays idle because CUDA is missing, JAX warns; this adds what to install.
    """
    config: Any = jax.config
    logging.getLogger('jax._src.xla_bridge').addFilter(_name_the_extra)
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # JAX asserts where it knows the platform and finds no device of it
        why = ' '.join(str(error).split()) or 'there is no such device'
        asked = config.jax_platforms or ''
        hint = f'; NVIDIA GPUs need {CUDA}' if 'cuda' in asked or 'gpu' in asked else ''
        raise InputError(
            f"JAX cannot start with JAX_PLATFORMS='{asked}': {why}{hint}; JAX_PLATFORMS=cpu works"
        ) from error


def _name_the_extra(record: logging.LogRecord) -> bool:
    if 'CUDA-enabled jaxlib is not installed' in str(record.msg):
        record.msg = f'{record.msg} To use it: {CUDA}'
    return True


def start_distributed(coordinator: str, num_processes: int, process_id: int) -> None:
    """Makes this process one of several that train together; before anything else of JAX.

    Args:
      coordinator: host:port of process 0, or 'auto' where JAX finds everything itself (SLURM, Open MPI, Kubernetes,
        Cloud TPU); it then finds numbers that are -1, too.

    Raises:
      InputError: the other processes did not connect, or the numbers make no sense.
    """
    address = None if coordinator == 'auto' else coordinator
    flags = f"--coordinator='{coordinator}' --num_processes={num_processes} --process_id={process_id}"
    if address is not None and not re.fullmatch(r'.+:\d+', address):
        raise InputError(f"{flags}: a coordinator is host:port of process 0, or 'auto'")
    number, place = (None if value < 0 else value for value in (num_processes, process_id))
    try:
        jax.distributed.initialize(address, number, place)
    except (RuntimeError, ValueError) as error:
        why = ' '.join(str(error).split())
        raise InputError(f'{flags}: {why}') from error
    check_devices()


def population_mesh(num_devices: int | None = None) -> Mesh:
    """All devices (or the first few) in a line along the candidates, which share nothing."""
    devices = np.array(jax.devices()[:num_devices])
    # Auto axes: jax 0.11 makes explicit ones by default, which refuse integer labels in a loss.
    return Mesh(devices.reshape(1, -1), (DATA, POPULATION), axis_types=(AxisType.Auto, AxisType.Auto))


def data_mesh(num_devices: int | None = None) -> Mesh:
    """All devices (or the first few) in a line along the images of a batch."""
    devices = np.array(jax.devices()[:num_devices])
    return Mesh(devices.reshape(-1, 1), (DATA, POPULATION), axis_types=(AxisType.Auto, AxisType.Auto))


def local_mesh() -> Mesh:
    """The devices of this process in a line along the images of a batch."""
    devices = np.array(jax.local_devices())
    return Mesh(devices.reshape(-1, 1), (DATA, POPULATION), axis_types=(AxisType.Auto, AxisType.Auto))


def along_data(mesh: Mesh) -> NamedSharding:
    """The first axis split over the devices; it must be a multiple of their number."""
    return NamedSharding(mesh, PartitionSpec(DATA))


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """A copy of every leaf on every device of all processes, which must hold equal values.

    It is never the leaf itself: a step deletes the state that it is given, and with it whatever shares its memory.
    """
    everywhere = replicated(mesh)
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(everywhere, np.array(leaf)), tree)


def sum_over_processes(counts: Num[np.ndarray, '*n']) -> Num[np.ndarray, '*n']:
    """The int64 or float64 counts of all processes added up, the same in each; every process must call it."""
    if jax.process_count() == 1:
        return counts
    if counts.dtype == np.float64:  # JAX has no float64 by default: the bits go as they are
        gathered = np.asarray(multihost_utils.process_allgather(counts.reshape(-1).view(np.uint32)))
        floats: Num[np.ndarray, '*n'] = np.ascontiguousarray(gathered).view(np.float64).sum(0).reshape(counts.shape)
        return floats
    halves = np.stack([counts >> 30, counts & (2**30 - 1)]).astype(np.int32)  # JAX has no int64 by default
    high, low = np.moveaxis(np.asarray(multihost_utils.process_allgather(halves), np.int64), 1, 0)
    total: Num[np.ndarray, '*n'] = ((high << 30) + low).sum(0)
    return total


def texts_of_processes(text: str) -> list[str]:
    """The texts of all processes in their order, the same in each; every process must call it."""
    if jax.process_count() == 1:
        return [text]
    content = np.frombuffer(text.encode(), np.uint8)
    lengths = np.asarray(multihost_utils.process_allgather(np.int32(len(content))))
    padded = np.zeros(max(1, int(lengths.max())), np.uint8)
    padded[: len(content)] = content
    gathered = np.asarray(multihost_utils.process_allgather(padded))
    return [row[:length].tobytes().decode() for row, length in zip(gathered, lengths.tolist(), strict=True)]


def is_out_of_memory(error: Exception) -> bool:
    """Whether the memory of the host or of a device was not enough; each kind of device has its own message."""
    said = 'RESOURCE_EXHAUSTED' in str(error) or 'Out of memory' in str(error)
    return isinstance(error, MemoryError) or (said and not is_out_of_shared_memory(error))


def is_out_of_shared_memory(error: Exception) -> bool:
    """Whether a kernel does not fit a multiprocessor of the GPU, which no smaller batch helps against."""
    return 'Shared memory size limit' in str(error)
