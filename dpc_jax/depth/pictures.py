"""Distances as colours: maps with a bar in metres, and the error of a prediction beside it."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from jaxtyping import Bool, Float, UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from dpc_jax.base import DepthExample
from dpc_jax.palette import NOT_LABELLED

NEAR_AND_FAR = 'viridis'  # even steps of depth are even steps of lightness, for any kind of colour vision
ERROR = 'magma'
PANEL_WIDTH = 3.4  # inches
BAR_WIDTH = 0.18  # of the height of an image
SHOWN_DPI = 100


def coloured(depth: Float[np.ndarray, 'H W'], nearest: float, farthest: float) -> UInt8[np.ndarray, 'H W 3']:
    """Distances from `nearest` to `farthest` metres as colours; black where they are missing."""
    shares = np.clip((depth - nearest) / max(farthest - nearest, 1e-6), 0, 1)
    colours: UInt8[np.ndarray, 'H W 3'] = matplotlib.colormaps[NEAR_AND_FAR](shares, bytes=True)[..., :3]
    return np.where((depth > 0)[..., None], colours, np.array(NOT_LABELLED, np.uint8))


def with_bar(depth: Float[np.ndarray, 'H W']) -> UInt8[np.ndarray, 'H2 W2 3']:
    """The map in its own range of colours, and to its right a bar in metres, for which a low map gets white below."""
    known = depth[depth > 0]
    nearest, farthest = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    farthest = max(farthest, nearest + 1e-3)
    height = max(depth.shape[0], 120)
    bar = _bar(nearest, farthest, height)
    picture = coloured(depth, nearest, farthest)
    below = np.full((height - depth.shape[0], depth.shape[1], 3), 255, np.uint8)
    return np.concatenate([np.concatenate([picture, below]), bar], axis=1)


def _bar(nearest: float, farthest: float, height: int) -> UInt8[np.ndarray, 'H W 3']:
    width = max(70, round(BAR_WIDTH * height))
    figure = Figure((width / SHOWN_DPI, height / SHOWN_DPI), dpi=SHOWN_DPI)
    axes = figure.add_axes((0.08, 0.06, 0.25, 0.88))
    figure.colorbar(
        matplotlib.cm.ScalarMappable(Normalize(nearest, farthest), matplotlib.colormaps[NEAR_AND_FAR]), cax=axes
    ).set_label('m', fontsize=8)
    axes.tick_params(labelsize=7)
    axes.invert_yaxis()  # near is below, as the floor is in most pictures
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:height, :width, :3].copy()


def panels(
    shown: Sequence[tuple[DepthExample, Float[np.ndarray, '_ _']]], judged: Sequence[Bool[np.ndarray, '_ _']]
) -> Figure:
    """A row for each example: image, distance, prediction in the same colours, error where it is judged."""
    heights = [PANEL_WIDTH * example.depth.shape[0] / example.depth.shape[1] for example, _ in shown]
    figure = Figure((4 * PANEL_WIDTH + 1.2, sum(heights) + 0.4), layout=ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03))
    axes = figure.subplots(len(shown), 4, squeeze=False, gridspec_kw={'height_ratios': heights})
    for row, (example, found), mask in zip(axes, shown, judged, strict=True):
        known = example.depth[example.depth > 0]
        limits = (float(known.min()), float(known.max())) if known.size else (float(found.min()), float(found.max()))
        row[0].imshow(example.image)
        for place, values in ((row[1], example.depth), (row[2], found)):
            drawn = place.imshow(
                np.where(values > 0, values, np.nan), cmap=NEAR_AND_FAR, vmin=limits[0], vmax=limits[1]
            )
        figure.colorbar(drawn, ax=row[2], shrink=0.85, pad=0.02).set_label('m', fontsize=8)
        error = np.where((example.depth > 0) & mask, np.abs(found - example.depth), np.nan)
        known = error[np.isfinite(error)]
        most = float(np.quantile(known, 0.99)) if known.size else 1.0
        drawn = row[3].imshow(error, cmap=ERROR, vmin=0, vmax=max(most, 1e-3))
        figure.colorbar(drawn, ax=row[3], shrink=0.85, pad=0.02).set_label('m', fontsize=8)
    for place in axes.ravel():
        place.set_axis_off()
    for place, title in zip(axes[0], ('image', 'distance', 'prediction', 'error where it is judged'), strict=True):
        place.set_title(title, fontsize=10)
    return figure


def stacked(*figures: Figure) -> Figure:
    """The figures as pictures below each other."""
    pictures = [_pixels(figure) for figure in figures]
    sizes = [(PANEL_WIDTH * 4 * picture.shape[0] / picture.shape[1]) for picture in pictures]
    whole = Figure((PANEL_WIDTH * 4, sum(sizes)), layout=ConstrainedLayoutEngine(w_pad=0.0, h_pad=0.0))
    axes = whole.subplots(len(pictures), 1, squeeze=False, gridspec_kw={'height_ratios': sizes})
    for place, picture in zip(axes[:, 0], pictures, strict=True):
        place.imshow(picture, interpolation='antialiased')
        place.set_axis_off()
    return whole


def _pixels(figure: Figure) -> UInt8[np.ndarray, 'H W 3']:
    figure.set_dpi(SHOWN_DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
