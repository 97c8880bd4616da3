"""A score is a function of genotype, seed and settings: not of neighbours, place, devices, nor of when it is asked."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpc_jax import fastest_chunk, population, sharding
from dpc_jax.base import InputError
from dpc_jax.cell import CellSettings
from dpc_jax.heads.dpc import Head
from dpc_jax.memory import Chunk, PatientEvaluator
from dpc_jax.population import OutOfMemoryError, PopulationEvaluator
from dpc_jax.proxy import ProxyData, ProxySettings
from dpc_jax.spaces import dpc
from dpc_jax.spaces.dpc import Genotype

STEPS = 6
SETTINGS = ProxySettings(
    Head(3, CellSettings(4, 16, decay=0.9)), STEPS, 2, learning_rate=0.1, evaluations=3, eval_batch_size=2
)
ROUNDING = 1e-4  # in losses of about 1, between chunk sizes; measured: 2e-7


pytestmark = pytest.mark.usefixtures('quick_compilation')


@pytest.fixture(scope='module')
def data():
    rng = np.random.default_rng(0)

    def split(count, size, label_size):
        features = {16: jnp.asarray(rng.normal(size=(count, *size, 6)), jnp.bfloat16)}
        return features, jnp.asarray(rng.integers(0, 3, (count, *label_size)), jnp.uint8)

    return ProxyData(*split(9, (5, 7), (9, 13)), *split(5, (6, 5), (41, 33)))


@pytest.fixture(scope='module')
def genotypes():
    """Eight cells of two branches: every kind beside and behind every other, pooling in some chunks only."""
    index = {dpc.op_name(op): op for op in range(len(dpc.OPS))}
    table = (
        ('sep 1x1', -1, 'conv1x1'),
        ('conv1x1', 0, 'sep 3x6'),
        ('sep 6x1', -1, 'sep 1x3'),
        ('pool 2x4', -1, 'conv1x1'),
        ('conv1x1', 0, 'pool 4x1'),
        ('sep 21x21', 0, 'sep 1x1'),
        ('pool 1x1', 0, 'sep 3x1'),
        ('sep 3x3', 0, 'pool 8x8'),
    )
    return Genotype(
        np.array([(-1, source) for _, source, _ in table], np.int32),
        np.array([(index[first], index[second]) for first, _, second in table], np.int32),
    )


@pytest.fixture(scope='module')
def pairs(data):
    """Two chunks of two, on one device."""
    return PopulationEvaluator(SETTINGS, data, 0, 2, 4, mesh=sharding.population_mesh(1))


@pytest.fixture(scope='module')
def truth(pairs, genotypes):
    """All eight, four at once."""
    halves = [pairs(pick(genotypes, range(start, start + 4))) for start in (0, 4)]
    result = types.SimpleNamespace(
        **{
            name: np.concatenate([getattr(half, name) for half in halves])
            for name in ('scores', 'curves', 'losses', 'finite', 'steps')
        }
    )
    assert result.finite.all()
    assert len(np.unique(result.losses[:, -1])) == 8  # so that equality says something
    return result


class Counted(PopulationEvaluator):
    """Notes in `rounds` how many chunks ran one after the other in each call of the training program."""

    rounds: list[int]

    @property
    def programs(self):
        """Those of the evaluator; what runs is decided by who is alive, see `chunks.over_population`."""
        real = super().programs

        def train(alive, *args):
            self.rounds.append(int(np.reshape(alive, self.shape).any(-1).sum(-1).max()))
            return real.train(alive, *args)

        return real._replace(train=train)


def counted(kind=Counted, **fields):
    evaluator = kind(**fields)
    object.__setattr__(evaluator, 'rounds', [])
    return evaluator


def pick(genotypes: Genotype, places) -> Genotype:
    return jax.tree.map(lambda genes: genes[np.array(list(places), int)], genotypes)


def assert_same_bits(result, truth, places):
    places = list(places)
    np.testing.assert_array_equal(result.scores, truth.scores[places])
    np.testing.assert_array_equal(result.curves, truth.curves[places])
    np.testing.assert_array_equal(result.losses, truth.losses[places])


# ---- independence ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'places',
    [[3, 2, 1, 0], [5, 0, 7, 2], [0, 0, 6, 6], [1, 4, 3], [6], [2, 6]],
    ids=['reversed', 'mixed', 'twins', 'three', 'alone', 'two'],
)
def test_scores_have_the_same_bits_in_any_company(pairs, genotypes, truth, places):
    result = pairs(pick(genotypes, places))
    assert_same_bits(result, truth, places)
    assert result.finite.all()
    assert not result.pruned.any()
    assert (result.steps == STEPS).all()


@pytest.mark.parametrize('devices', [2, 4])
def test_any_number_of_devices_gives_the_bits_of_one(data, genotypes, truth, devices):
    evaluator = PopulationEvaluator(SETTINGS, data, 0, 2, 16, mesh=sharding.population_mesh(devices))
    candidates = evaluator.programs.init(np.ones(16, bool), pick(genotypes, [*range(8)] * 2), evaluator.plan.key_init)
    assert len(candidates.finite.sharding.device_set) == devices
    assert_same_bits(evaluator(genotypes), truth, range(8))


def test_the_chunk_size_changes_rounding_only(data, genotypes, truth):
    evaluator = PopulationEvaluator(SETTINGS, data, 0, mesh=sharding.population_mesh(1))
    results = [evaluator(pick(genotypes, [i])) for i in range(8)]
    np.testing.assert_allclose(np.concatenate([r.losses for r in results]), truth.losses, rtol=0, atol=ROUNDING)
    # A pixel whose two best logits agree to rounding may change sides.
    np.testing.assert_allclose([r.scores[0] for r in results], truth.scores, rtol=0, atol=2e-3)


def test_a_fresh_evaluator_gives_the_same_bits(data, genotypes, truth):
    evaluator = PopulationEvaluator(SETTINGS, data, 0, 2, 4, mesh=sharding.population_mesh(1))
    assert_same_bits(evaluator(pick(genotypes, [7, 3])), truth, [7, 3])


def test_a_seed_is_part_of_a_score(pairs, genotypes, truth):
    other = dataclasses.replace(pairs, seed=1)(pick(genotypes, range(4)))
    assert (other.losses != truth.losses[:4]).all()


@pytest.mark.parametrize('steps_per_call', [1, 4])
def test_listening_for_an_interrupt_more_often_changes_no_score(pairs, genotypes, truth, steps_per_call):
    result = dataclasses.replace(pairs, steps_per_call=steps_per_call)(pick(genotypes, range(4)))
    np.testing.assert_array_equal(result.curves, truth.curves[:4])
    np.testing.assert_allclose(result.losses, truth.losses[:4], rtol=1e-6)


def test_the_last_point_of_a_curve_is_the_score_and_every_loss_is_a_mean_over_its_steps(pairs, genotypes, truth):
    np.testing.assert_array_equal(truth.scores, truth.curves[:, -1])
    candidates = pairs.programs.init(np.ones(4, bool), pick(genotypes, range(4)), pairs.plan.key_init)
    losses = []
    for step in range(STEPS):
        candidates, loss = pairs.train(np.ones(4, bool), candidates, pick(genotypes, range(4)), (step, step + 1))
        losses.append(loss)
    means = np.stack(losses, 1).reshape(4, 3, STEPS // 3).mean(2)
    np.testing.assert_allclose(truth.losses[:4], means, rtol=1e-6)


def test_one_compilation_serves_every_genotype_population_budget_and_seed(pairs, genotypes, truth):
    for places, seed, steps_per_call in (([0, 1, 2, 3], 0, 50), ([7], 2, 3), ([4, 4, 5], 1, 1)):
        dataclasses.replace(pairs, seed=seed, steps_per_call=steps_per_call)(pick(genotypes, places))
    fresh = PopulationEvaluator(SETTINGS, pairs.data, 0, 2, 4, mesh=sharding.population_mesh(1))
    for program, shared in zip(fresh.programs, dataclasses.replace(pairs, seed=5).programs, strict=True):
        assert program is shared
        assert population.compilations(program) == 1


# ---- who is alive ---------------------------------------------------------------------------------------------------


def test_a_chunk_with_nobody_alive_is_not_computed(pairs, genotypes):
    population, alive = pick(genotypes, range(4)), np.array([False, True, False, False])
    key = pairs.plan.key_init
    everyone = pairs.programs.init(np.ones(4, bool), population, key)
    for skipped in (
        pairs.programs.init(alive, population, key),
        pairs.programs.train(alive, everyone, population, *next(pairs.blocks((0, 2)))),
        pairs.programs.confusion(alive, everyone, population, pairs.data.val, np.int32(5)),
    ):
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(skipped)]
        assert not any(leaf[2:].any() for leaf in leaves)  # all zeros: a trained candidate has scales of about 1
        assert all(leaf[1].any() for leaf in leaves[:1])


class Poisoned(PopulationEvaluator):
    """One candidate starts with a bias that is not finite."""

    place, value = 1, np.nan

    @property
    def programs(self):
        """Those of the evaluator, but for the start."""
        real = super().programs

        def init(*args):
            candidates = real.init(*args)
            bias = candidates.params.logits_bias.at[self.place, 0].set(self.value)
            return candidates._replace(params=candidates.params._replace(logits_bias=bias))

        return real._replace(init=init)


@pytest.mark.parametrize('value', [np.nan, np.inf])
@pytest.mark.parametrize('place', [0, 3])
def test_a_candidate_that_diverges_fails_alone(pairs, genotypes, truth, monkeypatch, place, value):
    monkeypatch.setattr(Poisoned, 'place', place)
    monkeypatch.setattr(Poisoned, 'value', value)
    fields = {field.name: getattr(pairs, field.name) for field in dataclasses.fields(pairs)}
    result = Poisoned(**fields)(pick(genotypes, range(4)))
    assert result.finite.tolist() == [i != place for i in range(4)]
    assert np.isnan(result.scores[place])
    assert np.isnan(result.curves[place]).all()
    assert result.steps[place] == STEPS // 3  # it's left out from the next evaluation on
    assert not result.pruned[place]
    others = [i for i in range(4) if i != place]
    np.testing.assert_array_equal(result.curves[others], truth.curves[others])
    np.testing.assert_array_equal(result.losses[others], truth.losses[others])


def test_what_a_pruner_stops_stays_as_it_was_and_the_rest_goes_on(pairs, genotypes, truth):
    heard = []

    def keep_going(evaluation, scores):
        heard.append((evaluation, scores.copy()))
        return np.array([True, evaluation > 0, False, False])

    result = pairs(pick(genotypes, range(4)), keep_going)
    assert [evaluation for evaluation, _ in heard] == [0, 1]  # not after the last: there is nothing left to stop
    np.testing.assert_array_equal(heard[0][1], truth.curves[:4, 0])
    assert result.pruned.tolist() == [False, True, True, True]
    assert result.steps.tolist() == [STEPS, 2, 2, 2]
    assert result.finite.all()
    np.testing.assert_array_equal(result.curves[0], truth.curves[0])
    np.testing.assert_array_equal(result.scores, [truth.scores[0], *truth.curves[1:4, 0]])
    assert np.isnan(result.curves[1:, 1:]).all()
    assert np.isnan(result.losses[1:, 1:]).all()


# Rounds of chunks in the three parts of a run of sixteen, of whom six and then two go on.
ROUNDS = {
    **{(2, 1): [8, 3, 1], (2, 2): [4, 2, 1], (2, 4): [2, 1, 1]},
    **{(4, 1): [4, 2, 1], (4, 2): [2, 1, 1], (4, 4): [1, 1, 1]},
}
GOING = ([0, 3, 5, 9, 10, 15], [3, 15])


@pytest.fixture(scope='module')
def undisturbed(data, genotypes):
    """`undisturbed(chunk)`: sixteen candidates, the eight cells twice, of whom none ends early, on one device."""

    @functools.cache
    def result_of(chunk):
        evaluator = PopulationEvaluator(SETTINGS, data, 0, chunk, 16, mesh=sharding.population_mesh(1))
        return evaluator(pick(genotypes, [*range(8), *range(8)]))

    return result_of


@pytest.mark.parametrize(('chunk', 'devices'), ROUNDS)
def test_those_that_go_on_move_together_and_score_as_if_nobody_had_ended(data, genotypes, undisturbed, chunk, devices):
    fields = {'settings': SETTINGS, 'data': data, 'seed': 0, 'chunk': chunk, 'at_once': 16}
    plain = PopulationEvaluator(**fields, mesh=sharding.population_mesh(devices))
    plain(pick(genotypes, [0]))
    compiled = [population.compilations(program) for program in plain.programs]
    evaluator = counted(**fields, mesh=plain.mesh)
    everybody = pick(genotypes, [*range(8), *range(8)])
    result = evaluator(everybody, lambda evaluation, _: np.isin(np.arange(16), GOING[evaluation]))
    assert [population.compilations(program) for program in plain.programs] == compiled  # nothing anew for who moved
    assert evaluator.rounds == ROUNDS[chunk, devices]
    expected = undisturbed(chunk)
    for i in range(16):
        points = 1 + sum(i in going for going in GOING)
        assert result.steps[i] == 2 * points
        for name in ('curves', 'losses'):
            np.testing.assert_array_equal(getattr(result, name)[i, :points], getattr(expected, name)[i, :points])
            assert np.isnan(getattr(result, name)[i, points:]).all()
        np.testing.assert_array_equal(result.confusions[i, :points], expected.confusions[i, :points])
        assert not result.confusions[i, points:].any()


def test_those_that_diverge_make_room(pairs, genotypes, truth, monkeypatch):
    monkeypatch.setattr(Poisoned, 'place', np.array([0, 2]))
    kind = type('CountedPoisoned', (Counted, Poisoned), {})
    fields = {field.name: getattr(pairs, field.name) for field in dataclasses.fields(pairs)}
    evaluator = counted(kind, **fields)
    result = evaluator(pick(genotypes, range(4)))
    assert evaluator.rounds == [2, 1, 1]
    assert result.finite.tolist() == [False, True, False, True]
    np.testing.assert_array_equal(result.curves[[1, 3]], truth.curves[[1, 3]])
    np.testing.assert_array_equal(result.losses[[1, 3]], truth.losses[[1, 3]])
    assert np.isnan(result.curves[[0, 2]]).all()


@pytest.mark.parametrize('devices', [1, 4])
def test_few_candidates_are_spread_over_the_devices(data, genotypes, truth, devices):
    evaluator = counted(
        settings=SETTINGS, data=data, seed=0, chunk=2, at_once=16, mesh=sharding.population_mesh(devices)
    )
    assert_same_bits(evaluator(pick(genotypes, range(7))), truth, range(7))
    assert evaluator.rounds == [-(-4 // devices)] * 3


def test_scores_may_be_taken_at_further_steps_and_nothing_else_changes(pairs, genotypes, truth):
    settings = dataclasses.replace(SETTINGS, evaluations=1, stops_at=(1, 4))
    evaluator, heard = dataclasses.replace(pairs, settings=settings), []
    result = evaluator(pick(genotypes, range(4)), lambda *args: heard.append(args[0]) or np.ones(4, bool))
    assert heard == [0, 1]
    assert result.curves.shape == result.losses.shape == (4, 3)
    np.testing.assert_array_equal(result.curves[:, 1:], truth.curves[:4, 1:])
    np.testing.assert_array_equal(result.scores, truth.scores[:4])
    assert (result.curves[:, 0] != truth.curves[:4, 0]).any()
    means = (2 * truth.losses[:4, 0] + 2 * truth.losses[:4, 1]) / 4  # of the first four steps
    np.testing.assert_allclose((result.losses[:, 0] + 3 * result.losses[:, 1]) / 4, means, rtol=1e-6)
    np.testing.assert_array_equal(result.losses[:, 2], truth.losses[:4, 2])
    assert evaluator.programs is pairs.programs


def test_when_everyone_is_stopped_the_run_ends(pairs, genotypes, truth):
    asked = []
    result = pairs(pick(genotypes, [4, 5]), lambda evaluation, _: asked.append(evaluation) or np.zeros(2, bool))
    assert asked == [0]
    assert result.steps.tolist() == [2, 2]
    np.testing.assert_array_equal(result.scores, truth.curves[4:6, 0])


@pytest.mark.parametrize('count', [0, 5])
def test_more_candidates_than_fit_are_a_fault_of_the_caller(pairs, genotypes, count):
    with pytest.raises(ValueError, match=f'{count} candidates; this evaluator takes 1 to 4 at once'):
        pairs(pick(genotypes, np.arange(count)))


@pytest.mark.parametrize(('at_once', 'expected'), [(0, 8), (1, 8), (8, 8), (9, 16), (24, 24)])
def test_a_population_is_whole_chunks_on_every_device(data, at_once, expected):
    assert PopulationEvaluator(SETTINGS, data, 0, chunk=2, at_once=at_once).population == expected


def test_the_mesh_has_all_devices_or_the_first_few():
    assert dict(sharding.population_mesh().shape) == {'data': 1, 'population': 4}
    assert sharding.population_mesh(3).devices.ravel().tolist() == jax.devices()[:3]
    assert sharding.replicated(sharding.population_mesh()).is_fully_replicated


# ---- choice of the chunk --------------------------------------------------------------------------------------------


class Clock:
    """Time passes only when it's told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Timed(PopulationEvaluator):
    """An evaluator that takes `cost[chunk]` seconds per candidate-step, and ten to compile; or that fails."""

    clock: Clock
    cost: dict[int, float | Exception]
    compiled: set[int]

    @property
    def programs(self):
        """There is nothing to initialise."""
        return population.Programs(lambda *_: 0, None, None)

    def train_on(self, blocks, alive, candidates, genotypes):
        cost = self.cost[self.chunk]
        if isinstance(cost, Exception):
            raise cost
        assert genotypes.ops.shape == (self.population, 5)
        steps = sum(int(block.span[1] - block.span[0]) for block in blocks)
        Timed.clock.now += cost * steps * self.population + 10 * (self.chunk not in self.compiled)
        self.compiled.add(self.chunk)
        return candidates, np.zeros(self.population)


