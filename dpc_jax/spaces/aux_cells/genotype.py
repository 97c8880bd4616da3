"""An auxiliary-cell decoder as integers, and what they mean: the one place where a genotype is read.

    cell     values 0: x, 1: op 0 of x; then three layers, each of two operators on earlier values and their sum
             (values 2, 3, 4; 5, 6, 7; 8, 9, 10); its output is the sum of 1, 4, 7 and 10 less those that are read
    decoder  maps 0..3: adapted maps of the encoder at strides 4, 8, 16, 32; three blocks (maps 4, 5, 6), each the sum
             of a cell on each of two earlier maps; the blocks that no block reads are concatenated

All cells of a network are one genotype with weights of their own (arXiv:1810.10804 §3.2, Fig. 1; aux cells of the
released code, whose genes these are).
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Array, Int

from dpc_jax.base import InputError
from dpc_jax.spaces.aux_cells.operators import OPS

LAYERS, BLOCKS, MAPS = 3, 3, 4
NUM_OPS, NUM_POSITIONS, NUM_CONNECTIONS = 1 + 2 * LAYERS, 2 * LAYERS, 2 * BLOCKS
POSITION_CHOICES = (2, 2, 5, 5, 8, 8)
CONNECTION_CHOICES = (4, 4, 5, 5, 6, 6)
SUMS = (1, 4, 7, 10)  # values of the cell that may be its output


class Genotype(NamedTuple):
    """A decoder as integers: unbatched `[7]`, `[6]`, `[6]`, or a population with a leading axis P."""

    ops: Int[Array, '*P 7'] | Int[np.ndarray, '*P 7']  # on x, then two of each layer; index into the operators
    positions: Int[Array, '*P 6'] | Int[np.ndarray, '*P 6']  # the value that each operator of a layer reads
    connections: Int[Array, '*P 6'] | Int[np.ndarray, '*P 6']  # the two maps of each block


class Gene(NamedTuple):
    """One number of a genotype."""

    name: str  # 'layer1.op2'
    field: str
    place: int  # in the field
    choices: int  # it is below this


def _genes() -> tuple[Gene, ...]:
    found = [Gene('op', 'ops', 0, len(OPS))]
    for layer in range(LAYERS):
        for side in (0, 1):
            place = 2 * layer + side
            name = f'layer{layer + 1}.position{side + 1}'
            found.append(Gene(name, 'positions', place, POSITION_CHOICES[place]))
        for side in (0, 1):
            found.append(Gene(f'layer{layer + 1}.op{side + 1}', 'ops', 1 + 2 * layer + side, len(OPS)))
    for place, choices in enumerate(CONNECTION_CHOICES):
        found.append(Gene(f'block{place // 2 + 1}.map{place % 2 + 1}', 'connections', place, choices))
    return tuple(found)


GENES = _genes()
"""The 19 genes in the order of the flat form: op; position, position, op, op of each layer; two maps of each block."""


def make_genotype(flat: Sequence[int]) -> Genotype:
    """A genotype of its 19 numbers in the order of `GENES`, unchecked."""
    fields: dict[str, list[int]] = {'ops': [0] * NUM_OPS, 'positions': [0] * NUM_POSITIONS}
    fields['connections'] = [0] * NUM_CONNECTIONS
    for gene, value in zip(GENES, flat, strict=True):
        fields[gene.field][gene.place] = int(value)
    return Genotype(**{name: np.array(values, np.int32) for name, values in fields.items()})


def flat(genotype: Genotype) -> list[int]:
    """The 19 numbers of a genotype (unbatched), in the order of `GENES`."""
    return [int(getattr(genotype, gene.field)[gene.place]) for gene in GENES]


def check(values: Sequence[int], source: str = '') -> None:
    """InputError, which names the gene and what is allowed, unless these are the 19 numbers of a genotype."""
    start = f'{source}: ' if source else ''
    if len(values) != len(GENES):
        raise InputError(f'{start}{len(values)} numbers; a genotype of auxiliary cells has {len(GENES)}')
    for gene, value in zip(GENES, values, strict=True):
        if not 0 <= value < gene.choices:
            kinds = {'ops': 'operators', 'positions': 'values of the cell before it', 'connections': 'maps before it'}
            what = kinds[gene.field]
            raise InputError(f'{start}{gene.name} is {value}; allowed: 0..{gene.choices - 1} ({what})')


# ---- what the numbers mean ------------------------------------------------------------------------------------------


class Slot(NamedTuple):
    """An operator of the cell: its index into the table, and the value of the cell that it reads."""

    op: int
    reads: int


def slots(genotype: Genotype) -> tuple[Slot, ...]:
    """The seven operators in the order in which they are computed."""
    reads = [0, *map(int, genotype.positions)]
    return tuple(Slot(int(op), place) for op, place in zip(genotype.ops, reads, strict=True))


def collected(genotype: Genotype) -> tuple[int, ...]:
    """The values of the cell whose sum is its output: the first operator and the sums that no operator reads."""
    read = set(map(int, genotype.positions))
    return tuple(value for value in SUMS if value not in read)


def pairs(genotype: Genotype) -> tuple[tuple[int, int], ...]:
    """The two maps of each block."""
    numbers = list(map(int, genotype.connections))
    return tuple((numbers[2 * block], numbers[2 * block + 1]) for block in range(BLOCKS))


def loose(genotype: Genotype) -> tuple[int, ...]:
    """The blocks (0..2) that no block reads: what the classifier sees. The last is always among them."""
    read = set(map(int, genotype.connections))
    return tuple(block for block in range(BLOCKS) if MAPS + block not in read)


def levels(genotype: Genotype) -> tuple[int, ...]:
    """The level (0: stride 4, to 3: stride 32) of each of the seven maps: a block has that of its finer map."""
    found = list(range(MAPS))
    for one, other in pairs(genotype):
        found.append(min(found[one], found[other]))
    return tuple(found)


Value = TypeVar('Value')


def wire_cell(
    genotype: Genotype, x: Value, operate: Callable[[int, Slot, Value], Value], add: Callable[[Value, Value], Value]
) -> Value:
    """Runs a cell over values of any kind: `operate(number of the slot, slot, value)`, `add(one, other)`."""
    first, *rest = slots(genotype)
    values = [x, operate(0, first, x)]
    for layer in range(LAYERS):
        for side in (0, 1):
            number = 2 * layer + side
            values.append(operate(1 + number, rest[number], values[rest[number].reads]))
        values.append(add(values[-2], values[-1]))
    return functools.reduce(add, (values[index] for index in collected(genotype)))


def wire_decoder(
    genotype: Genotype, maps: Sequence[Value], block: Callable[[int, Value, Value], Value]
) -> tuple[Value, ...]:
    """Runs the decoder over maps of any kind, `block(number, one, other)`; gives the three blocks."""
    found = list(maps)
    for number, (one, other) in enumerate(pairs(genotype)):
        found.append(block(number, found[one], found[other]))
    return tuple(found[MAPS:])
