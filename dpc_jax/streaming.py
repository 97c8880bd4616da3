"""Cached images that stay on disk: those that a span of steps reads are on the devices while it runs, and no longer.

All candidates read the same minibatches, and which is known before the first step. So while the devices compute a span,
a thread reads the images of the next from memory-mapped files and sends them there: two spans at most are on a device.
"""

import dataclasses
import itertools
from collections.abc import Generator, Iterator, Mapping, Sequence

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int, UInt8

from dpc_jax import sharding
from dpc_jax.proxy import Block, Images, Plan, ProxyData, ProxySettings
from dpc_jax.read_ahead import read_ahead


@dataclasses.dataclass(frozen=True)
class StreamedData:
    """A `proxy.Source` that reads arrays in files, or any others of NumPy, when they are needed."""

    train_features: Mapping[int, Float[np.ndarray, 'N _ _ _']]
    train_labels: UInt8[np.ndarray, 'N H W']
    val_features: Mapping[int, Float[np.ndarray, 'V _ _ _']]
    val_labels: UInt8[np.ndarray, 'V I J']
    mesh: Mesh

    @property
    def num_bytes(self) -> int:
        """Of all arrays."""
        return _num_bytes((self.train_features, self.train_labels, self.val_features, self.val_labels))

    def on_device(self) -> ProxyData:
        """All of it on every device."""
        arrays = (dict(self.train_features), self.train_labels, dict(self.val_features), self.val_labels)
        everywhere = sharding.replicated(self.mesh)
        return ProxyData(*jax.tree.map(lambda array: jax.device_put(np.asarray(array), everywhere), arrays))

    def blocks(self, plan: Plan, edges: Sequence[int], steps_per_call: int) -> Generator[Block]:
        """See `proxy.Source`. An image that several steps of a span read is sent once."""
        order, held = np.asarray(plan.order), Images(self.train_features, self.train_labels)
        rows = min(steps_per_call * order.shape[1], len(held.labels))

        def made() -> Iterator[Block]:
            for start, stop in itertools.pairwise(edges):
                chosen, inverse = np.unique(order[start:stop], return_inverse=True)
                places = np.zeros((steps_per_call, order.shape[1]), np.int32)
                places[: stop - start] = inverse.reshape(stop - start, -1)
                span = np.array([start, stop], np.int32)
                # Yielded at once: a name would keep the block on the devices until the next is there.
                yield Block(self._send(held, chosen, rows), plan._replace(order=places, first=span[0]), span)

        return read_ahead(made())

    def val_blocks(self, settings: ProxySettings, steps_per_call: int) -> Generator[tuple[Images, Int[np.ndarray, '']]]:
        """See `proxy.Source`. A block takes about as much memory as one of training."""
        count, batch, held = len(self.val_labels), settings.eval_batch_size, Images(self.val_features, self.val_labels)
        of_training = _num_bytes((self.train_features, self.train_labels)) // len(self.train_labels)
        fitting = steps_per_call * settings.batch_size * of_training // (_num_bytes(held) // count)
        rows = batch * max(1, min(fitting // batch, -(-count // batch)))

        def made() -> Iterator[tuple[Images, Int[np.ndarray, '']]]:
            for start in range(0, count, rows):
                chosen = np.arange(start, min(start + rows, count))
                yield self._send(held, chosen, rows), np.array(len(chosen), np.int32)

        return read_ahead(made())

    def _send(self, held: Images, chosen: Int[np.ndarray, ' n'], rows: int) -> Images:
        """These images on every device, filled up to so many rows."""

        def filled(array: np.ndarray) -> np.ndarray:
            block = np.zeros((rows, *array.shape[1:]), array.dtype)
            for row, image in enumerate(chosen):
                block[row] = array[image]
            return block

        images = jax.tree.map(filled, Images(dict(held.features), held.labels))
        sent: Images = jax.device_put(images, sharding.replicated(self.mesh))
        return sent


def _num_bytes(arrays: object) -> int:
    return sum(array.nbytes for array in jax.tree.leaves(arrays))
