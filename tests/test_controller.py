"""The recurrent policy and how it learns: laws in closed form, gradients against finite differences."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optuna
import pytest

from dpc_jax import controller, samplers
from dpc_jax.base import InputError, unstack
from dpc_jax.controller import Settings
from dpc_jax.spaces.aux_cells import Space as AuxSpace
from dpc_jax.spaces.dpc import Space
from dpc_jax.study.batch import SHOWN, distributions

pytestmark = pytest.mark.usefixtures('quick_compilation')

CHOICES, HEADS = (2, 3, 3), (0, 1, 1)


def settings(**fields):
    return Settings(CHOICES, HEADS, hidden=6, warm_up=2, buffer=4, **fields)


def candidates():
    return [jnp.array(tokens, jnp.int32) for tokens in itertools.product(*map(range, CHOICES))]


@pytest.mark.parametrize('policy', controller.POLICIES)
def test_probabilities_of_all_candidates_add_up_to_one(policy):
    made = settings(policy=policy)
    state = controller.init(jax.random.key(0), made)
    log_prob = jax.jit(lambda tokens: controller.log_prob(state.policy, tokens, made))
    total = sum(float(jnp.exp(log_prob(tokens))) for tokens in candidates())
    assert total == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize('policy', controller.POLICIES)
def test_a_drawn_candidate_knows_its_probability_and_is_drawn_as_often(policy):
    made = settings(policy=policy)
    state = controller.init(jax.random.key(1), made)
    wide = jax.tree.map(lambda leaf: 8 * leaf, state.policy)  # so that probabilities differ
    drawn = controller.draw(jax.random.key(2), wide, settings=made, count=4000)
    log_prob = jax.jit(lambda tokens: controller.log_prob(wide, tokens, made))
    for tokens, value in list(zip(drawn.tokens, drawn.log_prob, strict=True))[:5]:
        assert float(value) == pytest.approx(float(log_prob(tokens)), abs=1e-5)
    rows = [tuple(tokens) for tokens in np.asarray(drawn.tokens).tolist()]
    for tokens in candidates():
        expected = float(jnp.exp(log_prob(tokens)))
        share = rows.count(tuple(tokens.tolist())) / len(rows)
        assert abs(share - expected) < 5 * np.sqrt(expected / len(rows)) + 1e-3


@pytest.mark.parametrize(('policy', 'depends'), [('factorised', False), ('autoregressive', True)])
def test_only_the_autoregressive_policy_sees_what_was_drawn(policy, depends):
    """In the release a gene's probabilities are the same whatever the genes before it are."""
    made = settings(policy=policy)
    policy = controller.init(jax.random.key(3), made).policy
    one, other = (controller._run(None, policy, made, tokens)[1] for tokens in (candidates()[0], candidates()[-1]))
    assert np.array_equal(one[0], other[0])  # the first gene
    assert np.array_equal(one[1:], other[1:]) != depends


def test_the_size_of_the_released_controller():
    """Two layers of 100, heads of 4, 4, 5, 5, 6, 6, of 2, 2, 5, 5, 8, 8, and one of 11: about 170 thousand numbers."""
    made = Settings((11,) * 7 + (2, 2, 5, 5, 8, 8, 4, 4, 5, 5, 6, 6), (0,) * 7 + tuple(range(1, 13)))
    policy = controller.init(jax.random.key(0), made).policy
    lstm = (policy.input_kernels, policy.hidden_kernels, policy.biases, policy.start)
    assert sum(leaf.size for leaf in lstm) == 2 * (2 * 100 * 400 + 400) + 100
    assert float(max(jnp.abs(leaf).max() for leaf in policy)) <= 0.1


