"""Prediction at one scale and at several: official numbers, NumPy by hand, the laws of averaging and of sharding."""

import functools
import importlib.util
import itertools
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from dpc_jax import inference, networks, ops, sharding
from dpc_jax.base import IGNORE_LABEL, InputError
from dpc_jax.cell import CellSettings, DensePredictionCell
from dpc_jax.inference import InferenceSettings
from dpc_jax.segmenter import Segmenter, scale_size
from dpc_jax.spaces import dpc
from dpc_jax.weights import tf_import
from tests import small

CROP = (33, 49)
SINGLE = InferenceSettings()


class Strided(nn.Module):
    """A backbone of one convolution, so that compiling takes no time; it tells left from right."""

    output_stride: int = 8

    @property
    def by_stride(self):
        return {self.output_stride: 'features'}

    @nn.compact
    def __call__(self, images, train):
        features = nn.Conv(6, (3, 3), strides=self.output_stride, padding=((1, 1), (1, 1)))(images / 127.5 - 1)
        return {'features': jnp.sin(features)}


@pytest.fixture(scope='module')
def network():
    return Segmenter(Strided(), None, 4)


@pytest.fixture(scope='module')
def variables(network):
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, *CROP, 3)))
    draw = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(draw.standard_normal(leaf.shape, np.float32)), shapes)


@pytest.fixture(scope='module')
def batch():
    """Eight images with labels, some of them ignored."""
    draw = np.random.default_rng(1)
    images = draw.uniform(0, 255, (8, *CROP, 3)).astype(np.float32)
    labels = draw.integers(0, 5, (8, *CROP)).astype(np.uint8)
    return images, np.where(labels == 4, np.uint8(IGNORE_LABEL), labels)


def predict(network, variables, batch, settings=SINGLE, devices=4):
    """By `make_predict` on so many devices; the counts added up."""
    mesh = sharding.data_mesh(devices)
    run = inference.make_predict(network, small.task(network.num_classes), settings, mesh)
    held = jax.device_put(variables, sharding.replicated(mesh))
    prediction = run(held, *jax.device_put(batch, sharding.along_data(mesh)))
    return np.asarray(prediction.found), np.asarray(prediction.counts['confusion'], np.int64).sum(0)


# ---- NumPy by hand --------------------------------------------------------------------------------------------------


def resized(x, size):
    """Bilinear with corners on corners, sample by sample."""
    rows, cols = (np.linspace(0, n - 1, m) for n, m in zip(x.shape[:2], size, strict=True))
    y = np.empty((*size, x.shape[2]))
    for i, j in itertools.product(range(size[0]), range(size[1])):
        top, left = (min(int(p), n - 1) for p, n in zip((rows[i], cols[j]), x.shape[:2], strict=True))
        bottom, right = min(top + 1, x.shape[0] - 1), min(left + 1, x.shape[1] - 1)
        a, b = rows[i] - top, cols[j] - left
        y[i, j] = (1 - a) * ((1 - b) * x[top, left] + b * x[top, right])
        y[i, j] += a * ((1 - b) * x[bottom, left] + b * x[bottom, right])
    return y


def scores_by_hand(network, variables, image, scales, flip):
    """Mean probabilities of one image, as the official model says it."""
    total = []
    for scale, mirrored in itertools.product(scales, (False, True) if flip else (False,)):
        x = resized(image[:, ::-1] if mirrored else image, scale_size(CROP, scale))
        logits = np.asarray(network.apply(variables, jnp.asarray(x[None], jnp.float32))[0])
        logits = resized(logits, scale_size(CROP, max(1, scale) / network.logits_stride))
        logits = resized(logits[:, ::-1] if mirrored else logits, CROP)
        odds = np.exp(logits - logits.max(-1, keepdims=True))
        total.append(odds / odds.sum(-1, keepdims=True))
    return np.mean(total, 0)


def counts_by_hand(classes, labels, num_classes):
    counts = np.zeros((num_classes, num_classes), np.int64)
    for label, found in zip(labels.ravel(), classes.ravel(), strict=True):
        if label != IGNORE_LABEL:
            counts[label, found] += 1
    return counts


@pytest.mark.parametrize(('scales', 'flip'), [((1.0,), False), ((0.5, 1.0, 1.75), True)])
def test_a_sharded_prediction_is_that_of_numpy(network, variables, batch, scales, flip):
    classes, counts = predict(network, variables, batch, InferenceSettings(scales, flip))
    expected = [scores_by_hand(network, variables, image, scales, flip).argmax(-1) for image in batch[0]]
    assert len(np.unique(expected)) >= 3
    assert (classes != expected).mean() < 1e-3  # ties but for rounding
    np.testing.assert_array_equal(counts, counts_by_hand(classes, batch[1], 4))


