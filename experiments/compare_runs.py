"""Several trainings side by side: curves, a table by context module, and what the modules differ by under one seed.

  python experiments/compare_runs.py --out=experiments/results/camvid_training \\
    --workdirs=runs/camvid_dpc_0,runs/camvid_dpc_1,runs/camvid_aspp_0,runs/camvid_aspp_1

Reads `metrics.jsonl` and `evaluation/metrics.json` of finished trainings. Writes `table.md`, `curves.png`, and of each
run its row, its records and its predictions into a folder named by module and seed: the rows are what the scripts of
the tables read.
"""

import csv
import io
import json
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import app, flags

from dpc_jax import command_line, train_log, training_pictures
from dpc_jax.base import InputError
from experiments import common, rows

WORKDIRS = flags.DEFINE_list('workdirs', [], 'The work folders of finished trainings.')
OUT = flags.DEFINE_string('out', '', 'Folder for what is written.')

KEPT = ('evaluation/metrics.json', 'evaluation/report.md', 'evaluation/predictions.png', 'metrics.jsonl')


class Trained(NamedTuple):
    """A finished training."""

    workdir: pathlib.Path
    row: Mapping[str, Any]
    records: list[dict[str, Any]]

    @property
    def module(self) -> str:
        """Name of the context module, and of its cell."""
        return rows.module_of(self.row)

    @property
    def seed(self) -> int:
        """Of the training."""
        seed: int = self.row['training']['seed']
        return seed


def read(workdir: pathlib.Path) -> Trained:
    """InputError unless there is a finished training."""
    path = workdir / 'evaluation/metrics.json'
    try:
        row = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise InputError(f"--workdirs: '{workdir}' holds no finished training: {path}: {error}") from error
    if 'training' not in row or row.get('miou') is None:
        raise InputError(f"--workdirs: '{path}' is of no training with scores")
    return Trained(workdir, row, train_log.read(workdir / train_log.METRICS))


def by_module(runs: Sequence[Trained]) -> dict[str, list[Trained]]:
    """In order of module and seed."""
    names = sorted({run.module for run in runs})
    return {name: sorted((r for r in runs if r.module == name), key=lambda run: run.seed) for name in names}


def table(groups: Mapping[str, Sequence[Trained]]) -> str:
    """Markdown: a row per module; differences of the modules under one seed; classes."""
    lines = ['| module | mIoU % | std | seeds | minutes each | device |', '|:--|--:|--:|:--|--:|:--|']
    for name, runs in groups.items():
        scores = 100 * np.array([run.row['miou'] for run in runs])
        listed = ', '.join(f'{run.seed}: {score:.2f}' for run, score in zip(runs, scores, strict=True))
        minutes = np.mean([run.row['training']['seconds'] for run in runs]) / 60
        spread = f'{scores.std(ddof=1):.2f}' if len(scores) > 1 else '–'
        lines.append(
            f'| {name} | {scores.mean():.2f} | {spread} | {listed} | {minutes:.0f} | {runs[0].row["device"]} |'
        )
    lines += ['', *differences(groups), '', *classes(groups), '']
    return '\n'.join(lines)


def differences(groups: Mapping[str, Sequence[Trained]]) -> list[str]:
    """A sentence for every pair of modules that share seeds."""
    found = []
    names = list(groups)
    for place, one in enumerate(names):
        for other in names[place + 1 :]:
            ours, theirs = ({run.seed: 100 * run.row['miou'] for run in groups[name]} for name in (one, other))
            gaps = np.array([theirs[seed] - ours[seed] for seed in sorted(ours.keys() & theirs.keys())])
            if not len(gaps):
                continue
            spread = f', standard deviation {gaps.std(ddof=1):.2f}' if len(gaps) > 1 else ''
            listed = ', '.join(f'{gap:+.2f}' for gap in gaps)
            found.append(f'{other} less {one} under one seed: {gaps.mean():+.2f} points on average ({listed}{spread}).')
    return found


def classes(groups: Mapping[str, Sequence[Trained]]) -> list[str]:
    """Mean IoU of each class over the seeds."""
    lines = [f'| class | {" | ".join(groups)} |', '|:--|' + '--:|' * len(groups)]
    for name in next(iter(groups.values()))[0].row['iou']:
        values = [
            [run.row['iou'][name] for run in runs if run.row['iou'][name] is not None] for runs in groups.values()
        ]
        lines.append(f'| {name} | {" | ".join(f"{100 * np.mean(v):.2f}" if v else "–" for v in values)} |')
    return lines


def as_csv(groups: Mapping[str, Sequence[Trained]]) -> str:
    """A row per run."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(['module', 'seed', 'miou', 'steps', 'seconds', 'commit', 'device', 'config_hash'])
    for name, runs in groups.items():
        for run in runs:
            training = run.row['training']
            cause = (run.row[field] for field in ('commit', 'device', 'config_hash'))
            writer.writerow([name, run.seed, repr(run.row['miou']), training['steps'], training['seconds'], *cause])
    return text.getvalue()


def main(argv: Sequence[str]) -> None:
    """Reads, compares, writes."""
    del argv
    if not WORKDIRS.value or not OUT.value:
        raise InputError('both --workdirs and --out are needed; --help explains them')
    runs = [read(pathlib.Path(name).expanduser()) for name in WORKDIRS.value]
    if len({run.row['dataset'] for run in runs}) > 1:
        raise InputError(f'--workdirs: of several data sets: {", ".join(sorted({run.row["dataset"] for run in runs}))}')
    groups, out = by_module(runs), pathlib.Path(OUT.value).expanduser()
    for run in runs:
        folder = out / f'{run.module.replace(" ", "_")}_seed{run.seed}'
        folder.mkdir(parents=True, exist_ok=True)
        for name in KEPT:
            if (run.workdir / name).is_file():
                shutil.copyfile(run.workdir / name, folder / pathlib.PurePath(name).name)
    (out / 'table.md').write_text(table(groups), encoding='utf-8')
    (out / 'runs.csv').write_text(as_csv(groups), encoding='utf-8')
    picture = training_pictures.comparison({name: [run.records for run in group] for name, group in groups.items()})
    picture.savefig(out / 'curves.png', dpi=150)
    print(table(groups))
    print('\n'.join(str(out / name) for name in ('table.md', 'runs.csv', 'curves.png')))


if __name__ == '__main__':
    app.run(common.one_line_errors(main), flags_parser=command_line.parse_flags)
