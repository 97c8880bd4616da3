"""Depth: losses and measures against NumPy by hand, sums that add up, colours and bars."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpc_jax import depth
from dpc_jax.base import DepthExample

DRAW = np.random.default_rng(0)
TRUTH = np.where(DRAW.random((3, 5, 7)) < 0.3, 0, DRAW.uniform(0.5, 9, (3, 5, 7))).astype(np.float32)
FOUND = DRAW.uniform(0.4, 10, (3, 5, 7)).astype(np.float32)


def known():
    """(found, truth) of the pixels that have a distance, float64."""
    there = TRUTH > 0
    return FOUND[there].astype(np.float64), TRUTH[there].astype(np.float64)


def loss(name, found=FOUND, truth=TRUTH):
    return depth.total_loss(name, jnp.asarray(found), jnp.asarray(truth))


# ---- losses ---------------------------------------------------------------------------------------------------------


def berhu_by_hand():
    found, truth = known()
    errors = np.abs(found - truth)
    c = 0.2 * errors.max()
    return sum(e if e <= c else (e * e + c * c) / (2 * c) for e in errors)


BY_HAND = {
    'berhu': berhu_by_hand,
    'l1': lambda: np.abs(np.subtract(*known())).sum(),
    'log_l2': lambda: ((np.log(known()[0]) - np.log(known()[1])) ** 2).sum(),
}


@pytest.mark.parametrize('name', depth.LOSSES)
def test_a_loss_is_that_of_numpy_over_the_pixels_that_have_a_distance(name):
    assert float(loss(name)) == pytest.approx(BY_HAND[name](), rel=1e-5)


@pytest.mark.parametrize('name', depth.LOSSES)
def test_what_is_missing_has_no_gradient(name):
    gradient = np.asarray(jax.grad(lambda found: loss(name, found))(jnp.asarray(FOUND)))
    assert not gradient[TRUTH == 0].any()
    assert gradient[TRUTH > 0].all()


def test_berhu_is_once_differentiable_where_its_parts_meet():
    """c is 0.2 of the largest error, which another pixel has; on both sides of it the slope is 1."""
    truth = jnp.asarray([[[5.0, 1.0]]])
    slopes = [
        float(jax.grad(lambda found: loss('berhu', found, truth))(jnp.asarray([[[10.0, 1 + e]]]))[0, 0, 1])
        for e in (0.999, 1.001)
    ]
    assert slopes == pytest.approx([1.0, 1.0], abs=2e-3)


@pytest.mark.parametrize('name', depth.LOSSES)
def test_right_distances_cost_nothing_and_have_finite_gradients(name):
    value, gradient = jax.value_and_grad(lambda found: loss(name, found))(jnp.where(TRUTH > 0, TRUTH, 1))
    assert float(value) == 0
    assert np.isfinite(gradient).all()


# ---- measures -------------------------------------------------------------------------------------------------------


def measures_by_hand(found, truth):
    """By the formulas of Eigen et al. 2014, §4."""
    ratio = np.maximum(found / truth, truth / found)
    return {
        'rmse': np.sqrt(np.mean((found - truth) ** 2)),
        'rmse_log': np.sqrt(np.mean((np.log(found) - np.log(truth)) ** 2)),
        'absolute': np.mean(np.abs(found - truth)),
        'absolute_relative': np.mean(np.abs(found - truth) / truth),
        'log10': np.mean(np.abs(np.log10(found) - np.log10(truth))),
        **{f'delta{power}': np.mean(ratio < 1.25**power) for power in (1, 2, 3)},
    }


def sums(found=FOUND, truth=TRUTH):
    return np.asarray(depth.measure(jnp.asarray(found), jnp.asarray(truth)), np.float64)


def scores(found=FOUND, truth=TRUTH):
    return depth.compute(sums(found, truth).sum(0))


def test_measures_are_those_of_numpy():
    found = scores()
    for name, value in measures_by_hand(*known()).items():
        assert found[name] == pytest.approx(value, rel=2e-5), name
    assert found['judged_pixels'] == (TRUTH > 0).sum()
    by_image = [math.sqrt(np.mean((f[t > 0] - t[t > 0]) ** 2)) for f, t in zip(FOUND, TRUTH, strict=True)]
    assert found['rmse_by_image'] == pytest.approx(np.mean(by_image), rel=1e-5)


def test_images_in_any_order_and_any_batches_give_the_same():
    whole = sums()
    parts = [sums(FOUND[i : i + 1], TRUTH[i : i + 1]) for i in (2, 0, 1)]
    np.testing.assert_allclose(np.concatenate(parts).sum(0), whole.sum(0), rtol=1e-6)


def test_an_image_without_distances_is_none():
    blank = np.concatenate([TRUTH, np.zeros_like(TRUTH[:1])])
    more = np.concatenate([FOUND, FOUND[:1]])
    assert scores(more, blank) == scores()
    nothing = scores(FOUND, np.zeros_like(TRUTH))
    assert math.isnan(nothing['rmse'])
    assert nothing['judged_pixels'] == 0


def test_right_distances_are_perfect():
    found = scores(np.where(TRUTH > 0, TRUTH, 3).astype(np.float32))
    assert (found['rmse'], found['log10'], found['delta1']) == (0, 0, 1)


def test_the_window_of_eigen_is_that_of_his_code():
    mask = depth.crop_mask((480, 640), depth.EIGEN)
    expected = np.zeros((480, 640), bool)
    expected[45:471, 41:601] = True
    np.testing.assert_array_equal(mask, expected)
    assert depth.crop_mask((7, 9), depth.NO_CROP).all()
    half = depth.crop_mask((240, 320), depth.EIGEN)
    assert 0.7 < half.mean() < 0.8


# ---- pictures -------------------------------------------------------------------------------------------------------


def test_colours_follow_the_distance_and_black_is_missing():
    colours = depth.coloured(np.array([[1.0, 3.0, 5.0, 0.0]]), 1.0, 5.0)
    light = colours.astype(int).sum(-1)[0]
    assert light[0] < light[1] < light[2]
    assert not colours[0, 3].any()


def test_the_bar_stands_beside_the_map():
    picture = depth.with_bar(np.linspace(1, 4, 200 * 150, dtype=np.float32).reshape(200, 150))
    assert picture.shape[0] == 200
    assert picture.shape[1] > 150 + 60
    assert (picture[:, 150:] == 255).all(-1).mean() > 0.3  # numbers and a bar on white
    assert depth.with_bar(np.zeros((10, 12), np.float32)).shape[0] == 120  # high enough for a bar


def test_panels_show_error_only_where_it_is_judged():
    example = DepthExample(
        np.zeros((6, 8, 3), np.uint8), np.zeros((6, 8), np.uint8), np.full((6, 8), 2, np.float32), 'a'
    )
    mask = np.zeros((6, 8), bool)
    mask[2:4] = True
    figure = depth.panels([(example, np.full((6, 8), 2.5, np.float32))], [mask])
    error = np.ma.filled(figure.axes[3].get_images()[0].get_array(), np.nan)
    np.testing.assert_allclose(error[2:4], 0.5)
    assert np.isnan(error[:2]).all()
    assert figure.axes[0].get_title() == 'image'
