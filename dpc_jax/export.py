"""A whole network as a program that runs without this package: `jax.export`, with the weights inside.

The file is StableHLO in JAX's own wrapping. JAX promises to read it for at least six months after it was written
(docs.jax.dev, "Exporting and serializing staged-out computations"); `flatbuffers` must be installed on both sides.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import export
from jaxtyping import Array, Num

from dpc_jax.base import InputError, PyTree, Size
from dpc_jax.segmenter import Segmenter
from dpc_jax.task import Task

PLATFORMS = ('cpu', 'cuda')
IMAGE_DTYPES = ('uint8', 'float32')


def check_size(size: Size, output_stride: int) -> None:
    """InputError unless both sides are output_stride * k + 1: corners on corners, as the network was trained."""
    if any(side <= output_stride or (side - 1) % output_stride for side in size):
        below, above = (
            'x'.join(str(max(1, steps) * output_stride + 1) for steps in counts)
            for counts in ([(n - 1) // output_stride for n in size], [-((1 - n) // output_stride) for n in size])
        )
        raise InputError(
            f'image size {size[0]}x{size[1]}: each side must be a multiple of the output stride {output_stride} plus 1,'
            f' such as {below} or {above}'
        )


def outputs(
    network: Segmenter, task: Task, variables: PyTree, images: Num[Array, 'B H W 3'], *, pool_crop: Size | None = None
) -> dict[str, Array]:
    """What the program does, by name (`Task.program`): of segmentation 'logits', resized to the images, and 'classes'.

    The network runs in inference; `images` are in 0..255, of any type. `pool_crop` is that of `Segmenter`.
    """
    coarse: Any = network.apply(variables, images.astype(jnp.float32), False, None, pool_crop)
    return task.program(coarse, (images.shape[1], images.shape[2]))


def program(
    network: Segmenter,
    task: Task,
    variables: PyTree,
    *,
    size: Size,
    dtype: str = 'uint8',
    pool_crop: Size | None = None,
    platforms: tuple[str, ...] = PLATFORMS,
) -> bytes:
    """`outputs` for any number of images of `size` (H, W) and type `dtype`, serialised; for `jax.export.deserialize`.

    Raises:
      InputError: `dtype` is not in `IMAGE_DTYPES`; a side of `size` is not a multiple of the output stride plus 1.
    """
    if dtype not in IMAGE_DTYPES:
        raise InputError(f"type of the images '{dtype}'; allowed: {', '.join(IMAGE_DTYPES)}")
    check_size(size, network.output_stride)

    def run(images: Num[Array, 'B H W 3']) -> PyTree:
        return outputs(network, task, variables, images, pool_crop=pool_crop)

    (batch,) = export.symbolic_shape('B')
    images = jax.ShapeDtypeStruct((batch, *size, 3), jnp.dtype(dtype))
    # As in evaluation: by default a GPU rounds the factors of a float32 product to fewer bits.
    with _without_tracebacks(), jax.default_matmul_precision('float32'):
        return bytes(export.export(jax.jit(run), platforms=platforms)(images).serialize())


@contextlib.contextmanager
def _without_tracebacks() -> Iterator[None]:
    """Leaves out the source files of this machine, which a program names at every operation by default."""
    config: Any = jax.config
    limit = config.jax_traceback_in_locations_limit
    config.update('jax_traceback_in_locations_limit', 0)
    try:
        yield
    finally:
        config.update('jax_traceback_in_locations_limit', limit)
