"""The picture that scripts about data draw: images, their labels in colours, and which colour is which class."""

import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from dpc_jax import palette
from dpc_jax.base import IGNORE_LABEL, InputError, SegmentationExample
from dpc_jax.datasets import Dataset

COLUMNS = 4  # each has an image and, below it, the image with its label over it
TILE = 2.4  # inches wide
LARGEST = 800  # pixels of a side; larger images are thinned out
OPACITY = 0.6  # of a label over its image
DARK = (20, 20, 20)  # where there is no label
MOST_CLASSES = 36  # in a legend; of more, those that are shown


def contact_sheet(dataset: Dataset, count: int) -> Figure | None:
    """Images evenly drawn from the split, each with its label over it; None where none is whole."""
    chosen = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).astype(int).tolist()
    examples = [example for example in (_thinned(dataset, index) for index in chosen) if example is not None]
    if not examples:
        return None
    shown = [*range(dataset.num_classes)]
    if len(shown) > MOST_CLASSES:
        found = np.unique(np.concatenate([np.unique(example.label) for example in examples]))
        shown = [label for label in shown if label in found]
    rows = -(-len(examples) // COLUMNS)
    columns = min(COLUMNS, len(examples))
    tallest = max(example.label.shape[0] / example.label.shape[1] for example in examples)
    names_across = max(2, round(1.5 * columns))
    legend = 0.25 * -(-(len(shown) + 1) // names_across) + 0.3
    figure = Figure((max(2, columns) * TILE, 2 * rows * TILE * tallest + legend), layout='constrained')
    axes = figure.subplots(2 * rows, columns, squeeze=False)
    for place in axes.ravel():
        place.set_axis_off()
    for number, example in enumerate(examples):
        row, column = divmod(number, columns)
        axes[2 * row, column].imshow(example.image)
        axes[2 * row + 1, column].imshow(overlay(dataset, example.image, example.label))
    named = [(dataset.palette[label] / 255, dataset.classes[label]) for label in shown]
    patches = [
        Patch(facecolor=colour, edgecolor=palette.GREY, lw=0.5, label=name)
        for colour, name in (*named, (np.array(DARK) / 255, 'not labelled'))
    ]
    figure.legend(handles=patches, loc='outside lower center', ncols=names_across, frameon=False, fontsize=8)
    return figure


def overlay(
    dataset: Dataset, image: UInt8[np.ndarray, 'H W 3'], label: UInt8[np.ndarray, 'H W']
) -> UInt8[np.ndarray, 'H W 3']:
    """The label in its colours over the image."""
    colours = np.tile(np.array(DARK, np.uint8), (IGNORE_LABEL + 1, 1))
    colours[: dataset.num_classes] = dataset.palette
    mixed: UInt8[np.ndarray, 'H W 3'] = np.rint(OPACITY * colours[label] + (1 - OPACITY) * image).astype(np.uint8)
    return mixed


def _thinned(dataset: Dataset, index: int) -> SegmentationExample | None:
    try:
        image, label, name = dataset[index]
    except InputError:
        return None
    step = -(-max(label.shape) // LARGEST)
    return SegmentationExample(image[::step, ::step], label[::step, ::step], name)
