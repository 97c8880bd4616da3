"""A network over all examples of a split: whole images, padded, or crops; each is counted once.

Images are padded at the bottom and at the right with the mean pixel; what is padded has no label and takes no part
(official eval.py, vis.py). The last batch is filled up with images that have no labels, so none is left out. Several
processes take every other example and add up their counts.
"""

import contextlib
import dataclasses
import itertools
import json
import operator
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float32

from dpc_jax import inference, preprocess, sharding
from dpc_jax.base import DivergedError, Example, InputError, PyTree, Shown, Size
from dpc_jax.datasets import Dataset
from dpc_jax.inference import InferenceSettings, Predict
from dpc_jax.progress import track
from dpc_jax.read_ahead import read_ahead
from dpc_jax.segmenter import Segmenter
from dpc_jax.task import Counts, Row, Target, Task


class PaddedBatch(NamedTuple):
    """Padded examples; after them, up to the size of a batch, images on which nothing is judged."""

    examples: Sequence[Example]
    images: Float32[np.ndarray, 'B H W 3']
    target: Target  # [B, ...]


class Counted(NamedTuple):
    """What was found over a split."""

    counts: Counts  # of all processes, by name
    rows: list[Row]  # of all processes, in the order of the examples
    shown: list[Shown]  # the first few, of this process
    seconds: float


@dataclasses.dataclass(frozen=True)
class Scorer:
    """One network on one split: its programs are compiled at the first call and serve any variables."""

    config: ml_collections.ConfigDict
    dataset: Dataset
    task: Task
    crop_size: Size
    mesh: Mesh  # of this process
    predict: Predict

    def count(
        self,
        variables: PyTree,
        *,
        show: int = 0,
        each: Callable[[Example, Any], None] | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Counted | None:
        """The counts over the whole split; None if it was stopped.

        Args:
          show: how many of the first predictions are kept.
          each: is called with every prediction of this process.
        """
        started = time.perf_counter()
        counts, rows, shown = self.task.empty(), list[list[Row]](), list[Shown]()
        for examples, more, found in self.predictions(variables):
            counts = self.task.merge(counts, more)
            if stopped():
                return None
            if each is None and len(shown) >= show and not self.task.of_crops:
                continue
            arrays = jax.tree.map(np.asarray, found)
            for place, example in enumerate(examples):
                one = self.task.of_example(jax.tree.map(operator.itemgetter(place), arrays), example)
                rows.append(self.task.rows(example, one))
                shown += [(example, one)] * (len(shown) < show)
                if each is not None:
                    each(example, one)
        return Counted(*_of_all_processes(counts, rows), shown, time.perf_counter() - started)

    def predictions(self, variables: PyTree) -> Iterator[tuple[Sequence[Example], Counts, PyTree]]:
        """Batch by batch: its examples, their counts, what was found in the padded images."""
        size = self.config.evaluate.batch_size * self.mesh.size
        if (
            jax.process_count() > 1
        ):  # arrays on the devices of all processes go through the host to the devices of this one
            variables = jax.tree.map(np.asarray, variables)
        held = jax.device_put(variables, sharding.replicated(self.mesh))
        indices = range(jax.process_index(), len(self.dataset), jax.process_count())
        batches = read_ahead(make_batches(self.dataset, self.task, indices, self.crop_size, size))
        for batch in track(self._guarded(batches), 'evaluating, batch', -(-len(indices) // size)):
            # By default JAX lets GPUs and TPUs round the factors of a float32 product to fewer bits.
            with jax.default_matmul_precision('float32'), self._memory():
                placed = jax.device_put((batch.images, batch.target), sharding.along_data(self.mesh))
                found, of_devices, finite = self.predict(held, *placed)
                counts = {name: _added(np.asarray(values)) for name, values in of_devices.items()}
            check_finite(batch.examples, np.asarray(finite))
            yield batch.examples, counts, found

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
    task: Task,
    settings: InferenceSettings,
    *,
    crop_size: Size,
) -> Scorer:
    """The scorer of `network` on `dataset` by `config.evaluate`, on the devices of this process."""
    mesh = sharding.local_mesh()
    return Scorer(config, dataset, task, crop_size, mesh, inference.make_predict(network, task, settings, mesh))


def _added(values: np.ndarray) -> np.ndarray:
    """The counts of devices [N, ...] added up: integers exactly, and so many floats as one device counts."""
    return values.astype(np.float64 if values.dtype.kind == 'f' else np.int64).sum(0)


def _of_all_processes(counts: Counts, rows: Sequence[Sequence[Row]]) -> tuple[dict[str, np.ndarray], list[Row]]:
    """Counts added up, and rows in the order of the examples, of which each process took every other one."""
    added = {name: sharding.sum_over_processes(values) for name, values in counts.items()}
    if not any(rows) and jax.process_count() == 1:
        return added, []
    of_processes = [json.loads(text) for text in sharding.texts_of_processes(json.dumps(rows))]
    in_order = itertools.chain.from_iterable(itertools.zip_longest(*of_processes, fillvalue=[]))
    return added, list(itertools.chain.from_iterable(in_order))


def check_finite(examples: Sequence[Example], finite: Bool[np.ndarray, ' B']) -> None:
    """DivergedError that names the first image for which the network gives values that are not finite."""
    for example, is_finite in zip(examples, finite, strict=False):
        if not is_finite:
            raise DivergedError(
                f'{example.name}: the network gives values that are not finite; its checkpoint comes from a training'
                ' that diverged, or is damaged'
            )


def make_batches(
    dataset: Dataset, task: Task, indices: Sequence[int], crop_size: Size, size: int
) -> Iterator[PaddedBatch]:
    """These examples in order; what the last batch lacks is filled up with images on which nothing is judged."""
    for start in range(0, len(indices), size):
        examples = [dataset[index] for index in indices[start : start + size]]
        images = np.full((size, *crop_size, 3), preprocess.MEAN_PIXEL, np.float32)
        targets = [task.nothing(crop_size)] * size
        for place, example in enumerate(examples):
            images[place], targets[place] = task.whole(example, crop_size)
        yield PaddedBatch(examples, images, jax.tree.map(lambda *parts: np.stack(parts), *targets))
