"""Pictures of trainings, as matplotlib figures, from records as `log` has them.

Those of training are `{"step": 10, "loss": 1.5, "learning_rate": 0.01}`, those of evaluations `{"step": 50, "miou":
0.4}`; what is None there is a gap.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from dpc_jax import metrics
from dpc_jax.base import MainScore
from dpc_jax.palette import BLUE, GREY, GRID, INK, PADDING_INCHES, REFERENCE_STYLES, WIDTH_INCHES

HEIGHT = 6.0  # inches
RUNNING = 20  # parts of a training, over each of which the loss is averaged
FEWEST = 5  # records that are averaged
DOTTED = 3  # a line of at most so many points has dots too: one point would not be seen
COLOURS = (BLUE, *(colour for colour, _, _ in REFERENCE_STYLES))
LINES, MARKS = ('-', '--', ':'), {'-': '.-', '--': '.--', ':': '.:'}  # of modules beyond the colours
LEGEND_COLUMNS = 3

Record = Mapping[str, Any]


class Curve(NamedTuple):
    """What is drawn as a line."""

    steps: Float[np.ndarray, ' n']
    values: Float[np.ndarray, ' n']  # NaN where none is known


def curve(records: Sequence[Record], name: str, scale: float = 1.0) -> Curve:
    """The values called `name` against their step, in order of it."""
    found = {record['step']: record[name] for record in records if name in record}  # the last of a step
    steps = sorted(found)
    values = [math.nan if found[step] is None else found[step] for step in steps]
    return Curve(np.array(steps, np.float64), scale * np.array(values, np.float64))


def running_mean(values: Float[np.ndarray, ' n'], window: int) -> Float[np.ndarray, ' n']:
    """Mean of the last `window` values (fewer at the beginning) that are known; NaN where none of them is."""
    known = np.isfinite(values)
    sums, counts = (np.concatenate([[0.0], np.cumsum(x)]) for x in (np.where(known, values, 0.0), known))
    end = np.arange(1, len(values) + 1)
    start = np.maximum(end - window, 0)
    count = counts[end] - counts[start]
    return np.where(count > 0, (sums[end] - sums[start]) / np.maximum(count, 1), np.nan)


def window_of(count: int) -> int:
    """How many records are averaged when there are `count`."""
    return max(FEWEST, round(count / RUNNING))


# ---- figures --------------------------------------------------------------------------------------------------------


def curves(records: Sequence[Record], main: MainScore = metrics.MIOU) -> Figure:
    """One training: learning rate, loss with its running mean, the main score, over one axis of steps."""
    figure, (above, middle, below) = _figure((1, 3, 3), main)
    above.plot(*curve(records, 'learning_rate'), color=INK, lw=1.2)
    above.set(ylabel='learning\nrate')
    above.yaxis.set_major_locator(ticker.MaxNLocator(3))
    steps, losses = curve(records, 'loss')
    window = window_of(len(losses))
    middle.plot(steps, losses, color=GREY, lw=0.7, label='loss')
    middle.plot(steps, running_mean(losses, window), color=BLUE, lw=1.8, label=f'mean of the last {window} records')
    middle.set(ylabel='loss')
    steps, scores = curve(records, main.name, main.factor)
    below.plot(steps, scores, 'o-', color=BLUE, lw=1.2, ms=4)
    if np.isfinite(scores).any():
        best = int(np.nanargmax(scores) if main.highest else np.nanargmin(scores))
        label = f'best {scores[best]:.{2 if main.unit == "%" else 3}f} {main.unit} at step {steps[best]:.0f}'
        below.plot(steps[best], scores[best], 'o', color=REFERENCE_STYLES[0][0], ms=7, label=label)
    _finish(figure, (above, middle, below))
    return figure


def comparison(runs: Mapping[str, Sequence[Sequence[Record]]]) -> Figure:
    """Trainings by module, several seeds of each: running means of the loss, mIoU of each seed and the mean of all."""
    figure, (above, below) = _figure((1, 1), metrics.MIOU)
    looks = itertools.cycle(itertools.product(LINES, COLOURS))
    for (module, seeds), (line, colour) in zip(runs.items(), looks, strict=False):
        label = f'{module} ({len(seeds)} {"seed" if len(seeds) == 1 else "seeds"})'
        for number, records in enumerate(seeds):
            steps, losses = curve(records, 'loss')
            mean = running_mean(losses, window_of(len(losses)))
            above.plot(steps, mean, line, color=colour, lw=1.0, alpha=0.8, label='_more' if number else label)
            below.plot(*curve(records, 'miou', 100.0), MARKS[line], color=colour, lw=0.7, ms=4, alpha=0.6)
        if len(seeds) > 1:
            below.plot(*mean_curve([curve(records, 'miou', 100.0) for records in seeds]), line, color=colour, lw=2.4)
    above.set(ylabel='loss, running mean')
    below.set(ylabel=f'{_axis(metrics.MIOU)}\n(thick: mean of the seeds)')
    _finish(figure, (above, below))
    return figure


def mean_curve(curves_: Sequence[Curve]) -> Curve:
    """Mean at the steps that all curves have a value of."""
    tables = [{s: v for s, v in zip(*c, strict=True) if np.isfinite(v)} for c in curves_]
    steps = sorted(set.intersection(*map(set, tables))) if tables else []
    means = [np.mean([table[step] for table in tables]) for step in steps]
    return Curve(np.array(steps, np.float64), np.array(means, np.float64))


# ---- shared ---------------------------------------------------------------------------------------------------------


def _axis(main: MainScore) -> str:
    return f'{main.label} on val, {main.unit}'


def _figure(heights: Sequence[int], main: MainScore) -> tuple[Figure, list[Axes]]:
    figure = Figure(
        figsize=(WIDTH_INCHES, HEIGHT), layout=ConstrainedLayoutEngine(w_pad=PADDING_INCHES, h_pad=PADDING_INCHES)
    )
    panels = figure.subplots(len(heights), 1, sharex=True, squeeze=False, gridspec_kw={'height_ratios': heights})
    axes = list(panels[:, 0])
    for place in axes:
        place.spines[['top', 'right']].set_visible(False)
        place.grid(color=GRID, lw=0.8)
        place.set_axisbelow(True)
    axes[-1].set(xlabel='Step', ylabel=_axis(main))
    axes[-1].xaxis.set_major_locator(ticker.MaxNLocator(integer=True, min_n_ticks=1))
    return figure, axes


def _finish(figure: Figure, axes: Sequence[Axes]) -> None:
    """Marks axes that have nothing to show, and puts the legend above them, where it hides nothing."""
    figure.align_ylabels(axes)
    seen = []
    for place in axes:
        known = [line for line in place.lines if np.isfinite(np.asarray(line.get_ydata(), np.float64)).any()]
        for line in known:
            if len(np.asarray(line.get_ydata())) <= DOTTED and line.get_marker() == 'None':
                line.set(marker='o', markersize=4)
        seen += [line for line in known if not str(line.get_label()).startswith('_')]
        if not known:
            place.set_yticks([])
            place.text(0.5, 0.5, 'nothing recorded', transform=place.transAxes, ha='center', va='center', color=GREY)
    if seen:
        figure.legend(handles=seen, loc='outside upper left', ncols=LEGEND_COLUMNS, frameon=False, fontsize=9)
