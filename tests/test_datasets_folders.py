"""Own data: each layout and each kind of label gives the classes that were drawn, real files are read as by their own
reader, and every fault is one clear line."""

import importlib
import json
import pathlib
import pickle

import jax
import ml_collections
import numpy as np
import pytest
from PIL import Image

import dpc_jax
from dpc_jax import datasets, drawn_data, evaluation, tasks
from dpc_jax.base import IGNORE_LABEL
from dpc_jax.datasets import _packed, camvid, cityscapes, folders
from dpc_jax.training import config as train_config

pytestmark = pytest.mark.usefixtures('quick_compilation')

SIZE = (6, 8)
CLASSES = ('ground', 'leaf', 'stone')
TREES = {'images': 'photos', 'labels': 'masks', 'splits': {'train': 0.5, 'val': 0.5}}
LABEL = np.array([[0, 1, 2, 255]], np.uint8)  # the ignore label, too


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels)).save(path)


def image(number):
    return np.random.default_rng(number).integers(0, 256, (*SIZE, 3)).astype(np.uint8)


def label(number):
    return np.random.default_rng(number).integers(0, len(CLASSES), SIZE).astype(np.uint8)


def fill(root, names, images='photos/{}.png', labels='masks/{}.png'):
    """An image and a label of each name."""
    for number, name in enumerate(names):
        save(root / images.format(name), image(number))
        if labels:
            save(root / labels.format(name), label(number))


def describe(root, **fields):
    (root / 'dataset.json').write_text(json.dumps({'classes': CLASSES, **fields}))


def load(root, split='train', **config):
    return datasets.load('folders', ml_collections.ConfigDict({'root': str(root), **config}), split)


def names(dataset):
    return [pathlib.Path(dataset.example_name(index)).stem for index in range(len(dataset))]


def one(root, pixels, **fields):
    """The label of the only image of a split whose label file has these pixels."""
    save(root / 'photos/train/a.png', np.zeros((*np.shape(pixels)[:2], 3), np.uint8))
    save(root / 'masks/train/a.png', pixels)
    describe(root, images='photos/{split}', labels='masks/{split}', splits={'train': 'train'}, **fields)
    return load(root)[0].label


# ---- which files ----------------------------------------------------------------------------------------------------


def test_splits_are_folders_with_names_of_their_own(tmp_path):
    fill(tmp_path, ['training/b', 'training/city/a', 'validation/c'], 'im/{}.png', 'an/{}.png')
    places = {'train': 'training', 'val': 'validation'}
    describe(tmp_path, images='im/{split}', labels='an/{split}', splits=places)
    assert [names(load(tmp_path, split)) for split in ('train', 'val')] == [['b', 'a'], ['c']]
    np.testing.assert_array_equal(load(tmp_path)[1].label, label(1))


def test_suffixes_tell_what_belongs_together(tmp_path):
    fill(tmp_path, ['x/1', 'x/2'], 'all/{}_rgb.png', 'all/{}_label_ids.PNG')
    save(tmp_path / 'all/x/1_colour.png', label(0))
    suffixes = {'image_suffix': '_rgb.png', 'label_suffix': '_label_ids.png'}
    describe(tmp_path, images='all', labels='all', splits={'train': 0.5, 'val': 0.5}, **suffixes)
    assert names(load(tmp_path)) + names(load(tmp_path, 'val')) in (['1_rgb', '2_rgb'], ['2_rgb', '1_rgb'])


def test_files_that_people_have(tmp_path):
    for name in ('a.JPG', 'b.jpeg', 'c.PNG', 'd.d.png'):
        save(tmp_path / 'photos' / name, image(ord(name[0])))
        save(tmp_path / 'photos/masks' / f'{name[: name.rindex(".")]}.PNG', label(0))
    for name in ('._a.JPG', 'Thumbs.db', '.DS_Store', 'desktop.ini', 'notes.txt', '__MACOSX/a.png', '.hidden/e.png'):
        path = tmp_path / 'photos' / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b'no image')
    describe(tmp_path, images='photos', labels='photos/masks', splits={'train': 0.5, 'val': 0.5})
    found = [*names(load(tmp_path)), *names(load(tmp_path, 'val'))]
    assert sorted(found) == ['a', 'b', 'c', 'd.d']
    datasets.check(load(tmp_path))


