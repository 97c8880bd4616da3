"""The journey of a search, whole, on the toy config: what is evaluated, what is kept, what is asked of a pruner."""

import csv
import dataclasses
import functools
import itertools
import math

import jax
import numpy as np
import optuna
import pytest

from configs import scenes_search
from dpc_jax import assembly, bench, climbing, frozen
from dpc_jax.base import InputError, ProxyResult, Rung, stack
from dpc_jax.journeys import search
from dpc_jax.population import PopulationEvaluator
from dpc_jax.samplers import make as make_sampler
from dpc_jax.spaces.dpc import Space
from dpc_jax.streaming import StreamedData
from dpc_jax.study import Progress, RunInfo, Study, make_pruner, ranking
from tests.test_progress import scalars

pytestmark = pytest.mark.usefixtures('quick_compilation')


def toy(**fields):
    config = scenes_search.get_config('toy')
    config.update_from_flattened_dict({name.replace('__', '.'): value for name, value in fields.items()})
    return config


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
    return tmp_path_factory.mktemp('search')


@pytest.fixture(scope='module')
def first(workdir):
    """A whole search."""
    return search.run(toy(), workdir)


def study_of(config, results):
    """The same search in a study of its own: backbone and cache are shared, scores are not."""
    config.search.study = results
    return config


@pytest.fixture
def evaluations(monkeypatch):
    """(candidates, steps of the budget) of every call of the evaluator."""
    calls = []
    evaluate = PopulationEvaluator.__call__

    def counted(self, genotypes, keep_going=None):
        calls.append((genotypes, self.settings.steps, keep_going))
        return evaluate(self, genotypes, keep_going)

    monkeypatch.setattr(PopulationEvaluator, '__call__', counted)
    return calls


def keys(calls, space=None):
    space = space or Space(2)
    return [
        space.canonical_key(type(g)(*(np.asarray(genes[i]) for genes in g)))
        for g, *_ in calls
        for i in range(len(g.ops))
    ]


def told(results):
    """What must not change from start to start."""
    return [(c.number, c.reference, c.key, c.state, c.score, c.curve, c.losses, c.rung) for c in results]


def test_a_search_evaluates_references_and_as_many_candidates_as_asked(first):
    assert [c.reference for c in first].count('conv1x1') == 1
    candidates = [c for c in first if not c.reference]
    assert len(candidates) == len({c.key for c in candidates}) == 3
    for c in first:
        assert (c.state, c.steps, c.seed, c.rung) == ('complete', 4, 0, 'proxy')
        assert 0 <= c.score <= 1
        assert len(c.curve) == len(c.losses) == 2
        assert c.score == c.curve[-1]


def test_a_search_writes_its_report(first, workdir):
    with (workdir / 'report/ranking.csv').open() as file:
        rows = list(csv.DictReader(file))
    ranked = ranking([c for c in first if not c.reference])
    assert [row['key'] for row in rows if not row['reference']] == [c.key for c in ranked]
    assert [float(row['score']) for row in rows if not row['reference']] == [c.score for c in ranked]
    assert [(row['reference'], row['rank']) for row in rows if row['reference']] == [('conv1x1', '')]
    text = (workdir / 'report/report.md').read_text()
    assert all(c.key in text for c in ranked)
    for picture in ('cells.png', 'progress.png', 'scores.png', 'operators.png'):
        assert (workdir / 'report' / picture).stat().st_size > 1000
    assert list((workdir / 'events/proxy').iterdir())


def test_scores_are_those_of_the_evaluator_alone(first, workdir):
    config = toy()
    sets = assembly.load_datasets(config)
    cache = frozen.build_cache(config, workdir, sets, frozen.backbone_variables(config, workdir, sets[0]))
    data = assembly.proxy_data(config, cache)
    evaluator = assembly.make_evaluator(config, data, sets[0].num_classes, steps=4, chunk=1)
    alone = [evaluator(stack([c.genotype])).scores[0] for c in first]
    assert alone == [np.float32(c.score) for c in first]


