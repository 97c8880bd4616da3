"""How many candidates a vmap should hold on this device: measured."""

import contextlib
import time
from collections.abc import Callable, Sequence

import numpy as np

from dpc_jax.base import Genotype
from dpc_jax.population import OutOfMemoryError, PopulationEvaluator, device_memory, memory_of

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
    with memory_of(evaluator.chunk, evaluator.settings):
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
