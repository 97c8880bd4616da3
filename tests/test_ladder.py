"""The ladder: what a config's rungs mean, who goes on at a halving, the last rung with whole networks, resumed."""

import dataclasses
import itertools
import json
import math
import shutil

import jax
import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial

from configs import scenes_search
from dpc_jax import assembly, bench, climbing, datasets, rerank, study
from dpc_jax import ladder as ladders
from dpc_jax.base import DivergedError, InputError, stack, unstack
from dpc_jax.evaluation import Evaluation
from dpc_jax.journeys import search
from dpc_jax.population import PopulationEvaluator
from dpc_jax.spaces import aux_cells
from dpc_jax.spaces.dpc import Space
from dpc_jax.study import Halving

pytestmark = pytest.mark.usefixtures('quick_compilation')


def test_the_rungs_of_a_config_in_their_order():
    rungs = (('halve', 10, 1 / 3), ('halve', 30, 0.5), ('anew', 200, 8), ('full', 3))
    found = ladders.read(rungs, steps=90)
    assert found == (((10, 1 / 3), (30, 0.5)), ((200, 8),), 3)
    assert ladders.read((), steps=90) == ((), (), 0)


def apart(space, one, other):
    first, second = space.to_params(one), space.to_params(other)
    return sum(first[name] != second[name] for name in first)


@pytest.mark.parametrize('space', [Space(3), aux_cells.Space()])
def test_the_best_are_taken_from_several_families(space):
    leader, *others = unstack(space.sample(jax.random.key(0), 12))
    family = [cell for cells in space.neighbours_by_gene(leader).values() for cell in cells[:1]]
    ranked = [leader, *family, *others]
    chosen = ladders.spread(ranked, 6, space, 3)
    assert chosen[0] is leader
    assert all(apart(space, one, other) >= 3 for one, other in itertools.combinations(chosen, 2))
    places = [next(place for place, cell in enumerate(ranked) if cell is one) for one in chosen]
    assert places == sorted(places)
    # Of those that were passed over each is too near to a better one that was taken.
    for place in set(range(places[-1])) - set(places):
        assert any(apart(space, ranked[place], ranked[better]) < 3 for better in places if better < place)


def test_with_too_few_families_the_best_of_the_others_fill_the_rung():
    space = Space(3)
    (leader,) = unstack(space.sample(jax.random.key(0), 1))
    family = [cell for cells in space.neighbours_by_gene(leader).values() for cell in cells[:1]]
    (far,) = unstack(space.sample(jax.random.key(1), 1))
    chosen = ladders.spread([leader, *family, far], 3, space, 3)
    assert [id(cell) for cell in chosen] == [id(cell) for cell in (leader, family[0], far)]
    assert ladders.spread([leader, *family], 99, space, 3) == [leader, *family]
    assert ladders.spread([leader, *family], 2, space, 1) == [leader, family[0]]
    assert ladders.spread([], 2, space, 3) == []


# ---- halving --------------------------------------------------------------------------------------------------------


def study_of(scores, *, direction='maximize', references=()):
    """A study whose finished trials have these scores at the first point of their curve."""
    study = optuna.create_study(direction=direction)
    for number, score in enumerate(scores):
        study.add_trial(
            create_trial(
                state=TrialState.PRUNED,
                intermediate_values={0: score},
                user_attrs={'reference': 'aspp' if number in references else ''},
            )
        )
    return study


def pruned(study, score, share, point=0, **attributes):
    trial = create_trial(state=TrialState.RUNNING, intermediate_values={point: score}, user_attrs=attributes)
    trial.number = 10_000
    return Halving({0: share}).prune(study, trial)


@pytest.mark.parametrize('share', [0.1, 1 / 3, 0.5, 0.9])
def test_the_best_share_goes_on_itself_included(share):
    scores = np.random.default_rng(0).permutation(29) / 29
    study = study_of(scores)
    going = [not pruned(study, score + 1e-3, share) for score in np.arange(-1, 29) / 29]
    places = np.arange(30, 0, -1)  # of the candidate with each score, among thirty
    assert going == list(places <= math.ceil(share * 30))


