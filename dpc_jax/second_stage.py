"""The second stage that a config asks for (`tuning.steps`), made: settings, images, evaluator."""

import dataclasses
import pathlib
from typing import Any, NamedTuple

import ml_collections

from dpc_jax import assembly, checks, frozen, heads
from dpc_jax.base import InputError, PyTree
from dpc_jax.end_to_end import EndToEnd, EndToEndSettings
from dpc_jax.feature_cache import CacheSettings
from dpc_jax.population import PopulationEvaluator
from dpc_jax.proxy import Source
from dpc_jax.study import GATE
from dpc_jax.two_stages import TwoStages


class Second(NamedTuple):
    """What the second stage needs besides the config."""

    data: Source  # images, labels at the loss stride
    encoder: PyTree  # the variables that candidates begin with


def wanted(config: ml_collections.ConfigDict) -> bool:
    """Whether the config asks for a second stage."""
    return 'tuning' in config and config.tuning.steps > 0


def check(config: ml_collections.ConfigDict) -> None:
    """Refuses what is wrong with it before any work; InputError."""
    if 'tuning' in config and config.tuning.steps < 0:
        raise InputError(f'tuning.steps is {config.tuning.steps}; it must be at least 0 (0: no second stage)')
    if not wanted(config):
        if config.search.pruner == GATE:
            raise InputError(f"search.pruner is '{GATE}', which stands before a second stage: set tuning.steps")
        return
    head = heads.make(config, num_classes=2)
    if not head.end_to_end:
        raise InputError(
            f'tuning.steps is {config.tuning.steps}, but the space {config.space.name} has no second stage on images; 0'
        )
    if config.tuning.top < 0:
        raise InputError(f'tuning.top is {config.tuning.top}; it must be at least 0 (0: all)')
    settings(config, num_classes=2)
    checks.normalised_together(tuning__batch_size=config.tuning.batch_size)
    crop, stride = image_settings(config).crop_size, config.proxy.loss_stride
    if any((side - 1) % stride for side in crop):
        raise InputError(
            f'tuning.crop_size is {crop}; each side less one must be a multiple of the loss stride {stride}'
        )


def image_settings(config: ml_collections.ConfigDict) -> CacheSettings:
    """What is drawn from the data for it; InputError names the fields of `tuning`."""
    try:
        return frozen.image_settings(config)
    except InputError as fault:
        raise InputError(str(fault).replace('cache.', 'tuning.')) from fault


def settings(config: ml_collections.ConfigDict, num_classes: int) -> EndToEndSettings:
    """What a score depends on; what `tuning` does not say is as on cached features."""
    tuning = config.tuning
    proxy = assembly.proxy_settings(config, num_classes, steps=config.proxy.steps)
    shared: dict[str, Any] = {field.name: getattr(proxy, field.name) for field in dataclasses.fields(proxy)}
    # Published encoders have averages for runs a hundred times as long.
    encoder = frozen.make_backbone(config).clone(bn_decay=config.proxy.bn_decay)
    own = {
        'head': EndToEnd(proxy.head, encoder),
        **{'steps': tuning.steps, 'evaluations': 1, 'stops_at': (), 'polyak_every': tuning.steps, 'distillation': 0.0},
    }
    names = ('batch_size', 'learning_rate', 'weight_decay', 'clip_norm', 'polyak', 'eval_batch_size')
    given = {name: tuning[name] for name in (*names, 'encoder_learning_rate', 'encoder_momentum')}
    try:
        return EndToEndSettings(**{**shared, **own, **given})
    except InputError as fault:  # what is the proxy's was accepted above
        raise InputError(str(fault).replace('proxy.', 'tuning.')) from fault


def prepare(
    config: ml_collections.ConfigDict, workdir: pathlib.Path, sets: frozen.Datasets, variables: PyTree
) -> Second | None:
    """Makes or opens the images; None where the config wants no second stage."""
    if not wanted(config):
        return None
    return Second(assembly.proxy_data(config, frozen.build_images(config, workdir, sets)), variables)


def staged(config: ml_collections.ConfigDict, first: PopulationEvaluator, second: Second) -> TwoStages:
    """The evaluator whose first stage is `first`."""
    num_classes = first.settings.head.num_classes
    after = dataclasses.replace(first, settings=settings(config, num_classes), data=second.data)
    return TwoStages(first, after, second.encoder)


def promoted(config: ml_collections.ConfigDict, first: PopulationEvaluator) -> dict[int, int]:
    """The evaluation after which the best of a group go on alone, and how many; see `Rung.best_of`."""
    top = config.tuning.top if wanted(config) else 0
    return {len(first.settings.stops()) - 1: top} if top else {}
