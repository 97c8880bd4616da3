"""Search strategies: what they draw, from what it follows, and that they are ordinary samplers of Optuna."""

import collections
import itertools
import math

import jax
import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from dpc_jax import samplers
from dpc_jax.base import FEATURES, InputError
from dpc_jax.spaces.dpc import OP_NAMES, OPS, Genotype, Space
from dpc_jax.study.batch import REDRAW, distributions
from tests.menus.spaces import toy
from tests.summing_space import SummingSpace

STRATEGIES = {'uniform': {}, 'near_best': {}, 'evolution': {'population': 5, 'sample': 2}, 'optuna.TPESampler': {}}
"""Each with settings with which a few trials show what it does."""


def memory(space: Space, rows: list[tuple[Genotype, float]], direction: str = 'maximize') -> optuna.Study:
    """A study with these cells and scores."""
    study = optuna.create_study(direction=direction)
    for genotype, score in rows:
        study.add_trial(trial(space, genotype, value=score))
    return study


def trial(space: Space, genotype: Genotype, **fields) -> FrozenTrial:
    fields.setdefault('user_attrs', {'key': space.canonical_key(genotype), 'reference': ''})  # as in a study of ours
    return create_trial(params=dict(space.to_params(genotype)), distributions=distributions(space), **fields)


def draw(sampler: optuna.samplers.BaseSampler, study: optuna.Study, number: int, redraw: int = 0) -> dict[str, object]:
    """The parameters that the sampler has for trial `number`, which the study does not get."""
    draft = create_trial(state=TrialState.RUNNING, system_attrs={REDRAW: redraw} if redraw else {})
    draft.number = number
    return sampler.sample_relative(study, draft, sampler.infer_relative_search_space(study, draft))


def cells(space: Space, count: int, seed: int = 0) -> list[Genotype]:
    population = space.sample(jax.random.key(seed), count)
    return [Genotype(*row) for row in zip(population.inputs, population.ops, strict=True)]


def is_near(params: dict[str, object], incumbent: dict[str, object]) -> bool:
    """Whether one gene differs, by hand: another input, another kind, or one rate or grid by one step."""
    differing = [name for name in params if params[name] != incumbent[name]]
    if len(differing) != 1:
        return False
    if differing[0].endswith('input'):
        return True
    here, there = (OPS[OP_NAMES.index(p[differing[0]])] for p in (params, incumbent))
    if here.kind != there.kind:
        return True
    scale = (1, 3, 6, 9, 12, 15, 18, 21) if here.rate else (1, 2, 4, 8)
    steps = [
        abs(scale.index(a) - scale.index(b))
        for a, b in zip(here.rate or here.grid, there.rate or there.grid, strict=True)
    ]
    return sorted(steps) == [0, 1]


def chi_square(counts: list[int]) -> tuple[float, float]:
    """The statistic, and a bound that it exceeds once in 160 000 times under the uniform law (f + 2 sqrt(f t) + 2 t is
    exceeded with probability below exp(-t): Laurent and Massart 2000, lemma 1; here t = 12)."""
    expected, freedom = sum(counts) / len(counts), len(counts) - 1
    return sum((count - expected) ** 2 for count in counts) / expected, freedom + 2 * (12 * freedom) ** 0.5 + 24


# ---- uniform -----------------------------------------------------------------------------------------------------


def test_uniform_draws_every_gene_uniformly():
    space = Space(3)
    genotypes = list(itertools.islice(samplers.uniform_draws(space, np.random.default_rng(0)), 4000))
    for branch in range(3):
        for values in ([int(g.ops[branch]) for g in genotypes], [int(g.inputs[branch]) for g in genotypes]):
            statistic, bound = chi_square(list(collections.Counter(values).values()))
            assert statistic <= bound
    assert collections.Counter(int(g.inputs[2]) for g in genotypes).keys() == {FEATURES, 0, 1}


def test_uniform_is_uniform_over_what_the_study_does_not_have():
    space = Space(1)
    known = [Genotype(np.array([-1], np.int32), np.array([op], np.int32)) for op in range(0, 81, 2)]
    study = memory(space, [(genotype, 0.5) for genotype in known])
    sampler = samplers.make('uniform', space, seed=5)
    drawn = collections.Counter(draw(sampler, study, number)['branch0.op'] for number in range(100, 600))
    assert drawn.keys() == set(OP_NAMES[1::2])
    statistic, bound = chi_square(list(drawn.values()))
    assert statistic <= bound


