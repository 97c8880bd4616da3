"""The cell against the official code's numbers; how it starts; what carries it from one view to the other."""

import functools
import importlib.util
import json
import pathlib
import types
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpc_jax import cell, cell_transfer
from dpc_jax.base import FEATURES, InputError, PyTree
from dpc_jax.cell import CellSettings, DensePredictionCell
from dpc_jax.spaces import dpc
from dpc_jax.spaces.dpc import Genotype

Find = Callable[[str], pathlib.Path]

MIXED = Genotype(  # every kind of operator, on the features and on a branch
    np.array([FEATURES, 0, FEATURES, FEATURES, 3, 2], np.int32),
    np.array(
        [dpc.OP_NAMES.index(op) for op in ('conv1x1', 'pool 2x4', 'pool 1x1', 'sep 1x6', 'sep 3x3', 'conv1x1')],
        np.int32,
    ),
)


@pytest.fixture
def float64():
    # Standard promotion: strict has no way from float32 to float64, which only these tests want.
    with jax.enable_x64(True), jax.numpy_dtype_promotion('standard'):
        yield


# ---- official names -------------------------------------------------------------------------------------------------

OFFICIAL = {'gamma': 'scale', 'beta': 'bias', 'moving_mean': 'mean', 'moving_variance': 'var'}


def from_official(values: dict[str, np.ndarray]) -> PyTree:
    """Variables of the static view from arrays under their official names."""
    variables: PyTree = {'params': {}, 'batch_stats': {}}
    for name, value in values.items():
        _, scope, *_, leaf = name.split('/')
        if leaf in OFFICIAL:
            collection = 'batch_stats' if leaf.startswith('moving') else 'params'
            variables[collection].setdefault(scope, {}).setdefault('BatchNorm', {})[OFFICIAL[leaf]] = value
        else:
            kernel = value.transpose(0, 1, 3, 2) if leaf == 'depthwise_weights' else value
            variables['params'].setdefault(scope, {})['kernel'] = kernel
    return jax.tree.map(jnp.asarray, variables)


# ---- golden: inference ----------------------------------------------------------------------------------------------


@pytest.fixture(params=['top1_os16', 'top1_os8_multiplier2', 'mixed_ops_os16'])
def golden(request: pytest.FixtureRequest, shared: Find) -> types.SimpleNamespace:
    """One cell of the official code: genotype, settings, variables (static), features, what it gave."""
    stored = json.loads(shared('golden/cell/dpc_golden.json').read_text())[request.param]

    def array(value: dict, name: str) -> np.ndarray:
        return np.array(value[name], np.float32)

    genotype = dpc.Space(5).from_json(json.dumps(stored['config']))
    values = {name: array(value, 'data').reshape(value['shape']) for name, value in stored['variables'].items()}
    assert stored['hparams']['conv_rate_multiplier'] == cell.rate_multiplier(stored['output_stride'])
    return types.SimpleNamespace(
        genotype=genotype,
        settings=CellSettings(filters=stored['hparams']['reduction_size'], output_stride=stored['output_stride']),
        variables=from_official(values),
        features=array(stored, 'input').reshape(stored['input_nhwc_shape']),
        concat=array(stored, 'concat').reshape(stored['concat_shape']),
        output=array(stored, 'output').reshape(stored['output_shape']),
    )


def test_static_view_gives_the_official_concatenation_and_output(golden: types.SimpleNamespace) -> None:
    module = DensePredictionCell.of(golden.genotype, golden.settings)
    projected = {}

    def note(next_function, args, kwargs, context):
        if context.module.name == 'concat_projection':
            projected['input'] = args[0]
        return next_function(*args, **kwargs)

    with nn.intercept_methods(note):
        output = module.apply(golden.variables, jnp.asarray(golden.features))
    np.testing.assert_allclose(projected['input'], golden.concat, rtol=0, atol=2e-6)
    np.testing.assert_allclose(output, golden.output, rtol=0, atol=5e-6)


def test_dynamic_view_gives_the_official_output(golden: types.SimpleNamespace) -> None:
    channels = golden.features.shape[-1]
    params, stats = cell_transfer.from_static(golden.variables, golden.genotype, channels, golden.settings.filters)
    apply = jax.jit(functools.partial(cell.apply, settings=golden.settings, train=False))
    output, unmoved = apply(params, stats, golden.genotype, jnp.asarray(golden.features))
    np.testing.assert_allclose(output, golden.output, rtol=0, atol=5e-6)
    jax.tree.map(np.testing.assert_array_equal, unmoved, stats)


