import functools
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from dpc_jax.backbones import OUTPUT_STRIDES, mobilenet_v2
from dpc_jax.base import InputError, PyTree
from dpc_jax.weights import checkpoint

Find = Callable[[str], pathlib.Path]

LAYER_STRIDES = {
    1: 2,
    2: 2,
    3: 4,
    4: 4,
    5: 8,
    6: 8,
    7: 8,
    **dict.fromkeys(range(8, 15), 16),
    15: 32,
    16: 32,
    17: 32,
    18: 32,
}
"""Nominal image / map resolution behind each layer (slim: stride 2 at the stem and into 24, 32, 64, 160)."""


def shapes_of(model: mobilenet_v2.Model, size: tuple[int, int] = (33, 33), batch: int = 1) -> PyTree:
    """The model's variables as shapes, without running it."""
    return jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((batch, *size, 3), jnp.float32))


def lively_variables(model: mobilenet_v2.Model) -> PyTree:
    """Random variables that keep the spatial signal alive through all layers: He kernels, varied batch norms."""
    rng = np.random.default_rng(0)

    def draw(path: tuple[str, ...], leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        noise = rng.standard_normal(leaf.shape)
        if path[-1] == 'kernel':
            noise *= np.sqrt(2 / np.prod(leaf.shape[:3]))
        else:
            noise = 0.1 * noise + (path[-1] in ('scale', 'var'))
        return noise.astype(np.float32)

    shapes = traverse_util.flatten_dict(shapes_of(model))
    return traverse_util.unflatten_dict({path: draw(path, leaf) for path, leaf in shapes.items()})


def noise_images(size: tuple[int, int], batch: int = 1) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (batch, *size, 3)).astype(np.float32)