# ---- near best -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def scored() -> tuple[Space, optuna.Study, list[dict[str, object]]]:
    """A study in which three candidates are ahead, though others seem to be; and the parameters of those three."""
    space = Space(5)
    genotypes = cells(space, 30)
    study = memory(space, [(genotype, 0.01 * place) for place, genotype in enumerate(genotypes)])
    study.add_trial(
        trial(space, genotypes[29], value=0.29, user_attrs={})
    )  # once more: it takes one place among the best
    study.add_trial(trial(space, space.named('aspp'), value=0.9, user_attrs={'key': 'F[]', 'reference': 'aspp'}))
    pruned, running = cells(space, 2, seed=1)
    study.add_trial(trial(space, pruned, state=TrialState.PRUNED, intermediate_values={0: 0.9}, value=0.9))
    study.add_trial(trial(space, running, state=TrialState.RUNNING))
    study.add_trial(create_trial(value=0.9))  # somebody's
    return space, study, [dict(space.to_params(genotypes[place])) for place in (29, 28, 27)]


def test_near_best_draws_the_share_it_is_told_near_the_incumbents(scored):
    space, study, incumbents = scored
    sampler = samplers.make('near_best', space, seed=2, exploit=0.7, incumbents=3)
    drawn = [draw(sampler, study, number) for number in range(100, 400)]
    parents = collections.Counter()
    genes = collections.Counter()
    for params in drawn:
        near = [place for place, incumbent in enumerate(incumbents) if is_near(params, incumbent)]
        parents.update(near[:1])
        genes.update(name for place in near[:1] for name in params if params[name] != incumbents[place][name])
    assert abs(parents.total() / 300 - 0.7) < 4 * (0.7 * 0.3 / 300) ** 0.5
    statistic, bound = chi_square([parents[place] for place in range(3)])
    assert statistic <= bound
    assert genes.keys() == space.choices().keys() - {'branch0.input'}
    share = sum(count for name, count in genes.items() if name.endswith('input')) / genes.total()
    operators = [OPS[OP_NAMES.index(p[f'branch{b}.op'])].kind for p in incumbents for b in range(5)]
    all_genes = 3 * 4 + sum(1 if kind == 'conv1x1' else 3 for kind in operators)
    assert abs(share - 3 * 4 / all_genes) < 5 * (0.25 / genes.total()) ** 0.5, 'every gene is as likely'


@pytest.mark.parametrize(('exploit', 'expected'), [(0.0, 0), (1.0, 60)])
def test_near_best_may_be_all_or_nothing(scored, exploit, expected):
    space, study, incumbents = scored
    sampler = samplers.make('near_best', space, seed=2, exploit=exploit, incumbents=3)
    drawn = [draw(sampler, study, number) for number in range(60)]
    assert sum(any(is_near(params, incumbent) for incumbent in incumbents) for params in drawn) == expected


def test_near_best_reaches_further_in_the_neighbourhood_any(scored):
    space, study, incumbents = scored
    sampler = samplers.make('near_best', space, seed=2, exploit=1.0, incumbents=1, neighbourhood='any')
    drawn = [draw(sampler, study, number) for number in range(60)]
    assert all(sum(params[name] != incumbents[0][name] for name in params) == 1 for params in drawn)
    assert not all(is_near(params, incumbents[0]) for params in drawn)


def test_near_best_begins_uniformly():
    space, sampler = Space(5), samplers.make('near_best', Space(5), seed=2, exploit=1.0)
    study = memory(space, [])
    study.add_trial(trial(space, space.named('aspp'), value=0.9, user_attrs={'key': 'F[]', 'reference': 'aspp'}))
    drawn = [draw(sampler, study, number) for number in range(20)]
    assert len({tuple(params.values()) for params in drawn}) == 20
    assert not any(is_near(params, dict(space.to_params(space.named('aspp')))) for params in drawn)


def test_near_best_goes_down_where_down_is_good():
    space = Space(5)
    low, high = cells(space, 2)
    study = memory(space, [(low, 0.1), (high, 0.9)], direction='minimize')
    sampler = samplers.make('near_best', space, seed=2, exploit=1.0, incumbents=1)
    assert all(is_near(draw(sampler, study, number), dict(space.to_params(low))) for number in range(20))


