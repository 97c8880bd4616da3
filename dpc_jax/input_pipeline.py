"""Batches to train on: decoded and augmented by worker processes, placed on the devices ahead of the step.

The batch of a step is a function of seed and step alone: Grain shuffles the numbers of the images anew for every epoch,
and example number n of the run (n = step * batch size + place) draws its crop from the seed and n. How many workers,
threads or processes there are changes nothing, and to go on after a step is to begin the sequence there: the position
of a run in its data is the step.
"""

import contextlib
import dataclasses
import functools
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Generator, Iterator
from typing import NamedTuple

import grain
import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Float32, Int

from dpc_jax import checks, preprocess, sharding
from dpc_jax.base import Example, InputError, PyTree, Size
from dpc_jax.datasets import Dataset
from dpc_jax.read_ahead import read_ahead
from dpc_jax.task import Seen, Target, Task, Views

FAULTY_IMAGES = ('stop', 'skip')
WORKER_BATCHES = 2  # batches that each worker holds ready
NO_LEAK = 'ignore:resource_tracker:UserWarning'
"""An option of Python for the processes that are started: Python reports memory that workers share as leaked if it
is freed only at the end."""


@dataclasses.dataclass(frozen=True)
class PipelineSettings:
    """What a batch is made of; `make` of a config checks it.

    Attributes:
      batch_size: images of a step, of all processes together.
      parts: A, the parts of the batch that go through the network one after the other.
      workers: processes that decode and augment; 0 for this one.
      threads: of each of them.
      faulty_images: 'stop', or 'skip' to take the next whole image in place of a faulty one.
    """

    seed: int
    batch_size: int
    parts: int
    crop_size: Size
    scales: tuple[float, ...]
    flip_probability: float
    workers: int
    threads: int
    faulty_images: str


class WorkersError(InputError):
    """A worker was ended from outside: for lack of memory, or by a signal to all processes of a job."""


class TrainBatch(NamedTuple):
    """The rows of this process of one step's batch."""

    images: Float32[np.ndarray, 'A B H W 3']
    target: Target  # [A, B, ...]
    indices: Int[np.ndarray, ' N']  # into the data set, of all rows of all processes, in their order
    faults: tuple[str, ...]  # of images that others replace


class Faulty(NamedTuple):
    """Takes the place of a batch and says why there is none. A worker's exception would come with its traceback."""

    why: str


def pipeline_settings(config: ml_collections.ConfigDict, num_devices: int) -> PipelineSettings:
    """What `config.train` says of batches that are split over so many devices; InputError names a bad value."""
    train, stride = config.train, config.backbone.output_stride
    if not 0 <= config.seed < 2**32:
        raise InputError(f'seed is {config.seed}; it must be at least 0 and below 2**32')
    for field, least in (('batch_size', 1), ('accumulate', 1), ('workers', 0), ('threads', 1)):
        checks.at_least(least, **{f'train.{field}': train[field]})
    if train.batch_size % (train.accumulate * num_devices):
        raise InputError(
            f'train.batch_size is {train.batch_size}; it must be a multiple of train.accumulate ({train.accumulate})'
            f' times the number of devices ({num_devices})'
        )
    crop_size = tuple(train.crop_size)
    if len(crop_size) != 2 or any(type(side) is not int or side < 1 for side in crop_size):
        raise InputError(f'train.crop_size is {crop_size}; it must be (height, width), two integers above 0')
    if any((side - 1) % stride for side in crop_size):
        raise InputError(
            f'train.crop_size is {crop_size}; it must be output stride ({stride}) * k + 1, such as'
            f' {preprocess.next_crop(crop_size, stride)}'
        )
    scales = tuple(train.scales)
    if not scales or not all(type(scale) in (int, float) and 0 < scale < math.inf for scale in scales):
        raise InputError(f'train.scales is {scales}; it must be one or more numbers above 0')
    if not 0 <= train.flip_probability <= 1:
        raise InputError(f'train.flip_probability is {train.flip_probability}; it must be at least 0 and at most 1')
    if train.faulty_images not in FAULTY_IMAGES:
        raise InputError(f"train.faulty_images is '{train.faulty_images}'; allowed: {', '.join(FAULTY_IMAGES)}")
    return PipelineSettings(
        config.seed,
        train.batch_size,
        train.accumulate,
        (crop_size[0], crop_size[1]),
        tuple(map(float, scales)),
        float(train.flip_probability),
        train.workers,
        train.threads,
        train.faulty_images,
    )


# ---- on the host ----------------------------------------------------------------------------------------------------


