"""The text and the picture of an evaluation, against numbers worked out by hand."""

import json
import math

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from dpc_jax import metrics
from dpc_jax.base import IGNORE_LABEL, SegmentationExample
from dpc_jax.datasets import Facts
from dpc_jax.evaluation import report as evaluation_report
from dpc_jax.tasks.segmentation import Segmentation

CLASSES = ('road', 'sky', 'tree', 'bus')
# 10 pixels of road, of which 6 are found; 4 of sky, of which 3; 6 of tree, of which none; no bus, but one is predicted.
CONFUSION = np.array([[6, 1, 2, 1], [1, 3, 0, 0], [4, 2, 0, 0], [0, 0, 0, 0]])
PALETTE = np.array([(200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0)], np.uint8)
TASK = Segmentation(Facts('scenes', CLASSES, tuple(map(tuple, PALETTE.tolist()))))


def scores_of(confusion):
    return TASK.compute({'confusion': confusion})


def row(confusion=CONFUSION):
    cause = {'images': 7, 'dataset': 'scenes', 'split': 'val', 'crop_size': [33, 65], 'config': {'seed': 0}}
    return {**scores_of(confusion), **cause}


def test_scores_are_shares_over_the_classes_that_labels_have():
    scores = scores_of(CONFUSION)
    ious = [6 / (10 + 11 - 6), 3 / (4 + 6 - 3), 0.0]
    assert list(scores['iou'].values())[:3] == pytest.approx(ious)
    assert math.isnan(scores['iou']['bus'])
    assert scores['miou'] == pytest.approx(np.mean(ious))
    assert list(scores['accuracy'].values())[:3] == pytest.approx([0.6, 0.75, 0.0])
    assert math.isnan(scores['accuracy']['bus'])
    assert scores['class_accuracy'] == pytest.approx(1.35 / 3)
    assert (scores['pixel_accuracy'], scores['labelled_pixels']) == (9 / 20, 20)


def test_a_class_that_is_predicted_and_never_labelled_is_0_in_the_other_definition():
    """The value of tf.metrics.mean_iou by its own formula: classes with neither labels nor predictions are left out."""
    scores = scores_of(CONFUSION)
    assert scores['miou_with_unlabelled'] == pytest.approx((6 / 15 + 3 / 7 + 0 + 0) / 4)
    neither = np.pad(CONFUSION, (0, 1))  # a fifth class that nothing has
    assert metrics.mean_iou_with_unlabelled(neither) == pytest.approx(scores['miou_with_unlabelled'])
    assert metrics.mean_iou_with_unlabelled(CONFUSION[:3, :3]) == pytest.approx(metrics.mean_iou(CONFUSION[:3, :3]))
    assert math.isnan(metrics.mean_iou_with_unlabelled(np.zeros((2, 2), np.int64)))


def test_no_labels_are_no_score_and_not_zero():
    found = row(np.zeros((4, 4), np.int64))
    for name in ('miou', 'pixel_accuracy', 'class_accuracy'):
        assert math.isnan(found[name])
    assert TASK.headline(found) == 'no score: the images have no labels'
    assert '| class |' not in evaluation_report.as_markdown(TASK, found, {'confusion': np.zeros((4, 4), np.int64)})


def test_counts_are_not_rounded():
    huge = np.diag(np.full(4, 2**53 + 1, np.int64))
    assert scores_of(huge)['labelled_pixels'] == 4 * (2**53 + 1)
    assert f'{2**53 + 1}' in TASK.attachments({'confusion': huge}, [])['confusion.csv']


def test_json_has_null_where_there_is_no_number():
    read = json.loads(evaluation_report.as_json(row()), parse_constant=pytest.fail)
    assert read['iou']['bus'] is None
    assert read['config'] == {'seed': 0}


def test_the_report_says_per_class_what_it_is_taken_for():
    text = evaluation_report.as_markdown(TASK, row(), {'confusion': CONFUSION}, picture='some.png')
    assert text.startswith('# mIoU 27.62 % (pixel accuracy 45.00 %, mean class accuracy 45.00 %)\n')
    lines = text.splitlines()
    assert '| road | 40.00 | 60.00 | 50.00 | tree (20.00 %) |' in lines
    assert '| tree | 0.00 | 0.00 | 30.00 | road (66.67 %) |' in lines
    assert '| bus | – | – | 0.00 |  |' in lines
    assert any(line.endswith("as TensorFlow's mean_iou counts them, it is 20.71 %.") for line in lines)
    assert '![Images, targets and predictions](some.png)' in lines
    assert '- **crop size**: `[33, 65]`' in lines
    assert 'seed' not in text


def test_the_table_of_counts_has_labels_down_and_predictions_across():
    head, *lines = TASK.attachments({'confusion': CONFUSION}, [])['confusion.csv'].splitlines()
    assert head == 'label \\ prediction,road,sky,tree,bus'
    assert lines[0] == 'road,6,1,2,1'


def test_the_picture_has_the_colours_of_the_palette_and_names_what_is_in_it():
    label = np.full((4, 8), IGNORE_LABEL, np.uint8)
    label[:2] = 1
    tall = np.full((9, 6), 3, np.uint8)
    shown = [
        (SegmentationExample(np.zeros((4, 8, 3), np.uint8), label, 'wide'), np.zeros((4, 8), np.uint8)),
        (SegmentationExample(np.zeros((9, 6, 3), np.uint8), tall, 'tall'), tall),
    ]
    figure = TASK.panels(shown)
    pictures = [np.asarray(axes.get_images()[0].get_array()) for axes in figure.axes]
    assert [axes.get_title() for axes in figure.axes[:3]] == ['image', 'label', 'prediction']
    assert [picture.shape for picture in pictures] == [(4, 8, 3)] * 3 + [(9, 6, 3)] * 3
    np.testing.assert_array_equal(pictures[1][:2], np.broadcast_to(PALETTE[1], (2, 8, 3)))
    assert not pictures[1][2:].any()
    np.testing.assert_array_equal(pictures[2], np.broadcast_to(PALETTE[0], (4, 8, 3)))
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ['road', 'sky', 'bus', 'not labelled']
    for patch, index in zip(legend.get_patches(), (0, 1, 3), strict=False):
        assert to_rgb(patch.get_facecolor()) == pytest.approx(PALETTE[index] / 255)
