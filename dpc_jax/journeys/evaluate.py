"""The journey of an evaluation: a checkpoint, the examples of a split, what its task counts over all of them.

data set, checkpoint -> [pad -> predict -> count] batch by batch -> scores with their cause, picture, exported files
"""

import pathlib
from typing import Any

import ml_collections

from dpc_jax import (
    contexts,
    datasets,
    described,
    drawn_data,
    evaluation,
    files,
    networks,
    sharding,
    tasks,
    weights,
)
from dpc_jax.base import Example, InputError
from dpc_jax.evaluation import Evaluation

STOPPED = 'there are no scores yet. The same command begins anew.'
SEVERAL_PROCESSES = ''


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> Evaluation:
    """Evaluates `config.checkpoint` and writes into `workdir/evaluation`; prints the scores and where the files are.

    Raises:
      InputError: whatever is wrong with config, data, checkpoint or workdir; before any of the work.
    """
    sharding.check_devices()
    if not config.checkpoint:
        raise InputError(
            'checkpoint is empty; experiments/import_checkpoint.py makes one from official weights; give its folder:'
            ' --config.checkpoint=FOLDER'
        )
    config = described.settled(config, files.local(config.checkpoint, 'checkpoint'))
    evaluation.check(config)
    place = drawn_data.prepared(config.dataset, workdir)
    dataset = datasets.load(config.dataset.name, place, config.evaluate.split)
    shapes = networks.variable_shapes(evaluation.make_network(config))
    variables = weights.restore(files.local(config.checkpoint, 'checkpoint'), shapes)
    tasks.make(config).announce(dataset)
    contexts.announce(config)
    scorer = evaluation.make_scorer(config, dataset)
    folder = workdir / 'evaluation'
    files.make_folder(folder, 'workdir')
    names = evaluation.export_names(dataset) if config.evaluate.export else {}
    export = files.local(config.evaluate.export, 'evaluate.export') if config.evaluate.export else None
    if export is not None:
        files.make_folder(export, 'evaluate.export')

    def each(example: Example, found: Any) -> None:
        if export is not None:
            evaluation.export(export, names[example.name], found, scorer.task)

    counted = scorer.count(variables, show=config.evaluate.pictures, each=each if export is not None else None)
    assert counted is not None  # nobody stopped it
    return evaluation.write(folder, scorer, variables, counted)
