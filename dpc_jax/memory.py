"""What a search does where memory is short: features that stay on disk, and chunks that shrink."""

import dataclasses
from collections.abc import Callable

import jax

from dpc_jax import files, sharding
from dpc_jax.base import Genotype, InputError, KeepGoing, ProxyResult
from dpc_jax.population import OutOfMemoryError, PopulationEvaluator, device_memory
from dpc_jax.proxy import Source
from dpc_jax.streaming import StreamedData
from dpc_jax.two_stages import TwoStages

STREAMS = ('auto', 'never', 'always')
DATA_SHARE = 0.75
"""Of the memory, at most, for the features; the rest is for candidates and for what a step makes."""


# ---- features -------------------------------------------------------------------------------------------------------


def place(stream: str, data: StreamedData) -> Source:
    """The features on every device, or on disk as they are: see `STREAMS`.

    Raises:
      InputError: they shall not stay on disk and do not fit.
    """
    if is_streamed(stream, data):
        return data
    try:
        return data.on_device()
    except jax.errors.JaxRuntimeError as error:  # others may have taken what the device says that it has
        if not sharding.is_out_of_memory(error):
            raise
        if stream == 'never':
            raise InputError(
                f'{data.num_bytes / 2**30:.1f} GiB of features do not fit the device with proxy.stream never;'
                ' auto and always leave them on disk'
            ) from error
        print('the device does not hold the features, which stay on disk')
        return data


def is_streamed(stream: str, data: StreamedData) -> bool:
    """Whether the features stay on disk; where 'auto' chooses that, it is printed."""
    there = device_memory(data.mesh)
    needed, where = data.num_bytes, 'a device'
    if there is None:  # a CPU, whose devices share what there is
        there, needed, where = files.available_memory(), needed * data.mesh.size, 'this machine'
    fits = there is None or needed <= DATA_SHARE * there
    if stream == 'auto' and not fits:
        print(f'{needed / 2**30:.1f} GiB of features stay on disk: {where} has {(there or 0) / 2**30:.1f} GiB')
    return stream == 'always' or (stream == 'auto' and not fits)


# ---- chunks ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Chunk:
    """The size of a chunk in use; it shrinks for all evaluators that share it, and `keep` hears of it."""

    size: int
    keep: Callable[[int], None] = lambda size: None

    def halve(self) -> None:
        """Goes on with half the size, and says so."""
        print(f'chunk {self.size} does not fit; going on with {self.size // 2}', flush=True)
        self.size //= 2
        self.keep(self.size)


class PatientEvaluator:
    """An `Evaluator` of a whole search: where memory does not hold a chunk, it evaluates the same again in half of it.

    It takes as many candidates at once as before, in more chunks one after the other.
    """

    def __init__(self, evaluator: PopulationEvaluator | TwoStages, chunk: Chunk) -> None:
        self._evaluator, self._chunk = evaluator, chunk
        self.population = evaluator.population

    def __call__(self, genotypes: Genotype, keep_going: KeepGoing | None = None) -> ProxyResult:
        """As `PopulationEvaluator`.

        Raises:
          OutOfMemoryError: memory does not hold a chunk of one.
        """
        while True:
            if self._chunk.size < self._evaluator.chunk:
                self._evaluator = self._evaluator.with_chunk(self._chunk.size, self.population)
            try:
                return self._evaluator(genotypes, keep_going)
            except OutOfMemoryError:
                if self._evaluator.chunk == 1:
                    raise
            self._chunk.halve()  # after the handler, which holds on to the arrays of the attempt
