"""What cells and networks cost, against the paper's Table 1, the official graphs, and counts by hand."""

import json
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from dpc_jax import contexts, networks, ops
from dpc_jax.base import FEATURES
from dpc_jax.cell import CellSettings, DensePredictionCell
from dpc_jax.convolution import ConvUnit
from dpc_jax.counting import (
    Cost,
    Operation,
    Variables,
    as_published,
    count_variables,
    operations,
    total,
    totals,
    without_projection,
)
from dpc_jax.decoder import Decoder, Logits
from dpc_jax.spaces import dpc
from dpc_jax.spaces.dpc import Counts, Genotype, count
from dpc_jax.weights import tf_import

CITYSCAPES = (65, 129)  # 1025x2049 at output stride 16
MOBILENET_V2, XCEPTION = 320, 2048  # channels of the features


def count_named(name: str, channels: int) -> Counts:
    return count(dpc.Space(5).named(name), size=CITYSCAPES, channels=channels, filters=256, pooling='sliding')


@pytest.mark.parametrize(
    ('channels', 'params', 'macs'),
    [  # per branch: 9 C + 256 C; MAdds: the same at each of 8385 positions
        (MOBILENET_V2, 84_800 + 4 * 67_840, 2_986_401_600),
        (XCEPTION, 542_720 + 4 * 67_840, 6_826_060_800),
    ],
)
def test_the_released_cell(channels, params, macs):
    counts = count_named('dpc_top1', channels)
    assert params in (356_160, 814_080)
    assert counts == Counts(params, macs, 5 * 256 * 256, 5 * 256 * 256 * 8385)


@pytest.mark.parametrize(
    ('channels', 'params', 'macs'),
    [  # 1x1, three separable at 8385 positions, the pooled 1x1 at one
        (MOBILENET_V2, 418_240, (81_920 + 3 * 84_800) * 8385 + 81_920),
        (XCEPTION, 2_676_736, (524_288 + 3 * 542_720) * 8385 + 524_288),
    ],
)
def test_aspp(channels, params, macs):
    counts = count_named('aspp', channels)
    assert (counts.branch_params, counts.branch_macs) == (params, macs)


@pytest.mark.parametrize(
    ('name', 'channels', 'params', 'macs'),
    [
        ('dpc_top1', MOBILENET_V2, 0.36e6, 3.00e9),
        ('dpc_top1', XCEPTION, 0.81e6, 6.84e9),
        ('aspp', MOBILENET_V2, None, 2.82e9),  # its params are printed with one separable convolution of three
        ('aspp', XCEPTION, None, 18.12e9),
    ],
)
def test_table_1_of_the_paper(name, channels, params, macs):
    counts = count_named(name, channels)
    assert counts.branch_macs == pytest.approx(macs, rel=0.005)
    assert params is None or round(counts.branch_params / 1e6, 2) * 1e6 == params


@pytest.mark.parametrize(
    ('op', 'pooling', 'positions'),
    [
        # Sliding windows on 65x129: 65 // 1, 33, 17, 9 rows and 129, 65, 33, 17 columns high and wide.
        ('pool 1x1', 'sliding', 1 * 1),
        ('pool 2x4', 'sliding', 33 * 97),
        ('pool 8x1', 'sliding', 57 * 1),
        ('pool 8x8', 'sliding', 57 * 113),
        ('pool 1x1', 'binned', 1 * 1),
        ('pool 2x4', 'binned', 2 * 4),
        ('pool 8x1', 'binned', 8 * 1),
    ],
)
def test_a_pooled_branch_multiplies_where_it_pooled(op, pooling, positions):
    genotype = Genotype(np.array([FEATURES, 0], np.int32), np.array([0, dpc.OP_NAMES.index(op)], np.int32))
    counts = count(genotype, size=CITYSCAPES, channels=6, filters=4, pooling=pooling)
    assert counts.branch_params == 6 * 4 + 4 * 4
    assert counts.branch_macs == 6 * 4 * 8385 + 4 * 4 * positions


def test_a_map_smaller_than_the_grid_has_no_more_bins_than_cells():
    genotype = Genotype(np.array([FEATURES], np.int32), np.array([dpc.OP_NAMES.index('pool 8x4')], np.int32))
    counts = count(genotype, size=(3, 9), channels=2, filters=5, pooling='binned')
    assert counts.branch_macs == 2 * 5 * 3 * 4