def test_the_same_command_again_evaluates_nothing(first, workdir, evaluations, capsys):
    before = (workdir / 'report/ranking.csv').read_bytes()
    again = search.run(toy(), workdir)
    assert not evaluations
    assert told(again) == told(first)
    assert (workdir / 'report/ranking.csv').read_bytes() == before
    best = max(c.score for c in first if not c.reference)
    said = capsys.readouterr().out
    assert f'1. {100 * best:.2f} % mIoU' in said
    assert str(workdir / 'report/report.md') in said


def test_more_candidates_go_on_from_those_there_are(first, workdir, evaluations):
    del first
    fresh = functools.partial(study_of, results='grown')
    small = search.run(fresh(toy(search__num_candidates=1)), workdir)
    evaluations.clear()
    grown = search.run(fresh(toy(search__num_candidates=3)), workdir)
    new = told(grown)[len(small) :]
    assert told(grown)[: len(small)] == told(small)
    assert keys(evaluations) == [c.key for c in grown[len(small) :] if c.same_as is None]
    assert len(new) == 2


@pytest.mark.parametrize(
    ('field', 'value', 'said'),
    [
        ('proxy__steps', 6, 'proxy.steps: study has 4, config has 6'),
        ('cell__filters', 8, 'cell.filters: study has 4, config has 8'),
        ('dataset__seed', 1, 'content.train: study has'),
        ('search__population', 3, 'search.population: study has 2, config has 3'),
        ('seed', 5, 'seed: study has 0, config has 5'),
    ],
)
def test_a_workdir_of_another_config_is_refused(first, workdir, field, value, said):
    before = sorted((path, path.stat().st_mtime_ns) for path in workdir.rglob('*.npz'))
    with pytest.raises(InputError) as error:
        search.run(toy(**{field: value}), workdir)
    assert said in str(error.value)
    assert '\n' not in str(error.value)
    assert sorted((path, path.stat().st_mtime_ns) for path in workdir.rglob('*.npz')) == before  # nothing was trained
    assert told(search.run(toy(), workdir)) == told(first)


def test_what_is_free_may_change(first, workdir, evaluations):
    again = search.run(toy(proxy__steps_per_call=3, proxy__at_once=8, cache__batch_size=2), workdir)
    assert not evaluations
    assert told(again) == told(first)


def test_features_that_stay_on_disk_give_the_same_search(first, workdir):
    config = toy(proxy__stream='always', proxy__steps_per_call=1, search__study='streamed')
    assert isinstance(bench.prepare(config, workdir).data, StreamedData)
    results = search.run(config, workdir)
    assert [row[:6] for row in told(results)] == [row[:6] for row in told(first)]
    # Means over a span are added up call by call, and there are more calls here.
    np.testing.assert_allclose([c.losses for c in results], [c.losses for c in first], rtol=1e-6)


@pytest.mark.slow
def test_a_second_rung_evaluates_exactly_the_best(first, workdir, evaluations):
    ladder = functools.partial(toy, search__ladder=(('anew', 6, 2),), search__study='ladder', search__references=())
    results = search.run(ladder(), workdir)
    below = [c for c in results if c.rung == 'proxy']
    above = [c for c in results if c.rung == 'rung1-6']
    assert {c.key for c in above} == {c.key for c in ranking(below)[:2]}
    assert {c.steps for c in above} == {6}
    assert keys([call for call in evaluations if call[1] == 6]) == [c.key for c in above]
    assert [c.score for c in search.best(results, 5)] == sorted((c.score for c in above), reverse=True)

    evaluations.clear()
    more = search.run(ladder(search__num_candidates=6), workdir)  # whoever became one of the two best is added
    wanted = {c.key for c in ranking([c for c in more if c.rung == 'proxy'])[:2]}
    climbed = {c.key for c in more if c.rung == 'rung1-6'}
    assert climbed == wanted | {c.key for c in above}
    assert len(keys([call for call in evaluations if call[1] == 6])) == len(wanted - {c.key for c in above})


