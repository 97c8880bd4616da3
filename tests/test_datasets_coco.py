"""COCO as VOC: regions become pixels as pycocotools makes them, classes by name, the rule of what is kept.

The rest is in test_datasets.py.
"""

import json
import math
import pathlib
import pickle
import shutil

import ml_collections
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from dpc_jax import coco_annotations, datasets
from dpc_jax.base import IGNORE_LABEL
from dpc_jax.datasets import VOC_CLASSES, coco

NAMES = {1: 'person', 3: 'car', 5: 'airplane', 59: 'pizza', 63: 'couch', 72: 'tv'}  # ids of COCO
PERSON, CAR, SOFA = (VOC_CLASSES.index(name) for name in ('person', 'car', 'sofa'))
SIZE = (40, 60)


def box(top: int, left: int, bottom: int, right: int) -> list[list[float]]:
    return [[left, top, right, top, right, bottom, left, bottom]]


def region(image: int, category: int, segmentation, *, area: float = 1200.0, iscrowd: int = 0) -> dict:
    return {'image_id': image, 'category_id': category, 'segmentation': segmentation, 'area': area, 'iscrowd': iscrowd}


def write(
    root: pathlib.Path, annotations: list[dict], count: int = 1, split: str = 'train2017', first: int = 1
) -> None:
    """Images `first`, ... of 40x60, and their annotations; the newest file name comes first, as COCO has no order."""
    folder = root / ('val2014' if 'minival' in split else split)
    folder.mkdir(parents=True, exist_ok=True)
    (root / 'annotations').mkdir(exist_ok=True)
    numbers = range(first, first + count)
    for number in numbers:
        Image.new('L', SIZE[::-1], number).save(folder / f'{number:012}.jpg')  # some of COCO's are gray
    content = {
        'info': {'year': 2017},
        'annotations': [{'id': 100 + number, **item} for number, item in enumerate(annotations)],
        'images': [{'id': n, 'file_name': f'{n:012}.jpg', 'height': 40, 'width': 60} for n in reversed(numbers)],
        'categories': [{'id': number, 'name': name, 'supercategory': ''} for number, name in NAMES.items()],
    }
    (root / 'annotations' / f'instances_{split}.json').write_text(json.dumps(content))


def load(root: pathlib.Path, split: str = 'train') -> datasets.Dataset:
    return datasets.load('coco', ml_collections.ConfigDict({'root': str(root)}), split)


def label_of(root: pathlib.Path, *annotations: dict) -> np.ndarray:
    """Of the one image that has these annotations."""
    write(root, list(annotations))
    (example,) = load(root)
    assert (example.image.shape, example.label.shape) == ((*SIZE, 3), SIZE)
    return example.label


def boxes(*parts: tuple[tuple[int, int, int, int], int]) -> np.ndarray:
    label = np.zeros(SIZE, np.uint8)
    for (top, left, bottom, right), value in parts:
        label[top:bottom, left:right] = value
    return label


@pytest.mark.parametrize(
    ('points', 'expected'),
    [
        ([(1, 1), (4, 1), (4, 3), (1, 3)], ['......', '.###..', '.###..', '......']),
        ([(1, 3), (4, 3), (4, 1), (1, 1)], ['......', '.###..', '.###..', '......']),
        ([(0.6, 1.6), (3.4, 1.6), (3.4, 2.4), (0.6, 2.4)], ['......'] * 4),  # no middle of a row
        ([(0.4, 1.4), (3.6, 1.4), (3.6, 2.6), (0.4, 2.6)], ['......', '####..', '####..', '......']),
        ([(0, 0), (6, 0), (6, 4), (4, 4), (4, 1), (2, 1), (2, 4), (0, 4)], ['######', *['##..##'] * 3]),
        ([(0, 0), (4, 4), (0, 4)], ['#.....', '##....', '###...', '####..']),
        ([(-3, -2), (2, -2), (2, 9), (-3, 9)], ['##....'] * 4),
        ([(7, 1), (9, 1), (9, 3)], ['......'] * 4),
    ],
    ids=['box', 'the other way', 'thin', 'rounded', 'concave', 'triangle', 'over the edge', 'outside'],
)
def test_a_pixel_belongs_to_the_polygon_that_its_middle_is_in(points, expected):
    mask = coco.fill([(coco.POLYGON, np.array(points, np.float64).ravel())], (4, 6))
    assert [''.join('.#'[inside] for inside in row) for row in mask.tolist()] == expected