def test_near_best_finds_the_last_neighbour_and_then_repeats_itself():
    space = Space(1)
    best = Genotype(np.array([-1], np.int32), np.array([OP_NAMES.index('pool 1x1')], np.int32))
    *others, last = space.neighbours(best)
    study = memory(space, [(best, 0.9), *((other, 0.1) for other in others)])
    sampler = samplers.make('near_best', space, seed=0, exploit=1.0, incumbents=1)
    assert draw(sampler, study, 100) == space.to_params(last)
    study.add_trial(trial(space, last, value=0.1))
    assert draw(sampler, study, 101)['branch0.op'] in OP_NAMES


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'exploit': 1.5}, r'exploit is 1\.5; it is a probability, 0\.\.1'),
        ({'exploit': -0.1}, r'exploit is -0\.1'),
        ({'incumbents': 0}, 'incumbents is 0; allowed: 1 or more'),
        ({'neighbourhood': 'near'}, "neighbourhood 'near' is not known; allowed: adjacent, any"),
        ({'temperature': 1}, "sampler near_best has no setting 'temperature'; allowed: exploit, incumbents, neighbour"),
    ],
)
def test_faults_of_settings_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        samplers.make('near_best', Space(5), seed=0, **settings)


# ---- evolution -----------------------------------------------------------------------------------------------------


def is_child(params: dict[str, object], parent: dict[str, object]) -> bool:
    """Whether one gene differs, by hand: another input, another kind, or one rate or grid by any number of steps."""
    differing = [name for name in params if params[name] != parent[name]]
    if len(differing) != 1:
        return False
    if differing[0].endswith('input'):
        return True
    here, there = (OPS[OP_NAMES.index(p[differing[0]])] for p in (params, parent))
    if here.kind != there.kind:
        return True
    return sum(a != b for a, b in zip(here.rate or here.grid, there.rate or there.grid, strict=True)) == 1


def parents(drawn: list[dict[str, object]], living: list[dict[str, object]]) -> collections.Counter[int]:
    """How many of `drawn` are children of each of the `living`; each is a child of exactly one."""
    places = [[place for place, parent in enumerate(living) if is_child(params, parent)] for params in drawn]
    assert {len(found) for found in places} == {1}
    return collections.Counter(found[0] for found in places)


def evolve(study: optuna.Study, space: Space, count: int = 30, seed: int = 2, **settings) -> list[dict[str, object]]:
    sampler = samplers.make('evolution', space, seed=seed, **settings)
    return [draw(sampler, study, 1000 + number) for number in range(count)]


@pytest.fixture(scope='module')
def aged() -> tuple[Space, list[Genotype], list[dict[str, object]]]:
    """Thirty cells, in order of age, and their parameters."""
    space = Space(5)
    genotypes = cells(space, 31)
    return space, genotypes, [dict(space.to_params(genotype)) for genotype in genotypes]


def test_the_best_ever_is_no_parent_once_it_is_too_old(aged):
    space, genotypes, params = aged
    study = memory(space, [(genotype, 0.9 - 0.01 * age) for age, genotype in enumerate(genotypes[:30])])
    assert parents(evolve(study, space, population=10, sample=10), params) == {20: 30}
    assert parents(evolve(study, space, population=11, sample=11), params) == {19: 30}
    assert parents(evolve(study, space, population=30, sample=30), params) == {0: 30}
    study.add_trial(trial(space, genotypes[30], value=0.1))
    assert parents(evolve(study, space, population=10, sample=10), params) == {21: 30}


@pytest.mark.parametrize('sample', [1, 3, 10])
def test_the_parent_is_the_best_of_a_tournament_without_replacement(aged, sample):
    space, genotypes, params = aged
    scores = np.random.default_rng(0).permutation(30) / 30
    study = memory(space, list(zip(genotypes[:30], scores, strict=True)))
    best_first = sorted(range(20, 30), key=lambda age: -scores[age])
    drawn = evolve(study, space, count=300, population=10, sample=sample)
    found = parents(drawn, [params[age] for age in best_first])
    # The parent has rank r if it is drawn with sample - 1 of the 10 - r that are worse.
    shares = [math.comb(10 - rank, sample - 1) / math.comb(10, sample) for rank in range(1, 11)]
    expected = [300 * share for share in shares]
    statistic = sum((found[rank] - mean) ** 2 / mean for rank, mean in enumerate(expected) if mean)
    assert statistic <= chi_square([1] * sum(mean > 0 for mean in expected))[1]
    assert all(found[rank] == 0 for rank, mean in enumerate(expected) if not mean)


