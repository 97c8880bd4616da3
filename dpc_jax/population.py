"""Many candidates at once: devices, chunks and vmap around the one candidate of `proxy`.

Genotypes, the order of images and the number of steps are data: three programs (initialise, train, score), each
compiled once, serve a whole search.
"""

import contextlib
import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
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


class Trained(NamedTuple):
    """What was found out, and the candidates in their seats."""

    result: ProxyResult
    candidates: CandidateState  # by seat
    seats: Seats
    alive: Bool[np.ndarray, ' n']  # of the candidates that were asked for: those that may go on


class _Found(NamedTuple):
    """What is found out about each candidate, filled in evaluation by evaluation. See `ProxyResult`."""

    curves: Float[np.ndarray, 'n E']
    losses: Float[np.ndarray, 'n E']
    confusions: Int[np.ndarray, 'n E L L']
    finite: Bool[np.ndarray, ' n']
    steps: Int[np.ndarray, ' n']

    @classmethod
    def empty(cls, count: int, settings: ProxySettings) -> '_Found':
        points, classes = len(settings.stops()), settings.head.num_classes
        nothing = np.full((count, points), np.nan, np.float32)
        confusions = np.zeros((count, points, classes, classes), np.int64)
        return cls(nothing, nothing.copy(), confusions, np.ones(count, bool), np.zeros(count, np.int32))

    def result(self, settings: ProxySettings, extras: Mapping[str, metrics.Score], seconds: float) -> ProxyResult:
        last = (np.arange(len(self.steps)), np.searchsorted(settings.stops(), self.steps))
        return ProxyResult(
            scores=self.curves[last],
            curves=self.curves,
            losses=self.losses,
            finite=self.finite,
            pruned=self.finite & (self.steps < settings.steps),
            steps=self.steps,
            seconds=seconds,
            confusions=self.confusions,
            extras={name: np.where(self.finite, of(self.confusions[last]), np.nan) for name, of in extras.items()},
        )


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

    def with_chunk(self, chunk: int, at_once: int) -> 'PopulationEvaluator':
        """The same with another chunk."""
        return dataclasses.replace(self, chunk=chunk, at_once=at_once)

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
        return self.trained(genotypes, keep_going).result

    def trained(
        self,
        genotypes: Genotype,
        keep_going: KeepGoing | None = None,
        start: 'Trained | None' = None,
        *,
        ask_at_end: bool = False,
    ) -> 'Trained':
        """The same, with the candidates as they are then.

        Args:
          start: those that another evaluator has trained; by default they are drawn.
          ask_at_end: whether `keep_going` is asked after the last evaluation, too: something comes after it.
        """
        with memory_of(self.chunk, self.settings):
            return self._trained(genotypes, keep_going, start, ask_at_end)

    def _trained(
        self, genotypes: Genotype, keep_going: KeepGoing | None, start: 'Trained | None', ask_at_end: bool
    ) -> 'Trained':
        started = time.perf_counter()
        found = _Found.empty(population_size(genotypes), self.settings)
        count, stops = len(found.finite), self.settings.stops()
        if not 0 < count <= self.population:
            raise ValueError(f'{count} candidates; this evaluator takes 1 to {self.population} at once')
        alive = np.ones(count, bool)
        if start is None:
            seated = seats.seat(np.arange(count), self.shape)
            candidates = self.programs.init(seated.taken, _pick(genotypes, seated), self.plan.key_init)
        else:
            alive, seated, candidates = start.alive.copy(), start.seats, start.candidates
        for evaluation, span in enumerate(itertools.pairwise([0, *stops])):
            cells, places = _pick(genotypes, seated), seated.places
            candidates, loss = self.train(seated.taken, candidates, cells, span)
            counts = self.confusions(seated.taken, candidates, cells)[places]
            here = seated.who[places]
            found.finite[here], found.steps[here] = np.asarray(candidates.finite)[places], span[1]
            found.losses[here, evaluation], found.confusions[here, evaluation] = loss[places], counts
            found.curves[here, evaluation] = np.where(found.finite[here], self.score(counts), np.nan)
            alive &= found.finite
            if keep_going is not None and (ask_at_end or span[1] < self.settings.steps):
                alive &= keep_going(evaluation, found.curves[:, evaluation])
            if not alive.any():
                break
            seated, candidates = self._reseat(seated, alive, candidates)
        result = found.result(self.settings, self.extras, time.perf_counter() - started)
        return Trained(result, candidates, seated, alive)

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
def memory_of(chunk: int, settings: ProxySettings) -> Iterator[None]:
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


def compilations(program: Callable[..., PyTree]) -> int:
    """How many times a program has been compiled: 1 for every population, budget and search of one shape."""
    return int(program._cache_size())  # type: ignore[attr-defined]
