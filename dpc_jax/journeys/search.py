"""The journey of a search: features of a frozen backbone, candidates trained and scored on them, a ranking.

    data sets -> backbone -> feature cache -> [propose -> evaluate -> record] rung by rung -> report

Each stage can be resumed: the backbone that was trained, the cache and each finished candidate are kept, so
the same command goes on after any stop (paper §3.2).
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections

from dpc_jax import bench, figures
from dpc_jax.base import Rung
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
    make_rungs: Callable[[Bench], Sequence[Rung]] = Bench.rungs,
) -> list[Candidate]:
    """Searches, or goes on with the search in `workdir`; returns all finished candidates and references.

    `make_rungs` makes the ladder; by default that of `search.ladder`.

    Raises:
      InputError: whatever is wrong with config, data, weights or workdir. Nothing that was computed is lost.
    """
    prepared = bench.prepare(config, workdir)
    results: list[Candidate] = []
    for level, rung in enumerate(make_rungs(prepared)):
        with prepared.open_study(rung.name) as study:
            for reference in config.search.references:
                study.enqueue_reference(reference, prepared.space.named(reference))
            if level:
                rung = dataclasses.replace(rung, keep=promote(study, best(results, rung.keep)))
            finished = study.candidates()
            leader = next(iter(best(finished, 1)), None)
            with Progress(rung.keep, study.count(), leader, workdir / 'events' / rung.name) as progress:
                bench.climb(study, rung, progress, generation=config.search.population)
            results = [*results, *study.candidates()]
    write_report(workdir, results, prepared.settings, prepared.space)
    return results


def promote(study: Study, chosen: Sequence[Candidate]) -> int:
    """Enqueues these and no others; returns how many candidates the rung has then.

    A rung that was climbed before keeps what it has and gets those that became better since.
    """
    for candidate in chosen:
        study.enqueue(candidate.genotype)
    return len({c.key for c in (*chosen, *study.candidates()) if not c.reference})


def best(candidates: Sequence[Candidate], count: int) -> list[Candidate]:
    """The best complete candidates of the last rung among them; references take no part."""
    last = candidates[-1].rung if candidates else ''
    complete = [c for c in candidates if c.rung == last and c.state == 'complete' and not c.reference]
    return ranking(complete)[:count]


def write_report(
    workdir: pathlib.Path, candidates: Sequence[Candidate], settings: Mapping[str, Any], space: Space
) -> None:
    """Tables and pictures into `workdir/report`; prints the head of the ranking and where the files are."""
    paths = figures.write_report(candidates, workdir / 'report', space=space, settings=settings)
    for place, candidate in enumerate(best(candidates, PRINTED), 1):
        print(f'{place}. {100 * candidate.score:.2f} % mIoU  {candidate.key}')
    for candidate in candidates:
        if candidate.reference and candidate.state == 'complete':
            print(f'-  {100 * candidate.score:.2f} % mIoU  {candidate.reference} (reference, {candidate.rung})')
    print('\n'.join(str(path) for path in paths))
