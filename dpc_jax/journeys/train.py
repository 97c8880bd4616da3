"""The journey of a training: a network, a data set, steps over all devices of all hosts; it goes on after any stop.

    data set -> batches -> [step -> log -> evaluate -> checkpoint] -> weights, scores, curves

A run is a function of its config and its data. The order of images, their crops and the dropout follow the number of
the step, so a run that was stopped or killed goes on from its last checkpoint as if it had not been stopped (on a CPU
bit for bit).
"""

import collections
import contextlib
import json
import logging
import math
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import ml_collections
from clu import parameter_overview
from jax.experimental import multihost_utils

from dpc_jax import (
    contexts,
    datasets,
    described,
    drawn_data,
    evaluation,
    files,
    input_pipeline,
    networks,
    sharding,
    stopping,
    training,
    weights,
)
from dpc_jax.base import DivergedError, InputError, PyTree, key_from_seed
from dpc_jax.datasets import Dataset
from dpc_jax.evaluation import Counted, Evaluation, Scorer
from dpc_jax.input_pipeline import TrainBatch, WorkersError
from dpc_jax.training import Checkpoints, Means, StepReport, StepSettings, TrainLog, TrainState

STOPPED = 'everything is kept in {workdir}. The same command goes on from here.'
SEVERAL_PROCESSES = ''
LOST = ('Gloo ', 'NCCL', 'coordination service', 'heartbeat')  # in JAX's errors when another process was lost
LAG = 2  # steps that the devices may be ahead of the check of their losses


class Run(NamedTuple):
    """What a training is made of."""

    config: ml_collections.ConfigDict
    workdir: pathlib.Path
    dataset: Dataset
    scorer: Scorer
    settings: StepSettings
    checkpoints: Checkpoints
    log: TrainLog
    stopped: Callable[[int], bool]  # asked by all processes at the same steps
    started: float  # of the clock, less the seconds of earlier starts

    def seconds(self) -> float:
        """Seconds of training, over all starts."""
        return round(time.monotonic() - self.started, 1)


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> Evaluation:
    """Trains, or goes on with the training in `workdir`; writes scores, weights, curves and pictures there.

    Raises:
      InputError: whatever is wrong with config, data, weights or workdir, or a loss that is not finite. Nothing that
        was computed is lost.
      KeyboardInterrupt: it was asked to stop, and everything is in a checkpoint.
    """
    sharding.check_devices()
    mesh = sharding.data_mesh()
    training.check(config, mesh.size)
    place = drawn_data.prepared(config.dataset, workdir)
    dataset, validation = (
        datasets.load(config.dataset.name, place, split) for split in (config.train.split, config.evaluate.split)
    )
    files.make_folder(workdir, 'workdir')
    training.claim(workdir, config, dataset)
    network, settings = training.make_network(config), training.step_settings(config)
    for split in (dataset, validation):
        settings.task.announce(split)
    contexts.announce(config)
    scorer = evaluation.make_scorer(config, validation)
    with contextlib.ExitStack() as stack:
        stack.enter_context(explained(config, workdir))
        checkpoints = stack.enter_context(Checkpoints(workdir / training.CHECKPOINTS, keep=config.train.keep))
        restored = checkpoints.restore(training.state_shapes(network, settings))
        if restored is None:
            state, facts = training.init_state(initial_variables(config), network, settings), {'seconds': 0.0}
        else:
            state, facts = restored
            print(f'the training goes on from step {int(state.step)} of {config.train.steps}')
        describe(state.params, workdir)
        log = stack.enter_context(TrainLog(workdir, config.train.steps, int(state.step), settings.task.main))
        stopped = stack.enter_context(stop_requests())
        run = Run(
            *(config, workdir, dataset, scorer, settings, checkpoints, log, stopped),
            started=time.monotonic() - facts['seconds'],
        )
        step = training.make_step(network, settings, mesh)
        state = take_steps(run, step, sharding.replicate(state, mesh), mesh)
        return finish(run, state)


