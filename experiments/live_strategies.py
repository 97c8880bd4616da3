"""Strategies compared in live searches: each under several seeds, all on the same features, at equal budget.

  python experiments/live_strategies.py --config=configs/scenes_aux_search.py --workdir=runs/live \\
    --strategies=uniform,near_best,evolution,controller --seeds=3 --out=experiments/results/scenes_aux_strategies

Each is the search that `run.py` makes, but for its strategy and the seed of its proposals: initial weights and the
order of images are those of the config, so a candidate has one score, whoever proposes it. The budget is
`config.search.num_candidates`, and `config.search.sampler_settings` has each strategy's settings. The references of
the config are scored beside them. What is finished is kept in the work folder: the same command goes on after any stop.

Writes `live.csv` (a row for each candidate, with what a controller says of itself), `live.md` and `live.png` into
`--out`. `compare_strategies.py` compares strategies over many more seeds, in a table of cells that are scored already.
"""

import csv
import dataclasses
import io
import itertools
import math
import pathlib
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import app, flags
from jaxtyping import Float
from matplotlib.figure import Figure
from rich.console import Console

from dpc_jax import assembly, bench, climbing, command_line, files, found_cells, metrics, palette, samplers, strategy
from dpc_jax.assembly import PROXY
from dpc_jax.base import InputError
from dpc_jax.study import Candidate, Progress
from experiments import common

STRATEGIES = flags.DEFINE_list('strategies', ['uniform', 'near_best', 'evolution'], 'As in config.search.sampler.')
SEEDS = flags.DEFINE_integer('seeds', 3, 'Searches of each strategy, under seeds 0, 1, ...', lower_bound=1)
OUT = flags.DEFINE_string('out', '', 'Folder for tables and picture; by default live in the work folder.')

flags.adopt_module_key_flags(common)  # so that --help lists them

SHOWN_AFTER = (8, 24, 48, 96, 192, 384)
WINDOW = 5  # the moving mean of scores is over a fifth of the budget

Searches = dict[str, list[list[Candidate]]]
"""Strategy -> for each seed its candidates, in the order in which they were proposed."""


# ---- the searches ---------------------------------------------------------------------------------------------------


def variant(prepared: bench.Bench, name: str, seed: int) -> bench.Bench:
    """The search with another strategy and another seed of its proposals, on the same features."""
    config = prepared.config.copy_and_resolve_references()
    config.search.sampler, config.seed = name, prepared.config.seed + seed
    config.search.study = f'{config.search.study}-{name}-seed{seed}'
    return dataclasses.replace(prepared, config=config, settings=assembly.study_settings(config, prepared.sets))


def search(prepared: bench.Bench, name: str, seed: int) -> list[Candidate]:
    """One search, begun or gone on with."""
    budget, label = prepared.config.search.num_candidates, metrics.label_of(prepared.settings)
    with variant(prepared, name, seed).open_study(PROXY, seed=prepared.config.seed) as study:
        logdir = prepared.workdir / 'events' / f'{name}-seed{seed}'
        shown: dict[str, Any] = {'before': study.candidates(), 'label': label, 'console': Console(file=sys.stdout)}
        with Progress(budget, study.count(), None, logdir, **shown) as progress:
            rung = prepared.proxy_rung(PROXY, budget)
            climbing.climb(study, rung, progress, generation=prepared.config.search.population)
        return sorted(study.candidates(), key=lambda candidate: candidate.number)[:budget]


def search_all(prepared: bench.Bench, names: Sequence[str], seeds: int) -> Searches:
    """All of them, seed by seed, so that a study that is stopped early has a bit of each strategy."""
    found: Searches = {name: [] for name in names}
    for seed, name in itertools.product(range(seeds), names):
        print(f'{name}, seed {seed}')
        found[name].append(search(prepared, name, seed))
    return found


def references(prepared: bench.Bench) -> dict[str, float]:
    """The scores of the config's references."""
    names = list(prepared.config.search.references)
    if not names:
        return {}
    scores = prepared.evaluate([found_cells.named(prepared.space, name) for name in names]).scores()
    return {name: float(score) for name, score in zip(names, scores[:, 0], strict=True)}


# ---- statistics -----------------------------------------------------------------------------------------------------


def scores_of(candidates: Sequence[Candidate]) -> Float[np.ndarray, ' n']:
    """In order; NaN unless trained to the end: a score after fewer steps is not comparable."""
    return np.array([c.score if c.state == 'complete' else math.nan for c in candidates])


def best_so_far(candidates: Sequence[Candidate]) -> Float[np.ndarray, ' n']:
    """After each candidate; NaN as long as all have failed."""
    found: np.ndarray = np.fmax.accumulate(scores_of(candidates))
    return found


def moving_mean(scores: Float[np.ndarray, ' n'], window: int) -> Float[np.ndarray, ' n']:
    """Of the last `window` scores up to each, fewer at the start; those that failed are left out."""
    parts = [scores[max(0, at + 1 - window) : at + 1] for at in range(len(scores))]
    return np.array([np.nanmean(part) if np.isfinite(part).any() else math.nan for part in parts])


# ---- what is written ------------------------------------------------------------------------------------------------


