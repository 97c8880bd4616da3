"""A search, prepared: data sets, backbone, features, chunk; and given cells scored on it.

The journey of a search and the experiment scripts share it, and `dpc_jax.prepare` gives it to people who come from
Python. Everything long is kept in the work folder, so preparing a second time takes seconds.
"""

import dataclasses
import functools
import math
import operator
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np
from jaxtyping import Bool, Float

from dpc_jax import assembly, datasets, files, provenance, sharding
from dpc_jax.assembly import Datasets
from dpc_jax.base import Genotype, InputError, KeepGoing, ProxyResult, Rung, as_int32, stack, unstack
from dpc_jax.memory import Chunk, HalvingEvaluator
from dpc_jax.population import PopulationEvaluator
from dpc_jax.proxy import Source
from dpc_jax.spaces import Space
from dpc_jax.study import Candidate, Progress, Proposal, Study

WAIT_SECONDS = 2.0  # between two looks at what other workers still do
CHUNK = 'chunk on {}'  # name of what a study keeps, by device


@dataclasses.dataclass(frozen=True)
class Bench:
    """What a search of `config` in `workdir` evaluates with. `prepare` makes it.

    >>> with bench.open_study('proxy') as study:
    ...     finished = study.candidates()
    """

    config: ml_collections.ConfigDict
    workdir: pathlib.Path
    space: Space
    sets: Datasets
    settings: Mapping[str, Any]  # all that a score depends on; kept with each study
    data: Source
    chunk: Chunk  # candidates within one vmap; shrinks where memory does not hold it

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of confusion matrices."""
        return tuple(self.sets[0].classes)

    def open_study(self, rung: str, *, seed: int | None = None) -> Study:
        """The study of a rung, used in a `with`; `seed` is by default the config's."""
        return assembly.open_study(self.config, self.workdir, self.settings, rung=rung, seed=seed)

    def evaluator(self, *, steps: int = 0, seed: int | None = None) -> PopulationEvaluator:
        """Trains and scores populations for so many steps (0: the config's) under a seed (the config's)."""
        steps = steps or self.config.proxy.steps
        return assembly.make_evaluator(
            self.config, self.data, self.num_classes, steps=steps, chunk=self.chunk.size, seed=seed
        )

    def patient_evaluator(self, *, steps: int = 0, seed: int | None = None) -> HalvingEvaluator:
        """The same, which goes on with half the chunk where memory does not hold it."""
        return HalvingEvaluator(self.evaluator(steps=steps, seed=seed), self.chunk)

    @property
    def num_classes(self) -> int:
        """L."""
        return self.sets[0].num_classes

    def rungs(self) -> list[Rung]:
        """The ladder of the config: the proxy over all candidates, then ever fewer for more steps."""
        rungs = []
        for level, (steps, keep) in enumerate(assembly.ladder(self.config)):
            evaluate = self.patient_evaluator(steps=steps)
            rungs.append(Rung(f'rung{level}-{steps}' if level else 'proxy', evaluate, keep, evaluate.population))
        return rungs

    def evaluate(self, cells: Genotype | Sequence[Genotype], seeds: int | Sequence[int] = 1) -> 'CellScores':
        """Trains and scores any number of cells by the config's proxy, each under every seed.

        A progress bar shows the time that is left. What is finished is kept in the config's storage: the same call goes
        on after any stop, workers on one storage share the cells, equal cells are trained once, and a cell that the
        search itself has scored under the same seed is not trained again.

        Args:
          cells: a population [P, genes], or a sequence of genotypes [genes].
          seeds: the number of seeds, counted from the config's, or the seeds themselves.

        Raises:
          InputError: there is no cell, a cell is not of this space, fewer than one seed.
        """
        listed = list_cells(self.space, cells)
        wanted = list_seeds(seeds, self.config.seed)
        unique = {self.space.canonical_key(genotype): genotype for genotype in reversed(listed)}
        found: dict[tuple[str, int], Candidate] = {}
        with self.open_study('proxy') as study:
            study.keep_settings()
        with Progress(len(wanted) * len(unique), logdir=self.workdir / 'events' / 'cells') as progress:
            for seed in wanted:
                here = self._of_one_seed(unique, seed, progress)
                found |= {(candidate.key, seed): candidate for candidate in here}
        keys = [self.space.canonical_key(genotype) for genotype in listed]
        rows = [CellScore(cell, seed, found[key, seed]) for cell, key in enumerate(keys) for seed in wanted]
        return CellScores(self.space, self.classes, dict(self.settings), tuple(listed), tuple(rows))

    def _of_one_seed(self, cells: Mapping[str, Genotype], seed: int, progress: Progress) -> list[Candidate]:
        """The candidates of these cells, by key, under one seed."""
        known: dict[str, Candidate] = {}
        if seed == self.config.seed:
            with self.open_study('proxy') as study:
                known = {c.key: c for c in study.candidates() if c.key in cells and c.state != 'pruned'}
        name = f'seed{seed}'
        evaluate = self.patient_evaluator(seed=seed)
        with self.open_study(name, seed=seed) as study:
            known = {c.key: c for c in study.candidates() if c.key in cells} | known
            progress.resume(list(known.values()))
            missing = {key: cell for key, cell in cells.items() if key not in known}
            for genotype in missing.values():
                study.enqueue(genotype)
            rung = Rung(name, evaluate, len(missing), evaluate.population)
            if missing:
                here = climb(study, rung, progress, generation=evaluate.population, only=frozenset(missing))
                found = [c for c in study.candidates() if c.key in missing]
                progress.resume([c for c in found if c.number not in here])  # other workers were at these
                known |= {c.key: c for c in found}
        return list(known.values())