def test_with_nobody_to_compare_it_goes_on():
    assert not pruned(study_of([]), 0.1, 0.01)


def test_down_is_better_where_down_is_good():
    study = study_of([0.1, 0.2, 0.3], direction='minimize')
    assert not pruned(study, 0.05, 0.25)
    assert pruned(study, 0.35, 0.25)


def test_references_are_compared_with_nobody_and_nobody_with_them():
    study = study_of([0.9, 0.8, 0.1], references=(0, 1))
    assert not pruned(study, 0.2, 0.5)
    assert not pruned(study_of([0.9, 0.8]), 0.1, 0.5, reference='aspp')


def test_only_at_its_points_and_only_finished_trials_count():
    study = study_of([0.9, 0.8])
    assert not pruned(study, 0.1, 0.5, point=1)
    halving = Halving({0: 0.5})
    running = create_trial(state=TrialState.RUNNING, intermediate_values={0: 0.9}, user_attrs={'reference': ''})
    waiting = study_of([])
    waiting.add_trial(running)
    trial = create_trial(state=TrialState.RUNNING, intermediate_values={0: 0.1}, user_attrs={})
    trial.number = 7
    assert not halving.prune(waiting, trial)
    waiting.tell(0, state=TrialState.PRUNED)
    assert halving.prune(waiting, trial)  # it had not been looked at for good


def test_a_pruner_and_a_ladder_that_halves_are_refused_together():
    config = scenes_search.get_config('toy,ladder')
    config.search.pruner = 'optuna.MedianPruner'
    with pytest.raises(InputError, match=r"search.pruner is 'optuna.MedianPruner', but search.ladder halves; give one"):
        assembly.check(config)


def test_a_ladder_that_halves_and_further_objectives_are_refused_together():
    config = scenes_search.get_config('toy,ladder')
    config.search.objectives = ('miou', 'macs')
    with pytest.raises(InputError, match=r"search.objectives is \('miou', 'macs'\); search.ladder halves by one alone"):
        assembly.check(config)


# ---- a search with a ladder -----------------------------------------------------------------------------------------


def toy(study, **fields):
    config = scenes_search.get_config('toy,ladder')
    config.search.study = study
    config.search.num_candidates = 8
    config.search.ladder, config.search.apart = (('halve', 10, 0.5), ('full', 2)), 1
    config.proxy.steps, config.proxy.bn_decay = 40, 0.5  # enough for scores that differ
    config.rerank.random = 2
    config.update_from_flattened_dict({name.replace('__', '.'): value for name, value in fields.items()})
    return config


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
    return tmp_path_factory.mktemp('ladder')


class Training:
    """In place of the journey of a training: the score follows from cell and seed; some diverge or are killed."""

    def __init__(self, diverging=(), killed_after=math.inf):
        self.configs, self.diverging, self.killed_after = [], diverging, killed_after

    def __call__(self, config, place):
        if len(self.configs) >= self.killed_after:
            raise KeyboardInterrupt
        self.configs.append(config)
        print('a training')
        if len(self.configs) in self.diverging:
            raise DivergedError('the loss is nan at step 3')
        (place / 'checkpoints' / '4').mkdir(parents=True)
        (place / 'metrics.jsonl').write_text(
            '{"step": 2, "loss": 1.5}\n{"step": 4, "loss": 0.5}\n{"step": 4, "miou": 1}\n'
        )
        classes = len(datasets.classes(config.dataset))
        right = 5 + len(config.context.genotype) % 7 + config.seed
        return Evaluation({'confusion': np.eye(classes, dtype=np.int64) * right + 1}, {}, [])


@pytest.fixture
def fresh(whole, workdir):
    """The work folder of all, in which no network has been trained."""
    del whole
    shutil.rmtree(workdir / 'full', ignore_errors=True)
    return workdir


@pytest.fixture(autouse=True)
def no_reports(request, monkeypatch):
    """Pictures take seconds, and one test looks at those of the search that all share."""
    if 'real_trainings' not in request.node.name:
        monkeypatch.setattr(search, 'write_report', lambda *_: None)


def climbed(config, workdir, training):
    return search.run(config, workdir, make_rungs=lambda prepared: prepared.rungs(training))


