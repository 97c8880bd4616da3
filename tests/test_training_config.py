"""What a training refuses before any work: batch norms over single values, rates that are scaled twice."""

import dataclasses
import logging

import ml_collections
import numpy as np
import pytest

from configs import common
from dpc_jax import assembly, checks, contexts, tasks, training
from dpc_jax.base import SegmentationExample
from dpc_jax.contexts import aspp
from dpc_jax.datasets import camvid
from dpc_jax.evaluation import config as evaluation_config


def config(**fields) -> ml_collections.ConfigDict:
    made = common.network_config()
    common.shrink_network(made)
    made.dataset = common.scenes()
    made.train.batch_size = 8
    made.update_from_flattened_dict({name.replace('__', '.'): value for name, value in fields.items()})
    return made


@pytest.mark.parametrize(
    ('batch_size', 'parts', 'batch_norm', 'devices', 'together'),
    [
        (8, 1, 'synced', 4, 8),
        (8, 4, 'synced', 1, 2),
        (4, 4, 'synced', 1, 1),
        (8, 2, 'per_device', 4, 1),
        (8, 1, 'per_device', 4, 2),
        (4, 4, 'frozen', 1, 2),
    ],
)
def test_images_that_are_normalised_together(batch_size, parts, batch_norm, devices, together):
    assert training.images_together(batch_size, parts, batch_norm, devices) == together


def test_a_batch_norm_over_one_value_is_refused(fault):
    """A batch of four in four parts, and batch 1: the image-level feature has one cell of one image."""
    ways = ('fewer parts, a larger batch_size', 'a larger batch_size')
    for fields, way in zip(
        ({'train__batch_size': 4, 'train__accumulate': 4}, {'train__batch_size': 1}), ways, strict=True
    ):
        said = fault(lambda fields=fields: training.check(config(context__name='aspp', **fields), 1))
        assert said.endswith(
            'normalises 1 image at a time, of which context/image_pooling/BatchNorm has 1 value per channel; take'
            f" {way}, or batch_norm 'frozen'"
        )
    said = fault(
        lambda: training.check(config(context__name='aspp', train__batch_norm='per_device', train__batch_size=4), 4)
    )
    assert "train.batch_norm 'per_device' on 4 devices" in said


def test_what_has_two_values_is_not_refused():
    for fields in (
        {'context__name': 'none', 'train__batch_size': 1},  # one image of many cells
        {'context__name': 'aspp', 'context__image_pooling': False, 'train__batch_size': 1},
        {'context__name': 'aspp', 'train__batch_size': 1, 'train__batch_norm': 'frozen'},
        {'context__name': 'aspp', 'train__batch_size': 8, 'train__accumulate': 4},
    ):
        training.check(config(**fields), 1)


def test_a_search_needs_two_images_in_a_batch(fault):
    made = common.search_config()
    made.dataset = common.scenes()
    made.proxy.batch_size = 1
    assert fault(lambda: assembly.check(made)).startswith('proxy.batch_size is 1; it must be at least 2: of a single')
    said = fault(lambda: checks.normalised_together(tuning__batch_size=1))
    assert said.startswith('tuning.batch_size is 1; it must be at least 2')


@pytest.mark.parametrize(
    ('rates', 'stride', 'in_force', 'warned'),
    [
        ((6, 12, 18), 16, '6, 12, 18', False),
        ((6, 12, 18), 8, '12, 24, 36', False),  # DeepLabv3, arXiv:1706.05587 §3.3: doubled at output stride 8
        ((12, 24, 36), 8, '24, 48, 72', True),  # what the official FAQ tells its users to pass
        ((12, 24, 36), 16, '12, 24, 36', False),
        ((), 8, 'none', False),
    ],
)
def test_rates_in_force_are_printed_and_those_that_look_scaled_warned_of(
    rates, stride, in_force, warned, capsys, caplog
):
    made = config(context__name='aspp', context__rates=rates, backbone__output_stride=stride)
    assert aspp.make(made, decay=0.9).rates == rates
    with caplog.at_level(logging.WARNING):
        contexts.announce(made)
    assert capsys.readouterr().out == f'ASPP at output stride {stride}: atrous rates {in_force}\n'
    assert [f'context.rates is {rates}, which looks' in record.getMessage() for record in caplog.records] == [
        True
    ] * warned


def test_a_context_without_rates_says_nothing(capsys):
    contexts.announce(config(context__name='none'))
    assert not capsys.readouterr().out


@dataclasses.dataclass(frozen=True)
class Blank(camvid.CamVid):
    """Gray images of these sizes."""

    sizes: tuple[tuple[int, int], ...] = ()

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        label = np.zeros(self.sizes[index], np.uint8)
        return SegmentationExample(np.stack([label] * 3, -1), label, self.example_name(index))

    def example_name(self, index):
        return f'image {index}'


def test_one_large_image_of_an_evaluation_is_named_before_the_work(caplog):
    made = config(evaluate__crop_size=(0, 0))
    small = ((33, 33),) * 4
    assert evaluation_config.choose_crop(made, Blank('val', (), small), tasks.make(made)) == (33, 33)
    assert not caplog.records
    assert evaluation_config.choose_crop(made, Blank('val', (), (*small, (90, 70))), tasks.make(made)) == (97, 81)
    (record,) = caplog.records
    # 97 * 81 pixels of three float32 are 94,284 bytes.
    assert 'image 4 has 90x70 pixels, where 33x33 are common: all 5 images are padded to 97x81' in record.getMessage()
    assert 'and take 471.4 KB (94.28 KB each)' in record.getMessage()
