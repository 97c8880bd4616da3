"""The journey of an evaluation: a checkpoint, the images of a split, one confusion matrix over all of them.

data set, checkpoint -> [pad -> predict -> count] batch by batch -> scores with their cause, picture, label images
"""

import collections
import json
import os
import pathlib
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from dpc_jax import (
    checkpoint,
    datasets,
    drawn_data,
    evaluation_report,
    evaluator,
    feature_cache,
    networks,
    preprocess,
    provenance,
    sharding,
)
from dpc_jax.base import InputError, PyTree, SegmentationExample, Size
from dpc_jax.datasets import Dataset
from dpc_jax.evaluator import Counted, Evaluator
from dpc_jax.inference import InferenceSettings
from dpc_jax.progress import track
from dpc_jax.segmenter import Segmenter
from dpc_jax.study import settings_hash

DTYPES = ('float32', 'bfloat16')
MOST_PICTURES = 100  # they are one picture, which grows with each
FOLLOWS = (0, 0)  # a size that is to be found out

HASHED = ('split', 'scales', 'flip', 'dtype', 'crop_size', 'image_pooling_crop_size')
"""Fields of `config.evaluate` that scores depend on; the network, and the content of data and weights come to it."""


class Evaluation(NamedTuple):
    """What was found, and where it is written."""

    confusion: Int[np.ndarray, 'L L']  # int64 pixels, by (label, prediction)
    row: dict[str, Any]  # scores and their cause, as in metrics.json
    files: list[pathlib.Path]


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> Evaluation:
    """Evaluates `config.checkpoint` and writes into `workdir/evaluation`; prints the scores and where the files are.

    Raises:
      InputError: whatever is wrong with config, data, checkpoint or workdir; before any of the work.
    """
    sharding.check_devices()
    check(config)
    if not config.checkpoint:
        raise InputError(
            'checkpoint is empty; experiments/import_checkpoint.py makes one of official weights, then'
            ' --config.checkpoint=FOLDER'
        )
    place = drawn_data.prepared(config.dataset, workdir)
    dataset = datasets.load(config.dataset.name, place, config.evaluate.split)
    shapes = networks.variable_shapes(make_network(config))
    variables = checkpoint.restore(pathlib.Path(config.checkpoint).expanduser(), shapes)
    scorer = make_evaluator(config, dataset)
    folder = workdir / 'evaluation'
    make_folder(folder, 'workdir')
    export = pathlib.Path(config.evaluate.export).expanduser() if config.evaluate.export else None
    if export is not None:
        make_folder(export, 'evaluate.export')

    def each(example: SegmentationExample, predicted: UInt8[np.ndarray, '_ _']) -> None:
        if export is not None:
            write_label(export / export_name(example), predicted, dataset)

    counted = scorer.count(variables, show=config.evaluate.pictures, each=each if export is not None else None)
    assert counted is not None  # nobody stopped it
    return write(folder, scorer, variables, counted)


# ---- what a config says ---------------------------------------------------------------------------------------------


def check(config: ml_collections.ConfigDict) -> None:
    """Makes everything that costs nothing, so that a bad value is refused before any work; InputError."""
    evaluate, stride = config.evaluate, config.backbone.output_stride
    datasets.check_split(config.dataset.name, evaluate.split)
    make_network(config)
    crop_size = _size(config, 'crop_size')
    if crop_size != FOLLOWS and any((side - 1) % stride for side in crop_size):
        raise InputError(
            f'evaluate.crop_size is {crop_size}; it must be output stride ({stride}) * k + 1, such as'
            f' {preprocess.next_crop(crop_size, stride)}, or {FOLLOWS} to fit the largest image'
        )
    inference_settings(config, crop_size)
    if evaluate.batch_size < 1:
        raise InputError(f'evaluate.batch_size is {evaluate.batch_size}; it must be at least 1')
    if not 0 <= evaluate.pictures <= MOST_PICTURES:
        raise InputError(f'evaluate.pictures is {evaluate.pictures}; it must be 0 to {MOST_PICTURES}')


def make_network(config: ml_collections.ConfigDict) -> Segmenter:
    """The network for the classes of the data set, computing in the dtype that is asked for."""
    dtype = config.evaluate.dtype
    if dtype not in DTYPES:
        raise InputError(f"evaluate.dtype is '{dtype}'; allowed: {', '.join(DTYPES)}")
    network = networks.make(config, len(datasets.classes(config.dataset.name)))
    return network.clone(backbone=network.backbone.clone(dtype=jnp.dtype(dtype)))


def make_evaluator(config: ml_collections.ConfigDict, dataset: Dataset) -> Evaluator:
    """The evaluator of the config's network on `dataset`, whose images were all decoded once; see `choose_crop`."""
    crop_size = choose_crop(config, dataset)
    settings = inference_settings(config, crop_size)
    return evaluator.make(config, dataset, make_network(config), settings, crop_size=crop_size)


def inference_settings(config: ml_collections.ConfigDict, crop_size: Size) -> InferenceSettings:
    """Passes and pooling windows, for images of that size if it is known."""
    scales = tuple(config.evaluate.scales)
    if any(type(scale) not in (int, float) for scale in scales):
        raise InputError(f'evaluate.scales is {scales}; it must be one or more numbers greater than 0')
    pool_crop = _size(config, 'image_pooling_crop_size')
    if pool_crop != FOLLOWS and crop_size != FOLLOWS and any(np.greater(pool_crop, crop_size)):
        raise InputError(
            f'evaluate.image_pooling_crop_size is {pool_crop}; it must not be larger than the crop {crop_size}'
        )
    if pool_crop != FOLLOWS and config.context.pooling != 'sliding':
        raise InputError(
            f"evaluate.image_pooling_crop_size is {pool_crop}; that needs context.pooling 'sliding', bins cover the"
            f' whole map: {FOLLOWS}'
        )
    return InferenceSettings(
        tuple(map(float, scales)), config.evaluate.flip, None if pool_crop == FOLLOWS else pool_crop
    )


