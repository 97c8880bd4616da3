"""The second stage is plain training of encoder and head together; who goes on is a matter of policy."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpc_jax import losses, ops, proxy, sharding
from dpc_jax.base import IGNORE_LABEL
from dpc_jax.end_to_end import IMAGES, Both, EndToEnd, EndToEndSettings
from dpc_jax.heads import TEACHER, Derived, HeadOutputs, Learned
from dpc_jax.population import PopulationEvaluator
from dpc_jax.proxy import ProxyData, ProxySettings
from dpc_jax.spaces.dpc import Genotype
from dpc_jax.two_stages import TwoStages

pytestmark = pytest.mark.usefixtures('quick_compilation')

STRIDE, CLASSES, FILTERS = 4, 3, 5
CELLS = Genotype(np.zeros((5, 2), np.int32), np.arange(10, dtype=np.int32).reshape(5, 2))


@dataclasses.dataclass(frozen=True)
class Linear(Derived):
    """A 1x1 convolution whose initial values the genotype scales: candidates differ."""

    num_classes: int
    strides = (STRIDE,)
    auxiliary_weights = {}  # noqa: RUF012
    end_to_end = True

    def init(self, key, genotype, channels):
        kernel = jax.random.normal(key, (channels[STRIDE], self.num_classes))
        return {'kernel': kernel * (1 + 0.2 * genotype.ops.sum().astype(jnp.float32))}, {'steps': jnp.zeros(())}

    def apply(self, params, stats, code, features, *, train, dropout_key=None, used=None, kernels='auto'):
        logits = jnp.einsum('bhwc,cl->blhw', features[STRIDE], params['kernel'])
        return HeadOutputs(logits, {}), {'steps': stats['steps'] + float(train)}

    def learn(self, params, stats, code, features, loss_of, scratch, **more):
        def total(params, features):
            outputs, moved = self.apply(params, stats, code, features, train=True)
            return loss_of(outputs), moved

        (loss, moved), grads = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(params, features)
        return Learned(loss, moved, grads[0], scratch, grads[1])

    def uses(self, codes):
        return ()

    def decayed(self, params):
        return jax.tree.map(lambda _: True, params)

    def multipliers(self, params):
        return jax.tree.map(lambda _: 1.0, params)


class Encoder(nn.Module):
    """A convolution of stride 4 and a batch norm."""

    by_stride = {STRIDE: 'features'}  # noqa: RUF012

    @nn.compact
    def __call__(self, images, train=False):
        x = nn.Conv(FILTERS, (3, 3), strides=(STRIDE, STRIDE), name='conv')(images / 128)
        return {'features': nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, name='norm')(x))}


ENCODER, HEAD = Encoder(), Linear(CLASSES)
RULES = {'optimizer': 'adam', 'learning_rate': 0.02, 'power': 0.0, 'clip_norm': 0.5, 'weight_decay': 0.01}
FIRST = ProxySettings(HEAD, 4, 2, evaluations=2, eval_batch_size=2, **RULES)
SECOND = EndToEndSettings(
    EndToEnd(HEAD, ENCODER), 3, 2, eval_batch_size=2, encoder_learning_rate=0.1, polyak=0.5, polyak_every=3, **RULES
)


@pytest.fixture(scope='module')
def variables():
    return ENCODER.init(jax.random.key(5), jnp.zeros((1, 17, 17, 3)))


@pytest.fixture(scope='module')
def images():
    random = np.random.default_rng(1)

    def split(count, stride):
        labels = random.integers(0, CLASSES, (count, 17, 21))
        labels[random.random(labels.shape) < 0.1] = IGNORE_LABEL
        pictures = jnp.asarray(random.uniform(0, 255, (count, 17, 21, 3)), jnp.bfloat16)
        return {IMAGES: pictures}, jnp.asarray(labels[:, ::stride, ::stride], jnp.uint8)

    return ProxyData(*split(6, STRIDE), *split(3, 1))


@pytest.fixture(scope='module')
def features(images, variables):
    """What the encoder sees in the images."""

    def seen(held):
        return {STRIDE: ENCODER.apply(variables, held[IMAGES].astype(jnp.float32))['features'].astype(jnp.bfloat16)}

    return images._replace(train_features=seen(images.train_features), val_features=seen(images.val_features))


@pytest.fixture(scope='module')
def stages(images, features, variables):
    mesh = sharding.population_mesh(2)
    first = PopulationEvaluator(FIRST, features, seed=0, chunk=1, at_once=6, mesh=mesh)
    return TwoStages(first, dataclasses.replace(first, settings=SECOND, data=images), variables)


# ---- the rules, by hand ---------------------------------------------------------------------------------------------


def clipped(grads, most):
    norm = np.sqrt(sum(float(jnp.square(leaf).sum()) for leaf in jax.tree.leaves(grads)))
    return jax.tree.map(lambda leaf: leaf * min(1.0, most / norm), grads)


def adam(params, grads, state, step):
    """PyTorch's Adam: decay added to the gradient; two moments, both corrected."""
    grads = jax.tree.map(lambda g, p: g + 0.01 * p, grads, params)
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, state[0], grads)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, state[1], grads)

    def moved(p, m, v):
        return p - 0.02 * (m / (1 - 0.9**step)) / (jnp.sqrt(v / (1 - 0.999**step)) + 1e-8)

    return jax.tree.map(moved, params, first, second), (first, second)