def test_folders_that_are_links_are_followed_once(tmp_path):
    fill(tmp_path / 'there', ['a', 'b'])
    (tmp_path / 'here').mkdir()
    for name in ('photos', 'masks'):
        (tmp_path / 'here' / name).symlink_to(tmp_path / 'there' / name)
    (tmp_path / 'there/photos/again').symlink_to(tmp_path / 'there/photos')
    describe(tmp_path / 'here', **TREES)
    assert len(load(tmp_path / 'here')) == 1


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16'])
@pytest.mark.parametrize(
    'lines',
    [
        ['IMG (1)', 'IMG (2)'],
        ['IMG (1).png', 'IMG (2).png'],
        ['photos/IMG (1).png', '/photos/IMG (2).png'],
        ['photos/IMG (1).png masks/IMG (1).png', 'photos\\IMG (2).png masks\\IMG (2).png'],
        ['IMG (1).png,IMG (1).png', 'photos/IMG (2).png\tmasks/IMG (2).png', ''],
        ['/set/mine/photos/IMG (1).png /set/mine/masks/IMG (1).png', '/photos/IMG (2).png, IMG (2).png'],
    ],
)
def test_lists_name_images_in_many_forms(tmp_path, lines, encoding):
    fill(tmp_path, ['IMG', 'IMG (1)', 'IMG (2)'])
    (tmp_path / 'train.txt').write_text('\r\n'.join(lines), encoding=encoding)
    describe(tmp_path, **{**TREES, 'splits': {'train': 'train.txt'}})
    dataset = load(tmp_path)
    assert names(dataset) == ['IMG (1)', 'IMG (2)']
    for index in range(2):
        np.testing.assert_array_equal(dataset[index].label, label(1 + index))


def test_lists_of_pairs_need_no_folders(tmp_path):
    fill(tmp_path, ['1', '2'], 'a/{}.jpg', 'b/of {}.png')
    (tmp_path / 'train.txt').write_text('a/2.jpg b/of 2.png\na/1.jpg b/of 1.png\n')
    describe(tmp_path, splits={'train': 'train.txt'})
    assert names(load(tmp_path)) == ['2', '1']


def test_shares_are_drawn_by_seed_and_hardly_move(tmp_path):
    fill(tmp_path, [f'{number:02}' for number in range(20)])
    describe(tmp_path, **{**TREES, 'splits': {'train': 0.7, 'val': 0.2}})
    train, val = names(load(tmp_path)), names(load(tmp_path, 'val'))
    assert (len(train), len(val), len({*train, *val})) == (14, 4, 18)
    assert train == sorted(train) == names(load(tmp_path))
    assert names(load(tmp_path, split_seed=1)) != train
    save(tmp_path / 'photos/20.png', image(20))
    save(tmp_path / 'masks/20.png', label(20))
    assert len(set(names(load(tmp_path))) - set(train)) <= 2


def test_images_of_test_need_no_labels(tmp_path):
    fill(tmp_path, ['train/1'])
    fill(tmp_path, ['test/2'], labels='masks/{}x.png')
    splits = {'train': 'train', 'test': 'test'}
    describe(tmp_path, images='photos/{split}', labels='masks/{split}', splits=splits, overlap='allow')
    assert (load(tmp_path, 'test')[0].label == IGNORE_LABEL).all()


def test_sizes_may_be_mixed(tmp_path):
    for number, size in enumerate(((3, 9), (12, 4))):
        save(tmp_path / f'photos/{number}.png', np.full((*size, 3), number, np.uint8))
        save(tmp_path / f'masks/{number}.png', np.zeros(size, np.uint8))
    describe(tmp_path, **TREES)
    assert {load(tmp_path, split)[0].label.shape for split in ('train', 'val')} == {(3, 9), (12, 4)}


# ---- what is in labels ----------------------------------------------------------------------------------------------

COLOURS = [[10, 20, 30], [255, 255, 255], [0, 0, 1]]


