"""Whole networks against the official graph, by the fixtures of golden/models: every number that they hold.

Weights are a function of their official names there, so what fits here also proves names and layouts. Limits are those
of the fixtures' README, in units of the standard deviation of the full tensor.
"""

import functools
import json
import pathlib
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpc_jax import backbones, ops
from dpc_jax.aspp import ASPP
from dpc_jax.base import PyTree
from dpc_jax.cell import CellSettings, DensePredictionCell
from dpc_jax.convolution import ConvUnit
from dpc_jax.decoder import Decoder
from dpc_jax.segmenter import Segmenter
from dpc_jax.spaces import dpc
from dpc_jax.weights import tf_import
from tests.scripts import module_at

Find = Callable[[str], pathlib.Path]

INFERENCE = ('mnv2_dpc_os16', 'mnv2_dpc_os16_small', 'mnv2_dpc_dec_os8', 'mnv2_aspp_os16', 'x65_dpc_dec_os16')


def network_of(model: dict) -> Segmenter:
    """The network that a manifest describes; no dropout."""
    stride = model['output_stride']
    context: ASPP | DensePredictionCell
    if model['head'] == 'dpc':
        genotype = dpc.parse(json.dumps(model['cell']))
        context = DensePredictionCell.of(genotype, CellSettings(output_stride=stride, dropout_rate=0.0))
    else:
        context = ASPP(
            rates=tuple(model['atrous_rates']),
            output_stride=stride,
            image_pooling=model['aspp_image_level_feature'],
            separable=model['aspp_separable'],
            dropout_rate=0.0,
        )
    decoder = Decoder() if model['decoder_output_stride'] else None
    backbone = backbones.make(model['backbone'], output_stride=stride)
    return Segmenter(backbone, context, model['num_classes'], decoder)


class Golden:
    """One fixture: the network, its variables by the rule, its images, and what the official graph made of them."""

    def __init__(self, shared: Find, name: str) -> None:
        self.manifest = json.loads(shared(f'golden/models/{name}.json').read_text())
        with np.load(shared(f'golden/models/{name}.npz')) as archive:
            self.arrays = dict(archive)
        self.rule = module_at(shared('golden/models/weights_rule.py'))
        height, width = self.manifest['crop_size']
        self.images = self.rule.image(height, width, self.manifest['batch'], 0)
        assert self.images.sum() == self.manifest['checks']['image_sum']
        if 'model' in self.manifest:
            self.network = network_of(self.manifest['model'])

    def variables(self) -> PyTree:
        stored = {name: self.rule.variable(name, shape) for name, shape, _ in self.manifest['variables']}
        shapes = jax.eval_shape(self.network.init, jax.random.key(0), jnp.zeros((1, 65, 65, 3)))
        variables, report = tf_import.assign(shapes, stored, self.network.scopes, source='golden')
        assert (report.missing, report.unused, len(report.loaded)) == ((), (), len(stored))
        return variables

    def errors(self, key: str, full: jax.Array) -> tuple[float, float]:
        """Largest and root-mean-square difference at the stored positions, in units of the spread."""
        about = self.manifest['arrays'][key]
        assert list(full.shape) == about['full_shape'], key
        found = np.asarray(full)[tuple(slice(None, None, step) for step in about['stride'])]
        error = (found - self.arrays[key].astype(np.float64)) / about['std']
        return float(np.abs(error).max()), float(np.sqrt(np.square(error).mean()))

    def check(self, key: str, full: jax.Array, limits: tuple[float, float]) -> None:
        largest, spread = self.errors(key, full)
        assert largest < limits[0], (key, largest)
        assert spread < limits[1], (key, spread)

    def check_statistics(self, expected: dict, full: jax.Array, limit: float, name: str) -> None:
        """Mean, spread and a probe of every element; so the positions that are not stored are compared too."""
        x = np.asarray(full, np.float64)
        assert list(x.shape) == expected['shape'], name
        signs = np.random.default_rng(x.size).integers(0, 2, x.size) * 2 - 1
        found = {'mean': x.mean(), 'std': x.std(), 'probe': signs @ x.ravel() / np.sqrt(x.size)}
        for statistic, value in found.items():
            assert abs(value - expected[statistic]) < limit * expected['std'], (name, statistic)


def run(network: Segmenter, variables: PyTree, images: np.ndarray, train: bool = False):
    """Logits, the output of every unit by its official scope (and inputs of projections), moved batch statistics."""

    def forward(variables: PyTree, images: jax.Array):
        units: dict[str, jax.Array] = {}

        def note(call, args, kwargs, context):
            y = call(*args, **kwargs)
            if isinstance(context.module, ConvUnit):
                scope = tf_import.official_name(('params', *context.module.path, 'kernel'), network.scopes)
                scope = scope.rpartition('/')[0]
                units[scope] = y
                if scope.endswith('concat_projection'):
                    units[scope.replace('concat_projection', 'concat')] = args[0]
            return y

        with nn.intercept_methods(note):
            logits, moved = network.apply(variables, images, train, mutable=['batch_stats'])
        return logits, units, moved

    return jax.jit(forward)(variables, jnp.asarray(images))