def told(results):
    return [(c.number, c.reference, c.key, c.state, c.score, c.curve, c.steps, c.rung, c.seed) for c in results]


@pytest.fixture(scope='module')
def whole(workdir):
    """A whole ladder, and what was trained in it."""
    training = Training()
    return climbed(toy('whole'), workdir, training), training


def test_some_stop_at_the_halving_and_their_curve_stays(whole):
    results, _ = whole
    sampled = [c for c in results if c.rung == 'proxy' and not c.reference]
    stopped = [c for c in sampled if c.state == 'pruned']
    assert len(sampled) == 8
    assert stopped
    assert all((c.steps, len(c.curve), len(c.confusions)) == (10, 1, 1) for c in stopped)
    assert all((c.steps, len(c.curve)) == (40, 3) for c in sampled if c.state == 'complete')
    assert [c.state for c in results if c.rung == 'proxy' and c.reference] == ['complete']


def test_the_last_rung_trains_the_best_the_random_ones_and_the_references(whole, workdir):
    results, training = whole
    proxy = [c for c in results if c.rung == 'proxy']
    full = [c for c in results if c.rung == 'full']
    random = {Space(2).canonical_key(cell) for cell in unstack(Space(2).sample(jax.random.key(0), 2))}
    chosen = search.choose(search.best(proxy, 8), 2, bench.prepare(toy('whole'), workdir))
    assert {c.key for c in full if not c.reference} == {Space(2).canonical_key(cell) for cell in chosen} | random
    assert {c.key for c in proxy if c.drawn} == random
    assert {c.reference for c in full if c.reference} == {'conv1x1'}
    assert len(training.configs) == len(full)
    assert {(c.steps, c.losses) for c in full} == {(4, (0.5,))}


def test_a_network_has_the_searchs_data_and_backbone_and_the_recipe_of_the_config(whole, workdir):
    config = whole[1].configs[0]
    search_config = toy('whole')
    assert config.dataset.name == 'scenes'
    assert config.backbone.to_dict() == {'name': 'mobilenet_v2_shallow', 'width': 0.1, 'output_stride': 16}
    assert config.train.init.parts == 'backbone'
    assert config.train.init.checkpoint == str(next(workdir.glob('backbone-*.npz')).resolve())
    assert config.train.steps == search_config.rerank.train.steps
    assert json.loads(config.context.genotype)


def test_the_last_rung_takes_cells_that_are_apart(tmp_path):
    config, space = toy('apart', search__apart=2, rerank__random=0), Space(2)
    results = climbed(config, tmp_path, Training())
    prepared = bench.prepare(config, tmp_path)
    ranked = search.best([c for c in results if c.rung == 'proxy'], 8)
    chosen = search.choose(ranked, 2, prepared)
    assert {c.key for c in results if c.rung == 'full' and not c.reference} == set(map(space.canonical_key, chosen))
    assert space.canonical_key(chosen[0]) == ranked[0].key
    assert apart(space, *chosen) >= 2
    # What is the same function on the cached maps takes one place.
    twins = [ranked[0], *(dataclasses.replace(c, genotype=ranked[0].genotype) for c in ranked[1:])]
    assert [space.canonical_key(cell) for cell in search.choose(twins, 3, prepared)] == [ranked[0].key]
    alone = dataclasses.replace(prepared, config=toy('apart', search__apart=1))
    different = list({prepared.same(c.genotype): c for c in reversed(ranked)}.values())
    places = sorted(ranked.index(c) for c in different)
    twin = dataclasses.replace(ranked[-1], genotype=ranked[0].genotype)  # a worse one does not move its better twin
    found = [space.canonical_key(cell) for cell in search.choose([*ranked, twin], 8, alone)]
    assert found == [ranked[place].key for place in places]


def test_the_recipe_of_the_last_rung_is_named_as_the_config_has_it(fault):
    said = fault(lambda: rerank.check(toy('bad', rerank__train__learning_rate=-1.0), Space(2)))
    assert said == 'rerank.train.learning_rate is -1.0; it must be a number above 0'


