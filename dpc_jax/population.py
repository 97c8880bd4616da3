"""Many candidates at once: devices, chunks and vmap around the one candidate of `proxy`.

Genotypes, the order of images and the number of steps are data: three programs (initialise, train, score), each
compiled once, serve a whole search.
"""

import contextlib
import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, Sharding
from jaxtyping import Array, Bool, Float, Int

from dpc_jax import fused, heads, metrics, proxy, seats, sharding
from dpc_jax.base import Genotype, InputError, KeepGoing, ProxyResult, PyTree, population_size
from dpc_jax.chunks import over_population
from dpc_jax.proxy import Block, CandidateState, Plan, ProxySettings, Source
from dpc_jax.seats import Seats


class OutOfMemoryError(InputError):
    """The device does not hold what the settings ask for: no fault of a candidate, so none is recorded as failed."""


class Programs(NamedTuple):
    """The three compiled programs of a search; each takes `alive` [P] first."""

    init: Callable[..., CandidateState]
    train: Callable[..., tuple[CandidateState, Float[Array, ' P']]]
    confusion: Callable[..., Int[Array, 'P L L']]


@functools.lru_cache(maxsize=8)
def programs(channels: tuple[tuple[int, int], ...], settings: ProxySettings, chunk: int, mesh: Mesh) -> Programs:
    """Programs for populations whose size is a multiple of chunk times devices; `channels` are pairs (stride, C).

    They are kept, so that the evaluator of a search does not compile anew what was compiled to measure its chunk.
    """

    def one_init(genotype: Genotype, used: PyTree, key: jax.Array) -> CandidateState:
        del used
        return proxy.init(key, genotype, dict(channels), settings)

    # Where the device is known, the kernels that it does not run need not be traced.
    settings = dataclasses.replace(settings, kernels=fused.for_device(settings.kernels, mesh.devices.flat[0]))
    train, confusion = (functools.partial(one, settings=settings) for one in (proxy.train, proxy.confusion))
    return Programs(
        over_population(one_init, settings.head, chunk, mesh, candidates=1),
        over_population(train, settings.head, chunk, mesh, candidates=2),
        over_population(confusion, settings.head, chunk, mesh, candidates=2),
    )


@functools.lru_cache(maxsize=8)
def mover(where: Sharding) -> Callable[[CandidateState, Int[np.ndarray, ' P']], CandidateState]:
    """A program that puts into each place the candidate of the place that is named for it.

    `where` is the sharding of the candidates, which they keep to the letter: else the others would be compiled anew.
    """
    move: Callable[..., CandidateState] = jax.jit(
        lambda candidates, places: jax.tree.map(lambda leaf: leaf[places], candidates), out_shardings=where
    )
    return move


