"""The two views of a cell are one function, and a population is its members.

`DensePredictionCell.of(genotype)` is what gets trained and released; `cell.apply`, in which the genotype is data, is
what the search scores. Were they different functions, the search would rank cells that nobody can train.

The views are compared in float64, where rounding is some 1e-15 and batch statistics amplify it to 1e-12 at most:
whatever differs by more is a difference of meaning. Static programs are compiled with little optimisation, since
compiling is nearly all that these tests do.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpc_jax import cell, cell_transfer
from dpc_jax.base import FEATURES, PyTree
from dpc_jax.cell import CellParams, CellSettings, CellStats, DensePredictionCell, Unit
from dpc_jax.ops import Moments
from dpc_jax.spaces import dpc
from dpc_jax.spaces.dpc import Genotype

LITTLE_OPTIMISATION = {
    'xla_backend_optimization_level': 0,
    'xla_llvm_disable_expensive_passes': True,
    'xla_cpu_parallel_codegen_split_count': 1,
    'xla_cpu_use_fusion_emitters': False,  # jax 0.12 has no such option any more
}

TOLERANCE = 1e-10  # of the largest entry of the tree; measured: 4e-13


class Case(NamedTuple):
    """What a program is compiled for, and the features that it reads."""

    settings: CellSettings
    channels: int
    size: tuple[int, int] = (6, 7)
    batch: int = 2
    train: bool = True
    kernels: str = 'plain'


# Between them: more features than filters and fewer, both poolings, both output strides.
WIDE = Case(CellSettings(filters=3, output_stride=16, pooling='sliding', dropout_rate=0.3), channels=5)
NARROW = Case(CellSettings(filters=4, output_stride=8, pooling='binned', dropout_rate=0.3), channels=2)
CASES = {'wide': WIDE, 'narrow': NARROW}


class Result(NamedTuple):
    """What a view gives: trees in the layout of the static one."""

    output: jax.Array
    batch_stats: PyTree
    grads: PyTree
    grad_features: jax.Array


@pytest.fixture
def float64():
    with jax.enable_x64(True), jax.numpy_dtype_promotion('standard'):
        yield


@functools.cache
def quick() -> dict[str, int]:
    """Those of `LITTLE_OPTIMISATION` that the installed compiler knows."""
    return {name: value for name, value in LITTLE_OPTIMISATION.items() if is_known(name, value)}


def is_known(name: str, value: int) -> bool:
    try:
        jax.jit(jnp.zeros, static_argnums=0, compiler_options={name: value})(1)
    except jax.errors.JaxRuntimeError as error:
        if 'No such compile option' not in str(error):
            raise
        return False
    return True


def genotype_of(*branches: tuple[int, int | str]) -> Genotype:
    """A genotype from (input, index or name of the operator) of each branch."""
    inputs, chosen = zip(*branches, strict=True)
    indices = [dpc.OP_NAMES.index(op) if isinstance(op, str) else op for op in chosen]
    return Genotype(np.array(inputs, np.int32), np.array(indices, np.int32))


def random_cell(num_branches: int, seed: int) -> Genotype:
    return dpc.Space(num_branches).sample(jax.random.key(seed))


def lively(genotype: Genotype, case: Case, seed: int = 0) -> tuple[CellParams, CellStats]:
    """Random variables of the dynamic view: 0 where no channel enters a branch, alive everywhere else.

    The depthwise kernels of branches that are not separable are alive too, and must not be felt.
    """
    filters, num_branches = case.settings.filters, len(genotype.ops)
    width = max(case.channels, filters)
    entering = np.where(genotype.inputs == FEATURES, case.channels, filters)
    enters = (np.arange(width) < entering[:, None]).astype(float)
    normal = np.random.default_rng(seed).standard_normal

    def unit(kernel: np.ndarray, enters: np.ndarray | float = 1.0) -> Unit:
        shape = (*kernel.shape[:-3], kernel.shape[-1]) if kernel.ndim == 4 else (*kernel.shape[:-2], kernel.shape[-1])
        return Unit(kernel, 1 + 0.2 * normal(shape) * enters, 0.3 * normal(shape) * enters)

    params = CellParams(
        unit(normal((num_branches, 3, 3, width)) * enters[:, None, None], enters),
        unit(normal((num_branches, width, filters)) * enters[:, :, None]),
        unit(normal((num_branches * filters, filters))),
    )

    def moments(unit: Unit, enters: np.ndarray | float = 1.0) -> Moments:
        shape = unit.scale.shape
        return Moments(0.2 * normal(shape) * enters, np.abs(1 + 0.2 * normal(shape)) + 0.1)

    stats = CellStats(moments(params.depthwise, enters), moments(params.pointwise), moments(params.projection))
    return jax.tree.map(jnp.asarray, (params, stats))


def inputs_of(case: Case, seed: int = 0) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Features, the direction of the linear functional whose gradient is taken, the dropout key."""
    normal = np.random.default_rng(seed + 1).standard_normal
    features = normal((case.batch, *case.size, case.channels))
    direction = normal((case.batch, *case.size, case.settings.filters))
    return jnp.asarray(features), jnp.asarray(direction), jax.random.key(seed)