@pytest.mark.parametrize('rule', controller.RULES)
@pytest.mark.parametrize('policy', controller.POLICIES)
def test_gradients_are_those_of_finite_differences(rule, policy):
    made = settings(rule=rule, policy=policy, entropy_weight=0.3)
    with jax.enable_x64(True), jax.numpy_dtype_promotion('standard'):
        start = controller.init(jax.random.key(4), made).policy
        start = jax.tree.map(lambda leaf: 5 * leaf.astype(jnp.float64), start)
        tokens = candidates()[7]
        old = controller.log_prob(start, tokens, made) + 0.03  # within the clip

        @jax.jit
        def loss(policy):
            return controller.policy_loss(policy, tokens, old, jnp.float64(0.7), made)

        grads = jax.grad(loss)(start)
        random = np.random.default_rng(0)
        for _ in range(8):
            way = jax.tree.map(lambda leaf: jnp.asarray(random.standard_normal(leaf.shape)), start)
            near = [loss(jax.tree.map(lambda a, b, s=s: a + s * b, start, way)) for s in (1e-5, -1e-5)]
            slope = sum(float((a * b).sum()) for a, b in zip(grads, way, strict=True))
            assert float(near[0] - near[1]) / 2e-5 == pytest.approx(slope, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(('shift', 'advantage', 'moves'), [(0.3, 1, False), (0.3, -1, True), (-0.3, -1, False)])
def test_ppo_stops_where_the_ratio_leaves_the_clip(shift, advantage, moves):
    made = settings()
    policy, tokens = controller.init(jax.random.key(5), made).policy, candidates()[3]
    old = controller.log_prob(policy, tokens, made) - shift  # ratio exp(shift)
    grads = jax.grad(controller.policy_loss)(policy, tokens, old, jnp.float32(advantage), made)
    assert (max(float(jnp.abs(leaf).max()) for leaf in grads) > 0) == moves


def test_the_baseline_moves_before_the_advantage_and_begins_at_the_first_reward():
    made = settings()
    state = controller.init(jax.random.key(6), made)
    tokens, rewards = candidates()[1], [0.5, 0.2, 0.9]
    expected = None
    for reward in rewards:
        before = state
        state = controller.learn(state, tokens, jnp.float32(-2), jnp.float32(reward), settings=made)
        expected = reward if expected is None else 0.95 * expected + 0.05 * reward
        assert float(state.baseline) == pytest.approx(expected, rel=1e-6)
        if int(before.learned) == 0:  # the first advantage is 0, so nothing moves
            assert all(np.array_equal(a, b) for a, b in zip(before.policy, state.policy, strict=True))
    assert int(state.learned) == 3
    assert np.asarray(state.rewards).tolist() == pytest.approx([*rewards, 0.0])


def test_the_ring_forgets_the_oldest():
    made = settings(learning_rate=1e-3)
    state = controller.init(jax.random.key(6), made)
    for index, tokens in enumerate(candidates()[:6]):
        state = controller.learn(state, tokens, jnp.float32(-2), jnp.float32(index), settings=made)
    assert np.asarray(state.rewards).tolist() == [4, 5, 2, 3]


@pytest.mark.parametrize('rule', controller.RULES)
@pytest.mark.parametrize('policy', controller.POLICIES)
def test_it_learns_what_is_rewarded(rule, policy):
    made = settings(rule=rule, policy=policy, learning_rate=0.02)
    state = controller.init(jax.random.key(7), made)
    best = jnp.array([1, 0, 2], jnp.int32)
    for index in range(60 if rule == 'ppo' else 300):
        drawn = controller.draw(jax.random.key(index), state.policy, settings=made, count=1)
        reward = (drawn.tokens[0] == best).mean()
        state = controller.learn(state, drawn.tokens[0], drawn.log_prob[0], reward, settings=made)
    drawn = controller.draw(jax.random.key(999), state.policy, settings=made, count=200)
    assert (np.asarray(drawn.tokens) == np.asarray(best)).mean() > 0.6  # 0.39 without learning


def test_bytes_are_read_back():
    made = settings()
    state = controller.init(jax.random.key(8), made)
    state = controller.learn(state, candidates()[0], jnp.float32(-1), jnp.float32(0.3), settings=made)
    again = controller.from_bytes(controller.to_bytes(state), made)
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(again), strict=True))
    with pytest.raises(InputError, match=r'^a controller of 4 bytes; one of these settings has \d+$'):
        controller.from_bytes(b'1234', made)


def test_bad_settings_are_one_line():
    for fields, message in (
        ({'policy': 'free'}, r"^controller\.policy is 'free'; allowed: factorised, autoregressive$"),
        ({'rule': 'sarsa'}, r"^controller\.rule is 'sarsa'; allowed: ppo, reinforce$"),
        ({'learning_rate': 0.0}, r'^controller\.learning_rate is 0\.0; it must be greater than 0$'),
    ):
        with pytest.raises(InputError, match=message):
            settings(**fields)


# ---- as a sampler ---------------------------------------------------------------------------------------------------

SPACES = {'dpc': Space(3), 'aux_cells': AuxSpace()}
SMALL = {'hidden': 6, 'warm_up': 1, 'buffer': 4, 'learning_rate': 0.01}


def searched(space, count, *, seed=0, storage=None, name='a', stop_after=None, **settings):
    """The trials of a search whose score is the number of the first operator; perhaps of its first `stop_after`."""
    storage = storage or optuna.storages.InMemoryStorage()
    study = optuna.create_study(storage=storage, study_name=name, direction='maximize', load_if_exists=True)
    study.sampler = samplers.make('controller', space, seed=seed, **SMALL, **settings)
    while len(study.trials) < (stop_after or count):
        trial = study.ask(distributions(space))
        genotype = space.from_params(trial.params)
        trial.set_user_attr('key', space.canonical_key(genotype))
        trial.set_user_attr('reference', '')
        study.tell(trial, float(np.asarray(genotype.ops)[0]) / 100)
    return study


def params(study):
    return [trial.params for trial in study.trials]