def palette_image(pixels, palette):
    made = Image.fromarray(pixels).convert('P')
    made.frombytes(pixels.tobytes())
    made.putpalette(np.array(palette, np.uint8).tobytes())
    return made


@pytest.mark.parametrize(
    ('pixels', 'fields'),
    [
        (LABEL, {'unknown': [255]}),
        (np.repeat(LABEL[:, :, None], 3, axis=2), {'unknown': [255]}),  # gray, saved as RGB
        (LABEL + np.uint8(1), {'reduce_zero_label': True}),  # 255 + 1 is 0
        (np.array([[0, 8, 7, 255]], np.uint8), {'label_kind': 'id', 'ids': [0, 8, 7], 'unknown': [255]}),
        (np.array([[900, 2000, 33, 0]], np.uint16), {'label_kind': 'id', 'ids': [900, 2000, [32, 33]], 'unknown': [0]}),
        (np.array([[5, 6, 9, 77]], np.uint8), {'label_kind': 'id', 'ids': [5, 6, 9], 'unknown': ['others']}),
        (
            np.array([[*COLOURS, [9, 9, 9]]], np.uint8),
            {'label_kind': 'colour', 'colours': COLOURS, 'unknown': [[9, 9, 9]]},
        ),
        (
            np.array([[*COLOURS, [9, 9, 8]]], np.uint8),
            {'label_kind': 'colour', 'colours': COLOURS, 'unknown': ['others']},
        ),
        (
            np.array([[[*colour, 255] for colour in (*COLOURS, [9, 9, 9])]], np.uint8),  # with opacity
            {'label_kind': 'colour', 'colours': COLOURS, 'unknown': [[9, 9, 9]]},
        ),
    ],
)
def test_every_kind_of_label(tmp_path, pixels, fields):
    np.testing.assert_array_equal(one(tmp_path, pixels, **fields), LABEL)


def test_palettes_are_read_as_indices_or_as_colours(tmp_path):
    one(tmp_path, LABEL, unknown=[255])
    palette_image(np.array([[1, 0, 2, 3]], np.uint8), [COLOURS[1], COLOURS[0], COLOURS[2], [9, 9, 9]]).save(
        tmp_path / 'masks/train/a.png'
    )
    np.testing.assert_array_equal(load(tmp_path, unknown=(3,))[0].label, [[1, 0, 2, 255]])
    fields = {'label_kind': 'colour', 'colours': tuple(map(tuple, COLOURS)), 'unknown': ((9, 9, 9),)}
    np.testing.assert_array_equal(load(tmp_path, **fields)[0].label, LABEL)


def test_masks_of_0_and_255_are_two_classes(tmp_path, fault):
    mask = np.array([[0, 255, 255, 0]], np.uint8)
    two = {'classes': ['ground', 'leaf']}
    np.testing.assert_array_equal(one(tmp_path, mask, **two, label_kind='id', ids=[0, 255]), mask != 0)
    np.testing.assert_array_equal(one(tmp_path, mask > 0, **two), mask != 0)  # one bit
    message = fault(lambda: one(tmp_path, mask, **two))  # 255 is nothing special: it would be lost silently
    assert 'no class has the label value 255 in 2 pixels, the first at row 0, column 1; classes are 0..1' in message


@pytest.mark.parametrize(
    'fields',
    [
        {'unknown': (255,)},
        {'reduce_zero_label': True},
        {'label_kind': 'id', 'ids': (7, 900, (3, 4)), 'unknown': ('others',)},
        {'label_kind': 'colour', 'colours': ((1, 2, 3), (0, 0, 0), (9, 0, 0)), 'unknown': ((5, 5, 5),)},
        {'label_kind': 'colour', 'colours': ((1, 2, 3), (0, 0, 0), (9, 0, 0)), 'unknown': ('others',)},
    ],
)
def test_what_is_drawn_is_what_is_read(tmp_path, fields):
    config = ml_collections.ConfigDict({'name': 'folders', **TREES, 'classes': CLASSES, **fields})
    drawn_data.write('folders', tmp_path / 'one', 2, config=config)
    plain = ml_collections.ConfigDict({'name': 'folders', **TREES, 'classes': CLASSES, 'unknown': (255,)})
    drawn_data.write('folders', tmp_path / 'other', 2, config=plain)
    ours, theirs = load(tmp_path / 'one'), load(tmp_path / 'other')
    assert ours.fingerprint() != theirs.fingerprint() or 'unknown' in fields
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a.label, b.label)


