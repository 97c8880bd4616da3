"""The proxy is a plain training of the static cell, whose score counts every pixel of val once."""

import dataclasses
import functools
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpc_jax import cell, cell_transfer, fused, metrics, ops, proxy
from dpc_jax.base import IGNORE_LABEL, InputError, PyTree
from dpc_jax.cell import CellSettings, DensePredictionCell
from dpc_jax.heads.dpc import Head, HeadParams
from dpc_jax.proxy import CandidateState, Plan, ProxyData, ProxySettings
from dpc_jax.spaces import dpc
from dpc_jax.spaces.dpc import Genotype

CHANNELS, CLASSES, STEPS = {16: 6}, 3, 5
# Learning rate and weight decay are large, so that each part of the optimiser shows within five steps.
SETTINGS = ProxySettings(
    Head(CLASSES, CellSettings(4, 16, 'sliding', 0.2, 0.8)),
    *(STEPS, 2),
    learning_rate=0.2,
    weight_decay=0.05,
    eval_batch_size=2,
    kernels='plain',
)
ROUNDING = 2e-5  # of losses and parameters of about 1; measured: 1e-6

OP = {dpc.op_name(op): op for op in range(len(dpc.OPS))}
CELLS = {
    'features twice': ((-1, -1, -1), ('sep 3x6', 'conv1x1', 'pool 2x4')),
    'chain': ((-1, 0, 1), ('pool 1x1', 'sep 1x3', 'pool 4x2')),
    'tree': ((-1, 0, 0), ('conv1x1', 'sep 6x1', 'sep 21x21')),
}


pytestmark = pytest.mark.usefixtures('quick_compilation')


@pytest.fixture(scope='module')
def data():
    """Nine views of 5x7 cells with labels at stride 8 and five images of 6x5 with whole ones; a tenth is ignored."""
    rng = np.random.default_rng(0)

    def split(count, size, label_size):
        labels = rng.integers(0, CLASSES, (count, *label_size))
        labels[rng.random(labels.shape) < 0.1] = IGNORE_LABEL
        features = {
            stride: jnp.asarray(rng.normal(size=(count, *size, depth)), jnp.bfloat16)
            for stride, depth in CHANNELS.items()
        }
        return features, jnp.asarray(labels, jnp.uint8)

    return ProxyData(*split(9, (5, 7), (9, 13)), *split(5, (6, 5), (41, 33)))


@pytest.fixture(scope='module')
def plan():
    order = proxy.image_order(jax.random.key(2), 9, SETTINGS)
    return Plan(jax.random.key(0), jax.random.key(1), jnp.asarray(order))


@pytest.fixture(scope='module')
def programs():
    """Compiled for any genotype: start, steps of a span, confusion matrix."""
    return (
        jax.jit(functools.partial(proxy.init, channels=CHANNELS, settings=SETTINGS)),
        jax.jit(functools.partial(proxy.train, settings=SETTINGS)),
        jax.jit(functools.partial(proxy.confusion, settings=SETTINGS)),
    )


def genotype_of(name: str) -> Genotype:
    inputs, names = CELLS[name]
    return Genotype(np.array(inputs, np.int32), np.array([OP[name] for name in names], np.int32))


# ---- the same training, written plainly -----------------------------------------------------------------------------


class Plain(nn.Module):
    """The static cell and its logits, resized to the labels."""

    cell: DensePredictionCell

    @nn.compact
    def __call__(self, features, size, train, dropout_key=None):
        x = self.cell(features, train, dropout_key)
        return ops.resize_bilinear(nn.Dense(CLASSES, name='logits')(x), size)


def static_variables(candidate: CandidateState, genotype: Genotype) -> PyTree:
    """What a candidate of the proxy is in the layout of `Plain`."""
    params = candidate.params
    found = cell_transfer.to_static(params.cell, candidate.stats, genotype, CHANNELS[16])
    logits = {'kernel': params.logits_kernel, 'bias': params.logits_bias}
    return {'params': {'cell': found['params'], 'logits': logits}, 'batch_stats': {'cell': found['batch_stats']}}


def sgd_step(path, parameter, gradient, velocity, step):
    """Momentum SGD by hand: what is decayed, what learns twice as fast, how fast."""
    names = [part.key for part in path]
    if names == ['logits', 'bias']:
        gradient = 2 * gradient
    if names[-1] == 'kernel' and not names[-2].endswith('_depthwise'):
        gradient = gradient + 0.05 * parameter
    velocity = 0.9 * velocity + gradient
    return parameter - 0.2 * (1 - step / STEPS) ** 0.9 * velocity, velocity


