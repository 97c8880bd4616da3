"""Pictures of a study, as matplotlib figures; `report` writes them to files.

A score is shown as mIoU in %. Sampled candidates are drawn by their state: complete ones as points, failed ones
as crosses without a score, pruned ones hollow, because their scores were taken after fewer steps. References
(cells known by name) are scored like candidates but are drawn as lines or marks of their own.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps, ticker
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.layout_engine import ConstrainedLayoutEngine

from dpc_jax.base import Genotype
from dpc_jax.palette import BLUE, GREY, GRID, INK, PADDING_INCHES, PAIRS, RED, REFERENCE_STYLES, WIDTH_INCHES
from dpc_jax.spaces import OperatorGroup, Space
from dpc_jax.study import Candidate

HEIGHT = 4.4  # inches
LEGEND_WIDTH = 92  # letters, the marks and gaps counted as six
LONGEST_NAME = 40  # of a reference, in letters
SCORE = 'Score (mIoU on val, %)'
STRIP_HEIGHT, MAPS_HEIGHT = 9.4 / 3.1 / 4, 9.4 / 3.1 * 2.1  # inches, of one strip and of the maps below all of them
MAX_POINTS = 400  # of a strip of points: more cannot be told apart
LOG_RANGE = 20.0  # an axis is logarithmic where its largest value is more than so many times the smallest


def is_scored(candidate: Candidate) -> bool:
    """Whether the score is one that a ranking may compare: complete and finite."""
    return candidate.state == 'complete' and math.isfinite(candidate.score)


def percent(candidate: Candidate) -> float:
    """The score in %, as it is printed and drawn."""
    return 100 * candidate.score


def sampled(candidates: Sequence[Candidate]) -> list[Candidate]:
    """All but the references, in order of number."""
    return sorted((c for c in candidates if not c.reference), key=lambda c: c.number)


def scored_references(candidates: Sequence[Candidate]) -> dict[str, list[Candidate]]:
    """Name -> rows of the references that have a score (several where one was scored with several seeds)."""
    rows = sorted((c for c in candidates if c.reference and is_scored(c)), key=lambda c: (c.reference, c.number))
    return {name: list(group) for name, group in itertools.groupby(rows, key=lambda c: c.reference)}


# ---- scores -------------------------------------------------------------------------------------------------


def histogram(candidates: Sequence[Candidate]) -> Figure | None:
    """Candidates by score, with the references as lines (paper Fig. 4a); None where nothing has a score."""
    scores = [percent(c) for c in sampled(candidates) if is_scored(c)]
    references = scored_references(candidates)
    if not scores and not references:
        return None
    figure, axes = new_figure()
    bins = int(np.clip(2 * math.sqrt(len(scores)), 5, 40)) | 1  # odd: equal scores fall into the middle of a bin
    axes.hist(scores, bins, range=_span(scores), color=BLUE, rwidth=0.94, label=f'sampled cells ({len(scores)})')
    _reference_lines(axes, references, vertical=True)
    axes.set(xlabel=SCORE, ylabel='Sampled cells')
    axes.yaxis.set_major_locator(ticker.MaxNLocator(integer=True, min_n_ticks=1))
    add_legend(figure, axes)
    return figure


def _span(scores: list[float]) -> tuple[float, float] | None:
    """Limits of the bins; None lets matplotlib choose. Scores that hardly differ get bins that are not hair-thin."""
    if not scores:
        return None
    low, high = min(scores), max(scores)
    slack = max(0.0, 0.5 - (high - low)) / 2
    return low - slack, high + slack


def progress(candidates: Sequence[Candidate]) -> Figure | None:
    """The best score so far against the number of evaluations; None where no candidate was sampled."""
    rows = sampled(candidates)
    if not rows:
        return None
    figure, axes = new_figure()
    complete = [(at, percent(c)) for at, c in enumerate(rows, 1) if is_scored(c)]
    pruned = [(at, percent(c)) for at, c in enumerate(rows, 1) if c.state == 'pruned' and math.isfinite(c.score)]
    failed = [at for at, c in enumerate(rows, 1) if not math.isfinite(c.score) or c.state == 'failed']
    size = float(np.clip(3000 / len(rows), 6, 26))
    if complete:
        at, scores = zip(*complete, strict=True)
        best = np.maximum.accumulate(scores)
        axes.step([*at, len(rows)], [*best, best[-1]], where='post', color=INK, lw=1.6, label='best so far')
        _points(axes, complete, s=size, color=BLUE, alpha=0.75, lw=0, label='complete', zorder=2.5)
    if pruned:
        _points(axes, pruned, s=size, facecolor='none', edgecolor=GREY, label='pruned, fewer steps')
    if failed:
        base, low = axes.get_xaxis_transform(), [(at, 0.025) for at in failed]
        _points(axes, low, s=28, color=RED, marker='x', lw=1.3, transform=base, clip_on=False, label='failed')
    _reference_lines(axes, scored_references(candidates), vertical=False)
    axes.set(xlabel='Evaluations (sampled cells, in order of number)', ylabel=SCORE, xlim=_around(1, len(rows)))
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, min_n_ticks=1))
    if not complete and not pruned and not scored_references(candidates):
        axes.set_yticks([])
    add_legend(figure, axes)
    return figure


def _around(low: int, high: int) -> tuple[float, float]:
    margin = 0.02 * (high - low) + 0.5
    return low - margin, high + margin


# ---- costs --------------------------------------------------------------------------------------------------


def cost(candidates: Sequence[Candidate], macs: Callable[[Genotype], int]) -> Figure | None:
    """Score against multiply-adds, with the Pareto front; None where nothing has a score."""
    rows = [c for c in sampled(candidates) if is_scored(c)]
    references = scored_references(candidates)
    costs = [macs(c.genotype) for c in rows]
    theirs = {name: [macs(c.genotype) for c in group] for name, group in references.items()}
    values = [*costs, *itertools.chain(*theirs.values())]
    if not values:
        return None
    unit, scale = ('billions', 1e9) if max(values) >= 1e9 else ('millions', 1e6)
    figure, axes = new_figure()
    if rows:
        points = [(count / scale, percent(c)) for count, c in zip(costs, rows, strict=True)]
        size = float(np.clip(3000 / len(rows), 8, 30))
        _points(axes, points, s=size, color=BLUE, alpha=0.7, lw=0, label=f'sampled cells ({len(rows)})')
        front = pareto_front(points)
        axes.step(*zip(*front, strict=True), where='post', color=INK, lw=1.2, label='Pareto front of the sampled cells')
        _points(axes, front, s=size + 16, facecolor='none', edgecolor=INK, lw=1.0)
    for (name, group), (colour, _, marker) in zip(references.items(), itertools.cycle(REFERENCE_STYLES), strict=False):
        marks = [(count / scale, percent(c)) for count, c in zip(theirs[name], group, strict=True)]
        style = {'s': 70, 'color': colour, 'marker': marker, 'edgecolor': 'white', 'zorder': 4}
        _points(axes, marks, label=_legend_name(name), **style)
    if min(values) > 0 and max(values) > LOG_RANGE * min(values):
        axes.set_xscale('log')
        axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(ticker.FormatStrFormatter('%g'))
        axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    axes.set(xlabel=f'Multiply-adds ({unit})', ylabel=SCORE)
    add_legend(figure, axes)
    return figure


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The `points` (cost, score) that no other beats in one without losing in the other; by cost, ascending."""
    front: list[tuple[float, float]] = []
    for point in sorted(set(points), key=lambda point: (point[0], -point[1])):
        if not front or point[1] > front[-1][1]:
            front.append(point)
    return front


