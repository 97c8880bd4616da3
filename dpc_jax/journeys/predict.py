"""The journey of a prediction: a checkpoint, images of the user's, files and an overlay of what is found in each.

checkpoint -> network, task; images -> [read -> predict -> write] batch by batch -> a page to look at
"""

import json
import logging
import pathlib
from typing import Any

import jax
import ml_collections
import numpy as np
from jaxtyping import UInt8

from dpc_jax import (
    box_files,
    checks,
    datasets,
    described,
    evaluation,
    files,
    image_files,
    networks,
    prediction,
    sharding,
    tasks,
    weights,
)
from dpc_jax.base import InputError, Size
from dpc_jax.prediction import Found, Kept, Listed, Predictor, PredictSettings, Row
from dpc_jax.progress import track
from dpc_jax.read_ahead import read_ahead
from dpc_jax.task import Task

STOPPED = 'the images that are finished are in {workdir}. The same command goes on from here.'
SEVERAL_PROCESSES = 'a prediction is of one process; give each its own images and work folder'

LABELS = ('index', 'export')
FAULTS = ('skip', 'stop')
FOLDER = 'predictions'
PASSES = ('scales', 'flip', 'dtype', 'image_pooling_crop_size')
"""Fields of `config.evaluate` that predictions depend on."""

PLAIN = {'task': dict(tasks.DEFAULT), 'boxes': ''}
"""What older predictions were made with, which do not say it."""


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> list[Row]:
    """Predicts `config.predict.images` by `config.checkpoint` into `workdir/predictions`; prints where the files are.

    What is finished is kept: the same command goes on after any stop.

    Raises:
      InputError: whatever is wrong with config, checkpoint, workdir or the list of images, before any of the work; a
        faulty image, where `predict.faulty_images` is 'stop'.
    """
    sharding.check_devices()
    check(config)
    checkpoint = files.local(config.checkpoint, 'checkpoint')
    config = described.settled(config, checkpoint, with_data=False)
    task = task_of(config, checkpoint)
    network = evaluation.make_network(config, task.channels)
    variables = weights.restore(checkpoint, networks.variable_shapes(network))
    passes = evaluation.inference_settings(config, None)
    images = prediction.listed(config.predict.images, workdir / FOLDER)
    boxes = box_files.by_image(config.predict.get('boxes', ''), [image.path for image in images])
    crop_size = task.fields().get('size', (0, 0))
    predictor = prediction.of(network, task, variables, passes, settings_of(config), crop_size=crop_size, boxes=boxes)
    kept = Kept(workdir / FOLDER, cause(config, variables, task), task, exported=config.predict.labels == 'export')
    faults = predict_all(predictor, images, kept, stop=config.predict.faulty_images == 'stop')
    rows = [kept.rows[image.name] for image in images if str(image.path) not in faults]
    title = f'Predictions of {config.predict.images}'
    written = prediction.write_page(kept.folder, rows, faults, title=title, task=task)
    print(f'{len(rows)} images predicted{f", {len(faults)} passed over" if faults else ""}')
    print('\n'.join(map(str, written)))
    return rows


def check(config: ml_collections.ConfigDict) -> None:
    """InputError for a bad value, before any work."""
    if not config.checkpoint:
        raise InputError(
            'checkpoint is empty; give the folder of weights that a training or an import wrote:'
            ' --config.checkpoint=FOLDER'
        )
    checks.one_of('predict.labels', config.predict.labels, LABELS)
    checks.one_of('predict.faulty_images', config.predict.faulty_images, FAULTS)
    settings_of(config)


def settings_of(config: ml_collections.ConfigDict) -> PredictSettings:
    """How images go through."""
    predict = config.predict
    sizes = {field: checks.pair(predict[field], f'predict.{field}') for field in ('whole', 'tile')}
    return PredictSettings(config.evaluate.batch_size, predict.probabilities, overlap=predict.overlap, **sizes)


