"""The journey of a search: features of a frozen backbone, candidates trained and scored on them, a ranking.

    data sets -> backbone -> feature cache -> [propose -> evaluate -> record] rung by rung -> report

Every stage is resumed by itself: the backbone that was trained, the cache and each finished candidate are kept, so
the same command goes on after any stop (paper §3.2).
"""

import functools
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from jaxtyping import Bool, Float

from dpc_jax import assembly, datasets, provenance, report, sharding
from dpc_jax.base import Genotype, InputError, KeepGoing, ProxyResult, Rung
from dpc_jax.datasets import Dataset
from dpc_jax.progress import Progress
from dpc_jax.spaces.dpc import Space
from dpc_jax.study import Candidate, Proposal, Study, ranking

WAIT_SECONDS = 2.0  # between two looks at what other workers still do
PRINTED = 5  # of the ranking, at the end


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> list[Candidate]:
    """Searches, or goes on with the search in `workdir`; gives all finished candidates and references.

    Raises:
      InputError: whatever is wrong with config, data, weights or workdir. Nothing that was computed is lost.
    """
    sharding.check_devices()
    assembly.check(config)
    space, sets = assembly.make_space(config), assembly.load_datasets(config)
    started = workdir.is_dir() and any(workdir.iterdir())
    check_data(() if started else sets)  # before anything is written
    settings = assembly.study_settings(config, sets)
    make_workdir(workdir)
    open_study = functools.partial(assembly.open_study, config, workdir, settings)
    with open_study(rung='proxy') as study:  # before the long work: a workdir of another config is refused at once
        seen = not started or bool(study.candidates())
    check_data(() if seen else sets)

    variables = assembly.backbone_variables(config, workdir, sets[0])
    cache = assembly.build_cache(config, workdir, sets, variables)
    data = assembly.proxy_data(config, cache)
    with open_study(rung='proxy') as study:  # what was measured is kept: another chunk would round scores otherwise
        measure = functools.partial(assembly.choose_chunk, config, data, sets[0].num_classes)
        chunk = config.proxy.chunk or study.once(f'chunk on {provenance.device()}', measure)
        if study.once('features', lambda: cache.key) != cache.key:
            raise InputError(
                f'the features here are not those of the study in {config.search.storage or workdir}: its backbone was'
                ' trained elsewhere or differs; copy backbone-*.npz from the workdir that began it'
            )

    results: list[Candidate] = []
    for level, (steps, keep) in enumerate(assembly.ladder(config)):
        evaluator = assembly.make_evaluator(config, data, sets[0].num_classes, steps=steps, chunk=chunk)
        name = f'rung{level}-{steps}' if level else 'proxy'
        with open_study(rung=name) as study:
            for reference in config.search.references:
                study.enqueue_reference(reference, space.named(reference))
            if level:
                keep = promote(study, best(results, keep))
            rung = Rung(name, evaluator, keep)
            climb(study, rung, at_once=evaluator.population, generation=config.search.population, workdir=workdir)
            results = [*results, *study.candidates()]
    write_report(workdir, results, settings, space)
    return results


def check_data(sets: Sequence[Dataset]) -> None:
    """Decodes every image and label once; InputError names the first that is faulty."""
    for dataset in sets:
        datasets.check(dataset)


def promote(study: Study, chosen: Sequence[Candidate]) -> int:
    """Enqueues these and no others; gives how many candidates the rung has then.

    A rung that was climbed before keeps what it has and gets those who became better since.
    """
    for candidate in chosen:
        study.enqueue(candidate.genotype)
    return len({c.key for c in (*chosen, *study.candidates()) if not c.reference})


def make_workdir(workdir: pathlib.Path) -> None:
    """Makes the folder; InputError where that cannot be."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"workdir '{workdir}' cannot be made: {error.strerror}") from error


def climb(study: Study, rung: Rung, *, at_once: int, generation: int, workdir: pathlib.Path) -> None:
    """Asks, evaluates and tells until `rung.keep` candidates are finished, here or by other workers."""
    finished = study.candidates()
    leader = next(iter(best(finished, 1)), None)
    with Progress(rung.keep, study.count(), leader, workdir / 'events' / rung.name) as progress:
        while True:
            proposals = study.ask(generation, rung.keep)
            if not proposals and not study.running_elsewhere():
                return
            if not proposals:
                time.sleep(WAIT_SECONDS)
            for group in _groups(proposals, at_once):
                result = rung.evaluate(stack([p.genotype for p in group]), _pruning(study, group))
                record(study, group, result)
                told = {p.number for p in group}
                progress.update([c for c in study.candidates() if c.number in told])


def record(study: Study, group: Sequence[Proposal], result: ProxyResult) -> None:
    """Tells the study what an evaluator found; a candidate that diverged is told as failed."""
    for i, proposal in enumerate(group):
        study.tell(
            proposal.number,
            score=float(result.scores[i]),
            curve=[float(v) for v in result.curves[i] if np.isfinite(v)],
            losses=[float(v) for v in result.losses[i] if np.isfinite(v)],
            steps=int(result.steps[i]),
            seconds=result.seconds / len(group),
            pruned=bool(result.pruned[i]),
            failure='' if result.finite[i] else f'non-finite loss within {result.steps[i]} steps',
        )


def _pruning(study: Study, group: Sequence[Proposal]) -> KeepGoing:
    """Reports each score to Optuna between evaluations and stops the candidates that its pruner stops."""

    def keep_going(evaluation: int, scores: Float[np.ndarray, ' P']) -> Bool[np.ndarray, ' P']:
        going = np.ones(len(group), bool)
        for i, proposal in enumerate(group):
            if np.isfinite(scores[i]):
                study.report(proposal.number, evaluation, float(scores[i]))
                going[i] = not study.should_prune(proposal.number)
        return going

    return keep_going


def best(candidates: Sequence[Candidate], count: int) -> list[Candidate]:
    """The best complete candidates of the last rung among them; references take no part."""
    last = candidates[-1].rung if candidates else ''
    complete = [c for c in candidates if c.rung == last and c.state == 'complete' and not c.reference]
    return ranking(complete)[:count]


def stack(genotypes: Sequence[Genotype]) -> Genotype:
    """A population [P, K] of genotypes [K]."""
    return jax.tree.map(lambda *genes: np.stack(genes), *genotypes)


def _groups(proposals: Sequence[Proposal], size: int) -> list[Sequence[Proposal]]:
    return [proposals[start : start + size] for start in range(0, len(proposals), size)]


def write_report(
    workdir: pathlib.Path, candidates: Sequence[Candidate], settings: Mapping[str, Any], space: Space
) -> None:
    """Tables and pictures into `workdir/report`; prints the head of the ranking and where the files are."""
    count = assembly.cost_of(settings)
    paths = report.write(candidates, workdir / 'report', space=space, settings=settings, count=count)
    for place, candidate in enumerate(best(candidates, PRINTED), 1):
        print(f'{place}. {100 * candidate.score:.2f} % mIoU  {candidate.key}')
    for candidate in candidates:
        if candidate.reference and candidate.state == 'complete':
            print(f'-  {100 * candidate.score:.2f} % mIoU  {candidate.reference} (reference, {candidate.rung})')
    print('\n'.join(str(path) for path in paths))
