"""The journey of an evaluation: scores are those of the files that it exports, and every fault is one line before."""

import csv
import json
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from PIL import Image

from configs import camvid, cityscapes
from dpc_jax import datasets, described, evaluation, files, inference, metrics, networks, preprocess, tasks, weights
from dpc_jax.base import IGNORE_LABEL, InputError
from dpc_jax.evaluation import scorer as evaluator
from dpc_jax.journeys import evaluate
from dpc_jax.read_ahead import read_ahead
from dpc_jax.weights import checkpoint
from tests.networks_by_hand import filled

ROOT = pathlib.Path(__file__).resolve().parent.parent
SIZES = ((40, 57), (33, 65), (40, 64), (40, 57), (21, 50))  # of the images of val; (49, 65) is the crop for all


def toy(root=None, held='', **fields):
    """A small network on CamVid; more fields by their last names."""
    config = camvid.get_config('toy')
    config.context.name = 'none'
    config.dataset.root, config.checkpoint = str(root), str(held)
    config.evaluate.pictures = 1
    config.dataset.generated = 0
    config.update_from_flattened_dict({name.replace('__', '.'): value for name, value in fields.items()})
    return config


@pytest.fixture(scope='module')
def held(tmp_path_factory):
    """The folder of a checkpoint of `toy`."""
    path = tmp_path_factory.mktemp('checkpoints') / 'toy'
    checkpoint.save(path, filled(evaluation.make_network(toy()), 1))
    return path


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """A folder in CamVid's format with five images of val; pixels and labels of blocks."""
    folder, draw = tmp_path_factory.mktemp('camvid'), np.random.default_rng(0)
    lines = []
    for number, (height, width) in enumerate(SIZES):
        image = draw.integers(0, 256, (6, 9, 3), np.uint8).repeat(8, 0).repeat(8, 1)[:height, :width]
        label = draw.integers(0, 12, (6, 9), np.uint8).repeat(8, 0).repeat(8, 1)[:height, :width]
        Image.fromarray(image).save(folder / f'{number}.png')
        Image.fromarray(label[:, : image.shape[1]]).save(folder / f'{number}_label.png')
        lines.append(f'{number}.png {number}_label.png\n')
    (folder / 'val.txt').write_text(''.join(lines))
    return folder


@pytest.fixture(scope='module')
def whole(root, held, tmp_path_factory):
    """An evaluation with export: its folder and what it gave."""
    workdir = tmp_path_factory.mktemp('evaluation')
    config = toy(root, held, evaluate__export=str(workdir / 'export'), evaluate__pictures=3)
    return workdir, evaluate.run(config, workdir)


def exported(folder):
    return [np.asarray(Image.open(folder / f'{number}.png')) for number in range(len(SIZES))]


# ---- what it finds --------------------------------------------------------------------------------------------------


def test_the_counts_are_those_of_the_exported_labels(whole, root):
    workdir, found = whole
    counts = np.zeros((11, 11), np.int64)
    for number, classes in enumerate(exported(workdir / 'export')):
        label = np.asarray(Image.open(root / f'{number}_label.png'))
        assert classes.shape == label.shape == SIZES[number]
        for wanted, predicted in zip(label.ravel(), classes.ravel(), strict=True):
            if wanted < 11:
                counts[wanted, predicted] += 1
    np.testing.assert_array_equal(found.confusion, counts)
    assert found.confusion.dtype == np.int64
    assert len(np.unique(np.concatenate([classes.ravel() for classes in exported(workdir / 'export')]))) > 3


def test_the_classes_are_those_of_the_padded_image(whole, root, held):
    config = toy(root, held)
    network, dataset = evaluation.make_network(config), datasets.load('camvid', config.dataset, 'val')
    variables = checkpoint.restore(held, networks.variable_shapes(network))
    for number in (0, 4):
        padded = preprocess.pad_to(dataset[number], (49, 65)).image
        (logits,) = jax.jit(network.apply)(variables, jnp.asarray(padded)[None])
        classes = preprocess.resize_bilinear(np.array(logits), (49, 65)).argmax(-1)
        height, width = SIZES[number]
        assert (classes[:height, :width] != exported(whole[0] / 'export')[number]).mean() < 1e-3


