"""The last rung of a search: the best cells as whole networks, trained to the end by one recipe (paper §3.2).

`config.rerank` is the recipe: what stands around the cell, how the network is trained and how it is evaluated. What it
does not say of the cell itself (how it pools) is as in the search, or another function would be trained. The data set
and the backbone are those of the search; unless the recipe names another start, the backbone's weights are those whose
features were cached. Every network has a folder of its own below the search's, is resumed from its own checkpoints, and
leaves its weights, curves and scores there.
"""

import contextlib
import dataclasses
import json
import math
import pathlib
import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from dpc_jax import checks, datasets, files, metrics, provenance, training
from dpc_jax.base import DivergedError, Genotype, InputError, KeepGoing, ProxyResult, population_size, unstack
from dpc_jax.evaluation import Evaluation
from dpc_jax.spaces import Space

Train = Callable[[ml_collections.ConfigDict, pathlib.Path], Evaluation]
"""The journey of a training."""

OUTPUT, RESULT = 'output.txt', 'result.json'  # in a network's folder: what its training printed, what it found


def check(config: ml_collections.ConfigDict, space: Space) -> None:
    """Refuses what is wrong with the recipe before any work; InputError."""
    if 'rerank' not in config:
        raise InputError("search.ladder has a rung 'full', but the config has no fields config.rerank.*")
    checks.at_least(0, rerank__random=config.rerank.random)
    if config.rerank.random > config.search.num_candidates:
        raise InputError(
            f'rerank.random is {config.rerank.random}; allowed: at most search.num_candidates'
            f' ({config.search.num_candidates})'
        )
    checks.at_least(1, rerank__seeds=config.rerank.seeds)
    (example,) = unstack(space.sample(jax.random.key(config.seed), 1))
    try:
        training.check(network_config(config, space, example, seed=config.seed, backbone=''), jax.device_count())
    except InputError as fault:  # the fields of the network are those of the recipe
        raise InputError(re.sub(r'(?<![\w./])(?=(train|context|decoder|evaluate)\.)', 'rerank.', str(fault))) from fault
    recipe = config.rerank.train  # of any cell, where the check before is of one
    together = training.images_together(recipe.batch_size, recipe.accumulate, recipe.batch_norm, jax.device_count())
    checks.normalised_together(**{'rerank.train: images of a part of the batch': together})


def network_config(
    config: ml_collections.ConfigDict, space: Space, genotype: Genotype, *, seed: int, backbone: pathlib.Path | str
) -> ml_collections.ConfigDict:
    """The config of the whole network with that cell; `backbone` is the file of the search's weights."""
    recipe = config.rerank.copy_and_resolve_references()
    network = ml_collections.ConfigDict({'journey': 'train', 'seed': seed, 'checkpoint': ''})
    network.dataset = config.dataset.copy_and_resolve_references()
    with network.dataset.unlocked():
        network.dataset.update({'generated': network.dataset.get('generated', 0)})
    network.backbone = {name: config.backbone[name] for name in ('name', 'width', 'output_stride')}
    network.context, network.decoder = recipe.context, recipe.decoder
    network.train, network.evaluate = recipe.train, recipe.evaluate
    with network.context.unlocked():
        network.context.update({name: value for name, value in config.cell.items() if name not in recipe.context})
        network.context.name = config.space.name  # a context has the name of its space
        network.context.genotype = ' '.join(space.to_json(genotype).split())
    if not network.train.init.checkpoint and backbone:
        network.train.init.checkpoint, network.train.init.parts = str(backbone), 'backbone'
    return network


def settings_of(network: ml_collections.ConfigDict, backbone: pathlib.Path) -> dict[str, Any]:
    """What the scores of a network depend on: wherever the data lie, and the search's folder with its backbone."""
    settings: dict[str, Any] = json.loads(network.to_json_best_effort())
    for group, name in (field.split('.') for field in training.FREE_FIELDS if field.count('.') == 1):
        settings[group].pop(name, None)
    if settings['train']['init']['checkpoint'] == str(backbone):
        settings['train']['init']['checkpoint'] = backbone.name  # it says which weights they are
    return settings


