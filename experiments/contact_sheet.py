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
LIGHT, DARK = (235, 235, 235), (60, 60, 60)  # stripes where there is no label: a colour may be one of a class
STRIPES = 24  # pairs of them across an image
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
    patches = [
        Patch(facecolor=dataset.palette[at] / 255, edgecolor=palette.GREY, lw=0.5, label=dataset.classes[at])
        for at in shown
    ]
    light, dark = np.array(LIGHT) / 255, np.array(DARK) / 255
    patches.append(Patch(facecolor=tuple(light), edgecolor=tuple(dark), lw=0.5, hatch='////', label='not labelled'))
    figure.legend(handles=patches, loc='outside lower center', ncols=names_across, frameon=False, fontsize=8)
    return figure


def overlay(
    dataset: Dataset, image: UInt8[np.ndarray, 'H W 3'], label: UInt8[np.ndarray, 'H W']
) -> UInt8[np.ndarray, 'H W 3']:
    """The label in its colours over the image."""
    colours = np.zeros((IGNORE_LABEL + 1, 3), np.uint8)
    colours[: dataset.num_classes] = dataset.palette
    rows, columns = np.indices(label.shape)
    is_dark = (rows + columns) // max(1, max(label.shape) // (2 * STRIPES)) % 2 == 1
    stripes = np.where(is_dark[:, :, None], np.array(DARK, np.uint8), np.array(LIGHT, np.uint8))
    over = np.where((label == IGNORE_LABEL)[:, :, None], stripes, colours[label])
    mixed: UInt8[np.ndarray, 'H W 3'] = np.rint(OPACITY * over + (1 - OPACITY) * image).astype(np.uint8)
    return mixed


def _thinned(dataset: Dataset, index: int) -> SegmentationExample | None:
    try:
        image, label, name = dataset[index]
    except InputError:
        return None
    step = -(-max(label.shape) // LARGEST)
    return SegmentationExample(image[::step, ::step], label[::step, ::step], name)