@contextlib.contextmanager
def explained(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> Iterator[None]:
    """Within it a full disk and a full memory become an InputError of one line."""
    try:
        yield
    except (OSError, MemoryError, jax.errors.JaxRuntimeError) as error:
        train = config.train
        if sharding.is_out_of_memory(error):
            raise InputError(
                f'out of memory with train.batch_size {train.batch_size} in train.accumulate {train.accumulate} parts'
                f" and a crop of {tuple(train.crop_size)}; more parts, or train.dtype 'bfloat16', need less"
            ) from error
        if jax.process_count() > 1 and any(word in str(error) for word in LOST):
            raise InputError(
                'another process of this training has ended, its output may give the reason; the same commands go on'
                f" from the last checkpoint in '{workdir}'"
            ) from error
        if full := weights.full_disk(error):
            raise InputError(
                f"workdir '{workdir}': {full}; the same command goes on from the last checkpoint"
            ) from error
        raise


def take_steps(run: Run, step: training.Step, state: TrainState, mesh: jax.sharding.Mesh) -> TrainState:
    """All steps that are left, and what is due between them."""
    train, key, taken = run.config.train, key_from_seed(run.config.seed), int(state.step)
    pipeline = input_pipeline.pipeline_settings(run.config, mesh.size)
    batches = input_pipeline.on_devices(
        input_pipeline.train_batches(
            run.dataset,
            run.settings.task,
            pipeline,
            start=taken,
            stop=train.steps,
            process=jax.process_index(),
            processes=jax.process_count(),
        ),
        mesh,
    )
    watch = Watch(run)
    with contextlib.closing(batches):
        while True:
            if due(taken, train.evaluate_every) and taken < train.steps and not run.log.evaluated(taken):
                watch.settle()
                evaluate_now(run, state, taken)
            stop = run.stopped(taken)
            if stop or due(taken, train.checkpoint_every) or taken == train.steps:
                watch.settle()
                run.checkpoints.save(taken, state, {'seconds': run.seconds()})
            if stop and taken < train.steps:
                run.checkpoints.wait()
                raise KeyboardInterrupt
            if taken == train.steps:
                return state
            made = next_batch(run, batches, taken)
            if made is None:
                continue
            batch, images, target = made
            state, report = step(key, state, images, target)
            taken += 1
            watch.add(taken, batch, report)
            if due(taken, train.log_every):
                state = log_means(run, state, taken, watch.skipped, mesh)
            run.log.advance(taken)


def next_batch(
    run: Run, batches: Iterator[tuple[TrainBatch, jax.Array, PyTree]], taken: int
) -> tuple[TrainBatch, jax.Array, PyTree] | None:
    """The next batch; None if the run is to stop: a SIGTERM to a whole job ends workers too, perhaps before the run."""
    try:
        return next(batches)
    except WorkersError:
        if jax.process_count() > 1 or not run.stopped(taken):
            raise
        return None


def due(step: int, every: int) -> bool:
    """Whether what happens every `every` steps happens after step `step`; never if `every` is 0."""
    return every > 0 and step > 0 and step % every == 0


def log_means(run: Run, state: TrainState, taken: int, skipped: int, mesh: jax.sharding.Mesh) -> TrainState:
    """Records the means since the last record and begins new ones."""
    rate = training.learning_rate(state.step - 1, run.settings.optimizer)  # of the last step
    values = {**state.means.values(), 'learning_rate': float(rate)}
    run.log.train(taken, {**values, 'skipped_images': skipped} if skipped else values)
    return state._replace(means=sharding.replicate(Means.empty(), mesh))


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[int], bool]]:
    """Gives `stopped(step)`: true after SIGTERM or Ctrl-C; of several processes, after SIGTERM to any of them."""
    if jax.process_count() > 1:  # JAX's own service hears SIGTERM, and lets all processes agree on a step
        yield multihost_utils.reached_preemption_sync_point
        return
    with stopping.note_signals() as asked:
        yield lambda step: asked()


# ---- before ---------------------------------------------------------------------------------------------------------


def initial_variables(config: ml_collections.ConfigDict) -> PyTree:
    """What the first step starts from: random values, or what fits of `train.init.checkpoint`; prints which."""
    network, init = training.make_network(config), config.train.init
    variables = networks.init_variables(jax.random.fold_in(key_from_seed(config.seed), 0), network)
    if not init.checkpoint:
        return variables
    described.check_start(config, pathlib.Path(init.checkpoint), init.parts)
    only = None if init.parts == 'all' else ('backbone',)
    variables, report = weights.load_network(variables, init.checkpoint, network.scopes, only=only)
    print(f'{init.checkpoint}:\n{report}')
    return variables


def describe(params: PyTree, workdir: pathlib.Path) -> None:
    """Prints a line on the parameters, and writes a table of all of them to `workdir/parameters.txt`."""
    counts = {part: sum(leaf.size for leaf in jax.tree.leaves(tree)) for part, tree in params.items()}
    parts = ', '.join(f'{part} {count:,}' for part, count in counts.items())
    print(f'{sum(counts.values()):,} parameters: {parts}')
    if jax.process_index() == 0:
        table = parameter_overview.get_parameter_overview(params, include_stats=False)
        (workdir / 'parameters.txt').write_text(table + '\n', encoding='utf-8')


