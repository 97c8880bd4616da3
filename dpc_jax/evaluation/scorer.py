"""A network over all images of a split: whole images, padded; every pixel that has a label is counted once.

Images are padded at the bottom and at the right with the mean pixel; what is padded has no label and takes no part
(official eval.py, vis.py). The last batch is filled up with images that have no labels, so none is left out. Several
processes take every other image and add up their counts.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float32, Int, UInt8

from dpc_jax import inference, preprocess, sharding
from dpc_jax.base import IGNORE_LABEL, DivergedError, InputError, PyTree, SegmentationExample, Shown, Size
from dpc_jax.datasets import Dataset
from dpc_jax.inference import InferenceSettings, Predict
from dpc_jax.progress import track
from dpc_jax.read_ahead import read_ahead
from dpc_jax.segmenter import Segmenter


class PaddedBatch(NamedTuple):
    """Padded examples; after them, up to the size of a batch, images without labels."""

    examples: Sequence[SegmentationExample]
    images: Float32[np.ndarray, 'B H W 3']
    labels: UInt8[np.ndarray, 'B H W']


class Counted(NamedTuple):
    """What was found over a split."""

    confusion: Int[np.ndarray, 'L L']  # int64 pixels, by (label, prediction), of all processes
    shown: list[Shown]  # the first few, of this process
    seconds: float


@dataclasses.dataclass(frozen=True)
class Scorer:
    """One network on one split: its programs are compiled at the first call and serve any variables."""

    config: ml_collections.ConfigDict
    dataset: Dataset
    crop_size: Size
    mesh: Mesh  # of this process
    predict: Predict

    def count(
        self,
        variables: PyTree,
        *,
        show: int = 0,
        each: Callable[[SegmentationExample, UInt8[np.ndarray, '_ _']], None] | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Counted | None:
        """The counts over the whole split; None if it was stopped.

        Args:
          show: how many of the first predictions are kept.
          each: is called with every prediction of this process.
        """
        started = time.perf_counter()
        confusion, shown = np.zeros((self.dataset.num_classes,) * 2, np.int64), list[Shown]()
        for examples, counts, classes in self.predictions(variables):
            confusion += counts
            if stopped():
                return None
            if each is None and len(shown) >= show:
                continue
            for example, predicted in zip(examples, np.asarray(classes), strict=False):
                predicted = predicted[: example.label.shape[0], : example.label.shape[1]]
                shown += [(example, predicted)] * (len(shown) < show)
                if each is not None:
                    each(example, predicted)
        return Counted(sharding.sum_over_processes(confusion), shown, time.perf_counter() - started)

    def predictions(
        self, variables: PyTree
    ) -> Iterator[tuple[Sequence[SegmentationExample], Int[np.ndarray, 'L L'], jax.Array]]:
        """Batch by batch: its examples, the counts of their pixels, the classes in the padded images."""
        size = self.config.evaluate.batch_size * self.mesh.size
        if (
            jax.process_count() > 1
        ):  # arrays on the devices of all processes go through the host to the devices of this one
            variables = jax.tree.map(np.asarray, variables)
        held = jax.device_put(variables, sharding.replicated(self.mesh))
        indices = range(jax.process_index(), len(self.dataset), jax.process_count())
        batches = read_ahead(make_batches(self.dataset, indices, self.crop_size, size))
        for batch in track(self._guarded(batches), 'evaluating, batch', -(-len(indices) // size)):
            # By default JAX lets GPUs and TPUs round the factors of a float32 product to fewer bits.
            with jax.default_matmul_precision('float32'), self._memory():
                placed = jax.device_put((batch.images, batch.labels), sharding.along_data(self.mesh))
                classes, confusion, finite = self.predict(held, *placed)
                counts = np.asarray(confusion, np.int64).sum(0)
            check_finite(batch.examples, np.asarray(finite))
            yield batch.examples, counts, classes

    def _guarded(self, batches: Iterator[PaddedBatch]) -> Iterator[PaddedBatch]:
        while True:
            with self._memory():
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    @contextlib.contextmanager
    def _memory(self) -> Iterator[None]:
        """Says what to make smaller if the memory of host or device is not enough."""
        try:
            yield
        except (jax.errors.JaxRuntimeError, MemoryError) as error:
            if not sharding.is_out_of_memory(error):
                raise
            raise InputError(
                f'out of memory with evaluate.batch_size {self.config.evaluate.batch_size}, evaluate.scales'
                f' {tuple(self.config.evaluate.scales)} and a crop of {self.crop_size}; make one of them smaller, or'
                " take evaluate.dtype 'bfloat16'"
            ) from error


def make(
    config: ml_collections.ConfigDict,
    dataset: Dataset,
    network: Segmenter,
    settings: InferenceSettings,
    *,
    crop_size: Size,
) -> Scorer:
    """The scorer of `network` on `dataset` by `config.evaluate`, on the devices of this process."""
    mesh = sharding.local_mesh()
    return Scorer(config, dataset, crop_size, mesh, inference.make_predict(network, settings, mesh))


def check_finite(examples: Sequence[SegmentationExample], finite: Bool[np.ndarray, ' B']) -> None:
    """DivergedError that names the first image for which the network gives values that are not finite."""
    for example, is_finite in zip(examples, finite, strict=False):
        if not is_finite:
            raise DivergedError(
                f'{example.name}: the network gives values that are not finite; its checkpoint comes from a training'
                ' that diverged, or is damaged'
            )


def make_batches(dataset: Dataset, indices: Sequence[int], crop_size: Size, size: int) -> Iterator[PaddedBatch]:
    """These examples in order; what the last batch lacks is filled up with images that have no labels."""
    for start in range(0, len(indices), size):
        examples = [dataset[index] for index in indices[start : start + size]]
        images = np.full((size, *crop_size, 3), preprocess.MEAN_PIXEL, np.float32)
        labels = np.full((size, *crop_size), IGNORE_LABEL, np.uint8)
        for place, example in enumerate(examples):
            images[place], labels[place] = preprocess.pad_to(example, crop_size)
        yield PaddedBatch(examples, images, labels)
