"""What the study costs beside the evaluation: asking, telling and showing, per candidate, in small and large studies.

python experiments/bench_study.py
python experiments/bench_study.py --storage=postgresql://user@host/empty --sampler=near_best --sizes=1000,28000

Each study is filled with finished candidates, which are copies of one that was really told, with other cells and
scores. Then `climbing.climb`, the loop of the search, goes on in it with an evaluator that is over at once; the studies
take turns, batch by batch, so that whatever else runs on the machine slows all of them. Last, the report of the largest
study is made as `report_study.py` makes it.
"""

import contextlib
import copy
import io
import json
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
import sqlalchemy
from absl import app, flags
from optuna.trial import FrozenTrial
from rich.console import Console

from dpc_jax import climbing, command_line, figures, samplers, spaces, study
from dpc_jax.base import Genotype, InputError, KeepGoing, ProxyResult, Rung, population_size, unstack
from dpc_jax.spaces import Space
from dpc_jax.study import Progress, RunInfo, Study
from dpc_jax.study.storage import JOURNAL, close_storage, open_storage
from experiments.entry import one_line_errors

STORAGE = flags.DEFINE_multi_string(
    'storage', ['sqlite', 'journal'], 'sqlite or journal, made in a temporary folder, or the Optuna URL of a database.'
)
SAMPLER = flags.DEFINE_multi_string('sampler', ['near_best', 'uniform'], 'As --config.search.sampler.')
SIZES = flags.DEFINE_list('sizes', ['1000', '28000'], 'Candidates that the studies begin with.')
BATCH = flags.DEFINE_integer('batch', 32, 'Candidates that are asked for at once.')
ROUNDS = flags.DEFINE_integer('rounds', 7, 'Batches that are timed in each study; the median counts.')
REPORT = flags.DEFINE_bool('report', True, 'Make the report of the largest study, too.')

SETTINGS: Mapping[str, Any] = {  # the paper's search: Cityscapes at stride 16 on MobileNet-v2
    'space': {'name': 'dpc', 'num_branches': 5},
    'features': {'size': (65, 129), 'channels': 320},
    'cell': {'filters': 256, 'pooling': 'sliding'},
}
CLASSES = 19
T = TypeVar('T')

RUN = RunInfo(seed=0, config_hash='0' * 12, commit='', device='none')
COPIED_BATCH = 32  # candidates of one batch among the copies
COPIED_AT_ONCE = 2000


def main(argv: Sequence[str]) -> None:
    """Measures and prints."""
    del argv
    try:
        sizes = sorted(map(int, SIZES.value))
    except ValueError:
        sizes = []
    if not sizes or sizes[0] < 1:
        raise InputError(f"--sizes is '{','.join(SIZES.value)}'; it must be numbers of at least 1, e.g. 1000,28000")
    print(f'ask, tell and progress: ms per candidate, batches of {BATCH.value}, median of {ROUNDS.value}.')
    print('In brackets what of it this process computes; the rest waits for the disk, the server and other work.\n')
    print('| storage | sampler |' + ''.join(f' {size} candidates |' for size in sizes) + ' ratio |')
    print('|:--|:--|' + '--:|' * (len(sizes) + 1), flush=True)
    for kind in STORAGE.value:
        with tempfile.TemporaryDirectory() as folder:
            names = {size: f'bench-{size}' for size in sizes}
            url = url_of(kind, pathlib.Path(folder))
            for size, name in names.items():
                fill(url, name, size)
            for sampler in SAMPLER.value:
                found = milliseconds(url, list(names.values()), sampler, pathlib.Path(folder))
                cost = [found[name] for name in names.values()]
                numbers = ''.join(f' {wall:.1f} ({cpu:.1f}) |' for wall, cpu in cost)
                wall_ratio, cpu_ratio = (large / small for small, large in zip(cost[0], cost[-1], strict=True))
                shown = kind.partition(':')[0]
                print(f'| {shown} | {sampler} |{numbers} {wall_ratio:.2f} ({cpu_ratio:.2f}) |', flush=True)
            if REPORT.value:
                print_report(url, names[sizes[-1]], pathlib.Path(folder) / 'report', kind.partition(':')[0])


