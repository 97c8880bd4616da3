"""Trainings of several modules under several seeds, side by side: curves, scores, differences paired by seed.

  python experiments/compare_runs.py --workdirs=runs/aspp_0,runs/aspp_1,runs/dpc_0,runs/dpc_1 --out=comparison

Everything but module and seed must be the same in all of them, and what `--free` names: modules of other papers may
have an output stride or a decoder of their own (--free=output_stride,decoder), which the table shows then. Writes
comparison.md, rows.csv, curves.png, and for each run its row and its curves into rows/<module>_seed<seed>.
"""

import csv
import io
import itertools
import math
import pathlib
import shutil
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from absl import app, flags

from dpc_jax import command_line, training
from dpc_jax.base import InputError
from experiments import entry, rows
from experiments.rows import Row

SCORES = ('miou', 'pixel_accuracy', 'class_accuracy')
FREE = ('context', 'genotype')  # settings in which runs may differ
MAY_BE_FREE = ('output_stride', 'decoder')  # those that are parts of a module, where --free names them
# 97.5 % quantiles of Student's t with 1, 2, ... degrees of freedom (NIST/SEMATECH e-Handbook, 1.3.6.7.2), for intervals
# of 95 %. The last is used for all larger numbers too: a little too wide.
T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


class FinishedRun(NamedTuple):
    """A finished training."""

    workdir: pathlib.Path
    row: Row
    held: Mapping[str, Any]  # all that the row's file has
    records: list[training.Record]

    @property
    def module(self) -> str:
        """Context and genotype."""
        return self.row.settings.module

    @property
    def name(self) -> str:
        """Module and seed, as the name of a folder."""
        return f'{self.module}_seed{self.row.seed}'


Modules = Mapping[str, Mapping[int, FinishedRun]]
"""Module -> seed -> run, in order of both."""


# ---- reading --------------------------------------------------------------------------------------------------------


def read(workdir: pathlib.Path) -> FinishedRun:
    """The training in `workdir`; InputError unless it is finished and its images have labels."""
    path = workdir / 'evaluation' / rows.METRICS
    if not path.exists():
        raise InputError(f"--workdirs has '{workdir}': there is no {path}, which a training writes when it is finished")
    row, held = rows.read_row(path), rows.read_json(path)
    if row.training is None or row.seed is None:
        raise InputError(f"--workdirs has '{workdir}': {path} is of an evaluation alone, not of a training")
    if row.miou is None or not isinstance(held.get('iou'), dict):
        raise InputError(f"--workdirs has '{workdir}': {path} has no scores")
    return FinishedRun(workdir, row, held, training.read_records(workdir / training.METRICS))


def by_module(runs: Sequence[FinishedRun], free: Sequence[str] = ()) -> Modules:
    """The runs in order; InputError where two are the same or differ in more than module and seed."""
    first, found = runs[0], dict[str, dict[int, FinishedRun]]()
    for run in sorted(runs, key=lambda run: (run.module, run.row.seed or 0)):
        alike = found.get(run.module)  # what is free is the same within a module
        different = differences(next(iter(alike.values())), run) if alike else differences(first, run, free)
        if alike and not different:  # files of one name may hold different cells
            theirs, ours = (other.row.settings.genotype for other in (next(iter(alike.values())), run))
            different = [f'genotype is {theirs} and {ours}'] * (theirs != ours)
        if different:
            raise InputError(f"'{first.workdir}' and '{run.workdir}' cannot be compared: {', '.join(different)}")
        held = found.setdefault(run.module, {}).setdefault(run.row.seed or 0, run)
        if held is not run:
            raise InputError(f"'{held.workdir}' and '{run.workdir}' are both {run.module} with seed {run.row.seed}")
    return found


def differences(one: FinishedRun, other: FinishedRun, free: Sequence[str] = ()) -> list[str]:
    """What differs in the two besides module and seed; the images are compared by their digest."""
    pairs = [
        (dict(run.row.settings._asdict(), training=run.row.origin, data=run.held.get('data'))) for run in (one, other)
    ]
    return [
        f'{name.replace("_", " ")} is {value} and {pairs[1][name]}'
        for name, value in pairs[0].items()
        if name not in (*FREE, *free) and value != pairs[1][name]
    ]


# ---- Markdown -------------------------------------------------------------------------------------------------------


def markdown(modules: Modules, free: Sequence[str] = ()) -> str:
    """Scores by module, differences by pair of modules, IoU by class."""
    run = next(iter(next(iter(modules.values())).values()))
    settings = run.row.settings
    stride = '' if 'output_stride' in free else f', output stride {settings.output_stride}'
    parts = [
        '# Modules compared',
        f'{settings.dataset} {settings.split}, {settings.images} images, {settings.backbone}{stride}; each run'
        f' {run.row.origin}. ± is the sample standard deviation over seeds.',
        module_table(modules, free),
        '![Losses and scores](curves.png)',
    ]
    if len(modules) > 1:
        parts += ['## Differences in mIoU, paired by seed', difference_table(modules)]
    parts += ['## IoU by class, %', class_table(modules)]
    return '\n\n'.join(parts) + '\n'


def module_table(modules: Modules, free: Sequence[str] = ()) -> str:
    """A row per module; what is `free` is that of its first run."""
    own_heads, scores = [name.replace('_', ' ') for name in free], ['pixel accuracy %', 'class accuracy %']
    heads = ['module', *own_heads, 'seeds', 'mIoU %', 'of each seed', *scores, 'commit', 'device']
    lines = []
    for name, seeds in modules.items():
        values = {score: [run.held[score] for run in seeds.values()] for score in SCORES}
        listed = ', '.join(f'{100 * value:.2f}' for value in values['miou'])
        means = [spread(values[score]) for score in SCORES]
        own = [str(getattr(next(iter(seeds.values())).row.settings, field)) for field in free]
        lines.append([name, *own, ', '.join(map(str, seeds)), means[0], listed, *means[1:], *facts(seeds)])
    return rows.markdown_table(heads, lines)