def task_of(config: ml_collections.ConfigDict, checkpoint: pathlib.Path) -> Task:
    """The task: the checkpoint's, or that of the config; InputError where it cannot give what is asked for."""
    task = described.found_task(config, checkpoint)
    if config.predict.labels == 'export' and task.facts.export_ids is None:
        raise InputError("predict.labels is 'export', but the data set has no ids of its own; allowed: index")
    if config.predict.probabilities and not task.has_probabilities:
        raise InputError(
            f"predict.probabilities is {config.predict.probabilities}, but the task '{task.name}' has none; allowed: 0"
        )
    if config.predict.get('boxes', '') and not task.of_crops:
        raise InputError(f"predict.boxes is '{config.predict.boxes}', but the task '{task.name}' sees whole images")
    if task.of_crops and min(task.fields()['size']) < 1:
        raise InputError(f"checkpoint '{checkpoint}' does not say the size of its crops: give --config.task.size")
    return task


def cause(config: ml_collections.ConfigDict, variables: Any, task: Task) -> dict[str, Any]:
    """What the predictions depend on, and how they are written."""
    fields = json.loads(config.to_json_best_effort())
    return {
        'weights': files.digest(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(variables)),
        'network': described.sections(config),
        **{name: fields['evaluate'][name] for name in PASSES},
        **{name: fields['predict'][name] for name in ('labels', 'probabilities', 'whole', 'tile', 'overlap')},
        **{name: value for name, value in (('task', task.fields()), ('boxes', _boxes(config))) if value != PLAIN[name]},
    }


def _boxes(config: ml_collections.ConfigDict) -> str:
    path = config.predict.get('boxes', '')
    return files.sha256(files.local(path, 'predict.boxes')) if path else ''


def predict_all(predictor: Predictor, images: list[Listed], kept: Kept, *, stop: bool) -> dict[str, str]:
    """Predicts what is not finished; image -> why it has no prediction."""
    faults: dict[str, str] = {}

    def passed_over(image: Listed, why: str) -> None:
        if stop:
            raise InputError(why)
        logging.warning('%s; it is passed over', why)
        faults[str(image.path)] = why

    sized: list[tuple[Listed, Size]] = []
    for image in images:
        if image.path.is_file() and kept.has(image.name, image.path):
            continue
        try:
            sized.append((image, image_files.size_of(image.path)))
        except InputError as error:
            passed_over(image, str(error))
    if len(images) > len(sized) + len(faults):
        print(f'{len(images) - len(sized) - len(faults)} of {len(images)} images are predicted already')
    groups = list(prediction.batches([size for _, size in sized], predictor))
    read = read_ahead(_read([sized[index][0] for index in group]) for group in groups)
    for group in track(read, 'predicting, batch', len(groups)):
        there = [(image, pixels) for image, pixels in group if not isinstance(pixels, InputError)]
        for image, pixels in group:
            if isinstance(pixels, InputError):
                passed_over(image, str(pixels))
        all_found = _found(predictor, there) if there else []
        for (image, pixels), found in zip(there, all_found, strict=True):
            if not found.finite:
                raise InputError(f'{image.path}: the network gives values that are not finite; its weights are damaged')
            kept.add(image.name, image.path, pixels, found)
    return faults


def _found(predictor: Predictor, there: list[tuple[Listed, UInt8[np.ndarray, '_ _ 3']]]) -> list[Found]:
    """What is found in images of one size; where the memory is not enough, one line says what helps."""
    image, pixels = there[0]
    try:
        return predictor.found([pixels for _, pixels in there], [str(image.path) for image, _ in there])
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        if not sharding.is_out_of_memory(error):
            raise
        settings = predictor.settings
        raise InputError(
            f'out of memory with {image.path} of {pixels.shape[0]}x{pixels.shape[1]} pixels, evaluate.batch_size'
            f' {settings.batch_size}; with a predict.whole below that size it goes in tiles of {settings.tile}'
        ) from error


def _read(images: list[Listed]) -> list[tuple[Listed, UInt8[np.ndarray, 'H W 3'] | InputError]]:
    found: list[tuple[Listed, UInt8[np.ndarray, 'H W 3'] | InputError]] = []
    for image in images:
        try:
            found.append((image, datasets.decode(image.path, 'RGB')))
        except InputError as error:
            found.append((image, error))
    return found
