"""One program for every decoder of auxiliary cells is the Flax module: outputs, gradients, moving averages."""

import functools
import os
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpc_jax import ops
from dpc_jax.aux_decoder import Decoder, machine, tape
from dpc_jax.aux_decoder.registers import Params, Shape, Stats
from dpc_jax.base import InputError, unstack
from dpc_jax.decoder import Logits
from dpc_jax.spaces import aux_cells
from dpc_jax.spaces.aux_cells import OPS, STRIDES, Space

pytestmark = pytest.mark.usefixtures('quick_compilation')

SPACE = Space()
CHANNELS = (24, 32, 96, 320)
FILTERS, CLASSES, DECAY = 6, 5, 0.9
SHAPE = Shape(2, tuple((64 // stride, 64 // stride + 1) for stride in STRIDES), FILTERS, CLASSES)
MEMORY = 120 * SHAPE.rows[0]
HEADS = (0, 1, 2)
FURTHER = int(os.environ.get('DPC_FURTHER_GENOTYPES', '0'))  # 50 of them take some minutes
RANDOM = 4 + FURTHER


def random_genotypes(count):
    """The first four have, with those of the paper, every operator at every stride."""
    first = unstack(SPACE.sample(jax.random.key(6), 4))
    return [*first, *unstack(SPACE.sample(jax.random.key(7), max(1, count - 4)))][:count]


def tape_of(genotype):
    return tape.compile_tape(genotype, SHAPE.batch, SHAPE.rows, auxiliary='cell', heads=HEADS, memory=MEMORY)


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

    def training(params, stats, program, features, memory, given):
        state = machine.forward(params, stats, program, features, memory, shape=SHAPE, train=True)
        moved = machine.moved(stats, state, program, DECAY)
        grads, memory, of_maps = machine.backward(params, program, features, state, given, shape=SHAPE)
        return state['logits'], moved, grads, memory, of_maps

    def inference(params, stats, program, features, memory):
        state = machine.forward(params, stats, program, features, memory, shape=SHAPE, train=False)
        return state['logits'][tape.MAIN], state['memory']

    return jax.jit(training, donate_argnums=4), jax.jit(inference, donate_argnums=4)


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
        program = jax.tree.map(jnp.asarray, tape_of(genotype))
        assert int(program.rows) <= MEMORY
        features = {level: maps[stride] for level, stride in enumerate(STRIDES)}
        shared, averages = superset(params, stats, genotype)
        train, infer = programs()
        logits, moved, grads, memory[0], of_maps = train(shared, averages, program, features, memory[0], given)

        def loss(params, maps):
            found, moved = static_logits(decoder, params, stats, maps, True)
            return sum((found[number] * given[number]).sum() for number in found), (found, moved)

        derive = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
        (_, (expected, expected_moved)), (expected_grads, wanted_maps) = derive(params, maps)
        for level, stride in enumerate(STRIDES):
            close(of_maps[level], wanted_maps[stride])
        for number, value in expected.items():
            close(logits[number], value)
        wanted, wanted_averages = superset(expected_grads, expected_moved, genotype)
        used = (program.counts > 0)[:, None]
        for ours, theirs, before in zip(moved, wanted_averages, averages, strict=True):
            close(jnp.where(used, ours, 0), jnp.where(used, theirs, 0))
            assert bool(jnp.where(used, True, ours == before).all())
        wanted = wanted._replace(scale=jnp.where(used, wanted.scale, 0))
        for ours, theirs in zip(jax.tree.leaves(grads), jax.tree.leaves(wanted), strict=True):
            close(ours, theirs)
        main, memory[0] = infer(shared, averages, program, features, memory[0])
        close(main, static_logits(decoder, params, stats, maps, False)[0][tape.MAIN])


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
        program = jax.tree.map(jnp.asarray, tape_of(SPACE.named('arch0')))
        features = {level: maps[stride] for level, stride in enumerate(STRIDES)}
        train, _ = programs()
        compiled = train.lower(shared, averages, program, features, memory[0], given).compile()
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
