"""The search space of the Dense Prediction Cell: every cell of K branches."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from dpc_jax.base import FEATURES, InputError, Size, with_unit
from dpc_jax.spaces import Graph, Node, OperatorGroup
from dpc_jax.spaces.dpc import official_json, operators
from dpc_jax.spaces.dpc.cost import count
from dpc_jax.spaces.dpc.genotype import Genotype, check_input, make_genotype
from dpc_jax.spaces.dpc.operators import COLOURS, GRIDS, KINDS, OP_NAMES, OPS, RATES, REACHES, box_lines, op_neighbours

COSTS = ('params', 'macs', 'projection_params', 'projection_macs')

HOW_TO_READ = (
    'How to read a cell: `F` are the features, `c1x1` a 1×1 convolution, `s6x12` a 3×3 separable convolution at rate '
    '6 (height) × 12 (width), `p2x4` pooling on a grid of 2 × 4; `a[b,c]` are the branches b and c that read a.'
)


_KEY_NAMES = tuple(n.replace('sep ', 's').replace('pool ', 'p').replace('conv', 'c') for n in OP_NAMES)

_NAMED_CELLS: dict[str, tuple[tuple[int, str], ...]] = {
    # The released cell, best of 28K (paper Fig. 5a; official dense_prediction_cell_branch5_top1_cityscapes.json).
    'dpc_top1': ((FEATURES, 'sep 1x6'), (0, 'sep 18x15'), (1, 'sep 6x3'), (0, 'sep 1x1'), (0, 'sep 6x21')),
    # ASPP as the paper expresses it in the space (§3.1).
    'aspp': tuple((FEATURES, op) for op in ('conv1x1', 'sep 6x6', 'sep 12x12', 'sep 18x18', 'pool 1x1')),
    # No context at all: a useful cell must score higher.
    'conv1x1': ((FEATURES, 'conv1x1'),),
}

NAMED = tuple(_NAMED_CELLS)


@dataclasses.dataclass(frozen=True)
class Space:
    """All cells of `num_branches` branches (K >= 1).

    >>> space = dpc_jax.Space(5)
    >>> cells = space.sample(jax.random.key(0), 64)
    >>> text = space.to_json(space.named('dpc_top1'))
    """

    num_branches: int = 5

    def __post_init__(self) -> None:
        if type(self.num_branches) is not int or self.num_branches < 1:
            raise InputError(f'num_branches is {self.num_branches!r}; a cell has at least 1 branch')

    @classmethod
    def of(cls, genotype: Genotype) -> 'Space':
        """The space of cells with as many branches as `genotype` `[K]`."""
        shape = np.shape(genotype.ops)
        if len(shape) != 1:
            raise InputError(f'the genotype has ops of shape {shape}; give one cell, [K], and no population')
        return cls(shape[0])

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
            for gene, others in op_neighbours(op, reach).items():
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
            check_input(branch, int(source))
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
        return official_json.to_json(genotype)

    def from_json(self, text: str, source: str = 'genotype') -> Genotype:
        """Reads the official format (`dense_prediction_cell_branch5_top1_cityscapes.json` loads as it is).

        Any negative `input` means the features, as in the official parser; `kernel`, `rate` and `grid_size` may be
        one number or two. Raises InputError (prefixed by `source`) for text that is not JSON, a wrong number of
        branches, a missing or unknown key, an op, kernel, rate, grid or input outside the space.
        """
        genotype = official_json.parse(text, source)
        if len(genotype.inputs) != self.num_branches:
            raise InputError(f'{source}: {len(genotype.inputs)} branches; allowed here: {self.num_branches}')
        return genotype

    @property
    def names(self) -> tuple[str, ...]:
        """What `named` knows."""
        return NAMED

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
        return make_genotype([source for source, _ in branches], [OP_NAMES.index(op) for _, op in branches])

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
        return make_genotype(inputs, [OP_NAMES.index(params[f'branch{branch}.op']) for branch in branches])

    # ---- what is shown -----------------------------------------------------------------------------------------

    def graph(self, genotype: Genotype) -> Graph:
        """The branches `[K]` as boxes; all of them are concatenated."""
        ops = [OPS[int(op)] for op in genotype.ops]
        nodes = tuple(
            Node(box_lines(op), COLOURS[op.kind], (int(source),))
            for op, source in zip(ops, genotype.inputs, strict=True)
        )
        return Graph(nodes, tuple(range(len(nodes))))

    def further_graphs(self, genotype: Genotype) -> dict[str, Graph]:
        """None: a cell is all that there is."""
        return {}

    def operator_groups(self) -> tuple[OperatorGroup, ...]:
        """The operators in three groups: 1x1, separable by rate, pooling by grid."""
        conv, separable, pooling = (tuple(index for index, op in enumerate(OPS) if op.kind == kind) for kind in KINDS)
        rates = '3×3 separable convolution, by atrous rate'
        return (
            OperatorGroup('1×1 convolution', COLOURS['conv1x1'], conv),
            OperatorGroup('3×3 separable', COLOURS['separable'], separable, RATES, 'rate', rates),
            OperatorGroup('pooling', COLOURS['pooling'], pooling, GRIDS, 'grid', 'Pooling, by grid'),
        )

    def operators_of(self, genotype: Genotype) -> frozenset[int]:
        """Indices into the table of operators."""
        return frozenset(int(op) for op in genotype.ops)

    def at_size(self, genotype: Genotype, sizes: Mapping[int, Size]) -> Genotype:
        """Rates at which no tap but the centre reads the map are equal: the smallest of them stands for all.

        A cell reads one map, `sizes` has its output stride and its size; rates are meant for output stride 16.
        """
        ((output_stride, size),) = sizes.items()
        ops = [operators.at_size(int(op), size, 16 / output_stride) for op in genotype.ops]
        return Genotype(np.array(genotype.inputs, np.int32), np.array(ops, np.int32))

    def cost(self, genotype: Genotype, settings: Mapping[str, Any]) -> dict[str, int]:
        """'params' and 'macs' of the branches, as in Table 1 of the paper, and those of the projection beside them."""
        features, cell = settings.get('features', {}), settings.get('cell', {})
        if not ({'size', 'channels'} <= features.keys() and {'filters', 'pooling'} <= cell.keys()):
            return {}
        counts = count(
            genotype,
            size=tuple(features['size']),
            channels=features['channels'],
            filters=cell['filters'],
            pooling=cell['pooling'],
        )
        return dict(zip(COSTS, counts, strict=True))

    def how_to_read(self, costs: Mapping[str, int]) -> str:
        """What is counted, where it is known, and the letters of keys."""
        if not costs:
            return HOW_TO_READ
        projection = ' and '.join(with_unit(costs[name]) for name in ('projection_params', 'projection_macs'))
        counted = f'Counted are the weights of the branches; the projection has {projection} in every cell.'
        return f'{counted}\n\n{HOW_TO_READ}'


def _with(genotype: Genotype, branch: int, source: int, op: int) -> Genotype:
    inputs, ops = np.array(genotype.inputs, np.int32), np.array(genotype.ops, np.int32)
    inputs[branch], ops[branch] = source, op
    return Genotype(inputs, ops)