@pytest.fixture
def choose(data, monkeypatch):
    """`choose({chunk: seconds or error})`, on one device."""
    clock = Clock()
    monkeypatch.setattr(fastest_chunk, 'time', types.SimpleNamespace(perf_counter=clock))
    mesh = sharding.population_mesh(1)

    def run(cost, at_once=0):
        Timed.clock, Timed.cost, Timed.compiled = clock, cost, set()
        sample = functools.partial(dpc.Space(5).sample, jax.random.key(0))
        made = functools.partial(Timed, SETTINGS, data, 0, at_once=at_once, mesh=mesh)
        return fastest_chunk.fastest_chunk(lambda chunk: made(chunk=chunk), list(cost), sample)

    return run


EXHAUSTED = jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.')


@pytest.mark.parametrize(
    ('cost', 'best', 'measured'),
    [
        ({1: 0.2, 2: 0.3, 4: 0.1}, 1, [1, 2]),  # up to the first that is slower
        ({1: 0.4, 2: 0.3, 4: 0.1, 8: 0.2, 16: 0.05}, 4, [1, 2, 4, 8]),
        ({1: 0.4, 2: 0.3, 4: 0.2}, 4, [1, 2, 4]),
        ({1: 0.4, 2: 0.3, 4: EXHAUSTED, 8: 0.1}, 2, [1, 2]),
    ],
    ids=['smallest', 'middle', 'largest', 'memory'],
)
def test_the_fastest_chunk_that_was_measured_is_taken(choose, cost, best, measured):
    chunk, seconds = choose(cost)
    assert chunk == best
    assert seconds == pytest.approx({size: cost[size] for size in measured})