def url_of(kind: str, folder: pathlib.Path) -> str:
    """The storage that `--storage` names."""
    return {'sqlite': f'sqlite:///{folder}/study.db', 'journal': f'journal:{folder}/study.log'}.get(kind, kind)


@contextlib.contextmanager
def opened(url: str, name: str, sampler: str = 'uniform') -> Iterator[Study]:
    """The study `name` with a strategy."""
    space = spaces.make(SETTINGS['space'])
    strategy = samplers.make(sampler, space, seed=0)
    with Study.open(url, name, space=space, sampler=strategy, settings=SETTINGS, run=RUN) as opened_study:
        yield opened_study


# ---- measuring ------------------------------------------------------------------------------------------------------


def at_once(genotypes: Genotype, keep_going: KeepGoing | None = None) -> ProxyResult:
    """An evaluator that is over at once; scores are a function of the cells."""
    del keep_going
    count = population_size(genotypes)
    draws = np.random.default_rng([int(genes) + 1 for genes in np.concatenate([np.ravel(f) for f in genotypes])])
    scores = draws.uniform(0.2, 0.8, count)
    confusions = draws.integers(0, 10**7, (count, 1, CLASSES, CLASSES))
    none, losses = np.zeros(count, bool), np.ones((count, 1))
    steps = np.full(count, 30_000)
    return ProxyResult(scores, scores[:, None], losses, ~none, none, steps, 1.0, confusions, {'pixel_accuracy': scores})


