"""From the first rung of a ladder to its last: how many got how far, and whether the cheap scores chose well.

Scores of a cell under several seeds count as their mean. What is compared are the cells that both rungs have: the best
of the first rung, and those that were drawn at random or are known by name.
"""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure

from dpc_jax import metrics
from dpc_jax.figures import pictures
from dpc_jax.figures.pictures import is_scored, sampled
from dpc_jax.figures.table import by_rung, code
from dpc_jax.palette import BLUE, GREY, INK, ORANGE
from dpc_jax.progress import duration
from dpc_jax.study import Candidate

LABELLED = 3  # of the cells of the last rung, the best, with their place on the first


class Stage(NamedTuple):
    """A bar of the flow."""

    name: str
    candidates: int
    seconds: float  # of evaluation, up to the next stage of the same rung


class Pair(NamedTuple):
    """A cell that both rungs have; scores in 0..1."""

    key: str
    reference: str  # '' for candidates
    place: int  # on the first rung, 1 for the best; of a reference, how many candidates were better, and one
    chosen: bool  # because it was good on the rung before; else drawn at random, or a reference
    first: float
    last: float  # the mean over the seeds
    seeds: tuple[float, ...]


def in_order(candidates: Sequence[Candidate]) -> dict[str, list[Candidate]]:
    """Rung -> its rows, the first rung of the ladder first."""
    return dict(reversed(by_rung(candidates).items()))


def stages(candidates: Sequence[Candidate]) -> list[Stage]:
    """How many candidates got how far, rung by rung and within a rung by the steps at which some were stopped."""
    found = []
    for name, rows in in_order(candidates).items():
        mine = sampled(rows)
        stops = sorted({c.steps for c in mine if c.state == 'pruned'} | {max((c.steps for c in rows), default=0)})
        for before, stop in zip([0, *stops], stops, strict=False):
            share = sum(c.seconds * (min(c.steps, stop) - min(c.steps, before)) / max(c.steps, 1) for c in rows)
            there = len({c.key for c in mine if c.steps > before})
            found.append(Stage(f'{name}: {stop} steps' if len(stops) > 1 else f'{name}, {stop} steps', there, share))
    return found


def pairs(candidates: Sequence[Candidate]) -> list[Pair]:
    """The cells that the first and the last rung have both scored, best of the last rung first."""
    rungs = list(in_order(candidates).values())
    if len(rungs) < 2:
        return []
    first, last = _scores(rungs[0]), _scores(rungs[-1])
    means = {mark: statistics.fmean(values) for mark, values in first.items()}
    ranked = sorted(
        (mark for mark in means if not mark[1] and math.isfinite(means[mark])), key=lambda m: (-means[m], m)
    )
    drawn = {(c.key, c.reference): c.drawn for c in rungs[0]}
    # Older studies do not say; there the best that all got to the last rung were chosen.
    prefix = set(ranked[: next((at for at, mark in enumerate(ranked) if mark not in last), len(ranked))])
    found = [
        Pair(
            *mark,
            1 + sum(means[other] > means[mark] for other in ranked),
            not mark[1] and not (mark not in prefix if drawn[mark] is None else drawn[mark]),
            means[mark],
            statistics.fmean(values),
            tuple(values),
        )
        for mark, values in last.items()
        if math.isfinite(means.get(mark, math.nan)) and all(map(math.isfinite, values))
    ]
    return sorted(found, key=lambda pair: (-pair.last, pair.key, pair.reference))


def _scores(rows: Sequence[Candidate]) -> dict[tuple[str, str], list[float]]:
    """Key and reference -> the scores under all seeds; NaN where one failed or was stopped."""
    found: dict[tuple[str, str], list[float]] = {}
    for c in rows:
        found.setdefault((c.key, c.reference), []).append(c.score if is_scored(c) else math.nan)
    return found


def agreement(found: Sequence[Pair]) -> float:
    """Spearman's correlation of the two rungs over the candidates (paper §3.2, Fig. 4b); NaN of fewer than three."""
    mine = [pair for pair in found if not pair.reference]
    first, last = (np.array([getattr(pair, name) for pair in mine]) for name in ('first', 'last'))
    return metrics.spearman(first, last) if len(mine) > 2 else math.nan


# ---- pictures -------------------------------------------------------------------------------------------------------


