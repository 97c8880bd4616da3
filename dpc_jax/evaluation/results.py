"""What an evaluation found, written into a work folder: the scores with their cause, a picture, label images."""

import json
import pathlib
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from dpc_jax import files, provenance
from dpc_jax.base import PyTree
from dpc_jax.datasets import Dataset
from dpc_jax.evaluation import report
from dpc_jax.evaluation.scorer import Counted, Scorer

HASHED = ('split', 'scales', 'flip', 'dtype', 'crop_size', 'image_pooling_crop_size')
"""Fields of `config.evaluate` that scores depend on; the network and the content of data and weights are added."""


class Evaluation(NamedTuple):
    """What was found, and where it is written.

    >>> scores = dpc_jax.evaluate(network_config, 'runs/scores', 'runs/net/weights', genotype=result.best(1)[0])
    >>> scores.row['miou'], scores.row['iou'], scores.files
    """

    confusion: Int[np.ndarray, 'L L']  # int64 pixels, by (label, prediction)
    row: dict[str, Any]  # scores and their cause, as in metrics.json
    files: list[pathlib.Path]


def write_label(path: pathlib.Path, classes: UInt8[np.ndarray, 'H W'], dataset: Dataset) -> None:
    """A label image of the original size, in the ids that the data set's server takes."""
    ids = dataset.export_ids or range(dataset.num_classes)
    kind = np.uint8 if max(ids) < 256 else np.uint16
    Image.fromarray(np.array(ids, kind)[classes]).save(path)


def cause(config: ml_collections.ConfigDict, dataset: Dataset, variables: PyTree) -> dict[str, Any]:
    """What the scores depend on: config, content of data and weights, code, device."""
    fields = json.loads(config.to_json_best_effort())
    content = {
        'data': dataset.fingerprint(),
        'weights': files.digest(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(variables)),
    }
    hashed = {name: fields[name] for name in ('backbone', 'context', 'decoder')}
    evaluate = {name: fields['evaluate'][name] for name in HASHED}
    return {
        'dataset': dataset.name,
        **{name: evaluate[name] for name in ('split', 'scales', 'flip', 'dtype')},
        'checkpoint': config.checkpoint,
        **content,
        'config_hash': provenance.settings_hash({**hashed, 'evaluate': evaluate, **content}),
        'commit': provenance.commit(),
        'device': provenance.device(),
        'config': fields,
    }


def row_of(scorer: Scorer, variables: PyTree, counted: Counted) -> dict[str, Any]:
    """The scores and their cause."""
    config, dataset = scorer.config, scorer.dataset
    return {
        **report.scores(counted.confusion, dataset.classes),
        'images': len(dataset),
        'seconds': round(counted.seconds, 3),
        'crop_size': list(scorer.crop_size),
        **cause(config, dataset, variables),
    }


def write(folder: pathlib.Path, scorer: Scorer, variables: PyTree, counted: Counted, **more: Any) -> Evaluation:
    """Text and picture into `folder`; prints the scores and the paths. `more` goes into the row."""
    dataset, picture = scorer.dataset, folder / 'predictions.png'
    row = {**row_of(scorer, variables, counted), **more}
    if jax.process_index():  # only the first process writes
        return Evaluation(counted.confusion, row, [])
    picture.unlink(missing_ok=True)
    if counted.shown:
        report.panels(counted.shown, dataset.classes, dataset.palette).savefig(picture, dpi=150)
    texts = {
        'report.md': report.as_markdown(row, counted.confusion, dataset.classes, picture.name * bool(counted.shown)),
        'confusion.csv': report.as_csv(counted.confusion, dataset.classes),
        'metrics.json': report.as_json(row),
    }
    for name, text in texts.items():
        files.write(folder / name, text)
    paths = [*(folder / name for name in texts), *[picture] * bool(counted.shown)]
    print(report.headline(row))
    if row['miou_with_unlabelled'] < row['miou']:  # not where either is NaN
        print(report.definition(row))
    print('\n'.join(map(str, paths)))
    return Evaluation(counted.confusion, row, paths)
