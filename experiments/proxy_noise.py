"""Is the proxy's ranking more than its noise? Cells of a finished search, trained again with other seeds.

  python experiments/proxy_noise.py --config=configs/scenes_search.py --workdir=runs/scenes

Takes the best, the middle and the worst candidates of the search in `workdir` and its references, trains each with
`--seeds` further seeds (other initial noise, dropout and order of images; the cached views are the same), and writes
`noise.md`, `noise.csv` and `noise.png` to `workdir/report`. It compares the standard deviation between the seeds of
one cell with that between cells. Every score is kept in the workdir's storage, so a second start goes on where
the first was stopped.
"""

from collections.abc import Sequence

import numpy as np
from absl import app, flags

from dpc_jax import assembly, command_line, metrics
from dpc_jax.base import Genotype, InputError
from dpc_jax.study import Candidate, ranking
from experiments import common
from experiments.common import Scores

SEEDS = flags.DEFINE_integer('seeds', 3, 'Seeds per cell.')
EACH = flags.DEFINE_integer('each', 3, 'How many of the best, of the middle and of the worst cells.')

flags.adopt_module_key_flags(common)  # so that --help lists them


def chosen(candidates: Sequence[Candidate], each: int) -> dict[str, Genotype]:
    """Name -> genotype: the best, the middle, the worst, and the references; no cell twice."""
    complete = [c for c in candidates if c.state == 'complete']
    references = {c.key: c for c in complete if c.reference}
    ranked = ranking([c for c in complete if c.key not in references])
    middle = max(0, len(ranked) // 2 - each // 2)
    places = sorted({*range(each), *range(middle, middle + each), *range(len(ranked) - each, len(ranked))})
    cells = {f'rank {place + 1}': ranked[place].genotype for place in places if 0 <= place < len(ranked)}
    return cells | {c.reference: c.genotype for c in references.values()}


def spread(scores: Scores) -> tuple[float, float, float]:
    """Standard deviation within a cell (pooled over cells), between the cells' means, and Spearman between seeds.

    The last is the mean of the rank correlations of all pairs of seeds: how far two searches would agree.
    """
    table = np.array(list(scores.values()))  # [cells, seeds]
    within = float(np.sqrt(table.var(1, ddof=1).mean()))
    between = float(table.mean(1).std(ddof=1))
    pairs = [(a, b) for a in range(table.shape[1]) for b in range(a)]
    return within, between, float(np.mean([metrics.spearman(table[:, a], table[:, b]) for a, b in pairs]))


def summary(scores: Scores) -> str:
    """What the scores tell about the proxy, in two sentences."""
    within, between, agreement = spread(scores)
    times = f'{between / within:.1f}' if within else 'any number of'
    return (
        f'Standard deviation between seeds of one cell {100 * within:.2f}, between cells {100 * between:.2f}'
        f' ({times} times). Spearman between two seeds over these cells: {agreement:.2f}.'
    )


def main(argv: Sequence[str]) -> None:
    """Trains the chosen cells under each seed and writes what came out."""
    del argv
    if SEEDS.value < 2 or EACH.value < 1:
        raise InputError(f'--seeds is {SEEDS.value} and --each {EACH.value}; at least 2 seeds and 1 cell')
    config, workdir = common.config_and_workdir()
    settings = assembly.study_settings(config, assembly.load_datasets(config))
    with assembly.open_study(config, workdir, settings, rung='proxy') as study:
        cells = chosen(study.candidates(), EACH.value)
    if not cells:
        raise InputError(f'{workdir} holds no finished candidates of this config; run the search first')
    # Seed 0 is the search's own: the cells were chosen by it.
    scores = common.scores_under_seeds(config, workdir, cells, range(1, SEEDS.value + 1))
    common.write_scores(scores, workdir / 'report', 'noise', summary(scores))


if __name__ == '__main__':
    app.run(common.one_line_errors(main), flags_parser=command_line.parse_flags)