def test_a_gene_and_then_its_value_are_drawn_uniformly(aged):
    space, genotypes, _ = aged
    study = memory(space, [(genotypes[0], 0.5)])
    sampler = samplers.make('evolution', space, seed=1, population=1, sample=1)
    drawn = [draw(sampler, study, number) for number in range(1, 501)]
    neighbours = {
        tuple(space.to_params(other).values()): (gene, place)
        for gene, others in space.neighbours_by_gene(genotypes[0], 'any').items()
        for place, other in enumerate(others)
    }
    found = [neighbours[tuple(p.values())] for p in drawn]
    counts = collections.Counter(gene for gene, _ in found)
    assert counts.keys() == space.neighbours_by_gene(genotypes[0], 'any').keys()
    statistic, bound = chi_square(list(counts.values()))
    assert statistic <= bound
    values = collections.Counter(place for gene, place in found if gene == 'branch4.input')
    assert chi_square([values[place] for place in range(4)])[0] <= chi_square([1] * 4)[1]


def test_failed_and_pruned_candidates_age_like_others_and_rank_last(aged):
    space, genotypes, params = aged
    study = memory(space, [(genotype, 0.5) for genotype in genotypes[:20]])
    for genotype in genotypes[20:23]:
        study.add_trial(trial(space, genotype, state=TrialState.FAIL))
    study.add_trial(trial(space, genotypes[23], state=TrialState.PRUNED, intermediate_values={0: 0.9}, value=0.9))
    for genotype in genotypes[24:27]:
        study.add_trial(trial(space, genotype, state=TrialState.FAIL))
    assert set(parents(evolve(study, space, population=8, sample=8), params)) == {19}
    assert set(parents(evolve(study, space, population=7, sample=7), params)) == {23}
    assert set(parents(evolve(study, space, population=3, sample=1), params)) == {24, 25, 26}
    assert set(parents(evolve(study, space, population=10, sample=10), params)) == {17, 18, 19}, 'equals share'


def test_references_duplicates_and_what_still_runs_take_no_part(aged):
    space, genotypes, _ = aged
    plain, crowded = memory(space, []), memory(space, [])
    crowd = iter(cells(space, 60, seed=8))
    for age, genotype in enumerate(genotypes):
        for study in (plain, crowded):
            study.add_trial(trial(space, genotype, value=0.01 * age))
        others = {
            'a reference': {'value': 0.99, 'user_attrs': {'key': f'F{age}', 'reference': 'aspp'}},
            'a failed reference': {'state': TrialState.FAIL, 'user_attrs': {'key': f'G{age}', 'reference': 'dpc'}},
            'a running one': {'state': TrialState.RUNNING},
        }
        crowded.add_trial(trial(space, next(crowd), **others[list(others)[age % 3]]))
        known = {'key': space.canonical_key(genotype), 'reference': '', 'duplicate_of': 0}
        crowded.add_trial(trial(space, genotype, state=TrialState.FAIL, user_attrs=known))
        crowded.add_trial(create_trial(value=0.9))  # somebody's
    settings = {'population': 10, 'sample': 3}
    assert evolve(plain, space, **settings) == evolve(crowded, space, **settings)


def test_evolution_is_uniform_until_so_many_as_the_population_have_scores(aged):
    space, genotypes, params = aged
    study = memory(space, [(genotype, 0.5) for genotype in genotypes[:9]])
    for genotype in genotypes[9:14]:
        study.add_trial(trial(space, genotype, state=TrialState.FAIL))
    uniform = samplers.make('uniform', space, seed=2)
    expected = [draw(uniform, study, 1000 + number) for number in range(30)]
    assert evolve(study, space, population=10, sample=3) == expected
    study.add_trial(trial(space, genotypes[14], value=0.1))
    assert parents(evolve(study, space, population=10, sample=3), params[5:15]).total() == 30


