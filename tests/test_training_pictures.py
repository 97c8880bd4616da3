"""Pictures of trainings show the numbers of the records."""

import numpy as np
import pytest

from dpc_jax import training_pictures


def records(steps=40, every=10, offset=0.0):
    found = [{'step': step, 'loss': offset + 1 / step, 'learning_rate': 0.1} for step in range(1, steps + 1)]
    return found + [{'step': step, 'miou': step / 100} for step in range(every, steps + 1, every)]


def lines(axes):
    return [np.array(line.get_xydata()) for line in axes.get_lines() if len(line.get_xydata())]


def test_the_curves_are_those_of_the_records(tmp_path):
    figure = training_pictures.curves(records())
    above, below, rate = figure.axes
    np.testing.assert_allclose(lines(above)[0], [(step, 1 / step) for step in range(1, 41)])
    np.testing.assert_allclose(lines(below)[0], [(step, step) for step in (10, 20, 30, 40)])
    np.testing.assert_allclose(lines(rate)[0][:, 1], 0.1)
    assert [text.get_text() for text in below.texts] == ['40.00']
    figure.savefig(tmp_path / 'curves.png')


@pytest.mark.parametrize('held', [[], records(1, 2), [{'step': 1, 'miou': None}], [{'step': 2, 'loss': None}]])
def test_few_records_are_enough(held, tmp_path):
    training_pictures.curves(held).savefig(tmp_path / 'curves.png')
    training_pictures.comparison({'DPC': [held]}).savefig(tmp_path / 'comparison.png')


def test_a_running_mean_by_hand():
    values = np.arange(80.0) ** 2
    expected = [values[max(0, i - 2) : i + 3].mean() for i in range(80)]
    np.testing.assert_allclose(training_pictures.running_mean(values), expected)


def test_modules_have_a_line_for_each_seed_and_one_for_their_mean():
    runs = {'DPC': [records(), records(offset=2.0)], 'ASPP': [records(offset=4.0)]}
    above, below = training_pictures.comparison(runs).axes
    assert len(lines(above)) == len(lines(below)) == 5
    np.testing.assert_allclose(lines(above)[2], (lines(above)[0] + lines(above)[1]) / 2)
    names = [text.get_text() for text in above.get_legend().get_texts()]
    assert names == ['DPC (2 seeds)', 'ASPP (1 seeds)']