# ---- operators ----------------------------------------------------------------------------------------------


def operators(candidates: Sequence[Candidate], space: Space) -> Figure | None:
    """Scores of the cells that contain an operator, by the space's groups; None where no candidate has a score.

    A cell counts once for each operator that it contains, however often. These are averages over cells that
    differ in everything else, so `n` is written beside each.
    """
    rows = [c for c in sampled(candidates) if is_scored(c)]
    if not rows:
        return None
    groups = space.operator_groups()
    scores = np.array([percent(c) for c in rows])
    contains = np.zeros((len(rows), sum(len(group.operators) for group in groups)), bool)
    for row, candidate in zip(contains, rows, strict=True):
        row[sorted(space.operators_of(candidate.genotype))] = True
    maps = [group for group in groups if group.values]
    strips_height = STRIP_HEIGHT * (len(groups) + 1)
    size = (10, strips_height + MAPS_HEIGHT) if maps else (WIDTH_INCHES, strips_height)
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=PADDING_INCHES, h_pad=PADDING_INCHES))
    if not maps:
        _strips(figure.add_subplot(), scores, contains, groups)
        return figure
    sides = [len(group.values) for group in maps]
    grid = figure.add_gridspec(
        2,
        len(maps),
        height_ratios=(strips_height, MAPS_HEIGHT),
        width_ratios=[0.2125 * side + 0.3 for side in sides],  # squares of one size, and room for the axis
    )
    _strips(figure.add_subplot(grid[0, :]), scores, contains, groups)
    _heat_maps(figure, [figure.add_subplot(grid[1, column]) for column in range(len(maps))], scores, contains, maps)
    return figure