def test_polygons_are_those_of_pycocotools():
    # pycocotools 2.0.11: mask.frPyObjects of this list, which it rounds to fifths of a pixel.
    points = [(10.2, 5.7), (60.4, 12.1), (88.9, 40.3), (55.5, 38.8), (47.25, 70.6), (20.1, 61.9), (30.0, 33.3)]
    counts = (
        'fk02^21O1O2N100O2N1O2N1UOD@=<FD<7HH94JM7NL25JO52H082C1=0_O4`0N[O5e0k010O00001O00000010O0001O0'
        '0001O0001N1M3L4L4L4L4M3L5K40000000001O1O1O1O1O1O1O1O1O100O1O1O1O1O1O1O1O1O1O1O1O1O1O1O1O1Oil0'
    )
    expected = coco.fill_runs(np.array(coco.decode_counts(counts), np.int32), (80, 100))
    assert expected.sum() == 2287
    np.testing.assert_array_equal(coco.fill([(coco.POLYGON, np.array(points).ravel())], (80, 100)), expected)


def test_coordinates_keep_their_decimals(tmp_path):
    # 0.7 is rounded to four fifths, and its float32, which is a little less, to three.
    points = [[10.7, 5.3, 30.7, 8.1, 27.3, 33.7, 14.1, 21.3]]
    label = label_of(tmp_path, region(1, 1, points))
    expected = coco_mask.frPyObjects(points, *SIZE)[0]['counts'].decode()
    np.testing.assert_array_equal(
        label == PERSON, coco.fill_runs(np.array(coco.decode_counts(expected), np.int32), SIZE)
    )


def test_runs_go_down_the_columns():
    mask = np.zeros((9, 7), bool)
    mask[1:8, 1] = mask[2:5, 3] = mask[:, 5] = mask[0, 6] = True
    # By hand, and pycocotools 2.0.11: mask.encode.
    counts = [10, 7, 12, 3, 13, 10, 8]
    assert coco.decode_counts(':7<L17K') == counts
    np.testing.assert_array_equal(coco.fill_runs(np.array(counts, np.int32), (9, 7)), mask)


def test_categories_become_classes_by_their_names(tmp_path):
    assert set(coco.OTHER_NAMES.values()) < set(VOC_CLASSES)
    parts = [((0, 0, 10, 60), 1), ((10, 0, 20, 60), 63), ((20, 0, 30, 60), 72), ((30, 0, 40, 60), 59)]
    label = label_of(tmp_path, *(region(1, category, box(*corners)) for corners, category in parts))
    names = [VOC_CLASSES[value] for value in label[5::10, 30]]
    assert names == ['person', 'sofa', 'tvmonitor', 'background']


def test_objects_of_several_polygons_and_of_runs(tmp_path):
    two = [*box(0, 0, 10, 10), *box(5, 5, 15, 15)]  # of one object: both are inside
    counts = [40 * 30, 40 * 10, 40 * 20]
    for runs in (counts, _compressed(counts)):
        label = label_of(tmp_path, region(1, 3, two), region(1, 63, {'size': [40, 60], 'counts': runs}))
        expected = boxes(((0, 0, 10, 10), CAR), ((5, 5, 15, 15), CAR), ((0, 30, 40, 40), SOFA))
        np.testing.assert_array_equal(label, expected)


def _compressed(counts: list[int]) -> str:
    """Of at most three numbers, which are written as they are."""
    text = ''
    for number in counts:
        while number > 15:
            text += chr((number & 31 | 32) + 48)
            number >>= 5
        text += chr(number + 48)
    return text


def test_two_classes_in_a_pixel_are_ignored_and_one_class_twice_is_not(tmp_path):
    regions = (region(1, 1, box(0, 0, 20, 20)), region(1, 1, box(10, 10, 30, 30)), region(1, 3, box(15, 15, 35, 60)))
    once = boxes(((0, 0, 20, 20), PERSON), ((10, 10, 30, 30), PERSON), ((15, 15, 35, 60), CAR))
    once[15:20, 15:20] = once[15:30, 15:30] = IGNORE_LABEL
    for annotations in (regions, regions[::-1]):
        np.testing.assert_array_equal(label_of(tmp_path, *annotations), once)
    # A third class does not make a pixel of two classes certain; what VOC does not have is no second class.
    label = label_of(tmp_path, *regions, region(1, 63, box(18, 18, 22, 22)), region(1, 59, box(0, 0, 40, 60)))
    np.testing.assert_array_equal(label, once)


