"""Does a cell that ranks high on the proxy rank high when the whole network is trained? For several proxies at once.

  python experiments/proxy_fidelity.py --config=configs/scenes_search.py --workdir=runs/fidelity
  python experiments/proxy_fidelity.py --config=configs/scenes_search.py --workdir=runs/fidelity --cells=sample:124 \\
    --strata=31 --seeds=2 --variants="steps 80:proxy.steps=80;steps 1200:proxy.steps=1200;4 views:cache.views=4"

The paper trained a small space of 31 cells both ways (§4.2): Spearman's ρ was 0.36 between a small and a large
backbone, and 0.47 between cached features and training end to end. Here `--cells` (as in evaluate_cells.py) are
scored by the config's proxy; with `--strata` so many of them are kept, evenly over the ranks of that score. Those are
trained as whole networks by `config.rerank` under `--seeds` seeds, and scored by every variant of the proxy: a name and
the fields in which it differs from the config. A variant has a folder of its own below the work folder.

Writes `fidelity.csv` (a row for each cell), `fidelity.md` (for each proxy its cost and its rank correlations with the
full trainings, with 95 % intervals from a bootstrap over cells; and the noise ceiling: the correlation between full
trainings under two seeds) and `fidelity.png` into `--out`. What is finished is kept: the same command goes on after any
stop.
"""

import csv
import dataclasses
import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np
from absl import app, flags
from jaxtyping import Float
from matplotlib.figure import Figure

from dpc_jax import assembly, bench, cell_files, command_line, files, journeys, metrics, palette
from dpc_jax.base import Genotype, InputError
from dpc_jax.scores import check_cells
from experiments import common, variants
from experiments.correlations import Correlation, Statistic, correlation, kendall, spearman

CELLS = flags.DEFINE_list('cells', ['sample:31'], 'Which cells; see evaluate_cells.py.')
STRATA = flags.DEFINE_integer('strata', 0, 'Only so many of them, evenly over the ranks of the proxy; 0 takes all.')
SEEDS = flags.DEFINE_integer('seeds', 2, 'Full trainings of each cell.')
VARIANTS = flags.DEFINE_string('variants', '', 'Further proxies: "NAME:FIELD=VALUE,FIELD=VALUE;NAME:..."')
OUT = flags.DEFINE_string('out', '', 'Folder for tables and plot; by default fidelity in the work folder.')

flags.adopt_module_key_flags(common)  # so that --help lists them

BASE = 'config'  # name of the proxy that the config says


@dataclasses.dataclass(frozen=True)
class Proxy:
    """One way to score cells cheaply."""

    name: str
    scores: Float[np.ndarray, ' n']  # of the cells, in 0..1
    seconds: float  # of a cell


# ---- statistics -----------------------------------------------------------------------------------------------------


def strata(scores: Float[np.ndarray, ' n'], count: int) -> list[int]:
    """Places of `count` cells evenly over the ranks of their scores, the best and the worst included."""
    order = [place for place in np.argsort(-scores, kind='stable') if np.isfinite(scores[place])]
    chosen = np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int))
    return [int(order[rank]) for rank in chosen]


# ---- what is measured -----------------------------------------------------------------------------------------------


def proxy_of(prepared: bench.Bench, name: str, cells: Sequence[Genotype]) -> Proxy:
    """The scores of these cells on the proxy of a bench."""
    found = prepared.evaluate(list(cells))
    seconds = [row.candidate.seconds for row in found.rows]
    return Proxy(name, found.scores()[:, 0], float(np.mean(seconds)))


def measured(
    config: ml_collections.ConfigDict, workdir: pathlib.Path, others: Mapping[str, variants.Fields]
) -> tuple[list[Genotype], list[Proxy], Float[np.ndarray, 'n seeds'], float, bench.Bench]:
    """The cells, all proxies, the scores of the full trainings and the seconds of one."""
    space = assembly.make_space(config)
    listed = cell_files.read_cells(CELLS.value, space, seed=config.seed)
    cells = list({space.canonical_key(cell.genotype): cell.genotype for cell in listed}.values())
    if min(len(cells), STRATA.value or len(cells)) < 3:
        raise InputError(
            f'--cells names {len(cells)} different cells, --strata is {STRATA.value}; at least 3 are needed'
        )
    check_cells(space, cells)
    prepared = bench.prepare(config, workdir)
    base = proxy_of(prepared, BASE, cells)
    if STRATA.value:
        kept = strata(base.scores, STRATA.value)
        cells, base = [cells[place] for place in kept], dataclasses.replace(base, scores=base.scores[kept])
    proxies = [base]
    for name, fields in others.items():
        changed = variants.with_fields(config, name, fields)
        proxies.append(proxy_of(variants.prepare(changed, workdir, name), name, cells))
    whole = prepared.evaluate_whole(cells, journeys.find('train').run, SEEDS.value)
    return cells, proxies, whole.scores(), float(np.mean([row.candidate.seconds for row in whole.rows])), prepared


# ---- what is written ------------------------------------------------------------------------------------------------


