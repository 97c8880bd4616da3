"""A second system moves in without a line changed in `dpc_jax`: three cells on two strides, with a head of their own.

`tests/menus` holds one file for each menu; the test shows the menus that folder too.
"""

import csv
import pathlib

import jax
import numpy as np
import pytest

import dpc_jax
from configs import scenes, scenes_search
from dpc_jax import bench, contexts, heads, spaces
from dpc_jax.base import ProxyResult, Rung, population_size, stack
from dpc_jax.journeys import search, train

pytestmark = pytest.mark.usefixtures('quick_compilation')

MENUS = pathlib.Path(__file__).parent / 'menus'
CELLS = ('fine', 'coarse', 'both')


@pytest.fixture(autouse=True, scope='module')
def second_system():
    patch = pytest.MonkeyPatch()
    for menu in (spaces, heads, contexts):
        patch.setattr(menu, '__path__', [*menu.__path__, str(MENUS / menu.__name__.rpartition('.')[2])])
    yield
    patch.undo()


def config_of_search(**fields):
    config = scenes_search.get_config('toy')
    config.space.name = 'toy'  # num_branches stays: it is of the other space
    config.search.references = ('both',)
    config.update_from_flattened_dict(fields)
    return config


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
    return tmp_path_factory.mktemp('seams')


@pytest.fixture(scope='module')
def searched(workdir):
    return search.run(config_of_search(), workdir)


def test_the_menus_show_it():
    assert spaces.names() == ('aux_cells', 'dpc', 'toy')
    space = spaces.make({'name': 'toy'})
    assert isinstance(space, spaces.Space)
    assert isinstance(heads.make(config_of_search(), 3), heads.Head)
    assert spaces.find(space.named('fine'))[0] == 'toy'


def test_the_whole_space_is_searched(searched, workdir):
    assert sorted(c.key for c in searched if not c.reference) == sorted(CELLS)
    assert all(c.state == 'complete' and len(c.confusions) == 2 for c in searched)
    with (workdir / 'report/ranking.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert {row['genotype'] for row in rows} == {'"fine"', '"coarse"', '"both"'}
    assert {(row['params'], row['macs']) for row in rows} == {('4', '40'), ('8', '80')}
    text = (workdir / 'report/report.md').read_text()
    assert 'A cell is called by what it reads.' in text
    for picture in ('cells.png', 'operators.png', 'cost.png', 'progress.png'):
        assert (workdir / 'report' / picture).stat().st_size > 1000


def test_features_of_both_strides_are_cached(searched, workdir):
    data = bench.prepare(config_of_search(), workdir).data
    assert {stride: array.shape[1:3] for stride, array in data.train_features.items()} == {8: (9, 13), 16: (5, 7)}


def test_scores_do_not_depend_on_company_and_differ_between_cells(searched, workdir):
    prepared = bench.prepare(config_of_search(), workdir)
    evaluate = prepared.evaluator()
    losses = {c.key: c.losses for c in searched if not c.reference}
    assert len(set(losses.values())) == 3
    for candidate in searched:
        alone = evaluate(stack([candidate.genotype]))
        np.testing.assert_array_equal(alone.losses[0], np.float32(candidate.losses))


def test_the_auxiliary_loss_is_added_with_its_weight(searched, workdir):
    """Before the first update the loss is main + 0.4 * auxiliary, so it is linear in the weight."""
    import dataclasses

    prepared = bench.prepare(config_of_search(), workdir)
    first = {}
    for weight in (0.0, 0.4, 0.8):
        evaluator = prepared.evaluator(steps=2)
        head = dataclasses.replace(evaluator.settings.head, auxiliary_weight=weight)
        settings = dataclasses.replace(evaluator.settings, head=head, steps=1, evaluations=1)
        first[weight] = float(
            dataclasses.replace(evaluator, settings=settings)(stack([searched[0].genotype])).losses[0, 0]
        )
    assert first[0.4] - first[0.0] > 0.1
    assert first[0.8] - first[0.0] == pytest.approx(2 * (first[0.4] - first[0.0]), rel=1e-4)


def test_a_ladder_of_ones_own(workdir):
    """Rungs are given by a function: nothing of the loop knows what an evaluator is."""
    asked = []

    def score(genotypes, keep_going=None):
        count = population_size(genotypes)
        asked.append(count)
        scores = np.asarray(genotypes.reads[:, 0], np.float32) / 4
        curves, steps = scores[:, None], np.full(count, 7, np.int32)
        flags = np.zeros(count, bool)
        confusions = np.zeros((count, 1, 2, 2), np.int64)
        extras = {'reward': 1 - scores}
        return ProxyResult(scores, curves, curves, ~flags, flags, steps, 1.0, confusions, extras)

    def rungs(prepared):
        return [Rung('cheap', score, 3, 2), Rung('dear', score, 1, 1)]

    config = config_of_search(**{'search.study': 'own', 'search.references': ()})
    results = search.run(config, workdir, make_rungs=rungs)
    assert [c.key for c in results if c.rung == 'dear'] == ['both']
    assert max(asked) == 2
    assert {c.extras['reward'] for c in results if c.rung == 'cheap'} == {1.0, 0.75, 0.5}


def test_given_cells_are_evaluated(searched, workdir):
    prepared = bench.prepare(config_of_search(), workdir)
    result = prepared.evaluate(prepared.space.sample(jax.random.key(0), 6))
    assert len(result.rows) == 6
    assert set(result.scores().ravel()) <= {c.score for c in searched}


@pytest.mark.slow
def test_a_network_with_it_is_trained_and_predicts(tmp_path):
    config = scenes.get_config('toy')
    genotype = spaces.make({'name': 'toy'}).named('both')
    evaluation = dpc_jax.train(config, tmp_path / 'net', genotype=genotype)
    assert 0 <= evaluation.row['miou'] <= 1
    assert (evaluation.row['config']['context']['name'], evaluation.row['config']['context']['genotype']) == (
        'toy',
        '"both"',
    )
    network = dpc_jax.load_network(config, tmp_path / 'net/weights', genotype=genotype)
    assert set(network.variables['params']) == {'backbone', 'context', 'auxiliary', 'logits'}
    assert dpc_jax.predict(network, np.zeros((70, 90, 3), np.uint8)).shape == (70, 90)
    again = train.run(dpc_jax.api.with_genotype(config, genotype), tmp_path / 'net')
    assert again.row['miou'] == evaluation.row['miou']
