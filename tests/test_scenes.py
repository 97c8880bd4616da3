"""Procedural scenes: their laws, and that the classes of a pair differ in nothing but a cue far away."""

import cv2
import ml_collections
import numpy as np
import pytest

from dpc_jax import datasets
from dpc_jax.base import IGNORE_LABEL, InputError
from dpc_jax.datasets import scenes
from dpc_jax.datasets.scenes import CLASSES, PAIRS, Context

SIZE = (129, 193)


def config_of(**changes) -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict({'size': SIZE, 'num_train': 40, 'num_val': 30, 'seed': 0, 'noise': 6.0} | changes)


def load(split: str = 'train', **changes) -> datasets.Dataset:
    return datasets.load('scenes', config_of(**changes), split)


def same(one, other) -> bool:
    return np.array_equal(one.image, other.image) and np.array_equal(one.label, other.label)


def keys_of(number: int) -> list[np.random.SeedSequence]:
    """(for the context, for the scene)"""
    return np.random.SeedSequence(1, spawn_key=(number,)).spawn(2)


def turned(context: Context) -> list[tuple[str, tuple[int, int], Context]]:
    """(cue, pair, context with one coin turned) for each of the nine coins."""
    (a, b), ((c, d), (e, f)), (g, h) = context.bus_lane, context.shop, context.walking
    return [
        *(('kerb', PAIRS[0], context._replace(bus_lane=lanes)) for lanes in ((not a, b), (a, not b))),
        *(('far roof', PAIRS[1], context._replace(shop=shop)) for shop in (((not c, d), (e, f)), ((c, d), (not e, f)))),
        *(('roof', PAIRS[1], context._replace(shop=shop)) for shop in (((c, not d), (e, f)), ((c, d), (e, not f)))),
        *(('board', PAIRS[2], context._replace(walking=walking)) for walking in ((not g, h), (g, not h))),
        ('sky', PAIRS[3], context._replace(taxi=not context.taxi)),
    ]


def test_scenes_are_the_same_on_every_call():
    one, other = load(), load()
    assert all(same(one[i], other[i]) for i in (0, 7, 39, 7))
    assert one.fingerprint() == other.fingerprint()


def test_a_scene_does_not_depend_on_how_many_there_are():
    few, many = load(num_train=3), load(num_train=1000, num_val=2)
    assert len(few) == 3
    assert all(same(few[i], many[i]) for i in range(3))
    with pytest.raises(IndexError):
        few[3]
    assert len(list(few)) == 3


def test_splits_and_seeds_share_no_scene():
    pictures = [e.image.tobytes() for d in (load(), load('val'), load(seed=1), load('val', seed=1)) for e in d]
    assert len(set(pictures)) == 2 * (40 + 30)


def test_the_fingerprint_follows_all_that_matters():
    changes = ({}, {'seed': 1}, {'noise': 5.0}, {'size': (129, 129)}, {'num_train': 41})
    prints = {load(**change).fingerprint() for change in changes} | {load('val').fingerprint()}
    assert len(prints) == len(changes) + 1


@pytest.mark.parametrize('split', datasets.SPLITS)
def test_all_classes_occur(split):
    dataset = load(split)
    labels = np.stack([example.label for example in dataset])
    shares = np.array([(labels == index).mean() for index in range(dataset.num_classes)])
    assert dataset.classes == CLASSES
    assert shares.min() > 0.005, dict(zip(CLASSES, shares, strict=True))
    assert set(np.unique(labels)) == {*range(dataset.num_classes), IGNORE_LABEL}
    assert (labels == IGNORE_LABEL).mean() < 0.06


def test_palette():
    assert scenes.Scenes.palette.shape == (len(CLASSES), 3)
    assert len(np.unique(scenes.Scenes.palette, axis=0)) == len(CLASSES)


@pytest.mark.parametrize('size', [(65, 65), (129, 97), (100, 301), (161, 241)])
def test_any_size(size):
    for image, label, _ in load(size=size, num_train=3):
        assert image.shape == (*size, 3)
        assert label.shape == size
        assert image.dtype == label.dtype == np.uint8


def test_sizes_show_the_same_scene():
    for number in range(5):
        key, scene_key = keys_of(number)
        small, large = (
            scenes.draw(scene_key, scenes.toss(key), size=size, noise=0.0)[1] for size in ((129, 193), (258, 386))
        )
        known = (small != IGNORE_LABEL) & (large[::2, ::2] != IGNORE_LABEL)
        assert (small == large[::2, ::2])[known].mean() > 0.985


def test_a_pixel_that_holds_two_classes_is_ignored_and_blended():
    canvas = scenes.Canvas(np.zeros((4, 6, 3), np.uint8), np.zeros((4, 6), np.uint8))
    canvas.label[:] = [[7, 7, 1, 4, 4, 4], [7, 7, 1, 4, 4, 4], [7, 7, 7, 7, 4, 4], [7, 7, 7, 7, 4, 2]]
    canvas.image[:, 3:] = 200
    image, label = scenes._develop(canvas, np.random.default_rng(0), 0.0)
    np.testing.assert_array_equal(label, [[7, IGNORE_LABEL, 4], [7, 7, IGNORE_LABEL]])
    assert np.all(image[:, 0] == 0)
    np.testing.assert_allclose(image[0, 1] / image[0, 2], 0.5, atol=0.1)  # but for the light, which varies slowly


def test_what_is_ignored_is_thin():
    for _, label, _ in load(num_train=10):
        ignored = (label == IGNORE_LABEL).astype(np.uint8)
        assert cv2.erode(ignored, np.ones((4, 4), np.uint8)).sum() == 0


