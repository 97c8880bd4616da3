"""The search space of the Dense Prediction Cell (Chen et al., NeurIPS 2018, arXiv:1809.04184, §3.1).

A cell is K branches in order. Branch i (0-based) reads the backbone's features or the output of one of the
branches 0..i-1 and applies one of 81 operators; the cell's output is the concatenation of all branches. That
makes K! * 81^K genotypes: 418 414 128 120 for the paper's K = 5.

Everything here is integers, words and files' text: no layer is built in this room.
"""

import contextlib
import dataclasses
import functools
import itertools
import json
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from dpc_jax.base import FEATURES, Genotype, InputError, Size

KINDS = ('conv1x1', 'separable', 'pooling')
CONV1X1, SEPARABLE, POOLING = range(3)

RATES = (1, 3, 6, 9, 12, 15, 18, 21)
"""Atrous rates at output stride 16, for height and width alike (paper §3.1)."""

GRIDS = (1, 2, 4, 8)
"""Grids of average spatial pyramid pooling, for height and width alike (paper §3.1)."""

REACHES = ('adjacent', 'any')
"""What a rate or grid of a neighbour may be: the next smaller or larger value, or any other."""


class Op(NamedTuple):
    """One operator: its kind, and the rate or grid that the kind has (None where it has none)."""

    kind: str
    rate: Size | None = None
    grid: Size | None = None


OPS: tuple[Op, ...] = (
    Op('conv1x1'),
    *(Op('separable', rate=rate) for rate in itertools.product(RATES, RATES)),
    *(Op('pooling', grid=grid) for grid in itertools.product(GRIDS, GRIDS)),
)
"""The 81 operators; a genotype's `ops` are indices into this table."""

INDEX = {op: index for index, op in enumerate(OPS)}

# The same table as arrays, for programs in which the operator is data. Where an operator has no rate or grid the
# entry is one that keeps every index computed from it in range.
KIND_OF_OP = np.array([KINDS.index(op.kind) for op in OPS], np.int32)  # [81]
RATE_OF_OP = np.array([op.rate or (1, 1) for op in OPS], np.int32)  # [81, 2]
GRID_INDEX_OF_OP = np.array([[GRIDS.index(g) for g in op.grid or (1, 1)] for op in OPS], np.int32)  # [81, 2]


def op_name(index: int) -> str:
    """A short readable name: `conv1x1`, `sep 6x12`, `pool 2x4` (height first)."""
    op = OPS[index]
    if op.rate is not None:
        return f'sep {op.rate[0]}x{op.rate[1]}'
    return f'pool {op.grid[0]}x{op.grid[1]}' if op.grid is not None else op.kind


OP_NAMES = tuple(op_name(index) for index in range(len(OPS)))