def test_evolution_goes_down_where_down_is_good(aged):
    space, genotypes, params = aged
    study = memory(space, [(genotype, 0.1 * age) for age, genotype in enumerate(genotypes[:5])], direction='minimize')
    assert parents(evolve(study, space, population=4, sample=4), params) == {1: 30}


def test_where_all_children_are_known_evolution_draws_uniformly():
    space = Space(2)
    best = cells(space, 1)[0]
    study = memory(space, [(other, 0.1) for other in space.neighbours(best, 'any')])
    study.add_trial(trial(space, best, value=0.9))
    settings = {'population': 1, 'sample': 1}
    known = {other.user_attrs['key'] for other in study.trials}
    found = {space.canonical_key(space.from_params(params)) for params in evolve(study, space, **settings)}
    assert len(found) > 25
    assert not found & known


@pytest.mark.parametrize('space', [SummingSpace(), toy.Space()], ids=['sums', 'three cells'])
def test_evolution_works_on_any_space(space):
    def objective(trial: optuna.Trial) -> float:
        params = {name: trial.suggest_categorical(name, values) for name, values in space.choices().items()}
        key = space.canonical_key(space.from_params(params))
        trial.set_user_attr('key', key)
        trial.set_user_attr('reference', '')
        return float(len(key))

    count = min(12, space.size)
    sampler = samplers.make('evolution', space, seed=0, population=2, sample=2)
    study = optuna.create_study(direction='maximize', sampler=sampler)
    study.optimize(objective, n_trials=count)
    found = [space.from_params(trial.params) for trial in study.trials]
    keys = [space.canonical_key(genotype) for genotype in found]
    assert len(set(keys)) == count
    for age in range(2, count):
        living = sorted(range(age - 2, age), key=lambda place: -len(keys[place]))
        if len(keys[living[0]]) > len(keys[living[1]]):
            around = space.neighbours_by_gene(found[living[0]], 'any').values()
            assert keys[age] in {space.canonical_key(other) for group in around for other in group}


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'population': 0}, 'population is 0; allowed: 1 or more'),
        ({'population': 8, 'sample': 9}, 'sample is 9; allowed: 1 to 8, the population'),
        ({'sample': 0}, 'sample is 0; allowed: 1 to 100, the population'),
        ({'mutation': 1}, "sampler evolution has no setting 'mutation'; allowed: population, sample"),
    ],
)
def test_faults_of_the_settings_of_evolution_are_named(settings, message):
    with pytest.raises(InputError, match=message) as error:
        samplers.make('evolution', Space(5), seed=0, **settings)
    assert '\n' not in str(error.value)


# ---- several objectives ----------------------------------------------------------------------------------------------


def test_with_costs_the_score_decides_and_costs_decide_between_equals(aged):
    space, genotypes, params = aged
    study = optuna.create_study(directions=['maximize', 'minimize'])
    for age, values in enumerate([(0.5, 1.0), (0.9, 7.0), (0.9, 6.0), (0.9, 8.0), (0.1, 0.0)]):
        study.add_trial(trial(space, genotypes[age], values=values))
    assert parents(evolve(study, space, population=5, sample=5), params) == {2: 30}
    sampler = samplers.make('near_best', space, seed=2, exploit=1.0, incumbents=1)
    assert all(is_near(draw(sampler, study, number), params[2]) for number in range(100, 120))


@pytest.mark.parametrize('name', ['uniform', 'near_best', 'evolution', 'optuna.NSGAIISampler', 'optuna.TPESampler'])
def test_a_strategy_that_takes_two_objectives_is_let_pass(name):
    samplers.check_objectives(samplers.make(name, Space(2), seed=0), Space(2), 2)


def test_a_strategy_that_does_not_is_refused_in_one_line():
    class Single(optuna.samplers.RandomSampler):
        def infer_relative_search_space(self, study, trial):
            raise ValueError('only one objective')

    with pytest.raises(InputError, match=r'search\.sampler does not take 3 objectives: only one objective'):
        samplers.check_objectives(Single(), Space(2), 3)


