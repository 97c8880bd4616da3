"""MPII and COCO keypoints: the joints of each person in pixels of its image, whatever file they stand in."""

import json
import pathlib

import ml_collections
import numpy as np
import pytest
import scipy.io
from PIL import Image

from dpc_jax import box_files, datasets, pose
from dpc_jax.datasets import _packed, mpii


def load(name, root, split='val', **fields):
    return datasets.load(name, ml_collections.ConfigDict({'name': name, 'root': str(root), **fields}), split)


@pytest.fixture
def copy(drawn, tmp_path):
    """`copy(name)`: a drawn data set that may be spoilt."""
    import shutil

    return lambda name: shutil.copytree(drawn(name), tmp_path / name)


def edited(path: pathlib.Path, change) -> None:
    held = json.loads(path.read_text())
    change(held)
    path.write_text(json.dumps(held))


# ---- MPII -----------------------------------------------------------------------------------------------------------


def test_the_real_people_are_read_as_the_release_of_simple_baselines_reads_them(shared):
    root = shared('data/fixtures/mpii')
    dataset = load('mpii', root, val_annotations='annotations/test_mpii.json')
    held = json.loads((root / 'annotations/test_mpii.json').read_text())
    assert len(dataset) == len(held) == 5
    for example, entry in zip(dataset, held, strict=True):
        person, scale = example.person, entry['scale']
        np.testing.assert_allclose(person.joints, np.array(entry['joints']) - 1, rtol=1e-6)
        assert person.visible.tolist() == entry['joints_vis']
        x, y = entry['center']
        assert person.centre == pytest.approx((x - 1, y + 15 * scale - 1))
        assert person.size == pytest.approx((200 * scale, 200 * scale))
        assert example.image.shape[2] == 3
        assert person.head == 0  # there are no boxes of heads


def test_heads_may_be_measured_by_joints(shared):
    root = shared('data/fixtures/mpii')
    dataset = load('mpii', root, val_annotations='annotations/test_mpii.json', heads='joints')
    person = dataset.person(0)
    assert person.head == pytest.approx(np.hypot(982.7591 - 962.2409, 235.9694 - 80.0306), rel=1e-5)


def test_heads_are_measured_by_their_boxes(drawn):
    """0.6 of the diagonal, as the official evaluation has it."""
    root = drawn('mpii')
    boxes = scipy.io.loadmat(root / 'annot/gt_valid.mat')['headboxes_src']
    dataset = load('mpii', root)
    for index in range(len(dataset)):
        (x1, y1), (x2, y2) = boxes[:, :, index]
        assert dataset.person(index).head == pytest.approx(0.6 * np.hypot(x2 - x1, y2 - y1), rel=1e-5)


def official(root: pathlib.Path, people: list, *, train=(1, 1, 1, 0)) -> None:
    """The authors' file: four images, of which the third has two people and the last has none that is known."""
    images = np.empty(len(people), object)
    for index, rects in enumerate(people):
        images[index] = {'image': {'name': f'{index}.jpg'}, 'annorect': np.array(rects, object)}
        (root / 'images').mkdir(exist_ok=True)
        Image.new('RGB', (90, 80)).save(root / f'images/{index}.jpg')
    release = {'annolist': images, 'img_train': np.array(train)}
    scipy.io.savemat(root / mpii.OFFICIAL, {'RELEASE': release})


def rect(x, *, scale=0.2, joints=((9, 30.0, 10.0), (6, 31.0, 40.0))):
    points = np.array([{'id': index, 'x': x, 'y': y, 'is_visible': 1} for index, x, y in joints], object)
    held = {'x1': 20.0, 'y1': 5.0, 'x2': 26.0, 'y2': 13.0, 'scale': scale, 'objpos': {'x': x, 'y': 33.0}}
    return {**held, 'annopoints': {'point': points}}


def test_the_authors_file_gives_the_same_people(tmp_path):
    official(tmp_path, [[rect(30.0)], [rect(31.0)], [rect(32.0), rect(33.0)], [rect(34.0)]])
    (tmp_path / mpii.VAL_LIST).write_text('1.jpg\n')
    train, val = (load('mpii', tmp_path, split) for split in ('train', 'val'))
    assert [train.person(index).centre[0] for index in range(len(train))] == [29.0, 31.0, 32.0]
    assert [pathlib.Path(name).name for name in map(train.example_name, range(3))] == ['0.jpg', '2.jpg', '2.jpg']
    (person,) = (val.person(0),)
    assert person.centre == pytest.approx((30.0, 33 + 15 * 0.2 - 1))
    assert person.size == pytest.approx((40, 40))
    assert np.flatnonzero(person.visible).tolist() == [6, 9]
    np.testing.assert_allclose(person.joints[9], (29, 9))
    assert person.head == pytest.approx(0.6 * np.hypot(6, 8), rel=1e-5)