def recipe_of(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """What the scores of this rung depend on besides the search's settings."""
    recipe: dict[str, Any] = json.loads(config.rerank.to_json_best_effort())
    for group, name in (field.split('.') for field in training.FREE_FIELDS if field.count('.') == 1):
        recipe.get(group, {}).pop(name, None)
    for name in ('random', 'seeds'):
        recipe.pop(name, None)
    return {'rerank': recipe}


class Result(NamedTuple):
    """What became of one network."""

    config_hash: str
    confusion: list[list[int]]  # pixels of val by (label, prediction); 0 where it diverged
    loss: float  # the mean of the last steps
    failure: str  # '' or why


@dataclasses.dataclass(frozen=True)
class WholeNetworks:
    """An `Evaluator` that trains the whole network of each cell, one after the other, under one seed.

    A network whose training diverges is a candidate that failed; out of memory and a full disk are errors.
    """

    config: ml_collections.ConfigDict
    space: Space
    folder: pathlib.Path  # of all networks
    backbone: pathlib.Path  # the search's weights
    seed: int
    train: Train

    def __call__(self, genotypes: Genotype, keep_going: KeepGoing | None = None) -> ProxyResult:
        """Trains and scores genotypes [P, K]. The curve is one point: the score of the trained network on val."""
        del keep_going
        started = time.perf_counter()
        found = [self._one(genotype) for genotype in unstack(genotypes)]
        confusions = np.stack([np.array(result.confusion, np.int64) for result in found])
        finite = np.array([not result.failure for result in found])
        scores = np.where(finite, metrics.SCORES[self.config.search.score](confusions), np.nan).astype(np.float32)
        return ProxyResult(
            scores=scores,
            curves=scores[:, None],
            losses=np.array([[result.loss] for result in found], np.float32),
            finite=finite,
            pruned=np.zeros(len(found), bool),
            steps=np.full(population_size(genotypes), self.config.rerank.train.steps, np.int32),
            seconds=time.perf_counter() - started,
            confusions=confusions[:, None],
            extras={name: np.where(finite, of(confusions), np.nan) for name, of in metrics.EXTRAS.items()},
        )

    def _one(self, genotype: Genotype) -> Result:
        """What became of one network. What an earlier start has found is read from its folder."""
        network = network_config(self.config, self.space, genotype, seed=self.seed, backbone=self.backbone)
        made_of = provenance.settings_hash(settings_of(network, self.backbone))
        name = files.digest([self.space.canonical_key(genotype).encode()])[:12]
        place = self.folder / f'{name}-seed{self.seed}'
        files.make_folder(place, 'workdir')
        with contextlib.suppress(OSError, ValueError, TypeError):
            found = Result(**json.loads((place / RESULT).read_text(encoding='utf-8')))
            if found.config_hash == made_of:
                return found
        files.write(place / 'cell.json', self.space.to_json(genotype))
        result = self._trained(network, place, made_of)
        files.write(place / RESULT, json.dumps(result._asdict()))
        files.remove(place / training.CHECKPOINTS)  # weights and curves stay
        return result

    def _trained(self, network: ml_collections.ConfigDict, place: pathlib.Path, made_of: str) -> Result:
        classes = len(datasets.classes(self.config.dataset))
        with (
            (place / OUTPUT).open('a', encoding='utf-8', errors='backslashreplace') as output,
            contextlib.redirect_stdout(output),
        ):
            try:
                evaluation = self.train(network, place)
            except DivergedError as error:
                return Result(made_of, np.zeros((classes, classes), int).tolist(), math.nan, str(error))
        losses = [record['loss'] for record in training.read_records(place / training.METRICS) if 'loss' in record]
        return Result(made_of, evaluation.confusion.tolist(), losses[-1] if losses else math.nan, '')