def test_what_is_written_says_the_same_everywhere(whole):
    workdir, found = whole
    row = json.loads((workdir / 'evaluation/metrics.json').read_text())
    assert [path.name for path in found.files] == ['report.md', 'confusion.csv', 'metrics.json', 'predictions.png']
    assert all(path.parent == workdir / 'evaluation' and path.stat().st_size for path in found.files)
    with (workdir / 'evaluation/confusion.csv').open() as file:
        head, *lines = csv.reader(file)
    assert (
        head[1:] == [line[0] for line in lines] == list(datasets.classes(ml_collections.ConfigDict({'name': 'camvid'})))
    )
    np.testing.assert_array_equal(np.array(lines)[:, 1:].astype(int), found.confusion)
    assert row['miou'] == pytest.approx(float(metrics.mean_iou(found.confusion)))
    assert row['pixel_accuracy'] == pytest.approx(np.trace(found.confusion) / found.confusion.sum())
    assert f'# mIoU {100 * row["miou"]:.2f} %' in (workdir / 'evaluation/report.md').read_text()
    assert '(predictions.png)' in (workdir / 'evaluation/report.md').read_text()
    assert (row['images'], row['crop_size'], row['split'], row['scales']) == (5, [49, 65], 'val', [1.0])
    assert row['config']['backbone']['width'] == 0.1
    for cause in ('commit', 'device', 'config_hash', 'checkpoint', 'data', 'weights', 'seconds'):
        assert row[cause], cause
    picture = np.asarray(Image.open(workdir / 'evaluation/predictions.png'))
    assert picture.shape[1] == 3 * 4 * 150


def test_the_batch_size_does_not_matter_and_no_image_is_left_out(whole, root, held, tmp_path):
    config = toy(root, held, evaluate__batch_size=2)  # one batch of eight instead of two of four
    found = evaluate.run(config, tmp_path)
    np.testing.assert_array_equal(found.confusion, whole[1].confusion)
    assert found.row['config_hash'] == whole[1].row['config_hash']
    labels = datasets.load('camvid', config.dataset, 'val')
    assert found.confusion.sum() == sum((example.label != IGNORE_LABEL).sum() for example in labels)


def test_bfloat16_finds_nearly_the_same_and_its_scores_are_told_apart(whole, root, held, tmp_path):
    shutil.copytree(whole[0] / 'evaluation', tmp_path / 'evaluation')
    export = str(tmp_path / 'export')
    config = toy(root, held, evaluate__dtype='bfloat16', evaluate__export=export, evaluate__pictures=0)
    assert evaluation.make_network(config).backbone.dtype == jnp.bfloat16
    found = evaluate.run(config, tmp_path)
    pairs = zip(exported(tmp_path / 'export'), exported(whole[0] / 'export'), strict=True)
    different = np.concatenate([(one != other).ravel() for one, other in pairs]).mean()
    assert 0 < different < 0.1
    assert found.row['dtype'] == 'bfloat16'
    assert found.row['config_hash'] != whole[1].row['config_hash']
    assert not (tmp_path / 'evaluation/predictions.png').exists()  # it was of the evaluation before
    assert 'predictions.png' not in (tmp_path / 'evaluation/report.md').read_text()