def with_gradients(
    run: Callable[[PyTree, jax.Array], tuple[jax.Array, PyTree]],
    params: PyTree,
    features: jax.Array,
    direction: jax.Array,
) -> Result:
    def functional(params: PyTree, features: jax.Array) -> tuple[jax.Array, tuple[jax.Array, PyTree]]:
        output, stats = run(params, features)
        return (output * direction).sum(), (output, stats)

    grads, (output, stats) = jax.grad(functional, argnums=(0, 1), has_aux=True)(params, features)
    return Result(output, stats, *grads)


def applied(case: Case, *args: PyTree, **more: PyTree) -> tuple[jax.Array, CellStats]:
    """The dynamic view; `args` are parameters, moving averages, genotype, features, dropout key."""
    *given, key = args
    return cell.apply(*given, settings=case.settings, train=case.train, dropout_key=key, kernels=case.kernels, **more)


class DynamicProgram:
    """The program of all cells of a case: compiled once, and it counts how often it is traced."""

    def __init__(self, case: Case) -> None:
        self.traces = 0

        def program(params, stats, genotype, features, direction, key):
            self.traces += 1

            def run(params, features):
                return applied(case, params, stats, genotype, features, key)

            return with_gradients(run, params, features, direction)

        self.call = jax.jit(program, compiler_options=quick())


@functools.cache
def dynamic_program(case: Case, num_branches: int) -> DynamicProgram:
    del num_branches  # one program for each number of branches: the key of the cache
    return DynamicProgram(case)


def static_result(genotype: Genotype, case: Case, variables: PyTree, inputs: tuple[jax.Array, ...]) -> Result:
    module = DensePredictionCell.of(genotype, case.settings)

    def program(variables, features, direction, key):
        def run(params, features):
            variables_of = {**variables, 'params': params}
            output, moved = module.apply(variables_of, features, case.train, key, mutable=['batch_stats'])
            return output, moved['batch_stats']

        return with_gradients(run, variables['params'], features, direction)

    return jax.jit(program, compiler_options=quick())(variables, *inputs)


def assert_one_function(genotype: Genotype, case: Case, seed: int = 0) -> None:
    """Output, batch statistics, gradients of all parameters and of the features agree between the views."""
    params, stats = lively(genotype, case, seed)
    inputs = inputs_of(case, seed)
    program = dynamic_program(case, len(genotype.ops))
    found = program.call(params, stats, genotype, *inputs)
    # The first use of Pallas' interpreter sets what JAX 0.12 compiles for, so the next call of a program traces again.
    assert program.traces <= (2 if case.kernels == 'interpret' else 1)

    variables = cell_transfer.to_static(params, stats, genotype, case.channels)
    expected = static_result(genotype, case, variables, inputs)
    sliced = cell_transfer.to_static(found.grads, found.batch_stats, genotype, case.channels)
    assert nonzeros(found.grads) == nonzeros(sliced['params'])  # all that the static view lacks is exactly 0
    plain = dpc.KIND_OF_OP[genotype.ops] != dpc.SEPARABLE
    for moved, old in zip(found.batch_stats.depthwise, stats.depthwise, strict=True):
        np.testing.assert_array_equal(moved[plain], old[plain])  # a norm that is not run remembers what it knew
    found = Result(found.output, sliced['batch_stats'], sliced['params'], found.grad_features)
    for actual, wanted in zip(found, expected, strict=True):
        assert_close(actual, wanted)


def nonzeros(tree: PyTree) -> int:
    return sum(np.count_nonzero(leaf) for leaf in jax.tree.leaves(tree))