def test_a_share_of_the_images_is_val_where_no_list_says_so(tmp_path, fault):
    official(tmp_path, [[rect(30.0 + index)] for index in range(4)], train=(1, 1, 1, 1))
    assert 'dataset.val_share is 0.0' in fault(lambda: load('mpii', tmp_path))
    splits = [load('mpii', tmp_path, split, val_share=0.25) for split in ('train', 'val')]
    assert [len(split) for split in splits] == [3, 1]
    names = [{split.example_name(index) for index in range(len(split))} for split in splits]
    assert not names[0] & names[1]


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        (lambda held: held[1].pop('joints_vis'), 'person 1 has no visibility of its joints'),
        (
            lambda held: held[1].update(joints=held[1]['joints'][:15]),
            'person 1 has 15 joints (shape (15, 2)); there are 16',
        ),
        (lambda held: held[1].update(joints_vis=[1] * 3), 'person 1 says the visibility of 3 joints; there are 16'),
        (lambda held: held[0].update(image='absent.jpg'), 'person 0: there is no image'),
        (lambda held: held[0].update(scale=float('nan')), 'the scale nan'),
        (lambda held: held[0].pop('center'), "person 0 has no 'center'"),
        (lambda held: held[0].update(center=[900.0, 900.0]), 'lies outside of its image of 96x72'),
        (lambda held: held.pop(), 'boxes (2, 2, 3); valid.json has 2 people'),
        (lambda held: held[0].update(joints='x'), 'its joints are no list of 16 points'),
        (lambda held: held[0].update(joints_vis='x'), 'the visibility of its joints is no list of numbers'),
        (lambda held: held[0].update(center=None), 'person 0 has no center (x, y) or no scale'),
        (lambda held: held[0].update(scale='abc'), 'person 0 has no center (x, y) or no scale'),
    ],
)
def test_what_is_wrong_with_mpii_is_one_line(copy, fault, change, said):
    root = copy('mpii')
    edited(root / 'annot/valid.json', change)
    assert said in fault(lambda: load('mpii', root)[0])


def test_a_folder_without_annotations_names_what_is_wanted(copy, fault):
    root = copy('mpii')
    (root / 'annot/valid.json').unlink()
    message = fault(lambda: load('mpii', root))
    assert f'there is no {root}/annot/valid.json' in message
    assert mpii.OFFICIAL in message
    assert "dataset.heads is 'x'" in fault(lambda: load('mpii', root, heads='x'))


# ---- COCO -----------------------------------------------------------------------------------------------------------


PATH = 'annotations/person_keypoints_val2017.json'


def test_coco_people_are_those_with_a_labelled_joint(copy):
    root = copy('coco_keypoints')
    before = load('coco_keypoints', root)
    held = json.loads((root / PATH).read_text())['annotations']
    assert len(before) == len(held) == 3
    for example, entry in zip(before, held, strict=True):
        points = np.array(entry['keypoints']).reshape(17, 3)
        np.testing.assert_allclose(example.person.joints, points[:, :2], rtol=1e-6)
        np.testing.assert_array_equal(example.person.visible > 0, points[:, 2] > 0)
        x, y, width, height = entry['bbox']
        assert example.person.centre == pytest.approx((x + (width - 1) / 2, y + (height - 1) / 2))

    def change(content):
        content['annotations'][0]['iscrowd'] = 1
        content['annotations'][1]['keypoints'] = [0] * 51

    edited(root / PATH, change)
    assert len(load('coco_keypoints', root)) == 1
    assert len(load('coco_keypoints', root).truth()['annotations']) == 3