def test_labels_are_not_needed(held, tmp_path):
    for number, size in enumerate(((33, 65), (32, 64))):
        path = tmp_path / f'data/leftImg8bit/test/bonn/bonn_00000{number}_000019_leftImg8bit.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        draw = np.random.default_rng(number)
        Image.fromarray(draw.integers(0, 256, (*size, 3), np.uint8)).save(path)
    config = cityscapes.get_config('toy')
    config.update_from_flattened_dict({'context.name': 'none'})
    config.decoder.output_stride = 0
    checkpoint.save(tmp_path / 'held', filled(evaluation.make_network(config)))
    config.dataset.root, config.checkpoint = str(tmp_path / 'data'), str(tmp_path / 'held')
    config.evaluate.split, config.evaluate.export = 'test', str(tmp_path / 'export')
    found = evaluate.run(config, tmp_path)
    assert not found.confusion.any()
    row = json.loads((tmp_path / 'evaluation/metrics.json').read_text())
    assert (row['miou'], row['pixel_accuracy'], row['iou']['road'], row['labelled_pixels']) == (None, None, None, 0)
    assert '# no score: the images have no labels' in (tmp_path / 'evaluation/report.md').read_text()
    ids = set()
    for number, (height, width) in enumerate(((33, 65), (32, 64))):
        label = Image.open(tmp_path / f'export/bonn_00000{number}_000019_leftImg8bit.png')
        assert (label.size, label.mode) == ((width, height), 'L')
        ids |= set(np.unique(label))
    assert len(ids) > 1
    assert ids <= {7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33}


# ---- batches --------------------------------------------------------------------------------------------------------


def test_the_last_batch_is_filled_up_with_what_is_not_counted(root):
    dataset = datasets.load('camvid', toy(root).dataset, 'val')
    batches = list(evaluator.make_batches(dataset, tasks.make(toy(root)), range(5), (49, 65), 4))
    assert [len(batch.examples) for batch in batches] == [4, 1]
    assert all(batch.images.shape == (4, 49, 65, 3) and batch.target.shape == (4, 49, 65) for batch in batches)
    for batch in batches:
        for example, image, label in zip(batch.examples, batch.images, batch.target, strict=False):
            height, width = example.label.shape
            np.testing.assert_array_equal(image[:height, :width], example.image)
            np.testing.assert_array_equal(label[:height, :width], example.label)
            assert (image[height:] == preprocess.MEAN_PIXEL).all()
            assert (image[:, width:] == preprocess.MEAN_PIXEL).all()
            assert (label[height:] == IGNORE_LABEL).all()
            assert (label[:, width:] == IGNORE_LABEL).all()
    assert (batches[1].target[1:] == IGNORE_LABEL).all()


def test_reading_ahead_changes_nothing_but_the_time():
    made = []

    def items():
        for number in range(4):
            made.append(number)
            yield number

    ahead = read_ahead(items())
    assert next(ahead) == 0
    assert [0, *ahead] == made == [0, 1, 2, 3]
    assert list(read_ahead(iter(()))) == []

    def broken():
        yield 1
        raise InputError('cannot decode')

    ahead = read_ahead(broken())
    assert next(ahead) == 1
    with pytest.raises(InputError, match='cannot decode'):
        next(ahead)
    stopped = read_ahead(items())
    next(stopped)
    stopped.close()


# ---- what is refused ------------------------------------------------------------------------------------------------


def refusal(config, workdir=None):
    """What is said, in one line; nothing is written."""
    there = workdir is not None and workdir.exists()
    with pytest.raises(InputError) as error:
        _ = evaluation.check(config) if workdir is None else evaluate.run(config, workdir)
    assert '\n' not in str(error.value)
    assert workdir is None or workdir.exists() == there
    return str(error.value)


