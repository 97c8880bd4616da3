"""The search space: its size, its draws, its neighbours, the faults it names, its keys and its files."""

import collections
import itertools
import json

import jax
import numpy as np
import pytest

from dpc_jax import spaces
from dpc_jax.base import FEATURES, InputError
from dpc_jax.palette import PAIRS
from dpc_jax.spaces import dpc
from dpc_jax.spaces.dpc import OPS, Genotype, Space

# dense_prediction_cell_branch5_top1_cityscapes.json, in the order of keys of the official release.
RELEASED = """[
{"kernel": 3, "rate": [1, 6], "op": "conv", "input": -1},
{"kernel": 3, "rate": [18, 15], "op": "conv", "input": 0},
{"kernel": 3, "rate": [6, 3], "op": "conv", "input": 1},
{"kernel": 3, "rate": [1, 1], "op": "conv", "input": 0},
{"kernel": 3, "rate": [6, 21], "op": "conv", "input": 0}]"""


def cell(*branches: tuple[int, str]) -> Genotype:
    """A genotype from (input, name of the op) of each branch."""
    inputs, names = zip(*branches, strict=True)
    return Genotype(np.array(inputs, np.int32), np.array([dpc.OP_NAMES.index(name) for name in names], np.int32))


def rows(genotype: Genotype) -> tuple[tuple[int, int], ...]:
    return tuple(zip(genotype.inputs.tolist(), genotype.ops.tolist(), strict=True))


def random_cells(num_branches: int, count: int, seed: int = 0) -> list[Genotype]:
    population = Space(num_branches).sample(jax.random.key(seed), count)
    return [Genotype(*row) for row in zip(population.inputs, population.ops, strict=True)]


def permuted(genotype: Genotype, order: list[int]) -> Genotype:
    """Branch order[i] becomes branch i; the inputs follow."""
    place = {FEATURES: FEATURES} | {old: new for new, old in enumerate(order)}
    inputs = [place[int(genotype.inputs[old])] for old in order]
    return Genotype(np.array(inputs, np.int32), genotype.ops[order])


# ---- size and operators ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('num_branches', 'size'),
    [  # the paper gives K = 5; the others are products by hand: 1*81, 2*81*81, ...
        (1, 81),
        (2, 13_122),
        (3, 3_188_646),
        (4, 1_033_121_304),
        (5, 418_414_128_120),
        (6, 203_349_266_266_320),
        (7, 115_299_033_973_003_440),
        (8, 74_713_774_014_506_229_120),
    ],
)
def test_size_is_exact(num_branches, size):
    assert Space(num_branches).size == size


def test_a_cell_has_a_branch():
    with pytest.raises(InputError, match='num_branches is 0; a cell has at least 1 branch'):
        Space(0)


def test_there_are_81_operators_1_64_and_16():
    assert len(OPS) == len(set(OPS)) == 81
    assert collections.Counter(op.kind for op in OPS) == {'conv1x1': 1, 'separable': 64, 'pooling': 16}
    assert {op.rate for op in OPS if op.kind == 'separable'} == set(
        itertools.product((1, 3, 6, 9, 12, 15, 18, 21), repeat=2)
    )
    assert {op.grid for op in OPS if op.kind == 'pooling'} == set(itertools.product((1, 2, 4, 8), repeat=2))


def test_the_arrays_say_what_the_table_says():
    for index, op in enumerate(OPS):
        assert dpc.KINDS[dpc.KIND_OF_OP[index]] == op.kind
        assert tuple(dpc.RATE_OF_OP[index].tolist()) == (op.rate or (1, 1))
        assert tuple(dpc.GRIDS[g] for g in dpc.GRID_INDEX_OF_OP[index]) == (op.grid or (1, 1))
    assert (dpc.KINDS[dpc.CONV1X1], dpc.KINDS[dpc.SEPARABLE], dpc.KINDS[dpc.POOLING]) == dpc.KINDS


def test_names_of_operators_give_height_first():
    assert dpc.op_name(dpc.INDEX[dpc.Op('separable', rate=(6, 12))]) == 'sep 6x12'
    assert dpc.op_name(dpc.INDEX[dpc.Op('pooling', grid=(2, 4))]) == 'pool 2x4'
    assert dpc.op_name(0) == 'conv1x1'
    assert len(set(dpc.OP_NAMES)) == 81


