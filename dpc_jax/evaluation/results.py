"""What an evaluation found, written into a work folder: the scores with their cause, a picture, label images."""

import json
import pathlib
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from jaxtyping import Int

from dpc_jax import files, provenance, tasks
from dpc_jax.base import PyTree
from dpc_jax.datasets import Dataset
from dpc_jax.evaluation import report
from dpc_jax.evaluation.scorer import Counted, Scorer
from dpc_jax.task import Counts, Task

HASHED = ('split', 'scales', 'flip', 'dtype', 'crop_size', 'image_pooling_crop_size')
"""Fields of `config.evaluate` that scores depend on; the network and the content of data and weights are added."""


class Evaluation(NamedTuple):
    """What was found, and where it is written.

    >>> scores = dpc_jax.evaluate(network_config, 'runs/scores', 'runs/net/weights', genotype=result.best(1)[0])
    >>> scores.row['miou'], scores.row['iou'], scores.files
    """

    counts: Counts  # what the scores are computed from, by name
    row: dict[str, Any]  # scores and their cause, as in metrics.json
    files: list[pathlib.Path]

    @property
    def confusion(self) -> Int[np.ndarray, 'L L']:
        """Pixels by (label, prediction), int64; KeyError where the task has no classes."""
        return self.counts['confusion']


def export(folder: pathlib.Path, name: str, found: Any, task: Task) -> None:
    """Writes what was found in an image as the data set's server takes it, named like `name`; more go in folders."""
    written = task.files_of(found, exported=True)
    for kind, file in written.items():
        place = (folder if len(written) == 1 else folder / kind) / pathlib.PurePath(name).with_suffix(file.suffix)
        place.parent.mkdir(parents=True, exist_ok=True)
        file.write(place)


def cause(config: ml_collections.ConfigDict, dataset: Dataset, variables: PyTree) -> dict[str, Any]:
    """What the scores depend on: config, content of data and weights, code, device."""
    fields = json.loads(config.to_json_best_effort())
    content = {
        'data': dataset.fingerprint(),
        'weights': files.digest(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(variables)),
    }
    hashed = {name: fields[name] for name in ('backbone', 'context', 'decoder')}
    task = tasks.fields_of(config)
    if task != dict(tasks.DEFAULT):  # the hash of older rows of segmentation stays
        hashed['task'] = {name: value for name, value in fields['task'].items() if value is not None}
    evaluate = {name: fields['evaluate'][name] for name in HASHED}
    return {
        'task': task['name'],
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
        **scorer.task.compute(counted.counts, counted.rows, dataset.truth()),
        'images': len(dataset),
        'seconds': round(counted.seconds, 3),
        'crop_size': list(scorer.crop_size),
        **cause(config, dataset, variables),
    }


def write(folder: pathlib.Path, scorer: Scorer, variables: PyTree, counted: Counted, **more: Any) -> Evaluation:
    """Text and picture into `folder`; prints the scores and the paths. `more` goes into the row."""
    task, picture = scorer.task, folder / 'predictions.png'
    row = {**row_of(scorer, variables, counted), **more}
    if jax.process_index():  # only the first process writes
        return Evaluation(counted.counts, row, [])
    picture.unlink(missing_ok=True)
    if counted.shown:
        task.panels(counted.shown).savefig(picture, dpi=150)
    attached = task.attachments(counted.counts, counted.rows)
    texts = {
        'report.md': report.as_markdown(
            task, row, counted.counts, picture=picture.name * bool(counted.shown), attached=tuple(attached)
        ),
        **attached,
        'metrics.json': report.as_json(row),
    }
    for name, text in texts.items():
        files.write(folder / name, text)
    paths = [*(folder / name for name in texts), *[picture] * bool(counted.shown)]
    print(task.headline(row))
    if task.is_defined_otherwise(row):
        print(task.definition(row))
    print('\n'.join(map(str, paths)))
    return Evaluation(counted.counts, row, paths)