@pytest.mark.parametrize(
    ('field', 'value', 'said'),
    [
        ('evaluate.split', 'dev', "unknown split 'dev'; there are: train, val"),
        ('evaluate.crop_size', (48, 65), 'evaluate.crop_size is (48, 65); it must be output stride (16) * k + 1, such'),
        ('evaluate.crop_size', (49, 0), 'evaluate.crop_size is (49, 0); it must be (height, width), two integers'),
        ('evaluate.crop_size', (49,), 'evaluate.crop_size is (49,); it must be (height, width)'),
        ('evaluate.crop_size', (49.0, 65.0), 'evaluate.crop_size is (49.0, 65.0)'),
        ('evaluate.crop_size', (-15, 65), 'evaluate.crop_size is (-15, 65)'),
        ('evaluate.image_pooling_crop_size', (0, 65), 'evaluate.image_pooling_crop_size is (0, 65)'),
        ('evaluate.scales', (), 'evaluate.scales is (); it must be one or more numbers greater than 0'),
        ('evaluate.scales', (1.0, 0.0), 'evaluate.scales is (1.0, 0.0); it must be one or more numbers'),
        ('evaluate.scales', (-1,), 'evaluate.scales is (-1.0,)'),
        ('evaluate.scales', ('1',), "evaluate.scales is ('1',)"),
        ('evaluate.dtype', 'float16', "evaluate.dtype is 'float16'; allowed: float32, bfloat16"),
        ('evaluate.batch_size', 0, 'evaluate.batch_size is 0; it must be at least 1'),
        ('evaluate.pictures', -1, 'evaluate.pictures is -1; it must be 0 to 100'),
        ('evaluate.pictures', 101, 'evaluate.pictures is 101; it must be 0 to 100'),
        ('dataset.name', 'kitti', "unknown data set 'kitti'; there are: camvid, cityscapes, coco"),
        ('backbone.output_stride', 4, 'output stride 4 of mobilenet_v2_shallow: it must be one of 8, 16, 32'),
        ('backbone.name', 'resnet', "backbone.name is 'resnet'; allowed: mobilenet_v2, mobilenet_v2_refinenet"),
        ('context.name', 'psp', "context.name is 'psp'; allowed: aspp, aux_cells, dpc, image_level, none"),
        ('decoder.output_stride', 8, 'decoder.output_stride is 8; allowed: 4, or 0'),
    ],
)
def test_a_wrong_field_is_refused(field, value, said):
    config = toy()
    *_, parent, last = ('', *field.split('.'))
    with config.ignore_type():
        config[parent][last] = value
    assert refusal(config).startswith(said)


def test_a_cell_at_output_stride_32_is_refused():
    assert refusal(toy(context__name='dpc', backbone__output_stride=32)).startswith('output stride 32: the rates of')


@pytest.mark.parametrize(
    ('text', 'said'),
    [
        ('{', 'not JSON'),
        ('[{"input": 0, "op": "conv", "kernel": 1}]', 'branch 0'),
        ('[{"input": -1, "op": "conv", "kernel": 3, "rate": [2, 1]}]', 'branch 0'),
    ],
)
def test_a_faulty_cell_is_refused(tmp_path, text, said):
    (tmp_path / 'cell.json').write_text(text)
    assert said in refusal(toy(context__name='dpc', context__genotype=str(tmp_path / 'cell.json')))


def test_pooling_windows_that_cannot_be_are_refused(root, held, tmp_path):
    too_large = 'evaluate.image_pooling_crop_size is (65, 65); it must not be larger than the crop (49, 65)'
    config = toy(root, held, evaluate__image_pooling_crop_size=(65, 65))
    assert refusal(config, tmp_path / 'work') == too_large
    config.evaluate.crop_size = (49, 65)
    assert refusal(config) == too_large
    config = toy(evaluate__image_pooling_crop_size=(33, 33), context__pooling='binned')
    assert "that needs context.pooling 'sliding'" in refusal(config)


def test_no_checkpoint_says_how_to_get_one(root, tmp_path):
    said = refusal(toy(root), tmp_path / 'work')
    assert said.startswith('checkpoint is empty; experiments/import_checkpoint.py makes one')


def other_classes(config, held, path):
    checkpoint.save(path, filled(networks.make(config, 19)))
    return 'params/logits/bias is float32 (19,), the network needs float32 (11,)'


def other_model(config, held, path):
    config.context.name = 'image_level'
    checkpoint.save(path, filled(networks.make(config, 11)))
    config.context.name = 'none'
    return 'belongs to another network'


def truncated(config, held, path):
    shutil.copytree(held, path)
    file = max((file for file in path.rglob('*') if file.is_file()), key=lambda file: file.stat().st_size)
    file.write_bytes(file.read_bytes()[:-100])
    return 'is damaged'


def absent(config, held, path):
    return 'no such folder'


@pytest.mark.parametrize('spoil', [other_classes, other_model, truncated, absent])
def test_a_checkpoint_that_does_not_fit_is_refused(root, held, tmp_path, spoil):
    config = toy(root, tmp_path / 'other')
    words = spoil(config, held, tmp_path / 'other')
    said = refusal(config, tmp_path / 'work')
    assert said.startswith(f"checkpoint '{tmp_path / 'other'}'")
    assert words in said


