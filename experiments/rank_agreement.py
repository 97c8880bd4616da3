"""Do two scores of the same cells put them in the same order, and what would be lost by choosing early?

  python experiments/rank_agreement.py --table=experiments/results/scenes_fidelity/proxies.csv --against="full 0"
  python experiments/rank_agreement.py --table=experiments/results/scenes_table/cells.csv.gz --rows=sample

The first reads a table with a row for each cell and a column for each score, and compares every column with
`--against`; cells that lack one of the two are left out. The second reads a table that `evaluate_cells.py` wrote: its
`curve` has a score after each evaluation, and each is compared with the last. `--rows` keeps the rows whose first
column begins so.

Prints Markdown: Spearman's ρ and Kendall's τ with 95 % intervals from a bootstrap over cells, and how many of the best
`--best` by the other score are among the best `--share` by this one, which is what a halving at that point keeps.
"""

import csv
import gzip
import math
import pathlib
from collections.abc import Sequence

import numpy as np
from absl import app, flags
from jaxtyping import Float

from dpc_jax import command_line
from dpc_jax.base import InputError
from experiments import entry
from experiments.correlations import correlation, kendall, spearman

Scores = dict[str, Float[np.ndarray, ' n']]
"""Name of a score -> that of each cell, NaN where it has none."""

CURVE = 'curve'
LEAST = 3  # cells that a correlation needs


def number(text: str) -> float:
    """A score; NaN for an empty cell or another text."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def read(path: pathlib.Path, rows: str) -> tuple[Scores, str]:
    """The scores of a table, and the column that the others are compared with unless another is named."""
    try:
        held = path.read_bytes()
        text = (gzip.decompress(held) if path.suffix == '.gz' else held).decode('utf-8')
        head, *body = csv.reader(text.splitlines())
    except (OSError, ValueError) as error:
        raise InputError(f"--table '{path}' cannot be read as a table: {error}") from error
    body = [row for row in body if row and row[0].startswith(rows)]
    if CURVE not in head:
        return {name: np.array([number(row[place]) for row in body]) for place, name in enumerate(head) if place}, ''
    curves = [[number(score) for score in row[head.index(CURVE)].split()] for row in body]
    most = max(map(len, curves), default=0)
    full = np.array([curve + [math.nan] * (most - len(curve)) for curve in curves]).reshape(-1, most)
    names = [f'evaluation {place} of {most}' for place in range(1, most + 1)]
    return dict(zip(names, full.T, strict=True)), names[-1] if names else ''


def table(scores: Scores, against: str, best: int, share: float) -> str:
    """Markdown: a row for each other score; InputError where there is nothing to compare."""
    if against not in scores:
        raise InputError(f"--against is '{against}'; allowed: {', '.join(scores) or 'nothing, the table is empty'}")
    lines = [
        f"| score | cells | Spearman's ρ with {against} | Kendall's τ | of its best {best}, kept by {share:g} |",
        '|:--|--:|:--|:--|--:|',
    ]
    for name, values in scores.items():
        both = np.isfinite(values) & np.isfinite(scores[against])
        if name == against or not both.any():
            continue
        here, there = values[both], scores[against][both]
        if len(here) < max(LEAST, best):
            raise InputError(
                f"{len(here)} cells have both '{name}' and '{against}'; at least {max(LEAST, best)} are needed (--best)"
            )
        kept = set(np.argsort(-here, kind='stable')[: math.ceil(share * len(here))])
        wanted = set(np.argsort(-there, kind='stable')[:best])
        rho, tau = (correlation(of, here, there) for of in (spearman, kendall))
        lines.append(f'| {name} | {len(here)} | {rho} | {tau} | {len(kept & wanted)} |')
    return '\n'.join(lines)


def main(argv: Sequence[str]) -> None:
    """Reads and prints."""
    del argv
    given = flags.FLAGS
    if not given.table:
        raise InputError('--table is needed; --help explains it')
    scores, last = read(pathlib.Path(given.table).expanduser(), given.rows)
    print(table(scores, given.against or last, given.best, given.share))


if __name__ == '__main__':
    flags.DEFINE_string('table', '', 'A .csv or .csv.gz with a row for each cell.')
    flags.DEFINE_string('against', '', 'The score that the others are compared with; of curves the last.')
    flags.DEFINE_string('rows', '', 'Only rows whose first column begins so.')
    flags.DEFINE_integer('best', 5, 'So many of the best by the other score are looked for.', lower_bound=1)
    flags.DEFINE_float('share', 1 / 3, 'Of the cells, those that go on.', lower_bound=0.0, upper_bound=1.0)
    app.run(entry.one_line_errors(main), flags_parser=command_line.parse_flags)