def test_seconds_are_per_candidate_whatever_is_at_once(choose):
    assert choose({1: 0.4, 2: 0.5}, at_once=6)[1] == pytest.approx({1: 0.4, 2: 0.5})


def test_memory_that_does_not_hold_the_smallest_chunk_is_one_line(choose):
    with pytest.raises(InputError, match=r'out of memory with proxy.chunk 1, proxy.batch_size 2 and proxy.eval'):
        choose({1: EXHAUSTED, 2: 0.1})


def test_a_chunk_whose_program_needs_more_than_there_is_is_not_started(choose, monkeypatch):
    monkeypatch.setattr(fastest_chunk, 'device_memory', lambda mesh: 100)
    monkeypatch.setattr(Timed, 'needed_memory', lambda self, *_: 30 * self.chunk)
    assert choose({1: 0.4, 2: 0.3, 4: AssertionError('started')})[0] == 2
    monkeypatch.setattr(fastest_chunk, 'device_memory', lambda mesh: 10)
    with pytest.raises(OutOfMemoryError, match=r'proxy.chunk 1 needs 0.0 GiB by its compiled program; the device has'):
        choose({1: AssertionError('started')})


def test_any_other_error_while_measuring_is_no_matter_of_memory(choose):
    with pytest.raises(jax.errors.JaxRuntimeError, match='INTERNAL'):
        choose({1: 0.2, 2: jax.errors.JaxRuntimeError('INTERNAL: a fault')})


