"""What a config names, made: data sets, backbone, cache, settings, study. Each function makes one thing or refuses.

All that can be refused is refused by `check` before the first minute of work.
"""

import dataclasses
import functools
import json
import logging
import pathlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optuna
from jaxtyping import Array, Float

from dpc_jax import (
    backbones,
    checks,
    datasets,
    feature_cache,
    files,
    found_cells,
    fused,
    heads,
    ladder,
    memory,
    preprocess,
    pretrain,
    provenance,
    sharding,
    spaces,
    strategy,
    weights,
)
from dpc_jax.base import InputError, PyTree
from dpc_jax.datasets import Dataset
from dpc_jax.feature_cache import Backbone, CacheSettings, FeatureCache
from dpc_jax.ladder import Halve
from dpc_jax.population import PopulationEvaluator, fastest_chunk
from dpc_jax.pretrain import PretrainSettings
from dpc_jax.progress import track
from dpc_jax.proxy import ProxySettings, Source
from dpc_jax.spaces import Space
from dpc_jax.streaming import StreamedData
from dpc_jax.study import RunInfo, Study

CHUNKS = (1, 2, 4, 8, 16, 32, 64)
"""Candidates within one vmap that are tried when the config leaves the choice open, as far as `search.population`
fills them on every device."""

PROXY = 'proxy'
"""Name of the first rung, over all candidates."""

FREE_FIELDS = (
    *('journey', 'rerank', 'dataset.root', 'backbone.weights', 'cache.directory', 'cache.batch_size'),
    *(
        'search.num_candidates',
        'search.storage',
        'proxy.chunk',
        'proxy.at_once',
        'proxy.steps_per_call',
        'proxy.kernels',
        'proxy.stream',
    ),
)
"""Fields that may change between two runs of one study. Data and weights are compared by content instead of by path;
chunk and kernels change scores by rounding only, where the features lie changes none."""

ADDED_FIELDS = {'proxy.precision': 'float32', 'proxy.stops_at': (), 'search.objectives': ('miou',)}
"""Fields that older studies lack, each with the value that stands for what they did (on a CPU bit for bit)."""

Datasets = tuple[Dataset, Dataset]
"""Train and val."""


def load_datasets(config: ml_collections.ConfigDict) -> Datasets:
    """Train and val of the data set that the config names."""
    train, val = (datasets.load(config.dataset.name, config.dataset, split) for split in datasets.SPLITS)
    return train, val


def check(config: ml_collections.ConfigDict) -> None:
    """Makes everything that costs nothing, so that a bad value is refused before any work; InputError."""
    space = make_space(config)
    make_backbone(config)
    pretrain_settings(config)
    crop_size = cache_settings(config).crop_size
    feature_cache.check_crop(crop_size, heads.make(config, num_classes=2).strides)
    loss_stride = config.proxy.loss_stride
    if loss_stride < 1 or any((side - 1) % loss_stride for side in crop_size):
        raise InputError(f'proxy.loss_stride is {loss_stride}; it must divide the crop {crop_size} less one pixel')
    rungs = ladder.of(config)
    proxy_settings(config, num_classes=2, steps=config.proxy.steps, halvings=rungs.halvings)
    for rung in rungs.anew:
        proxy_settings(config, num_classes=2, steps=rung.steps)
    fused.for_device(config.proxy.kernels, jax.devices()[0])
    checks.one_of('proxy.stream', config.proxy.stream, memory.STREAMS)
    strategy.check(config, space, rungs.halvings)
    for name in config.search.references:
        found_cells.named(space, name)
    for field in ('num_candidates', 'population'):
        checks.at_least(1, **{f'search.{field}': config.search[field]})
    if config.proxy.chunk < 0 or config.proxy.at_once < 0 or config.proxy.steps_per_call < 1:
        raise InputError(
            'proxy.chunk and proxy.at_once must be 0 (chosen by measuring) or more, steps_per_call at least 1'
        )


def make_space(config: ml_collections.ConfigDict) -> Space:
    """The search space; InputError where the config is of something else."""
    if not isinstance(config, ml_collections.ConfigDict) or 'space' not in config:
        raise InputError('the config names no search; configs/scenes_search.py and configs/camvid_search.py do')
    return spaces.make(dict(config.space))


def make_pruner(config: ml_collections.ConfigDict, rung: str = PROXY) -> optuna.pruners.BasePruner:
    """What stops candidates of a rung early: on the proxy the ladder's halvings, else the config's pruner."""
    halvings = ladder.of(config).halvings
    settings = proxy_settings(config, num_classes=2, steps=config.proxy.steps, halvings=halvings)
    return strategy.make_pruner(config, halvings if rung == PROXY else (), settings.stops())


# ---- backbone and features ------------------------------------------------------------------------------------------


def make_backbone(config: ml_collections.ConfigDict) -> nn.Module:
    """The Flax module; one that is trained on the spot has batch norms that keep up."""
    decay = {} if config.backbone.weights else {'bn_decay': pretrain.BN_DECAY}
    backbone = config.backbone
    return backbones.make(backbone.name, output_stride=backbone.output_stride, width=backbone.width, **decay)


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
        return pathlib.Path(config.backbone.weights).expanduser().resolve()
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
    directory = pathlib.Path(config.cache.directory or workdir / 'cache').expanduser()
    run: Backbone = features
    return feature_cache.load_or_build(
        directory, sets, run, description, cache_settings(config), output_strides=strides, track=track
    )