def loss_of(logits, labels):
    size = (labels.shape[1], labels.shape[2])
    return losses.cross_entropy(ops.upsample_logits(logits, size, axes='blhw'), labels.astype(jnp.int32))


def trained_plainly(stages, candidate, data):
    """The second stage of one candidate, written out."""
    plan, params = stages.second.plan, Both(stages.encoder['params'], candidate.params)
    stats, average = stages.encoder['batch_stats'], params
    zeros = jax.tree.map(jnp.zeros_like, params.head)
    velocity, moments = jax.tree.map(jnp.zeros_like, params.encoder), (zeros, zeros)

    @jax.jit
    def derive(params, stats, pictures, labels):
        def total(params):
            held = {'params': params.encoder, 'batch_stats': stats}
            maps, moved = ENCODER.apply(held, pictures, True, mutable=['batch_stats'])
            logits = jnp.einsum('bhwc,cl->blhw', maps['features'], params.head['kernel'])
            return loss_of(logits, labels), moved['batch_stats']

        return jax.grad(total, has_aux=True)(params)

    for step, chosen in enumerate(plan.order, 1):
        pictures = data.train_features[IMAGES][chosen].astype(jnp.float32)
        grads, stats = derive(params, stats, pictures, data.train_labels[chosen])
        ours = jax.tree.map(lambda g, p: g + 0.01 * p, clipped(grads.encoder, 0.5), params.encoder)
        velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, ours)
        encoder = jax.tree.map(lambda p, v: p - 0.1 * v, params.encoder, velocity)
        head, moments = adam(params.head, clipped(grads.head, 0.5), moments, step)
        params = Both(encoder, head)
        average = jax.tree.map(lambda a, p: 0.5 * a + 0.5 * p, average, params)
    return average, stats