@pytest.mark.parametrize('num_branches', [1, 2, 5, 8])
@pytest.mark.parametrize(('channels', 'filters'), [(7, 4), (3, 6)])
def test_params_are_the_entries_of_the_kernels_of_the_cell(num_branches, channels, filters):
    for seed in range(3):
        genotype = dpc.Space(num_branches).sample(jax.random.key(seed))
        module = DensePredictionCell.of(genotype, CellSettings(filters=filters))
        features = jax.ShapeDtypeStruct((1, 3, 3, channels), jnp.float32)
        params = jax.eval_shape(module.init, jax.random.key(0), features)['params']
        sizes = {name: math.prod(part['kernel'].shape) for name, part in params.items()}
        projection = sizes.pop('concat_projection')
        counts = count(genotype, size=(3, 3), channels=channels, filters=filters, pooling='sliding')
        assert (counts.branch_params, counts.projection_params) == (sum(sizes.values()), projection)


# ---- any module ------------------------------------------------------------------------------------------------------


class Tiny(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = ConvUnit(5, ops.xavier_init, (3, 3), stride=2, name='stem')(x, train)
        for index in range(2):
            x = ConvUnit(None, ops.depthwise_init, (3, 3), rate=(2, 1), name=f'depthwise{index}')(x, train)
        pooled = ConvUnit(7, ops.xavier_init, name='pooled')(x.mean((1, 2), keepdims=True), train)
        return Logits(4, name='logits')(ops.resize_bilinear(pooled, (9, 9)) * 2)


def images(height, width, batch=1):
    return jax.ShapeDtypeStruct((batch, height, width, 3), jnp.float32)


@pytest.mark.parametrize('batch', [1, 6])
def test_a_module_counted_by_hand(batch):
    found = operations(Tiny(), images(12, 7, batch))
    assert found == (  # twelve rows become six by stride 2, seven columns four
        Operation(('stem',), 'conv 3x3', (3, 3, 3, 5), (1, 1), (6, 4)),
        Operation(('depthwise0',), 'depthwise 3x3', (3, 3, 1, 5), (2, 1), (6, 4)),
        Operation(('depthwise1',), 'depthwise 3x3', (3, 3, 1, 5), (2, 1), (6, 4)),
        Operation(('pooled',), 'conv 1x1', (1, 1, 5, 7), (1, 1), (1, 1)),
        Operation(('logits',), 'conv 1x1', (1, 1, 7, 4), (1, 1), (9, 9)),
    )
    assert [operation.macs for operation in found] == [135 * 24, 45 * 24, 45 * 24, 35, 28 * 81]
    assert totals(found, lambda operation: operation.kind) == {
        'conv 3x3': Cost(135, 3240),
        'depthwise 3x3': Cost(90, 2160),
        'conv 1x1': Cost(63, 2303),
    }
    assert total(found) == Cost(288, 7703)


def test_variables_of_a_module_counted_by_hand():
    variables = jax.eval_shape(lambda x: Tiny().init(jax.random.key(0), x), images(12, 7))
    # Kernels 288, a scale and a bias for each of 5 + 5 + 5 + 7 channels, 4 biases of the logits; as many averages.
    assert count_variables(variables) == Variables(288 + 44 + 4, 288 + 44 + 4 + 44, 4 * 5 + 2)


def test_a_unit_by_itself_is_counted():
    assert operations(Logits(4), jax.ShapeDtypeStruct((1, 3, 5, 2), jnp.float32)) == (
        Operation((), 'conv 1x1', (1, 1, 2, 4), (1, 1), (3, 5)),
    )


def test_a_decoder_is_counted_at_the_size_that_is_asked_for():
    maps = [jax.ShapeDtypeStruct((1, *size, 256), jnp.float32) for size in ((65, 129), (257, 513))]
    assert total(operations(Decoder(), *maps, size=(257, 513))) == Cost(160_688, 160_688 * 257 * 513)


@pytest.mark.parametrize('pooling', ['sliding', 'binned'])
@pytest.mark.parametrize('seed', range(6))
def test_the_arithmetic_on_a_genotype_is_the_count_of_its_module(seed, pooling):
    genotype = dpc.Space(5).sample(jax.random.key(seed))
    module = DensePredictionCell.of(genotype, CellSettings(6, pooling=pooling))
    found = operations(module, jax.ShapeDtypeStruct((1, 11, 7, 9), jnp.float32))
    branches, projection = total(without_projection(found)), totals(found, lambda o: o.path[0])['concat_projection']
    assert count(genotype, size=(11, 7), channels=9, filters=6, pooling=pooling) == (*branches, *projection)


@pytest.mark.parametrize(
    ('context', 'channels', 'params', 'macs'),
    [  # as printed, in millions and billions
        ('aspp', MOBILENET_V2, 0.25, 2.82),
        ('dpc', MOBILENET_V2, 0.36, 3.00),
        ('aspp', XCEPTION, 1.59, 18.12),
        ('dpc', XCEPTION, 0.81, 6.84),
    ],
)
def test_table_1_of_the_paper_by_its_rules(context, channels, params, macs):
    config = common.network_config()
    config.context.name = context
    features = jax.ShapeDtypeStruct((1, *CITYSCAPES, channels), jnp.float32)
    found = operations(contexts.make(config), features)
    published = as_published(found)
    assert f'{published.weights / 1e6:.2f}' == f'{params:.2f}'
    assert published.macs == pytest.approx(macs * 1e9, rel=0.005)
    truly = total(without_projection(found)).weights
    assert truly - published.weights == (2 * 265 * channels if context == 'aspp' else 0)


NETWORKS = {  # dpc.md §3.1: backbone, context, decoder, classes, size -> trainable, all, tensors, MAdds
    'xception_71-dpc-decoder': ('dpc', 4, 19, (41_608_523, 41_818_955, 812), '501.81'),
    'xception_65-dpc-decoder': ('dpc', 4, 19, (39_186_099, 39_382_755, 742), '407.15'),
    'xception_65-aspp-decoder': ('aspp', 4, 19, (41_054_899, 41_257_699, 732), '418.38'),
    'mobilenet_v2-dpc-decoder': ('dpc', 4, 19, (2_663_747, 2_703_299, 337), '46.26'),
    'mobilenet_v2-dpc': ('dpc', 0, 19, (2_506_195, 2_543_507, 312), '25.18'),
    'mobilenet_v2-aspp': ('aspp', 0, 19, (2_567_507, 2_604_051, 302), '25.01'),
    'mobilenet_v2-image_level': ('image_level', 0, 19, (2_113_043, 2_146_131, 272), '21.23'),
    'mobilenet_v2-image_level-voc': ('image_level', 0, 21, (2_113_557, 2_146_645, 272), '2.74'),
}


def network_of(name, output_stride=16):
    config = common.network_config()
    config.backbone.name, config.backbone.output_stride = name.split('-')[0], output_stride
    config.context.name, config.decoder.output_stride, num_classes, *_ = NETWORKS[name]
    return networks.make(config, num_classes)


@pytest.mark.parametrize('name', NETWORKS)
def test_whole_networks_have_the_variables_and_multiply_adds_of_the_official_graphs(name):
    *_, expected, billions = NETWORKS[name]
    network = network_of(name)
    assert count_variables(networks.variable_shapes(network)) == expected
    found = operations(network, images(513, 513) if name.endswith('voc') else images(1025, 2049))
    assert f'{total(found).macs / 1e9:.2f}' == billions


def test_parts_of_the_largest_network():
    found = operations(network_of('xception_71-dpc-decoder'), images(1025, 2049))
    parts = totals(found, lambda operation: operation.path[0])
    assert {part: cost.weights for part, cost in parts.items()} == {
        'backbone': 40_090_760,
        'context': 814_080 + 327_680,
        'decoder': 160_688,
        'logits': 4864,
    }
    assert f'{parts.pop("backbone").macs / 1e9:.1f}' == '470.4'
    positions = {'context': 65 * 129, 'decoder': 257 * 513, 'logits': 257 * 513}
    assert {part: cost.macs for part, cost in parts.items()} == {
        part: cost.weights * positions[part] for part, cost in parts.items()
    }


@pytest.mark.parametrize(
    ('name', 'billions'), [('xception_71-dpc-decoder', 1447.53), ('xception_65-dpc-decoder', 1344.31)]
)
def test_multiply_adds_at_output_stride_8(name, billions):
    # The figures are TensorFlow's profiler's, which counts more than convolutions: 0.02 % more at output stride 16.
    macs = total(operations(network_of(name, 8), images(1025, 2049))).macs / 1e9
    assert macs == pytest.approx(billions, rel=0.001)
    assert macs < billions


@pytest.mark.parametrize(
    ('file', 'name'),
    [
        ('xception71_dpc', 'xception_71-dpc-decoder'),
        ('xception65_dpc', 'xception_65-dpc-decoder'),
        ('xception65_aspp', 'xception_65-aspp-decoder'),
        ('mobilenetv2_dpc', 'mobilenet_v2-dpc-decoder'),
    ],
)
def test_kernels_are_those_of_the_official_variable_lists(shared, file, name):
    listed = json.loads(shared(f'golden/tf_vars_{file}_decoder.json').read_text())
    kernels = {name: shape for name, shape, _ in listed if name.endswith('weights')}
    network = network_of(name)
    found = operations(network, images(33, 65))

    def official(operation):
        path = ('params', *operation.path, 'kernel')
        return tf_import.official_name(path, network.scopes)

    def shape(operation):
        kh, kw, entering, leaving = operation.kernel
        return [kh, kw, leaving, 1] if operation.kind.startswith('depthwise') else [kh, kw, entering, leaving]

    assert {official(operation): shape(operation) for operation in found} == kernels
    sizes = [(math.prod(shape), trainable) for _, shape, trainable in listed]
    trainable = sum(size for size, trainable in sizes if trainable)
    assert count_variables(networks.variable_shapes(network)) == (trainable, sum(size for size, _ in sizes), len(sizes))
