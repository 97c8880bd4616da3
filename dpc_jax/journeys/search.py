"""The journey of a search: features of a frozen backbone, candidates trained and scored on them, a ranking.

    data sets -> backbone -> feature cache -> [propose -> evaluate -> record] rung by rung -> report

The rungs are the proxy over all candidates, perhaps the best of them trained anew for longer, and perhaps the best as
whole networks (`search.ladder`).

Each stage can be resumed: the backbone that was trained, the cache and each finished candidate are kept, so
the same command goes on after any stop (paper §3.2).
"""

import dataclasses
import pathlib
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections
from rich.console import Console

from dpc_jax import bench, climbing, figures, found_cells, journeys, ladder, metrics
from dpc_jax.base import Genotype, Rung
from dpc_jax.bench import Bench
from dpc_jax.spaces import Space
from dpc_jax.study import Candidate, Progress, Study, ranking

STOPPED = 'everything finished is kept in {workdir}. The same command goes on from here.'
SEVERAL_PROCESSES = 'a search needs no --coordinator: its workers share a storage (docs/search.md)'
PRINTED = 5  # of the ranking, at the end


def run(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    *,
    make_rungs: Callable[[Bench], Sequence[Rung]] | None = None,
) -> list[Candidate]:
    """Searches, or goes on with the search in `workdir`; returns all finished candidates and references.

    `make_rungs` makes the ladder; by default that of `search.ladder`.

    Raises:
      InputError: whatever is wrong with config, data, weights or workdir. Nothing that was computed is lost.
    """
    prepared = bench.prepare(config, workdir)
    rungs = make_rungs(prepared) if make_rungs else prepared.rungs(journeys.find('train').run)
    results: list[Candidate] = []
    for level, rung in enumerate(rungs):
        with prepared.open_study(rung) as study:
            for reference in config.search.references:
                study.enqueue_reference(reference, found_cells.named(prepared.space, reference))
            for genotype in rung.given:
                study.enqueue(genotype, drawn=True)
            if level:
                below = [candidate for candidate in results if candidate.rung != rung.name]
                chosen = choose(best(below, len(below)), rung.keep, prepared)
                rung = dataclasses.replace(rung, keep=promote(study, [*chosen, *rung.given], prepared.space))
            results += climb(prepared, study, rung)
    write_report(workdir, results, {**prepared.settings, **rungs[-1].recipe}, prepared.space)
    return results


def climb(prepared: Bench, study: Study, rung: Rung) -> list[Candidate]:
    """All of the rung that is finished then, by number."""
    finished = study.candidates()
    leader = next(iter(best(finished, 1)), None)
    logdir = prepared.workdir / 'events' / (rung.study or rung.name)
    # The screen is named, because the training of a whole network prints elsewhere meanwhile.
    screen = Console(file=sys.stdout)
    shown: dict[str, Any] = {'before': finished, 'label': metrics.label_of(prepared.settings), 'console': screen}
    with Progress(rung.keep, study.count(), leader, logdir, **shown) as progress:
        climbing.climb(study, rung, progress, generation=prepared.config.search.population)
    return study.candidates()


def choose(ranked: Sequence[Candidate], count: int, prepared: Bench) -> list[Genotype]:
    """The first `count` that `search.apart` allows; of cells that are equal on the cached maps, the first."""
    different: dict[str, Genotype] = {}
    for candidate in ranked:
        different.setdefault(prepared.same(candidate.genotype), candidate.genotype)
    return ladder.spread(list(different.values()), count, prepared.space, prepared.config.search.apart)


def promote(study: Study, chosen: Sequence[Genotype], space: Space) -> int:
    """Enqueues these and no others; returns how many candidates the rung has then.

    A rung that was climbed before keeps what it has and gets those that became better since.
    """
    for genotype in chosen:
        study.enqueue(genotype)
    there = {candidate.key for candidate in study.candidates() if not candidate.reference}
    return len(there | {space.canonical_key(genotype) for genotype in chosen})


def best(candidates: Sequence[Candidate], count: int) -> list[Candidate]:
    """The best complete candidates of the last rung among them, each once, by their mean score over the seeds.

    References take no part, and where there are several seeds, neither do cells that failed under one of them.
    """
    last = candidates[-1].rung if candidates else ''
    rows: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        if candidate.rung == last and not candidate.reference:
            rows.setdefault(candidate.key, []).append(candidate)
    seeds = max((len(group) for group in rows.values()), default=0)
    whole = [group for group in rows.values() if len(group) == seeds and all(c.state == 'complete' for c in group)]
    means = [dataclasses.replace(group[0], score=statistics.fmean(c.score for c in group)) for group in whole]
    return ranking(means)[:count]


def write_report(
    workdir: pathlib.Path, candidates: Sequence[Candidate], settings: Mapping[str, Any], space: Space
) -> None:
    """Tables and pictures into `workdir/report`; prints the head of the ranking and where the files are."""
    paths = figures.write_report(candidates, workdir / 'report', space=space, settings=settings)
    label = metrics.label_of(settings)
    for place, candidate in enumerate(best(candidates, PRINTED), 1):
        print(f'{place}. {100 * candidate.score:.2f} % {label}  {candidate.key}')
    for candidate in candidates:
        if candidate.reference and candidate.state == 'complete':
            print(f'-  {100 * candidate.score:.2f} % {label}  {candidate.reference} (reference, {candidate.rung})')
    print('\n'.join(str(path) for path in paths))
