"""The step: what it computes is said again here by hand, and how the batch is split changes nothing but rounding."""

import functools
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpc_jax import losses, networks, ops, sharding
from dpc_jax.base import IGNORE_LABEL, InputError
from dpc_jax.losses import LossSettings
from dpc_jax.training import optimizer
from dpc_jax.training import step as train_step
from dpc_jax.training.optimizer import OptimizerSettings
from dpc_jax.training.step import StepSettings
from tests import small

pytestmark = pytest.mark.usefixtures('quick_compilation')

FAST = OptimizerSettings(steps=10, learning_rate=0.3)
KEY = jax.random.key(7)


def run(settings, *, devices=1, parts=1, steps=1, net=None, count=8):
    """The state after some steps, and their losses."""
    net, mesh = net or small.network(), sharding.data_mesh(devices)
    step = train_step.make_step(net, settings, mesh)
    state, told = sharding.replicate(small.state(net, settings), mesh), []
    for number in range(steps):
        state, said = step(KEY, state, *small.batch(count, parts=parts, seed=number))
        told.append(float(said.loss))
    return state, told


def close(one, other, tolerance=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=tolerance), one, other)


def forward(net, state, images, labels, key):
    """Loss and averages of one group by the plain definition."""
    variables = {'params': state.params, 'batch_stats': state.batch_stats}
    logits, mutated = net.apply(variables, images, True, key, mutable=['batch_stats'])
    resized = ops.resize_bilinear(logits, labels.shape[1:]).transpose(0, 3, 1, 2)
    return losses.cross_entropy(resized, labels), mutated['batch_stats']


def test_a_step_is_the_gradient_of_the_mean_loss_at_the_size_of_the_labels():
    settings, net = StepSettings(small.TASK, optimizer=FAST), small.network()
    start, (images, labels) = small.state(net, settings), small.batch(8)
    key = jax.random.split(jax.random.fold_in(KEY, jnp.int32(0)), 1)[0]

    def loss_of(params):
        return forward(net, start._replace(params=params), images[0], labels[0], key)

    (loss, stats), gradients = jax.jit(jax.value_and_grad(loss_of, has_aux=True))(start.params)
    transform = optimizer.make(start.params, net.scopes, FAST)
    updates, _ = transform.update(gradients, start.opt_state, start.params)
    state, (told,) = run(settings)
    assert told == pytest.approx(float(loss), rel=1e-5)
    close(state.params, optax.apply_updates(start.params, updates))
    close(state.batch_stats, stats)
    assert state.step == 1
    assert state.means.values()['loss'] == pytest.approx(told)
    assert state.means.values()['gradient_norm'] == pytest.approx(float(optax.tree.norm(gradients)), rel=1e-4)


def test_the_same_on_one_device_and_on_four():
    settings = StepSettings(small.TASK, optimizer=FAST, ema_decay=0.9)
    (one, ones), (four, fours) = (run(settings, devices=number, steps=3) for number in (1, 4))
    np.testing.assert_allclose(ones, fours, rtol=1e-5)
    close(one.params, four.params)
    close(one.ema, four.ema)
    assert ones[2] != ones[0]


def test_parts_are_the_whole_where_norms_are_frozen():
    settings, net = StepSettings(small.TASK, optimizer=FAST, batch_norm='frozen'), small.network(dropout_rate=0.0)
    (whole, wholes), (parts, told) = (run(settings, parts=number, steps=2, net=net) for number in (1, 4))
    np.testing.assert_allclose(wholes, told, rtol=1e-5)
    close(whole.params, parts.params)
    start = small.state(net, settings)
    close(whole.batch_stats, start.batch_stats, 0)
    scale = whole.params['backbone']['one']['BatchNorm']['scale']
    assert not np.array_equal(scale, start.params['backbone']['one']['BatchNorm']['scale'])


def test_dropout_is_drawn_where_norms_are_frozen():
    settings = StepSettings(small.TASK, optimizer=FAST, batch_norm='frozen')
    found = [run(settings, net=small.network(dropout_rate=rate))[1] for rate in (0.0, 0.5)]
    assert found[0] != found[1]