# ---- proxy ----------------------------------------------------------------------------------------------------------


def proxy_settings(
    config: ml_collections.ConfigDict, num_classes: int, steps: int, halvings: Sequence[Halve] = ()
) -> ProxySettings:
    """What scores depend on; `steps` is that of a rung, `halvings` the ladder's within it."""
    proxy = config.proxy
    checks.one_of('proxy.kernels', proxy.kernels, fused.KERNELS)
    if any(type(step) is not int for step in proxy.stops_at):
        raise InputError(f'proxy.stops_at is {proxy.stops_at}; it must be whole numbers')
    return ProxySettings(
        heads.make(config, num_classes),
        steps=steps,
        batch_size=proxy.batch_size,
        learning_rate=proxy.learning_rate,
        power=proxy.power,
        momentum=proxy.momentum,
        weight_decay=proxy.weight_decay,
        evaluations=proxy.evaluations,
        stops_at=tuple(sorted({*proxy.stops_at, *(halving.step for halving in halvings)})),
        eval_batch_size=proxy.eval_batch_size,
        dtype=proxy.dtype,
        precision=proxy.precision,
        kernels=proxy.kernels,
    )


def proxy_data(config: ml_collections.ConfigDict, cache: FeatureCache) -> Source:
    """The cache as candidates read it. Train labels are read at the loss stride: every such pixel, corners included."""
    loss_stride = config.proxy.loss_stride
    arrays = (
        cache.train.features,
        cache.train.labels[:, ::loss_stride, ::loss_stride],
        cache.val.features,
        cache.val.labels,
    )
    return memory.place(config.proxy.stream, StreamedData(*arrays, mesh=sharding.population_mesh()))


def make_evaluator(
    config: ml_collections.ConfigDict,
    data: Source,
    num_classes: int,
    *,
    steps: int,
    chunk: int,
    seed: int | None = None,
    halvings: Sequence[Halve] = (),
) -> PopulationEvaluator:
    """The evaluator of a rung; `seed` is the config's unless another is wanted."""
    return PopulationEvaluator(
        proxy_settings(config, num_classes, steps, halvings),
        data,
        seed=config.seed if seed is None else seed,
        chunk=chunk,
        at_once=config.proxy.at_once,
        steps_per_call=config.proxy.steps_per_call,
    )


def choose_chunk(config: ml_collections.ConfigDict, data: Source, num_classes: int) -> int:
    """The fastest chunk on this device by a short measurement, which is printed."""
    make = functools.partial(make_evaluator, config, data, num_classes, steps=config.proxy.steps)
    sample = functools.partial(make_space(config).sample, jax.random.key(config.seed))
    fitting = [size for size in CHUNKS if size * jax.device_count() <= config.search.population]
    chunk, seconds = fastest_chunk(lambda size: make(chunk=size), fitting or CHUNKS[:1], sample)
    measured = ', '.join(f'{size}: {1000 * value:.0f}' for size, value in seconds.items())
    print(f'chunk {chunk} is the fastest here (ms per candidate-step by chunk: {measured})')
    return chunk


# ---- study ----------------------------------------------------------------------------------------------------------


def study_settings(config: ml_collections.ConfigDict, sets: Datasets) -> dict[str, Any]:
    """What a score depends on: the config but for `FREE_FIELDS`, and the content of data and weights."""
    settings = json.loads(config.to_json_best_effort())
    for field in FREE_FIELDS:
        *parents, last = field.split('.')
        functools.reduce(dict.__getitem__, parents, settings).pop(last, None)
    settings['search']['ladder'] = [rung for rung in settings['search']['ladder'] if rung[0] != 'full']
    file = config.backbone.weights
    size = preprocess.next_crop(sets[1][0].label.shape, config.backbone.output_stride)
    made = jax.eval_shape(make_backbone(config).init_with_output, jax.random.key(0), jnp.zeros((1, *size, 3)))
    endpoints: dict[str, jax.ShapeDtypeStruct] = made[0]
    _, height, width, channels = endpoints['features'].shape
    return {
        **settings,
        'features': {'size': (height, width), 'channels': channels},  # of a whole val image
        'content': {
            'train': sets[0].fingerprint(),
            'val': sets[1].fingerprint(),
            'weights': weights.fingerprint(file) if file else 'trained here',
        },
    }


def open_study(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    settings: Mapping[str, Any],
    *,
    rung: str,
    seed: int | None = None,
    name: str = '',
    recipe: Mapping[str, Any] = MappingProxyType({}),
) -> Study:
    """The study of one rung, in the config's storage or in `workdir/study.db`; InputError if it is of another config.

    `seed` is stored with each candidate; by default it is the config's. `name` is that of the rung's study, where a
    rung has several. `recipe` is what scores of the rung depend on besides the settings of the search.
    """
    space, settings = make_space(config), {**settings, **recipe}
    return Study.open(
        config.search.storage or f'sqlite:///{workdir.resolve() / "study.db"}',
        f'{config.search.study}-{name or rung}',
        space=space,
        sampler=strategy.make_sampler(config, space),
        pruner=make_pruner(config, rung),
        settings=settings,
        added=ADDED_FIELDS | strategy.idle_settings(config),
        costs=strategy.costs(config, space, settings),
        run=RunInfo(
            seed=config.seed if seed is None else seed,
            config_hash=provenance.settings_hash(settings),
            commit=provenance.commit(),
            device=provenance.device(),
            rung=rung,
        ),
    )
