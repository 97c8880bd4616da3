"""From a genotype to a tape: the instructions by which one compiled program computes that decoder, and its gradient.

All of this runs on the host, in NumPy, once per candidate. A map lies in a *register*: rows of one memory [rows, A].
What is stored is a map before its norm, with a *slot*, the number of the batch norm through which it is read; sums are
stored as they are and are read through `IDENTITY`. All maps are at least 0, so every read may end in a ReLU.

    forward    unit (a convolution's output before its norm), add, up (enlarge and add), project, head
    backward   the same in reverse; a gradient that several give is added up as it is written (`held`)

`skip_connect` is another name of a register. `none` is no register at all: what only reads zeros is zero for ever,
because biases of batch norms begin at 0 and the gradient of ReLU at 0 is 0. What nothing reads is left out.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from dpc_jax.base import InputError
from dpc_jax.spaces import aux_cells
from dpc_jax.spaces.aux_cells import BLOCKS, MAPS, NONE, SKIP, Slot

LEVELS = MAPS
CELLS = 3 * BLOCKS  # two of each block, and the auxiliary one
UNITS = 7 * CELLS + 2 * BLOCKS  # operators of the cells, and the convolutions after them
ADAPTERS = UNITS  # the first slot of the adapters
PROJECTION = ADAPTERS + LEVELS
SLOTS = PROJECTION + 1  # batch norms
IDENTITY = SLOTS  # the slot that changes nothing
MAIN = BLOCKS  # number of the head that is no auxiliary one

KINDS = tuple(index for index in range(len(aux_cells.OPS)) if index not in (SKIP, NONE))
"""Operators that compute; an instruction has the place among these."""

UNIT, UNIT_BACK = 0, len(KINDS)
MEAN = UNIT + KINDS.index(aux_cells.OP_NAMES.index('global_average_pool'))
ADD, PLUS, PROJECT, PROJECT_BACK, HEAD, HEAD_BACK = range(2 * len(KINDS), 2 * len(KINDS) + 6)
UP = 2 * len(KINDS) + 6  # + the level of the smaller map
UP_BACK = UP + LEVELS

FIELDS = (
    *('level', 'opcode', 'x', 'x_slot', 'y', 'y_slot', 'z', 'z_slot'),  # up to three maps that are read
    *('own', 'grad', 'held', 'out', 'out2', 'out3', 'number'),
)
"""Columns of a tape. `own` is what a unit has stored, `grad` the gradient that comes in, `held` the gradient to which
an instruction adds its own, `number` that of the unit or of the head."""

MOST_MAPS = {True: 110, False: 16}
"""Maps of the first level that the memory holds, in training and in inference. No genotype is known that needs more
than 106.4 and 13.3: climbs from eight random genotypes to those that need more all ended there."""

LONGEST = 288  # instructions of a pass; no genotype has more: 69 units, 27 sums and a few dozen of the decoder


class Tape(NamedTuple):
    """The data of the compiled program: one candidate, or a population with a leading axis P."""

    forward: Int[np.ndarray, '*P T fields']
    backward: Int[np.ndarray, '*P T fields']
    lengths: Int[np.ndarray, '*P 2']
    counts: Int[np.ndarray, '*P slots']  # values of a channel that each batch norm sees; 0 if it is not computed
    adapters: Int[np.ndarray, '*P 4']  # registers of the adapted maps
    adapter_grads: Int[np.ndarray, '*P 4']  # of their gradients
    adapters_read: Int[np.ndarray, '*P 4']  # 1 where there is a gradient
    rows: Int[np.ndarray, '*P']  # of memory that it uses


class Map(NamedTuple):
    """A map on the host: which register, at which level, read through which slot."""

    register: int  # virtual: each is written once
    level: int
    slot: int


@dataclasses.dataclass
class _Instruction:
    level: int
    opcode: int
    reads: dict[str, Map] = dataclasses.field(default_factory=dict)  # field -> what is read there
    writes: dict[str, Map] = dataclasses.field(default_factory=dict)
    number: int = 0


class _Writer:
    """Collects the instructions of both passes."""

    def __init__(self) -> None:
        self.code: list[_Instruction] = []
        self.levels: list[int] = []  # of each virtual register

    def new(self, level: int, slot: int = IDENTITY) -> Map:
        self.levels.append(level)
        return Map(len(self.levels) - 1, level, slot)

    def emit(self, level: int, opcode: int, reads: dict[str, Map], writes: dict[str, Map], number: int = 0) -> None:
        self.code.append(_Instruction(level, opcode, reads, writes, number))

    # ---- forward: None is a map of zeros ---------------------------------------------------------------------------

    def unit(self, kind: int, x: Map | None, number: int) -> Map | None:
        if x is None:
            return None
        y = self.new(x.level, number)
        self.emit(x.level, UNIT + kind, {'x': x}, {'out': y}, number)
        return y

    def add(self, one: Map | None, other: Map | None) -> Map | None:
        if one is None or other is None:
            return other if one is None else one
        total = self.new(one.level)
        self.emit(one.level, ADD, {'x': one, 'y': other}, {'out': total})
        return total

    def up(self, large: Map | None, small: Map | None, level: int) -> Map | None:
        """The small map enlarged to `level`, and the large one added where there is one."""
        if small is None or small.level == level:
            return self.add(large, small)
        total = self.new(level)
        reads = {'y': small} if large is None else {'x': large, 'y': small}
        self.emit(level, UP + small.level, reads, {'out': total})
        return total

    def cell(self, genotype: aux_cells.Genotype, number: int, x: Map | None) -> Map | None:
        def operate(slot_number: int, slot: Slot, value: Map | None) -> Map | None:
            if slot.op in (SKIP, NONE):
                return value if slot.op == SKIP else None
            return self.unit(KINDS.index(slot.op), value, 7 * number + slot_number)

        return aux_cells.wire_cell(genotype, x, operate, self.add)


def compile_tape(
    genotype: aux_cells.Genotype,
    batch: int,
    rows: Sequence[int],
    *,
    auxiliary: str,
    heads: Sequence[int],
    memory: int,
    train: bool = True,
) -> Tape:
    """The tape of an unbatched genotype; without a backward pass if it is not for training.

    Args:
      batch: images, B.
      rows: of a map at each level, B * h * w.
      auxiliary: one of `module.AUXILIARIES`.
      heads: the blocks (0..2) that have an auxiliary head.
      memory: rows that there are; `MOST_MAPS` of the first level are enough.

    Raises:
      InputError: the memory is too small: the program would read and write other rows, and say nothing.
    """
    writer = _Writer()
    adapted = [writer.new(level, ADAPTERS + level) for level in range(LEVELS)]
    _forward(writer, genotype, adapted, auxiliary, heads)
    forward = _live(writer.code)
    writer.code = []
    grads = _backward(writer, forward, adapted) if train else [None] * LEVELS
    kept = [grad for grad in grads if grad is not None]
    places, needed = _places(forward, writer.code, adapted, kept, rows, writer.levels)
    if needed > memory:
        raise InputError(f'a decoder needs {needed} rows of memory; there are {memory}: {aux_cells.flat(genotype)}')
    counts = np.zeros(SLOTS, np.int32)
    counts[ADAPTERS : ADAPTERS + LEVELS] = rows
    for one in forward:
        if one.opcode == PROJECT:
            counts[PROJECTION] = rows[one.level]
        if one.opcode < UNIT_BACK:  # a global mean is one value of each image
            counts[one.number] = batch if one.opcode == MEAN else rows[one.level]
    return Tape(
        forward=_coded(forward, places),
        backward=_coded(writer.code, places),
        lengths=np.array([len(forward), len(writer.code)], np.int32),
        counts=counts,
        adapters=np.array([places[x.register] for x in adapted], np.int32),
        adapter_grads=np.array([0 if grad is None else places[grad.register] for grad in grads], np.int32),
        adapters_read=np.array([grad is not None for grad in grads], np.int32),
        rows=np.array(needed, np.int32),
    )


def _forward(
    writer: _Writer, genotype: aux_cells.Genotype, adapted: list[Map], auxiliary: str, heads: Sequence[int]
) -> None:
    level_of = aux_cells.levels(genotype)
    merge = KINDS.index(aux_cells.CONV1X1)

    def head(number: int, x: Map | None, level: int) -> None:
        # A head of zeros gives its bias: it reads the register of zeros.
        writer.emit(level, HEAD, {} if x is None else {'x': x}, {}, number)

    def block(number: int, one: Map | None, other: Map | None) -> Map | None:
        sides = []
        for side, x in enumerate((one, other)):
            cell = 2 * number + side
            sides.append(writer.unit(merge, writer.cell(genotype, cell, x), 7 * CELLS + cell))
        level = level_of[MAPS + number]
        large, small = sides if sides[0] is not None and sides[0].level == level else sides[::-1]
        if large is not None and large.level != level:  # the finer of both is zeros
            large, small = None, large
        y = writer.up(large, small, level)
        if number in heads:
            x = writer.cell(genotype, 2 * BLOCKS + number, y) if auxiliary == 'cell' else y
            head(number, x, level)
        return y

    maps: list[Map | None] = [*adapted]
    blocks = aux_cells.wire_decoder(genotype, maps, block)
    ends = aux_cells.loose(genotype)
    level = min(level_of[MAPS + number] for number in ends)
    inputs = [writer.up(None, blocks[number], level) for number in ends]
    y = writer.new(level, PROJECTION)
    reads = {name: x for name, x in zip('xyz', inputs, strict=False) if x is not None}
    writer.emit(level, PROJECT, reads, {'out': y})
    head(MAIN, y, level)


def _live(code: list[_Instruction]) -> list[_Instruction]:
    """Without what no head needs in the end."""
    needed: set[int] = set()
    kept = []
    for one in reversed(code):
        if one.opcode == HEAD or any(out.register in needed for out in one.writes.values()):
            kept.append(one)
            needed |= {x.register for x in one.reads.values()}
    return kept[::-1]


class _Gradients:
    """Emits the backward pass; `of` has the gradient of each map that has one."""

    def __init__(self, writer: _Writer) -> None:
        self.writer, self.of = writer, dict[int, Map]()

    def give(self, x: Map, grad: Map) -> None:
        """A gradient of x that is there already."""
        if x.register in self.of:
            total = self.writer.new(x.level)
            self.writer.emit(x.level, PLUS, {'x': self.of[x.register], 'y': grad}, {'out': total})
            grad = total
        self.of[x.register] = grad

    def emit(self, one: _Instruction, opcode: int, x: Map, reads: dict[str, Map]) -> None:
        """An instruction that computes the gradient of x, and adds to it what there is."""
        held = {'held': self.of[x.register]} if x.register in self.of else {}
        out = self.writer.new(x.level)
        self.writer.emit(one.level, opcode, {**reads, **held}, {'out': out}, one.number)
        self.of[x.register] = out

    def head(self, one: _Instruction) -> None:
        if 'x' in one.reads:
            self.emit(one, HEAD_BACK, one.reads['x'], {'x': one.reads['x']})
        else:
            self.writer.emit(one.level, HEAD_BACK, {}, {'out': self.writer.new(one.level)}, one.number)

    def project(self, one: _Instruction, grad: Map) -> None:
        outs = {name: self.writer.new(one.level) for name in ('out', 'out2', 'out3')}
        self.writer.emit(one.level, PROJECT_BACK, {**one.reads, 'own': one.writes['out'], 'grad': grad}, outs)
        for name, made in zip('xyz', outs.values(), strict=True):
            if name in one.reads:
                self.give(one.reads[name], made)

    def through(self, one: _Instruction, grad: Map) -> None:
        """The gradient of what an instruction has read, from that of what it wrote."""
        if one.opcode < UNIT_BACK:
            x = one.reads['x']
            self.emit(one, UNIT_BACK + one.opcode, x, {'x': x, 'own': one.writes['out'], 'grad': grad})
        elif one.opcode == ADD:
            for x in one.reads.values():
                self.give(x, grad)
        elif one.opcode == PROJECT:
            self.project(one, grad)
        else:  # up
            small = one.reads['y']
            if 'x' in one.reads:
                self.give(one.reads['x'], grad)
            self.emit(one, UP_BACK + small.level, small, {'grad': grad})


def _backward(writer: _Writer, forward: list[_Instruction], adapted: list[Map]) -> list[Map | None]:
    """Emits the backward pass; gives the gradients of the adapted maps."""
    grads = _Gradients(writer)
    for one in reversed(forward):
        if one.opcode == HEAD:
            grads.head(one)
        elif one.writes['out'].register in grads.of:
            grads.through(one, grads.of[one.writes['out'].register])
    return [grads.of.get(x.register) for x in adapted]


def _places(
    forward: list[_Instruction],
    backward: list[_Instruction],
    adapted: list[Map],
    kept: list[Map],
    rows: Sequence[int],
    levels: list[int],
) -> tuple[dict[int, int], int]:
    """Virtual register -> its first row; and how many rows there are.

    A register is used again, at its level, as soon as nobody reads it any more. Row 0 begins a map of zeros, as large
    as the largest.
    """
    code = [*forward, *backward]
    last = {x.register: len(code) for x in kept}
    for time, one in enumerate(code):
        for x in (*one.reads.values(), *one.writes.values()):
            last[x.register] = max(last.get(x.register, 0), time)
    free: list[list[int]] = [[] for _ in range(LEVELS)]
    places: dict[int, int] = {}
    end = max(rows)

    def place(register: int) -> None:
        nonlocal end
        level = levels[register]
        if free[level]:
            places[register] = free[level].pop()
        else:
            places[register], end = end, end + rows[level]

    for x in adapted:
        place(x.register)
        last.setdefault(x.register, -1)
    for time, one in enumerate(code):
        for out in one.writes.values():
            place(out.register)
        for register in {x.register for x in (*one.reads.values(), *one.writes.values())}:
            if last[register] == time:
                free[levels[register]].append(places[register])
    return places, end


def _coded(code: list[_Instruction], places: dict[int, int]) -> Int[np.ndarray, 'T fields']:
    if len(code) > LONGEST:
        raise InputError(f'a tape of {len(code)} instructions; allowed: {LONGEST}')
    table = np.full((LONGEST, len(FIELDS)), -1, np.int32)
    for time, one in enumerate(code):
        values = dict.fromkeys(FIELDS, 0) | {'level': one.level, 'opcode': one.opcode, 'number': one.number}
        values |= {'x_slot': IDENTITY, 'y_slot': IDENTITY, 'z_slot': IDENTITY}
        for name, x in (*one.reads.items(), *one.writes.items()):
            values[name] = places[x.register]
            if name in 'xyz':
                values[f'{name}_slot'] = x.slot
        table[time] = [values[name] for name in FIELDS]
    return table