def test_per_device_normalises_each_devices_images_by_themselves():
    settings, net = StepSettings(small.TASK, optimizer=FAST, batch_norm='per_device'), small.network(dropout_rate=0.0)
    start, (images, labels) = small.state(net, settings), small.batch(8)
    found = [
        jax.jit(functools.partial(forward, net))(start, images[0, at : at + 2], labels[0, at : at + 2], KEY)
        for at in range(0, 8, 2)
    ]
    state, (told,) = run(settings, devices=4, net=net)
    assert told == pytest.approx(np.mean([float(loss) for loss, _ in found]), rel=1e-5)
    close(state.batch_stats, jax.tree.map(lambda *x: jnp.stack(x).mean(0), *[stats for _, stats in found]))
    assert told != run(StepSettings(small.TASK, optimizer=FAST), net=net)[1][0]


def test_the_moving_average_of_the_weights_keeps_up_at_first():
    settings = StepSettings(small.TASK, optimizer=FAST, ema_decay=0.15)
    one, _ = run(settings)
    start = small.state(small.network(), settings).params
    close(one.ema['params'], jax.tree.map(lambda old, new: 0.1 * old + 0.9 * new, start, one.params))  # 1 / 10
    two, _ = run(settings, steps=2)
    close(two.ema['params'], jax.tree.map(lambda old, new: 0.15 * old + 0.85 * new, one.ema['params'], two.params))
    assert two.variables is two.ema
    assert run(StepSettings(small.TASK, optimizer=FAST))[0].ema == {}


def test_hard_pixels_are_those_of_the_part():
    settings = StepSettings(small.task(loss_settings=LossSettings(hard_pixels=0.1)), FAST, batch_norm='frozen')
    net = small.network(dropout_rate=0.0)
    start, (images, labels) = small.state(net, settings), small.batch(8)
    logits = net.apply({'params': start.params, 'batch_stats': start.batch_stats}, images[0])
    terms = losses.pixel_losses(ops.upsample_logits(logits, (13, 13)), labels[0])
    _, (told,) = run(settings, net=net)
    assert told == pytest.approx(float(losses.hard_mean(terms, jnp.float32(0.1))), rel=1e-5)
    _, (told,) = run(settings, net=net, parts=2)
    halves = [float(losses.hard_mean(half, jnp.float32(0.1))) for half in (terms[:4], terms[4:])]
    assert told == pytest.approx(np.mean(halves), rel=1e-5)


def test_bfloat16_computes_and_float32_learns():
    settings = StepSettings(small.TASK, optimizer=FAST)
    state, (told,) = run(settings, net=small.network(0.0, jnp.bfloat16))
    assert {leaf.dtype for leaf in jax.tree.leaves((state.params, state.batch_stats))} == {jnp.dtype(jnp.float32)}
    plain = run(settings, net=small.network(0.0))[1][0]
    assert told == pytest.approx(plain, rel=0.02)
    assert told != plain


def test_accuracy_is_of_the_labelled_pixels():
    settings, net = StepSettings(small.TASK, optimizer=FAST, batch_norm='frozen'), small.network(dropout_rate=0.0)
    start, (images, labels) = small.state(net, settings), small.batch(8)
    logits = net.apply({'params': start.params, 'batch_stats': start.batch_stats}, images[0])
    predicted, kept = ops.upsample_logits(logits, (13, 13)).argmax(1), labels[0] != IGNORE_LABEL
    state, _ = run(settings, net=net)
    assert state.means.values()['accuracy'] == pytest.approx((predicted == labels[0])[kept].mean())