def flow(candidates: Sequence[Candidate]) -> Figure | None:
    """How many candidates got how far, and what it cost; None where there is a single stage."""
    found = stages(candidates)
    if len(found) < 2:
        return None
    figure, axes = pictures.new_figure(height=0.9 + 0.5 * len(found))
    rows = range(len(found))
    axes.barh(rows, [stage.candidates for stage in found], color=BLUE, height=0.62)
    for row, stage in zip(rows, found, strict=True):
        cost = f' {stage.candidates}   ({duration(stage.seconds)} of evaluation)'
        axes.text(stage.candidates, row, cost, va='center', ha='left', color=INK, fontsize=9)
    axes.set(yticks=rows, yticklabels=[stage.name for stage in found], ylim=(len(found) - 0.5, -0.5))
    most, least = max(stage.candidates for stage in found), min(stage.candidates for stage in found)
    if least and most > pictures.LOG_RANGE * least:
        axes.set_xscale('log')
        axes.set_xlim(right=most * (most / least) ** 0.45, left=least / 2)
    else:
        axes.set_xlim(0, 1.5 * most)
    axes.set_xlabel('Candidates that were trained so far')
    axes.xaxis.set_major_formatter(ticker.FormatStrFormatter('%g'))
    axes.grid(visible=False, axis='y')
    return figure


def comparison(candidates: Sequence[Candidate]) -> Figure | None:
    """Score of the last rung against that of the first; None where fewer than three cells have both."""
    found = pairs(candidates)
    if len(found) < 3:
        return None
    first, *_, last = in_order(candidates)
    figure, axes = pictures.new_figure()
    groups = (
        (f'chosen from {first}', [p for p in found if p.chosen], BLUE, 'o'),
        ('drawn at random', [p for p in found if not p.chosen and not p.reference], GREY, 's'),
        ('known by name', [p for p in found if p.reference], ORANGE, 'D'),
    )
    for label, group, colour, marker in groups:
        if group:
            x, y = [100 * p.first for p in group], [100 * p.last for p in group]
            low, high = ([100 * abs(of(p.seeds) - p.last) for p in group] for of in (min, max))
            several = any(len(p.seeds) > 1 for p in group)
            axes.errorbar(
                *(x, y), yerr=(low, high) if several else None, fmt=marker, color=colour, lw=1, ms=6, label=label
            )
    winner = next((p for p in found if not p.reference), None)
    for pair in found:
        text = pair.reference or (f'{ordinal(pair.place)} on {first}' if pair is winner else '')
        if text:
            axes.annotate(
                *(text, (100 * pair.first, 100 * pair.last)), (6, 5), textcoords='offset points', fontsize=9, color=INK
            )
    axes.margins(x=0.12, y=0.12)
    rho = agreement(found)
    title = '' if math.isnan(rho) else f"Spearman's ρ {rho:.2f} over {sum(not p.reference for p in found)} cells"
    axes.set_title(title, fontsize=10, loc='right')
    axes.set(xlabel=f'{first}: mIoU on val, %', ylabel=f'{last}: mIoU on val, %')
    pictures.add_legend(figure, axes)
    return figure


# ---- text -----------------------------------------------------------------------------------------------------------


def text(candidates: Sequence[Candidate]) -> list[str]:
    """What the last rung says of the first, in two sentences, and a table; nothing where there is one rung."""
    found = pairs(candidates)
    mine = [pair for pair in found if not pair.reference]
    if not mine:
        return []
    (first, *_, last), rho = in_order(candidates), agreement(found)
    lead = f"The best of {last} was {ordinal(mine[0].place)} on {first} (that of the DPC paper's search: 12th)."
    if not math.isnan(rho):
        lead += f" Spearman's correlation of the two scores over {len(mine)} cells is {rho:.2f}."
    lines = [
        f'| {last}: mIoU % | seeds | cell | place on {first} | {first}: mIoU % |',
        '|--:|--:|:--|--:|--:|',
    ]
    for pair in found:
        name = f'**reference {pair.reference}**' if pair.reference else '' if pair.chosen else 'at random'
        spread = f' ± {100 * statistics.stdev(pair.seeds):.2f}' if len(pair.seeds) > 1 else ''
        lines.append(
            f'| {100 * pair.last:.2f}{spread} | {len(pair.seeds)} | {f"{name} " if name else ""}{code(pair.key)}'
            f' | {pair.place} | {100 * pair.first:.2f} |'
        )
    return [f'## From {first} to {last}', lead, '\n'.join(lines)]


def ordinal(number: int) -> str:
    """1st, 2nd, 3rd, ..."""
    ending = {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')
    return f'{number}th' if number % 100 in (11, 12, 13) else f'{number}{ending}'