def test_detections_take_the_place_of_the_annotated_boxes(copy):
    root = copy('coco_keypoints')
    boxes = [{'image_id': 2, 'category_id': 1, 'bbox': [10, 12, 31, 41], 'score': 0.7}]
    boxes += [{'image_id': 1, 'category_id': 3, 'bbox': [0, 0, 9, 9], 'score': 0.9}]
    (root / 'boxes.json').write_text(json.dumps(boxes))
    dataset = load('coco_keypoints', root, detections=str(root / 'boxes.json'))
    (example,) = dataset
    assert (example.person.score, example.person.image_number) == (pytest.approx(0.7), 2)
    assert (example.person.centre, example.person.size) == ((25.5, 32.5), (41.0, 31.0))
    assert not example.person.visible.any()
    assert len(load('coco_keypoints', root, 'train', detections=str(root / 'boxes.json'))) == 3


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        (lambda held: held['annotations'][0].update(image_id=77), 'is of the image 77, which is not there'),
        (lambda held: held['annotations'][0].update(keypoints=[1] * 48), 'has 16 joints (shape (16, 2)); there are 17'),
        (lambda held: held['annotations'][0].update(keypoints=[1] * 34), 'are not (x, y, visibility) of each joint'),
        (lambda held: held['annotations'][0].update(bbox=[500, 2, 9, 9]), 'lies outside of its image of 96x72'),
        (lambda held: held['annotations'][0].pop('bbox'), 'has no box (x, y, width, height): None'),
        (lambda held: held['annotations'][0].update(bbox=[5, 2, 0, 9]), 'its box (5, 2, 0, 9) has no area'),
        (
            lambda held: held['annotations'][0]['keypoints'].__setitem__(2, -1),
            'a visibility is none of 0 (not labelled)',
        ),
        (lambda held: held['annotations'][0]['keypoints'].__setitem__(0, 'x'), 'is not as in COCO: ValueError'),
        (lambda held: held['annotations'][0].pop('id'), "is not as in COCO: KeyError 'id'"),
        (lambda held: held['annotations'][0].update(image_id=[1]), 'is not as in COCO: TypeError'),
        (lambda held: held['images'][0].pop('height'), "is not as in COCO: KeyError 'height'"),
        (lambda held: held['images'][0].update(id='x'), 'is not as in COCO: ValueError'),
        (lambda held: held['annotations'].__setitem__(0, 7), 'is not as in COCO: TypeError'),
        (lambda held: held.pop('images'), 'is no file of COCO keypoints'),
    ],
)
def test_what_is_wrong_with_coco_is_one_line(copy, fault, change, said):
    root = copy('coco_keypoints')
    edited(root / PATH, change)
    assert said in fault(lambda: load('coco_keypoints', root))


def test_what_pycocotools_reads_is_worked_out_where_it_is_missing(copy):
    root = copy('coco_keypoints')
    whole = load('coco_keypoints', root).truth()

    def change(content):
        for entry in content['annotations']:
            for name in ('iscrowd', 'num_keypoints', 'category_id'):
                entry.pop(name)

    edited(root / PATH, change)
    assert load('coco_keypoints', root).truth() == whole


def test_people_without_joints_need_no_box(copy):
    """pycocotools asks for one all the same: what has no labelled joint is ignored, whatever it overlaps."""
    root = copy('coco_keypoints')

    def change(content):
        content['annotations'][0].update(keypoints=[0] * 51, num_keypoints=0)
        content['annotations'][0].pop('bbox')

    edited(root / PATH, change)
    dataset = load('coco_keypoints', root)
    rows = [(one.person.joints, one.person.image_number) for one in dataset]
    found = [
        {'image_id': number, 'category_id': 1, 'score': 1.0, 'keypoints': np.c_[joints, np.ones(17)].ravel().tolist()}
        for joints, number in rows
    ]
    assert pose.average_precision(dataset.truth(), found, dataset.skeleton.sigmas)['ap'] == 1


def test_images_are_as_they_are_stored_and_of_the_annotated_size(copy, fault):
    """A camera's orientation is not applied: joints are annotated in the pixels as they are stored."""
    root = copy('coco_keypoints')
    dataset = load('coco_keypoints', root)
    path, before = dataset.example_name(0), dataset[0].image
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(before).save(path, exif=exif, quality=95)
    assert load('coco_keypoints', root)[0].image.shape == before.shape
    edited(root / PATH, lambda held: held['images'][0].update(width=95))
    assert 'has 72x96 pixels (height x width), and is annotated as 72x95' in fault(
        lambda: load('coco_keypoints', root)[0]
    )


# ---- both -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', ['mpii', 'coco_keypoints'])
def test_the_fingerprint_follows_images_and_joints(name, drawn, copy):
    first, root = load(name, drawn(name)).fingerprint(), copy(name)
    assert load(name, root).fingerprint() == first
    dataset = load(name, root)
    Image.new('RGB', (96, 72)).save(dataset.example_name(1))
    changed = load(name, root).fingerprint()
    assert changed != first