def test_the_loss_of_auxiliary_logits_counts_by_its_weight_and_their_accuracy_does_not():
    settings, net = StepSettings(small.TASK, optimizer=FAST), small.network_with_auxiliary(0.4)
    start, (images, labels) = small.state(net, settings), small.batch(8)

    def losses_of(params):
        variables = {'params': params, 'batch_stats': start.batch_stats}
        outputs, _ = net.apply(variables, images[0], True, KEY, mutable=['batch_stats'], method='outputs')
        assert set(outputs.auxiliary) == {'early'}
        found = [
            ops.resize_bilinear(x, (13, 13)).transpose(0, 3, 1, 2) for x in (outputs.logits, outputs.auxiliary['early'])
        ]
        main, early = (losses.cross_entropy(logits, labels[0]) for logits in found)
        kept = labels[0] != IGNORE_LABEL
        return main + 0.4 * early, (main, jnp.mean(found[0].argmax(1) == labels[0], where=kept))

    (loss, (main, accuracy)), gradients = jax.jit(jax.value_and_grad(losses_of, has_aux=True))(start.params)
    state, (told,) = run(settings, net=net)
    assert told == pytest.approx(float(loss), rel=1e-5)
    assert told > float(main) + 0.1
    assert state.means.values()['accuracy'] == pytest.approx(float(accuracy))
    transform = optimizer.make(start.params, net.scopes, FAST)
    updates, _ = transform.update(gradients, start.opt_state, start.params)
    close(state.params, optax.apply_updates(start.params, updates))
    for gradient in (gradients['auxiliary']['early']['kernel'], gradients['context']['early']['kernel']):
        assert np.abs(gradient).max() > 1e-5


def test_auxiliary_logits_of_weight_0_change_nothing_else():
    settings = StepSettings(small.TASK, optimizer=OptimizerSettings(steps=10, learning_rate=0.3, weight_decay=0.0))
    net = small.network_with_auxiliary(0.0)
    start = small.state(net, settings).params
    state, _ = run(settings, net=net)
    close(state.params['auxiliary'], start['auxiliary'], 0)
    assert np.abs(state.params['context']['main']['kernel'] - start['context']['main']['kernel']).max() > 1e-6


def test_prediction_does_not_read_auxiliary_logits():
    net, (images, _) = small.network_with_auxiliary(0.4), small.batch(2)
    variables = networks.init_variables(jax.random.key(0), net)
    logits = net.apply(variables, images[0])
    params = {**variables['params'], 'auxiliary': jax.tree.map(lambda x: x * jnp.nan, variables['params']['auxiliary'])}
    broken = net.apply({**variables, 'params': params}, images[0], method='outputs')
    np.testing.assert_array_equal(broken.logits, logits)
    assert np.isnan(broken.auxiliary['early']).all()


def test_a_batch_without_labels_changes_nothing_but_by_decay():
    settings, net = StepSettings(small.TASK, optimizer=FAST), small.network()
    mesh = sharding.data_mesh(1)
    images, labels = small.batch(8)
    start = small.state(net, settings)
    state, told = train_step.make_step(net, settings, mesh)(
        KEY, sharding.replicate(start, mesh), images, jnp.full_like(labels, IGNORE_LABEL)
    )
    assert (float(told.loss), float(told.gradient_norm)) == (0.0, 0.0)
    kernel = start.params['logits']['kernel']
    close(state.params['logits']['kernel'], kernel * (1 - 0.3 * 4e-5), 1e-7)


@pytest.mark.parametrize(
    ('field', 'value', 'said'),
    [
        ('batch_norm', 'sync', "train.batch_norm is 'sync'; allowed: synced, per_device, frozen"),
        ('ema_decay', 1.0, 'train.ema_decay is 1.0'),
        ('ema_decay', -0.1, 'train.ema_decay is -0.1'),
    ],
)
def test_a_wrong_setting_is_refused(field, value, said):
    with pytest.raises(InputError) as error:
        StepSettings(small.TASK, **{field: value})
    assert str(error.value).startswith(said)


def test_the_same_on_1_2_4_and_8_devices():
    flags = [flag for flag in os.environ['XLA_FLAGS'].split() if 'device_count' not in flag]
    environment = {**os.environ, 'XLA_FLAGS': ' '.join([*flags, '--xla_force_host_platform_device_count=8'])}
    root = pathlib.Path(__file__).resolve().parent.parent
    command = [sys.executable, '-m', 'tests.test_training_step']
    done = subprocess.run(command, cwd=root, env=environment, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert list(found) == ['1', '2', '4', '8']
    for told in found.values():
        np.testing.assert_allclose(told, found['1'], rtol=1e-5)
    assert len(set(found['1'])) == 3


if __name__ == '__main__':
    print(json.dumps({n: run(StepSettings(small.TASK, optimizer=FAST), devices=n, steps=3)[1] for n in (1, 2, 4, 8)}))