def test_cells_are_at_least_one_choice_apart(fault):
    assert fault(lambda: assembly.check(toy('apart', search__apart=0))) == 'search.apart is 0; it must be at least 1'


@pytest.mark.parametrize('pooling', ['sliding', 'binned'])
def test_a_network_pools_as_the_search_does(pooling):
    """Else another function would be trained than the one that was chosen."""
    config = toy('pools', cell__pooling=pooling)
    (cell,) = unstack(Space(2).sample(jax.random.key(0), 1))
    network = rerank.network_config(config, Space(2), cell, seed=0, backbone='')
    assert network.context.pooling == pooling
    assert (network.context.filters, network.context.dropout_rate) == (config.rerank.context.filters, 0.1)


def test_every_network_has_a_folder_with_its_cell_and_no_checkpoints(whole, workdir):
    folders = sorted((workdir / 'full').iterdir())
    assert len(folders) >= len(whole[1].configs)
    for folder in folders:
        assert {'cell.json', 'output.txt', 'result.json'} <= {path.name for path in folder.iterdir()}
        assert not (folder / 'checkpoints').exists()
        assert 'a training' in (folder / 'output.txt').read_text()


def test_the_report_shows_the_ladder(whole, workdir):
    text = (workdir / 'report/report.md').read_text()
    for words in ('- **rerank**: ', '## From proxy to full', 'How many candidates got how far', '## Ranking: full'):
        assert words in text


def test_the_report_from_the_storage_alone_has_all_rungs(whole, workdir):
    url = f'sqlite:///{workdir / "study.db"}'
    assert study.rungs(url, 'whole-proxy') == ['whole-proxy', 'whole-full']
    assert study.rungs(url, 'whole-full') == ['whole-full']
    found = [candidate for name in study.rungs(url, 'whole-proxy') for candidate in study.read(url, name)[0]]
    assert told(found) == told(whole[0])


def test_rungs_are_in_the_order_of_the_ladder(tmp_path):
    url = f'sqlite:///{tmp_path / "study.db"}'
    for name in (
        'a-full-seed10',
        'a-full',
        'a-rung2-90',
        'a-proxy',
        'a-full-seed2',
        'a-rung10-99',
        'a-seed1',
        'b-full',
    ):
        optuna.create_study(storage=url, study_name=name)
    expected = ['a-proxy', 'a-rung2-90', 'a-rung10-99', 'a-full', 'a-full-seed2', 'a-full-seed10']
    assert study.rungs(url, 'a-proxy') == expected


def test_the_same_command_again_trains_nothing(whole, workdir):
    training = Training()
    assert told(climbed(toy('whole'), workdir, training)) == told(whole[0])
    assert training.configs == []


@pytest.mark.parametrize('trained', [0, 1, 2])
def test_killed_on_the_last_rung_it_ends_as_if_it_had_not_been(whole, fresh, trained):
    with pytest.raises(KeyboardInterrupt):
        climbed(toy(f'killed{trained}'), fresh, Training(killed_after=trained))
    again = Training()
    results = climbed(toy(f'killed{trained}'), fresh, again)
    assert len(again.configs) == len([c for c in results if c.rung == 'full']) - trained
    assert told(results) == told(whole[0])