def test_a_rung_with_too_few_below_it_samples_nobody(first, workdir, monkeypatch):
    monkeypatch.setattr(PopulationEvaluator, '__call__', failing(PopulationEvaluator.__call__, {0, 1}))
    config = toy(search__ladder=(('anew', 6, 9),), search__study='few', search__references=())
    results = search.run(config, workdir)
    complete = {c.key for c in results if c.rung == 'proxy' and c.state == 'complete'}
    assert {c.key for c in results if c.rung == 'rung1-6'} == complete
    assert len(complete) == 1


def failing(evaluate, numbers):
    """The evaluator, but the candidates with these numbers diverge."""
    count = itertools.count()

    def call(self, genotypes, keep_going=None):
        result = evaluate(self, genotypes, keep_going)
        bad = np.array([next(count) in numbers for _ in result.scores])
        scores = np.where(bad, np.float32(np.nan), result.scores)
        curves = np.where(bad[:, None], np.float32(np.nan), result.curves)
        return result._replace(scores=scores, curves=curves, finite=result.finite & ~bad)

    return call


def test_a_diverged_candidate_is_recorded_and_ranks_last(first, workdir, monkeypatch):
    del first
    monkeypatch.setattr(PopulationEvaluator, '__call__', failing(PopulationEvaluator.__call__, {1}))
    results = search.run(toy(search__study='diverged', search__references=()), workdir)
    assert [c.state for c in results] == ['complete', 'failed', 'complete']
    assert results[1].failure == 'non-finite loss within 4 steps'
    assert math.isnan(results[1].score)
    assert ranking(results)[-1].number == 1
    assert len(search.best(results, 9)) == 2


@pytest.mark.slow
def test_a_learning_rate_that_ruins_all_is_survived(first, workdir, capsys):
    del first
    results = search.run(toy(proxy__learning_rate=1e30, search__study='ruined'), workdir)
    assert {c.state for c in results} == {'failed'}
    assert len(results) == 4
    assert all(c.failure.startswith('non-finite loss within ') for c in results)
    assert search.best(results, 9) == []
    assert 'report.md' in capsys.readouterr().out


def test_memory_that_ends_in_the_middle_halves_the_chunk_and_nobody_fails(first, workdir, monkeypatch, capsys):
    train, calls = PopulationEvaluator.train, itertools.count()

    def limited(self, *args):
        if self.chunk > 1 and next(calls) > 2:
            raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.')
        return train(self, *args)

    monkeypatch.setattr(PopulationEvaluator, 'train', limited)
    monkeypatch.setattr(assembly, 'choose_chunk', lambda *_: 2)
    config = toy(proxy__chunk=0, search__study='memory')
    results = search.run(config, workdir)
    assert capsys.readouterr().out.count('chunk 2 does not fit; going on with 1\n') == 1
    assert [(c.key, c.state, len(c.curve)) for c in results] == [(c.key, c.state, 2) for c in first]
    np.testing.assert_allclose([c.losses for c in results], [c.losses for c in first], rtol=1e-4)  # of two chunks
    again = bench.prepare(config, workdir)
    assert again.chunk.size == 1
    assert told(search.run(config, workdir)) == told(results)


def test_a_pruner_stops_candidates(first, workdir):
    del first
    config = toy(search__study='pruned', search__pruner='optuna.ThresholdPruner', search__references=())
    config.search.pruner_settings = {'lower': 1.0}
    results = search.run(config, workdir)
    assert [(c.state, c.steps, len(c.curve)) for c in results] == [('pruned', 2, 1)] * 3
    assert all(c.score == c.curve[0] for c in results)


