"""What the config of an evaluation says, made and checked."""

import dataclasses
import logging
import os
import pathlib
import re
from concurrent.futures import ThreadPoolExecutor

import jax.numpy as jnp
import ml_collections
import numpy as np

from dpc_jax import checks, datasets, networks, padding, preprocess, tasks
from dpc_jax.base import InputError, Size
from dpc_jax.datasets import Dataset
from dpc_jax.evaluation import scorer
from dpc_jax.evaluation.scorer import Scorer
from dpc_jax.inference import InferenceSettings
from dpc_jax.progress import track
from dpc_jax.segmenter import Segmenter
from dpc_jax.task import Task

DTYPES = ('float32', 'bfloat16')
MOST_PICTURES = 100  # all go into one picture, which grows with each
FOLLOWS = (0, 0)  # a size that is to be found out


def check(config: ml_collections.ConfigDict) -> None:
    """Makes all that is made at no cost, so that a bad value is refused before any work; InputError."""
    evaluate, stride = config.evaluate, config.backbone.output_stride
    datasets.check_split(config.dataset, evaluate.split)
    make_network(config)
    crop_size, task = _crop_size(config), tasks.make(config)
    if task.of_crops and (crop_size == FOLLOWS or tuple(evaluate.scales) != (1.0,)):
        raise InputError(
            f'evaluate.crop_size is {crop_size} and evaluate.scales {tuple(evaluate.scales)}; the task'
            f" '{config.task.name}' sees crops of one size at one scale: give their size, and (1.0,)"
        )
    if crop_size != FOLLOWS and any((side - 1) % stride for side in crop_size):
        raise InputError(
            f'evaluate.crop_size is {crop_size}; it must be output stride ({stride}) * k + 1, such as'
            f' {preprocess.next_crop(crop_size, stride)}, or {FOLLOWS} to fit the largest image'
        )
    if crop_size != FOLLOWS:
        task.check_size('evaluate.crop_size', crop_size)
    inference_settings(config, crop_size)
    checks.at_least(1, evaluate__batch_size=evaluate.batch_size)
    if not 0 <= evaluate.pictures <= MOST_PICTURES:
        raise InputError(f'evaluate.pictures is {evaluate.pictures}; it must be 0 to {MOST_PICTURES}')


def make_network(config: ml_collections.ConfigDict, num_classes: int | None = None) -> Segmenter:
    """The network, computing in the dtype that is asked for; by default with the channels of the config's task."""
    dtype = config.evaluate.dtype
    checks.one_of('evaluate.dtype', dtype, DTYPES)
    network = networks.make(config, num_classes or tasks.make(config).channels)
    return network.clone(backbone=network.backbone.clone(dtype=jnp.dtype(dtype)))


def make_scorer(config: ml_collections.ConfigDict, dataset: Dataset) -> Scorer:
    """The scorer of the config's network on `dataset`, whose images were all decoded once; see `choose_crop`."""
    task = tasks.of(tasks.fields_of(config), datasets.facts_of(dataset))
    crop_size = choose_crop(config, dataset, task)
    settings = inference_settings(config, crop_size)
    return scorer.make(config, dataset, make_network(config), with_size(task, crop_size), settings, crop_size=crop_size)


def with_size(task: Task, crop_size: Size) -> Task:
    """The task with the size of the crops that it sees, if it sees crops."""
    return dataclasses.replace(task, size=crop_size) if task.of_crops else task  # type: ignore[call-arg]


def inference_settings(config: ml_collections.ConfigDict, crop_size: Size | None) -> InferenceSettings:
    """Passes and pooling windows, for images of that size if it is known."""
    crop_size = crop_size or FOLLOWS
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


def choose_crop(config: ml_collections.ConfigDict, dataset: Dataset, task: Task) -> Size:
    """The crop that is asked for, or the smallest that holds every image; decodes all once, so that faults show now.

    Where the task sees crops of one size, it is that size, and nothing is decoded.

    Raises:
      InputError: a faulty file, an image larger than the crop.
    """
    if task.of_crops:
        held, wanted = tuple(tasks.fields_of(config).get('size', FOLLOWS)), _crop_size(config)
        if held not in (FOLLOWS, wanted):
            print(f'crops of {wanted}; the checkpoint is of crops of {held}')
        return wanted
    with ThreadPoolExecutor() as pool:
        seen = pool.map(lambda index: task.size_of(dataset[index]), range(len(dataset)))
        sizes = list(track(seen, 'checking the images', len(dataset)))
    largest = max(height for height, _ in sizes), max(width for _, width in sizes)
    fitting = preprocess.next_crop(largest, config.backbone.output_stride)
    crop_size = _size(config, 'crop_size')
    if crop_size != FOLLOWS and any(np.greater(largest, crop_size)):
        raise InputError(
            f'evaluate.crop_size is {crop_size}; the largest image has {largest[0]}x{largest[1]} pixels, which needs'
            f' {fitting}, or {FOLLOWS} to fit it'
        )
    if crop_size != FOLLOWS:
        return crop_size
    plan = padding.plan(sizes, config.backbone.output_stride, config.evaluate.batch_size)
    if plan.is_outlier:
        plan = plan._replace(batch_size=config.evaluate.batch_size)
        bytes_each = np.dtype(np.float32).itemsize * 3 * fitting[0] * fitting[1]
        logging.warning('evaluation: %s', padding.warning(sizes, plan, dataset.example_name, bytes_each))
    return fitting


def _size(config: ml_collections.ConfigDict, field: str) -> Size:
    size = tuple(config.evaluate[field])
    if len(size) != 2 or any(type(side) is not int for side in size) or (size != FOLLOWS and min(size) < 1):
        raise InputError(f'evaluate.{field} is {size}; it must be (height, width), two integers above 0, or {FOLLOWS}')
    return size[0], size[1]


def _crop_size(config: ml_collections.ConfigDict) -> Size:
    """What the config asks for, or the size of the crops of the checkpoint's task."""
    size = _size(config, 'crop_size')
    height, width = tasks.fields_of(config).get('size', FOLLOWS) if size == FOLLOWS else size
    return height, width


def export_names(dataset: Dataset) -> dict[str, str]:
    """Name of each example -> that of the PNG that is exported of it.

    It is the image's file name: of Cityscapes it begins with <city>_<sequence>_<frame>, as its server wants. Where two
    images would have one, the folders in which they lie are kept, as predictions keep them.
    """
    names = dict.fromkeys(dataset.example_name(index) for index in range(len(dataset)))
    flat = {name: re.sub(r'[^\w.-]+', '_', pathlib.Path(name).stem) + '.png' for name in names}
    if len({name.casefold() for name in flat.values()}) == len(flat):
        return flat
    above = os.path.commonpath([os.path.dirname(name) or '.' for name in names])
    paths = {name: pathlib.PurePath(os.path.relpath(name, above)) for name in names}
    inside = {name: path.with_suffix('.png').as_posix() for name, path in paths.items()}
    if len({name.casefold() for name in inside.values()}) == len(inside):
        return inside
    return {name: f'{path.as_posix()}.png' for name, path in paths.items()}  # images that differ by their suffix