# ---- facts ----------------------------------------------------------------------------------------------------------


def test_the_config_counts_before_the_file(tmp_path):
    fill(tmp_path, ['1', '2'])
    describe(tmp_path, **TREES, colours=[[1, 1, 1], [2, 2, 2], [3, 3, 3]])
    unset = {'classes': (), 'label_suffix': '', 'reduce_zero_label': None, 'published': {}}
    assert load(tmp_path, **unset).classes == CLASSES
    dataset = load(tmp_path, classes=('a', 'b', 'c'), splits={'dev': 0.5, 'train': 0.5}, published={'train': 9})
    assert (dataset.classes, dataset.splits, dict(dataset.published)) == (
        ('a', 'b', 'c'),
        ('dev', 'train'),
        {'train': 9},
    )
    np.testing.assert_array_equal(dataset.palette[:, 0], [1, 2, 3])
    again = folders.Description(**{**vars(dataset.description)})
    (tmp_path / 'dataset.json').write_text(again.to_json())
    assert load(tmp_path).description == dataset.description


@pytest.mark.parametrize(
    ('fields', 'ids'),
    [
        ({}, None),
        ({'reduce_zero_label': True}, (1, 2, 3)),
        ({'label_kind': 'id', 'ids': [3, [300, 4], 5]}, (3, 300, 5)),
        ({'label_kind': 'colour', 'colours': COLOURS}, None),
    ],
)
def test_predictions_are_exported_in_the_values_of_the_files(tmp_path, fields, ids):
    describe(tmp_path, **TREES, **fields)
    assert datasets.kind(ml_collections.ConfigDict({'name': 'folders', 'root': str(tmp_path)})).export_ids == ids


def test_exported_ids_of_16_bits_are_written_as_such(tmp_path):
    fields = {'label_kind': 'id', 'ids': [3, 3000, 5]}
    truth = np.array([[3, 3000, 5, 3000]], np.uint16)
    label = one(tmp_path, truth, **fields)
    task = tasks.of(tasks.DEFAULT, datasets.facts_of(load(tmp_path)))
    evaluation.export(tmp_path, 'written.png', label, task)
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / 'written.png')), truth)


def test_the_same_files_read_in_another_way_are_other_data(tmp_path):
    one(tmp_path, np.array([[0, 1, 2]], np.uint8))
    marks = [load(tmp_path, **fields).fingerprint() for fields in ({}, {'label_kind': 'id', 'ids': (2, 1, 0)})]
    assert marks[0] != marks[1]
    assert marks[0] == load(tmp_path, label_kind='id', ids=(0, 1, 2)).fingerprint()


def test_a_training_does_not_go_on_where_labels_stand_for_something_else(tmp_path):
    one(tmp_path, np.array([[0, 1, 2]], np.uint8))
    first, other = load(tmp_path), load(tmp_path, label_kind='id', ids=(2, 1, 0))
    assert train_config.images_of(first) == train_config.images_of(load(tmp_path, classes=('a', 'b', 'c')))
    assert train_config.images_of(first) != train_config.images_of(other)


def test_a_worker_makes_the_same_data_set(tmp_path):
    one(tmp_path, LABEL, unknown=[255])
    dataset = load(tmp_path)
    again = pickle.loads(pickle.dumps(dataset))
    assert (again, type(again), again.classes) == (dataset, type(dataset), CLASSES)


