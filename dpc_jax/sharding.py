"""One mesh for the whole project: axis "data" for images of a batch, axis "population" for candidates."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

DATA = 'data'
POPULATION = 'population'


def population_mesh(num_devices: int | None = None) -> Mesh:
    """All devices (or the first few) in a line along the candidates; nothing is shared between them."""
    devices = np.array(jax.devices()[:num_devices])
    # Auto axes: jax 0.11 makes explicit ones by default, which refuse integer labels in a loss.
    return Mesh(devices.reshape(1, -1), (DATA, POPULATION), axis_types=(AxisType.Auto, AxisType.Auto))


def data_mesh(num_devices: int | None = None) -> Mesh:
    """All devices (or the first few) in a line along the images of a batch."""
    devices = np.array(jax.devices()[:num_devices])
    return Mesh(devices.reshape(-1, 1), (DATA, POPULATION), axis_types=(AxisType.Auto, AxisType.Auto))


def along_data(mesh: Mesh) -> NamedSharding:
    """The first axis split over the devices; it must be a multiple of their number."""
    return NamedSharding(mesh, PartitionSpec(DATA))


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory was not enough, of the host or of a device; each kind of device says it in its own words."""
    return isinstance(error, MemoryError) or 'RESOURCE_EXHAUSTED' in str(error) or 'Out of memory' in str(error)