# ---- every strategy ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', STRATEGIES)
def test_a_strategy_is_an_ordinary_sampler(name):
    space = Space(2)

    def objective(trial: optuna.Trial) -> float:
        params = {name: trial.suggest_categorical(name, values) for name, values in space.choices().items()}
        space.validate(space.from_params(params))
        assert 0 <= trial.suggest_float('learning_rate', 0, 1) <= 1
        return float(np.mean(space.from_params(params).ops))

    runs = []
    for _ in range(2):
        sampler = samplers.make(name, space, seed=3, **STRATEGIES[name])
        study = optuna.create_study(direction='maximize', sampler=sampler)
        study.optimize(objective, n_trials=14)
        runs.append([trial.params for trial in study.trials])
    assert runs[0] == runs[1]
    assert len({params['learning_rate'] for params in runs[0]}) > 1
    if not name.startswith('optuna'):
        assert len({space.canonical_key(space.from_params(params)) for params in runs[0]}) == 14


@pytest.mark.parametrize('name', ['uniform', 'near_best', 'evolution'])
def test_a_draw_follows_from_seed_number_and_redraw(name, scored):
    space, study, _ = scored
    first, again, other = (samplers.make(name, space, seed=seed, **STRATEGIES[name]) for seed in (1, 1, 2))
    draw(first, study, 50)  # what was drawn before does not matter
    assert draw(first, study, 51) == draw(again, study, 51)
    different = [draw(first, study, 51), draw(first, study, 52), draw(first, study, 51, 1), draw(other, study, 51)]
    assert len({tuple(params.values()) for params in different}) == 4


def test_a_sampler_of_optuna_is_that_sampler_with_a_seed_for_the_trial():
    space = Space(3)
    study = memory(space, [(genotype, place / 40) for place, genotype in enumerate(cells(space, 40))])
    ours = samplers.make('optuna.TPESampler', space, seed=1, n_startup_trials=5)
    draft = create_trial(state=TrialState.RUNNING)
    draft.number = 40
    seed = int(samplers.generator(1, draft).integers(2**31))
    theirs = optuna.samplers.TPESampler(seed=seed, n_startup_trials=5)
    for name, distribution in distributions(space).items():
        found = ours.sample_independent(study, draft, name, distribution)
        assert found == theirs.sample_independent(study, draft, name, distribution)


def test_the_first_of_a_generation_draws_what_it_would_draw_from_parents_that_are_kept():
    space, kept = Space(3), []
    for warm in (False, True):
        sampler = samplers.make('optuna.NSGAIISampler', space, seed=1, population_size=4)
        study = optuna.create_study(directions=['maximize', 'minimize'], sampler=sampler)
        for number in range(8):
            trial = study.ask(distributions(space))
            study.tell(trial, [float((number * 7) % 9), float((number * 4) % 9)])
        if warm:  # as a worker leaves it that is killed before it has written what it drew
            parents = samplers.OptunaSampler._of(sampler, study.trials[-1]).get_parent_population(study, 2)
            assert [parent.number for parent in parents] != sorted(parent.number for parent in parents), 'too simple'
        for _ in range(3):
            trial = study.ask(distributions(space))
        kept.append([trial.params for trial in study.trials[-3:]])
    assert kept[0] == kept[1]


def test_samplers_of_optuna_are_made_with_their_settings():
    space = Space(1)
    samplers.make('optuna.TPESampler', space, seed=0, multivariate=True)  # experimental there, and no warning here
    grid = samplers.make('optuna.GridSampler', space, seed=0, search_space={'branch0.op': list(OP_NAMES)})
    study = optuna.create_study(sampler=grid)
    study.optimize(lambda trial: OP_NAMES.index(trial.suggest_categorical('branch0.op', OP_NAMES)), n_trials=81)
    assert len({trial.params['branch0.op'] for trial in study.trials}) == 81
    with pytest.raises(
        InputError, match=r"sampler optuna\.TPESampler cannot be made with {'temperature': 1}: .*unexpected"
    ):
        samplers.make('optuna.TPESampler', space, seed=0, temperature=1)


def test_an_unknown_strategy_is_named_with_all_that_are_known():
    known = r'controller, evolution, near_best, uniform, .*optuna\.RandomSampler.*optuna\.TPE'
    message = rf"sampler 'best' is not known; allowed: {known}"
    with pytest.raises(InputError, match=message) as raised:
        samplers.make('best', Space(5), seed=0)
    assert 'BaseSampler' not in str(raised.value)