def test_a_pack_carries_the_facts(tmp_path, fault):
    fill(tmp_path / 'folder', ['1', '2'])
    describe(tmp_path / 'folder', **TREES, label_kind='id', ids=[0, 1, 2], colours=COLOURS)
    sets = {split: load(tmp_path / 'folder', split) for split in ('train', 'val')}
    _packed.write(sets, tmp_path / 'folder', tmp_path / 'pack', track=lambda items, *_: iter(items))
    packed = load(tmp_path / 'pack', 'val')
    for field in _packed.CLASS_FIELDS:
        np.testing.assert_array_equal(getattr(packed, field), getattr(sets['val'], field))
    np.testing.assert_array_equal(packed[0].label, sets['val'][0].label)
    config = ml_collections.ConfigDict({'name': 'folders', 'root': str(tmp_path / 'pack')})
    assert datasets.classes(config) == CLASSES
    datasets.check_split(config, 'train')
    message = fault(lambda: load(tmp_path / 'pack', classes=('a', 'b', 'c')))
    assert message.endswith('has the classes ground, leaf, stone; dataset.classes is a, b, c')


@pytest.mark.slow
def test_camvid_has_the_cache_and_the_scores_that_it_has_by_its_own_reader(drawn, tmp_path):
    found = []
    for name in ('camvid_search', 'own_data_search'):
        config = importlib.import_module(f'configs.{name}').get_config('toy')
        config.dataset.root = str(drawn('camvid'))
        if name == 'own_data_search':
            config.dataset.splits.update({'train': 'train.txt', 'val': 'val.txt'})
            config.dataset.update({'classes': camvid.CamVid.classes, 'unknown': (camvid.UNKNOWN,)})
            (path,) = tmp_path.glob('camvid_search/backbone-*.npz')  # trained once
            config.backbone.weights = str(path)
        prepared = dpc_jax.prepare(config, tmp_path / name)
        arrays = {path.name: path.read_bytes() for path in (tmp_path / name / 'cache').rglob('*.npy')}
        found.append((arrays, prepared.evaluate(prepared.space.sample(jax.random.key(0), 1)).scores()))
    (arrays, scores), (other_arrays, other_scores) = found
    assert len(arrays) >= 3
    assert arrays == other_arrays
    np.testing.assert_array_equal(scores, other_scores)


# ---- real files -----------------------------------------------------------------------------------------------------


def same(ours, theirs):
    assert len(ours) == len(theirs) > 0
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.label, b.label)
        assert a.name == b.name


def test_camvid_is_the_same_as_by_its_own_reader(shared):
    root = shared('data/camvid')
    theirs = datasets.load('camvid', ml_collections.ConfigDict({'root': str(root)}), 'val')
    lists = {'splits': {'val': 'val.txt'}, 'classes': theirs.classes, 'unknown': (11,)}
    ours = load(root, 'val', **lists)
    assert [pair for pair in ours.files] == [pair for pair in theirs.files]
    same(
        [ours[index] for index in range(0, len(ours), 9)],
        [theirs[index] for index in range(0, len(theirs), 9)],
    )
    trees = {'images': 'images/{split}', 'labels': 'labels/{split}', 'splits': {'val': 'val', 'train': 'train'}}
    assert load(root, 'val', **{**lists, **trees}).files == ours.files


@pytest.mark.parametrize('split', ['train', 'val'])
def test_genuine_voc_files(shared, split):
    root = shared('data/fixtures/voc2012') / 'VOCdevkit/VOC2012'
    theirs = datasets.load('pascal_voc', ml_collections.ConfigDict({'root': str(root)}), split)
    fields = {
        **{'images': 'JPEGImages', 'labels': 'SegmentationClass', 'classes': theirs.classes},
        'splits': {name: f'ImageSets/Segmentation/{name}.txt' for name in ('train', 'val')},
    }
    same(load(root, split, **fields, unknown=(255,)), theirs)
    colours = tuple(map(tuple, theirs.palette.tolist()))  # the files have VOC's palette
    as_colours = {'label_kind': 'colour', 'colours': colours, 'unknown': ((224, 224, 192),)}
    same(load(root, split, **fields, **as_colours), theirs)


