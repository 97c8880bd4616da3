"""What the experiment scripts share."""

import csv
import io
import os
import pathlib
from collections.abc import Mapping

import jax
import ml_collections
import numpy as np
from absl import flags
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from ml_collections import config_flags

from dpc_jax import bench, files, palette, provenance
from dpc_jax.base import Genotype, InputError
from experiments.entry import one_line_errors as one_line_errors

CONFIG = config_flags.DEFINE_config_file('config', None, 'A file in configs/, perhaps with :argument.')
WORKDIR = flags.DEFINE_string('workdir', '', 'The work folder of a search.')

Scores = dict[str, list[float]]
"""Name of a cell -> its score under each seed, mIoU in 0..1."""


def tidy(*panels: Axes) -> None:
    """A grid behind the data, and no frame above and right of it."""
    for axes in panels:
        axes.grid(color=palette.GRID, lw=0.8)
        axes.set_axisbelow(True)
        axes.spines[['top', 'right']].set_visible(False)


def check_whole_network(config: ml_collections.ConfigDict, flag: str = '--config') -> None:
    """InputError, which names the flag, unless the config is that of a whole network."""
    if 'decoder' not in config:
        raise InputError(f'{flag} names no whole network; configs/camvid.py and configs/cityscapes.py do')


def machine() -> str:
    """The device, and the cores of a CPU."""
    cores = f', {os.cpu_count()} cores' if jax.default_backend() == 'cpu' else ''
    return f'{provenance.device()}{cores}'


def config_and_workdir() -> tuple[ml_collections.ConfigDict, pathlib.Path]:
    """The two flags; InputError where one is missing."""
    if CONFIG.value is None or not WORKDIR.value:
        raise InputError('both --config and --workdir are needed; --help explains them')
    return CONFIG.value, files.local(WORKDIR.value, 'workdir')


def scores_under_seeds(
    config: ml_collections.ConfigDict, workdir: pathlib.Path, cells: Mapping[str, Genotype], seeds: range
) -> Scores:
    """Trains each cell by the config's proxy under each seed (added to the config's own); NaN for a failed one.

    Every seed has a study of its own in the workdir's storage, so what was finished before is not trained again.
    """
    prepared = bench.prepare(config, workdir)
    found = prepared.evaluate(list(cells.values()), seeds=range(config.seed + seeds.start, config.seed + seeds.stop))
    return {name: row.tolist() for name, row in zip(cells, found.scores(), strict=True)}


def write_scores(scores: Scores, directory: pathlib.Path, stem: str, summary: str) -> None:
    """`stem`.md, .csv and .png into `directory`; prints the table and the paths."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = {suffix: directory / f'{stem}.{suffix}' for suffix in ('md', 'csv', 'png')}
    paths['md'].write_text(table(scores, summary))
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(['cell', *(f'score {number}' for number in range(1, 1 + max(map(len, scores.values()))))])
    writer.writerows([name, *map(repr, values)] for name, values in scores.items())
    paths['csv'].write_text(text.getvalue())
    draw(scores, paths['png'])
    print(table(scores, summary))
    print('\n'.join(map(str, paths.values())))


def table(scores: Scores, summary: str) -> str:
    """Markdown: a row per cell, then the summary."""
    lines = ['| cell | mean mIoU % | std | scores |', '|:--|--:|--:|:--|']
    for name, values in scores.items():
        listed = ', '.join(f'{100 * v:.2f}' for v in values)
        lines.append(f'| {name} | {100 * np.mean(values):.2f} | {100 * np.std(values, ddof=1):.2f} | {listed} |')
    return '\n'.join([*lines, '', summary, ''])


def draw(scores: Scores, path: pathlib.Path) -> None:
    """One row per cell, one dot per seed, a bar at the mean."""
    figure = Figure(figsize=(8, 0.32 * len(scores) + 1.4), layout='constrained')
    axes = figure.add_subplot()
    for row, values in enumerate(scores.values()):
        axes.plot(100 * np.array(values), [row] * len(values), 'o', color=palette.BLUE, alpha=0.6)
        axes.plot(100 * np.mean(values), row, '|', color='black', markersize=14)
    axes.set_yticks(range(len(scores)), list(scores))
    axes.invert_yaxis()
    axes.set_xlabel('Score under each seed, and their mean (mIoU on val, %)')
    axes.grid(axis='x', alpha=0.3)
    figure.savefig(path, dpi=150)