def test_memory_that_ends_in_a_search_is_no_fault_of_the_candidates(pairs, genotypes, monkeypatch):
    def exhausted(*_):
        raise EXHAUSTED

    monkeypatch.setattr(PopulationEvaluator, 'train', exhausted)
    with pytest.raises(OutOfMemoryError, match=r'proxy.chunk 2, .* make one of them smaller'):
        pairs(pick(genotypes, range(4)))


@pytest.fixture
def small_memory(monkeypatch):
    """`small_memory(2)`: chunks of more than two do not fit, which shows in the second call of the training program."""
    train, calls = PopulationEvaluator.train, []

    def hold(most):
        def limited(self, alive, candidates, genotypes, span):
            calls.append(self.chunk)
            if self.chunk > most and span[0] > 0:
                raise EXHAUSTED
            return train(self, alive, candidates, genotypes, span)

        monkeypatch.setattr(PopulationEvaluator, 'train', limited)
        return calls

    return hold


def test_what_does_not_fit_is_evaluated_again_in_half_the_chunk(data, genotypes, truth, small_memory, capsys):
    calls, kept = small_memory(2), []
    chunk = Chunk(4, kept.append)
    first, other = (
        PatientEvaluator(PopulationEvaluator(SETTINGS, data, seed, 4, 16, mesh=sharding.population_mesh(1)), chunk)
        for seed in (0, 1)
    )
    assert_same_bits(first(genotypes), truth, range(8))
    assert capsys.readouterr().out == 'chunk 4 does not fit; going on with 2\n'
    assert (chunk.size, kept, first.population) == (2, [2], 16)  # as many at once as before
    assert calls == [4, 4, 2, 2, 2]
    calls.clear()
    assert_same_bits(first(pick(genotypes, [7, 3])), truth, [7, 3])
    other(pick(genotypes, range(3)))  # whoever shares the chunk does not try in vain
    assert (calls, capsys.readouterr().out) == ([2] * 6, '')


def test_a_chunk_of_one_that_does_not_fit_is_one_line(data, genotypes, small_memory, capsys):
    small_memory(0)
    kept = []
    evaluator = PopulationEvaluator(SETTINGS, data, 0, 1, mesh=sharding.population_mesh(1))
    with pytest.raises(OutOfMemoryError, match=r'out of memory with proxy.chunk 1, .* make one of them smaller'):
        PatientEvaluator(evaluator, Chunk(1, kept.append))(pick(genotypes, [0]))
    assert (kept, capsys.readouterr().out) == ([], '')