def test_the_second_stage_is_a_plain_training_of_both(stages, images):
    first = stages.first.trained(CELLS)
    begun = stages._begun(first, CELLS)
    after = stages.second.trained(CELLS, None, begun)
    for who in range(5):
        (place,) = np.flatnonzero((after.seats.who == who) & after.seats.taken)
        (before,) = np.flatnonzero((first.seats.who == who) & first.seats.taken)
        candidate = jax.tree.map(lambda leaf, place=before: leaf[place], first.candidates)
        expected, stats = trained_plainly(stages, candidate, images)
        found = jax.tree.map(lambda leaf, place=place: leaf[place], after.candidates)
        for ours, theirs in zip(jax.tree.leaves(found.params), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=2e-5)
        for ours, theirs in zip(jax.tree.leaves(found.stats.encoder), jax.tree.leaves(stats), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
        assert float(found.stats.head['steps']) == 4 + 3


# ---- who goes on ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def all_of_them(stages):
    return stages(CELLS)


def test_a_curve_is_both_stages_and_its_last_point_is_the_score(stages, all_of_them):
    alone = stages.first(CELLS)
    assert all_of_them.curves.shape == (5, 3)
    np.testing.assert_array_equal(all_of_them.curves[:, :2], alone.curves)
    np.testing.assert_array_equal(all_of_them.scores, all_of_them.curves[:, 2])
    assert all_of_them.steps.tolist() == [7] * 5
    assert not all_of_them.pruned.any()
    assert all_of_them.confusions.shape == (5, 3, CLASSES, CLASSES)
    assert (all_of_them.scores != alone.scores).any()
    for name, values in all_of_them.extras.items():
        np.testing.assert_array_equal(values, stages.second.extras[name](all_of_them.confusions[:, 2]))


def policy(going):
    asked = []

    def keep_going(evaluation, scores):
        asked.append(evaluation)
        return np.array(going) if evaluation == 1 else np.ones(len(going), bool)

    return asked, keep_going


@pytest.mark.parametrize('going', [[True, False, True, False, True], [False, False, False, True, False], [False] * 5])
def test_those_that_are_not_promoted_keep_the_score_of_the_first_stage(stages, all_of_them, going):
    asked, keep_going = policy(going)
    found, going = stages(CELLS, keep_going), np.array(going)
    assert asked == [0, 1]  # after the first stage, too, and not after the second
    np.testing.assert_array_equal(found.pruned, ~going)
    np.testing.assert_array_equal(found.scores, np.where(going, all_of_them.scores, all_of_them.curves[:, 1]))
    np.testing.assert_array_equal(np.isfinite(found.curves[:, 2]), going)
    np.testing.assert_array_equal(found.steps, np.where(going, 7, 4))
    assert found.confusions.shape == (5, 3, CLASSES, CLASSES)
    assert found.finite.all()


def test_a_candidate_that_diverges_in_either_stage_fails_alone(stages, all_of_them, monkeypatch):
    train = PopulationEvaluator.train

    def ruined(self, alive, candidates, genotypes, span):
        candidates, loss = train(self, alive, candidates, genotypes, span)
        who = 1 if self.settings is FIRST else 3
        if self.settings is SECOND or span[1] == 4:
            mine = np.array(genotypes.ops[:, 0]) == 2 * who
            candidates = candidates._replace(finite=candidates.finite & ~jnp.asarray(mine))
        return candidates, loss

    monkeypatch.setattr(PopulationEvaluator, 'train', ruined)
    found = stages(CELLS)
    assert found.finite.tolist() == [True, False, True, False, True]
    assert np.isnan(found.scores[[1, 3]]).all()
    sound = [0, 2, 4]
    np.testing.assert_array_equal(found.scores[sound], all_of_them.scores[sound])


def test_it_takes_another_chunk_like_one_stage(stages, all_of_them):
    pairs = stages.with_chunk(2, 6)
    assert (pairs.chunk, pairs.population) == (2, 8)
    np.testing.assert_allclose(pairs(CELLS).scores, all_of_them.scores, atol=2e-2)


# ---- what the first stage has of its own ----------------------------------------------------------------------------


def test_the_parameters_become_their_average_every_so_often(features):
    """Three steps by hand with a copy after the second; the average goes on from there."""
    settings = dataclasses.replace(FIRST, polyak=0.8, polyak_every=2)
    step = jax.jit(functools.partial(proxy.averaged, settings=settings))
    candidate = proxy.init(jax.random.key(0), jax.tree.map(lambda g: jnp.asarray(g[0]), CELLS), {STRIDE: 5}, settings)
    params = average = candidate.params['kernel']
    for index in range(3):
        params = params + 1.0
        candidate = candidate._replace(params={'kernel': params})
        candidate = step(candidate, jnp.int32(index))
        average = 0.8 * average + 0.2 * params
        params = average if index == 1 else params
        np.testing.assert_allclose(candidate.params['kernel'], params, rtol=1e-6)
        np.testing.assert_allclose(candidate.average['kernel'], average, rtol=1e-6)


def test_a_teacher_adds_the_squared_difference_at_its_size(features):
    """The loss of a step with a teacher, less that without, is the weight times a mean by hand."""
    genotype = jax.tree.map(lambda g: jnp.asarray(g[1]), CELLS)
    candidate = proxy.init(jax.random.key(0), genotype, {STRIDE: FILTERS}, FIRST)
    maps = features.train_features[STRIDE][:2].astype(jnp.float32)
    teacher = jax.random.normal(jax.random.key(1), (2, 9, 11, CLASSES))
    labels = features.train_labels[:2].astype(jnp.int32)
    seen = {STRIDE: maps, TEACHER: teacher}
    found = [
        proxy.train_step(
            jax.random.key(0),
            candidate,
            genotype,
            seen,
            labels,
            (),
            settings=dataclasses.replace(FIRST, distillation=w),
        )[1]
        for w in (0.0, 0.3)
    ]
    logits = jnp.einsum('bhwc,cl->blhw', maps, candidate.params['kernel'])
    resized = ops.upsample_logits(logits, (9, 11), axes='blhw')
    expected = 0.3 * jnp.square(resized - teacher.transpose(0, 3, 1, 2)).mean()
    np.testing.assert_allclose(found[1] - found[0], expected, rtol=1e-5)


def test_adam_with_clipping_is_pytorchs(features):
    """Four steps by hand."""
    candidate = proxy.init(jax.random.key(0), jax.tree.map(lambda g: jnp.asarray(g[0]), CELLS), {STRIDE: 5}, FIRST)
    params, zeros = candidate.params, jax.tree.map(jnp.zeros_like, candidate.params)
    rule, state, moments, ours = FIRST.rule(), FIRST.rule().init(params), (zeros, zeros), params
    with jax.numpy_dtype_promotion('standard'):
        for step in range(1, 5):
            grads = jax.tree.map(lambda p, step=step: jnp.sin(step * p), ours)
            updates, state = rule.update(grads, state, ours)
            theirs, moments = adam(ours, clipped(grads, 0.5), moments, step)
            ours = optax.apply_updates(ours, updates)
            np.testing.assert_allclose(ours['kernel'], theirs['kernel'], rtol=1e-5, atol=1e-6)