def as_csv(searches: Searches) -> str:
    """A row for each candidate; scores in 0..1."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    numbers = sorted({name for runs in searches.values() for c in itertools.chain(*runs) for name in c.shown})
    head = ('strategy', 'seed', 'evaluation', 'score', 'state', 'seconds', 'commit', 'cell', *numbers)
    writer.writerow(head)
    for name, runs in searches.items():
        for seed, candidates in enumerate(runs):
            for at, c in enumerate(candidates, 1):
                shown = [c.shown.get(number, '') for number in numbers]
                writer.writerow([name, seed, at, c.score, c.state, round(c.seconds, 2), c.commit, c.key, *shown])
    return text.getvalue()


def as_markdown(searches: Searches, known: Mapping[str, float], label: str) -> str:
    """A row for each strategy: the best after some candidates, and the mean score at the start and at the end."""
    evaluations = min(len(candidates) for runs in searches.values() for candidates in runs)
    after = [number for number in SHOWN_AFTER if number < evaluations] + [evaluations]
    quarter = max(1, evaluations // 4)
    head = [
        *(f'best after {number}' for number in after),
        f'mean of the first {quarter}',
        f'mean of the last {quarter}',
    ]
    seeds = len(next(iter(searches.values())))
    lines = [
        f'{label} in %, {seeds} searches of each strategy: mean, least and most.\n',
        '| strategy | ' + ' | '.join(head) + ' |',
        '|:--|' + '--:|' * len(head),
    ]
    for name, runs in searches.items():
        values = [[best_so_far(run)[number - 1] for run in runs] for number in after]
        for part in (slice(quarter), slice(evaluations - quarter, evaluations)):
            values.append([float(np.nanmean(scores_of(run)[part])) for run in runs])
        cells = [f'{100 * statistics.fmean(v):.2f} ({100 * min(v):.2f} to {100 * max(v):.2f})' for v in values]
        lines.append(f'| {name} | ' + ' | '.join(cells) + ' |')
    if known:
        lines.append('\nReferences: ' + ', '.join(f'{name} {100 * score:.2f}' for name, score in known.items()) + '.')
    name, best = max(
        ((name, c) for name, runs in searches.items() for c in itertools.chain(*runs) if c.state == 'complete'),
        key=lambda found: found[1].score,
    )
    lines.append(f'\nThe best of all, found by {name}: {100 * best.score:.2f}, `{best.key}`.')
    return '\n'.join(lines) + '\n'


def draw(searches: Searches, known: Mapping[str, float], label: str) -> Figure:
    """Left the best so far, right the moving mean of what is proposed: each seed thin, their mean thick."""
    figure = Figure(figsize=(10, 4.4), layout='constrained')
    panels = figure.subplots(1, 2, sharex=True)
    evaluations = min(len(candidates) for runs in searches.values() for candidates in runs)
    at, window = np.arange(1, evaluations + 1), max(1, evaluations // WINDOW)
    styles = ((palette.BLUE, '-'), *((colour, line) for colour, line, _ in palette.REFERENCE_STYLES))
    for (name, runs), (colour, line) in zip(searches.items(), itertools.cycle(styles), strict=False):
        best = [best_so_far(run)[:evaluations] for run in runs]
        means = [moving_mean(scores_of(run)[:evaluations], window) for run in runs]
        for axes, curves in zip(panels, (best, means), strict=True):
            for curve in curves:
                axes.plot(at, 100 * curve, color=colour, lw=0.7, alpha=0.45)
            mean = np.mean(curves, axis=0)
            axes.plot(at, 100 * mean, color=colour, ls=line, lw=2.2, label=f'{name} ({100 * mean[-1]:.2f})')
    for name, score in known.items():
        panels[0].axhline(100 * score, color=palette.GREY, lw=0.8)
        panels[0].annotate(
            name, (evaluations, 100 * score), (-2, 2), textcoords='offset points', ha='right', fontsize=8
        )
    panels[0].set(ylabel=f'Best so far ({label}, %)', xlabel='Candidates')
    panels[1].set(ylabel=f'Mean of the last {window} candidates ({label}, %)', xlabel='Candidates')
    common.tidy(*panels)
    for axes in panels:
        axes.legend(frameon=False, loc='lower right', fontsize=9)
    return figure


def main(argv: Sequence[str]) -> None:
    """Searches and writes."""
    del argv
    names = STRATEGIES.value
    if not names or len(set(names)) < len(names):
        raise InputError(f"--strategies is '{','.join(names)}'; give different names, as in config.search.sampler")
    config, workdir = common.config_and_workdir()
    space = assembly.make_space(config)
    for name in names:
        samplers.make(name, space, seed=0, **strategy.sampler_settings(config, name))  # refused before any work
    prepared = bench.prepare(config, workdir)
    known = references(prepared)
    searches = search_all(prepared, names, SEEDS.value)
    out = pathlib.Path(OUT.value).expanduser() if OUT.value else workdir / 'live'
    files.make_folder(out, '--out')
    label = metrics.label_of(prepared.settings)
    text = as_markdown(searches, known, label)
    paths = [files.write(out / 'live.csv', as_csv(searches)), files.write(out / 'live.md', text), out / 'live.png']
    with files.whole(paths[-1]) as draft:
        draw(searches, known, label).savefig(draft, dpi=150, format='png')
    print(text)
    print('\n'.join(map(str, paths)))


if __name__ == '__main__':
    app.run(common.one_line_errors(main), flags_parser=command_line.parse_flags)