def train_batches(
    dataset: Dataset,
    task: Task,
    settings: PipelineSettings,
    *,
    start: int,
    stop: int,
    process: int = 0,
    processes: int = 1,
) -> Generator[TrainBatch]:
    """The batches of the steps `start` to `stop`; of `processes` that share every batch, the rows of `process`.

    The workers end with the iterator (`close`).

    Raises:
      InputError: a faulty image that is not to be skipped, or no whole image at all; `WorkersError`.
    """
    if start >= stop:
        return
    load = Load(dataset, task, settings, process, processes)
    epochs = -(-stop * settings.batch_size // len(dataset))
    order = grain.MapDataset.range(len(dataset)).seed(settings.seed).shuffle().repeat(epochs)
    numbered = order.map_with_index(_numbered)
    steps = numbered.batch(settings.batch_size).map(load).slice(slice(start, stop))
    read = grain.ReadOptions(num_threads=settings.threads, prefetch_buffer_size=max(2, settings.threads))
    batches = steps.to_iter_dataset(read)
    if settings.workers:
        if NO_LEAK not in sys.warnoptions:
            sys.warnoptions.append(NO_LEAK)
        options = grain.MultiprocessingOptions(settings.workers, per_worker_buffer_size=WORKER_BATCHES)
        batches = batches.mp_prefetch(options, worker_init_fn=_init_worker)
    with contextlib.ExitStack() as stack:
        iterator = iter(batches)
        if hasattr(iterator, 'close'):
            stack.callback(iterator.close)
        while True:
            try:
                batch = next(iterator, None)
            except RuntimeError as error:  # Grain raises it when a process has ended
                raise WorkersError(
                    f'a worker that makes batches was killed; train.workers ({settings.workers}) times train.batch_size'
                    f' ({settings.batch_size}) may need more memory, of /dev/shm too, than there is: {error}'
                ) from error
            if batch is None:
                return
            if isinstance(batch, Faulty):
                raise InputError(batch.why)
            yield batch


def _numbered(number: int, index: int) -> Int[np.ndarray, ' 2']:
    return np.array([number, index])


def _init_worker(worker: int, workers: int) -> None:
    """Prepares a process that decodes: it needs no accelerator, and Ctrl-C is for the process that trains."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    jax.config.update('jax_platforms', 'cpu')
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    """Ends this process when its parent has ended, which may have been killed without a chance to stop it."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


@dataclasses.dataclass(frozen=True)
class Load:
    """`load(rows)`: the batch of (example number, index into the data set) `[N, 2]`; a process takes its share."""

    dataset: Dataset
    task: Task
    settings: PipelineSettings
    process: int = 0
    processes: int = 1

    def __call__(self, rows: Int[np.ndarray, 'N 2']) -> TrainBatch | Faulty:
        """Decodes and augments."""
        parts = rows.reshape(self.settings.parts, self.processes, -1, 2)[:, self.process]
        faults: list[str] = []
        try:
            seen = [self.seen(int(number), int(index), faults) for number, index in parts.reshape(-1, 2)]
        except InputError as error:
            return Faulty(str(error))
        batch: Seen = jax.tree.map(lambda *arrays: np.stack(arrays).reshape(*parts.shape[:2], *arrays[0].shape), *seen)
        return TrainBatch(batch.image, batch.target, rows[:, 1].copy(), tuple(faults))

    def seen(self, number: int, index: int, faults: list[str]) -> Seen:
        """Example `number`; what was faulty is added to `faults`."""
        settings = self.settings
        key = np.random.SeedSequence(settings.seed, spawn_key=(number,))
        views = Views(settings.crop_size, settings.scales, settings.flip_probability)
        return self.task.augment(key, self.example(index, faults), views)

    def example(self, index: int, faults: list[str]) -> Example:
        """The image, or the next that is whole where faulty ones are skipped; InputError where there is none."""
        for place in range(index, index + len(self.dataset)):
            try:
                found: Example = self.dataset[place % len(self.dataset)]
                return found
            except InputError as error:
                if self.settings.faulty_images == 'stop':
                    raise
                faults.append(str(error))
        raise InputError(f'no image is whole; the last fault: {faults[-1]}')


# ---- on the devices -------------------------------------------------------------------------------------------------


def on_devices(
    batches: Generator[TrainBatch], mesh: Mesh
) -> Generator[tuple[TrainBatch, Float[Array, 'A B H W 3'], PyTree]]:
    """Each batch, and its images and targets along the devices of all processes; the next is placed meanwhile."""
    split = NamedSharding(mesh, PartitionSpec(None, sharding.DATA))
    place = functools.partial(jax.make_array_from_process_local_data, split)

    def placed() -> Iterator[tuple[TrainBatch, jax.Array, PyTree]]:
        for batch in batches:
            yield batch, place(batch.images), jax.tree.map(place, batch.target)

    try:
        with contextlib.closing(read_ahead(placed())) as ahead:
            yield from ahead
    finally:
        batches.close()
