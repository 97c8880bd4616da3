"""Scores given cells on the cached features of a search's config: batch evaluation of sampled architectures.

  python experiments/evaluate_cells.py --config=configs/camvid_search.py --workdir=runs/camvid --cells=sample:1000
  python experiments/evaluate_cells.py --config=... --workdir=... --cells=dpc_top1,aspp,cells/,found.jsonl --seeds=3
  python experiments/evaluate_cells.py --config=... --workdir=... --cells=runs/camvid/report/ranking.csv --best=50
  python experiments/evaluate_cells.py --config=... --workdir=... --cells=cells.csv.gz --best=20 --apart=3
  python experiments/evaluate_cells.py --config=... --workdir=... --cells=found.json,aspp --seeds=5 --whole
  cat genotypes.jsonl | python experiments/evaluate_cells.py --config=... --workdir=... --cells=-

`--cells` takes, with commas between: names of the space, `named` for all of them that the space has, `near:NAME` for
the cells that differ from that one in one gene (rates and grids by one step), JSON files in the official format,
folders of them, `.jsonl` files with a genotype in each line, a report's `ranking.csv`, a `cells.csv` or `cells.csv.gz`
of this script (the best mean score first), `sample:NUMBER` (uniform, by the config's seed), and `-` for standard input.
Every cell is trained by the config's proxy, under `--seeds` seeds from the config's on; with `--whole` its whole
network is, by `config.rerank`, as in the last rung of a search.

What is finished is kept: after a stop (kill -9 too) the same command goes on, workers with one storage
(`--config.search.storage`) share the cells, equal cells are trained once. Writes `cells.csv` (a row for each cell and
seed; `cells.csv.gz` with `--compressed`), `summary.csv` and `cells.md` (mean and deviation of each
cell) and `cells.png` into `--out` (by default the folder `cells` in the work folder). `compare_strategies.py` reads
such tables.
"""

import csv
import gzip
import io
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import app, flags
from matplotlib.figure import Figure

from dpc_jax import assembly, bench, cell_files, command_line, files, journeys, ladder, metrics, palette
from dpc_jax.base import InputError
from dpc_jax.bench import Bench
from dpc_jax.cell_files import NamedCell
from dpc_jax.scores import CellScores, check_cells
from experiments import common

CELLS = flags.DEFINE_list('cells', [], 'Which cells; see the head of the file.')
SEEDS = flags.DEFINE_integer('seeds', 1, 'Under how many seeds each is trained.')
BEST = flags.DEFINE_integer('best', 0, 'Only so many of the cells, the first of them; 0 takes all.')
APART = flags.DEFINE_integer(
    'apart', 0, 'Any two of those differ in so many choices; of cells that are equal on the cached maps, one is taken.'
)
WHOLE = flags.DEFINE_bool('whole', False, 'Train whole networks by config.rerank instead of cells on the proxy.')
OUT = flags.DEFINE_string(
    'out', '', 'Folder for tables and plot; by default cells, or with --whole networks, in the work folder.'
)
COMPRESSED = flags.DEFINE_bool('compressed', False, 'Write cells.csv.gz instead of cells.csv.')

MOST_NAMED = 40  # cells that get a row of their own in the plot; more are drawn by rank
SHOWN = 20  # of the summary, on the screen

flags.adopt_module_key_flags(common)  # so that --help lists them

Row = dict[str, Any]


def chosen(cells: Sequence[NamedCell], prepared: Bench, count: int, apart: int) -> list[NamedCell]:
    """The first `count` (0: all) of cells, best first; with `apart`, any two differ in so many choices."""
    if not apart:
        return list(cells[: count or None])
    different: dict[str, NamedCell] = {}
    for cell in cells:
        different.setdefault(prepared.same(cell.genotype), cell)
    genotypes = [cell.genotype for cell in different.values()]
    taken = set(map(id, ladder.spread(genotypes, count, prepared.space, apart)))
    return [cell for cell in different.values() if id(cell.genotype) in taken]


