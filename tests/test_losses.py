"""The loss: the official value, the ignore label, its gradient."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpc_jax import losses, ops
from dpc_jax.base import IGNORE_LABEL, InputError


def classes_second(logits: np.ndarray) -> jax.Array:
    return jnp.asarray(logits.transpose(0, 3, 1, 2))


def test_value_of_the_official_code(shared):
    # Logits on 3x3 cells, labels on 9x9 pixels of which the upper two rows are ignored; the official code resizes.
    stored = json.loads(shared('golden/cell/dpc_golden.json').read_text())['loss']
    logits = jnp.asarray(np.array(stored['logits'], np.float32).reshape(stored['logits_shape']))
    labels = jnp.asarray(np.array(stored['labels_9x9'], np.int32))[None]
    resized = ops.resize_bilinear(logits, (9, 9)).transpose(0, 3, 1, 2)
    assert losses.cross_entropy(resized, labels) == pytest.approx(1.7434934, rel=1e-6)
    assert stored['loss']['top_k=1,mining_step=0,global_step=0'] == pytest.approx(1.7434934)


def random_case(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits [2, 3, 4, 5] with classes last, labels [2, 3, 4] of which some are ignored."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, (2, 3, 4), np.int32)
    labels[rng.random(labels.shape) < 0.3] = IGNORE_LABEL
    return rng.standard_normal((2, 3, 4, 5)).astype(np.float32), labels


def test_mean_over_labelled_pixels_by_hand():
    logits, labels = random_case()
    terms = [
        np.log(np.exp(scores.astype(np.float64)).sum()) - scores[label]
        for scores, label in zip(logits.reshape(-1, 5), labels.reshape(-1), strict=True)
        if label != IGNORE_LABEL
    ]
    assert 0 < len(terms) < labels.size
    np.testing.assert_allclose(losses.cross_entropy(classes_second(logits), jnp.asarray(labels)), np.mean(terms), 1e-6)


def test_ignored_pixels_are_as_if_they_were_not_there():
    logits, labels = random_case()
    kept = labels != IGNORE_LABEL
    cut_out = losses.cross_entropy(classes_second(logits[kept][None, None]), jnp.asarray(labels[kept][None, None]))
    np.testing.assert_allclose(losses.cross_entropy(classes_second(logits), jnp.asarray(labels)), cut_out, rtol=1e-6)


def test_the_gradient_is_softmax_minus_one_hot_and_0_at_ignored_pixels():
    logits, labels = random_case()
    kept = labels != IGNORE_LABEL
    grad = jax.grad(losses.cross_entropy)(classes_second(logits), jnp.asarray(labels)).transpose(0, 2, 3, 1)
    softmax = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = np.where(kept[..., None], softmax - np.eye(5)[np.where(kept, labels, 0)], 0) / kept.sum()
    np.testing.assert_allclose(grad, expected, rtol=0, atol=1e-7)
    assert not np.asarray(grad)[~kept].any()


def test_no_labelled_pixel_costs_nothing_and_teaches_nothing():
    logits, labels = random_case()
    value, grad = jax.value_and_grad(losses.cross_entropy)(
        classes_second(logits), jnp.full(labels.shape, IGNORE_LABEL, jnp.int32)
    )
    assert value == 0
    assert not grad.any()


def test_another_ignore_label():
    logits, labels = random_case()
    moved = np.where(labels == IGNORE_LABEL, 7, labels)
    expected = losses.cross_entropy(classes_second(logits), jnp.asarray(labels))
    assert losses.cross_entropy(classes_second(logits), jnp.asarray(moved), ignore_label=7) == expected


def test_large_logits_stay_finite():
    logits = jnp.array([1e4, -1e4, 0.0])[None, :, None, None]
    assert losses.cross_entropy(logits, jnp.zeros((1, 1, 1), jnp.int32)) == 0
    assert losses.cross_entropy(logits, jnp.ones((1, 1, 1), jnp.int32)) == 2e4


# ---- hard pixels and class weights ----------------------------------------------------------------------------------


@pytest.mark.parametrize(('share', 'span', 'step'), [(1.0, 0, 0), (0.25, 0, 0), (0.25, 100, 0)])
def test_hard_pixels_of_the_official_code(shared, share, span, step):
    stored = json.loads(shared('golden/cell/dpc_golden.json').read_text())['loss']
    logits = jnp.asarray(np.array(stored['logits'], np.float32).reshape(stored['logits_shape']))
    labels = jnp.asarray(np.array(stored['labels_9x9'], np.int32))[None]
    terms = losses.pixel_losses(ops.resize_bilinear(logits, (9, 9)).transpose(0, 3, 1, 2), labels)
    settings = losses.LossSettings(hard_pixels=share, hard_pixels_step=span)
    expected = stored['loss'][f'top_k={share:g},mining_step={span},global_step={step}']
    found = losses.hard_mean(terms, losses.hard_share(jnp.int32(step), settings))
    assert found == pytest.approx(expected, rel=1e-6)


def test_the_share_of_hard_pixels_shrinks_linearly():
    settings = losses.LossSettings(hard_pixels=0.2, hard_pixels_step=10)
    found = [float(losses.hard_share(jnp.int32(step), settings)) for step in (0, 5, 10, 20)]
    np.testing.assert_allclose(found, [1, 0.6, 0.2, 0.2], rtol=1e-6)


def test_hard_pixels_by_hand():
    terms = jnp.array([[0.0, 3.0], [1.0, 0.0]])  # of four pixels, two of which are ignored
    for share, expected in ((0.25, 3.0), (0.5, 2.0), (0.75, 2.0), (0.2, 0.0)):
        assert losses.hard_mean(terms, jnp.float32(share)) == expected


def test_class_weights_multiply_and_do_not_divide():
    logits, labels = random_case()
    weights = (0.0, 0.5, 1.0, 2.0, 3.0)
    plain = losses.pixel_losses(classes_second(logits), jnp.asarray(labels))
    found = losses.pixel_losses(classes_second(logits), jnp.asarray(labels), weights)
    kept = labels != IGNORE_LABEL
    np.testing.assert_allclose(found, plain * np.where(kept, np.take(weights, np.where(kept, labels, 0)), 0), rtol=1e-6)


@pytest.mark.parametrize(
    ('field', 'value'),
    [
        ('class_weights', (1.0, -1.0)),
        ('class_weights', (float('nan'),)),
        ('hard_pixels', 0.0),
        ('hard_pixels', 1.1),
        ('hard_pixels_step', -1),
    ],
)
def test_a_wrong_setting_is_refused(field, value):
    with pytest.raises(InputError, match=rf'^train\.{field} is '):
        losses.LossSettings(**{field: value})