# ---- sampling ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('num_branches', range(1, 9))
def test_samples_are_uniform(num_branches):
    # Chi-square per gene. With f degrees of freedom f + 2 sqrt(f t) + 2 t is exceeded with probability below exp(-t)
    # (Laurent and Massart 2000, lemma 1); t = 12.
    count = 8100
    population = Space(num_branches).sample(jax.random.key(num_branches), count)
    for branch in range(num_branches):
        for values, low, choices in ((population.inputs, FEATURES, branch + 1), (population.ops, 0, 81)):
            seen = np.bincount(values[:, branch] - low, minlength=choices)
            assert len(seen) == choices
            freedom = choices - 1
            assert ((seen - count / choices) ** 2 / (count / choices)).sum() <= freedom + 2 * (12 * freedom) ** 0.5 + 24


def test_genes_are_drawn_independently():
    inputs, ops = Space(3).sample(jax.random.key(0), 20_000)
    table = np.zeros((3, 3))
    np.add.at(table, (inputs[:, 2] + 1, ops[:, 2] // 27), 1)
    assert np.abs(table / 20_000 - 1 / 9).max() < 0.01  # 4.5 standard deviations
    assert abs(np.corrcoef(ops[:, 0], ops[:, 1])[0, 1]) < 0.03


def test_one_sample_or_many_are_valid_int32_of_the_key_alone():
    space = Space(5)
    one = space.sample(jax.random.key(3))
    space.validate(one)
    assert rows(one) == rows(space.sample(jax.random.key(3))) != rows(space.sample(jax.random.key(4)))
    many = space.sample(jax.random.key(3), 7)
    assert many.inputs.shape == many.ops.shape == (7, 5)
    assert many.inputs.dtype == many.ops.dtype == np.int32


# ---- neighbours --------------------------------------------------------------------------------------------------


def genes(genotype: Genotype) -> list[tuple[object, ...]]:
    """Per branch: input, kind, and the numbers of its rate or grid."""
    parts = []
    for source, op in rows(genotype):
        parts.append((source, OPS[op].kind, *(OPS[op].rate or OPS[op].grid or ())))
    return parts


@pytest.mark.parametrize('reach', ['adjacent', 'any'])
def test_a_neighbour_differs_in_the_gene_that_is_named(reach):
    names = ('input', 'kind', 'height', 'width')
    for genotype in random_cells(5, 10):
        for gene, group in Space(5).neighbours_by_gene(genotype, reach).items():
            assert group
            branch, name = gene.removeprefix('branch').split('.')
            here = genes(genotype)
            for other in group:
                Space(5).validate(other)
                there = genes(other)
                assert [b for b in range(5) if here[b] != there[b]] == [int(branch)]
                old, new = here[int(branch)], there[int(branch)]
                if name == 'kind':  # a new kind brings its own arguments
                    assert old[0] == new[0]
                    assert old[1] != new[1]
                else:
                    differing = [names[at] for at, (a, b) in enumerate(zip(old, new, strict=True)) if a != b]
                    assert differing == [name.split('_')[-1]]


@pytest.mark.parametrize('reach', ['adjacent', 'any'])
def test_neighbours_are_mutual_and_without_repeats(reach):
    space = Space(4)
    for genotype in random_cells(4, 6):
        around = space.neighbours(genotype, reach)
        assert len({rows(other) for other in around}) == len(around)
        for other in around[:: len(around) // 40]:
            assert rows(genotype) in {rows(back) for back in space.neighbours(other, reach)}


def test_adjacent_neighbours_are_among_any():
    for genotype in random_cells(5, 20):
        adjacent, reachable = (set(map(rows, Space(5).neighbours(genotype, reach))) for reach in ('adjacent', 'any'))
        assert adjacent < reachable


def test_neighbours_counted_by_hand():
    #   F ── sep 1x6 ── pool 2x8        branch 0, 1
    #   F ── conv1x1                    branch 2
    genotype = cell((FEATURES, 'sep 1x6'), (0, 'pool 2x8'), (FEATURES, 'conv1x1'))
    counts = {
        reach: {gene: len(group) for gene, group in Space(3).neighbours_by_gene(genotype, reach).items()}
        for reach in ('adjacent', 'any')
    }
    same = {
        'branch0.kind': 1 + 16,  # no branch0.input: it may read the features only
        'branch1.input': 1,
        'branch1.kind': 1 + 64,
        'branch2.input': 2,
        'branch2.kind': 64 + 16,  # a 1x1 convolution has no rate
    }
    assert counts['any'] == same | {
        'branch0.rate_height': 7,
        'branch0.rate_width': 7,
        'branch1.grid_height': 3,
        'branch1.grid_width': 3,
    }
    assert counts['adjacent'] == same | {
        'branch0.rate_height': 1,  # 1 is the smallest
        'branch0.rate_width': 2,  # 3 and 9
        'branch1.grid_height': 2,  # 1 and 4
        'branch1.grid_width': 1,  # 8 is the largest
    }
    widths = Space(3).neighbours_by_gene(genotype)['branch0.rate_width']
    assert [OPS[other.ops[0]].rate for other in widths] == [(1, 3), (1, 9)]


def test_an_unknown_neighbourhood_is_named():
    with pytest.raises(InputError, match="neighbourhood 'near' is not known; allowed: adjacent, any"):
        Space(5).neighbours(Space(5).named('aspp'), 'near')


# ---- validity ----------------------------------------------------------------------------------------------------


def test_faults_of_a_genotype_are_named():
    good = Space(3).sample(jax.random.key(0))
    faults = [
        (good._replace(inputs=good.inputs[:2]), r'genotype.inputs has shape \(2,\); a cell of this space has \(3,\)'),
        (good._replace(ops=good.ops[None]), r'genotype.ops has shape \(1, 3\)'),
        (good._replace(ops=good.ops.astype(np.int64)), 'genotype.ops has dtype int64; allowed: int32'),
        (good._replace(inputs=good.inputs.astype(np.int8)), 'genotype.inputs has dtype int8'),
        (
            good._replace(inputs=np.array([0, -1, -1], np.int32)),
            r'branch 0: input 0; it may read only the features \(-1\)',
        ),
        (
            good._replace(inputs=np.array([-1, -1, 2], np.int32)),
            r'branch 2: input 2; .* the features \(-1\) or a branch 0..1',
        ),
        (good._replace(inputs=np.array([-1, -2, 0], np.int32)), 'branch 1: input -2'),
        (good._replace(ops=np.array([0, 81, 0], np.int32)), 'branch 1: op index 81 is not in 0..80'),
        (good._replace(ops=np.array([0, 0, -1], np.int32)), 'branch 2: op index -1 is not in 0..80'),
    ]
    Space(3).validate(good)
    for genotype, message in faults:
        with pytest.raises(InputError, match=message):
            Space(3).validate(genotype)
        with pytest.raises(InputError, match=message):
            Space(3).to_json(genotype)


# ---- canonical keys ----------------------------------------------------------------------------------------------


def test_keys_are_equal_just_for_cells_that_differ_in_branch_order():
    # All 6 * 4^3 cells of three branches and four operators, each pair, against the permutations written out.
    space, names = Space(3), ('conv1x1', 'sep 1x6', 'sep 6x1', 'pool 1x1')
    cells = [
        cell((FEATURES, a), (i, b), (j, c))
        for i, j in itertools.product((-1, 0), (-1, 0, 1))
        for a, b, c in itertools.product(names, repeat=3)
    ]
    classes = collections.defaultdict(set)
    for genotype in cells:
        classes[space.canonical_key(genotype)].add(rows(genotype))
    for genotype in cells:
        orders = map(list, itertools.permutations(range(3)))
        reorderings = {rows(p) for p in (permuted(genotype, order) for order in orders) if _in_order(p)}
        assert classes[space.canonical_key(genotype)] == reorderings


def _in_order(genotype: Genotype) -> bool:
    return all(source < branch for branch, source in enumerate(genotype.inputs))


def test_reordered_branches_keep_the_key_and_a_neighbour_changes_it_or_is_a_reordering():
    space, rng = Space(5), np.random.default_rng(0)
    for genotype in random_cells(5, 40):
        key = space.canonical_key(genotype)
        for _ in range(20):
            other = permuted(genotype, rng.permutation(5).tolist())
            if _in_order(other):
                assert space.canonical_key(other) == key
        for other in space.neighbours(genotype)[::29]:
            same = any(rows(permuted(genotype, list(p))) == rows(other) for p in itertools.permutations(range(5)))
            assert (space.canonical_key(other) == key) == same


def test_the_key_of_the_released_cell_can_be_read():
    #   F ── s1x6 ─┬─ s18x15 ── s6x3
    #              ├─ s1x1
    #              └─ s6x21
    assert Space(5).canonical_key(Space(5).named('dpc_top1')) == 'F[s1x6[s18x15[s6x3],s1x1,s6x21]]'
    assert Space(2).canonical_key(cell((FEATURES, 'pool 2x4'), (FEATURES, 'conv1x1'))) == 'F[c1x1,p2x4]'


# ---- named cells and parameters ----------------------------------------------------------------------------------


def test_named_cells_are_those_of_the_paper():
    assert dpc.NAMED == ('dpc_top1', 'aspp', 'conv1x1')
    aspp = [(FEATURES, name) for name in ('conv1x1', 'sep 6x6', 'sep 12x12', 'sep 18x18', 'pool 1x1')]
    assert rows(Space(5).named('aspp')) == rows(cell(*aspp))
    assert rows(Space(7).named('aspp')) == rows(cell(*aspp, (FEATURES, 'conv1x1'), (FEATURES, 'conv1x1')))
    assert rows(Space(2).named('conv1x1')) == rows(cell((FEATURES, 'conv1x1'), (FEATURES, 'conv1x1')))
    for num_branches, name in itertools.product((5, 6, 8), dpc.NAMED):
        Space(num_branches).validate(Space(num_branches).named(name))


def test_faults_of_names_are_named():
    with pytest.raises(InputError, match="no cell is named 'top1'; allowed: dpc_top1, aspp, conv1x1"):
        Space(5).named('top1')
    with pytest.raises(InputError, match="cell 'aspp' has 5 branches; this space has 4"):
        Space(4).named('aspp')


def test_parameters_are_choices_and_come_back():
    for num_branches in (1, 5, 8):
        space = Space(num_branches)
        choices = space.choices()
        assert len(choices) == 2 * num_branches
        size = np.prod([len(values) for values in choices.values()], dtype=object)
        assert size == space.size
        for genotype in random_cells(num_branches, 20):
            params = space.to_params(genotype)
            assert list(params) == list(choices)
            assert all(value in choices[name] for name, value in params.items())
            assert rows(space.from_params({**params, 'learning_rate': 0.1})) == rows(genotype)
    assert Space(2).choices()['branch1.input'] == (-1, 0)


# ---- files -------------------------------------------------------------------------------------------------------


def test_the_released_cell_loads():
    assert rows(Space(5).from_json(RELEASED)) == rows(Space(5).named('dpc_top1'))
    assert rows(dpc.parse(RELEASED)) == rows(Space(5).named('dpc_top1'))


def test_cells_of_the_official_code_load_and_are_written_alike(shared):
    golden = json.loads(shared('golden/cell/dpc_golden.json').read_text())
    configs = {name: entry['config'] for name, entry in golden.items() if isinstance(entry, dict) and 'config' in entry}
    assert len(configs) >= 3
    for config in configs.values():
        space = Space(len(config))
        genotype = space.from_json(json.dumps(config))
        for branch, entry in enumerate(config):
            op = OPS[genotype.ops[branch]]
            assert genotype.inputs[branch] == max(entry['input'], -1)
            assert op.grid == (tuple(entry['grid_size']) if entry['op'] == 'pyramid_pooling' else None)
            assert op.rate == (tuple(entry['rate']) if entry['op'] == 'conv' and entry['kernel'] == 3 else None)
        written = json.loads(space.to_json(genotype))
        essential = ({key: entry[key] for key in mine} for entry, mine in zip(config, written, strict=True))
        assert written == list(essential)


def test_random_cells_come_back_from_files():
    for num_branches in (1, 5, 8):
        for genotype in random_cells(num_branches, 30):
            assert rows(Space(num_branches).from_json(Space(num_branches).to_json(genotype))) == rows(genotype)


def one(entry: dict[str, object] | str) -> str:
    return json.dumps([entry])


CONV = {'op': 'conv', 'kernel': 3, 'rate': [1, 6], 'input': -1}
POOL = {'op': 'pyramid_pooling', 'grid_size': [2, 4], 'input': -1}


@pytest.mark.parametrize(
    ('entry', 'name'),
    [
        ({'op': 'conv', 'kernel': 1, 'input': -1}, 'conv1x1'),
        ({'op': 'conv', 'kernel': [1, 1], 'rate': [1, 1], 'input': -1}, 'conv1x1'),
        ({'op': 'conv', 'kernel': [3, 3], 'rate': 6, 'input': -1}, 'sep 6x6'),
        (CONV, 'sep 1x6'),
        (CONV | {'input': -7}, 'sep 1x6'),
        (POOL, 'pool 2x4'),
        ({'op': 'pyramid_pooling', 'grid_size': 8, 'kernel': 1, 'target_size': [9, 9], 'input': -1}, 'pool 8x8'),
    ],
)
def test_spellings_that_the_official_parser_takes(entry, name):
    assert rows(Space(1).from_json(one(entry))) == rows(cell((FEATURES, name)))


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('[{"op": ', r'^file\.json: not JSON: '),
        ('{"op": "conv"}', r'^file\.json: found dict .*; expected a list of branches'),
        ('[]', r'found list \[\]; expected a list of branches'),
        ('["conv"]', "branch 0: found 'conv'; expected an object with the keys op and input"),
        (json.dumps([CONV, CONV]), r'^file\.json: 2 branches; allowed here: 1'),
        (one(CONV | {'op': 'max'}), "branch 0: op 'max'; allowed: 'conv', 'pyramid_pooling'"),
        (one(CONV | {'op': ['conv']}), r"branch 0: op \['conv'\]; allowed"),
        (one({'kernel': 3}), 'branch 0: op None; allowed'),
        (one({'op': 'conv', 'rate': 1, 'input': -1}), "key 'kernel' is missing"),
        (
            one({'op': 'conv', 'kernel': 3, 'input': -1}),
            "key 'rate' is missing; allowed values: .1, 3, 6, 9, 12, 15, 18, 21",
        ),
        (one({'op': 'pyramid_pooling', 'input': -1}), "key 'grid_size' is missing"),
        (one(CONV | {'kernel': 5}), r'kernel 5; allowed: \(1, 3\) for height and for width'),
        (one(CONV | {'kernel': [1, 3]}), r'kernel \[1, 3\]; allowed: 1 or 3, the same for height and width'),
        (one(CONV | {'kernel': True}), 'kernel True; allowed'),
        (one(CONV | {'rate': [1, 2]}), r'rate \[1, 2\]; allowed: \(1, 3, 6'),
        (one(CONV | {'rate': [1, 6, 6]}), r'rate \[1, 6, 6\]; allowed'),
        (one(CONV | {'rate': '6'}), "rate '6'; allowed"),
        (one(POOL | {'grid_size': [3, 1]}), r'grid_size \[3, 1\]; allowed: \(1, 2, 4, 8\)'),
        (one({'op': 'conv', 'kernel': 1}), r"^file\.json: branch 0: key 'input' is missing"),
        (one(CONV | {'input': 'F'}), "branch 0: input 'F'; expected an integer"),
        (one(CONV | {'input': False}), 'branch 0: input False; expected an integer'),
        (one(CONV | {'input': 0}), r'^file\.json: branch 0: input 0; it may read only the features'),
    ],
)
def test_faults_of_a_file_are_named(text, message):
    with pytest.raises(InputError, match=message) as raised:
        Space(1).from_json(text, 'file.json')
    assert '\n' not in str(raised.value)


# ---- what is shown -----------------------------------------------------------------------------------------------

SETTINGS = {'features': {'size': [23, 31], 'channels': 320}, 'cell': {'filters': 256, 'pooling': 'sliding'}}


def test_it_offers_all_that_the_project_asks_of_a_space():
    assert isinstance(Space(3), spaces.Space)
    assert [Space(5).named(name) is not None for name in Space(5).names] == [True] * 3


def test_costs_are_counted_under_the_settings_of_a_study():
    space = Space(3)
    params, macs = 3 * 320 * 256, 3 * 320 * 256 * 23 * 31
    costs = space.cost(space.named('conv1x1'), SETTINGS)
    assert costs == {
        'params': params,
        'macs': macs,
        'projection_params': 3 * 256 * 256,
        'projection_macs': 3 * 256 * 256 * 23 * 31,
    }
    assert 'the projection has 196.6 K and 140.2 M in every cell.' in space.how_to_read(costs)


@pytest.mark.parametrize('lacking', ['features', 'cell'])
def test_settings_that_do_not_say_what_is_counted_give_no_costs(lacking):
    settings = {name: value for name, value in SETTINGS.items() if name != lacking}
    assert Space(3).cost(Space(3).named('conv1x1'), settings) == {}
    assert Space(3).cost(Space(3).named('conv1x1'), SETTINGS | {lacking: {}}) == {}
    assert 'Counted' not in Space(3).how_to_read({})


def test_operators_of_all_groups_are_numbered_without_a_gap():
    groups = Space(3).operator_groups()
    assert sorted(operator for group in groups for operator in group.operators) == list(range(81))
    assert {group.colour for group in groups} <= PAIRS.keys()