def train_plainly(model: Plain, variables: PyTree, data: ProxyData, plan: Plan) -> tuple[PyTree, list[float]]:
    @jax.jit
    def gradients(variables, features, labels, key):
        def loss_of(params):
            held = {**variables, 'params': params}
            logits, moved = model.apply(held, features, labels.shape[1:], True, key, mutable=['batch_stats'])
            labelled = labels != IGNORE_LABEL
            each = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(labelled, labels, 0))
            return jnp.where(labelled, each, 0).sum() / labelled.sum().astype(jnp.float32), moved

        return jax.value_and_grad(loss_of, has_aux=True)(variables['params'])

    velocities, losses = jax.tree.map(np.zeros_like, variables['params']), []
    for step, chosen in enumerate(np.asarray(plan.order)):
        features, labels = (
            data.train_features[16][chosen].astype(jnp.float32),
            data.train_labels[chosen].astype(jnp.int32),
        )
        (loss, moved), grads = gradients(variables, features, labels, jax.random.fold_in(plan.key_dropout, step))
        pairs = jax.tree_util.tree_map_with_path(
            functools.partial(sgd_step, step=step), variables['params'], grads, velocities
        )
        params, velocities = jax.tree.transpose(jax.tree.structure(grads), jax.tree.structure((0, 0)), pairs)
        variables = {'params': params, **moved}
        losses.append(float(loss))
    return variables, losses


def count_plainly(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    counts = np.zeros((CLASSES, CLASSES), int)
    for label, prediction in zip(labels.ravel(), predictions.ravel(), strict=True):
        if label != IGNORE_LABEL:
            counts[label, prediction] += 1
    return counts


@pytest.mark.parametrize('name', CELLS)
def test_a_candidate_is_trained_and_scored_as_the_static_cell_would_be(programs, data, plan, name):
    init, train, confusion = programs
    genotype = genotype_of(name)
    used, candidate = cell.uses(genotype), init(plan.key_init, genotype)
    model = Plain(DensePredictionCell.of(genotype, SETTINGS.head.cell))
    variables, expected_losses = train_plainly(model, static_variables(candidate, genotype), data, plan)

    losses = []
    for step in range(STEPS):
        candidate, loss = train(candidate, genotype, used, data.train, plan, jnp.array([step, step + 1], jnp.int32))
        losses.append(float(loss))
    np.testing.assert_allclose(losses, expected_losses, rtol=ROUNDING)
    found = static_variables(candidate, genotype)
    assert jax.tree.structure(found) == jax.tree.structure(variables)
    compare = functools.partial(np.testing.assert_allclose, rtol=ROUNDING, atol=ROUNDING)
    jax.tree.map(compare, found, variables)
    assert candidate.finite

    # The score, with the proxy's own variables, so that rounding turns no pixel.
    logits = model.apply(found, data.val_features[16].astype(jnp.float32), data.val_labels.shape[1:], False)
    expected = count_plainly(np.asarray(logits).argmax(-1), np.asarray(data.val_labels))
    counts = np.asarray(confusion(candidate, genotype, used, data.val, np.int32(5)))
    assert np.abs(counts - expected).sum() <= 4  # a pixel whose logits tie to rounding counts twice here
    np.testing.assert_allclose(metrics.mean_iou(counts), metrics.mean_iou(expected), rtol=0, atol=1e-3)


def test_a_span_is_its_steps_one_by_one(programs, data, plan):
    init, train, _ = programs
    genotype = genotype_of('chain')
    used, start = cell.uses(genotype), init(plan.key_init, genotype)
    whole, mean = train(start, genotype, used, data.train, plan, jnp.array([0, STEPS], jnp.int32))
    candidate, losses = start, []
    for span in ([0, 2], [2, STEPS]):
        candidate, loss = train(candidate, genotype, used, data.train, plan, jnp.array(span, jnp.int32))
        losses.append(float(loss))
    jax.tree.map(np.testing.assert_array_equal, candidate, whole)
    np.testing.assert_allclose(mean, (2 * losses[0] + 3 * losses[1]) / STEPS, rtol=1e-6)


# ---- counting -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('batch', [2, 5, 8], ids=['a rest of one', 'no rest', 'more than there are'])
def test_every_labelled_pixel_of_val_is_counted_once(programs, data, plan, batch):
    genotype = genotype_of('tree')
    candidate, settings = programs[0](plan.key_init, genotype), dataclasses.replace(SETTINGS, eval_batch_size=batch)
    counts = jax.jit(functools.partial(proxy.confusion, settings=settings))(
        candidate, genotype, cell.uses(genotype), data.val, np.int32(5)
    )
    labels = np.asarray(data.val_labels)
    assert counts.dtype == jnp.int32
    np.testing.assert_array_equal(np.asarray(counts).sum(1), [(labels == label).sum() for label in range(CLASSES)])
    apply = jax.jit(functools.partial(SETTINGS.head.apply, train=False))
    features = {16: data.val_features[16].astype(jnp.float32)}
    outputs, _ = apply(candidate.params, candidate.stats, genotype, features)
    logits = ops.upsample_logits(outputs.logits, labels.shape[1:], axes='blhw')
    expected = count_plainly(np.asarray(logits).argmax(1), labels)
    assert np.abs(np.asarray(counts) - expected).sum() <= 4  # of 6765 pixels


# ---- divergence -----------------------------------------------------------------------------------------------------


def test_parameters_that_the_last_step_ruined_are_found_though_its_loss_was_finite(programs, data, plan):
    init, train, _ = programs
    genotype = genotype_of('tree')
    start = init(plan.key_init, genotype)
    ruined = jax.tree.map(lambda leaf: leaf * np.inf if leaf.shape == (CLASSES,) else leaf, start.opt_state)
    ruined = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.inf) if leaf.shape == (CLASSES,) else leaf, ruined)
    span = jnp.array([0, 1], jnp.int32)
    sound, _ = train(start, genotype, cell.uses(genotype), data.train, plan, span)
    found, loss = train(start._replace(opt_state=ruined), genotype, cell.uses(genotype), data.train, plan, span)
    assert np.isfinite(loss)
    assert sound.finite
    assert not found.finite


