"""Is the cell that a search found better than those that are known? Whole networks, several seeds, paired.

  python run.py --config=configs/scenes_search.py:ladder --workdir=runs/scenes_ladder
  python experiments/winner.py --config=configs/scenes_search.py:ladder --workdir=runs/scenes_ladder --seeds=5

Takes the best cell of the last rung of the search in the work folder (`('full', count)` in `search.ladder`) and the
references of the config (ASPP, the released cell, no context), and trains each as a whole network by `config.rerank`
under `--seeds` seeds that the search has not used: under the one by which the winner was chosen it had luck.

Writes into `--out`: `winner.json` (the cell in the official format, as `--config.context.genotype` takes it),
`winner.csv` (every score), `winner.md` (mean and 95 % interval of each cell, and of the difference from the winner,
paired by seed) and `winner.png`. With `--name=NAME` the cell is also kept in `configs/cells`, and is named like a known
one from then on (`--config.context.genotype=NAME`). What is finished is kept: the same command goes on after any stop.
"""

import csv
import io
import math
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from absl import app, flags
from jaxtyping import Float
from matplotlib.figure import Figure
from scipy import stats

from dpc_jax import bench, command_line, files, found_cells, journeys, metrics, palette
from dpc_jax.base import Genotype, InputError
from dpc_jax.bench import Bench
from dpc_jax.journeys import search
from experiments import common

SEEDS = flags.DEFINE_integer('seeds', 5, 'Trainings of each cell.')
PLACE = flags.DEFINE_integer('place', 1, 'Which of the cells of the last rung, 1 for the best.')
OUT = flags.DEFINE_string('out', '', 'Folder for what is written; by default winner in the work folder.')
NAME = flags.DEFINE_string(
    'name', '', 'Keeps the winner under this name in configs/cells, where configs and scripts find it.'
)

flags.adopt_module_key_flags(common)  # so that --help lists them

WINNER = 'winner'


class Interval(NamedTuple):
    """A mean with its 95 % interval by Student's t."""

    mean: float
    half: float


def interval(values: Float[np.ndarray, ' seeds']) -> Interval:
    """Of the scores, or the paired differences, under several seeds; no interval of a single one."""
    count = len(values)
    half = stats.t.ppf(0.975, count - 1) * values.std(ddof=1) / math.sqrt(count) if count > 1 else math.nan
    return Interval(float(values.mean()), float(half))


def chosen(prepared: Bench, place: int) -> Genotype:
    """The cell in that place of the last rung; InputError where the search has none there."""
    rows = []
    for rung in prepared.rungs(journeys.find('train').run):
        if rung.name == 'full':
            with prepared.open_study(rung) as study:
                rows += study.candidates()
    found = search.best(rows, place)
    if len(found) < max(1, place):
        raise InputError(
            f'--place is {place}, but the search in {prepared.workdir} has {len(found)} whole networks; it needs a rung'
            " ('full', count) in search.ladder and has to be run first"
        )
    return found[place - 1].genotype


def as_csv(scores: dict[str, Float[np.ndarray, ' seeds']], seeds: Sequence[int]) -> str:
    """A row for each cell, a column for each seed."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(['cell', *(f'seed {seed}' for seed in seeds)])
    writer.writerows([name, *map(float, values)] for name, values in scores.items())
    return text.getvalue()


def summary(scores: dict[str, Float[np.ndarray, ' seeds']], key: str, label: str = 'mIoU') -> str:
    """Markdown: a row for each cell, the winner first; `label` is what scores are called."""
    lines = [
        f'The winner is `{key}`. {label} on val of whole networks in %, means over'
        f' {len(scores[WINNER])} seeds with their 95 % intervals; differences are paired by seed.\n',
        f'| cell | {label} % | winner less this cell |',
        '|:--|--:|--:|',
    ]
    for name, values in scores.items():
        here, less = interval(100 * values), interval(100 * (scores[WINNER] - values))
        difference = '–' if name == WINNER else f'{less.mean:+.2f} ± {less.half:.2f}'
        lines.append(f'| {name} | {here.mean:.2f} ± {here.half:.2f} | {difference} |')
    return '\n'.join(lines) + '\n'


def draw(scores: dict[str, Float[np.ndarray, ' seeds']], label: str = 'mIoU') -> Figure:
    """A row for each cell: a dot for each seed, and the mean with its interval."""
    figure = Figure(figsize=(8, 0.55 * len(scores) + 1.2), layout='constrained')
    axes = figure.add_subplot()
    for row, values in enumerate(scores.values()):
        here = interval(100 * values)
        axes.plot(100 * values, [row + 0.14] * len(values), 'o', color=palette.BLUE, alpha=0.5, ms=5)
        half = here.half if math.isfinite(here.half) else 0.0
        axes.errorbar(here.mean, row - 0.12, xerr=half, fmt='D', color=palette.INK, ms=5, lw=1.4, capsize=3)
    axes.set(yticks=range(len(scores)), yticklabels=list(scores), ylim=(len(scores) - 0.5, -0.5))
    axes.set_xlabel(f'{label} on val, % (dots: seeds; diamond: their mean and its 95 % interval)')
    axes.grid(axis='x', color=palette.GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[['top', 'right']].set_visible(False)
    return figure


def main(argv: Sequence[str]) -> None:
    """Trains and writes."""
    del argv
    if SEEDS.value < 1:
        raise InputError(f'--seeds is {SEEDS.value}; it must be at least 1')
    config, workdir = common.config_and_workdir()
    prepared = bench.prepare(config, workdir)
    winner = chosen(prepared, PLACE.value)
    if NAME.value:
        found_cells.check_new(prepared.space, NAME.value, winner)  # before the long work
    cells = {WINNER: winner} | {name: found_cells.named(prepared.space, name) for name in config.search.references}
    first = config.seed + (config.rerank.seeds if 'rerank' in config else 0)
    seeds = range(first, first + SEEDS.value)
    found = prepared.evaluate_whole(list(cells.values()), journeys.find('train').run, seeds)
    scores = dict(zip(cells, found.scores(), strict=True))
    out = pathlib.Path(OUT.value).expanduser() if OUT.value else workdir / 'winner'
    files.make_folder(out, '--out')
    label = metrics.label_of(prepared.settings)
    text = summary(scores, prepared.space.canonical_key(winner), label)
    paths = [
        files.write(out / 'winner.json', prepared.space.to_json(winner) + '\n'),
        files.write(out / 'winner.csv', as_csv(scores, seeds)),
        files.write(out / 'winner.md', text),
        out / 'winner.png',
    ]
    with files.whole(paths[-1]) as draft:
        draw(scores, label).savefig(draft, dpi=150, format='png')
    if NAME.value:
        paths.append(found_cells.keep(prepared.space, NAME.value, winner))
    print(text)
    print('\n'.join(map(str, paths)))


if __name__ == '__main__':
    app.run(common.one_line_errors(main), flags_parser=command_line.parse_flags)