def deviation(actual: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference in units of the expected spread."""
    return float(np.abs(actual - expected).max() / expected.std())


# ---- against other implementations ----------------------------------------------------------------------------------


@pytest.mark.parametrize(('prefix', 'image'), [('cat', 'input_cat_uint8'), ('camvid', 'input_camvid_val0_uint8')])
def test_official_imagenet_weights_give_the_activations_of_a_pytorch_run(shared: Find, prefix: str, image: str) -> None:
    # Even-sized inputs (224x224, 360x480), so SAME pads behind only. Measured: at most 2.3e-5 of the spread; the file
    # itself is the folded network of the reference to 4e-6.
    model = mobilenet_v2.Model(output_stride=32)
    variables, report = checkpoint.load_backbone(shapes_of(model), shared('data/mobilenet_v2/imagenet.npz'))
    assert (len(report.loaded), report.missing) == (255, ())
    with np.load(shared('data/mobilenet_v2/reference_activations.npz')) as reference:
        endpoints = jax.jit(model.apply)(variables, reference[image][None].astype(np.float32))
        for block in (2, 5, 9, 12, 16):  # counted from 0, as expanded_conv is
            actual = np.asarray(endpoints[f'layer_{block + 2}'])
            mean, std = reference[f'{prefix}/block{block}/mean_std']
            assert abs(actual.mean() - mean) < 1e-5 * std
            assert abs(actual.std() - std) < 1e-5 * std
            if f'{prefix}/block{block}' in reference:
                assert deviation(actual, reference[f'{prefix}/block{block}']) < 1e-4


# ---- output stride and width ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    (
        'output_stride',
        'expected',
    ),  # {index of expanded_conv: (stride, rate)} where not (1, 1); mobilenet.mobilenet_base
    [
        (32, {1: (2, 1), 3: (2, 1), 6: (2, 1), 13: (2, 1)}),
        (16, {1: (2, 1), 3: (2, 1), 6: (2, 1), 14: (1, 2), 15: (1, 2), 16: (1, 2)}),
        (8, {1: (2, 1), 3: (2, 1), **dict.fromkeys(range(7, 14), (1, 2)), **dict.fromkeys(range(14, 17), (1, 4))}),
    ],
)
def test_strides_and_rates_follow_the_official_rule(output_stride: int, expected: dict[int, tuple[int, int]]) -> None:
    blocks = mobilenet_v2.bottlenecks(1.0, output_stride)
    assert len(blocks) == 17
    assert {i: (b.stride, b.rate) for i, b in enumerate(blocks) if (b.stride, b.rate) != (1, 1)} == expected


@pytest.mark.parametrize(('fine', 'coarse'), [(16, 32), (8, 16)])
def test_dense_features_hold_the_strided_ones_at_the_shared_positions(fine: int, coarse: int) -> None:
    # Size 32k+1 keeps every stage odd, so that cell i of one map lies on cell 2i of the other.
    models = [mobilenet_v2.Model(width=0.25, output_stride=stride) for stride in (fine, coarse)]
    variables, images = lively_variables(models[0]), noise_images((65, 97))
    dense, strided = (jax.jit(model.apply)(variables, images) for model in models)
    denser = set()
    for name, expected in strided.items():
        step = 1 if dense[name].shape == expected.shape else 2
        assert deviation(dense[name][:, ::step, ::step], expected) < 1e-4, name
        denser |= {name} if step == 2 else set()
    assert 'features' in denser
    assert deviation(dense['features'][:, 1::2, 1::2], strided['features'][:, :-1, :-1]) > 0.1  # the map is not flat


@pytest.mark.parametrize('output_stride', OUTPUT_STRIDES)
@pytest.mark.parametrize('size', [(65, 97), (70, 90)])
def test_endpoints_and_their_shapes(output_stride: int, size: tuple[int, int]) -> None:
    model = mobilenet_v2.Model(output_stride=output_stride)
    depths = [32, 16, 24, 24, 32, 32, 32, 64, 64, 64, 64, 96, 96, 96, 160, 160, 160, 320]
    sizes = {s: tuple(-(-n // s) for n in size) for s in (2, 4, 8, 16, 32)}  # ceil of ceil is ceil
    expected = {}
    for layer, depth in enumerate(depths, 1):
        stride, stride_before = (min(LAYER_STRIDES[max(k, 1)], output_stride) for k in (layer, layer - 1))
        inner = depths[layer - 2] * (6 if layer > 2 else 1)
        expected[f'layer_{layer}'] = (2, *sizes[stride], depth)
        if layer >= 2:
            expected[f'layer_{layer}/depthwise_output'] = (2, *sizes[stride], inner)
        if layer >= 3:
            expected[f'layer_{layer}/expansion_output'] = (2, *sizes[stride_before], inner)
    expected['features'] = expected['layer_18']
    endpoints = jax.eval_shape(model.apply, shapes_of(model), jax.ShapeDtypeStruct((2, *size, 3), jnp.float32))
    assert {name: x.shape for name, x in endpoints.items()} == expected


def test_convolution_weights_are_those_of_the_official_network() -> None:
    leaves = traverse_util.flatten_dict(shapes_of(mobilenet_v2.Model())['params'])
    assert (
        sum(leaf.size for path, leaf in leaves.items() if path[-1] == 'kernel') == 1_780_160
    )  # counted in the official graph


@pytest.mark.parametrize(
    ('width', 'stem', 'depths'),  # 0.35 and 1.4 as published with Keras' weights of these widths; 0.25, 0.3 by hand
    [
        (0.25, 8, [8, 8, 8, 16, 24, 40, 80]),
        (0.3, 16, [8, 8, 16, 24, 32, 48, 96]),
        (0.35, 16, [8, 8, 16, 24, 32, 56, 112]),
        (1.0, 32, [16, 24, 32, 64, 96, 160, 320]),
        (1.4, 48, [24, 32, 48, 88, 136, 224, 448]),
    ],
)
def test_width_scales_every_depth_by_slims_rule(width: float, stem: int, depths: list[int]) -> None:
    counts = [1, 2, 3, 4, 3, 3, 1]
    params = shapes_of(mobilenet_v2.Model(width=width))['params']
    projections = [params[f'expanded_conv_{i}' if i else 'expanded_conv']['project']['kernel'] for i in range(17)]
    assert params['Conv']['kernel'].shape == (3, 3, 3, stem)
    assert [kernel.shape[3] for kernel in projections] == np.repeat(depths, counts).tolist()


@pytest.mark.parametrize('output_stride', [4, 0, 24, 64])
def test_an_output_stride_that_is_not_allowed_is_refused(output_stride: int) -> None:
    with pytest.raises(InputError, match=f'^output stride {output_stride} .* one of 8, 16, 32$'):
        mobilenet_v2.Model(output_stride=output_stride)


@pytest.mark.parametrize('width', [0.0, -1.0, float('nan'), float('inf')])
def test_a_width_that_is_not_positive_is_refused(width: float) -> None:
    with pytest.raises(InputError, match=f'^width {width} .* a number greater than 0$'):
        mobilenet_v2.Model(width=width)


# ---- training, types ------------------------------------------------------------------------------------------------


def test_training_mode_moves_the_averages_by_mean_and_unbiased_variance() -> None:
    model = mobilenet_v2.Model(width=0.25)
    variables = lively_variables(model)
    apply = jax.jit(functools.partial(model.apply, train=True, mutable=['batch_stats']))
    endpoints, updates = apply(variables, jnp.asarray(noise_images((33, 33), batch=2)))
    # The last layer sees 2 maps of 3x3 cells: N/(N-1) is 18/17.
    kernel = variables['params']['expanded_conv_16']['project']['kernel'][0, 0]
    seen = np.asarray(endpoints['layer_18/depthwise_output'], np.float64).reshape(18, -1) @ kernel
    before, after = (v['batch_stats']['expanded_conv_16']['project']['BatchNorm'] for v in (variables, updates))
    np.testing.assert_allclose((after['var'] - 0.997 * before['var']) / 0.003, seen.var(0, ddof=1), rtol=1e-3)
    np.testing.assert_allclose((after['mean'] - 0.997 * before['mean']) / 0.003, seen.mean(0), atol=1e-3)


def test_gradients_reach_every_parameter_of_a_block() -> None:
    block = mobilenet_v2.InvertedResidual(mobilenet_v2.Bottleneck(depth=8, expansion=6, stride=1, rate=2))
    x = jax.random.normal(jax.random.key(0), (2, 6, 6, 8))
    variables = block.init(jax.random.key(1), x, train=False)

    def loss(params: PyTree) -> jax.Array:
        outputs, _ = block.apply(variables | {'params': params}, x, train=True, mutable=['batch_stats'])
        return jnp.square(outputs['output'] - 1).sum()

    gradients = traverse_util.flatten_dict(jax.jit(jax.grad(loss))(variables['params']))
    assert len(gradients) == 9
    for path, gradient in gradients.items():
        assert np.abs(gradient).max() > 1e-3, path


def test_bfloat16_computes_in_bfloat16_and_keeps_the_variables_in_float32() -> None:
    model = mobilenet_v2.Model(width=0.25, dtype=jnp.bfloat16)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(shapes_of(model))} == {'float32'}
    endpoints = jax.eval_shape(model.apply, shapes_of(model), jax.ShapeDtypeStruct((1, 33, 33, 3), jnp.float32))
    assert {x.dtype.name for x in endpoints.values()} == {'bfloat16'}


def test_kernels_start_as_truncated_normals_of_the_official_width() -> None:
    block = mobilenet_v2.InvertedResidual(mobilenet_v2.Bottleneck(depth=64, expansion=8, stride=1, rate=1))
    variables = block.init(jax.random.key(0), jnp.zeros((1, 1, 1, 64)), train=False)
    kernel = variables['params']['expand']['kernel']
    assert kernel.shape == (1, 1, 64, 512)
    assert np.abs(kernel).max() <= 0.18  # two sigma
    np.testing.assert_allclose(
        kernel.std(), 0.09 * 0.8796, rtol=0.02
    )  # spread of a unit normal cut at two sigma: 0.8796
