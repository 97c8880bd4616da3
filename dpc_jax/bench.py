"""A search, prepared: data sets, backbone, features, chunk; and given cells scored on it.

The journey of a search and the experiment scripts share it, and `dpc_jax.prepare` gives it to people who come from
Python. Everything long is kept in the work folder, so preparing a second time takes seconds.
"""

import dataclasses
import functools
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import ml_collections
from rich.console import Console

from dpc_jax import (
    assembly,
    datasets,
    drawn_data,
    files,
    frozen,
    label_counts,
    metrics,
    provenance,
    rerank,
    second_stage,
    sharding,
    teacher,
)
from dpc_jax import ladder as ladders
from dpc_jax.assembly import PROXY
from dpc_jax.base import Genotype, InputError, Rung, Size, unstack
from dpc_jax.climbing import climb
from dpc_jax.feature_cache import FeatureCache
from dpc_jax.frozen import Datasets
from dpc_jax.memory import Chunk, PatientEvaluator
from dpc_jax.population import PopulationEvaluator
from dpc_jax.proxy import Source
from dpc_jax.rerank import Train, WholeNetworks
from dpc_jax.scores import CellScore, CellScores, list_cells, list_seeds
from dpc_jax.second_stage import Second
from dpc_jax.spaces import Space
from dpc_jax.study import Candidate, Progress, Study

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
    sizes: Mapping[int, Size]  # of the largest maps, train and val, by output stride
    chunk: Chunk  # candidates within one vmap; shrinks where memory does not hold it
    second: Second | None = None  # of the second stage, where the config wants one

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of confusion matrices."""
        return tuple(self.sets[0].classes)

    def open_study(self, rung: Rung | str, *, seed: int | None = None) -> Study:
        """The study of a rung, or of that name, used in a `with`; `seed` is by default the config's."""
        if isinstance(rung, str):
            return assembly.open_study(self.config, self.workdir, self.settings, rung=rung, seed=seed)
        more: dict[str, Any] = {'seed': rung.seed, 'name': rung.study, 'recipe': rung.recipe}
        return assembly.open_study(self.config, self.workdir, self.settings, rung=rung.name, **more)

    def evaluator(self, *, steps: int = 0, seed: int | None = None) -> PopulationEvaluator:
        """Trains and scores populations for so many steps under a seed (the config's).

        By default (0) the steps are the config's, with a score at each halving of its ladder.
        """
        halvings = () if steps else ladders.of(self.config).halvings
        return assembly.make_evaluator(
            self.config,
            self.data,
            self.num_classes,
            steps=steps or self.config.proxy.steps,
            chunk=self.chunk.size,
            seed=seed,
            halvings=halvings,
        )

    def patient_evaluator(self, *, steps: int = 0, seed: int | None = None) -> PatientEvaluator:
        """The same, perhaps with a second stage; it goes on with half the chunk where memory does not hold it."""
        first = self.evaluator(steps=steps, seed=seed)
        evaluator = second_stage.staged(self.config, first, self.second) if self.second else first
        return PatientEvaluator(evaluator, self.chunk)

    @property
    def num_classes(self) -> int:
        """L."""
        return self.sets[0].num_classes

    def rungs(self, train: Train) -> list[Rung]:
        """The ladder of the config: the proxy over all candidates, the best trained anew, the best as whole networks.

        `train` is the journey of a training.
        """
        ladder, given = ladders.of(self.config), self.given()
        rungs = [self.proxy_rung(PROXY, self.config.search.num_candidates, given=given)]
        for level, (steps, keep) in enumerate(ladder.anew, 1):
            rungs.append(self.proxy_rung(f'rung{level}-{steps}', keep, steps=steps))
        if not ladder.full:
            return rungs
        seeds = range(self.config.seed, self.config.seed + self.config.rerank.seeds)
        whole = (self.whole_rung(train, seed) for seed in seeds)
        return rungs + [dataclasses.replace(rung, keep=ladder.full, given=given) for rung in whole]

    def proxy_rung(
        self, name: str, keep: int, *, steps: int = 0, seed: int | None = None, given: tuple[Genotype, ...] = ()
    ) -> Rung:
        """A rung of the proxy for so many steps under a seed (see `evaluator`)."""
        evaluate = self.patient_evaluator(steps=steps, seed=seed)
        best_of = second_stage.promoted(self.config, self.evaluator(steps=steps, seed=seed))
        return Rung(name, evaluate, keep, evaluate.population, given=given, same=self.same, best_of=best_of)

    def same(self, genotype: Genotype) -> str:
        """A text that is equal for cells (unbatched) that are the same function on the cached maps."""
        return self.space.canonical_key(self.space.at_size(genotype, self.sizes))

    def whole_rung(self, train: Train, seed: int) -> Rung:
        """The rung that trains whole networks by `config.rerank` under a seed; `train` is the journey of a training."""
        rerank.check(self.config, self.space)
        weights, folder = frozen.backbone_path(self.config, self.workdir, self.sets[0]), self.workdir / 'full'
        evaluate = WholeNetworks(self.config, self.space, folder, weights, seed, train)
        name = 'full' if seed == self.config.seed else f'full-seed{seed}'
        return Rung('full', evaluate, 0, seed=seed, study=name, recipe=rerank.recipe_of(self.config))

    def given(self) -> tuple[Genotype, ...]:
        """The random cells that every search with a last rung `full` takes: what the best are compared with there."""
        if not ladders.of(self.config).full or not self.config.rerank.random:
            return ()
        return tuple(unstack(self.space.sample(jax.random.key(self.config.seed), self.config.rerank.random)))

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
        return self._evaluate(cells, seeds, self._proxy_of_seed, 'cells')

    def evaluate_whole(
        self, cells: Genotype | Sequence[Genotype], train: Train, seeds: int | Sequence[int] = 1
    ) -> 'CellScores':
        """Trains the whole network of any number of cells by `config.rerank`, like `evaluate`; shared with the search.

        `train` is the journey of a training.
        """

        def of_seed(cells: Mapping[str, Genotype], seed: int, progress: Progress) -> list[Candidate]:
            rung = self.whole_rung(train, seed)
            with self.open_study(rung) as study:
                known = {c.key: c for c in study.candidates() if c.key in cells}
                return self._rest(study, rung, cells, known, progress)

        return self._evaluate(cells, seeds, of_seed, 'whole networks')

    def _evaluate(
        self,
        cells: Genotype | Sequence[Genotype],
        seeds: int | Sequence[int],
        of_seed: Callable[[Mapping[str, Genotype], int, Progress], list[Candidate]],
        name: str,
    ) -> 'CellScores':
        listed = list_cells(self.space, cells)
        wanted = list_seeds(seeds, self.config.seed)
        unique = {self.space.canonical_key(genotype): genotype for genotype in reversed(listed)}
        found: dict[tuple[str, int], Candidate] = {}
        with self.open_study(PROXY) as study:
            study.keep_settings()
        # The screen is named, because the training of a whole network prints elsewhere meanwhile.
        logdir, screen = self.workdir / 'events' / name, Console(file=sys.stdout)
        label = metrics.label_of(self.settings)
        with Progress(len(wanted) * len(unique), logdir=logdir, label=label, console=screen) as progress:
            for seed in wanted:
                found |= {(candidate.key, seed): candidate for candidate in of_seed(unique, seed, progress)}
        keys = [self.space.canonical_key(genotype) for genotype in listed]
        rows = [CellScore(cell, seed, found[key, seed]) for cell, key in enumerate(keys) for seed in wanted]
        return CellScores(self.space, self.classes, dict(self.settings), tuple(listed), tuple(rows))

    def _proxy_of_seed(self, cells: Mapping[str, Genotype], seed: int, progress: Progress) -> list[Candidate]:
        """The candidates of these cells under one seed of the proxy."""
        known: dict[str, Candidate] = {}
        if seed == self.config.seed:
            with self.open_study(PROXY) as study:
                known = {c.key: c for c in study.candidates() if c.key in cells and c.state != 'pruned'}
        name = f'seed{seed}'
        with self.open_study(name, seed=seed) as study:
            known = {c.key: c for c in study.candidates() if c.key in cells} | known
            return self._rest(study, self.proxy_rung(name, 0, seed=seed), cells, known, progress)

    def _rest(
        self,
        study: Study,
        rung: Rung,
        cells: Mapping[str, Genotype],
        known: Mapping[str, Candidate],
        progress: Progress,
    ) -> list[Candidate]:
        """What is known of these cells, by key, and the rest of them once they are evaluated."""
        progress.resume(list(known.values()))
        missing = {key: cell for key, cell in cells.items() if key not in known}
        for genotype in missing.values():
            study.enqueue(genotype)
        found: list[Candidate] = []
        if missing:
            rung = dataclasses.replace(rung, keep=len(missing))
            here = climb(study, rung, progress, generation=rung.at_once, only=frozenset(missing))
            found = [c for c in study.candidates() if c.key in missing]
            progress.resume([c for c in found if c.number not in here])  # other workers were at these
        return [*known.values(), *found]