# ---- golden: training mode ------------------------------------------------------------------------------------------


@pytest.fixture
def trained(shared: Find) -> types.SimpleNamespace:
    """The released cell in training mode on random features of the size of a MobileNet-v2's, without dropout."""
    manifest = json.loads(shared('golden/models/dpc_cell_bntrain.json').read_text())
    spec = importlib.util.spec_from_file_location('weights_rule', shared('golden/models/weights_rule.py'))
    rule = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rule)
    values = {name: rule.variable(name, shape) for name, shape, _ in manifest['variables']}
    for name, (total, first, last) in manifest['checks']['variables_sum_first_last'].items():
        found = values[name].sum(dtype=np.float64), values[name].flat[0], values[name].flat[-1]
        np.testing.assert_allclose(found, (total, first, last), rtol=1e-6)
    features = np.random.default_rng(0).standard_normal((2, 21, 24, 320)).astype(np.float32)
    assert features.sum(dtype=np.float64) == pytest.approx(manifest['features_sum'], rel=1e-5)
    genotype = dpc.Space(5).from_json(json.dumps(manifest['cell']))
    assert dpc.Space(5).canonical_key(genotype) == dpc.Space(5).canonical_key(dpc.Space(5).named('dpc_top1'))
    return types.SimpleNamespace(
        genotype=genotype,
        settings=CellSettings(dropout_rate=0.0),
        values=values,
        features=features,
        stored=np.load(shared('golden/models/dpc_cell_bntrain.npz')),
        manifest=manifest['arrays'],
    )


def check_training_step(
    case: types.SimpleNamespace, output: jax.Array, batch_stats: PyTree, *, suffix: str, limits: tuple[float, float]
) -> None:
    """Output in units of its spread; every moving average in units of the largest update of its array."""
    _, *strides = case.manifest['output']['stride']
    seen = np.asarray(output)[:, :: strides[0], :: strides[1], :: strides[2]]
    stored_output = case.stored[f'output_{suffix}' if suffix else 'output']
    assert np.abs(seen - stored_output).max() < limits[0] * case.manifest['output']['std']
    moving = [name for name in case.values if 'moving' in name]
    assert len(moving) == 22
    for name in moving:
        _, scope, _, leaf = name.split('/')
        expected = case.stored[f'updated:{name}{":" * bool(suffix)}{suffix}']
        update = np.abs(expected - case.values[name]).max()
        assert update > 1e-5
        error = np.abs(np.asarray(batch_stats[scope]['BatchNorm'][OFFICIAL[leaf]]) - expected).max()
        assert error < limits[1] * update, name


def test_static_view_takes_the_official_training_step(trained: types.SimpleNamespace) -> None:
    # Limits of the file's README: four times what another implementation reached.
    module = DensePredictionCell.of(trained.genotype, trained.settings)
    apply = jax.jit(lambda variables, features: module.apply(variables, features, True, mutable=['batch_stats']))
    output, moved = apply(from_official(trained.values), jnp.asarray(trained.features))
    check_training_step(trained, output, moved['batch_stats'], suffix='', limits=(5e-4, 3e-3))


def test_dynamic_view_takes_the_official_training_step(trained: types.SimpleNamespace) -> None:
    params, stats = cell_transfer.from_static(from_official(trained.values), trained.genotype, 320, 256)
    apply = jax.jit(functools.partial(cell.apply, settings=trained.settings, train=True))
    output, moved = apply(params, stats, trained.genotype, jnp.asarray(trained.features))
    moved = cell_transfer.to_static(params, moved, trained.genotype, 320)['batch_stats']
    check_training_step(trained, output, moved, suffix='', limits=(5e-4, 3e-3))


@pytest.mark.usefixtures('float64')
def test_static_view_takes_the_official_training_step_in_float64(trained: types.SimpleNamespace) -> None:
    # Nothing of float32 is in the way: the biased variance would be 1e-3 of an update off. Measured: 5e-8
    # of an update (TensorFlow rounds 1 - decay to float32), the output 7e-15 of its spread.
    module = DensePredictionCell.of(trained.genotype, trained.settings)
    wide = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), (from_official(trained.values), trained.features))
    apply = jax.jit(lambda variables, features: module.apply(variables, features, True, mutable=['batch_stats']))
    output, moved = apply(*wide)
    check_training_step(trained, output, moved['batch_stats'], suffix='f64', limits=(1e-9, 1e-6))


# ---- how a cell starts ----------------------------------------------------------------------------------------------