def milliseconds(url: str, names: Sequence[str], sampler: str, folder: pathlib.Path) -> dict[str, tuple[float, float]]:
    """Per candidate, by study, of time and of the processor: medians of several batches, in which they take turns."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    with contextlib.ExitStack() as stack:
        studies = {name: stack.enter_context(opened(url, name, sampler)) for name in names}
        screens = {
            name: stack.enter_context(Progress(10**6, logdir=folder / name, console=Console(file=io.StringIO())))
            for name in names
        }
        for turn in range(ROUNDS.value + 1):
            for name in names:
                keep = studies[name].count() + BATCH.value
                rung = Rung('proxy', at_once, keep, BATCH.value)
                started, worked = time.perf_counter(), time.process_time()
                climbing.climb(studies[name], rung, screens[name], generation=BATCH.value)
                if turn:  # the first batch compiles and reads
                    seconds[name].append((time.perf_counter() - started, time.process_time() - worked))
    each = {name: [statistics.median(kind) for kind in zip(*pairs, strict=True)] for name, pairs in seconds.items()}
    return {name: (1000 * wall / BATCH.value, 1000 * cpu / BATCH.value) for name, (wall, cpu) in each.items()}


def print_report(url: str, name: str, out: pathlib.Path, shown: str) -> None:
    """How long the report takes, reading and writing apart."""
    (candidates, settings), read = timed(lambda: study.read(url, name))
    space = spaces.make(settings['space'])
    _, written = timed(lambda: figures.write_report(candidates, out, space=space, settings=settings))
    print(f'\nreport of {len(candidates)} candidates, {shown}: {read} to read, {written} to write\n', flush=True)


def timed(work: Callable[[], T]) -> tuple[T, str]:
    """What the work gives; its time, and in brackets that of the processor."""
    started, worked = time.perf_counter(), time.process_time()
    result = work()
    return result, f'{time.perf_counter() - started:.1f} ({time.process_time() - worked:.1f}) s'


# ---- filling --------------------------------------------------------------------------------------------------------


def fill(url: str, name: str, count: int) -> None:
    """Makes a study of `count` finished candidates: one is told, the others are copies of it."""
    with opened(url, name) as new:
        if new.count():
            raise InputError(f"there is a study '{name}' in the storage already; give an empty one")
        with Progress(1, console=Console(file=io.StringIO())) as screen:
            climbing.climb(new, Rung('proxy', at_once, 1, 1), screen, generation=1)
        (told,) = new.candidates()
    storage = open_storage(url)
    study_id = storage.get_study_id_from_name(name)
    (trial,) = storage.get_all_trials(study_id)
    close_storage(storage)
    space = spaces.make(SETTINGS['space'])
    others = others_than(told.key, count - 1, space)
    copies = [copied(trial, number, genotype, space) for number, genotype in enumerate(others, 1)]
    if url.startswith(JOURNAL):
        into_journal(url, study_id, copies)
    else:
        into_database(url, trial, copies)


def others_than(key: str, count: int, space: Space) -> list[Genotype]:
    """So many cells, all different and none with this key."""
    drawn = unstack(space.sample(jax.random.key(1), count + count // 50 + 8))
    cells = {space.canonical_key(genotype): genotype for genotype in drawn}
    cells.pop(key, None)
    return list(cells.values())[:count]


def copied(trial: FrozenTrial, number: int, genotype: Genotype, space: Space) -> FrozenTrial:
    """The trial with another number, cell and score."""
    score = 0.2 + 0.6 * (number * 0.618034 % 1)
    copy_of = copy.copy(trial)
    copy_of.number, copy_of.params, copy_of.values = number, dict(space.to_params(genotype)), [score]
    outcome = trial.user_attrs['outcome'] | {'score': score, 'curve': [score]}
    batch = f'{1 + (number - 1) // COPIED_BATCH * COPIED_BATCH}.copied'
    copy_of.user_attrs = trial.user_attrs | {
        'key': space.canonical_key(genotype),
        'batch': batch,
        'outcome': outcome,
    }
    return copy_of


def into_database(url: str, trial: FrozenTrial, copies: Sequence[FrozenTrial]) -> None:
    """Copies the rows of `trial` in each table, with what the copies have instead."""
    engine, metadata = sqlalchemy.create_engine(url), sqlalchemy.MetaData()
    metadata.reflect(engine)
    tables = [table for table in metadata.tables.values() if 'trial_id' in table.c and table.name != 'trials']
    trials = metadata.tables['trials']
    with engine.begin() as connection:
        first = dict(connection.execute(_rows(trials, trial)).mappings().one())
        template = {t: [dict(row) for row in connection.execute(_rows(t, trial)).mappings()] for t in tables}
        for start in range(0, len(copies), COPIED_AT_ONCE):
            part = copies[start : start + COPIED_AT_ONCE]
            connection.execute(
                trials.insert(), [_without(first, 'trial_id') | {'number': copy.number} for copy in part]
            )
            found = sqlalchemy.select(trials.c.number, trials.c.trial_id).where(trials.c.study_id == first['study_id'])
            ids = {number: id_ for number, id_ in connection.execute(found.where(trials.c.number >= part[0].number))}
            for table, rows in template.items():
                (own_id,) = table.primary_key.columns.keys()
                made = [
                    _without(row, own_id) | {'trial_id': ids[copy.number]} | _changed(table.name, row, copy)
                    for copy in part
                    for row in rows
                ]
                if made:
                    connection.execute(table.insert(), made)
    engine.dispose()


def _without(row: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {other: value for other, value in row.items() if other != name}


def _rows(table: sqlalchemy.Table, trial: FrozenTrial) -> sqlalchemy.Select[Any]:
    return sqlalchemy.select(table).where(table.c.trial_id == trial._trial_id)


def _changed(table: str, row: Mapping[str, Any], copy: FrozenTrial) -> dict[str, Any]:
    """What a copy has instead of the values in a row of the original."""
    if table == 'trial_values':
        return {'value': copy.values[row['objective']]}
    if table == 'trial_params':
        name = row['param_name']
        return {'param_value': copy.distributions[name].to_internal_repr(copy.params[name])}
    if table == 'trial_user_attributes':
        return {'value_json': json.dumps(copy.user_attrs[row['key']])}
    return {}


def into_journal(url: str, study_id: int, copies: Sequence[FrozenTrial]) -> None:
    """Lets Optuna write the first copy; the lines of the others are that one with what they have instead."""
    if not copies:
        return
    open_storage(url).create_new_trial(study_id, copies[0])
    path = pathlib.Path(url.removeprefix(JOURNAL))
    line = json.loads(path.read_text().splitlines()[-1])
    with path.open('a') as file:
        for copy in copies[1:]:
            internal = {n: copy.distributions[n].to_internal_repr(value) for n, value in copy.params.items()}
            changed = {'params': internal, 'user_attrs': copy.user_attrs, 'value': copy.values[0]}
            file.write(json.dumps(line | changed, separators=(',', ':')) + '\n')


if __name__ == '__main__':
    app.run(one_line_errors(main), flags_parser=command_line.parse_flags)