@dataclasses.dataclass(frozen=True)
class Space:
    """All cells of `num_branches` branches (K >= 1)."""

    num_branches: int = 5

    def __post_init__(self) -> None:
        if self.num_branches < 1:
            raise InputError(f'num_branches is {self.num_branches}; a cell has at least 1 branch')

    @property
    def size(self) -> int:
        """Number of genotypes, exact: K! * 81^K (paper §3.1)."""
        return math.factorial(self.num_branches) * len(OPS) ** self.num_branches

    def sample(self, key: jax.Array, count: int | None = None) -> Genotype:
        """Draws genotypes uniformly over the space: `[K]`, or `[count, K]` where a count is given (int32, NumPy)."""
        key_inputs, key_ops = jax.random.split(key)
        shape = (self.num_branches,) if count is None else (count, self.num_branches)
        ends = np.broadcast_to(np.arange(self.num_branches, dtype=np.int32), shape)
        inputs = jax.random.randint(key_inputs, shape, FEATURES, ends)
        ops = jax.random.randint(key_ops, shape, 0, len(OPS))
        return Genotype(np.asarray(inputs, np.int32), np.asarray(ops, np.int32))

    def neighbours(self, genotype: Genotype, reach: str = 'adjacent') -> list[Genotype]:
        """All genotypes that differ from `genotype` `[K]` in one gene of one branch; see `neighbours_by_gene`."""
        return [other for group in self.neighbours_by_gene(genotype, reach).values() for other in group]

    def neighbours_by_gene(self, genotype: Genotype, reach: str = 'adjacent') -> dict[str, list[Genotype]]:
        """The neighbours of `genotype` `[K]` under the name of the gene that differs, e.g. `branch2.rate_height`.

        A gene is a branch's input, its kind, one rate or one grid (the paper leaves the neighbourhood open,
        §3.2). A new input is any that the branch may read; a new kind comes with each of its arguments.
        `reach` says what a rate or grid may become: 'adjacent' the next smaller or larger, 'any' every other one.
        Genes that have no other value (the input of branch 0) are left out.
        """
        if reach not in REACHES:
            raise InputError(f"neighbourhood '{reach}' is not known; allowed: {', '.join(REACHES)}")
        self.validate(genotype)
        groups: dict[str, list[Genotype]] = {}
        for branch in range(self.num_branches):
            here, op = int(genotype.inputs[branch]), int(genotype.ops[branch])
            sources = [_with(genotype, branch, source, op) for source in range(FEATURES, branch) if source != here]
            groups[f'branch{branch}.input'] = sources
            for gene, others in _op_neighbours(op, reach).items():
                groups[f'branch{branch}.{gene}'] = [_with(genotype, branch, here, other) for other in others]
        return {gene: group for gene, group in groups.items() if group}

    def validate(self, genotype: Genotype) -> None:
        """Raises InputError, naming branch, value and allowed values, unless `genotype` `[K]` is of this space."""
        for field, array in genotype._asdict().items():
            array = np.asarray(array)
            if array.shape != (self.num_branches,):
                raise InputError(
                    f'genotype.{field} has shape {array.shape}; a cell of this space has ({self.num_branches},)'
                )
            if array.dtype != np.int32:
                raise InputError(f'genotype.{field} has dtype {array.dtype}; allowed: int32')
        for branch, (source, op) in enumerate(zip(genotype.inputs, genotype.ops, strict=True)):
            _check_input(branch, int(source))
            if not 0 <= op < len(OPS):
                raise InputError(f'branch {branch}: op index {op} is not in 0..{len(OPS) - 1}')

    def canonical_key(self, genotype: Genotype) -> str:
        """A text equal for genotypes that are the same function, and different for all others.

        Every branch reads one input, so a cell is a tree with the features at the root, and all branches are
        concatenated, so only the order of the branches is without meaning: the key writes the tree with
        children sorted, e.g. `F[s1x6[s18x15[s6x3],s1x1,s6x21]]` for the released cell.
        """
        children: dict[int, list[int]] = {branch: [] for branch in range(FEATURES, self.num_branches)}
        for branch, source in enumerate(genotype.inputs):
            children[int(source)].append(branch)

        def text(branch: int) -> str:
            below = ','.join(sorted(text(child) for child in children[branch]))
            name = 'F' if branch == FEATURES else _KEY_NAMES[int(genotype.ops[branch])]
            return f'{name}[{below}]' if below else name

        return text(FEATURES)

    # ---- files ----------------------------------------------------------------------------------------------

    def to_json(self, genotype: Genotype) -> str:
        """The official file format: a list of branches with keys op, kernel, rate, grid_size, input."""
        self.validate(genotype)
        entries = [
            json.dumps({**_OP_TO_JSON[OPS[op].kind](OPS[op]), 'input': int(source)})
            for source, op in zip(genotype.inputs, genotype.ops, strict=True)
        ]
        return '[' + ',\n '.join(entries) + ']\n'

    def from_json(self, text: str, source: str = 'genotype') -> Genotype:
        """Reads the official format (`dense_prediction_cell_branch5_top1_cityscapes.json` loads as it is).

        Any negative `input` means the features, as in the official parser; `kernel`, `rate` and `grid_size` may be
        one number or two. Raises InputError (prefixed by `source`) for text that is not JSON, a wrong number of
        branches, a missing or unknown key, an op, kernel, rate, grid or input outside the space.
        """
        genotype = parse(text, source)
        if len(genotype.inputs) != self.num_branches:
            raise InputError(f'{source}: {len(genotype.inputs)} branches; allowed here: {self.num_branches}')
        return genotype

    def named(self, name: str) -> Genotype:
        """A cell known by name, at this space's number of branches (`NAMED` lists them).

        'dpc_top1' and 'aspp' have five branches and raise InputError in a space of fewer; in a larger space the
        further branches are 1x1 convolutions of the features.
        """
        if name not in _NAMED_CELLS:
            raise InputError(f"no cell is named '{name}'; allowed: {', '.join(NAMED)}")
        branches = _NAMED_CELLS[name]
        if len(branches) > self.num_branches:
            raise InputError(f"cell '{name}' has {len(branches)} branches; this space has {self.num_branches}")
        branches = branches + ((FEATURES, 'conv1x1'),) * (self.num_branches - len(branches))
        return _genotype([source for source, _ in branches], [OP_NAMES.index(op) for _, op in branches])

    # ---- named choices: what a study's dashboard shows --------------------------------------------------------

    def choices(self) -> dict[str, tuple[int, ...] | tuple[str, ...]]:
        """Parameter name -> allowed values, in order: `branch{i}.input` and `branch{i}.op` for each branch."""
        table: dict[str, tuple[int, ...] | tuple[str, ...]] = {}
        for branch in range(self.num_branches):
            table[f'branch{branch}.input'] = tuple(range(FEATURES, branch))
            table[f'branch{branch}.op'] = OP_NAMES
        return table

    def to_params(self, genotype: Genotype) -> dict[str, int | str]:
        """The genotype `[K]` as one of the `choices`."""
        params: dict[str, int | str] = {}
        for branch in range(self.num_branches):
            params[f'branch{branch}.input'] = int(genotype.inputs[branch])
            params[f'branch{branch}.op'] = OP_NAMES[int(genotype.ops[branch])]
        return params

    def from_params(self, params: dict[str, Any]) -> Genotype:
        """Inverse of `to_params`; parameters with other names are passed over."""
        branches = range(self.num_branches)
        inputs = [int(params[f'branch{branch}.input']) for branch in branches]
        return _genotype(inputs, [OP_NAMES.index(params[f'branch{branch}.op']) for branch in branches])