def test_a_crowd_is_ignored_but_for_its_single_objects(tmp_path):
    crowd = region(1, 1, {'size': [40, 60], 'counts': [40 * 20, 40 * 20, 40 * 20]}, iscrowd=1)
    for annotations in ([crowd, region(1, 1, box(0, 0, 20, 30))], [region(1, 1, box(0, 0, 20, 30)), crowd]):
        label = label_of(tmp_path, *annotations)
        np.testing.assert_array_equal(label, boxes(((0, 20, 40, 40), IGNORE_LABEL), ((0, 0, 20, 30), PERSON)))


def test_images_with_more_than_1000_annotated_pixels_are_kept(tmp_path):
    crowd = {'size': [40, 60], 'counts': [0, 2400]}
    annotations = [
        region(1, 1, box(0, 0, 20, 50), area=1000.0),
        *(region(2, category, box(0, 0, 20, 50), area=area) for category, area in ((1, 600.0), (3, 400.5))),
        region(3, 59, box(0, 0, 40, 60), area=2400.0),  # no class of VOC
        region(4, 1, crowd, area=2400.0, iscrowd=1),
        region(6, 1, box(0, 0, 40, 60), area=2400.0),
    ]
    write(tmp_path, annotations, count=6)  # the fifth has none
    dataset = load(tmp_path)
    assert [pathlib.Path(example.name).name for example in dataset] == ['000000000002.jpg', '000000000006.jpg']
    assert (dataset[1].label == PERSON).all()


def test_2014_is_train_and_val_without_minival(tmp_path):
    for split, first in (('train2014', 1), ('valminusminival2014', 11), ('minival2014', 21)):
        write(tmp_path, [region(first, 1, box(0, 0, 40, first))], split=split, first=first)
    for split, numbers in (('train', [1, 11]), ('val', [21])):
        found = {pathlib.Path(image).name: (label == PERSON).sum() for image, label in _by_name(load(tmp_path, split))}
        assert found == {f'{number:012}.jpg': 40 * number for number in numbers}
    folder = tmp_path / 'images'  # where some keep them
    folder.mkdir()
    (tmp_path / 'val2014').rename(folder / 'val2014')
    assert load(tmp_path, 'val').example_name(0) == str(folder / 'val2014' / '000000000021.jpg')


def _by_name(dataset: datasets.Dataset):
    return [(example.name, example.label) for example in dataset]


def test_what_is_absent_is_named(tmp_path, fault):
    write(tmp_path, [region(1, 1, box(0, 0, 40, 60))], split='train2014')
    message = fault(lambda: load(tmp_path))
    assert message == f'there are no annotations {tmp_path}/annotations/instances_valminusminival2014.json'
    message = fault(lambda: load(tmp_path, 'val'))
    assert message.startswith(f'there are no annotations {tmp_path}/annotations/instances_val2017.json, nor ')
    assert 'instances_minival2014.json' in message
    write(tmp_path, [region(1, 1, box(0, 0, 40, 60))])
    (tmp_path / 'train2017/000000000001.jpg').unlink()
    message = f'there is no image {tmp_path}/train2017/000000000001.jpg, which the annotations of train list'
    assert fault(lambda: load(tmp_path)) == message
    shutil.rmtree(tmp_path / 'train2017')
    assert fault(lambda: load(tmp_path)) == f'there is no folder {tmp_path}/train2017, nor images/train2017'