def _strips(axes: Axes, scores: np.ndarray, contains: np.ndarray, groups: Sequence[OperatorGroup]) -> None:
    """One strip per group: each cell a point, quartiles as a bar, the mean as a white mark."""
    strips: list[tuple[str, str, np.ndarray]] = [('all cells', INK, np.ones(len(scores), bool))]
    strips += [
        (g.name, PAIRS[g.colour][0], np.logical_or.reduce(contains[:, list(g.operators)], axis=1)) for g in groups
    ]
    labels = []
    for row, (name, colour, members) in enumerate(strips):
        values = scores[members]
        labels.append(f'{name}\nn = {len(values)}')
        if not len(values):
            continue
        points = values[:: max(1, math.ceil(len(values) / MAX_POINTS))]
        scatter = (np.arange(len(points)) * 0.618034 % 1 - 0.5) * 0.5  # evenly spread and the same every time
        size = float(np.clip(1500 / len(points), 8, 26))
        axes.scatter(points, row + scatter, s=size, color=colour, alpha=0.35, lw=0)
        axes.plot(np.quantile(values, (0.25, 0.75)), (row, row), color=colour, lw=6, solid_capstyle='butt')
        axes.plot(values.mean(), row, 'o', color='white', markeredgecolor=colour, markersize=7, markeredgewidth=1.6)
    axes.set(yticks=range(len(strips)), yticklabels=labels, ylim=(len(strips) - 0.5, -0.5), xlabel=SCORE)
    axes.set_title('Cells that contain an operator of the kind (bar: middle half, ring: mean)')
    _bare(axes)


def _heat_maps(
    figure: Figure, places: Sequence[Axes], scores: np.ndarray, contains: np.ndarray, groups: Sequence[OperatorGroup]
) -> None:
    """The mean score by operator, group by group, all in one scale of colours."""
    counts = contains.sum(0)
    sums = np.where(contains, scores[:, None], 0.0).sum(0)
    means = np.divide(sums, counts, out=np.full(len(counts), np.nan), where=counts > 0)
    shown = means[[operator for group in groups for operator in group.operators]]
    norm = Normalize(*(_span(shown[np.isfinite(shown)].tolist()) or (0.0, 100.0)))
    for axes, group in zip(places, groups, strict=True):
        chosen = list(group.operators)
        image = _heat_map(axes, means[chosen], counts[chosen], values=group.values, name=group.argument, norm=norm)
        axes.set_title(group.title)
    figure.colorbar(image, ax=list(places), location='bottom', aspect=50, label='Mean score (mIoU on val, %)')


def _heat_map(
    axes: Axes, means: np.ndarray, counts: np.ndarray, *, values: tuple[int, ...], name: str, norm: Normalize
) -> AxesImage:
    """Mean score by an argument's height × width, with n in each square; squares without a cell stay empty."""
    side = len(values)
    means, counts = means.reshape(side, side), counts.reshape(side, side)
    colours = colormaps['cividis']
    image = axes.imshow(means, cmap=colours, norm=norm, origin='lower')
    for (row, column), mean in np.ndenumerate(means):
        if not np.isfinite(mean):
            axes.text(column, row, '–', ha='center', va='center', color=GREY)
            continue
        ink = 'white' if norm(mean) < 0.5 else 'black'
        axes.text(column, row + 0.14, f'{mean:.1f}', ha='center', va='center', color=ink, fontsize=9)
        axes.text(column, row - 0.24, f'n {counts[row, column]}', ha='center', va='center', color=ink, fontsize=7)
    axes.set(xticks=range(side), xticklabels=values, yticks=range(side), yticklabels=values)
    axes.set(xlabel=f'{name} over width', ylabel=f'{name} over height')
    axes.tick_params(length=0)
    return image


# ---- shared -------------------------------------------------------------------------------------------------


def new_figure(height: float = HEIGHT) -> tuple[Figure, Axes]:
    """A figure of a report with one pair of axes; `height` in inches."""
    figure = Figure(
        figsize=(WIDTH_INCHES, height), layout=ConstrainedLayoutEngine(w_pad=PADDING_INCHES, h_pad=PADDING_INCHES)
    )
    axes = figure.add_subplot()
    _bare(axes)
    axes.grid(color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _points(axes: Axes, points: Sequence[tuple[int | float, float]], **style: Any) -> None:
    x, y = zip(*points, strict=True)
    axes.scatter(x, y, **style)


def _bare(axes: Axes) -> None:
    axes.spines[['top', 'right']].set_visible(False)


def add_legend(figure: Figure, axes: Axes) -> None:
    """Puts the legend above the axes, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        columns = max(1, min(4, LEGEND_WIDTH // (max(map(len, labels)) + 6)))
        figure.legend(handles=handles, loc='outside upper left', ncols=columns, frameon=False, fontsize=9)


def _legend_name(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + '…'


def _reference_lines(axes: Axes, references: dict[str, list[Candidate]], *, vertical: bool) -> None:
    draw = axes.axvline if vertical else axes.axhline
    for (name, rows), (colour, line, _) in zip(references.items(), itertools.cycle(REFERENCE_STYLES), strict=False):
        scores = sorted(map(percent, rows))
        text = f'{scores[0]:.2f}' + (f' to {scores[-1]:.2f}' if len(scores) > 1 else '')
        for place, score in enumerate(scores):
            label = f'{_legend_name(name)} ({text} %)' if place == 0 else '_more'
            draw(score, color=colour, ls=line, lw=1.8, label=label)