def test_once_not_finite_is_never_finite_again(programs, data, plan):
    init, train, _ = programs
    genotype = genotype_of('tree')
    failed = init(plan.key_init, genotype)._replace(finite=jnp.array(False))
    found, loss = train(failed, genotype, cell.uses(genotype), data.train, plan, jnp.array([0, 1], jnp.int32))
    assert np.isfinite(loss)
    assert not found.finite


# ---- optimiser ------------------------------------------------------------------------------------------------------


def params_of(value: float) -> HeadParams:
    shapes = jax.eval_shape(lambda: proxy.init(jax.random.key(0), genotype_of('tree'), CHANNELS, SETTINGS).params)
    return jax.tree.map(lambda leaf: jnp.full(leaf.shape, value), shapes)


def test_the_learning_rate_follows_the_polynomial_to_zero():
    settings = dataclasses.replace(SETTINGS, steps=10, momentum=0.0, weight_decay=0.0, power=0.7, learning_rate=0.3)
    optimizer, params = settings.rule(), params_of(1.0)
    state, rates = optimizer.init(params), []
    for _ in range(11):
        updates, state = optimizer.update(params_of(1.0), state, params)
        rates.append(-float(updates.logits_bias[0]))
    np.testing.assert_allclose(rates, [0.3 * (1 - step / 10) ** 0.7 for step in range(11)], rtol=1e-5)


def test_weight_decay_reaches_the_pointwise_kernels_and_no_other_parameter():
    optimizer, params = SETTINGS.rule(), params_of(2.0)
    updates, _ = optimizer.update(params_of(0.0), optimizer.init(params), params)
    moved = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(updates)}
    decayed = {'.cell.pointwise.kernel', '.cell.projection.kernel', '.logits_kernel'}
    assert decayed <= set(moved)
    for name, update in moved.items():
        np.testing.assert_allclose(update, -0.2 * 0.05 * 2.0 if name in decayed else 0.0, rtol=1e-6)


def test_logits_start_small_and_the_rest_as_the_cell_starts():
    settings = dataclasses.replace(SETTINGS, head=Head(50, SETTINGS.head.cell._replace(filters=64)))
    candidate = proxy.init(jax.random.key(4), genotype_of('tree'), CHANNELS, settings)
    kernel = np.asarray(candidate.params.logits_kernel)
    assert kernel.shape == (64, 50)
    np.testing.assert_allclose(kernel.std(), 0.01 * 0.88, rtol=0.05)  # 0.88: of a normal cut at two sigma
    assert np.abs(kernel).max() <= 0.02
    assert not candidate.params.logits_bias.any()
    assert candidate.finite