def test_what_a_network_scored_is_kept_before_the_study_has_it(fresh, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(climbing, 'record', interrupted_on_the_last_rung(climbing.record))
        with pytest.raises(KeyboardInterrupt):
            climbed(toy('between'), fresh, first := Training())
    climbed(toy('between'), fresh, second := Training())
    trained = [config.context.genotype for config in (*first.configs, *second.configs)]
    assert len(first.configs) == 1
    assert len(trained) == len(set(trained))


def interrupted_on_the_last_rung(record):
    """The power fails between the end of a training and the writing of its score."""

    def call(study, group, result):
        if result.losses.shape[1] == 1:
            raise KeyboardInterrupt
        record(study, group, result)

    return call


def test_a_network_that_diverges_is_a_candidate_that_failed(fresh):
    results = climbed(toy('diverged'), fresh, Training(diverging={2}))
    full = [c for c in results if c.rung == 'full']
    assert [c.state for c in full].count('failed') == 1
    assert all(math.isnan(c.score) for c in full if c.state == 'failed')


def test_several_seeds_are_several_trainings_and_one_rung(workdir, whole):
    del whole
    training = Training()
    results = climbed(toy('seeds', rerank__seeds=2), workdir, training)
    full = [c for c in results if c.rung == 'full']
    assert sorted({c.seed for c in full}) == [0, 1]
    assert len({c.key for c in full}) * 2 == len(full)
    first = search.best(results, 1)[0]
    assert first.score == pytest.approx(np.mean([c.score for c in full if c.key == first.key and not c.reference]))


def test_a_last_rung_may_be_added_to_a_finished_search(workdir, whole):
    del whole
    config = toy('added', search__ladder=(('halve', 10, 0.5),))
    config.rerank.random = 0
    before = climbed(config, workdir, Training())
    config.search.ladder = (('halve', 10, 0.5), ('full', 1))
    after = climbed(config, workdir, Training())
    assert told(after)[: len(before)] == told(before)
    assert [c.rung for c in after if not c.reference].count('full') == 1


@pytest.mark.parametrize(
    ('field', 'value', 'said'),
    [
        ('rerank.random', 9, 'rerank.random is 9; allowed: at most search.num_candidates (8)'),
        ('rerank.random', -1, 'rerank.random is -1'),
        ('rerank.seeds', 0, 'rerank.seeds is 0'),
        ('rerank.train.batch_size', 0, 'train.batch_size is 0'),
        ('rerank.train.batch_norm', 'per_device', 'rerank.train: images of a part of the batch is 1'),  # on 4 devices
    ],
)
def test_a_wrong_recipe_is_refused_before_any_work(field, value, said, tmp_path):
    config = toy('wrong')
    config.update_from_flattened_dict({field: value})
    with pytest.raises(InputError, match=said.replace('(', r'\(').replace(')', r'\)')):
        bench.prepare(config, tmp_path / 'none')
    assert not (tmp_path / 'none').exists()


def test_a_config_without_a_recipe_is_refused(tmp_path):
    config = toy('none')
    with config.unlocked():
        del config.rerank
    with pytest.raises(InputError, match=r"search.ladder has a rung 'full', but the config has no fields"):
        bench.prepare(config, tmp_path / 'none')


@pytest.mark.slow
def test_the_whole_ladder_with_real_trainings(tmp_path):
    """One cell of the proxy and one at random as real networks: each has weights, curves and a score of its own."""
    config = scenes_search.get_config('toy,ladder')
    config.search.references, config.rerank.random = (), 1  # each network is compiled
    results = search.run(config, tmp_path)
    full = [c for c in results if c.rung == 'full']
    assert len(full) == 2
    assert {c.state for c in full} == {'complete'}
    for folder in (tmp_path / 'full').iterdir():
        assert (folder / 'weights').is_dir()
        assert (folder / 'curves.png').is_file()
        result = json.loads((folder / 'result.json').read_text())
        assert np.array(result['confusion']).sum() > 0


def test_whole_networks_is_an_evaluator(workdir, whole, tmp_path):
    """Two cells in one call score what each scores alone."""
    del whole
    config, space = toy('alone'), Space(2)
    cells = unstack(space.sample(jax.random.key(5), 2))
    both, alone = (
        rerank.WholeNetworks(config, space, tmp_path / name, tmp_path / 'backbone.npz', 0, Training())
        for name in ('both', 'alone')
    )
    together = both(stack(cells))
    apart = [alone(stack([cell])) for cell in cells]
    np.testing.assert_array_equal(together.scores, np.concatenate([result.scores for result in apart]))
    np.testing.assert_array_equal(together.confusions, np.concatenate([result.confusions for result in apart]))


def test_the_proxys_evaluator_takes_a_score_at_each_halving(workdir, whole):
    del whole
    prepared = bench.prepare(toy('whole'), workdir)
    evaluator = prepared.evaluator()
    assert isinstance(evaluator, PopulationEvaluator)
    assert evaluator.settings.stops() == [10, 20, 40]
    assert prepared.evaluator(steps=6).settings.stops() == [3, 6]
