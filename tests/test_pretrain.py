"""A backbone that is trained on the spot: it learns, is fit for inference, and is the same on every run of its seed."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpc_jax import ops, pretrain
from dpc_jax.backbones import mobilenet_v2
from dpc_jax.base import InputError
from dpc_jax.datasets.scenes import Scenes
from dpc_jax.pretrain import PretrainSettings

SCENES = Scenes('train', 40, (65, 97), 0, 6.0)
SETTINGS = PretrainSettings(8, 2, (17, 33), 0.01, 4, 0)


class Toy(nn.Module):
    """One convolution at output stride 16."""

    @nn.compact
    def __call__(self, images, train=False):
        x = nn.Conv(8, (3, 3), strides=(16, 16), use_bias=False)(images / 255)
        return {'features': nn.relu(ops.BatchNorm(0.9)(x, use_running_average=not train))}


def train(settings=SETTINGS, seed=0, **kwargs):
    return pretrain.train_backbone(jax.random.key(seed), Toy(), SCENES, settings, **kwargs)


def test_the_same_seed_gives_the_same_bits():
    (variables, loss), (again, loss_again) = train(), train()
    assert loss == loss_again
    jax.tree.map(np.testing.assert_array_equal, variables, again)


@pytest.mark.parametrize(
    ('settings', 'seed'), [(dataclasses.replace(SETTINGS, seed=1), 0), (SETTINGS, 1)], ids=['crops', 'initial noise']
)
def test_another_seed_gives_another_backbone(settings, seed):
    kernels = [variables['params']['Conv_0']['kernel'] for variables, _ in (train(), train(settings, seed))]
    assert not np.array_equal(*kernels)


def test_the_variables_are_those_of_the_backbone_and_all_have_moved():
    start = Toy().init(jax.random.key(0), jnp.zeros((1, 17, 33, 3)))
    variables, _ = train()
    assert jax.tree.structure(dict(variables)) == jax.tree.structure(dict(start))
    for before, after in zip(jax.tree.leaves(start), jax.tree.leaves(variables), strict=True):
        assert before.shape == after.shape
        assert not np.array_equal(before, after)
        assert np.isfinite(after).all()


def test_a_first_step_of_no_length_gives_the_loss_of_the_start():
    # Logits of a fresh backbone at the loss stride, by hand.
    settings = dataclasses.replace(SETTINGS, steps=1, learning_rate=1e-30)
    _, loss = train(settings)
    images, labels = pretrain._batch(SCENES, settings, 0)
    model = pretrain.LinearLogits(Toy(), SCENES.num_classes)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 17, 33, 3)), (5, 9), False)
    logits, _ = model.apply(variables, jnp.asarray(images), (5, 9), True, mutable=['batch_stats'])
    log_p = np.log(np.exp(logits) / np.exp(logits).sum(1, keepdims=True))
    where = np.nonzero(labels != 255)
    expected = -log_p[where[0], labels[where], where[1], where[2]].mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_crops_come_from_the_whole_set_with_labels_at_the_loss_stride():
    few = dataclasses.replace(SCENES, count=12)
    settings = PretrainSettings(1, 5, few.size, 0.01, 8, 0)  # whole scenes, perhaps mirrored
    scenes = {flip: [example.image[:, ::flip] for example in few] for flip in (1, -1)}
    seen = set()
    for step in range(12):
        images, labels = pretrain._batch(few, settings, step)
        for image, label in zip(images, labels, strict=True):
            ((flip, index),) = [
                (flip, i) for flip, views in scenes.items() for i, view in enumerate(views) if (image == view).all()
            ]
            np.testing.assert_array_equal(label, few[index].label[:, ::flip][::8, ::8])
            seen.add((flip, index))
    assert {flip for flip, _ in seen} == {1, -1}
    assert len({index for _, index in seen}) > 7  # of 24 draws from 12; a draw gives four crops


def test_every_step_is_shown():
    shown = []
    train(track=lambda items, text, total: (shown.append((text, total, i)) or i for i in items))
    assert shown == [('training the backbone', 8, i) for i in range(8)]


@pytest.mark.slow  # compiles a whole backbone
@pytest.mark.usefixtures('quick_compilation')
def test_it_learns_and_inference_is_as_good_as_training_mode():
    settings = PretrainSettings(100, 4, (33, 33), 0.01, 4, 0)
    model = mobilenet_v2.Model(width=0.1, bn_decay=pretrain.BN_DECAY)
    variables, loss = pretrain.train_backbone(jax.random.key(0), model, SCENES, settings)
    assert loss < 0.75 * np.log(SCENES.num_classes)  # of a guess
    images, _ = pretrain._batch(SCENES, dataclasses.replace(settings, batch_size=16), 10**6)

    @jax.jit
    def both(variables, images):
        training, _ = model.apply(variables, images, True, mutable=['batch_stats'])
        return model.apply(variables, images)['features'], training['features']

    inference, training = (np.asarray(features) for features in both(variables, images))
    # With slim's decay of 0.997 the averages have hardly left their start, and this is 1.
    assert np.linalg.norm(inference - training) < 0.4 * np.linalg.norm(training)


def test_a_training_that_diverges_is_one_line():
    settings = dataclasses.replace(SETTINGS, steps=20, learning_rate=1e38)
    with pytest.raises(InputError, match=r'the backbone diverged \(loss nan\) .*learning_rate 1e\+38; lower it'):
        train(settings)


@pytest.mark.parametrize(
    ('change', 'line'),
    [
        ({'steps': 0}, 'backbone.pretrain.steps is 0; it must be at least 1'),
        ({'batch_size': 0}, 'backbone.pretrain.batch_size is 0; it must be at least 1'),
        ({'loss_stride': 0}, 'backbone.pretrain.loss_stride is 0; it must be at least 1'),
        ({'learning_rate': 0.0}, 'backbone.pretrain.learning_rate is 0.0; it must be greater than 0'),
        ({'crop_size': (17, 32)}, r'crop_size is \(17, 32\); it must be loss_stride \(4\) \* k \+ 1'),
        ({'crop_size': (-3, 33)}, r'crop_size is \(-3, 33\); it must be'),
        ({'seed': -1}, 'seed is -1; it must be at least 0'),
    ],
)
def test_bad_settings_are_refused(change, line):
    with pytest.raises(InputError, match=line):
        dataclasses.replace(SETTINGS, **change)
