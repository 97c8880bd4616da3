"""Is the proxy's ranking more than its noise? Cells of a finished search, trained again with other seeds.

  python experiments/proxy_noise.py --config=configs/scenes_search.py --workdir=runs/scenes

Takes the best, the middle and the worst candidates of the search in `workdir` and its references, trains each with
`--seeds` further seeds (other initial noise, dropout and order of images; the cached views are the same), and writes
`noise.md`, `noise.csv` and `noise.png` to `workdir/report`. What it compares: the standard deviation between the seeds
of one cell, and the spread between cells. Every score is kept in the study `noise` of the workdir's storage, so a
second start goes on where the first was stopped.
"""

import csv
import functools
import io
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from absl import app, flags
from matplotlib.figure import Figure
from ml_collections import config_flags

from dpc_jax import assembly, metrics, search
from dpc_jax.base import Genotype, InputError, Rung
from dpc_jax.study import Candidate, ranking
from experiments import common

CONFIG = config_flags.DEFINE_config_file('config', None, 'The config of the search, as it was run.')
WORKDIR = flags.DEFINE_string('workdir', None, 'Its work folder.')
SEEDS = flags.DEFINE_integer('seeds', 3, 'Seeds per cell.')
EACH = flags.DEFINE_integer('each', 3, 'How many of the best, of the middle and of the worst cells.')

Scores = dict[str, list[float]]
"""Name of a cell -> its score under each seed, mIoU in 0..1."""


def chosen(candidates: Sequence[Candidate], each: int) -> dict[str, Genotype]:
    """Name -> genotype: the best, the middle, the worst, and the references; no cell twice."""
    ranked = ranking([c for c in candidates if c.state == 'complete' and not c.reference])
    middle = max(0, len(ranked) // 2 - each // 2)
    places = sorted({*range(each), *range(middle, middle + each), *range(len(ranked) - each, len(ranked))})
    cells = {f'rank {place + 1}': ranked[place].genotype for place in places if 0 <= place < len(ranked)}
    return cells | {c.reference: c.genotype for c in candidates if c.reference and c.state == 'complete'}


def spread(scores: Scores) -> tuple[float, float, float]:
    """Standard deviation within a cell (pooled over cells), between the cells' means, and Spearman between seeds.

    The last is the mean of the rank correlations of all pairs of seeds: what two searches would agree on.
    """
    table = np.array(list(scores.values()))  # [cells, seeds]
    within = float(np.sqrt(table.var(1, ddof=1).mean()))
    between = float(table.mean(1).std(ddof=1))
    pairs = [(a, b) for a in range(table.shape[1]) for b in range(a)]
    return within, between, float(np.mean([metrics.spearman(table[:, a], table[:, b]) for a, b in pairs]))


def draw(scores: Scores, path: pathlib.Path) -> None:
    """One row per cell, one dot per seed."""
    figure = Figure(figsize=(8, 0.32 * len(scores) + 1.4), layout='constrained')
    axes = figure.add_subplot()
    for row, values in enumerate(scores.values()):
        axes.plot(100 * np.array(values), [row] * len(values), 'o', color='#0072b2', alpha=0.6)
        axes.plot(100 * np.mean(values), row, '|', color='black', markersize=14)
    axes.set_yticks(range(len(scores)), list(scores))
    axes.invert_yaxis()
    axes.set_xlabel('Score under each seed, and their mean (mIoU on val, %)')
    axes.grid(axis='x', alpha=0.3)
    figure.savefig(path, dpi=150)


def table(scores: Scores) -> str:
    """Markdown: a row per cell, and what it says."""
    within, between, agreement = spread(scores)
    lines = ['| cell | mean mIoU % | std | scores |', '|:--|--:|--:|:--|']
    for name, values in scores.items():
        listed = ', '.join(f'{100 * v:.2f}' for v in values)
        lines.append(f'| {name} | {100 * np.mean(values):.2f} | {100 * np.std(values, ddof=1):.2f} | {listed} |')
    return '\n'.join(
        [
            *lines,
            '',
            f'Standard deviation between seeds of one cell {100 * within:.2f}, between cells {100 * between:.2f}'
            f' ({between / within:.1f} times). Spearman between two seeds over these cells: {agreement:.2f}.',
            '',
        ]
    )


def write(scores: Scores, cells: Mapping[str, Genotype], directory: pathlib.Path) -> None:
    """The three files, and the table on the screen."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / 'noise.md').write_text(table(scores))
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(['cell', 'inputs', 'ops', 'seed', 'score'])
    for name, values in scores.items():
        genes = [' '.join(map(str, part.tolist())) for part in cells[name]]
        writer.writerows([name, *genes, seed, repr(value)] for seed, value in enumerate(values, 1))
    (directory / 'noise.csv').write_text(text.getvalue())
    draw(scores, directory / 'noise.png')
    print(table(scores))
    print('\n'.join(str(directory / name) for name in ('noise.md', 'noise.csv', 'noise.png')))


def main(argv: Sequence[str]) -> None:
    """Trains the chosen cells under each seed and writes what came out."""
    del argv
    if CONFIG.value is None or not WORKDIR.value:
        raise InputError('both --config and --workdir are needed; --help explains them')
    if SEEDS.value < 2 or EACH.value < 1:
        raise InputError(f'--seeds is {SEEDS.value} and --each {EACH.value}; at least 2 seeds and 1 cell')
    config, workdir = CONFIG.value, pathlib.Path(WORKDIR.value)
    sets = assembly.load_datasets(config)
    settings = assembly.study_settings(config, sets)
    with assembly.open_study(config, workdir, settings, rung='proxy') as study:
        cells = chosen(study.candidates(), EACH.value)
        chunk = config.proxy.chunk or study.once(f'chunk on {assembly.device()}', lambda: 1)
    if not cells:
        raise InputError(f'{workdir} holds no finished candidates of this config; run the search first')
    cache = assembly.build_cache(config, workdir, sets, assembly.backbone_variables(config, workdir, sets[0]))
    data = assembly.proxy_data(config, cache)
    make = functools.partial(
        assembly.make_evaluator, config, data, sets[0].num_classes, steps=config.proxy.steps, chunk=chunk
    )
    scores: Scores = {name: [] for name in cells}
    for seed in range(1, SEEDS.value + 1):  # seed 0 is the search's own: the cells were chosen by it
        evaluator = make(seed=config.seed + seed)
        rung = Rung(f'noise-seed{config.seed + seed}', evaluator, len(cells))
        with assembly.open_study(config, workdir, settings, rung=rung.name, seed=config.seed + seed) as study:
            for genotype in cells.values():
                study.enqueue(genotype)
            search.climb(study, rung, at_once=evaluator.population, generation=len(cells), workdir=workdir)
            found = {candidate.key: candidate.score for candidate in study.candidates()}
        for name, genotype in cells.items():
            scores[name].append(found[assembly.make_space(config).canonical_key(genotype)])
    write(scores, cells, workdir / 'report')


if __name__ == '__main__':
    app.run(common.one_line_errors(main))