@pytest.mark.parametrize('name', INFERENCE)
def test_inference_equals_the_official_graph(shared: Find, name: str) -> None:
    golden = Golden(shared, name)
    logits, units, _ = run(golden.network, golden.variables(), golden.images)
    golden.check('logits', logits, (5e-4, 1e-4))
    compared = 0
    for key in golden.manifest['arrays']:
        scope = key.removeprefix('act:')
        if scope in units:
            golden.check(key, units[scope], (5e-4, 1e-4))
            compared += 1
    activations = [key for key in golden.manifest['arrays'] if key.startswith('act:')]
    assert compared == len(activations) - ('act:decoder/concat' in activations)
    height, width = golden.manifest['crop_size']
    probabilities = jax.nn.softmax(ops.resize_bilinear(logits, (height, width)))
    stride = golden.manifest['arrays']['prob']['stride']
    sampled = np.asarray(probabilities)[tuple(slice(None, None, step) for step in stride)]
    assert np.abs(sampled - golden.arrays['prob']).max() < 1e-3
    assert (np.asarray(probabilities).argmax(-1) != golden.arrays['argmax']).mean() < 5e-4


@pytest.mark.parametrize('name', INFERENCE)
def test_every_endpoint_of_the_backbone_equals_the_official_graph(shared: Find, name: str) -> None:
    golden = Golden(shared, name)
    variables = {kind: tree['backbone'] for kind, tree in golden.variables().items()}
    backbone = golden.network.backbone
    endpoints = jax.jit(backbone.apply)(variables, jnp.asarray(golden.images))
    named = {
        key.removeprefix(f'{backbone.official_scope}/').removesuffix('/output'): expected
        for key, expected in golden.manifest['endpoint_stats'].items()
    }
    assert named.keys() <= endpoints.keys()
    for key, expected in named.items():
        golden.check_statistics(expected, endpoints[key], 3e-4, key)
    golden.check('features', endpoints['features'], (5e-4, 1e-4))
    if 'low_level' in golden.arrays:
        golden.check('low_level', endpoints[backbone.low_level], (5e-4, 1e-4))


@pytest.fixture
def float64():
    # Standard promotion: strict has no way from float32 to float64, which only these tests want.
    with jax.enable_x64(True), jax.numpy_dtype_promotion('standard'):
        yield


@pytest.mark.usefixtures('float64')
@pytest.mark.parametrize('name', [name for name in INFERENCE if name != 'mnv2_dpc_os16_small'])
def test_inference_equals_the_official_graph_in_float64(shared: Find, name: str) -> None:
    # Measured: 1e-13. What float32 hides in its rounding, such as an epsilon in the wrong place, shows here.
    golden = Golden(shared, name)
    wide = jax.tree.map(lambda leaf: leaf.astype(np.float64), golden.variables())
    logits, _, _ = run(golden.network, wide, golden.images.astype(np.float64))
    assert logits.dtype == np.float64
    golden.check('logits_f64', logits, (1e-9, 1e-9))


@functools.cache
def scope_of(name: str) -> tuple[str, str]:
    scope, _, leaf = name.rpartition('/BatchNorm/')
    return scope, {'moving_mean': 'mean', 'moving_variance': 'var'}[leaf]


def averages(golden: Golden, variables: PyTree) -> dict[str, np.ndarray]:
    """Moving averages by official name."""
    official = tf_import.to_official({'batch_stats': variables['batch_stats']}, golden.network.scopes)
    return {name: np.asarray(value, np.float64) for name, value in official.items()}


def test_training_mode_equals_the_official_graph(shared: Find) -> None:
    golden = Golden(shared, 'mnv2_dpc_bntrain')
    variables = golden.variables()
    logits, _, moved = run(golden.network, variables, golden.images, train=True)
    golden.check('logits', logits, (5e-2, 1e-2))  # batch statistics amplify rounding: README of the fixtures
    after = averages(golden, moved)
    for name, expected in golden.manifest['moving_average_stats'].items():
        golden.check_statistics(expected, after[name], 1e-3, name)


@pytest.mark.usefixtures('float64')
def test_training_mode_equals_the_official_graph_in_float64(shared: Find) -> None:
    golden = Golden(shared, 'mnv2_dpc_bntrain')
    wide = jax.tree.map(lambda leaf: leaf.astype(np.float64), golden.variables())
    logits, _, moved = run(golden.network, wide, golden.images.astype(np.float64), train=True)
    golden.check('logits_f64', logits, (1e-9, 1e-9))
    before, after = averages(golden, wide), averages(golden, moved)
    exact = [key for key in golden.arrays if key.startswith('updated:') and key.endswith(':f64')]
    assert exact
    for key in exact:
        name = key.removeprefix('updated:').removesuffix(':f64')
        update = np.abs(golden.arrays[key] - before[name]).max()
        # The biased variance would be off by 1 / N of the update; TensorFlow rounds 1 - decay to float32 (5e-8).
        assert np.abs(golden.arrays[key] - after[name]).max() < 1e-6 * update, name
