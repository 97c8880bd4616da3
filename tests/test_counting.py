"""What a cell costs, against the paper's Table 1 and against the parameters of the cells themselves."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpc_jax.base import FEATURES, Genotype
from dpc_jax.cell import CellSettings, DensePredictionCell
from dpc_jax.counting import Counts, count
from dpc_jax.spaces import dpc

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