def test_a_sampler_of_optuna_is_plugged_in_by_name(first, workdir):
    del first
    config = toy(search__sampler='optuna.TPESampler', search__study='tpe')
    config.search.sampler_settings = {'TPESampler': {'n_startup_trials': 1}}
    results = search.run(config, workdir)
    assert len({c.key for c in results if not c.reference}) == 3


def test_the_best_leave_out_references_failures_and_lower_rungs(first):
    upper = dataclasses.replace(first[1], rung='rung1-6', score=0.01, reference='')
    failed = dataclasses.replace(upper, state='failed', number=9, key='another')
    reference = dataclasses.replace(upper, reference='aspp', score=1.0, number=10)
    assert search.best([*first, upper, failed, reference], 5) == [upper]
    assert search.best([], 5) == []


# ---- the loop, with an evaluator that trains nothing -----------------------------------------------------------------


class Recorder:
    """An evaluator whose scores are a function of the genotype; it remembers what it was asked."""

    def __init__(self, stop_after=()):
        self.sizes, self.asked, self.going = [], [], []

    def __call__(self, genotypes, keep_going=None):
        count = len(genotypes.ops)
        scores = (genotypes.ops.sum(1) % 97 / 97).astype(np.float32)
        self.sizes.append(count)
        going = keep_going(0, scores)
        self.going += going.tolist()
        curves = np.stack([scores, np.where(going, scores, np.nan)], 1).astype(np.float32)
        finite, steps = np.ones(count, bool), np.where(going, 2, 1).astype(np.int32)
        confusions = np.zeros((*curves.shape, 2, 2), np.int64)
        return ProxyResult(scores, curves, np.zeros_like(curves), finite, ~going, steps, 0.5 * count, confusions, {})


def open_study(folder, pruner='', settings=None):
    space = Space(2)
    return Study.open(
        f'sqlite:///{folder / "study.db"}',
        'loop',
        space=space,
        sampler=make_sampler('uniform', space, seed=0),
        settings={},
        run=RunInfo(seed=0, config_hash='0', commit='', device='', rung='proxy'),
        pruner=make_pruner(pruner, settings or {}),
    )


def climb(folder, evaluator, *, at_once, generation, keep=7, **study):
    with open_study(folder, **study) as opened:
        with Progress(keep) as progress:
            climbing.climb(opened, Rung('proxy', evaluator, keep, at_once), progress, generation=generation)
        return opened.candidates()


def test_generations_larger_than_a_call_are_split(tmp_path):
    evaluator = Recorder()
    results = climb(tmp_path, evaluator, at_once=2, generation=5)
    assert evaluator.sizes == [2, 2, 1, 2]
    assert [c.seconds for c in results] == [0.5] * 7
    assert [c.score for c in results] == [np.float32(c.genotype.ops.sum() % 97 / 97) for c in results]


def test_the_pruner_hears_each_score_and_only_its_own_candidates_stop(tmp_path):
    evaluator = Recorder()
    threshold = {'lower': 0.5}
    results = climb(tmp_path, evaluator, at_once=4, generation=4, pruner='optuna.ThresholdPruner', settings=threshold)
    assert evaluator.going == [c.score >= 0.5 for c in results]
    assert [c.state for c in results] == ['complete' if c.score >= 0.5 else 'pruned' for c in results]
    assert {c.state for c in results} == {'complete', 'pruned'}


def test_an_interrupt_loses_nothing_that_was_told(tmp_path):
    evaluator, uninterrupted = Recorder(), climb(make(tmp_path / 'whole'), Recorder(), at_once=1, generation=3)

    def interrupted(genotypes, keep_going):
        if len(evaluator.sizes) == 4:
            raise KeyboardInterrupt
        return evaluator(genotypes, keep_going)

    with pytest.raises(KeyboardInterrupt):
        climb(make(tmp_path / 'halves'), interrupted, at_once=1, generation=3)
    results = climb(tmp_path / 'halves', evaluator, at_once=1, generation=3)
    assert len(evaluator.sizes) == 7
    assert told(results) == told(uninterrupted)