def as_csv(keys: Sequence[str], proxies: Sequence[Proxy], whole: Float[np.ndarray, 'n seeds']) -> str:
    """A row for each cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(['cell', *(f'full {seed}' for seed in range(whole.shape[1])), *(proxy.name for proxy in proxies)])
    for place, key in enumerate(keys):
        writer.writerow([key, *map(float, whole[place]), *(float(proxy.scores[place]) for proxy in proxies)])
    return text.getvalue()


def summary(proxies: Sequence[Proxy], whole: Float[np.ndarray, 'n seeds'], seconds: float) -> str:
    """Markdown: a row for each proxy, and what a second full training would reach."""
    mean = whole.mean(1)
    lines = [
        f'{len(mean)} cells, each trained in full under {whole.shape[1]} seed{"s" * (whole.shape[1] > 1)}'
        f' ({seconds:.0f} s a training). Rank correlations with the mean of the full scores; intervals of 95 % from a'
        ' bootstrap over cells.\n',
        "| proxy | seconds a cell | Spearman's ρ | Kendall's τ |",
        '|:--|--:|:--|:--|',
    ]
    for proxy in proxies:
        rho, tau = (correlation(of, proxy.scores, mean) for of in (spearman, kendall))
        lines.append(f'| {proxy.name} | {proxy.seconds:.1f} | {rho} | {tau} |')
    if whole.shape[1] > 1:
        rho, tau = ceiling(whole, spearman), ceiling(whole, kendall)
        lines.append(f'| noise ceiling: full training, another seed | {seconds:.0f} | {rho} | {tau} |')
    lines.append('\nThe paper (arXiv:1809.04184, §4.2), 31 cells: ρ 0.36 (small backbone), 0.47 (cached features).')
    return '\n'.join(lines) + '\n'


def ceiling(whole: Float[np.ndarray, 'n seeds'], of: Statistic) -> Correlation:
    """The correlation between full trainings under two seeds, the mean over all pairs of seeds."""
    found = [correlation(of, whole[:, a], whole[:, b]) for a in range(whole.shape[1]) for b in range(a)]
    return Correlation(*np.mean([dataclasses.astuple(one) for one in found], axis=0))


def draw(proxies: Sequence[Proxy], whole: Float[np.ndarray, 'n seeds'], label: str = 'mIoU') -> Figure:
    """Left the config's proxy against the full scores, right the correlation of every proxy against its cost."""
    figure = Figure(figsize=(10, 4.4), layout='constrained')
    left, right = figure.subplots(1, 2)
    mean, base = whole.mean(1), proxies[0]
    spread = 100 * np.abs(np.stack([whole.min(1), whole.max(1)]) - mean)
    style: dict[str, Any] = {'fmt': 'o', 'color': palette.BLUE, 'ecolor': palette.GREY, 'ms': 5, 'lw': 1}
    left.errorbar(100 * base.scores, 100 * mean, yerr=spread if whole.shape[1] > 1 else None, **style)
    left.set(xlabel=f'Proxy of the config: {label} on val, %')
    left.set_ylabel(f'Full training: {label} on val, % (bar: its seeds)')
    left.set_title(f"Spearman's ρ {correlation(spearman, base.scores, mean)}", fontsize=10)
    for proxy in proxies:
        rho = correlation(spearman, proxy.scores, mean)
        error = [[rho.value - rho.low], [rho.high - rho.value]]
        right.errorbar(proxy.seconds, rho.value, yerr=error, fmt='o', color=palette.BLUE, ms=5, lw=1.2)
        right.annotate(proxy.name, (proxy.seconds, rho.value), (6, 4), textcoords='offset points', fontsize=9)
    if whole.shape[1] > 1:
        top = ceiling(whole, spearman)
        right.axhspan(top.low, top.high, color=palette.GRID, zorder=0)
        right.axhline(top.value, color=palette.INK, lw=1, ls='--', label='full training under another seed')
        right.legend(frameon=False, fontsize=9, loc='lower right')
    right.margins(x=0.25)
    right.set(xlabel='Seconds a cell', ylabel="Spearman's ρ with the full score (bar: 95 %)")
    common.tidy(left, right)
    return figure


def main(argv: Sequence[str]) -> None:
    """Measures and writes."""
    del argv
    if SEEDS.value < 1 or STRATA.value < 0:
        raise InputError(
            f'--seeds is {SEEDS.value} and --strata {STRATA.value}; at least 1 seed, and 0 takes all cells'
        )
    config, workdir = common.config_and_workdir()
    others = variants.read(VARIANTS.value, taken=(BASE,))
    for name, fields in others.items():  # before the long work
        variants.with_fields(config, name, fields)
    cells, proxies, whole, seconds, prepared = measured(config, workdir, others)
    out = pathlib.Path(OUT.value).expanduser() if OUT.value else workdir / 'fidelity'
    files.make_folder(out, '--out')
    keys = [prepared.space.canonical_key(cell) for cell in cells]
    paths = [
        files.write(out / 'fidelity.csv', as_csv(keys, proxies, whole)),
        files.write(out / 'fidelity.md', summary(proxies, whole, seconds)),
        out / 'fidelity.png',
    ]
    with files.whole(paths[-1]) as draft:
        draw(proxies, whole, metrics.LABELS[config.search.score]).savefig(draft, dpi=150, format='png')
    print(summary(proxies, whole, seconds))
    print('\n'.join(map(str, paths)))


if __name__ == '__main__':
    app.run(common.one_line_errors(main), flags_parser=command_line.parse_flags)
