"""Poses: crops, heat maps, joints, PCKh and COCO's measure, each against something worked out apart from it."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from dpc_jax import pose
from dpc_jax.base import PoseExample
from dpc_jax.datasets import Skeleton, coco_keypoints, mpii
from tests import people_by_hand as by_hand

SIGMAS = coco_keypoints.SIGMAS


# ---- where a crop lies ----------------------------------------------------------------------------------------------


def test_the_corners_of_the_box_are_those_of_the_crop():
    matrix = pose.affine((50.0, 40.0), (64.0, 48.0), (65, 49))
    np.testing.assert_allclose(
        pose.moved(np.array([[50.0, 40.0], [26.0, 8.0], [74.0, 72.0]]), matrix), [[24, 32], [0, 0], [48, 64]]
    )


def test_a_turn_is_clockwise_and_a_mirror_comes_after_it():
    point = np.array([[60.0, 40.0]])  # to the right of the centre
    turned = pose.affine((50.0, 40.0), (64.0, 64.0), (65, 65), turn=90.0)
    np.testing.assert_allclose(pose.moved(point, turned), [[32, 42]], atol=1e-9)  # below it
    mirrored = pose.affine((50.0, 40.0), (64.0, 64.0), (65, 65), mirrored=True)
    np.testing.assert_allclose(pose.moved(point, mirrored), [[22, 32]], atol=1e-9)


def test_points_come_back():
    matrix = pose.affine((31.5, 17.0), (80.0, 60.0), (65, 49), turn=23.0, mirrored=True)
    points = np.random.default_rng(0).uniform(0, 90, (9, 2))
    np.testing.assert_allclose(pose.moved(pose.moved(points, matrix), pose.inverse(matrix)), points, atol=1e-9)


def test_a_crop_shows_what_its_matrix_says():
    """A white dot lies where the matrix takes it, and what is outside of the image is the mean pixel."""
    image = np.zeros((90, 120, 3), np.uint8)
    image[28:33, 68:73] = 255
    matrix = pose.affine((70.0, 30.0), (64.0, 64.0), (65, 65), turn=30.0, mirrored=True)
    crop = pose.crop(image, matrix, (65, 65))
    (x, y), *_ = pose.moved(np.array([[70.0, 30.0]]), matrix)
    rows, columns = np.nonzero(crop[..., 0] > 200)
    assert (rows.mean(), columns.mean()) == pytest.approx((y, x), abs=0.3)
    outside = pose.crop(image, pose.affine((-200.0, -200.0), (64.0, 64.0), (65, 65)), (65, 65))
    assert np.abs(outside - 127.5).max() <= 0.5


@pytest.mark.parametrize(
    ('size', 'expected'), [((100.0, 20.0), (125, 93.75)), ((20.0, 90.0), (150, 112.5)), ((4.0, 3.0), (5, 3.75))]
)
def test_a_box_is_fitted_to_the_shape_of_the_crop(size, expected):
    assert pose.fitted_size(size, (257, 193), 1.25) == pytest.approx(expected)


# ---- heat maps ------------------------------------------------------------------------------------------------------


def test_a_heat_map_is_the_gaussian_of_the_recipe():
    joints = np.array([[[21.0, 9.0], [0.0, 40.0], [-9.0, 20.0], [-40.0, 20.0]]], np.float32)
    maps, inside = pose.drawn(jnp.asarray(joints), (11, 13), stride=4, sigma=1.5)
    expected, weights = by_hand.heat_maps(joints[0], (11, 13), stride=4, sigma=1.5)
    np.testing.assert_allclose(maps[0], expected, atol=1e-6)
    assert np.asarray(inside)[0].tolist() == weights == [True, True, True, False]
    assert float(maps[0, 0].max()) == 1.0


def test_joints_are_read_from_maps_as_the_release_reads_them():
    maps = np.random.default_rng(1).random((2, 5, 9, 7)).astype(np.float32)
    maps[0, 0] = np.eye(9, 7)[::-1] * 0  # the highest cell of a flat map is the first
    found = np.asarray(pose.joints_of(jnp.asarray(maps), stride=4))
    np.testing.assert_allclose(found, by_hand.joints_of(maps, 4), atol=1e-6)


def test_a_joint_that_was_drawn_is_found_within_half_a_cell():
    joints = np.random.default_rng(2).uniform(12, 48, (3, 4, 2)).astype(np.float32)
    maps, _ = pose.drawn(jnp.asarray(joints), (17, 17), stride=4, sigma=2.0)
    found = np.asarray(pose.joints_of(maps, stride=4))
    assert np.abs(found[..., :2] - joints).max() <= 2.0 + 1e-5
    np.testing.assert_allclose(found[..., 2], 1.0)


# ---- PCKh -----------------------------------------------------------------------------------------------------------


def drawn_people(count=12, joints=16, seed=3):
    draw = np.random.default_rng(seed)
    truth = draw.uniform(0, 200, (count, joints, 2))
    found = truth + draw.normal(0, 8, truth.shape)
    return found, truth, (draw.random((count, joints)) < 0.8).astype(float), draw.uniform(15, 40, count)


def test_pckh_is_that_of_the_python_form_of_the_official_evaluation():
    found, truth, visible, heads = drawn_people()
    ours = pose.pckh(found, truth, visible, heads, names=mpii.JOINTS, not_scored=(6, 7))
    for threshold in (0.5, 0.1, 0.11):
        mean, of_joints = by_hand.pckh(found, truth, visible, heads, threshold)
        assert ours[f'pckh_{threshold}'] == pytest.approx(mean / 100)
    _, of_joints = by_hand.pckh(found, truth, visible, heads, 0.5)
    np.testing.assert_allclose(list(ours['joints'].values()), of_joints / 100)


def test_people_without_a_head_and_joints_without_a_label_take_no_part():
    found, truth, visible, heads = drawn_people()
    visible[:, 3] = 0
    heads[5] = 0
    keep = np.arange(12) != 5
    ours = pose.pckh(found, truth, visible, heads, names=mpii.JOINTS)
    assert math.isnan(ours['joints'][mpii.JOINTS[3]])
    assert ours['people'] == 11
    theirs = pose.pckh(found[keep], truth[keep], visible[keep], heads[keep], names=mpii.JOINTS)
    np.testing.assert_equal(ours, theirs)
    nobody = pose.pckh(found[:0], truth[:0], visible[:0], heads[:0], names=mpii.JOINTS)
    assert math.isnan(nobody['pckh_0.5'])


# ---- COCO -----------------------------------------------------------------------------------------------------------


def truth_of(people, images=2):
    annotations = [
        {
            **{'id': index + 1, 'image_id': 1 + index % images, 'category_id': 1, 'iscrowd': 0},
            **{'area': 900.0, 'bbox': [0, 0, 30, 30], 'num_keypoints': 17},
            'keypoints': np.concatenate([joints, np.full((17, 1), 2)], 1).ravel().tolist(),
        }
        for index, joints in enumerate(people)
    ]
    category = {'id': 1, 'name': 'person', 'keypoints': list(coco_keypoints.JOINTS), 'skeleton': []}
    return {'images': [{'id': 1 + n} for n in range(images)], 'annotations': annotations, 'categories': [category]}


def detected(people, scores, images=2):
    return [
        {'image_id': 1 + index % images, 'category_id': 1, 'score': score, 'keypoints': by_hand.with_height(joints)}
        for index, (joints, score) in enumerate(zip(people, scores, strict=True))
    ]


PEOPLE = np.random.default_rng(4).uniform(5, 60, (6, 17, 2))


def test_average_precision_of_right_people_is_1_and_of_none_0():
    found = pose.average_precision(truth_of(PEOPLE), detected(PEOPLE, np.linspace(0.9, 0.4, 6)), SIGMAS)
    assert (found['ap'], found['ar'], found['ap_75']) == (1, 1, 1)
    assert math.isnan(found['ap_large'])  # an area of 900 is neither medium nor large
    assert pose.average_precision(truth_of(PEOPLE), [], SIGMAS)['ap'] == 0


def test_average_precision_is_that_of_hand_counted_matches():
    """Half of the people are found; of 101 points of recall those up to a half have a precision of 1."""
    found = pose.average_precision(truth_of(PEOPLE), detected(PEOPLE[:3], [0.9, 0.8, 0.7]), SIGMAS)
    assert found['ap'] == pytest.approx(51 / 101)
    assert found['ar'] == pytest.approx(0.5)


def test_people_that_are_almost_equal_are_kept_once():
    twice = np.stack([PEOPLE[0], PEOPLE[0] + 0.3, PEOPLE[1]])
    joints = np.concatenate([twice, np.ones((3, 17, 1))], -1)
    kept = pose.kept_by_similarity(joints, np.array([0.5, 0.9, 0.7]), np.full(3, 900.0), SIGMAS)
    assert kept == [1, 2]
    similar = by_hand.similarity(joints[1], joints[0], 900.0, SIGMAS)
    assert similar > 0.9


@pytest.mark.parametrize(('heights', 'expected'), [([0.1, 0.2], 0.0), ([0.1, 0.5], 0.45), ([0.3, 0.5], 0.36)])
def test_the_score_of_a_person_is_that_of_the_box_and_of_its_sure_joints(heights, expected):
    joints = np.array([[0, 0, height] for height in heights])
    assert pose.score_of(joints, 0.9) == pytest.approx(expected)


# ---- facts and pictures ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize('skeleton', [mpii.Mpii.skeleton, coco_keypoints.CocoKeypoints.skeleton])
def test_joints_that_change_places_are_left_and_right_of_one_name(skeleton: Skeleton):
    for one, other in skeleton.pairs:
        names = {skeleton.joints[one], skeleton.joints[other]}
        assert {name.split(' ', 1)[0] for name in names} == {'left', 'right'}
        assert len({name.split(' ', 1)[1] for name in names}) == 1
    paired = {index for pair in skeleton.pairs for index in pair}
    assert all(name.split(' ')[0] not in ('left', 'right') for i, name in enumerate(skeleton.joints) if i not in paired)
    assert len(skeleton.sigmas) in (0, len(skeleton.joints))


def test_the_sigmas_are_those_of_pycocotools():
    from pycocotools.cocoeval import Params

    np.testing.assert_allclose(SIGMAS, Params('keypoints').kpt_oks_sigmas)


def test_a_drawing_marks_sure_joints_alone():
    skeleton, palette = mpii.Mpii.skeleton, mpii.Mpii.palette
    joints = np.concatenate([np.full((16, 2), 5.0), np.ones((16, 1))], 1)
    joints[2] = (30, 20, 1)
    joints[3] = (50, 50, 0)
    picture = pose.draw(np.zeros((60, 70, 3), np.uint8), joints[None], skeleton, palette)
    np.testing.assert_array_equal(picture[20, 30], palette[2])
    assert not picture[50, 50].any()


def test_panels_have_a_row_for_each_person():
    person = by_hand.person(np.random.default_rng(0).uniform(5, 40, (16, 2)))
    example = PoseExample(np.zeros((60, 70, 3), np.uint8), person, 'a')
    found = np.concatenate([person.joints, np.ones((16, 1))], 1)
    figure = pose.panels([(example, found)] * 2, mpii.Mpii.skeleton)
    assert len(figure.axes) == 6
    assert figure.axes[0].get_title() == 'annotated'
