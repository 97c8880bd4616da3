"""The space of auxiliary-cell decoders: its size, files, keys, and what a genotype means (arXiv:1810.10804 §3)."""

import itertools
import json

import jax
import numpy as np
import pytest

from dpc_jax import spaces
from dpc_jax.base import InputError, unstack
from dpc_jax.spaces import aux_cells
from dpc_jax.spaces.aux_cells import GENES, OPS, Space, flat, make_genotype

SPACE = Space()
ARCH0 = SPACE.named('arch0')
FLAT0 = [8, 0, 0, 5, 2, 0, 2, 8, 8, 0, 5, 1, 4, 3, 3, 3, 2, 3, 0]
SIZES = ((128, 128), (64, 64), (32, 32), (16, 16))
CHANNELS = (24, 32, 96, 320)


def drawn(count, seed=0):
    return unstack(SPACE.sample(jax.random.key(seed), count))


def test_the_size_is_exact():
    assert SPACE.size == 11**7 * (2 * 5 * 8) ** 2 * (4 * 5 * 6) ** 2 == 1_795_937_679_360_000
    cards = [11, 2, 2, 11, 11, 5, 5, 11, 11, 8, 8, 11, 11, 4, 4, 5, 5, 6, 6]
    assert [gene.choices for gene in GENES] == cards
    assert len({gene.name for gene in GENES}) == 19


def test_sampling_is_uniform_over_every_gene():
    numbers = np.array([flat(genotype) for genotype in drawn(4000)])
    for place, gene in enumerate(GENES):
        counts = np.bincount(numbers[:, place], minlength=gene.choices)
        assert len(counts) == gene.choices
        expected = 4000 / gene.choices
        assert (np.abs(counts - expected) < 5 * np.sqrt(expected)).all()
    one = SPACE.sample(jax.random.key(0))
    assert [np.shape(field) for field in one] == [(7,), (6,), (6,)]
    SPACE.validate(one)
    again = SPACE.sample(jax.random.key(0), 4000)
    assert [flat(genotype) for genotype in unstack(again)] == numbers.tolist()


@pytest.mark.parametrize('genotype', [*map(SPACE.named, SPACE.names), *drawn(20, seed=1)])
def test_every_form_of_file_is_read_back(genotype):
    numbers = flat(genotype)
    for text in (SPACE.to_json(genotype), json.dumps(numbers), json.dumps([0, *numbers])):
        assert flat(SPACE.from_json(text)) == numbers
    assert flat(SPACE.from_params(SPACE.to_params(genotype))) == numbers
    assert SPACE.to_params(genotype).items() >= {'op': OPS[numbers[0]].name, 'block1.map1': numbers[13]}.items()
    assert all(SPACE.to_params(genotype)[name] in values for name, values in SPACE.choices().items())
    assert spaces.find(genotype) == ('aux_cells', SPACE)


def test_the_authors_form_of_arch0():
    assert flat(ARCH0) == FLAT0
    assert SPACE.to_json(ARCH0) == '[[8, [0, 0, 5, 2], [0, 2, 8, 8], [0, 5, 1, 4]], [[3, 3], [3, 2], [3, 0]]]'


FAULTS = {
    '[[8, [0, 0, 5, 2], [0, 2, 8, 8], [0, 5, 1, 4]], [[3, 3], [3, 2]]]': 'the lists are not nested as those of a',
    '[8, 0, 0]': '3 numbers; a genotype of auxiliary cells has 19',
    json.dumps([1, *FLAT0]): 'the first of 20 numbers is 1; it is a dummy and always 0',
    json.dumps([11, *FLAT0[1:]]): r'op is 11; allowed: 0\.\.10 \(operators\)',
    json.dumps([8, 2, *FLAT0[2:]]): r'layer1\.position1 is 2; allowed: 0\.\.1 \(values of the cell before it\)',
    json.dumps([*FLAT0[:-1], 6]): r'block3\.map2 is 6; allowed: 0\.\.5 \(maps before it\)',
    json.dumps([*FLAT0[:-1], -1]): r'block3\.map2 is -1; allowed',
    json.dumps([*FLAT0[:-1], 1.5]): 'the lists are not nested',
    json.dumps([*FLAT0[:-1], True]): 'the lists are not nested',
    '{"op": 1}': 'it is no list; allowed',
    'arch0': 'it is not JSON',
}


@pytest.mark.parametrize(('text', 'message'), FAULTS.items(), ids=range(len(FAULTS)))
def test_what_is_no_genotype_is_refused_in_one_line(text, message, fault):
    line = fault(lambda: SPACE.from_json(text, 'cell.json'))
    assert line.startswith('cell.json: ')
    with pytest.raises(InputError, match=message):
        SPACE.from_json(text, 'cell.json')