@dataclasses.dataclass(frozen=True)
class CellScore:
    """One cell under one seed."""

    cell: int  # its place among the cells that were given
    seed: int
    candidate: Candidate  # score, curve, confusion matrices, seconds, ...

    @property
    def score(self) -> float:
        """mIoU on val in 0..1; NaN unless it was trained to the end: a score after fewer steps is not comparable."""
        return self.candidate.score if self.candidate.state == 'complete' else math.nan


@dataclasses.dataclass(frozen=True)
class CellScores:
    """Given cells and what they scored, one row for each cell and seed, in the order in which they were given.

    >>> best = result.best(1)[0]
    >>> table = [(row.cell, row.seed, row.score) for row in result.rows]
    """

    space: Space
    classes: tuple[str, ...]
    settings: Mapping[str, Any]
    cells: tuple[Genotype, ...]
    rows: tuple[CellScore, ...]

    def scores(self) -> Float[np.ndarray, 'cells seeds']:
        """mIoU on val in 0..1, cells in order; NaN where one failed."""
        return np.array([row.score for row in self.rows], np.float64).reshape(len(self.cells), -1)

    def best(self, count: int = 1) -> list[Genotype]:
        """The best of the cells by their mean over seeds, best first, equal cells once; those that failed are left out.

        Equal scores are in the order of their canonical keys, so the answer does not depend on the order of the cells.
        """
        means = self.scores().mean(1)
        keys = [self.space.canonical_key(genotype) for genotype in self.cells]
        order = sorted((i for i in range(len(keys)) if np.isfinite(means[i])), key=lambda i: (-means[i], keys[i]))
        firsts = {keys[i]: self.cells[i] for i in reversed(order)}
        return [firsts[key] for key in dict.fromkeys(keys[i] for i in order)][:count]


def list_cells(space: Space, cells: Genotype | Sequence[Genotype]) -> list[Genotype]:
    """The cells of a population, of a sequence, or one alone; InputError says which of them is not of the space."""
    if not hasattr(cells, '_fields'):
        listed = list(cells)
    elif all(np.ndim(genes) < 2 for genes in cells):
        listed = [cells]
    else:
        listed = unstack(cells)
    listed = [as_int32(genotype) for genotype in listed]
    check_cells(space, listed)
    return listed


def list_seeds(seeds: int | Sequence[int], first: int) -> list[int]:
    """So many seeds from `first` on, or those of a list; InputError unless they are different whole numbers."""
    try:
        listed = [operator.index(seed) for seed in seeds] if isinstance(seeds, Sequence) else None
        wanted = [first + number for number in range(operator.index(seeds))] if listed is None else listed  # type: ignore[arg-type]
    except TypeError:
        wanted = []
    if not wanted or min(wanted) < 0 or len(set(wanted)) < len(wanted):
        raise InputError(f'seeds is {seeds!r}; it must be a number of at least 1, or different seeds of at least 0')
    return wanted


def check_cells(space: Space, cells: Sequence[Genotype]) -> None:
    """InputError, which names the cell, unless there are cells and all are of the space."""
    if not cells:
        raise InputError('there are no cells to evaluate; give at least one')
    for place, genotype in enumerate(cells):
        try:
            space.validate(genotype)
        except InputError as error:
            raise InputError(f'cell {place}: {error}') from error
        except (AttributeError, TypeError, ValueError) as error:
            raise InputError(f'cell {place} is not a genotype of this space: {str(genotype)[:60]}') from error


