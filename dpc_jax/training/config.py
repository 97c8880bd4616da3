"""What the config of a training says, made and checked; and which config a work folder belongs to."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.experimental import multihost_utils

from dpc_jax import checks, datasets, evaluation, files, input_pipeline, networks, provenance, tasks, weights
from dpc_jax.base import InputError
from dpc_jax.datasets import Dataset
from dpc_jax.input_pipeline import PipelineSettings
from dpc_jax.segmenter import Segmenter
from dpc_jax.training.optimizer import OptimizerSettings, check_parts, read_parts
from dpc_jax.training.step import StepSettings

CONFIG, CHECKPOINTS = 'config.json', 'checkpoints'  # in a work folder
PARTS = ('all', 'backbone')

FREE_FIELDS = (
    *('journey', 'dataset.root', 'train.workers', 'train.threads', 'train.keep'),
    *('train.log_every', 'train.evaluate_every', 'train.checkpoint_every'),
    *('evaluate.batch_size', 'evaluate.pictures'),
)
"""Fields that may change between two starts of one run. Of the data, the names of the images are compared."""

ADDED: dict[str, Any] = {'train.parts': {}, 'task': dict(tasks.DEFAULT)}
"""Fields that older configs lack, each with the value that stands for what was done before."""


def check(config: ml_collections.ConfigDict, num_devices: int) -> None:
    """Makes all that is made at no cost, so that a bad value is refused before any work; InputError."""
    train = config.train
    for field, value in (('checkpoint', config.checkpoint), ('evaluate.export', config.evaluate.export)):
        if value:
            raise InputError(
                f"{field} is '{value}', but belongs to --config.journey=evaluate;"
                ' a training starts from train.init.checkpoint and exports no labels'
            )
    evaluation.check(config)
    datasets.check_split(config.dataset, train.split)
    network = make_network(config)
    tasks.make(config).check_size('train.crop_size', tuple(train.crop_size))
    check_parts(step_settings(config).optimizer.parts, network.scopes)
    check_batch_norms(network, input_pipeline.pipeline_settings(config, num_devices), train.batch_norm, num_devices)
    checks.one_of('train.init.parts', train.init.parts, PARTS)
    for field in ('log_every', 'evaluate_every', 'checkpoint_every'):
        checks.at_least(0, **{f'train.{field}': train[field]})
    checks.at_least(1, train__keep=train.keep)


def check_batch_norms(network: Segmenter, pipeline: PipelineSettings, batch_norm: str, num_devices: int) -> None:
    """InputError where a batch norm would have fewer than two values per channel, as PyTorch refuses it in training.

    One value less its mean is 0, so what such a batch norm gives does not depend on the image. A global pooling leaves
    one value of each image, so it needs two images that are normalised together.
    """
    images = images_together(pipeline.batch_size, pipeline.parts, batch_norm, num_devices)
    if images > 1:
        return
    values, name = networks.fewest_values(network, images, pipeline.crop_size)
    if values < 2:
        raise InputError(
            f'train.batch_size {pipeline.batch_size} in train.accumulate {pipeline.parts} parts, with train.batch_norm'
            f" '{batch_norm}' on {num_devices} devices, normalises 1 image at a time, of which {name} has 1 value per"
            f' channel; {_advice(pipeline, batch_norm)}'
        )


def _advice(pipeline: PipelineSettings, batch_norm: str) -> str:
    """What lets more images be normalised together."""
    ways = ['fewer parts'] * (pipeline.parts > 1) + ['a larger batch_size']
    others = [f"'{name}'" for name in ('synced', 'frozen') if name != batch_norm]
    return f'take {", ".join(ways)}, or batch_norm {" or ".join(others)}'


def images_together(batch_size: int, parts: int, batch_norm: str, num_devices: int) -> int:
    """Images whose statistics normalise together; two where none do, which frozen batch norms do not mind."""
    if batch_norm == 'frozen':
        return 2
    return batch_size // parts // (num_devices if batch_norm == 'per_device' else 1)


def make_network(config: ml_collections.ConfigDict) -> Segmenter:
    """The network as it is trained: its moving averages, the type of its computation."""
    train, channels = config.train, tasks.make(config).channels
    checks.one_of('train.dtype', train.dtype, evaluation.DTYPES)
    if not 0 <= train.bn_decay < 1:
        raise InputError(
            f'train.bn_decay is {train.bn_decay}; it must be above 0 and below 1, or 0 for the official one'
        )
    network = networks.make(config, channels, bn_decay=train.bn_decay or None)
    return network.clone(backbone=network.backbone.clone(dtype=jnp.dtype(train.dtype)))


def step_settings(config: ml_collections.ConfigDict) -> StepSettings:
    """What a step computes."""
    train = config.train
    names = OptimizerSettings.__dataclass_fields__
    return StepSettings(
        tasks.make(config).for_training(train),
        OptimizerSettings(**{**{name: train[name] for name in names}, 'parts': read_parts(train.parts.to_dict())}),
        batch_norm=train.batch_norm,
        ema_decay=train.ema_decay,
    )


# ---- the work folder ------------------------------------------------------------------------------------------------


def claim(workdir: pathlib.Path, config: ml_collections.ConfigDict, dataset: Dataset) -> None:
    """Writes the config into a folder that holds no checkpoint yet.

    InputError if it holds one that belongs to another config or to other data.
    """
    fault = None
    if jax.process_index() == 0:
        try:
            found = {'train_images': images_of(dataset), 'train_start': start_of(config)}
            _claim(workdir, {**json.loads(config.to_json_best_effort()), **found})
        except InputError as error:
            fault = error
    # Without this the other processes would wait for ever for the first.
    if jax.process_count() > 1 and not multihost_utils.broadcast_one_to_all(np.int32(fault is None)):
        fault = fault or InputError(f"process 0 refuses the workdir '{workdir}'; its message gives the reason")
    if fault is not None:
        raise fault


def _claim(workdir: pathlib.Path, wanted: Mapping[str, Any]) -> None:
    path, wanted = workdir / CONFIG, {name: part for name, part in wanted.items() if name != 'predict'}
    if not any((workdir / CHECKPOINTS).glob('[0-9]*')):  # an earlier start wrote no checkpoint
        files.write(path, json.dumps(wanted, indent=2) + '\n')
        return
    try:
        held = json.loads(path.read_text(encoding='utf-8'))
    except FileNotFoundError:
        raise InputError(f"workdir '{workdir}' has checkpoints but no {CONFIG}; give another workdir") from None
    except (OSError, ValueError) as error:
        raise InputError(f'{path} cannot be read ({error}); give another workdir') from error
    there_and_here = (_filled(provenance.flat(fields)) for fields in (held, wanted))
    known = all(fields.get('train_start') for fields in (held, wanted))  # of both; else their paths are compared
    free = (*FREE_FIELDS, *(('train.init.checkpoint',) if known else ('train_start', 'train_start.weights')))
    for name, there, here in provenance.differences(*there_and_here, free=free):
        was, now = (json.loads(text) if text != provenance.MISSING else None for text in (there, here))
        raise InputError(
            f"workdir '{workdir}' belongs to another config: {name} was {was!r} there and is {now!r} now;"
            ' give another workdir'
        )


def _filled(fields: Mapping[str, str]) -> dict[str, str]:
    """Flat fields with those that an older config lacks; a part that does not clip is one without `clip_norm`."""
    fields = {**provenance.flat(ADDED), **fields}
    clips = {name for name in fields if name.startswith('train.parts.') and name.endswith('.clip_norm')}
    ruled = {name.rpartition('.')[0] for name in fields.keys() - clips}  # by another field, too
    unclipped = {name for name in clips if not json.loads(fields[name]) and name.rpartition('.')[0] in ruled}
    return {name: text for name, text in fields.items() if name not in unclipped}


def start_of(config: ml_collections.ConfigDict) -> dict[str, str]:
    """The digest of the weights from which a training starts, wherever they lie; empty where there are none to read."""
    path = config.train.init.checkpoint
    try:
        return {'weights': weights.fingerprint(path)[:16]} if path else {}
    except InputError:  # a training that goes on does not need them
        return {}


def images_of(dataset: Dataset) -> dict[str, Any]:
    """How many images there are, and a digest of their file names in order: their content would take minutes.

    Also what their labels stand for, where the config does not say it: a `dataset.json` may have changed.
    """
    names = (pathlib.Path(dataset.example_name(index)).name for index in range(len(dataset)))
    found = {'count': len(dataset), 'names': files.digest([os.fsencode('\n'.join(names))])[:16]}
    return {**found, 'meaning': dataset.meaning} if dataset.meaning else found
