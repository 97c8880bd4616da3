"""The picture that scripts about data draw: images, their targets over them, and which colour is which class."""

from typing import Any

import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from dpc_jax import depth, palette, pose
from dpc_jax.base import IGNORE_LABEL, InputError
from dpc_jax.datasets import Dataset

COLUMNS = 4  # each has an image and, below it, the image with its label over it
TILE = 2.4  # inches wide
LARGEST = 800  # pixels of a side; larger images are thinned out
OPACITY = 0.6  # of a label over its image
LIGHT, DARK = (235, 235, 235), (60, 60, 60)  # stripes where there is no label: a colour may be one of a class
STRIPES = 24  # pairs of them across an image
MOST_CLASSES = 36  # in a legend; of more, those that are shown


def contact_sheet(dataset: Dataset, count: int) -> Figure | None:
    """Images evenly drawn from the split, each with its label, distances or person; None where none is whole."""
    chosen = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).astype(int).tolist()
    examples = [example for example in (_thinned(dataset, index) for index in chosen) if example is not None]
    if not examples:
        return None
    shown = [*range(dataset.num_classes)]
    if len(shown) > MOST_CLASSES:
        found = np.unique(np.concatenate([np.unique(example.label) for example in examples]))
        shown = [label for label in shown if label in found]
    drawn = [pictures(dataset, example) for example in examples]
    high = len(drawn[0])  # pictures of each image
    rows = -(-len(examples) // COLUMNS)
    columns = min(COLUMNS, len(examples))
    tallest = max(example.image.shape[0] / example.image.shape[1] for example in examples)
    names_across = max(2, round(1.5 * columns))
    legend = 0.25 * -(-(len(shown) + 1) // names_across) + 0.3
    figure = Figure((max(2, columns) * TILE, high * rows * TILE * tallest + legend), layout='constrained')
    axes = figure.subplots(high * rows, columns, squeeze=False)
    for place in axes.ravel():
        place.set_axis_off()
    for number, images in enumerate(drawn):
        row, column = divmod(number, columns)
        for place, image in enumerate(images):
            axes[high * row + place, column].imshow(image)
    patches = [
        Patch(facecolor=dataset.palette[at] / 255, edgecolor=palette.GREY, lw=0.5, label=dataset.classes[at])
        for at in shown
    ]
    light, dark = np.array(LIGHT) / 255, np.array(DARK) / 255
    patches.append(Patch(facecolor=tuple(light), edgecolor=tuple(dark), lw=0.5, hatch='////', label='not labelled'))
    figure.legend(handles=patches, loc='outside lower center', ncols=names_across, frameon=False, fontsize=8)
    return figure


def pictures(dataset: Dataset, example: Any) -> list[UInt8[np.ndarray, 'H W 3']]:
    """The image, and below it what is known of it: the label over it, the distances, the person."""
    if 'joints' in dataset.targets:
        assert dataset.skeleton is not None
        person = example.person
        joints = np.concatenate([person.joints, (person.visible > 0)[:, None]], axis=1)
        return [example.image, pose.draw(example.image, joints[None], dataset.skeleton, dataset.palette)]
    found = [example.image, overlay(dataset, example.image, example.label)]
    if 'depth' in dataset.targets:
        there = example.depth[example.depth > 0]
        limits = (float(there.min()), float(there.max())) if there.size else (0.0, 1.0)
        found.append(depth.coloured(example.depth, *limits))
    return found


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


def _thinned(dataset: Dataset, index: int) -> Any:
    """The example in fewer pixels; None if it is faulty."""
    try:
        example = dataset[index]
    except InputError:
        return None
    step = -(-max(example.image.shape) // LARGEST)
    maps = {
        name: getattr(example, name)[::step, ::step] for name in ('image', 'label', 'depth') if hasattr(example, name)
    }
    if 'joints' in dataset.targets:
        maps['person'] = example.person._replace(joints=example.person.joints / step)
    return example._replace(**maps)