_KEY_NAMES = tuple(n.replace('sep ', 's').replace('pool ', 'p').replace('conv', 'c') for n in OP_NAMES)

_NAMED_CELLS: dict[str, tuple[tuple[int, str], ...]] = {
    # The released cell, best of 28K (paper Fig. 5a; official dense_prediction_cell_branch5_top1_cityscapes.json).
    'dpc_top1': ((FEATURES, 'sep 1x6'), (0, 'sep 18x15'), (1, 'sep 6x3'), (0, 'sep 1x1'), (0, 'sep 6x21')),
    # ASPP as the paper expresses it in the space (§3.1).
    'aspp': tuple((FEATURES, op) for op in ('conv1x1', 'sep 6x6', 'sep 12x12', 'sep 18x18', 'pool 1x1')),
    # No context at all: the floor under which no cell of use can score.
    'conv1x1': ((FEATURES, 'conv1x1'),),
}

NAMED = tuple(_NAMED_CELLS)


def parse(text: str, source: str = 'genotype') -> Genotype:
    """Reads a cell of any number of branches in the official format; see `Space.from_json`."""
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f'{source}: not JSON: {error}') from error
    if not isinstance(entries, list) or not entries:
        raise InputError(f'{source}: found {type(entries).__name__} {str(entries)[:40]}; expected a list of branches')
    inputs, ops = [], []
    for branch, entry in enumerate(entries):
        with _located(f'{source}: branch {branch}'):
            if not isinstance(entry, dict):
                raise InputError(f'found {entry!r}; expected an object with the keys op and input')
            ops.append(INDEX[_op_from_json(entry)])
        inputs.append(_input_from_json(source, branch, entry))
    return _genotype(inputs, ops)


def _genotype(inputs: list[int], ops: list[int]) -> Genotype:
    return Genotype(np.array(inputs, np.int32), np.array(ops, np.int32))


def _with(genotype: Genotype, branch: int, source: int, op: int) -> Genotype:
    inputs, ops = np.array(genotype.inputs, np.int32), np.array(genotype.ops, np.int32)
    inputs[branch], ops[branch] = source, op
    return Genotype(inputs, ops)


