"""Cells that are the same function at the size of the maps score the same bit for bit, and share an evaluation."""

import itertools

import numpy as np
import pytest

from configs import scenes_search
from dpc_jax import bench
from dpc_jax.base import FEATURES, Rung, stack
from dpc_jax.journeys import search
from dpc_jax.population import PopulationEvaluator
from dpc_jax.spaces.dpc import OP_NAMES, Space
from dpc_jax.spaces.dpc.genotype import make_genotype
from dpc_jax.spaces.dpc.operators import OPS, at_size

pytestmark = pytest.mark.usefixtures('quick_compilation')

SPACE = Space(2)
MAPS = (5, 7)  # of the toy config, train and val


def cell(*names):
    return make_genotype([FEATURES] * len(names), [OP_NAMES.index(name) for name in names])


@pytest.mark.parametrize('size', [(5, 7), (17, 25), (18, 18), (19, 65), (129, 257)])
@pytest.mark.parametrize('times', [1.0, 2.0])
def test_operators_are_merged_exactly_where_no_tap_reads_the_map(size, times):
    def reach(op):
        """What the taps beside the centre read along each axis: an offset, or nothing."""
        return tuple(r * times if r * times < n else None for r, n in zip(op.rate, size, strict=True))

    standing = [at_size(op, size, times) for op in range(len(OPS))]
    for (a, one), (b, other) in itertools.combinations(enumerate(OPS), 2):
        equal = one.rate is not None and other.rate is not None and reach(one) == reach(other)
        assert (standing[a] == standing[b]) == equal
    assert [at_size(op, size, times) for op in standing] == standing


def test_the_rates_of_another_output_stride_reach_as_far():
    genotype = cell('sep 9x9', 'sep 18x3')
    fine, coarse = (SPACE.at_size(genotype, {stride: (17, 17)}) for stride in (8, 16))
    assert [OP_NAMES[op] for op in fine.ops] == ['sep 9x9', 'sep 9x3']
    assert [OP_NAMES[op] for op in coarse.ops] == ['sep 9x9', 'sep 18x3']


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
    config = scenes_search.get_config('toy')
    config.proxy.steps, config.proxy.bn_decay = 40, 0.5  # enough for scores that differ
    return bench.prepare(config, tmp_path_factory.mktemp('same'))


@pytest.fixture
def evaluated(monkeypatch):
    """The number of cells of each call of the evaluator."""
    calls, evaluate = [], PopulationEvaluator.__call__

    def counted(self, genotypes, keep_going=None):
        calls.append(len(genotypes.ops))
        return evaluate(self, genotypes, keep_going)

    monkeypatch.setattr(PopulationEvaluator, '__call__', counted)
    return calls


SAME = [cell('sep 6x9', 'sep 1x1'), cell('sep 6x21', 'sep 1x1'), cell('sep 18x12', 'sep 1x1')]
OTHER = cell('sep 3x9', 'sep 1x1')


def test_they_score_the_same_bit_for_bit(prepared):
    assert prepared.sizes == {16: MAPS}
    assert len({prepared.same(genotype) for genotype in SAME}) == 1
    assert prepared.same(OTHER) != prepared.same(SAME[0])
    evaluate = prepared.evaluator()
    alone = [evaluate(stack([genotype])) for genotype in (*SAME, OTHER)]
    for result in alone[1:3]:
        np.testing.assert_array_equal(result.losses, alone[0].losses)
        np.testing.assert_array_equal(result.confusions, alone[0].confusions)
    assert (alone[3].losses != alone[0].losses).any()


def test_one_of_them_is_evaluated_and_the_study_says_of_the_others_whose_score_they_have(prepared, evaluated):
    result = prepared.evaluate([*SAME, OTHER, SAME[0]])
    assert sum(evaluated) == 2
    first, *rest = (row.candidate for row in result.rows[:3])
    assert first.same_as is None
    assert {candidate.same_as for candidate in rest} == {first.number}
    assert {(c.score, c.curve, c.losses, tuple(c.confusions), c.state) for c in rest} == {
        (first.score, first.curve, first.losses, tuple(first.confusions), first.state)
    }
    assert all(candidate.seconds == 0 for candidate in rest)
    assert result.rows[3].candidate.same_as is None


def test_whoever_is_found_later_has_the_score_of_an_earlier_one(prepared, evaluated):
    prepared.evaluate(SAME[:1])
    evaluated.clear()
    later = prepared.evaluate([cell('sep 12x15', 'sep 1x1')])
    assert evaluated == []
    assert later.rows[0].candidate.same_as is not None


def test_within_a_batch_of_a_search_too_and_nothing_is_shared_on_rungs_that_do_not_say_so(tmp_path):
    config = scenes_search.get_config('toy')
    config.search.references = ()
    asked = []

    def rungs(prepared):
        def evaluate(genotypes, keep_going=None):
            asked.extend(np.asarray(genotypes.ops).tolist())
            return prepared.evaluator()(genotypes, keep_going)

        given = tuple(SAME)
        return [
            Rung('shared', evaluate, 3, 1, given=given, same=prepared.same),
            Rung('alone', evaluate, 3, 1, given=given),
        ]

    results = search.run(config, tmp_path, make_rungs=rungs)
    assert [c.same_as for c in results] == [None, 0, 0, None, None, None]
    assert asked == [SAME[0].ops.tolist(), *(genotype.ops.tolist() for genotype in SAME)]
    assert len({c.score for c in results}) == 1