def prepare(config: ml_collections.ConfigDict, workdir: pathlib.Path | str) -> Bench:
    """Makes or opens everything that candidates of this config are evaluated with.

    Raises:
      InputError: whatever is wrong with config, data, weights or workdir. Nothing that was computed is lost.
    """
    workdir = files.local(workdir, 'workdir')
    sharding.check_devices()
    assembly.check(config)
    second_stage.check(config)
    space = assembly.make_space(config)
    if ladders.of(config).full:
        rerank.check(config, space)
    started = workdir.is_dir() and any(workdir.iterdir())
    config = with_data(config, workdir)
    sets = assembly.load_datasets(config)
    check_data(() if started else sets)  # before anything is written
    teacher.check(config, sets[0])
    settings = assembly.study_settings(config, sets)
    files.make_folder(workdir, 'workdir')
    # Opened before the long work, so that a workdir of another config is refused at once.
    with assembly.open_study(config, workdir, settings, rung='proxy') as study:
        check_data(() if not started or study.candidates() else sets)
        variables = frozen.backbone_variables(config, workdir, sets[0])
        cache = frozen.build_cache(config, workdir, sets, variables)
        data = assembly.proxy_data(config, cache)
        second = second_stage.prepare(config, workdir, sets, variables)
        # What was measured is kept: another chunk would round scores otherwise.
        measure = functools.partial(assembly.choose_chunk, config, data, sets[0].num_classes)
        chunk = config.proxy.chunk or study.once(CHUNK.format(provenance.device()), measure)
        if study.once('features', lambda: cache.key) != cache.key:
            raise InputError(
                f'the features here are not those of the study in {config.search.storage or workdir}: its backbone was'
                ' trained elsewhere or differs; copy backbone-*.npz from the workdir that began it'
            )
    keep = functools.partial(_keep_chunk, config, workdir, settings)
    return Bench(config, workdir, space, sets, settings, data, map_sizes(cache), Chunk(chunk, keep), second)