@pytest.mark.parametrize('name', SPACES)
def test_a_search_that_is_stopped_and_resumed_is_the_same_search(name):
    space = SPACES[name]
    whole = searched(space, 9)
    storage = optuna.storages.InMemoryStorage()
    searched(space, 9, storage=storage, stop_after=4)
    assert params(searched(space, 9, storage=storage)) == params(whole)
    assert params(searched(space, 9, seed=1)) != params(whole)
    keys = [trial.user_attrs['key'] for trial in whole.trials]
    assert len(set(keys)) == 9
    shown = [trial.system_attrs[SHOWN] for trial in whole.trials]
    assert [row['learned'] for row in shown] == list(range(9))
    assert shown[1]['baseline'] == pytest.approx(whole.trials[0].value)
    assert shown[0].keys() == {'learned', 'entropy'}  # there is no reward yet
    told = [trial.value for trial in whole.trials[:8]]
    assert shown[3]['reward'] == pytest.approx(np.mean(told[:3]))
    assert shown[8]['reward'] == pytest.approx(np.mean(told[-4:]))  # of the ring alone
    values = space.choices().values()
    assert shown[0]['entropy'] == pytest.approx(sum(np.log(len(choice)) for choice in values), rel=0.02)


def test_a_checkpoint_is_what_the_trials_would_teach(monkeypatch):
    space, storage = SPACES['aux_cells'], optuna.storages.InMemoryStorage()
    whole = searched(space, 9)
    searched(space, 9, storage=storage, stop_after=7, checkpoint=3)
    lessons = []
    learn = controller.learn
    monkeypatch.setattr(controller, 'learn', lambda *args, **kwargs: lessons.append(1) or learn(*args, **kwargs))
    assert params(searched(space, 9, storage=storage, checkpoint=3)) == params(whole)
    assert len(lessons) == 2  # trials 6 and 7: the checkpoint after 6 was read, and trial 8 teaches nobody
    lessons.clear()
    study = optuna.load_study(storage=storage, study_name='a')
    for slot in (0, 1):  # one that was cut off is not taken
        storage.set_study_system_attr(study._study_id, f'controller:{slot}:0', 'x')
    searched(space, 10, storage=storage, checkpoint=3)
    assert len(lessons) == 9


def test_failures_and_strangers():
    """A candidate that failed teaches with a reward of 0; what the controller did not draw teaches nothing."""
    space, storage = SPACES['dpc'], optuna.storages.InMemoryStorage()
    study = searched(space, 3, storage=storage)
    study.enqueue_trial(dict(space.to_params(unstack(space.sample(jax.random.key(9), 1))[0])))
    stranger = study.ask(distributions(space))
    study.tell(stranger, 1.0)
    failing = study.ask(distributions(space))
    failing.set_user_attr('key', 'k')
    failing.set_user_attr('reference', '')
    study.tell(failing, state=optuna.trial.TrialState.FAIL)
    after = study.ask(distributions(space))
    shown = study.trials[after.number].system_attrs[SHOWN]
    assert shown['learned'] == 4  # the three of before, and the failure
    rewards = [trial.value for trial in study.trials[:3]]
    expected = rewards[0]
    for reward in (*rewards[1:], 0.0):
        expected = 0.95 * expected + 0.05 * reward
    assert shown['baseline'] == pytest.approx(expected, rel=1e-5)


def test_it_learns_up_to_the_first_unfinished_candidate():
    space, storage = SPACES['dpc'], optuna.storages.InMemoryStorage()
    study = searched(space, 2, storage=storage)
    waiting = study.ask(distributions(space))
    done = study.ask(distributions(space))
    for trial in (waiting, done):
        trial.set_user_attr('key', f'k{trial.number}')
        trial.set_user_attr('reference', '')
    study.tell(done, 0.5)
    following = study.ask(distributions(space))
    assert study.trials[following.number].system_attrs[SHOWN]['learned'] == 2
    study.tell(following, 0.5)
    study.tell(waiting, 0.5)
    last = study.ask(distributions(space))
    assert study.trials[last.number].system_attrs[SHOWN]['learned'] >= 4


def test_genes_of_the_same_words_share_a_head():
    from dpc_jax.samplers.controller import heads_of

    heads = dict(zip(SPACES['aux_cells'].choices(), heads_of(SPACES['aux_cells'].choices()), strict=True))
    assert len({heads[name] for name in heads if name.split('.')[-1].startswith('op')}) == 1
    assert len(set(heads.values())) == 1 + 12
    with pytest.raises(InputError, match=r"^sampler controller has no setting 'depth'; allowed: policy, rule"):
        samplers.make('controller', SPACES['dpc'], seed=0, depth=3)
    with pytest.raises(InputError, match=r'^checkpoint is 0; allowed: 1 or more$'):
        samplers.make('controller', SPACES['dpc'], seed=0, checkpoint=0)