def test_scores_are_those_of_numpy(network, variables, batch):
    settings = InferenceSettings((0.5, 1.75), flip=True)
    passes = [
        inference.pass_scores(
            network,
            small.task(network.num_classes),
            variables,
            jnp.asarray(batch[0][:1]),
            mirrored,
            scale=scale,
            settings=settings,
        )
        for scale, mirrored in settings.passes
    ]
    by_hand = scores_by_hand(network, variables, batch[0][0], settings.scales, settings.flip)
    np.testing.assert_allclose(np.mean(passes, 0)[0], by_hand, atol=1e-5)


# ---- laws -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('settings', [InferenceSettings(), InferenceSettings((0.75, 1.25), True)])
def test_the_number_of_devices_does_not_matter(network, variables, batch, settings):
    one, four = (predict(network, variables, batch, settings, devices) for devices in (1, 4))
    np.testing.assert_array_equal(one[0], four[0])
    np.testing.assert_array_equal(one[1], four[1])
    assert one[1].sum() == (batch[1] != IGNORE_LABEL).sum()


def test_a_masked_image_is_one_that_is_not_there(network, variables, batch):
    images, labels = batch
    masked = labels.copy()
    masked[5:] = IGNORE_LABEL
    _, counts = predict(network, variables, (images, masked))
    _, fewer = predict(network, variables, (images[:5], labels[:5]), devices=1)
    np.testing.assert_array_equal(counts, fewer)


def test_what_is_predicted_does_not_depend_on_labels(network, variables, batch):
    images, labels = batch
    unknown = np.full_like(labels, IGNORE_LABEL)
    classes, counts = predict(network, variables, (images, unknown))
    np.testing.assert_array_equal(classes, predict(network, variables, batch)[0])
    assert not counts.any()


def test_one_pass_through_probabilities_is_the_single_scale_prediction(network, variables, batch):
    single, _ = predict(network, variables, batch, InferenceSettings())
    twice, _ = predict(network, variables, batch, InferenceSettings((1.0, 1.0)))  # the mean of equal probabilities
    assert (single != twice).mean() < 1e-4


def test_the_order_of_scales_does_not_matter(network, variables, batch):
    first, second = (
        predict(network, variables, batch, InferenceSettings(scales, True))[0]
        for scales in ((0.5, 1.0, 1.5), (1.5, 0.5, 1.0))
    )
    assert (first != second).mean() < 1e-4


def test_a_mirrored_image_is_predicted_as_the_mirror_image(network, variables, batch):
    images, labels = batch
    mirrored = (images[:, :, ::-1], labels[:, :, ::-1])
    for flip in (True, False):
        settings = InferenceSettings((0.75, 1.0), flip)
        there, back = (predict(network, variables, seen, settings)[0] for seen in (batch, mirrored))
        different = (there != back[:, :, ::-1]).mean()
        assert different < 1e-4 if flip else different > 0.1
    symmetric = images + images[:, :, ::-1]
    classes, _ = predict(network, variables, (symmetric / 2, labels), InferenceSettings(flip=True))
    assert (classes != classes[:, :, ::-1]).mean() < 1e-4


def test_a_program_is_traced_once_per_scale_and_serves_every_batch(network, variables, batch, monkeypatch):
    traced = []

    def noting(*args, scale, **kwargs):
        traced.append(scale)
        return original(*args, scale=scale, **kwargs)

    original = inference.pass_logits
    monkeypatch.setattr(inference, 'pass_logits', noting)
    mesh = sharding.data_mesh()
    run = inference.make_predict(network, small.task(network.num_classes), InferenceSettings((0.5, 1.0), True), mesh)
    held = jax.device_put(variables, sharding.replicated(mesh))
    for _ in range(2):
        run(held, *jax.device_put(batch, sharding.along_data(mesh)))
    assert sorted(traced) == [0.5, 1.0]


def test_an_image_of_which_the_network_makes_no_numbers_is_marked(network, variables, batch):
    mesh = sharding.data_mesh(4)
    images = batch[0].copy()
    images[2] = np.nan
    held = jax.device_put(variables, sharding.replicated(mesh))
    found = inference.make_predict(network, small.task(network.num_classes), SINGLE, mesh)(
        held, *jax.device_put((images, batch[1]), sharding.along_data(mesh))
    )
    assert np.flatnonzero(~np.asarray(found.finite)).tolist() == [2]