CHANNELS, FILTERS = 200, 64


@functools.cache
def both_inits() -> tuple[PyTree, PyTree]:
    """Fresh parameters of MIXED: of the static view, and of the dynamic one in the static layout."""
    module = DensePredictionCell.of(MIXED, CellSettings(filters=FILTERS))
    static = module.init(jax.random.key(0), jnp.zeros((1, 3, 3, CHANNELS)))
    dynamic = cell.init(jax.random.key(1), MIXED, CHANNELS, FILTERS)
    return static, cell_transfer.to_static(*dynamic, MIXED, CHANNELS)


@pytest.mark.parametrize('view', [0, 1], ids=['static', 'dynamic'])
@pytest.mark.parametrize(
    ('part', 'fan_in'),
    [
        ('branch0', CHANNELS),
        ('branch1', FILTERS),
        ('branch2', CHANNELS),
        ('branch5', FILTERS),
        ('concat_projection', 6 * FILTERS),
    ],
)
def test_a_plain_1x1_starts_uniform_within_the_bound_of_xavier(part, fan_in, view):
    kernel = np.asarray(both_inits()[view]['params'][part]['kernel'])
    assert kernel.shape == (1, 1, fan_in, FILTERS)
    bound = np.sqrt(6 / (fan_in + FILTERS))
    uniform = np.sort(kernel.reshape(-1)) / bound
    # Kolmogorov and Smirnov: 2 / sqrt(n) is beyond the 99.9th percentile.
    distance = np.abs(uniform - np.linspace(-1, 1, kernel.size)).max() / 2
    assert np.abs(uniform).max() <= 1
    assert distance < 2 / np.sqrt(kernel.size)


@pytest.mark.parametrize('view', [0, 1], ids=['static', 'dynamic'])
@pytest.mark.parametrize(
    ('part', 'shape', 'stddev'),
    [
        ('branch3_depthwise', (3, 3, 1, CHANNELS), 0.33),
        ('branch3_pointwise', (1, 1, CHANNELS, FILTERS), 0.06),
        ('branch4_depthwise', (3, 3, 1, FILTERS), 0.33),
        ('branch4_pointwise', (1, 1, FILTERS, FILTERS), 0.06),
    ],
)
def test_a_separable_convolution_starts_as_truncated_normals(part, shape, stddev, view):
    kernel = np.asarray(both_inits()[view]['params'][part]['kernel'])
    assert kernel.shape == shape
    # As in slim, the normal has this deviation before it is cut at two of it; a cut one keeps 0.87963 of it.
    assert np.abs(kernel).max() <= 2 * stddev
    assert np.abs(kernel).max() > 1.9 * stddev
    assert abs(kernel.mean()) < 5 * stddev / np.sqrt(kernel.size)
    assert kernel.std() == pytest.approx(0.87963 * stddev, rel=4 / np.sqrt(kernel.size))


def test_norms_start_as_identities_and_both_views_have_the_same_parts():
    static, dynamic = both_inits()
    assert jax.tree.map(jnp.shape, static) == jax.tree.map(jnp.shape, dynamic)
    for variables in (static, dynamic):
        for part in variables['params'].values():
            assert (part['BatchNorm']['scale'] == 1).all()
            assert not part['BatchNorm']['bias'].any()
        for part in variables['batch_stats'].values():
            assert not part['BatchNorm']['mean'].any()
            assert (part['BatchNorm']['var'] == 1).all()


@pytest.mark.parametrize(('channels', 'filters'), [(7, 4), (3, 6)])
def test_what_no_channel_enters_starts_at_0(channels, filters):
    params, _ = cell.init(jax.random.key(0), MIXED, channels, filters)
    for branch, source in enumerate(MIXED.inputs):
        entering = channels if source == FEATURES else filters
        assert not params.depthwise.kernel[branch, :, :, entering:].any()
        assert not params.pointwise.kernel[branch, entering:].any()
        assert (params.depthwise.kernel[branch, :, :, :entering] != 0).all()
        assert (params.pointwise.kernel[branch, :entering] != 0).all()


def test_keys_draw_different_cells_and_branches_differ():
    same = Genotype(np.full(3, FEATURES, np.int32), np.full(3, dpc.OP_NAMES.index('sep 3x3'), np.int32))
    first, second = (cell.init(jax.random.key(seed), same, 5, 5)[0] for seed in (0, 1))
    for one, other in [(first, second), (jax.tree.map(lambda a: a[:2], first), jax.tree.map(lambda a: a[1:], first))]:
        assert (one.depthwise.kernel != other.depthwise.kernel).all()
        assert (one.pointwise.kernel != other.pointwise.kernel).all()


