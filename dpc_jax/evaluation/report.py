"""What an evaluation found, as text and as a picture; `results` writes them to files."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch

from dpc_jax import metrics
from dpc_jax.base import IGNORE_LABEL, Shown
from dpc_jax.palette import GREY, NOT_LABELLED

PANEL_WIDTH = 4.0  # inches; three of them beside each other
LEGEND_COLUMNS = 7
SCORES = (
    'miou',
    'miou_with_unlabelled',
    'pixel_accuracy',
    'class_accuracy',
    'iou',
    'accuracy',
)  # what the headline and the table say
ELSEWHERE = 'All of it, with the config: [metrics.json](metrics.json). Counts: [confusion.csv](confusion.csv).'

Confusion = Int[np.ndarray, 'L L']  # by (label, prediction)


# ---- numbers --------------------------------------------------------------------------------------------------------


def scores(confusion: Confusion, classes: Sequence[str]) -> dict[str, Any]:
    """What a confusion matrix says: shares in 0..1, NaN for what the labels do not have."""
    ious, accuracies = metrics.class_iou(confusion), metrics.class_accuracy(confusion)
    labelled = int(confusion.sum())
    return {
        'miou': float(metrics.mean_iou(confusion)),
        'miou_with_unlabelled': float(metrics.mean_iou_with_unlabelled(confusion)),
        'pixel_accuracy': float(metrics.pixel_accuracy(confusion)),
        'class_accuracy': float(metrics.mean_accuracy(confusion)),
        'labelled_pixels': labelled,
        'iou': dict(zip(classes, ious.tolist(), strict=True)),
        'accuracy': dict(zip(classes, accuracies.tolist(), strict=True)),
    }


# ---- text -----------------------------------------------------------------------------------------------------------


def as_json(row: Mapping[str, Any]) -> str:
    """A row with its cause; NaN, which JSON does not know, is null."""
    return json.dumps(_without_nan(row), indent=2, ensure_ascii=False) + '\n'


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_nan(inner) for name, inner in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def as_csv(confusion: Confusion, classes: Sequence[str]) -> str:
    """Pixels: a row per label, a column per prediction."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(['label \\ prediction', *classes])
    writer.writerows([name, *counts] for name, counts in zip(classes, confusion.tolist(), strict=True))
    return text.getvalue()


def as_markdown(row: Mapping[str, Any], confusion: Confusion, classes: Sequence[str], picture: str = '') -> str:
    """The scores, a table per class, the picture of that file name if there is one, and what the numbers depend on."""
    parts = [f'# {headline(row)}']
    if row['labelled_pixels']:
        parts += ['\n'.join(_class_table(confusion, classes)), definition(row)]
    if picture:
        parts.append(f'![Images, labels and predictions]({picture})')
    facts = [f'- **{name.replace("_", " ")}**: `{row[name]}`' for name in row if name not in (*SCORES, 'config')]
    return '\n\n'.join([*parts, '\n'.join(facts), ELSEWHERE]) + '\n'


def headline(row: Mapping[str, Any]) -> str:
    """The scores in a line."""
    if not row['labelled_pixels']:
        return 'no score: the images have no labels'
    others = (
        f'pixel accuracy {_percent(row["pixel_accuracy"])} %, mean class accuracy {_percent(row["class_accuracy"])} %'
    )
    return f'mIoU {_percent(row["miou"])} % ({others})'


def definition(row: Mapping[str, Any]) -> str:
    """Which mean the mIoU is, and what the other definition gives."""
    return (
        'mIoU is the mean over the classes that labels have; a class that no label has (–) takes no part in means. With'
        " classes that are predicted and have no label as 0, as TensorFlow's mean_iou counts them, it is"
        f' {_percent(row["miou_with_unlabelled"])} %.'
    )


def _class_table(confusion: Confusion, classes: Sequence[str]) -> list[str]:
    columns = ('class', 'IoU %', 'accuracy %', 'of the labelled pixels %', 'most often taken for')
    lines = [f'| {" | ".join(columns)} |', '|:--|--:|--:|--:|:--|']
    ious, accuracies, labelled = metrics.class_iou(confusion), metrics.class_accuracy(confusion), confusion.sum(-1)
    for index, name in enumerate(classes):
        wrong = np.where(np.arange(len(classes)) == index, 0, confusion[index])
        other = int(wrong.argmax())
        taken = f'{classes[other]} ({_percent(wrong[other] / labelled[index])} %)' if wrong[other] else ''
        numbers = (ious[index], accuracies[index], labelled[index] / labelled.sum())
        lines.append(f'| {name} | {" | ".join(map(_percent, numbers))} | {taken} |')
    return lines


def _percent(share: float) -> str:
    return '–' if math.isnan(share) else f'{100 * share:.2f}'


# ---- picture --------------------------------------------------------------------------------------------------------


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