@pytest.mark.parametrize('name', ['mpii', 'coco_keypoints'])
def test_people_can_be_packed(name, drawn, tmp_path):
    dataset = load(name, drawn(name))
    _packed.write({'val': dataset}, drawn(name), tmp_path / 'pack', track=lambda items, *_: iter(items))
    again = load(name, tmp_path / 'pack')
    assert len(again) == len(dataset)
    assert again.skeleton == dataset.skeleton
    assert again.truth() == dataset.truth()
    for one, other in zip(again, dataset, strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        for ours, theirs in zip(one.person, other.person, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(IndexError):
        dataset[len(dataset)]


def test_a_pack_of_json_files_has_no_share_that_is_val(drawn, tmp_path):
    """Made without a config, it is read by one: the share belongs to the authors' file alone."""
    dataset = load('mpii', drawn('mpii'))
    _packed.write({'val': dataset}, drawn('mpii'), tmp_path / 'pack', track=lambda items, *_: iter(items))
    assert len(load('mpii', tmp_path / 'pack', heads='boxes', val_share=0.1)) == len(dataset)


@pytest.mark.parametrize(
    ('name', 'made', 'wanted', 'said'),
    [
        (
            'coco_keypoints',
            {},
            {'detections': 'boxes.json'},
            "dataset.detections is 'boxes.json'; the pack was made with ''",
        ),
        ('mpii', {}, {'heads': 'joints'}, "dataset.heads is 'joints'; the pack was made with 'boxes'"),
        (
            'nyudv2',
            {'depth_scale': 5000.0},
            {'depth_scale': 1000.0},
            'dataset.depth_scale is 1000.0; the pack was made',
        ),
    ],
)
def test_a_pack_is_not_read_in_another_way(name, made, wanted, said, drawn, tmp_path, fault):
    dataset = load(name, drawn(name), **made)
    _packed.write({'val': dataset}, drawn(name), tmp_path / 'pack', track=lambda items, *_: iter(items))
    assert len(load(name, tmp_path / 'pack', **made)) == len(dataset)
    assert said in fault(lambda: load(name, tmp_path / 'pack', **wanted))


# ---- boxes ----------------------------------------------------------------------------------------------------------


def test_boxes_are_found_by_path_name_or_number(tmp_path):
    images = [tmp_path / 'a.jpg', tmp_path / 'COCO_val2014_000000000042.jpg', tmp_path / 'in/c.png']
    (tmp_path / 'in').mkdir()
    for image in images:
        Image.new('RGB', (20, 10)).save(image)
    names = ['a.jpg', 42, 'in/c.png']
    (tmp_path / 'boxes.json').write_text(json.dumps([{'image_id': name, 'bbox': [1, 2, 3, 4]} for name in names]))
    found = box_files.by_image(str(tmp_path / 'boxes.json'), images)
    assert found == {str(image): [(1.0, 2.0, 3.0, 4.0, 1.0)] for image in images}
    assert box_files.by_image('', images) == {}


@pytest.mark.parametrize(
    ('text', 'said'),
    [
        ('{}', 'is no list of boxes'),
        ('x', 'cannot be read'),
        ('[{"image_id": 1}]', 'box 0: KeyError'),
        ('[{"image_id": 1, "bbox": [1, 2]}]', 'box 0: ValueError'),
        ('[{"image_id": "other", "bbox": [1, 2, 3, 4]}]', 'none is of one of the images'),
        ('[{"image_id": "a", "bbox": [NaN, 2, 3, 4]}]', 'box 0: ValueError'),
        ('[{"image_id": "a", "bbox": [1, 2, 3, 4], "score": NaN}]', 'box 0: ValueError'),
        ('[{"image_id": "a", "bbox": [1, 2, 0, 0]}]', 'its box (1, 2, 0, 0) has no area'),
        ('[{"image_id": "a", "bbox": [50, 2, 9, 9]}]', 'lies outside of its image of 20x10 (width x height)'),
        ('[{"image_id": "b.jpg", "bbox": [1, 2, 3, 4]}]', "'b.jpg' may be"),
    ],
)
def test_what_is_wrong_with_boxes_is_one_line(tmp_path, fault, text, said):
    (tmp_path / 'boxes.json').write_text(text)
    images = [tmp_path / name for name in ('a.jpg', 'x/b.jpg', 'y/b.jpg')]
    for image in images:
        image.parent.mkdir(exist_ok=True)
        Image.new('RGB', (20, 10)).save(image)
    assert said in fault(lambda: box_files.by_image(str(tmp_path / 'boxes.json'), images))


def test_boxes_of_other_images_are_counted(tmp_path, capsys):
    Image.new('RGB', (20, 10)).save(tmp_path / 'a.jpg')
    boxes = [{'image_id': name, 'bbox': [1, 2, 3, 4]} for name in ('a', 'other')]
    (tmp_path / 'boxes.json').write_text(json.dumps(boxes))
    assert len(box_files.by_image(str(tmp_path / 'boxes.json'), [tmp_path / 'a.jpg'])) == 1
    assert '1 boxes of ' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('box', 'expected'),
    [([-5, -5, 20, 20], (0, 0, 19, 19)), ([90, 60, 50, 50], (90, 60, 5, 11)), ([95.3, 1, 0.7, 9], (95.3, 1, 1, 8))],
)
def test_a_box_is_cut_to_its_image(box, expected):
    assert box_files.inside(box, (72, 96), 'here') == expected