def test_an_image_larger_than_the_crop_is_refused(root, held, tmp_path):
    said = refusal(toy(root, held, evaluate__crop_size=(33, 65)), tmp_path / 'work')
    wanted = 'the largest image has 40x65 pixels, which needs (49, 65), or (0, 0) to fit it'
    assert said == f'evaluate.crop_size is (33, 65); {wanted}'


def test_faulty_data_are_refused(root, held, tmp_path):
    assert refusal(toy('', held), tmp_path / 'work').startswith('dataset.root is empty')
    shutil.copytree(root, tmp_path / 'data')
    Image.fromarray(np.full(SIZES[4], 12, np.uint8)).save(tmp_path / 'data/4_label.png')
    assert 'label value 12 is out of range' in refusal(toy(tmp_path / 'data', held), tmp_path / 'work')


def test_two_images_of_one_name_are_exported_into_their_folders(root, held, tmp_path):
    shutil.copytree(root, tmp_path / 'data')
    (tmp_path / 'data/other').mkdir()
    shutil.copy(root / '1.png', tmp_path / 'data/other')
    with (tmp_path / 'data/val.txt').open('a') as file:
        file.write('other/1.png 1_label.png\n')
    config = toy(tmp_path / 'data', held, evaluate__export=str(tmp_path / 'export'))
    evaluate.run(config, tmp_path / 'work')
    names = {path.relative_to(tmp_path / 'export').as_posix() for path in (tmp_path / 'export').rglob('*.png')}
    lines = (tmp_path / 'data/val.txt').read_text().split()[::2]
    assert names == {str(pathlib.PurePath(line).with_suffix('.png')) for line in lines}


@pytest.mark.parametrize('place', ['file', 'file/inside', '/proc/nowhere'])
def test_a_folder_that_cannot_be_made_is_refused(root, held, tmp_path, place):
    (tmp_path / 'file').write_text('mine')
    said = refusal(toy(root, held), tmp_path / place)
    assert said.startswith(f"workdir '{tmp_path / place}/evaluation' cannot be made: ")
    with pytest.raises(InputError, match=r'^evaluate\.export .* cannot be made: '):
        evaluate.run(toy(root, held, evaluate__export=str(tmp_path / place)), tmp_path / 'work')
    assert (tmp_path / 'file').read_text() == 'mine'


def test_a_folder_that_is_not_writable_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files.os, 'access', lambda *_: False)  # root may write everywhere
    with pytest.raises(InputError, match=r'^workdir .* is not writable$'):
        files.make_folder(tmp_path, 'workdir')


def test_a_checkpoint_that_gives_no_numbers_is_refused(root, held, tmp_path, monkeypatch):
    def broken(*args):
        return jax.tree.map(lambda leaf: leaf * np.float32(np.nan), restore(*args))

    restore = checkpoint.restore
    monkeypatch.setattr(weights, 'restore', broken)
    with pytest.raises(InputError, match='the network gives values that are not finite'):
        evaluate.run(toy(root, held), tmp_path)
    assert not (tmp_path / 'evaluation/metrics.json').exists()


def test_images_that_do_not_fit_into_the_memory_of_the_host_are_one_line(root, held, tmp_path, monkeypatch):
    def too_many(*_):
        raise MemoryError('Unable to allocate 371. GiB')
        yield

    monkeypatch.setattr(evaluator, 'make_batches', too_many)
    with pytest.raises(InputError, match=r'^out of memory with evaluate\.batch_size'):
        evaluate.run(toy(root, held), tmp_path)


def test_a_data_set_whose_fields_the_config_lacks_is_one_line(root, held, tmp_path):
    with pytest.raises(InputError, match=r'^the data set scenes needs config\.dataset\.\w+, which the config does not'):
        evaluate.run(toy(root, held, dataset__name='scenes'), tmp_path)


