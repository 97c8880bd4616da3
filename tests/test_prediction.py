"""Predictions of images of one's own: which images, whole or in tiles, what is written, and after a stop."""

import itertools
import json
import logging
import os
import pathlib
import re

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from PIL import Image

import dpc_jax
from configs import from_checkpoint, scenes
from dpc_jax import datasets, described, image_files, inference, label_pictures, networks, prediction, weights
from dpc_jax.datasets import Facts
from dpc_jax.inference import InferenceSettings
from dpc_jax.journeys import predict
from dpc_jax.prediction import Kept, PredictSettings, tiles
from dpc_jax.prediction.predictor import Found
from dpc_jax.tasks.segmentation import Segmentation

pytestmark = pytest.mark.usefixtures('quick_compilation')

SCENES = ml_collections.ConfigDict({'name': 'scenes'})
CITYSCAPES = ml_collections.ConfigDict({'name': 'cityscapes'})
SIZES = ((33, 49), (40, 30), (33, 49), (1, 70), (40, 30))


def picture(number, size):
    """An image whose local means differ, so that its prediction has several classes."""
    draw = np.random.default_rng(number)
    coarse = draw.integers(0, 256, (4, 5, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((size[1], size[0])))


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """Weights of a network without context that has not been trained, but gives more than one class."""
    config = scenes.get_config('toy')
    config.context.name = 'none'
    network = networks.make(config, len(datasets.classes(SCENES)))
    variables = networks.init_variables(jax.random.key(3), network)
    variables['params']['logits']['kernel'] *= 1e12
    folder = tmp_path_factory.mktemp('predict') / 'weights'
    weights.save(folder, variables, beside=described.files(described.of(config)))
    return folder


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp('photos')
    for number, size in enumerate(SIZES):
        Image.fromarray(picture(number, size)).save(folder / f'photo {number}.png')
    return folder


def config_of(weights_folder, images, **fields):
    config = from_checkpoint.get_config()
    config.checkpoint, config.predict.images = str(weights_folder), str(images)
    config.update_from_flattened_dict({field.replace('__', '.'): value for field, value in fields.items()})
    return config


@pytest.fixture(scope='module')
def done(checkpoint, photos, tmp_path_factory):
    """A whole prediction: config, work folder, rows."""
    workdir = tmp_path_factory.mktemp('done')
    config = config_of(checkpoint, photos, predict__probabilities=3, evaluate__batch_size=2)
    return config, workdir, predict.run(config, workdir)


def label(workdir, name):
    return np.asarray(Image.open(workdir / 'predictions/labels' / f'{name}.png'))


# ---- what is found --------------------------------------------------------------------------------------------------


def test_each_image_is_predicted_as_if_alone(done, checkpoint):
    _, workdir, rows = done
    assert [row.name for row in rows] == [f'photo {number}' for number in range(len(SIZES))]
    network = dpc_jax.load_network(checkpoint)
    seen = set()
    for number, size in enumerate(SIZES):
        found = label(workdir, f'photo {number}')
        np.testing.assert_array_equal(found, dpc_jax.predict(network, picture(number, size)))
        seen |= set(np.unique(found).tolist())
    assert len(seen) > 2


def test_a_folder_of_weights_is_enough_in_python(done, checkpoint):
    _, workdir, _ = done
    np.testing.assert_array_equal(dpc_jax.predict(str(checkpoint), picture(0, SIZES[0])), label(workdir, 'photo 0'))


def test_it_is_the_class_of_the_largest_score(done, checkpoint):
    """Written out plainly: padded at the bottom and at the right, through the network, resized, the largest."""
    _, workdir, _ = done
    network = dpc_jax.load_network(checkpoint)
    padded = np.full((1, 49, 33, 3), 127.5, np.float32)
    padded[0, :40, :30] = picture(1, SIZES[1])
    scores = inference.pass_scores(network.segmenter, network.task, network.variables, jnp.asarray(padded))
    np.testing.assert_array_equal(label(workdir, 'photo 1'), np.asarray(scores)[0, :40, :30].argmax(-1))


def test_probabilities_are_those_of_the_best_classes(done, checkpoint):
    _, workdir, _ = done
    with np.load(workdir / 'predictions/probabilities/photo 1.npz') as held:
        classes, chances = held['classes'], held['probabilities']
    assert (classes.dtype, chances.dtype, classes.shape) == (np.uint8, np.float16, (40, 30, 3))
    np.testing.assert_array_equal(classes[..., 0], label(workdir, 'photo 1'))
    assert (np.diff(chances.astype(np.float32), axis=-1) <= 0).all()
    network = dpc_jax.load_network(checkpoint)
    padded = np.full((1, 49, 33, 3), 127.5, np.float32)
    padded[0, :40, :30] = picture(1, SIZES[1])
    expected = jax.nn.softmax(
        inference.pass_scores(network.segmenter, network.task, network.variables, jnp.asarray(padded))
    )[0, :40, :30]
    np.testing.assert_allclose(chances, -np.sort(-np.asarray(expected))[..., :3], atol=1e-3)


@pytest.mark.parametrize('passes', [InferenceSettings(), InferenceSettings((0.5, 1.0), flip=True)])
def test_one_tile_that_holds_an_image_is_the_whole_image(checkpoint, passes):
    """Where a tile is as large as the image, tiles change nothing, whatever the passes."""
    network = dpc_jax.load_network(checkpoint)
    image = picture(7, (33, 49))
    found = []
    for whole in ((64, 64), (8, 8)):
        settings = PredictSettings(top=2, whole=whole, tile=(33, 49), overlap=4)
        predictor = prediction.of(network.segmenter, network.task, network.variables, passes, settings)
        found += predictor.found([image])
    np.testing.assert_array_equal(found[0].found, found[1].found)
    np.testing.assert_array_equal(found[0].top[0], found[1].top[0])
    np.testing.assert_allclose(found[0].top[1], found[1].top[1], atol=1e-3)


# ---- tiles ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(('side', 'tile', 'overlap'), [(10, 10, 2), (11, 10, 2), (100, 17, 5), (31, 16, 1), (5, 10, 2)])
def test_tiles_cover_an_axis_and_overlap_enough(side, tile, overlap):
    found = tiles.starts(side, tile, overlap)
    assert found[0] == 0
    assert found[-1] == max(0, side - tile)
    assert all(later - sooner <= tile - overlap for sooner, later in itertools.pairwise(found))
    assert len(found) == (1 if side <= tile else -(-(side - overlap) // (tile - overlap)))  # no more than needed


def test_the_blend_is_the_weighted_mean_of_the_tiles():
    """Row by row as all at once, written out plainly."""
    draw = np.random.default_rng(0)
    size, tile, overlap = (37, 29), (16, 12), 4
    image = draw.integers(0, 256, (*size, 3), np.uint8)

    def chances(some):
        return [
            np.stack([one[..., 0], one[..., 1] * (1 + np.arange(one.shape[1]))], -1).astype(np.float32) for one in some
        ]

    top, bottom = np.zeros((*size, 2)), np.zeros((*size, 1))
    weight = tiles.weights(tile, overlap)[..., None]
    for row in tiles.starts(size[0], tile[0], overlap):
        for column in tiles.starts(size[1], tile[1], overlap):
            window = (slice(row, row + tile[0]), slice(column, column + tile[1]))
            top[window] += weight * chances([image[window]])[0]
            bottom[window] += weight
    bands = list(tiles.bands(image, chances, tile=tile, overlap=overlap))
    assert len(bands) > 2
    assert [band.top for band in bands] == [0, *np.cumsum([len(band.probabilities) for band in bands])[:-1]]
    np.testing.assert_allclose(np.concatenate([band.probabilities for band in bands]), top / bottom, rtol=1e-5)


def test_weights_rise_from_the_edges_and_are_never_zero():
    found = tiles.weights((9, 7), 2)
    np.testing.assert_allclose(found[:, 3], np.array([1, 2, 3, 3, 3, 3, 3, 2, 1]) / 3)
    np.testing.assert_allclose(found, found[::-1, ::-1])
    assert found.min() > 0


def test_a_large_image_goes_in_tiles_through_the_journey(checkpoint, photos, tmp_path):
    fields = {
        'predict__whole': (20, 20),
        'predict__tile': (33, 33),
        'predict__overlap': 8,
        'predict__probabilities': 13,
    }
    predict.run(config_of(checkpoint, photos / 'photo 0.png', **fields), tmp_path)
    network = dpc_jax.load_network(checkpoint)
    settings = PredictSettings(top=13, whole=(20, 20), tile=(33, 33), overlap=8)
    (found,) = prediction.of(network.segmenter, network.task, network.variables, InferenceSettings(), settings).found(
        [picture(0, SIZES[0])]
    )
    np.testing.assert_array_equal(label(tmp_path, 'photo 0'), found.found)
    np.testing.assert_allclose(found.top[1].astype(np.float32).sum(-1), 1, atol=5e-3)


# ---- what is written ------------------------------------------------------------------------------------------------


def test_label_images_are_indices_with_the_palette_of_the_classes(done):
    _, workdir, rows = done
    image = Image.open(workdir / 'predictions/labels/photo 2.png')
    assert image.mode == 'P'
    palette = np.array(image.getpalette()).reshape(-1, 3)[: len(datasets.classes(SCENES))]
    np.testing.assert_array_equal(palette, datasets.kind(SCENES).palette)
    counts = np.bincount(np.asarray(image).ravel(), minlength=13) / image.size[0] / image.size[1]
    np.testing.assert_allclose(list(rows[2].summary.values()), counts, atol=1e-6)


def test_the_page_shows_every_image(done):
    _, workdir, rows = done
    folder = workdir / 'predictions'
    page = (folder / 'index.html').read_text()
    for link in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert (folder / link.replace('%20', ' ')).is_file()
    assert page.count('<figure>') == len(rows)
    table = (folder / 'predictions.csv').read_text().splitlines()
    assert table[0].split(',')[:4] == ['name', 'path', 'height', 'width']
    assert len(table) == 1 + len(rows)


def test_the_overlay_is_the_image_under_the_colours():
    image, colours = np.full((2, 2, 3), 100, np.uint8), np.full((2, 2, 3), 200, np.uint8)
    assert (label_pictures.blend(image, colours) == 160).all()


def test_ids_of_the_server_may_be_written(photos, tmp_path):
    config = scenes.get_config('toy')
    config.dataset.name, config.context.name = 'cityscapes', 'none'
    network = networks.make(config, 19)
    weights.save(
        tmp_path / 'held',
        networks.init_variables(jax.random.key(0), network),
        beside=described.files(described.of(config)),
    )
    rows = predict.run(
        config_of(tmp_path / 'held', photos / 'photo 1.png', predict__labels='export'), tmp_path / 'work'
    )
    found = Image.open(tmp_path / 'work/predictions/labels/photo 1.png')
    assert found.mode == 'L'
    ids = datasets.kind(CITYSCAPES).export_ids
    assert set(np.unique(np.asarray(found)).tolist()) == {
        ids[i] for i, share in enumerate(rows[0].summary.values()) if share > 0
    }


# ---- stops and faults -----------------------------------------------------------------------------------------------


def test_what_is_finished_is_kept(done, monkeypatch, capsys):
    config, workdir, rows = done
    before = {path: path.stat().st_mtime_ns for path in (workdir / 'predictions/labels').iterdir()}
    with (workdir / 'predictions/predictions.jsonl').open('a') as file:
        file.write('{"name": "photo 9", "pa')  # torn by a kill
    again = predict.run(config, workdir)
    assert again == rows
    assert '5 of 5 images are predicted already' in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in (workdir / 'predictions/labels').iterdir()}


def test_an_image_that_changed_is_predicted_again_and_another_one_refused(checkpoint, photos, tmp_path, fault):
    (tmp_path / 'a').mkdir()
    (tmp_path / 'b').mkdir()
    for folder in ('a', 'b'):
        (tmp_path / folder / 'x.png').write_bytes((photos / 'photo 0.png').read_bytes())
    predict.run(config_of(checkpoint, tmp_path / 'a'), tmp_path / 'work')
    (tmp_path / 'a/x.png').write_bytes((photos / 'photo 1.png').read_bytes())
    (row,) = predict.run(config_of(checkpoint, tmp_path / 'a'), tmp_path / 'work')
    assert (row.height, row.width) == SIZES[1] == label(tmp_path / 'work', 'x').shape
    whole = (tmp_path / 'a/x.png').read_bytes()
    (tmp_path / 'a/x.png').write_bytes(whole[:50])
    assert predict.run(config_of(checkpoint, tmp_path / 'a'), tmp_path / 'work') == []  # not what it was before
    (tmp_path / 'a/x.png').write_bytes(whole)
    line = fault(lambda: predict.run(config_of(checkpoint, tmp_path / 'b'), tmp_path / 'work'))
    assert f'holds the prediction of {tmp_path / "a/x.png"}, where that of {tmp_path / "b/x.png"} would be' in line


def test_an_image_of_any_shape_is_written(checkpoint, tmp_path):
    """JPEG has no images with a side above 65,500."""
    Image.fromarray(np.zeros((2, 65_600, 3), np.uint8)).save(tmp_path / 'wide.png')
    config = config_of(checkpoint, tmp_path / 'wide.png', predict__whole=(9, 9), predict__tile=(257, 257))
    config.predict.overlap = 16
    predict.run(config, tmp_path / 'work')
    assert label(tmp_path / 'work', 'wide').shape == (2, 65_600)
    assert (tmp_path / 'work/predictions/overlays/wide.png').is_file()
    assert 'overlays/wide.png' in (tmp_path / 'work/predictions/index.html').read_text()


def test_ids_above_255_are_written_with_16_bits(tmp_path):
    task = Segmentation(Facts('two', ('a', 'b'), ((0, 0, 0),) * 2, (0, 300)))
    (tmp_path / 'p.png').write_bytes(b'x')
    kept = Kept(tmp_path, {}, task, exported=True)
    kept.add('p', tmp_path / 'p.png', np.zeros((1, 2, 3), np.uint8), Found(np.array([[0, 1]], np.uint8), None, True))
    assert np.array(Image.open(tmp_path / 'labels/p.png')).tolist() == [[0, 300]]


def test_an_image_without_its_label_file_is_predicted_again(done):
    config, workdir, rows = done
    path = workdir / 'predictions/labels/photo 3.png'
    content = path.read_bytes()
    path.unlink()
    assert predict.run(config, workdir) == rows
    assert path.read_bytes() == content


def test_a_folder_holds_predictions_of_one_kind(done, fault):
    config, workdir, _ = done
    config = config.copy_and_resolve_references()
    config.evaluate.flip = True
    line = fault(lambda: predict.run(config, workdir))
    assert line.endswith('flip was False there and is True now; give another workdir')


def test_a_broken_image_is_named_and_passed_over_or_ends_it(checkpoint, photos, tmp_path, caplog, fault):
    (tmp_path / 'in').mkdir()
    (tmp_path / 'in/good.png').write_bytes((photos / 'photo 0.png').read_bytes())
    (tmp_path / 'in/cut.png').write_bytes((photos / 'photo 0.png').read_bytes()[:60])
    (tmp_path / 'in/empty.jpg').write_bytes(b'')
    with caplog.at_level(logging.WARNING):
        rows = predict.run(config_of(checkpoint, tmp_path / 'in'), tmp_path / 'skipped')
    assert [row.name for row in rows] == ['good']
    assert caplog.text.count('it is passed over') == 2
    page = (tmp_path / 'skipped/predictions/index.html').read_text()
    assert '2 without a prediction' in page
    assert 'cut.png' in page
    config = config_of(checkpoint, tmp_path / 'in', predict__faulty_images='stop')
    assert 'cannot decode' in fault(lambda: predict.run(config, tmp_path / 'stopped'))


def test_values_that_are_not_finite_are_an_error(checkpoint, photos, tmp_path, fault):
    variables = weights.read(checkpoint)
    variables['params']['logits']['bias'][0] = np.nan
    weights.save(tmp_path / 'held', variables, beside={described.FILE: (checkpoint / described.FILE).read_text()})
    config = config_of(tmp_path / 'held', photos / 'photo 0.png')
    assert 'values that are not finite' in fault(lambda: predict.run(config, tmp_path / 'work'))
    assert 'values that are not finite' in fault(lambda: dpc_jax.predict(tmp_path / 'held', picture(0, (33, 49))))


def test_an_image_that_is_too_large_for_the_memory_is_one_line(checkpoint, photos, tmp_path, fault, monkeypatch):
    def too_much(*_):
        raise MemoryError

    monkeypatch.setattr(prediction.Predictor, 'found', too_much)
    line = fault(lambda: predict.run(config_of(checkpoint, photos / 'photo 1.png'), tmp_path))
    assert line.startswith(
        f'out of memory with {photos / "photo 1.png"} of 40x30 pixels, evaluate.batch_size 1; with a'
    )


@pytest.mark.parametrize(
    ('fields', 'line'),
    [
        ({'checkpoint': ''}, 'checkpoint is empty; give the folder of weights'),
        ({'predict__images': ''}, 'predict.images is empty; give a folder'),
        ({'predict__images': 'nowhere'}, "predict.images is 'nowhere': there is no such file, folder or pattern"),
        ({'predict__labels': 'ids'}, "predict.labels is 'ids'; allowed: index, export"),
        ({'predict__labels': 'export'}, "predict.labels is 'export', but the data set has no ids of its own"),
        ({'predict__faulty_images': 'keep'}, "predict.faulty_images is 'keep'; allowed: skip, stop"),
        ({'predict__probabilities': -1}, 'predict.probabilities is -1'),
        ({'predict__tile': (0, 4)}, 'predict.overlap is 128; it must be less than half of predict.tile (0, 4)'),
        ({'predict__overlap': 600}, 'predict.overlap is 600; it must be less than half'),
        ({'predict__whole': (0, 0)}, 'predict.whole is 0; it must be at least 1'),
        ({'evaluate__batch_size': 0}, 'evaluate.batch_size is 0'),
    ],
)
def test_a_bad_value_is_one_line_and_nothing_is_written(checkpoint, photos, tmp_path, fault, fields, line):
    config = config_of(checkpoint, photos, **fields)
    assert fault(lambda: predict.run(config, tmp_path / 'work')).startswith(line)
    assert not (tmp_path / 'work').exists()


def test_real_photos_and_a_frame_of_cityscapes(checkpoint, shared, tmp_path):
    """Of four sizes; each label image is as large as its image, and is what Python gives."""
    images = sorted(shared('data/fixtures/voc2012').rglob('*.jpg'))
    images += sorted(shared('data/fixtures/cityscapes_tiny').rglob('*_leftImg8bit.png'))
    (tmp_path / 'list.txt').write_text('\n'.join(map(str, images)))
    rows = predict.run(config_of(checkpoint, tmp_path / 'list.txt'), tmp_path / 'work')
    assert [row.path for row in rows] == sorted(os.path.abspath(image) for image in images)
    for row in rows:
        assert label(tmp_path / 'work', row.name).shape == image_files.size_of(pathlib.Path(row.path))
    image = np.asarray(Image.open(rows[0].path).convert('RGB'))
    np.testing.assert_array_equal(label(tmp_path / 'work', rows[0].name), dpc_jax.predict(checkpoint, image))


# ---- which images ---------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path):
    for name in ('a/one.JPG', 'a/two.png', 'a/._two.png', '.cache/three.png', 'b/one.jpeg', 'notes.pdf', 'b/Thumbs.db'):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b'x')
    return tmp_path


def names(images, outside=pathlib.Path('/nowhere')):
    return [image.name for image in prediction.listed(str(images), outside)]


def test_a_folder_stands_for_all_images_below_it(tree):
    assert names(tree) == ['a/one', 'a/two', 'b/one']
    assert names(tree, tree / 'a') == ['b/one']  # what was written before is not predicted
    (tree / 'b/day').symlink_to(tree / 'a')
    (tree / 'b/again').symlink_to(tree / 'b')
    assert names(tree / 'b') == ['day/one', 'day/two', 'one']


def test_a_pattern_a_file_and_a_list(tree):
    assert names(tree / 'a/*') == ['one', 'two']
    assert names(tree / '**/one.*') == ['a/one', 'b/one']
    assert names(tree / 'a/two.png') == ['two']
    (tree / 'list.txt').write_text('\ufeffb/one.jpeg\n\na/two.png\n', encoding='utf-8')
    assert names(tree / 'list.txt') == ['a/two', 'b/one']


def test_images_of_one_name_keep_their_suffixes(tree):
    (tree / 'a/One.png').write_bytes(b'x')
    assert names(tree / 'a') == ['One.png', 'one.JPG', 'two']
    (tree / 'a/one.jpg.png').write_bytes(b'x')  # its short name is a long one of another
    found = names(tree / 'a')
    assert len({name.casefold() for name in found}) == len(found) == 4
    (tree / 'list').mkdir()
    (tree / 'list/a').mkdir()
    (tree / 'list/a/two.png').write_bytes(b'x')
    (tree / 'list/l.txt').write_text('a/two.png\n../a/two.png\n')
    assert len(set(names(tree / 'list/l.txt'))) == 2


def test_no_image_is_one_line(tree, fault):
    assert 'where no image is; known: .bmp' in fault(lambda: names(tree / '.cache/nothing*'))
    (tree / 'list.txt').write_text('a/none.png\n')
    assert 'names' in fault(lambda: names(tree / 'list.txt'))


def test_sizes_are_read_from_the_head_and_turned_as_the_camera_says(tmp_path, fault):
    image = Image.new('RGB', (30, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / 'turned.jpg', exif=exif)
    image.save(tmp_path / 'plain.jpg')
    assert image_files.size_of(tmp_path / 'plain.jpg') == (20, 30)
    assert image_files.size_of(tmp_path / 'turned.jpg') == (30, 20)
    (tmp_path / 'broken.jpg').write_bytes(b'no')
    assert fault(lambda: image_files.size_of(tmp_path / 'broken.jpg')).startswith('cannot decode ')


# ---- batches --------------------------------------------------------------------------------------------------------


def test_batches_hold_images_of_one_padded_size(checkpoint):
    network = dpc_jax.load_network(checkpoint)
    settings = PredictSettings(batch_size=1, whole=(60, 60))
    predictor = prediction.of(network.segmenter, network.task, network.variables, InferenceSettings(), settings)
    sizes = [(33, 49), (40, 30), (30, 40), (100, 100), (100, 100), *[(33, 49)] * 4]
    groups = list(prediction.batches(sizes, predictor))
    assert sorted(index for group in groups for index in group) == list(range(len(sizes)))
    for group in groups:
        assert len({predictor.padded(sizes[index]) for index in group}) == 1
        assert len(group) <= predictor.at_once
        assert len(group) == 1 or predictor.padded(sizes[group[0]]) != (0, 0)


def test_rows_come_back_as_they_were_written(tmp_path):
    task = Segmentation(Facts('two', ('a', 'b'), ((0, 0, 0),) * 2))
    kept = Kept(tmp_path, {'x': 1}, task)
    found = Found(np.array([[0, 1], [1, 1]], np.uint8), None, True)
    (tmp_path / 'p').write_bytes(b'x')
    kept.add('dir/näme', tmp_path / 'p', np.zeros((2, 2, 3), np.uint8), found)
    assert Kept(tmp_path, {'x': 1}, task).rows == kept.rows
    assert tuple(kept.rows['dir/näme'].summary.values()) == (0.25, 0.75)
    assert json.loads((tmp_path / 'prediction.json').read_text()) == {'x': 1}


@pytest.mark.parametrize('ending', ['.txt', '.lst', '.csv'])
def test_a_list_may_have_any_of_its_endings(tmp_path, ending):
    Image.fromarray(picture(0, (5, 6))).save(tmp_path / 'a.png')
    (tmp_path / f'list{ending}').write_text('./a.png\n')
    (found,) = prediction.listed(str(tmp_path / f'list{ending}'), tmp_path / 'out')
    assert found.path == tmp_path / 'a.png'


@pytest.mark.parametrize('name', ['weights.npz', 'graph.pb', 'model.h5'])
def test_a_file_of_other_weights_says_what_it_is(tmp_path, name, fault):
    (tmp_path / name).write_bytes(b'x')
    said = fault(lambda: dpc_jax.predict(tmp_path / name, picture(0, (5, 6))))
    assert f"checkpoint '{tmp_path / name}' is a" in said
    assert 'wanted: a folder that a training wrote' in said
