"""Pictures of trainings, as matplotlib figures: one run, or several seeds of several context modules."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from dpc_jax.pictures import BLUE, GREY, REFERENCE_STYLES

Records = Sequence[Mapping[str, Any]]
"""Of one run, as in `metrics.jsonl`: of training with `loss` and `learning_rate`, of evaluations with `miou`."""

WIDTH, HEIGHT = 8.0, 5.4  # inches
PADDING = 0.06  # inches
SMOOTHED = 20  # the running mean is over a twentieth of the records


def curves(records: Records) -> Figure:
    """One run: loss, its running mean and the learning rate above, mIoU on the split of evaluation below."""
    figure, (above, below) = _panels()
    steps, losses = series(records, 'loss')
    above.plot(steps, losses, color=BLUE, lw=0.8, alpha=0.4, label='loss')
    above.plot(steps, running_mean(losses), color=BLUE, lw=1.8, label='running mean')
    rate = above.twinx()
    rate.plot(*series(records, 'learning_rate'), color=GREY, ls='--', lw=1.2)
    rate.set_ylabel('Learning rate', color=GREY)
    rate.set_ylim(0, None)
    rate.spines[['top']].set_visible(False)
    at, scores = series(records, 'miou')
    below.plot(at, 100 * scores, 'o-', color=BLUE, lw=1.5, ms=4)
    _best(below, at, scores)
    above.legend(frameon=False, fontsize=9)
    return figure


def comparison(runs: Mapping[str, Sequence[Records]]) -> Figure:
    """Each context module in a colour of its own, a thin line for each seed, the mean over seeds as a thick one."""
    figure, (above, below) = _panels()
    handles = []
    for place, (name, seeds) in enumerate(runs.items()):
        colour = (BLUE, *(style[0] for style in REFERENCE_STYLES))[place % (1 + len(REFERENCE_STYLES))]
        for axes, field, scale, smooth in ((above, 'loss', 1.0, True), (below, 'miou', 100.0, False)):
            lines = [series(records, field) for records in seeds]
            for steps, values in lines:
                shown = running_mean(values) if smooth else values
                axes.plot(steps, scale * shown, color=colour, lw=0.8, alpha=0.45, marker='' if smooth else '.')
            common = sorted(set.intersection(*(set(steps.tolist()) for steps, _ in lines))) if lines else []
            mean = [np.mean([values[steps == step][-1] for steps, values in lines]) for step in common]
            axes.plot(common, scale * (running_mean(np.array(mean)) if smooth else np.array(mean)), color=colour, lw=2)
        handles.append(Line2D([], [], color=colour, lw=2, label=f'{name} ({len(seeds)} seeds)'))
    above.legend(handles=handles, frameon=False, fontsize=9)
    return figure


def series(records: Records, field: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and finite values of one field."""
    found = [(record['step'], record[field]) for record in records if record.get(field) is not None]
    steps, values = np.array(found, np.float64).reshape(-1, 2).T
    kept = np.isfinite(values)
    return steps[kept], values[kept]


def running_mean(values: np.ndarray) -> np.ndarray:
    """Over a window around each value that is cut off at the ends."""
    reach = len(values) // SMOOTHED // 2
    sums = np.concatenate([[0.0], np.cumsum(values)])
    low = np.maximum(np.arange(len(values)) - reach, 0)
    high = np.minimum(np.arange(len(values)) + reach + 1, len(values))
    mean: np.ndarray = (sums[high] - sums[low]) / np.maximum(high - low, 1)
    return mean


def _panels() -> tuple[Figure, tuple[Axes, Axes]]:
    figure = Figure(figsize=(WIDTH, HEIGHT), layout=ConstrainedLayoutEngine(w_pad=PADDING, h_pad=PADDING))
    above, below = figure.subplots(2, sharex=True, height_ratios=(1.2, 1))
    for axes in (above, below):
        axes.spines[['top', 'right']].set_visible(False)
        axes.grid(color='#E6E6E6', lw=0.8)
        axes.set_axisbelow(True)
    above.set_ylabel('Loss on training crops')
    below.set(xlabel='Steps', ylabel='mIoU on val (%)')
    return figure, (above, below)


def _best(axes: Axes, steps: np.ndarray, scores: np.ndarray) -> None:
    if len(scores):
        best = int(scores.argmax())
        axes.annotate(
            f'{100 * scores[best]:.2f}',
            (steps[best], 100 * scores[best]),
            textcoords='offset points',
            xytext=(0, -14),
            ha='center',
            fontsize=9,
        )