def test_a_genuine_cityscapes_frame(shared):
    root = shared('data/fixtures/cityscapes_tiny')
    theirs = datasets.load('cityscapes', ml_collections.ConfigDict({'root': str(root)}), 'val')
    fields = {
        **{'images': 'leftImg8bit/{split}', 'labels': 'gtFine/{split}', 'image_suffix': '_leftImg8bit.png'},
        **{'splits': {'val': 'val'}, 'classes': theirs.classes},
    }
    ids = tuple(kind.id for kind in cityscapes.CLASSES)
    by_id = {'label_suffix': '_gtFine_labelIds.png', 'label_kind': 'id', 'ids': ids, 'unknown': ('others',)}
    dataset = load(root, 'val', **fields, **by_id)
    same(dataset, theirs)
    assert dataset.export_ids == theirs.export_ids
    trained = load(root, 'val', **fields, label_suffix='_gtFine_labelTrainIds.png', unknown=(255,))
    ((_, path),) = trained.files
    np.testing.assert_array_equal(trained[0].label, theirs.read_label(path))


# ---- faults ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('content', 'said'),
    [
        ('{', 'dataset.json cannot be read: Expecting property name'),
        ('[]', 'dataset.json is not an object of JSON'),
        ({'image': 'photos'}, "dataset.json has a field 'image', which is not known; did you mean 'images'?"),
        ({'xyz': 1}, "dataset.json has a field 'xyz', which is not known; there are: classes, images, labels"),
        ({'classes': []}, 'there are no class names: neither '),
        ({'classes': [f'{at}' for at in range(256)]}, 'classes has 256 classes; there may be 255'),
        ({'classes': ['a', 'b', 'a']}, "classes has 'a' twice"),
        ({'classes': ['a', '']}, "classes has ''; a class must have a name"),
        ({'classes': 'abc'}, "classes is 'abc'; it must be a list"),
        ({'images': '/photos'}, "images is '/photos'; it must be a folder within the root"),
        ({'labels': 7}, 'labels is 7; it must be a folder, from the root'),
        ({'splits': {}}, 'dataset.splits is empty'),
        ({'splits': ['train']}, "splits is ['train']; it must be an object of JSON"),
        ({'splits': {'train': 0}}, 'splits.train is 0; a share of the images is above 0 and below 1'),
        ({'splits': {'train': 1.0}}, 'splits.train is 1.0; a share of the images is above 0 and below 1'),
        ({'splits': {'train': True}}, 'splits.train is True; it must be a folder, a list file or a share'),
        ({'splits': {'train': 0.8, 'val': 0.3}}, 'dataset.splits has shares of 1.1 together'),
        ({'splits': {'train': 0.8, 'val': 'val.txt'}}, 'dataset.splits has shares and names'),
        ({'images': 'photos/{split}'}, 'dataset.splits has shares, and dataset.images has {split}'),
        ({'labels': 'masks/{split}'}, "dataset.labels is 'masks/{split}' and dataset.images 'photos' has no {split}"),
        ({'label_kind': 'rgb'}, "dataset.label_kind is 'rgb'; allowed: index, id, colour"),
        ({'label_kind': 'id'}, "dataset.ids, the values of each class, belong to label_kind 'id', which needs them"),
        ({'ids': [1, 2, 3]}, "dataset.ids, the values of each class, belong to label_kind 'id'"),
        ({'label_kind': 'id', 'ids': [1, 2]}, 'dataset.ids has 2 entries for 3 classes'),
        ({'label_kind': 'id', 'ids': [1, 2, 1]}, "1 stands for 'ground' and for 'stone'"),
        ({'label_kind': 'id', 'ids': [1, 2, []]}, 'ids has a class without an id'),
        ({'label_kind': 'id', 'ids': [1, 2, 70000]}, 'ids has 70000; a value in a label file is 0..65535'),
        ({'label_kind': 'colour'}, "label_kind is 'colour', which needs dataset.colours"),
        ({'colours': [[1, 2], [3, 4], [5, 6]]}, 'colours has [1, 2]; a colour is [red, green, blue]'),
        ({'label_kind': 'colour', 'colours': [[1, 1, 1]] * 3}, "(1, 1, 1) stands for 'ground' and for 'leaf'"),
        ({'unknown': [2]}, "2 stands for 'stone' and is in dataset.unknown, too"),
        ({'unknown': [[0, 0, 0]]}, "dataset.unknown has (0, 0, 0), a colour, but label_kind is 'index'"),
        ({'unknown': 255}, 'unknown is 255; it must be a list'),
        (
            {'label_kind': 'colour', 'colours': COLOURS, 'unknown': [255]},
            "dataset.unknown has 255, a value, but label_kind is 'colour'",
        ),
        (
            {'label_kind': 'id', 'ids': [1, 2, 3], 'reduce_zero_label': True},
            "reduce_zero_label belongs to label_kind 'index'; here it is 'id'",
        ),
        ({'reduce_zero_label': 1}, 'reduce_zero_label is 1; it must be true or false'),
        ({'overlap': 'yes'}, "dataset.overlap is 'yes'; allowed: refuse, allow"),
        ({'published': {'train': 'all'}}, "published is {'train': 'all'}; it must be the number of images by split"),
    ],
)
def test_a_faulty_description_is_one_line(tmp_path, fault, content, said):
    fill(tmp_path, ['1', '2'])
    text = content if isinstance(content, str) else json.dumps({'classes': CLASSES, **TREES, **content})
    (tmp_path / 'dataset.json').write_text(text)
    assert said in fault(lambda: load(tmp_path))


