"""One program for every decoder of auxiliary cells is the Flax module: outputs, gradients, moving averages."""

import functools
import os
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpc_jax import ops
from dpc_jax.aux_decoder import Decoder, tape
from dpc_jax.aux_decoder.registers import Params, Shape, Stats
from dpc_jax.base import InputError, stack, unstack
from dpc_jax.decoder import Logits
from dpc_jax.heads.aux_cells import Head
from dpc_jax.spaces import aux_cells
from dpc_jax.spaces.aux_cells import OPS, STRIDES, Space

pytestmark = pytest.mark.usefixtures('quick_compilation')

SPACE = Space()
CHANNELS = (24, 32, 96, 320)
FILTERS, CLASSES, DECAY = 6, 5, 0.9
SHAPE = Shape(2, tuple((64 // stride, 64 // stride + 1) for stride in STRIDES), FILTERS, CLASSES)
MEMORY = tape.MOST_MAPS[True] * SHAPE.rows[0]
HEADS = (0, 1, 2)
HEAD = Head(CLASSES, FILTERS, decay=DECAY)
SHAPES = {stride: (*SHAPE.maps(level)[:3], CHANNELS[level]) for level, stride in enumerate(STRIDES)}
FURTHER = int(os.environ.get('DPC_FURTHER_GENOTYPES', '0'))  # 50 of them take some minutes
RANDOM = 4 + FURTHER


def random_genotypes(count):
    """The first four have, with those of the paper, every operator at every stride."""
    first = unstack(SPACE.sample(jax.random.key(6), 4))
    return [*first, *unstack(SPACE.sample(jax.random.key(7), max(1, count - 4)))][:count]


def tape_of(genotype):
    return tape.compile_tape(genotype, SHAPE.batch, SHAPE.rows, auxiliary='cell', heads=HEADS, memory=MEMORY)


def code_of(genotype, *, train):
    """The tape that the head makes, as a program gets it."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), HEAD.encode(stack([genotype]), SHAPES, train=train))


# ---- the module's weights in the one shape that all genotypes share -------------------------------------------------


def superset(params, stats, genotype):
    """Parameters (or their gradients) and moving averages of the static view, where the machine has them."""
    units, slots = tape.UNITS, tape.SLOTS
    found = {
        'pointwise': np.zeros((units, FILTERS, FILTERS)),
        'dense': np.zeros((units, 3, 3, FILTERS, FILTERS)),
        'depthwise': np.zeros((units, 5, 5, FILTERS)),
        'projection': np.zeros((3, FILTERS, FILTERS)),
        'scale': np.ones((slots, FILTERS)),
        'bias': np.zeros((slots, FILTERS)),
        'heads': np.zeros((4, 3, 3, FILTERS, CLASSES)),
        'head_bias': np.zeros((4, CLASSES)),
    }
    moving = {'mean': np.zeros((slots, FILTERS)), 'var': np.ones((slots, FILTERS))}
    context, averages = params['context'], stats['context']

    def norm(slot, *path):
        held, seen = context, averages
        for name in path:
            held, seen = held[name], seen[name]
        for name in ('scale', 'bias'):
            found[name][slot] = held['BatchNorm'][name]
        for name in moving:
            moving[name][slot] = seen['BatchNorm'][name]
        return np.asarray(held['kernel'])

    sides = [f'block{block}_{side}' for block in (1, 2, 3) for side in (1, 2)]
    for cell, name in enumerate([*sides, *(f'block{block}_auxiliary' for block in (1, 2, 3))]):
        for place, slot in enumerate(aux_cells.slots(genotype)):
            op, number = OPS[slot.op], 7 * cell + place
            if op.kind == 'separable':
                margin = (5 - op.kernel) // 2
                spread = context[name][f'op{place}_0_depthwise']['kernel'][:, :, 0]
                found['depthwise'][number, margin : 5 - margin, margin : 5 - margin] = spread
                found['pointwise'][number] = norm(number, name, f'op{place}_0_pointwise')[0, 0]
            elif op.kind in ('conv', 'pooling'):
                kernel = norm(number, name, f'op{place}')
                field = 'dense' if op.kernel > 1 else 'pointwise'
                found[field][number] = kernel if op.kernel > 1 else kernel[0, 0]
        if cell < 6:
            found['pointwise'][7 * tape.CELLS + cell] = norm(7 * tape.CELLS + cell, f'{name}_merge')[0, 0]
    adapters = [norm(tape.ADAPTERS + level, f'adapter{stride}')[0, 0] for level, stride in enumerate(STRIDES)]
    projection = norm(tape.PROJECTION, 'concat_projection').reshape(-1, FILTERS, FILTERS)
    found['projection'][: len(projection)] = projection
    for number, head in enumerate([*(params['auxiliary'][f'block{block}'] for block in (1, 2, 3)), params['logits']]):
        found['heads'][number], found['head_bias'][number] = head['kernel'], head['bias']
    found = {name: jnp.asarray(value) for name, value in found.items()}
    return Params(adapters=tuple(map(jnp.asarray, adapters)), **found), Stats(*map(jnp.asarray, moving.values()))


def static_logits(decoder, params, stats, maps, train):
    """The logits of the four heads at stride 4 (of the main one alone in inference), and the new averages."""
    variables = {'params': params['context'], 'batch_stats': stats['context']}
    found, moved = decoder.apply(variables, maps, train, None, None, method='of_maps', mutable=['batch_stats'])
    logits = Logits(CLASSES, **decoder.logits_settings)

    def of(held, x):
        return ops.resize_half_pixel(logits.apply({'params': held}, x), SHAPE.sizes[0])

    heads = {int(name[-1]) - 1: of(params['auxiliary'][name], x) for name, x in found.auxiliary.items()}
    return {**heads, tape.MAIN: of(params['logits'], found.features)}, {'context': moved['batch_stats']}


def drawn(decoder, seed):
    """Maps, parameters with biases as they begin, averages, all in float64."""
    random = np.random.default_rng(seed)

    def normal(*shape):
        return jnp.asarray(random.standard_normal(shape))

    maps = {s: normal(SHAPE.batch, *SHAPE.sizes[level], CHANNELS[level]) for level, s in enumerate(STRIDES)}
    variables = decoder.init(jax.random.key(seed), maps, False, None, None, method='of_maps')
    variables = jax.tree.map(lambda leaf: jnp.asarray(leaf * random.uniform(0.5, 1.5, leaf.shape)), variables)
    heads = [{'kernel': 0.2 * normal(3, 3, FILTERS, CLASSES), 'bias': normal(CLASSES)} for _ in range(4)]
    auxiliary = {f'block{block + 1}': heads[block] for block in HEADS}
    params = {'context': variables['params'], 'auxiliary': auxiliary, 'logits': heads[3]}
    return maps, params, {'context': variables['batch_stats']}, normal(4, SHAPE.batch, *SHAPE.sizes[0], CLASSES)


@functools.cache
def programs():
    """Training and inference, each compiled once for all genotypes."""

    def training(params, stats, code, features, memory, given):
        def loss_of(outputs):
            logits = [*(outputs.auxiliary[f'block{block + 1}'] for block in HEADS), outputs.logits]
            return (jnp.stack(logits) * given.transpose(0, 1, 4, 2, 3)).sum()

        found = HEAD.learn(params, stats, code, features, loss_of, memory)
        return found.loss, found.stats, found.grads, found.scratch, found.features

    def inference(params, stats, code, features):
        return HEAD.apply(params, stats, code, features, train=False)[0].logits

    return jax.jit(training, donate_argnums=4), jax.jit(inference)


def close(actual, expected):
    scale = max(float(jnp.abs(expected).max()), 1e-12)
    np.testing.assert_allclose(actual / scale, expected / scale, rtol=0, atol=1e-9)


@pytest.fixture(scope='module')
def memory():
    """One memory that all tests use after one another, as candidates do: what lies in it must not matter."""
    with jax.enable_x64(True):
        return [jnp.zeros((MEMORY, FILTERS), jnp.float64)]


CASES = [*SPACE.names, *range(RANDOM)]


@pytest.mark.parametrize('which', CASES)
def test_the_machine_is_the_module(which, memory):
    genotype = SPACE.named(which) if isinstance(which, str) else random_genotypes(RANDOM)[which]
    decoder = Decoder.of(genotype, filters=FILTERS, repeats=1, decay=DECAY)
    with jax.enable_x64(True), jax.numpy_dtype_promotion('standard'):
        maps, params, stats, given = drawn(decoder, CASES.index(which))
        shared, averages = superset(params, stats, genotype)
        train, infer = programs()
        code = code_of(genotype, train=True)
        loss, moved, grads, memory[0], of_maps = train(shared, averages, code, maps, memory[0], given)

        def expected(params, maps):
            found, moved = static_logits(decoder, params, stats, maps, True)
            return sum((found[number] * given[number]).sum() for number in found), moved

        derive = jax.value_and_grad(expected, argnums=(0, 1), has_aux=True)
        (expected_loss, expected_moved), (expected_grads, expected_maps) = derive(params, maps)
        np.testing.assert_allclose(loss, expected_loss, rtol=1e-9)
        for stride in STRIDES:
            close(of_maps[stride], expected_maps[stride])
        wanted, wanted_averages = superset(expected_grads, expected_moved, genotype)
        used = (code.counts > 0)[:, None]
        for ours, theirs, before in zip(moved, wanted_averages, averages, strict=True):
            close(jnp.where(used, ours, 0), jnp.where(used, theirs, 0))
            assert bool(jnp.where(used, True, ours == before).all())
        wanted = wanted._replace(scale=jnp.where(used, wanted.scale, 0))
        for ours, theirs in zip(jax.tree.leaves(grads), jax.tree.leaves(wanted), strict=True):
            close(ours, theirs)
        main = infer(shared, averages, code_of(genotype, train=False), maps)
        wanted = static_logits(decoder, params, stats, maps, False)[0][tape.MAIN]
        close(main.transpose(0, 2, 3, 1), wanted)


def test_every_operator_is_compared_at_every_stride():
    """By the genotypes above: those that compute something."""
    seen = set()
    for genotype in [*map(SPACE.named, SPACE.names), *random_genotypes(RANDOM)]:
        program = tape_of(genotype)
        for level, opcode in program.forward[: program.lengths[0], :2]:
            seen.add((int(level), int(opcode)))
    every = {(level, kind) for level in range(tape.LEVELS) for kind in range(len(tape.KINDS))}
    assert every <= seen


def test_one_program_serves_every_genotype():
    train, infer = programs()
    assert train._cache_size() <= 1
    assert infer._cache_size() <= 1


def test_the_memory_is_never_copied(memory):
    """A copy of it would take a hundred times as long as most instructions."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion('standard'):
        decoder = Decoder.of(SPACE.named('arch0'), filters=FILTERS, repeats=1, decay=DECAY)
        maps, params, stats, given = drawn(decoder, 0)
        shared, averages = superset(params, stats, SPACE.named('arch0'))
        train, _ = programs()
        code = code_of(SPACE.named('arch0'), train=True)
        compiled = train.lower(shared, averages, code, maps, memory[0], given).compile()
    assert f'f64[{MEMORY},{FILTERS}]' in compiled.as_text()
    assert not re.findall(rf'f64\[{MEMORY},{FILTERS}\]\S* copy\(', compiled.as_text())


# ---- the tape -------------------------------------------------------------------------------------------------------


def test_no_register_is_read_after_it_was_given_away():
    """Every read gives what was written there last by the instruction that the reader means."""
    for genotype in random_genotypes(40):
        program = tape_of(genotype)
        written = {}
        fields = {name: place for place, name in enumerate(tape.FIELDS)}
        for level, row in enumerate(program.adapters):
            written[int(row)] = SHAPE.rows[level]
        code = [*program.forward[: program.lengths[0]], *program.backward[: program.lengths[1]]]
        for one in code:
            opcode = int(one[fields['opcode']])
            for name in ('x', 'y', 'z', 'own', 'grad', 'held'):
                row = int(one[fields[name]])
                assert row == 0 or row in written
            outs = [] if opcode == tape.HEAD else ['out']
            for name in [*outs, *(['out2', 'out3'] if opcode == tape.PROJECT_BACK else [])]:
                assert int(one[fields[name]]) >= max(SHAPE.rows)  # nobody writes into the zeros
                written[int(one[fields[name]])] = True
        assert program.rows <= MEMORY
        assert program.lengths.max() <= tape.LONGEST


def test_what_only_reads_zeros_is_left_out():
    """A cell of `none` alone: nothing is left of the decoder but adapters, projection and the biases of the heads."""
    nothing = aux_cells.make_genotype([10, 0, 0, 10, 10, 0, 0, 10, 10, 0, 0, 10, 10, 0, 1, 2, 3, 0, 1])
    program = tape_of(nothing)
    assert [int(one[1]) for one in program.forward[: program.lengths[0]]] == [
        *[tape.HEAD] * 3,
        tape.PROJECT,
        tape.HEAD,
    ]
    assert program.adapters_read.tolist() == [0, 0, 0, 0]


def test_a_memory_that_is_too_small_is_refused():
    """The program would read and write other rows and say nothing."""
    genotype = SPACE.named('arch0')
    needed = int(tape_of(genotype).rows)
    sizes = {'auxiliary': 'cell', 'heads': HEADS}
    assert tape.compile_tape(genotype, SHAPE.batch, SHAPE.rows, memory=needed, **sizes).rows == needed
    with pytest.raises(InputError, match=rf'^a decoder needs {needed} rows of memory; there are {needed - 1}: \[8, 0'):
        tape.compile_tape(genotype, SHAPE.batch, SHAPE.rows, memory=needed - 1, **sizes)


def test_decoders_that_are_the_same_function_have_the_same_tape():
    """After a skip its value and the cell's input are one map: `Space.at_size` makes one genotype of such."""
    changed = 0
    for genotype in random_genotypes(40):
        genes = genotype._replace(ops=np.where(np.arange(7) == 0, aux_cells.SKIP, genotype.ops))
        standing = SPACE.at_size(genes, {})
        changed += not np.array_equal(standing.positions, genes.positions)
        for train in (True, False):
            jax.tree.map(np.testing.assert_array_equal, code_of(genes, train=train), code_of(standing, train=train))
        assert SPACE.canonical_key(SPACE.at_size(standing, {})) == SPACE.canonical_key(standing)
        other = genotype._replace(ops=np.where(np.arange(7) == 0, aux_cells.CONV1X1, genotype.ops))
        assert SPACE.canonical_key(SPACE.at_size(other, {})) == SPACE.canonical_key(other)
    assert changed > 5


# ---- the head -------------------------------------------------------------------------------------------------------


def test_initial_weights_are_those_of_pytorch_for_the_operators_of_the_genotype():
    """Uniform in ± 1 / sqrt(fan in), which differs by kernel and by how many blocks are concatenated."""
    channels = dict(zip(STRIDES, CHANNELS, strict=True))
    wide, narrow = SPACE.named('arch0'), SPACE.named('arch1')  # op 8 is 5x5 and stands in slots 0, 3, 4 of arch0
    for genotype in (wide, narrow):
        params, stats = HEAD.init(jax.random.key(0), jax.tree.map(jnp.asarray, genotype), channels)
        bounds = {
            **{f'adapter{stride}': (params.adapters[level], channels[stride]) for level, stride in enumerate(STRIDES)},
            'pointwise': (params.pointwise, FILTERS),
            'dense': (params.dense, 9 * FILTERS),
            'projection': (params.projection, len(aux_cells.loose(genotype)) * FILTERS),
            'heads': (params.heads, 9 * FILTERS),
            'head_bias': (params.head_bias, 9 * FILTERS),
        }
        for slot, one in enumerate(aux_cells.slots(genotype)):
            bounds[f'depthwise{slot}'] = (params.depthwise[slot::7][: tape.CELLS], 25 if OPS[one.op].kernel == 5 else 9)
        for name, (values, fan_in) in bounds.items():
            largest = float(jnp.abs(values).max()) * np.sqrt(fan_in)
            assert 0.8 < largest <= 1, name
        assert float(params.scale.min()) == float(params.scale.max()) == float(stats.var.min()) == 1
        assert not float(jnp.abs(params.bias).max()) + float(jnp.abs(stats.mean).max())


@pytest.mark.parametrize(
    ('head', 'weights'),
    [
        (Head(CLASSES), {'block1': 0.15, 'block2': 0.15, 'block3': 0.15}),
        (Head(CLASSES, inner=True, weight=0.4), {'block1': 0.4, 'block2': 0.4}),
        (Head(CLASSES, auxiliary='conv'), {'block1': 0.15, 'block2': 0.15, 'block3': 0.15}),
        (Head(CLASSES, auxiliary='none'), {}),
    ],
)
def test_auxiliary_outputs_are_those_that_the_tape_computes(head, weights):
    assert head.auxiliary_weights == weights
    code = head.encode(stack([SPACE.named('arch0')]), SHAPES, train=True)
    heads = [int(one[-1]) for one in code.forward[0, : code.lengths[0, 0]] if one[1] == tape.HEAD]
    assert sorted(heads) == [*range(len(weights)), tape.MAIN]
    scored = head.encode(stack([SPACE.named('arch0')]), SHAPES, train=False)
    assert [int(one[-1]) for one in scored.forward[0, : scored.lengths[0, 0]] if one[1] == tape.HEAD] == [tape.MAIN]
    assert int(scored.lengths[0, 1]) == 0  # nothing is derived where nothing is learnt


@pytest.mark.parametrize(
    ('fields', 'line'),
    [
        ({'auxiliary': 'cells'}, "cell.auxiliary is 'cells'; allowed: cell, conv, none"),
        ({'weight': -0.1}, 'cell.auxiliary_weight is -0.1; it must be at least 0'),
        ({'filters': 0}, 'cell.filters is 0; it must be at least 1'),
        ({'decay': 1.0}, 'proxy.bn_decay is 1.0; it must be at least 0 and below 1'),
    ],
)
def test_a_bad_head_is_one_line(fault, fields, line):
    assert line in fault(lambda: Head(CLASSES, **fields))