def test_noise_is_texture_on_the_same_scene():
    key, scene_key = keys_of(0)
    (plain, label), (rough, other) = (
        scenes.draw(scene_key, scenes.toss(key), size=SIZE, noise=noise) for noise in (0.0, 8.0)
    )
    np.testing.assert_array_equal(label, other)
    difference = (rough.astype(float) - plain)[label == scenes.ROAD]
    assert 6 < difference.std() < 10
    assert abs(difference.mean()) < 0.5


def test_coins_are_fair_and_independent():
    count = 4000
    tosses = [scenes.toss(np.random.SeedSequence(5, spawn_key=(i,))) for i in range(count)]
    coins = np.array([[*t.bus_lane, *t.shop[0], *t.shop[1], *t.walking, t.taxi] for t in tosses], float)
    np.testing.assert_allclose(coins.mean(axis=0), 0.5, atol=5 * 0.5 / np.sqrt(count))
    np.testing.assert_allclose(np.corrcoef(coins.T), np.eye(9), atol=5 / np.sqrt(count))


# Distances in shares of height and width, as the head of scenes.py says: (axis, least, greatest) of the median scene.
DISTANCES = {
    'kerb': (1, 0, 0.27),
    'far roof': (0, 0.1, 0.4),
    'roof': (0, 0.2, 0.55),
    'board': (1, 0.45, 0.9),
    'sky': (0, 0.15, 0.75),
}


@pytest.mark.parametrize('number', range(6))
def test_a_coin_turns_the_class_and_nothing_is_seen_of_it_but_a_cue_far_away(number):
    key, scene_key = keys_of(number)
    context = scenes.toss(key)
    image, label = scenes.draw(scene_key, context, size=SIZE, noise=6.0)
    for cue, pair, other_context in turned(context):
        other_image, other_label = scenes.draw(scene_key, other_context, size=SIZE, noise=6.0)
        changed = label != other_label
        # The seam between two buildings is ignored where they differ, and only there.
        assert {*label[changed].tolist(), *other_label[changed].tolist()} <= {*pair, IGNORE_LABEL}
        turned_pixels = changed & (label != IGNORE_LABEL) & (other_label != IGNORE_LABEL)

        seen = np.abs(image.astype(int) - other_image).max(axis=-1)
        assert seen[turned_pixels].max(initial=0) == 0  # the two classes look exactly alike
        strong = seen > 60
        assert strong.sum() > 60, cue  # and the cue can be seen
        if not turned_pixels.any():
            continue  # no such object in the scene, or all of it hidden
        distance = cv2.distanceTransform((~strong).astype(np.uint8), cv2.DIST_L2, 5)[turned_pixels]
        axis, least, greatest = DISTANCES[cue]
        assert least * SIZE[axis] <= distance.min(), cue
        assert distance.max() <= greatest * SIZE[axis], cue


def test_without_its_cue_a_class_can_only_be_guessed():
    """Ridge on the scene in 8x8 cells tells the coins; of the objects of the pair alone it tells nothing."""
    contexts, views = [], []
    count, trained = 600, 450
    for number in range(count):
        key, scene_key = keys_of(number)
        contexts.append(scenes.toss(key))
        views.append(scenes.draw(scene_key, contexts[-1], size=SIZE, noise=6.0))

    def cells(image):
        return cv2.resize(image, (25, 17), interpolation=cv2.INTER_AREA).astype(np.float64).ravel() / 255

    def accuracy(features, coin):
        inputs = np.array(features) - np.mean(features[:trained], axis=0)
        target = np.where(coin, 1.0, -1.0)
        kernel = inputs @ inputs[:trained].T
        weights = np.linalg.solve(kernel[:trained] + 3 * np.eye(trained), target[:trained])
        return np.mean((kernel[trained:] @ weights > 0) == (target[trained:] > 0))

    coins = {
        PAIRS[0]: [c.bus_lane[0] for c in contexts],
        PAIRS[1]: [c.shop[0][1] for c in contexts],
        PAIRS[2]: [c.walking[0] for c in contexts],
        PAIRS[3]: [c.taxi for c in contexts],
    }
    whole = [cells(image) for image, _ in views]
    for pair, coin in coins.items():
        objects = [cells(np.where(np.isin(label, pair)[..., None], image, 0)) for image, label in views]
        assert accuracy(whole, coin) > 0.9, pair
        assert abs(accuracy(objects, coin) - 0.5) < 0.15, pair  # 150 scenes: 3.7 standard deviations


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'size': (64, 193)}, r'dataset.size is \(64, 193\); allowed: \(height, width\), each 65 at least'),
        ({'size': (129,)}, r'dataset.size is \(129,\); allowed'),
        ({'size': (129, 193, 3)}, r'dataset.size is \(129, 193, 3\); allowed'),
        ({'num_train': 0}, 'dataset.num_train is 0; allowed: 1 and more'),
        ({'num_train': -4}, 'dataset.num_train is -4; allowed: 1 and more'),
        ({'seed': -1}, 'dataset.seed is -1; allowed: 0 and more'),
        ({'noise': -0.5}, r'dataset.noise is -0.5; allowed: 0\.\.64 gray levels'),
        ({'noise': float('nan')}, 'dataset.noise is nan; allowed'),
        ({'noise': 65.0}, 'dataset.noise is 65.0; allowed'),
    ],
)
def test_wrong_values_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        load(**changes)


def test_a_wrong_number_for_val_is_named_so():
    with pytest.raises(InputError, match=r'dataset\.num_val is 0'):
        load('val', num_val=0)
