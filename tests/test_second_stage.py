"""What a config says of a second stage, and what is wrong with it, before any work."""

import inspect
import types

import numpy as np
import pytest

from configs import scenes_aux_search, scenes_search
from dpc_jax import assembly, climbing, frozen, second_stage
from dpc_jax.end_to_end import EndToEnd
from dpc_jax.study import Proposal, RunningMean


def config_of(**fields):
    config = scenes_aux_search.get_config('toy,tuned')
    config.update_from_flattened_dict({name.replace('__', '.'): value for name, value in fields.items()})
    return config


def check(config):
    assembly.check(config)
    second_stage.check(config)


@pytest.mark.parametrize(
    ('fields', 'line'),
    [
        ({'tuning__steps': -1}, 'tuning.steps is -1; it must be at least 0 (0: no second stage)'),
        ({'tuning__top': -2}, 'tuning.top is -2; it must be at least 0 (0: all)'),
        ({'tuning__steps': 0}, "search.pruner is 'running_mean', which stands before a second stage: set tuning.steps"),
        (
            {'tuning__crop_size': (64, 97)},
            'tuning.crop_size is (64, 97); each side less one must be a multiple of the loss stride 4',
        ),
        ({'tuning__batch_size': 0}, 'tuning.batch_size is 0; it must be at least 1'),
        ({'tuning__batch_size': 1}, 'tuning.batch_size is 1; it must be at least 2: of a single image a batch norm'),
        ({'tuning__crop_size': (0, 0)}, 'tuning.crop_size is '),
        ({'tuning__views': 0}, 'tuning.views is 0; it must be at least 1'),
        ({'tuning__encoder_learning_rate': -1.0}, 'tuning.encoder_learning_rate is -1.0; it must be greater than 0'),
        ({'tuning__encoder_momentum': 1.0}, 'tuning.encoder_momentum is 1.0; it must be at least 0 and below 1'),
        ({'search__apart': 20}, 'search.apart is 20; allowed: at most 19, the choices of a cell'),
        (
            {'space__name': 'dpc'},
            'the config has no cell.pooling, which the space dpc needs: it is one for another space',
        ),
        ({'tuning__polyak': 1.0}, 'tuning.polyak is 1.0; it must be at least 0 and below 1'),
        (
            {'backbone__output_stride': 16},
            'backbone.output_stride is 16, so mobilenet_v2_shallow has no map at stride 32; the space aux_cells reads'
            ' maps at 4, 8, 16, 32',
        ),
        ({'search__score': 'iou'}, "search.score is 'iou'; allowed: miou, geometric_mean, "),
        ({'proxy__optimizer': 'lamb'}, "proxy.optimizer is 'lamb'; allowed: sgd, adam"),
        ({'proxy__dtype': 'bfloat16'}, "proxy.dtype is 'bfloat16'; allowed: float32"),
        ({'cell__auxiliary': 'head'}, "cell.auxiliary is 'head'; allowed: cell, conv, none"),
        ({'proxy__chunk': 2}, 'proxy.chunk is 2; of the space aux_cells allowed: at most 1'),
        ({'search__pruner': 'gate'}, "pruner 'gate' is not known; allowed: '', running_mean, optuna."),
    ],
)
def test_what_is_wrong_is_one_line(fault, fields, line):
    assert fault(lambda: check(config_of(**fields))).startswith(line)


def test_a_space_whose_heads_are_not_trained_end_to_end_has_none(fault):
    config = scenes_search.get_config('toy')
    config.tuning = config_of().tuning
    line = 'tuning.steps is 2, but the space dpc has no second stage on images; 0'
    assert fault(lambda: check(config)) == line


def test_the_gate_stands_after_the_last_step_on_features():
    config = config_of()
    check(config)
    pruner = assembly.make_pruner(config)
    assert isinstance(pruner, RunningMean)
    assert pruner._point == len(assembly.proxy_settings(config, 2, steps=config.proxy.steps).stops()) - 1


def test_what_tuning_does_not_say_is_as_on_features():
    config = config_of(proxy__power=0.5, tuning__learning_rate=0.7)
    found = second_stage.settings(config, 5)
    encoder = frozen.make_backbone(config).clone(bn_decay=config.proxy.bn_decay)
    assert found.head == EndToEnd(assembly.proxy_settings(config, 5, steps=4).head, encoder)
    assert (found.power, found.learning_rate, found.steps, found.polyak_every) == (0.5, 0.7, 2, 2)
    assert (found.distillation, found.evaluations, found.optimizer) == (0, 1, 'adam')


# ---- the best of a group --------------------------------------------------------------------------------------------


class Reports:
    """A study whose pruner stops nobody."""

    def report(self, number, evaluation, score):
        pass

    def should_prune(self, number):
        return False


@pytest.mark.parametrize(
    ('scores', 'count', 'expected'),
    [
        ([0.9, 0.2, 0.5, 0.4], 1, [True, False, True, False]),  # the first is a reference and takes nobody's place
        ([0.1, 0.2, 0.5, 0.4], 2, [True, False, True, True]),
        ([np.nan, 0.3, 0.3, np.nan], 1, [True, True, False, False]),  # of equal ones the earlier
        ([0.1, 0.2, 0.5, 0.4], 9, [True] * 4),
    ],
)
def test_the_best_of_those_evaluated_together_go_on(monkeypatch, scores, count, expected):
    monkeypatch.setattr(climbing, 'Study', Reports)
    group = [Proposal(number, None, str(number), 'arch0' * (not number)) for number in range(4)]
    keep_going = inspect.unwrap(climbing._pruning)(Reports(), group, {1: count})
    assert keep_going(0, np.array(scores)).all()
    assert keep_going(1, np.array(scores)).tolist() == expected


def test_tuning_top_is_asked_after_the_first_stage():
    first = types.SimpleNamespace(settings=assembly.proxy_settings(config_of(), 5, steps=4))
    ask = inspect.unwrap(second_stage.promoted)
    assert ask(config_of(tuning__top=3), first) == {1: 3}
    assert ask(config_of(), first) == {}
    assert ask(config_of(tuning__top=3, tuning__steps=0), first) == {}
