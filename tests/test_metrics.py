"""Predictions, confusion matrix, intersection over union, rank correlation."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from dpc_jax import metrics
from dpc_jax.base import IGNORE_LABEL


def random_labels(seed: int, classes: int = 4, shape: tuple[int, ...] = (2, 5, 7)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, classes, shape).astype(np.int32)


# ---- predictions ----------------------------------------------------------------------------------------------------


def test_a_prediction_is_the_argmax():
    logits = np.random.default_rng(0).standard_normal((2, 6, 4, 5)).astype(np.float32)
    np.testing.assert_array_equal(metrics.predict(jnp.asarray(logits)), logits.argmax(1))


@pytest.mark.parametrize(
    ('scores', 'winner'),
    [((1, 1, 1), 0), ((0, 2, 2), 1), ((2, 0, 2), 0), ((-1, -2, -1), 0), ((-math.inf, -math.inf, 0), 2), ((3,), 0)],
)
def test_the_lower_class_wins_a_tie(scores, winner):
    logits = jnp.array(scores, jnp.float32)[None, :, None, None]
    assert metrics.predict(logits).item() == winner == np.argmax(scores)


# ---- confusion ------------------------------------------------------------------------------------------------------


def test_confusion_counts_pixels_by_label_then_prediction():
    labels, predictions = random_labels(0), random_labels(1)
    labels[0, :2] = IGNORE_LABEL
    expected = np.zeros((4, 4), int)
    for label, prediction in zip(labels.reshape(-1), predictions.reshape(-1), strict=True):
        if label != IGNORE_LABEL:
            expected[label, prediction] += 1
    confusion = metrics.confusion_matrix(jnp.asarray(predictions), jnp.asarray(labels), 4)
    np.testing.assert_array_equal(confusion, expected)
    assert confusion.dtype == jnp.int32
    assert confusion.sum() == labels.size - 2 * labels.shape[2]


def test_confusion_of_a_whole_is_the_sum_over_its_parts():
    labels, predictions = random_labels(2), random_labels(3)
    parts = [
        metrics.confusion_matrix(jnp.asarray(p)[None], jnp.asarray(y)[None], 4)
        for p, y in zip(predictions, labels, strict=True)
    ]
    whole = metrics.confusion_matrix(jnp.asarray(predictions), jnp.asarray(labels), 4)
    np.testing.assert_array_equal(whole, sum(np.asarray(part) for part in parts))


def test_more_classes_than_a_byte_has_pairs():
    labels = jnp.full((1, 1, 3), 150, jnp.int32)
    confusion = metrics.confusion_matrix(labels - 1, labels, 151)
    assert confusion[150, 149] == 3 == confusion.sum()


def test_another_ignore_label():
    labels = jnp.array([[[0, 1, 2]]], jnp.int32)
    confusion = metrics.confusion_matrix(labels, labels, 3, ignore_label=0)
    np.testing.assert_array_equal(confusion, np.diag([0, 1, 1]))


# ---- intersection over union ----------------------------------------------------------------------------------------


def test_iou_by_hand():
    # Class 0: 5 hits, 2 missed, 4 false, so 5 / 11. Class 1: 3 hits, 4 missed, 2 false, so 3 / 9.
    confusion = np.array([[5, 2], [4, 3]])
    np.testing.assert_allclose(metrics.class_iou(confusion), [5 / 11, 3 / 9], rtol=1e-15)
    np.testing.assert_allclose(metrics.mean_iou(confusion), (5 / 11 + 3 / 9) / 2, rtol=1e-15)


def test_iou_against_sets_of_pixels():
    labels, predictions = random_labels(4), random_labels(5)
    confusion = np.asarray(metrics.confusion_matrix(jnp.asarray(predictions), jnp.asarray(labels), 4))
    expected = [
        ((labels == c) & (predictions == c)).sum() / ((labels == c) | (predictions == c)).sum() for c in range(4)
    ]
    np.testing.assert_allclose(metrics.class_iou(confusion), expected, rtol=1e-15)
    np.testing.assert_allclose(metrics.mean_iou(confusion), np.mean(expected), rtol=1e-15)


def test_a_class_without_label_is_nan_and_out_of_the_mean_even_if_predicted():
    confusion = np.array([[4, 0, 4], [0, 8, 0], [0, 0, 0]])
    np.testing.assert_array_equal(metrics.class_iou(confusion), [0.5, 1, np.nan])
    assert metrics.mean_iou(confusion) == 0.75


def test_without_any_label_there_is_no_score():
    assert math.isnan(metrics.mean_iou(np.zeros((3, 3), int)))


def test_a_population_is_scored_member_by_member():
    confusions = np.random.default_rng(0).integers(0, 9, (3, 4, 4))
    confusions[1] = 0
    confusions[2, 3] = 0
    np.testing.assert_array_equal(metrics.mean_iou(confusions), [metrics.mean_iou(one) for one in confusions])
    np.testing.assert_array_equal(metrics.class_iou(confusions), [metrics.class_iou(one) for one in confusions])


@pytest.mark.parametrize('pixels', [2**24 + 1, 2**31 - 1, 2**53 - 3])
def test_counts_are_whole_numbers_that_float32_does_not_hold(pixels):
    # One pixel of a second class must not drown; sums of several int32 counts must not wrap around.
    dtype = np.int32 if pixels < 2**31 else np.int64
    confusion = np.array([[pixels, 1], [0, 1]], dtype)
    np.testing.assert_array_equal(metrics.class_iou(confusion), [pixels / (pixels + 1), 1 / 2])


# ---- rank correlation -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('a', 'b', 'rho'),
    [
        ([1, 2, 3, 4], [10, 20, 30, 40], 1),
        ([1, 2, 3, 4], [8, 6, 4, -100], -1),
        # 1 - 6 * sum d^2 / (n (n^2 - 1)) with d = 0, 1, -1, 0, 0: 1 - 12 / 120.
        ([1, 2, 3, 4, 5], [1, 3, 2, 4, 5], 0.9),
        # Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: the covariance is 4.5, the variances are 4.5 and 5.
        ([1, 2, 2, 3], [1, 2, 3, 4], 4.5 / math.sqrt(4.5 * 5)),
        # Ranks 2, 2, 2, 4 against 1, 2.5, 2.5, 4: 3 / sqrt(3 * 4.5).
        ([0, 0, 0, 7], [1, 5, 5, 9], 3 / math.sqrt(3 * 4.5)),
    ],
)
def test_spearman_by_hand(a, b, rho):
    assert metrics.spearman(np.array(a, float), np.array(b, float)) == pytest.approx(rho, abs=1e-12)


def test_spearman_sees_ranks_alone_and_is_symmetric():
    rng = np.random.default_rng(0)
    a = rng.standard_normal(30)
    b = a + rng.standard_normal(30)
    rho = metrics.spearman(a, b)
    assert 0.3 < rho < 0.95
    assert metrics.spearman(np.exp(3 * a), b) == pytest.approx(rho)
    assert metrics.spearman(b, a) == pytest.approx(rho)
    assert metrics.spearman(a, -b) == pytest.approx(-rho)


@pytest.mark.parametrize('values', [[], [1.0], [2.0, 2.0, 2.0], [1.0, math.nan, 3.0]])
def test_without_two_ranks_there_is_no_correlation(values):
    values = np.array(values, float)
    others = np.arange(len(values), dtype=float)
    assert math.isnan(metrics.spearman(values, others))
    assert math.isnan(metrics.spearman(others, values))


# ---- rewards --------------------------------------------------------------------------------------------------------


def test_the_geometric_mean_is_that_of_a_matrix_by_hand():
    """Three classes that are there, a fourth that nothing has, and a fifth that is only predicted."""
    confusion = np.array([[6, 1, 1, 0, 0], [2, 3, 0, 0, 0], [0, 0, 4, 0, 1], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]])
    iou = [6 / 10, 3 / 6, 4 / 6, 0 / 1]
    accuracy = [6 / 8, 3 / 5, 4 / 5, 0]
    weighted = (8 * iou[0] + 5 * iou[1] + 5 * iou[2]) / 18
    expected = (sum(iou) / 4 * sum(accuracy) / 4 * weighted) ** (1 / 3)
    np.testing.assert_allclose(metrics.geometric_mean(confusion), expected)
    weighted = (5 * iou[1] + 5 * iou[2]) / 10
    expected = (sum(iou[1:]) / 3 * sum(accuracy[1:]) / 3 * weighted) ** (1 / 3)
    np.testing.assert_allclose(metrics.SCORES['geometric_mean_without_background'](confusion), expected)


def test_rewards_of_many_are_those_of_each_and_of_nothing_nan():
    confusions = np.random.default_rng(0).integers(0, 9, (3, 4, 4))
    for score in metrics.SCORES.values():
        np.testing.assert_allclose(score(confusions), [score(one) for one in confusions])
    only_background = np.zeros((4, 4), int)
    only_background[0, 0] = 5
    assert metrics.geometric_mean(only_background) == 1
    assert np.isnan(metrics.geometric_mean(only_background, background=False))
    assert np.isnan(metrics.geometric_mean(np.zeros((4, 4), int)))