def test_bfloat16_is_of_the_computation_and_not_of_the_parameters(data, plan):
    settings = dataclasses.replace(SETTINGS, dtype='bfloat16')
    genotype = genotype_of('chain')
    start = jax.eval_shape(lambda: proxy.init(plan.key_init, genotype, CHANNELS, settings))
    step = functools.partial(proxy.train, settings=settings)
    span = jnp.array([0, 1], jnp.int32)
    text = jax.jit(step).lower(start, genotype, cell.uses(genotype), data.train, plan, span).as_text()
    assert 'tensor<2x5x7x12xbf16>' in text  # the branches, concatenated
    assert 'tensor<2x5x7x12xf32>' not in text
    after, _ = jax.eval_shape(step, start, genotype, cell.uses(genotype), data.train, plan, span)
    assert {leaf.dtype for leaf in jax.tree.leaves((after.params, after.stats))} == {jnp.dtype('float32')}


# ---- order of images ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(('count', 'steps', 'batch'), [(7, 20, 3), (5, 3, 8), (12, 4, 2)])
def test_every_image_is_read_once_before_any_is_read_again(count, steps, batch):
    settings = dataclasses.replace(SETTINGS, steps=steps, batch_size=batch)
    order = proxy.image_order(jax.random.key(0), count, settings)
    assert order.shape == (steps, batch)
    flat = order.ravel()
    passes = [flat[start : start + count] for start in range(0, flat.size, count)]
    for one in passes[:-1]:
        assert sorted(one) == list(range(count))
    assert len(set(passes[-1])) == len(passes[-1])
    assert set(passes[-1]) <= set(range(count))


def test_the_order_is_drawn_from_the_key_and_anew_for_every_pass():
    settings = dataclasses.replace(SETTINGS, steps=6, batch_size=10)
    order = proxy.image_order(jax.random.key(0), 20, settings)
    np.testing.assert_array_equal(order, proxy.image_order(jax.random.key(0), 20, settings))
    passes = {one.tobytes() for one in (*order.reshape(3, 20), *proxy.image_order(jax.random.key(1), 20, settings)[:2])}
    assert len(passes) >= 4


# ---- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('steps', 'evaluations', 'stops'), [(30, 3, [10, 20, 30]), (10, 3, [3, 6, 10]), (4, 4, [1, 2, 3, 4]), (9, 1, [9])]
)
def test_evaluations_are_spread_evenly_and_the_last_is_at_the_end(steps, evaluations, stops):
    assert dataclasses.replace(SETTINGS, steps=steps, evaluations=evaluations).stops() == stops


def test_further_steps_come_in_between_each_once():
    assert dataclasses.replace(SETTINGS, steps=9, evaluations=3, stops_at=(8, 1, 3)).stops() == [1, 3, 6, 8, 9]
    assert dataclasses.replace(SETTINGS, steps=9, evaluations=1, stops_at=(1, 3)).stops() == [1, 3, 9]


@pytest.mark.parametrize(
    ('change', 'line'),
    [
        ({'steps': 0}, 'proxy.steps is 0; it must be at least 1'),
        ({'batch_size': 0}, 'proxy.batch_size is 0; it must be at least 1'),
        ({'evaluations': 0}, 'proxy.evaluations is 0; it must be at least 1'),
        ({'eval_batch_size': -1}, 'proxy.eval_batch_size is -1; it must be at least 1'),
        ({'evaluations': 6}, r'proxy.evaluations is 6; it may be at most proxy.steps \(5\)'),
        ({'stops_at': (2, 5)}, r'proxy.stops_at is \(2, 5\); each of its steps must be from 1 to 4, below proxy.steps'),
        ({'stops_at': (0,)}, r'proxy.stops_at is \(0,\)'),
        ({'learning_rate': 0.0}, 'proxy.learning_rate is 0.0; it must be greater than 0'),
        ({'learning_rate': float('nan')}, 'proxy.learning_rate is nan'),
        ({'power': -1.0}, 'proxy.power is -1.0; it must be at least 0'),
        ({'weight_decay': -1e-4}, 'proxy.weight_decay is -0.0001; it must be at least 0'),
        ({'momentum': 1.0}, 'proxy.momentum is 1.0; it must be at least 0 and below 1'),
        ({'dtype': 'float16'}, "proxy.dtype is 'float16'; allowed: float32, bfloat16"),
        ({'precision': 'highest'}, "proxy.precision is 'highest'; allowed: float32, tensorfloat32, bfloat16"),
    ],
)
def test_bad_settings_are_refused(change, line):
    with pytest.raises(InputError, match=line):
        dataclasses.replace(SETTINGS, **change)