@pytest.mark.parametrize(
    ('annotation', 'message'),
    [
        (region(1, 59, box(0, 0, 40, 60)), 'no image has more than 1000 annotated pixels of the VOC classes'),
        (region(7, 1, box(0, 0, 40, 60)), 'image_id 7 of an annotation is not one of those that the file lists'),
        (region(1, 2, box(0, 0, 40, 60)), 'category_id 2 of an annotation is not one of those that the file lists'),
        (region(1, 1, [[0, 0, 40, 0, 40, 60, 7]]), 'a polygon of 7 numbers, annotation 100'),
        (region(1, 1, {'size': [40, 60], 'counts': [1, 2]}), 'instances: runs of 3 pixels in an image of 40x60'),
        (region(1, 1, {'size': [40, 60], 'counts': [2500, -100]}), 'runs of 2400 pixels'),
        (region(1, 1, {'size': [40, 60], 'counts': [0.5, 2399.5]}), 'instances: runs that are not integers'),
        (region(1, 1, {'size': [60, 40], 'counts': [0, 2400]}), 'runs of 60x40 in image_id 1 of 40x60 pixels'),
        (region(1, 1, {'size': [10, 10], 'counts': '0T3'}), 'runs of 10x10 in image_id 1 of 40x60 pixels'),
        (region(1, 1, [[0, 0, 40, 0, math.nan, 60]]), 'a polygon of image_id 1 has the coordinate nan'),
        (region(1, 1, [[0, 0, 40, 0, 1e9, 60]]), 'a polygon of image_id 1 has the coordinate 1000000000.0'),
        ({'image_id': 1, 'segmentation': []}, 'these are not COCO instances: annotation 100 has no category_id'),
        (region(1, 1, [['a', 'b', 'c', 'd', 'e', 'f']]), 'a polygon of annotation 100 holds what is no number: '),
    ],
)
def test_faulty_annotations(tmp_path, fault, annotation, message):
    write(tmp_path, [annotation])
    found = fault(lambda: load(tmp_path))
    assert found.startswith(f'{tmp_path}/annotations/instances_train2017.json: ')
    assert message in found


@pytest.mark.parametrize(('height', 'said'), [(-40, '-40'), ('40', "'40'")])
def test_an_image_of_no_size(tmp_path, fault, height, said):
    write(tmp_path, [region(1, 1, box(0, 0, 40, 60))])
    path = tmp_path / 'annotations/instances_train2017.json'
    content = json.loads(path.read_text())
    content['images'][0]['height'] = height
    path.write_text(json.dumps(content))
    assert f'instances: image 000000000001.jpg of height {said} and width 60' in fault(lambda: load(tmp_path))


def test_workers_get_it_whole_and_its_repr_is_short(tmp_path):
    write(tmp_path, [region(1, 1, box(0, 0, 40, 60))])
    dataset = load(tmp_path)
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.fingerprint() == dataset.fingerprint()
    np.testing.assert_array_equal(copy[0].label, dataset[0].label)
    assert repr(copy) == repr(dataset) == 'Coco(train, 1 images)'


@pytest.mark.parametrize('text', ['', '{"images": [', '[]', '{"images": []}'])
def test_a_file_that_holds_no_annotations(tmp_path, fault, text):
    write(tmp_path, [])
    (tmp_path / 'annotations/instances_train2017.json').write_text(text)
    assert 'instances_train2017.json: these are not COCO instances: ' in fault(lambda: load(tmp_path))


def written(root: pathlib.Path, **content) -> np.ndarray:
    """The label of an image of 40x60, number 1, in a file with such content."""
    write(root, [])
    path = root / 'annotations/instances_train2017.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), **content}), encoding='utf-8-sig')
    return load(root)[0].label


BOX = [[5, 0, 45, 0, 45, 30, 5, 30]]  # 30x40 pixels, whose upper left corner is (0, 5)
PERSON_THERE = ((0, 5, 30, 45), PERSON)


@pytest.mark.parametrize(
    'fields',
    [
        {'segmentation': BOX, 'area': 1200.0},  # no iscrowd
        {'segmentation': BOX, 'iscrowd': 0},  # no area: 1200 pixels, of which more than 1000 are kept
        {'segmentation': BOX, 'iscrowd': None, 'area': None},
        {'segmentation': BOX[0], 'iscrowd': 0, 'area': 1200},  # one polygon that is in no list
        {'segmentation': {'size': [40, 60], 'counts': [200, *[30, 10] * 39, 30, 610]}},
    ],
)
def test_what_is_implied_may_be_absent(tmp_path, fields):
    label = written(tmp_path, annotations=[{'id': 1, 'image_id': 1, 'category_id': 1, **fields}])
    np.testing.assert_array_equal(label, boxes(PERSON_THERE))