def rows(names: Sequence[str], result: CellScores) -> list[Row]:
    """A row for each cell and seed."""
    found = []
    for row in result.rows:
        candidate, genotype = row.candidate, result.cells[row.cell]
        costs = result.space.cost(genotype, result.settings)
        whole = candidate.state == 'complete'
        iou = _iou_by_class(candidate.confusions if whole else (), result.classes)
        found.append(
            {
                **{'cell': names[row.cell], 'key': candidate.key, 'seed': row.seed, 'score': row.score},
                **{'state': candidate.state, 'failure': candidate.failure},
                **{f'iou {name}': value for name, value in iou.items()},
                **(candidate.extras if whole else {}),
                'curve': ' '.join(map(repr, candidate.curve)),
                **{'parameters': costs['params'], 'multiply_adds': costs['macs'], 'seconds': candidate.seconds},
                'json': json.dumps(json.loads(result.space.to_json(genotype))),
            }
        )
    return found


def _iou_by_class(confusions: Sequence[Any], classes: Sequence[str]) -> dict[str, float]:
    """IoU of each class after the last step; NaN if the labels lack it, and in studies of an earlier version."""
    values = metrics.class_iou(np.array(confusions[-1])) if confusions else np.full(len(classes), np.nan)
    return dict(zip(classes, values.tolist(), strict=True))


def summary(names: Sequence[str], result: CellScores) -> list[Row]:
    """Mean and deviation of each cell over the seeds, best first; those that failed under a seed come last.

    Cells that are the same function are one row, under all their names.
    """
    scores, keys = result.scores(), [result.space.canonical_key(genotype) for genotype in result.cells]
    table = []
    for key in dict.fromkeys(keys):
        places = [place for place, other in enumerate(keys) if other == key]
        costs = result.space.cost(result.cells[places[0]], result.settings)
        values = scores[places[0]]
        table.append(
            {
                'cell': ', '.join(dict.fromkeys(names[place] for place in places)),
                'key': key,
                'mean': float(values.mean()),
                'std': float(values.std(ddof=1)) if len(values) > 1 else float('nan'),
                'seeds': len(values),
                'parameters': costs['params'],
                'multiply_adds': costs['macs'],
            }
        )
    return sorted(table, key=lambda row: (np.isnan(row['mean']), -row['mean'], row['key']))