@pytest.mark.parametrize('scales', [(), (0.0,), (1.0, -0.5), (float('nan'),), (float('inf'),)], ids=repr)
def test_scales_that_cannot_be_are_refused(scales):
    with pytest.raises(InputError, match=r'^evaluate.scales is \(.*\); it must be one or more numbers greater than 0$'):
        InferenceSettings(scales)


# ---- pooling windows ------------------------------------------------------------------------------------------------


def test_pooling_windows_scale_with_the_image():
    genotype = dpc.parse(json.dumps([{'input': -1, 'op': 'pyramid_pooling', 'grid_size': [1, 2]}]))
    network = Segmenter(Strided(), DensePredictionCell.of(genotype, CellSettings(4, 8, dropout_rate=0.0)), 4)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, *CROP, 3)))
    draw = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: jnp.asarray(draw.uniform(0.1, 1, leaf.shape), jnp.float32), shapes)
    image = jnp.asarray(np.random.default_rng(1).uniform(0, 255, (1, *CROP, 3)), jnp.float32)
    for scale in (0.5, 1.0, 2.0):
        run = functools.partial(inference.pass_logits, network, variables, image, scale=scale)
        x = ops.resize_bilinear(image, scale_size(CROP, scale))
        size = scale_size(CROP, max(1, scale) / 8)
        for pool_crop in (CROP, (17, 25)):
            logits = network.apply(variables, x, False, None, scale_size(pool_crop, scale))
            np.testing.assert_allclose(run(pool_crop=pool_crop), ops.resize_bilinear(logits, size), atol=1e-5)
        np.testing.assert_array_equal(run(pool_crop=CROP), run())
        assert np.abs(run(pool_crop=(17, 25)) - run()).max() > 1e-3


# ---- official numbers -----------------------------------------------------------------------------------------------


class Golden:
    """MobileNet-v2 with the released cell and the variables of a fixture."""

    def __init__(self, shared, name):
        self.manifest = json.loads(shared(f'golden/models/{name}.json').read_text())
        with np.load(shared(f'golden/models/{name}.npz')) as archive:
            self.arrays = dict(archive)
        spec = importlib.util.spec_from_file_location('rule', shared('golden/models/weights_rule.py'))
        rule = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(rule)
        config = common.network_config()
        config.decoder.output_stride = 0
        self.network = networks.make(config, 19)
        stored = {name: rule.variable(name, shape) for name, shape, _ in self.manifest['variables']}
        shapes = networks.variable_shapes(self.network)
        self.variables, _ = tf_import.assign(shapes, stored, self.network.scopes, source='golden')
        self.images = rule.image(*self.manifest['crop_size'], self.manifest['batch'], 0)

    def compare(self, key, full, limit):
        about = self.manifest['arrays'][key]
        assert list(full.shape) == about['full_shape']
        sampled = np.asarray(full)[tuple(slice(None, None, step) for step in about['stride'])]
        assert np.abs(sampled - self.arrays[key]).max() < limit * about['std'], key


def test_every_pass_and_their_mean_equal_the_official_graph(shared):
    golden = Golden(shared, 'mnv2_dpc_multiscale')
    settings = InferenceSettings(tuple(golden.manifest['scales']), golden.manifest['flip'])
    variables, images = golden.variables, jnp.asarray(golden.images)

    @functools.partial(jax.jit, static_argnames='scale')
    def run(images, mirrored, scale):
        logits = inference.pass_logits(golden.network, variables, images, mirrored, scale=scale)
        return logits, inference.pass_scores(
            golden.network,
            small.task(golden.network.num_classes),
            variables,
            images,
            mirrored,
            scale=scale,
            settings=settings,
        )

    total = []
    for scale, mirrored in settings.passes:
        logits, scores = run(images, jnp.asarray(mirrored), scale)
        # The fixture holds the logits of the mirrored image as they come; here they are mirrored back already.
        golden.compare(f'logits_scale_{scale}' + '_flip' * mirrored, logits[:, :, ::-1] if mirrored else logits, 1e-3)
        total.append(scores)
    assert len(total) == 6
    golden.compare('mean_prob', np.mean(total, 0), 1e-3)
    assert (np.mean(total, 0).argmax(-1) != golden.arrays['argmax']).mean() < 5e-4


def test_the_single_scale_prediction_equals_the_official_graph(shared):
    golden = Golden(shared, 'mnv2_dpc_os16_small')
    labels = np.full(golden.images.shape[:3], IGNORE_LABEL, np.uint8)
    classes, _ = predict(golden.network, golden.variables, (golden.images, labels), devices=1)
    assert (classes != golden.arrays['argmax']).mean() < 5e-4
