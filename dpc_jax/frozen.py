"""What a search trains on, made of its config: the frozen backbone and the features that it gives."""

import dataclasses
import functools
import logging
import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import Array, Float

from dpc_jax import backbones, checks, feature_cache, files, heads, pretrain, provenance, teacher, weights
from dpc_jax.base import InputError, PyTree
from dpc_jax.datasets import Dataset
from dpc_jax.end_to_end import IMAGES
from dpc_jax.feature_cache import Backbone, CacheSettings, FeatureCache
from dpc_jax.pretrain import PretrainSettings
from dpc_jax.progress import track

Datasets = tuple[Dataset, Dataset]
"""Train and val."""


def make_backbone(config: ml_collections.ConfigDict) -> nn.Module:
    """The Flax module; one that is trained on the spot has batch norms that keep up."""
    decay = {} if config.backbone.weights else {'bn_decay': pretrain.BN_DECAY}
    backbone = config.backbone
    return backbones.make(backbone.name, output_stride=backbone.output_stride, width=backbone.width, **decay)


def strides_of(config: ml_collections.ConfigDict) -> tuple[int, ...]:
    """The strides at which the backbone has a map; InputError where it has none that fits the config."""
    model: Any = make_backbone(config)
    return tuple(model.by_stride)


def check_strides(config: ml_collections.ConfigDict, strides: tuple[int, ...]) -> None:
    """InputError unless the backbone has a map at each stride that the head of the space reads."""
    there = strides_of(config)
    missing = [stride for stride in strides if stride not in there]
    if missing:
        raise InputError(
            f'backbone.output_stride is {config.backbone.output_stride}, so {config.backbone.name} has no map at'
            f' stride {missing[0]}; the space {config.space.name} reads maps at {", ".join(map(str, strides))}'
        )


def backbone_variables(config: ml_collections.ConfigDict, workdir: pathlib.Path, train: Dataset) -> PyTree:
    """Weights from the file that the config names, else trained here and kept in `workdir` for the next start."""
    model = make_backbone(config)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 65, 65, 3)))
    load = functools.partial(weights.load_backbone, shapes, scope=model.official_scope)
    if config.backbone.weights:
        variables, loaded = load(config.backbone.weights)
        print(loaded)
        return variables
    path = backbone_path(config, workdir, train)
    if path.exists():
        try:
            return load(path)[0]
        except InputError as fault:
            logging.warning('%s; training it anew', fault)
    settings = pretrain_settings(config)
    trained, loss = pretrain.train_backbone(jax.random.key(settings.seed), model, train, settings, track=track)
    weights.save_backbone(trained, path, scope=model.official_scope)
    print(f'backbone trained: loss {loss:.3f} over the last tenth of {settings.steps} steps; kept in {path}')
    return load(path)[0]


def backbone_path(config: ml_collections.ConfigDict, workdir: pathlib.Path, train: Dataset) -> pathlib.Path:
    """The file of the backbone's weights: the config's, or where those that are trained here are kept."""
    if config.backbone.weights:
        return files.local(config.backbone.weights, 'backbone.weights').resolve()
    made_of = {
        'train': train.fingerprint(),
        'backbone': [config.backbone.name, config.backbone.width, config.backbone.output_stride],
        'pretrain': dataclasses.asdict(pretrain_settings(config)),
    }
    return workdir.resolve() / f'backbone-{provenance.settings_hash(made_of)}.npz'


def pretrain_settings(config: ml_collections.ConfigDict) -> PretrainSettings:
    """How a backbone without published weights is trained."""
    fields = dict(config.backbone.pretrain)
    crop_size = checks.pair(fields.pop('crop_size'), 'backbone.pretrain.crop_size')
    return PretrainSettings(**fields, crop_size=crop_size, seed=config.seed)


def cache_settings(config: ml_collections.ConfigDict) -> CacheSettings:
    """What is drawn from the data for the cache."""
    if any(not isinstance(scale, int | float) for scale in config.cache.scales):
        raise InputError(f'cache.scales is {config.cache.scales}; it must be numbers')
    return CacheSettings(
        crop_size=checks.pair(config.cache.crop_size, 'cache.crop_size'),
        views=config.cache.views,
        scales=tuple(config.cache.scales),
        flip_probability=config.cache.flip_probability,
        seed=config.seed,
        batch_size=config.cache.batch_size,
    )


def build_cache(
    config: ml_collections.ConfigDict, workdir: pathlib.Path, sets: Datasets, variables: PyTree
) -> FeatureCache:
    """Runs the frozen backbone over both splits, or opens what an earlier start has built."""
    model, strides = make_backbone(config), heads.make(config, num_classes=2).strides

    @jax.jit
    def features(images: Float[Array, 'B H W 3']) -> dict[int, Float[Array, 'B _ _ _']]:
        endpoints: Any = model.apply(variables, images)
        return {stride: endpoints[model.by_stride[stride]] for stride in strides}

    leaves = jax.tree.leaves(jax.tree.map(np.asarray, variables))
    description = {
        'name': config.backbone.name,
        'width': config.backbone.width,
        'weights': files.digest(leaf.tobytes() for leaf in leaves),
    }
    directory = files.local(config.cache.directory or workdir / 'cache', 'cache.directory')
    run: Backbone = features
    return feature_cache.load_or_build(
        directory,
        sets,
        run,
        description,
        cache_settings(config),
        output_strides=strides,
        teacher=teacher.make(config, sets[0]),
        track=track,
    )


def build_images(config: ml_collections.ConfigDict, workdir: pathlib.Path, sets: Datasets) -> FeatureCache:
    """Crops of train and whole images of val for the second stage: a cache whose features are the images."""
    directory = files.local(config.cache.directory or workdir / 'cache', 'cache.directory')
    return feature_cache.load_or_build(
        directory,
        sets,
        lambda images: {IMAGES: images},
        {'name': 'images'},
        image_settings(config),
        output_strides=(IMAGES,),
        track=track,
    )


def image_settings(config: ml_collections.ConfigDict) -> CacheSettings:
    """What is drawn from the data for the second stage."""
    tuning = config.tuning
    return CacheSettings(
        crop_size=checks.pair(tuning.crop_size, 'tuning.crop_size'),
        views=tuning.views,
        scales=tuple(tuning.scales),
        flip_probability=config.cache.flip_probability,
        seed=config.seed,
        batch_size=config.cache.batch_size,
    )
