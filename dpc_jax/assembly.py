"""What a config names, made: data sets, backbone, cache, settings, study. Each function makes one thing or refuses.

All that can be refused is refused by `check` before the first minute of work.
"""

import functools
import json
import pathlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optuna

from dpc_jax import (
    checks,
    datasets,
    feature_cache,
    found_cells,
    frozen,
    fused,
    heads,
    ladder,
    memory,
    metrics,
    preprocess,
    provenance,
    sharding,
    spaces,
    strategy,
    teacher,
    weights,
)
from dpc_jax.base import InputError
from dpc_jax.fastest_chunk import fastest_chunk
from dpc_jax.feature_cache import FeatureCache
from dpc_jax.frozen import Datasets
from dpc_jax.ladder import Halve
from dpc_jax.population import PopulationEvaluator
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
    'teacher.checkpoint',
    *(
        'search.num_candidates',
        'search.apart',
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

ADDED_FIELDS = {
    **{'proxy.precision': 'float32', 'proxy.stops_at': (), 'search.objectives': ('miou',), 'search.score': 'miou'},
    **{'proxy.optimizer': 'sgd', 'proxy.clip_norm': 0.0, 'proxy.polyak': 0.0, 'proxy.polyak_every': 1},
    **{'proxy.distillation': 0.0},
}
"""Fields that older studies lack, each with the value that stands for what they did (on a CPU bit for bit)."""

COMPUTED_FIELDS = ('maps', 'classes')
"""What older studies lack because it follows from the rest."""


def load_datasets(config: ml_collections.ConfigDict) -> Datasets:
    """Train and val of the data set that the config names."""
    train, val = (datasets.load(config.dataset.name, config.dataset, split) for split in datasets.SPLITS)
    return train, val


def check(config: ml_collections.ConfigDict) -> None:
    """Makes everything that costs nothing, so that a bad value is refused before any work; InputError."""
    space = make_space(config)
    frozen.pretrain_settings(config)
    frozen.strides_of(config)
    crop_size, head = frozen.cache_settings(config).crop_size, heads.make(config, num_classes=2)
    frozen.check_strides(config, head.strides)
    feature_cache.check_crop(crop_size, head.strides)
    if head.largest_chunk and config.proxy.chunk > head.largest_chunk:
        raise InputError(
            f'proxy.chunk is {config.proxy.chunk}; of the space {config.space.name} allowed: at most'
            f' {head.largest_chunk}'
        )
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
    checks.one_of('search.score', config.search.score, tuple(metrics.SCORES))
    for name in config.search.references:
        found_cells.named(space, name)
    checks.normalised_together(proxy__batch_size=config.proxy.batch_size)
    for field in ('num_candidates', 'population', 'apart'):
        checks.at_least(1, **{f'search.{field}': config.search[field]})
    if config.search.apart > len(space.choices()):
        raise InputError(
            f'search.apart is {config.search.apart}; allowed: at most {len(space.choices())}, the choices of a cell'
        )
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
        optimizer=proxy.optimizer,
        clip_norm=proxy.clip_norm,
        weight_decay=proxy.weight_decay,
        polyak=proxy.polyak,
        polyak_every=proxy.polyak_every,
        distillation=teacher.weight(config),
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
        score=metrics.SCORES[config.search.score],
    )


def choose_chunk(config: ml_collections.ConfigDict, data: Source, num_classes: int) -> int:
    """The fastest chunk on this device by a short measurement, which is printed."""
    make = functools.partial(make_evaluator, config, data, num_classes, steps=config.proxy.steps)
    sample = functools.partial(make_space(config).sample, jax.random.key(config.seed))
    largest = heads.make(config, num_classes).largest_chunk or CHUNKS[-1]
    fitting = [size for size in CHUNKS if size * jax.device_count() <= config.search.population and size <= largest]
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
        functools.reduce(lambda held, name: held.get(name, {}), parents, settings).pop(last, None)
    settings['search']['ladder'] = [rung for rung in settings['search']['ladder'] if rung[0] != 'full']
    file = config.backbone.weights
    size = preprocess.next_crop(sets[1][0].label.shape, config.backbone.output_stride)
    model = frozen.make_backbone(config)
    made = jax.eval_shape(model.init_with_output, jax.random.key(0), jnp.zeros((1, *size, 3)))
    endpoints: dict[str, jax.ShapeDtypeStruct] = made[0]
    _, height, width, channels = endpoints['features'].shape
    return {
        **settings,
        'features': {'size': (height, width), 'channels': channels},  # of a whole val image
        'maps': {str(stride): endpoints[name].shape[1:] for stride, name in model.by_stride.items()},
        'classes': sets[0].num_classes,
        'content': {
            'train': sets[0].fingerprint(),
            'val': sets[1].fingerprint(),
            'weights': weights.fingerprint(file) if file else 'trained here',
            **({'teacher': teacher.fingerprint(config)} if 'teacher' in config else {}),
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
        added=ADDED_FIELDS
        | strategy.idle_settings(config)
        | {name: settings.get(name) for name in ('maps', 'classes')},
        costs=strategy.costs(config, space, settings),
        one_space=not config.search.storage,
        run=RunInfo(
            seed=config.seed if seed is None else seed,
            config_hash=provenance.settings_hash(settings),
            commit=provenance.commit(),
            device=provenance.device(),
            rung=rung,
        ),
    )