def with_data(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> ml_collections.ConfigDict:
    """The config with the folder of its images, which are drawn where it asks for that (`dataset.generated`)."""
    place = drawn_data.prepared(config.dataset, workdir)
    if place is config.dataset:
        return config
    config = config.copy_and_resolve_references()
    config.dataset = place
    return config


def map_sizes(cache: FeatureCache) -> dict[int, Size]:
    """The larger of the sizes that maps of train and val have, by output stride."""
    shapes = {stride: (cache.train.features[stride].shape, maps.shape) for stride, maps in cache.val.features.items()}
    return {stride: (max(a[1], b[1]), max(a[2], b[2])) for stride, (a, b) in shapes.items()}


def _keep_chunk(
    config: ml_collections.ConfigDict, workdir: pathlib.Path, settings: Mapping[str, Any], size: int
) -> None:
    """Later starts on such devices begin with this chunk, unless the config names one."""
    name = CHUNK.format(provenance.device())
    with assembly.open_study(config, workdir, settings, rung='proxy') as study:
        if size < study.once(name, lambda: size):
            study.keep(name, size)


def check_data(sets: Sequence[datasets.Dataset]) -> None:
    """Decodes every image and label once; what is odd about them is said (`label_counts`); InputError names a fault."""
    for dataset in sets:
        datasets.check(dataset)
        label_counts.announce(dataset)