class Killed(Recorder):
    """One that stops for good in the middle of its fourth call."""

    def __call__(self, genotypes, keep_going=None):
        if len(self.sizes) == 3:
            raise KeyboardInterrupt
        return super().__call__(genotypes, keep_going)


def test_the_numbers_of_the_controller_are_shown_and_a_resume_writes_none_twice(first, workdir):
    del first  # its backbone and its cache are shared

    def searched(name, evaluator, sampler='controller'):
        fields = {'search__sampler': sampler, 'search__population': 2, 'search__num_candidates': 6}
        config = study_of(toy(**fields), name)
        config.search.references = ()
        search.run(config, workdir, make_rungs=lambda _: [Rung('proxy', evaluator, 6, study=name)])

    def shown(name):
        curves = scalars(workdir / 'events' / name)
        return {tag: sorted(points) for tag, points in curves.items() if tag.startswith('strategy/')}

    searched('whole', Recorder())
    curves = shown('whole')
    assert {tag: [step for step, _ in points] for tag, points in curves.items()} == {
        'strategy/entropy': [0, 2, 4],  # each batch of two is drawn from what was learned before it
        'strategy/baseline': [2, 4],
        'strategy/reward': [2, 4],
    }
    assert len(scalars(workdir / 'events/whole')['candidate/score']) == 6
    with pytest.raises(KeyboardInterrupt):
        searched('killed', Killed())  # in the middle of the second batch, whose numbers are shown already
    assert [step for step, _ in shown('killed')['strategy/entropy']] == [0, 2]
    searched('killed', Recorder())
    assert shown('killed') == curves
    searched('silent', Recorder(), sampler='uniform')
    assert shown('silent') == {}


def make(folder):
    folder.mkdir()
    return folder


def test_a_workdir_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / 'file').write_text('mine')
    for place in (tmp_path / 'file', tmp_path / 'file' / 'inside'):
        with pytest.raises(InputError, match='cannot be made'):
            bench.prepare(toy(), place)
    assert (tmp_path / 'file').read_text() == 'mine'


def test_a_spoiled_backbone_is_trained_anew_and_is_the_same(first, workdir, evaluations, caplog):
    (path,) = workdir.glob('backbone-*.npz')
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    assert told(search.run(toy(), workdir)) == told(first)
    assert path.read_bytes() == whole
    assert 'training it anew' in caplog.text
    assert not evaluations


def test_features_of_another_backbone_are_not_mixed_into_a_study(first, workdir, tmp_path):
    config = study_of(toy(), 'begun elsewhere')
    config.search.storage = f'sqlite:///{workdir / "study.db"}'
    sets = assembly.load_datasets(config)
    settings = assembly.study_settings(config, sets)
    with assembly.open_study(config, workdir, settings, rung='proxy') as study:
        assert study.once('features', lambda: 'of another backbone') == 'of another backbone'
    with pytest.raises(InputError, match='the features here are not those of the study in sqlite'):
        search.run(config, workdir)


@pytest.mark.slow
def test_a_search_of_two_objectives_keeps_both(first, workdir):
    config = study_of(toy(search__objectives=('miou', 'macs'), search__sampler='optuna.NSGAIISampler'), 'two')
    config.search.sampler_settings.NSGAIISampler = {'population_size': 2}
    found = search.run(config, workdir)
    assert len(found) == len(first)
    stored = optuna.load_study(study_name='two-proxy', storage=f'sqlite:///{workdir / "study.db"}')
    assert [direction.name for direction in stored.directions] == ['MAXIMIZE', 'MINIMIZE']
    prepared = bench.prepare(config, workdir)
    values = {c.number: [c.score, prepared.space.cost(c.genotype, prepared.settings)['macs']] for c in found}
    assert {trial.number: trial.values for trial in stored.trials} == values
    with pytest.raises(InputError, match=r'search\.objectives: study has'):
        search.run(study_of(toy(), 'two'), workdir)