# ---- between steps --------------------------------------------------------------------------------------------------


class Watch:
    """Checks losses a few steps late, so that the devices need not wait; stops at the first that is not finite."""

    def __init__(self, run: Run) -> None:
        self.skipped = 0  # images in whose place others came
        self._run = run
        self._unchecked: collections.deque[tuple[int, TrainBatch, StepReport]] = collections.deque()

    def add(self, step: int, batch: TrainBatch, report: StepReport) -> None:
        """Takes in the batch and the report of step `step`."""
        for fault in batch.faults:
            self.skipped += 1
            logging.warning('step %d: %s; another image takes its place (%d so far)', step, fault, self.skipped)
        self._unchecked.append((step, batch, report))
        if len(self._unchecked) > LAG:
            self._look()

    def settle(self) -> None:
        """Checks all that are left, before the state is evaluated or kept."""
        while self._unchecked:
            self._look()

    def _look(self) -> None:
        step, batch, report = self._unchecked.popleft()
        values = {name: float(value) for name, value in report._asdict().items()}
        wrong = [name for name, value in values.items() if not math.isfinite(value)]
        if not wrong:
            return
        path = self._run.workdir / 'diverged.json'
        files = [self._run.dataset.example_name(int(index)) for index in batch.indices]
        if jax.process_index() == 0:
            path.write_text(
                json.dumps({'step': step, **{k: str(v) for k, v in values.items()}, 'files': files}, indent=2)
            )
        raise DivergedError(
            f'the {wrong[0].replace("_", " ")} is {values[wrong[0]]} at step {step}; the files of its batch are in'
            f' {path}; a lower train.learning_rate or a slow start may help'
        )


def evaluate_now(run: Run, state: TrainState, taken: int) -> None:
    """Scores the split of evaluation and keeps the weights if they are the best so far; not if the run is to stop."""
    counted = evaluated(run, state, taken)
    if counted is not None:
        record(run, state, taken, counted)


def evaluated(run: Run, state: TrainState, taken: int) -> Counted | None:
    """The counts over the split of evaluation; None if the run is to stop (of which one process alone is asked)."""
    alone = jax.process_count() == 1
    return run.scorer.count(
        state.variables, show=run.config.evaluate.pictures, stopped=lambda: alone and run.stopped(taken)
    )


def record(run: Run, state: TrainState, taken: int, counted: Counted) -> None:
    """Writes scores and pictures to the log, and the weights to `workdir/best` if no earlier ones were as good."""
    task, main = run.scorer.task, run.scorer.task.main
    found = task.compute(counted.counts, counted.rows, run.scorer.dataset.truth())
    before = [old[main.name] for old in run.log.evaluations if old[main.name] is not None]
    panels = task.panels(counted.shown) if counted.shown else None
    run.log.evaluation(taken, {name: found[name] for name in task.logged}, panels)
    if jax.process_index() == 0 and main.is_better(found[main.name], before):
        weights.save(run.workdir / 'best', state.variables, beside=beside(run), replace=True)


def beside(run: Run) -> dict[str, str]:
    """What the weights say of their network."""
    return described.files(described.of(run.config))


# ---- after the last step --------------------------------------------------------------------------------------------


def finish(run: Run, state: TrainState) -> Evaluation:
    """Writes the final scores with their cause, the weights and the curves."""
    train, workdir = run.config.train, run.workdir
    counted = evaluated(run, state, train.steps)
    if counted is None:
        raise KeyboardInterrupt
    if not run.log.evaluated(train.steps):
        record(run, state, train.steps, counted)
    files.make_folder(workdir / 'evaluation', 'workdir')
    facts = {
        'steps': train.steps,
        'seed': run.config.seed,
        'seconds': run.seconds(),
        'init': train.init.checkpoint,
        'batch_size': train.batch_size,
        'crop_size': list(train.crop_size),
    }
    if jax.process_index() == 0:
        weights.save(workdir / 'weights', state.variables, beside=beside(run), replace=True)
        training.curves(run.log.records, run.scorer.task.main).savefig(workdir / 'curves.png', dpi=150)
    print(f'weights: {workdir / "weights"}, the best on {run.scorer.dataset.split}: {workdir / "best"}')
    return evaluation.write(workdir / 'evaluation', run.scorer, state.variables, counted, training=facts)