def test_a_bad_decay_of_the_batch_norms_is_refused():
    with pytest.raises(InputError, match=r'proxy.bn_decay is 1.5; it must be at least 0 and below 1'):
        Head(CLASSES, CellSettings(decay=1.5))


# ---- precision ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('precision', 'said'), [('float32', 'HIGHEST'), ('tensorfloat32', 'HIGH'), ('bfloat16', 'DEFAULT')]
)
def test_every_product_of_the_search_has_the_precision_that_is_set(data, plan, precision, said):
    """Forward, backward and in scoring: on a GPU the default would round factors that the static cell does not."""
    settings = dataclasses.replace(SETTINGS, precision=precision)
    genotype = genotype_of('features twice')
    start = jax.eval_shape(lambda: proxy.init(plan.key_init, genotype, CHANNELS, settings))
    used, span = cell.uses(genotype), jnp.array([0, 1], jnp.int32)
    train, score = (jax.jit(functools.partial(one, settings=settings)) for one in (proxy.train, proxy.confusion))
    for lowered in (
        train.lower(start, genotype, used, data.train, plan, span),
        score.lower(start, genotype, used, data.val, np.int32(5)),
    ):
        products = [line for line in lowered.as_text().splitlines() if 'dot_general' in line]
        assert len(products) > 5
        for line in products:
            # What DEFAULT means is not written out.
            assert f'precision = [{said}, {said}]' in line or (said == 'DEFAULT' and 'precision' not in line), line


# ---- kernels --------------------------------------------------------------------------------------------------------


def test_the_loss_of_the_kernels_is_that_of_resized_logits():
    # Sizes that grow by a whole factor, by none, and from a single cell; an ignored label and one that is no class.
    for size, label_size in (((3, 5), (12, 17)), ((4, 4), (4, 4)), ((1, 1), (5, 6))):
        rng = np.random.default_rng(0)
        logits = jnp.asarray(rng.standard_normal((2, 19, *size)), jnp.float32)
        labels = (
            jnp.asarray(rng.integers(0, 19, (2, *label_size)), jnp.int32).at[:, :2, 1:3].set(255).at[0, 3, 3].set(40)
        )

        def value(logits, kernels):
            return 3 * proxy.resized_cross_entropy(logits, labels, kernels)  # noqa: B023

        found, expected = (jax.value_and_grad(value)(logits, kernels) for kernels in ('interpret', 'plain'))
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
        np.testing.assert_allclose(found[1], expected[1], rtol=0, atol=1e-6)


def test_kernels_are_taken_where_they_fit():
    def chosen(kernels, **shape):
        return fused.suit(kernels, **{'dtype': 'bfloat16', 'size': (49, 49), 'filters': 256, **shape})

    assert chosen('auto') == 'auto'
    assert chosen('auto', size=(65, 129)) == 'auto'
    assert chosen('auto', dtype='float32', size=(65, 129)) == 'plain'
    assert chosen('auto', filters=512) == 'plain'
    assert chosen('fused', filters=512) == 'fused'
    with pytest.raises(
        InputError, match=r"proxy.kernels is 'fused'; 49x49 cells, 2048 filters and 1 classes may each be at"
    ):
        chosen('fused', filters=2048)


def test_kernels_are_taken_by_devices_that_can_run_them():
    def chosen(kernels, platform, capability=''):
        return fused.for_device(kernels, types.SimpleNamespace(platform=platform, compute_capability=capability))

    assert [chosen('auto', 'gpu', capability) for capability in ('7.5', '8.0', '8.6', '9.0')] == [
        *('plain', 'auto', 'plain', 'auto')
    ]
    assert (chosen('auto', 'cpu'), chosen('fused', 'gpu', '8.6'), chosen('plain', 'gpu', '9.0')) == (
        *('plain', 'fused', 'plain'),
    )
    with pytest.raises(
        InputError, match=r"proxy.kernels is 'fused', which needs an NVIDIA GPU; allowed here: auto, plain"
    ):
        chosen('fused', 'cpu')