def facts(seeds: Mapping[int, FinishedRun]) -> list[str]:
    """Commits and devices."""
    return rows.facts([run.row for run in seeds.values()])[2:]


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation in %; the value alone where there is one."""
    return rows.mean_and_std(values) if len(values) > 1 else f'{100 * values[0]:.2f}'


def difference_table(modules: Modules) -> str:
    """A row per pair of modules, for the seeds that both have."""
    heads = ['difference', 'seeds', 'mean, points', '95 % interval (t)', 'of each seed', 'above 0']
    lines = []
    for one, other in itertools.combinations(modules, 2):
        seeds = [seed for seed in modules[one] if seed in modules[other]]
        points = [100 * (modules[other][seed].held['miou'] - modules[one][seed].held['miou']) for seed in seeds]
        listed = ', '.join(f'{value:+.2f}' for value in points)
        mean = f'{statistics.fmean(points):+.2f}' if points else '–'
        above = f'{sum(value > 0 for value in points)} of {len(points)}'
        lines.append([f'{other} less {one}', ', '.join(map(str, seeds)), mean, interval(points), listed, above])
    return rows.markdown_table(heads, lines)


def interval(values: Sequence[float]) -> str:
    """Interval of the mean, by Student's t; it needs at least two values."""
    count = len(values)
    if count < 2:
        return '–'
    half = T_QUANTILES[min(count - 1, len(T_QUANTILES)) - 1] * statistics.stdev(values) / math.sqrt(count)
    mean = statistics.fmean(values)
    return f'{mean - half:+.2f} to {mean + half:+.2f}'


def class_table(modules: Modules) -> str:
    """A row per class, the mean over seeds of each module."""
    classes = list(
        dict.fromkeys(name for seeds in modules.values() for run in seeds.values() for name in run.held['iou'])
    )
    lines = []
    for name in classes:
        values = [[run.held['iou'].get(name) for run in seeds.values()] for seeds in modules.values()]
        known = [[value for value in column if value is not None] for column in values]
        lines.append([name, *(spread(column) if column else '–' for column in known)])
    return rows.markdown_table(['class', *modules], lines)


# ---- files ----------------------------------------------------------------------------------------------------------


def as_csv(modules: Modules) -> str:
    """A row per run."""
    runs = [run for seeds in modules.values() for run in seeds.values()]
    classes = list(dict.fromkeys(name for run in runs for name in run.held['iou']))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    cause = ('config_hash', 'weights', 'commit', 'device')
    writer.writerow(['module', 'seed', 'steps', 'seconds', *SCORES, *cause, *(f'IoU {name}' for name in classes)])
    for run in runs:
        training = run.held['training']
        ious = (run.held['iou'].get(name) for name in classes)
        scores, causes = ([run.held[name] for name in names] for names in (SCORES, cause))
        writer.writerow([run.module, run.row.seed, training['steps'], training['seconds'], *scores, *causes, *ious])
    return text.getvalue()


def write(modules: Modules, folder: pathlib.Path, free: Sequence[str] = ()) -> list[pathlib.Path]:
    """Writes everything into `folder`."""
    for run in (run for seeds in modules.values() for run in seeds.values()):
        place = folder / 'rows' / run.name
        place.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(run.row.path, place / rows.METRICS)
        training.curves(run.records).savefig(place / 'curves.png', dpi=100)
    records = {name: [run.records for run in seeds.values()] for name, seeds in modules.items()}
    training.comparison(records).savefig(folder / 'curves.png', dpi=150)
    (folder / 'comparison.md').write_text(markdown(modules, free), encoding='utf-8')
    (folder / 'rows.csv').write_text(as_csv(modules), encoding='utf-8')
    return [folder / name for name in ('comparison.md', 'rows.csv', 'curves.png', 'rows')]


def make_folder(folder: pathlib.Path) -> pathlib.Path:
    """Makes the folder if it is missing; InputError if it cannot."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out '{folder}' cannot be made: {error.strerror}") from error
    return folder


def compare(workdirs: Sequence[str], out: str, free: Sequence[str] = ()) -> None:
    """Reads, compares, writes."""
    if not workdirs or not out:
        raise InputError('both --workdirs and --out are needed; --help explains them')
    unknown = [name for name in free if name not in MAY_BE_FREE]
    if unknown:
        raise InputError(f"--free has '{unknown[0]}'; allowed: {', '.join(MAY_BE_FREE)}")
    modules = by_module([read(pathlib.Path(workdir).expanduser()) for workdir in workdirs], free)
    paths = write(modules, make_folder(pathlib.Path(out).expanduser()), free)
    print(markdown(modules, free))
    print('\n'.join(map(str, paths)))


def main(argv: Sequence[str]) -> None:
    """Does what the flags say."""
    del argv
    compare(flags.FLAGS.workdirs, flags.FLAGS.out, flags.FLAGS.free)


if __name__ == '__main__':
    flags.DEFINE_list('workdirs', [], 'Work folders of finished trainings.')
    flags.DEFINE_string('out', '', 'Folder for what is written.')
    flags.DEFINE_list('free', [], 'Further settings in which modules may differ: output_stride, decoder.')
    app.run(entry.one_line_errors(main), flags_parser=command_line.parse_flags)