def test_arrays_are_checked_too():
    with pytest.raises(InputError, match=r'^genotype\.ops has shape \(6,\); allowed: \(7,\)$'):
        SPACE.validate(ARCH0._replace(ops=ARCH0.ops[:6]))
    with pytest.raises(InputError, match=r'^genotype\.positions has dtype int64; allowed: int32$'):
        SPACE.validate(ARCH0._replace(positions=ARCH0.positions.astype(np.int64)))
    with pytest.raises(InputError, match=r'^layer2\.position2 is 5; allowed: 0\.\.4'):
        SPACE.validate(ARCH0._replace(positions=np.array([0, 0, 0, 5, 0, 0], np.int32)))
    with pytest.raises(InputError, match=r"^no decoder is named 'arch3'; allowed: arch0, arch1, arch2$"):
        SPACE.named('arch3')
    with pytest.raises(InputError, match=r"^neighbourhood 'far' is not known; allowed: adjacent, any$"):
        SPACE.neighbours_by_gene(ARCH0, 'far')


def test_neighbours_differ_in_the_gene_that_they_are_listed_under():
    groups = SPACE.neighbours_by_gene(ARCH0)
    assert list(groups) == [gene.name for gene in GENES]
    assert sum(map(len, groups.values())) == sum(gene.choices - 1 for gene in GENES)
    for place, others in enumerate(groups.values()):
        for other in others:
            SPACE.validate(other)
            assert [i for i, (a, b) in enumerate(zip(flat(other), FLAT0, strict=True)) if a != b] == [place]


# ---- what a genotype means ------------------------------------------------------------------------------------------

EXPRESSIONS = {
    'arch0': 's5d6(x) + [s3(x)+c3d3(x)] + [s5d6(x)+s5d6(c3d3(x))] + [c3(x)+gap(s5d6(x))]',
    'arch1': '[s5(s3(x))+c3d12(x)] + [s3(x)+s5d6(s3(x))] + [c3d12(s5(s3(x)))+c3(x)]',
    'arch2': 'c3d3(x) + [gap(x)+c3(x)] + [c1(c3(x))+c3(gap(x))] + [c3d3(c1(c3(x)))+c1(c3(gap(x)))]',
}


@pytest.mark.parametrize(
    ('name', 'levels', 'loose', 'collected'),
    [
        ('arch0', (0, 1, 2, 3, 3, 2, 0), (0, 1, 2), (1, 4, 7, 10)),
        ('arch1', (0, 1, 2, 3, 2, 1, 2), (1, 2), (4, 7, 10)),
        ('arch2', (0, 1, 2, 3, 1, 1, 2), (1, 2), (1, 4, 7, 10)),
    ],
)
def test_the_papers_decoders_are_read_as_the_paper_draws_them(name, levels, loose, collected):
    genotype = SPACE.named(name)
    assert aux_cells.levels(genotype) == levels
    assert aux_cells.loose(genotype) == loose
    assert aux_cells.collected(genotype) == collected
    assert terms_of(genotype) == sorted(EXPRESSIONS[name].replace('[', '').replace(']', '').replace(' ', '').split('+'))


def terms_of(genotype):
    """All that is added up at the end of a cell, as text; sums that are read would have a + inside."""
    terms = aux_cells.wire_cell(
        genotype,
        ['x'],
        lambda number, slot, x: [f'{OPS[slot.op].short}({"+".join(x)})'],
        lambda a, b: [*a, *b],
    )
    return sorted(terms)


def test_a_random_decoder_ends_in_one_to_three_blocks_and_a_cell_in_its_last_sum():
    for genotype in drawn(200):
        assert aux_cells.loose(genotype)[-1] == 2
        assert aux_cells.collected(genotype)[-1] == 10


# ---- keys -----------------------------------------------------------------------------------------------------------


def linear(genotype, weights):
    """The decoder as a function in which every operator is a number: equal functions give equal numbers.

    An operator is its own number times the value it reads plus one, whatever its place: what remains is the wiring.
    """

    def operate(number, slot, x):
        return round(weights[slot.op] * (x * x + 1), 12)

    def block(number, one, other):
        return cell(one) + cell(other)

    def cell(x):
        return aux_cells.wire_cell(genotype, x, operate, lambda a, b: a + b)

    blocks = aux_cells.wire_decoder(genotype, [0.1, 0.2, 0.3, 0.4], block)
    return tuple(sorted(round(blocks[number], 9) for number in aux_cells.loose(genotype)))


def test_the_order_of_what_is_added_up_is_not_in_the_key():
    swapped = make_genotype([8, 0, 0, 2, 5, 3, 0, 8, 8, 6, 0, 4, 1, 3, 3, 2, 3, 0, 3])  # 2 is called 3 then, and 5 is 6
    assert SPACE.canonical_key(swapped) == SPACE.canonical_key(ARCH0)
    assert SPACE.canonical_key(ARCH0) == 's5d6|0s3+0c3d3|0s5d6+3s5d6|0c3+5gap@23,33,03'


