"""Labels as pictures: colours over an image, label files, an image beside label and prediction."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from PIL import Image

from dpc_jax.base import IGNORE_LABEL, Shown
from dpc_jax.palette import GREY, NOT_LABELLED

PANEL_WIDTH = 4.0  # inches; three of them beside each other
LEGEND_COLUMNS = 7
OPACITY = 0.6  # of colours over the image
NAMED = 3  # classes that are named below an image


def blend(image: UInt8[np.ndarray, 'H W 3'], colours: UInt8[np.ndarray, 'H W 3']) -> UInt8[np.ndarray, 'H W 3']:
    """The colours over the image, which shines through."""
    mixed = np.float32(OPACITY) * colours + np.float32(1 - OPACITY) * image
    return np.rint(mixed).astype(np.uint8)


def label_image(
    classes: UInt8[np.ndarray, 'H W'], palette: UInt8[np.ndarray, 'L 3'], ids: Sequence[int] | None
) -> Image.Image:
    """Indices with the palette of the classes, or the ids that the data set's server takes."""
    if ids is not None:
        return Image.fromarray(np.array(ids, np.uint8 if max(ids) < 256 else np.uint16)[classes])
    image = Image.fromarray(classes)
    image.putpalette(palette.ravel().tolist())
    return image


def panels(shown: Sequence[Shown], classes: Sequence[str], palette: UInt8[np.ndarray, 'L 3']) -> Figure:
    """A row for each example: image, label, prediction."""
    colours = np.full((IGNORE_LABEL + 1, 3), NOT_LABELLED, np.uint8)
    colours[: len(palette)] = palette
    heights = [PANEL_WIDTH * example.label.shape[0] / example.label.shape[1] for example, _ in shown]
    present = np.unique(np.concatenate([np.ravel(x) for example, classes_ in shown for x in (example.label, classes_)]))
    names = [classes[value] if value < len(classes) else 'not labelled' for value in present]
    below = 0.3 * -(-len(present) // LEGEND_COLUMNS) + 0.3
    figure = Figure((3 * PANEL_WIDTH, sum(heights) + below), layout=ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03))
    axes = figure.subplots(len(shown), 3, squeeze=False, gridspec_kw={'height_ratios': heights})
    for row, (example, predicted) in zip(axes, shown, strict=True):
        for place, picture in zip(row, (example.image, colours[example.label], colours[predicted]), strict=True):
            place.imshow(picture, interpolation='antialiased' if picture is example.image else 'nearest')
            place.set_axis_off()
    for place, title in zip(axes[0], ('image', 'label', 'prediction'), strict=True):
        place.set_title(title, fontsize=10)
    patches = [
        Patch(facecolor=colours[value] / 255, edgecolor=GREY, lw=0.5, label=name)
        for value, name in zip(present, names, strict=True)
    ]
    figure.legend(handles=patches, loc='outside lower center', ncols=LEGEND_COLUMNS, frameon=False, fontsize=9)
    return figure