# ---- from one view to the other -------------------------------------------------------------------------------------


def random_variables(genotype: Genotype, channels: int, filters: int) -> PyTree:
    """Of the static view, every entry its own number."""
    module = DensePredictionCell.of(genotype, CellSettings(filters=filters))
    shapes = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 2, 2, channels), jnp.float32))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape), jnp.float32), shapes)


@pytest.mark.parametrize('num_branches', [1, 2, 5, 8])
@pytest.mark.parametrize(('channels', 'filters'), [(7, 4), (3, 6), (5, 5)])
def test_there_and_back_is_exact(num_branches, channels, filters):
    for seed in range(2):
        genotype = dpc.Space(num_branches).sample(jax.random.key(seed))
        variables = random_variables(genotype, channels, filters)
        params, stats = cell_transfer.from_static(variables, genotype, channels, filters)
        back = cell_transfer.to_static(params, stats, genotype, channels)
        jax.tree.map(np.testing.assert_array_equal, back, variables)


def test_what_a_genotype_does_not_use_is_zero_kernels_and_fresh_norms():
    genotype = Genotype(np.array([FEATURES, 0], np.int32), np.array([0, dpc.OP_NAMES.index('sep 1x1')], np.int32))
    params, stats = cell_transfer.from_static(random_variables(genotype, 2, 3), genotype, 2, 3)
    assert not params.depthwise.kernel[0].any()  # branch 0 is a 1x1 convolution
    assert not params.pointwise.kernel[0, 2:].any()  # of two channels
    assert (params.depthwise.scale[0] == 1).all()
    assert not params.depthwise.bias[0].any()
    assert not stats.depthwise.mean[0].any()
    assert (stats.depthwise.var[0] == 1).all()
    fresh = jax.eval_shape(lambda: cell.init(jax.random.key(0), genotype, 2, 3))
    assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, (params, stats))


# ---- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(('output_stride', 'times'), [(16, 1), (8, 2), (4, 4)])
def test_rates_grow_as_the_output_stride_shrinks(output_stride, times):
    assert cell.rate_multiplier(output_stride) == times


@pytest.mark.parametrize('output_stride', [32, 0, 12, -16])
def test_an_output_stride_without_a_rate_is_refused(output_stride):
    with pytest.raises(InputError, match=f'output stride {output_stride}: the rates of a cell need 4, 8 or 16'):
        cell.rate_multiplier(output_stride)


def test_training_with_dropout_wants_a_key():
    genotype, settings, features = dpc.Space(1).named('conv1x1'), CellSettings(filters=3), jnp.zeros((1, 2, 2, 4))
    module, message = (
        DensePredictionCell.of(genotype, settings),
        'a network that trains with dropout needs a dropout_key',
    )
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: module.init(jax.random.key(0), features, True))
    variables = cell.init(jax.random.key(0), genotype, 4, 3)
    dynamic = functools.partial(cell.apply, settings=settings, train=True)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(dynamic, *variables, genotype, features)


def test_dropout_is_on_the_concatenation_and_off_without_a_key():
    # One branch whose output is 1 everywhere, projected by an identity that inference norms leave as it is.
    genotype, settings = dpc.Space(1).named('conv1x1'), CellSettings(filters=50, dropout_rate=0.25)
    module = DensePredictionCell.of(genotype, settings)
    features = jnp.ones((2, 20, 20, 3))
    variables = module.init(jax.random.key(0), features)
    variables['params']['branch0']['BatchNorm'] = {'scale': jnp.zeros(50), 'bias': jnp.ones(50)}
    concat = []

    def note(next_function, args, kwargs, context):
        if context.module.name == 'concat_projection':
            concat.append(np.asarray(args[0]))
        return next_function(*args, **kwargs)

    with nn.intercept_methods(note):
        for train, key in ((True, jax.random.key(1)), (False, None), (False, jax.random.key(1))):
            module.apply(variables, features, train, key, mutable=['batch_stats'])
    assert sorted(np.unique(concat[0])) == pytest.approx([0, 1 / 0.75])
    # 40 000 entries: five deviations are 0.011.
    assert (concat[0] == 0).mean() == pytest.approx(0.25, abs=0.011)
    assert (concat[1] == 1).all()
    np.testing.assert_array_equal(concat[2], concat[0])  # norms are frozen, dropout is drawn