def test_the_first_two_blocks_change_places_only_if_the_second_does_not_read_the_first():
    cell = FLAT0[:13]
    apart = make_genotype([*cell, 3, 2, 1, 0, 4, 2])
    changed = make_genotype([*cell, 1, 0, 3, 2, 2, 5])
    assert SPACE.canonical_key(apart) == SPACE.canonical_key(changed)
    bound = make_genotype([*cell, 3, 2, 4, 0, 4, 2])
    assert SPACE.canonical_key(bound) != SPACE.canonical_key(make_genotype([*cell, 0, 3, 3, 2, 5, 2]))


def test_equal_keys_are_equal_functions():
    """Against numbers that only the wiring decides."""
    weights = np.random.default_rng(0).uniform(0.3, 0.6, len(OPS))
    by_key = {}
    cells = [
        [1, a, b, 1, o, c, d, o, 2, e, 4, 1, 2]
        for a, b, c, d, e in itertools.product((0, 1), (0, 1), (0, 2, 3), (1, 3, 4), (5, 6))
        for o in (1, 2)
    ]
    maps = [[0, 1, 1, 0, 4, 5], [1, 0, 0, 1, 5, 4], [0, 1, 2, 4, 5, 5], [2, 3, 0, 1, 4, 1], [0, 1, 3, 2, 1, 5]]
    for numbers in (cell + pairs for cell in cells for pairs in maps):
        genotype = make_genotype(numbers)
        by_key.setdefault(SPACE.canonical_key(genotype), set()).add(linear(genotype, weights))
    assert all(len(values) == 1 for values in by_key.values())
    assert len(by_key) < len(cells) * len(maps)


def test_there_are_3150_sets_of_connections_up_to_the_order_of_pairs_before_blocks_change_places():
    cell = FLAT0[:13]
    keys = {
        SPACE.canonical_key(make_genotype([*cell, *maps]))
        for maps in itertools.product(range(4), range(4), range(5), range(5), range(6), range(6))
    }
    # Of the 10 x 15 x 21 sets, those whose second block reads no block (10 x 10 x 21) come in pairs, but for those
    # that are their own partner: equal pairs in both blocks, and 4 and 5 both or neither read by the last.
    own = 10 * (1 + 10)
    assert len(keys) == 10 * 15 * 21 - (10 * 10 * 21 - own) // 2


# ---- cost -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('name', 'final', 'search', 'macs'),  # parameters of encoder and decoder; macs of the whole network at 512
    [
        ('arch0', 2_629_909, 2_212_517, 4.208e9),
        ('arch1', 2_810_133, 2_316_197, 2.854e9),
        ('arch2', 2_853_141, 2_407_205, 3.373e9),
    ],
)
def test_costs_are_those_of_the_paper(name, final, search, macs):
    encoder_params, encoder_macs = 1_812_800, 1.526956e9
    for filters, repeats, params in ((64, 2, final), (48, 1, search)):
        counts = aux_cells.count(
            SPACE.named(name), sizes=SIZES, channels=CHANNELS, filters=filters, classes=21, repeats=repeats
        )
        assert counts.params + encoder_params == params
        if repeats == 2:
            assert counts.macs + encoder_macs == pytest.approx(macs, rel=1e-3)


def test_costs_come_from_the_settings_of_a_study():
    shapes = zip((4, 8, 16, 32), SIZES, CHANNELS, strict=True)
    maps = {str(stride): [*size, channels] for stride, size, channels in shapes}
    settings = {'maps': maps, 'cell': {'filters': 48}, 'classes': 21}
    costs = SPACE.cost(ARCH0, settings)
    assert costs['params'] == 2_212_517 - 1_812_800
    assert SPACE.cost(ARCH0, {'maps': {}, 'cell': {'filters': 48}, 'classes': 21}) == {}
    assert SPACE.cost(ARCH0, {name: settings[name] for name in ('maps', 'cell')}) == {}
    assert SPACE.how_to_read(costs).startswith('Counted are adapters')
    assert SPACE.how_to_read({}).startswith('How to read')


def test_drawings_show_cell_and_decoder():
    cell, decoder = SPACE.graph(ARCH0), SPACE.further_graphs(ARCH0)['decoder']
    assert len(cell.nodes) == 10
    assert cell.outputs == (0, 3, 6, 9)
    assert cell.nodes[3].lines == ('sum',)
    assert cell.nodes[3].reads == (1, 2)
    assert [node.reads for node in decoder.nodes[4:]] == [(3, 3), (3, 2), (3, 0)]
    assert decoder.outputs == (4, 5, 6)
    numbers = [number for group in SPACE.operator_groups() for number in group.operators]
    assert sorted(numbers) == list(range(11))
    assert SPACE.operators_of(ARCH0) == {8, 5, 2, 1, 4}