@pytest.mark.parametrize(
    'fault',
    [
        'RESOURCE_EXHAUSTED: 9 bytes',
        'INTERNAL: Error dispatching computation: Out of memory allocating 9',
        'INTERNAL: broken',
    ],
)
def test_out_of_memory_says_what_to_make_smaller(root, held, tmp_path, monkeypatch, fault):
    def make_predict(*_):
        def predict(*_):
            raise jax.errors.JaxRuntimeError(fault)

        return predict

    monkeypatch.setattr(inference, 'make_predict', make_predict)
    kind = jax.errors.JaxRuntimeError if 'broken' in fault else InputError
    words = 'out of memory with evaluate.batch_size 1, evaluate.scales ' if kind is InputError else 'broken'
    with pytest.raises(kind, match=words):
        evaluate.run(toy(root, held), tmp_path)


# ---- as processes ---------------------------------------------------------------------------------------------------


def start(*argv):
    command = [sys.executable, 'run.py', '--config=configs/cityscapes.py:toy', *map(str, argv)]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.fixture(scope='module')
def frames(tmp_path_factory):
    """A folder in the format of Cityscapes, and a checkpoint of the toy network with all its parts."""
    folder, draw = tmp_path_factory.mktemp('cityscapes'), np.random.default_rng(0)
    for number in range(3):
        image = folder / f'leftImg8bit/val/ulm/ulm_{number:06d}_000019_leftImg8bit.png'
        label = folder / f'gtFine/val/ulm/ulm_{number:06d}_000019_gtFine_labelIds.png'
        for path in (image, label):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (32, 64, 3), np.uint8)).save(image)
        Image.fromarray(draw.integers(0, 34, (32, 64), np.uint8)).save(label)
    config = cityscapes.get_config('toy')
    beside = described.files(described.of(config))
    checkpoint.save(folder / 'held', filled(evaluation.make_network(config)), beside=beside)
    return folder


def flags_of(frames, workdir):
    data = (f'--config.dataset.root={frames}', f'--config.checkpoint={frames / "held"}')
    return (f'--workdir={workdir}', '--config.journey=evaluate', *data)


def test_the_command_line_evaluates_at_several_scales_and_exports(frames, tmp_path):
    several = ('--config.evaluate.scales=(0.75, 1.25)', '--config.evaluate.flip')
    process = start(*flags_of(frames, tmp_path / 'work'), *several, f'--config.evaluate.export={tmp_path / "export"}')
    out, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, '')
    row = json.loads((tmp_path / 'work/evaluation/metrics.json').read_text())
    assert f'mIoU {100 * row["miou"]:.2f} % (pixel accuracy' in out
    paths = [pathlib.Path(line) for line in out.splitlines() if line.startswith(str(tmp_path))]
    assert {path.name for path in paths} == {'report.md', 'confusion.csv', 'metrics.json', 'predictions.png'}
    assert (row['images'], row['scales'], row['flip'], row['crop_size']) == (3, [0.75, 1.25], True, [33, 65])
    hits = total = 0  # counted from the ids in the files, as the server would
    for path in sorted((tmp_path / 'export').iterdir()):
        frame = path.name.removesuffix('_leftImg8bit.png')
        wanted = np.asarray(Image.open(frames / f'gtFine/val/ulm/{frame}_gtFine_labelIds.png'))
        scored = np.isin(wanted, datasets.kind(ml_collections.ConfigDict({'name': 'cityscapes'})).export_ids)
        hits += (np.asarray(Image.open(path)) == wanted)[scored].sum()
        total += scored.sum()
    assert row['labelled_pixels'] == total
    assert row['pixel_accuracy'] == pytest.approx(hits / total)


def test_a_journey_that_the_config_is_not_for_is_one_line(frames, tmp_path):
    process = start(*flags_of(frames, tmp_path / 'work'), '--config.journey=search')
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (2, '')
    assert err == "error: journey is 'search', but the config has no fields config.search.*\n"
    assert not (tmp_path / 'work').exists()


def test_a_stop_is_clean_and_says_what_follows(frames, tmp_path):
    process = start(*flags_of(frames, tmp_path / 'work'))
    deadline = time.monotonic() + 120
    while not (tmp_path / 'work/evaluation').exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, '')
    assert 'stopped; there are no scores yet. The same command begins anew.' in out
