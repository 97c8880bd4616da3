"""The operators' parts against loops, formulas and the official numbers."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpc_jax import ops
from dpc_jax.ops import Moments
from dpc_jax.spaces import dpc


@pytest.fixture
def float64():
    # Standard promotion: strict has no way from float32 to float64, which only these tests want.
    with jax.enable_x64(True), jax.numpy_dtype_promotion('standard'):
        yield


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def float32(x: np.ndarray) -> jax.Array:
    return jnp.asarray(x, jnp.float32)


# ---- atrous depthwise convolution -----------------------------------------------------------------------------------

RATES = [(1, 1), (1, 6), (2, 1), (3, 2), (4, 6), (5, 7), (18, 15), (42, 1)]  # the map is 5x7


def depthwise_loops(x: np.ndarray, kernel: np.ndarray, rate: tuple[int, int]) -> np.ndarray:
    batch, height, width, channels = x.shape
    y = np.zeros_like(x)
    for b, row, col, c in np.ndindex(batch, height, width, channels):
        for i, j in np.ndindex(3, 3):
            at = row + (i - 1) * rate[0], col + (j - 1) * rate[1]
            if 0 <= at[0] < height and 0 <= at[1] < width:
                y[b, row, col, c] += x[b, *at, c] * kernel[i, j, c]
    return y


def depthwise_slices(x: jax.Array, kernel: jax.Array, rate: tuple[int, int]) -> jax.Array:
    """The same for JAX to differentiate: slices of a padded map, rates as Python numbers."""
    (above, beside), (height, width) = rate, x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (above, above), (beside, beside), (0, 0)))
    total = jnp.zeros_like(x)
    for i, j in np.ndindex(3, 3):
        tap = padded[:, i * above : i * above + height, j * beside : j * beside + width]
        total += tap * kernel[i, j][None, None, None, :]
    return total


@pytest.mark.parametrize('rate', RATES)
@pytest.mark.usefixtures('float64')
def test_depthwise_is_the_sum_over_nine_taps(rate):
    x, kernel = normal(2, 5, 7, 3), normal(3, 3, 3, seed=1)
    found = ops.weighted_reads(jnp.asarray(x), jnp.asarray(kernel), jnp.array(rate, jnp.int32))
    np.testing.assert_allclose(found, depthwise_loops(x, kernel, rate), rtol=0, atol=1e-13)


@pytest.mark.parametrize('rate', RATES)
@pytest.mark.usefixtures('float64')
def test_depthwise_gradient_is_that_of_plain_slices(rate):
    x, kernel, direction = (
        jnp.asarray(a) for a in (normal(2, 5, 7, 3), normal(3, 3, 3, seed=1), normal(2, 5, 7, 3, seed=2))
    )
    data = jnp.array(rate, jnp.int32)
    grads = ops.weighted_reads(direction, kernel[::-1, ::-1], data), ops.kernel_gradient(x, direction, data)
    _, plain_pull = jax.vjp(lambda x, kernel: depthwise_slices(x, kernel, rate), x, kernel)
    for found, expected in zip(grads, plain_pull(direction), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.usefixtures('float64')
def test_depthwise_gradient_is_the_slope():
    x, kernel, direction = normal(2, 4, 5, 2), normal(3, 3, 2, seed=1), normal(2, 4, 5, 2, seed=2)
    rate = jnp.array((3, 1), jnp.int32)

    def functional(x, kernel):
        return (ops.weighted_reads(jnp.asarray(x), jnp.asarray(kernel), rate) * direction).sum()

    there = jnp.asarray(direction)
    grads = (
        ops.weighted_reads(there, jnp.asarray(kernel)[::-1, ::-1], rate),
        ops.kernel_gradient(jnp.asarray(x), there, rate),
    )
    step = normal(*x.shape, seed=3), normal(*kernel.shape, seed=4)
    slope = sum((np.asarray(grad) * along).sum() for grad, along in zip(grads, step, strict=True))
    # The functional is a product of the two, so the difference of both sides has no error of second order.
    ahead = functional(x + 1e-4 * step[0], kernel + 1e-4 * step[1])
    behind = functional(x - 1e-4 * step[0], kernel - 1e-4 * step[1])
    np.testing.assert_allclose(slope, (ahead - behind) / 2e-4, rtol=1e-9)


def test_depthwise_in_float32_under_jit_and_vmap_with_a_rate_for_each():
    x, kernels = float32(normal(2, 5, 7, 3)), float32(normal(len(RATES), 3, 3, 3, seed=1))
    rates = jnp.array(RATES, jnp.int32)
    found = jax.jit(jax.vmap(ops.weighted_reads, in_axes=(None, 0, 0)))(x, kernels, rates)
    expected = [
        depthwise_loops(np.asarray(x), kernel, rate) for kernel, rate in zip(np.asarray(kernels), RATES, strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-6)


def test_outside_is_zero_and_not_the_last_cell():
    # A map whose last cell alone is not 0: no other cell may see it but through a tap that hits it.
    x = float32(np.zeros((1, 3, 4, 1))).at[0, 2, 3, 0].set(5)
    y = ops.weighted_reads(x, float32(np.ones((3, 3, 1))), jnp.array((2, 9), jnp.int32))[0, :, :, 0]
    np.testing.assert_array_equal(y, [[0, 0, 0, 5], [0, 0, 0, 0], [0, 0, 0, 5]])


# ---- pooling --------------------------------------------------------------------------------------------------------


def pool_loops(x: np.ndarray, grid: tuple[int, int], pooling: ops.Pooling) -> np.ndarray:
    """Means over windows that are written out here again, from the official rule and from that of adaptive pooling."""

    def windows(size: int, cells: int) -> list[tuple[int, int]]:
        if pooling == 'sliding':
            length = int((size - 1) / cells + 1)
            return [(start, start + length) for start in range(size - length + 1)]
        cells = min(cells, size)
        return [(int(np.floor(i * size / cells)), int(np.ceil((i + 1) * size / cells))) for i in range(cells)]

    rows, cols = (windows(size, cells) for size, cells in zip(x.shape[1:3], grid, strict=True))
    means = [[x[:, top:bottom, left:right].mean((1, 2)) for left, right in cols] for top, bottom in rows]
    return np.array(means).transpose(2, 0, 1, 3)


@pytest.mark.parametrize('pooling', ops.POOLINGS)
@pytest.mark.parametrize('grid', [(1, 1), (2, 4), (8, 1), (4, 8), (2, 2)])
@pytest.mark.parametrize('size', [(9, 13), (1, 1), (2, 7)])
def test_pooling_is_the_mean_over_each_window(size, grid, pooling):
    x = normal(2, *size, 3)
    found = ops.pool(float32(x), grid, pooling)
    np.testing.assert_allclose(found, pool_loops(x, grid, pooling), rtol=0, atol=1e-6)


def test_bins_cover_the_map_and_overlap_where_the_grid_does_not_divide_it():
    assert ops.bin_edges(8, 4) == [(0, 2), (2, 4), (4, 6), (6, 8)]
    assert ops.bin_edges(7, 2) == [(0, 4), (3, 7)]
    assert ops.bin_edges(9, 4) == [(0, 3), (2, 5), (4, 7), (6, 9)]
    assert ops.bin_edges(3, 8) == [(0, 1), (1, 2), (2, 3)]


def test_windows_of_the_official_code(shared):
    table = json.loads(shared('golden/cell/dpc_golden.json').read_text())['pyramid_args']
    assert len(table) == 96
    for name, (target, kernel) in table.items():
        crop, stride, grid = name.replace('crop', '').replace('os', '').replace('grid', '').split()
        sizes = [(int(size) - 1) // int(stride) + 1 for size in crop.split('x')]
        assert sizes == target
        assert [ops.sliding_window(n, int(g)) for n, g in zip(sizes, grid.split('x'), strict=True)] == kernel


def test_both_poolings_are_the_image_level_for_the_grid_of_one():
    x = float32(normal(2, 5, 7, 3))
    level = np.asarray(x).mean((1, 2), keepdims=True)
    for pooling in ops.POOLINGS:
        np.testing.assert_allclose(ops.pool(x, (1, 1), pooling), level, rtol=0, atol=1e-7)


@pytest.mark.parametrize('pooling', ops.POOLINGS)
def test_a_mean_in_bfloat16_is_right_over_thousands_of_cells(pooling):
    x = jnp.ones((1, 65, 129, 2), jnp.bfloat16) * jnp.bfloat16(1.5)
    pooled = ops.pool(x, (1, 1), pooling)
    assert pooled.dtype == jnp.bfloat16
    np.testing.assert_array_equal(pooled.astype(jnp.float32), 1.5)


@pytest.mark.parametrize('pooling', ops.POOLINGS)
def test_a_pooled_map_can_be_differentiated_under_jit(pooling):
    x, grid = float32(normal(1, 5, 7, 2)), (2, 4)
    direction = float32(normal(*ops.pool(x, grid, pooling).shape, seed=1))
    grad = jax.jit(jax.grad(lambda x: (ops.pool(x, grid, pooling) * direction).sum()))(x)
    rows, cols = (ops.pool_tables(n, (g,), pooling) for n, g in zip(x.shape[1:3], grid, strict=True))
    p, q = direction.shape[1:3]
    expected = np.einsum('ph,bpqc,qw->bhwc', rows.pool[0, :p], direction, cols.pool[0, :q])
    np.testing.assert_allclose(grad, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize('pooling', ops.POOLINGS)
@pytest.mark.parametrize('size', [(9, 13), (1, 1), (3, 2)])
def test_tables_say_the_same_as_pooling_and_resizing(size, pooling):
    x = float32(normal(2, *size, 3))
    tables = [ops.pool_tables(n, dpc.GRIDS, pooling) for n in size]
    for g, h in np.ndindex(len(dpc.GRIDS), len(dpc.GRIDS)):
        pooled = ops.pool(x, (dpc.GRIDS[g], dpc.GRIDS[h]), pooling)
        rows, cols = tables[0].extent[g], tables[1].extent[h]
        assert pooled.shape[1:3] == (rows, cols)
        found = ops.along_axes(x, float32(tables[0].pool[g]), float32(tables[1].pool[h]))
        np.testing.assert_allclose(found[:, :rows, :cols], pooled, rtol=0, atol=1e-6)
        assert not found[:, rows:].any()
        assert not found[:, :, cols:].any()
        back = ops.along_axes(found, float32(tables[0].resize[g]), float32(tables[1].resize[h]))
        np.testing.assert_allclose(back, ops.resize_bilinear(pooled, size), rtol=0, atol=1e-6)


@pytest.mark.parametrize('pooling', ops.POOLINGS)
def test_tables_are_means_and_read_nothing_beyond_the_extent(pooling):
    for size in (1, 4, 21):
        tables = ops.pool_tables(size, dpc.GRIDS, pooling)
        for down, up, extent in zip(*tables, strict=True):
            np.testing.assert_allclose(down.sum(1), np.arange(size) < extent, atol=1e-12)
            np.testing.assert_allclose(up.sum(1), 1, atol=1e-12)
            assert not up[:, extent:].any()


# ---- resizing -------------------------------------------------------------------------------------------------------


def resize_formula(line: np.ndarray, target: int) -> np.ndarray:
    """Corner on corner: cell i of `target` lies at i (n - 1) / (target - 1)."""
    positions = np.linspace(0, len(line) - 1, target) if target > 1 else np.zeros(1)
    return np.interp(positions, np.arange(len(line)), line)


@pytest.mark.parametrize(('source', 'target'), [(5, 17), (17, 5), (4, 4), (1, 6), (6, 1), (2, 3), (33, 65)])
def test_resizing_a_line_by_formula(source, target):
    line = normal(source)
    matrix = ops.resize_matrix(source, target)
    np.testing.assert_allclose(matrix @ line, resize_formula(line, target), rtol=0, atol=1e-12)
    upright, flat = float32(line)[None, :, None, None], float32(line)[None, None, :, None]
    np.testing.assert_allclose(ops.resize_bilinear(upright, (target, 1))[0, :, 0, 0], matrix @ line, rtol=0, atol=1e-6)
    np.testing.assert_allclose(ops.resize_bilinear(flat, (1, target))[0, 0, :, 0], matrix @ line, rtol=0, atol=1e-6)


def test_resizing_a_map_is_one_matrix_per_axis():
    x, size = float32(normal(2, 5, 7, 3)), (11, 4)
    matrices = [float32(ops.resize_matrix(n, m)) for n, m in zip(x.shape[1:3], size, strict=True)]
    np.testing.assert_allclose(ops.resize_bilinear(x, size), ops.along_axes(x, *matrices), rtol=0, atol=1e-6)


@pytest.mark.parametrize('axes', ['bhwl', 'blhw'])
def test_upsampled_logits_are_resized_and_have_their_classes_in_front(axes):
    x, size = float32(normal(2, 5, 7, 3)), (11, 8)
    given = x if axes == 'bhwl' else jnp.moveaxis(x, -1, 1)
    found = ops.upsample_logits(given, size, axes=axes)
    np.testing.assert_allclose(found, jnp.moveaxis(ops.resize_bilinear(x, size), -1, 1), rtol=0, atol=1e-6)


def test_corners_stay_and_a_ramp_stays_a_ramp():
    ramp = float32(np.arange(5)[:, None] + 10 * np.arange(4)[None, :])[None, :, :, None]
    found = ops.resize_bilinear(ramp, (9, 13))[0, :, :, 0]
    expected = np.linspace(0, 4, 9)[:, None] + 10 * np.linspace(0, 3, 13)[None, :]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_resizing_of_the_official_code(shared):
    # The file gives the first of 65 rows of 97 pixels, resized from 25 cells, so every fourth pixel is a cell. (Those
    # cells are not the logits that the file gives beside it: they differ by up to 0.3, so they are of another run.)
    stored = json.loads(shared('golden/cell/dpc_golden.json').read_text())['decoder_logits']
    row = float32(np.array(stored['upsampled_first_row']))
    assert (stored['logits_shape'], row.shape) == ([1, 17, 25, 2], (97, 2))
    resized = ops.resize_bilinear(row[None, None, ::4], (1, 97))
    np.testing.assert_allclose(resized[0, 0], row, rtol=0, atol=1e-6)


def test_images_resized_by_the_official_code(shared):
    # The image is a ramp over 5x7 pixels: its corners say what it is.
    cases = json.loads(shared('golden/cell/dpc_golden.json').read_text())['random_scale_5x7']
    assert sorted(cases) == ['0.5', '0.75', '1.25', '1.5', '1.75', '2.0']
    for case in cases.values():
        expected = np.array(case['image_ch0'])
        (left, right), (lower_left, _) = expected[[0, -1]][:, [0, -1]]
        ramp = np.linspace(left, lower_left, 5)[:, None] + np.linspace(0, right - left, 7)[None, :]
        resized = ops.resize_bilinear(float32(ramp)[None, :, :, None], tuple(case['size']))
        np.testing.assert_allclose(resized[0, :, :, 0], expected, rtol=0, atol=1e-4)


# ---- batch norm -----------------------------------------------------------------------------------------------------

EPSILON = 1e-5


def norm(x: jax.Array, moving: Moments, *, train: bool = True):
    channels = x.shape[-1]
    scale, bias = float32(1 + 0.2 * normal(channels, seed=8)), float32(normal(channels, seed=9))
    return ops.batch_norm(x, scale, bias, moving, train=train, decay=0.9, epsilon=EPSILON)


def some_moments(channels: int) -> Moments:
    return Moments(float32(normal(channels, seed=6)), float32(np.abs(normal(channels, seed=7)) + 0.5))


def normed_by_hand(x: np.ndarray, mean: np.ndarray, var: np.ndarray) -> np.ndarray:
    channels = x.shape[-1]
    return (x - mean) / np.sqrt(var + EPSILON) * (1 + 0.2 * normal(channels, seed=8)) + normal(channels, seed=9)


def test_training_normalises_with_the_biased_and_remembers_the_unbiased_variance():
    x, moving = 3 + 2 * normal(2, 3, 4, 5), some_moments(5)
    y, moved = norm(float32(x), moving)
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    np.testing.assert_allclose(y, normed_by_hand(x, mean, var), rtol=0, atol=1e-5)
    np.testing.assert_allclose(moved.mean, 0.9 * moving.mean + 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(moved.var, 0.9 * moving.var + 0.1 * var * 24 / 23, rtol=1e-5)


def test_inference_uses_the_moving_averages_and_leaves_them():
    x, moving = normal(2, 3, 4, 5), some_moments(5)
    y, moved = norm(float32(x), moving, train=False)
    np.testing.assert_allclose(y, normed_by_hand(x, np.asarray(moving.mean), np.asarray(moving.var)), rtol=0, atol=1e-5)
    assert moved is moving


@pytest.mark.usefixtures('float64')
def test_the_gradient_that_is_written_out_is_the_one_that_jax_derives():
    moving = Moments(jnp.zeros(5), jnp.ones(5))
    x, scale, bias, direction = (
        jnp.asarray(normal(*shape, seed=seed)) for seed, shape in enumerate([(2, 3, 4, 5), (5,), (5,), (2, 3, 4, 5)])
    )

    def written(x, scale, bias):
        return ops.batch_norm(x, scale, bias, moving, train=True, decay=0.9, epsilon=EPSILON)[0]

    def derived(x, scale, bias):
        centred = x - x.mean((0, 1, 2), keepdims=True)
        spread = jnp.sqrt(jnp.square(centred).mean((0, 1, 2), keepdims=True) + EPSILON)
        return centred / spread * scale[None, None, None] + bias[None, None, None]

    values, pulls = zip(*(jax.vjp(norm, 3 + 2 * x, scale, bias) for norm in (written, derived)), strict=True)
    np.testing.assert_allclose(*values, rtol=0, atol=1e-12)
    for found, expected in zip(*(pull(direction) for pull in pulls), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_one_value_has_no_variance_and_no_slope():
    moving = some_moments(2)
    x = float32(normal(1, 1, 1, 2))
    (y, moved), pull = jax.vjp(lambda x: norm(x, moving), x)
    np.testing.assert_allclose(y[0, 0, 0], normal(2, seed=9), rtol=1e-6)  # the bias
    np.testing.assert_allclose(moved.var, 0.9 * moving.var, rtol=1e-6)
    (grad,) = pull((jnp.ones_like(y), jax.tree.map(jnp.zeros_like, moved)))
    assert not grad.any()


def test_the_moving_averages_have_no_gradient():
    moving = some_moments(3)
    grad = jax.grad(lambda x: sum(leaf.sum() for leaf in norm(x, moving)[1]))(float32(normal(2, 3, 4, 3)))
    assert not grad.any()


def test_half_precision_is_normalised_in_float32():
    # 256 values around 100: bfloat16 holds no mean of them to 0.1, and squares them to 3 digits.
    x = float32(100 + normal(1, 16, 16, 1)).astype(jnp.bfloat16)
    moving = Moments(jnp.zeros(1), jnp.ones(1))
    y, moved = norm(x, moving)
    exact = np.asarray(x, np.float64)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(moved.mean, 0.1 * exact.mean(), rtol=1e-5)
    np.testing.assert_allclose(moved.var, 0.9 + 0.1 * exact.var() * 256 / 255, rtol=1e-5)


def test_the_module_is_the_function_and_starts_as_an_identity():
    x, module = float32(normal(2, 3, 4, 5)), ops.BatchNorm(momentum=0.9)
    variables = module.init(jax.random.key(0), x, False)
    assert not variables['batch_stats']['mean'].any()  # initialising takes no step
    expected = Moments(0.1 * np.asarray(x).mean((0, 1, 2)), 0.9 + 0.1 * np.asarray(x).var((0, 1, 2)) * 24 / 23)
    y, moved = module.apply(variables, x, False, mutable=['batch_stats'])
    np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(y.var((0, 1, 2)), 1, rtol=1e-4)
    np.testing.assert_allclose(moved['batch_stats']['mean'], expected.mean, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(moved['batch_stats']['var'], expected.var, rtol=1e-5)
    same, unmoved = module.apply(variables, x, True, mutable=['batch_stats'])
    np.testing.assert_allclose(same, x, rtol=1e-4)
    jax.tree.map(np.testing.assert_array_equal, unmoved['batch_stats'], variables['batch_stats'])


# ---- dropout --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('rate', [0.1, 0.5])
def test_dropout_zeroes_its_share_and_scales_the_rest(rate):
    x = float32(normal(100, 1000))
    y = ops.dropout(jax.random.key(0), x, rate)
    kept = np.asarray(y) != 0
    np.testing.assert_allclose(np.asarray(y)[kept], np.asarray(x)[kept] / (1 - rate), rtol=1e-6)
    # Five standard deviations of a binomial of 100 000, and the 1 / 65536 of the drawing.
    assert abs((~kept).mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / x.size) + 2**-16
    assert abs(kept.mean(0).std() - np.sqrt(rate * (1 - rate) / 100)) < 0.01  # columns are independent


def test_dropout_depends_on_its_key_alone():
    ones = jnp.ones((50, 50))
    first = ops.dropout(jax.random.key(0), ones, 0.5)
    np.testing.assert_array_equal(first, ops.dropout(jax.random.key(0), ones, 0.5))
    assert (first != ops.dropout(jax.random.key(1), ones, 0.5)).mean() > 0.4


def test_no_dropout_is_no_change():
    x = jnp.ones((3,))
    assert ops.dropout(jax.random.key(0), x, 0.0) is x