def test_an_area_that_is_absent_is_that_of_the_outline(tmp_path, fault):
    assert coco_annotations.polygon_area(BOX[0]) == 1200
    assert coco_annotations.polygon_area([0, 0, 4, 0, 0, 3]) == 6
    small = [[0, 0, 50, 0, 50, 20, 0, 20]]  # 1000 pixels, which are too few
    annotation = {'id': 1, 'image_id': 1, 'category_id': 1, 'segmentation': small}
    assert 'no image has more than 1000' in fault(lambda: written(tmp_path, annotations=[annotation]))


def test_ids_may_be_texts(tmp_path, fault):
    image = {'id': 'one', 'file_name': f'{1:012}.jpg', 'height': 40, 'width': 60}
    content = {'images': [image], 'categories': [{'id': 'p', 'name': 'person'}]}
    annotation = {'id': 'a', 'image_id': 'one', 'category_id': 'p', 'segmentation': BOX}
    label = written(tmp_path, annotations=[annotation], **content)
    np.testing.assert_array_equal(label, boxes(PERSON_THERE))
    said = fault(lambda: written(tmp_path, annotations=[{**annotation, 'image_id': 'two'}], **content))
    assert said.endswith("image_id 'two' of an annotation is not one of those that the file lists")


@pytest.mark.parametrize('outline', [[], None, [[]], [[1, 2, 3, 4]], 'absent'])
def test_an_object_without_outline_is_ignored_in_its_box_and_never_background(tmp_path, outline, caplog):
    """And its area does not make an image worth keeping."""
    person = region(1, 1, BOX)
    annotation = {**region(1, 3, outline, area=9000.0), 'bbox': [50, 2, 6, 20]}
    if outline == 'absent':
        del annotation['segmentation']
    label = label_of(tmp_path, person, annotation)
    np.testing.assert_array_equal(label, boxes(PERSON_THERE, ((2, 50, 22, 56), IGNORE_LABEL)))
    assert '1 annotations have a box and no outline, so what is in it is ignored; 0 have neither' in caplog.text
    write(tmp_path, [annotation, region(2, 1, BOX)], count=2)
    assert [pathlib.Path(example.name).name for example in load(tmp_path)] == ['000000000002.jpg']


@pytest.mark.parametrize(
    ('fields', 'said'),
    [
        ({'image_id': None}, 'annotation 7 has no image_id'),
        ({'image_id': 1.5}, 'image_id of annotation 7 is 1.5; it must be a whole number or a text'),
        ({'iscrowd': 'no'}, "iscrowd of annotation 7 is 'no'; allowed: 0 and 1"),
        ({'area': 'large'}, "area of annotation 7 is 'large', which is no number"),
        ({'segmentation': 'here'}, "segmentation of annotation 7 is 'here'; it must be polygons, or size and counts"),
        ({'segmentation': ['here']}, "a polygon of 'here', which is no list, annotation 7"),
        ({'segmentation': {'size': [40, 60]}}, 'a region of runs has no counts'),
        ({'segmentation': {'size': 40, 'counts': [2400]}}, 'runs [2400] of size 40; they are lists, of two numbers'),
        ({'segmentation': [], 'bbox': [1, 2]}, 'bbox of annotation 7 is [1, 2]; it must be x, y, width, height'),
    ],
)
def test_what_is_wrong_is_said_in_words_of_the_format(tmp_path, fault, fields, said):
    annotation = {**region(1, 1, BOX), 'id': 7, **fields}
    found = fault(lambda: written(tmp_path, annotations=[annotation]))
    assert f'these are not COCO instances: {said}' in found


@pytest.mark.parametrize(
    ('content', 'said'),
    [
        ({'images': None}, 'the file has no images'),
        ({'categories': None}, 'the file has no categories'),
        ({'categories': [{'id': 1}]}, 'a category has no name'),
        ({'images': [{'id': 1}]}, 'an image has no file_name'),
    ],
)
def test_what_a_file_lacks_is_named(tmp_path, fault, content, said):
    assert f'these are not COCO instances: {said}' in fault(lambda: written(tmp_path, annotations=[], **content))