def assert_close(actual: PyTree, expected: PyTree) -> None:
    """To `TOLERANCE` of the largest entry."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(expected))

    def compare(path: tuple, actual: jax.Array, expected: jax.Array) -> None:
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE * largest, err_msg=name)

    jax.tree_util.tree_map_with_path(compare, actual, expected)


# ---- every operator -------------------------------------------------------------------------------------------------

LAST = len(dpc.OPS) - 1


def pair(first: int, second: int) -> Genotype:
    """One operator on the features, another on what it gives."""
    return genotype_of((FEATURES, first), (0, second))


BINNED = [op for op, kind in enumerate(dpc.KIND_OF_OP) if kind == dpc.POOLING]


def name_of(op: int) -> str:
    return dpc.op_name(op).replace(' ', '_')


@pytest.mark.usefixtures('float64')
@pytest.mark.parametrize('op', range(LAST // 2 + 1), ids=name_of)
@pytest.mark.parametrize('case', CASES)
def test_every_operator_is_one_function_in_both_views(case, op):
    # Each of the 81 reads the features in one of the cases and another operator in the other.
    first, second = (op, LAST - op) if case == 'wide' else (LAST - op, op)
    assert_one_function(pair(first, second), CASES[case], seed=op)


@pytest.mark.slow
@pytest.mark.usefixtures('float64')
@pytest.mark.parametrize(
    ('case', 'pooling', 'train', 'op'),
    [
        *(pytest.param('narrow', 'sliding', False, op, id=f'inference-{name_of(op)}') for op in range(len(dpc.OPS))),
        *(pytest.param('wide', 'binned', True, op, id=f'binned-{name_of(op)}') for op in BINNED),
    ],
)
def test_every_operator_behind_itself_in_the_other_settings(case, pooling, train, op):
    case = CASES[case]._replace(train=train, settings=CASES[case].settings._replace(pooling=pooling))
    assert_one_function(pair(op, op), case, seed=op)


# ---- cells ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures('float64')
@pytest.mark.parametrize(
    ('case', 'num_branches', 'train'),
    [('narrow', 1, True), ('wide', 3, False), ('narrow', 4, True), ('wide', 5, True), ('narrow', 8, False)],
)
def test_random_cells_are_one_function_in_both_views(case, num_branches, train):
    assert_one_function(random_cell(num_branches, seed=0), CASES[case]._replace(train=train))


@pytest.mark.slow
@pytest.mark.usefixtures('float64')
@pytest.mark.parametrize('num_branches', [2])
@pytest.mark.parametrize(('case', 'train'), [('wide', True), ('narrow', False)])
def test_more_random_cells(case, train, num_branches):
    assert_one_function(random_cell(num_branches, seed=10), CASES[case]._replace(train=train))


@pytest.mark.usefixtures('float64')
@pytest.mark.parametrize(('case', 'train'), [('wide', True), ('narrow', False)])
def test_named_cells_are_one_function_in_both_views(case, train):
    for name in dpc.NAMED:
        assert_one_function(dpc.Space(5).named(name), CASES[case]._replace(train=train))


# ---- kernels for a GPU ----------------------------------------------------------------------------------------------

# Every kind on the features and on another branch, a branch that two read, grids and rates that differ by axis.
MIXED = genotype_of(
    (FEATURES, 'sep 1x6'), (0, 'pool 2x4'), (FEATURES, 'conv1x1'), (0, 'sep 6x3'), (FEATURES, 'pool 1x2')
)


@pytest.mark.usefixtures('float64')
@pytest.mark.parametrize('case', CASES)
def test_the_kernels_for_a_gpu_are_the_same_function(case):
    # Interpreted: what Triton would compile, block by block. One program for all cells of five branches here too.
    case = CASES[case]._replace(kernels='interpret')
    assert_one_function(MIXED, case)
    assert_one_function(genotype_of(*[(FEATURES, 'conv1x1')] * 4, (3, 'sep 21x1')), case)


def test_the_kernels_run_a_population_and_round_only_their_maps():
    # In bfloat16, batched, without a gradient of the features: as in a search. Held against the plain program. More
    # cells, rows and channels than a block takes, and no whole number of blocks.
    case = Case(WIDE.settings._replace(filters=20, dropout_rate=0.0), channels=37, size=(9, 11))
    population = [
        genotype_of((FEATURES, 'sep 3x6'), (0, 'pool 2x1')),
        genotype_of((FEATURES, 'conv1x1'), (0, 'sep 1x1')),
    ]
    variables = stacked([lively(genotype, case, seed) for seed, genotype in enumerate(population)])
    features, _, key = inputs_of(case)
    logits = jnp.asarray(np.random.default_rng(3).standard_normal((20, 4)), jnp.float32)

    def program(kernels: str, features: jax.Array) -> Result:
        def one(params, stats, genotype):
            def run(params):
                of_kernels = case._replace(kernels=kernels)
                output, moved = applied(
                    of_kernels, params, stats, genotype, features, key, logits=logits, features_fixed=True
                )
                return jnp.square(output).sum(), (output, moved)

            return jax.grad(run, has_aux=True)(params)

        return jax.jit(jax.vmap(one), compiler_options=quick())(*variables, stacked(population))

    exact, same = (program(kernels, features) for kernels in ('plain', 'interpret'))
    assert max(errors(same, exact)) < 1e-5  # measured: 2e-6
    rough, kernels = (program(kernels, features.astype(jnp.bfloat16)) for kernels in ('plain', 'interpret'))
    assert kernels[1][0].dtype == jnp.float32
    # Measured: up to 0.11, and 0.7 to 1.2 times of each other.
    assert all(
        mine < 1.5 * plain + 1e-4 for mine, plain in zip(errors(kernels, exact), errors(rough, exact), strict=True)
    )


def errors(found: PyTree, expected: PyTree) -> list[float]:
    """Of each leaf, in the root mean square, of that of the leaf itself."""

    def error(one: jax.Array, other: jax.Array) -> float:
        return float(jnp.sqrt(jnp.square(one - other).mean() / (jnp.square(other).mean() + 1e-6)))

    return jax.tree.leaves(jax.tree.map(error, found, expected))


# ---- where sizes end ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures('float64')
@pytest.mark.parametrize(
    ('size', 'batch', 'pooling'),
    [((1, 1), 3, 'sliding'), ((1, 1), 1, 'binned'), ((2, 3), 1, 'sliding'), ((2, 3), 2, 'binned')],
)
def test_maps_smaller_than_every_rate_and_grid(size, batch, pooling):
    genotype = genotype_of((FEATURES, 'sep 21x18'), (0, 'pool 8x4'), (FEATURES, 'pool 2x8'))
    case = WIDE._replace(size=size, batch=batch, settings=WIDE.settings._replace(pooling=pooling))
    assert_one_function(genotype, case)


@pytest.mark.usefixtures('float64')
def test_a_rate_that_leaves_the_map_is_a_product_with_the_centre_of_the_kernel():
    # Both views at once against the plainest thing that they could be: rate 15 on a 6x7 map reads no neighbour.
    settings = WIDE.settings._replace(dropout_rate=0.0)
    genotype, case = genotype_of((FEATURES, 'sep 15x15')), WIDE._replace(train=False, settings=settings)
    params, stats = lively(genotype, case)
    features, *_ = inputs = inputs_of(case)
    unit, pointwise, projection = jax.tree.map(np.asarray, params)
    moving = jax.tree.map(np.asarray, stats)

    def normed(x: np.ndarray, unit: Unit, moments: Moments) -> np.ndarray:
        y = (x - moments.mean) / np.sqrt(moments.var + 1e-5) * unit.scale + unit.bias
        return np.maximum(y, 0)

    x = normed(np.asarray(features) * unit.kernel[0, 1, 1], *jax.tree.map(lambda a: a[0], (unit, moving.depthwise)))
    x = normed(x @ pointwise.kernel[0], *jax.tree.map(lambda a: a[0], (pointwise, moving.pointwise)))
    expected = normed(x @ projection.kernel, projection, moving.projection)
    found = dynamic_program(case, 1).call(params, stats, genotype, *inputs)
    np.testing.assert_allclose(found.output, expected, rtol=0, atol=1e-12)
    variables = cell_transfer.to_static(params, stats, genotype, case.channels)
    np.testing.assert_allclose(static_result(genotype, case, variables, inputs).output, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize('case', CASES)
def test_bfloat16_features_give_bfloat16_and_nearly_what_float32_gives(case):
    # Eight bits of mantissa through five products and norms: the views round at different places, so each is held
    # against float32. Measured: 0.05 of the spread, 0.010 in the root mean square.
    case = CASES[case]
    genotype = genotype_of((FEATURES, 'sep 3x6'), (0, 'pool 2x1'), (FEATURES, 'conv1x1'))
    params, stats = lively(genotype, case)
    features, _, key = inputs_of(case)

    @functools.partial(jax.jit, compiler_options=quick())
    def dynamic(genotype, features):
        return applied(case, params, stats, genotype, features, key)

    @functools.partial(jax.jit, compiler_options=quick())
    def static(features):
        module = DensePredictionCell.of(genotype, case.settings)
        variables = cell_transfer.to_static(params, stats, genotype, case.channels)
        output, moved = module.apply(variables, features, True, key, mutable=['batch_stats'])
        return output, moved['batch_stats']

    exact, _ = static(features)
    rough = features.astype(jnp.bfloat16)
    for output, moved in (static(rough), dynamic(genotype, rough)):
        assert output.dtype == jnp.bfloat16
        assert {leaf.dtype for leaf in jax.tree.leaves(moved)} == {jnp.dtype('float32')}
        error = (output.astype(jnp.float32) - exact) / exact.std()
        assert jnp.abs(error).max() < 0.15
        assert jnp.sqrt(jnp.square(error).mean()) < 0.03


# ---- a population ---------------------------------------------------------------------------------------------------

POPULATION = [
    genotype_of((FEATURES, 'sep 1x6'), (0, 'sep 18x15')),
    genotype_of((FEATURES, 'conv1x1'), (0, 'pool 2x4')),
    genotype_of((FEATURES, 'pool 8x1'), (FEATURES, 'sep 3x3')),
    genotype_of((FEATURES, 'sep 3x1'), (FEATURES, 'conv1x1')),
]


def stacked(trees: list[PyTree]) -> PyTree:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def member(tree: PyTree, index: int) -> PyTree:
    return jax.tree.map(lambda leaf: np.asarray(leaf[index]), tree)


@functools.cache
def population_program(*, batched: bool) -> Callable[..., Result]:
    """Training mode in float32, all members on the same features and with the same dropout."""

    def one(params, stats, genotype, used, features, direction, key):
        def run(params, features):
            return applied(WIDE, params, stats, genotype, features, key, used=used)

        return with_gradients(run, params, features, direction)

    axes = (0, 0, 0, None, None, None, None)
    # The many are compiled as in a search: their laws hold bit for bit, and bits depend on the compiler.
    return jax.jit(jax.vmap(one, in_axes=axes)) if batched else jax.jit(one, compiler_options=quick())


def run_population(genotypes: list[Genotype], seeds: list[int], used: cell.Uses | None = None) -> Result:
    variables = [lively(genotype, WIDE, seed) for genotype, seed in zip(genotypes, seeds, strict=True)]
    population = stacked(genotypes)
    used = cell.uses(population) if used is None else used
    return population_program(batched=True)(*stacked(variables), population, used, *inputs_of(WIDE))


def assert_same_bits(actual: PyTree, expected: PyTree) -> None:
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_a_population_is_its_members_one_by_one():
    # Not bit for bit: XLA sums a batched product in another order. Measured: 6e-7 of the largest entry.
    together = run_population(POPULATION, [0, 1, 2, 3])
    for index, genotype in enumerate(POPULATION):
        variables = lively(genotype, WIDE, index)
        alone = population_program(batched=False)(*variables, genotype, cell.uses(genotype), *inputs_of(WIDE))
        for found, expected in zip(member(together, index), alone, strict=True):
            largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
            jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-5 * largest), found, expected)


@pytest.mark.parametrize('index', [0, 1])
def test_neighbours_do_not_change_a_bit(index):
    # The neighbours of the one all pool and of the other none does, and their weights are others.
    neighbours = [genotype_of(*[(FEATURES, op)] * 2) for op in ('pool 4x2', 'sep 21x21')]
    before = run_population(POPULATION, [0, 1, 2, 3])
    among = [neighbours[index]] * 4
    among[index] = POPULATION[index]
    seeds = [7, 8, 9, 10]
    seeds[index] = index
    assert_same_bits(member(run_population(among, seeds), index), member(before, index))


def test_a_permuted_population_gives_permuted_results():
    order = [2, 0, 3, 1]
    before = run_population(POPULATION, [0, 1, 2, 3])
    after = run_population([POPULATION[index] for index in order], order)
    assert_same_bits(after, jax.tree.map(lambda leaf: leaf[np.array(order)], before))


def test_what_a_population_uses_is_told_by_branch():
    def told(genotypes: Genotype) -> list[list[bool]]:
        return [flags.tolist() for flags in cell.uses(genotypes)]

    # Reads the features, convolves, pools.
    assert told(stacked(POPULATION)) == [[True, True], [True, True], [True, True]]
    assert told(stacked(POPULATION[:2])) == [[True, False], [True, True], [False, True]]
    assert told(POPULATION[2]) == [[True, True], [False, True], [True, False]]
    assert told(POPULATION[3]) == [[True, True], [True, False], [False, False]]


def test_what_is_said_to_be_used_does_not_change_a_bit():
    # No second branch reads the features and none pools: what is said to be used is skipped, or run and not taken.
    frugal = [POPULATION[0], genotype_of((FEATURES, 'conv1x1'), (0, 'sep 3x3'))] * 2
    assert not cell.uses(stacked(frugal)).features[1]
    least = run_population(frugal, [0, 1, 2, 3])
    most = run_population(frugal, [0, 1, 2, 3], cell.Uses(*jnp.ones((3, 2), bool)))
    assert_same_bits(least, most)
