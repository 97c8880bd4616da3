"""What occurs in labels: counted right, said in a line, refused where two values lose a class. On drawn arrays."""

import dataclasses

import ml_collections
import numpy as np
import pytest
from PIL import Image

from dpc_jax import datasets, label_counts
from dpc_jax.base import IGNORE_LABEL, InputError
from dpc_jax.datasets import camvid

CLASSES = ('sky', 'road', 'car')


@dataclasses.dataclass(frozen=True)
class Labels(camvid.CamVid):
    """Labels from memory; an empty one stands for a faulty file."""

    labels: tuple[np.ndarray, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index):
        if not self.labels[index].size:
            raise InputError('faulty')
        return datasets.SegmentationExample(np.zeros((*self.labels[index].shape, 3), np.uint8), self.labels[index], '')


def of(*labels: list[int]) -> Labels:
    return Labels('train', (), tuple(np.array([label], np.uint8) for label in labels))


def test_pixels_are_counted_by_label_and_faulty_images_left_out():
    found = label_counts.count(of([0, 0, 1, 255], [1, 1, 1, 255], []), [0, 1, 2])
    assert (found.images, found.pixels[[0, 1, 2, 255]].tolist()) == (2, [2, 4, 0, 2])
    said = 'labels of train (2 of 3 images): 2 of 3 classes, 25.0 % unknown; not seen: car'
    assert label_counts.line(found, CLASSES, 'train', 3) == said


def test_a_sample_is_spread_over_the_split():
    assert label_counts.sample(3) == [0, 1, 2]
    assert label_counts.sample(101, most=5) == [0, 25, 50, 75, 100]


@pytest.mark.parametrize(
    ('labels', 'length', 'expected'),
    [
        ([[0, 1, 2, 255]], 1, []),
        ([[1, 1, 1, 255]], 1, ['the labels of val hold one class alone, road']),
        ([[255, 255]], 1, ['the labels of val hold no class at all']),
        ([[0, 1]], 1, ['no label of val has the classes car']),
        ([[0, 1]], 9, []),  # a sample may lack a class
        (
            [[0, 1, 2, *[255] * 5]],
            1,
            ['62.5 % of the pixels of val are unknown: they take no part in loss and score'],
        ),
    ],
)
def test_what_is_odd_is_said(labels, length, expected):
    found = label_counts.count(of(*labels), range(len(labels)))
    assert label_counts.oddities(found, CLASSES, 'val', length) == expected


def test_masks_of_0_and_255_are_refused(fault):
    """An image outside of the sample that has another class is found, and then they are not."""
    masks = [[0, 0, 255]] * 40
    said = fault(lambda: label_counts.announce(of(*masks)))
    assert said.startswith(
        'the labels of train hold sky (0) and unknown (255) alone, so there is nothing to tell apart;'
    )
    label_counts.announce(of(*masks[:2], [0, 3, 255], *masks))
    assert 2 not in label_counts.sample(43)


def test_masks_in_files_are_refused_by_every_reader_of_label_images(tmp_path, fault):
    mask = np.zeros((4, 6), np.uint8)
    mask[1:3] = 255
    for folder, name in (('JPEGImages', 'a.jpg'), ('SegmentationClass', 'a.png'), ('SegmentationPart', 'a.png')):
        (tmp_path / folder).mkdir()
        Image.fromarray(mask).save(tmp_path / folder / name)
    for place in ('ImageSets/Segmentation', 'ImageSets/Person'):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / 'train.txt').write_text('a')
    (tmp_path / 'train.txt').write_text('JPEGImages/a.jpg SegmentationClass/a.png')
    for name in ('pascal_voc', 'person_part', 'camvid'):
        dataset = datasets.load(name, ml_collections.ConfigDict({'root': str(tmp_path)}), 'train')
        assert set(np.unique(dataset[0].label)) == {0, IGNORE_LABEL}
        assert 'there is nothing to tell apart' in fault(lambda dataset=dataset: label_counts.announce(dataset))


def test_it_is_printed_and_warned(capsys):
    label_counts.announce(of([1, 1, 255, 255, 255]))
    said = 'labels of train (1 of 1 images): 1 of 11 classes, 60.0 % unknown; not seen: '
    assert capsys.readouterr().out.splitlines() == [
        f'{said}sky, pole, road, pavement, tree and 5 more',
        'warning: the labels of train hold one class alone, building',
        'warning: 60.0 % of the pixels of train are unknown: they take no part in loss and score',
    ]