def choose_crop(config: ml_collections.ConfigDict, dataset: Dataset) -> Size:
    """The crop that is asked for, or the smallest that holds every image; decodes each once, so that faults show now.

    Raises:
      InputError: a faulty file, an image larger than the crop, two images that would be exported to one file.
    """
    with ThreadPoolExecutor() as pool:
        seen = pool.map(lambda index: _size_and_name(dataset[index]), range(len(dataset)))
        found = list(track(seen, 'checking the images', len(dataset)))
    largest = max(height for (height, _), _ in found), max(width for (_, width), _ in found)
    fitting = preprocess.next_crop(largest, config.backbone.output_stride)
    crop_size = _size(config, 'crop_size')
    if crop_size != FOLLOWS and any(np.greater(largest, crop_size)):
        raise InputError(
            f'evaluate.crop_size is {crop_size}; the largest image has {largest[0]}x{largest[1]} pixels, that needs'
            f' {fitting}, or {FOLLOWS} to fit it'
        )
    (name, times), *_ = collections.Counter(name for _, name in found).most_common(1)
    if config.evaluate.export and times > 1:
        raise InputError(f"evaluate.export is '{config.evaluate.export}': {times} images would be written to {name}")
    return fitting if crop_size == FOLLOWS else crop_size


def _size_and_name(example: SegmentationExample) -> tuple[Size, str]:
    height, width = example.label.shape
    return (height, width), export_name(example)


def _size(config: ml_collections.ConfigDict, field: str) -> Size:
    size = tuple(config.evaluate[field])
    if len(size) != 2 or any(type(side) is not int for side in size) or (size != FOLLOWS and min(size) < 1):
        raise InputError(f'evaluate.{field} is {size}; it must be (height, width), two integers above 0, or {FOLLOWS}')
    return size[0], size[1]


# ---- files ----------------------------------------------------------------------------------------------------------


def make_folder(folder: pathlib.Path, what: str) -> None:
    """Makes it if it is missing; InputError where that cannot be or nothing may be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{what} '{folder}' cannot be made: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{what} '{folder}' is not writable")


def export_name(example: SegmentationExample) -> str:
    """The image's file name as a PNG: that of Cityscapes begins with <city>_<sequence>_<frame>, as its server wants."""
    return re.sub(r'[^\w.-]+', '_', pathlib.Path(example.name).stem) + '.png'


def write_label(path: pathlib.Path, classes: UInt8[np.ndarray, 'H W'], dataset: Dataset) -> None:
    """A label image of the original size, in the ids that the data set's server takes."""
    ids = dataset.export_ids or range(dataset.num_classes)
    Image.fromarray(np.array(ids, np.uint8)[classes]).save(path)


def cause(config: ml_collections.ConfigDict, dataset: Dataset, variables: PyTree) -> dict[str, Any]:
    """What the scores depend on: config, content of data and weights, code, device."""
    fields = json.loads(config.to_json_best_effort())
    content = {
        'data': dataset.fingerprint(),
        'weights': feature_cache.digest(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(variables)),
    }
    hashed = {name: fields[name] for name in ('backbone', 'context', 'decoder')}
    evaluate = {name: fields['evaluate'][name] for name in HASHED}
    return {
        'dataset': dataset.name,
        **{name: evaluate[name] for name in ('split', 'scales', 'flip', 'dtype')},
        'checkpoint': config.checkpoint,
        **content,
        'config_hash': settings_hash({**hashed, 'evaluate': evaluate, **content}),
        'commit': provenance.commit(),
        'device': provenance.device(),
        'config': fields,
    }


def row_of(scorer: Evaluator, variables: PyTree, counted: Counted) -> dict[str, Any]:
    """The scores and their cause."""
    config, dataset = scorer.config, scorer.dataset
    return {
        **evaluation_report.scores(counted.confusion, dataset.classes),
        'images': len(dataset),
        'seconds': round(counted.seconds, 3),
        'crop_size': list(scorer.crop_size),
        **cause(config, dataset, variables),
    }


def write(folder: pathlib.Path, scorer: Evaluator, variables: PyTree, counted: Counted, **more: Any) -> Evaluation:
    """Text and picture into `folder`; prints the scores and the paths. `more` goes into the row."""
    dataset, picture = scorer.dataset, folder / 'predictions.png'
    row = {**row_of(scorer, variables, counted), **more}
    if jax.process_index():  # one writes
        return Evaluation(counted.confusion, row, [])
    picture.unlink(missing_ok=True)
    if counted.shown:
        evaluation_report.panels(counted.shown, dataset.classes, dataset.palette).savefig(picture, dpi=150)
    texts = {
        'report.md': evaluation_report.as_markdown(
            row, counted.confusion, dataset.classes, picture.name * bool(counted.shown)
        ),
        'confusion.csv': evaluation_report.as_csv(counted.confusion, dataset.classes),
        'metrics.json': evaluation_report.as_json(row),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding='utf-8')
    files = [*(folder / name for name in texts), *[picture] * bool(counted.shown)]
    print(evaluation_report.headline(row))
    print('\n'.join(map(str, files)))
    return Evaluation(counted.confusion, row, files)