def as_csv(table: Sequence[Mapping[str, Any]]) -> str:
    """Numbers as Python writes them."""
    columns = list(dict.fromkeys(name for row in table for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval='', lineterminator='\n')
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()


def write_rows(out: pathlib.Path, table: Sequence[Row], *, compressed: bool) -> pathlib.Path:
    """Writes `cells.csv` or `cells.csv.gz`, and removes the other one of an earlier start; equal rows, equal bytes."""
    plain, packed = out / 'cells.csv', out / 'cells.csv.gz'
    data = as_csv(table).encode()
    if not compressed:
        path = files.write(plain, data)
        packed.unlink(missing_ok=True)
        return path
    buffer = io.BytesIO()
    with gzip.GzipFile('', 'wb', 9, buffer, mtime=0) as file:  # neither name nor time is in it
        file.write(data)
    path = files.write(packed, buffer.getvalue())
    plain.unlink(missing_ok=True)
    return path


def as_markdown(table: Sequence[Row], rest: int = 0, label: str = 'mIoU') -> str:
    """The summary as a table; `label` is what scores are called."""
    lines = [f'| | cell | mean {label} % | std | key | parameters | multiply-adds |', '|--:|:--|--:|--:|:--|--:|--:|']
    for place, row in enumerate(table, 1):
        std = '–' if np.isnan(row['std']) else f'{100 * row["std"]:.2f}'
        mean = 'failed' if np.isnan(row['mean']) else f'{100 * row["mean"]:.2f}'
        name, key = (str(row[field]).replace('|', '\\|') for field in ('cell', 'key'))
        lines.append(f'| {place} | {name} | {mean} | {std} | `{key}` | {row["parameters"]} | {row["multiply_adds"]} |')
    return '\n'.join([*lines, *([f'| … | {rest} more | | | | | |'] * bool(rest))]) + '\n'


def draw(table: Sequence[Row], named: frozenset[str], result: CellScores) -> Figure:
    """Scores best first: a row for each of a few cells, or all of many by rank, with the named ones marked."""
    few, label = len(table) <= MOST_NAMED, metrics.label_of(result.settings)
    figure = Figure(figsize=(8, 0.32 * len(table) + 1.4) if few else (8, 4.4), layout='constrained')
    axes = figure.add_subplot()
    if few:
        for line, scores in enumerate(_ordered(table, result)):
            axes.plot(100 * scores, [line] * len(scores), 'o', color=palette.BLUE, alpha=0.6)
            axes.plot(100 * np.mean(scores), line, '|', color=palette.INK, markersize=14)
        axes.set_yticks(range(len(table)), [row['cell'] for row in table])
        axes.invert_yaxis()
        axes.set_xlabel(f'Score under each seed, and their mean ({label} on val, %)')
        axes.grid(axis='x', color=palette.GRID)
        return figure
    means = [100 * row['mean'] for row in table]
    for place, scores in enumerate(_ordered(table, result), 1):
        axes.plot([place, place], [100 * np.min(scores), 100 * np.max(scores)], color=palette.LIGHT_EDGE, lw=1)
    axes.plot(range(1, len(means) + 1), means, '.', color=palette.BLUE, ms=3, label='mean over seeds')
    marked = [(rank, row) for rank, row in enumerate(table, 1) if named & set(row['cell'].split(', '))]
    for (rank, row), (colour, _, marker) in zip(marked, palette.REFERENCE_STYLES, strict=False):
        name = f'{row["cell"]} ({100 * row["mean"]:.2f} %)'
        axes.plot(rank, 100 * row['mean'], marker, color=colour, ms=8, label=name)
    axes.set(xlabel='Cells, best first', ylabel=f'Score ({label} on val, %)')
    axes.grid(color=palette.GRID)
    axes.legend(frameon=False)
    return figure


def _ordered(table: Sequence[Row], result: CellScores) -> list[np.ndarray]:
    """The scores of each row of the summary."""
    found = dict(zip(map(result.space.canonical_key, result.cells), result.scores(), strict=True))
    return [found[row['key']] for row in table]


def main(argv: Sequence[str]) -> None:
    """Reads, evaluates, writes."""
    del argv
    if not CELLS.value:
        raise InputError('--cells is needed; --help explains it')
    if SEEDS.value < 1 or BEST.value < 0:
        raise InputError(f'--seeds is {SEEDS.value} and --best {BEST.value}; at least 1 seed, and 0 or more cells')
    if APART.value < 0 or (APART.value and not BEST.value):
        raise InputError(f'--apart is {APART.value} and --best {BEST.value}; 0 or more choices, and of how many cells')
    config, workdir = common.config_and_workdir()
    space = assembly.make_space(config)
    cells = cell_files.read_cells(CELLS.value, space, seed=config.seed)
    check_cells(space, [cell.genotype for cell in cells])  # before the long work
    out = pathlib.Path(OUT.value).expanduser() if OUT.value else workdir / ('networks' if WHOLE.value else 'cells')
    if OUT.value:
        files.make_folder(out, '--out')
    prepared = bench.prepare(config, workdir)
    cells = chosen(cells, prepared, BEST.value, APART.value)
    genotypes, names = [cell.genotype for cell in cells], [cell.name for cell in cells]
    if WHOLE.value:
        result = prepared.evaluate_whole(genotypes, journeys.find('train').run, SEEDS.value)
    else:
        result = prepared.evaluate(genotypes, SEEDS.value)
    table, label = summary(names, result), metrics.label_of(result.settings)
    files.make_folder(out, '--out')
    paths = [
        write_rows(out, rows(names, result), compressed=COMPRESSED.value),
        files.write(out / 'summary.csv', as_csv(table)),
        files.write(out / 'cells.md', as_markdown(table, label=label)),
        out / 'cells.png',
    ]
    with files.whole(paths[-1]) as draft:
        draw(table, frozenset(space.names), result).savefig(draft, dpi=150, format='png')
    print(as_markdown(table[:SHOWN], max(0, len(table) - SHOWN), label))
    print('\n'.join(map(str, paths)))


if __name__ == '__main__':
    app.run(common.one_line_errors(main), flags_parser=command_line.parse_flags)