def prepare(config: ml_collections.ConfigDict, workdir: pathlib.Path | str) -> Bench:
    """Makes or opens everything that candidates of this config are evaluated with.

    Raises:
      InputError: whatever is wrong with config, data, weights or workdir. Nothing that was computed is lost.
    """
    workdir = pathlib.Path(workdir).expanduser()
    sharding.check_devices()
    assembly.check(config)
    space, sets = assembly.make_space(config), assembly.load_datasets(config)
    started = workdir.is_dir() and any(workdir.iterdir())
    check_data(() if started else sets)  # before anything is written
    settings = assembly.study_settings(config, sets)
    files.make_folder(workdir, 'workdir')
    # Opened before the long work, so that a workdir of another config is refused at once.
    with assembly.open_study(config, workdir, settings, rung='proxy') as study:
        check_data(() if not started or study.candidates() else sets)
        variables = assembly.backbone_variables(config, workdir, sets[0])
        cache = assembly.build_cache(config, workdir, sets, variables)
        data = assembly.proxy_data(config, cache)
        # What was measured is kept: another chunk would round scores otherwise.
        measure = functools.partial(assembly.choose_chunk, config, data, sets[0].num_classes)
        chunk = config.proxy.chunk or study.once(CHUNK.format(provenance.device()), measure)
        if study.once('features', lambda: cache.key) != cache.key:
            raise InputError(
                f'the features here are not those of the study in {config.search.storage or workdir}: its backbone was'
                ' trained elsewhere or differs; copy backbone-*.npz from the workdir that began it'
            )
    keep = functools.partial(_keep_chunk, config, workdir, settings)
    return Bench(config, workdir, space, sets, settings, data, Chunk(chunk, keep))


def _keep_chunk(
    config: ml_collections.ConfigDict, workdir: pathlib.Path, settings: Mapping[str, Any], size: int
) -> None:
    """Later starts on such devices begin with this chunk, unless the config names one."""
    name = CHUNK.format(provenance.device())
    with assembly.open_study(config, workdir, settings, rung='proxy') as study:
        if size < study.once(name, lambda: size):
            study.keep(name, size)


def check_data(sets: Sequence[datasets.Dataset]) -> None:
    """Decodes every image and label once; InputError names the first that is faulty."""
    for dataset in sets:
        datasets.check(dataset)


# ---- the loop -------------------------------------------------------------------------------------------------------


def climb(
    study: Study,
    rung: Rung,
    progress: Progress,
    *,
    generation: int,
    only: frozenset[str] = frozenset(),
) -> set[int]:
    """Asks, evaluates and tells until `rung.keep` candidates are finished; gives the numbers of those finished here.

    `only` are the canonical keys of given cells: nothing else is asked for, no pruner stops them, and it ends when they
    are finished.
    """
    here: set[int] = set()
    while True:
        budget = None if only else rung.keep
        proposals = study.ask(generation, budget, sampled=not only)
        if not proposals and (study.finished(only) if only else not study.running_elsewhere()):
            return here
        if not proposals:
            time.sleep(WAIT_SECONDS)
        for group in _groups(proposals, rung.at_once):
            keep_going = None if only else _pruning(study, group)
            result = rung.evaluate(stack([p.genotype for p in group]), keep_going)
            record(study, group, result)
            numbers = {p.number for p in group}
            progress.update([c for c in study.candidates() if c.number in numbers])
            here |= numbers


def record(study: Study, group: Sequence[Proposal], result: ProxyResult) -> None:
    """Tells the study what an evaluator found; a candidate that diverged is recorded as failed."""
    for i, proposal in enumerate(group):
        evaluated = np.flatnonzero(np.isfinite(result.curves[i]))
        study.tell(
            proposal.number,
            score=float(result.scores[i]),
            curve=[float(v) for v in result.curves[i] if np.isfinite(v)],
            losses=[float(v) for v in result.losses[i] if np.isfinite(v)],
            steps=int(result.steps[i]),
            seconds=result.seconds / len(group),
            pruned=bool(result.pruned[i]),
            failure='' if result.finite[i] else f'non-finite loss within {result.steps[i]} steps',
            confusions=list(result.confusions[i][evaluated]),
            extras={name: float(values[i]) for name, values in result.extras.items()},
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


def _groups(proposals: Sequence[Proposal], size: int) -> list[Sequence[Proposal]]:
    return [proposals[start : start + size] for start in range(0, len(proposals), size)]