@dataclasses.dataclass(frozen=True)
class PopulationEvaluator:
    """An `Evaluator`: trains and scores up to `population` candidates in one call of each program."""

    settings: ProxySettings
    data: Source
    seed: int
    chunk: int = 1
    at_once: int = 0  # 0: chunk times devices
    steps_per_call: int = 50  # the host hears of an interrupt this often, and images are streamed for so many steps
    mesh: Mesh = dataclasses.field(default_factory=sharding.population_mesh)
    score: metrics.Score = metrics.mean_iou
    extras: Mapping[str, metrics.Score] = dataclasses.field(default_factory=lambda: metrics.EXTRAS)

    @property
    def programs(self) -> Programs:
        """Compiled on first use, once."""
        channels = tuple((stride, array.shape[-1]) for stride, array in self.data.train_features.items())
        # When scores are taken is no part of a program, and rungs that differ in it alone share theirs.
        return programs(channels, dataclasses.replace(self.settings, evaluations=1, stops_at=()), self.chunk, self.mesh)

    @property
    def unit(self) -> int:
        """Candidates that run together in one chunk on every device."""
        return self.chunk * self.mesh.size

    @property
    def population(self) -> int:
        """Candidates in one call of a program: `at_once`, rounded up to whole units."""
        return max(1, -(-self.at_once // self.unit)) * self.unit

    @property
    def shape(self) -> seats.Shape:
        """Devices, chunks of each, candidates of a chunk."""
        return self.mesh.size, self.population // self.unit, self.chunk

    @functools.cached_property
    def plan(self) -> Plan:
        """Drawn from the seed."""
        key_init, key_dropout, key_order = jax.random.split(jax.random.key(self.seed), 3)
        order = proxy.image_order(key_order, self.data.train_labels.shape[0], self.settings)
        return Plan(key_init, key_dropout, jnp.asarray(order))

    def __call__(self, genotypes: Genotype, keep_going: KeepGoing | None = None) -> ProxyResult:
        """Trains and scores genotypes [P, K], P at most `population`. See `ProxyResult`.

        Raises:
          OutOfMemoryError: the device's memory is not enough; no candidate is at fault.
        """
        with _memory_of(self.chunk, self.settings):
            return self._evaluate(genotypes, keep_going)

    def _evaluate(self, genotypes: Genotype, keep_going: KeepGoing | None) -> ProxyResult:
        started = time.perf_counter()
        count, stops = population_size(genotypes), self.settings.stops()
        if not 0 < count <= self.population:
            raise ValueError(f'{count} candidates; this evaluator takes 1 to {self.population} at once')
        curves, losses_ = (np.full((count, len(stops)), np.nan, np.float32) for _ in range(2))
        num_classes = self.settings.head.num_classes
        confusions = np.zeros((count, len(stops), num_classes, num_classes), np.int64)
        alive, finite, steps = np.ones(count, bool), np.ones(count, bool), np.zeros(count, np.int32)
        seated = seats.seat(np.arange(count), self.shape)
        candidates = self.programs.init(seated.taken, _pick(genotypes, seated), self.plan.key_init)
        for evaluation, span in enumerate(itertools.pairwise([0, *stops])):
            cells, places = _pick(genotypes, seated), seated.places
            candidates, loss = self.train(seated.taken, candidates, cells, span)
            counts = self.confusions(seated.taken, candidates, cells)[places]
            here = seated.who[places]
            finite[here], steps[here] = np.asarray(candidates.finite)[places], span[1]
            losses_[here, evaluation], confusions[here, evaluation] = loss[places], counts
            curves[here, evaluation] = np.where(finite[here], self.score(counts), np.nan)
            alive &= finite
            if keep_going is not None and span[1] < self.settings.steps:
                alive &= keep_going(evaluation, curves[:, evaluation])
            if not alive.any():
                break
            seated, candidates = self._reseat(seated, alive, candidates)
        last = (np.arange(count), np.searchsorted(stops, steps))
        extras = {name: np.where(finite, extra(confusions[last]), np.nan) for name, extra in self.extras.items()}
        return ProxyResult(
            scores=curves[last],
            curves=curves,
            losses=losses_,
            finite=finite,
            pruned=finite & (steps < self.settings.steps),
            steps=steps,
            seconds=time.perf_counter() - started,
            confusions=confusions,
            extras=extras,
        )

    def _reseat(
        self, seated: Seats, alive: Bool[np.ndarray, ' n'], candidates: CandidateState
    ) -> tuple[Seats, CandidateState]:
        """The places of those that go on, and the candidates in these places."""
        left = seats.without(seated, alive, self.shape)
        moved = seats.closed_up(left, self.shape)
        if moved is not left:
            candidates = mover(candidates.finite.sharding)(candidates, seats.origins(left, moved))
        return moved, candidates

    def needed_memory(
        self, alive: Bool[np.ndarray, ' P'], candidates: CandidateState, genotypes: Genotype, steps: int
    ) -> int:
        """Bytes that the training program needs on a device for these candidates: read off the program.

        It is compiled, which the first call then need not do, and not run. Arguments, results and what lies between.
        """
        codes = self.encode(genotypes, train=True)
        with contextlib.closing(self.blocks((0, steps))) as blocks:
            lowered = self.programs.train.lower(alive, candidates, codes, *next(blocks))  # type: ignore[attr-defined]
        memory = lowered.compile().memory_analysis()
        total: int = memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
        return total

    def encode(self, genotypes: Genotype, *, train: bool) -> PyTree:
        """What the programs of training and of scoring get in place of genotypes [P, ...]."""
        data, settings = self.data, self.settings
        features, batch = (data.val_features, settings.eval_batch_size)
        if train:
            features, batch = data.train_features, settings.batch_size
        return settings.head.encode(genotypes, heads.shapes_of(features, batch), train=train)

    def train(
        self, alive: Bool[np.ndarray, ' P'], candidates: CandidateState, genotypes: Genotype, span: tuple[int, int]
    ) -> tuple[CandidateState, Float[np.ndarray, ' P']]:
        """Trains over a span of steps in calls of `steps_per_call`; gives the mean loss over the span."""
        with contextlib.closing(self.blocks(span)) as blocks:
            return self.train_on(blocks, alive, candidates, genotypes)

    def blocks(self, span: tuple[int, int]) -> Generator[Block]:
        """What the training program reads over a span of steps, call by call."""
        edges = [*range(span[0], span[1], self.steps_per_call), span[1]]
        return self.data.blocks(self.plan, edges, self.steps_per_call)

    def train_on(
        self, blocks: Iterable[Block], alive: Bool[np.ndarray, ' P'], candidates: CandidateState, genotypes: Genotype
    ) -> tuple[CandidateState, Float[np.ndarray, ' P']]:
        """Trains on these blocks; gives the mean loss over their steps."""
        total, steps = np.zeros(self.population, np.float32), 0
        codes = self.encode(genotypes, train=True)
        for block in blocks:
            candidates, loss = self.programs.train(alive, candidates, codes, *block)
            start, stop = map(int, block.span)
            total, steps = total + np.asarray(loss) * (stop - start), steps + stop - start
            del block  # before the next is asked for
        return candidates, total / steps

    def confusions(
        self, alive: Bool[np.ndarray, ' P'], candidates: CandidateState, genotypes: Genotype
    ) -> Int[np.ndarray, 'P L L']:
        """Pixels of val by (label, prediction)."""
        classes = self.settings.head.num_classes
        total = np.zeros((self.population, classes, classes), np.int64)
        codes = self.encode(genotypes, train=False)
        with contextlib.closing(self.data.val_blocks(self.settings, self.steps_per_call)) as blocks:
            for images, count in blocks:
                total += np.asarray(self.programs.confusion(alive, candidates, codes, images, count))
                del images
        return total


def device_memory(mesh: Mesh) -> int | None:
    """Bytes that JAX may use on a device of the mesh; None where the device does not say, as a CPU."""
    stats = mesh.devices.flat[0].memory_stats() or {}
    limit: int | None = stats.get('bytes_limit')
    return limit


@contextlib.contextmanager
def _memory_of(chunk: int, settings: ProxySettings) -> Iterator[None]:
    """Says what to make smaller where the device's memory is not enough."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if sharding.is_out_of_shared_memory(error):
            raise InputError(
                f"the kernels of proxy.kernels '{settings.kernels}' do not fit this GPU; --config.proxy.kernels=plain"
                ' leaves them out'
            ) from error
        if not sharding.is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f'out of memory with proxy.chunk {chunk}, proxy.batch_size {settings.batch_size} and '
            f'proxy.eval_batch_size {settings.eval_batch_size}; make one of them smaller, or leave the features on disk'
            ' (proxy.stream=always)'
        ) from error


def _pick(genotypes: Genotype, seated: Seats) -> Genotype:
    """The genotype in each place."""
    return jax.tree.map(lambda genes: np.asarray(genes, np.int32)[seated.who], genotypes)


WORTH_A_LARGER_CHUNK = 0.9
"""Share of the time of the chunk before that a larger one may take to be chosen instead."""


def fastest_chunk(
    make: Callable[[int], PopulationEvaluator],
    sizes: Sequence[int],
    sample: Callable[[int], Genotype],
    *,
    steps: int = 4,
) -> tuple[int, dict[int, float]]:
    """Measures the seconds per candidate-step of each chunk size and gives the fastest, with what was measured.

    Tries the sizes in ascending order, up to the first that is not a tenth faster than the one before (the members of a
    larger chunk all do what any of them needs, so what is gained on the sample may be lost on other cells) or that
    memory does not hold. A size whose compiled program says that it needs more than the device has is not started.
    `sample(P)` gives the population [P, K] to measure with.

    Raises:
      OutOfMemoryError: memory does not hold the smallest size.
    """
    seconds: dict[int, float] = {}
    best = sizes[0]
    for size in sizes:
        try:
            seconds[size] = _seconds_per_step(make(size), sample, steps)
        except OutOfMemoryError:
            if not seconds:
                raise
            break
        if size != best and seconds[size] > WORTH_A_LARGER_CHUNK * seconds[best]:
            break
        best = size
    return best, seconds


def _seconds_per_step(evaluator: PopulationEvaluator, sample: Callable[[int], Genotype], steps: int) -> float:
    genotypes, alive = sample(evaluator.population), np.ones(evaluator.population, bool)
    rounds = []
    with _memory_of(evaluator.chunk, evaluator.settings):
        candidates = evaluator.programs.init(alive, genotypes, evaluator.plan.key_init)
        there = device_memory(evaluator.mesh)
        if there is not None and (needed := evaluator.needed_memory(alive, candidates, genotypes, steps)) > there:
            raise OutOfMemoryError(
                f'proxy.chunk {evaluator.chunk} needs {needed / 2**30:.1f} GiB by its compiled program; the device has'
                f' {there / 2**30:.1f} GiB'
            )
        # Made before the clock runs: in a search they come while the device computes.
        with contextlib.closing(evaluator.blocks((0, steps))) as made:
            blocks = list(made)
        for _ in range(4):  # the first compiles; of the others the fastest is the least disturbed
            started = time.perf_counter()
            candidates, _ = evaluator.train_on(blocks, alive, candidates, genotypes)
            rounds.append(time.perf_counter() - started)
    return min(rounds[1:]) / (steps * evaluator.population)


def compilations(program: Callable[..., PyTree]) -> int:
    """How many times a program has been compiled: 1 for every population, budget and search of one shape."""
    return int(program._cache_size())  # type: ignore[attr-defined]