def test_without_a_description_the_command_that_proposes_one_is_named(tmp_path, fault):
    fill(tmp_path, ['1'])
    message = fault(lambda: load(tmp_path))
    assert 'there are no class names' in message
    assert 'experiments/propose_dataset.py' in message


def test_a_colour_that_is_in_no_map_is_named_with_place_and_count(tmp_path, fault):
    pixels = np.full((4, 5, 3), COLOURS[0], np.uint8)
    pixels[1, 2:], pixels[3, 0] = (7, 8, 9), (1, 0, 0)
    message = fault(lambda: one(tmp_path, pixels, label_kind='colour', colours=COLOURS))
    assert (
        'no class has the colour (7, 8, 9) in 3 pixels, (1, 0, 0) in 1 pixels, the first at row 1, column 2' in message
    )
    assert str(tmp_path / 'masks/train/a.png') in message


def test_an_id_without_a_class_is_named(tmp_path, fault):
    pixels = np.array([[300, 4, 4, 5, 6, 7]], np.uint16)
    message = fault(lambda: one(tmp_path, pixels, label_kind='id', ids=[300, 1, 2]))
    assert 'the label value 4 in 2 pixels, 5 in 1 pixels, 6 in 1 pixels, and 1 more, the first at row 0' in message
    assert message.endswith('list it in dataset.unknown if it has none')


def test_labels_that_cannot_be_values(tmp_path, fault):
    colours = np.array([[[1, 2, 3]]], np.uint8)
    assert "has colours; label_kind 'colour'" in fault(lambda: one(tmp_path, colours))
    save(tmp_path / 'masks/train/a.png', np.zeros((1, 1), np.uint8))
    (tmp_path / 'masks/train/a.png').rename(tmp_path / 'masks/train/a.jpg')
    Image.fromarray(np.full((1, 1), 77, np.uint8)).save(tmp_path / 'masks/train/a.jpg')
    assert 'a JPEG does not keep the values of labels' in fault(lambda: load(tmp_path)[0])
    (tmp_path / 'masks/train/a.jpg').unlink()
    Image.fromarray(np.zeros((1, 1), np.float32)).save(tmp_path / 'masks/train/a.tif')
    assert 'float32 (1, 1) is not a label image of values 0..65535' in fault(lambda: load(tmp_path)[0])


def test_images_without_labels_are_listed_and_counted(tmp_path, fault):
    fill(tmp_path, ['a', 'b', 'c', 'd', 'e', 'f'])
    for name in 'abdf':
        (tmp_path / f'masks/{name}.png').unlink()
    describe(tmp_path, **TREES)
    message = fault(lambda: load(tmp_path))
    assert f'4 of 6 images in {tmp_path / "photos"} have no label: a.png, b.png, d.png and 1 more' in message
    assert f'{tmp_path / "masks"} has 2 labels, such as c.png' in message
    (tmp_path / 'train.txt').write_text('c\nb\n')
    message = fault(lambda: load(tmp_path, splits={'train': 'train.txt'}))
    assert message == f"{tmp_path / 'train.txt'}, line 2: the image b.png has no label in {tmp_path / 'masks'} ('b')"