@functools.cache
def _op_neighbours(index: int, reach: str) -> dict[str, tuple[int, ...]]:
    """Gene -> the operators that differ from operator `index` in that gene alone."""
    op = OPS[index]
    groups = {'kind': tuple(other for other, candidate in enumerate(OPS) if candidate.kind != op.kind)}
    if op.rate is not None:
        for axis, sizes in _changed(op.rate, RATES, reach).items():
            groups[f'rate_{axis}'] = tuple(INDEX[op._replace(rate=size)] for size in sizes)
    if op.grid is not None:
        for axis, sizes in _changed(op.grid, GRIDS, reach).items():
            groups[f'grid_{axis}'] = tuple(INDEX[op._replace(grid=size)] for size in sizes)
    return groups


def _changed(size: Size, values: tuple[int, ...], reach: str) -> dict[str, list[Size]]:
    height, width = size
    return {
        'height': [(other, width) for other in _others(height, values, reach)],
        'width': [(height, other) for other in _others(width, values, reach)],
    }


def _others(now: int, values: tuple[int, ...], reach: str) -> list[int]:
    here = values.index(now)
    return [value for at, value in enumerate(values) if at != here and (reach == 'any' or abs(at - here) == 1)]


def _check_input(branch: int, source: int) -> None:
    if not FEATURES <= source < branch:
        allowed = 'only the features (-1)' if branch == 0 else f'the features (-1) or a branch 0..{branch - 1}'
        raise InputError(f'branch {branch}: input {source}; it may read {allowed}')


# ---- the official JSON ------------------------------------------------------------------------------------------

_OP_TO_JSON: dict[str, Callable[[Op], dict[str, Any]]] = {
    'conv1x1': lambda op: {'op': 'conv', 'kernel': 1},
    'separable': lambda op: {'op': 'conv', 'kernel': 3, 'rate': list(op.rate or ())},
    'pooling': lambda op: {'op': 'pyramid_pooling', 'grid_size': list(op.grid or ())},
}

# `target_size` (and a pooling's `kernel`) are written back by the official parser; files saved after that have them.
_JSON_KEYS = {
    'conv': ('op', 'input', 'kernel', 'rate'),
    'pyramid_pooling': ('op', 'input', 'grid_size', 'kernel', 'target_size'),
}


@contextlib.contextmanager
def _located(place: str) -> Iterator[None]:
    """Puts the place in front of the message of an InputError raised within."""
    try:
        yield
    except InputError as error:
        raise InputError(f'{place}: {error}') from None


def _op_from_json(entry: dict[str, Any]) -> Op:
    name = entry.get('op')
    if not isinstance(name, str) or name not in _JSON_KEYS:
        raise InputError(f'op {name!r}; allowed: {", ".join(map(repr, _JSON_KEYS))}')
    for key in entry:
        if key not in _JSON_KEYS[name]:
            raise InputError(f'unknown key {key!r}; {name} has: {", ".join(_JSON_KEYS[name])}')
    if name == 'pyramid_pooling':
        return Op('pooling', grid=_pair(entry, 'grid_size', GRIDS))
    kernel = _pair(entry, 'kernel', (1, 3))
    if kernel == (1, 1):
        return Op('conv1x1')
    if kernel == (3, 3):
        return Op('separable', rate=_pair(entry, 'rate', RATES))
    raise InputError(f'kernel {list(kernel)}; allowed: 1 or 3, the same for height and width')


def _pair(entry: dict[str, Any], key: str, allowed: tuple[int, ...]) -> Size:
    if key not in entry:
        raise InputError(f'key {key!r} is missing; allowed values: {allowed}')
    value = entry[key]
    pair = value if isinstance(value, list) else [value, value]
    if len(pair) != 2 or any(isinstance(v, bool) or v not in allowed for v in pair):
        raise InputError(f'{key} {value!r}; allowed: {allowed} for height and for width')
    return int(pair[0]), int(pair[1])


def _input_from_json(source: str, branch: int, entry: dict[str, Any]) -> int:
    with _located(source):
        if 'input' not in entry:
            raise InputError(f"branch {branch}: key 'input' is missing; it may be -1 or an earlier branch")
        value = entry['input']
        if isinstance(value, bool) or not isinstance(value, int):
            raise InputError(f'branch {branch}: input {value!r}; expected an integer')
        value = max(value, FEATURES)
        _check_input(branch, value)
    return value
