"""A teacher's logits lie in the cache beside the features of train, and candidates learn from them."""

import dataclasses

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from configs import common, scenes_search
from dpc_jax import assembly, bench, datasets, described, frozen, networks, ops, teacher, weights
from dpc_jax.heads import TEACHER

pytestmark = pytest.mark.usefixtures('quick_compilation')


def config_of(checkpoint='', **fields):
    """A toy search of dense prediction cells, whose teacher has neither context nor decoder."""
    config = scenes_search.get_config('toy')
    config.teacher = common.teacher_config()
    config.teacher.checkpoint = str(checkpoint)
    config.teacher.backbone.width = 0.1
    config.teacher.context.name = 'none'
    config.teacher.decoder.output_stride = 0
    config.proxy.distillation = 0.5
    config.update_from_flattened_dict(fields)
    return config


def saved(config, folder, *, classes, seed=0):
    network = networks.make(config.teacher, classes)
    variables = networks.init_variables(jax.random.key(seed), network)
    variables['params']['logits']['kernel'] *= 1e12  # what a network sees before it has learnt anything is faint
    weights.save(folder, variables)
    return network, variables


@pytest.fixture(scope='module')
def taught(tmp_path_factory):
    """A prepared search, its cache, and the teacher."""
    place = tmp_path_factory.mktemp('teacher')
    config = config_of(place / 'weights')
    sets = assembly.load_datasets(config)
    network, variables = saved(config, place / 'weights', classes=sets[0].num_classes)
    prepared = bench.prepare(config, place / 'work')
    cache = frozen.build_cache(config, place / 'work', sets, frozen.backbone_variables(config, place / 'work', sets[0]))
    return config, prepared, cache, (network, variables)


def test_the_cache_has_its_logits_at_stride_4_of_train_alone(taught):
    config, _, cache, (network, variables) = taught
    sets = assembly.load_datasets(config)
    views = list(frozen.feature_cache._train_views(sets[0], frozen.cache_settings(config)))
    found = cache.train.features[TEACHER]
    assert found.dtype == np.float16
    assert found.shape == (len(views), 17, 25, sets[0].num_classes)
    assert TEACHER not in cache.val.features
    for row in (0, len(views) - 1):
        logits = network.apply(variables, jnp.asarray(views[row].image)[None])
        expected = ops.resize_bilinear(logits, (17, 25))[0]
        np.testing.assert_allclose(found[row], expected, atol=2e-3 * float(jnp.abs(expected).max()))


def test_candidates_learn_from_it(taught):
    """With the same seeds and features the loss is another one, and only by its term."""
    _, prepared, _, _ = taught
    genotypes = prepared.space.sample(jax.random.key(0), 2)
    evaluator = prepared.evaluator()
    with_it = evaluator(genotypes)
    settings = dataclasses.replace(evaluator.settings, distillation=0.0)
    without = dataclasses.replace(evaluator, settings=settings)(genotypes)
    assert evaluator.settings.distillation == 0.5
    assert (with_it.losses > without.losses).all()


def test_a_study_knows_its_teacher_by_its_weights(taught, tmp_path):
    config, prepared, _, _ = taught
    moved = config_of(tmp_path / 'elsewhere')
    sets = assembly.load_datasets(config)
    saved(moved, tmp_path / 'elsewhere', classes=sets[0].num_classes)
    assert assembly.study_settings(moved, sets) == prepared.settings
    saved(moved, tmp_path / 'other', classes=sets[0].num_classes, seed=1)
    other = assembly.study_settings(config_of(tmp_path / 'other'), sets)
    assert other['content']['teacher'] != prepared.settings['content']['teacher']


def test_without_one_its_term_is_off_and_that_is_said(capsys):
    config = config_of()
    data = assembly.load_datasets(config)[0]
    assert teacher.make(config, data) is None
    assert capsys.readouterr().out == 'teacher.checkpoint is empty: candidates are trained without a teacher\n'
    assert assembly.proxy_settings(config, 5, steps=4).distillation == 0
    assert teacher.make(config_of(**{'proxy.distillation': 0.0}), data) is None
    assert not capsys.readouterr().out


def test_a_teacher_of_other_classes_is_one_line(taught, drawn, fault):
    other = datasets.load(
        'camvid', ml_collections.ConfigDict({'name': 'camvid', 'root': str(drawn('camvid'))}), 'train'
    )
    line = fault(lambda: teacher.make(taught[0], other))
    assert line.startswith('teacher of 11 classes as config.teacher says: ')
    assert 'logits' in line


def test_a_teacher_of_another_network_of_the_same_shapes_is_one_line(taught, tmp_path, fault):
    config, _, _, (_, variables) = taught
    saved_as = config.teacher.copy_and_resolve_references()
    saved_as.dataset, saved_as.context.name = config.dataset, 'aspp'
    weights.save(tmp_path / 'held', variables, beside=described.files(described.of(saved_as)))
    config = config_of(tmp_path / 'held')
    data = assembly.load_datasets(config)[0]
    line = fault(lambda: teacher.make(config, data))
    assert line.endswith('is of another network: context.name is "aspp" there and "none" here')
    saved_as.context.name = 'none'
    weights.save(tmp_path / 'right', variables, beside=described.files(described.of(saved_as)))
    found = teacher.make(config_of(tmp_path / 'right'), data)
    assert found.description == teacher.make(taught[0], data).description


def test_logits_that_float16_does_not_hold_are_one_line(taught, tmp_path, fault):
    """Else the squared difference to them would be infinite, and every candidate would seem to diverge."""
    config = config_of(tmp_path / 'weights')
    sets = assembly.load_datasets(config)
    _, variables = taught[3]
    logits = {**variables['params']['logits'], 'bias': variables['params']['logits']['bias'] + 1e5}
    weights.save(tmp_path / 'weights', {**variables, 'params': {**variables['params'], 'logits': logits}})
    backbone = frozen.backbone_variables(config, tmp_path, sets[0])
    line = fault(lambda: frozen.build_cache(config, tmp_path, sets, backbone))
    assert line.startswith("the teacher's logits reach 10")


def test_a_teacher_that_is_not_there_is_one_line_before_any_work(tmp_path, fault):
    config = config_of(tmp_path / 'nowhere')
    line = fault(lambda: bench.prepare(config, tmp_path / 'work'))
    assert line.startswith('teacher of ')
    assert "nowhere': no such folder" in line
    assert not (tmp_path / 'work').exists()