def test_two_files_of_one_name(tmp_path, fault):
    fill(tmp_path, ['a', 'b'])
    describe(tmp_path, **TREES)
    save(tmp_path / 'masks/a.tif', label(0))
    assert f'there are two labels of one name in {tmp_path / "masks"}: a.png and a.tif' in fault(lambda: load(tmp_path))
    assert len(load(tmp_path, label_suffix='.png')) == 1
    save(tmp_path / 'photos/b.jpg', image(0))
    message = fault(lambda: load(tmp_path, label_suffix='.png'))
    assert f'there are two images of one name in {tmp_path / "photos"}: b.jpg and b.png' in message


def test_folders_that_do_not_do(tmp_path, fault):
    fill(tmp_path, ['a', 'b'])
    describe(tmp_path, **TREES)
    assert fault(lambda: load(tmp_path, images='absent')) == f'there is no folder {tmp_path / "absent"}'
    assert fault(lambda: load(tmp_path, image_suffix='.gif')) == f'there is no image *.gif in {tmp_path / "photos"}'
    message = fault(lambda: load(tmp_path, labels='photos'))
    assert message == f'images and labels are both in {tmp_path / "photos"}; dataset.label_suffix must tell them apart'
    assert 'of 2 images that is none' in fault(lambda: load(tmp_path, splits={'train': 0.1, 'val': 0.9}))


@pytest.mark.parametrize(
    ('lines', 'said'),
    [
        (None, 'there is no list file'),
        ('', 'is empty'),
        ('a\nb c\n', "line 2: there is no image 'b c'"),
        ('a\na.png\n', 'line 2: the image a.png is listed twice'),
        ('a.png other.png', 'line 1: the image a.png has no label in '),  # not a.png of the labels
        (b'\xff\xfe\x00', 'cannot read the list file'),
    ],
)
def test_a_faulty_list_is_one_line(tmp_path, fault, lines, said):
    fill(tmp_path, ['a', 'x'])
    if lines is not None:
        (tmp_path / 'train.txt').write_bytes(lines if isinstance(lines, bytes) else lines.encode())
    describe(tmp_path, **{**TREES, 'splits': {'train': 'train.txt'}})
    message = fault(lambda: load(tmp_path))
    assert said in message
    assert str(tmp_path / 'train.txt') in message


def test_splits_that_overlap_by_name(tmp_path, fault):
    fill(tmp_path, ['a', 'b', 'c'])
    (tmp_path / 'train.txt').write_text('a\nb\nc\n')
    (tmp_path / 'val.txt').write_text('c\nb\n')
    describe(tmp_path, **{**TREES, 'splits': {'train': 'train.txt', 'val': 'val.txt', 'test': 'absent.txt'}})
    for split in ('train', 'val'):
        message = fault(lambda split=split: load(tmp_path, split))
        assert f'2 images are in train and in val, such as {tmp_path / "photos/b.png"}; ' in message
        assert "overlap 'allow'" in message
    assert len(load(tmp_path, 'val', overlap='allow')) == 2


def test_splits_that_overlap_by_content(tmp_path, fault):
    fill(tmp_path, ['train/a', 'train/b', 'val/c'])
    describe(tmp_path, images='photos/{split}', labels='masks/{split}', splits={'train': 'train', 'val': 'val'})
    load(tmp_path)
    copied = tmp_path / 'photos/val/other.png'
    copied.write_bytes((tmp_path / 'photos/train/b.png').read_bytes())
    save(tmp_path / 'masks/val/other.png', label(0))
    message = fault(lambda: load(tmp_path, 'val'))
    assert f'1 images of train are in val, too: {tmp_path / "photos/train/b.png"} and {copied} are equal' in message
    assert len(load(tmp_path, 'val', overlap='allow')) == 2


def test_a_label_of_another_size(tmp_path, fault):
    one(tmp_path, LABEL, unknown=[255])
    save(tmp_path / 'masks/train/a.png', LABEL.T)
    message = fault(lambda: load(tmp_path)[0])
    assert message.startswith('sizes differ: ')
    assert '1x4 and 4x1' in message
